"""The benchmark: its table, its limits, a run from end to end on a tiny case, its reports."""

from __future__ import annotations

import dataclasses
import itertools
import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import COMPILED

import fastrnn
from fastrnn.__main__ import main
from fastrnn.bench import cases, isa, limits, machine, markdown, memory, workload
from fastrnn.bench.cases import Case
from fastrnn.bench.contenders import NAMES, Prepared, contender
from fastrnn.bench.machine import Limits
from fastrnn.bench.process import Process, WorkerError, environment
from fastrnn.bench.results import Run
from fastrnn.bench.runner import Effort, Runner, _Lane
from fastrnn.bench.worker import _Worker

# The machine of the published comparison, rounded.
ONE = Limits(
    1, 286e9, ((1 << 15, 600e9), (1 << 20, 225e9), (1 << 22, 113e9), (1 << 26, 113e9), (1 << 27, 42e9)), 1.7e-10
)
TWO = Limits(2, 571e9, tuple((2 * size, 2 * rate) for size, rate in ONE.bandwidth), 0.85e-10)
TINY_STEP = Case("lstm", "step", 1, 2, 5, 7)
TINY = Case("gru", "training", 4, 3, 5, 7, ragged=True)
BRIEF = Effort(turn=0.0005, rounds=3, fewest_rounds=2, seconds=1.0, samples=50)


# --- the table --------------------------------------------------------------------------------------------------------


def test_ids_are_unique_and_groups_are_known() -> None:
    ids = [case.id for case in cases.CASES]
    assert len(set(ids)) == len(ids)
    assert all(case.groups and set(case.groups) <= set(cases.GROUPS) for case in cases.CASES)
    assert {group for case in cases.CASES for group in case.groups} == set(cases.GROUPS)


def test_every_case_makes_sense() -> None:
    for case in cases.CASES:
        assert case.cell in cases.CELLS
        assert case.mode in cases.MODES
        assert case.dtype in ("float32", "float64")
        assert min(case.T, case.B, case.I, case.H, case.layers, case.threads) >= 1
        assert case.directions in (1, 2)
        assert case.mode != "step" or (case.T == 1 and case.directions == 1 and not case.ragged)


def test_the_published_points_are_all_there() -> None:
    counts: dict[tuple[str, int], int] = {}
    for case in cases.select(["targets"]):
        counts[case.mode, case.threads] = counts.get((case.mode, case.threads), 0) + 1
    assert counts == {
        ("step", 1): 20,
        ("step", 2): 12,
        ("forward", 1): 21,
        ("forward", 2): 18,
        ("training", 1): 14,
        ("training", 2): 12,
    }


def test_sizes_between_reach_from_end_to_end() -> None:
    between = cases.select(["between"])
    assert {1, 2000} <= {case.T for case in between}
    assert {1, 256} <= {case.B for case in between}
    assert {8, 1024} <= {case.H for case in between}
    assert sum(case.H % 16 != 0 for case in between) >= 6
    assert sum(case.I != case.H for case in between) >= 10


def test_ragged_cases_stand_beside_the_same_rows_padded() -> None:
    all_ids = {case.id for case in cases.CASES}
    ragged = [case for case in cases.CASES if case.ragged and case.cell == "lstm"]
    assert len(ragged) >= 6
    for case in ragged:
        assert dataclasses.replace(case, ragged=False).id in all_ids
        lengths = case.lengths
        assert lengths is not None
        assert lengths.min() >= 1
        assert lengths.max() == case.T
        assert len(lengths) == case.B
        assert (np.diff(lengths) < 0).any()
        assert (np.diff(lengths) > 0).any()
        assert case.total_steps == lengths.sum() < case.T * case.B


def test_quick_has_each_mode_and_is_small() -> None:
    quick = cases.select(["quick"])
    assert 5 <= len(quick) <= 15
    assert {case.mode for case in quick} == set(cases.MODES)
    assert {case.threads for case in quick} == {1, 2}


