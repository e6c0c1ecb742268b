"""The compiled backend: tapes, and the frames that bind a kernel to its buffers. The contract is in `contract`."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numba import types

from fastrnn.backends.contract import Array, Part, Rows, States
from fastrnn.backends.numba_ import frame as f
from fastrnn.backends.numba_ import scan
from fastrnn.backends.numba_.compile import Kernel, kernel_of
from fastrnn.backends.numba_.pack import PIECE, NumbaPack, aligned, outer_of, program_of
from fastrnn.equations import Sizes
from fastrnn.plan import Plan
from fastrnn.threads import checkpoint


def address(array: Array) -> int:
    """Where an array's first value is."""
    return int(array.__array_interface__["data"][0])


@dataclass(eq=False)
class Tape:
    """What a recording forward keeps: rows of kept values by compact number, and the history of every state."""

    pack: NumbaPack
    rows: Rows
    x: Array
    reverse: bool
    kept: Array  # (N, kept columns)
    history: States  # (B + N, padded width) each: the initial states, then the state after each step


@dataclass(eq=False)
class Work:
    """What a backward scan leaves for the weight gradients: the gates' gradients by compact number."""

    gradient: Array


class NumbaBackend:
    """Kernels that Numba compiles, a cell at a time, on first use."""

    name = "numba"
    same_bits = True

    def pack(self, plan: Plan, parameters: Mapping[str, Array], sizes: Sizes, dtype: np.dtype[Any]) -> NumbaPack:
        """See the contract."""
        return NumbaPack(program_of(plan, np.dtype(dtype).name), parameters, sizes)

    def tape(self, pack: NumbaPack, rows: Rows, x: Array, reverse: bool) -> Tape:
        """See the contract."""
        kept = aligned((rows.total, pack.kept_width), pack.dtype)
        history = tuple(aligned((rows.batch + rows.total, width), pack.dtype) for width in pack.state_pads)
        return Tape(pack, rows, x, reverse, kept, history)

    def forward(
        self, pack: NumbaPack, rows: Rows, x: Array, y: Array, state: States, final: States, reverse: bool,
        tape: Tape | None = None,
    ) -> Part:  # fmt: skip
        """See the contract."""
        frame = pack.frame.copy()
        frame[f.REVERSE] = reverse
        points = pack.points
        points.time_major(frame, f.X, x)
        points.time_major(frame, f.Y, y)
        if tape is not None:
            frame[f.RECORD], frame[f.SPAN] = 1, rows.batch
            frame[f.KEPT_BASE] = address(tape.kept)
        for k, fields in enumerate(pack.state_fields):
            points.state(frame, fields + f.STATE_INITIAL, state[k])
            points.state(frame, fields + f.STATE_FINAL, final[k])
            if tape is not None:
                points.state(frame, fields + f.STATE_BASE, tape.history[k])
        return _Bound(pack.forward, pack, frame, rows, (x, y, state, final, tape))

    def backward(self, tape: Tape, dy: Array, dfinal: States, dx: Array, dstate: States) -> tuple[Work, Part]:
        """See the contract."""
        pack, rows = tape.pack, tape.rows
        frame = pack.training_frame.copy()
        frame[f.REVERSE], frame[f.SPAN] = tape.reverse, rows.batch
        work = Work(aligned((rows.total, pack.gradient_width), pack.dtype))
        carries = tuple(aligned((rows.batch, width), pack.dtype) for width in pack.adjoint_pads)
        points = pack.points
        points.time_major(frame, f.DY, dy)
        points.time_major(frame, f.DX, dx)
        frame[f.KEPT_BASE], frame[f.GRADIENT_BASE] = address(tape.kept), address(work.gradient)
        for k, fields in enumerate(pack.state_fields):
            points.state(frame, fields + f.STATE_BASE, tape.history[k])
            points.state(frame, fields + f.ADJOINT_BASE, carries[k])
            points.state(frame, fields + f.ADJOINT_INITIAL, dfinal[k])
            points.state(frame, fields + f.ADJOINT_FINAL, dstate[k])
        return work, _Bound(pack.backward, pack, frame, rows, (tape, work, carries, dy, dfinal, dx, dstate), True)

    def gradients(self, tape: Tape, work: Work, into: Mapping[str, Array]) -> list[Callable[[], None]]:
        """See the contract."""
        return _Gradients(tape, work).tasks(into)


