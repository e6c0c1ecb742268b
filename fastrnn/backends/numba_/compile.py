"""Compilation: Numba's disk cache where there is a place for it, and calls that cost next to nothing."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

from numba import njit


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


def compiled_for(dispatcher: Any, signature: tuple[Any, ...]) -> Callable[..., Any]:
    """The compiled function itself for arguments of these types, which it does not check.

    It does without Numba's look-up of the arguments' types, which takes longer than a small step.
    """
    return _compiled(dispatcher, signature).entry_point


def address_of(dispatcher: Any, signature: tuple[Any, ...]) -> int:
    """The address of the compiled function, as C would call it."""
    found = _compiled(dispatcher, signature)
    return int(found.library.get_pointer_to_function(found.fndesc.llvm_cfunc_wrapper_name))


def _compiled(dispatcher: Any, signature: tuple[Any, ...]) -> Any:
    found = dispatcher.overloads.get(signature)
    if found is None:
        dispatcher.compile(signature)  # under Numba's own lock; the second of two threads finds it done
        found = dispatcher.overloads[signature]
    return found