def test_select_by_threads_takes_those_with_two_for_more() -> None:
    assert {case.threads for case in cases.select(threads=1)} == {1}
    four = cases.select(threads=4)
    assert {case.threads for case in four} == {4}
    assert len(four) == len(cases.select(threads=2)) < len(cases.select(threads=1))
    assert all(case.id.endswith("-t4") for case in four)


def test_cases_survive_json() -> None:
    for case in cases.CASES:
        assert Case.from_json(json.loads(json.dumps(case.to_json()))) == case


def test_labels_leave_out_mode_and_threads() -> None:
    case = Case("lstm", "forward", 100, 8, 80, 128, layers=2, directions=2, threads=2)
    assert case.id == "lstm-forward-T100-B8-I80-H128-L2-bi-t2"
    assert case.label == "LSTM T100 B8 I80 H128 L2 bi"


# --- limits -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("lstm-step-B16-H512", 235e-6),
        ("gru-step-B16-H128", 11.0e-6),
        ("rnn-step-B16-H32", 0.23e-6),
        ("lstm-step-B1-I80-H12", 0.031e-6),
        ("lstm-step-B1-H512", 8 * 2**20 / 113e9),
        ("lstm-forward-T128-B16-H512", 30.1e-3),
        ("gru-forward-T128-B64-H128", 5.64e-3),
        ("rnn-forward-T128-B16-H128", 0.47e-3),
        ("lstm-forward-T128-B1-H512", 5.70e-3),
        ("lstm-training-T64-B16-H512", 45.1e-3),
        ("gru-training-T64-B64-H512", 135e-3),
        ("rnn-training-T64-B16-H128", 0.70e-3),
        ("lstm-training-T64-B64-H512-t2", 90.3e-3),
        ("gru-forward-T128-B16-H512-t2", 11.3e-3),
        ("lstm-step-B16-H512-t2", 118e-6),
    ],
)
def test_limits_are_those_of_the_published_table(name: str, published: float) -> None:
    case = cases.by_id(name)
    assert limits.limit(case, ONE if case.threads == 1 else TWO) == pytest.approx(published, rel=0.02)


@pytest.mark.parametrize(
    ("name", "published"),
    [("lstm-step-B16-H512", 242e-6), ("gru-forward-T128-B16-H512", 23.2e-3), ("lstm-training-T64-B16-H32", 0.21e-3)],
)
def test_limits_with_activations_are_those_of_the_published_table(name: str, published: float) -> None:
    assert limits.with_activations(cases.by_id(name), ONE) == pytest.approx(published, rel=0.03)


def test_a_small_recurrence_of_one_row_is_bound_by_reading() -> None:
    case = Case("rnn", "forward", 10, 1, 3, 512)
    recurrent = 512 * 512 * 4 / ONE.bytes_per_second(512 * 512 * 4)
    assert limits.limit(case, ONE) == pytest.approx(10 * recurrent + 10 * 2 * 3 * 512 / 286e9)


def test_limits_of_layers_directions_rows_and_float64() -> None:
    wide = Case("lstm", "forward", 10, 64, 40, 128)
    once = 2 * 64 * 4 * 128 * 10 / 286e9
    assert limits.limit(wide, ONE) == pytest.approx(once * (40 + 128))
    stacked = dataclasses.replace(wide, layers=2, directions=2)
    assert limits.limit(stacked, ONE) == pytest.approx(once * 2 * ((40 + 128) + (256 + 128)))
    assert limits.limit(dataclasses.replace(wide, dtype="float64"), ONE) == pytest.approx(2 * once * (40 + 128))
    ragged = dataclasses.replace(wide, B=32, ragged=True, T=100)
    share = ragged.total_steps / (100 * 32)
    assert limits.limit(ragged, ONE) == pytest.approx(
        share * limits.limit(dataclasses.replace(ragged, ragged=False), ONE), rel=0.02
    )
    assert limits.operations(ragged) == pytest.approx(
        share * limits.operations(dataclasses.replace(ragged, ragged=False))
    )


