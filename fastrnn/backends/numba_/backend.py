"""The compiled backend: tapes, and the frames that bind a kernel to its buffers. The contract is in `contract`."""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fastrnn.backends.contract import Array, Part, Rows, States, Task
from fastrnn.backends.numba_ import frame as f
from fastrnn.backends.numba_.compile import Kernel
from fastrnn.backends.numba_.frame import address
from fastrnn.backends.numba_.pack import NumbaPack, aligned, program_of
from fastrnn.backends.numba_.sums import NumbaSums
from fastrnn.equations import Sizes
from fastrnn.plan import Plan
from fastrnn.threads import checkpoint


@dataclass(eq=False)
class Tape:
    """What a recording forward keeps: rows of kept values by compact number, and the history of every state."""

    pack: NumbaPack
    rows: Rows
    x: Array
    reverse: bool
    kept: Array  # (N, kept columns)
    history: States  # (B + N, padded width) each: the initial states, then the state after each step

    @property
    def nbytes(self) -> int:
        """See the contract."""
        return self.kept.nbytes + sum(array.nbytes for array in self.history)


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

    def gradients(self, tape: Tape, work: Work, into: Mapping[str, Array]) -> list[Task]:
        """See the contract."""
        return self.sums(into, tape.rows.total).add(tape, work)

    def sums(self, into: Mapping[str, Array], total: int) -> NumbaSums:
        """See the contract."""
        return NumbaSums(into, total)


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
