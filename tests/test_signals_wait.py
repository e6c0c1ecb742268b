"""Ctrl-C while Numba is imported or compiles, and what else may come then: the next call works, no signal is lost."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from places import finished, start

from fastrnn.backends.numba_.signals import signals_wait

pytestmark = pytest.mark.skipif(os.name == "nt", reason="needs signals")

INTERRUPTED = """
import json, signal
import numpy as np, fastrnn
layer, x, came = fastrnn.GRU(4, 6, backend="numba"), np.ones((3, 2, 4)), 0
signal.signal(signal.SIGALRM, signal.default_int_handler)
{before}
signal.setitimer(signal.ITIMER_REAL, {seconds})
try:
    {call}
    signal.setitimer(signal.ITIMER_REAL, 0)
except KeyboardInterrupt:
    came = 1
assert signal.getsignal(signal.SIGALRM) is signal.default_int_handler
{call}
print(json.dumps([came, layer(x)[0].shape]))
"""
FORWARD, TRAINING = "layer(x)", "layer.backward(layer.record(x)[2], np.ones((3, 2, 6)))"


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache directory with all kernels of the first call."""
    directory = tmp_path_factory.mktemp("warm")
    program = INTERRUPTED.format(before="", seconds=0, call=FORWARD)  # 0: never
    assert finished(start(program, {"NUMBA_CACHE_DIR": str(directory)})) == [0, [3, 2, 6]]
    return directory


@pytest.mark.needs("numba")
@pytest.mark.parametrize("seconds", [0.05, 0.4])
def test_an_interrupted_compilation(seconds: float, tmp_path: Path) -> None:
    """Of the first call of all, in the import of Numba or later."""
    program = INTERRUPTED.format(before="", seconds=seconds, call=FORWARD)
    assert finished(start(program, {"NUMBA_CACHE_DIR": str(tmp_path)})) == [1, [3, 2, 6]]


@pytest.mark.needs("numba")
@pytest.mark.parametrize("seconds", [0.03, 0.06, 0.09, 0.12, 0.2])
def test_an_interrupted_import(seconds: float, warm: Path) -> None:
    """With all kernels on disk nothing is compiled; a call that is faster than the signal may end first."""
    program = INTERRUPTED.format(before="", seconds=seconds, call=FORWARD)
    assert finished(start(program, {"NUMBA_CACHE_DIR": str(warm)}))[1] == [3, 2, 6]


@pytest.mark.needs("numba")
def test_an_interrupted_way_back(tmp_path: Path) -> None:
    """What only training needs is imported and compiled later."""
    program = INTERRUPTED.format(before="layer(x)", seconds=0.4, call=TRAINING)
    assert finished(start(program, {"NUMBA_CACHE_DIR": str(tmp_path)})) == [1, [3, 2, 6]]


class Heard(Exception):
    """What a handler raises."""


@pytest.fixture
def heard() -> Iterator[list[int]]:
    """The signals of which handlers were told: SIGUSR1's goes on, SIGUSR2's and SIGALRM's raise; SIGHUP is ignored."""
    told: list[int] = []

    def go_on(number: int, _frame: object) -> None:
        told.append(number)

    def fail(number: int, _frame: object) -> None:
        told.append(number)
        raise Heard(number)

    handlers = {signal.SIGUSR1: go_on, signal.SIGUSR2: fail, signal.SIGALRM: fail, signal.SIGHUP: signal.SIG_IGN}
    before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    yield told
    assert {number: signal.getsignal(number) for number in handlers} == handlers
    for number, handler in before.items():
        signal.signal(number, handler)


def test_handlers_run_at_the_end_all_of_them_and_once(heard: list[int]) -> None:
    with pytest.raises(Heard), signals_wait():  # noqa: PT012
        for number in (signal.SIGUSR2, signal.SIGUSR1, signal.SIGALRM, signal.SIGUSR2, signal.SIGHUP):
            signal.raise_signal(number)
        assert not heard
    assert heard == [signal.SIGUSR2, signal.SIGUSR1, signal.SIGALRM]


def test_the_innermost_end_is_not_yet_the_end(heard: list[int]) -> None:
    with signals_wait():
        with signals_wait():
            signal.raise_signal(signal.SIGUSR1)
        assert not heard
    assert heard == [signal.SIGUSR1]


def test_a_failure_in_between(heard: list[int]) -> None:
    """It is raised; what a handler raises comes first, and tells of it."""
    with pytest.raises(ZeroDivisionError), signals_wait():  # noqa: PT012
        signal.raise_signal(signal.SIGUSR1)
        raise ZeroDivisionError
    assert heard == [signal.SIGUSR1]
    with pytest.raises(Heard) as raised, signals_wait():  # noqa: PT012
        signal.raise_signal(signal.SIGUSR2)
        raise ZeroDivisionError
    assert isinstance(raised.value.__context__, ZeroDivisionError)


def test_a_handler_that_is_set_in_between_stays() -> None:
    def other(_number: int, _frame: object) -> None:
        pass

    before = signal.signal(signal.SIGUSR1, lambda _number, _frame: None)
    try:
        with signals_wait():
            signal.signal(signal.SIGUSR1, other)
        assert signal.getsignal(signal.SIGUSR1) is other
    finally:
        signal.signal(signal.SIGUSR1, before)


def test_in_another_thread_there_is_nothing_to_do(heard: list[int]) -> None:
    """Handlers run in the main one alone, and only that one may set them."""
    handlers = []

    def run() -> None:
        with signals_wait():
            handlers.append(signal.getsignal(signal.SIGUSR1))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert handlers == [signal.getsignal(signal.SIGUSR1)]
    assert not heard