def test_operations_and_intensity() -> None:
    assert limits.operations(Case("gru", "step", 1, 16, 80, 128)) == 2 * 16 * 3 * 128 * (80 + 128)
    assert limits.intensity(Case("lstm", "step", 1, 16, 80, 128)) == pytest.approx(8.0)
    assert limits.intensity(Case("lstm", "forward", 9, 16, 128, 128)) == pytest.approx(16.0)
    assert limits.intensity(Case("lstm", "training", 9, 16, 128, 128)) == pytest.approx(24.0)


def test_bandwidth_is_interpolated_and_flat_at_the_ends() -> None:
    assert ONE.bytes_per_second(1) == 600e9
    assert ONE.bytes_per_second(1 << 30) == 42e9
    assert ONE.bytes_per_second(1 << 21) == pytest.approx((225e9 + 113e9) / 2)
    assert Limits.from_json(json.loads(json.dumps(ONE.to_json()))) == ONE


def test_the_better_of_two_measurements() -> None:
    slow = Limits(1, 100e9, ((1 << 15, 700e9), (1 << 18, 300e9)), 1e-10)
    better = ONE.better(slow)
    assert better.peak == 286e9
    assert better.activation == 1e-10
    assert dict(better.bandwidth)[1 << 15] == 700e9
    assert dict(better.bandwidth)[1 << 18] == 300e9


@pytest.mark.needs("numba")
def test_the_machine_is_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "_QUICK_FOOTPRINTS", (1 << 14, 1 << 18))
    progress: list[int] = []
    found = machine.measure(1, quick=True, on_progress=lambda: progress.append(1))
    assert len(progress) == machine.steps(quick=True)
    assert 1e9 < found.peak < 1e13
    assert 1e-13 < found.activation < 1e-7
    assert all(1e8 < rate < 1e13 for _, rate in found.bandwidth)


@pytest.mark.needs("numba")
@pytest.mark.parametrize("shape", machine.READERS)
def test_readers_read_everything_once(shape: tuple[int, int, int]) -> None:
    from fastrnn.bench import kernels

    reader = kernels.read(*shape)
    count = 3 * reader.regions * reader.block // 4
    held = np.zeros(count + machine.LINE, np.float32)
    begin = (machine._aligned(held) - held.ctypes.data) // 4
    held[begin : begin + count] = np.arange(count) % 512
    assert reader.kernel(machine._aligned(held), 3, 1) == held.sum()


@pytest.mark.needs("numba")
@pytest.mark.parametrize("shape", machine.READERS)
@pytest.mark.parametrize("threads", [1, 2])
def test_bandwidth_counts_all_bytes(shape: tuple[int, int, int], threads: int, monkeypatch: pytest.MonkeyPatch) -> None:
    from fastrnn.bench import kernels

    monkeypatch.setattr(machine, "_best", lambda loops, *_: 0.5)
    assert machine._bandwidth(kernels.read(*shape), 1 << 20, threads, 1, 1.0) == 2 << 20


@pytest.mark.needs("numba")
def test_the_fastest_reader_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    rates = itertools.cycle([1e9, 4e9, 2e9, 3e9])
    monkeypatch.setattr(machine, "_QUICK_FOOTPRINTS", (1 << 14, 1 << 18))
    monkeypatch.setattr(machine, "_best", lambda *_: 1.0)
    monkeypatch.setattr(machine, "_bandwidth", lambda *_: next(rates))
    assert machine.measure(1, quick=True).bandwidth == ((1 << 14, 4e9), (1 << 18, 4e9))


# --- workloads and contenders -----------------------------------------------------------------------------------------


