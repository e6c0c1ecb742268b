"""Packed weights: every value where the tile reads it, zeros where there is none, and nothing anywhere else."""

from __future__ import annotations

import ctypes
import itertools
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from cases import COMPILED, DTYPES, assert_same_bits, compiled
from conformance import backend_of, make_layer
from hypothesis import given, settings
from hypothesis import strategies as st
from sharing import share_everything

import fastrnn
from fastrnn.backends import load
from fastrnn.backends.tiled import copying
from fastrnn.backends.tiled import form as forms
from fastrnn.backends.tiled import frame as f
from fastrnn.backends.tiled import packing as packings
from fastrnn.backends.tiled.form import Form
from fastrnn.backends.tiled.packing import Block, Copies, Matrix, Packing
from fastrnn.backends.tiled.stage import Rows, TileProduct, TileStage
from fastrnn.backends.tiled.target import Target
from fastrnn.reuse import address

examples = settings(max_examples=60, deadline=None, database=None)
FIELD = 3  # of the blocks' address in the frames below


def places(units: int, depth: int, sums: int, stage: TileStage, target: Target, lanes: int) -> Iterator[Any]:
    """(sum, unit, k) of each place of the blocks, [block of units][panel][k][column][lane].

    Where blocks have two vectors the last one has as many as are left.
    """
    for first in range(0, units, stage.vectors * lanes):
        whole = stage.vectors != 2 or first + lanes < units
        starts = range(first, first + (stage.vectors if whole else 1) * lanes, lanes)
        columns = list(itertools.product(range(sums), starts))
        width = target.panel(len(columns))
        for panel in range(0, len(columns), width):
            for k, (one, start) in itertools.product(range(depth), columns[panel : panel + width]):
                yield from ((one, unit, k) for unit in range(start, start + lanes))


def places_of_tail(units: range, depth: int, sums: int, lanes: int) -> Iterator[Any]:
    """The same of the tail, [vector][k][lane]."""
    values = list(itertools.product(range(sums), units))
    for vector in range(0, len(values), lanes):
        for k, lane in itertools.product(range(depth), range(lanes)):
            yield (*values[vector + lane], k) if vector + lane < len(values) else (0, max(units) + 1, k)


def values_at(address: int, count: int, dtype: str) -> np.ndarray:
    """A copy of what is there."""
    return np.frombuffer(ctypes.string_at(int(address), count * np.dtype(dtype).itemsize), dtype)


@pytest.mark.parametrize("backend", COMPILED)
@given(
    units=st.integers(1, 40), depth=st.integers(1, 40), sums=st.integers(1, 6), vectors=st.integers(1, 4),
    vector=st.sampled_from([(16, 16), (32, 16), (64, 32)]), dtype=st.sampled_from(DTYPES), transposed=st.booleans(),
)  # fmt: skip
@examples
def test_every_value_is_where_the_tile_reads_it(
    backend: str, units: int, depth: int, sums: int, vectors: int, vector: tuple[int, int], dtype: str, transposed: bool
) -> None:
    """Blocks and tail, of rows of a weight or of columns of several; vectors before and after are not touched."""
    rng, target, kind = np.random.default_rng(units), Target(*vector, fma=True), np.dtype(dtype)
    lanes, native = target.lanes(kind), backend_of(backend).native  # type: ignore[attr-defined]
    stage = TileStage((TileProduct(Rows(0), 0, sums, 0, (None,) * sums),), vectors, 0, lambda *_: None)
    if transposed:  # of each sum K rows out of two weights, which have one column for each unit
        weights = [rng.normal(size=(sums * depth, units)).astype(dtype) for _ in range(2)]
        cut = depth // 2
        blocks = [(Block(1, s * depth, cut, units), Block(0, s * depth, depth - cut, units)) for s in range(sums)]
        matrices = [Matrix([block for block in pair if block.rows], transposed=True) for pair in blocks]
        found = [np.concatenate([weights[b.weight][b.row : b.row + b.rows] for b in m.blocks]).T for m in matrices]
    else:
        weights = [rng.normal(size=(sums * units, depth)).astype(dtype)]
        matrices = [Matrix([Block(0, s * units, units, depth)]) for s in range(sums)]
        found = [weights[0][s * units : (s + 1) * units] for s in range(sums)]
    copies = Copies(target, kind)
    copies.add_vectors(0, [None], 0, 3)
    copies.add_products(FIELD, matrices, stage)
    before = copies.nbytes
    copies.add_vectors(1, [0, None], 1, 2)
    packing = Packing(np.zeros(FIELD + 4, np.int64), copies, native, kind, len(weights))
    memory = packing.memory(tuple(weights), 0)
    frame, call = memory[: packing.frame_size], packing.copies_frame(memory)
    # One by one, the last one first, where there was something else before: what writes elsewhere is not mended.
    ctypes.memset(int(call[f.COPY_MEMORY]), 0xFF, packing.nbytes)
    for number in reversed(range(packing.count)):
        native.run(call, number, number + 1, 0, 0)
    assert address(call) + 8 * (f.SHORT_SIZE + len(weights)) <= call[f.COPY_MEMORY] == frame[0]
    assert frame[0] + packing.nbytes <= address(memory) + memory.nbytes
    assert not frame[[2, *range(FIELD + 2, len(frame))]].any()
    assert not any(at % 64 for at in frame[[FIELD, FIELD + 1]])

    def expected(at: Any) -> list[float]:
        return [found[s][unit, k] if unit < units else 0.0 for s, unit, k in at]

    in_blocks = expected(places(units, depth, sums, stage, target, lanes))
    np.testing.assert_array_equal(values_at(frame[FIELD], len(in_blocks), dtype), in_blocks)
    first = stage.blocks_before_tail(units, lanes) * vectors * lanes
    in_tail = expected(places_of_tail(range(first, units), depth, sums, lanes)) if first < units else []
    np.testing.assert_array_equal(values_at(frame[FIELD + 1], len(in_tail), dtype), in_tail)
    assert frame[FIELD + 1] + len(in_tail) * kind.itemsize <= frame[0] + before == frame[1]
    np.testing.assert_array_equal(values_at(frame[0], 3, dtype), 0)
    np.testing.assert_array_equal(values_at(frame[1], 4, dtype), [weights[0][0, 0], 0, 0, 0])


