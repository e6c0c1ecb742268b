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
from cases import COMPILED

from fastrnn.__main__ import main
from fastrnn.bench import cases, compare, machine, memory, process, targets
from fastrnn.bench.cases import Case
from fastrnn.bench.contenders import contender
from fastrnn.bench.machine import Limits
from fastrnn.bench.results import Entry, Result, Run
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


# --- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--memory", "--cells", "gru"], "argument --cells: not allowed with argument --memory"),
        (["--memory", "--threads", "2"], "argument --threads: not allowed with argument --memory"),
        (["--memory", "--plot", "a.svg"], "argument --plot: not allowed with argument --memory"),
        (["--memory", "--contenders", "numpy"], "expected some of numba, cython, pytorch, got numpy"),
        (["--list", "--json", "a.json"], "argument --json: not allowed with argument --list"),
        (["--compare", "a.json", "b.json", "--quick"], "argument --quick: not allowed with argument --compare"),
        (["--compare", "a.json", "b.json", "--memory"], "argument --memory: not allowed with argument --compare"),
    ],
)
def test_options_that_would_do_nothing_are_refused(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bench", *arguments])
    assert ended.value.code == 2
    assert message in capsys.readouterr().err


def test_the_list_has_those_who_were_asked_for(capsys: pytest.CaptureFixture[str]) -> None:
    asked = ["numpy", "bench_contenders:Missing"]
    assert main(["bench", "--list", "--cases", "gru-step", "--contenders", *asked]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[-2:] == ["numpy: here", "bench_contenders:Missing: not installed: no_such_module_anywhere"]
    assert all(line.startswith("gru-step") for line in lines[:-2])
    assert main(["bench", "--list", "--contenders", "bench_contenders:Missing"]) == 0  # there is nothing to run


def test_the_list_shows_who_is_missing_though_others_are_asked_for(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(type(contender("pytorch")), "modules", ("no_such_module_anywhere",))
    assert main(["bench", "--list", "--contenders", "numpy"]) == 0
    assert "pytorch" not in capsys.readouterr().out
    assert main(["bench", "--list"]) == 0
    assert "pytorch: not installed: no_such_module_anywhere" in capsys.readouterr().out


def test_the_list_of_what_memory_is_measured_of(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "measure", lambda *_: pytest.fail("measured"))
    assert main(["bench", "--memory", "--list"]) == 0
    text = capsys.readouterr().out
    assert "pytorch: inference" in text or "pytorch: not installed" in text
    assert "onnxruntime" not in text and "lstm-step" not in text


def test_what_is_missing_and_what_is_enough(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(["bench", "--quick"]) == 1
    assert "rich missing: `pip install rich` is enough" in capsys.readouterr().err


# --- memory -----------------------------------------------------------------------------------------------------------


@pytest.mark.needs("numba")
@pytest.mark.parametrize("broken", ["pytorch", "numba"])
def test_who_breaks_costs_others_no_memory_figures(
    broken: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    right = process.environment

    def environment(name: str, *rest: Any) -> dict[str, str]:
        return {**right(name, *rest), **({"PYTHONHOME": "/no/such/python"} if name == broken else {})}

    monkeypatch.setattr("fastrnn.bench.memory.process.environment", environment)
    monkeypatch.setattr(memory, "WAYS", {"inference": None, "training": None})
    for name in ("numba", "pytorch"):
        monkeypatch.setattr(type(contender(name)), "modules", ())
    monkeypatch.setattr(memory, "_use", _without_torch(memory._use, broken))
    file = tmp_path / "run.json"
    code = main(["bench", "--memory", "--quick", "--contenders", "numba,pytorch", "--json", str(file)])
    assert code == int(broken == "numba")  # that a peer breaks is not our fault
    text = capsys.readouterr().out
    assert "4 of 4: pytorch, training" in text
    assert f"failed: {contender(broken).title}, training:" in text
    run = Run.load(file)
    assert [bool(use["reason"]) for use in run.memory] == [use["contender"] == broken for use in run.memory]
    assert run.quick and not run.interrupted
    assert "torch" in run.environment["versions"]


def _without_torch(right: Any, broken: str) -> Any:
    """As in `memory`, where nothing but the broken one is started."""

    def use(name: str, way: str, size: memory.Size) -> memory.Use:
        return right(name, way, size) if name == broken else memory.Use(name, way, 9_000_000, None, None, 0.5)

    return use


def test_an_interrupted_measurement_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    calls: list[int] = []

    def use(name: str, way: str, size: memory.Size) -> memory.Use:
        _interrupted_at(2, calls)
        return memory.Use(name, way, 9_000_000, None, None, 0.5)

    monkeypatch.setattr(memory, "_use", use)
    file = tmp_path / "run.json"
    assert main(["bench", "--memory", "--contenders", COMPILED[0], "--json", str(file)]) == 130
    assert "interrupted: 1 of 3 were complete" in capsys.readouterr().out
    assert Run.load(file).interrupted


def test_megabytes_are_those_of_fastrnn_info() -> None:
    assert memory.megabytes(1_193_000_000) == "1,193"


# --- files ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def run() -> Run:
    """Two cases of two contenders."""
    names = ("lstm-step-B16-H128", "gru-forward-T128-B16-H128")
    return Run({"processor": "A processor", "cores": 2, "versions": {}}, {}, {}, [_result(name) for name in names])


def _result(name: str, **times: float) -> Result:
    found = times or {"numba": 2e-6, "pytorch": 5e-6}
    entries = [Entry(who, "ok", minimum=time, median=1.1 * time, busy=1.0) for who, time in found.items()]
    return Result(cases.by_id(name), entries)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("environment", []),
        ("environment.versions", [1]),
        ("environment.variables", "NUMBA_CPU_NAME"),
        ("machine", {"1": {"peak": 1}}),
        ("results", {}),
        ("memory", 3),
        ("quick", "yes"),
        ("results.0", None),
        ("results.0.case", "lstm"),
        ("results.0.case.cell", 3),
        ("results.0.case.layers", "two"),
        ("results.0.entries", 5),
        ("results.0.entries.0.minimum", 0),
        ("results.0.entries.0.minimum", None),
        ("results.0.entries.0.minimum", "fast"),
        ("results.0.entries.0.median", -1.0),
        ("results.0.entries.0.contender", []),
        ("results.0.limit", 0),
        ("results.0.latency", {"numba": {"p50": 0}}),
        ("results.0.latency", [1]),
    ],
)
def test_a_damaged_file_is_told_in_a_sentence(
    path: str, value: Any, run: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data: Any = json.loads(run.text())
    *parts, last = [int(part) if part.isdigit() else part for part in path.split(".")]
    place = data
    for part in parts:
        place = place[part]
    place[last] = value
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    run.save(good)
    bad.write_text(json.dumps(data))
    assert main(["bench", "--compare", str(good), str(bad)]) == 1
    assert "bad.json: expected a file that `fastrnn bench --json` wrote" in capsys.readouterr().err


def test_runs_of_other_lengths_are_compared_with_a_note(run: Run) -> None:
    quick = dataclasses.replace(run, quick=True, interrupted=True, effort={"rounds": 10})
    assert compare.warnings(run, quick) == [
        "how long was measured: full and quick",
        "the second run was interrupted",
    ]
    longer = dataclasses.replace(quick, effort={"rounds": 20}, interrupted=False)
    assert compare.warnings(longer, quick)[0] == "rounds: 20 and 10"
    kept = dataclasses.replace(run, environment={**run.environment, "isa": "avx2"})
    assert compare.warnings(run, kept) == ["instructions: the processor's own; all kept to avx2"]


def test_a_file_is_all_old_until_it_is_all_new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the last step fails, the old figures are whole, and nothing else is left in the folder."""
    file = tmp_path / "a.json"
    file.write_text("old", encoding="utf-8")

    def full(made: Path, target: Path) -> None:
        assert (made.read_text(encoding="utf-8"), target.read_text(encoding="utf-8")) == ("new", "old")
        raise PermissionError

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(PermissionError):
        targets.write(file, "new")
    assert [path.name for path in tmp_path.iterdir()] == ["a.json"]
    assert file.read_text(encoding="utf-8") == "old"
