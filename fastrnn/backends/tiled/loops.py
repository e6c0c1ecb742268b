"""The loops around the tiles: a stage's blocks of units and its rows, or what of these a member of a team takes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from fastrnn.backends.tiled import frame as f
from fastrnn.backends.tiled.emitter import FLAG, WHOLE, Emitter
from fastrnn.backends.tiled.stage import TileStage
from fastrnn.backends.tiled.tail import tail_function, tail_heights
from fastrnn.backends.tiled.target import UNDER_WAY, Target
from fastrnn.backends.tiled.tile import EpilogueFunction, Tile, tile_function

TAIL_ROWS = 4  # of a tail that members share: fewer rows have few sums under way, or none of the tail's own tiles


class Range(NamedTuple):
    """Rows ``start .. stop - 1``; ``with_products`` says whether products of segments reach them."""

    start: Any
    stop: Any
    with_products: Any


class Tiles(NamedTuple):
    """Tiles by the number of rows and of blocks; ``left_out`` is the height that a processor does without that takes
    vectors in halves, 0 if none (`Target.left_out`)."""

    of: dict[tuple[int, int], Tile]
    left_out: int = 0


class StageTiles(NamedTuple):
    """A stage's tiles: of full blocks, of the tail, and of the tail's units where there is but one row."""

    whole: Tiles
    tail: Tiles
    lone_tail: Tiles


class Share(NamedTuple):
    """Who computes a stage: blocks ``0 .. whole - 1`` are full, ``whole .. count - 1`` are the tail, and ``member`` of
    a ``team`` takes some of these. A team of none or one is a thread by itself, which takes all, and does without the
    divisions that sharing needs: they take up to a tenth of a small cell's step."""

    whole: Any
    count: Any
    team: Any
    member: Any

    def choose(self, emit: Emitter, shared: Callable[[], Sequence[Any]], alone: Sequence[Any]) -> list[Any]:
        """A member's whole numbers, or those of a thread by itself."""
        return emit.choose_made(emit.less(emit.whole(1), self.team), shared, alone)


class Part(NamedTuple):
    """What a member takes of several rows: ``own`` full blocks from block ``first`` on, ``more`` (one or none) of the
    blocks that are left, which is ``left_block``, its rows of that one, and its rows of the tail."""

    own: Any
    first: Any
    more: Any
    left_block: Any
    left_start: Any
    left_stop: Any
    tail_start: Any
    tail_stop: Any


def emit_stage(emit: Emitter, stage: TileStage, frame: Any, ranges: Sequence[Range]) -> None:
    """The loops over a stage's blocks and rows, or a member's share of them; tiles are made once for all."""
    epilogue = EpilogueFunction(emit, stage) if stage.long else None
    tiles = {
        # A lone row is faster with the sums in registers.
        (height, span): tile_function(emit, stage, epilogue if height > 1 else None, height, span)
        for height, span in tile_shapes(emit.target, stage)
    }
    # Fewer rows go through the last block's own tiles; where blocks have two vectors it has one, and a tile for that.
    of_tail = {(height, 1): tail_function(emit, stage, epilogue, height) for height in tail_heights(emit.target, stage)}
    if stage.vectors == 2:
        of_tail[1, 1] = tile_function(emit, stage.narrow(), None, 1, 1)
    else:
        of_tail |= {(height, 1): tiles[height, 1] for height in (3, 2, 1) if (height, 1) in tiles}
    whole, tail = Tiles(tiles, emit.target.left_out(sum(stage.columns))), Tiles(of_tail)
    made = StageTiles(whole, tail, tail if stage.vectors == 2 else whole)

    def over_rows(emit: Emitter, arguments: list[Any]) -> None:
        frame, *rest = arguments
        _range(emit, Share(*rest[:4]), made, frame, Range(*rest[4:]))

    share = _share(emit, stage, frame)
    if len(ranges) == 1:
        over_rows(emit, [frame, *share, *ranges[0]])
        return
    call = emit.function("rows", [WHOLE] * 7 + [FLAG], over_rows)
    for rows in ranges:
        call(emit, frame, *share, *rows)


def _share(emit: Emitter, stage: TileStage, frame: Any) -> Share:
    width, team, member = (
        emit.read_whole(emit.sum(frame, emit.whole(8 * field))) for field in (stage.width, f.TEAM, f.MEMBER)
    )
    sums, lanes, units = stage.packed_sums, emit.lanes, stage.vectors * emit.lanes
    count = emit.quotient(emit.sum(width, emit.whole(units - 1)), emit.whole(units))
    # As `TileStage.blocks_before_tail` has it.
    whole = emit.quotient(emit.sum(emit.times(width, sums), emit.whole(lanes - 1)), emit.whole(sums * units))
    return Share(whole, count, team, member)


def _range(emit: Emitter, share: Share, tiles: StageTiles, frame: Any, rows: Range) -> None:
    """All rows of a range, at a member's share of all blocks."""
    single = emit.equal(emit.difference(rows.stop, rows.start), emit.whole(1))
    with emit.either(single) as (if_single, otherwise):
        with if_single:
            _lone_row(emit, share, tiles, frame, rows)
        with otherwise:
            _several_rows(emit, share, tiles, frame, rows)


def tile_shapes(target: Target, stage: TileStage) -> list[tuple[int, int]]:
    """(rows, blocks) that the tiles take at once: of a lone row as many blocks as have enough sums under way."""
    spans = [span for span in (4, 2) if span * sum(stage.columns) <= UNDER_WAY]
    return [*((height, 1) for height in target.tile_heights(stage.columns)), *((1, span) for span in spans)]