class _Bound:
    """A kernel bound to its buffers: run(low, high). Runs of disjoint rows may be under way at once."""

    def __init__(self, kernel: Kernel, pack: NumbaPack, frame: Array, rows: Rows, held: Any, backward: bool = False):
        self.kernel, self.program, self.frame, self.backward = kernel, pack.program, frame, backward
        self.batch, self.longest = rows.batch, rows.longest
        self.held = pack, rows, held  # the buffers, alive as long as the addresses in the frame are
        frame[f.ORDER : f.LONGEST + 1] = rows_fields(rows)
        self.most = pack.most_rows  # row steps between two checkpoints

    def __call__(self, low: int, high: int) -> None:
        if high - low == self.batch and self.batch * self.longest <= self.most:
            ends = (self.longest, 0) if self.backward else (0, self.longest)
            self.kernel(self.program, self.frame, low, high, *ends)
        else:
            self._in_pieces(low, high)

    def _in_pieces(self, low: int, high: int) -> None:
        """Cut rows and time so that a checkpoint comes soon after each piece."""
        longest, frame = self.longest, self.frame.copy()
        for first in range(low, high, self.most):
            last = min(high, first + self.most)
            steps = max(1, self.most // (last - first))
            scratch = aligned(((last - first) * int(frame[f.SCRATCH_BYTES]),), np.dtype(np.uint8))
            frame[f.SCRATCH] = address(scratch)  # the state lives on from piece to piece
            for done in range(0, max(longest, 1), steps):
                ends = done, min(done + steps, longest)
                start, stop = (longest - ends[0], longest - ends[1]) if self.backward else ends
                self.kernel(self.program, frame, first, last, start, stop)
                checkpoint()


def rows_fields(rows: Rows) -> Array:
    """The fields ORDER to LONGEST, made once for each `Rows`."""
    found = _rows_fields.get(rows)
    if found is None:
        tables = [address(table) for table in (rows.order, rows.lengths, rows.active, rows.base)]
        found = _rows_fields[rows] = np.array([*tables, rows.batch, rows.longest], np.int64)
    return found


_rows_fields: weakref.WeakKeyDictionary[Rows, Array] = weakref.WeakKeyDictionary()


class _Gradients:
    """The weight gradients of one scan, cut into tasks."""

    def __init__(self, tape: Tape, work: Work) -> None:
        self.tape, self.work, self.pack = tape, work, tape.pack
        self.plan, self.rows = tape.pack.plan, tape.rows
        self.outer = outer_of(tape.pack.dtype.name)
        self.kernel = kernel_of(scan.weight_gradient, self.outer, *[types.int64] * 9)
        self._offsets: dict[Any, Array] = {}

    def tasks(self, into: Mapping[str, Array]) -> list[Callable[[], None]]:
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
            found.append(partial(self._sums, into))
        return found

    def _product(self, column: int, place: tuple[str, int], into: Array) -> list[Callable[[], None]]:
        """Tasks for a[:, column] x b: rows of ``into`` in pieces small enough for a checkpoint after each."""
        most = max(8, int(PIECE / max(self.rows.total * into.shape[1], 1)) // 8 * 8)
        b, offsets = self._right(place)
        return [partial(self._piece, column, first, b, offsets, into[first : first + most])
                for first in range(0, into.shape[0], most)]  # fmt: skip

    def _piece(self, column: int, first: int, b: Array, offsets: Array, into: Array) -> None:
        a = address(self.work.gradient) + (self.pack.gradient_offsets[column] + first) * self.pack.dtype.itemsize
        if self.rows.total == 0:
            into[...] = 0
            return
        stride = self.work.gradient.strides[0]
        table, line = address(offsets), into.strides[0]
        self.kernel(self.outer, a, stride, address(b), table, len(offsets), address(into), line, *into.shape)
        checkpoint()

    def _right(self, place: tuple[str, int]) -> tuple[Array, Array]:
        """What a product multiplied: an array and, by compact number, the byte offset of each row in it."""
        kind, index = place
        tape, rows = self.tape, self.rows
        if place not in self._offsets:
            if kind == "x":
                strides = tape.x.strides[:2]
                found = scan.step_offsets(rows.order, rows.lengths, rows.active, rows.base, tape.reverse, *strides)
            elif kind == "state":
                found = scan.history_offsets(rows.active, rows.base, rows.batch, tape.history[index].strides[0])
            else:
                found = np.arange(rows.total, dtype=np.int64) * tape.kept.strides[0]
                found += self.pack.kept_offsets[index] * self.pack.dtype.itemsize
            self._offsets[place] = found
        array = tape.x if kind == "x" else tape.history[index] if kind == "state" else tape.kept
        return array, self._offsets[place]

    def _sums(self, into: Mapping[str, Array]) -> None:
        """The gradients of biases and other vectors: sums over all rows, as a product with a row of ones."""
        gradient, hidden, count = self.work.gradient, self.pack.sizes.hidden_size, self.rows.total
        sums = np.zeros((1, gradient.shape[1]), self.pack.dtype)
        if count:
            one, offsets = np.ones(1, self.pack.dtype), np.arange(count, dtype=np.int64) * gradient.strides[0]
            table, line = address(offsets), sums.strides[0]
            self.kernel(self.outer, address(one), 0, address(gradient), table, count, address(sums), line, *sums.shape)
        columns = self.pack.gradient_offsets
        for index, column in enumerate(self.plan.input_columns if "bias" in into else ()):
            into["bias"][index * hidden : (index + 1) * hidden] = sums[0, columns[column] : columns[column] + hidden]
        for name, column in self.plan.vector_columns.items():
            if name in into:
                into[name][...] = sums[0, columns[column] : columns[column] + hidden]
