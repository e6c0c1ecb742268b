"""A kernel bound to its buffers, run whole or in pieces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np

from fastrnn.backends.contract import Array, Rows
from fastrnn.backends.tiled import frame as f
from fastrnn.backends.tiled.pack import TiledPack
from fastrnn.backends.tiled.room import Room
from fastrnn.threads import checkpoint

if TYPE_CHECKING:
    from fastrnn.backends.tiled.sums import Products

HEADS = 5  # short pieces of time in which workers may come that are being woken


class Scan:
    """One scan over its buffers: run(low, high). Of a forward scan runs of disjoint rows may be under way at once."""

    def __init__(self, pack: TiledPack, frame: Array, rows: Rows, held: Any) -> None:
        form = pack.form
        self.native, self.frame, self.rows = form.native, frame, rows
        self.held = pack, held  # the buffers, alive as long as the addresses in the frame are
        frame[f.ORDER : f.STEPS + 1] = rows.table
        self.most = form.most_rows  # row steps between two checkpoints
        # Multiply-adds of a row step, and of a step but for the input products.
        self.row_work = form.weight_count
        self.step_work = (form.weight_count - form.input_count) * rows.batch

    def __call__(self, low: int, high: int) -> None:
        rows = self.rows
        if high - low == rows.batch and rows.batch * rows.longest <= self.most:
            self.native.run(self.frame, low, high, 0, rows.longest)
        else:
            self._in_pieces(low, high)

    @property
    def work(self) -> int:
        """Multiply-adds of the whole scan, about."""
        return self.rows.total * self.row_work

    def times(self, rows: int, first: int = 0) -> Iterator[tuple[int, int]]:
        """(start, stop) of pieces of time after which a checkpoint comes soon, with so many rows at once.

        With ``first``, the first `HEADS` of them have so many steps at most.
        """
        most, longest = max(1, self.most // max(rows, 1)), self.rows.longest
        heads = HEADS if first else 0
        start = 0
        while True:
            heads -= 1
            stop = min(start + (min(first, most) if heads >= 0 else most), longest)
            yield start, stop
            if stop == longest:
                break
            start = stop

    def copies(self, count: int, rows: int, members: int = 1) -> tuple[Array, Any]:
        """(frames, what they need): frames of their own for ``count`` runs of at most ``rows`` rows each.

        Each has scratch of its own, in which the states live on from piece to piece; the members of a team share it.
        """
        frames = np.repeat(self.frame[None], count, 0)
        steps = max(1, min(self.most // max(rows, 1), self.rows.longest))
        size = self.native.room(self.frame, rows, steps, members)
        scratch = Room(*[size] * (1 if members > 1 else count))
        frames[:, f.SCRATCH] = scratch.at
        return frames, scratch

    def make_room(self, members: int) -> None:
        """So many threads are to run it, in pieces of `times`."""

    def prepare(self, frames: Array, start: int, stop: int) -> None:
        """Make some frames of it ready for a piece."""

    def products(self, start: int, stop: int) -> list[Products]:
        """What is to be computed after a piece."""
        return []

    def _in_pieces(self, low: int, high: int) -> None:
        """Cut rows and time so that a checkpoint comes soon after each piece."""
        for first in range(low, high, self.most):
            last = min(high, first + self.most)
            frames, held = self.copies(1, last - first)
            for start, stop in self.times(last - first):
                self.native.run(frames[0], first, last, start, stop)
                checkpoint()
            del held
