"""The workers of the compiled backends: asleep, woken, taken, at work for many callers, gone after a fork."""

from __future__ import annotations

import ctypes
import itertools
import os
import subprocess
import sys
import textwrap
import threading
import time
from contextlib import nullcontext
from importlib import import_module
from typing import Any
from unittest import mock

import numpy as np
import pytest
import sharing
from cases import COMPILED, assert_same_bits
from sharing import share_everything

import fastrnn
from fastrnn import cells
from fastrnn.backends import load
from fastrnn.backends.contract import Rows
from fastrnn.backends.tiled import box as bx
from fastrnn.backends.tiled import crew as crews
from fastrnn.backends.tiled import distance, steps, worth
from fastrnn.backends.tiled import scan as scans
from fastrnn.backends.tiled.crew import Crew
from fastrnn.backends.tiled.room import aligned
from fastrnn.reuse import address

every_compiled = pytest.mark.parametrize("name", COMPILED)
threads: Any = import_module("fastrnn.threads")  # `fastrnn.threads` is the function
INT64 = np.dtype(np.int64)
WORTH = 100_000  # multiply-adds that are worth handing over
PATIENT = 5_000_000  # looks, hundreds of milliseconds, of a worker that must not sleep before its job comes


def native_of(name: str) -> Any:
    """The compiled functions of a backend."""
    return load(name).native  # type: ignore[attr-defined]


def new_box() -> np.ndarray:
    """A box whose worker is asleep."""
    box = aligned((bx.WORDS,), INT64)
    box[...] = 0
    return box


def sleeper() -> mock.Mock:
    """A worker of a crew whose compiled functions are played."""
    return mock.Mock(forgotten=mock.Mock(return_value=False))


def serving(native: Any, box: np.ndarray, looks: int = 1_000_000) -> threading.Thread:
    """A worker that waits for a job in a box, for a while."""
    server = threading.Thread(target=native.serve, args=(box, looks))
    server.start()
    while box[bx.STATE] != bx.WAITING:
        time.sleep(0)
    return server


def script(code: str, timeout: float = 120.0) -> subprocess.CompletedProcess[str]:
    """Run a program of its own, in which every call is shared; a deadlock is a failure."""
    program = sharing.CODE + textwrap.dedent(code)
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=timeout, check=False)


# --- one box ----------------------------------------------------------------------------------------------------------


@every_compiled
def test_a_worker_that_gets_no_job_goes_to_sleep(name: str) -> None:
    box = new_box()
    native_of(name).serve(box, 10)
    assert box[bx.STATE] == bx.ASLEEP


@every_compiled
def test_only_one_caller_wakes_a_sleeper(name: str) -> None:
    native, box = native_of(name), new_box()
    assert native.rouse(box)
    assert box[bx.STATE] == bx.WAKING
    assert not native.rouse(box)
    box[bx.STATE] = bx.WAITING
    assert not native.rouse(box)


@every_compiled
def test_a_worker_that_is_being_woken_is_expected_for_a_while(name: str) -> None:
    """Nobody waits for one that does not come, or for one that is not on its way."""
    native, box = native_of(name), new_box()
    assert native.expect(box, 5)
    box[bx.STATE] = bx.WAKING
    assert not native.expect(box, 1000)
    server = threading.Timer(0.2, native.serve, (box, 1_000_000))
    server.start()
    assert native.expect(box, 1 << 40)
    assert box[bx.STATE] == bx.WAITING
    server.join(60)


@every_compiled
def test_a_taken_worker_does_not_sleep(name: str) -> None:
    """Between being taken and the job there may be any time."""
    native, box = native_of(name), new_box()
    box[bx.STATE] = bx.WAKING
    server = serving(native, box)
    box[bx.STATE] = bx.TAKEN
    server.join(0.5)
    assert server.is_alive()
    box[bx.STATE] = bx.WAITING
    server.join(60)
    assert not server.is_alive()
    assert box[bx.STATE] == bx.ASLEEP


