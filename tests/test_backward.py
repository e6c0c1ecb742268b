"""Backward in pieces of time: the bits are those of one piece, with room for no more gradients."""

from __future__ import annotations

import ctypes
from typing import Any
from unittest import mock

import numpy as np
import pytest
from cases import assert_same_bits, compiled
from conformance import backend_of, draw_call, make_layer
from hypothesis import given, settings
from hypothesis import strategies as st
from sharing import share_everything
from test_checkpoints import gradients

import fastrnn
from fastrnn.backends.tiled import backward, form, frame, scan
from fastrnn.backends.tiled.crew import Crew
from fastrnn.backends.tiled.form import Form
from fastrnn.backends.tiled.room import Room
from fastrnn.reuse import address

KINDS: dict[str, dict[str, Any]] = {
    "lstm": {},
    "gru_reset_before": {"bidirectional": True},
    "lstm_projected": {"proj_size": 6, "num_layers": 2},
    "lstm_peephole": {"bidirectional": True},
}
LENGTHS: dict[str, Any] = {
    "all": None,
    "ragged": [61, 3, 0, 61, 40, 17],
    "one long": [61, 1, 2, 0, 3, 1],
    "none": [0] * 6,
}


def in_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have Python make all backward scans ready."""
    monkeypatch.setattr(Form, "whole", property(lambda _: mock.Mock(most_rows=0)))


def cut(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """Have pieces of so many rows, or of one step."""
    monkeypatch.setattr(backward, "PIECE_BYTES", 0)
    monkeypatch.setattr(backward, "PIECE_WORK", 0)
    monkeypatch.setattr(backward, "WHOLE", 1)
    monkeypatch.setattr(backward, "NEAR_ROWS", rows)
    in_python(monkeypatch)


def watched(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The (start, stop) of every piece from now on."""
    seen: list[tuple[int, int]] = []
    real = backward.BackwardScan.prepare

    def noted(which: Any, frames: Any, start: int, stop: int) -> None:
        seen.append((start, stop))
        real(which, frames, start, stop)

    monkeypatch.setattr(backward.BackwardScan, "prepare", noted)
    return seen


