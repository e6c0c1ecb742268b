"""The loops around the tiles: a stage's blocks of units, or those of a member of a team, and its rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from fastrnn.backends.tiled import frame as f
from fastrnn.backends.tiled.emitter import FLAG, WHOLE, Emitter
from fastrnn.backends.tiled.stage import TileStage
from fastrnn.backends.tiled.tail import tail_function, tail_heights
from fastrnn.backends.tiled.target import UNDER_WAY, Target
from fastrnn.backends.tiled.tile import EpilogueFunction, Tile, tile_function


class Range(NamedTuple):
    """Rows ``start .. stop - 1``; ``with_products`` says whether products of segments reach them."""

    start: Any
    stop: Any
    with_products: Any


class Blocks(NamedTuple):
    """Blocks ``begin .. end - 1`` of a stage, and its tiles by the number of rows and of blocks; ``left_out`` is the
    height that a processor does without that takes vectors in halves, 0 if none (`Target.left_out`)."""

    tiles: dict[tuple[int, int], Tile]
    begin: Any
    end: Any
    left_out: int = 0


def emit_stage(emit: Emitter, stage: TileStage, frame: Any, ranges: Sequence[Range]) -> None:
    """The loops over a stage's blocks, those of the frame's member of a team, and rows; tiles are made once for all."""
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

    def over_rows(emit: Emitter, arguments: list[Any]) -> None:
        frame, first, tail, last, *rows = arguments
        whole = Blocks(tiles, first, tail, emit.target.left_out(sum(stage.columns)))
        rest = Blocks(of_tail, tail, last)
        lone = [whole, rest] if stage.vectors == 2 else [Blocks(tiles, first, last)]
        _range(emit, lone, [whole, rest], frame, Range(*rows))

    blocks = frame, *_blocks_of_member(emit, stage, frame)
    if len(ranges) == 1:
        over_rows(emit, [*blocks, *ranges[0]])
        return
    call = emit.function("rows", [WHOLE] * 6 + [FLAG], over_rows)
    for rows in ranges:
        call(emit, *blocks, *rows)


def _range(emit: Emitter, lone: list[Blocks], many: list[Blocks], frame: Any, rows: Range) -> None:
    """All rows of a range, at all blocks: a row alone goes through ``lone``, several go through ``many``."""
    single = emit.equal(emit.difference(rows.stop, rows.start), emit.whole(1))
    with emit.either(single) as (if_single, otherwise):
        with if_single:
            for blocks in lone:
                _lone_row(emit, blocks, frame, rows)
        with otherwise:
            for blocks in many:
                with emit.loop(blocks.begin, blocks.end, 1, []) as (block, _, _after):
                    _rows_of_block(emit, blocks, frame, rows, block)


def tile_shapes(target: Target, stage: TileStage) -> list[tuple[int, int]]:
    """(rows, blocks) that the tiles take at once: of a lone row as many blocks as have enough sums under way."""
    spans = [span for span in (4, 2) if span * sum(stage.columns) <= UNDER_WAY]
    return [*((height, 1) for height in target.tile_heights(stage.columns)), *((1, span) for span in spans)]


def _lone_row(emit: Emitter, blocks: Blocks, frame: Any, rows: Range) -> None:
    """As many blocks at once as there are tiles for."""
    begin = blocks.begin
    for span in sorted((span for height, span in blocks.tiles if height == 1), reverse=True):
        with emit.loop(begin, blocks.end, span, []) as (block, _, after):
            blocks.tiles[1, span](emit, frame, rows.start, block, rows.with_products)
        begin = after[-1]


def _rows_of_block(emit: Emitter, blocks: Blocks, frame: Any, rows: Range, block: Any) -> None:
    """The rows of a block, as many at once as there are tiles for; on some processors without those of one height."""
    heights = [height for height, span in blocks.tiles if span == 1]
    row = rows.start
    for height in heights:
        last = rows.stop
        if height > 3 and 3 in heights:
            last = _leaving_no_row_alone(emit, row, last, height)
        if height == blocks.left_out:
            halves = emit.read_whole(emit.sum(frame, emit.whole(8 * f.HALVES)))
            last = emit.choose(emit.differ(halves, emit.whole(0)), row, last)
        with emit.loop(row, last, height, []) as (first_row, _, end):
            blocks.tiles[height, 1](emit, frame, first_row, block, rows.with_products)
        row = end[-1]


def _leaving_no_row_alone(emit: Emitter, row: Any, stop: Any, height: int) -> Any:
    """Where the rows for tiles of this height end, so that one row is not what is left: its few sums would wait for
    each addition to end. Seven rows are four and three, five are three and two, which tiles of both heights take."""
    rows = emit.difference(stop, row)
    whole = emit.times(emit.quotient(rows, emit.whole(height)), height)
    alone = emit.equal(emit.difference(rows, whole), emit.whole(1))
    return emit.choose(alone, emit.difference(stop, emit.whole(2)), stop)


def _blocks_of_member(emit: Emitter, stage: TileStage, frame: Any) -> tuple[Any, Any, Any]:
    """(first, tail, last): a stage's blocks of units, or those that are the member's where a team shares them.

    What stands from ``tail`` on is a tail: see `TileStage.blocks_before_tail`.
    """
    width, team, member = (
        emit.read_whole(emit.sum(frame, emit.whole(8 * field))) for field in (stage.width, f.TEAM, f.MEMBER)
    )
    sums, lanes, units = stage.packed_sums, emit.lanes, stage.vectors * emit.lanes
    blocks = emit.quotient(emit.sum(width, emit.whole(units - 1)), emit.whole(units))
    whole = emit.quotient(emit.sum(emit.times(width, sums), emit.whole(lanes - 1)), emit.whole(sums * units))
    members = emit.greater(team, emit.whole(1))
    first, last = (
        emit.quotient(emit.times(blocks, number), members) for number in (member, emit.sum(member, emit.whole(1)))
    )
    return first, emit.greater(first, emit.lesser(last, whole)), last
