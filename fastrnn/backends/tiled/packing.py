"""How the weights of one layer and direction are packed: in the order in which the tile reads them.

That is a list of copies, made once: each takes some rows or columns of a weight to one vector of a block. To pack is to
go through that list, in compiled code, since training packs after every step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from fastrnn.backends.contract import Array, Weights
from fastrnn.backends.tiled import frame as f
from fastrnn.backends.tiled.native import Native
from fastrnn.backends.tiled.room import ALIGNMENT, padded
from fastrnn.backends.tiled.stage import TileStage
from fastrnn.backends.tiled.tail import tail_vectors
from fastrnn.backends.tiled.target import Target
from fastrnn.reuse import address, maker

INT64 = np.dtype(np.int64)
SHORT = 1 << 20  # bytes of packed weights


class Block(NamedTuple):
    """Rows of a weight, which is known by its number, and how wide it is."""

    weight: int
    row: int
    rows: int
    width: int


class Matrix(NamedTuple):
    """What gives one sum of each unit, (units, K): rows of a weight; or, transposed, several of them side by side."""

    blocks: Sequence[Block]
    transposed: bool = False

    @property
    def units(self) -> int:
        """How many units it is for."""
        return self.blocks[0].width if self.transposed else self.blocks[0].rows

    @property
    def depth(self) -> int:
        """K."""
        return sum(block.rows for block in self.blocks) if self.transposed else self.blocks[0].width


class Copies:
    """The list of copies that pack weights, while it is made.

    Attributes
    ----------
    rows : list of tuple of int
        Each copy, in the fields of `frame.COPY_FIELDS`.
    places : list of tuple of int
        Fields of a frame, and from where in the packed weights on there is what they are the address of.
    nbytes : int
        Of the packed weights.
    first_field : int
        What is added to the fields: where the frame that they are of begins among several.
    """

    def __init__(self, target: Target, dtype: np.dtype[Any]) -> None:
        self.rows: list[tuple[int, ...]] = []
        self.places: list[tuple[int, int]] = []
        self.nbytes = self.first_field = 0
        self._target, self._size, self._lanes = target, dtype.itemsize, target.lanes(dtype)

    def _place(self, field: int, values: int) -> int:
        """Room for so many values, whose address goes into a field; where it begins."""
        begin = self.nbytes
        self.places.append((self.first_field + field, begin))
        self.nbytes += padded(values * self._size, ALIGNMENT)
        return begin

    def add_vectors(self, field: int, vectors: Sequence[int | None], count: int, room: int) -> None:
        """Vectors of ``count`` values as they are, each with zeros up to ``room``; without a number, zeros alone."""
        into = self._place(field, len(vectors) * room)
        for vector in vectors:
            weight, values = (0, 0) if vector is None else (vector, count)
            self.rows.append((weight, 0, values, room, self._size, 1, 0, into, 0))
            into += room * self._size

    def add_products(self, field: int, matrices: Sequence[Matrix], stage: TileStage) -> None:
        """The weights of a product, a matrix for each sum: in blocks, and in the next field those of the tail.

        In blocks, [block][panel][k][column][lane] (see `tile`), there are all units, and those of the tail once more as
        [vector][k][lane] (see `tail`). Both are zero where there is no unit.
        """
        units, depth, sums, lanes = matrices[0].units, matrices[0].depth, len(matrices), self._lanes
        of_block = stage.vectors * lanes
        full = units - units % of_block
        rest = padded(units - full, lanes if stage.vectors == 2 else of_block)
        into = self._place(field, depth * sums * (full + rest))
        for unit in range(0, full + rest, of_block):
            vectors = (of_block if unit < full else rest) // lanes
            self._add_block(into, matrices, unit, vectors)
            into += depth * sums * vectors * lanes * self._size
        unit = min(stage.blocks_before_tail(units, lanes) * of_block, units)
        into = self._place(field + 1, tail_vectors(sums, units - unit, lanes) * lanes * depth)
        self._add_tail(into, matrices, unit, units - unit)

    def _add_block(self, into: int, matrices: Sequence[Matrix], first: int, vectors: int) -> None:
        """A block of so many vectors of units."""
        width, lanes = self._target.panel(len(matrices) * vectors), self._lanes
        for column in range(len(matrices) * vectors):
            (s, v), (panel, within) = divmod(column, vectors), divmod(column, width)
            begin = into + (panel * matrices[s].depth * width + within) * lanes * self._size
            unit = first + v * lanes
            units = min(max(matrices[s].units - unit, 0), lanes)
            self._add_lanes(begin, width * lanes * self._size, matrices[s], unit, units, lanes)

    def _add_tail(self, into: int, matrices: Sequence[Matrix], first: int, count: int) -> None:
        """So many units of each matrix, one after the other; the last vector is filled up with zeros."""
        lanes, depth, total = self._lanes, matrices[0].depth, len(matrices) * count
        done = 0
        while done < total:
            (s, unit), (vector, lane) = divmod(done, count), divmod(done, lanes)
            units = min(count - unit, lanes - lane)
            begin = into + (vector * depth * lanes + lane) * self._size
            filled = lanes - lane if done + units == total else units
            self._add_lanes(begin, lanes * self._size, matrices[s], first + unit, units, filled)
            done += units

    def _add_lanes(self, into: int, step: int, matrix: Matrix, unit: int, units: int, lanes: int) -> None:
        """Some units of a matrix side by side, and zeros up to so many lanes, for each k."""
        for weight, row, rows, width in matrix.blocks:
            of_row = width * self._size
            if matrix.transposed:
                begin, unit_step, depth, depth_step = row * of_row + unit * self._size, self._size, rows, of_row
            else:
                begin, unit_step, depth, depth_step = (row + unit) * of_row, of_row, width, self._size
            self.rows.append((weight, begin, units, lanes, unit_step, depth, depth_step, into, step))
            into += depth * step


class Packing:
    """A frame but for where the weights are, and the copies that pack them.

    Attributes
    ----------
    count : int
        How many copies there are.
    nbytes : int
        Of the packed weights.
    short : bool
        Whether one thread makes all copies at once, without more ado.
    frame_size : int
        Of the frame, or of all frames, in fields.
    """

    def __init__(self, frame: Array, copies: Copies, native: Native, dtype: np.dtype[Any], weights: int) -> None:
        """Of so many weights."""
        self.count, self.nbytes, self.frame_size = len(copies.rows), copies.nbytes, frame.size
        self.short = copies.nbytes < SHORT
        self._table = np.array(copies.rows, np.int64).reshape(-1, f.COPY_FIELDS)
        places = np.zeros_like(frame)  # 1 where the frame has an address, which counts from the packed weights on
        for field, begin in copies.places:
            frame[field], places[field] = begin, 1
        call = np.zeros(f.SHORT_SIZE, np.int64)
        (call[f.KERNEL], call[f.PROGRAM]), call[f.COPIES] = native.copying(dtype), address(self._table)
        self._pack = native.bound_pack((frame, places, call))
        words = frame.size + f.SHORT_SIZE + weights + (ALIGNMENT + padded(copies.nbytes, 8)) // 8
        self._shape, self._new = (words,), maker(words)

    def memory(self, weights: Weights, count: int) -> Array:
        """New memory with the frame, that of the copies, and the packed weights.

        Only the first ``count`` copies are made: the others are left to whoever runs the frame of the copies.
        """
        memory = self._new(self._shape, INT64)
        self._pack(memory, weights, count)
        return memory

    def copies_frame(self, memory: Array) -> Array:
        """The frame of the copies."""
        return memory[self.frame_size : self.frame_size + f.SHORT_SIZE]

    def ranges(self, count: int) -> Array:
        """So many ranges of the copies that write about as much each, as `Native.run_list` takes them."""
        written = np.cumsum(self._table[:, f.COPY_LANES] * self._table[:, f.COPY_DEPTH])
        found = np.zeros((count, 4), np.int64)
        found[1:, 0] = found[:-1, 1] = written.searchsorted(written[-1] * np.arange(1, count) // count)
        found[-1, 1] = self.count
        return found
