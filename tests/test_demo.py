"""The demo: the recordings, the training, the timing, and what a person sees."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import fastrnn
from fastrnn import nn
from fastrnn.commands import environment, timing, vowels
from fastrnn.commands.speakers import SpeakerModel
from fastrnn.commands.vowels import Utterances

ROOT = Path(__file__).parents[1]
BACKENDS = [name for name, found in fastrnn.backends().items() if found]
SMALL = ["--epochs", "3", "--hidden-size", "8"]


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise AssertionError("the network is used")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="module")
def recordings() -> tuple[Utterances, Utterances]:
    return vowels.load()


@contextmanager
def command(*arguments: str, **variables: str) -> Iterator[subprocess.Popen[str]]:
    """The command line in a process of its own, which does not outlive the block."""
    program = "import sys; from fastrnn.__main__ import main; sys.exit(main())"
    kept = {name: value for name, value in os.environ.items() if name not in environment.TUNING}
    with subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        env={**kept, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error", **variables},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


# --- the recordings ---------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("no_network")
def test_recordings_are_as_published() -> None:
    training, test = vowels.load()
    assert (len(training), len(test)) == (270, 370)
    for part in (training, test):
        assert part.x.dtype == np.float32
        assert part.x.shape == (part.lengths.max(), len(part), 12)
        assert not part.x[np.arange(len(part.x))[:, None] >= part.lengths].any()
    lengths = np.concatenate((training.lengths, test.lengths))
    assert (lengths.min(), lengths.max()) == (7, 29)
    assert np.bincount(training.labels).tolist() == [30] * 9
    assert np.bincount(test.labels).tolist() == [31, 35, 88, 44, 29, 24, 40, 50, 29]


def test_training_frames_are_normalised(recordings: tuple[Utterances, Utterances]) -> None:
    training, test = recordings
    frames, others = (part.x[np.arange(len(part.x))[:, None] < part.lengths] for part in (training, test))
    assert np.abs(frames.mean(axis=0, dtype=np.float64)).max() < 1e-6
    assert np.abs(frames.std(axis=0, dtype=np.float64) - 1).max() < 1e-6
    # The test set has the training set's mean and deviation taken away, not its own.
    assert 0.01 < np.abs(others.mean(axis=0)).max() < 1


def test_recordings_are_those_that_sktime_loads(recordings: tuple[Utterances, Utterances]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        from sktime.datasets import load_japanese_vowels

        loaded = [load_japanese_vowels(split=split, return_type="nested_univ") for split in ("TRAIN", "TEST")]
    series = [[np.stack([np.asarray(s) for s in row], axis=1) for row in x.to_numpy()] for x, _ in loaded]
    frames = np.concatenate(series[0])
    for part, expected, (_, labels) in zip(recordings, series, loaded, strict=True):
        assert part.labels.tolist() == [int(label) - 1 for label in labels]
        assert part.lengths.tolist() == [len(one) for one in expected]
        for row, one in enumerate(expected):
            normalised = (one - frames.mean(axis=0)) / frames.std(axis=0)
            np.testing.assert_allclose(part.x[: len(one), row], normalised, atol=1e-6)


def test_take(recordings: tuple[Utterances, Utterances]) -> None:
    training, _ = recordings
    rows = np.array([200, 3, 77])
    some = training.take(rows)
    assert some.x.shape == (max(training.lengths[rows]), 3, 12)
    assert some.lengths.tolist() == training.lengths[rows].tolist()
    assert some.labels.tolist() == training.labels[rows].tolist()
    for row, source in enumerate(rows):
        n = some.lengths[row]
        np.testing.assert_array_equal(some.x[:n, row], training.x[:n, source])


def test_sktime_is_not_imported() -> None:
    program = "import sys; from fastrnn.commands import vowels; vowels.load(); print('sktime' in sys.modules)"
    variables = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=variables, capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("False\n", "")


def test_a_broken_file_is_named_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "broken.ts"
    path.write_text("#comment\n@data\n1,2:3,4:1\n1,2:3:1\n")
    with pytest.raises(ValueError, match=r"broken\.ts, line 4: expected"):
        vowels._read(path)


# --- the training -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_gradients_are_those_of_the_loss(recordings: tuple[Utterances, Utterances], backend: str) -> None:
    """The slope along the gradient, of head and both directions, is the gradient's length."""
    model = SpeakerModel(12, 8, seed=3, backend=backend)
    batch = recordings[0].take(np.arange(0, 270, 10))
    _, _, grads = model.gradients(batch)
    _, norm = nn.clip_by_global_norm(grads, np.inf)
    layers = (model.lstm, model.head)
    start = [{name: value.copy() for name, value in layer.parameters.items()} for layer in layers]

    def loss(along: float) -> float:
        for layer, values, gradient in zip(layers, start, grads, strict=True):
            layer.set_parameters({n: v + along / norm * gradient.parameters[n] for n, v in values.items()})
        return model.gradients(batch)[0]

    assert (loss(0.02) - loss(-0.02)) / 0.04 == pytest.approx(norm, rel=5e-3)


