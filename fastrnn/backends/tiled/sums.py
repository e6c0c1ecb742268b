"""The weight gradients of a scan: sums of products over all of its rows, whole or piece after piece of time.

Rows are added in blocks of compact numbers (see `outer`), from the last block to the first. Pieces come in that order,
too, but end anywhere: the rows of a block that is not complete yet are copied and wait for the piece before. So the
additions, and with them the bits, are the same however time is cut.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from fastrnn.backends.contract import Array, Task
from fastrnn.backends.tiled import frame as f
from fastrnn.backends.tiled.frame import address
from fastrnn.backends.tiled.native import Native
from fastrnn.backends.tiled.outer import BLOCK
from fastrnn.backends.tiled.pack import PIECE, TiledPack
from fastrnn.backends.tiled.parts import X
from fastrnn.plan import Place
from fastrnn.record import Record
from fastrnn.threads import checkpoint

if TYPE_CHECKING:
    from fastrnn.backends.tiled.backend import Tape, Work


class _Lines(Record):
    """Consecutive rows: the gates' gradients, and by place what products multiplied: an array, and byte offsets in it
    where the rows begin."""

    gradient: Array
    operands: Mapping[Place, tuple[Array, Array]]

    def __len__(self) -> int:
        return len(self.gradient)

    def cut(self, first: int, last: int) -> _Lines:
        """The rows ``first`` to ``last - 1``."""
        operands = {place: (array, offsets[first:last]) for place, (array, offsets) in self.operands.items()}
        return _Lines(self.gradient[first:last], operands)


class Product:
    """Some rows of one weight's gradient over some rows of the scan: a task, and its frame and range for a list.

    ``turn`` counts the products that go into the same memory: each has to wait for those of the turns before.
    """

    def __init__(self, native: Native, frame: Array, span: tuple[int, int, int, int], turn: int, held: Any) -> None:
        self.native, self.frame, self.range, self.turn, self.held = native, frame, span, turn, held
        self.work = span[1] * span[3] * int(frame[f.OUTER_WIDTH])
        self.finish: Callable[[], None] = _nothing

    def __call__(self) -> None:
        self.native.run(self.frame, *self.range)
        self.finish()
        checkpoint()


def _nothing() -> None:
    pass


class TiledSums:
    """See `fastrnn.backends.contract.Sums`."""

    def __init__(self, into: Mapping[str, Array], total: int) -> None:
        self.into = into
        self._begin = total  # all rows from this compact number on have come
        self._waiting: _Lines | None = None  # the first of them, whose block is not complete
        self._more = 0  # whether something has been added
        self._vectors: Array | None = None
        if total == 0:
            for array in into.values():
                array[...] = 0

    def add(self, tape: Tape, work: Work) -> list[Task]:
        """See the contract."""
        runs = self._runs(tape, _lines(tape, work))
        if not runs:
            return []
        tasks: list[Task] = []
        for turn, lines in enumerate(runs):
            tasks += self._products(tape.pack, lines, turn)
            if "bias" in self.into or any(name in self.into for name in tape.pack.plan.vector_columns):
                tasks.append(self._sum_of_vectors(tape.pack, lines, turn))
            self._more = 1
        return tasks

    def _runs(self, tape: Tape, lines: _Lines) -> list[_Lines]:
        """The rows whose blocks are complete with this piece, last block first; the others wait."""
        count, end = len(lines), self._begin
        if count == 0:
            return []
        first = self._begin = end - count
        block = (end - 1) // BLOCK * BLOCK - first  # where the last row's block begins in this piece
        if block < 0:
            self._waiting = _copied(tape, lines, self._waiting)
            return []
        runs = []
        if self._waiting is not None:
            runs.append(_copied(tape, lines.cut(block, count), self._waiting))
            count = block
        rest = -first % BLOCK
        if count > rest:
            runs.append(lines.cut(rest, count))
        self._waiting = _copied(tape, lines.cut(0, rest), None) if rest else None
        return runs

    def _products(self, pack: TiledPack, lines: _Lines, turn: int) -> Iterator[Product]:
        """Tasks for all weights, each for rows of a weight in pieces small enough for a checkpoint after each."""
        left, stride, size = address(lines.gradient), lines.gradient.strides[0], pack.dtype.itemsize
        for part in pack.weight_parts:
            weight, right = self.into[part.weight], lines.operands[part.place]
            most = max(8, int(PIECE / max(len(lines) * weight.shape[1], 1)) // 8 * 8)
            for first in range(0, part.rows, most):
                start, row = left + (part.column + first) * size, part.row + first
                into = weight[row : min(row + most, part.row + part.rows)]
                yield self._product(pack, (start, stride), right, into, turn, lines)

    def _sum_of_vectors(self, pack: TiledPack, lines: _Lines, turn: int) -> Product:
        """The gradients of biases and other vectors: sums over all rows, as a product with a row of ones."""
        if self._vectors is None:
            self._vectors = np.zeros((1, lines.gradient.shape[1]), pack.dtype)
        one = np.ones(1, pack.dtype)
        right = lines.gradient, np.arange(len(lines), dtype=np.int64) * lines.gradient.strides[0]
        product = self._product(pack, (address(one), 0), right, self._vectors, turn, (lines, one))
        product.finish = partial(self._hand_out, pack, self._vectors[0])
        return product

    def _product(
        self, pack: TiledPack, left: tuple[int, int], right: tuple[Array, Array], into: Array, turn: int, held: Any
    ) -> Product:
        """``into`` = or += left x right: an address and a stride, an array and a table of offsets in it."""
        frame = np.zeros(f.OUTER_SIZE, np.int64)
        frame[f.KERNEL], frame[f.PROGRAM] = pack.outer
        array, offsets = right
        frame[f.OUTER_A : f.OUTER_WIDTH + 1] = (
            *left, address(array), address(offsets), len(offsets), address(into), into.strides[0], into.shape[1],
        )  # fmt: skip
        span = (0, into.shape[0], self._more, len(offsets))
        return Product(pack.native, frame, span, turn, (held, right, into))

    def _hand_out(self, pack: TiledPack, sums: Array) -> None:
        """Each vector's part of the sums."""
        into, plan, columns, hidden = self.into, pack.plan, pack.gradient_offsets, pack.sizes.hidden_size
        for index, column in enumerate(plan.input_columns if "bias" in into else ()):
            into["bias"][index * hidden : (index + 1) * hidden] = sums[columns[column] : columns[column] + hidden]
        for name, column in plan.vector_columns.items():
            if name in into:
                into[name][...] = sums[columns[column] : columns[column] + hidden]


