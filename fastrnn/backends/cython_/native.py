"""The kernels as the extension has them. What is asked for: `tiled.native`."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from fastrnn.backends.cython_.sets import SETS
from fastrnn.backends.tiled.native import KernelOf
from fastrnn.backends.tiled.program import Program
from fastrnn.backends.tiled.target import Target
from fastrnn.plan import Plan

# What the extension's functions are under the same names.
_FUNCTIONS = (
    "run", "run_on", "bound_pack", "bound_back", "bound_step", "team_on", "run_as_team", "run_list", "serve", "rouse",
    "expect", "volley", "point", "room", "sort_rows", "step_offsets", "history_offsets",
)  # fmt: skip


class CythonNative:
    """See `fastrnn.backends.tiled.native.Native`; the extension's own functions are attributes of the object."""

    run: Any
    run_on: Any
    bound_pack: Any
    bound_back: Any
    team_on: Any
    run_as_team: Any
    run_list: Any
    bound_step: Any
    serve: Any
    rouse: Any
    expect: Any
    volley: Any
    point: Any
    room: Any
    sort_rows: Any
    step_offsets: Any
    history_offsets: Any

    def __init__(self, extension: Any, isa: str) -> None:
        self.extension, self.target, self.halves = extension, SETS[isa].target, extension.halves()
        for name in _FUNCTIONS:
            setattr(self, name, getattr(extension, name))
        self._units = {size: (at, cells) for name, size, at, cells in extension.units() if name == isa}

    def program(self, plan: Plan, dtype: np.dtype[Any]) -> Program:
        """See `Native`."""
        return _program(plan, dtype.name, self.target)

    def _cell(self, program: Program) -> int:
        """The address of a program's stages."""
        _, cells = self._units[program.dtype.itemsize]
        return int(cells[program.plan.cell.text])

    def forward(self, program: Program) -> KernelOf:
        """See `Native`."""
        return self.extension.FORWARD, self._cell(program)

    def backward(self, program: Program) -> KernelOf:
        """See `Native`."""
        return self.extension.BACKWARD, self._cell(program)

    def weight_gradient(self, dtype: np.dtype[Any]) -> KernelOf:
        """See `Native`."""
        return self.extension.WEIGHT_GRADIENT, self._units[dtype.itemsize][0]

    def copying(self, dtype: np.dtype[Any]) -> KernelOf:
        """See `Native`."""
        return self.extension.COPYING, dtype.itemsize


@lru_cache(maxsize=512)
def _program(plan: Plan, dtype: str, target: Target) -> Program:
    return Program(plan, np.dtype(dtype), target)
