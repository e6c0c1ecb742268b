"""The tile: a few rows times a few vectors of units, accumulated in registers, and what follows in the same registers.

``sum[row][vector] += rows[row][k] * weights[k][vector]`` for all k in one fixed order, whatever the number of rows at
once: that is why a row's bits do not depend on the rows beside it. Weights are packed by blocks of units,
``[block][k][sum][vector][lane]``, so that a block's gates are computed side by side and the cell's arithmetic can
follow while they are in registers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from fastrnn.backends.tiled import frame as f
from fastrnn.backends.tiled.emitter import FLAG, WHOLE, Emitter

UNROLL = 4  # steps of the k loop written out
CHAIN = 64  # multiply-adds after one another in one sum


class Rows(NamedTuple):
    """How to find a row: an address field, with either a stride field or a table of offsets, and a column."""

    address: int
    stride: int = -1
    table: int = -1
    hidden_before: int = 0
    projected_before: int = 0
    pads: tuple[int, int] = (f.FORWARD_H, f.FORWARD_P)


class TileProduct(NamedTuple):
    """One product of a stage: ``sums`` results for each unit from ``depth`` values (a field) of each segment.

    ``segments`` is the first field of the segments' byte offsets, ``several`` how many there are (0: one, at offset 0).
    ``seeds`` gives each sum's start: None for zero, or the rows to load it from.
    """

    rows: Rows
    depth: int
    sums: int
    weights: int
    seeds: tuple[Rows | None, ...]
    segments: int = 0
    several: int = 0


class TileStage(NamedTuple):
    """A stage as the tile sees it.

    ``vectors`` units' vectors a block; ``width`` the field of the number of units; ``epilogue`` emits what follows:
    ``epilogue(emit, view, sums)`` for one row and one vector of units, given the sums of all products.
    """

    products: tuple[TileProduct, ...]
    vectors: int
    width: int
    epilogue: Callable[[Emitter, View, list[Any]], None]

    @property
    def accumulators(self) -> int:
        return max(1, sum(p.sums for p in self.products)) * self.vectors


class View:
    """The rows of a tile: addresses of any place at one row and the units of one vector."""

    def __init__(self, emit: Emitter, frame: Any, row: Any) -> None:
        self.emit, self.frame, self.row, self.unit = emit, frame, row, emit.whole(0)
        self._bases: dict[Rows, Any] = {}

    def field(self, index: int) -> Any:
        return self.emit.read_whole(self.emit.sum(self.frame, self.emit.whole(8 * index)))

    def base(self, rows: Rows) -> Any:
        """The address of the row's first unit."""
        found = self._bases.get(rows)
        if found is None:
            emit = self.emit
            found = self.field(rows.address)
            if rows.stride >= 0:
                found = emit.sum(found, emit.times(self.row, self.field(rows.stride)))
            if rows.table >= 0:
                entry = emit.sum(self.field(rows.table), emit.times(self.row, 8))
                found = emit.sum(found, emit.read_whole(entry))
            for count, pad in zip((rows.hidden_before, rows.projected_before), rows.pads, strict=True):
                if count:
                    found = emit.sum(found, emit.times(self.field(pad), count * emit.size))
            self._bases[rows] = found
        return found

    def at(self, rows: Rows) -> Any:
        """The address of the current vector of units."""
        return self.emit.sum(self.base(rows), self.emit.times(self.unit, self.emit.size))

    def remaining(self, width: int) -> Any:
        """How many units are left from the current vector on."""
        return self.emit.difference(self.field(width), self.unit)


def emit_stage(emit: Emitter, stage: TileStage, frame: Any, start: Any, stop: Any, with_products: Any) -> None:
    """The loops over a stage's blocks, those of the frame's member of a team, and rows ``start .. stop - 1``."""
    first_block, last_block = _blocks_of_member(emit, stage, frame)
    tiles = {height: _tile_function(emit, stage, height, 1) for height in emit.target.heights(stage.accumulators)}
    single = emit.equal(emit.difference(stop, start), emit.whole(1))
    with emit.either(single) as (one, many):
        with one:  # a lone row: more blocks at once, so that enough sums are under way to hide the latency of each
            first, span = first_block, _span(emit, stage)
            if span > 1:
                wide = _tile_function(emit, stage, 1, span)
                with emit.loop(first, last_block, span, []) as (block, _, end):
                    wide(frame, start, block, with_products)
                first = end[-1]
            with emit.loop(first, last_block, 1, []) as (block, _, _end):
                tiles[1](frame, start, block, with_products)
        with many, emit.loop(first_block, last_block, 1, []) as (block, _, _end):
            row = start
            for height, tile in tiles.items():
                with emit.loop(row, stop, height, []) as (first_row, _, end):
                    tile(frame, first_row, block, with_products)
                row = end[-1]


