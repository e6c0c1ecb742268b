"""Where a worker wakes: not on its caller's own processor, where it would wait until the caller's time slice is over.

Linux wakes a thread where it last ran, or where its waker runs, if these share no cache with an idle processor; on a
virtual machine of two processors it then comes after a millisecond in place of a twentieth of one.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import lru_cache


class Place:
    """The processors that one worker may use: those of its callers but the one that the last caller was on.

    Parameters
    ----------
    thread : int or None
        The worker's number in the system.
    """

    def __init__(self, thread: int | None) -> None:
        self._thread, self._kept_off = thread, -1

    def keep_off_caller(self) -> None:
        """Keep the worker, which sleeps, off the processor that the caller is on, if there is another one."""
        here = _processor()()
        if here == self._kept_off or self._thread is None:
            return
        self._kept_off = here
        if others := os.sched_getaffinity(0) - {here}:
            try:
                os.sched_setaffinity(self._thread, others)
            except OSError:  # a sandbox that forbids it: the worker comes where it comes
                self._thread = None


@lru_cache(maxsize=1)
def _processor() -> Callable[[], int]:
    """What tells the number of the processor that a thread is on; where that means nothing, it is always -1."""
    if sys.platform == "linux" and hasattr(os, "sched_setaffinity"):
        import ctypes

        found: Callable[[], int] | None = getattr(ctypes.CDLL(None), "sched_getcpu", None)
        if found is not None:
            return found
    return lambda: -1
