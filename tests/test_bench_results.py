"""The benchmark's figures: that none is lost, that each option does what it says, that what is shown can be read."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from fastrnn.__main__ import main
from fastrnn.bench import cases, machine, targets
from fastrnn.bench.cases import Case
from fastrnn.bench.machine import Limits
from fastrnn.bench.results import Result, Run
from fastrnn.bench.runner import Effort, Runner

ONE = Limits(1, 286e9, ((1 << 15, 600e9), (1 << 27, 42e9)), 1.7e-10)
BRIEF = Effort(turn=0.0005, rounds=3, fewest_rounds=2, seconds=1.0, samples=50)
STEP = Case("lstm", "step", 1, 1, 5, 7, groups=("quick",))
SPEED = ["bench", "--quick", "--threads", "1", "--contenders", "numpy"]


@pytest.fixture
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tiny cases, and a machine that is known without measuring it."""
    monkeypatch.setattr(cases, "CASES", (STEP, dataclasses.replace(STEP, H=8)))
    monkeypatch.setattr("fastrnn.commands.bench.QUICK", BRIEF)
    monkeypatch.setattr(machine, "measure", lambda *_, **__: ONE)


def _interrupted_at(count: int, calls: list[int]) -> None:
    calls.append(1)
    if len(calls) == count:
        raise KeyboardInterrupt


# --- no figure is lost ------------------------------------------------------------------------------------------------


@pytest.mark.needs("numba")
def test_an_interruption_of_the_last_measurement_loses_nothing(
    brief: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[int] = []

    def measure(*_: Any, **__: Any) -> Limits:
        _interrupted_at(2, calls)
        return ONE

    monkeypatch.setattr(machine, "measure", measure)
    file = tmp_path / "run.json"
    assert main([*SPEED, "--json", str(file)]) == 130
    text = capsys.readouterr().out
    assert "interrupted: 2 of 2 cases were complete" in text
    assert "LSTM B1 I5 H8" in text
    run = Run.load(file)
    assert (len(run.results), run.interrupted, run.quick, run.effort["rounds"]) == (2, True, True, 3)
    assert run.results[0].limit is not None


def test_the_figures_are_written_after_each_case(
    brief: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[tuple[int, bool]] = []
    file = tmp_path / "run.json"
    right = Runner.run

    def run(runner: Runner, case: Case) -> Result:
        if file.exists():
            found = Run.load(file)
            seen.append((len(found.results), found.interrupted))
        return right(runner, case)

    monkeypatch.setattr(Runner, "run", run)
    assert main([*SPEED, "--json", str(file)]) == 0
    assert seen == [(1, True)]
    found = Run.load(file)
    assert (len(found.results), found.interrupted) == (2, False)
    assert "numpy" in found.environment["versions"]
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--json", "."], "--json: '.' is a folder"),
        (["--json", "/proc/nope.json"], "--json: cannot write '/proc/nope.json'"),
        (["--json", "/no/such/folder/a.json"], "--json: there is no folder '/no/such/folder'"),
        (["--plot", "."], "--plot: '.' is a folder"),
        (["--plot", "/proc/nope.svg"], "--plot: cannot write '/proc/nope-ratio.svg'"),
    ],
)
def test_what_cannot_be_written_is_said_before_anything_is_measured(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "measure", lambda *_, **__: pytest.fail("measured"))
    monkeypatch.setattr(Runner, "run", lambda *_: pytest.fail("ran"))
    assert main(["bench", "--quick", *arguments]) == 1
    assert message in capsys.readouterr().err


def test_a_file_is_replaced_and_a_device_is_not(tmp_path: Path) -> None:
    file, link = tmp_path / "a.json", tmp_path / "link.json"
    file.write_text("old")
    link.symlink_to(file)
    targets.write(link, "new")
    assert (file.read_text(), link.is_symlink()) == ("new", True)
    targets.write(Path(os.devnull), "gone")
    assert not Path(os.devnull).is_file()
    assert targets.problem(Path(os.devnull)) is None


def test_a_disk_that_is_full_costs_the_file_and_not_the_tables(
    brief: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def full(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(targets, "write", full)
    assert main([*SPEED, "--json", str(tmp_path / "run.json")]) == 1
    told = capsys.readouterr()
    assert "LSTM B1 I5 H8" in told.out
    assert "--json: cannot write" in told.err and "No space left" in told.err


_COMMAND = """
import sys
sys.path[:] = {path!r}
import dataclasses
from fastrnn.__main__ import main
from fastrnn.bench import cases, machine
from fastrnn.bench.cases import Case
step = Case("lstm", "step", 1, 1, 5, 7, groups=("quick",))
cases.CASES = tuple(dataclasses.replace(step, H=width) for width in range(7, 7 + {count}))
machine.measure = lambda *_, **__: machine.Limits(1, 286e9, ((1 << 15, 600e9), (1 << 27, 42e9)), 1.7e-10)
sys.exit(main({arguments!r}))
"""


def _started(arguments: Sequence[str], count: int, folder: Path) -> subprocess.Popen[str]:
    """The command in a process of its own, whose temporary files are in a folder; its output is a pipe."""
    program = _COMMAND.format(path=sys.path, count=count, arguments=list(arguments))
    return subprocess.Popen(
        [sys.executable, "-c", program],
        env={**os.environ, "TMPDIR": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.skipif(os.name == "nt", reason="SIGTERM ends a process of Windows at once")
def test_sigterm_is_an_interruption(tmp_path: Path) -> None:
    """What is finished is written, and the folder that the cases pass through is gone."""
    folder, file = tmp_path / "temporary", tmp_path / "run.json"
    folder.mkdir()
    with _started([*SPEED, "--json", str(file)], 200, folder) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith("1 of 200")
        process.send_signal(signal.SIGTERM)
        text, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert "of 200 cases were complete" in text
    assert Run.load(file).interrupted
    assert list(folder.glob("fastrnn-bench-*")) == []


@pytest.mark.skipif(os.name == "nt", reason="a closed pipe is another error on Windows")
@pytest.mark.parametrize("kept", [True, False])
def test_a_reader_that_leaves_stops_only_what_writes_no_file(kept: bool, tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    with _started([*SPEED, *(["--json", str(file)] if kept else [])], 3, tmp_path) as process:
        assert process.stdout is not None and process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        errors = process.stderr.read()
        assert process.wait(timeout=60) == (0 if kept else 1)
    assert errors == ""
    assert file.exists() == kept
    assert not kept or len(json.loads(file.read_text())["results"]) == 3
