"""Memory that compiled code gets: it is large enough, whatever was there before. And what ways back keep of a layer."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import CELLS, DTYPES, assert_same_bits, compiled
from conformance import make_layer
from sharing import share_everything

import fastrnn
from fastrnn import reuse
from fastrnn.backends.tiled import backend as tapes
from fastrnn.backends.tiled import frame as f
from fastrnn.backends.tiled import packing as packings
from fastrnn.backends.tiled import room as rooms
from fastrnn.backends.tiled import steps as single_steps
from fastrnn.backends.tiled import whole as wholes
from fastrnn.backends.tiled.whole import WholeBackward

GUARD = 512  # bytes before and after
UNTOUCHED = 0xA5
SIZES = [(1, 1, 1, 1), (3, 1, 8, 16), (1, 5, 7, 9), (6, 4, 3, 32), (20, 33, 5, 17), (2, 3, 40, 128)]  # T, B, I, H


class Guarded:
    """Makes arrays that are full of NaN, with bytes before and after that nobody is to touch."""

    def __init__(self) -> None:
        self.made: list[tuple[np.ndarray, int, int]] = []  # memory, and what was asked for: begin and end in it

    def __call__(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        """Wherever in a cache line."""
        return self._make(shape, dtype, lambda _: GUARD - 8 * ((len(self.made) + 1) % 9))

    def aligned(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        """As `room.aligned`."""
        return self._make(shape, dtype, lambda memory: GUARD - reuse.address(memory) % rooms.ALIGNMENT)

    def buffer(self, size: int) -> np.ndarray:
        """So many bytes."""
        return self((size,), reuse.BYTE)

    def _make(self, shape: tuple[int, ...], dtype: np.dtype[Any], place: Callable[[np.ndarray], int]) -> np.ndarray:
        size = int(np.prod(shape)) * dtype.itemsize
        memory = np.full(size + 2 * GUARD, UNTOUCHED, np.uint8)
        begin = place(memory)
        self.made.append((memory, begin, begin + size))
        found = memory[begin : begin + size]
        found.fill(0xFF)
        return found.view(dtype).reshape(shape)

    def check(self) -> None:
        """Nothing was written outside of them."""
        for memory, begin, end in self.made:
            assert (memory[:begin] == UNTOUCHED).all()
            assert (memory[end:] == UNTOUCHED).all()


def answers(layer: Any, steps: int, batch: int, *given: Any) -> list[np.ndarray]:
    """Outputs without and with a tape, and gradients: of weights that are packed both ways at once, and one by one."""
    x = np.random.default_rng(0).normal(size=(steps, batch, layer.input_size))
    found = []
    for alone in (False, True):
        layer.set_parameters(dict(layer.parameters))
        if alone:
            found.append(layer(x, None, *given)[0])
        y, state, tape = layer.record(x, None, *given)
        back = layer.backward(tape, y)
        found += [y, *(state if isinstance(state, tuple) else [state]), back.x, *back.parameters.values()]
    return found


@compiled
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
def test_nothing_is_written_outside(
    backend: str, cell: str, dtype: str, threads: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing is read that was not written. Of two threads each has rows of its own, or they share all of them.

    Tables within one piece of memory that overlap would give other values than scans in pieces: `test_whole_training`.
    """
    for steps, batch, inputs, hidden in SIZES:
        options: dict[str, Any] = {"proj_size": hidden // 2 + 1} if cell == "lstm_projected" and hidden > 2 else {}
        if cell == "lstm_projected" and not options:
            continue
        lengths = np.arange(batch) * steps // batch
        expected = [answers(make_layer(cell, inputs, hidden, dtype=dtype, backend=backend, **options), steps, batch, n)
                    for n in (None, lengths)]  # fmt: skip
        guarded = Guarded()
        with monkeypatch.context() as inside, fastrnn.threads(threads), share_everything(rows_apart=batch % 2 * 100):
            inside.setattr(packings, "maker", lambda most, guarded=guarded: guarded)
            for module in (rooms, tapes, wholes):
                inside.setattr(module, "buffer", guarded.buffer)
            layer = make_layer(cell, inputs, hidden, dtype=dtype, backend=backend, **options)
            found = [answers(layer, steps, batch, n) for n in (None, lengths)]
        guarded.check()
        assert len(guarded.made) > 5
        for ones, others in zip(found, expected, strict=True):
            for one, other in zip(ones, others, strict=True):
                assert_same_bits(one, other)


@compiled
@pytest.mark.parametrize("rows", [2, 33])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
def test_no_shared_step_writes_outside(
    backend: str, cell: str, dtype: str, rows: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two members share states, and what is between layers; each has tables of its own, as long as there are rows."""
    options: dict[str, Any] = {"proj_size": 21} if cell == "lstm_projected" else {}
    layer = make_layer(cell, 5, 40, num_layers=2, dtype=dtype, backend=backend, **options)
    x = np.random.default_rng(0).normal(size=(3, rows, 5)).astype(dtype)
    alone = layer.stream(rows)
    expected = np.stack([alone.step(one) for one in x])
    guarded = Guarded()
    with monkeypatch.context() as inside, fastrnn.threads(2), share_everything():
        inside.setattr(rooms, "buffer", guarded.buffer)
        for module in (rooms, single_steps):
            inside.setattr(module, "aligned", guarded.aligned)
        stream = layer.stream(rows)
        stream.step(x[0])  # which makes it ready
        found, members, deadline = np.empty_like(expected), [1], time.monotonic() + 60
        while members != [2] * len(x):  # until the worker is awake
            assert time.monotonic() < deadline
            stream.reset()
            members = [stream._steps.run(one, y) % f.WAITS for one, y in zip(x, found, strict=True)]
            assert_same_bits(found, expected)
    guarded.check()
    assert len(guarded.made) > 5


def way_back(layer: Any) -> Any:
    """The gradients of some steps and rows."""
    y, _, tape = layer.record(np.ones((4, 2, layer.input_size), np.float32))
    return layer.backward(tape, np.ones_like(y))


@compiled
def test_tables_are_made_once_for_all_packs_of_a_layer(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One for each number of threads."""
    found: list[WholeBackward] = []
    real = WholeBackward.tables
    monkeypatch.setattr(WholeBackward, "tables", lambda whole, *given: found.append(whole) or real(whole, *given))
    layer = fastrnn.LSTM(3, 5, backend=backend)
    for _ in range(3):
        way_back(layer)
        layer.parameters["bias_l0"][:] += 1
    assert len(found) == 1
    with share_everything(rows_apart=100), fastrnn.threads(2):
        deadline = time.monotonic() + 60
        while len(found) == 1:  # until another thread is there
            way_back(layer)
            layer.parameters["bias_l0"][:] += 1
            assert time.monotonic() < deadline
        for _ in range(3):
            way_back(layer)
            layer.parameters["bias_l0"][:] += 1
    assert len(found) == 2
    way_back(fastrnn.LSTM(3, 5, backend=backend))
    assert len({id(whole) for whole in found}) == 2


@pytest.mark.parametrize("size", [4, 8])
@pytest.mark.parametrize(
    ("lines", "expected"), [(1, 1), (4, 4), (8, 9), (12, 12), (16, 17), (18, 18), (20, 21), (33, 33)]
)
def test_rows_that_would_share_few_sets_of_a_cache_are_further_apart(lines: int, expected: int, size: int) -> None:
    """In cache lines; short rows are left alone where one line more would be much beside them."""
    values = rooms.ALIGNMENT // size
    assert rooms.pitch(lines * values, size) == expected * values
