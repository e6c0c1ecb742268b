"""What becomes of a benchmark's figures: ratios, tables, comparisons, pictures."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
from pathlib import Path
from typing import Any

import pytest

from fastrnn.bench import cases, compare, limits, markdown, plots, report
from fastrnn.bench.cases import Case
from fastrnn.bench.machine import Limits
from fastrnn.bench.results import Entry, Result, Run, geometric_mean

ONE = Limits(
    1, 286e9, ((1 << 15, 600e9), (1 << 20, 225e9), (1 << 22, 113e9), (1 << 26, 113e9), (1 << 27, 42e9)), 1.7e-10
)
TWO = Limits(2, 571e9, tuple((2 * size, 2 * rate) for size, rate in ONE.bandwidth), 0.85e-10)


def _result(name: str, ours: float, **peers: float) -> Result:
    case = cases.by_id(name)
    entries = [Entry("numba", "ok", variant="layer", minimum=ours, median=1.1 * ours, busy=1.0, error=1e-7)]
    for peer, seconds in peers.items():
        entries.append(Entry(peer, "ok", variant="x", minimum=seconds, median=1.2 * seconds, busy=1.0, error=1e-7))
    entries.append(Entry("litert", "unsupported", "no lengths"))
    hand = 40e-9 if case.threads > 1 else None
    return Result(case, entries, limits.limit(case, ONE if case.threads == 1 else TWO), None, hand)


@pytest.fixture
def run() -> Run:
    results = [
        _result("lstm-step-B16-H128", 20e-6, pytorch=60e-6, onnxruntime=24e-6),
        _result("lstm-step-B16-H512", 280e-6, pytorch=700e-6, onnxruntime=266e-6),
        _result("gru-forward-T128-B16-H128", 1.6e-3, pytorch=5e-3, jax=4e-3, numpy=3.2e-3),
        _result("lstm-training-T64-B16-H128-t2", 1.5e-3, pytorch=2.1e-3),
    ]
    results[0].latency = {
        "numba": {"p50": 2e-6, "p99": 3e-6, "p99.9": 9e-6},
        "onnxruntime": {"p50": 4e-6, "p99": 5e-6, "p99.9": 99e-6},
    }
    environment = {"processor": "A processor", "cores": 2, "versions": {"torch": "2.13.0", "numpy": "2.0"}}
    return Run(environment, {"1": ONE.to_json(), "2": TWO.to_json()}, {"openvino": "not installed: openvino"}, results)


def test_ratios(run: Run) -> None:
    assert [result.ratio for result in run.results] == pytest.approx([1.2, 0.95, 2.0, 1.4])
    assert run.results[0].ratio_of_medians == pytest.approx(24 * 1.2 / (20 * 1.1))
    assert run.results[2].fraction == pytest.approx(1.41 / 1.6, rel=0.02)
    assert run.results[2].best_peer() is run.results[2].peers()[2]
    assert geometric_mean([1.0, 4.0]) == 2.0
    assert math.isnan(geometric_mean([]))
    only_ours = _result("lstm-step-B16-H128", 1e-6)
    assert only_ours.ratio is None
    assert only_ours.best_peer() is None
    assert only_ours.ratio_of_medians is None


def test_the_default_backend_counts_as_ours(run: Run) -> None:
    result = run.results[0]
    result.entries.insert(0, Entry("cython", "ok", minimum=1e-6, median=1e-6))
    assert result.ratio == pytest.approx(1.2)
    result.entries[1].status = "wrong"
    assert result.ratio == pytest.approx(24.0)


def test_markdown_marks_losses_and_puts_them_first(run: Run) -> None:
    text = markdown.render(run)
    ours, limit = math.sqrt(1.2 * 0.95), math.sqrt(24 / 14.7 * 266 / 235)
    assert f"| LSTM, one step, 1 thread | 2 | **{ours:.2f}** | {limit:.2f} | 0.95 (B16 H512, ONNX Runtime) |" in text
    assert f"| {markdown.LOSS} 1 |" in text
    rows = [line for line in text[text.index("<details>") :].splitlines() if line.startswith("| LSTM B16")]
    assert rows[0].startswith(f"| LSTM B16 H512 | {markdown.LOSS} 0.95 |")
    assert "| **266 us** |" in rows[0]
    assert rows[1].startswith("| LSTM B16 H128 | 1.20 |")
    assert "| 20.0 us | 60.0 us | **24.0 us** |" in rows[1]
    assert "A processor, 2 cores; torch 2.13.0, numpy 2.0." in text
    assert "Not measured: OpenVINO: not installed: openvino." in text
    assert "40 ns" in text
    assert "| 2.00 us | 3.00 us | 9.00 us | 5,000 | ONNX Runtime | 4.00 us |" in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert all(line.count("|") >= 7 and line.endswith("|") for line in tables)
    assert "<details>" not in markdown.render(run, details=False)


def test_markdown_says_who_was_wrong(run: Run) -> None:
    run.results[0].entries[1].status = "wrong"
    row = next(line for line in markdown.render(run).splitlines() if line.startswith("| LSTM B16 H128 |"))
    assert "| wrong |" in row


def test_the_readme_is_changed_between_the_markers_only(tmp_path: Path, run: Run) -> None:
    readme, figures = tmp_path / "README.md", tmp_path / "run.json"
    readme.write_text(f"# before\n{markdown.BEGIN}\nold\n{markdown.END}\nafter\n")
    run.save(figures)
    script = _script("update_readme")
    assert script.main([str(figures), str(readme)]) == 0
    first = readme.read_text()
    assert first.startswith(f"# before\n{markdown.BEGIN}\n|")
    assert first.endswith(f"\n{markdown.END}\nafter\n")
    assert "old" not in first
    assert script.main([str(figures), str(readme)]) == 0
    assert readme.read_text() == first
    readme.write_text("no markers")
    assert script.main([str(figures), str(readme)]) == 1
    assert readme.read_text() == "no markers"


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"results": [], "memory": [{"peak": 1}]}, "it has no times of ours beside a peer's, but memory"),
        ({"quick": True}, "it was a quick one"),
        ({"interrupted": True}, "it was interrupted"),
    ],
)
def test_a_poor_run_does_not_get_into_the_readme(
    changed: dict[str, Any], message: str, tmp_path: Path, run: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    readme, figures = tmp_path / "README.md", tmp_path / "run.json"
    readme.write_text(f"{markdown.BEGIN}\nold\n{markdown.END}\n")
    dataclasses.replace(run, **changed).save(figures)
    assert _script("update_readme").main([str(figures), str(readme)]) == 1
    assert message in capsys.readouterr().err
    assert "old" in readme.read_text()


def _script(name: str) -> Any:
    path = Path(__file__).parent.parent / "benchmarks" / f"{name}.py"
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (1.234e-8, "0.01 us"),
        (5.678e-6, "5.68 us"),
        (99.94e-6, "99.9 us"),
        (0.0123, "12.3 ms"),
        (2.5, "2.50 s"),
        (None, "-"),
    ],
)
def test_times_in_words(value: float | None, text: str) -> None:
    assert markdown.seconds(value) == text


def test_compare_takes_the_machines_mood_out(run: Run, tmp_path: Path) -> None:
    run.save(tmp_path / "a.json")
    later = Run.load(tmp_path / "a.json")
    for entry in later.results[0].timed():
        entry.minimum *= 1.3  # everything is slower: nothing has changed
    later.results[1].entries[0].minimum /= 1.5  # faster
    for entry in later.results[2].peers():
        entry.minimum /= 2  # only the peers got faster
    later.results.pop()
    changes = compare.compare(run, later)
    assert [change.verdict for change in changes] == ["", "faster", "slower"]
    assert [change.speedup for change in changes] == pytest.approx([1.0, 1.5, 0.5], rel=1e-3)
    assert changes[1].ratio_after == pytest.approx(0.95 * 1.5, rel=1e-3)
    later.environment = {**later.environment, "versions": {"torch": "2.14.0"}}
    assert compare.warnings(run, later) == ["torch: 2.13.0 and 2.14.0", "1 cases are in one of the runs only"]


@pytest.mark.parametrize("text", ["", "{}", "[1]", '{"format": 99}', '{"format": 1, "results": [{}]}'])
def test_other_files_are_no_runs(tmp_path: Path, text: str) -> None:
    (tmp_path / "other.json").write_text(text)
    with pytest.raises(ValueError, match="expected a file that `fastrnn bench --json` wrote"):
        Run.load(tmp_path / "other.json")


def test_plots_are_small_and_always_the_same(run: Run, tmp_path: Path) -> None:
    written = plots.save(run, tmp_path / "bench.svg")
    assert [path.name for path in written] == ["bench-ratio.svg", "bench-roofline.svg"]
    texts = [path.read_text() for path in written]
    for text in texts:
        assert len(text) < 60_000
        assert "<dc:date>" not in text
        assert "PyTorch" in text
        assert "ONNX Runtime" in text
        assert "#3b82d6" in text
    assert "LSTM B16 H512" in texts[0]
    assert [path.read_text() for path in plots.save(run, tmp_path / "bench.svg")] == texts
    without = dataclasses.replace(run, machine={})
    assert [path.name for path in plots.save(without, tmp_path / "other.png")] == ["other-ratio.png"]


def test_denormal_over_usual() -> None:
    """The ratio of each contender that was timed in both."""
    usual = Case("lstm", "forward", 2, 3, 4, 5)
    both = [
        Result(usual, [Entry("numba", "ok", minimum=2.0), Entry("pytorch", "ok", minimum=1.0)]),
        Result(
            dataclasses.replace(usual, denormal=True),
            [Entry("numba", "ok", minimum=2.0), Entry("pytorch", "ok", minimum=18.0), Entry("jax", "ok", minimum=1.0)],
        ),
    ]
    assert report.denormal_pairs(both) == [(usual.id, {"numba": 1.0, "pytorch": 18.0})]
