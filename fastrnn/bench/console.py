"""Where the command prints: a terminal with a progress bar, or a file or pipe with a line for each thing done."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn


class PatientConsole(Console):
    """A console whose reader may leave, as `head` does.

    Parameters
    ----------
    patient : bool
        Whether the run then goes on in silence, since it has files to write; else it ends with `BrokenPipeError`.
    """

    def __init__(self, patient: bool, **options: Any) -> None:
        super().__init__(highlight=False, **options)
        self._patient = patient

    def print(self, *objects: Any, **options: Any) -> None:
        """As in any console."""
        try:
            super().print(*objects, **options)
        except BrokenPipeError:  # up to rich 13.7; later ones call the following themselves
            self.on_broken_pipe()

    def on_broken_pipe(self) -> None:
        """Go on in silence, or end."""
        if not self._patient:
            raise BrokenPipeError
        self.quiet = True
        with suppress(OSError, ValueError):  # what is still in Python's buffer is for nobody, either
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def make(patient: bool) -> Console:
    """The console of this process."""
    console = PatientConsole(patient)
    if console.is_terminal:
        return console
    return PatientConsole(patient, width=160)  # a file or a pipe has no width of its own


def progress(console: Console) -> Progress:
    """A progress bar that is gone when it is done; without a terminal there is none."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[after]}"),
    )
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)
