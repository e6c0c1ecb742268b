"""Signals that wait: Numba must not be interrupted while it is imported, and while it compiles or loads a kernel.

It imports much of itself in the middle of typing, by which its registries fill. An exception in between, as Ctrl-C
raises it, leaves them half full for the rest of the process.
"""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from types import FrameType

Handler = Callable[[int, "FrameType | None"], object]


@contextmanager
def signals_wait() -> Iterator[None]:
    """Run Python's handlers of signals that come meanwhile at the end, once for each signal.

    Python runs them in the main thread of the main interpreter alone, so there is nothing to do in others. What the
    system or other code handles by itself stays as it is. May be nested.
    """
    waiting, came, held = True, dict[int, FrameType | None](), dict[int, Handler]()

    def note(number: int, frame: FrameType | None) -> None:
        if waiting:
            came[number] = frame
        else:  # not put back, which takes two such handlers within microseconds
            held[number](number, frame)

    try:
        with suppress(ValueError):  # this thread has no say in it
            for number in signal.valid_signals():
                handler = signal.getsignal(number)
                if callable(handler):
                    held[number] = handler
                    signal.signal(number, note)
        yield
    finally:
        back = [partial(_put_back, number, note, handler) for number, handler in held.items()]
        try:
            _all(back)
        finally:
            try:
                _all(back)  # what is left, if a handler that was back already has raised in between
            finally:
                waiting = False
                _all([partial(held[number], number, frame) for number, frame in came.items()])


def _put_back(number: int, note: Handler, handler: Handler) -> None:
    if signal.getsignal(number) is note:
        signal.signal(number, handler)


def _all(calls: Sequence[Callable[[], object]]) -> None:
    """Make all calls, even if one of them or a handler that was put back raises."""
    if calls:
        try:
            calls[0]()
        finally:
            _all(calls[1:])
