"""The weight gradients' product: ``into[m, n] += sum over rows k of a[k, m] * b[k, n]``.

The tile of `tile` read down the columns: one value of ``a`` in all lanes times vectors of ``b``, so that neither has to
be transposed or packed. The rows come in blocks that stay in the first cache; each block's sum starts from zero, which
also keeps the rounding error of a long sum small. The order of all additions is fixed by the sizes alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from fastrnn.backends.numba_.target import target
from fastrnn.backends.numba_.vector import I1, I64, Emitter

WIDE = 4  # vectors of b beside each other, while there are so many


@dataclass(frozen=True)
class Operands:
    """Addresses and sizes: a (rows of a fixed stride), b (a table of byte offsets), into; ``first`` overwrites."""

    a: Any
    a_stride: Any
    b: Any
    b_offsets: Any
    into: Any
    into_stride: Any
    rows: Any
    height: Any
    width: Any
    first: Any

    FIELDS = 10

    def values(self) -> list[Any]:
        return [self.a, self.a_stride, self.b, self.b_offsets, self.into, self.into_stride, self.rows, self.height,
                self.width, self.first]  # fmt: skip


def emit_outer(emit: Emitter, operands: Operands) -> None:
    """All tiles of one block of rows: wide ones first, then single vectors, of which the last may be partial."""
    start = emit.whole(0)
    end = emit.times(emit.builder.sdiv(emit.sum(operands.width, emit.whole(emit.lanes - 1)), emit.whole(emit.lanes)),
                     emit.lanes)  # fmt: skip
    for vectors, stop in ((WIDE, operands.width), (1, end)):
        tiles = {height: _tile(emit, vectors, height) for height in target().heights(vectors)}
        with emit.loop(start, stop, vectors * emit.lanes, []) as (column, _, past):
            row = emit.whole(0)
            for height, tile in tiles.items():
                with emit.loop(row, operands.height, height, []) as (first, _, after):
                    emit.builder.call(tile, [*operands.values(), first, column])
                row = after[-1]
        start = past[-1]


def _tile(caller: Emitter, vectors: int, height: int) -> Any:
    """A function of its own for one tile shape."""
    module = caller.builder.module
    kind = ir.FunctionType(ir.VoidType(), [I64] * (Operands.FIELDS - 1) + [I1, I64, I64])
    function = ir.Function(module, kind, module.get_unique_name(f"outer_{height}x{vectors}"))
    function.linkage = "internal"
    function.attributes.add("noinline")
    builder = ir.IRBuilder(function.append_basic_block("entry"))
    emit = Emitter(builder, caller.dtype)
    operands, (row, column) = Operands(*function.args[: Operands.FIELDS]), function.args[Operands.FIELDS :]
    _emit_tile(emit, operands, row, column, vectors, height)
    builder.ret_void()
    return function


def _emit_tile(emit: Emitter, operands: Operands, row: Any, column: Any, vectors: int, height: int) -> None:
    b = emit.builder
    a = emit.sum(operands.a, emit.times(row, emit.size))
    first_b = emit.sum(operands.b, emit.times(column, emit.size))
    count = b.sub(operands.width, column)
    zeros = [emit.const(0.0)] * (vectors * height)
    with emit.loop(emit.whole(0), operands.rows, 1, zeros) as (k, values, following):
        here = emit.sum(a, emit.times(k, operands.a_stride))
        there = emit.sum(first_b, emit.read_whole(emit.sum(operands.b_offsets, emit.times(k, 8))))
        if vectors == 1:
            loaded = [emit.load_first(there, count)]
        else:
            loaded = [emit.load(emit.sum(there, emit.whole(v * emit.lanes * emit.size))) for v in range(vectors)]
        for m in range(height):
            value = emit.broadcast(emit.sum(here, emit.whole(m * emit.size)))
            following += [emit.fma(value, v, values[m * vectors + i]) for i, v in enumerate(loaded)]
    for m in range(height):
        line = emit.sum(operands.into, emit.times(emit.sum(row, emit.whole(m)), operands.into_stride))
        for i in range(vectors):
            address = emit.sum(line, emit.times(emit.sum(column, emit.whole(i * emit.lanes)), emit.size))
            left = b.sub(count, emit.whole(i * emit.lanes))
            before = b.select(operands.first, emit.const(0.0), emit.load_first(address, left))
            emit.store_first(address, emit.add(before, following[m * vectors + i]), left)
