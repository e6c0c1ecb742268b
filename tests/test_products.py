"""The products of the weight gradients: which gates are one, how they are cut for threads, and what they give."""

from __future__ import annotations

from itertools import pairwise
from typing import Any
from unittest import mock

import numpy as np
import pytest
from cases import COMPILED, DTYPES, Case, assert_close, assert_same_bits
from conformance import backend_of, draw_scan

from fastrnn.backends.tiled import frame as f
from fastrnn.backends.tiled import sums
from fastrnn.backends.tiled.box import NOBODY
from fastrnn.backends.tiled.form import Form
from fastrnn.backends.tiled.parts import MERGED, parts_of
from fastrnn.backends.tiled.sums import Call
from fastrnn.plan import plan
from fastrnn.reuse import address


def form_of(backend: str, cell: str, hidden: int, dtype: str = "float32", inputs: int = 5, proj: int = 7) -> Form:
    """The form of the packs of one layer in one direction; ``proj`` counts only for a cell with a projection."""
    scan = draw_scan(cell, Case("one", T=1, B=1, I=inputs, H=hidden, P=proj))
    native: Any = backend_of(backend).native
    return Form(native, native.program(plan(scan.cell), np.dtype(dtype)), scan.sizes, list(scan.parameters))


# --- which gates are one product --------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", COMPILED)
@pytest.mark.parametrize("hidden", [9, 16, 64, 70, 90, 300])
@pytest.mark.parametrize("cell", ["lstm", "gru", "gru_reset_before", "rnn_tanh", "lstm_projected"])
def test_each_row_has_the_column_and_the_factor_of_its_gate(backend: str, cell: str, hidden: int) -> None:
    """Whatever gates are one product, and wherever their gradients stand."""
    form = form_of(backend, cell, hidden)

    def rows(parts: Any) -> list[tuple[Any, ...]]:
        return [
            (part.weight, part.row + row, part.width, part.place, part.column + row + row // part.gate_rows * part.gap)
            for part in parts
            for row in range(part.rows)
        ]

    assert rows(form.weight_parts) == rows(parts_of(form))
    assert all(part.rows <= max(MERGED, hidden) for part in form.weight_parts)


@pytest.mark.parametrize("backend", COMPILED)
@pytest.mark.parametrize(
    ("cell", "hidden", "expected"),
    [
        ("lstm", 9, [36, 36]),
        ("lstm", 64, [256, 256]),
        ("lstm", 70, [210, 70, 210, 70]),
        ("gru", 9, [27, 18, 9]),  # the last one multiplies r * h
        ("gru", 90, [180, 90, 180, 90]),
        ("lstm", 300, [300] * 8),
    ],
)
def test_gates_that_multiply_the_same_are_one_product(
    backend: str, cell: str, hidden: int, expected: list[int]
) -> None:
    """Up to 256 rows of them, with and without gaps between."""
    assert [part.rows for part in form_of(backend, cell, hidden).weight_parts] == expected


# --- what a product gives ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("backend", COMPILED)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("hidden", "inputs", "count"),  # of 300 rows, two whole blocks and a part of one
    [
        (9, 5, 300),
        (9, 203, 300),
        (24, 64, 300),
        (27, 131, 300),
        (70, 33, 1300),
        (300, 170, 300),
        (601, 163, 200),
        (528, 163, 1300),
    ],
)
def test_products_are_those_of_numpy_however_they_are_cut(
    backend: str, dtype: str, hidden: int, inputs: int, count: int
) -> None:
    """Gates with gaps: all at once, by rows within gates, and by columns; nothing else is written.

    Of 1300 rows the blocks are two groups; of 528 units and more the rows of the gradient are several parts, of 528 as
    large as they get.
    """
    form = form_of(backend, "lstm", hidden, dtype, inputs)
    rng, size = np.random.default_rng(3), form.dtype.itemsize
    gradients = rng.normal(size=(count, form.gradient_stride // size)).astype(dtype)
    x = rng.normal(size=(count, inputs)).astype(dtype)
    offsets = np.arange(count, dtype=np.int64) * x.strides[0]
    frames = form.gradient_calls[0][:1].copy()
    rows = form.weight_parts[0].rows
    given = (address(gradients), 0, address(x), address(offsets), count)
    frames[:, f.OUTER_A : f.OUTER_COUNT + 1] += np.array(given, np.int64)
    whole = Call(0, (0, rows, 0, count), (0, inputs))

    def run(calls: list[Call]) -> np.ndarray:
        room = np.full((rows + 2, inputs), 7, dtype)  # a row before and one after, which nothing is to touch
        own = sums.frames_of(frames, calls, size)
        own[:, f.OUTER_INTO] += address(room[1:])
        form.native.run_list(NOBODY, own, np.array([call.range for call in calls], np.int64), 1)
        assert (room[[0, -1]] == 7).all()
        return room[1:-1]

    def in_two(first: int) -> np.ndarray:
        """The rows from ``first`` on, and then those before them, which are added."""
        room, own = np.full((rows, inputs), 7, dtype), np.repeat(frames, 2, 0)
        own[:, f.OUTER_INTO] += address(room)
        own[0, f.OUTER_A] += first * form.gradient_stride
        own[0, f.OUTER_B_OFFSETS] += 8 * first
        ranges = np.array([(0, rows, 0, count - first), (0, rows, 1, first)], np.int64)
        for frame, given in zip(own, ranges, strict=True):
            form.native.run_list(NOBODY, frame[None], given[None], 1)
        return room

    columns = [form.gradient_offsets[gate] + unit for gate in form.plan.input_columns for unit in range(hidden)]
    expected = gradients[:, columns[:rows]].astype(float).T @ x.astype(float)
    found = run([whole])
    assert_close(found, expected, "gradient", dtype)
    assert_same_bits(in_two(sums.BLOCK), found)
    cuts = sorted({0, 1, hidden - 1, min(hidden + 4, rows), rows - 2, rows})
    by_rows = [whole._replace(range=(low, high, 0, count)) for low, high in pairwise(cuts)]
    for order in (by_rows, by_rows[::-1]):  # whoever writes beyond its own part writes over another one's
        assert_same_bits(run(order), found)
    cuts = [0, min(64, inputs - 1), inputs]
    by_columns = [whole._replace(columns=ends) for ends in pairwise(cuts)]
    for order in (by_columns, by_columns[::-1]):
        assert_same_bits(run(order), found)
    for part in (*by_rows, *by_columns):
        (low, high, *_), (left, right) = part.range, part.columns
        alone = run([part])
        assert_same_bits(alone[low:high, left:right], found[low:high, left:right])
        alone[low:high, left:right] = 7
        assert (alone == 7).all()  # what another thread writes at the same time


# --- how they are cut -------------------------------------------------------------------------------------------------


def call(rows: int, columns: int = 1) -> Call:
    """A product of so many rows and columns, of one step."""
    return Call(0, (0, rows, 1, 1), (0, columns))


def test_groups_of_products(monkeypatch: pytest.MonkeyPatch) -> None:
    """All of them, the largest first, in each group as many for each thread as are not too much work, or one."""
    monkeypatch.setattr(sums, "PIECE", 10)
    calls = [call(rows) for rows in (3, 9, 1, 4, 4, 20)]
    assert [[c.work for c in group] for group in sums.groups(calls, 2)] == [[20, 9], [4, 4, 3, 1]]
    assert [[c.work for c in group] for group in sums.groups(calls, 3)] == [[20, 9, 4], [4, 3, 1]]
    assert [[c.work for c in group] for group in sums.groups(calls, 1)] == [[20], [9], [4, 4], [3, 1]]
    assert sums.groups([], 2) == []


@pytest.mark.parametrize(
    ("piece", "lists"),
    [(10**9, [[(0, 0, 20), (1, 0, 8)]]), (400, [[(0, 0, 8)], [(0, 8, 16)], [(1, 0, 8)], [(0, 16, 20)]])],
)
def test_products_alone(piece: int, lists: list[list[tuple[int, int, int]]], monkeypatch: pytest.MonkeyPatch) -> None:
    """As one list or, where that is too long, in pieces: a checkpoint after each, and the end after the last."""
    monkeypatch.setattr(sums, "PIECE", piece)
    done = mock.Mock()
    monkeypatch.setattr(sums, "checkpoint", done.checkpoint)
    frames = np.zeros((2, f.SHORT_SIZE), np.int64)
    frames[:, f.OUTER_WIDTH], frames[:, f.KERNEL] = 10, (0, 1)
    ranges = np.array([(0, 20, 1, 5), (0, 8, 1, 5)], np.int64)
    sums.Products(done, frames, ranges, 4, 28 * 10 * 5, 0, done.finish, None)()
    assert [name for name, _, _ in done.mock_calls] == ["run_list", "checkpoint"] * len(lists) + ["finish"]
    for expected, (_, given, _) in zip(lists, done.mock_calls[::2], strict=False):
        boxes, its_frames, its_ranges, members = given
        assert (len(boxes), members) == (0, 1)
        found = zip(its_frames[:, f.KERNEL].tolist(), its_ranges.tolist(), strict=True)
        assert [(frame, *span) for frame, span in found] == [(k, low, high, 1, 5) for k, low, high in expected]


@pytest.mark.parametrize("members", [2, 3, 5])
@pytest.mark.parametrize("rows", [(512, 512, 512), (512, 512, 511, 510), (512,), (96, 95, 1), (4000, 1), (7,)])
def test_shares_of_products(rows: tuple[int, ...], members: int) -> None:
    """Every row once, and threads that take one share after the other all have about as much to do."""
    shares = sums.shares([call(count)._replace(frame=number) for number, count in enumerate(rows)], members)
    for number, count in enumerate(rows):
        found = sorted(share.range for share in shares if share.frame == number)
        assert [row for low, high, _, _ in found for row in range(low, high)] == list(range(count))
        assert {ends[2:] for ends in found} == {(1, 1)}
        assert len(found) == 1 or all(high - low >= sums.LEAST_ROWS for low, high, _, _ in found)
    loads = [0] * members
    for share in shares:
        low, high, _, _ = share.range
        loads[loads.index(min(loads))] += high - low
    assert max(loads) <= sum(rows) * 9 / 8 / members + 2 * sums.LEAST_ROWS


def test_even_products_are_not_cut() -> None:
    """LSTM: four gates of two weights and the sum of the vectors; RNN: one of two."""
    for rows in ((512,) * 8 + (1,), (512, 512, 1)):
        assert len(sums.shares([call(count) for count in rows], 2)) == len(rows)


@pytest.mark.parametrize(("rows", "columns", "members"), [(36, 655, 2), (36, 655, 3), (90, 300, 2), (7, 130, 8)])
def test_few_rows_are_cut_by_columns(rows: int, columns: int, members: int) -> None:
    """At multiples of 64, so that no vector is cut, into about equal parts of all rows."""
    found = call(rows, columns).cut(members)
    assert len(found) == min(members, columns // sums.CUT_COLUMNS)
    assert {share.range for share in found} == {(0, rows, 1, 1)}
    assert [column for share in found for column in range(*share.columns)] == list(range(columns))
    assert all(share.columns[0] % 64 == 0 for share in found)
    assert max(share.work for share in found) <= rows * (columns / len(found) + 64)


def test_rows_are_cut_where_there_are_enough_or_no_columns() -> None:
    """Each half of a call by rows reads all of x, but so many rows make that little."""
    assert {share.columns for share in call(96, 1000).cut(2)} == {(0, 1000)}
    assert call(95, 127).cut(2) == [call(95, 127)]
    assert [share.columns for share in call(95, 128).cut(2)] == [(0, 64), (64, 128)]
