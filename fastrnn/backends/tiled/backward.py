"""Backward scans: a piece of time goes back, then what it leaves goes into the weight gradients, and so on.

A long scan never holds the gates' gradients of all steps. Where the weights are small those of a piece are still in a
cache when the weight gradients read them; their memory is that of the piece before. Most scans need no pieces: `whole`.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from fastrnn.backends.contract import Array
from fastrnn.backends.tiled import frame as f
from fastrnn.backends.tiled.outer import BLOCK
from fastrnn.backends.tiled.room import Room
from fastrnn.backends.tiled.scan import Scan
from fastrnn.backends.tiled.sums import Products, TiledSums, lines_of
from fastrnn.threads import checkpoint

if TYPE_CHECKING:
    from fastrnn.backends.tiled.backend import Tape
    from fastrnn.backends.tiled.form import Form

# Where the gradients of the weights fit in a second cache a piece is about what fits beside them, but at least so many
# rows, and so much work for each thread: some milliseconds, for to begin a piece takes some 30 us. Else the weights'
# gradients come from farther away in every piece, and it has to be long for that.
NEAR_BYTES, PIECE_BYTES, NEAR_ROWS, PIECE_WORK = 600 * 1024, 768 * 1024, 2 * BLOCK, 100_000_000
FAR_ROWS = 16 * BLOCK
WHOLE = 3  # so many pieces would take longer than one
MOST_BYTES = 32 << 20  # of gradients, where these are not fewer rows than the least


def piece_rows(form: Form, members: int = 1, least_work: int = 0) -> tuple[int, int]:
    """How many rows a piece has that so many threads share, and up to how many in all are one piece.

    Its products have ``least_work`` if they can.
    """
    count, stride = form.weight_count, form.gradient_stride
    near = count * form.dtype.itemsize <= NEAR_BYTES
    rows = members * max(NEAR_ROWS, PIECE_BYTES // stride, PIECE_WORK // (3 * count)) if near else FAR_ROWS
    most = max(members * NEAR_ROWS, MOST_BYTES // stride)
    piece = min(max(rows, least_work // count), most)
    return piece, min(WHOLE * piece, most)


class GradientRows:
    """Room for the rows of a piece, and for those of the piece before that are still needed.

    Rows come from the last to the first, as backward computes them, and stand in their order, side by side.

    Attributes
    ----------
    at : int
        The address of the first row that is there.
    kept : int
        How many rows, from that one on, are still needed.
    """

    def __init__(self, begin: int, rows: int, stride: int) -> None:
        """So many rows from the address ``begin`` on."""
        self.stride, self.kept = stride, 0
        self._low = begin
        self.at = self._high = begin + rows * stride

    def add(self, count: int) -> int:
        """Make room for so many rows before those that are kept; the address of the first of them."""
        if self.at - count * self.stride < self._low:
            size = self.kept * self.stride
            ctypes.memmove(self._high - size, self.at, size)
            self.at = self._high - size
        self.at -= count * self.stride
        return self.at


class BackwardScan(Scan):
    """One backward scan over its buffers, all rows at once; it adds to the sums of the weights' gradients."""

    def __init__(self, tape: Tape, frame: Array, sums: TiledSums, held: Any) -> None:
        super().__init__(tape.pack, frame, tape.rows, held)
        self.form, self.tape, self.sums = tape.pack.form, tape, sums
        self.row_work *= 2

    def __call__(self, low: int, high: int) -> None:
        """Everything, by this thread alone: it must be all rows that are asked for."""
        assert (low, high) == (0, self.rows.batch)
        self.alone(run_in_order)

    def alone(self, add_up: Callable[[Sequence[Products]], None], least_work: int = 0) -> None:
        """Everything, the scan by this thread alone; ``add_up`` runs products, if it can of so much work at least."""
        batch, most = self.rows.batch, self.most
        self.make_room(1, least_work)
        ranges = [(low, min(low + most, batch)) for low in range(0, max(batch, 1), most)]
        for start, stop in self.times(min(batch, most)):
            self.prepare(self.frame[None], start, stop)
            for low, high in ranges:
                self.native.run(self.frame, low, high, start, stop)
                checkpoint()
            add_up(self.products(start, stop))

    def make_room(self, members: int, least_work: int = 0) -> None:
        """See `Scan`: room for the gradients of a piece and of the states."""
        form, rows = self.form, self.rows
        piece, whole = piece_rows(form, members, least_work)
        self._piece_rows = piece if rows.total > whole else rows.total
        count = min(rows.total, max(self._piece_rows, rows.batch) + max(BLOCK, rows.batch))
        self._room = Room(count * form.gradient_stride, *[rows.batch * stride for stride in form.state_strides])
        begin, *carries = self._room.at
        for fields, carry in zip(form.state_fields, carries, strict=True):
            self.frame[fields + f.ADJOINT_BASE] = carry
        self._gradients = GradientRows(begin, count, form.gradient_stride)
        self._lines = lines_of(self.tape, begin)
        self._again = 0  # so many of the rows that are kept are to be given to the sums again

    def times(self, rows: int, first: int = 0) -> Iterator[tuple[int, int]]:
        """As for any scan, but from the last step to the first, and in pieces for which there is room."""
        base, longest = self.rows.base, self.rows.longest
        whole = self.rows.total <= self._piece_rows
        for early, late in super().times(rows, first):
            start, stop = longest - early, longest - late
            while not whole and base[start] - base[stop] > self._piece_rows:
                end = min(int(base.searchsorted(base[start] - self._piece_rows)), start - 1)
                yield start, end
                start = end
            if start > stop or not longest:
                yield start, stop

    def copies(self, count: int, rows: int, members: int = 1) -> tuple[Array, Any]:
        """As for any scan, but that they need nothing besides."""
        return np.repeat(self.frame[None], count, 0), None

    def prepare(self, frames: Array, start: int, stop: int) -> None:
        """See `Scan`: the piece's gradients get their place."""
        base, gradients = self.rows.base, self._gradients
        first = base.item(stop)
        frames[:, f.GRADIENT_BASE] = gradients.add(base.item(start) - first) - first * gradients.stride

    def products(self, start: int, stop: int) -> list[Products]:
        """See `Scan`: those of all rows whose block is complete."""
        base, gradients = self.rows.base, self._gradients
        first = base.item(stop)
        lines = self._lines.cut(first, base.item(start) + self._again, gradients.at)
        found, self._again = self.sums.add(self.form, lines, last=stop == 0)
        linked = self.rows.active.item(stop) if stop else 0  # which the piece before reads
        gradients.kept = max(self._again, linked)
        return found


def run_in_order(products: Sequence[Products]) -> None:
    """One after the other."""
    for product in products:
        product()
