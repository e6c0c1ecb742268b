"""What a backend is: the one contract that NumPy and the compiled backends fulfil.

A backend runs *scans*: one cell over time, in one direction, for a batch of rows. It knows plans, never layers.

Sizes: T time steps, B rows, I input_size, H hidden_size, P proj_size, O the width of state 0 (P with a projection, else
H), S_k the width of state k. All arrays of one scan have the dtype of its pack, float32 or float64.

========= ============= ======================= ================================================================
buffer    shape         owner, layout           read or written
========= ============= ======================= ================================================================
x         (T, B, I)     caller; last axis       read
                        contiguous
y         (T, B, O)     caller; last axis       written: zero past a row's end. A time stride of 0 is allowed: then
                        contiguous              the last valid step stays, and an empty row is left alone
state     (B, S_k) each caller; last axis       read; the states before the first step. None: zeros
                        contiguous
final     (B, S_k) each caller; last axis       written: the states after each row's last step; a row of length 0
                        contiguous              gets its initial state. May be the arrays of `state` themselves
tape      backend's own backend                 written by a recording forward, read by backward
dy        (T, B, O)     caller; last axis       read where t < length
                        contiguous
dfinal    (B, S_k) each caller; last axis       read
                        contiguous
dx        (T, B, I)     caller; last axis       written: zero past a row's end
                        contiguous
dstate    (B, S_k) each caller; last axis       written; a row of length 0 gets its dfinal. May alias dfinal
                        contiguous
gradients parameter's   caller, C-contiguous    written
========= ============= ======================= ================================================================

No buffer may overlap another unless the table says so. The order of time: forward reads a row's steps 0 .. length - 1,
reverse length - 1 .. 0; y, dy and dx are in the order of x in both.

Rows are independent of one another, to the bit, in a backend that says so (`Backend.same_bits`): a row's output, final
state, dx and dstate depend neither on the other rows nor on how the rows are handed out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, Protocol, overload

import numpy as np

from fastrnn import reuse
from fastrnn.checks import Array as Array
from fastrnn.equations import Sizes
from fastrnn.plan import Plan
from fastrnn.record import Record, lazy

States = tuple[Array, ...]
# The parameters of one pack, or their gradients, in the order of the names that it was made with.
Weights = tuple[Array, ...]
TABLE_SIZE = 7  # numbers of `Rows.table`


class Rows(Record):
    """The rows of one call, longest first, so that those still active at step s are the first ``active[s]``.

    ``order[r]`` is the place in the batch of sorted row r and ``lengths[r]`` its length; ``base[s]`` counts the valid
    steps of all rows before step s, so that step s of sorted row r has the compact number ``base[s] + r``.
    All are C-contiguous int64: order and lengths (B,), active (longest,), base (longest + 1,).

    They stand in one buffer, ``numbers``: `table`, order, lengths, active, base, the last two with room for T steps.
    Compiled code reads it by address; the arrays are made when they are asked for, of which a short call needs only
    ``table``.
    """

    steps: int
    batch: int
    longest: int
    numbers: Array

    @classmethod
    def of(cls, steps: int, batch: int, lengths: Array | None = None) -> Rows:
        """The rows of a batch in which row b has ``lengths[b]`` of ``steps`` valid steps; all of them by default."""
        if lengths is None:
            lengths = np.full(batch, steps, np.int64)
        order = (-lengths).argsort(kind="stable")
        longest = int(lengths.max()) if batch else 0
        active = batch - np.cumsum(np.bincount(lengths)[:longest], dtype=np.int64)
        return cls._filled(steps, batch, order, lengths[order], active)

    @classmethod
    def _filled(cls, steps: int, batch: int, order: Array, lengths: Array, active: Array) -> Rows:
        """Rows with these tables."""
        rows = cls(steps, batch, len(active), cls.room(steps, batch))
        rows.order[:], rows.lengths[:], rows.active[:], rows.base[0] = order, lengths, active, 0
        np.cumsum(active, out=rows.base[1:])
        places = rows._place(0, 0), rows._place(1, 0), rows._place(2, 0), rows._place(2, 1)
        rows.table[:4] = reuse.address(rows.numbers) + rows.numbers.itemsize * np.array(places)
        rows.table[4:] = batch, rows.longest, steps
        return rows

    @staticmethod
    def room(steps: int, batch: int) -> Array:
        """``numbers``, not initialised."""
        return np.empty(TABLE_SIZE + 2 * (batch + steps) + 1, np.int64)

    def _place(self, of_rows: int, of_steps: int) -> int:
        """Where the table begins before which there are so many tables of rows and so many of steps."""
        return TABLE_SIZE + of_rows * self.batch + of_steps * self.steps

    @lazy
    def table(self) -> Array:
        """The addresses of order, lengths, active and base, then B, the longest length and T."""
        return self.numbers[:TABLE_SIZE]

    @lazy
    def order(self) -> Array:
        """See above, as the next three."""
        return self.numbers[TABLE_SIZE : self._place(1, 0)]

    @lazy
    def lengths(self) -> Array:
        return self.numbers[self._place(1, 0) : self._place(2, 0)]

    @lazy
    def active(self) -> Array:
        return self.numbers[self._place(2, 0) :][: self.longest]

    @lazy
    def base(self) -> Array:
        return self.numbers[self._place(2, 1) :][: self.longest + 1]

    def piece(self, start: int, stop: int) -> Rows:
        """The steps ``start`` to ``stop - 1`` of the same rows in the same order, as a scan of their own."""
        lengths = np.clip(self.lengths - start, 0, stop - start)
        return self._filled(stop - start, self.batch, self.order, lengths, self.active[start:stop])

    def clear(self, y: Array, low: int = 0, high: int | None = None) -> None:
        """Zero what the sorted rows low .. high - 1 have in (T, B, width) past their ends."""
        if not self.full:
            for place, length in zip(self.order[low:high].tolist(), self.lengths[low:high].tolist(), strict=True):
                y[length:, place] = 0

    @lazy
    def even(self) -> bool:
        """Whether all rows have one length and come in the batch's order."""
        whole = self.longest == 0 or int(self.active[-1]) == self.batch
        return whole and np.array_equal(self.order, np.arange(self.batch))

    @lazy
    def full(self) -> bool:
        """Whether every step of every row is valid."""
        return self.total == self.steps * self.batch

    @lazy
    def total(self) -> int:
        """The number of valid steps of all rows."""
        return int(self.numbers[self._place(2, 1) + self.longest])


