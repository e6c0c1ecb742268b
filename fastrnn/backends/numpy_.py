"""The reference and the baseline: a cell's graph evaluated on arrays, step by step, with BLAS for the products.

The input products of many steps are one matrix product; in each step the recurrent products of the rows still active
are another, all gates side by side; the rest is the graph, node by node (see `evaluate`). Weight gradients are one
large product each. The bits of a row depend on the other rows, since BLAS sums in another order for another shape.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from fastrnn.backends.contract import TURN, Array, Part, Rows, States, StepOf, Weights, cuts, each, step_fits
from fastrnn.backends.evaluate import PROJECTION, Backward, Forward
from fastrnn.backends.numpy_pack import NumpyPack, packed
from fastrnn.backends.steps import Piece, Steps
from fastrnn.equations import Sizes
from fastrnn.plan import Plan
from fastrnn.record import Record
from fastrnn.threads import Task, checkpoint, get_num_threads
from fastrnn.threads import run as threads_run

WORTH_A_THREAD = 1 << 21  # multiply-adds that a thread should have to do, for waking it takes some tens of microseconds
CHUNK = 1 << 20  # values of input products held at once: enough for BLAS, little beside the output


class NumpyTape(Record):
    """What a recording forward keeps, a row of each array for each valid step (its compact number)."""

    pack: NumpyPack
    rows: Rows
    x: Array
    reverse: bool
    before: tuple[Array, ...]  # each state before the step
    kept: tuple[Array, ...]  # the nodes of plan.kept

    @property
    def nbytes(self) -> int:
        """See the contract."""
        return sum(array.nbytes for array in (*self.before, *self.kept))

    def operand(self, name: str | None) -> Array:
        """What a product multiplied."""
        kind, index = self.pack.plan.operands[name]
        return self.before[index] if kind == "state" else self.kept[index]


class NumpyBackend:
    """See `fastrnn.backends.contract.Backend`."""

    name = "numpy"
    same_bits = False

    def packer(
        self, plan: Plan, names: Sequence[str], sizes: Sizes, dtype: np.dtype[Any]
    ) -> Callable[[tuple[Array, ...]], NumpyPack]:
        """See the contract."""
        forward, backward = Forward(plan, sizes), Backward(plan)
        return lambda arrays: packed(plan, forward, backward, sizes, dtype, dict(zip(names, arrays, strict=True)))

    def tape(self, pack: NumpyPack, rows: Rows, x: Array, reverse: bool) -> NumpyTape:
        """Room for the previous states and the kept nodes of all valid steps."""
        widths = [pack.sizes.width(width) for width in pack.plan.kept_widths]
        before = tuple(np.empty((rows.total, size), pack.dtype) for size in pack.state_sizes)
        return NumpyTape(pack, rows, x, reverse, before, tuple(np.empty((rows.total, w), pack.dtype) for w in widths))

    def forward(
        self,
        pack: NumpyPack,
        rows: Rows,
        x: Array,
        y: Array,
        state: States | None,
        final: States,
        reverse: bool,
        tape: NumpyTape | None = None,
    ) -> Part:
        """A scan over these buffers."""

        first = [np.zeros_like(end) for end in final] if state is None else state

        def run(low: int, high: int) -> None:
            steps = Steps(rows, low, high, reverse)
            with np.errstate(all="ignore"):
                now = [np.array(initial[steps.places]) for initial in first]  # not views: final may be the same memory
                for piece in steps.pieces(CHUNK // max(1, len(pack.weight_ih))):
                    checkpoint()
                    now = _forward_piece(pack, steps, piece, x, y, now, final, tape)
                for k, values in enumerate(now):
                    final[k][steps.places_of(0, len(values))] = values
            if y.strides[0]:
                rows.clear(y, low, high)

        return _Scan(run, rows.total * pack.weight_count)

    def rows(self, steps: int, lengths: Array) -> Rows | None:
        """See the contract."""
        if np.any((lengths < 0) | (lengths > steps)):
            return None
        return Rows.of(steps, len(lengths), lengths)

    def scan(
        self, pack: NumpyPack, rows: Rows, x: Array, y: Array, state: States | None, final: States, at: int,
        reverse: bool, threads: int, tape: NumpyTape | None = None,
    ) -> None:  # fmt: skip
        """Make ready and run."""
        self.run([self.forward(pack, rows, x, y, each(state, at), each(final, at), reverse, tape)], rows, threads)

    def gradients(
        self, tape: NumpyTape, dy: Array, state: States, dx: Array, at: int, into: Weights, threads: int
    ) -> None:
        """Make ready and run."""
        ends = each(state, at)
        part = self.backward(tape, dy, ends, dx, ends, self.sums(tape.pack, into, tape.rows.total))
        self.run([part], tape.rows, threads)

    def backward(
        self, tape: NumpyTape, dy: Array, dfinal: States, dx: Array, dstate: States, sums: NumpySums
    ) -> _Backward:
        """A backward scan over these buffers."""
        pack = tape.pack
        columns = pack.columns
        work = np.empty((tape.rows.total, columns[-1].stop if columns else 0), pack.dtype)  # columns side by side
        inputs = [columns[index] for index in pack.plan.input_columns]

        def run(low: int, high: int) -> None:
            steps = Steps(tape.rows, low, high, tape.reverse)
            with np.errstate(all="ignore"):
                carry = [np.array(gradient[steps.places]) for gradient in dfinal]
                for piece in reversed(list(steps.pieces(CHUNK // max(1, work.shape[1])))):
                    checkpoint()
                    _backward_piece(tape, steps, piece, dy, carry, work)
                    piece.put(dx, _beside(work[piece.compact], inputs) @ pack.backward_ih)
                for k, values in enumerate(carry):
                    dstate[k][steps.places] = values
            tape.rows.clear(dx, low, high)

        return _Backward(tape.rows, run, 2 * tape.rows.total * pack.weight_count, sums.tasks(tape, work))

    def sums(self, pack: NumpyPack, into: Weights, total: int) -> NumpySums:
        """See the contract."""
        return NumpySums(dict(zip(pack.names, into, strict=True)))

    def run(self, parts: Sequence[Part], rows: Rows, threads: int) -> None:
        """Directions, and ranges of rows, each on a thread of its own; then, likewise, the sums of backward scans."""
        if rows.batch == 0:
            return
        work = sum(part.work for part in parts if isinstance(part, _Scan))
        n = min(threads, work // WORTH_A_THREAD)
        ranges = cuts(rows, -(-n // len(parts))) if n > 1 else [(0, rows.batch)]
        runs = [part.run if isinstance(part, _Scan) else part for part in parts]
        threads_run([partial(run, low, high) for low, high in ranges for run in runs])
        threads_run([task for part in parts if isinstance(part, _Backward) for task in part.tasks])

    def steps(self, packs: Sequence[NumpyPack], rows: Rows, states: tuple[States, States], turns: Array) -> StepOf:
        """The scans of all layers over one step, on arrays of their own."""
        return _Steps(self, packs, rows, states, turns)

    def state_room(self, shape: tuple[int, int, int], dtype: np.dtype[Any]) -> Array:
        """See the contract. Any rows suit it."""
        return np.zeros(shape, dtype)


class NumpySums:
    """See `fastrnn.backends.contract.Backend.sums`."""

    def __init__(self, into: Mapping[str, Array]) -> None:
        self.into = into
        for array in into.values():
            array[...] = 0

    def tasks(self, tape: NumpyTape, work: Array) -> list[Task]:
        """A task for the input weights, one for each group of recurrent weights, and one for the biases and vectors."""
        found: list[Task] = [partial(add, tape, work, self.into) for add in (_gradient_ih, _gradient_vectors)]
        groups = [group.key for group in tape.pack.forward.groups]
        found += [partial(_gradient_recurrent, tape, work, self.into, names) for names in groups]
        return [partial(_quietly, task) for task in found]


def _quietly(task: Task) -> None:
    """Infinities and NaN are computed with, without a warning."""
    with np.errstate(all="ignore"):
        task()


class _Scan:
    """A scan to be run, and about how many multiply-adds it is."""

    def __init__(self, run: Part, work: int) -> None:
        self.run, self.work = run, work

    def __call__(self, low: int, high: int) -> None:
        self.run(low, high)


class _Backward(_Scan):
    """A backward scan, and what is to be done when it has been run for all rows."""

    def __init__(self, rows: Rows, run: Part, work: int, tasks: list[Task]) -> None:
        super().__init__(run, work)
        self.rows, self.tasks = rows, tasks

    def __call__(self, low: int, high: int) -> None:
        assert (low, high) == (0, self.rows.batch)
        self.run(low, high)
        for task in self.tasks:
            task()


class _Steps:
    """One time step of all layers."""

    atomic = False

    def __init__(
        self, backend: NumpyBackend, packs: Sequence[NumpyPack], rows: Rows, states: tuple[States, States], turns: Array
    ) -> None:
        self.backend, self.rows, self.turns = backend, rows, turns
        widths = [packs[0].sizes.input_size, *(pack.state_sizes[0] for pack in packs)]
        self.values = [np.zeros((1, rows.batch, width), packs[0].dtype) for width in widths]
        self.parts: tuple[list[Part], list[Part]] = [], []  # of either turn
        for turn, parts in enumerate(self.parts):
            for index, (pack, x, y) in enumerate(zip(packs, self.values[:-1], self.values[1:], strict=True)):
                begin, end = each(states[turn], index), each(states[1 - turn], index)
                parts.append(backend.forward(pack, rows, x, y, begin, end, False))

    def run(self, x: Any, y: Any) -> int:
        """See `contract.StepOf`."""
        first, last = self.values[0][0], self.values[-1][0]
        if not step_fits(x, y, first.dtype, self.rows.batch, first.shape[1], last.shape[1]):
            return 0
        first[...] = x
        for part in self.parts[self.turns[TURN]]:
            self.backend.run([part], self.rows, get_num_threads())
        y[...] = last if y.ndim == 2 else last[0]
        self.turns[TURN] ^= 1
        return 1


def _forward_piece(
    pack: NumpyPack,
    steps: Steps,
    piece: Piece,
    x: Array,
    y: Array,
    now: list[Array],
    final: States,
    tape: NumpyTape | None,
) -> list[Array]:
    """Run the steps of one piece from the states ``now``; return those of the rows active in its last step."""
    forward = pack.forward
    inputs = piece.take(x) @ pack.weight_ih.T
    if pack.bias is not None:
        inputs += pack.bias
    for step, start, count in piece.steps():
        if count < len(now[0]):  # some rows have come to their end
            ended = steps.places_of(count, len(now[0]))
            for k, state in enumerate(now):
                final[k][ended] = state[count:]
            now = [state[:count] for state in now]
        values = pack.blank_forward.copy()
        values[forward.inputs] = inputs[start : start + count]
        for k, slot in forward.states.items():
            values[slot] = now[k]
        for call in forward.calls:
            call(values)
        if tape is not None:
            at = steps.compact(step, count)
            for history, before in zip(tape.before, now, strict=True):
                history[at] = before
            for kept, slot in zip(tape.kept, forward.kept, strict=True):
                kept[at] = values[slot]
        now = [values[slot] for slot in forward.outputs]
        piece.put_step(y, step, start, now[0])
    return now


def _backward_piece(tape: NumpyTape, steps: Steps, piece: Piece, dy: Array, carry: list[Array], work: Array) -> None:
    """Run the steps of one piece backwards. ``carry``, the gradients of the states after the step, changes in place."""
    pack, plan = tape.pack, tape.pack.plan
    backward = pack.backward
    columns = pack.columns
    dys = piece.take(dy)
    for step, start, count in reversed(list(piece.steps())):
        at = steps.compact(step, count)
        values = pack.blank_backward.copy()
        values[backward.adjoints[0]] = carry[0][:count] + dys[start : start + count]
        for k, slot in enumerate(backward.adjoints[1:], 1):
            values[slot] = carry[k][:count].copy()  # it may be another state's new carry
        for k, slot in backward.states.items():
            values[slot] = tape.before[k][at]
        for index, slot in backward.kept:
            values[slot] = tape.kept[index][at]
        for call in backward.calls:
            call(values)
        here = work[at]
        for column, slot in zip(columns, backward.gradients, strict=True):
            here[:, column] = values[slot]
        for k, groups in enumerate(plan.gradient.recurrent):
            direct = backward.carries[k]
            total = values[direct] if direct is not None else 0
            for names in groups:
                products = [columns[plan.product_columns[name]] for name in names]
                total = _beside(here, products) @ pack.recurrent[names] + total
            carry[k][:count] = total


def _beside(work: Array, columns: list[slice]) -> Array:
    """Some columns side by side: a view where they already are."""
    if all(a.stop == b.start for a, b in pairwise(columns)):
        return work[:, columns[0].start : columns[-1].stop]
    return np.concatenate([work[:, column] for column in columns], axis=1)


def _gradient_ih(tape: NumpyTape, work: Array, into: Mapping[str, Array]) -> None:
    columns = tape.pack.columns
    dgates = _beside(work, [columns[index] for index in tape.pack.plan.input_columns])
    total = into["weight_ih"]
    for piece in Steps(tape.rows, 0, tape.rows.batch, tape.reverse).pieces(1 << 16):
        checkpoint()
        total += dgates[piece.compact].T @ piece.take(tape.x)


def _gradient_vectors(tape: NumpyTape, work: Array, into: Mapping[str, Array]) -> None:
    plan, columns = tape.pack.plan, tape.pack.columns
    total = np.ones(len(work), work.dtype) @ work
    if "bias" in into:
        into["bias"][...] += np.concatenate([total[columns[index]] for index in plan.input_columns])
    for name, index in plan.vector_columns.items():
        if name in into:
            into[name][...] += total[columns[index]]


def _gradient_recurrent(tape: NumpyTape, work: Array, into: Mapping[str, Array], names: tuple[str | None, ...]) -> None:
    plan, columns = tape.pack.plan, tape.pack.columns
    checkpoint()
    total = _beside(work, [columns[plan.product_columns[name]] for name in names]).T @ tape.operand(names[0])
    if names == PROJECTION:
        into["weight_hr"][...] += total
        return
    hidden = tape.pack.sizes.hidden_size
    for j, name in enumerate(names):
        gate = plan.cell.recurrent_gates.index(str(name))
        into["weight_hh"][gate * hidden : (gate + 1) * hidden] += total[j * hidden : (j + 1) * hidden]


def unavailable() -> str | None:
    """NumPy is always there."""
    return None


def backend() -> NumpyBackend:
    """The backend."""
    return NumpyBackend()
