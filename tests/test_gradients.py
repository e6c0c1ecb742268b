"""Gradients in float64 against finite differences: every input, state and parameter, every cell, every backend."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import graph_values
import numpy as np
import odd_cells
import pytest
from cases import ANY_CELL, CASES, CELLS, SMALL_CASES, any_cell, assert_close, compiled
from conformance import (
    Arrays,
    backend_of,
    check_layer_differences,
    check_scan_gradients,
    draw_call,
    draw_scan,
    make_layer,
    oracle_slope,
    run_scan,
)

from fastrnn.equations import Sizes

ODD = {cell.__name__: cell for cell in odd_cells.CELLS}


@pytest.mark.parametrize("case", SMALL_CASES)
@pytest.mark.parametrize("cell", CELLS)
def test_every_element(backend: str, cell: str, case: str) -> None:
    """Every element of every gradient against finite differences of the oracle; dy and dstate are not zero."""
    check_scan_gradients(backend_of(backend), cell, SMALL_CASES[case])


@pytest.mark.parametrize("cell", ["lstm", "gru_reset_before", "lstm_projected"])
def test_in_parts(backend: str, cell: str) -> None:
    """The rows handed out in parts as they are recorded."""
    check_scan_gradients(backend_of(backend), cell, SMALL_CASES["lengths"], parts=[(2, 3), (0, 2), (3, 4)])


@lru_cache(maxsize=64)
def slopes(cell: str, case: str) -> dict[str, tuple[np.ndarray, float]]:
    """For each variable a random direction and the oracle's slope along it."""
    rng = np.random.default_rng(23)
    found = {}
    for name, value in draw_scan(cell, CASES[case]).variables.items():
        direction = rng.normal(size=value.shape)
        found[name] = direction, oracle_slope(cell, CASES[case], name, direction)
    return found


@pytest.mark.parametrize("case", ["seven-rows", "wide", "lengths-reverse"])
@pytest.mark.parametrize("cell", CELLS)
def test_slopes(backend: str, cell: str, case: str) -> None:
    """At larger sizes, each gradient along a random direction against the oracle's slope."""
    scan = draw_scan(cell, CASES[case])
    written = run_scan(backend_of(backend), scan, "float64", gradients=True)
    written["x"] = np.where(scan.valid()[:, :, None], written["x"], 0.0)
    for name, (direction, expected) in slopes(cell, case).items():
        assert expected != 0.0
        scale = max(1.0, np.abs(written[name] * direction).sum())
        assert_close(np.sum(written[name] * direction) / scale, expected / scale, "difference", "float64", name)


@lru_cache(maxsize=256)
def reference(cell: str, case: str) -> Arrays:
    """What the reference backend writes in float64."""
    return run_scan(backend_of("numpy"), draw_scan(cell, CASES[case]), "float64", gradients=True)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("cell", CELLS)
@compiled
def test_backends_agree(backend: str, cell: str, case: str) -> None:
    """Every element of every gradient at every size, with untouched padding, against the reference backend."""
    written = run_scan(backend_of(backend), draw_scan(cell, CASES[case]), "float64", gradients=True)
    for name, expected in reference(cell, case).items():
        assert_close(written[name], expected, "gradient", "float64", name)


@pytest.mark.parametrize("case", ["wide", "many-steps"])
@pytest.mark.parametrize("cell", CELLS)
def test_float32(backend: str, cell: str, case: str) -> None:
    """In float32 the same within its tolerance."""
    written = run_scan(backend_of(backend), draw_scan(cell, CASES[case]), "float32", gradients=True)
    for name, expected in reference(cell, case).items():
        assert_close(written[name], expected, "gradient", "float32", name)


@any_cell
@pytest.mark.parametrize("lengths", [None, [2, 0, 3]], ids=["full", "lengths"])
@pytest.mark.parametrize("cell", ODD)
def test_odd_cells(backend: str, cell: str, lengths: list[int] | None) -> None:
    """Cells with every operation: forward by the graph's plain evaluation, gradients by differences."""
    options: dict[str, Any] = {"proj_size": 2} if cell == "projected_inside" else {}
    layer = make_layer(ODD[cell], 2, 3, backend=backend, dtype="float64", **options)
    values = draw_call(layer, 3, 3)
    states = tuple(values[f"state{k}"][0] for k in range(len(layer.cell.states)))
    parameters = {name.removesuffix("_l0"): value for name, value in layer.parameters.items()}
    sizes = Sizes(layer.input_size, layer.hidden_size, layer.proj_size)
    expected, ends = graph_values.scan(layer.cell, sizes, parameters, values["x"], states, lengths)
    state = tuple(s[None] for s in states)
    y, final = layer(values["x"], state if len(state) > 1 else state[0], lengths)
    assert_close(y, expected, "value", "float64", "y")
    for k, (a, e) in enumerate(zip(final if len(state) > 1 else (final,), ends, strict=True)):
        assert_close(a[0], e, "value", "float64", f"final{k}")
    check_layer_differences(layer, values, lengths)


@pytest.mark.parametrize("cell", ODD)
@pytest.mark.parametrize("backend", [name for name in ANY_CELL if name != "numpy"])
def test_odd_cells_agree(backend: str, cell: str) -> None:
    """At sizes of several vectors, with lengths, in reverse, every gradient against the reference backend."""
    scan = draw_scan(ODD[cell], CASES["lengths-reverse"])
    expected = run_scan(backend_of("numpy"), scan, "float64", gradients=True)
    for name, value in run_scan(backend_of(backend), scan, "float64", gradients=True).items():
        assert_close(value, expected[name], "gradient", "float64", name)


def test_two_layers_in_both_directions(backend: str) -> None:
    """Through a stack, with lengths: the gradients of one layer are what the other one gets."""
    layer = make_layer("lstm", 2, 3, backend=backend, dtype="float64", num_layers=2, bidirectional=True)
    check_layer_differences(layer, draw_call(layer, 3, 2), [3, 2])


def test_no_gradient_is_zero(backend: str) -> None:
    """All of them depend on everything here: a zero is a gradient that was forgotten."""
    for cell in CELLS:
        for name, value in run_scan(
            backend_of(backend), draw_scan(cell, CASES["many-steps"]), "float64", gradients=True
        ).items():
            assert np.any(value != 0.0, axis=tuple(range(1, value.ndim))).all() or cell == "rnn_relu", (cell, name)
