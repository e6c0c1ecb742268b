"""Large buffers that are used again: what one training step needs, the next one needs, too.

Memory that comes fresh from the system comes page by page, each of them cleared at its first use. A small training step
can take half as long again for that, a large one some percent longer, and whether it does depends on what else the
process has on its heap. So large buffers that come back are kept for the next call: the last ones, `MOST` bytes in all.

All steps are single operations of a dict, and need no lock: a buffer may come back at any moment, in any thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from fastrnn.checks import Array

LEAST = 1 << 16  # bytes from which on a buffer is worth keeping
MOST = 1 << 27  # bytes that are kept
_idle: dict[int, Array] = {}  # by id, the oldest first


def buffer(size: int) -> Array:
    """``size`` bytes, not initialised; they come back when the array and all of its views are gone."""
    if size < LEAST:
        return np.empty(size, np.uint8)
    for key, memory in reversed(list(_idle.items())):  # the last one is the likeliest to be in a cache
        if size <= memory.size <= size + size // 4 and _idle.pop(key, None) is not None:
            return np.asarray(_Loan(memory))[:size]
    return np.asarray(_Loan(np.empty(size, np.uint8)))


def _keep(memory: Array) -> None:
    """Keep a buffer, and let the oldest ones go."""
    _idle[id(memory)] = memory
    for key in list(_idle):
        if sum(kept.size for kept in list(_idle.values())) <= MOST:
            break
        _idle.pop(key, None)


class _Loan:
    """What an array on a buffer is based on. NumPy keeps it alive for every view."""

    __slots__ = ("__array_interface__", "_memory")

    def __init__(self, memory: Array) -> None:
        self._memory = memory
        self.__array_interface__ = memory.__array_interface__

    def __del__(self, keep: Callable[[Array], None] = _keep) -> None:
        keep(self._memory)
