"""The tail: the units that do not fill a block, with the sums of all gates side by side in as few vectors as they need.

Of an LSTM with 100 units, on a machine with vectors of 16, six blocks are full. What is left are 4 units of 4 gates,
which is one vector and not four of which each is three quarters empty. A product's weights are ``[vector][k][lane]``
there, and the lanes are all units of its first sum, then all of the second, and so on. Vectors of sums cannot be taken
apart in registers, but in memory each sum can be read from where its first unit is; past its last one stands what
belongs to the next, which is never stored as a unit's.

That pays from some rows on. Of fewer there are so few sums that each waits for its last addition, and one vector takes
as long as four. So these units are packed as a block, too, for fewer rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from fastrnn.backends.tiled.chains import InMemory, InRegisters
from fastrnn.backends.tiled.emitter import Emitter
from fastrnn.backends.tiled.stage import TileProduct, TileStage, View
from fastrnn.backends.tiled.target import UNDER_WAY, Target
from fastrnn.backends.tiled.tile import (
    ARGUMENTS,
    EpilogueFunction,
    Tile,
    accumulate,
    column_bytes,
    fetch_ahead,
    weights_at,
)


def tail_heights(target: Target, stage: TileStage) -> tuple[int, ...]:
    """How many rows tiles of the tail take at once; none where there is never a tail.

    Fewer rows are left to the last block's own tiles; where blocks have two vectors that is the narrow block's, which
    takes one. Processors without fused multiply-adds do without the tallest: see `Target.heights`.
    """
    if stage.vectors == stage.packed_sums == 1:
        return ()
    tallest = (8,) if target.fma else ()
    return (*tallest, 4, 2) if stage.vectors == 2 else (*tallest, 4)


def tail_vectors(sums: int, units: int, lanes: int) -> int:
    """How many vectors of sums so many units have."""
    return -(-sums * units // lanes)


def tail_function(caller: Emitter, stage: TileStage, epilogue: EpilogueFunction | None, height: int) -> Tile:
    """The tile of so many rows of the tail, which is what stands in the last block."""

    def body(emit: Emitter, arguments: list[Any]) -> None:
        if epilogue:
            _TakenApart(emit, stage, height, arguments, epilogue).emit_all()
        else:
            _Stored(emit, stage, height, arguments).emit_all()

    return caller.function(f"tail_{height}x{sum(stage.columns)}", ARGUMENTS, body)


class _Tail:
    """A few rows of a tail: ``left`` units from ``unit`` on."""

    def __init__(self, emit: Emitter, stage: TileStage, height: int, arguments: list[Any]) -> None:
        self.emit, self.stage, self.height = emit, stage, height
        self.frame, self.row, self.block, self.with_products = arguments
        self.unit = emit.times(self.block, stage.vectors * emit.lanes)
        self.left = emit.difference(View(emit, self.frame, self.row).field(stage.width), self.unit)

    def _views(self) -> list[View]:
        return [View(self.emit, self.frame, self.emit.sum(self.row, self.emit.whole(m))) for m in range(self.height)]

    @contextmanager
    def _vectors(self, product: TileProduct, most: int) -> Iterator[list[Any]]:
        """A loop over a product's vectors, ``most`` or fewer, as many at once as have to be under way; the last one
        again where there are fewer."""
        emit = self.emit
        values = emit.sum(emit.times(self.left, product.sums), emit.whole(emit.lanes - 1))
        last = emit.difference(emit.quotient(values, emit.whole(emit.lanes)), emit.whole(1))
        step = min(most, UNDER_WAY // self.height)
        with emit.loop(emit.whole(0), emit.sum(last, emit.whole(step)), step, []) as (begin, _, _end):
            yield [emit.lesser(emit.sum(begin, emit.whole(v)), last) for v in range(step)]

    def _panels(self, product: TileProduct, vectors: list[Any]) -> list[Any]:
        emit, view = self.emit, View(self.emit, self.frame, self.row)
        first, size = weights_at(emit, product, view, of_tail=True), column_bytes(emit, product, view)
        return [emit.sum(first, emit.times(vector, size)) for vector in vectors]

    def _start(self, product: TileProduct, views: list[View], vectors: list[Any]) -> list[Any]:
        """What the vectors of an only sum begin with: their lanes are units."""
        (seed,), start = product.seeds, []
        for view, vector in itertools.product(views, vectors):
            view.unit = self._unit(vector)
            start.append(self.emit.const(0.0) if seed is None else self.emit.load(view.at(seed)))
        return start

    def _unit(self, vector: Any) -> Any:
        return self.emit.sum(self.unit, self.emit.times(vector, self.emit.lanes))


class _Stored(_Tail):
    """That of one product of one sum, which is merely stored: nothing has to be taken apart."""

    def emit_all(self) -> None:
        (product,) = self.stage.products
        fetch_ahead(self.emit, self.stage, self.frame, self.row, self.height, [self.unit])
        with self._vectors(product, self.stage.vectors - 1) as vectors:  # with as many it would be a block
            views, sums = self._views(), InRegisters(self.emit)
            panels, start = self._panels(product, vectors), self._start(product, views, vectors)
            accumulate(self.emit, product, views, panels, 1, self.with_products, sums, start)
            for (view, vector), value in zip(itertools.product(views, vectors), sums.carried, strict=True):
                view.unit = self._unit(vector)
                self.stage.epilogue(self.emit, view, [value])


class _TakenApart(_Tail):
    """That of a cell's arithmetic: one vector of units at most, whose sums come one after the other in memory."""

    def __init__(
        self, emit: Emitter, stage: TileStage, height: int, arguments: list[Any], epilogue: EpilogueFunction
    ) -> None:
        super().__init__(emit, stage, height, arguments)
        self.epilogue = epilogue
        self.memory = emit.room(height * sum(stage.columns))

    def emit_all(self) -> None:
        emit, products = self.emit, self.stage.products
        fetch_ahead(emit, self.stage, self.frame, self.row, self.height, [self.unit])
        places = [emit.sum(self.memory, emit.whole(self.epilogue.offset(emit, n))) for n in range(len(products))]
        for product, place in zip(products, places, strict=True):
            if product.sums > 1:
                self._put_seeds(product, place)
        for product, place in zip(products, places, strict=True):
            with self._vectors(product, product.sums) as vectors:
                sums, views = self._sums(place, vectors), self._views()
                panels = self._panels(product, vectors)
                start = sums.values() if product.sums > 1 else self._start(product, views, vectors)
                accumulate(emit, product, views, panels, 1, self.with_products, sums, start)
        rows, between = emit.whole(self.height), emit.times(self.left, emit.size)
        self.epilogue.call(emit, self.frame, self.row, rows, self.unit, self.left, self.memory, between)

    def _sums(self, place: Any, vectors: list[Any]) -> InMemory:
        size = self.emit.lanes * self.emit.size
        places = [self.emit.sum(place, self.emit.times(vector, size)) for vector in vectors]
        return InMemory(self.emit, places, self.epilogue.line, self.height)

    def _put_seeds(self, product: TileProduct, place: Any) -> None:
        """What the sums begin with, in their places: from the first on, since each is written beyond its end."""
        emit = self.emit
        with emit.loop(emit.whole(0), emit.whole(self.height), 1, []) as (m, _, _end):
            view = View(emit, self.frame, emit.sum(self.row, m), self.unit)
            line = emit.sum(place, emit.times(m, self.epilogue.line))
            for number, seed in enumerate(product.seeds):
                value = emit.const(0.0) if seed is None else emit.load(view.at(seed))
                emit.store(emit.sum(line, emit.times(self.left, number * emit.size)), value)
