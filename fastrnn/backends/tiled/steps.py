"""Single time steps of a whole stack, bound once and then called with nothing but x and y."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from fastrnn.backends.contract import TURN, Array, Rows, States, step_fits
from fastrnn.backends.tiled import frame as f
from fastrnn.backends.tiled.box import NOBODY
from fastrnn.backends.tiled.crew import INT64, Crew
from fastrnn.backends.tiled.pack import TiledPack
from fastrnn.backends.tiled.room import Room, aligned
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

    def __init__(
        self, crew: Crew, packs: Sequence[TiledPack], rows: Rows, states: tuple[States, States], turns: Array
    ) -> None:
        self.crew, self.rows, self.turns = crew, rows, turns
        self.total = sum(pack.form.weight_count for pack in packs) * rows.batch
        each = min(pack.form.weight_count for pack in packs)
        self.work = each * (2 if rows.batch == 1 else rows.batch)  # a lone row takes as long as two: it reads as much
        self._ends = _ends(packs)
        self._dtype = packs[0].form.dtype
        between = [aligned((rows.batch, _outputs(pack)), self._dtype) for pack in packs[:-1]]
        frames = [self._frame(pack, index, between) for index, pack in enumerate(packs)]
        room = crew.native.room
        scratch = Room(*[room(frame, rows.batch, 1, f.MOST_MEMBERS) for frame in frames])
        for frame, at in zip(frames, scratch.at, strict=True):
            frame[f.SCRATCH] = at
        self.needed = list(packs), rows, states, turns, between, scratch
        one, other = states
        self._frames = np.stack([self._at_turn(frames, packs, *turn) for turn in ((one, other), (other, one))])
        # The steps that are shared before the crew is asked again, how many of these are left, what they are, how many
        # take part, and of how many threads.
        self._stretch = WORTH_ASKING // max(self.total, 1) if self.total <= WORTH_ROUSING else 0
        self._left, self._members, self._threads = 0, 1, 1
        shared = crew.divisible(self.work, WORTH_STEPPING)
        self.atomic = self.total <= BRIEF and not shared
        self._alone = self._by_team = self._step(1, self.total <= BRIEF)
        self._teams: dict[int, Callable[[Any, Any], int]] = {}  # the steps by so many
        self._boxes = NOBODY
        self.run = self._shared if shared else self._alone

    def _shared(self, x: object, y: object) -> int:
        """By several threads, where that is worth it."""
        threads, crew = get_num_threads(), self.crew
        if self._left and threads == self._threads and self._boxes is crew.all_boxes:
            found = self._by_team(x, y)
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
        by_team = self._team(members)
        found = by_team(x, y)
        if found and crew.learn(found, self.total) < members:
            crew.wake(members - 1)
        if found == members:
            self._by_team, self._members, self._threads, self._left = by_team, members, threads, self._stretch
        return found

    def _tell(self) -> None:
        """Tell the crew of the steps that it was not asked about: all have gone well."""
        good = self._stretch - self._left
        self.crew.went_well(good, good)
        self._left, self._members = 0, 1

    def _frame(self, pack: TiledPack, index: int, between: list[Array]) -> Array:
        """The frame of a layer, but for its states."""
        frame = pack.frame.copy()
        frame[f.ORDER : f.STEPS + 1] = self.rows.table
        frame[f.X_ROW], frame[f.Y_ROW] = (width * self._dtype.itemsize for width in self._ends)
        for field, at in ((f.X, index - 1), (f.Y, index)):
            if 0 <= at < len(between):
                frame[field], frame[field + 2] = address(between[at]), between[at].strides[0]
        frame[f.IN_PLACE], frame[f.SCRATCH_BYTES] = 1, pack.form.kept_stride
        return frame

    def _at_turn(self, frames: list[Array], packs: Sequence[TiledPack], state: States, final: States) -> Array:
        """The frames of all layers, (layers, 1, size), from one of the states to the other."""
        found = np.stack(frames)[:, None]
        for index, pack in enumerate(packs):
            frame = found[index, 0]
            for k, fields in enumerate(pack.form.state_fields):
                begin, end = state[k][index], final[k][index]
                self.crew.native.point(frame, fields + f.STATE_INITIAL, begin, fields + f.STATE_FINAL, end)
                frame[fields + f.STATE_STRIDE] = frame[fields + f.STATE_INITIAL_ROW]  # that of `spaced`
        return found

    def _team(self, members: int) -> Callable[[Any, Any], int]:
        """The step by so many."""
        boxes = self.crew.boxes(members - 1)
        if boxes is not self._boxes:  # there are more of them now
            self._boxes, self._teams = boxes, {}
        found = self._teams.get(members)
        if found is None:
            found = self._teams[members] = self._step(members, False, boxes)
        return found

    def _step(self, members: int, brief: bool, boxes: Array = NOBODY) -> Callable[[Any, Any], int]:
        """The step by so many, who have a frame each: see `frame.STEP_FRAMES`."""
        frames = self._frames if members == 1 else np.repeat(self._frames, members, 2)
        counters = aligned((members, f.COUNTER_BYTES // 8), INT64)
        if members > 1:
            frames[..., f.COUNTERS] = address(counters)
        arrays = [id(np.ndarray), self._dtype.num, self.rows.batch, *self._ends]
        numbers = [address(frames), *frames.shape[1:], address(boxes), len(boxes), address(self.turns), *arrays]
        needed = self.needed, frames, counters, boxes
        return self.crew.native.bound_step(np.array(numbers, INT64), needed, brief)


class LongSteps:
    """As `Steps`, for so many rows that a step has to be cut for Ctrl-C: layer after layer, each a scan of its own."""

    atomic = False

    def __init__(
        self, backend: TiledBackend, packs: Sequence[TiledPack], rows: Rows, states: tuple[States, States], turns: Array
    ) -> None:
        self.backend, self.packs, self.rows, self.states, self.turns = backend, packs, rows, states, turns
        self.between = [np.empty((1, rows.batch, _outputs(pack)), pack.form.dtype) for pack in packs[:-1]]

    def run(self, x: Any, y: Any) -> int:
        """See `contract.StepOf`."""
        if not step_fits(x, y, self.packs[0].form.dtype, self.rows.batch, *_ends(self.packs)):
            return 0
        if np.may_share_memory(x, y):  # pieces of y would be written before all of x is read
            x = x.copy()
        x = x[None]
        turn = self.turns[TURN]
        state, final = self.states[turn], self.states[1 - turn]
        for index, (pack, out) in enumerate(zip(self.packs, [*self.between, y[None]], strict=True)):
            self.backend.scan(pack, self.rows, x, out, state, final, index, False, get_num_threads())
            x = out
        self.turns[TURN] ^= 1
        return 1


def _ends(packs: Sequence[TiledPack]) -> tuple[int, int]:
    """The widths of x and y."""
    return packs[0].form.sizes.input_size, _outputs(packs[-1])


def _outputs(pack: TiledPack) -> int:
    return pack.form.sizes.width(pack.form.plan.cell.state_widths[0])