def _lines(tape: Tape, work: Work) -> _Lines:
    """All rows of a piece, where backward has left them."""
    rows, pack = tape.rows, tape.pack
    operands: dict[Place, tuple[Array, Array]] = {}
    for place in (X, *pack.plan.operands.values()):
        kind, index = place
        if place in operands:
            continue
        if kind == "x":
            tables = rows.order, rows.lengths, rows.active, rows.base
            operands[place] = tape.x, pack.native.step_offsets(*tables, tape.reverse, *tape.x.strides[:2])
        elif kind == "state":
            history = tape.history[index]
            stride = history.strides[0]
            operands[place] = history, pack.native.history_offsets(rows.active, rows.base, rows.batch, stride)
        else:
            column = pack.kept_offsets[index] * pack.dtype.itemsize
            operands[place] = tape.kept, np.arange(rows.total, dtype=np.int64) * tape.kept.strides[0] + column
    return _Lines(work.gradient, operands)


def _width(tape: Tape, place: Place) -> int:
    kind, index = place
    sizes, plan = tape.pack.sizes, tape.pack.plan
    if kind == "x":
        return sizes.input_size
    return sizes.width((plan.cell.state_widths if kind == "state" else plan.kept_widths)[index])


def _copied(tape: Tape, lines: _Lines, after: _Lines | None) -> _Lines:
    """Rows and those that come after them, at most a block, in memory of their own."""
    parts = [lines] if after is None else [lines, after]
    count = sum(map(len, parts))
    operands = {}
    for place in lines.operands:
        own = np.empty((count, _width(tape, place)), tape.pack.dtype)
        starts = [address(array) + offset for array, table in (p.operands[place] for p in parts) for offset in table]
        for row, start in zip(own, starts, strict=True):
            ctypes.memmove(address(row), int(start), row.nbytes)
        operands[place] = own, np.arange(count, dtype=np.int64) * own.strides[0]
    return _Lines(np.concatenate([part.gradient for part in parts]), operands)
