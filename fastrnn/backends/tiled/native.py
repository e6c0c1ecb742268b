"""What a compiled backend has to have: kernels by their addresses, and the few functions that call them.

A *kernel* is a compiled scan, ``kernel(program, frame, low, high, start, stop)``, six 64-bit integers and no result. It
needs no interpreter and never calls it. A frame holds its kernel's address and what the kernel gets as ``program``.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np

from fastrnn.backends.contract import Array, States
from fastrnn.backends.tiled.program import Program
from fastrnn.plan import Plan

KernelOf = tuple[int, int]  # a kernel's address and its first argument


class Native(Protocol):
    """The operations. Frames, boxes and ranges are C-contiguous int64.

    Whatever runs a kernel or waits gives up the interpreter's lock meanwhile, but for brief steps and `bound_pack`.

    ``halves`` says whether the processor takes vectors of 64 bytes in two halves, as a Zen 4 does.
    """

    halves: bool

    def program(self, plan: Plan, dtype: np.dtype[Any]) -> Program:
        """The program of a plan; always the same object for the same plan."""

    def forward(self, program: Program) -> KernelOf:
        """The forward scan of a program, compiled if need be."""

    def backward(self, program: Program) -> KernelOf:
        """The backward scan."""

    def weight_gradient(self, dtype: np.dtype[Any]) -> KernelOf:
        """The product of the weight gradients, whose frame is another one: see `frame.OUTER_A`."""

    def copying(self, dtype: np.dtype[Any]) -> KernelOf:
        """What packs weights, whose frame is another one, too: see `frame.COPIES`. It takes a range of copies."""

    def bound_pack(self, tables: tuple[Array, ...]) -> Callable[..., int]:
        """pack(memory, weights, copies): write a frame to the begin of the memory, after it the frame of its copies,
        and pack weights, a tuple of arrays, from the next cache line on: so many of the copies are made. For few of
        them, as the interpreter's lock is kept.

        ``tables`` are the frame with addresses that count from there on, 1 in each field that is such an address, and
        the frame of the copies but for where weights and memory are. It returns 1; 0, and has done nothing, for another
        number of arguments.
        """

    def run(self, frame: Array, low: int, high: int, start: int, stop: int) -> None:
        """Run a frame's kernel."""

    @property
    def run_on(self) -> Callable[..., int]:
        """run_on(frame, table, x, y, state, final, at, reverse, kept): point a copy of a forward frame at `Rows.table`,
        x, y and the parts ``at`` of the states (n, B, S_k) each, and run it.

        ``state`` is an empty tuple for zeros, ``kept`` a tape's memory, or empty for no tape. It returns 1; 0,
        and has done nothing, for another number of arguments.
        """

    def bound_back(self, tables: tuple[Array, ...]) -> Callable[..., int]:
        """back(frame, table, x, dy, dx, kept, state, at, reverse, into, room, boxes, members, apart): point copies of a
        backward frame at these, and run it over all rows, as `team_on` does; then the products of the weight gradients,
        as `WholeBackward.tables` has them for so many members.

        ``state`` goes in as the gradients of the final states, ``into`` is a tuple of the weights' gradients in the
        order of the form, ``room`` memory of as many bytes as `WholeBackward` says. It returns what `team_on` does; 0,
        and has done nothing, for another number of arguments.
        """

    def team_on(
        self, boxes: Array, members: int, apart: bool, frame: Array, table: Array, x: Array, y: Array, state: States,
        final: States, at: int, reverse: bool, kept: Array,
    ) -> int:  # fmt: skip
        """As `run_on`, by so many threads at most: by a team, or each with rows of its own (``apart``).

        It returns what `run_as_team` does, or `run_list`.
        """

    def run_as_team(self, boxes: Array, frames: Array, low: int, high: int, start: int, stop: int) -> int:
        """Run one kernel, its units shared with waiting workers; frames (members, size).

        How many took part and how often they waited for long: see `frame.WAITS`.
        """

    def bound_step(self, call: Array, needed: Any, brief: bool) -> Callable[[Any, Any], int]:
        """step(x, y): one time step of all layers. ``call`` has `frame.STEP_FRAMES` and so on; it keeps ``needed``.

        It returns what `run_as_team` does, or 0, and has done nothing, where x and y are no plain arrays of the dtype
        and the shapes that are said there. After it, it is the other states' turn; not if a signal's handler raises.

        A ``brief`` one keeps the interpreter's lock, which takes less time than to give it up and get it back, leaves
        signals for later, and returns 0 also while somebody holds the states (`contract.HELD`).
        """

    def run_list(self, boxes: Array, frames: Array, ranges: Array, most: int) -> int:
        """Run kernels that have nothing to do with one another, on as many threads at most. How many took part."""

    def serve(self, box: Array, looks: int) -> None:
        """A worker's part: do the jobs posted in a box, until none has come for so many looks."""

    def rouse(self, box: Array) -> bool:
        """Whether a box was asleep; then the caller has to wake its worker."""

    def expect(self, box: Array, looks: int) -> bool:
        """Look so often whether the worker of a box that is being woken is there; whether it is."""

    def volley(self, box: Array, rounds: int) -> bool:
        """Hand the worker of a box a job without work, so many times one after the other; False if it does not wait."""

    def room(self, frame: Array, rows: int, steps: int, members: int) -> int:
        """The bytes of scratch that a forward scan needs."""

    def point(self, frame: Array, field: int, array: Array, other_field: int, other: Array) -> None:
        """Write the addresses of two arrays, whose last axes are contiguous, into two fields of a frame.

        The strides of an array's other axes go into the next fields.
        """

    def sort_rows(self, lengths: Array, steps: int, numbers: Array) -> int:
        """Write the tables of the rows with these lengths, as `contract.Rows` has them.

        Returns the longest length; -1, and has done nothing, if one is not from 0 to ``steps``.
        """

    def step_offsets(self, offsets: Array, table: Array, reverse: bool, step_bytes: int, row_bytes: int) -> None:
        """Write where every valid step of every row stands in an array over time and batch, by compact number, in
        bytes; ``table`` is `Rows.table`."""

    def history_offsets(self, offsets: Array, table: Array, stride: int) -> None:
        """Write where the state before every valid step stands in a state's history, likewise."""
