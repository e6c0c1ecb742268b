"""The threads that help a compiled backend: workers that wait for a job within compiled code, awake for a moment.

To wake a sleeping thread takes longer than many a call. So a worker that has done its job looks for the next one for a
fraction of a millisecond, without the interpreter, and only then goes to sleep. A caller takes those that are awake,
and goes on without the others: the bits do not depend on who computes what. Sleepers are woken by a long call, and by
one that comes soon after another. A short one after a pause goes alone: it would be over before they come. What is
long and short is said in `worth`; what one worker is, in `workers`.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any
from weakref import WeakSet

import numpy as np

from fastrnn.backends.contract import Array, Rows, cuts
from fastrnn.backends.tiled import box as bx
from fastrnn.backends.tiled import frame as f
from fastrnn.backends.tiled import worth
from fastrnn.backends.tiled.backward import BackwardScan, run_in_order
from fastrnn.backends.tiled.box import NOBODY
from fastrnn.backends.tiled.native import Native
from fastrnn.backends.tiled.room import aligned
from fastrnn.backends.tiled.scan import Scan
from fastrnn.backends.tiled.sums import Products, groups, joined, shares
from fastrnn.backends.tiled.workers import Worker, hired
from fastrnn.backends.tiled.worth import Worth
from fastrnn.reuse import address
from fastrnn.threads import checkpoint

HEAD = 8_000_000  # multiply-adds of a piece while sleepers wake, about as long as they take to come
COMING = 8_000  # looks for a worker that has been woken, some 0.2 to 0.4 ms
# More long waits than these, one in eight steps or a quarter of the time, and a thread of the team had no processor.
WAITS_PER_STEP, WAITS_PER_WORK = 1 / 8, 1 / 6_000_000
STRIKES, FORGIVEN = 3.0, 0.1  # so many pieces with a thread that had no processor; what a good one makes up for
IN_VAIN = 3  # so many wakings of workers that no piece of a call has found awake
INT64 = np.dtype(np.int64)


class Crew(Worth):
    """The workers of one backend. Any number of threads may call it at once; a worker helps one of them at a time."""

    def __init__(self, native: Native) -> None:
        super().__init__(native)
        _crews.add(self)

    def _forget(self) -> None:
        """Have no workers: at first, and in a forked child."""
        super()._forget()
        self._lock = threading.Lock()
        self._workers: list[Worker] = []
        self.all_boxes = NOBODY
        self._strikes = 0.0  # of late, calls in which a processor was missing
        self._in_vain = 0  # how often workers have been woken since one last took part in a call

    def boxes(self, count: int) -> Array:
        """The boxes of ``count`` workers at least; of all there are, where the system has no thread for another one."""
        if len(self.all_boxes) < count:
            self._hire(count)
        return self.all_boxes

    def _hire(self, count: int) -> None:
        """Make the workers that are missing, as far as there are threads for them."""
        with self._lock:
            while len(self._workers) < count and (worker := hired(self.native, len(self._workers))):
                self._workers.append(worker)
            if not self._workers:
                self.go_alone()
            elif len(self._workers) > len(self.all_boxes):  # what is bound to the same boxes need not be bound again
                self.all_boxes = np.array([address(worker.box) for worker in self._workers], np.int64)

    def wake(self, count: int) -> bool:
        """Wake those of so many workers that sleep; whether any did.

        An interrupt may come after any of these lines. A worker whose box says that it is being woken, but which nobody
        has called, is called by the next one who needs it.
        """
        if self._in_vain >= IN_VAIN:  # there is no processor for them: they come late, look for a job, and sleep again
            self._in_vain = 0
            self.go_alone()
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
        if not piece and work > worth.WORTH_EXPECTING:
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
        if work > worth.WORTH_EXPECTING and now >= self._alone_until:
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
            self.go_alone()
        return members

    def went_well(self, pieces: int, shared: int) -> None:
        """So many pieces of work had a processor for each of their threads; so many steps of them were shared."""
        self._strikes = max(0.0, self._strikes - FORGIVEN * pieces)
        if shared and self._workers:
            self.distance.shared(self._workers[0].box, shared)

    def run(self, parts: Sequence[Any], rows: Rows, threads: int) -> None:
        """Run scans over all rows, on at most so many threads. With one thread they may be any parts."""
        members, apart = 1, False
        if threads > 1 and rows.batch:
            one = parts[0]
            if self.divisible(len(parts) * rows.total * one.row_work, worth.WORTH_BINDING):
                members, apart = self.split(threads, rows, one.row_work, one.step_work, len(parts))
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
                part.alone(partial(self.run_products, threads=threads), worth.WORTH_WAKING)
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
        self._add_up(products, self.size(threads, sum([each.work for each in products]), worth.WORTH_BINDING))

    def _add_up(self, products: Sequence[Products], members: int) -> None:
        """Run products, on so many threads if it is worth that: those of one turn together."""
        far = self.distance.factor
        if members > 1 and self.divisible(sum([each.work for each in products]), worth.WORTH_BINDING, far):
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