def answers(cell: str, bias: bool, backend: str) -> list[np.ndarray]:
    """Outputs and gradients of a new layer."""
    options: dict[str, Any] = {"proj_size": 3} if cell == "lstm_projected" else {}
    layer = make_layer(cell, 5, 21, bias=bias, backend=backend, **options)
    y, state, tape = layer.record(np.random.default_rng(1).normal(size=(6, 9, 5)))
    back = layer.backward(tape, y)
    return [y, *(state if isinstance(state, tuple) else [state]), back.x, *back.parameters.values()]


@pytest.fixture
def dirty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Packs are made where there was something else before: NaN, whatever the type."""

    def full(shape: tuple[int, ...], dtype: np.dtype[Any]) -> np.ndarray:
        return np.full(shape, -1, dtype)

    monkeypatch.setattr(packings, "maker", lambda most: full)


CELLS = ["lstm", "gru", "gru_reset_before", "lstm_projected", "lstm_peephole"]


@compiled
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("bias", [True, False])
def test_all_memory_is_written(backend: str, cell: str, bias: bool, request: pytest.FixtureRequest) -> None:
    expected = answers(cell, bias, backend)
    request.getfixturevalue("dirty")
    for one, other in zip(answers(cell, bias, backend), expected, strict=True):
        assert_same_bits(one, other)


@pytest.fixture
def took(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many threads have taken part in each list of copies that Python asked for."""
    found: list[int] = []
    real = copying.copy_by_threads

    def noted(crew: Any, *given: Any) -> None:
        with pytest.MonkeyPatch.context() as inside:
            inside.setattr(crew, "seen", found.append)
            real(crew, *given)

    monkeypatch.setattr(copying, "copy_by_threads", noted)
    return found


@compiled
@pytest.mark.parametrize("threads", [2, 3, 40])
@pytest.mark.parametrize("cell", CELLS)
def test_threads_make_all_copies(backend: str, cell: str, threads: int, dirty: None, took: list[int]) -> None:
    """Whoever comes: it is tried until somebody has, which may take a while on a busy machine."""
    expected, deadline = answers(cell, True, backend), time.monotonic() + 60
    with share_everything(), fastrnn.threads(threads):
        while max(took, default=1) == 1:
            for one, other in zip(answers(cell, True, backend), expected, strict=True):
                assert_same_bits(one, other)
            assert time.monotonic() < deadline