@pytest.mark.parametrize("backend", BACKENDS)
def test_it_learns_to_tell_the_speakers_apart(recordings: tuple[Utterances, Utterances], backend: str) -> None:
    training, test = recordings
    model = SpeakerModel(12, 64, seed=0, backend=backend)
    first, before = model.train_epoch(training)
    for _ in range(9):
        loss, accuracy = model.train_epoch(training)
    assert before < 0.9 < 0.99 < accuracy
    assert 1.0 < first < np.log(9)  # the loss of who knows nothing
    assert loss < 0.1 * first
    assert np.mean(model.predict(test) == test.labels) >= 0.95


def test_padding_and_order_do_not_matter(recordings: tuple[Utterances, Utterances]) -> None:
    _, test = recordings
    model = SpeakerModel(12, 16, seed=1)
    rows = np.random.default_rng(0).permutation(len(test))
    np.testing.assert_array_equal(model.predict(test)[rows], model.predict(test.take(rows)))


class _Clock:
    """A model whose epochs take as long as they are said to."""

    now = 0.0

    def __init__(self, name: str, seconds: float, log: list[str]) -> None:
        self.name, self.log = name, log
        self.seconds = iter([100.0, *([seconds] * 7), *([9.0] * 7), *([seconds] * 100)])

    def train_epoch(self, training: object) -> None:
        self.log.append(self.name)
        _Clock.now += next(self.seconds)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_Clock, "now", 0.0)
    monkeypatch.setattr(timing, "time", SimpleNamespace(perf_counter=lambda: _Clock.now))


@pytest.mark.usefixtures("clock")
def test_epochs_are_timed_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "SECONDS", 1e6)
    log: list[str] = []
    models: Any = {"a": _Clock("a", 0.5, log), "b": _Clock("b", 2.0, log)}
    rounds: list[int] = []
    seconds = timing.time_epochs(models, None, lambda: rounds.append(1))  # type: ignore[arg-type]
    assert seconds == {"a": 0.5, "b": 2.0}  # neither the first call nor seven slow epochs of fifteen count
    assert log == ["a", "b"] * (1 + timing.ROUNDS)
    assert len(rounds) == timing.ROUNDS


@pytest.mark.usefixtures("clock")
def test_slow_epochs_are_timed_less_often() -> None:
    log: list[str] = []
    timing.time_epochs({"a": _Clock("a", 60.0, log)}, None)  # type: ignore[arg-type,dict-item]
    assert len(log) == 1 + timing.FEWEST_ROUNDS


# --- the command ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_the_demo_prints(backend: str) -> None:
    with command("demo", *SMALL, "--backend", backend) as process:
        printed, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (0, "")
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f]", printed)  # a log: no control characters
    assert len(printed.splitlines()) < 40
    assert " \n" not in printed
    assert re.search(rf"^backend +{backend}, 1 thread$", printed, re.MULTILINE)
    assert re.search(r"^first call +\d+\.\d\d s", printed, re.MULTILINE)
    assert re.search(r"^epoch 3 of 3: loss \d\.\d{4}, training accuracy \d\d\.\d%", printed, re.MULTILINE)
    accuracy = re.search(r"^test accuracy (\S+)%: (\d+) of 370 recordings", printed, re.MULTILINE)
    assert accuracy is not None
    assert float(accuracy[1]) == pytest.approx(100 * int(accuracy[2]) / 370, abs=0.051)
    assert float(accuracy[1]) > 50
    assert "OPENBLAS_CORETYPE" not in printed
    times = {name: re.search(rf"{name} +\S +(\S+) ms \S +(\S+) ", printed) for name in BACKENDS}
    assert all(times.values()), printed
    factors = {name: float(found[2]) for name, found in times.items() if found}
    assert factors["numpy"] == 1.0
    best = max((name for name in BACKENDS if name != "numpy"), key=factors.__getitem__)
    last = re.search(r"^With (\w+) an epoch is (\S+) times as fast as with plain NumPy", printed, re.MULTILINE)
    assert last is not None
    assert last[1] == best
    assert float(last[2]) == pytest.approx(factors[best], abs=0.0551)


def test_numpy_runs_at_its_own_speed() -> None:
    variables = {"OPENBLAS_CORETYPE": "Haswell", "OPENBLAS_NUM_THREADS": "1"}
    with command("demo", *SMALL, "--threads", "2", **variables) as process:
        printed, errors = process.communicate(timeout=120)
    assert (process.returncode, errors) == (0, "")
    assert printed.startswith("OPENBLAS_CORETYPE, set here, would change NumPy's speed")
    assert "2 threads" in printed


@pytest.mark.skipif(os.name == "nt", reason="needs signals")
@pytest.mark.parametrize(
    ("moment", "arguments"),
    [
        ("epoch   64 of", ["--epochs", "9999", "--hidden-size", "8"]),
        ("test", ["--epochs", "1", "--hidden-size", "256"]),
    ],
    ids=["training", "timing"],
)
def test_ctrl_c(moment: str, arguments: list[str]) -> None:
    with command("demo", *arguments, "--backend", "numpy") as process:
        assert process.stdout is not None
        assert any(line.startswith(moment) for line in process.stdout)
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors == "\nfastrnn demo: interrupted\n"
