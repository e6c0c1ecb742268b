"""The weight gradients of a scan: sums of products over all of its rows, whole or piece after piece of time.

Rows are added in blocks of compact numbers (see `outer`), from the last block to the first. Pieces come in that order,
too, but end anywhere: the rows of a block that is not complete yet wait for the piece before, where they are or, when
a tape ends, as copies. So the additions, and with them the bits, are the same however time is cut.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from fastrnn.backends.contract import Array, Weights
from fastrnn.backends.tiled import frame as f
from fastrnn.backends.tiled.box import NOBODY
from fastrnn.backends.tiled.form import PIECE, Form
from fastrnn.backends.tiled.native import Native
from fastrnn.backends.tiled.outer import BLOCK
from fastrnn.plan import Place
from fastrnn.record import Record
from fastrnn.reuse import address
from fastrnn.threads import checkpoint

if TYPE_CHECKING:
    from fastrnn.backends.tiled.backend import Tape

Range = tuple[int, int, int, int]  # of a call: the rows of the gradient, whether it is added to, the rows of the scan
KEPT = 4096  # offsets of rows with a fixed stride
WAITING = 9 / 8  # how much longer than all together some may be at work before products are cut, which costs 2 %
LEAST_ROWS = 48  # of a weight's gradient in one call: each call copies the other factor once more
CUT_COLUMNS = 64  # where there are fewer rows, calls are cut at multiples of so many columns


class Lines(Record):
    """Consecutive rows, by addresses: the gates' gradients, and by place what products multiplied.

    That has a base, a table of each row's offset from it in bytes, and a width in bytes. ``held`` keeps it all alive.
    """

    count: int
    gradient: int
    stride: int
    operands: Mapping[Place, tuple[int, int, int]]
    held: Any

    def cut(self, first: int, last: int, gradient: int | None = None) -> Lines:
        """The rows ``first`` to ``last - 1``; ``gradient`` is where their gradients stand, if not in their places."""
        if gradient is None:
            gradient = self.gradient + first * self.stride
        if last - first == self.count and gradient == self.gradient:
            return self
        operands = {place: (base, table + 8 * first, width) for place, (base, table, width) in self.operands.items()}
        return Lines(last - first, gradient, self.stride, operands, self.held)


class Call(NamedTuple):
    """One call of the kernel: some rows and columns of a weight's gradient over some rows of the scan."""

    frame: int  # its number
    range: Range
    columns: tuple[int, int]

    @property
    def work(self) -> int:
        """In multiply-adds."""
        low, high, _, steps = self.range
        return (high - low) * (self.columns[1] - self.columns[0]) * steps

    def cut(self, count: int) -> list[Call]:
        """In so many parts of about as many rows or columns each, or in fewer where these would be narrow."""
        (low, high, more, steps), (left, right) = self.range, self.columns
        by_rows, by_columns = (high - low) // LEAST_ROWS, (right - left) // CUT_COLUMNS
        if by_rows < min(count, by_columns):
            count = min(count, by_columns)
            marks = [left + round(by_columns * k / count) * CUT_COLUMNS for k in range(count)]
            return [self._replace(columns=ends) for ends in pairwise([*marks, right])]
        count = max(1, min(count, by_rows))
        marks = [low + (high - low) * k // count for k in range(count + 1)]
        return [self._replace(range=(first, last, more, steps)) for first, last in pairwise(marks)]


def frames_of(frames: Array, calls: Sequence[Call], item_bytes: int) -> Array:
    """Each call's own frame, which begins at its first column."""
    own = frames[[call.frame for call in calls]]
    columns = np.array([call.columns for call in calls], np.int64).reshape(-1, 2)
    own[:, [f.OUTER_B, f.OUTER_INTO]] += columns[:, :1] * item_bytes
    own[:, f.OUTER_WIDTH] = columns[:, 1] - columns[:, 0]
    return own


class Products:
    """All products of one turn, into memory of their own each: a task. Each has a frame and a range.

    ``work`` counts multiply-adds, ``turn`` those that go into the same memory: each waits for the turns before.
    """

    def __init__(
        self, native: Native, frames: Array, ranges: Array, item_bytes: int, work: int, turn: int,
        finish: Callable[[], None], held: Any,
    ) -> None:  # fmt: skip
        self.native, self.frames, self.ranges, self.item_bytes, self.work = native, frames, ranges, item_bytes, work
        self.turn, self.finish, self.held = turn, finish, held

    def __call__(self) -> None:
        if self.work <= PIECE:
            self.native.run_list(NOBODY, self.frames, self.ranges, 1)
            checkpoint()
        else:
            for group in groups(self.calls(), 1):
                self.run(group, NOBODY, 1)
                checkpoint()
        self.finish()

    def calls(self) -> list[Call]:
        """What there is to do, in pieces small enough for a checkpoint after each."""
        calls: list[Call] = []
        widths = self.frames[:, f.OUTER_WIDTH].tolist()
        for frame, (_, rows, more, count) in enumerate(self.ranges.tolist()):
            row_work = widths[frame] * count
            most = max(8, int(PIECE / max(row_work, 1)) // 8 * 8)
            for low, high in pairwise([*range(0, rows, most), rows]):
                calls.append(Call(frame, (low, high, more, count), (0, widths[frame])))
        return calls

    def run(self, calls: Sequence[Call], boxes: Array, members: int) -> int:
        """Some of them, by so many threads at most, those of the boxes among them. How many took part."""
        frames = frames_of(self.frames, calls, self.item_bytes)
        ranges = np.array([call.range for call in calls], np.int64)
        return self.native.run_list(boxes, frames, ranges, members)


def joined(tasks: Sequence[Products]) -> Products:
    """The tasks of a turn as one."""
    if len(tasks) == 1:
        return tasks[0]
    frames = np.concatenate([task.frames for task in tasks])
    ranges = np.concatenate([task.ranges for task in tasks])

    def finish() -> None:
        for task in tasks:
            task.finish()

    work, first = sum(task.work for task in tasks), tasks[0]
    return Products(first.native, frames, ranges, first.item_bytes, work, first.turn, finish, tasks)


def groups(calls: Sequence[Call], members: int) -> list[list[Call]]:
    """In groups of one `PIECE` for each member, or one call, the largest first: the last ones are small."""
    found: list[list[Call]] = []
    work = 0.0
    for call in sorted(calls, key=lambda call: -call.work):
        work += call.work
        if not found or (work > members * PIECE and len(found[-1]) >= members):
            found.append([])
            work = call.work
        found[-1].append(call)
    return found


def shares(group: Sequence[Call], members: int) -> list[Call]:
    """Whole calls, or each in as many parts as there are members where some of these would wait for long."""
    loads = [0] * members
    for call in group:
        loads[loads.index(min(loads))] += call.work
    if max(loads) <= WAITING * sum(loads) / members:
        return list(group)
    return [part for call in group for part in call.cut(members)]


def _nothing() -> None:
    pass


class TiledSums:
    """See `fastrnn.backends.contract.Backend.sums`."""

    def __init__(self, form: Form, arrays: Weights, total: int) -> None:
        self.into = into = dict(zip(form.shapes, arrays, strict=True))
        self._at = {name: address(array) for name, array in into.items()}
        self._begin = total  # all rows from this compact number on have been taken
        self._waiting: Lines | None = None  # copies of the first of them, whose block is not complete
        self._more = 0  # whether something has been added
        self._vectors: Array | None = None
        if total == 0:
            for array in arrays:
                array[...] = 0

    def add(self, form: Form, lines: Lines, last: bool) -> tuple[list[Products], int]:
        """The products of all rows whose block is complete, and how many rows, the first ones, are to be given again.

        With ``last`` none are, for they will be gone: they are copied.
        """
        runs, again = self._runs(lines, last)
        products: list[Products] = []
        for turn, run in enumerate(runs):
            products.append(self._products(form, run, turn))
            self._more = 1
        if products and self._begin == 0 and self._vectors is not None:
            products[-1].finish = partial(self._hand_out, form, self._vectors)
        return products, again

    def _runs(self, lines: Lines, last: bool) -> tuple[list[Lines], int]:
        """The rows whose blocks are complete, last block first, and how many others there are."""
        count, end = lines.count, self._begin
        if count == 0:
            return [], 0
        first = end - count
        block = (end - 1) // BLOCK * BLOCK - first  # where the last row's block begins in these
        rest = count if block < 0 else -first % BLOCK
        self._begin = first if last else first + rest
        runs = []
        if block >= 0 and self._waiting is not None:
            runs.append(_copied(lines.cut(block, count), self._waiting))
            self._waiting, count = None, block
        if count > rest:
            runs.append(lines.cut(rest, count))
        if not last:
            return runs, rest
        if rest:
            self._waiting = _copied(lines.cut(0, rest), self._waiting)
        return runs, 0

    def _products(self, form: Form, lines: Lines, turn: int) -> Products:
        """What these rows add to the gradients of all weights, and to the sums that biases and vectors have."""
        into, count, gradient, work = self.into, lines.count, lines.gradient, form.weight_count
        places = []  # what is added to each frame's fields from `OUTER_A` to `OUTER_INTO`
        for part in form.weight_parts:
            base, table, _ = lines.operands[part.place]
            places.append((gradient, 0, base, table, count, self._at[part.weight]))
        offsets = None
        if "bias" in into or any(name in into for name in form.plan.vector_columns):
            width = lines.stride // form.dtype.itemsize
            if self._vectors is None:
                self._vectors = np.zeros(width, form.dtype)
            offsets = _multiples(count, lines.stride)  # the sum of all rows, as a product with ones
            places.append((0, 0, gradient, address(offsets), count, address(self._vectors)))
            work += width
        frames, ranges = form.gradient_calls
        frames, ranges = frames[: len(places)].copy(), ranges[: len(places)].copy()
        frames[:, f.OUTER_A : f.OUTER_INTO + 1] += np.array(places, np.int64)
        ranges[:, 2:] = self._more, count
        size = form.dtype.itemsize
        return Products(form.native, frames, ranges, size, work * count, turn, _nothing, (lines, offsets, self))

    def _hand_out(self, form: Form, sums: Array) -> None:
        """Each vector's part of the sums."""
        into, plan, columns, hidden = self.into, form.plan, form.gradient_offsets, form.sizes.hidden_size
        for index, column in enumerate(plan.input_columns if "bias" in into else ()):
            into["bias"][index * hidden : (index + 1) * hidden] = sums[columns[column] : columns[column] + hidden]
        for name, column in plan.vector_columns.items():
            if name in into:
                into[name][...] = sums[columns[column] : columns[column] + hidden]


def lines_of(tape: Tape, gradient: int) -> Lines:
    """All rows of a tape; the gradients of the first would stand at the address ``gradient``."""
    rows, form = tape.rows, tape.pack.form
    total = rows.total
    tables: list[Array] = []
    operands: dict[Place, tuple[int, int, int]] = {}
    for place, width in form.operand_widths.items():
        kind, index = place
        if kind == "x":
            base, table = address(tape.x), np.empty(total, np.int64)
            form.native.step_offsets(table, rows.table, tape.reverse, *tape.x.strides[:2])
        elif kind == "state":
            base, table = tape.at[1 + index], np.empty(total, np.int64)
            form.native.history_offsets(table, rows.table, form.state_strides[index])
        else:
            base = tape.at[0] + form.kept_offsets[index] * form.dtype.itemsize
            table = _multiples(total, form.kept_stride)
        tables.append(table)
        operands[place] = base, address(table), width
    return Lines(total, gradient, form.gradient_stride, operands, (tape, tables))


def _multiples(count: int, step: int) -> Array:
    """0, step, 2 step and so on: the offsets of rows with a fixed stride."""
    return _first_multiples(step)[:count] if count <= KEPT else np.arange(0, count * step, step, dtype=np.int64)


@lru_cache(maxsize=16)
def _first_multiples(step: int) -> Array:
    return np.arange(0, KEPT * step, step, dtype=np.int64)


def _copied(lines: Lines, after: Lines | None) -> Lines:
    """Rows and those that come after them, at most a block, in memory of their own."""
    parts = [lines] if after is None else [lines, after]
    count = sum(part.count for part in parts)
    held: list[Array] = []

    def gathered(starts: list[int], width: int) -> int:
        """The address of copies, side by side, of what stands there."""
        own = np.empty((count, width), np.uint8)
        held.append(own)
        for row, start in enumerate(starts):
            ctypes.memmove(address(own) + row * width, start, width)
        return address(own)

    operands = {}
    for place, (_, _, width) in lines.operands.items():
        tables = [(base, _words(table, part.count)) for part in parts for base, table, _ in [part.operands[place]]]
        base = gathered([base + int(offset) for base, table in tables for offset in table], width)
        held.append(_multiples(count, width))
        operands[place] = base, address(held[-1]), width
    starts = [part.gradient + row * part.stride for part in parts for row in range(part.count)]
    return Lines(count, gathered(starts, lines.stride), lines.stride, operands, held)


def _words(at: int, count: int) -> list[int]:
    """The int64 numbers that stand at an address."""
    return list((ctypes.c_int64 * count).from_address(at))
