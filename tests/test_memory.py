"""What calls hold: inference its output and a chunk, training with checkpoints less, and thousands of calls no more."""

from __future__ import annotations

import gc
import os
import subprocess
import tracemalloc
from collections.abc import Callable
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import COMPILED, assert_close, assert_same_bits, compiled
from conformance import backend_of
from sharing import share_everything

import fastrnn
import fastrnn.stack
from fastrnn import reuse
from fastrnn.backends.tiled import form, frame

MB = 1 << 20


def peak(call: Callable[[], Any]) -> int:
    """The bytes that arrays and Python's objects hold at most during a call, what it returns included."""
    gc.collect()
    reuse._idle.clear()  # what a call before has left would not be seen
    tracemalloc.start()
    try:
        held = call()
        found = tracemalloc.get_traced_memory()[1]
        del held
        return found
    finally:
        tracemalloc.stop()


def resident() -> int:
    """The bytes of this process that are in memory now."""
    statm = Path("/proc/self/statm")
    if statm.exists():
        return int(statm.read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    shown = subprocess.run(["ps", "-o", "rss=", "-p", str(os.getpid())], capture_output=True, text=True, check=True)
    return int(shown.stdout) * 1024


# --- peaks ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [None, [9000, *range(8000, 8015)]])
@pytest.mark.parametrize("layers", [1, 3])
def test_inference_holds_its_output_and_a_chunk(backend: str, layers: int, lengths: list[int] | None) -> None:
    """Not what is between the layers, nor the products of all inputs. Without a sequence not even y."""
    layer = fastrnn.RNN(32, 32, num_layers=layers, backend=backend)
    x = np.zeros((9000, 16, 32), np.float32)
    layer(x[:2])
    assert x.nbytes < peak(lambda: layer(x, lengths=lengths)) < x.nbytes + 14 * MB
    assert peak(lambda: layer(x, lengths=lengths, sequence=False)) < 14 * MB


def test_a_stream_needs_no_more_than_its_chunk(backend: str) -> None:
    """Layers above one another, a long chunk."""
    stream = fastrnn.RNN(32, 32, num_layers=3, backend=backend).stream(16)
    x = np.zeros((9000, 16, 32), np.float32)
    stream.chunk(x[:2])
    assert peak(lambda: stream.chunk(x)) < x.nbytes + 14 * MB


@pytest.mark.parametrize("lengths", [None, [40, 3, 0, 17, 40]])
@pytest.mark.parametrize("sequence", [True, False])
def test_chunks_change_nothing(
    backend: str, lengths: list[int] | None, sequence: bool, monkeypatch: pytest.MonkeyPatch, rng: np.random.Generator
) -> None:
    """The same output and states, to the bit where the backend keeps that promise."""
    layer = fastrnn.LSTM(4, 9, num_layers=3, backend=backend)
    x, state = rng.normal(size=(40, 5, 4)), tuple(rng.normal(size=(3, 5, 9)) for _ in "hc")
    expected, final = layer(x, state, lengths, sequence)
    for steps in (1, 7, 39):
        monkeypatch.setattr(fastrnn.stack, "CHUNK_BYTES", steps * 5 * 9 * 4)
        found, ends = layer(x, state, lengths, sequence)
        for a, b in zip((found, *ends), (expected, *final), strict=True):
            if backend_of(backend).same_bits:
                assert_same_bits(a, b)
            else:
                assert_close(a, b, "value", "float32")


@pytest.mark.parametrize("name", COMPILED)
def test_how_many_rows_are_projected_at_once_changes_nothing(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forward and backward, to the bit: the rows are a part of a step, several steps, or all."""
    x = np.random.default_rng(0).normal(size=(40, 5, 4)).astype(np.float32)
    found = []
    for rows, far in [(1, None), (7, None), (48, None), (1, 256)]:
        monkeypatch.setattr(form, "CHUNK_BYTES", 1)
        monkeypatch.setattr(form, "CHUNK_ROWS", rows)
        monkeypatch.setattr(form, "FAR", dict.fromkeys(form.FAR, (0 if far else 1 << 40, far)))
        layer = fastrnn.LSTM(4, 9, backend=name, seed=1)
        y, state, tape = layer.record(x, lengths=[40, 3, 0, 17, 40])
        gradient = layer.backward(tape, y)
        found.append([y, *state, gradient.x, *gradient.parameters.values()])
    for values in found[1:]:
        for one, other in zip(values, found[0], strict=True):
            assert_same_bits(one, other)


@pytest.mark.parametrize("name", COMPILED)
def test_far_weights_are_read_for_more_rows(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of more bytes than the limit, which 4 inputs of 36 gates just do not exceed."""
    monkeypatch.setattr(form, "CHUNK_BYTES", 1)
    monkeypatch.setattr(form, "FAR", dict.fromkeys(form.FAR, (4 * 36 * 4, 500)))
    for inputs, rows in ((4, form.CHUNK_ROWS), (5, 500)):
        held = fastrnn.LSTM(inputs, 9, backend=name)._packs()[0]
        assert held.frame[frame.CHUNK] == held.training_frame[frame.CHUNK] == rows


@pytest.mark.parametrize("bidirectional", [False, True])
def test_checkpoints_lower_the_peak_of_training(backend: str, bidirectional: bool) -> None:
    """Record and backward together: beside x, y, dx and their like only states and one piece."""
    layer = fastrnn.LSTM(8, 32, bidirectional=bidirectional, backend=backend)
    x = np.zeros((400, 32, 8), np.float32)

    def train(every: int | None) -> Any:
        y, _, tape = layer.record(x, checkpoint_every=every)
        return y, layer.backward(tape, y), tape

    train(None)
    whole, less = peak(lambda: train(None)), peak(lambda: train(20))
    directions = 1 + bidirectional
    gradients = 4 if backend == "numpy" else 0  # of all steps at once, for one direction after the other
    assert whole > 400 * 32 * (7 * directions + gradients) * 32 * 4  # the gates and states
    assert less < whole / 3
    _, gradient, tape = train(20)
    pieces = (whole / 400 * 20 + directions * 400 * 32 * 32 * 4) * 1.5  # some of it waits to be used again
    assert less < tape.nbytes + gradient.x.nbytes * directions + pieces


@compiled
def test_backward_holds_a_piece(backend: str) -> None:
    """Beside dx and a number for each step and row: not the gates' gradients of all steps, here 32 MB."""
    layer = fastrnn.LSTM(8, 32, backend=backend)
    y, _, tape = layer.record(np.zeros((4000, 16, 8), np.float32))
    layer.backward(tape, y)
    dx, numbers = 4000 * 16 * 8 * 4, 2 * 4000 * 16 * 8
    assert dx + numbers < peak(lambda: layer.backward(tape, y)) < dx + numbers + 6 * MB


# --- no leaks ---------------------------------------------------------------------------------------------------------


def calls() -> dict[str, Callable[[fastrnn.Recurrent], Callable[[], Any]]]:
    """By name, what makes a call that is made again and again."""
    x = np.ones((3, 4, 5), np.float32)

    def train(layer: fastrnn.Recurrent, every: int | None) -> None:
        y, _, tape = layer.record(x, lengths=[3, 1, 0, 2], checkpoint_every=every)
        layer.backward(tape, y)

    def one_stream(layer: fastrnn.Recurrent, name: str, x: np.ndarray) -> Callable[[], Any]:
        return partial(getattr(layer.stream(4), name), x)

    return {
        "call": lambda layer: lambda: layer(x),
        "call with lengths": lambda layer: lambda: layer(x, lengths=[3, 1, 0, 2]),
        "last": lambda layer: lambda: layer(x, sequence=False),
        "training": lambda layer: lambda: train(layer, None),
        "training with checkpoints": lambda layer: lambda: train(layer, 2),
        "step": lambda layer: one_stream(layer, "step", x[0]),
        "chunk": lambda layer: one_stream(layer, "chunk", x),
        "stream": lambda layer: lambda: layer.stream(4).step(x[0]),
        "parameters": lambda layer: lambda: (layer.set_parameters({"bias_l0": np.ones(48)}), layer(x)),
    }


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("name", calls())
def test_memory_stays_flat(backend: str, name: str, threads: int) -> None:
    """Ten thousand calls, or fewer slow ones: what they took at first is all that they take."""
    fastrnn.set_num_threads(threads)
    with share_everything():
        check_flat(backend, name, threads)


def check_flat(backend: str, name: str, threads: int) -> None:
    """The loop of the test above."""
    call = calls()[name](fastrnn.LSTM(5, 12, num_layers=2, backend=backend))
    slow = backend == "numpy" or "checkpoints" in name or (threads == 2 and name == "training")
    count = 1_000 if slow else 10_000 if threads == 1 else 2_500  # threads in turns on busy processors take their time
    sizes = []
    for _ in range(6):
        for _ in range(count // 6):
            call()
        gc.collect()
        sizes.append(resident())
    grown = min(
        after - before for before, after in pairwise(sizes)
    )  # a leak grows each time, what is kept for reuse once
    assert grown < max(40 * count // 6, 16 * 1024), f"{sizes} bytes after every {count // 6} calls"
