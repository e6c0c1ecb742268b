"""The commands of ``fastrnn``, one file each; `fastrnn.__main__` lists them.

A command's module has ``HELP``, one line; ``configure(parser)``, which adds its arguments; and ``run(options)``, which
gives the exit code. Importing it is cheap: what a command needs and others do not, it imports when it runs.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable


class CommandError(Exception):
    """Ends a command with one sentence to whoever typed it, and exit code 1."""


def at_least(minimum: int) -> Callable[[str], int]:
    """The type of an argument that is an integer of at least ``minimum``."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = minimum - 1
        if value < minimum:
            raise argparse.ArgumentTypeError(f"expected an integer of at least {minimum}, got {text!r}")
        return value

    return read
