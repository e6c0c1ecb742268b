"""The weight gradients' product: ``into[m, n] += sum over rows k of a[k, m] * b[k, n]``.

The tile of `tile` read down the columns: one value of ``a`` in all lanes times vectors of ``b``, so that neither has to
be transposed. The rows come in blocks. A few vectors of a block of ``b`` are first copied side by side, so that they
stay in the first cache wherever the rows are, while all of ``a`` goes past them. Each block's sum starts from zero,
which also keeps the rounding error of a long sum small. The order of all additions is fixed by the sizes alone.

The columns of ``a`` are gates of equal width and as far apart: after each comes a gap where they fill no whole vectors.
What all of them multiply is copied once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from fastrnn.backends.tiled.emitter import FLAG, WHOLE, Emitter
from fastrnn.backends.tiled.target import Target

WIDTHS = (4, 2, 1)  # vectors of b beside each other: the widest as often as it fits, then the next
BLOCK = 128  # rows; so many of four vectors fill two thirds of a first cache
UNROLL = 2
CACHE_LINE = 64  # bytes
OPERAND_KINDS = (*[WHOLE] * 13, FLAG)
Tile = Callable[..., None]  # called with an emitter, the operands, a row of into and a column


class Operands(NamedTuple):
    """Addresses and sizes of one block of rows; ``first`` overwrites what is in ``into``.

    ``a`` has rows of a fixed stride, and ``gap`` bytes more after each ``gate_rows`` of its columns, which are the rows
    of ``into``; the call is for those from ``low`` to ``high - 1``. ``b`` has a table of byte offsets; ``copied`` is
    room for a block of four vectors.
    """

    a: Any
    a_stride: Any
    gate_rows: Any
    gap: Any
    b: Any
    b_offsets: Any
    into: Any
    into_stride: Any
    rows: Any
    low: Any
    high: Any
    width: Any
    copied: Any
    first: Any


def emit_outer(emit: Emitter, operands: Operands) -> None:
    """All tiles of one block of rows; the last vector of a row may be partial."""
    start = emit.whole(0)
    vectors_in_row = emit.quotient(emit.sum(operands.width, emit.whole(emit.lanes - 1)), emit.whole(emit.lanes))
    end = emit.times(vectors_in_row, emit.lanes)
    widths = _widths(emit.target)
    first_gate = emit.quotient(operands.low, operands.gate_rows)
    end_gate = emit.quotient(
        emit.sum(operands.high, emit.difference(operands.gate_rows, emit.whole(1))), operands.gate_rows
    )
    for vectors in widths:
        copy, heights = _copy(emit, vectors), _heights(emit.target, vectors)
        tiles = {height: _tile(emit, vectors, height) for height in heights}
        # The first tiles fetch the vectors of b that are copied next, one each; not everywhere: see `Target.heights`.
        fetches = vectors == widths[0] and emit.target.fma
        fetching = _tile(emit, vectors, heights[0], fetching=True) if fetches else None
        with emit.loop(start, end, vectors * emit.lanes, []) as (column, _, past):
            copy(emit, *operands, emit.whole(0), column)
            with emit.loop(first_gate, end_gate, 1, []) as (gate, _, _end):
                row, stop = _rows_of(emit, operands, gate)
                own = operands._replace(a=emit.sum(operands.a, emit.times(gate, operands.gap)))
                if fetching:
                    before = emit.lesser(_tiles_before(emit, operands, row, heights[0]), emit.whole(vectors))
                    left = emit.times(emit.difference(emit.whole(vectors), before), heights[0])
                    row = _tiles(emit, own, fetching, heights[0], row, emit.lesser(stop, emit.sum(row, left)), column)
                for height, tile in tiles.items():
                    row = _tiles(emit, own, tile, height, row, stop, column)
        start = past[-1]


def _rows_of(emit: Emitter, operands: Operands, gate: Any) -> tuple[Any, Any]:
    """The first row of a gate that the call is for, and the one after the last."""
    begin = emit.times(gate, operands.gate_rows)
    end = emit.sum(begin, operands.gate_rows)
    return emit.greater(begin, operands.low), emit.lesser(end, operands.high)


def _tiles(emit: Emitter, operands: Operands, tile: Tile, height: int, row: Any, stop: Any, column: Any) -> Any:
    """As many tiles of a height as there are rows for; the row after them."""
    with emit.loop(row, stop, height, []) as (first, _, after):
        tile(emit, *operands, first, column)
    return after[-1]


def _tiles_before(emit: Emitter, operands: Operands, row: Any, height: int) -> Any:
    """How many tiles of the tallest kind come before a row: those of its gate, and of whole gates before that one."""
    gate = emit.quotient(row, operands.gate_rows)
    gates = emit.difference(gate, emit.quotient(operands.low, operands.gate_rows))
    of_gate = emit.quotient(operands.gate_rows, emit.whole(height))
    first, _ = _rows_of(emit, operands, gate)
    return emit.sum(emit.times(gates, of_gate), emit.quotient(emit.difference(row, first), emit.whole(height)))


def _widths(target: Target) -> tuple[int, ...]:
    """Those for a machine: of 12 sums in 16 registers, two vectors by six rows need fewer than four by three."""
    return WIDTHS[1:] if target.registers == 16 and target.fma else WIDTHS


def _heights(target: Target, vectors: int) -> tuple[int, ...]:
    """Rows of ``into`` at once: as many as leave registers for the vectors of ``b``, then fewer, down to one. What is
    left of a gate is few of these tiles, for tiles of few rows read ``b`` as often as others."""
    tallest = min(24 // vectors, 12) if target.registers == 32 else target.heights(vectors)[0]
    return (tallest, *range(min(tallest - 1, 6), 0, -1))


def _function(caller: Emitter, name: str, body: Callable[[Emitter, Operands, Any, Any], None]) -> Tile:
    """A function of its own over the operands, a row and a column."""

    def with_operands(emit: Emitter, arguments: list[Any]) -> None:
        *operands, row, column = arguments
        body(emit, Operands(*operands), row, column)

    return caller.function(name, [*OPERAND_KINDS, WHOLE, WHOLE], with_operands)


def _copy(caller: Emitter, vectors: int) -> Tile:
    """Copy some vectors of all rows of b side by side; lanes past the width are zero."""

    def body(emit: Emitter, operands: Operands, _row: Any, column: Any) -> None:
        first = emit.sum(operands.b, emit.times(column, emit.size))
        with emit.loop(emit.whole(0), operands.rows, 1, []) as (k, _, _end):
            source = emit.sum(first, emit.read_whole(emit.sum(operands.b_offsets, emit.times(k, 8))))
            into = emit.sum(operands.copied, emit.times(k, vectors * emit.lanes * emit.size))
            for v in range(vectors):
                past = v * emit.lanes
                left = emit.difference(operands.width, emit.sum(column, emit.whole(past)))
                value = emit.load_first(emit.sum(source, emit.whole(past * emit.size)), left)
                emit.store(emit.sum(into, emit.whole(past * emit.size)), value)

    return _function(caller, f"outer_copy_{vectors}", body)


def _tile(caller: Emitter, vectors: int, height: int, fetching: bool = False) -> Tile:
    """One tile of ``into``. One that is ``fetching`` asks for one of the vectors of b that are copied next, row by row:
    these lie too far from each other for the processor to see what comes, and a copy would wait for each of them."""

    def body(emit: Emitter, operands: Operands, row: Any, column: Any) -> None:
        a = emit.sum(operands.a, emit.times(row, emit.size))
        next_vector = None
        if fetching:
            ahead = emit.sum(_tiles_before(emit, operands, row, height), emit.whole(vectors))
            next_vector = emit.sum(operands.b, emit.times(emit.sum(column, emit.times(ahead, emit.lanes)), emit.size))
        values = [emit.const(0.0)] * (vectors * height)
        k: Any = emit.whole(0)
        for unroll in (UNROLL, 1):
            with emit.loop(k, operands.rows, unroll, values) as (index, inner, following):
                for j in range(unroll):
                    here = emit.sum(index, emit.whole(j))
                    inner = _multiply(emit, operands, a, here, inner, vectors, height)
                    if next_vector is not None:
                        offset = emit.read_whole(emit.sum(operands.b_offsets, emit.times(here, 8)))
                        emit.prefetch(emit.sum(next_vector, offset))
                following += inner
            values, k = following[:-1], following[-1]
        for m in range(height):
            line = emit.sum(operands.into, emit.times(emit.sum(row, emit.whole(m)), operands.into_stride))
            for v in range(vectors):
                place = emit.sum(column, emit.whole(v * emit.lanes))
                address, left = emit.sum(line, emit.times(place, emit.size)), emit.difference(operands.width, place)
                before = emit.choose(operands.first, emit.const(0.0), emit.load_first(address, left))
                emit.store_first(address, emit.add(before, values[m * vectors + v]), left)

    return _function(caller, f"outer_{'fetching_' if fetching else ''}{height}x{vectors}", body)


def _multiply(emit: Emitter, operands: Operands, a: Any, k: Any, values: Any, vectors: int, height: int) -> list[Any]:
    """One row k: its ``height`` values of a times its vectors of b.

    The next tiles read on in the same rows of a, too far from each other for the processor to see that: hence the hint.
    """
    here = emit.sum(a, emit.times(k, operands.a_stride))
    there = emit.sum(operands.copied, emit.times(k, vectors * emit.lanes * emit.size))
    loaded = [emit.load(emit.sum(there, emit.whole(v * emit.lanes * emit.size))) for v in range(vectors)]
    emit.prefetch(emit.sum(here, emit.whole(CACHE_LINE)))
    column = emit.values(here)
    products = []
    for m in range(height):
        value = emit.value(column, emit.whole(m))
        products += [emit.accumulate(value, v, values[m * vectors + i]) for i, v in enumerate(loaded)]
    return products
