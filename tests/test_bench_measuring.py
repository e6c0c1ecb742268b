"""The benchmark's way of measuring: interrupts, load, processors, rounds, contenders that hang or lose a variant."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import os
import runpy
import subprocess
import sys
import threading
import time
from _thread import interrupt_main
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fastrnn.__main__ import main
from fastrnn.bench import cases, machine, process, workload
from fastrnn.bench.cases import Case
from fastrnn.bench.report import left_out
from fastrnn.bench.results import Entry, Result
from fastrnn.bench.runner import Effort, Runner, _Lane

TINY_STEP = Case("lstm", "step", 1, 1, 5, 7, groups=("quick",))
BRIEF = Effort(turn=0.0005, rounds=3, fewest_rounds=2, seconds=1.0, samples=50)


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    """The command with one small case, and a machine that is measured in no time."""
    monkeypatch.setattr(cases, "CASES", (TINY_STEP,))
    monkeypatch.setattr("fastrnn.commands.bench.QUICK", BRIEF)
    limits = machine.Limits(1, 286e9, ((1 << 15, 600e9), (1 << 27, 42e9)), 1.7e-10)
    monkeypatch.setattr(machine, "measure", lambda count, *_, **__: limits)


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


@pytest.mark.parametrize(
    ("variable", "reason"),
    [
        pytest.param("1", "NUMBA_DISABLE_JIT is set", marks=pytest.mark.needs("numba")),
        (None, "Numba is not installed"),
    ],
)
@pytest.mark.usefixtures("tiny")
def test_a_machine_that_cannot_be_measured_says_why(
    variable: str | None, reason: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    found = importlib.util.find_spec
    if variable is not None:
        monkeypatch.setenv("NUMBA_DISABLE_JIT", variable)
    else:
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "numba" else found(name))
    monkeypatch.setattr(machine, "measure", lambda *_: pytest.fail("it was measured"))
    assert main(["bench", "--quick", "--contenders", "numpy"]) == 0
    assert f"no limits and no roofline, which take Numba to measure: {reason}" in capsys.readouterr().out


# --- where a run took place -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("tiny")
def test_the_load_is_that_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """After it, it is the load that the run has made."""
    at_work: list[bool] = []

    def working(*arguments: Any) -> Any:
        at_work.append(True)
        return Runner(*arguments)

    monkeypatch.setattr(os, "getloadavg", lambda: (7.0 if at_work else 0.123, 0.0, 0.0))
    monkeypatch.setattr("fastrnn.commands.bench.Runner", working)
    file = tmp_path / "a.json"
    assert main(["bench", "--quick", "--contenders", "numpy", "--json", str(file)]) == 0
    assert at_work
    assert json.loads(file.read_text())["environment"]["load"] == 0.12


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="processes cannot be kept to a processor")
def test_a_run_has_the_processors_that_it_may_use() -> None:
    """As under taskset: on one of them there are no cases with two threads."""
    program = (
        "import os; os.sched_setaffinity(0, list(os.sched_getaffinity(0))[:1]); "
        "from fastrnn.bench.environment import describe; from fastrnn.commands import info; "
        "from fastrnn.__main__ import main; "
        "print(describe({})['cores'], info.describe()['processors']); main(['bench', '--list', '--quick'])"
    )
    shown = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    assert shown.startswith("1 1\n")
    assert "lstm-step-B1" in shown
    assert "-t2" not in shown


# --- rounds -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("seconds", "playing"),
    [
        ({"numba": 1.0, "cython": 1.1, "numpy": 1.3, "jax": 1.4}, ""),  # more rounds would be ours alone
        ({"numba": 1.0, "cython": 1.1, "numpy": 1.2, "jax": 1.4}, "numba cython numpy"),
        ({"numba": 1.3, "cython": 1.1, "numpy": 1.0, "jax": 1.1}, ""),  # those of peers, and of a backend beside
        ({"cython": 1.1, "numpy": 1.0, "jax": 1.3}, "cython numpy"),
        ({"numpy": 1.0, "jax": 1.1, "pytorch": 2.0}, "numpy jax"),  # there is no ratio
        ({"numba": 1.0, "cython": 1.1}, "numba cython"),
    ],
)
def test_we_and_the_best_peer_have_as_many_rounds(seconds: dict[str, float], playing: str) -> None:
    """The least of three times as many rounds is a lower one."""
    lanes = [_Lane(name, "way", 1, [least]) for name, least in seconds.items()]
    with Runner(["numpy"], Effort(fewest_rounds=2, seconds=1.0, close_rounds=4)) as runner:
        assert runner._taking_part(lanes, 1, 5.0) == lanes
        assert [lane.name for lane in runner._taking_part(lanes, 3, 5.0)] == playing.split()


def test_rounds_of_a_case_end_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """All have the fewest rounds, those that are close some more; one that breaks is not waited for."""
    times = {"numba": 1.0, "numpy": 1.2, "pytorch": 2.0, "jax": 0.9}
    lanes = [_Lane(name, "way", 1) for name in times]
    entries = {name: Entry(name, "ok") for name in times}

    def ask(self: Runner, entry: Entry, case: Case, do: str, **arguments: Any) -> dict[str, Any]:
        if entry.contender == "jax" and len(lanes[-1].seconds) == 2:
            entry.status = "failed"
            return {"failed": "it broke"}
        return {"seconds": times[entry.contender], "busy": 1.0, "turn": times[entry.contender]}

    monkeypatch.setattr(Runner, "_ask", ask)
    with Runner(list(times), Effort(rounds=40, fewest_rounds=5, seconds=6.0, close_rounds=15)) as runner:
        runner._take_turns(TINY_STEP, lanes, entries)
    assert [len(lane.seconds) for lane in lanes] == [15, 15, 5, 2]


@pytest.mark.usefixtures("tiny")
def test_a_way_that_is_left_out_is_told_of_once(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It may have been the fastest one."""
    three = tuple(dataclasses.replace(TINY_STEP, H=size) for size in (7, 8, 9))
    monkeypatch.setattr(cases, "CASES", three)
    assert main(["bench", "--quick", "--contenders", "bench_contenders:PartlyWrong"]) == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "left out" in line]
    assert lines[0] == "Partly wrong: variant 'broken' left out of 3 cases: ZeroDivisionError: no such thing"
    assert lines[1].startswith("Partly wrong: variant 'off' left out of 3 cases: y differs by 1.0e-03, allowed is 2e-0")
    assert len(lines) == 2