def _blocks_of_member(emit: Emitter, stage: TileStage, frame: Any) -> tuple[Any, Any]:
    """(first, last): a stage's blocks of units, or those that are the member's where a team shares them."""
    width, team, member = (
        emit.read_whole(emit.sum(frame, emit.whole(8 * field))) for field in (stage.width, f.TEAM, f.MEMBER)
    )
    block_units = stage.vectors * emit.lanes
    blocks = emit.quotient(emit.sum(width, emit.whole(block_units - 1)), emit.whole(block_units))
    members = emit.greater(team, emit.whole(1))
    first, last = emit.times(blocks, member), emit.times(blocks, emit.sum(member, emit.whole(1)))
    return emit.quotient(first, members), emit.quotient(last, members)


def _span(emit: Emitter, stage: TileStage) -> int:
    """Blocks that a lone row takes at once: eight sums at least are needed to hide the latency of each."""
    return max(1, (8 if emit.target.registers == 32 else 4) // stage.accumulators)


def _tile_function(caller: Emitter, stage: TileStage, height: int, span: int) -> Callable[..., None]:
    """A function of its own for one tile shape: ``tile(frame, first_row, first_block, with_products)``."""

    def body(emit: Emitter, arguments: list[Any]) -> None:
        frame, row, block, with_products = arguments
        views = [View(emit, frame, emit.sum(row, emit.whole(m))) for m in range(height)]
        units = [_unit(emit, stage, block, vector) for vector in range(stage.vectors * span)]
        sums: list[list[list[Any]]] = [[[] for _ in units] for _ in range(height)]  # [row][vector of units] -> sums
        for product in stage.products:
            for m, per_row in enumerate(_accumulate(emit, stage, product, views, units, block, span, with_products)):
                for vector, values in enumerate(per_row):
                    sums[m][vector].extend(values)
        for m, view in enumerate(views):
            for vector, unit in enumerate(units):
                view.unit = unit
                stage.epilogue(emit, view, sums[m][vector])

    return caller.function(f"tile_{height}x{stage.accumulators}x{span}", [WHOLE, WHOLE, WHOLE, FLAG], body)


def _unit(emit: Emitter, stage: TileStage, block: Any, vector: int) -> Any:
    """The first unit of a vector of the tile."""
    return emit.sum(emit.times(block, stage.vectors * emit.lanes), emit.whole(vector * emit.lanes))


def _accumulate(
    emit: Emitter, stage: TileStage, product: TileProduct, views: list[View], units: list[Any], block: Any, span: int,
    with_products: Any,
) -> list[list[list[Any]]]:  # fmt: skip
    """The k loops of one product; returns [row][vector of units] -> its sums."""
    vectors, sums = stage.vectors, product.sums
    depth = views[0].field(product.depth)
    step = sums * vectors  # vectors of weights for one k and one block
    count = max(product.several, 1)
    panel = emit.times(depth, count * step * emit.lanes * emit.size)
    weights = emit.sum(views[0].field(product.weights), emit.times(block, panel))
    panels = [emit.sum(weights, emit.times(panel, s)) for s in range(span)]
    start = []
    for view in views:
        for unit in units:
            view.unit = unit
            start += [emit.const(0.0) if seed is None else emit.load(view.at(seed)) for seed in product.seeds]
    segments = emit.choose(with_products, emit.whole(count), emit.whole(0))
    bases = [view.base(product.rows) for view in views]
    with emit.loop(emit.whole(0), segments, 1, start) as (segment, outer, ends):
        row_bases = bases
        if product.several:
            field = emit.sum(views[0].frame, emit.times(emit.sum(segment, emit.whole(product.segments)), 8))
            row_bases = [emit.sum(base, emit.read_whole(field)) for base in bases]
        rows = [emit.values(base) for base in row_bases]
        at = emit.times(emit.times(segment, depth), step)  # in vectors
        weights_at = [emit.vectors(p, at) for p in panels]
        ends += _segment(emit, _Factors(rows, weights_at, sums, vectors), depth, outer, many=count > 1)
    flat = iter(ends[:-1])
    return [[[next(flat) for _ in range(sums)] for _ in units] for _ in views]


class _Factors(NamedTuple):
    """What a k loop multiplies: the values of each row, the vectors of each block's weights, and the latter's shape."""

    rows: list[Any]
    panels: list[Any]
    sums: int
    vectors: int


def _segment(emit: Emitter, factors: _Factors, depth: Any, totals: list[Any], many: bool) -> list[Any]:
    """Add the products of one segment to the totals, a chain of at most `CHAIN` multiply-adds after the other.

    The first chain of a lone segment goes on from the totals; every other one starts from zero and is added, since in a
    long chain each addition rounds at the size of the whole sum.
    """
    zeros = [emit.const(0.0)] * len(totals)
    length, zero = emit.whole(CHAIN), emit.whole(0)
    values = _chain(emit, factors, zero, emit.lesser(depth, length), zeros if many else totals)
    if many:
        values = [emit.add(total, value) for total, value in zip(totals, values, strict=True)]
    with emit.loop(length, emit.sum(depth, emit.whole(CHAIN - 1)), CHAIN, values) as (start, before, following):
        stop = emit.lesser(depth, emit.sum(start, length))
        part = _chain(emit, factors, start, stop, zeros)
        following += [emit.add(total, value) for total, value in zip(before, part, strict=True)]
    return following[:-1]


def _chain(emit: Emitter, factors: _Factors, start: Any, stop: Any, values: list[Any]) -> list[Any]:
    """One chain of multiply-adds a sum, over k from start to stop."""
    k = start
    for unroll in (UNROLL, 1):
        with emit.loop(k, stop, unroll, values) as (index, inner, following):
            following += _multiply(emit, factors, index, inner, unroll)
        values, k = following[:-1], following[-1]
    return values


def _multiply(emit: Emitter, factors: _Factors, index: Any, values: list[Any], unroll: int) -> list[Any]:
    """``unroll`` steps of the k loop: every sum of every row, in the order [row][vector of units][sum].

    Beside the sums, 32 registers hold all weights of a step; fewer hold the weights or the rows, what there is less of.
    """
    width = factors.sums * factors.vectors * len(factors.panels)
    few = emit.target.registers < 32 and len(factors.rows) < width
    multiply = _weight_by_weight if few else _row_by_row
    for j in range(unroll):
        values = multiply(emit, factors, emit.sum(index, emit.whole(j)), list(values))
    return values


def _row_by_row(emit: Emitter, factors: _Factors, k: Any, values: list[Any]) -> list[Any]:
    """One step, for which all weights are read first."""
    sums, vectors = factors.sums, factors.vectors
    first = emit.times(k, sums * vectors)
    weights = []
    for panel in factors.panels:
        loaded = [emit.vector(panel, emit.sum(first, emit.whole(v))) for v in range(sums * vectors)]
        weights += [loaded[s * vectors + v] for v in range(vectors) for s in range(sums)]
    for m, row in enumerate(factors.rows):
        value = emit.value(row, k)
        for v, weight in enumerate(weights):
            at = m * len(weights) + v
            values[at] = emit.fma(value, weight, values[at])
    return values


def _weight_by_weight(emit: Emitter, factors: _Factors, k: Any, values: list[Any]) -> list[Any]:
    """One step, for which all rows' values are read first."""
    sums, vectors = factors.sums, factors.vectors
    first = emit.times(k, sums * vectors)
    places = [(panel, s * vectors + v) for panel in factors.panels for v in range(vectors) for s in range(sums)]
    rows = [emit.value(row, k) for row in factors.rows]
    for v, (panel, place) in enumerate(places):
        weight = emit.vector(panel, emit.sum(first, emit.whole(place)))
        for m, value in enumerate(rows):
            at = m * len(places) + v
            values[at] = emit.fma(value, weight, values[at])
    return values
