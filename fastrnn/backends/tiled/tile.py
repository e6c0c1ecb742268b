"""The tile: a few rows times a few vectors of units, accumulated in registers (see `chains`), and what follows.

``sum[row][vector] += rows[row][k] * weights[k][vector]`` for all k in one fixed order, whatever the number of rows at
once: that is why a row's bits do not depend on the rows beside it. Weights are packed by blocks of units, so that a
block's gates are computed side by side and the cell's arithmetic can follow at once. A block has a *column*, one vector
for each k, for each sum and vector of units, and these come in one or more panels (`Target.panel`): its weights are
``[panel][k][column][lane]``. Where one vector is left of a block of two, the last block is *narrow* and has no more
than that.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from fastrnn.backends.tiled import frame as f
from fastrnn.backends.tiled.chains import Factors, InMemory, InRegisters, Sums, add_up
from fastrnn.backends.tiled.emitter import FLAG, WHOLE, Emitter


class Rows(NamedTuple):
    """How to find a row: an address field, with either a stride field or a table of offsets, and a column."""

    address: int
    stride: int = -1
    table: int = -1
    hidden_before: int = 0
    projected_before: int = 0


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
    ``epilogue(emit, view, sums)`` for one row and one vector of units, given the sums of all products. ``long`` says
    that this is a cell's arithmetic, not a mere store; ``reads`` are rows that it reads and nothing has read lately:
    they are fetched while the products are under way. ``before`` is how many vectors each block before this one has.
    """

    products: tuple[TileProduct, ...]
    vectors: int
    width: int
    epilogue: Callable[[Emitter, View, list[Any]], None]
    long: bool = False
    reads: tuple[Rows, ...] = ()
    before: int = 0

    @property
    def columns(self) -> tuple[int, ...]:
        """Of a block, for each product; a stage that has none counts as one of one sum."""
        return tuple([product.sums * self.vectors for product in self.products]) or (self.vectors,)

    @property
    def pitch(self) -> int:
        """Vectors from one block to the next."""
        return self.before or self.vectors

    def narrow(self) -> TileStage:
        """The same for a last block of one vector."""
        return self._replace(vectors=1, before=self.vectors)


class Range(NamedTuple):
    """Rows ``start .. stop - 1``; ``with_products`` says whether products of segments reach them."""

    start: Any
    stop: Any
    with_products: Any


class Blocks(NamedTuple):
    """Blocks ``begin .. end - 1`` of a stage, and its tiles by the number of rows and of blocks."""

    stage: TileStage
    tiles: dict[tuple[int, int], Callable[..., None]]
    begin: Any
    end: Any


Held = tuple[TileProduct, range, Sums]  # some columns of a product, and their sums


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
            for count, pad in ((rows.hidden_before, f.PADDED_H), (rows.projected_before, f.PADDED_P)):
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


def emit_stage(emit: Emitter, stage: TileStage, frame: Any, ranges: Sequence[Range]) -> None:
    """The loops over a stage's blocks, those of the frame's member of a team, and rows; tiles are made once for all."""
    first, narrow, last = _blocks_of_member(emit, stage, frame)
    kinds = [Blocks(stage, _tiles(emit, stage), first, narrow)]
    if stage.vectors == 2:  # wider blocks are those of all gates' inputs, which always come whole
        kinds.append(Blocks(stage.narrow(), _tiles(emit, stage.narrow()), narrow, last))
    for rows in ranges:
        single = emit.equal(emit.difference(rows.stop, rows.start), emit.whole(1))
        with emit.either(single) as (one, many):
            with one:
                _lone_row(emit, kinds, frame, rows)
            with many:
                for blocks in kinds:
                    with emit.loop(blocks.begin, blocks.end, 1, []) as (block, _, _after):
                        _rows_of_block(emit, blocks, frame, rows, block)


def _tiles(emit: Emitter, stage: TileStage) -> dict[tuple[int, int], Callable[..., None]]:
    """A stage's tiles by the number of rows and of blocks."""
    shapes = [(height, 1) for height in emit.target.tile_heights(stage.columns)]
    shapes += [(1, span) for span in _spans(stage) if span > 1]
    return {shape: _tile_function(emit, stage, *shape) for shape in shapes}


