"""What is worth sharing, among how many threads, and how: by its work, when the last call was, and the machine."""

from __future__ import annotations

import os
import time
from functools import lru_cache

from fastrnn.backends.contract import Rows
from fastrnn.backends.tiled import frame as f
from fastrnn.backends.tiled.distance import Distance
from fastrnn.backends.tiled.native import Native

# Multiply-adds in each thread for which its part is worth being handed over: of a call that compiled code gets ready,
# which takes some 4 us, of its way back, and of what Python does, long calls and both directions, which takes some 20.
WORTH_CALLING, WORTH_RETURNING, WORTH_BINDING = 450_000, 2_000_000, 4_000_000
WORK_OF_A_BYTE = 8  # multiply-adds that take as long as to pack a byte of the weights
# For processors that are near one another; times `Distance.factor` where a call meets often.
WORTH_MEETING = 9_000  # multiply-adds in each thread for each meeting, of one row; and half of it for every further row
WORTH_MEETING_ROWS = 24_000  # the same for all rows, at most
# Rows that are computed at once: their step multiplies and adds as fast as products of many steps; fewer are slower.
TILE_ROWS = 4
# What is worth meeting for where each thread could have rows of its own and meet the others only at the end; twice that
# where it would have as many as are computed at once.
WORTH_TOGETHER = 200_000
# These, and `steps.WORTH_STEPPING`, are for processors that take vectors of 64 bytes whole. Where one is taken in two
# halves, as on a Zen 4, multiplying and adding takes twice as long, and this part of them is enough.
HALVES = 0.6
WORTH_WAKING = 40_000_000  # multiply-adds of a call for which sleepers are woken: 300 us; with one row, a millisecond
WORTH_EXPECTING = 25_000_000  # of a call that none can join later: they come before one thread would be half through
SOON = 0.002  # seconds within which calls come one upon the other
FARTHER = 0.45  # how much more a call has to be worth, once, for every time that processors are farther apart
PAUSE = 0.1  # seconds for which calls go on alone where workers cannot help
WORTH_APART = 2_500_000  # multiply-adds in each thread for rows of its own, at whose end nobody learns who was late
ROWS_APART = 24  # rows for each thread, from which on threads have rows of their own and meet only at the end


@lru_cache(maxsize=1)
def processors() -> int:
    """How many processors this process may use. A forked child looks again: it may be kept to others."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        return os.cpu_count() or 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=processors.cache_clear)


class Worth:
    """The judgement of a `crew.Crew`, and what it knows of the calls before. It has no threads."""

    def __init__(self, native: Native) -> None:
        self.native = native
        self._pace = HALVES if native.halves else 1.0
        self._forget()

    def _forget(self) -> None:
        """Know of no calls: at first, and in a forked child."""
        self.last = 0.0  # when the last call that had a use for workers began or, if it was shared, ended
        self._alone_until = 0.0  # when to try again where workers could not help
        self.distance = Distance(self.native)

    def go_alone(self) -> None:
        """Have calls go on alone for a while."""
        self._alone_until = time.perf_counter() + PAUSE

    def divisible(self, work: float, least: float, far: float = 1.0) -> bool:
        """Whether so much work is enough for two, each with the ``least`` worth handing over, so far apart."""
        return work >= 2 * least * self._pace * (1.0 + FARTHER * (far - 1.0))

    def worth_calling(self, work: float) -> bool:
        """Whether so much work of a call is enough for two that are near."""
        return work >= 2 * WORTH_CALLING * self._pace  # `divisible` would take longer, in each short call

    def worth_returning(self, work: float) -> bool:
        """Whether so much work of a way back is."""
        return work >= 2 * WORTH_RETURNING * self._pace

    def worth_packing(self, size: int) -> bool:
        """Whether so many bytes of weights to be packed are."""
        return self.divisible(WORK_OF_A_BYTE * size, WORTH_BINDING)

    def size(self, threads: int, work: float, least: float, at_once: bool = False) -> int:
        """How many threads so much work is to have, if each gets the ``least`` that is worth handing over.

        ``at_once`` says that none can join it later.
        """
        if threads < 2 or not self.divisible(work, least):
            return 1
        now = time.perf_counter()
        soon, self.last = now - self.last < SOON, now
        if not soon and work < (WORTH_EXPECTING if at_once else WORTH_WAKING):
            return 1  # the workers are asleep, and it is over before they come
        if self._alone_until:
            if now < self._alone_until:
                return 1
            self._alone_until = 0.0
        if not self.divisible(work, least, self.distance.factor):
            self.distance.too_far()
            return 1
        return max(1, min(threads, int(work / (least * self._pace)), processors(), f.MOST_MEMBERS))

    def split(
        self, threads: int, rows: Rows, row_work: int, step_work: float, directions: int = 1, bound: bool = True
    ) -> tuple[int, bool]:
        """How many threads scans are to have, and whether apart, each with rows or a direction of its own.

        The work is in multiply-adds: all of a row step, and that of all rows which is done step by step, not the
        products of many steps at once. ``bound`` says that it is Python that makes the scans ready.
        """
        work = directions * rows.total * row_work
        meeting = WORTH_MEETING * self._pace
        of_many_steps = rows.batch * row_work - step_work
        at_most = step_work + of_many_steps * rows.batch / TILE_ROWS  # of `shared` below, where rows are few
        if directions == 1 and rows.batch < TILE_ROWS and at_most < 2 * meeting:  # most small calls: time is dear
            return 1, False
        members = self.size(threads, work, WORTH_BINDING if bound else WORTH_CALLING)
        if members == 1:
            return 1, False
        far, enough = self.distance.factor, work >= WORTH_APART * members
        active = rows.total / rows.longest  # in a step, on average
        if directions > 1 or active >= ROWS_APART * members:
            return (members if enough else 1), True
        several = active >= 2 * members
        together = WORTH_TOGETHER * (2 if active >= TILE_ROWS * members else 1)
        if several and enough and step_work < together * self._pace * members * far:
            return members, True
        # The work between two steps, in multiply-adds that take as long as a step's.
        shared = (step_work + of_many_steps * min(active / TILE_ROWS, 1.0)) * active / rows.batch
        meeting = min(meeting * (active + 1) / 2, WORTH_MEETING_ROWS * self._pace)
        if shared >= meeting * members * far:
            return members, False
        if shared >= meeting * members:
            self.distance.too_far()
        return 1, False
