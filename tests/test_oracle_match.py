"""Forward against the oracle: every backend, every shipped cell, both dtypes, sizes that fit no vector."""

from __future__ import annotations

import numpy as np
import pytest
from cases import CASES, CELLS, DTYPES, assert_close
from conformance import backend_of, check_scan, check_stack, draw_scan, make_layer, pack_of, run_scan

from fastrnn import cells
from fastrnn.backends.contract import Rows


def test_every_shipped_cell_has_an_oracle() -> None:
    """A cell without one would be tested by nothing."""
    assert set(cells.__all__) == set(CELLS)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
def test_scan(backend: str, cell: str, dtype: str, case: str) -> None:
    """One direction of one layer; past a row's end y is zero, and an empty row keeps its states."""
    check_scan(backend_of(backend), cell, CASES[case], dtype)


@pytest.mark.parametrize("cell", CELLS)
def test_recording_scan(backend: str, cell: str) -> None:
    """A forward that keeps a tape gives the same."""
    check_scan(backend_of(backend), cell, CASES["lengths-reverse"], "float64", record=True)


@pytest.mark.parametrize("parts", [[(0, 4), (4, 9)], [(7, 9), (0, 1), (1, 7)], [(n, n + 1) for n in range(9)]], ids=str)
@pytest.mark.parametrize("cell", ["lstm", "gru_reset_before", "lstm_projected"])
def test_scan_in_parts(backend: str, cell: str, parts: list[tuple[int, int]]) -> None:
    """The rows handed out in parts, in any order."""
    check_scan(backend_of(backend), cell, CASES["lengths-reverse"], "float64", parts=parts)


def test_no_rows_in_a_part(backend: str) -> None:
    """A part without rows writes nothing and does not fail."""
    check_scan(backend_of(backend), "lstm", CASES["lengths"], "float64", parts=[(0, 0), (0, 6), (6, 6)])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", CELLS)
def test_stack(backend: str, cell: str, dtype: str) -> None:
    """Two layers in both directions by the public interface."""
    check_stack(backend, cell, dtype)


@pytest.mark.parametrize("cell", ["lstm_peephole", "gru"])
def test_stack_without_bias(backend: str, cell: str) -> None:
    """Absent biases count as zero, ``bias_hn`` included; peepholes are no biases."""
    check_stack(backend, cell, "float64", bias=False)


@pytest.mark.parametrize("dtype", DTYPES)
def test_saturated_gates(backend: str, dtype: str) -> None:
    """Weights and inputs so large that every gate is at its limit: no NaN, no overflow."""
    layer = make_layer("lstm", 2, 5, backend=backend, dtype=dtype)
    layer.set_parameters({"weight_ih_l0": np.full((20, 2), 1e8)})
    x = np.array([[[1.0, 1.0]], [[-1.0, -1.0]]])
    y, (h, c) = layer(x)
    assert_close(y[0], np.full((1, 5), np.tanh(1.0)), "value", dtype, "open")
    assert_close(h, np.zeros((1, 1, 5)), "value", dtype, "closed")
    assert_close(c, np.zeros((1, 1, 5)), "value", dtype, "closed")


def test_state_may_be_overwritten(backend: str) -> None:
    """The arrays of the final states may be those of the initial ones, and a bound scan can be run again."""
    scan = draw_scan("lstm", CASES["seven-rows"])
    numbers = backend_of(backend)
    expected = run_scan(numbers, scan, "float64")
    pack = pack_of(numbers, scan, scan.parameters)
    y, state = np.zeros(scan.dy.shape), tuple(s.copy() for s in scan.state)
    run = numbers.forward(pack, scan.rows, scan.x, y, state, state, False)
    run(0, scan.case.B)
    assert_close(y, expected["y"], "value", "float64", "y")
    for k, array in enumerate(state):
        assert_close(array, expected[f"final{k}"], "value", "float64", f"final{k}")
    longer = draw_scan("lstm", CASES["seven-rows"])
    twice = numbers.forward(pack, scan.rows, scan.x, y, longer.state, longer.state, False)
    twice(0, scan.case.B)
    twice(0, scan.case.B)
    double = np.concatenate([scan.x, scan.x])
    y_double, final = np.zeros((2 * len(y), *y.shape[1:])), tuple(np.empty_like(s) for s in scan.state)
    numbers.forward(pack, Rows.of(2 * scan.case.T, scan.case.B), double, y_double, scan.state, final, False)(
        0, scan.case.B
    )
    assert_close(y, y_double[scan.case.T :], "value", "float64", "y again")
    for array, last in zip(longer.state, final, strict=True):
        assert_close(array, last, "value", "float64", "final again")


@pytest.mark.parametrize("reverse", [False, True])
def test_one_place_for_all_steps(backend: str, reverse: bool) -> None:
    """A y whose time stride is 0 keeps the step written last."""
    scan = draw_scan("gru", CASES["seven-rows"])
    numbers = backend_of(backend)
    pack = pack_of(numbers, scan, scan.parameters)
    last = np.zeros(scan.dy.shape[1:])
    y = np.lib.stride_tricks.as_strided(last, scan.dy.shape, (0, *last.strides))
    final = tuple(np.empty_like(s) for s in scan.state)
    numbers.forward(pack, scan.rows, scan.x, y, scan.state, final, reverse)(0, scan.case.B)
    assert_close(last, final[0], "value", "float64", "last")
