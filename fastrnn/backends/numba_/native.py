"""The kernels as Numba compiles them, a cell at a time, on first use. What is asked for: `tiled.native`."""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numba import from_dtype, types

from fastrnn.backends.numba_ import host, scan
from fastrnn.backends.numba_.compile import address_of, compiled_for
from fastrnn.backends.numba_.objects import ObjectType
from fastrnn.backends.numba_.target import halves, target
from fastrnn.backends.numba_.types import Shared, type_of
from fastrnn.backends.tiled.native import KernelOf, Typed
from fastrnn.backends.tiled.program import Program
from fastrnn.plan import Plan

SCAN_ARGUMENTS = (types.int64,) * 5  # frame, low, high, start, stop
WORDS, WORDS_2D = (types.Array(types.int64, ndim, "C") for ndim in (1, 2))


class _OnDemand:
    """Functions by name, each compiled for its arguments' types when it is first used."""

    def __init__(self, functions: Mapping[str, tuple[Any, tuple[Any, ...]]]) -> None:
        self._functions = functions

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_") or name not in self._functions:
            raise AttributeError(name)
        called = compiled_for(*self._functions[name])
        setattr(self, name, called)
        return called


class NumbaNative(_OnDemand):
    """See `fastrnn.backends.tiled.native.Native`."""

    def __init__(self) -> None:
        super().__init__(_HOST)
        self.halves = halves()

    def program(self, plan: Plan, dtype: np.dtype[Any]) -> Program:
        """See `Native`."""
        return _program(plan, dtype.name)

    def forward(self, program: Program) -> KernelOf:
        """See `Native`."""
        return address_of(scan.forward, (type_of(program), *SCAN_ARGUMENTS)), 0

    def backward(self, program: Program) -> KernelOf:
        """See `Native`."""
        return address_of(scan.backward, (type_of(program), *SCAN_ARGUMENTS)), 0

    def weight_gradient(self, dtype: np.dtype[Any]) -> KernelOf:
        """See `Native`."""
        return address_of(scan.weight_gradient, (type_of(Shared("outer", dtype)), *SCAN_ARGUMENTS)), 0

    def typed(self, dtype: np.dtype[Any]) -> Typed:
        """See `Native`."""
        return _typed(dtype.name)


class _Typed(_OnDemand):
    """See `fastrnn.backends.tiled.native.Typed`."""

    def __init__(self, dtype: np.dtype[Any]) -> None:
        whole, kind = types.int64, from_dtype(dtype)
        two, three = types.Array(kind, 2, "C"), types.Array(kind, 3, "A")
        functions = {
            "point_2d": (host.point, (WORDS, whole, two, whole, two)),
            "point_3d": (host.point, (WORDS, whole, three, whole, three)),
        }
        super().__init__(functions)
        self._scan, self._states = (WORDS, WORDS, three, three), types.Array(kind, 3, "C")
        self._scans: dict[int, Any] = {}

    def run_on(self, states: int) -> Any:
        """See `Typed`."""
        found = self._scans.get(states)
        if found is None:
            several = types.UniTuple(self._states, states)
            arguments = (*self._scan, several, several, types.int64, types.boolean)
            found = self._scans[states] = compiled_for(host.run_on, arguments)
        return found


_typed = lru_cache(maxsize=2)(lambda dtype: _Typed(np.dtype(dtype)))
_HOST = {
    "run": (host.run, (WORDS, *[types.int64] * 4)),
    "run_as_team": (host.run_as_team, (WORDS, WORDS_2D, *[types.int64] * 4)),
    "step": (host.step, (ObjectType(),) * 3),
    "brief_step": (host.brief_step, (ObjectType(),) * 3),
    "run_list": (host.run_list, (WORDS, WORDS_2D, WORDS_2D, types.int64)),
    "serve": (host.serve, (WORDS, types.int64)),
    "rouse": (host.rouse, (WORDS,)),
    "expect": (host.expect, (WORDS, types.int64)),
    "volley": (host.volley, (WORDS, types.int64)),
    "room": (host.room, (WORDS, *[types.int64] * 3)),
    "sort_rows": (host.sort_rows, (WORDS, types.int64, WORDS)),
    "clear_padding": (host.clear_padding, (WORDS, *[types.int64] * 5)),
    "step_offsets": (host.step_offsets, (*[WORDS] * 4, types.boolean, types.int64, types.int64)),
    "history_offsets": (host.history_offsets, (WORDS, WORDS, types.int64, types.int64)),
}


def compile_host() -> None:
    """Compile what all cells and element types share, threads' part included."""
    native = NumbaNative()
    for name in _HOST:
        getattr(native, name)


@lru_cache(maxsize=512)
def _program(plan: Plan, dtype: str) -> Program:
    return Program(plan, np.dtype(dtype), target())
