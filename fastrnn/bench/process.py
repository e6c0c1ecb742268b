"""The contenders' processes, seen from the parent: started, asked one at a time, ended."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import TracebackType
from typing import IO, Any, cast

from fastrnn.bench import isa as instruction_sets
from fastrnn.bench.contenders import contender
from fastrnn.commands.environment import THREADS, TUNING

PATIENCE = 600.0  # seconds for an answer, many times what any takes: who needs longer does not come back


class WorkerError(RuntimeError):
    """A contender's process has ended before its time, or did not answer; the message has the last that it said."""


def environment(name: str, threads: int, isa: str | None = None) -> dict[str, str]:
    """What a contender's process starts with, kept to an instruction set if one is given."""
    kept = {key: value for key, value in os.environ.items() if key not in TUNING}
    limits = (isa and instruction_sets.variables(isa, name)) or {}
    return {**kept, **dict.fromkeys(THREADS, str(threads)), **contender(name).environment(threads), **limits}


class Process:
    """A contender's process. It ends when its input does, thus also when this process is killed: on Linux even if it
    hangs.

    Parameters
    ----------
    name : str
        The contender's.
    threads : int
    isa : str or None
        An instruction set to keep to, of `isa.NAMES`.
    """

    def __init__(self, name: str, threads: int, isa: str | None = None) -> None:
        self.name, self.threads = name, threads
        self._late = False
        # The same search path as here: a module in the current directory must not take the place of an installed one.
        program = (
            f"import sys; sys.path[:] = {sys.path!r}; "
            f"from fastrnn.bench.worker import serve; serve({name!r}, {threads})"
        )
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, "-c", program],
            env=environment(name, threads, isa),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            start_new_session=True,  # Ctrl-C is for the parent alone
        )
        self._requests, self._replies = cast(IO[str], self._process.stdin), cast(IO[str], self._process.stdout)
        try:
            with self._limited():
                self.versions: dict[str, str] = self._read()["versions"]
        except BaseException:
            self.close()
            raise

    def ask(self, do: str, **arguments: Any) -> dict[str, Any]:
        """Send a request and wait for the answer.

        Raises
        ------
        WorkerError
            If the process has ended, or does not answer within `PATIENCE`; then it is killed.
        """
        with self._limited():  # which starts a thread: before a turn, not beside it
            with suppress(BrokenPipeError):
                print(json.dumps({"do": do, **arguments}), file=self._requests, flush=True)
            return self._read()

    @contextmanager
    def _limited(self) -> Iterator[None]:
        """Kill the process when `PATIENCE` is over: who waits for its answer then sees it end."""
        timer = threading.Timer(PATIENCE, self._give_up)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()

    def _give_up(self) -> None:
        self._late = True
        self._process.kill()

    def _read(self) -> dict[str, Any]:
        line = self._replies.readline()
        if not line:
            code = self._process.wait()
            if self._late:
                raise WorkerError(f"no answer within {PATIENCE:g} s{self._last_words()}")
            raise WorkerError(f"its process has ended with exit code {code}{self._last_words()}")
        answer: dict[str, Any] = json.loads(line)
        return answer

    def _last_words(self) -> str:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return f": {lines[-1][:200]}" if lines else ""

    def close(self) -> None:
        """End the process."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._requests, self._replies, self._errors):
            with suppress(BrokenPipeError):
                pipe.close()

    def __enter__(self) -> Process:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()
