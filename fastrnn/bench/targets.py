"""The files that a run writes: asked before anything is measured, and written whole or not at all."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastrnn.bench.results import Run


def problem(path: Path) -> str | None:
    """Why a file cannot be written, or None if it can: a run of an hour must not end with this."""
    if path.is_dir():
        return f"{str(path)!r} is a folder"
    folder = path.absolute().parent
    if not folder.is_dir():
        return f"there is no folder {str(folder)!r}"
    if _is_special(path):
        return None
    if path.exists() and not os.access(path, os.W_OK):
        return f"cannot write {str(path)!r}: it is read-only"
    try:
        trial = _beside(path)
        trial.touch()
        trial.unlink()
    except OSError as error:
        return f"cannot write {str(path)!r}: {error.strerror}"
    return None


def write(path: Path, text: str) -> None:
    """Write a file so that it is all of the old or all of the new, whenever this process ends."""
    if _is_special(path):
        path.write_text(text, encoding="utf-8")
        return
    made = _beside(path)
    try:
        made.write_text(text, encoding="utf-8")
        os.replace(made, path.resolve())
    finally:
        made.unlink(missing_ok=True)


def _beside(path: Path) -> Path:
    """A file in the same folder, from which it is one step to the other; a link stays a link."""
    target = path.resolve()
    return target.with_name(f".{target.name}.{os.getpid()}")


def _is_special(path: Path) -> bool:
    """A device or a pipe, whose place no file may take."""
    return path.exists() and not path.is_file()


class Keeper:
    """Writes a run's figures as they come, so that none is lost, and goes on if it cannot.

    Parameters
    ----------
    path : Path or None
        None: nothing is written.

    Attributes
    ----------
    problem : str
        Why the last figures are not in the file; empty if they are.
    """

    def __init__(self, path: Path | None) -> None:
        self.path, self.problem = path, ""

    def keep(self, run: Run, last: bool = False) -> None:
        """Write what there is by now; to a device or a pipe only the last of it."""
        if self.path is None or (not last and _is_special(self.path)):
            return
        try:
            write(self.path, run.text())
            self.problem = ""
        except OSError as error:  # a full disk: there is still the screen
            self.problem = f"--json: cannot write {str(self.path)!r}: {error.strerror}"


@contextmanager
def terminated_is_interrupted() -> Iterator[None]:
    """Within it SIGTERM is Ctrl-C: what is finished is written, and nothing stays behind."""
    if threading.current_thread() is not threading.main_thread():  # no other may say what a signal does
        yield
        return

    def interrupt(*_: Any) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # a second one would cut the tidying up short
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before or signal.SIG_DFL)
