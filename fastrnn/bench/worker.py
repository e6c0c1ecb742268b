"""What runs in a contender's process: it reads requests, a line of JSON each, and answers each with one.

Requests: ``load`` a case and check its variants' outputs, ``calibrate``, ``time`` some calls of one variant, ``sample``
the time of single calls, ``drop`` the case.
"""

from __future__ import annotations

import ctypes
import gc
import importlib.metadata
import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any, TextIO

from fastrnn.bench.contenders import Contender, Prepared, contender
from fastrnn.bench.workload import CHECKED_STEPS, Workload, WrongOutput

_MOST_CALLS = 1_000_000


def serve(name: str, threads: int) -> None:
    """Answer requests until there are no more."""
    # Whatever a library prints, it is no answer: only this copy of the standard output leads to the parent.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    _end_with_parent()
    worker = _Worker(contender(name), threads)
    worker.contender.pin(threads)
    gc.disable()
    _answer(answers, {"versions": _versions(worker.contender)})
    for line in sys.stdin:
        request = json.loads(line)
        try:
            _answer(answers, getattr(worker, request.pop("do"))(**request))
        except Exception as error:
            _answer(answers, {"failed": f"{type(error).__name__}: {_first_line(error)}"})
        if gc.isenabled():
            gc.disable()
        gc.collect(0)


def _end_with_parent() -> None:
    """Be killed with the thread that has started this process, even in a call that never returns.

    An idle one sees its input end. By the system, not by a thread that watches: with a second thread here, glibc's
    malloc would take its locks for all contenders.
    """
    if sys.platform == "linux":
        die_with_parent = 1  # PR_SET_PDEATHSIG
        with suppress(AttributeError):  # a C library without it
            ctypes.CDLL(None).prctl(die_with_parent, ctypes.c_ulong(signal.SIGKILL))


def _answer(answers: TextIO, answer: dict[str, Any]) -> None:
    print(json.dumps(answer), file=answers, flush=True)


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), "")[:200]


def _versions(who: Contender) -> dict[str, str]:
    found = {}
    for package in who.packages:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "unknown"
    return found


class _Worker:
    """A contender and the case that it has at hand."""

    def __init__(self, who: Contender, threads: int) -> None:
        self.contender, self.threads = who, threads
        self._ready: dict[str, Prepared] = {}

    def load(self, path: str) -> dict[str, Any]:
        """Prepare every variant of a case, call it, and check what comes out. Only those that pass can be timed."""
        work = Workload.load(Path(path))
        self.drop()
        variants: dict[str, dict[str, Any]] = {}
        for name, prepare in self.contender.variants(work, self.threads).items():
            try:
                begin = time.perf_counter()
                prepared = prepare()
                with prepared.context():
                    for _ in range(CHECKED_STEPS if work.case.mode == "step" else 1):
                        prepared.call()
                    outputs = prepared.outputs()
                first = time.perf_counter() - begin
                variants[name] = {"error": work.check(outputs), "first": first}
                self._ready[name] = prepared
            except WrongOutput as error:
                variants[name] = {"wrong": str(error)}
            except Exception as error:
                variants[name] = {"failed": f"{type(error).__name__}: {_first_line(error)}"}
        return {"variants": variants}

    def drop(self) -> dict[str, Any]:
        """Forget the case."""
        self._ready.clear()
        gc.collect()
        return {}

    def calibrate(self, variant: str, seconds: float) -> dict[str, Any]:
        """How many calls take about so many seconds."""
        calls = 1
        while True:
            took = min(self._run(variant, calls)[0] for _ in range(2))
            if took >= seconds / 4 or calls >= _MOST_CALLS:
                return {"calls": max(1, min(_MOST_CALLS, round(calls * seconds / max(took, 1e-9))))}
            calls = min(_MOST_CALLS, max(2 * calls, int(calls * seconds / 2 / max(took, 1e-9))))

    def time(self, variant: str, calls: int) -> dict[str, Any]:
        """The seconds of a call, how many processors were busy, and the seconds that the turn took.

        A turn begins with calls that do not count, one at least: they find the caches filled by others and the helping
        threads asleep, as no call in a loop does. A quarter: of a usual turn the millisecond in which these wake.
        """
        ahead, _ = self._run(variant, max(1, calls // 4))
        seconds, busy = self._run(variant, calls)
        return {"seconds": seconds / calls, "busy": busy / seconds, "turn": ahead + seconds}

    def sample(self, variant: str, calls: int) -> dict[str, Any]:
        """The nanoseconds of each of some calls, one clock reading between two calls."""
        prepared = self._ready[variant]
        call, clock = prepared.call, time.perf_counter_ns
        marks = [0] * (calls + 1)
        with prepared.context():
            for _ in range(max(1, calls // 4)):
                call()
            marks[0] = clock()
            for index in range(1, calls + 1):
                call()
                marks[index] = clock()
        return {"nanoseconds": [b - a for a, b in itertools.pairwise(marks)]}

    def _run(self, variant: str, calls: int) -> tuple[float, float]:
        """Wall and processor seconds of some calls."""
        prepared = self._ready[variant]
        with ExitStack() as stack:
            stack.enter_context(prepared.context())
            return _timed(prepared.call, calls)


def _timed(call: Callable[[], object], calls: int) -> tuple[float, float]:
    repeat = itertools.repeat(None, calls)
    busy, begin = time.process_time(), time.perf_counter()
    for _ in repeat:
        call()
    return time.perf_counter() - begin, time.process_time() - busy