def test_a_workload_survives_its_file_and_bites(tmp_path: Path) -> None:
    work = workload.make(TINY)
    work.save(tmp_path / "case.npz")
    again = workload.Workload.load(tmp_path / "case.npz")
    assert again.case == TINY
    assert set(again.expected) == set(work.expected)
    assert {"y", "h", "dx", "dweight_ih_l0", "dbias_hn_l0"} <= set(again.expected)
    for name in again.expected:
        assert np.array_equal(again.expected[name], work.expected[name])
        assert np.abs(again.expected[name]).max() > 1e-3  # none is zero, so that each of them can be wrong
        changed = {**again.expected, name: again.expected[name] * 1.01 + 0.01}
        with pytest.raises(workload.WrongOutput, match=name):
            again.check(changed)
    with pytest.raises(workload.WrongOutput, match="dx is missing"):
        again.check({name: value for name, value in again.expected.items() if name != "dx"})
    with pytest.raises(workload.WrongOutput, match="differs"):
        again.check({**again.expected, "y": np.full_like(again.expected["y"], np.nan)})
    assert again.check(again.expected) == 0.0


def test_the_check_finds_bfloat16() -> None:
    work = workload.make(Case("lstm", "forward", 20, 3, 9, 33))
    rounded = (work.expected["y"].astype(np.float32).view(np.uint32) & np.uint32(0xFFFF0000)).view(np.float32)
    with pytest.raises(workload.WrongOutput, match="y differs"):
        work.check({**work.expected, "y": rounded})


@pytest.mark.parametrize("mode", cases.MODES)
@pytest.mark.parametrize("cell", cases.CELLS)
def test_plain_numpy_is_right(cell: str, mode: str) -> None:
    case = Case(cell, mode, 1 if mode == "step" else 5, 3, 4, 6, dtype="float64")
    work = workload.make(case)
    prepared = contender("numpy").variants(work, 1)["by hand"]()
    for _ in range(workload.CHECKED_STEPS if mode == "step" else 2):  # twice: nothing is kept between two sequences
        prepared.call()
    assert work.check(prepared.outputs()) < 1e-12


def test_training_has_new_weights_in_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after an optimizer's step: what a backend makes of them is part of the time."""
    given: list[Any] = []
    monkeypatch.setattr(fastrnn.Recurrent, "set_parameters", lambda _, values: given.append(values))
    work = workload.make(Case("lstm", "training", 5, 3, 4, 6))
    (prepare,) = [made for name, made in contender("numpy").variants(work, 1).items() if name == "layer"]
    prepared = prepare()
    given.clear()
    for calls in range(1, 4):
        prepared.call()
        assert given == [work.parameters] * calls


def test_contenders_have_names_and_reasons() -> None:
    for name in NAMES:
        who = contender(name)
        assert who.name == name
        assert who.title
        assert who.unavailable() is None or isinstance(who.unavailable(), str)
    assert contender("bench_contenders:Missing").unavailable() == "not installed: no_such_module_anywhere"
    with pytest.raises(ValueError, match=r"expected some of numba, .* got 'nobody'"):
        contender("nobody")


# --- runs -------------------------------------------------------------------------------------------------------------


@pytest.mark.needs("numba")
def test_a_run_from_end_to_end(tmp_path: Path) -> None:
    with Runner(["numba", "numpy"], BRIEF, {1: ONE}) as runner:
        results = [runner.run(dataclasses.replace(TINY_STEP, B=1)), runner.run(TINY)]
        assert {"numpy", "numba"} <= set(runner.versions)
    for result in results:
        assert [entry.status for entry in result.entries] == ["ok", "ok"]
        for entry in result.entries:
            assert 0 < entry.minimum <= entry.median < 1
            assert entry.error < 1e-3
            assert entry.busy > 0
        assert result.ratio is not None
        assert result.fraction is not None
        assert 0 < result.fraction < 1
    assert set(results[0].latency) == {"numba", "numpy"}
    assert results[1].latency == {}
    assert all(0 < times["p50"] <= times["p99"] <= times["p99.9"] for times in results[0].latency.values())
    assert "by hand" in results[0].entries[1].variants
    assert results[1].entries[1].variant == "layer"
    run = Run({"processor": "one"}, {"1": ONE.to_json()}, {}, results)
    run.save(tmp_path / "run.json")
    again = Run.load(tmp_path / "run.json")
    assert [result.case for result in again.results] == [result.case for result in results]
    assert again.results[0].ratio == pytest.approx(results[0].ratio, rel=1e-3)
    assert markdown.render(again)


