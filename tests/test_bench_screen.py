"""What ``fastrnn bench`` prints: that it fits a terminal, and that nothing which matters is left out."""

from __future__ import annotations

import dataclasses
import io
from pathlib import Path

import pytest
from rich.console import Console

from fastrnn.bench import cases, compare, environment, isa, limits, markdown, memory, report
from fastrnn.bench.cases import Case
from fastrnn.bench.contenders import NAMES
from fastrnn.bench.machine import Limits
from fastrnn.bench.results import Entry, Result, Run

ONE = Limits(1, 286e9, ((1 << 15, 600e9), (1 << 27, 42e9)), 1.7e-10)


def _result(case: Case) -> Result:
    """All contenders, each with other digits, so that a figure which is cut is found."""
    entries = [
        Entry(name, "ok", minimum=1.2345e-5 * (place + 1), median=1.3456e-5 * (place + 1), busy=1.0)
        for place, name in enumerate(NAMES)
    ]
    hand = 123e-9 if case.threads > 1 else None
    latency = {name: {"p50": 1.23e-6, "p99": 45.6e-6, "p99.9": 789e-6} for name in NAMES} if case.B == 1 else {}
    return Result(case, entries, limits.limit(case, ONE), None, hand, latency)


def _shown(width: int, show: str, *arguments: object) -> str:
    console = Console(file=io.StringIO(), width=width, force_terminal=False)
    getattr(report, show)(console, *arguments)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def _cells(text: str) -> set[str]:
    return {cell.strip() for line in text.splitlines() for cell in line.replace("┃", "│").split("│")}


@pytest.fixture
def run() -> Run:
    """Every case, as in a full run."""
    return Run({"processor": "A processor"}, {}, {}, [_result(case) for case in cases.CASES])


@pytest.mark.parametrize("width", [60, 80, 100, 160])
def test_results_fit_and_no_figure_is_cut(width: int, run: Run) -> None:
    text = _shown(width, "show_results", run)
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    cells = _cells(text)
    for result in run.results:
        assert result.case.label in cells
        assert f"{result.ratio:.2f}" in cells
    assert {"12.3", "13.5", "98.8", "108", "789 us", "123"} <= cells


@pytest.mark.parametrize("width", [80, 160])
def test_a_comparison_and_memory_fit(width: int, run: Run) -> None:
    changes = compare.compare(run, run)
    text = _shown(width, "show_changes", changes, [])
    assert "…" not in text
    assert max(map(len, text.splitlines())) <= width
    assert {change.id for change in changes} | {"12.3 us", "3.00", "1.00"} <= _cells(text)
    uses = [memory.Use("numba", way, 1_340_000_000, 1_193_000_000, 1_062_000_000, 38.4) for way in memory.WAYS]
    text = _shown(width, "show_memory", uses, memory.Size())
    assert "…" not in text
    assert {*memory.WAYS, "1,340", "1,193", "1,062", "38.4"} <= _cells(text)


def test_what_has_room_is_one_table(run: Run) -> None:
    wide = _shown(200, "show_results", run)
    assert "continued" not in wide
    assert "handover, ns" in wide
    assert "one step, 1 thread, us, continued" in _shown(80, "show_results", run).replace("\n", " ")


def test_ragged_over_its_share_of_padded() -> None:
    """Of each contender that was timed in both; 1 is no work on padding."""
    padded = Case("lstm", "forward", 8, 3, 4, 5)
    ragged = dataclasses.replace(padded, ragged=True)
    share = ragged.total_steps / padded.total_steps
    assert share < 0.7
    both = [
        Result(padded, [Entry("numba", "ok", minimum=2.0), Entry("pytorch", "ok", minimum=1.0)]),
        Result(
            ragged,
            [Entry("numba", "ok", minimum=2.0 * share), Entry("pytorch", "ok", minimum=9.0), Entry("jax", "ok")],
        ),
    ]
    (pair,) = report.ragged_pairs(both)
    assert pair[0] == ragged.id
    assert pair[1] == pytest.approx({"numba": 1.0, "pytorch": 9.0 / share})
    assert report.ragged_pairs(both[1:]) == []
    text = _shown(80, "show_results", Run({}, {}, {}, both))
    assert "time of ragged rows over their share of the padded rows' time" in " ".join(text.split())
    assert "1.05 is our aim" in " ".join(text.split())
    assert {"1.00", f"{9.0 / share:.2f}"} <= _cells(text)


@pytest.mark.parametrize(
    ("kept", "words"),
    [
        ({"isa": "avx2", "cpu_name": "haswell"}, "all kept to avx2"),
        ({"isa": None, "cpu_name": "haswell", "variables": {"FASTRNN_ISA": "avx2"}}, "FASTRNN_ISA=avx2"),
        ({"isa": None, "cpu_name": "haswell"}, "NUMBA_CPU_NAME=haswell"),
        ({"isa": None, "cpu_name": "host"}, None),
    ],
)
def test_what_all_were_kept_to_is_said(kept: dict[str, object], words: str | None, run: Run) -> None:
    run.environment = {**environment.describe({}), "variables": {}, **kept}
    for text in (_shown(160, "show_environment", run.environment, {}), markdown.render(run, details=False)):
        assert words is None or words in text
        assert words is not None or "nstruction" not in text


def test_variables_that_were_set_by_hand_are_known(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in isa.by_hand():
        monkeypatch.delenv(name)
    monkeypatch.setenv("NUMBA_CPU_NAME", "haswell")
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")  # a run clears it
    assert isa.by_hand() == {"NUMBA_CPU_NAME": "haswell"}


def test_processors_of_one_name_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "processor\t: 0\ncpu family\t: 25\nmodel\t\t: 17\nmodel name\t: AMD EPYC\n\nprocessor\t: 1\n"
    monkeypatch.setattr(Path, "exists", lambda _: True)
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: text)
    assert environment.processor() == "AMD EPYC (family 25, model 17)"
