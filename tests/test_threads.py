"""The library's threads: how many, what they run, errors, Ctrl-C, fork, and the end of the process."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
import threading
import time
from importlib import import_module
from typing import Any

import numpy as np
import pytest
import sharing
from sharing import share_everything

import fastrnn
from fastrnn.threads import checkpoint, get_num_threads, run, set_num_threads, threads

ours: Any = import_module("fastrnn.threads")  # the module; `fastrnn.threads` is the function


def workers() -> list[threading.Thread]:
    """The library's own threads."""
    return [t for t in threading.enumerate() if t.name.startswith("fastrnn-")]


def script(code: str, timeout: float = 60.0) -> subprocess.CompletedProcess[str]:
    """Run a program of its own; a deadlock is a failure."""
    return subprocess.run(
        [sys.executable, "-c", sharing.CODE + textwrap.dedent(code)],
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


# --- how many ---------------------------------------------------------------------------------------------------------


def test_the_default_is_one() -> None:
    assert get_num_threads() == 1
    set_num_threads(3)
    assert get_num_threads() == 3


def test_a_block_counts_before_the_process() -> None:
    set_num_threads(2)
    with threads(4):
        assert get_num_threads() == 4
        with threads(1):
            assert get_num_threads() == 1
        assert get_num_threads() == 4
        set_num_threads(3)
        assert get_num_threads() == 4
    assert get_num_threads() == 3
    with pytest.raises(RuntimeError), threads(5):
        raise RuntimeError
    assert get_num_threads() == 3


def test_a_block_counts_for_its_own_thread() -> None:
    set_num_threads(2)
    found = []
    with threads(7):
        other = threading.Thread(target=lambda: found.append(get_num_threads()))
        other.start()
        other.join()
    assert found == [2]


def test_a_block_counts_for_its_own_asyncio_task() -> None:
    async def task(n: int) -> list[int]:
        seen = []
        with threads(n):
            for _ in range(3):
                await asyncio.sleep(0)
                seen.append(get_num_threads())
        return seen

    async def main() -> list[list[int]]:
        return await asyncio.gather(task(2), task(3))

    assert asyncio.run(main()) == [[2] * 3, [3] * 3]


@pytest.mark.parametrize("bad", [0, -1, 1.0, "2", None, True])
def test_bad_numbers(bad: Any) -> None:
    error = ValueError if isinstance(bad, int) and bad is not True else TypeError
    with pytest.raises(error, match=r"^n: expected an integer of at least 1, got"):
        set_num_threads(bad)
    with pytest.raises(error, match=r"^n: expected an integer of at least 1, got"), threads(bad):
        pass
    assert get_num_threads() == 1


def test_a_bad_number_is_refused_at_the_call() -> None:
    with pytest.raises(ValueError, match=r"^n: expected an integer of at least 1, got 0"):
        threads(0)


def test_a_block_can_be_used_again() -> None:
    two = threads(2)
    for _ in range(2):
        with two:
            with threads(3), two, two:
                assert get_num_threads() == 2
            assert get_num_threads() == 2
        assert get_num_threads() == 1
    assert two(get_num_threads)() == two(get_num_threads)() == 2
    found = []
    with two:
        others = [threading.Thread(target=two(lambda: found.append(get_num_threads()))) for _ in range(4)]
        for each in others:
            each.start()
        for each in others:
            each.join()
        assert found == [2] * 4
        assert get_num_threads() == 2
    assert get_num_threads() == 1


# --- running ----------------------------------------------------------------------------------------------------------


def test_with_one_thread_tasks_run_in_order_in_the_caller() -> None:
    seen: list[tuple[int, int]] = []
    run([lambda k=k: seen.append((k, threading.get_ident())) for k in range(10)])
    assert seen == [(k, threading.get_ident()) for k in range(10)]


def test_every_task_runs_once_and_several_at_a_time() -> None:
    barrier = threading.Barrier(3, timeout=10)  # passes only if three tasks are under way at once
    seen: list[int] = []

    def task(k: int) -> None:
        if k < 3:
            barrier.wait()
        seen.append(k)

    with threads(3):
        run([lambda k=k: task(k) for k in range(50)])
    assert sorted(seen) == list(range(50))
    assert all(worker.daemon for worker in workers())


def test_no_more_workers_are_woken_than_there_are_tasks() -> None:
    with threads(3):
        run([lambda: time.sleep(0.01)] * 6)
        idents: set[int] = set()
        for _ in range(20):
            run([lambda: idents.add(threading.get_ident())])  # one task: nobody but the caller
    assert idents == {threading.get_ident()}
    code = """
        import threading
        from fastrnn.threads import run, set_num_threads
        set_num_threads(16)
        run([lambda: None] * 3)
        print(threading.active_count())
        run([])
        set_num_threads(1)
        run([lambda: None] * 3)
        print(threading.active_count())
    """
    done = script(code)
    assert done.stdout.split() == ["3", "3"], done.stderr


def test_where_no_thread_is_left_the_caller_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """With the workers there are, none at first. The system is asked once in a while; no ticket waits for nobody."""
    pool, left, asked = ours._Pool(), 0, 0
    real = threading.Thread.start

    def begin(thread: threading.Thread) -> None:
        nonlocal left, asked
        asked += 1
        if not left:
            raise RuntimeError("can't start new thread")
        left -= 1
        real(thread)

    monkeypatch.setattr(threading.Thread, "start", begin)
    monkeypatch.setattr(ours, "_pool", pool)
    monkeypatch.setattr(ours, "RETRY", 1e9)
    for workers_there in (0, 1):
        monkeypatch.setattr(ours, "_none_until", 0.0)
        before, left = asked, workers_there
        for _ in range(3):
            seen: list[int] = []
            with threads(3):
                run([lambda: seen.append(1)] * 5)  # noqa: B023
            assert len(seen) == 5
        assert pool._workers == workers_there
        assert asked == before + workers_there + 1
        if not workers_there:
            assert pool._promised == 0
            assert pool._tickets.empty()


def test_a_task_may_run_tasks() -> None:
    seen: list[int] = []
    with threads(3):
        run([lambda: run([lambda: seen.append(1)] * 5)] * 7)
    assert len(seen) == 35


def test_many_callers_at_once() -> None:
    """More callers than workers, each waiting for its own tasks alone."""
    found: list[int] = []

    def caller(k: int) -> None:
        for _ in range(30):
            total: list[int] = []
            with threads(3):
                run([lambda total=total: total.append(k)] * 8)
            assert total == [k] * 8
        found.append(k)

    callers = [threading.Thread(target=caller, args=(k,)) for k in range(8)]
    for c in callers:
        c.start()
    for c in callers:
        c.join(30)
    assert sorted(found) == list(range(8))


def test_an_error_is_raised_in_the_caller_and_cancels_the_rest() -> None:
    started: list[int] = []
    left = threading.Event()

    def waits_for_the_error() -> None:
        started.append(1)
        try:
            for _ in range(1000):
                time.sleep(0.01)
                checkpoint()
        finally:
            left.set()

    def fails() -> None:
        while not started:
            time.sleep(0.001)
        raise ZeroDivisionError("task")

    begin = time.monotonic()
    with threads(2), pytest.raises(ZeroDivisionError, match="task"):
        run([waits_for_the_error, fails, *[lambda: started.append(2)] * 20])
    assert left.is_set()  # nobody is at work any more
    assert time.monotonic() - begin < 5
    assert 2 not in started
    with threads(2):  # and the workers are well
        run([lambda: started.append(3)] * 4)
    assert started.count(3) == 4


@pytest.mark.parametrize("error", [IndexError, StopIteration, KeyboardInterrupt, SystemExit])
def test_any_error_of_a_task_comes_out(error: type[BaseException]) -> None:
    def fails() -> None:
        raise error("task")

    with threads(2), pytest.raises(error):
        run([fails, fails])
    with pytest.raises(error):
        run([fails, fails])


def test_an_interrupt_goes_before_a_workers_error() -> None:
    failed = threading.Event()

    def task() -> None:
        if threading.current_thread() is threading.main_thread():
            failed.wait(10)
            time.sleep(0.05)
            raise KeyboardInterrupt
        failed.set()
        raise ZeroDivisionError

    with threads(2), pytest.raises(KeyboardInterrupt):
        run([task, task])


def test_a_checkpoint_outside_of_any_job_does_nothing() -> None:
    checkpoint()


def test_results_of_a_layer_do_not_depend_on_threads(backend: str) -> None:
    layer = fastrnn.LSTM(5, 7, num_layers=2, bidirectional=True, backend=backend)
    x = np.random.default_rng(0).normal(size=(9, 17, 5)).astype(np.float32)
    lengths = np.random.default_rng(1).integers(0, 10, 17)
    expected = layer(x, lengths=lengths)[0]
    same_bits = layer._stack.layers[0].backend.same_bits
    for n in (2, 3, 5):
        with share_everything(), threads(n):
            y = layer(x, lengths=lengths)[0]
        np.testing.assert_allclose(y, expected, rtol=0 if same_bits else 1e-5, atol=0 if same_bits else 1e-6)


# --- the process ------------------------------------------------------------------------------------------------------

BUSY = """
    import os, signal, sys, threading, time
    import numpy as np, fastrnn
    layer = fastrnn.LSTM(8, 64, bidirectional=True, backend={backend!r})
    layer(np.zeros((2, 4, 8), np.float32))
    x = np.zeros((200_000, 8, 8), np.float32)
"""


@pytest.mark.parametrize("n", [1, 2])
def test_ctrl_c_answers_within_a_second(backend: str, n: int) -> None:
    """The call raises; when it has, no worker is left in it."""
    code = textwrap.dedent(BUSY.format(backend=backend)) + textwrap.dedent(f"""
        def interrupt():
            time.sleep(0.5)
            interrupt.at = time.monotonic()
            os.kill(os.getpid(), signal.SIGINT)
        threading.Thread(target=interrupt, daemon=True).start()
        fastrnn.set_num_threads({n})
        try:
            while True:
                layer(x)
        except KeyboardInterrupt:
            waited = time.monotonic() - interrupt.at
            print("interrupted", waited < 1.5, waited)
        y, _ = layer(x[:5])
        print("alive", y.shape)
    """)
    done = script(code, 120)
    assert done.stdout.startswith("interrupted True"), done.stdout + done.stderr
    assert "alive (5, 8, 128)" in done.stdout
    assert done.returncode == 0


def test_ctrl_c_while_waiting_for_workers() -> None:
    done = script("""
        import os, signal, threading, time
        from fastrnn.threads import run, set_num_threads, checkpoint
        set_num_threads(2)
        main, inside = threading.get_ident(), []
        def task():
            if threading.get_ident() == main:
                while not inside:
                    time.sleep(0.001)
                return  # the caller is through and waits for the worker
            inside.append(1)
            try:
                for k in range(1000):
                    time.sleep(0.01)
                    if k == 30:
                        os.kill(os.getpid(), signal.SIGINT)
                    checkpoint()
            finally:
                time.sleep(0.2)
                inside.clear()
        try:
            run([task, task])
        except KeyboardInterrupt:
            print("interrupted", inside)
        done = []
        run([lambda: done.append(1)] * 3)
        print(len(done))
    """)
    assert done.stdout.split("\n")[:2] == ["interrupted []", "3"], done.stdout + done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_fork(backend: str) -> None:
    """A child of a process that has workers makes its own, and so does the child's child."""
    done = script(f"""
        import os, sys, warnings
        warnings.simplefilter("ignore")
        import numpy as np, fastrnn
        from fastrnn.threads import run
        fastrnn.set_num_threads(3)
        layer = fastrnn.LSTM(3, 4, bidirectional=True, backend={backend!r})
        x = np.random.default_rng(0).normal(size=(7, 5, 3))
        expected = layer(x)[0]

        def child(depth):
            if depth:
                pid = os.fork()
                if pid == 0:
                    child(depth - 1)
                assert os.waitpid(pid, 0)[1] == 0
            for _ in range(5):
                assert np.allclose(layer(x)[0], expected, atol=1e-6)
            seen = []
            run([lambda: seen.append(1)] * 10)
            assert len(seen) == 10
            os._exit(0)

        for _ in range(3):
            pid = os.fork()
            if pid == 0:
                child(2)
            assert os.waitpid(pid, 0)[1] == 0
        print("well", np.allclose(layer(x)[0], expected, atol=1e-6))
    """)
    assert done.stdout.strip() == "well True", done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_fork_while_another_thread_computes() -> None:
    """No lock that another thread holds at the moment of the fork stays held in the child."""
    done = script("""
        import os, threading, warnings
        warnings.simplefilter("ignore")
        from fastrnn.threads import run, set_num_threads
        set_num_threads(3)
        stop = threading.Event()
        def churn():
            while not stop.is_set():
                run([lambda: None] * 4)
        threading.Thread(target=churn, daemon=True).start()
        for _ in range(40):
            pid = os.fork()
            if pid == 0:
                run([lambda: None] * 4)
                os._exit(0)
            assert os.waitpid(pid, 0)[1] == 0
        stop.set()
        print("well")
    """)
    assert done.stdout.strip() == "well", done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_fork_while_waiting_for_workers() -> None:
    """By a signal's handler: its child does not wait for a worker that it has not."""
    done = script("""
        import os, signal, threading, time, warnings
        warnings.simplefilter("ignore")
        from fastrnn.threads import run, set_num_threads
        set_num_threads(2)
        main, inside, children = threading.get_ident(), threading.Event(), []
        def fork(*_):
            children.append(os.fork())
            if children[0] == 0:
                signal.alarm(20)  # ends a child that waits for ever
        signal.signal(signal.SIGUSR1, fork)
        def task():
            if threading.get_ident() == main:
                inside.wait()
                return  # the caller is through and waits for the worker
            inside.set()
            time.sleep(0.3)
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0.5)
        run([task, task])
        seen = []
        run([lambda: seen.append(1)] * 5)
        assert len(seen) == 5
        if children[0] == 0:
            os._exit(0)
        print("well", os.waitpid(children[0], 0)[1])
    """)
    assert done.stdout.strip() == "well 0", done.stdout + done.stderr


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_fork_while_another_thread_holds_a_layer() -> None:
    done = script("""
        import os, threading, warnings
        warnings.simplefilter("ignore")
        import fastrnn
        layer = fastrnn.GRU(2, 3, num_layers=2, dropout=0.5, backend="numpy")
        stream = layer.stream()
        held = [owner._lock for owner in (layer._store, layer._stack, stream)]
        for lock in held:
            lock.acquire()
        pid = os.fork()
        if pid == 0:
            layer.parameters["bias_l0"][...] = 1.0
            layer([[0.0, 0.0]])
            layer.record([[0.0, 0.0]])
            stream.step([0.0, 0.0])
            os._exit(0)
        assert os.waitpid(pid, 0)[1] == 0
        print("well")
    """)
    assert done.stdout.strip() == "well", done.stderr


def test_the_process_ends_though_workers_are_asleep_or_at_work() -> None:
    begin = time.monotonic()
    done = script("""
        import threading, time
        from fastrnn.threads import run, set_num_threads
        set_num_threads(4)
        run([lambda: time.sleep(0.01)] * 8)
        threading.Thread(target=lambda: run([lambda: time.sleep(60)] * 4), daemon=True).start()
        time.sleep(0.2)
        print("end")
    """)
    assert done.stdout.strip() == "end"
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - begin < 20
