"""The weight gradients of one scan, as products that any thread may compute."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from fastrnn.backends.contract import Array
from fastrnn.backends.tiled import frame as f
from fastrnn.backends.tiled.native import Native
from fastrnn.backends.tiled.pack import PIECE, address
from fastrnn.threads import checkpoint

if TYPE_CHECKING:
    from fastrnn.backends.tiled.backend import Tape, Work


class Product:
    """Some rows of one product, a task: its frame, its range, and what is to be done with the result."""

    def __init__(self, native: Native, frame: Array, height: int, count: int, width: int, held: Any) -> None:
        self.native, self.frame, self.held = native, frame, held
        self.range = (0, height, 0, count)
        self.work = height * count * width
        self.finish: Callable[[], None] = _nothing

    def __call__(self) -> None:
        self.native.run(self.frame, *self.range)
        self.finish()
        checkpoint()


def _nothing() -> None:
    pass


class Products:
    """The weight gradients of one scan."""

    def __init__(self, tape: Tape, work: Work) -> None:
        self.tape, self.work, self.pack = tape, work, tape.pack
        self.plan, self.rows, self.native = tape.pack.plan, tape.rows, tape.pack.native
        self.blank = np.zeros(f.OUTER_SIZE, np.int64)
        self.blank[f.KERNEL], self.blank[f.PROGRAM] = self.native.weight_gradient(self.pack.dtype)
        self._offsets: dict[Any, Array] = {}

    def tasks(self, into: Mapping[str, Array]) -> list[Callable[[], None]]:
        """The tasks, which together write all of ``into``."""
        if self.rows.total == 0:
            return [partial(value.fill, 0) for value in into.values()]
        hidden = self.pack.sizes.hidden_size
        found: list[Callable[[], None]] = []
        for index, column in enumerate(self.plan.input_columns):
            place = slice(index * hidden, (index + 1) * hidden)
            found += self._product(column, ("x", 0), into["weight_ih"][place])
        for index, gate in enumerate(self.plan.cell.recurrent_gates):
            place = slice(index * hidden, (index + 1) * hidden)
            found += self._product(self.plan.product_columns[gate], self.plan.operands[gate], into["weight_hh"][place])
        if self.plan.cell.has_projection:
            found += self._product(self.plan.product_columns[None], self.plan.operands[None], into["weight_hr"])
        if "bias" in into or any(name in into for name in self.plan.vector_columns):
            found.append(self._sums(into))
        return found

    def _product(self, column: int, place: tuple[str, int], into: Array) -> list[Product]:
        """Tasks for a[:, column] x b: rows of ``into`` in pieces small enough for a checkpoint after each."""
        most = max(8, int(PIECE / max(self.rows.total * into.shape[1], 1)) // 8 * 8)
        start = address(self.work.gradient) + self.pack.gradient_offsets[column] * self.pack.dtype.itemsize
        size, stride = self.pack.dtype.itemsize, self.work.gradient.strides[0]
        b, offsets = self._right(place)
        return [
            self._task(start + first * size, stride, b, offsets, into[first : first + most])
            for first in range(0, into.shape[0], most)
        ]

    def _task(self, a: int, a_stride: int, b: Array, offsets: Array, into: Array) -> Product:
        frame = self.blank.copy()
        frame[f.OUTER_A : f.OUTER_WIDTH + 1] = (
            a, a_stride, address(b), address(offsets), len(offsets), address(into), into.strides[0], into.shape[1],
        )  # fmt: skip
        return Product(self.native, frame, into.shape[0], len(offsets), into.shape[1], (self.work, b, offsets, into))

    def _right(self, place: tuple[str, int]) -> tuple[Array, Array]:
        """What a product multiplied: an array and, by compact number, the byte offset of each row in it."""
        kind, index = place
        tape, rows = self.tape, self.rows
        if place not in self._offsets:
            if kind == "x":
                strides = tape.x.strides[:2]
                tables = rows.order, rows.lengths, rows.active, rows.base
                found = self.native.step_offsets(*tables, tape.reverse, *strides)
            elif kind == "state":
                stride = tape.history[index].strides[0]
                found = self.native.history_offsets(rows.active, rows.base, rows.batch, stride)
            else:
                found = np.arange(rows.total, dtype=np.int64) * tape.kept.strides[0]
                found += self.pack.kept_offsets[index] * self.pack.dtype.itemsize
            self._offsets[place] = found
        array = tape.x if kind == "x" else tape.history[index] if kind == "state" else tape.kept
        return array, self._offsets[place]

    def _sums(self, into: Mapping[str, Array]) -> Product:
        """The gradients of biases and other vectors: sums over all rows, as a product with a row of ones."""
        gradient, count = self.work.gradient, self.rows.total
        sums, one = np.zeros((1, gradient.shape[1]), self.pack.dtype), np.ones(1, self.pack.dtype)
        offsets = np.arange(count, dtype=np.int64) * gradient.strides[0]
        task = self._task(address(one), 0, gradient, offsets, sums)
        task.held = (task.held, one)
        task.finish = partial(self._scatter, sums[0], into)
        return task

    def _scatter(self, sums: Array, into: Mapping[str, Array]) -> None:
        """Each vector's part of the sums."""
        columns, hidden = self.pack.gradient_offsets, self.pack.sizes.hidden_size
        for index, column in enumerate(self.plan.input_columns if "bias" in into else ()):
            into["bias"][index * hidden : (index + 1) * hidden] = sums[columns[column] : columns[column] + hidden]
        for name, column in self.plan.vector_columns.items():
            if name in into:
                into[name][...] = sums[columns[column] : columns[column] + hidden]
