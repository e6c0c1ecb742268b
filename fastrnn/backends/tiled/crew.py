"""The threads that help a compiled backend: workers that wait for a job within compiled code, awake for a moment.

To wake a sleeping thread takes longer than many a call. So a worker that has done its job looks for the next one for a
fraction of a millisecond, without the interpreter, and only then goes to sleep. A caller takes those that are awake,
and goes on without the others: the bits do not depend on who computes what. Sleepers are woken by a long call, and by
one that comes soon after another. A short one after a pause goes alone: it would be over before they come.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from queue import SimpleQueue
from typing import Any
from weakref import WeakSet

import numpy as np

from fastrnn.backends.contract import Array, Part, Rows, cuts
from fastrnn.backends.tiled import box as bx
from fastrnn.backends.tiled import frame as f
from fastrnn.backends.tiled.backward import BackwardScan, run_in_order
from fastrnn.backends.tiled.box import NOBODY
from fastrnn.backends.tiled.distance import Distance
from fastrnn.backends.tiled.native import Native
from fastrnn.backends.tiled.placing import Place
from fastrnn.backends.tiled.room import aligned
from fastrnn.backends.tiled.scan import Scan
from fastrnn.backends.tiled.sums import Products, groups, joined, shares
from fastrnn.reuse import address
from fastrnn.threads import checkpoint, new_thread

LOOKS = 30_000  # of a worker that has nothing to do, before it sleeps: some 0.7 to 1.5 ms
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
HEAD = 8_000_000  # multiply-adds of a piece while sleepers wake, about as long as they take to come
COMING = 8_000  # looks for a worker that has been woken, some 0.2 to 0.4 ms
SOON = 0.002  # seconds within which calls come one upon the other
FARTHER = 0.45  # how much more a call has to be worth, once, for every time that processors are farther apart
# More long waits than these, one in eight steps or a quarter of the time, and a thread of the team had no processor.
WAITS_PER_STEP, WAITS_PER_WORK = 1 / 8, 1 / 6_000_000
STRIKES, FORGIVEN = 3.0, 0.1  # so many pieces with a thread that had no processor; what a good one makes up for
IN_VAIN = 3  # so many wakings of workers that no piece of a call has found awake
PAUSE = 0.1  # seconds for which calls then go on alone
WORTH_APART = 2_500_000  # multiply-adds in each thread for rows of its own, at whose end nobody learns who was late
ROWS_APART = 24  # rows for each thread, from which on threads have rows of their own and meet only at the end
INT64 = np.dtype(np.int64)


@lru_cache(maxsize=1)
def processors() -> int:
    """How many processors this process may use. A forked child looks again: it may be kept to others."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:  # not on this system
        return os.cpu_count() or 1


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=processors.cache_clear)


class _Worker:
    """A thread, its box, and the queue at which it sleeps."""

    def __init__(self, thread: threading.Thread, box: Array, calls: SimpleQueue[None]) -> None:
        self.box, self._calls, self._place = box, calls, Place(thread.native_id)

    def wake(self) -> None:
        """Have it look for jobs: its box must be `box.WAKING`."""
        self._place.keep_off_caller()
        self._calls.put(None)

    def forgotten(self) -> bool:
        """Whether its box says that it is being woken, and nobody has called it: Ctrl-C kept him from that.

        Or he is about to, or it has heard him and is about to look for jobs. To call it once more then does no harm.
        """
        return self.box.item(bx.STATE) == bx.WAKING and self._calls.empty()


def _hired(native: Native, number: int) -> _Worker | None:
    """A new worker; None where the system has no thread left.

    The caller, not the thread, asks for what the thread runs: to get it may take Numba's lock of its compiler, which a
    child would wait for in vain if another thread held it at a fork.
    """
    box, calls = aligned((bx.WORDS,), INT64), SimpleQueue[None]()
    box[...] = 0
    thread = new_thread(_attend, (native.serve, box, calls), f"fastrnn-crew-{number}")
    return _Worker(thread, box, calls) if thread else None


def _attend(serve: Callable[[Array, int], None], box: Array, calls: SimpleQueue[None]) -> None:
    while True:
        calls.get()
        if box.item(bx.STATE) == bx.WAKING:  # else it was called twice, and has come for the first
            serve(box, LOOKS)