class Tape(Protocol):
    """What a recording forward keeps."""

    x: Array

    @property
    def nbytes(self) -> int:
        """Bytes of what it holds, but for x and the pack."""


Part = Callable[[int, int], None]  # run(low, high): do the work of sorted rows low .. high - 1


# A stream has its states twice. Two whole numbers tell which of them count now, and whether somebody is at work on them
# and no step may come in between.
TURN, HELD = range(2)
TURN_FIELDS = 2


class StepOf(Protocol):
    """One time step of all layers, from the states whose turn it is to the others, whose turn it is then."""

    @property
    def run(self) -> Callable[[Any, Any], int]:
        """From x to y, on `get_num_threads` threads at most; they may overlap. What is given may be anything.

        It returns 0 and has done nothing unless both are plain arrays of the layers' dtype, x (B, I) and y (B, O) or,
        with one row, (I,) and (O,), and y can be written. A plain one is no subclass, and C-contiguous and aligned.
        The same while the states are `HELD`, which not every step heeds: that is for atomic ones.
        """

    @property
    def atomic(self) -> bool:
        """Whether a step keeps the interpreter's lock, so that nothing of another thread comes in between."""


def step_fits(x: Any, y: Any, dtype: np.dtype[Any], batch: int, inputs: int, outputs: int) -> bool:
    """Whether a step can use x and y as they are: see `StepOf.run`."""
    for array in (x, y):
        if type(array) is not np.ndarray or array.dtype != dtype:
            return False
        if not (array.flags.c_contiguous and array.flags.aligned):
            return False
    if not y.flags.writeable:
        return False
    shapes = (x.shape, y.shape)
    return shapes == ((batch, inputs), (batch, outputs)) or (batch == 1 and shapes == ((inputs,), (outputs,)))


