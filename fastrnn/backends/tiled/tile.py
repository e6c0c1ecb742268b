"""The tile: a few rows times a few vectors of units, accumulated in registers (see `chains`), and what follows.

``sum[row][vector] += rows[row][k] * weights[k][vector]`` for all k in one fixed order, whatever the number of rows at
once: that is why a row's bits do not depend on the rows beside it. Weights are packed by blocks of units, so that a
block's gates are computed side by side and the cell's arithmetic can follow at once. A block has a *column*, one vector
for each k, for each sum and vector of units, and these come in one or more panels (`Target.panel`): its weights are
``[panel][k][column][lane]``. Units that do not fill a block are the *tail*: see `tail`.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from fastrnn.backends.tiled.chains import Factors, InMemory, InRegisters, Sums, add_up
from fastrnn.backends.tiled.emitter import FLAG, WHOLE, Emitter
from fastrnn.backends.tiled.stage import TileProduct, TileStage, View

Tile = Callable[..., None]  # emits a call: ``tile(emit, frame, first_row, block, with_products)``
ARGUMENTS = (WHOLE, WHOLE, WHOLE, FLAG)
Held = tuple[range, list[Any]]  # some columns of a product, and all rows' sums of them


class EpilogueFunction:
    """A stage's epilogue as a function of its own, for sums in memory: one for the tiles of all heights.

    Written out for all rows of a tile it would share the registers with the sums of all rows, and be several times as
    much to compile. In memory a row has as many vectors as a block has columns, a product's after the other's; its sums
    are ``between`` bytes apart, and the units of each stand side by side.
    """

    def __init__(self, caller: Emitter, stage: TileStage) -> None:
        self.stage = stage
        self.line = sum(stage.columns) * caller.lanes * caller.size
        self.call = caller.function(f"epilogue_{sum(stage.columns)}", [WHOLE] * 7, self._body)

    def offset(self, emit: Emitter, product: int, column: int = 0) -> int:
        """Where in a row's sums a product's column begins, in bytes."""
        return (sum(self.stage.columns[:product]) + column) * emit.lanes * emit.size

    def _body(self, emit: Emitter, arguments: list[Any]) -> None:
        """``left`` is how many units there are to compute, from ``unit`` on."""
        frame, row, rows, unit, left, memory, between = arguments
        with emit.loop(emit.whole(0), rows, 1, []) as (m, _, _end):
            view = View(emit, frame, emit.sum(row, m))
            line = emit.sum(memory, emit.times(m, self.line))
            for vector in range(self.stage.vectors):
                with _if_any(emit, vector, left):
                    view.unit = emit.sum(unit, emit.whole(vector * emit.lanes))
                    self.stage.epilogue(emit, view, self._sums(emit, line, between, vector))

    def _sums(self, emit: Emitter, line: Any, between: Any, vector: int) -> list[Any]:
        found = []
        for number, product in enumerate(self.stage.products):
            first = emit.sum(line, emit.whole(self.offset(emit, number, vector)))
            found += [emit.load(emit.sum(first, emit.times(between, s))) for s in range(product.sums)]
        return found


def _if_any(emit: Emitter, vector: int, left: Any) -> AbstractContextManager[None]:
    """What is emitted within runs if a vector has any of the units that are left; the first one always has."""
    return emit.when(emit.less(emit.whole(vector * emit.lanes), left)) if vector else nullcontext()


def tile_function(caller: Emitter, stage: TileStage, epilogue: EpilogueFunction | None, height: int, span: int) -> Tile:
    """The tile of so many rows and blocks; with an ``epilogue`` its sums are handed over in memory."""

    def body(emit: Emitter, arguments: list[Any]) -> None:
        frame, row, block, with_products = arguments
        views = [View(emit, frame, emit.sum(row, emit.whole(m))) for m in range(height)]
        units = _units_of(emit, stage, block, span)
        if height > 1:
            fetch_ahead(emit, stage, frame, row, height, units)
        memory = emit.room(height * sum(stage.columns)) if epilogue else None
        held: list[Held] = []
        for number, product in enumerate(stage.products):
            for part in emit.target.parts(height, product.sums * stage.vectors, span):
                sums: Sums = InRegisters(emit)
                if epilogue:
                    places = [emit.sum(memory, emit.whole(epilogue.offset(emit, number, column))) for column in part]
                    sums = InMemory(emit, places, epilogue.line, height)
                panels, width = _panels(emit, stage, product, views[0], block, part, span)
                start = _start(emit, stage, product, views, units, part)
                accumulate(emit, product, views, panels, width, with_products, sums, start)
                if not epilogue:
                    held.append((part, sums.carried))
        if epilogue:
            between = emit.whole(stage.vectors * emit.lanes * emit.size)
            left = emit.whole(stage.vectors * emit.lanes)
            epilogue.call(emit, frame, row, emit.whole(height), units[0], left, memory, between)
        else:
            _follow(stage, views, units, held)

    return caller.function(f"tile_{height}x{sum(stage.columns)}x{span}", ARGUMENTS, body)


def _units_of(emit: Emitter, stage: TileStage, block: Any, span: int) -> list[Any]:
    """The first unit of each vector of some blocks."""
    first = emit.times(block, stage.pitch * emit.lanes)
    return [emit.sum(first, emit.whole(vector * emit.lanes)) for vector in range(stage.vectors * span)]


def fetch_ahead(emit: Emitter, stage: TileStage, frame: Any, row: Any, height: int, units: list[Any]) -> None:
    """Ask for what the epilogue of some rows is to read and to write."""
    if not stage.fetched:
        return
    with emit.loop(emit.whole(0), emit.whole(height), 1, []) as (m, _, _end):
        for view in _places([View(emit, frame, emit.sum(row, m))], units):
            for rows in stage.fetched:
                emit.prefetch(view.at(rows))


def _places(views: list[View], units: list[Any]) -> Iterator[View]:
    """Each row at each vector of units."""
    for view in views:
        for unit in units:
            view.unit = unit
            yield view


def _follow(stage: TileStage, views: list[View], units: list[Any], held: list[Held]) -> None:
    """The epilogue of each row, written out, for sums in registers."""
    for index, view in enumerate(_places(views, units)):
        row, unit = divmod(index, len(units))
        block, vector = divmod(unit, stage.vectors)
        values = []
        for part, sums in held:
            first = len(part) * (row * len(units) // stage.vectors + block) - part.start
            values += [sums[first + column] for column in part if column % stage.vectors == vector]
        stage.epilogue(view.emit, view, values)


def _panels(
    emit: Emitter, stage: TileStage, product: TileProduct, view: View, block: Any, part: range, span: int
) -> tuple[list[Any], int]:
    """(addresses, columns of each): the panels of some columns of some blocks."""
    columns, size = product.sums * stage.vectors, column_bytes(emit, product, view)
    width = emit.target.panel(columns)
    first = emit.sum(weights_at(emit, product, view), emit.times(emit.times(block, product.sums * stage.pitch), size))
    begins = [s * columns + begin for s in range(span) for begin in part[::width]]
    return [emit.sum(first, emit.times(size, begin)) for begin in begins], width


def weights_at(emit: Emitter, product: TileProduct, view: View, of_tail: bool = False) -> Any:
    """The address of a product's weights."""
    field = product.weights + of_tail
    return emit.read_whole(emit.sum(view.frame, _whole(emit, product)(8 * field)))