class Crew:
    """The workers of one backend. Any number of threads may call it at once; a worker helps one of them at a time."""

    def __init__(self, native: Native) -> None:
        self.native = native
        self._pace = HALVES if native.halves else 1.0
        self._forget()
        _crews.add(self)

    def _forget(self) -> None:
        """Have no workers: at first, and in a forked child."""
        self._lock = threading.Lock()
        self._workers: list[_Worker] = []
        self.all_boxes = NOBODY
        self.last = 0.0  # when the last call that had a use for workers began or, if it was shared, ended
        self._strikes = 0.0  # of late, calls in which a processor was missing
        self._in_vain = 0  # how often workers have been woken since one last took part in a call
        self._alone_until = 0.0  # when to try again after that
        self.distance = Distance(self.native)

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
        if not soon and work < (
            WORTH_EXPECTING if at_once else WORTH_WAKING
        ):  # the workers are asleep, and it is over before they come
            return 1
        if self._alone_until:
            if now < self._alone_until:
                return 1
            self._alone_until = 0.0
        if not self.divisible(work, least, self.distance.factor):
            self.distance.too_far()
            return 1
        return max(1, min(threads, int(work / (least * self._pace)), processors(), f.MOST_MEMBERS))

    def boxes(self, count: int) -> Array:
        """The boxes of ``count`` workers at least; of all there are, where the system has no thread for another one."""
        if len(self.all_boxes) < count:
            self._hire(count)
        return self.all_boxes

    def _hire(self, count: int) -> None:
        """Make the workers that are missing, as far as there are threads for them."""
        with self._lock:
            while len(self._workers) < count and (worker := _hired(self.native, len(self._workers))):
                self._workers.append(worker)
            if not self._workers:
                self._alone_until = time.perf_counter() + PAUSE
            elif len(self._workers) > len(self.all_boxes):  # what is bound to the same boxes need not be bound again
                self.all_boxes = np.array([address(worker.box) for worker in self._workers], np.int64)

    def wake(self, count: int) -> bool:
        """Wake those of so many workers that sleep; whether any did.

        An interrupt may come after any of these lines. A worker whose box says that it is being woken, but which nobody
        has called, is called by the next one who needs it.
        """
        if self._in_vain >= IN_VAIN:  # there is no processor for them: they come late, look for a job, and sleep again
            self._in_vain, self._alone_until = 0, time.perf_counter() + PAUSE
            return False
        rouse = self.native.rouse
        woken = [worker for worker in self._workers[:count] if rouse(worker.box) or worker.forgotten()]
        self._in_vain += bool(woken)
        for worker in woken:
            worker.wake()
        return bool(woken)

    def begin(self, count: int, work: float, steps: int) -> int:
        """Wake sleepers for a call of so many steps; how many of them its first pieces are to have, 0: as usual.

        It begins alone, and is joined in its next piece. Where a piece cannot be short, it waits for them, for a while.
        """
        if not self.wake(count):
            return 0
        piece = int(HEAD * steps / max(work, 1))
        if not piece and work > WORTH_EXPECTING:
            self._expect(count)
        return piece

    def gather(self, count: int, work: float) -> None:
        """The same before each further piece, which nobody can join any more once it has begun.

        Whoever was done with his part of the piece before a millisecond earlier than the others has gone to sleep.
        """
        now = time.perf_counter()
        if now < self._alone_until:
            return
        self.wake(count)
        if work > WORTH_EXPECTING and now >= self._alone_until:
            self._expect(count)

    def _expect(self, count: int) -> None:
        """Wait for those who are being woken, for a while."""
        if not all(self.native.expect(worker.box, COMING) for worker in self._workers[:count]):
            self._in_vain += 1

    def seen(self, members: int) -> None:
        """So many have taken part in a call."""
        if members > 1:
            self._in_vain = 0

    def learn(self, found: int, work: float, steps: int = 1) -> int:
        """From what a team has returned, `frame.WAITS`: how many they were. Where processors are missing, go on alone.

        The team's call had so many multiply-adds in so many steps.
        """
        waits, members = divmod(found, f.WAITS)
        self.seen(members)
        if waits <= steps * WAITS_PER_STEP + work * WAITS_PER_WORK:
            self.went_well(1, steps if members > 1 else 0)
            return members
        self._strikes += 1.0
        if self._strikes >= STRIKES:
            self._strikes = STRIKES - 1.0  # the first one to try again decides
            self._alone_until = time.perf_counter() + PAUSE
        return members

    def went_well(self, pieces: int, shared: int) -> None:
        """So many pieces of work had a processor for each of their threads; so many steps of them were shared."""
        self._strikes = max(0.0, self._strikes - FORGIVEN * pieces)
        if shared and self._workers:
            self.distance.shared(self._workers[0].box, shared)

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

    def run(self, parts: Sequence[Part], rows: Rows, threads: int) -> None:
        """Run scans over all rows, on at most so many threads."""
        scans = [part for part in parts if isinstance(part, Scan)]
        members, apart = 1, False
        if threads > 1 and rows.batch and len(scans) == len(parts):
            one = scans[0]
            if self.divisible(len(scans) * rows.total * one.row_work, WORTH_BINDING):
                members, apart = self.split(threads, rows, one.row_work, one.step_work, len(scans))
            else:
                threads = 1  # nor are products worth it, of which there are as many
        self.go(parts, rows, threads, members, apart)

    def go(self, parts: Sequence[Any], rows: Rows, threads: int, members: int, apart: bool) -> None:
        """The same, once it is known what `split` says."""
        if members > 1:
            self.share(parts, members, apart)
            return
        for part in parts:
            if threads > 1 and isinstance(part, BackwardScan):
                part.alone(partial(self.run_products, threads=threads), WORTH_WAKING)
            else:
                part(0, rows.batch)

    def share(self, scans: Sequence[Scan], members: int, apart: bool) -> None:
        """Run scans over all rows on so many threads: directions and rows ``apart``, or one scan's units shared."""
        if apart:
            self._apart(scans, -(-members // len(scans)), members)
        else:
            self._shared(scans[0], members)
        self.last = time.perf_counter()

    def run_call(self, run: Callable[[Array, int], int], work: int, steps: int, members: int, apart: bool) -> bool:
        """A call of so much work that needs no checkpoint: run(boxes, members), as `Native.team_on`.

        By several threads, if all that are to help are awake, which compiled code makes ready in a quarter of the time
        that `share` takes; alone, if somebody sleeps and would come when it is over. Otherwise it is False, and nothing
        is done: others are to join it later.
        """
        boxes = self.boxes(members - 1)
        if bx.ASLEEP in [worker.box[bx.STATE] for worker in self._workers[: members - 1]]:
            if work >= HEAD:
                return False
            run(NOBODY, 1)
            self.wake(members - 1)
        elif self._noted(run(boxes, members), work, steps, apart) < members:
            self.wake(members - 1)
        self.last = time.perf_counter()
        return True

    def _noted(self, found: int, work: int, steps: int, apart: bool) -> int:
        """How many took part in a call."""
        if not apart:
            return self.learn(found, work, steps)
        self.seen(found)
        return found

    def _shared(self, scan: Scan, members: int) -> None:
        """One scan by a team."""
        batch = scan.rows.batch
        scan.make_room(members)
        frames, held = scan.copies(members, batch, members)
        counters = aligned((members, f.COUNTER_BYTES // 8), INT64)
        frames[:, f.COUNTERS] = address(counters)
        boxes = self.boxes(members - 1)
        first = self.begin(members - 1, scan.work, scan.rows.longest)
        for index, (start, stop) in enumerate(scan.times(batch, first)):
            steps = abs(stop - start)
            work = scan.work / scan.rows.longest * steps
            if index:
                self.gather(members - 1, work)
            scan.prepare(frames, start, stop)
            found = self.native.run_as_team(boxes, frames, 0, batch, start, stop)
            if self.learn(found, work, steps) < members:
                self.wake(members - 1)
            checkpoint()
            self._add_up(scan.products(start, stop), members)
        del held, counters

    def _apart(self, scans: Sequence[Scan], pieces: int, members: int) -> None:
        """Scans of both directions, and of ``pieces`` ranges of rows each, as a list."""
        rows = scans[0].rows
        ends = cuts(rows, pieces, scans[0].most)
        tallest = max(high - low for low, high in ends)
        for scan in scans:
            scan.make_room(members)
        made = [scan.copies(len(ends), tallest) for scan in scans]
        frames = np.concatenate([frames for frames, _ in made])
        own = frames.reshape(len(scans), len(ends), -1)
        ranges = np.empty((len(frames), 4), np.int64)
        ranges[:, :2] = ends * len(scans)
        work = sum(scan.work for scan in scans)
        boxes = self.boxes(members - 1)
        first = self.begin(members - 1, work, rows.longest)
        for index, (start, stop) in enumerate(scans[0].times(tallest, first)):
            if index:
                self.gather(members - 1, work / rows.longest * abs(stop - start))
            for scan, its_frames in zip(scans, own, strict=True):
                scan.prepare(its_frames, start, stop)
            ranges[:, 2:] = start, stop
            joined = self.native.run_list(boxes, frames, ranges, members)
            self.seen(joined)
            if joined < members:
                self.wake(members - 1)
            checkpoint()
            self._add_up([product for scan in scans for product in scan.products(start, stop)], members)
        del made

    def run_products(self, products: Sequence[Products], threads: int) -> None:
        """Run products of `BackwardScan.products` on as many threads as that is worth."""
        self._add_up(products, self.size(threads, sum([each.work for each in products]), WORTH_BINDING))

    def _add_up(self, products: Sequence[Products], members: int) -> None:
        """Run products, on so many threads if it is worth that: those of one turn together."""
        if members > 1 and self.divisible(sum([each.work for each in products]), WORTH_BINDING, self.distance.factor):
            for turn in range(1 + max([each.turn for each in products])):
                self._run_products(joined([each for each in products if each.turn == turn]), members)
        else:
            run_in_order(products)

    def _run_products(self, products: Products, members: int) -> None:
        """As lists that are not too long for a checkpoint after each."""
        boxes = self.boxes(members - 1)
        for group in groups(products.calls(), members):
            self.gather(members - 1, sum([call.work for call in group]))
            self.seen(products.run(shares(group, members), boxes, members))
            checkpoint()
        products.finish()


_crews: WeakSet[Crew] = WeakSet()


def _after_fork() -> None:
    for crew in list(_crews):
        crew._forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