@compiled
@pytest.mark.parametrize("lengths", LENGTHS)
@pytest.mark.parametrize("kind", KINDS)
def test_same_bits(backend: str, kind: str, lengths: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """However short the pieces are, by one thread or several, with checkpoints, and with Ctrl-C's cuts besides."""
    layer = make_layer(kind, 5, 8, backend=backend, **KINDS[kind])
    values = draw_call(layer, 61, 6)
    whole = gradients(layer, values, LENGTHS[lengths], None)
    for rows in (1, 7, 40, 128, 130, 300):
        cut(monkeypatch, rows)
        for every in (None, 25):
            found = gradients(layer, values, LENGTHS[lengths], every)
            for name, value in whole.items():
                assert_same_bits(found[name], value, f"{name}, {rows} rows, every {every}")
    seen, ways = watched(monkeypatch), list[bool]()
    share = Crew.share
    monkeypatch.setattr(Crew, "share", lambda *given: (ways.append(given[-1]), share(*given)))
    for threads, rows_apart, rows in ((2, 1, 7), (2, 100, 7), (3, 1, 40), (3, 100, 40), (2, 100, 64)):
        cut(monkeypatch, rows)
        for every in (None, 25):
            seen.clear()
            ways.clear()
            with share_everything(rows_apart), fastrnn.threads(threads):
                found = gradients(layer, values, LENGTHS[lengths], every)
            assert len(seen) > 1 or lengths in ("none", "one long")
            if not layer.bidirectional and (rows_apart == 100 or lengths == "all"):
                assert set(ways) <= {rows_apart == 1}
            for name, value in whole.items():
                assert_same_bits(found[name], value, f"{name}, {threads} threads, {rows} rows, every {every}")
    weights = layer._packs()[0].form.weight_count
    monkeypatch.setattr(form, "PIECE", 4 * weights)  # four rows of six, and of each one step
    other = make_layer(kind, 5, 8, backend=backend, **KINDS[kind])
    found = gradients(other, values, LENGTHS[lengths], None)
    for name, value in whole.items():
        assert_same_bits(found[name], value, f"{name}, in ranges of rows")


@compiled
def test_the_pieces(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """As many steps as have the rows together, at least one, from the last to the first, without a gap."""
    layer = make_layer("lstm", 5, 8, backend=backend)
    seen = watched(monkeypatch)
    cut(monkeypatch, 10)
    y, _, tape = layer.record(np.zeros((9, 4, 5), np.float32), lengths=[9, 7, 7, 1])
    layer.backward(tape, y)
    assert seen == [(9, 5), (5, 2), (2, 0)]  # active: 4 3 3 3 3 3 3 1 1
    seen.clear()
    cut(monkeypatch, 2)
    layer.backward(tape, y)
    assert seen == [(9, 7), *((step, step - 1) for step in range(7, 0, -1))]
    seen.clear()
    cut(monkeypatch, 28)
    layer.backward(tape, y)
    assert seen == [(9, 0)]


@compiled
def test_what_the_piece_before_reads_is_kept(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its gradients go on into the step before: without one of them something is wrong."""
    layer = make_layer("lstm", 5, 8, backend=backend)
    values = draw_call(layer, 200, 6)
    whole = gradients(layer, values, None, None)
    cut(monkeypatch, 30)
    real = backward.GradientRows.add

    def forgetting(rows: Any, count: int) -> int:
        rows.kept -= 1 if rows.kept else 0
        return real(rows, count)

    monkeypatch.setattr(backward.GradientRows, "add", forgetting)
    found = gradients(layer, values, None, None)
    assert any(not np.array_equal(found[name], value) for name, value in whole.items())


@given(
    steps=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 5)), max_size=30),
    stride=st.sampled_from([64, 192]),
)
@settings(max_examples=80, deadline=None, database=None)
def test_gradient_rows(steps: list[tuple[int, int]], stride: int) -> None:
    """What is kept stays as it was written, right after what is added, and nothing is outside the room."""
    room = Room(14 * stride)
    rows = backward.GradientRows(room.at[0], 14, stride)
    expected: list[int] = []
    number = 0
    for count, kept in steps:
        at = rows.add(count)
        assert room.at[0] <= at
        assert at + (count + len(expected)) * stride <= room.at[0] + 14 * stride
        words = (count + len(expected)) * stride // 8
        table = np.frombuffer((ctypes.c_int64 * words).from_address(at), np.int64).reshape(-1, stride // 8)
        assert table[count:, 0].tolist() == table[count:, -1].tolist() == expected
        new = list(range(number, number + count))
        number += count
        table[:count] = np.array(new, np.int64).reshape(-1, 1)
        expected = [*new, *expected][:kept]
        rows.kept = len(expected)


@compiled
def test_a_short_scan_is_one_piece(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a few hundred rows or some milliseconds of work; a longer one is not."""
    layer = fastrnn.LSTM(64, 128, backend=backend)
    in_python(monkeypatch)
    seen = watched(monkeypatch)
    most, _ = backward.piece_rows(layer._packs()[0].form)
    for steps, pieces in ((most, 1), (3 * most, 1), (3 * most + 1, 4)):
        y, _, tape = layer.record(np.zeros((steps, 1, 64), np.float32))
        seen.clear()
        layer.backward(tape, y)
        assert len(seen) == pieces


def test_rows_of_a_piece() -> None:
    """As many as a cache holds beside the weights; more of small cells, large ones and for more threads."""
    for (inputs, hidden), one, three in (((64, 128), 372, 1116), ((4, 4), 260_416, 781_248), ((512, 512), 2048, 2048)):
        held = fastrnn.LSTM(inputs, hidden, backend="numba")._packs()[0].form
        most = backward.MOST_BYTES // held.gradient_stride  # by the vectors that rows of a few units are padded to
        one, three = min(one, most), min(three, most)
        assert backward.piece_rows(held) == (one, min(3 * one, most))  # three pieces would take longer than one
        assert backward.piece_rows(held, 3)[0] == three
        assert backward.piece_rows(held, 1, (one + 1) * held.weight_count)[0] == min(one + 1, most)
        assert backward.piece_rows(held, 1, 10**9 * held.weight_count) == (most, most)


@compiled
def test_who_has_gone_to_sleep_is_called_before_the_next_piece(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """And before its products: a list that has begun nobody can join."""
    layer = make_layer("lstm", 5, 8, backend=backend)
    values = draw_call(layer, 61, 6)
    kernels: Any = backend_of(backend)
    done: list[str] = []

    def noted(name: str, real: Any) -> Any:
        return lambda *given: (done.append(name), real(*given))[1]

    cut(monkeypatch, 40)  # for two threads 13 steps of 6 rows: five pieces, which complete a block three times
    y, _, tape = layer.record(values["x"])
    assert tape._tapes[0][0].pack.training_frame.any()  # packed before
    monkeypatch.setattr(kernels.crew, "gather", noted("gather", kernels.crew.gather))
    monkeypatch.setattr(kernels.native, "run_list", noted("run", kernels.native.run_list), raising=False)
    monkeypatch.setattr(scan, "HEADS", 0)
    with share_everything(2), fastrnn.threads(2):
        layer.backward(tape, y)
    assert done == ["run", *["gather", "run"] * (5 - 1 + 3)]


@compiled
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_the_frames_of_products_point_at_stays(backend: str, dtype: str) -> None:
    """All packs of the layer use them: so must the one in them."""
    made = fastrnn.LSTM(3, 4, backend=backend, dtype=dtype)._packs()[0].form.gradient_calls[0]
    one = form.ONES[np.dtype(dtype).itemsize]
    assert made[-1, frame.OUTER_A] == address(one) and one.dtype == dtype and one.tolist() == [1.0]
    assert (made[:-1, [frame.OUTER_B, frame.OUTER_B_OFFSETS]] == 0).all()