def test_once_the_time_is_up_those_who_are_close_play_on() -> None:
    seconds: list[list[float]] = [[3.0, 1.0], [1.2], [1.3], []]
    names = ["numba", "numpy", "pytorch", "jax"]
    lanes = [_Lane(name, "way", 1, turns) for name, turns in zip(names, seconds, strict=True)]
    with Runner(["numpy"], Effort(rounds=9, fewest_rounds=2, seconds=1.0, close_rounds=4)) as runner:
        assert runner._taking_part(lanes, 1, 5.0) == lanes  # fewer rounds than there are at least
        assert runner._taking_part(lanes, 8, 0.9) == lanes  # there is time
        assert runner._taking_part(lanes, 3, 1.1) == lanes[:2]
        assert runner._taking_part(lanes, 4, 1.1) == []
        assert runner._taking_part(lanes[3:], 3, 1.1) == runner._taking_part([], 0, 0.0) == []


def test_wrong_outputs_and_failures_are_reported_and_not_timed() -> None:
    names = [f"bench_contenders:{kind}" for kind in ("Wrong", "Stateless", "Broken", "Ended", "Seen")]
    with Runner([*names, "numpy"], BRIEF) as runner:
        result = runner.run(TINY_STEP)
    wrong, stateless, broken, ended, seen, right = result.entries
    assert wrong.status == "wrong"
    assert "off: y differs by 1.0e-03, allowed is 2e-04" in wrong.reason
    assert stateless.status == "wrong"
    assert "y differs" in stateless.reason
    assert broken.status == "failed"
    assert "ZeroDivisionError: no such thing" in broken.reason
    assert ended.status == "failed"
    assert "exit code 3" in ended.reason
    assert seen.status == right.status == "ok", seen.reason
    assert all(math.isnan(entry.minimum) for entry in (wrong, stateless, broken, ended))
    assert result.limit is None
    assert result.fraction is None


@pytest.mark.parametrize("name", isa.NAMES)
def test_a_run_can_be_kept_to_an_instruction_set(name: str) -> None:
    program = (
        "from fastrnn.backends.cython_ import instruction_set; "
        "from fastrnn.backends.numba_.target import target; "
        "from fastrnn.bench.isa import numpy_features; "
        "print(*target(), instruction_set(), any('512' in name or name == 'X86_V4' for name in numpy_features()))"
    )
    variables = dict(os.environ)
    for contender_name in ("numba", "cython", "numpy"):
        variables |= environment(contender_name, 1, name)
    shown = subprocess.run([sys.executable, "-c", program], env=variables, capture_output=True, text=True, check=True)
    assert (
        shown.stdout.split()
        == {"avx2": "32 16 True avx2 False", "baseline": "16 16 False baseline False"}[name].split()
    )


def test_the_peak_of_a_machine_without_fused_multiply_adds_is_not_that_of_their_emulation() -> None:
    program = (
        "from fastrnn.bench import kernels; "
        "made = [kernels.multiply_add(4, 8), kernels.activations(4, 2)]; "
        "print(*('fma' in text for kernel in made for text in kernel.inspect_asm().values()))"
    )
    variables = {**os.environ, **environment("numba", 1, "baseline")}
    shown = subprocess.run([sys.executable, "-c", program], env=variables, capture_output=True, text=True, check=True)
    assert shown.stdout.split() == ["False", "False"]


def test_who_cannot_be_kept_to_an_instruction_set_does_not_take_part() -> None:
    assert isa.variables("avx2", "onnxruntime") is None and isa.variables("avx2", "jax") is None


def test_a_process_that_cannot_start_says_why() -> None:
    with pytest.raises(WorkerError, match="exit code 1: ZeroDivisionError"):
        Process("bench_contenders:Unpinned", 1)


