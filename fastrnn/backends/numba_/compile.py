"""Compilation: Numba's disk cache where there is a place for it, and calls that cost next to nothing."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from numba import njit, types

Kernel = Callable[..., None]
INT64S = types.Array(types.int64, 1, "C")


def inner(function: Callable[..., Any]) -> Any:
    """A part of kernels, which hold it in their own compiled code.

    It has no cache of its own: Numba would find it there by its own file alone, stale after a change of another file.
    """
    return njit(nogil=True, error_model="numpy")(function)


def compiled(function: Callable[..., Any]) -> Any:
    """A kernel: compiled on first use and kept on disk; without a writable place for that, in memory alone."""
    try:
        return njit(cache=True, nogil=True, error_model="numpy")(function)
    except RuntimeError as error:  # Numba found no directory that it can write to
        _say_once(error)
        return njit(nogil=True, error_model="numpy")(function)


_said: list[str] = []


def _say_once(error: RuntimeError) -> None:
    if not _said:
        _said.append(str(error))
        warnings.warn(
            f"compiled kernels are not kept on disk, so every process compiles anew ({error}); "
            "set NUMBA_CACHE_DIR to a writable directory to keep them",
            RuntimeWarning,
            stacklevel=2,
        )


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