@overload
def each(states: States, at: int) -> States: ...


@overload
def each(states: None, at: int) -> None: ...


def each(states: States | None, at: int) -> States | None:
    """Of each state the part of one layer and direction, (B, S)."""
    return None if states is None else tuple([state[at] for state in states])


def cuts(rows: Rows, pieces: int, most: int | None = None) -> list[tuple[int, int]]:
    """Ranges of the sorted rows with about as many valid steps each, and of at most so many rows."""
    ends = np.cumsum(rows.lengths)
    targets = ends[-1] * np.arange(1, pieces) / pieces
    inner = np.searchsorted(ends, targets, side="left") + 1
    found = pairwise(sorted({0, *(int(cut) for cut in inner if cut < rows.batch), rows.batch}))
    if most is None:
        return list(found)
    return [(low, min(low + most, high)) for first, high in found for low in range(first, high, most)]


class Backend(Protocol):
    """The operations. A `Part` of `forward` may be called for disjoint ranges of rows from several threads at once."""

    name: str
    same_bits: bool

    def rows(self, steps: int, lengths: Array) -> Rows | None:
        """`Rows.of` for as many rows as there are lengths, int64; None if one of these is not from 0 to T."""

    def packer(self, plan: Plan, names: Sequence[str], sizes: Sizes, dtype: np.dtype[Any]) -> Callable[[Weights], Any]:
        """What makes packs: the weights of one layer and direction, as the backend wants them.

        The parameters' names are those of `Cell.parameter_shapes`; absent biases are zero. It is made once, and a pack
        after each change of the parameters. Their arrays, C-contiguous and of the dtype, must never change: a pack
        may go on using them. Nor does a pack ever change.
        """

    def tape(self, pack: Any, rows: Rows, x: Array, reverse: bool) -> Any:
        """A `Tape`: room for what a recording forward keeps. Holds ``pack``, ``rows`` and ``x``; none may change."""

    def forward(
        self,
        pack: Any,
        rows: Rows,
        x: Array,
        y: Array,
        state: States | None,
        final: States,
        reverse: bool,
        tape: Any = None,
    ) -> Part:
        """Make ready a forward scan over these buffers. It may be run again and again, as a stream does."""

    def scan(
        self, pack: Any, rows: Rows, x: Array, y: Array, state: States | None, final: States, at: int, reverse: bool,
        threads: int, tape: Any = None,
    ) -> None:  # fmt: skip
        """`forward` and `run` in one; of ``state`` and ``final``, (L*D, B, S_k) each, the parts ``at`` are meant."""

    def gradients(self, tape: Any, dy: Array, state: States, dx: Array, at: int, into: Weights, threads: int) -> None:
        """`backward`, `sums` and `run` in one. Of ``state``, (L*D, B, S_k) each, the parts ``at`` are meant: dfinal at
        first, dstate in the end; ``into`` is the gradients of all parameters."""

    def backward(self, tape: Any, dy: Array, dfinal: States, dx: Array, dstate: States, sums: Any) -> Part:
        """Make ready a backward scan, which also adds to the gradients of the parameters. It takes all rows at once."""

    def sums(self, pack: Any, into: Weights, total: int) -> Any:
        """What a backward scan of ``total`` valid steps adds to: the gradients of all parameters, which are written.

        The scan may come in pieces, `Rows.piece` each, the last piece of time first: what is in ``into`` after the
        first one is, to the bit if `same_bits`, the same however time is cut.
        """

    def run(self, parts: Sequence[Part], rows: Rows, threads: int) -> None:
        """Run parts of one kind over all rows, on as many threads as that is worth, ``threads`` at the most."""

    def steps(self, packs: Sequence[Any], rows: Rows, states: tuple[States, States], turns: Array) -> StepOf:
        """Make ready one time step of all layers of a stack, for rows of one valid step each in the batch's order.

        Both ``states`` are `state_room`, and not the same; ``turns`` has `TURN` and `HELD`.
        """

    def state_room(self, shape: tuple[int, int, int], dtype: np.dtype[Any]) -> Array:
        """Zeros, (L, B, S), in rows that suit `steps`: a step need not copy them."""
