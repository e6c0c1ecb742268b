"""Compilation: kernels that are kept on disk, and calls that cost next to nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit, types

from fastrnn.backends.numba_.cache import KernelCache

Kernel = Callable[..., None]
INT64S = types.Array(types.int64, 1, "C")


def inner(function: Callable[..., Any]) -> Any:
    """A part of kernels, which hold it in their own compiled code.

    It has no cache of its own: Numba would find it there by its own file alone, stale after a change of another file.
    """
    return njit(nogil=True, error_model="numpy")(function)


def compiled(function: Callable[..., Any]) -> Any:
    """A kernel: compiled on first use and kept on disk, where there is a place for that."""
    dispatcher = njit(nogil=True, error_model="numpy")(function)
    dispatcher._cache = KernelCache(f"{function.__module__.rpartition('.')[2]}.{function.__qualname__}")
    return dispatcher


def kernel_of(dispatcher: Any, program: Any, *arguments: Any) -> Kernel:
    """The compiled function itself for one program, to be called with it and with arguments of the given types.

    It does without Numba's look-up of the arguments' types, which takes longer than a small step. Made once.
    """
    signature = arguments if program is None else (program.numba_type, *arguments)
    key = id(dispatcher), signature
    found = _kernels.get(key)
    if found is None:
        dispatcher.compile(signature)  # under Numba's own lock; the second of two threads finds it done
        found = _kernels[key] = dispatcher.overloads[signature].entry_point
    return found


_kernels: dict[Any, Kernel] = {}
