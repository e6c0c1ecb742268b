"""The weight gradients' product: ``into[m, n] += sum over rows k of a[k, m] * b[k, n]``.

The tile of `tile` read down the columns: one value of ``a`` in all lanes times vectors of ``b``, so that neither has to
be transposed. The rows come in blocks. A few vectors of a block of ``b`` are first copied side by side, so that they
stay in the first cache wherever the rows are, while ``a`` goes past them, whose columns are packed before where
registers are few. Each block's sum starts from zero, which also keeps the rounding error of a long sum small. The order
of all additions is fixed by the sizes alone.

Where ``into`` is large, a group of blocks goes into a part of its rows before the next one: all of it would have to
come from beyond the second cache for each block. That takes 3 to 6 % less time at 1024 columns (Zen 4).

The columns of ``a`` are gates of equal width and as far apart: after each comes a gap where they fill no whole vectors.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from fastrnn.backends.tiled import frame as f
from fastrnn.backends.tiled.emitter import WHOLE, Emitter
from fastrnn.backends.tiled.target import Target

WIDTHS = (4, 2, 1)  # vectors of b beside each other: the widest as often as it fits, then the next
BLOCK = 128  # rows; so many of four vectors fill two thirds of a first cache
GROUP = 8  # blocks that go into a part of into before the next part
EVEN = 12  # rows of into: whole tiles of those for the widest of `WIDTHS`
PART = 22 * EVEN  # rows of into at most
# Up to so many bytes, into and a block of a stay in the second cache, and all rows are one part. That cache is smaller
# where there are few registers.
NEAR_BYTES = {32: 512 * 1024, 16: 256 * 1024}
LEAST_PACKED = 160  # columns of b for which a is packed
UNROLL = 2
CACHE_LINE = 64  # bytes
ARGUMENTS = (WHOLE,) * 6  # of `emit_outer`
Tile = Callable[..., None]  # called with an emitter, the operands, a row of into and a column


class Operands(NamedTuple):
    """Addresses and sizes; unless there is ``more`` already, what is in ``into`` is overwritten.

    ``a`` has rows and columns of fixed strides, and ``gap`` bytes more after each ``gate_rows`` of its columns, which
    are the rows of ``into``; the product is for those from ``low`` to ``high - 1``. ``b`` has a table of byte offsets.
    ``room`` is for what is copied: vectors of ``b``, and after them what is packed of ``a``.
    """

    a: Any
    a_stride: Any
    a_step: Any
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
    room: Any
    more: Any


def room_bytes(target: Target, size: int) -> int:
    """What the product needs of memory, from a cache line on, for values of so many bytes."""
    if not _few_registers(target):
        return _copied_bytes(target)
    # Parts of more rows are near, and then too narrow for a to be packed.
    assert NEAR_BYTES[target.registers] < (PART + 1) * (LEAST_PACKED + BLOCK) * size
    return _copied_bytes(target) + PART * BLOCK * size + target.vector_bytes


def emit_outer(emit: Emitter, frame: Any, low: Any, high: Any, more: Any, rows: Any, room: Any) -> None:
    """The product whose frame this is (see `frame.OUTER_A`), over so many rows, for the rows of into from ``low`` on.

    Blocks go from the last to the first, the order in which backward makes them, so that a sum over pieces of time is
    the sum over the whole.
    """
    fields = (
        f.OUTER_A, f.OUTER_A_STRIDE, f.OUTER_GATE_ROWS, f.OUTER_GAP, f.OUTER_B, f.OUTER_B_OFFSETS, f.OUTER_INTO,
        f.OUTER_INTO_STRIDE, f.OUTER_WIDTH,
    )  # fmt: skip
    a, a_stride, gate_rows, gap, b, b_offsets, into, into_stride, width = (
        emit.read_whole(emit.sum(frame, emit.whole(8 * field))) for field in fields
    )
    operands = Operands(
        a, a_stride, emit.whole(emit.size), gate_rows, gap, b, b_offsets, into, into_stride, rows, low, high, width,
        room, more,
    )  # fmt: skip
    block = emit.function("outer_block", [WHOLE] * len(operands), lambda emit, given: _block(emit, Operands(*given)))
    zero, one = emit.whole(0), emit.whole(1)
    blocks = _quotient_up(emit, rows, emit.whole(BLOCK))
    count = emit.difference(high, low)
    near = emit.whole(NEAR_BYTES[emit.target.registers] // emit.size)
    far = emit.less(near, emit.times(count, emit.sum(width, emit.whole(BLOCK))))
    parts = emit.choose(far, _quotient_up(emit, count, emit.whole(PART)), one)
    most = emit.times(_quotient_up(emit, count, emit.times(parts, EVEN)), EVEN)
    with emit.loop(zero, _quotient_up(emit, blocks, emit.whole(GROUP)), 1, []) as (group, _, _groups):
        done = emit.times(group, GROUP)
        left = emit.difference(blocks, done)
        with emit.loop(zero, parts, 1, []) as (part, _, _parts):
            first_row = emit.sum(low, emit.times(part, most))
            stop_row = emit.lesser(emit.sum(first_row, most), high)
            with emit.loop(zero, emit.lesser(left, emit.whole(GROUP)), 1, []) as (number, _, _numbers):
                first = emit.times(emit.difference(left, emit.sum(number, one)), BLOCK)
                own = operands._replace(
                    a=emit.sum(a, emit.times(first, a_stride)),
                    b_offsets=emit.sum(b_offsets, emit.times(first, 8)),
                    rows=emit.lesser(emit.whole(BLOCK), emit.difference(rows, first)),
                    low=first_row,
                    high=stop_row,
                    more=emit.sum(more, done, number),
                )
                block(emit, *own)


def _block(emit: Emitter, operands: Operands) -> None:
    """All tiles of one block of rows; the last vector of a row may be partial."""
    start = emit.whole(0)
    vectors_in_row = _quotient_up(emit, operands.width, emit.whole(emit.lanes))
    end = emit.times(vectors_in_row, emit.lanes)
    widths = _widths(emit.target)
    first_gate = emit.quotient(operands.low, operands.gate_rows)
    end_gate = _quotient_up(emit, operands.high, operands.gate_rows)
    tallest = _heights(emit.target, widths[0])[0]
    wide = emit.less(emit.whole(LEAST_PACKED - 1), operands.width) if _few_registers(emit.target) else None
    if wide is not None:
        operands = _with_packed(emit, operands, wide, first_gate, end_gate)
    for vectors in widths:
        copy, heights = _copy(emit, vectors), _heights(emit.target, vectors)
        tiles = {height: _tile(emit, vectors, height) for height in heights}
        # The first tiles fetch the vectors of b that are copied next, one each; not everywhere: see `Target.heights`.
        fetches = vectors == widths[0] and emit.target.fma
        fetching = _tile(emit, vectors, tallest, fetching=True) if fetches else None
        with emit.loop(start, end, vectors * emit.lanes, []) as (column, _, past):
            copy(emit, *operands, emit.whole(0), column)
            with emit.loop(first_gate, end_gate, 1, []) as (gate, _, _end):
                row, stop = _rows_of(emit, operands, gate)
                own = operands._replace(a=emit.sum(operands.a, emit.times(gate, operands.gap)))
                if fetching:
                    before = emit.lesser(_tiles_before(emit, operands, row, tallest), emit.whole(vectors))
                    left = emit.times(emit.difference(emit.whole(vectors), before), tallest)
                    fetched = emit.lesser(stop, emit.sum(row, left))
                    row = _tiles(emit, _strided(emit, own, wide, tallest), fetching, tallest, row, fetched, column)
                for height, tile in tiles.items():
                    # What is packed for the widest tiles has no taller ones.
                    here = emit.choose(wide, row, stop) if wide is not None and height > tallest else stop
                    row = _tiles(emit, _strided(emit, own, wide, height), tile, height, row, here, column)
        start = past[-1]


def _with_packed(emit: Emitter, operands: Operands, wide: Any, first_gate: Any, end_gate: Any) -> Operands:
    """With a as the tiles read it, if into is ``wide``: side by side what all rows have for a tile.

    With few registers tiles are low, and read few values each of rows that stand far apart, each in a page of its own.
    Packed, they take 4 to 12 % less time from 256 columns on (AVX2 on a Zen 4). Taller ones gain nothing.
    """
    heights = _heights(emit.target, _widths(emit.target)[0])
    own = operands._replace(room=emit.sum(operands.room, emit.whole(_copied_bytes(emit.target))))
    with emit.when(wide), emit.loop(first_gate, end_gate, 1, []) as (gate, _, _end):
        row, stop = _rows_of(emit, operands, gate)
        of_gate = own._replace(a=emit.sum(own.a, emit.times(gate, own.gap)))
        for height in heights:
            row = _tiles(emit, of_gate, _pack(emit, height), height, row, stop, emit.whole(0))
    step = emit.times(operands.rows, emit.size)
    begin = emit.difference(own.room, emit.times(operands.low, step))
    return operands._replace(
        a=emit.choose(wide, begin, operands.a),
        a_step=emit.choose(wide, step, operands.a_step),
        gap=emit.choose(wide, emit.whole(0), operands.gap),
    )


def _strided(emit: Emitter, operands: Operands, wide: Any, height: int) -> Operands:
    """With the stride that rows of a have where they are packed for tiles of a height."""
    if wide is None:
        return operands
    return operands._replace(a_stride=emit.choose(wide, emit.whole(height * emit.size), operands.a_stride))


def _quotient_up(emit: Emitter, a: Any, b: Any) -> Any:
    """a / b, rounded up."""
    return emit.quotient(emit.sum(a, emit.difference(b, emit.whole(1))), b)


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


def _few_registers(target: Target) -> bool:
    """Whether tiles are low, and a is packed for them: see `_with_packed`."""
    return target.registers == 16 and target.fma


def _widths(target: Target) -> tuple[int, ...]:
    """Those for a machine: of 12 sums in 16 registers, two vectors by six rows need fewer than four by three."""
    return WIDTHS[1:] if _few_registers(target) else WIDTHS


def _copied_bytes(target: Target) -> int:
    """Room for the vectors of b."""
    return BLOCK * _widths(target)[0] * target.vector_bytes


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

    return caller.function(name, [WHOLE] * (len(Operands._fields) + 2), with_operands)


def _pack(caller: Emitter, height: int) -> Tile:
    """Copy what all rows of a have for a tile, side by side, each tile's after those before it.

    The lanes past these values are written anew by the next row or tile; after the last one there is room. The next
    tile reads on in the same rows: see `_multiply`.
    """

    def body(emit: Emitter, operands: Operands, row: Any, _column: Any) -> None:
        a = emit.sum(operands.a, emit.times(row, operands.a_step))
        before = emit.times(emit.difference(row, operands.low), operands.rows)
        into = emit.sum(operands.room, emit.times(before, emit.size))
        with emit.loop(emit.whole(0), operands.rows, 1, []) as (k, _, _end):
            here = emit.sum(a, emit.times(k, operands.a_stride))
            emit.prefetch(emit.sum(here, emit.whole(CACHE_LINE)))
            for first in range(0, height, emit.lanes):
                value = emit.load_first(emit.sum(here, emit.whole(first * emit.size)), emit.whole(height - first))
                emit.store(emit.sum(into, emit.times(k, height * emit.size), emit.whole(first * emit.size)), value)

    return _function(caller, f"outer_pack_{height}", body)


def _copy(caller: Emitter, vectors: int) -> Tile:
    """Copy some vectors of all rows of b side by side; lanes past the width are zero."""

    def body(emit: Emitter, operands: Operands, _row: Any, column: Any) -> None:
        first = emit.sum(operands.b, emit.times(column, emit.size))
        with emit.loop(emit.whole(0), operands.rows, 1, []) as (k, _, _end):
            source = emit.sum(first, emit.read_whole(emit.sum(operands.b_offsets, emit.times(k, 8))))
            into = emit.sum(operands.room, emit.times(k, vectors * emit.lanes * emit.size))
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
        a = emit.sum(operands.a, emit.times(row, operands.a_step))
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
        overwrites = emit.equal(operands.more, emit.whole(0))
        for m in range(height):
            line = emit.sum(operands.into, emit.times(emit.sum(row, emit.whole(m)), operands.into_stride))
            for v in range(vectors):
                place = emit.sum(column, emit.whole(v * emit.lanes))
                address, left = emit.sum(line, emit.times(place, emit.size)), emit.difference(operands.width, place)
                before = emit.choose(overwrites, emit.const(0.0), emit.load_first(address, left))
                emit.store_first(address, emit.add(before, values[m * vectors + v]), left)

    return _function(caller, f"outer_{'fetching_' if fetching else ''}{height}x{vectors}", body)


def _multiply(emit: Emitter, operands: Operands, a: Any, k: Any, values: Any, vectors: int, height: int) -> list[Any]:
    """One row k: its ``height`` values of a times its vectors of b.

    The next tiles read on in the same rows of a, too far from each other for the processor to see that: hence the hint,
    which does no harm where a is packed.
    """
    here = emit.sum(a, emit.times(k, operands.a_stride))
    there = emit.sum(operands.room, emit.times(k, vectors * emit.lanes * emit.size))
    loaded = [emit.load(emit.sum(there, emit.whole(v * emit.lanes * emit.size))) for v in range(vectors)]
    emit.prefetch(emit.sum(here, emit.whole(CACHE_LINE)))
    column = emit.values(here)
    products = []
    for m in range(height):
        value = emit.value(column, emit.whole(m))
        products += [emit.accumulate(value, v, values[m * vectors + i]) for i, v in enumerate(loaded)]
    return products
