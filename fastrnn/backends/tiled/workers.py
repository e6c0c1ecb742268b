"""One worker: a thread that waits for jobs within compiled code, awake for a moment, then asleep until it is called."""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue

import numpy as np

from fastrnn.backends.contract import Array
from fastrnn.backends.tiled import box as bx
from fastrnn.backends.tiled.native import Native
from fastrnn.backends.tiled.placing import Place
from fastrnn.backends.tiled.room import aligned
from fastrnn.threads import new_thread

LOOKS = 30_000  # of a worker that has nothing to do, before it sleeps: some 0.7 to 1.5 ms


class Worker:
    """A thread, its box, and the queue at which it sleeps."""

    def __init__(self, thread: threading.Thread, box: Array, calls: SimpleQueue[None]) -> None:
        self.box, self._calls, self._place = box, calls, Place(thread.native_id)

    def wake(self) -> None:
        """Have it look for jobs: its box must be `box.WAKING`."""
        self._place.keep_off_caller()
        self._calls.put(None)

    def forgotten(self) -> bool:
        """Whether its box says that it is being woken, and nobody has called it: Ctrl-C kept him from that.

        Or he is about to, or it has heard him and is about to look for jobs. To call it once more then does no harm.
        """
        return self.box.item(bx.STATE) == bx.WAKING and self._calls.empty()


def hired(native: Native, number: int) -> Worker | None:
    """A new worker; None where the system has no thread left.

    The caller, not the thread, asks for what the thread runs: to get it may take Numba's lock of its compiler, which a
    child would wait for in vain if another thread held it at a fork.
    """
    box, calls = aligned((bx.WORDS,), np.dtype(np.int64)), SimpleQueue[None]()
    box[...] = 0
    thread = new_thread(_attend, (native.serve, box, calls), f"fastrnn-crew-{number}")
    return Worker(thread, box, calls) if thread else None


def _attend(serve: Callable[[Array, int], None], box: Array, calls: SimpleQueue[None]) -> None:
    while True:
        calls.get()
        if box.item(bx.STATE) == bx.WAKING:  # else it was called twice, and has come for the first
            serve(box, LOOKS)