def _lone_row(emit: Emitter, kinds: list[Blocks], frame: Any, rows: Range) -> None:
    """Several blocks at once, so that enough sums are under way to hide the latency of each."""
    for stage, tiles, begin, end in kinds:
        for span in _spans(stage):
            with emit.loop(begin, end, span, []) as (block, _, after):
                tiles[1, span](frame, rows.start, block, rows.with_products)
            begin = after[-1]


def _rows_of_block(emit: Emitter, blocks: Blocks, frame: Any, rows: Range, block: Any) -> None:
    """The rows of a block, as many at once as there are tiles for; on some processors without those of one height."""
    heights = [height for height, span in blocks.tiles if span == 1]
    row, left_out = rows.start, emit.target.left_out(sum(blocks.stage.columns))
    for height in heights:
        last = rows.stop
        if height == left_out:
            halves = emit.read_whole(emit.sum(frame, emit.whole(8 * f.HALVES)))
            last = emit.choose(emit.differ(halves, emit.whole(0)), row, last)
        elif height > 3 and 3 in heights:
            last = _leaving_no_row_alone(emit, row, last, height)
        with emit.loop(row, last, height, []) as (first_row, _, end):
            blocks.tiles[height, 1](frame, first_row, block, rows.with_products)
        row = end[-1]


def _leaving_no_row_alone(emit: Emitter, row: Any, stop: Any, height: int) -> Any:
    """Where the rows for tiles of this height end, so that one row is never what is left: its few sums would wait for
    each addition to end. Seven rows are four and three."""
    rows = emit.difference(stop, row)
    whole = emit.times(emit.quotient(rows, emit.whole(height)), height)
    alone = emit.equal(emit.difference(rows, whole), emit.whole(1))
    return emit.choose(alone, emit.difference(stop, emit.whole(2)), stop)


def _blocks_of_member(emit: Emitter, stage: TileStage, frame: Any) -> tuple[Any, Any, Any]:
    """(first, narrow, last): a stage's blocks of units, or those that are the member's where a team shares them.

    Those from ``narrow`` on, one at most, have but one vector.
    """
    width, team, member = (
        emit.read_whole(emit.sum(frame, emit.whole(8 * field))) for field in (stage.width, f.TEAM, f.MEMBER)
    )
    vectors = emit.quotient(emit.sum(width, emit.whole(emit.lanes - 1)), emit.whole(emit.lanes))
    blocks = emit.quotient(emit.sum(vectors, emit.whole(stage.vectors - 1)), emit.whole(stage.vectors))
    members = emit.greater(team, emit.whole(1))
    first, last = (
        emit.quotient(emit.times(blocks, number), members) for number in (member, emit.sum(member, emit.whole(1)))
    )
    if stage.vectors != 2:
        return first, last, last
    whole = emit.quotient(vectors, emit.whole(2))
    return first, emit.greater(first, emit.lesser(last, whole)), last


def _spans(stage: TileStage) -> tuple[int, ...]:
    """Blocks that a lone row takes at once, from the most down: eight sums are needed to hide the latency of each."""
    most = 1 if stage.before else 8 // sum(stage.columns)
    return tuple([span for span in (4, 2) if span <= most] + [1])


def _tile_function(caller: Emitter, stage: TileStage, height: int, span: int) -> Callable[..., None]:
    """A function of its own for one tile shape: ``tile(frame, first_row, first_block, with_products)``."""

    def body(emit: Emitter, arguments: list[Any]) -> None:
        frame, row, block, with_products = arguments
        views = [View(emit, frame, emit.sum(row, emit.whole(m))) for m in range(height)]
        units = [_unit(emit, stage, block, vector) for vector in range(stage.vectors * span)]
        in_turn = stage.long and height > 1  # see `InMemory`
        if in_turn and stage.reads:
            with emit.loop(emit.whole(0), emit.whole(height), 1, []) as (m, _, _end):
                for view in _places([View(emit, frame, emit.sum(row, m))], units):
                    for rows in stage.reads:
                        emit.prefetch(view.at(rows))
        held: list[Held] = []
        for product in stage.products:
            for part in emit.target.parts(height, product.sums * stage.vectors, span):
                each = len(part) * span
                sums = InMemory(emit, each, height) if in_turn else InRegisters(emit, each)
                _accumulate(emit, stage, product, part, views, units, block, with_products, sums)
                held.append((product, part, sums))
        if in_turn:
            with emit.loop(emit.whole(0), emit.whole(height), 1, []) as (m, _, _end):
                _epilogues(stage, [View(emit, frame, emit.sum(row, m))], units, held, m)
        else:
            _epilogues(stage, views, units, held)

    return caller.function(f"tile_{height}x{sum(stage.columns)}x{span}", [WHOLE, WHOLE, WHOLE, FLAG], body)