def _lone_row(emit: Emitter, share: Share, tiles: StageTiles, frame: Any, rows: Range) -> None:
    """A member's blocks, which are whole ones, or all of them where a thread is by itself."""

    def cut(number: Any) -> Any:
        return emit.quotient(emit.times(share.count, number), share.team)

    begin, end = share.choose(
        emit, lambda: [cut(share.member), cut(emit.sum(share.member, emit.whole(1)))], [emit.whole(0), share.count]
    )
    if tiles.lone_tail != tiles.whole:
        full = emit.greater(begin, emit.lesser(end, share.whole))
        _row_at_blocks(emit, tiles.whole, begin, full, frame, rows)
        begin = full
    _row_at_blocks(emit, tiles.lone_tail, begin, end, frame, rows)


def _row_at_blocks(emit: Emitter, tiles: Tiles, begin: Any, end: Any, frame: Any, rows: Range) -> None:
    """One row at some blocks, as many of these at once as there are tiles for."""
    for span in sorted((span for height, span in tiles.of if height == 1), reverse=True):
        with emit.loop(begin, end, span, []) as (block, _, after):
            tiles.of[1, span](emit, frame, rows.start, block, rows.with_products)
        begin = after[-1]


def _several_rows(emit: Emitter, share: Share, tiles: StageTiles, frame: Any, rows: Range) -> None:
    """As many full blocks for each member as for the others. Of those that are left each is shared by some members, the
    tail by all, by rows. One loop has both kinds of blocks, so that the calls of their tiles are emitted once."""
    zero = emit.whole(0)
    everything = Part(share.whole, zero, zero, zero, rows.start, rows.stop, rows.start, rows.stop)
    part = Part(*share.choose(emit, lambda: _part_of(emit, share, rows), everything))
    with emit.loop(zero, emit.sum(part.own, part.more), 1, []) as (index, _, _end):
        is_own = emit.less(index, part.own)
        block = emit.choose(is_own, emit.sum(part.first, index), part.left_block)
        start = emit.choose(is_own, rows.start, part.left_start)
        stop = emit.choose(is_own, rows.stop, part.left_stop)
        _rows_of_block(emit, tiles.whole, frame, rows._replace(start=start, stop=stop), block)
    with emit.loop(share.whole, share.count, 1, []) as (block, _, _end):
        _rows_of_block(emit, tiles.tail, frame, rows._replace(start=part.tail_start, stop=part.tail_stop), block)


def _part_of(emit: Emitter, share: Share, rows: Range) -> Part:
    """A member's part."""
    one = emit.whole(1)
    own = emit.quotient(share.whole, share.team)
    owned = emit.times(own, share.team)
    left = emit.difference(share.whole, owned)
    sharing = emit.quotient(share.team, emit.greater(left, one))  # members, each of the blocks that are left
    which = emit.quotient(share.member, sharing)
    more = emit.choose(emit.less(which, left), one, emit.whole(0))
    number = emit.difference(share.member, emit.times(which, sharing))
    of_left = _cut_rows(emit, rows, number, sharing, 1)
    of_tail = _cut_rows(emit, rows, share.member, share.team, TAIL_ROWS)
    return Part(own, emit.times(own, share.member), more, emit.sum(owned, which), *of_left, *of_tail)


def _cut_rows(emit: Emitter, rows: Range, number: Any, count: Any, multiple: int) -> list[Any]:
    """Where a part of the rows begins and ends: about as many as in the other parts, a multiple of rows before each."""
    all_rows = emit.difference(rows.stop, rows.start)

    def cut(at: Any) -> Any:
        before = emit.quotient(emit.times(all_rows, at), count)
        pieces = emit.quotient(emit.sum(before, emit.whole(multiple - 1)), emit.whole(multiple))
        return emit.sum(rows.start, emit.lesser(emit.times(pieces, multiple), all_rows))

    return [cut(number), cut(emit.sum(number, emit.whole(1)))]


def _rows_of_block(emit: Emitter, tiles: Tiles, frame: Any, rows: Range, block: Any) -> None:
    """The rows of a block, as many at once as there are tiles for; on some processors without those of one height."""
    heights = [height for height, span in tiles.of if span == 1]
    row = rows.start
    for height in heights:
        last = rows.stop
        if height > 3 and 3 in heights:
            last = _leaving_no_row_alone(emit, row, last, height)
        if height == tiles.left_out:
            halves = emit.read_whole(emit.sum(frame, emit.whole(8 * f.HALVES)))
            last = emit.choose(emit.differ(halves, emit.whole(0)), row, last)
        with emit.loop(row, last, height, []) as (first_row, _, end):
            tiles.of[height, 1](emit, frame, first_row, block, rows.with_products)
        row = end[-1]


def _leaving_no_row_alone(emit: Emitter, row: Any, stop: Any, height: int) -> Any:
    """Where the rows for tiles of this height end, so that one row is not what is left: its few sums would wait for
    each addition to end. Seven rows are four and three, five are three and two, which tiles of both heights take."""
    rows = emit.difference(stop, row)
    whole = emit.times(emit.quotient(rows, emit.whole(height)), height)
    alone = emit.equal(emit.difference(rows, whole), emit.whole(1))
    return emit.choose(alone, emit.difference(stop, emit.whole(2)), stop)
