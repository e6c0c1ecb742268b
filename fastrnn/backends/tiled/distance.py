"""How far apart the processors of a crew are, measured again and again while it is at work.

A host moves virtual processors about: the same two hand a word to each other in 50 ns now and in 200 ns a minute later.
What is worth sharing in the first case makes a call slower in the second.
"""

from __future__ import annotations

import time

from fastrnn.backends.contract import Array
from fastrnn.backends.tiled.native import Native

NEAR = 140e-9  # seconds of a job without work, there and back, between processors that are near one another
FARTHEST = 20 * NEAR  # what takes longer has been disturbed: a thread had no processor
ROUNDS, VOLLEYS = 16, 3  # the least of some volleys counts: what disturbs can only make them longer
EVERY = 2_000  # short calls between two measurements


class Distance:
    """As a factor: how many times as long as between near processors a job takes there and back, at least 1."""

    def __init__(self, native: Native) -> None:
        self.factor = 1.0
        self._native = native
        self._measure_in = 0  # shared calls
        self._try_in = EVERY  # calls that would be shared by near processors

    def shared(self, box: Array, calls: int = 1) -> None:
        """Some calls more have been shared with the worker of a box, which waits: measure if it is time."""
        self._measure_in -= calls
        if self._measure_in <= 0:
            self._measure_in = EVERY
            took = [self._one(box) for _ in range(VOLLEYS)]
            known = [seconds for seconds in took if 0.0 < seconds < FARTHEST]
            if known:
                self.factor = max(1.0, min(known) / NEAR)

    def too_far(self) -> None:
        """A call goes alone that near processors would share. After many, one is shared, to measure again."""
        self._try_in -= 1
        if self._try_in <= 0:
            self._try_in, self._measure_in, self.factor = EVERY, 0, 1.0

    def _one(self, box: Array) -> float:
        """Seconds of a round; 0 if the worker does not wait."""
        begin = time.perf_counter()
        if not self._native.volley(box, ROUNDS):
            return 0.0
        return (time.perf_counter() - begin) / ROUNDS
