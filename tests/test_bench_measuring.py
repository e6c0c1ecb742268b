"""The benchmark's way of measuring: interrupts, load, processors, rounds, contenders that hang or lose a variant."""

from __future__ import annotations

import threading
import time
from _thread import interrupt_main
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from fastrnn.bench import machine

# --- the machine ------------------------------------------------------------------------------------------------------


def test_an_interrupt_waits_for_those_that_read() -> None:
    """They read from memory whose addresses they were told: it has to stay until they are through."""
    through: list[int] = []
    first = threading.Lock()

    def loop(count: int) -> None:
        time.sleep(0.05)
        if first.acquire(blocking=False):
            interrupt_main()
        time.sleep(0.2)
        through.append(count)

    with pytest.raises(KeyboardInterrupt):
        machine._together([loop, loop, loop], 7)
    assert through == [7, 7, 7]


def test_an_interrupt_before_all_have_begun_leaves_nobody_waiting(monkeypatch: pytest.MonkeyPatch) -> None:
    submit = ThreadPoolExecutor.submit
    began = iter([True])

    def interrupted(pool: ThreadPoolExecutor, *arguments: Any) -> Any:
        if next(began, False):
            return submit(pool, *arguments)
        raise KeyboardInterrupt

    monkeypatch.setattr(ThreadPoolExecutor, "submit", interrupted)
    before = threading.active_count()
    with pytest.raises(KeyboardInterrupt):
        machine._together([lambda count: None] * 2, 1)
    assert threading.active_count() == before


def test_what_breaks_in_a_thread_breaks_the_measurement() -> None:
    with pytest.raises(ZeroDivisionError):
        machine._together([lambda count: 1 // 0] * 2, 1)


@pytest.mark.needs("numba")
def test_the_threads_hold_what_they_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever left them alone, by a second interrupt: they hold the arrays, and not only their addresses."""
    from fastrnn.bench import kernels

    held: list[Any] = []
    monkeypatch.setattr(machine, "_best", lambda loops, *_: held.extend(loops) or 1.0)
    machine._bandwidth(kernels.read(16, 8, 1), 1 << 16, 2, 1, 1.0)
    arrays = [loop.args[1] for loop in held]
    assert [array.nbytes for array in arrays] == [(1 << 15) + 4 * machine.LINE] * 2
    assert all(np.isfinite(loop(1)) for loop in held)


@pytest.mark.needs("numba")
def test_an_interrupted_handover_waits_for_its_partner(monkeypatch: pytest.MonkeyPatch) -> None:
    ended: list[bool] = []

    def play(address: int, mine: int, other: int, rounds: int) -> int:
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        time.sleep(0.2)
        ended.append(True)
        return rounds

    monkeypatch.setattr(machine, "_cached", lambda make: play)
    with pytest.raises(KeyboardInterrupt):
        machine.handover()
    assert ended == [True]
