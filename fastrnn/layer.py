"""One layer, in one direction or two: what goes to the backend.

Arrays here are as the backends want them (see `fastrnn.backends.contract`); states are those of the whole stack,
(L*D, B, S) each, of which ``base`` is the first one of the layer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fastrnn import reuse
from fastrnn.backends import load
from fastrnn.backends.contract import Array, Backend, Rows, States, Weights, each
from fastrnn.equations import Sizes
from fastrnn.parameters import Packs
from fastrnn.plan import Plan
from fastrnn.record import lazy
from fastrnn.threads import get_num_threads


class Layer:
    """One layer of a stack."""

    def __init__(
        self, plan: Plan, sizes: Sizes, directions: int, bias: bool, dtype: np.dtype[Any], backend: str
    ) -> None:
        self.plan, self.sizes, self.directions, self.dtype, self._backend = plan, sizes, directions, dtype, backend
        self.shapes = plan.cell.parameter_shapes(sizes, bias)
        self.state_sizes = tuple(sizes.width(width) for width in plan.cell.state_widths)
        self.output_size = self.state_sizes[0]  # of one direction

    @lazy
    def backend(self) -> Backend:
        """The backend, imported when it is first needed."""
        return load(self._backend)

    @lazy
    def pack(self) -> Callable[[Weights], Any]:
        """What makes the pack of one direction from its parameters, in the order of `shapes`."""
        return self.backend.packer(self.plan, list(self.shapes), self.sizes, self.dtype)

    def room(self, rows: Rows, width: int) -> Array:
        """A new (T, B, width) array for a scan to write."""
        return reuse.empty((rows.steps, rows.batch, width), self.dtype)

    def forward(
        self, packs: Packs, rows: Rows, x: Array, y: Array, state: States | None, final: States, base: int
    ) -> None:
        """Run all directions over x (T, B, I), each to its part of y (T, B, D*O)."""
        if self.directions == 1:
            self.backend.scan(packs[base], rows, x, y, state, final, base, False, get_num_threads())
        else:
            self._both(packs, rows, x, y, state, final, base, (None, None))

    def record(
        self, packs: Packs, rows: Rows, x: Array, y: Array, state: States | None, final: States, base: int
    ) -> list[Any]:
        """As `forward`; the tape of each direction."""
        backend = self.backend
        tapes = [backend.tape(packs[base], rows, x, False)]
        if self.directions == 1:
            backend.scan(packs[base], rows, x, y, state, final, base, False, get_num_threads(), tapes[0])
        else:
            tapes.append(backend.tape(packs[base + 1], rows, x, True))
            self._both(packs, rows, x, y, state, final, base, tapes)
        return tapes

    def _both(
        self, packs: Packs, rows: Rows, x: Array, y: Array, state: States | None, final: States, base: int,
        tapes: Sequence[Any],
    ) -> None:  # fmt: skip
        """One direction after the other, unless there are threads for both."""
        backend, threads, parts = self.backend, get_num_threads(), []
        for direction, tape in enumerate(tapes):
            at, reverse, out = base + direction, direction == 1, self.of(y, direction)
            if threads == 1:
                backend.scan(packs[at], rows, x, out, state, final, at, reverse, 1, tape)
            else:
                begin, end = each(state, at), each(final, at)
                parts.append(backend.forward(packs[at], rows, x, out, begin, end, reverse, tape))
        if parts:
            backend.run(parts, rows, threads)

    def last(
        self, packs: Packs, rows: Rows, x: Array, y: Array, state: States | None, final: States, base: int
    ) -> None:
        """As `forward`, but y is (B, D*O): the output at each row's last valid step, left alone for an empty row.

        In reverse that step is the first one to be computed: it is a scan of its own, from which another one goes on.
        """
        backend, threads = self.backend, get_num_threads()
        for direction in range(self.directions):
            pack = packs[base + direction]
            out = repeated(y[:, direction * self.output_size : (direction + 1) * self.output_size], rows.steps)
            at, reverse = base + direction, direction == 1
            if reverse and rows.total:
                first, rest, x_last = _split(rows, x)
                backend.scan(pack, first, x_last, out[:1], state, final, at, True, threads)
                unused = repeated(np.empty((rows.batch, self.output_size), self.dtype), rows.steps)
                backend.scan(pack, rest, x, unused, final, final, at, True, threads)
            else:
                backend.scan(pack, rows, x, out, state, final, at, reverse, threads)

    def backward(
        self,
        tapes: Sequence[Any],
        rows: Rows,
        dy: Array,
        dstate: States,
        into: Sequence[Weights],
        base: int,
    ) -> Array:
        """The gradient of x. ``dstate`` goes in as the gradient of the final states, comes out as that of the first."""
        if self.directions == 2:
            return self._both_back(tapes, rows, dy, dstate, into, base)
        dx = reuse.empty((rows.steps, rows.batch, self.sizes.input_size), self.dtype)
        self.backend.gradients(tapes[0], dy, dstate, dx, base, into[0], get_num_threads())
        return dx

    def _both_back(
        self, tapes: Sequence[Any], rows: Rows, dy: Array, dstate: States, into: Sequence[Weights],
        base: int,
    ) -> Array:  # fmt: skip
        """As `_both`."""
        backend, threads, parts, dxs = self.backend, get_num_threads(), [], []
        for direction, (tape, gradients) in enumerate(zip(tapes, into, strict=True)):
            at, dx, out = base + direction, self.room(rows, self.sizes.input_size), self.of(dy, direction)
            dxs.append(dx)
            if threads == 1:
                backend.gradients(tape, out, dstate, dx, at, gradients, 1)
            else:
                ends = each(dstate, at)
                parts.append(
                    backend.backward(tape, out, ends, dx, ends, backend.sums(tape.pack, gradients, rows.total))
                )
        if parts:
            backend.run(parts, rows, threads)
        return self.total(dxs)

    @staticmethod
    def total(dxs: Sequence[Array]) -> Array:
        """The sum of the directions' gradients of x, in the memory of the first."""
        total = dxs[0]
        for other in dxs[1:]:
            with np.errstate(all="ignore"):
                total += other
        return total

    def of(self, y: Array, direction: int) -> Array:
        """One direction's part of (T, B, D*O)."""
        if self.directions == 1:
            return y
        return y[:, :, direction * self.output_size : (direction + 1) * self.output_size]


def repeated(y: Array, steps: int) -> Array:
    """(B, O) as a writable (steps, B, O) in which every step is the same memory."""
    return np.lib.stride_tricks.as_strided(y, (steps, *y.shape), (0, *y.strides))


def _split(rows: Rows, x: Array) -> tuple[Rows, Rows, Array]:
    """Rows cut before their last valid step: that step alone, the steps before it, and x of that step, (1, B, I)."""
    lengths = np.empty(rows.batch, np.int64)
    lengths[rows.order] = rows.lengths
    one = np.minimum(lengths, 1)
    x_last = x[lengths - one, np.arange(rows.batch)]  # of an empty row the first step, which is not read
    return Rows.of(1, rows.batch, one), Rows.of(rows.steps, rows.batch, lengths - one), x_last[None]
