"""Single time steps of a whole stack, bound once and then called with nothing but x and y."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from fastrnn.backends.contract import Array, Rows, States
from fastrnn.backends.tiled import frame as f
from fastrnn.backends.tiled.crew import INT64, NOBODY, WORTH_WAKING, Crew
from fastrnn.backends.tiled.frame import address
from fastrnn.backends.tiled.pack import Room, TiledPack, aligned

if TYPE_CHECKING:
    from fastrnn.backends.tiled.backend import TiledBackend


# Multiply-adds up to which a step keeps the interpreter's lock, some 2 us: two threads that each step a session hand it
# to each other otherwise, and do a third less between them than one of them alone (measured).
BRIEF = 100_000


class Steps:
    """One time step of all layers, from one set of states to another: run(x, y), with ``threads`` at most.

    x and y are C-contiguous, (B, size) or, with one row, (size,). They may overlap.
    """

    def __init__(self, crew: Crew, packs: Sequence[TiledPack], rows: Rows, state: States, final: States) -> None:
        self.crew, self.rows, self.typed = crew, rows, packs[0].typed
        each = min(pack.weight_count for pack in packs)
        self.work = each * (2 if rows.batch == 1 else rows.batch)  # a lone row takes as long as two: it reads as much
        self.total = sum(pack.weight_count for pack in packs) * rows.batch
        between = [aligned((rows.batch, _outputs(pack)), pack.dtype) for pack in packs[:-1]]
        self.held: list[Any] = [list(packs), state, final, between]
        frames = [self._frame(pack, index, between, state, final) for index, pack in enumerate(packs)]
        self._frames = np.stack(frames)[:, None]
        self._by_one = _call(self._frames)
        self._teams: dict[int, tuple[int, Any]] = {}  # the calls by so many: their addresses, and what these need
        self._boxes = NOBODY
        self._alone: dict[int, Callable[[Array, Array], int]] = {}  # by the number of axes

    def run(self, x: Array, y: Array, threads: int) -> None:
        """From x to y."""
        if threads > 1:
            members = self.crew.size(threads, self.work)
            if members > 1:
                step = self.typed.step_2d if x.ndim == 2 else self.typed.step_1d
                if self.total > WORTH_WAKING:
                    self.crew.begin(members - 1, self.total, 1)
                if self.crew.learn(step(self._by_team(members), x, y), self.total) < members:
                    self.crew.wake(members - 1)
                return
        (self._alone.get(x.ndim) or self._bound(x.ndim))(x, y)

    def _bound(self, axes: int) -> Callable[[Array, Array], int]:
        """A step by the calling thread alone."""
        if self.total <= BRIEF:
            step = self.typed.brief_2d if axes == 2 else self.typed.brief_1d
        else:
            step = self.typed.step_2d if axes == 2 else self.typed.step_1d
        found = self._alone[axes] = partial(step, address(self._by_one))
        return found

    def _frame(self, pack: TiledPack, index: int, between: list[Array], state: States, final: States) -> Array:
        frame, point = pack.frame.copy(), pack.typed.point_2d
        frame[f.ORDER : f.LONGEST + 1] = self.rows.table
        for field, at in ((f.X, index - 1), (f.Y, index)):
            if 0 <= at < len(between):
                frame[field], frame[field + 2] = address(between[at]), between[at].strides[0]
        for k, fields in enumerate(pack.state_fields):
            point(frame, fields + f.STATE_INITIAL, state[k][index], fields + f.STATE_FINAL, final[k][index])
        scratch = Room(self.crew.native.room(frame, self.rows.batch, 1, f.MOST_MEMBERS))
        self.held.append(scratch)
        frame[f.SCRATCH] = scratch.at[0]
        return frame

    def _by_team(self, members: int) -> int:
        """The address of a call by so many."""
        boxes = self.crew.boxes(members - 1)
        if boxes is not self._boxes:  # there are more of them now
            self._boxes, self._teams = boxes, {}
        found = self._teams.get(members)
        if found is None:
            counters = aligned((members, f.COUNTER_BYTES // 8), INT64)
            frames = np.ascontiguousarray(np.repeat(self._frames, members, 1))
            frames[:, :, f.COUNTERS] = address(counters)
            call = _call(frames, boxes)
            found = self._teams[members] = address(call), (call, frames, counters)
        return found[0]


class LongSteps:
    """As `Steps`, for so many rows that a step has to be cut for Ctrl-C: layer after layer, each a scan of its own."""

    def __init__(
        self, backend: TiledBackend, packs: Sequence[TiledPack], rows: Rows, state: States, final: States
    ) -> None:
        self.backend, self.packs, self.rows, self.state, self.final = backend, packs, rows, state, final
        self.between = [np.empty((1, rows.batch, _outputs(pack)), pack.dtype) for pack in packs[:-1]]

    def run(self, x: Array, y: Array, threads: int) -> None:
        """From x to y."""
        if np.may_share_memory(x, y):  # pieces of y would be written before all of x is read
            x = x.copy()
        x = x[None]
        for index, (pack, out) in enumerate(zip(self.packs, [*self.between, y[None]], strict=True)):
            self.backend.scan(pack, self.rows, x, out, self.state, self.final, index, False, threads)
            x = out


def _call(frames: Array, boxes: Array = NOBODY) -> Array:
    """What a step is called with: see `frame.STEP_FRAMES`."""
    return np.array([address(frames), *frames.shape, address(boxes), len(boxes)], INT64)


def _outputs(pack: TiledPack) -> int:
    return pack.sizes.width(pack.plan.cell.state_widths[0])