@compiled
@pytest.mark.parametrize("threads", [1, 2])
def test_there_are_checkpoints(
    backend: str, dirty: None, threads: int, took: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the threads: much is copied in pieces, with one after each."""
    expected = answers("lstm", True, backend)
    came: list[None] = []
    monkeypatch.setattr(copying, "checkpoint", lambda: came.append(None))
    monkeypatch.setattr(copying, "PIECE_BYTES", 10_000)
    monkeypatch.setattr(packings, "SHORT", 0)
    monkeypatch.setattr(forms, "SHORT", 0)
    with share_everything(), fastrnn.threads(threads):
        found = answers("lstm", True, backend)
        (pack,) = make_layer("lstm", 5, 21, backend=backend)._packs()
    for one, other in zip(found, expected, strict=True):
        assert_same_bits(one, other)
    assert len(came) == len(took) == sum(-(-one.nbytes // 10_000) for one in (pack.form.forward, pack.form.backward))
    assert len(came) > 2


@compiled
def test_who_packs_alone_has_called_nobody(backend: str) -> None:
    """What follows is the first call after a pause, for which threads are woken only if it is long."""
    with fastrnn.threads(2):
        (pack,) = fastrnn.LSTM(256, 256, backend=backend)._packs()
        crew = load(backend).crew  # type: ignore[attr-defined]
        crew.last, crew._alone_until = 0.0, 0.0
        assert crew.worth_packing(pack.form.forward.nbytes)
        assert pack.frame.any()
        assert crew.last == 0.0
        with share_everything():
            assert pack.training_frame.any()
        assert crew.last > 0.0


@compiled
@pytest.mark.parametrize(("hidden", "threads", "expected"), [(64, 2, 0), (256, 2, 2), (256, 1, 2), (64, 1, 0)])
def test_few_weights_are_packed_without_more_ado(
    backend: str, hidden: int, threads: int, expected: int, took: list[int]
) -> None:
    layer = fastrnn.LSTM(hidden, hidden, backend=backend)
    with fastrnn.threads(threads):
        y, _, tape = layer.record(np.zeros((1, 1, hidden), np.float32))
        layer.backward(tape, y)
    assert len(took) == expected


@compiled
def test_threads_that_begin_at_once(backend: str) -> None:
    """Each of them may be the first to pack, both ways and directions; all get the same."""
    x = np.random.default_rng(0).normal(size=(5, 3, 4)).astype(np.float32)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for _ in range(20):
            layer, ready = fastrnn.LSTM(4, 9, bidirectional=True, backend=backend), threading.Barrier(4)

            def there_and_back(_: int, layer: Any = layer, ready: Any = ready) -> list[np.ndarray]:
                ready.wait()
                y, _, tape = layer.record(x)
                return [y, *layer.backward(tape, y).parameters.values()]

            with ThreadPoolExecutor(4) as pool:
                first, *others = pool.map(there_and_back, range(4))
            for other in others:
                for one, value in zip(other, first, strict=True):
                    assert_same_bits(one, value)
    finally:
        sys.setswitchinterval(interval)


@compiled
def test_a_form_is_made_once_for_all_packs(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both directions, and after each change: it would take longer than a small step."""
    made: list[Form] = []
    real = Form.__init__
    monkeypatch.setattr(Form, "__init__", lambda form, *given: made.append(form) or real(form, *given))
    layer = fastrnn.LSTM(3, 5, num_layers=2, bidirectional=True, backend=backend)
    forms = set()
    for _ in range(3):
        layer(np.ones((2, 1, 3), np.float32))
        forms |= {pack.form for pack in layer._packs()}
        layer.parameters["bias_l0"][:] += 1
    assert len(made) == len(forms) == 2


@compiled
def test_inference_packs_for_one_way_alone(backend: str) -> None:
    """The memory of a layer that never goes back is its weights and one copy of them."""
    layer = fastrnn.LSTM(30, 40, backend=backend)
    layer(np.ones((2, 1, 30), np.float32))
    (pack,) = layer._packs()
    assert "frame" in vars(pack) and "training_frame" not in vars(pack) and "backward" not in vars(pack.form)
    assert all(
        np.shares_memory(one, layer._store._values[f"{name}_l0"])
        for name, one in zip(pack.form.shapes, pack._weights, strict=True)
    )


@compiled
@pytest.mark.parametrize("cell", CELLS)
def test_training_packs_both_ways_at_once(backend: str, cell: str) -> None:
    """As far as neither is packed and there is little to copy; the values are those of one after the other."""
    layer = make_layer(cell, 5, 21, backend=backend, **({"proj_size": 9} if cell == "lstm_projected" else {}))
    x = np.random.default_rng(0).normal(size=(4, 3, 5))
    found = []
    for packed in (False, True):
        layer.set_parameters(dict(layer.parameters))
        (pack,) = layer._packs()
        if packed:
            assert pack.frame.any() and "training_frame" not in vars(pack)
        y, _, tape = layer.record(x)
        assert ("training_frame" in vars(pack)) is not packed
        back = layer.backward(tape, y)
        assert np.shares_memory(pack.frame.base, pack.training_frame.base) is not packed
        found.append([y, back.x, *back.parameters.values()])
    for one, other in zip(*found, strict=True):
        assert_same_bits(one, other)


@compiled
@pytest.mark.parametrize("first", ["frame", "training_frame"])
def test_a_frame_that_another_thread_packs_meanwhile_stays(backend: str, first: str) -> None:
    """Copies of it have the address of its weights, and keep the pack alive but not the frame."""
    (pack,) = make_layer("lstm", 3, 5, backend=backend)._packs()
    real, found = pack._packed, []

    def packed(packing: Packing, weights: Any) -> np.ndarray:
        pack._packed = real
        found.append(getattr(pack, first))
        return real(packing, weights)

    pack._packed = packed
    pack.expect_training()
    assert getattr(pack, first) is found[0]
    assert pack.frame.any() and pack.training_frame.any()
