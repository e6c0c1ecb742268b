"""C text for `tiled.emitter`: each value a constant of its own, in the words of ``fastrnn_ext/vector.h``.

Functions with the same text are written once: cells share many of their stages. Where these differ in but a few whole
numbers, such as how many gates there are, these are parameters (`Emitter.varying`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from typing import Any

import numpy as np

from fastrnn.backends.tiled import emitter
from fastrnn.backends.tiled.emitter import FLAG, WHOLE, Body
from fastrnn.backends.tiled.target import Target

KINDS = {WHOLE: "int64_t", FLAG: "int"}


class Functions:
    """The functions of one file, in an order in which each comes before its callers."""

    def __init__(self, dtype: np.dtype[Any], target: Target) -> None:
        self.dtype, self.target = dtype, target
        self._names: dict[str, str] = {}  # a function's parameters and body -> its name

    def define(self, name: str, kinds: Sequence[str], body: Body) -> tuple[str, list[str]]:
        """Write a function, never inlined; returns its name, which begins with ``name``, and what it is called with
        after the arguments of these kinds."""
        emit = Emitter(self)
        arguments = [f"a{index}" for index in range(len(kinds))]
        body(emit, list(arguments))
        declared = [f"{KINDS[kind]} {name}" for kind, name in zip(kinds, arguments, strict=True)]
        declared += [f"{KINDS[WHOLE]} {name}" for name in emit.varied]
        text = "\n".join([f"({', '.join(declared)})", "{", *emit.lines, "}"])
        if text not in self._names:
            self._names[text] = f"{name}_{len(self._names)}"
        return self._names[text], list(emit.varied.values())

    def text(self) -> str:
        """All of them."""
        return "\n\n".join(f"static NOINLINE void {name}{text}" for text, name in self._names.items())


class Emitter(emitter.Emitter):
    """Statements at the end of one function's body."""

    def __init__(self, functions: Functions) -> None:
        super().__init__(functions.dtype, functions.target)
        self.functions = functions
        self.lines: list[str] = []
        self.varied: dict[str, str] = {}  # parameters of the function besides those asked for -> what it gets for them
        self._count, self._depth = 0, 1

    def _line(self, text: str) -> None:
        self.lines.append("    " * self._depth + text)

    def _name(self, letter: str) -> str:
        self._count += 1
        return f"{letter}{self._count}"

    def _whole(self, expression: str) -> str:
        name = self._name("i")
        self._line(f"const int64_t {name} = {expression};")
        return name

    def _vector(self, expression: str) -> str:
        name = self._name("v")
        self._line(f"const V {name} = {expression};")
        return name

    # Whole numbers and flags -----------------------------------------------------------------------------------------

    def whole(self, value: int) -> str:
        return f"INT64_C({value})"

    def varying(self, value: int) -> str:
        name = self._name("n")
        self.varied[name] = self.whole(value)
        return name

    def flag(self, value: bool) -> str:
        return str(int(value))

    def sum(self, *terms: Any) -> str:
        return self._whole(" + ".join(terms)) if len(terms) > 1 else str(terms[0])

    def difference(self, a: Any, b: Any) -> str:
        return self._whole(f"{a} - {b}")

    def times(self, a: Any, b: Any) -> str:
        return self._whole(f"{a} * {self.whole(b) if isinstance(b, int) else b}")

    def quotient(self, a: Any, b: Any) -> str:
        return self._whole(f"{a} / {b}")

    def equal(self, a: Any, b: Any) -> str:
        return f"({a} == {b})"

    def less(self, a: Any, b: Any) -> str:
        return f"({a} < {b})"

    def differ(self, a: Any, b: Any) -> str:
        return f"({a} != {b})"

    def lesser(self, a: Any, b: Any) -> str:
        return self._whole(f"{a} < {b} ? {a} : {b}")

    def greater(self, a: Any, b: Any) -> str:
        return self._whole(f"{a} > {b} ? {a} : {b}")

    def choose(self, flag: Any, a: Any, b: Any) -> str:
        vectors = str(a).startswith("v")
        return (self._vector if vectors else self._whole)(f"{flag} ? {a} : {b}")

    # Control ---------------------------------------------------------------------------------------------------------

    @contextmanager
    def _block(self, head: str) -> Iterator[None]:
        self._line(head + " {")
        self._depth += 1
        yield
        self._depth -= 1
        self._line("}")

    def when(self, flag: Any) -> AbstractContextManager[None]:
        return self._block(f"if ({flag})")

    @contextmanager
    def either(self, flag: Any) -> Iterator[tuple[Any, Any]]:
        yield self._block(f"if ({flag})"), self._block("else")

    def choose_made(self, flag: Any, make: Callable[[], Sequence[Any]], otherwise: Sequence[Any]) -> list[Any]:
        names = [self._name("i") for _ in otherwise]
        for name, value in zip(names, otherwise, strict=True):
            self._line(f"int64_t {name} = {value};")
        with self.when(flag):
            for name, value in zip(names, make(), strict=True):
                self._line(f"{name} = {value};")
        return names

    @contextmanager
    def loop(self, start: Any, stop: Any, step: int, carried: list[Any]) -> Iterator[tuple[Any, list[Any], list[Any]]]:
        index, values = self._name("i"), [self._name("v") for _ in carried]
        for name, value in zip(values, carried, strict=True):
            self._line(f"V {name} = {value};")
        self._line(f"int64_t {index} = {start};")
        following: list[Any] = []
        with self._block(f"for (; {index} + {step} <= {stop}; {index} += {step})"):
            yield index, values, following
            if set(following) & set(values):  # the new values of some are the old ones of others
                following[:] = [self._vector(value) for value in following]
            for name, value in zip(values, following, strict=True):
                self._line(f"{name} = {value};")
        following[:] = [*values, index]

    def function(self, name: str, kinds: Sequence[str], body: Body) -> Callable[..., None]:
        found, varied = self.functions.define(name, kinds, body)
        return lambda emit, *arguments: emit._line(f"{found}({', '.join([*arguments, *varied])});")

    def meet(self, frame: Any) -> None:
        self._line(f"meet({frame});")

    # Memory ----------------------------------------------------------------------------------------------------------

    def read_whole(self, address: Any) -> str:
        return self._whole(f"read_whole({address})")

    def load(self, address: Any) -> str:
        return self._vector(f"v_load(VALUES({address}))")

    def store(self, address: Any, value: Any) -> None:
        self._line(f"v_store(VALUES({address}), {value});")

    def load_first(self, address: Any, count: Any) -> str:
        return self._vector(f"v_load_first(VALUES({address}), {count})")

    def store_first(self, address: Any, value: Any, count: Any) -> None:
        self._line(f"v_store_first(VALUES({address}), {value}, {count});")

    def prefetch(self, address: Any) -> None:
        self._line(f"PREFETCH({address});")

    def room(self, count: int) -> str:
        name = self._name("m")
        self._line(f"S {name}[{count + 1} * LANES];")  # one more, to begin where a vector may
        return self._whole(f"aligned({name})")

    def values(self, address: Any) -> str:
        return self._values(f"VALUES({address})")

    def _values(self, expression: str) -> str:
        name = self._name("p")
        self._line(f"S *const {name} = {expression};")
        return name

    def value(self, values: Any, index: Any) -> str:
        return self._vector(f"v_splat({values}[{index}])")

    def vectors(self, address: Any, first: Any = None) -> str:
        return self._values(f"VALUES({address})" + (f" + {first} * LANES" if first is not None else ""))

    def vector(self, vectors: Any, index: Any) -> str:
        return self._vector(f"v_load_aligned({vectors} + {index} * LANES)")

    # Arithmetic ------------------------------------------------------------------------------------------------------

    def const(self, value: float) -> str:
        return self._vector(f"v_splat({self._literal(value)})")

    def _literal(self, value: float) -> str:
        rounded = float(self.dtype.type(value))
        if rounded != rounded:
            return "(S)NAN"
        if rounded in (float("inf"), -float("inf")):
            return "(S)INFINITY" if rounded > 0 else "(S)-INFINITY"
        return f"(S){rounded.hex()}"

    def add(self, a: Any, b: Any) -> str:
        return self._vector(f"v_add({a}, {b})")

    def sub(self, a: Any, b: Any) -> str:
        return self._vector(f"v_sub({a}, {b})")

    def mul(self, a: Any, b: Any) -> str:
        return self._vector(f"v_mul({a}, {b})")

    def div(self, a: Any, b: Any) -> str:
        return self._vector(f"v_div({a}, {b})")

    def neg(self, a: Any) -> str:
        return self._vector(f"v_neg({a})")

    def abs(self, a: Any) -> str:
        return self._vector(f"v_abs({a})")

    def accumulate(self, a: Any, b: Any, c: Any) -> Any:
        return self._vector(f"v_accumulate({a}, {b}, {c})") if self.target.fma else super().accumulate(a, b, c)

    def fused(self, a: Any, b: Any, c: Any) -> str:
        return self._vector(f"v_fma({a}, {b}, {c})")

    def min(self, a: Any, b: Any) -> str:
        return self._vector(f"v_min({a}, {b})")

    def max(self, a: Any, b: Any) -> str:
        return self._vector(f"v_max({a}, {b})")

    def select_gt(self, a: Any, b: Any, u: Any, v: Any) -> str:
        return self._vector(f"v_select_gt({a}, {b}, {u}, {v})")

    def select_nan(self, a: Any, u: Any, v: Any) -> str:
        return self._vector(f"v_select_nan({a}, {u}, {v})")

    def shifted(self, a: Any, count: int) -> str:
        return self._vector(f"v_shifted({a}, {count})")
