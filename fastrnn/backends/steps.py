"""Which values of x, y and the tape the steps of some rows are: index arithmetic on `Rows`, and nothing else.

*Compact* order puts step after step and, within a step, row after row, longest first; padding has no place in it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from fastrnn.backends.contract import Array, Rows

Index = Any  # what may stand between the brackets of an array


class Steps:
    """The steps of the sorted rows ``low`` to ``high - 1``."""

    def __init__(self, rows: Rows, low: int, high: int, reverse: bool) -> None:
        self.rows, self.low, self.high, self.reverse = rows, low, high, reverse
        counts = np.clip(rows.active - low, 0, high - low)
        self.counts = counts[: int(np.count_nonzero(counts))]
        self.starts = np.concatenate(([0], np.cumsum(self.counts)))
        self.even = rows.even
        self.places = self.places_of(0, high - low)

    def places_of(self, first: int, last: int) -> Index:
        """Where in the batch the rows ``first`` to ``last - 1``, counted from ``low``, stand."""
        if self.even:
            return slice(self.low + first, self.low + last)
        return self.rows.order[self.low + first : self.low + last]

    def compact(self, step: int, count: int) -> slice:
        """The compact numbers of one step in the tape of the whole batch."""
        start = int(self.rows.base[step]) + self.low
        return slice(start, start + count)

    def pieces(self, values: int) -> Iterator[Piece]:
        """All steps in order, in pieces of at most ``values`` valid steps, but of one step of all rows at least."""
        first, steps = 0, len(self.counts)
        while first < steps:
            last = int(np.searchsorted(self.starts, self.starts[first] + values, side="right")) - 1
            last = min(max(last, first + 1), first + 1024, steps)
            yield Piece(self, first, last)
            first = last


class Piece:
    """The steps ``first`` to ``last - 1`` of some rows."""

    def __init__(self, steps: Steps, first: int, last: int) -> None:
        self.all, self.first, self.last = steps, first, last
        rows = steps.rows
        self._counts: list[int] = steps.counts[self.first : self.last].tolist()
        self._starts: list[int] = (steps.starts[self.first : self.last] - steps.starts[self.first]).tolist()
        if steps.even:
            longest = rows.longest
            times = slice(longest - self.last, longest - self.first) if steps.reverse else slice(self.first, self.last)
            self._times: Index = times
            return
        counts = steps.counts[self.first : self.last]
        step = np.repeat(np.arange(self.first, self.last), counts)
        row = np.arange(len(step)) - np.repeat(np.asarray(self._starts, np.int64), counts) + steps.low
        self._times = rows.lengths[row] - 1 - step if steps.reverse else step
        self._places = rows.order[row]
        self._compact = rows.base[step] + row

    @property
    def compact(self) -> Index:
        """The compact numbers of these steps in the tape of the whole batch."""
        steps, rows = self.all, self.all.rows
        if steps.high - steps.low == rows.batch:
            return slice(int(rows.base[self.first]), int(rows.base[self.last]))
        if not steps.even:
            return self._compact
        step = np.arange(self.first, self.last)[:, None]
        return (rows.base[step] + np.arange(steps.low, steps.high)).ravel()

    def steps(self) -> Iterator[tuple[int, int, int]]:
        """For each step its number, where in this piece its rows begin, and how many they are."""
        return zip(range(self.first, self.last), self._starts, self._counts, strict=True)

    def take(self, x: Array) -> Array:
        """The values of (T, B, width) at these steps, (valid steps, width)."""
        if not self.all.even:
            return x[self._times, self._places]
        values = x[self._times, self.all.places]
        return (values[::-1] if self.all.reverse else values).reshape(-1, x.shape[2])

    def put(self, y: Array, values: Array) -> None:
        """Write (valid steps, width) to these steps of (T, B, width)."""
        if not self.all.even:
            y[self._times, self._places] = values
            return
        shaped = values.reshape(self.last - self.first, -1, y.shape[2])
        y[self._times, self.all.places] = shaped[::-1] if self.all.reverse else shaped

    def put_step(self, y: Array, step: int, start: int, values: Array) -> None:
        """Write the values of one step, which begins at ``start`` in this piece."""
        if not self.all.even:
            here = slice(start, start + len(values))
            y[self._times[here], self._places[here]] = values
        else:
            y[self.all.rows.longest - 1 - step if self.all.reverse else step, self.all.places] = values