@every_compiled
def test_boxes_that_are_not_waiting_are_left_alone(name: str) -> None:
    """Asleep, being woken or taken by another caller: the call goes on alone, and gives the same."""
    native = native_of(name)
    layer = fastrnn.LSTM(3, 40, backend=name)
    x = np.random.default_rng(0).normal(size=(4, 2, 3)).astype(np.float32)
    alone = layer(x)[0]
    backend: Any = load(name)
    for state in (bx.ASLEEP, bx.WAKING, bx.TAKEN):
        box, y = new_box(), np.full_like(alone, np.nan)
        box[bx.STATE] = state
        final = tuple(np.empty((2, 40), np.float32) for _ in range(2))
        rows = Rows.of(4, 2)
        scan = backend.forward(layer._packs()[0], rows, x, y, None, final, False)
        frames, held = scan.copies(2, 2, 2)
        counters = aligned((2, 16), INT64)
        frames[:, crews.f.COUNTERS] = address(counters)
        assert native.run_as_team(np.array([address(box)]), frames, 0, 2, 0, 4) == 1  # and no waits
        assert box[bx.STATE] == state
        np.testing.assert_array_equal(y, alone)
        del held


@every_compiled
def test_who_is_late_at_the_end_of_a_call_is_told_of(name: str) -> None:
    """After the last stage of a lone step nobody waits but the caller."""
    native, box = native_of(name), new_box()
    run = native.run_as_team  # which Numba compiles here, and not while the worker waits

    def late(_program: int, here: int, *_range: int) -> None:
        if ctypes.c_int64.from_address(here + 8 * crews.f.MEMBER).value == 1:
            time.sleep(0.05)

    kernel = ctypes.CFUNCTYPE(None, *[ctypes.c_int64] * 6)(late)
    frames, counters = np.zeros((2, crews.f.FIRST_STATE), INT64), aligned((2, 16), INT64)
    frames[:, crews.f.KERNEL] = ctypes.cast(kernel, ctypes.c_void_p).value
    frames[:, crews.f.COUNTERS] = address(counters)
    server = serving(native, box, PATIENT)
    waits, members = divmod(run(np.array([address(box)]), frames, 0, 1, 0, 1), crews.f.WAITS)
    assert members == 2
    assert waits > 0
    server.join(60)


