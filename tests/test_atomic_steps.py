"""Small steps take no lock: they are whole to all who hold the interpreter's, and stay away while a stream is held."""

from __future__ import annotations

import gc
import os
import signal
import sys
import threading
import time
import warnings
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import compiled

import fastrnn
from fastrnn.backends.contract import HELD, TURN
from fastrnn.backends.tiled import steps
from fastrnn.backends.tiled.backend import NO_TAPE
from fastrnn.layout import plain_rows
from fastrnn.stream import _Hold

X = np.random.default_rng(5).normal(size=(6, 2, 8)).astype(np.float32)


def a_stream(backend: str, hidden: int = 8) -> Any:
    """A stream whose step is made ready, and that is at its begin."""
    stream = fastrnn.LSTM(8, hidden, num_layers=2, backend=backend).stream(2)
    stream.step(X[0])
    stream.reset()
    return stream


def taken(stream: Any, x: Any = X[0]) -> int:
    """What the step itself returns."""
    return int(stream._steps.run(x, np.empty((2, stream.layer.hidden_size), np.float32)))


@compiled
@pytest.mark.parametrize(("hidden", "atomic"), [(8, True), (150, False)])
def test_which_steps_are_atomic(backend: str, hidden: int, atomic: bool) -> None:
    """Longer ones let other threads have the interpreter meanwhile."""
    stream = a_stream(backend, hidden)
    assert stream._steps.atomic is atomic
    assert (stream._atomic is not None) is atomic


@compiled
def test_shared_steps_are_not(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """They are told to the crew in Python."""
    monkeypatch.setattr(steps, "WORTH_STEPPING", 1)
    assert not a_stream(backend)._steps.atomic


@compiled
def test_without_an_interpreters_lock_none_is(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "_is_gil_enabled", lambda: False, raising=False)
    stream = a_stream(backend)
    assert stream._atomic is None
    np.testing.assert_array_equal(np.stack([*map(stream.step, X)]), stream.layer(X)[0])


@compiled
def test_a_step_takes_no_lock(backend: str) -> None:
    stream = a_stream(backend)
    found: list[np.ndarray] = []
    other = threading.Thread(target=lambda: found.append(stream.step(X[0])), daemon=True)
    with stream._lock:
        other.start()
        other.join(20)
    np.testing.assert_array_equal(found[0], stream.layer(X[:1])[0][0])


@pytest.mark.parametrize("held", ["chunk", "reset", "state"])
def test_a_step_waits_for_who_holds_the_states(backend: str, held: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another thread is at work on them; what comes out is as if one had come after the other."""
    stream = a_stream(backend)
    order: list[str] = []
    entered, go_on = threading.Event(), threading.Event()
    enter = type(stream._hold).__enter__

    def slowly(hold: Any) -> int:
        turn = enter(hold)
        order.append("held")
        entered.set()
        go_on.wait(20)
        order.append("free")
        return turn

    monkeypatch.setattr(type(stream._hold), "__enter__", slowly)
    work: dict[str, Callable[[], Any]] = {
        "chunk": lambda: stream.chunk(X[:3]), "reset": stream.reset, "state": lambda: stream.state,
    }  # fmt: skip
    first = threading.Thread(target=work[held])
    first.start()
    assert entered.wait(20)
    stepped: list[np.ndarray] = []

    def step() -> None:
        stepped.append(stream.step(X[3]))
        order.append("step")

    second = threading.Thread(target=step)
    second.start()
    second.join(0.2)
    assert second.is_alive()
    go_on.set()
    for thread in (first, second):
        thread.join(20)
    assert order == ["held", "free", "step"]
    before = X[:3] if held == "chunk" else X[:0]
    expected = stream.layer(np.concatenate([before, X[3:4]]))[0][-1]
    np.testing.assert_allclose(stepped[0], expected, rtol=1e-5, atol=1e-6)


def test_states_are_held_before_the_turn_is_read() -> None:
    """A step of another thread may turn them in between."""
    done: list[Any] = []

    class Turns(list[int]):
        def __setitem__(self, at: Any, value: Any) -> None:
            done.append(("write", at, value))

        def __getitem__(self, at: Any) -> Any:
            done.append(("read", at))
            return 1

    hold = _Hold(Turns())  # type: ignore[arg-type]
    with hold as turn:
        assert turn == 1
    assert done == [("write", HELD, 1), ("read", TURN), ("write", HELD, 0)]


class Alarm(Exception):
    """What a signal's handler raises."""


@compiled
@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="there are no timers here")
def test_a_long_step_that_is_interrupted_is_none(backend: str) -> None:
    """Ctrl-C comes when it is over: what it has computed is lost, and does not count."""
    stream = fastrnn.GRU(600, 600, backend=backend).stream(16)
    x = np.ones((16, 600), np.float32)
    stream.step(x)
    assert not stream._steps.atomic

    def handler(*_: Any) -> None:
        raise Alarm

    before, inside, unchanged, changed = stream.state, False, 0, 0
    old = signal.signal(signal.SIGALRM, handler)
    try:
        for _ in range(20):
            try:
                signal.setitimer(signal.ITIMER_REAL, 2e-3)  # some steps later
                while True:
                    before, inside = stream.state, True
                    stream.step(x)
                    inside = False
            except Alarm:
                same = inside and np.array_equal(stream.state, before)
                unchanged, changed = unchanged + same, changed + (inside and not same)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)
    assert unchanged > 4 * changed  # it may come in the moment between the step's end and that of `inside`