def column_bytes(emit: Emitter, product: TileProduct, view: View) -> Any:
    """The bytes of a column of weights."""
    return emit.times(emit.times(view.field(product.depth), _count(emit, product)), emit.lanes * emit.size)


def _whole(emit: Emitter, product: TileProduct) -> Callable[[int], Any]:
    """What makes constants of a product: in products of segments little else differs from cell to cell."""
    return emit.varying if product.several else emit.whole


def _count(emit: Emitter, product: TileProduct) -> Any:
    """How many segments a product has."""
    return _whole(emit, product)(max(product.several, 1))


def accumulate(
    emit: Emitter, product: TileProduct, views: list[View], panels: list[Any], width: int, with_products: Any,
    totals: Sums, start: list[Any],
) -> None:  # fmt: skip
    """The k loops of some panels of one product; one of segments has none of them without ``with_products``."""
    depth = views[0].field(product.depth)
    bases = [view.base(product.rows) for view in views]
    if not product.several:
        rows, weights = [emit.values(base) for base in bases], [emit.vectors(panel) for panel in panels]
        add_up(emit, Factors(rows, weights, width), depth, totals, start)
        return
    totals.put(start)
    offsets = emit.sum(views[0].frame, emit.varying(8 * product.segments))
    with totals.loop(emit.whole(0), emit.choose(with_products, _count(emit, product), emit.whole(0)), 1) as segment:
        offset = emit.read_whole(emit.sum(offsets, emit.times(segment, 8)))
        rows = [emit.values(emit.sum(base, offset)) for base in bases]
        first = emit.times(emit.times(segment, depth), width)  # in vectors
        weights = [emit.vectors(panel, first) for panel in panels]
        add_up(emit, Factors(rows, weights, width), depth, totals)


def _start(
    emit: Emitter, stage: TileStage, product: TileProduct, views: list[View], units: list[Any], part: range
) -> list[Any]:
    """What the sums of some columns begin with."""
    start = []
    for view, block in itertools.product(views, range(0, len(units), stage.vectors)):
        for column in part:
            of_sum, vector = divmod(column, stage.vectors)
            view.unit, seed = units[block + vector], product.seeds[of_sum]
            start.append(emit.const(0.0) if seed is None else emit.load(view.at(seed)))
    return start
