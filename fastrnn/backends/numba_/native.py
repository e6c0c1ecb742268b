"""The kernels as Numba compiles them, a cell at a time, on first use. What is asked for: `tiled.native`."""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any

import numpy as np
from numba import from_dtype, types

from fastrnn.backends.contract import Array
from fastrnn.backends.numba_ import host, scan
from fastrnn.backends.numba_.compile import address_of, compiled_for
from fastrnn.backends.numba_.target import target
from fastrnn.backends.numba_.types import Shared, type_of
from fastrnn.backends.tiled.native import KernelOf
from fastrnn.backends.tiled.program import Program
from fastrnn.plan import Plan

SCAN_ARGUMENTS = (types.int64,) * 5  # frame, low, high, start, stop
WORDS, WORDS_2D, WORDS_3D = (types.Array(types.int64, ndim, "C") for ndim in (1, 2, 3))
HOST = Shared("host")


def _called(function: Any, *arguments: Any) -> Any:
    """A function of `host`, ready to be called."""
    return partial(compiled_for(function, (type_of(HOST), *arguments)), HOST)


class NumbaNative:
    """See `fastrnn.backends.tiled.native.Native`."""

    def __init__(self) -> None:
        whole = types.int64
        self.run = _called(host.run, WORDS, *[whole] * 4)
        self._calls: dict[Any, Any] = {}

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

    def __getattr__(self, name: str) -> Any:
        """The other functions are compiled when they are first used, those of arrays for their types."""
        found = _SIMPLE.get(name)
        if found is None:
            raise AttributeError(name)
        function, arguments = found
        called = _called(function, *arguments)
        setattr(self, name, called)
        return called

    def point(self, frame: Array, field: int, array: Array) -> None:
        """See `Native`."""
        key = "point", array.ndim, array.dtype
        called = self._calls.get(key)
        if called is None:
            called = self._calls[key] = _called(host.point, WORDS, types.int64, _array(array))
        called(frame, field, array)

    def point_both(self, frame: Array, field: int, array: Array, other_field: int, other: Array) -> None:
        """See `Native`."""
        key = "point_both", array.ndim, array.dtype
        called = self._calls.get(key)
        if called is None:
            kind = _array(array)
            called = self._calls[key] = _called(host.point_both, WORDS, types.int64, kind, types.int64, kind)
        called(frame, field, array, other_field, other)

    def step(self, boxes: Array, frames: Array, x: Array, y: Array) -> int:
        """See `Native`."""
        key = "step", x.ndim, x.dtype
        called = self._calls.get(key)
        if called is None:
            kind = types.Array(from_dtype(x.dtype), x.ndim, "C")
            called = self._calls[key] = _called(host.step, WORDS, WORDS_3D, kind, kind)
        return int(called(boxes, frames, x, y))


_SIMPLE = {
    "run_as_team": (host.run_as_team, (WORDS, WORDS_2D, *[types.int64] * 4)),
    "run_list": (host.run_list, (WORDS, WORDS_2D, WORDS_2D, types.int64)),
    "serve": (host.serve, (WORDS, types.int64)),
    "rouse": (host.rouse, (WORDS,)),
    "awake": (host.awake, (WORDS, types.int64)),
    "room": (host.room, (WORDS, *[types.int64] * 3)),
    "step_offsets": (host.step_offsets, (*[WORDS] * 4, types.boolean, types.int64, types.int64)),
    "history_offsets": (host.history_offsets, (WORDS, WORDS, types.int64, types.int64)),
}


def _array(array: Array) -> Any:
    """The type of arrays of as many axes, however they lie in memory."""
    return types.Array(from_dtype(array.dtype), array.ndim, "A" if array.ndim == 3 else "C")


@lru_cache(maxsize=512)
def _program(plan: Plan, dtype: str) -> Program:
    return Program(plan, np.dtype(dtype), target())
