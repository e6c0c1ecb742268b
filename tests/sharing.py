"""Have every call use all threads it may, however small it is, so that tests need no large ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest import mock

from fastrnn.backends import numpy_
from fastrnn.backends.tiled import steps, worth

# The same for a program of its own.
CODE = """
from fastrnn.backends import numpy_
from fastrnn.backends.tiled import steps, worth
numpy_.WORTH_A_THREAD = steps.WORTH_STEPPING = 1
worth.WORTH_CALLING = worth.WORTH_RETURNING = worth.WORTH_BINDING = 1
worth.WORTH_WAKING = worth.WORTH_EXPECTING = 1
worth.WORTH_MEETING = worth.WORTH_MEETING_ROWS = worth.WORTH_TOGETHER = worth.WORTH_APART = 0
worth.PAUSE = 0.0
worth.processors = lambda: 64
"""


@contextmanager
def share_everything(rows_apart: int | None = None) -> Iterator[None]:
    """``rows_apart``: from how many rows a thread on rows are handed out and not the units of one row."""
    with ExitStack() as stack:
        stack.enter_context(mock.patch.object(numpy_, "WORTH_A_THREAD", 1))
        stack.enter_context(mock.patch.object(steps, "WORTH_STEPPING", 1))
        changes = {
            "WORTH_CALLING": 1,
            "WORTH_RETURNING": 1,
            "WORTH_BINDING": 1,
            "WORTH_WAKING": 1,
            "WORTH_EXPECTING": 1,
            "WORTH_MEETING": 0,
            "WORTH_MEETING_ROWS": 0,
            "WORTH_TOGETHER": 0,
            "WORTH_APART": 0,
            "PAUSE": 0.0,
            "processors": lambda: 64,
        }
        stack.enter_context(mock.patch.multiple(worth, **changes))
        if rows_apart is not None:
            stack.enter_context(mock.patch.object(worth, "ROWS_APART", rows_apart))
        yield