def _unit(emit: Emitter, stage: TileStage, block: Any, vector: int) -> Any:
    """The first unit of a vector of the tile."""
    return emit.sum(emit.times(block, stage.pitch * emit.lanes), emit.whole(vector * emit.lanes))


def _places(views: list[View], units: list[Any]) -> Iterator[View]:
    """Each row at each vector of units."""
    for view in views:
        for unit in units:
            view.unit = unit
            yield view


def _epilogues(stage: TileStage, views: list[View], units: list[Any], held: list[Held], first: Any = None) -> None:
    """The epilogue of some rows, written out; ``first`` is the number of the first of them, if that is computed."""
    for index, view in enumerate(_places(views, units)):
        row, unit = divmod(index, len(units))
        block, vector = divmod(unit, stage.vectors)
        values = [
            sums.at(row, block * len(part) + column - part.start, first)
            for product, part, sums in held
            for column in part if column % stage.vectors == vector
        ]  # fmt: skip
        stage.epilogue(view.emit, view, values)


def _accumulate(
    emit: Emitter, stage: TileStage, product: TileProduct, part: range, views: list[View], units: list[Any], block: Any,
    with_products: Any, totals: Sums,
) -> None:  # fmt: skip
    """The k loops of some columns of one product; one of segments has none of them without ``with_products``."""
    depth = views[0].field(product.depth)
    columns = product.sums * stage.vectors
    width = emit.target.panel(columns)
    line = emit.lanes * emit.size
    whole = emit.varying if product.several else emit.whole  # of most cells only these numbers differ going back
    count = whole(max(product.several, 1))
    field = emit.read_whole(emit.sum(views[0].frame, whole(8 * product.weights)))
    length = emit.times(depth, count)
    size = emit.times(length, product.sums * stage.pitch * line)
    weights = emit.sum(field, emit.times(block, size))
    blocks = [emit.sum(weights, emit.times(size, s)) for s in range(len(units) // stage.vectors)]
    panels = [emit.sum(at, emit.times(length, column * line)) for at in blocks for column in part[::width]]
    start = _start(emit, stage, product, part, views, units)
    bases = [view.base(product.rows) for view in views]
    if not product.several:
        rows, weights_at = [emit.values(base) for base in bases], [emit.vectors(panel) for panel in panels]
        add_up(emit, Factors(rows, weights_at, width), depth, totals, start)
        return
    totals.put(start)
    offsets = emit.sum(views[0].frame, whole(8 * product.segments))
    with totals.loop(emit.whole(0), emit.choose(with_products, count, emit.whole(0)), 1) as segment:
        offset = emit.read_whole(emit.sum(offsets, emit.times(segment, 8)))
        rows = [emit.values(emit.sum(base, offset)) for base in bases]
        first = emit.times(emit.times(segment, depth), width)  # in vectors
        weights_at = [emit.vectors(panel, first) for panel in panels]
        add_up(emit, Factors(rows, weights_at, width), depth, totals)


def _start(
    emit: Emitter, stage: TileStage, product: TileProduct, part: range, views: list[View], units: list[Any]
) -> list[Any]:
    """What the sums of some columns begin with."""
    start = []
    for view, block in itertools.product(views, range(0, len(units), stage.vectors)):
        for column in part:
            of_sum, vector = divmod(column, stage.vectors)
            view.unit, seed = units[block + vector], product.seeds[of_sum]
            start.append(emit.const(0.0) if seed is None else emit.load(view.at(seed)))
    return start