def test_a_contender_that_was_not_timed_is_told_of_elsewhere() -> None:
    entries = [Entry("numpy", "wrong", "off: y differs", variants={"off": "y differs"})]
    assert left_out([Result(TINY_STEP, entries)]) == []
    entries = [Entry("numpy", "ok", variants={"by hand": "[odd] 1", "layer": 1e-6})]
    assert left_out([Result(TINY_STEP, entries)]) == ["NumPy: variant 'by hand' left out of 1 case: [odd] 1"]


# --- contenders that hang ---------------------------------------------------------------------------------------------


def test_who_hangs_has_failed_and_others_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    with Runner(["bench_contenders:Hanging", "numpy"], BRIEF) as runner:
        for name in runner.names:
            runner._process(name, 1)  # started with all patience
        monkeypatch.setattr(process, "PATIENCE", 3.0)
        hanging, others = runner.run(TINY_STEP).entries
        assert (hanging.status, hanging.reason) == ("failed", "no answer within 3 s")
        assert others.status == "ok", others.reason
        assert ("bench_contenders:Hanging", 1) not in runner._processes  # the next case has a new one


def test_patience_ends_with_the_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    with process.Process("numpy", 1) as worker:
        monkeypatch.setattr(process, "PATIENCE", 0.5)
        assert worker.ask("drop") == {}
        time.sleep(1.0)
        assert worker.ask("drop") == {}


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux kills a child with its parent")
def test_who_hangs_ends_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    workload.make(TINY_STEP).save(tmp_path / "case.npz")
    program = (
        f"import sys; sys.path[:] = {sys.path!r}; from fastrnn.bench.process import Process; "
        "worker = Process('bench_contenders:Hanging', 1); print(worker._process.pid, flush=True); "
        f"worker.ask('load', path={str(tmp_path / 'case.npz')!r})"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        time.sleep(1.0)  # until it hangs
        assert _runs(pid)
        parent.kill()
    end = time.monotonic() + 10.0
    while _runs(pid) and time.monotonic() < end:
        time.sleep(0.05)
    assert not _runs(pid)


def _runs(pid: int) -> bool:
    """Whether there is such a process, and it is not one that has ended and waits to be asked how."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


# --- a fresh process --------------------------------------------------------------------------------------------------

COLD_START = Path(__file__).parent.parent / "benchmarks" / "cold_start.py"


def test_the_peak_of_a_fresh_process_is_its_own(tmp_path: Path) -> None:
    """However much its parent has, which Linux counts as the child's, too, and whatever the program prints."""
    cold_start = runpy.run_path(str(COLD_START))
    parent = np.ones(200 << 20, np.uint8)
    seconds, little = cold_start["run"]("print(7)\nprint('no end of a line', end='')", tmp_path)
    _, much = cold_start["run"]("held = b'x' * (100 << 20)\ndel held", tmp_path)
    assert parent[-1] == 1
    assert seconds > 0
    assert 2 < little < 60
    assert 90 < much - little < 110
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        cold_start["run"]("1 / 0", tmp_path)
    with pytest.raises(RuntimeError, match="exit status 3"):
        cold_start["run"]("raise SystemExit(3)", tmp_path)


@pytest.mark.parametrize(
    ("argument", "code", "message"),
    [("0", 2, "expected an integer of at least 1, got '0'"), ("--help", 0, "of each (default: 10)")],
)
def test_what_cold_start_takes(argument: str, code: int, message: str) -> None:
    done = subprocess.run([sys.executable, COLD_START, argument], capture_output=True, text=True, check=False)
    assert done.returncode == code
    assert message in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
