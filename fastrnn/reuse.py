"""Large arrays whose memory is used again: what one call needs or returns, the next one needs, too.

Memory that comes fresh from the system comes page by page, each of them cleared at its first use. A small training step
can take half as long again for that, an inference four times as long (RNN, T=32, B=48, H=64), a large one some percent
longer, and whether it does depends on what else the process has on its heap. So large buffers that come back are kept
for the next call: the last ones, `MOST` bytes in all. And the C library is brought to keep what small ones leave free.

All steps are single operations of a dict, and need no lock: a buffer may come back at any moment, in any thread, also
when the collector of garbage runs within such a step.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from fastrnn.checks import Array

LEAST = 1 << 17  # bytes from which on a buffer is worth keeping: below, the C library does that
FEW = LEAST // 8  # numbers that are less than that in any case
MOST = 1 << 27  # bytes that are kept
LINE = 64  # bytes of a cache line
BYTE = np.dtype(np.uint8)
_idle: dict[int, _Memory] = {}  # by id, the oldest first

# Up to a limit: the GNU C library gives the end of its heap back to the system as soon as so many bytes are free there,
# 128 K at first, and a call that needs 200 KB gets them page by page each time. It learns from a buffer that is large
# enough to come from the system by itself: once that is given back, it keeps twice as much, in the whole process.
np.empty(1 << 20, np.uint8)


def address(array: Any) -> int:
    """Where an array's first value is."""
    try:
        return ctypes.addressof(ctypes.c_char.from_buffer(array))  # in a quarter of the time of the other way
    except (TypeError, ValueError):  # read-only, empty, or not contiguous
        return int(array.__array_interface__["data"][0])


def empty(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """A new array, not initialised; its memory comes back when it and all of its views are gone."""
    count = prod(shape)
    if count < FEW or count * dtype.itemsize < LEAST:
        return np.empty(shape, dtype)
    size = count * dtype.itemsize
    loan = Loan(size)
    loan.__array_interface__ = {"shape": shape, "typestr": dtype.str, "data": (loan.address, False), "version": 3}
    return np.asarray(loan)


def maker(most: int) -> Callable[[tuple[int, ...], np.dtype[Any]], Array]:
    """`empty` for arrays of at most so many values: where these are few, a function that does the same sooner."""
    return np.empty if most < FEW else empty


def buffer(size: int) -> Array:
    """So many bytes, as `empty`."""
    return np.empty(size, BYTE) if size < LEAST else empty((size,), BYTE)


def zeros(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """The same, zero."""
    found = empty(shape, dtype)
    found.fill(0)
    return found


class _Memory:
    """A buffer, and where it is: at the begin of a cache line, so that no vector of a row stands on two."""

    __slots__ = ("address", "memory", "size")

    def __init__(self, size: int) -> None:
        self.memory, self.size = np.empty(size + LINE, np.uint8), size
        begin = address(self.memory)
        self.address = begin + -begin % LINE


def _memory(size: int) -> _Memory:
    """A buffer of that size, or little more."""
    # The last one is the likeliest to be in a cache. Not of the items: to make a tuple of each may run the collector of
    # garbage, in which buffers come back while the dict is read.
    for memory in reversed(list(_idle.values())):
        if size <= memory.size <= size + size // 4 and _idle.pop(id(memory), None) is not None:
            return memory
    return _Memory(size)


def _keep(memory: _Memory) -> None:
    """Keep a buffer, and let the oldest ones go; not one for which all the others would have to."""
    if memory.size > MOST:
        return
    _idle[id(memory)] = memory
    for key in list(_idle):
        if sum([kept.size for kept in list(_idle.values())]) <= MOST:
            break
        _idle.pop(key, None)


class Loan:
    """Memory that comes back when this object is gone: bytes from ``address`` on, the begin of a cache line.

    It is what an array of `LEAST` bytes and more is based on: NumPy keeps it alive for every view.
    """

    __array_interface__: dict[str, Any]
    __slots__ = ("__array_interface__", "_memory", "address")

    def __init__(self, size: int) -> None:
        self._memory: _Memory | None = None  # until there is some
        self._memory = _memory(size)
        self.address = self._memory.address

    def __del__(self, keep: Callable[[_Memory], None] = _keep) -> None:
        memory = getattr(self, "_memory", None)  # Ctrl-C can come before the first line of `__init__`
        if memory is not None:
            keep(memory)
