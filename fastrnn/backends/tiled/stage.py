"""What the tile is asked to do: a stage's products, where their rows are, and what follows them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from fastrnn.backends.tiled.emitter import Emitter


class Rows(NamedTuple):
    """How to find a row: an address field, with either a stride field or a table of offsets, and a column.

    ``before`` says what stands before the column: how often the width of a field.
    """

    address: int
    stride: int = -1
    table: int = -1
    before: tuple[tuple[int, int], ...] = ()


class TileProduct(NamedTuple):
    """One product of a stage: ``sums`` results for each unit from ``depth`` values (a field) of each segment.

    ``weights`` is the field of the address of the weights in blocks, the next one of those of the tail. ``segments`` is
    the first field of the segments' byte offsets, ``several`` how many there are (0: one, at offset 0). ``seeds`` gives
    each sum's start: None for zero, or the rows to load it from.
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
    that this is a cell's arithmetic, not a mere store; ``fetched`` are rows that it reads or writes and that nothing
    has touched lately: they are fetched while the products are under way. ``wide_vectors`` is how many vectors the
    blocks before a narrow one have.
    """

    products: tuple[TileProduct, ...]
    vectors: int
    width: int
    epilogue: Callable[[Emitter, View, list[Any]], None]
    long: bool = False
    fetched: tuple[Rows, ...] = ()
    wide_vectors: int = 0

    @property
    def columns(self) -> tuple[int, ...]:
        """Of a block, for each product; a stage that has none counts as one of one sum."""
        return tuple([product.sums * self.vectors for product in self.products]) or (self.vectors,)

    @property
    def pitch(self) -> int:
        """Vectors of units from one block to the next."""
        return self.wide_vectors or self.vectors

    def narrow(self) -> TileStage:
        """The same for a last block of one vector."""
        return self._replace(vectors=1, wide_vectors=self.vectors)

    @property
    def packed_sums(self) -> int:
        """How many sums of a unit stand side by side in a tail, for `blocks_before_tail` (also in `loops`)."""
        return max(self.columns) if self.vectors == 1 else 1

    def blocks_before_tail(self, units: int, lanes: int) -> int:
        """How many blocks stand before the tail (see `tail`): the full ones, and the last one if there is no tail.

        There is none where it would take as many vectors as a full block: vectors of sums if that is one vector of
        units, else vectors of units.
        """
        return (units * self.packed_sums + lanes - 1) // (self.packed_sums * self.vectors * lanes)


class View:
    """The rows of a tile: addresses of any place at one row and the units of one vector."""

    def __init__(self, emit: Emitter, frame: Any, row: Any, unit: Any = None) -> None:
        self.emit, self.frame, self.row = emit, frame, row
        self.unit = emit.whole(0) if unit is None else unit
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
            for width, count in rows.before:
                if count:
                    found = emit.sum(found, emit.times(self.field(width), count * emit.size))
            self._bases[rows] = found
        return found

    def at(self, rows: Rows) -> Any:
        """The address of the current vector of units."""
        return self.emit.sum(self.base(rows), self.emit.times(self.unit, self.emit.size))

    def remaining(self, width: int) -> Any:
        """How many units are left from the current vector on."""
        return self.emit.difference(self.field(width), self.unit)