def ran_meanwhile(work: Callable[[], Any], seconds: float) -> bool:
    """Whether another thread that waits for the interpreter gets it while some work is done over and over, so long at
    most: it may have no processor for a while."""
    begin, ran = threading.Event(), list[int]()

    def run() -> None:
        begin.wait()
        ran.append(1)

    other = threading.Thread(target=run)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1000)  # nobody has to give it up
    try:
        other.start()
        time.sleep(0.05)
        begin.set()
        end = time.monotonic() + seconds
        while not ran and time.monotonic() < end:
            work()
        return bool(ran)
    finally:
        sys.setswitchinterval(interval)
        other.join()


@compiled
def test_what_is_long_lets_others_have_the_interpreter(backend: str) -> None:
    """And what is short keeps it: others would not have time for anything."""
    long = fastrnn.LSTM(700, 700, backend=backend).stream(32)
    x = np.ones((32, 700), np.float32)
    long.step(x)
    assert ran_meanwhile(lambda: long.step(x), 60)
    assert ran_meanwhile(lambda: long.layer(x[None]), 60)
    short, y = a_stream(backend), np.empty((2, 8), np.float32)
    assert not ran_meanwhile(lambda: short._atomic(X[0], y), 0.1)


@compiled
def test_while_the_states_are_held_nothing_is_done(backend: str) -> None:
    stream = a_stream(backend)
    stream._turns[HELD] = 1
    turn = stream._turns[TURN]
    assert taken(stream) == 0
    assert stream._turns[TURN] == turn
    stream._turns[HELD] = 0
    assert not np.any(stream.state[0])
    assert taken(stream) == 1
    assert stream._turns[TURN] != turn


