"""LLVM instructions for `tiled.emitter`: whole numbers, control, memory and vectors.

No fast-math flags: what is fused into one multiply-add is written so, and nothing else is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import lru_cache
from typing import Any

import numpy as np
from llvmlite import ir

from fastrnn.backends.numba_.atomics import I1, I32, I64, emit_meeting
from fastrnn.backends.numba_.target import target
from fastrnn.backends.tiled import emitter
from fastrnn.backends.tiled.emitter import FLAG, WHOLE, Body

KINDS = {WHOLE: I64, FLAG: I1}


@lru_cache(maxsize=4096)
def _constant(kind: Any, values: Any) -> Any:
    """A vector constant, made once: making and writing them out is a third of a compilation otherwise."""
    return ir.Constant(kind, values if values is ir.Undefined else list(values))


def _written_out(module: Any) -> Any:
    """What tells LLVM that a loop is written out as far as it should be.

    LLVM would double the loop over k, and keep an address for each row and place in it: more than there are registers.
    """
    never = module.add_metadata([ir.MetaDataString(module, "llvm.loop.unroll.disable")])
    loop = ir.MDValue(module, [never], str(len(module.metadata)))
    loop.operands = (loop, never)  # naming itself is what makes it this loop's own
    return loop


class Emitter(emitter.Emitter):
    """Instructions for one element type at the end of one builder."""

    def __init__(self, builder: Any, dtype: np.dtype[Any]) -> None:
        super().__init__(dtype, target())
        self.builder = builder
        self.scalar = ir.FloatType() if self.bits == 32 else ir.DoubleType()
        self.vector_type = ir.VectorType(self.scalar, self.lanes)
        self.integers = ir.VectorType(ir.IntType(self.bits), self.lanes)
        self.suffix = f"v{self.lanes}f{self.bits}"

    # Whole numbers and flags -----------------------------------------------------------------------------------------

    def whole(self, value: int) -> Any:
        return ir.Constant(I64, value)

    def flag(self, value: bool) -> Any:
        return I1(int(value))

    def sum(self, *terms: Any) -> Any:
        total = terms[0]
        for term in terms[1:]:
            total = self.builder.add(total, term)
        return total

    def difference(self, a: Any, b: Any) -> Any:
        return self.builder.sub(a, b)

    def times(self, a: Any, b: Any) -> Any:
        return self.builder.mul(a, b if not isinstance(b, int) else self.whole(b))

    def quotient(self, a: Any, b: Any) -> Any:
        return self.builder.sdiv(a, b)

    def equal(self, a: Any, b: Any) -> Any:
        return self.builder.icmp_signed("==", a, b)

    def less(self, a: Any, b: Any) -> Any:
        return self.builder.icmp_signed("<", a, b)

    def differ(self, a: Any, b: Any) -> Any:
        return self.builder.icmp_signed("!=", a, b)

    def lesser(self, a: Any, b: Any) -> Any:
        return self.builder.select(self.builder.icmp_signed("<", a, b), a, b)

    def greater(self, a: Any, b: Any) -> Any:
        return self.builder.select(self.builder.icmp_signed(">", a, b), a, b)

    def choose(self, flag: Any, a: Any, b: Any) -> Any:
        return self.builder.select(flag, a, b)

    # Control ---------------------------------------------------------------------------------------------------------

    @contextmanager
    def when(self, flag: Any) -> Iterator[None]:
        with self.builder.if_then(flag):
            yield

    def either(self, flag: Any) -> AbstractContextManager[tuple[Any, Any]]:
        return self.builder.if_else(flag)

    def choose_made(self, flag: Any, make: Callable[[], Sequence[Any]], otherwise: Sequence[Any]) -> list[Any]:
        b = self.builder
        before = b.block
        with b.if_then(flag):
            made = make()
            at_end = b.block
        found = []
        for value, other in zip(made, otherwise, strict=True):
            phi = b.phi(I64)
            phi.add_incoming(value, at_end)
            phi.add_incoming(other, before)
            found.append(phi)
        return found

    @contextmanager
    def loop(self, start: Any, stop: Any, step: int, carried: list[Any]) -> Iterator[tuple[Any, list[Any], list[Any]]]:
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
        b.branch(head).set_metadata("llvm.loop", _written_out(b.module))
        b.position_at_end(after)
        following[:] = [*values, index]

    def function(self, name: str, kinds: Sequence[str], body: Body) -> Callable[..., None]:
        module = self.builder.module
        kind = ir.FunctionType(ir.VoidType(), [KINDS[k] for k in kinds])
        function = ir.Function(module, kind, module.get_unique_name(name))
        function.linkage = "internal"
        function.attributes.add("noinline")
        emit = Emitter(ir.IRBuilder(function.append_basic_block("entry")), self.dtype)
        body(emit, list(function.args))
        emit.builder.ret_void()
        return lambda caller, *arguments: caller.builder.call(function, arguments)

    def meet(self, frame: Any) -> None:
        emit_meeting(self.builder, frame)

    # Memory ----------------------------------------------------------------------------------------------------------

    def _pointer(self, address: Any, kind: Any) -> Any:
        return self.builder.inttoptr(address, kind.as_pointer())

    def read_whole(self, address: Any) -> Any:
        return self.builder.load(self._pointer(address, I64))

    def load(self, address: Any) -> Any:
        return self.builder.load(self._pointer(address, self.vector_type), align=self.size)

    def store(self, address: Any, value: Any) -> None:
        self.builder.store(value, self._pointer(address, self.vector_type), align=self.size)

    def prefetch(self, address: Any) -> None:
        pointer = self._pointer(address, ir.IntType(8))
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, I32, I32, I32])
        to_read, for_long, data = I32(0), I32(3), I32(1)
        self.builder.call(self._declare("llvm.prefetch.p0", kind), [pointer, to_read, for_long, data])

    def room(self, count: int) -> Any:
        with self.builder.goto_entry_block():
            place = self.builder.alloca(ir.ArrayType(self.vector_type, count))
            place.align = self.lanes * self.size
            return self.builder.ptrtoint(place, I64)

    def values(self, address: Any) -> Any:
        return self._pointer(address, self.scalar)

    def value(self, values: Any, index: Any) -> Any:
        return self._splat(self.builder.load(self.builder.gep(values, [index]), align=self.size), self.vector_type)

    def vectors(self, address: Any, first: Any = None) -> Any:
        pointer = self._pointer(address, self.vector_type)
        return pointer if first is None else self.builder.gep(pointer, [first])

    def vector(self, vectors: Any, index: Any) -> Any:
        return self.builder.load(self.builder.gep(vectors, [index]), align=self.lanes * self.size)

    def _splat(self, scalar: Any, kind: Any) -> Any:
        one = self.builder.insert_element(_constant(kind, ir.Undefined), scalar, ir.Constant(I32, 0))
        lanes = ir.VectorType(I32, self.lanes)
        return self.builder.shuffle_vector(one, _constant(kind, ir.Undefined), _constant(lanes, (0,) * self.lanes))

    def _mask(self, count: Any) -> Any:
        """The first ``count`` lanes."""
        wide = ir.VectorType(I64, self.lanes)
        return self.builder.icmp_signed("<", _constant(wide, tuple(range(self.lanes))), self._splat(count, wide))

    def load_first(self, address: Any, count: Any) -> Any:
        pointer = self._pointer(address, self.vector_type)
        name = f"llvm.masked.load.{self.suffix}.p0"
        masks = ir.VectorType(I1, self.lanes)
        kind = ir.FunctionType(self.vector_type, [pointer.type, I32, masks, self.vector_type])
        zero = self.const(0.0)
        return self.builder.call(
            self._declare(name, kind), [pointer, ir.Constant(I32, self.size), self._mask(count), zero]
        )

    def store_first(self, address: Any, value: Any, count: Any) -> None:
        pointer = self._pointer(address, self.vector_type)
        full = self.builder.icmp_signed(">=", count, self.whole(self.lanes))
        with self.builder.if_else(full, likely=True) as (whole, part):
            with whole:
                self.builder.store(value, pointer, align=self.size)
            with part:
                masks = ir.VectorType(I1, self.lanes)
                kind = ir.FunctionType(ir.VoidType(), [self.vector_type, pointer.type, I32, masks])
                function = self._declare(f"llvm.masked.store.{self.suffix}.p0", kind)
                self.builder.call(function, [value, pointer, ir.Constant(I32, self.size), self._mask(count)])

    # Arithmetic ------------------------------------------------------------------------------------------------------

    def const(self, value: float) -> Any:
        return _constant(self.vector_type, (float(value),) * self.lanes)

    def _declare(self, name: str, kind: Any) -> Any:
        found = self.builder.module.globals.get(name)
        return found if found is not None else ir.Function(self.builder.module, kind, name)

    def _intrinsic(self, name: str, *arguments: Any) -> Any:
        kind = ir.FunctionType(self.vector_type, [self.vector_type] * len(arguments))
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

    def abs(self, a: Any) -> Any:
        return self._intrinsic("fabs", a)

    def fused(self, a: Any, b: Any, c: Any) -> Any:
        return self._intrinsic("fma", a, b, c)

    def min(self, a: Any, b: Any) -> Any:
        return self.builder.select(self.builder.fcmp_ordered("<", a, b), a, b)

    def max(self, a: Any, b: Any) -> Any:
        return self.select_gt(a, b, a, b)

    def select_gt(self, a: Any, b: Any, u: Any, v: Any) -> Any:
        return self.builder.select(self.builder.fcmp_ordered(">", a, b), u, v)

    def select_nan(self, a: Any, u: Any, v: Any) -> Any:
        return self.builder.select(self.builder.fcmp_unordered("uno", a, a), u, v)

    def shifted(self, a: Any, count: int) -> Any:
        bits = self.builder.bitcast(a, self.integers)
        shifted = self.builder.shl(bits, _constant(self.integers, (count,) * self.lanes))
        return self.builder.bitcast(shifted, self.vector_type)
