"""The kernels' own Python, not compiled, against brute force; and the library with the compiler switched off."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import BACKENDS
from hypothesis import given, settings
from hypothesis import strategies as st

import fastrnn
from fastrnn.backends import load
from fastrnn.backends.contract import TABLE_SIZE, Rows
from fastrnn.backends.tiled import frame
from fastrnn.reuse import address

pytestmark = pytest.mark.needs("numba")
DISABLED = os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")
examples = settings(max_examples=60, deadline=None, database=None)


@st.composite
def ragged(draw: st.DrawFn) -> tuple[int, list[int]]:
    """T and lengths in any order."""
    steps = draw(st.integers(0, 7))
    return steps, draw(st.lists(st.integers(0, steps), min_size=0, max_size=9))


def rows_of(case: tuple[int, list[int]]) -> Rows:
    """The rows of T and lengths."""
    return Rows.of(case[0], len(case[1]), np.array(case[1], np.int64))


def python(name: str) -> Any:
    """A function of the scan as Python: itself where nothing is compiled, else what was compiled."""
    from fastrnn.backends.numba_ import rows, scan

    function = getattr(scan if hasattr(scan, name) else rows, name)
    return getattr(function, "py_func", function)


# --- rows -------------------------------------------------------------------------------------------------------------


def check_rows(rows: Rows, case: tuple[int, list[int]], places: list[int] | None = None) -> None:
    """Longest first, in their order where they are as long; active and base by counting.

    With ``places`` the lengths are those of rows that are already sorted and stand there.
    """
    steps, lengths = case
    order = sorted(range(len(lengths)), key=lambda b: (-lengths[b], b))
    longest = max(lengths, default=0)
    active = [sum(n > s for n in lengths) for s in range(longest)]
    assert order == list(range(len(lengths))) or places is None
    assert rows.order.tolist() == (order if places is None else places)
    assert rows.lengths.tolist() == [lengths[b] for b in order]
    assert rows.active.tolist() == active
    assert rows.base.tolist() == [sum(active[:s]) for s in range(longest + 1)]
    assert (rows.steps, rows.batch, rows.longest, rows.total) == (steps, len(lengths), longest, sum(lengths))
    for array in (rows.order, rows.lengths, rows.active, rows.base):
        assert array.dtype == np.int64
        assert array.flags.c_contiguous
    for table, here in zip((rows.order, rows.lengths, rows.active, rows.base), rows.table.tolist(), strict=False):
        assert not len(table) or here == address(table)  # NumPy gives an empty array any address
    assert rows.table[4:].tolist() == [len(lengths), longest, steps]
    assert len(rows.table) == TABLE_SIZE == frame.TABLE_SIZE


@given(case=ragged())
@examples
def test_rows(case: tuple[int, list[int]]) -> None:
    """NumPy's, and in one buffer what the kernels' Python writes."""
    check_rows(rows_of(case), case)
    steps, batch = case[0], len(case[1])
    room = len(Rows.room(steps, batch))
    numbers = np.full(room + 2, -1)
    longest = python("sort")(np.array(case[1], np.int64), steps, numbers)
    rows = Rows(steps, batch, longest, numbers)
    check_rows(rows, case)
    assert numbers[-2:].tolist() == [-1, -1]


@pytest.mark.parametrize("backend", BACKENDS)
@given(case=ragged())
@examples
def test_sorted_by_a_backend(backend: str, case: tuple[int, list[int]]) -> None:
    """The same, compiled."""
    check_rows(load(backend).rows(case[0], np.array(case[1], np.int64)), case)


@given(steps=st.integers(0, 5), batch=st.integers(0, 5))
@examples
def test_rows_without_lengths(steps: int, batch: int) -> None:
    """As with every length T."""
    check_rows(Rows.of(steps, batch), (steps, [steps] * batch))


@given(case=ragged(), data=st.data())
@examples
def test_pieces_of_rows(case: tuple[int, list[int]], data: st.DataObject) -> None:
    """As the rows of what is left of each length, but in the order that the whole has."""
    rows = rows_of(case)
    start = data.draw(st.integers(0, rows.longest))
    stop = data.draw(st.integers(start, rows.longest))
    piece = rows.piece(start, stop)
    left = [min(max(length - start, 0), stop - start) for length in rows.lengths.tolist()]
    check_rows(piece, (stop - start, left), rows.order.tolist())


# --- the scan's tables ------------------------------------------------------------------------------------------------


@given(case=ragged(), reverse=st.booleans(), data=st.data())
@examples
def test_row_offsets(case: tuple[int, list[int]], reverse: bool, data: st.DataObject) -> None:
    """Time and place of some rows at one step, in bytes; the rest of the table is left alone."""
    rows = rows_of(case)
    step = data.draw(st.integers(0, max(rows.longest - 1, 0)))
    high = int(rows.active[step]) if rows.longest else 0
    low = data.draw(st.integers(0, high))
    offsets = np.full(high - low + 4, -1)
    python("row_offsets")(offsets, 2, rows.order, rows.lengths, low, high, step, reverse, 1000, 10)
    expected = []
    for r in range(low, high):
        b = int(rows.order[r])
        expected.append((case[1][b] - 1 - step if reverse else step) * 1000 + b * 10)
    assert offsets.tolist() == [-1, -1, *expected, -1, -1]


def active_rows(rows: Rows, low: int, high: int, step: int) -> int:
    """How many of the sorted rows low .. high - 1 are active at a step."""
    return sum(rows.lengths[r] > step for r in range(low, high))


@given(case=ragged(), most=st.integers(1, 20), data=st.data())
@examples
def test_chunks_forward(case: tuple[int, list[int]], most: int, data: st.DataObject) -> None:
    """Chunks cover the steps of a part, one after the other, each as long as it may be."""
    rows = rows_of(case)
    low = data.draw(st.integers(0, rows.batch))
    high = data.draw(st.integers(low, rows.batch))
    counts = [active_rows(rows, low, high, s) for s in range(rows.longest)]
    step, seen = 0, 0
    while step < rows.longest:
        end, found = python("chunk_end")(rows.active, low, high, step, rows.longest, most)
        if found == 0:
            assert not any(counts[step:])
            break
        assert found == sum(counts[step:end])
        assert found <= most or end == step + 1
        assert end == rows.longest or not counts[end] or found + counts[end] > most
        step, seen = end, seen + found
    assert seen == sum(counts)


@given(case=ragged(), most=st.integers(1, 20), data=st.data())
@examples
def test_chunks_backward(case: tuple[int, list[int]], most: int, data: st.DataObject) -> None:
    """The same from the end, in which no row of a part may be active yet."""
    rows = rows_of(case)
    low = data.draw(st.integers(0, rows.batch))
    high = data.draw(st.integers(low, rows.batch))
    counts = [active_rows(rows, low, high, s) for s in range(rows.longest)]
    step, seen = rows.longest, 0
    while step > 0:
        begin, found = python("chunk_begin")(rows.active, low, high, step, 0, most)
        assert begin < step
        assert found == sum(counts[begin:step])
        assert found <= most or begin == step - 1
        step, seen = begin, seen + found
    assert seen == sum(counts)


@given(case=ragged())
@examples
def test_state_row(case: tuple[int, list[int]]) -> None:
    """Recording, every state of every row has a row of its own; else two buffers take turns."""
    rows = rows_of(case)
    taken = {}
    for step in range(rows.longest + 1):
        count = rows.batch if step == 0 else int(rows.active[step - 1])
        for r in range(count):
            taken[step, r] = python("state_row")(True, rows.batch, rows.base, step) + r
    assert sorted(taken.values()) == list(range(rows.batch + rows.total if rows.longest else rows.batch))
    turns = [python("state_row")(False, 8, rows.base, step) for step in range(4)]
    assert turns == [0, 8, 0, 8]


def check_step_offsets(case: tuple[int, list[int]], reverse: bool, function: Any) -> None:
    """Each compact number's place in an array over time and batch."""
    rows = rows_of(case)
    found = np.full(rows.total, -1)
    if DISABLED:
        function(found, rows.order, rows.lengths, rows.active, rows.base, reverse, 1000, 10)
    else:
        function(found, rows.table, reverse, 1000, 10)
    expected = {}
    for r in range(rows.batch):
        for s in range(int(rows.lengths[r])):
            time = int(rows.lengths[r]) - 1 - s if reverse else s
            expected[int(rows.base[s]) + r] = time * 1000 + int(rows.order[r]) * 10
    assert dict(enumerate(found.tolist())) == expected


