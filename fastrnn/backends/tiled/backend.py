"""The compiled backends: tapes, and the frames that bind a kernel to its buffers. The contract is in `contract`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from fastrnn.backends.contract import Array, Part, Rows, States, Weights, each
from fastrnn.backends.tiled import frame as f
from fastrnn.backends.tiled.box import NOBODY
from fastrnn.backends.tiled.form import Form
from fastrnn.backends.tiled.native import Native
from fastrnn.backends.tiled.pack import TiledPack
from fastrnn.backends.tiled.packing import Packing
from fastrnn.backends.tiled.room import ALIGNMENT, places, spaced
from fastrnn.backends.tiled.scan import Scan
from fastrnn.equations import Sizes
from fastrnn.plan import Plan
from fastrnn.record import lazy
from fastrnn.reuse import buffer
from fastrnn.threads import get_num_threads

if TYPE_CHECKING:
    from fastrnn.backends.tiled.backward import BackwardScan
    from fastrnn.backends.tiled.crew import Crew
    from fastrnn.backends.tiled.steps import LongSteps, Steps
    from fastrnn.backends.tiled.sums import TiledSums


class Tape:
    """What a recording forward keeps: rows of kept values by compact number, and the history of every state.

    The first table in its memory is ``kept``, (N, kept columns). One for each state follows, (B + N, padded width): the
    initial states, then the state after each step. Compiled code places them by itself, from the frame's strides.
    """

    def __init__(self, pack: TiledPack, rows: Rows, x: Array, reverse: bool) -> None:
        self.pack, self.rows, self.x, self.reverse, form = pack, rows, x, reverse, pack.form
        self.nbytes = rows.total * (form.kept_stride + form.state_bytes) + rows.batch * form.state_bytes
        self.memory = buffer(self.nbytes + form.states_slack + ALIGNMENT)

    @lazy
    def at(self) -> list[int]:
        """The address of each table."""
        form, states = self.pack.form, self.rows.batch + self.rows.total
        return places(self.memory, [self.rows.total * form.kept_stride, *[states * s for s in form.state_strides]])


NO_TAPE = np.empty(0, np.uint8)


class TiledBackend:
    """Everything but the kernels, which ``native`` has."""

    same_bits = True

    def __init__(self, name: str, native: Native) -> None:
        self.name, self.native = name, native

    # What a first answer needs no part of is imported when it is used.

    @lazy
    def crew(self) -> Crew:
        """The threads that help."""
        from fastrnn.backends.tiled.crew import Crew

        return Crew(self.native)

    def rows(self, steps: int, lengths: Array) -> Rows | None:
        """See the contract. `Rows.of` would take longer than all else of a short call."""
        batch = len(lengths)
        numbers = Rows.room(steps, batch)
        longest = self.native.sort_rows(lengths, steps, numbers)
        return Rows(steps, batch, longest, numbers) if longest >= 0 else None

    def packer(
        self, plan: Plan, names: Sequence[str], sizes: Sizes, dtype: np.dtype[Any]
    ) -> Callable[[Weights], TiledPack]:
        """See the contract."""
        form = Form(self.native, self.native.program(plan, np.dtype(dtype)), sizes, names)
        return partial(TiledPack, form, self.packed)

    def packed(self, packing: Packing, weights: Weights) -> Array:
        """The memory of a packing with these weights: it begins with the frame."""
        threads = get_num_threads()
        if threads > 1 and not self.crew.worth_packing(packing.nbytes):
            threads = 1
        if threads == 1 and packing.short:
            return packing.memory(weights, packing.count)
        from fastrnn.backends.tiled.copying import copy_by_threads

        memory = packing.memory(weights, 0)
        copy_by_threads(self.crew, packing, packing.copies_frame(memory), threads)
        return memory

    def tape(self, pack: TiledPack, rows: Rows, x: Array, reverse: bool) -> Tape:
        """See the contract."""
        pack.expect_training()
        return Tape(pack, rows, x, reverse)

    def forward(
        self, pack: TiledPack, rows: Rows, x: Array, y: Array, state: States | None, final: States, reverse: bool,
        tape: Tape | None = None,
    ) -> Scan:  # fmt: skip
        """See the contract."""
        frame, point = pack.frame.copy(), self.native.point
        if reverse:
            frame[f.REVERSE] = 1
        point(frame, f.X, x, f.Y, y)
        for k, fields in enumerate(pack.form.state_fields):
            end = final[k]
            begin = end if state is None else state[k]
            point(frame, fields + f.STATE_INITIAL, begin, fields + f.STATE_FINAL, end)
            if state is None:
                frame[fields + f.STATE_INITIAL] = 0
        if tape is not None:
            frame[f.RECORD], frame[f.SPAN] = 1, rows.batch
            frame[f.KEPT_BASE], *histories = tape.at
            for fields, history in zip(pack.form.state_fields, histories, strict=True):
                frame[fields + f.STATE_BASE] = history
        return Scan(pack, frame, rows, (x, y, state, final, tape))

    def scan(
        self, pack: TiledPack, rows: Rows, x: Array, y: Array, state: States | None, final: States, at: int,
        reverse: bool, threads: int, tape: Tape | None = None,
    ) -> None:  # fmt: skip
        """See the contract."""
        form = pack.form
        members, apart, work = 1, False, rows.total * form.weight_count
        if threads > 1 and self.crew.worth_calling(work):
            step_work = (form.weight_count - form.input_count) * rows.batch
            members, apart = self.crew.split(threads, rows, form.weight_count, step_work, bound=False)
        begin = () if state is None else state
        if rows.batch * rows.longest <= form.most_rows:  # no checkpoint on the way
            kept = NO_TAPE if tape is None else tape.memory
            if members == 1:
                self.native.run_on(pack.frame, rows.table, x, y, begin, final, at, reverse, kept)
                return
            given = pack.frame, rows.table, x, y, begin, final, at, reverse, kept

            def run(boxes: Array, most: int) -> int:
                native = self.native
                return native.team_on(boxes, most, apart, *given) if most > 1 else native.run_on(*given)

            if self.crew.run_call(run, work, rows.longest, members, apart):
                return
        scan = self.forward(pack, rows, x, y, each(state, at), each(final, at), reverse, tape)
        if members > 1:
            self.crew.share([scan], members, apart)
        else:
            scan(0, rows.batch)

    def backward(
        self, tape: Tape, dy: Array, dfinal: States, dx: Array, dstate: States, sums: TiledSums
    ) -> BackwardScan:
        """See the contract."""
        from fastrnn.backends.tiled.backward import BackwardScan

        pack, rows, point = tape.pack, tape.rows, self.native.point
        frame = pack.training_frame.copy()
        frame[f.REVERSE], frame[f.SPAN] = tape.reverse, rows.batch
        point(frame, f.DY, dy, f.DX, dx)
        frame[f.KEPT_BASE], *histories = tape.at
        for k, fields in enumerate(pack.form.state_fields):
            frame[fields + f.STATE_BASE] = histories[k]
            point(frame, fields + f.ADJOINT_INITIAL, dfinal[k], fields + f.ADJOINT_FINAL, dstate[k])
        return BackwardScan(tape, frame, sums, (dy, dfinal, dx, dstate))

    def gradients(self, tape: Tape, dy: Array, state: States, dx: Array, at: int, into: Weights, threads: int) -> None:
        """See the contract."""
        form, rows, frame = tape.pack.form, tape.rows, tape.pack.training_frame  # packed before threads are looked for
        members, apart, work = 1, False, 2 * rows.total * form.weight_count
        if threads > 1 and not self.crew.worth_returning(work):
            threads = 1
        if threads > 1:
            step_work = (form.weight_count - form.input_count) * rows.batch
            members, apart = self.crew.split(threads, rows, 2 * form.weight_count, step_work, bound=False)
        if 0 < rows.total <= form.whole.most_rows:
            if threads == 1:
                form.whole.run(frame, tape, dy, state, dx, at, into, NOBODY, 1, False)
                return

            def run(boxes: Array, most: int) -> int:
                return form.whole.run(frame, tape, dy, state, dx, at, into, boxes, most, apart)

            # A scan that nobody shares has products which may be: Python asks for each list of them.
            if members > 1 and self.crew.run_call(run, work, rows.longest, members, apart):
                return
        ends = each(state, at)
        part = self.backward(tape, dy, ends, dx, ends, self.sums(tape.pack, into, rows.total))
        self.crew.go([part], rows, threads, members, apart)

    def sums(self, pack: TiledPack, into: Weights, total: int) -> TiledSums:
        """See the contract."""
        from fastrnn.backends.tiled.sums import TiledSums

        return TiledSums(pack.form, into, total)

    def run(self, parts: Sequence[Part], rows: Rows, threads: int) -> None:
        """See the contract."""
        self.crew.run(parts, rows, threads)

    def steps(
        self, packs: Sequence[TiledPack], rows: Rows, states: tuple[States, States], turns: Array
    ) -> Steps | LongSteps:
        """See the contract."""
        from fastrnn.backends.tiled.steps import LongSteps, Steps

        most = min(pack.form.most_rows for pack in packs)
        if rows.batch > max(2, most):  # x of one row may be without its axis of rows
            return LongSteps(self, packs, rows, states, turns)
        return Steps(self.crew, packs, rows, states, turns)

    def state_room(self, shape: tuple[int, int, int], dtype: np.dtype[Any]) -> Array:
        """See the contract."""
        return spaced(shape, np.dtype(dtype))