@pytest.mark.needs("numba")
def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cases, "CASES", (dataclasses.replace(TINY_STEP, B=1, groups=("quick",)),))
    monkeypatch.setattr("fastrnn.commands.bench.QUICK", BRIEF)
    monkeypatch.setattr(machine, "_QUICK_FOOTPRINTS", (1 << 14, 1 << 18))
    file = tmp_path / "a.json"
    names = ["numba", "numpy", "bench_contenders:Missing"]
    assert main(["bench", "--quick", "--threads", "1", "--contenders", *names, "--json", str(file)]) == 0
    text = capsys.readouterr().out
    assert "Missing" in text
    assert "not measured: not installed: no_such_module_anywhere" in text
    assert "LSTM B1 I5 H7" in text
    assert "times as fast as the best peer" in text
    assert "p99.9" in text
    data = json.loads(file.read_text())
    assert data["missing"] == {"bench_contenders:Missing": "not installed: no_such_module_anywhere"}
    assert data["machine"]["1"]["peak"] > 0
    assert data["results"][0]["ratio"] > 0
    assert main(["bench", "--compare", str(file), str(file)]) == 0
    assert "1.000 times as fast" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--contenders", "nobody"], "got 'nobody'"),
        (["--contenders", "bench_contenders:Missing"], "no contender is here"),
        (["--cases", "no such case"], "no case is left"),
        (["--json", "/no/such/folder/a.json"], "there is no folder"),
        (["--compare", "no-such-file.json", "no-such-file.json"], "no-such-file.json"),
    ],
)
def test_what_the_command_refuses(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", *arguments]) == 1
    assert message in capsys.readouterr().err


def test_the_command_lists(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "--list", "--cells", "gru", "--modes", "step", "--threads", "2"]) == 0
    text = capsys.readouterr().out
    assert "gru-step-B1-H128-t2" in text
    assert "lstm-step" not in text
    assert "pytorch: " in text


@pytest.mark.parametrize("name", COMPILED)
def test_memory_of_a_long_batch(name: str, tmp_path: Path) -> None:
    """Less with checkpoints; what is held for backward is part of the peak, and the tape part of what is held."""
    plain, training, checkpoints = memory.measure([name], memory.Size(T=200, B=32, H=64))
    assert [use.way for use in (plain, training, checkpoints)] == list(memory.WAYS)
    assert checkpoints.tape is not None
    assert training.tape is not None
    assert training.held is not None
    one = 200 * 32 * 64 * 4
    assert one * 0.8 < plain.peak < one + (8 << 20)
    assert checkpoints.tape < training.tape / 4
    assert training.tape * 0.8 < training.held <= training.peak
    assert checkpoints.peak < training.peak * 0.7
    run = Run({}, {}, {}, [], [dataclasses.asdict(plain)])
    run.save(tmp_path / "run.json")
    assert Run.load(tmp_path / "run.json").memory[0]["peak"] == pytest.approx(plain.peak, rel=1e-4)


def test_denormal_cases() -> None:
    """Each has its usual twin; its x, dy, outputs and gradients of x are denormal, and not zero."""
    twins = {dataclasses.replace(case, denormal=False) for case in cases.CASES if case.denormal}
    assert twins
    assert twins <= set(cases.CASES)
    work = workload.make(dataclasses.replace(TINY, denormal=True, ragged=False))
    for array in (work.x, work.dy, work.expected["y"], work.expected["dx"]):
        assert np.abs(array).max() < np.finfo(np.float32).tiny
        assert np.count_nonzero(array) > array.size / 2
    old = TINY.to_json()
    del old["denormal"]
    assert Case.from_json(old) == TINY


@pytest.mark.parametrize(("calls", "ahead"), [(1, 1), (7, 1), (40, 10)])
def test_a_turn_begins_with_calls_that_do_not_count(calls: int, ahead: int) -> None:
    """However long a call takes: the first one finds what other contenders have left in the caches."""
    made = []
    worker = _Worker(contender("numpy"), 1)
    worker._ready["way"] = Prepared(lambda: made.append(1), dict)
    answer = worker.time("way", calls)
    assert len(made) == ahead + calls
    assert answer["turn"] > answer["seconds"] * calls
