"""LLVM instructions on vectors: memory, arithmetic, and a cell's graph.

No fast-math flags: what is fused into one multiply-add is written so, and nothing else is, so that every compiled form
of an equation rounds alike, whatever stands around it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
from llvmlite import ir

from fastrnn import approximations
from fastrnn.backends.numba_.target import target
from fastrnn.graph import Node


@lru_cache(maxsize=4096)
def _constant(kind: Any, values: Any) -> Any:
    """A vector constant, made once: making and writing them out is a third of a compilation otherwise."""
    return ir.Constant(kind, values if values is ir.Undefined else list(values))


I64 = ir.IntType(64)
I32 = ir.IntType(32)
I1 = ir.IntType(1)


class Emitter:
    """Vector instructions for one element type at the end of one builder."""

    def __init__(self, builder: Any, dtype: np.dtype[Any]) -> None:
        self.builder, self.dtype = builder, dtype
        self.bits = dtype.itemsize * 8
        self.size = dtype.itemsize
        self.lanes = target().lanes(dtype)
        self.scalar = ir.FloatType() if self.bits == 32 else ir.DoubleType()
        self.vector = ir.VectorType(self.scalar, self.lanes)
        self.integer = ir.IntType(self.bits)
        self.integers = ir.VectorType(self.integer, self.lanes)
        self.suffix = f"v{self.lanes}f{self.bits}"

    # Integers and addresses ------------------------------------------------------------------------------------------

    def whole(self, value: int) -> Any:
        return ir.Constant(I64, value)

    def sum(self, *terms: Any) -> Any:
        total = terms[0]
        for term in terms[1:]:
            total = self.builder.add(total, term)
        return total

    def times(self, a: Any, b: Any) -> Any:
        return self.builder.mul(a, b if not isinstance(b, int) else self.whole(b))

    def read_whole(self, address: Any) -> Any:
        return self.builder.load(self.builder.inttoptr(address, I64.as_pointer()))

    # Memory ----------------------------------------------------------------------------------------------------------

    def _pointer(self, address: Any, kind: Any) -> Any:
        return self.builder.inttoptr(address, kind.as_pointer())

    def load(self, address: Any, aligned: bool = False) -> Any:
        align = self.lanes * self.size if aligned else self.size
        return self.builder.load(self._pointer(address, self.vector), align=align)

    def store(self, address: Any, value: Any) -> None:
        self.builder.store(value, self._pointer(address, self.vector), align=self.size)

    def broadcast(self, address: Any) -> Any:
        """One value from memory in every lane."""
        return self.splat(self.builder.load(self._pointer(address, self.scalar), align=self.size))

    def splat(self, scalar: Any, kind: Any = None) -> Any:
        kind = kind or self.vector
        one = self.builder.insert_element(_constant(kind, ir.Undefined), scalar, ir.Constant(I32, 0))
        lanes = ir.VectorType(I32, self.lanes)
        return self.builder.shuffle_vector(one, _constant(kind, ir.Undefined), _constant(lanes, (0,) * self.lanes))

    def _mask(self, count: Any) -> Any:
        """The first ``count`` lanes."""
        wide = ir.VectorType(I64, self.lanes)
        return self.builder.icmp_signed("<", _constant(wide, tuple(range(self.lanes))), self.splat(count, wide))

    def load_first(self, address: Any, count: Any) -> Any:
        """The first ``count`` values, zero in the lanes after them; nothing beyond them is read."""
        pointer = self._pointer(address, self.vector)
        name = f"llvm.masked.load.{self.suffix}.p0"
        masks = ir.VectorType(I1, self.lanes)
        kind = ir.FunctionType(self.vector, [pointer.type, I32, masks, self.vector])
        zero = self.const(0.0)
        return self.builder.call(
            self._declare(name, kind), [pointer, ir.Constant(I32, self.size), self._mask(count), zero]
        )

    def store_first(self, address: Any, value: Any, count: Any) -> None:
        """The first ``count`` lanes; nothing beyond them is written."""
        pointer = self._pointer(address, self.vector)
        full = self.builder.icmp_signed(">=", count, self.whole(self.lanes))
        with self.builder.if_else(full, likely=True) as (whole, part):
            with whole:
                self.builder.store(value, pointer, align=self.size)
            with part:
                kind = ir.FunctionType(ir.VoidType(), [self.vector, pointer.type, I32, ir.VectorType(I1, self.lanes)])
                function = self._declare(f"llvm.masked.store.{self.suffix}.p0", kind)
                self.builder.call(function, [value, pointer, ir.Constant(I32, self.size), self._mask(count)])

    @contextmanager
    def loop(self, start: Any, stop: Any, step: int, carried: list[Any]) -> Iterator[tuple[Any, list[Any], list[Any]]]:
        """``for index in range(start, stop, step)`` while a full step remains.

        Yields (index, values, next): ``values`` are the carried values inside; put their successors into ``next``.
        After the block, ``next`` holds the values at the loop's end and ``next[-1]`` the index there.
        """
        b = self.builder
        before, head = b.block, b.append_basic_block("head")
        body, after = b.append_basic_block("body"), b.append_basic_block("after")
        b.branch(head)
        b.position_at_end(head)
        index = b.phi(I64)
        index.add_incoming(start, before)
        values = []
        for value in carried:
            phi = b.phi(value.type)
            phi.add_incoming(value, before)
            values.append(phi)
        b.cbranch(b.icmp_signed("<=", b.add(index, self.whole(step)), stop), body, after)
        b.position_at_end(body)
        following: list[Any] = []
        yield index, values, following
        for phi, value in zip(values, following, strict=True):
            phi.add_incoming(value, b.block)
        index.add_incoming(b.add(index, self.whole(step)), b.block)
        b.branch(head)
        b.position_at_end(after)
        following[:] = [*values, index]

    # Arithmetic: the operations that `approximations` is written in --------------------------------------------------

    def const(self, value: float) -> Any:
        return _constant(self.vector, (float(value),) * self.lanes)

    def _declare(self, name: str, kind: Any) -> Any:
        found = self.builder.module.globals.get(name)
        return found if found is not None else ir.Function(self.builder.module, kind, name)

    def _intrinsic(self, name: str, *arguments: Any) -> Any:
        kind = ir.FunctionType(self.vector, [self.vector] * len(arguments))
        return self.builder.call(self._declare(f"llvm.{name}.{self.suffix}", kind), arguments)

    def add(self, a: Any, b: Any) -> Any:
        return self.builder.fadd(a, b)

    def sub(self, a: Any, b: Any) -> Any:
        return self.builder.fsub(a, b)

    def mul(self, a: Any, b: Any) -> Any:
        return self.builder.fmul(a, b)

    def div(self, a: Any, b: Any) -> Any:
        return self.builder.fdiv(a, b)

    def neg(self, a: Any) -> Any:
        return self.builder.fneg(a)

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        """a * b + c, rounded once where the machine has the instruction; a library call would cost too much."""
        return self._intrinsic("fma", a, b, c) if target().fma else self.add(self.mul(a, b), c)

    def abs(self, a: Any) -> Any:
        return self._intrinsic("fabs", a)

    def rint(self, a: Any) -> Any:
        return self._intrinsic("rint", a)

    def min(self, a: Any, b: Any) -> Any:
        """a < b ? a : b, hence b where either is NaN."""
        return self.builder.select(self.builder.fcmp_ordered("<", a, b), a, b)

    def max(self, a: Any, b: Any) -> Any:
        """a > b ? a : b, hence b where either is NaN."""
        return self.builder.select(self.builder.fcmp_ordered(">", a, b), a, b)

    def select_gt(self, a: Any, b: Any, u: Any, v: Any) -> Any:
        return self.builder.select(self.builder.fcmp_ordered(">", a, b), u, v)

    def scale2(self, a: Any, n: Any) -> Any:
        """a * 2**n for a whole n in the range of normal exponents; see `approximations` for the two beyond.

        Adding 1.5 * 2**m leaves n in the low bits of the m bits of the mantissa, from where a shift makes it an
        exponent. A conversion to integer would do as well, but is undefined for NaN.
        """
        mantissa, bias = (23, 127) if self.bits == 32 else (52, 1023)
        low_bits = self.builder.bitcast(self.add(n, self.const(1.5 * 2**mantissa + bias)), self.integers)
        power = self.builder.shl(low_bits, _constant(self.integers, (mantissa,) * self.lanes))
        return self.mul(a, self.builder.bitcast(power, self.vector))

    def quiet_max(self, a: Any, b: Any) -> Any:
        """The larger one, NaN where either is."""
        return self.builder.select(self.builder.fcmp_unordered("uno", a, a), a, self.max(a, b))

    def quiet_min(self, a: Any, b: Any) -> Any:
        """The smaller one, NaN where either is."""
        return self.builder.select(self.builder.fcmp_unordered("uno", a, a), a, self.min(a, b))

    def relu(self, a: Any) -> Any:
        """a, or 0 where it is negative; NaN stays."""
        return self.select_gt(self.const(0.0), a, self.const(0.0), a)


_OPERATIONS: dict[str, Callable[..., Any]] = {
    "add": Emitter.add, "sub": Emitter.sub, "mul": Emitter.mul, "div": Emitter.div, "neg": Emitter.neg,
    "max": Emitter.quiet_max, "min": Emitter.quiet_min, "relu": Emitter.relu, "select_gt": Emitter.select_gt,
    "sigmoid": approximations.sigmoid, "tanh": approximations.tanh, "exp": approximations.exp,
    "softplus": approximations.softplus,
}  # fmt: skip


def evaluate(emit: Emitter, node: Node, known: dict[int, Any]) -> Any:
    """The instructions for a node; ``known`` holds those emitted, loaded or accumulated, by node number."""
    value = known.get(node.number)
    if value is None:
        value = emit.const(node.value) if node.op == "constant" else _compute(emit, node, known)
        known[node.number] = value
    return value


def _compute(emit: Emitter, node: Node, known: dict[int, Any]) -> Any:
    fused = _fused(emit, node, known) if node.op in ("add", "sub") else None
    if fused is not None:
        return fused
    return _OPERATIONS[node.op](emit, *(evaluate(emit, a, known) for a in node.args))


def _fused(emit: Emitter, node: Node, known: dict[int, Any]) -> Any:
    """a + b * c and its kin as one multiply-add: the second product of a sum is fused, else the first."""
    a, b = node.args
    if b.op == "mul" and b.number not in known:
        left, right = (evaluate(emit, v, known) for v in b.args)
        return emit.fma(left if node.op == "add" else emit.neg(left), right, evaluate(emit, a, known))
    if a.op == "mul" and a.number not in known:
        left, right = (evaluate(emit, v, known) for v in a.args)
        rest = evaluate(emit, b, known)
        return emit.fma(left, right, rest if node.op == "add" else emit.neg(rest))
    return None