def check_history_offsets(case: tuple[int, list[int]], function: Any) -> None:
    """Each compact number's previous state: a row's initial one, then that which the step before has written."""
    rows = rows_of(case)
    found = np.full(rows.total, -1)
    if DISABLED:
        function(found, rows.active, rows.base, rows.batch, 16)
    else:
        function(found, rows.table, 16)
    for r in range(rows.batch):
        for s in range(int(rows.lengths[r])):
            before = r if s == 0 else rows.batch + int(rows.base[s - 1]) + r
            assert found[int(rows.base[s]) + r] == before * 16


@given(case=ragged(), reverse=st.booleans())
@examples
def test_offsets(case: tuple[int, list[int]], reverse: bool) -> None:
    """These call others: as they are here, compiled in one process, as Python in the one below."""
    if DISABLED:
        step_offsets, history_offsets = (python(n) for n in ("fill_step_offsets", "fill_history_offsets"))
    else:
        native = load("numba").native  # type: ignore[attr-defined]
        step_offsets, history_offsets = native.step_offsets, native.history_offsets
    check_step_offsets(case, reverse, step_offsets)
    check_history_offsets(case, history_offsets)


# --- with the compiler switched off -----------------------------------------------------------------------------------


def without_compiler(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Python in a process in which nothing is compiled."""
    environment = {**os.environ, "NUMBA_DISABLE_JIT": "1"}
    environment.pop("FASTRNN_BACKEND", None)
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, env=environment)


def test_this_file_without_compiler() -> None:
    """Every test above once more, the nested calls as Python, too."""
    if DISABLED:
        return
    chosen = "rows or chunks or state_row or offsets"
    done = without_compiler(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-k", chosen, str(Path(__file__))
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "passed" in done.stdout
    assert "failed" not in done.stdout


NEXT = next(name for name in ("cython", "numpy") if name in BACKENDS)


def test_fallback() -> None:
    """Without the compiler the next backend computes, and the library says why."""
    code = (
        "import fastrnn\n"
        "layer = fastrnn.LSTM(3, 4)\n"
        "layer([[1.0, 2.0, 3.0]])\n"
        "print(layer.backend, fastrnn.backends()['numba'])\n"
    )
    done = without_compiler("-c", code)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{NEXT} not available: NUMBA_DISABLE_JIT is set"


def test_asked_for_and_not_available() -> None:
    """Who asks for it by name gets an error that says why."""
    done = without_compiler("-c", "import fastrnn\nfastrnn.LSTM(3, 4, backend='numba')")
    assert done.returncode != 0
    assert "RuntimeError: backend: the backend 'numba' is not available: NUMBA_DISABLE_JIT is set" in done.stderr


def test_without_numba() -> None:
    """The same where Numba is not installed."""
    code = (
        "import sys\n"
        "sys.modules['numba'] = None\n"
        "import fastrnn\n"
        "layer = fastrnn.LSTM(3, 4)\n"
        "layer([[1.0, 2.0, 3.0]])\n"
        "print(layer.backend, fastrnn.backends()['numba'])\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == f"{NEXT} not available: Numba is not installed"


def test_here_it_is_available() -> None:
    """Otherwise this process has tested the wrong thing."""
    assert fastrnn.backends()["numba"] or DISABLED