@compiled
@pytest.mark.parametrize("least", [1, 1 << 30])
def test_what_an_interrupt_has_left_held_is_freed(backend: str, least: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ctrl-C can come between any two operations, and a fork while another thread holds the states."""
    monkeypatch.setattr(steps, "WORTH_STEPPING", least)  # steps that threads may share are not atomic, but as brief
    stream = a_stream(backend)
    assert stream._steps.atomic is (least > 1)
    stream._turns[HELD] = 1
    np.testing.assert_array_equal(np.stack([*map(stream.step, X)]), stream.layer(X)[0])
    assert stream._turns[HELD] == 0


@compiled
@pytest.mark.skipif(not hasattr(os, "fork"), reason="a fork needs one")
def test_a_child_steps_though_another_thread_held_the_states(backend: str) -> None:
    stream = a_stream(backend)
    expected = stream.layer(X[:1])[0][0]
    with stream._lock, stream._hold, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of Python, that there may be other threads
        child = os.fork()
        if child == 0:  # the lock is a new one here, and this thread the only one
            signal.alarm(60)
            os._exit(0 if np.array_equal(stream.step(X[0]), expected) else 1)
    assert os.waitpid(child, 0)[1] == 0


def test_definitions_live_for_ever() -> None:
    """Python looks at a builtin's definition when it frees it, which may be after all modules are gone."""
    from fastrnn.backends.numba_ import bound

    found = weakref.ref(bound._definition(0))
    bound._definition.cache_clear()
    gc.collect()
    assert found() is not None


@compiled
def test_a_step_holds_what_it_needs(backend: str) -> None:
    """It may be the last that is left of its stream: parameters change while another thread is about to call it."""
    stream = a_stream(backend)
    expected = stream.layer(X[:1])[0][0]
    run, y = stream._steps.run, np.empty((2, 8), np.float32)
    del stream
    gc.collect()
    np.full(1 << 16, 1 << 60)  # what is free is written over
    filler = [np.full(200 + i, -1.0) for i in range(300)]
    assert run(X[0], y) == 1
    np.testing.assert_array_equal(y, expected)
    assert len(filler) == 300


@compiled
@pytest.mark.parametrize("given", [(), (X[0],), (X[0], X[0], X[0])])
@pytest.mark.parametrize("hidden", [8, 150])
def test_a_step_of_too_few_or_many_arguments_is_none(backend: str, hidden: int, given: tuple[Any, ...]) -> None:
    stream = a_stream(backend, hidden)
    assert stream._steps._alone(*given) == 0
    assert not np.any(stream.state[0])


@compiled
def test_a_parameter_counts_from_the_next_step_on(backend: str) -> None:
    """Written through an array that was got before the steps, during them, or set as a whole."""
    stream = a_stream(backend)
    layer = stream.layer
    early = [layer.parameters["bias_l1"]]
    for write in (
        lambda: early[0].fill(0.25),
        lambda: layer.parameters["bias_l0"].fill(-0.5),
        lambda: layer.set_parameters({"bias_l1": np.zeros(32)}),
        lambda: early[0].fill(0.75),
    ):
        for _ in range(2):
            stream.step(X[0])
        write()
        before = stream.state
        np.testing.assert_array_equal(stream.step(X[1]), layer(X[1:2], before)[0][0])
        made = stream._steps
        stream.step(X[2])
        assert stream._steps is made  # an array that is held but not written to changes nothing
    early.clear()
    gc.collect()
    stream.step(X[2])  # looks for changes for the last time
    assert layer._store.current is stream._packs
    before = stream.state
    np.testing.assert_array_equal(stream.step(X[1]), layer(X[1:2], before)[0][0])


@compiled
@pytest.mark.parametrize("count", [0, 8, 10])
def test_a_call_of_too_few_or_many_arguments_is_none(backend: str, count: int) -> None:
    """Compiled code finds its arguments where Python has put them."""
    layer = fastrnn.RNN(8, 8, backend=backend)
    layer(X)
    (pack,) = layer._packs()
    rows, y, final = plain_rows(6, 2), np.full((6, 2, 8), np.nan, np.float32), (np.zeros((1, 2, 8), np.float32),)
    given = [pack.frame, rows.table, X, y, (), final, 0, False, NO_TAPE, None]
    run_on = pack.form.native.run_on
    assert run_on(*given[:count]) == 0
    assert np.isnan(y).all()
    assert run_on(*given[:9]) == 1
    np.testing.assert_array_equal(y, layer(X)[0])


@compiled
@pytest.mark.parametrize("by", [-1, 1])
def test_packs_and_ways_back_of_too_few_or_many_arguments_are_none(backend: str, by: int) -> None:
    """The same of these; the right numbers are those that training has."""
    layer = fastrnn.RNN(8, 8, backend=backend)
    (pack,) = layer._packs()
    native, packing = pack.form.native, pack.form.forward
    memory = np.full(packing.memory(pack._weights, 0).shape, -1)
    given: list[Any] = [memory, pack._weights, packing.count, None]
    assert packing._pack(*given[: 3 + by]) == 0
    assert (memory == -1).all()
    assert packing._pack(*given[:3]) == 1
    back = native.bound_back(pack.form.whole.tables(pack.form, 1))
    assert back(*[None] * (14 + by)) == 0
