"""Single time steps of a whole stack, bound once and then called with nothing but x and y."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from types import MethodType
from typing import TYPE_CHECKING, Any

import numpy as np

from fastrnn.backends.contract import Array, Rows, States, step_fits
from fastrnn.backends.tiled import frame as f
from fastrnn.backends.tiled.box import NOBODY
from fastrnn.backends.tiled.crew import INT64, Crew
from fastrnn.backends.tiled.pack import Room, TiledPack, aligned
from fastrnn.reuse import address
from fastrnn.threads import get_num_threads

if TYPE_CHECKING:
    from fastrnn.backends.tiled.backend import TiledBackend


# Multiply-adds in each thread for which its part of a step is worth being handed over, which takes some 1 us.
WORTH_STEPPING = 100_000
# Multiply-adds up to which a step keeps the interpreter's lock, some 2 us: two threads that each step a session hand it
# to each other otherwise, and do a third less between them than one of them alone (measured).
BRIEF = 100_000
# Multiply-adds of shared steps, a quarter of a millisecond, that may go well before the crew is asked and told again:
# that takes a microsecond, a third of a small step, and workers that wait for a job are awake whatever the clock says.
WORTH_ASKING = 25_000_000
# Multiply-adds, some 60 us, from which on a step wakes sleeping workers at its begin, so that the next one finds them.
# A smaller one sees to that only when it has gone alone.
WORTH_ROUSING = 8_000_000


class Steps:
    """See `contract.StepOf`. What x and y are, compiled code looks at: it takes less than a small step."""

    run: Callable[[Any, Any], int]

    def __init__(self, crew: Crew, packs: Sequence[TiledPack], rows: Rows, state: States, final: States) -> None:
        self.crew, self.rows = crew, rows
        self.total = sum(pack.weight_count for pack in packs) * rows.batch
        each = min(pack.weight_count for pack in packs)
        self.work = each * (2 if rows.batch == 1 else rows.batch)  # a lone row takes as long as two: it reads as much
        self._ends = _ends(packs)
        self._dtype = packs[0].dtype
        between = [aligned((rows.batch, _outputs(pack)), self._dtype) for pack in packs[:-1]]
        self.held: list[Any] = [list(packs), state, final, between]
        frames = [self._frame(pack, index, between, state, final) for index, pack in enumerate(packs)]
        self._frames = np.stack(frames)[:, None]
        self._by_one = self._call(self._frames)
        self._teams: dict[int, tuple[Array, Any]] = {}  # the calls by so many, and what these need
        self._boxes = NOBODY
        # The steps that are shared before the crew is asked again, how many of these are left, what they are called
        # with, how many take part, and of how many threads.
        self._stretch = WORTH_ASKING // max(self.total, 1) if self.total <= WORTH_ROUSING else 0
        self._left, self._call_by_team, self._members, self._threads = 0, self._by_one, 1, 1
        native = crew.native
        # As a method of its first argument: a partial object takes longer.
        self._alone: Callable[[Any, Any], int] = MethodType(
            native.brief_step if self.total <= BRIEF else native.step, self._by_one
        )
        self.run = self._shared if crew.divisible(self.work, WORTH_STEPPING) else self._alone

    def _shared(self, x: object, y: object) -> int:
        """By several threads, where that is worth it."""
        threads, crew = get_num_threads(), self.crew
        if self._left and threads == self._threads and self._boxes is crew.all_boxes:
            found: int = crew.native.step(self._call_by_team, x, y)
            if found == self._members:
                self._left -= 1
                crew.last = perf_counter()
            elif found:
                self._tell()
                members = crew.size(threads, self.work, WORTH_STEPPING, at_once=True)
                if crew.learn(found, self.total) < members:
                    crew.wake(members - 1)
            return found
        if self._members > 1:
            self._tell()
        members = crew.size(threads, self.work, WORTH_STEPPING, at_once=True) if threads > 1 else 1
        if members == 1:
            return self._alone(x, y)
        if self.total > WORTH_ROUSING:
            crew.begin(members - 1, self.total, 1)
        team = self._by_team(members)
        found = crew.native.step(team, x, y)
        if found and crew.learn(found, self.total) < members:
            crew.wake(members - 1)
        if found == members:
            self._call_by_team, self._members, self._threads, self._left = team, members, threads, self._stretch
        return found

    def _tell(self) -> None:
        """Tell the crew of the steps that it was not asked about: all have gone well."""
        good = self._stretch - self._left
        self.crew.went_well(good, good)
        self._left, self._members = 0, 1

    def _frame(self, pack: TiledPack, index: int, between: list[Array], state: States, final: States) -> Array:
        frame, point = pack.frame.copy(), self.crew.native.point
        frame[f.ORDER : f.LONGEST + 1] = self.rows.table
        frame[f.X_ROW], frame[f.Y_ROW] = (width * self._dtype.itemsize for width in self._ends)
        for field, at in ((f.X, index - 1), (f.Y, index)):
            if 0 <= at < len(between):
                frame[field], frame[field + 2] = address(between[at]), between[at].strides[0]
        for k, fields in enumerate(pack.state_fields):
            point(frame, fields + f.STATE_INITIAL, state[k][index], fields + f.STATE_FINAL, final[k][index])
            frame[fields + f.STATE_STRIDE] = frame[fields + f.STATE_INITIAL_ROW]  # that of `spaced`
        frame[f.IN_PLACE], frame[f.SCRATCH_BYTES] = 1, pack.kept_stride
        scratch = Room(self.crew.native.room(frame, self.rows.batch, 1, f.MOST_MEMBERS))
        self.held.append(scratch)
        frame[f.SCRATCH] = scratch.at[0]
        return frame

    def _by_team(self, members: int) -> Array:
        """The call by so many."""
        boxes = self.crew.boxes(members - 1)
        if boxes is not self._boxes:  # there are more of them now
            self._boxes, self._teams = boxes, {}
        found = self._teams.get(members)
        if found is None:
            counters = aligned((members, f.COUNTER_BYTES // 8), INT64)
            frames = np.ascontiguousarray(np.repeat(self._frames, members, 1))
            frames[:, :, f.COUNTERS] = address(counters)
            found = self._teams[members] = self._call(frames, boxes), (frames, counters)
        return found[0]

    def _call(self, frames: Array, boxes: Array = NOBODY) -> Array:
        """What a step is called with: see `frame.STEP_FRAMES`."""
        arrays = [id(np.ndarray), self._dtype.num, self.rows.batch, *self._ends]
        return np.array([address(frames), *frames.shape, address(boxes), len(boxes), *arrays], INT64)


class LongSteps:
    """As `Steps`, for so many rows that a step has to be cut for Ctrl-C: layer after layer, each a scan of its own."""

    def __init__(
        self, backend: TiledBackend, packs: Sequence[TiledPack], rows: Rows, state: States, final: States
    ) -> None:
        self.backend, self.packs, self.rows, self.state, self.final = backend, packs, rows, state, final
        self.between = [np.empty((1, rows.batch, _outputs(pack)), pack.dtype) for pack in packs[:-1]]

    def run(self, x: Any, y: Any) -> int:
        """See `contract.StepOf`."""
        if not step_fits(x, y, self.packs[0].dtype, self.rows.batch, *_ends(self.packs)):
            return 0
        if np.may_share_memory(x, y):  # pieces of y would be written before all of x is read
            x = x.copy()
        x = x[None]
        for index, (pack, out) in enumerate(zip(self.packs, [*self.between, y[None]], strict=True)):
            self.backend.scan(pack, self.rows, x, out, self.state, self.final, index, False, get_num_threads())
            x = out
        return 1


def _ends(packs: Sequence[TiledPack]) -> tuple[int, int]:
    """The widths of x and y."""
    return packs[0].sizes.input_size, _outputs(packs[-1])


def _outputs(pack: TiledPack) -> int:
    return pack.sizes.width(pack.plan.cell.state_widths[0])
