"""Where a worker wakes: on another processor than its caller's."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import threading
import time
from typing import Any
from unittest import mock

import numpy as np
import pytest
from cases import COMPILED

import fastrnn
from fastrnn.backends import load
from fastrnn.backends.tiled import placing
from fastrnn.backends.tiled.placing import Place
from fastrnn.backends.tiled.worth import processors

every_compiled = pytest.mark.parametrize("name", COMPILED)


class System:
    """One that has some processors, on one of which the caller is."""

    def __init__(self, allowed: set[int], here: int) -> None:
        self.allowed, self.here = allowed, here
        self.set = mock.Mock()


@pytest.fixture
def system(monkeypatch: pytest.MonkeyPatch) -> System:
    found = System({0, 1, 5}, 1)
    monkeypatch.setattr(placing, "_processor", lambda: lambda: found.here)
    monkeypatch.setattr(os, "sched_getaffinity", lambda thread: found.allowed if thread == 0 else None, raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", found.set, raising=False)
    return found


def test_a_worker_is_kept_off_its_callers_processor(system: System) -> None:
    place = Place(77)
    place.keep_off_caller()
    assert system.set.call_args_list == [mock.call(77, {0, 5})]
    place.keep_off_caller()
    assert system.set.call_count == 1  # it is already
    system.here = 5
    place.keep_off_caller()
    assert system.set.call_args_list[1:] == [mock.call(77, {0, 1})]


def test_where_there_is_no_other_processor_nothing_changes(system: System) -> None:
    system.allowed = {1}
    Place(77).keep_off_caller()
    Place(None).keep_off_caller()
    assert not system.set.called


def test_who_may_not_choose_processors_does_not_ask_again(system: System) -> None:
    system.set.side_effect = PermissionError
    place = Place(77)
    place.keep_off_caller()
    system.here = 0
    place.keep_off_caller()
    assert system.set.call_count == 1


@pytest.mark.parametrize("missing", ["platform", "function"])
def test_systems_that_tell_no_processor(missing: str, monkeypatch: pytest.MonkeyPatch) -> None:
    placing._processor.cache_clear()
    with monkeypatch.context() as patch:
        if missing == "platform":
            patch.setattr(sys, "platform", "darwin")
        else:
            patch.delattr(os, "sched_setaffinity", raising=False)
        place = Place(threading.get_native_id())
        place.keep_off_caller()
        assert placing._processor()() == -1
    placing._processor.cache_clear()


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_child_counts_its_own_processors() -> None:
    """A server gives each of its processes some."""
    code = """
        import os
        from fastrnn.backends.tiled.worth import processors
        os.sched_getaffinity = lambda thread: {0, 1, 5}
        assert processors() == 3
        pid = os.fork()
        if pid == 0:
            os.sched_getaffinity = lambda thread: {5}
            os._exit(processors())
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]))
    """
    program = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=60, check=False)
    assert done.stdout.strip() == "1", done.stderr


@every_compiled
def test_the_first_long_step_of_a_stream_is_shared(name: str) -> None:
    """By a worker that slept before, and has processors that its caller was not on. The result stays the same."""
    backend: Any = load(name)
    layer = fastrnn.GRU(256, 256, backend=name)
    x = np.random.default_rng(0).normal(size=(256, 256)).astype(np.float32)
    alone = layer.stream(256).step(x)
    stream, learnt = layer.stream(256), []
    real = backend.crew.learn
    with (
        mock.patch.object(backend.crew, "learn", lambda *given: learnt.append(real(*given)) or learnt[-1]),
        fastrnn.threads(2),
    ):
        end = time.monotonic() + (60 if processors() > 1 else 0.1)
        while learnt[-1:] != [2] and time.monotonic() < end:
            time.sleep(0.2)  # the workers go to sleep
            stream.reset()
            learnt.clear()
            np.testing.assert_array_equal(stream.step(x), alone)
    if processors() > 1:
        assert learnt == [2]
    if placing._processor()() >= 0 and learnt:
        helper = backend.crew._workers[0]._place._thread
        assert len(os.sched_getaffinity(helper)) == len(os.sched_getaffinity(0)) - 1
