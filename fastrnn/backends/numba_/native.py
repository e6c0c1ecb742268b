"""The kernels as Numba compiles them, a cell at a time, on first use. What is asked for: `tiled.native`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
from numba import types

from fastrnn.backends.contract import Array
from fastrnn.backends.numba_ import copies, host, rows, scan, steps
from fastrnn.backends.numba_.bound import SIGNATURE, bound
from fastrnn.backends.numba_.compile import address_of, compiled_for
from fastrnn.backends.numba_.objects import ObjectType
from fastrnn.backends.numba_.signals import signals_wait
from fastrnn.backends.numba_.target import halves, target
from fastrnn.backends.numba_.types import Shared, type_of
from fastrnn.backends.tiled.native import KernelOf
from fastrnn.backends.tiled.program import Program
from fastrnn.plan import Plan
from fastrnn.record import lazy

SCAN_ARGUMENTS = (types.int64,) * 5  # frame, low, high, start, stop


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

    def copying(self, dtype: np.dtype[Any]) -> KernelOf:
        """See `Native`."""
        return address_of(copies.copy_weights, (type_of(Shared("copies", dtype)), *SCAN_ARGUMENTS)), 0

    def bound_pack(self, tables: tuple[Array, ...]) -> Callable[..., int]:
        """See `Native`."""
        return bound(address_of(copies.pack_on, SIGNATURE), tables)

    @lazy
    def run_on(self) -> Callable[..., int]:
        """See `Native`."""
        return bound(address_of(host.run_on, SIGNATURE), ())

    def bound_back(self, tables: tuple[Array, ...]) -> Callable[..., int]:
        """See `Native`."""
        with signals_wait():
            from fastrnn.backends.numba_ import gradients  # only training needs it

        return bound(address_of(gradients.back_on, SIGNATURE), tables)

    def bound_step(self, call: Array, needed: Any, brief: bool) -> Callable[[Any, Any], int]:
        """See `Native`."""
        return bound(address_of(steps.brief_step if brief else steps.step, SIGNATURE), (call, needed))


_OBJECT, _WHOLE = ObjectType(), types.int64
_HOST = {
    "run": (host.run, (_OBJECT, *[_WHOLE] * 4)),
    "team_on": (host.team_on, (_OBJECT, _WHOLE, types.boolean, *[_OBJECT] * 6, _WHOLE, types.boolean, _OBJECT)),
    "run_as_team": (host.run_as_team, (_OBJECT, _OBJECT, *[_WHOLE] * 4)),
    "run_list": (host.run_list, (*[_OBJECT] * 3, _WHOLE)),
    "serve": (host.serve, (_OBJECT, _WHOLE)),
    "rouse": (host.rouse, (_OBJECT,)),
    "expect": (host.expect, (_OBJECT, _WHOLE)),
    "volley": (host.volley, (_OBJECT, _WHOLE)),
    "point": (host.point, (_OBJECT, _WHOLE, _OBJECT, _WHOLE, _OBJECT)),
    "room": (host.room, (_OBJECT, *[_WHOLE] * 3)),
    "sort_rows": (rows.sort_rows, (_OBJECT, _WHOLE, _OBJECT)),
    "step_offsets": (rows.step_offsets, (_OBJECT, _OBJECT, types.boolean, _WHOLE, _WHOLE)),
    "history_offsets": (rows.history_offsets, (_OBJECT, _OBJECT, _WHOLE)),
}


def compile_host() -> None:
    """Compile what all cells and element types share, threads' part included."""
    from fastrnn.backends.numba_ import gradients

    native = NumbaNative()
    for name in _HOST:
        getattr(native, name)
    for dispatcher in (copies.pack_on, host.run_on, gradients.back_on, steps.step, steps.brief_step):
        address_of(dispatcher, SIGNATURE)


@lru_cache(maxsize=512)
def _program(plan: Plan, dtype: str) -> Program:
    return Program(plan, np.dtype(dtype), target())
