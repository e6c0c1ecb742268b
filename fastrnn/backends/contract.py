"""What a backend is: the one contract that NumPy and the compiled backends fulfil.

A backend runs *scans*: one cell over time, in one direction, for a batch of rows. It knows plans, never layers.

Sizes: T time steps, B rows, I input_size, H hidden_size, P proj_size, O the width of state 0 (P with a projection, else
H), S_k the width of state k. All arrays of one scan have the dtype of its pack, float32 or float64.

========= ============= ======================= ================================================================
buffer    shape         owner, layout           read or written
========= ============= ======================= ================================================================
x         (T, B, I)     caller; last axis       read
                        contiguous
y         (T, B, O)     caller; last axis       written where t < length of the row; left alone elsewhere.
                        contiguous              A time stride of 0 is allowed: the last step written stays
state     (B, S_k) each caller, C-contiguous    read; the states before the first step
final     (B, S_k) each caller, C-contiguous    written: the states after each row's last step; a row of length 0
                                                gets its initial state. May be the arrays of `state` themselves
tape      backend's own backend                 written by a recording forward, read by backward and gradients
dy        (T, B, O)     caller; last axis       read where t < length
                        contiguous
dfinal    (B, S_k) each caller, C-contiguous    read
dx        (T, B, I)     caller; last axis       written where t < length; left alone elsewhere
                        contiguous
dstate    (B, S_k) each caller, C-contiguous    written; a row of length 0 gets its dfinal. May alias dfinal
gradients parameter's   caller, C-contiguous    written
========= ============= ======================= ================================================================

No buffer may overlap another unless the table says so. The order of time: forward reads a row's steps 0 .. length - 1,
reverse length - 1 .. 0; y, dy and dx are in the order of x in both.

Rows are independent of one another, to the bit, in a backend that says so (`Backend.same_bits`): a row's output, final
state, dx and dstate depend neither on the other rows nor on how the rows are handed out.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from fastrnn.equations import Sizes
from fastrnn.plan import Plan
from fastrnn.record import Record

Array = npt.NDArray[Any]
States = tuple[Array, ...]


class Rows(Record):
    """The rows of one call, longest first, so that those still active at step s are the first ``active[s]``.

    ``order[r]`` is the place in the batch of sorted row r and ``lengths[r]`` its length; ``base[s]`` counts the valid
    steps of all rows before step s, so that step s of sorted row r has the compact number ``base[s] + r``.
    All are C-contiguous int64: order and lengths (B,), active (longest,), base (longest + 1,).
    """

    steps: int
    batch: int
    order: Array
    lengths: Array
    active: Array
    base: Array

    @classmethod
    def of(cls, steps: int, batch: int, lengths: Array | None = None) -> Rows:
        """The rows of a batch in which row b has ``lengths[b]`` of ``steps`` valid steps; all of them by default."""
        if lengths is None:
            order = np.arange(batch, dtype=np.int64)
            longest = steps if batch else 0
            base = np.arange(longest + 1, dtype=np.int64) * batch
            return cls(steps, batch, order, np.full(batch, steps, np.int64), np.full(longest, batch, np.int64), base)
        order = np.argsort(-lengths, kind="stable").astype(np.int64)
        ordered = np.ascontiguousarray(lengths[order], dtype=np.int64)
        longest = int(ordered[0]) if batch else 0
        ends = np.bincount(ordered, minlength=longest + 1)
        active = (batch - np.cumsum(ends)[:longest]).astype(np.int64)
        base = np.concatenate(([0], np.cumsum(active))).astype(np.int64)
        return cls(steps, batch, order, ordered, active, base)

    @property
    def longest(self) -> int:
        """The number of steps of the longest row."""
        return len(self.active)

    @property
    def total(self) -> int:
        """The number of valid steps of all rows."""
        return int(self.base[-1])


class Pack(Protocol):
    """A backend's own copy of the weights of one layer and direction. It never changes once it is made."""

    plan: Plan
    sizes: Sizes
    dtype: np.dtype[Any]


Part = Callable[[int, int], None]  # run(low, high): do the work of sorted rows low .. high - 1


class Backend(Protocol):
    """The operations. Each `Part` may be called for disjoint ranges of rows from several threads at once."""

    name: str
    same_bits: bool

    def pack(self, plan: Plan, parameters: Mapping[str, Array], sizes: Sizes, dtype: np.dtype[Any]) -> Pack:
        """Copy parameters, named as in `Cell.parameter_shapes`; absent biases are zero."""

    def tape(self, pack: Any, rows: Rows, x: Array, reverse: bool) -> Any:
        """Room for what a recording forward keeps. It holds ``pack``, ``rows`` and ``x``, which must not change."""

    def forward(
        self, pack: Any, rows: Rows, x: Array, y: Array, state: States, final: States, reverse: bool, tape: Any = None
    ) -> Part:
        """Make ready a forward scan over these buffers. It may be run again and again, as a stream does."""

    def backward(self, tape: Any, dy: Array, dfinal: States, dx: Array, dstate: States) -> tuple[Any, Part]:
        """Make ready a backward scan: (work, run). ``work`` holds the gates' gradients that `gradients` reads."""

    def gradients(self, tape: Any, work: Any, into: Mapping[str, Array]) -> list[Callable[[], None]]:
        """Tasks that together write the gradients of all parameters in ``into``, for all rows, once all of them are
        through backward. They may run at once; the bits do not depend on who runs which.
        """