@every_compiled
@pytest.mark.parametrize(("cell", "stages"), [(cells.lstm, 1), (cells.lstm_projected, 2)])
def test_how_often_a_team_meets(name: str, cell: Any, stages: int) -> None:
    """After the input products and after each stage, but for the last one of a lone step."""
    native, backend, steps, rows = native_of(name), load(name), 3, 2
    projected = 8 if cell is cells.lstm_projected else 0
    layer = fastrnn.Recurrent(cell, 8, 64, proj_size=projected, backend=name)
    x, y = np.zeros((steps, rows, 8), np.float32), np.empty((steps, rows, projected or 64), np.float32)
    stream = layer.stream(rows)
    stream.step(x[0], out=y[0])
    final = tuple(np.empty((rows, width), np.float32) for width in (projected or 64, 64))
    scan = backend.forward(layer._packs()[0], Rows.of(steps, rows), x, y, None, final, False)  # type: ignore[attr-defined]
    of_scan, held = scan.copies(2, rows, 2)
    of_step = np.repeat(stream._steps._frames[0, 0], 2, 0)
    of_step[:, crews.f.X], of_step[:, crews.f.Y] = address(x), address(y)
    run = native.run_as_team  # compiled before a worker waits
    for frames, count, expected in ((of_scan, steps, 1 + steps * stages), (of_step, 1, stages)):
        box, counters = new_box(), aligned((2, crews.f.COUNTER_BYTES // 8), INT64)
        frames[:, crews.f.COUNTERS] = address(counters)
        server = serving(native, box, PATIENT)
        found = run(np.array([address(box)]), frames, 0, rows, 0, count)
        server.join(60)
        assert found % crews.f.WAITS == 2
        assert counters[:, 0].tolist() == [expected] * 2
    del held


# --- a crew -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("halves", "enough"), [(False, WORTH), (True, WORTH * worth.HALVES)])
def test_size(halves: bool, enough: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as were asked for, as there are processors for, and as have enough to do, by how fast they are."""
    crew = Crew(mock.Mock(halves=halves))
    monkeypatch.setattr(worth, "processors", lambda: 4)
    assert crew.size(1, 1e12, WORTH) == 1
    assert crew.size(3, 1e12, WORTH) == 3
    assert crew.size(8, 1e12, WORTH) == 4
    assert crew.size(3, 2 * enough - 1, WORTH) == 1
    assert crew.size(3, 2 * enough + 1, WORTH) == 2
    monkeypatch.setattr(worth, "processors", lambda: 1)
    assert crew.size(8, 1e12, WORTH) == 1


def test_where_processors_are_missing_calls_go_on_alone_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """A team says how often it waited for long; now and then that is an accident."""
    crew = Crew(mock.Mock(halves=False))
    monkeypatch.setattr(worth, "processors", lambda: 4)
    monkeypatch.setattr(worth, "PAUSE", 0.05)
    late = 2 + 1 * crews.f.WAITS
    for _ in range(10):
        assert crew.learn(late, 1.0) == 2
        assert [crew.learn(3, 1.0) for _ in range(10)] == [3] * 10
        assert crew.size(2, 1e12, WORTH) == 2
    for _ in range(3):
        assert crew.size(2, 1e12, WORTH) == 2
        crew.learn(late, 1.0)
    for _ in range(2):
        assert crew.size(2, 1e12, WORTH) == 1
        time.sleep(0.06)
        assert crew.size(2, 1e12, WORTH) == 2
        crew.learn(late, 1.0)


@pytest.mark.parametrize(("work", "steps", "waits"), [(1.0, 1, 0), (1.0, 100, 12), (3e7, 1, 5), (3e7, 100, 17)])
def test_how_long_a_team_may_wait(work: float, steps: int, waits: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Once in eight steps, or a quarter of the time: ten microseconds at a time, of a call that takes 200."""
    crew = Crew(mock.Mock(halves=False))
    monkeypatch.setattr(worth, "processors", lambda: 4)
    for _ in range(10):
        assert crew.learn(2 + waits * crews.f.WAITS, work, steps) == 2
    assert crew.size(2, 1e12, WORTH) == 2
    for _ in range(3):
        assert crew.learn(2 + (waits + 1) * crews.f.WAITS, work, steps) == 2
    assert crew.size(2, 1e12, WORTH) == 1


def test_what_goes_well_is_forgiven_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A good piece makes up for a tenth of a bad one, and shared steps count until the next measurement."""
    native = mock.Mock(volley=mock.Mock(return_value=True), halves=False)
    crew, late = Crew(native), 2 + 1 * crews.f.WAITS
    crew._workers = [sleeper()]
    monkeypatch.setattr(worth, "processors", lambda: 2)
    for _ in range(3):
        crew.learn(late, 1.0)
        crew.learn(late, 1.0)
        crew.went_well(20, 0)
    assert crew.size(2, 1e12, WORTH) == 2
    assert not native.volley.called
    for shared in (1, distance.EVERY - 1, 1):
        crew.went_well(1, shared)
    assert native.volley.call_count == 2 * distance.VOLLEYS


def test_workers_that_wake_in_vain_are_left_asleep_for_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a worker has to share its caller's processor, it wakes, looks for a job and sleeps between two calls."""
    crew = Crew(mock.Mock(rouse=mock.Mock(return_value=True), halves=False))
    crew._workers = [sleeper()]
    monkeypatch.setattr(worth, "processors", lambda: 2)
    monkeypatch.setattr(worth, "SOON", 1e9)
    for _ in range(2):
        for turn in range(crews.IN_VAIN):
            assert crew.size(2, 1e12, WORTH) == 2
            assert crew.wake(1)
            assert crew._workers[0].wake.call_count == turn + 1
        crew.learn(2, 1.0)  # one has come
        crew._workers[0].wake.reset_mock()
    for turn in range(crews.IN_VAIN + 1):
        assert crew.size(2, 1e12, WORTH) == 2
        assert crew.wake(1) == (turn < crews.IN_VAIN)
    assert crew._workers[0].wake.call_count == crews.IN_VAIN
    assert crew.size(2, 1e12, WORTH) == 1


def test_a_short_call_after_a_pause_goes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The workers sleep by then, and it is over before they come; a long one and the next one are shared."""
    crew, now = Crew(mock.Mock(halves=False)), 100.0
    monkeypatch.setattr(worth, "processors", lambda: 2)
    monkeypatch.setattr(crews.time, "perf_counter", lambda: now)
    short = 2 * WORTH
    assert crew.size(2, short, WORTH) == 1
    now += 0.9 * worth.SOON
    assert crew.size(2, short, WORTH) == 2
    now += 0.9 * worth.SOON
    assert crew.size(2, short, WORTH) == 2
    now += 1.1 * worth.SOON
    assert crew.size(2, short, WORTH) == 1
    now += 1.1 * worth.SOON
    assert crew.size(2, worth.WORTH_EXPECTING, WORTH) == 1
    now += 1.1 * worth.SOON
    assert crew.size(2, worth.WORTH_EXPECTING, WORTH, at_once=True) == 2
    now += 1.1 * worth.SOON
    assert crew.size(2, worth.WORTH_WAKING, WORTH) == 2

    def takes_long(scan: object, members: int) -> None:
        nonlocal now
        now += 10 * worth.SOON

    monkeypatch.setattr(crew, "_shared", takes_long)
    crew.share([mock.Mock()], 2, False)
    assert crew.size(2, short, WORTH) == 2


@pytest.mark.parametrize(("times", "factor"), [(0.5, 1.0), (3.0, 3.0), (15.0, 15.0), (1000.0, 1.0)])
def test_a_volley_that_was_disturbed_says_nothing(times: float, factor: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """No processors are a thousand times as far apart as near ones."""
    clock = mock.Mock(side_effect=(k * distance.NEAR * distance.ROUNDS * times for k in itertools.count()))
    monkeypatch.setattr(distance.time, "perf_counter", clock)
    far = distance.Distance(mock.Mock(volley=mock.Mock(return_value=True)))
    far.shared(new_box())
    assert far.factor == pytest.approx(factor)


def test_what_is_worth_sharing_depends_on_the_distance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured at the first shared call and again after many; where it is too far, once after many calls."""
    native = mock.Mock(volley=mock.Mock(return_value=True), halves=False)
    crew = Crew(native)
    monkeypatch.setattr(worth, "processors", lambda: 2)
    monkeypatch.setattr(worth, "SOON", 1e9)
    clock = mock.Mock(side_effect=(k * distance.NEAR * distance.ROUNDS * 3 for k in itertools.count()))
    monkeypatch.setattr(distance.time, "perf_counter", clock)  # each volley takes three times as long as a near one
    crew._workers = [sleeper()]
    short, meeting = 2 * WORTH, 2 * worth.WORTH_MEETING
    assert crew.size(2, short, WORTH) == 2
    assert crew.split(2, Rows.of(1000, 1), meeting, meeting) == (2, False)
    crew.learn(2, 1.0)
    assert native.volley.call_count == distance.VOLLEYS
    assert crew.distance.factor == pytest.approx(3.0)
    assert crew.size(2, short * 1.8, WORTH) == 1
    assert crew.size(2, short * 2.0, WORTH) == 2
    assert crew.split(2, Rows.of(1000, 1), meeting * 2, meeting * 2) == (1, False)
    assert crew.split(2, Rows.of(1000, 1), int(meeting * 3.1), int(meeting * 3.1)) == (2, False)
    for _ in range(distance.EVERY - 1):
        crew.learn(2, 1.0)
    assert native.volley.call_count == distance.VOLLEYS
    crew.learn(2, 1.0)
    assert native.volley.call_count == 2 * distance.VOLLEYS
    asked = 0
    while crew.size(2, short, WORTH) == 1:
        asked += 1
    assert asked == distance.EVERY - 2  # a step and a scan have been too far before
    native.volley.return_value = False  # nobody is there
    crew.learn(2, 1.0)
    assert crew.distance.factor == 1.0


@every_compiled
def test_a_volley_is_returned_by_a_worker_that_waits_and_by_no_other(name: str) -> None:
    native, box = native_of(name), new_box()
    assert not native.volley(box, 5)
    box[bx.STATE] = bx.WAKING
    server = serving(native, box)
    assert native.volley(box, 5)
    assert box[bx.DONE] == 5
    server.join(60)
    assert not server.is_alive()
    assert not native.volley(box, 5)
    assert box[bx.JOB] == 5


@every_compiled
def test_a_long_call_wakes_the_workers_it_needs(name: str) -> None:
    """And they take part in it, not only in the next one: it begins alone, in short pieces, and goes on with them.

    Where a piece could not be short, it waits for them.
    """
    layer = fastrnn.LSTM(8, 64, backend=name)
    x = np.zeros((3000, 3, 8), np.float32)
    alone = layer(x)[0]
    backend: Any = load(name)
    seen: list[int] = []
    real = backend.native.run_as_team
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(backend.native, "run_as_team", lambda *given: _noted(seen, real(*given)), raising=False)
        patch.setattr(scans, "HEADS", 1500)
        for head, first in ((60_000, 1), (1, 2)):  # a step has 55 296 multiply-adds
            patch.setattr(crews, "HEAD", head)
            end = time.monotonic() + 60
            while (seen[:1], seen[-1:]) != ([first], [2]) and time.monotonic() < end:
                seen.clear()
                time.sleep(0.5)  # long enough for all of them to go to sleep
                with share_everything(), fastrnn.threads(2):
                    assert_same_bits(layer(x)[0], alone, "together")
            assert (seen[0], seen[-1]) == (first, 2)
            assert len(seen) > 1500 if head > 1 else len(seen) < 1500


@every_compiled
@pytest.mark.parametrize(
    ("worth", "expected"), [(0, ["size", "begin", "step", "wake"]), (55_296, ["size", "step", "wake"])]
)
def test_a_step_of_some_length_wakes_workers_at_its_begin(name: str, worth: int, expected: list[str]) -> None:
    """A shorter one only when it has gone alone; and none can join it once it has begun."""
    stream = fastrnn.LSTM(8, 64, backend=name).stream(3)  # 55 296 multiply-adds
    x, y = np.zeros((3, 8), np.float32), np.empty((3, 64), np.float32)
    backend: Any = load(name)
    assert stream.layer._packs()[0].frame.any()  # packed before, by nobody else
    done: list[str] = []

    def noted(what: str, found: Any = None) -> mock.Mock:
        return mock.Mock(side_effect=lambda *_, **__: done.append(what) or found)

    size = noted("size", 2)
    with (
        fastrnn.threads(2),
        mock.patch.object(steps, "WORTH_ROUSING", worth),
        mock.patch.object(backend.crew, "divisible", return_value=True),
        mock.patch.multiple(backend.crew, size=size, begin=noted("begin", 0), wake=noted("wake"), learn=lambda *_: 1),
        mock.patch.object(backend.native, "bound_step", return_value=noted("step", 1)),
    ):
        stream.step(x, out=y)
    assert done == expected
    assert size.call_args.kwargs == {"at_once": True}


@pytest.mark.parametrize("asleep", [True, False])
@pytest.mark.parametrize(("more", "length", "waits"), [(1, 1, True), (0, 1, False), (1, 100, False)])
def test_what_cannot_begin_alone_waits(more: int, length: int, waits: bool, asleep: bool) -> None:
    """For workers that it has woken, if it is long enough; where pieces of time can be short, it begins with some."""
    native = mock.Mock(rouse=mock.Mock(return_value=asleep))
    crew = Crew(native)
    crew._workers = [sleeper()]
    work = worth.WORTH_EXPECTING + more
    assert crew.begin(1, work, length) == (crews.HEAD * length // work if asleep else 0)
    assert crew._workers[0].wake.called == asleep
    assert native.expect.called == (waits and asleep)


@pytest.mark.parametrize("asleep", [True, False])
@pytest.mark.parametrize(
    ("more", "pause", "waits"), [(1, None, True), (0, None, False), (1, -9.0, True), (1, 9.0, False)]
)
def test_a_further_piece_waits_for_those_it_wakes(more: int, pause: float | None, waits: bool, asleep: bool) -> None:
    """Whoever woke them, if it is long enough; for a while it wakes nobody where there is no processor for them."""
    native = mock.Mock(rouse=mock.Mock(return_value=asleep))
    crew = Crew(native)
    crew._workers = [sleeper()]
    crew._alone_until = 0.0 if pause is None else time.perf_counter() + pause
    crew.gather(1, worth.WORTH_EXPECTING + more)
    assert crew._workers[0].wake.called == (asleep and pause != 9.0)
    assert native.expect.called == waits


def test_who_does_not_come_was_woken_in_vain() -> None:
    """Each time that a piece has waited for him; after some of them no other does."""
    native = mock.Mock(rouse=mock.Mock(return_value=False), expect=mock.Mock(return_value=False))
    crew = Crew(native)
    crew._workers = [sleeper()]
    for _ in range(10):
        crew.gather(1, 2 * worth.WORTH_EXPECTING)
    assert native.expect.call_count == crews.IN_VAIN


def until_awake(box: np.ndarray) -> None:
    """Wait for a worker that is being woken."""
    end = time.monotonic() + 60
    while box[bx.STATE] == bx.WAKING and time.monotonic() < end:
        time.sleep(0.001)
    assert box[bx.STATE] != bx.WAKING


@every_compiled
@pytest.mark.parametrize("where", ["roused", "placed"])
def test_an_interrupt_while_workers_are_woken_loses_none(
    name: str, where: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between any two lines: their boxes say that they are being woken, and they sleep. The next caller wakes them."""
    crew, interrupted = Crew(native_of(name)), list[Any]()
    crew.boxes(2)

    def interrupt(real: Any) -> Any:
        def function(*given: Any) -> Any:
            found = real(*given)
            if not interrupted:
                interrupted.append(found)
                raise KeyboardInterrupt
            return found

        return function

    if where == "roused":
        monkeypatch.setattr(crew.native, "rouse", interrupt(crew.native.rouse), raising=False)
    else:  # as long as one is called after the other, the second one is forgotten, too
        place = crew._workers[0]._place
        monkeypatch.setattr(place, "keep_off_caller", interrupt(place.keep_off_caller))
    with pytest.raises(KeyboardInterrupt):
        crew.wake(2)
    time.sleep(0.01)
    forgotten = [worker for worker in crew._workers if worker.box[bx.STATE] == bx.WAKING]
    assert len(forgotten) == (1 if where == "roused" else 2)
    assert crew.wake(2)
    for worker in crew._workers:
        until_awake(worker.box)


@every_compiled
def test_a_worker_that_is_called_twice_comes_once(name: str) -> None:
    """By somebody who took it for forgotten. While it is on its way nobody else calls it, or counts it as woken."""
    crew = Crew(mock.Mock(serve=(served := mock.Mock()), rouse=native_of(name).rouse))
    crew.boxes(1)
    worker = crew._workers[0]
    for calls in (1, 2):
        served.side_effect = lambda box, _: box.__setitem__(bx.STATE, bx.ASLEEP)
        worker.box[bx.STATE] = bx.WAKING
        for _ in range(calls):
            worker.wake()
        until_awake(worker.box)
        while not worker._calls.empty():
            time.sleep(0.001)
    time.sleep(0.05)
    assert served.call_count == 2
    worker._calls = mock.Mock(empty=lambda: False)
    assert crew.wake(1)
    assert not crew.wake(1)
    assert worker._calls.put.call_count == crew._in_vain == 1


@pytest.fixture
def no_threads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many threads the system has left: none, until a test says so. Then how often it has been asked."""
    left, real = [0, 0], threading.Thread.start

    def begin(thread: threading.Thread) -> None:
        left[1] += 1
        if not left[0]:
            raise RuntimeError("can't start new thread")
        left[0] -= 1
        real(thread)

    monkeypatch.setattr(threads, "_none_until", 0.0)
    monkeypatch.setattr(threading.Thread, "start", begin)
    return left


@every_compiled
def test_where_no_thread_is_left_calls_go_on_alone(name: str, no_threads: list[int]) -> None:
    """Of every kind; the system is asked once in a while only, and once there is one again it helps."""
    backend: Any = load(name)
    layer = fastrnn.LSTM(8, 64, backend=name)
    x = np.random.default_rng(0).normal(size=(50, 3, 8)).astype(np.float32)

    def calls() -> list[np.ndarray]:
        (y, _, tape), stream = layer.record(x), layer.stream(3)
        return [layer(x)[0], y, layer.backward(tape, y).x, *map(stream.step, x[:3])]

    alone = calls()
    with (
        mock.patch.object(backend, "crew", Crew(backend.native)),
        mock.patch.object(threads, "RETRY", 1e9),
        share_everything(),
        fastrnn.threads(3),
    ):
        for got, expected in zip(calls(), alone, strict=True):
            assert_same_bits(got, expected, name)
        assert no_threads == [0, 1]
        assert len(backend.crew.boxes(2)) == 0
        no_threads[0] = 1
        threads._none_until = 0.0
        assert len(backend.crew.boxes(2)) == 1
        assert no_threads == [0, 3]
        for got, expected in zip(calls(), alone, strict=True):
            assert_same_bits(got, expected, name)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_workers_that_there_are_help_though_others_could_not_be_had(
    error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or though Ctrl-C came in between. What is bound to their boxes stays so until there are more."""
    crew, real, made = Crew(mock.Mock()), threading.Thread.start, list[Any]()

    def begin(thread: threading.Thread) -> None:
        made.append(thread)
        if len(made) == 2:
            raise error
        real(thread)

    monkeypatch.setattr(threads, "_none_until", 0.0)
    monkeypatch.setattr(threading.Thread, "start", begin)
    with pytest.raises(error) if error is KeyboardInterrupt else nullcontext():
        crew.boxes(2)
    boxes = crew.boxes(1)
    assert boxes.tolist() == [address(crew._workers[0].box)]
    if error is RuntimeError:
        assert crew.boxes(2) is boxes
        assert len(made) == 2
        assert not crew._alone_until
        threads._none_until = 0.0
    assert crew.boxes(2).tolist() == [address(worker.box) for worker in crew._workers]
    assert len(made) == 3


def test_without_workers_calls_are_made_ready_for_one_thread(
    no_threads: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """For a while."""
    monkeypatch.setattr(worth, "processors", lambda: 2)
    monkeypatch.setattr(worth, "PAUSE", 0.05)
    crew = Crew(mock.Mock(halves=False))
    assert crew.size(2, 1e12, WORTH) == 2
    assert len(crew.boxes(1)) == 0
    assert crew.size(2, 1e12, WORTH) == 1
    time.sleep(0.06)
    assert crew.size(2, 1e12, WORTH) == 2


def _noted(seen: list[int], found: int) -> int:
    """What a team returned; its members noted."""
    seen.append(found % crews.f.WAITS)
    return found


@every_compiled
@pytest.mark.parametrize("callers", [2, 6])
def test_many_callers_at_once(name: str, callers: int) -> None:
    """Whoever gets the workers, everybody gets their own results."""
    layer = fastrnn.GRU(5, 33, num_layers=2, backend=name)
    rng = np.random.default_rng(0)
    xs = [rng.normal(size=(6, 1 + k % 3, 5)).astype(np.float32) for k in range(callers)]
    expected = [layer(x)[0] for x in xs]
    wrong: list[int] = []

    def work(k: int) -> None:
        stream = layer.stream(xs[k].shape[1])
        for n in range(60):
            with fastrnn.threads(1 + n % 4):
                y, _, tape = layer.record(xs[k])
                layer.backward(tape, y)
                stream.reset()
                steps = np.stack([stream.step(x) for x in xs[k]])
            if not (np.array_equal(y, expected[k]) and np.array_equal(steps, expected[k])):
                wrong.append(k)

    with share_everything():
        workers = [threading.Thread(target=work, args=(k,)) for k in range(callers)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join(120)
    assert not any(worker.is_alive() for worker in workers)
    assert not wrong


# --- the process ------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@every_compiled
def test_fork_with_a_crew_at_work(name: str) -> None:
    """A child has no workers of its parent's, makes its own, and its parent's go on."""
    done = script(f"""
        import os, warnings
        warnings.simplefilter("ignore")
        import numpy as np, fastrnn
        fastrnn.set_num_threads(3)
        layer = fastrnn.LSTM(3, 70, backend={name!r})
        x = np.random.default_rng(0).normal(size=(7, 2, 3))
        expected = layer(x)[0]
        for _ in range(10):
            layer(x)  # its workers are awake now
            pid = os.fork()
            if pid == 0:
                for _ in range(20):
                    assert np.array_equal(layer(x)[0], expected)
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
            assert np.array_equal(layer(x)[0], expected)
        print("well")
    """)
    assert done.stdout.strip() == "well", done.stderr


@every_compiled
def test_workers_ask_for_no_kernel(name: str) -> None:
    """Who does may hold the lock of Numba's compiler, which is never free in a child that is forked just then."""
    native, asked = native_of(name), []

    class Listening:
        def __getattr__(self, kernel: str) -> Any:
            asked.append((kernel, threading.current_thread() is threading.main_thread()))
            return getattr(native, kernel)

    crew = Crew(Listening())  # type: ignore[arg-type]
    crew.boxes(1)
    assert crew.wake(1)
    until_awake(crew._workers[0].box)
    assert ("serve", True) in asked
    assert all(by_caller for _, by_caller in asked)


@every_compiled
def test_the_process_ends_while_a_crew_is_awake(name: str) -> None:
    done = script(f"""
        import numpy as np, fastrnn
        fastrnn.set_num_threads(3)
        layer = fastrnn.LSTM(3, 70, backend={name!r})
        for _ in range(30):
            layer(np.zeros((7, 2, 3)))
        print("end")
    """)
    assert (done.stdout.strip(), done.returncode) == ("end", 0), done.stderr


@every_compiled
def test_ctrl_c_in_a_shared_call(name: str) -> None:
    """It answers within about a second, and the workers are there for the next call."""
    done = script(f"""
        import os, signal, threading, time
        import numpy as np, fastrnn
        fastrnn.set_num_threads(2)
        layer = fastrnn.LSTM(64, 512, backend={name!r})
        x = np.zeros((20_000, 1, 64), np.float32)
        expected = layer(x[:9])[0]
        def interrupt():
            time.sleep(0.5)
            interrupt.at = time.monotonic()
            os.kill(os.getpid(), signal.SIGINT)
        threading.Thread(target=interrupt, daemon=True).start()
        try:
            while True:
                layer(x)
        except KeyboardInterrupt:
            print("interrupted", time.monotonic() - interrupt.at < 1.5)
        print("alive", np.array_equal(layer(x[:9])[0], expected))
    """)
    assert done.stdout.split("\n")[:2] == ["interrupted True", "alive True"], done.stdout + done.stderr
