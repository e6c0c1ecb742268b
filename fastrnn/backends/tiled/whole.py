"""Backward scans over whole sequences with all gradients, in one call of compiled code.

Most training is of sequences that need neither pieces of time (`backward`) nor a checkpoint on the way. What Python
would make ready for these, in some 60 us, compiled code does in one: all of it but the numbers of the call stands in
tables that are made once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import numpy as np

from fastrnn.backends.contract import Array, States, Weights
from fastrnn.backends.tiled import frame as f
from fastrnn.backends.tiled.backward import piece_rows
from fastrnn.backends.tiled.room import ALIGNMENT
from fastrnn.backends.tiled.sums import Call, frames_of, shares
from fastrnn.reuse import buffer

if TYPE_CHECKING:
    from fastrnn.backends.tiled.backend import Tape
    from fastrnn.backends.tiled.form import Form

PASSES = 3  # over the weights, on the way back: of the recurrence, of the input's gradients, and of the weights' own


class WholeBackward:
    """What it takes to run such scans with packs of a form, which holds this and is not held by it.

    Attributes
    ----------
    most_rows : int
        Up to how many steps of all rows together scans need neither pieces nor a checkpoint on their way back.
    """

    def __init__(self, form: Form) -> None:
        self.most_rows = min(form.most_rows // PASSES, piece_rows(form)[1])
        self._names = list(form.shapes)
        self._sums = _sums_of(form)
        self._operands = _operands_of(form)
        if self._sums:
            self._operands.append((f.OF_GRADIENT, 0, 0, form.gradient_stride))
        self._runs: dict[int, tuple[Callable[..., int], int]] = {}  # by the number of threads
        # The bytes that it needs for a step of a row, the gates' gradients and all offsets; and, besides these and the
        # states' gradients of each row, for the sums of all rows and to begin each of these on a cache line.
        self._step_bytes = form.gradient_stride + 8 * len(self._operands)
        self._other_bytes = form.gradient_stride + form.states_slack + ALIGNMENT

    def run(
        self, frame: Array, tape: Tape, dy: Array, state: States, dx: Array, at: int, into: Weights,
        boxes: Array, members: int, apart: bool,
    ) -> int:  # fmt: skip
        """As `contract.Backend.gradients`, on so many threads at most, those of the boxes among them, with the frame of
        a backward scan.

        The scan is by a team or, ``apart``, each thread has rows of its own. It returns what `Native.team_on` does.
        """
        form, rows = tape.pack.form, tape.rows
        run, size = self._runs.get(members) or self._made(form, members)
        room = buffer(size + rows.total * self._step_bytes + rows.batch * form.state_bytes)
        return run(
            frame, rows.table, tape.x, dy, dx, tape.memory, state, at, tape.reverse,
            into, room, boxes, members, apart,
        )  # fmt: skip

    def _made(self, form: Form, members: int) -> tuple[Callable[..., int], int]:
        """What runs with so many members, see `Native.bound_back`, and the bytes it needs whatever the rows."""
        tables = self.tables(form, members)
        frames, calls = tables[0], len(tables[0])
        counters = f.COUNTER_BYTES * (members + 1)
        numbers = members * form.frame_size + frames.size + 4 * max(calls, members) + len(self._names)
        found = form.native.bound_back(tables), counters + 8 * numbers + self._other_bytes
        self._runs[members] = found
        return found

    def tables(self, form: Form, members: int) -> tuple[Array, ...]:
        """The frames of the products for so many threads, what they multiply, these products, and the parts of sums.

        Of the last three, `frame` has the fields.
        """
        parts, places = form.weight_parts, list(form.operand_widths)
        factors = [(places.index(part.place), self._names.index(part.weight)) for part in parts]
        calls = [Call(index, (0, part.rows, 0, 1), (0, part.width)) for index, part in enumerate(parts)]
        if self._sums:  # of all rows, as one more product: with ones
            factors.append((len(self._operands) - 1, -1))
            calls.append(Call(len(parts), (0, 1, 0, 1), (0, form.gradient_stride // form.dtype.itemsize)))
        calls = shares(sorted(calls, key=lambda call: -call.work), members)
        frames, _ = form.gradient_calls
        products = [(*factors[call.frame], *call.range[:2]) for call in calls]
        return (
            frames_of(frames, calls, form.dtype.itemsize),
            _table(self._operands, f.OPERAND_FIELDS),
            _table(products, f.PRODUCT_FIELDS),
            _table(self._sums, f.PART_FIELDS),
        )


def _operands_of(form: Form) -> list[tuple[int, ...]]:
    """What the products of the weights multiply the gates' gradients with."""
    found: list[tuple[int, ...]] = []
    for kind, index in form.operand_widths:
        if kind == "x":
            found.append((f.OF_X, 0, 0, 0))
        elif kind == "state":
            found.append((f.OF_STATE, index, 0, form.state_strides[index]))
        else:
            found.append((f.OF_KEPT, 0, form.kept_offsets[index] * form.dtype.itemsize, form.kept_stride))
    return found


def _sums_of(form: Form) -> list[tuple[int, ...]]:
    """The parts of the sums of all rows: of the bias, gate by gate, and of vectors."""
    plan, hidden, size, names = form.plan, form.sizes.hidden_size, form.dtype.itemsize, list(form.shapes)
    found = [(column, "bias", gate * hidden) for gate, column in enumerate(plan.input_columns)]
    found += [(column, name, 0) for name, column in plan.vector_columns.items()]
    return [
        (form.gradient_offsets[column] * size, names.index(name), first * size, hidden * size)
        for column, name, first in found
        if name in names
    ]


def _table(rows: Sequence[tuple[int, ...]], width: int) -> Array:
    return np.array(rows, np.int64).reshape(-1, width)
