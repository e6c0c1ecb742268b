"""Compilation: kernels that are kept on disk, and calls that cost next to nothing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from numba import njit

from fastrnn.backends.numba_.cache import KernelCache
from fastrnn.backends.numba_.signals import signals_wait


def inner(function: Callable[..., Any]) -> Any:
    """A part of kernels, which hold it in their own compiled code.

    It has no cache of its own: Numba would find it there by its own file alone, stale after a change of another file.
    It is compiled by itself and again in whatever calls it, some 50 ms each time: what is tiny is an intrinsic instead.

    None allocates or returns an array, and so none counts references to arrays (Numba's option for that has no public
    name), which took a tenth of a short way back. What returns one is `inlined`.
    """
    plain = {"no_cpython_wrapper": True, "no_cfunc_wrapper": True, "_nrt": False}
    return njit(nogil=True, error_model="numpy", **plain)(function)


def inlined(function: Callable[..., Any]) -> Any:
    """As `inner`, but copied to where it is called: for what is called in every step and does little, and for what runs
    the stages, which take seconds to compile, so that they are compiled once."""
    return njit(nogil=True, error_model="numpy", inline="always")(function)


def compiled(function: Callable[..., Any]) -> Any:
    """A kernel: compiled on first use and kept on disk, where there is a place for that."""
    dispatcher = njit(nogil=True, error_model="numpy")(function)
    dispatcher._cache = KernelCache(f"{function.__module__.rpartition('.')[2]}.{function.__qualname__}")
    return dispatcher


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
        with signals_wait():
            dispatcher.compile(signature)  # under Numba's own lock; the second of two threads finds it done
        found = dispatcher.overloads[signature]
    return found
