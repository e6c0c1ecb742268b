"""Cells as a user writes them in a script, minGRU and Li-GRU, and what a compilation may depend on."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from cases import DTYPES, SMALL_CASES, any_cell, assert_close
from conformance import (
    backend_of,
    check_layer_differences,
    check_scan,
    check_scan_gradients,
    check_stack,
    draw_call,
    make_layer,
)

import fastrnn
from fastrnn import relu, sigmoid, tanh
from fastrnn.equations import trace


def my_mingru(x, h):
    z = sigmoid(x.z)
    return (1 - z) * h + z * x.n


def my_ligru(x, h, R):
    z = sigmoid(x.z + R.z(h))
    n = relu(x.n + R.n(h))
    return z * h + (1 - z) * n


def my_clockwork(x, h, c, R, rate=0.125):
    """No published one: a leaky memory that the output is gated by."""
    c = (1 - rate) * c + rate * tanh(x.m + R.m(h))
    return sigmoid(x.o + R.o(c)) * c, c


MINE = {"mingru": my_mingru, "ligru": my_ligru}


@pytest.mark.parametrize("case", SMALL_CASES)
@pytest.mark.parametrize("name", MINE)
def test_scan(backend: str, name: str, case: str) -> None:
    """Forward against the oracle, gradients against its finite differences."""
    check_scan(backend_of(backend), name, SMALL_CASES[case], "float64", cell=MINE[name])
    check_scan_gradients(backend_of(backend), name, SMALL_CASES[case], cell=MINE[name])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", MINE)
def test_layer(backend: str, name: str, dtype: str) -> None:
    """Layers and directions, by the public interface."""
    check_stack(backend, name, dtype, cell=MINE[name])


@any_cell
def test_gradients_of_a_layer(backend: str) -> None:
    """A cell that no oracle knows."""
    layer = make_layer(my_clockwork, 3, 4, backend=backend, dtype="float64")
    check_layer_differences(layer, draw_call(layer, 3, 2), [2, 3])


def test_cell_from_text(backend: str) -> None:
    """A cell without a source file, as one typed at a prompt, behaves as any other."""
    space: dict[str, Any] = {"tanh": tanh}
    exec("def typed(x, h, R):\n    return tanh(x.h + R.h(h))\n", space)
    typed = make_layer(space["typed"], 3, 4, backend=backend)
    known = make_layer("rnn_tanh", 3, 4, backend=backend)
    x = np.random.default_rng(1).normal(size=(5, 2, 3))
    assert_close(typed(x)[0], known(x)[0], "value", "float32", "y")


@any_cell
def test_lambda_and_closure(backend: str) -> None:
    """A lambda is a function, and what a cell closes over is part of its equations."""

    def leaky(rate: float) -> Any:
        return lambda x, h, R: (1 - rate) * h + rate * tanh(x.h + R.h(h))

    slow, fast = trace(leaky(0.25)), trace(leaky(0.75))
    assert slow.digest != fast.digest
    x = np.ones((1, 1, 2))
    slow_y, fast_y = (make_layer(cell, 2, 3, backend=backend)(x)[0] for cell in (slow, fast))
    assert_close(fast_y, slow_y * 3, "value", "float32", "y")


def compilations() -> dict[str, int]:
    """How many versions of each compiled function there are by now."""
    from fastrnn.backends.numba_ import host, scan

    found = {**vars(host), **vars(scan)}
    return {name: len(value.signatures) for name, value in found.items() if hasattr(value, "signatures")}


def run_everything(layer: fastrnn.Recurrent, steps: int, batch: int, lengths: Any = None) -> None:
    """Forward, recording forward, backward, a stream."""
    values = draw_call(layer, steps, batch)
    layer(values["x"], lengths=lengths)
    layer(values["x"], sequence=False)
    _, _, tape = layer.record(values["x"], None, lengths)
    layer.backward(tape, values["dy"])
    if not layer.bidirectional:
        layer.stream(batch).chunk(values["x"])


@pytest.mark.needs("numba")
def test_one_compilation_for_all_sizes() -> None:
    """Other T, B, I, H, lengths, directions, another layer of the same cell, the same equations again: nothing new."""
    run_everything(make_layer(my_clockwork, 3, 4, backend="numba", dtype="float64"), 3, 2)
    before = compilations()
    assert before["forward"] >= 1
    assert before["backward"] >= 1
    run_everything(make_layer(my_clockwork, 3, 4, backend="numba", dtype="float64"), 17, 1)
    run_everything(make_layer(my_clockwork, 11, 70, backend="numba", dtype="float64"), 2, 13, [2, 0, 1] * 4 + [2])
    run_everything(
        make_layer(my_clockwork, 1, 1, backend="numba", dtype="float64", num_layers=2, bidirectional=True, bias=False),
        4,
        3,
    )
    assert compilations() == before

    def the_same_again(x, h, c, R):
        c = (1 - 0.125) * c + 0.125 * tanh(x.m + R.m(h))
        return sigmoid(x.o + R.o(c)) * c, c

    run_everything(make_layer(the_same_again, 5, 6, backend="numba", dtype="float64"), 3, 2)
    assert compilations() == before


@pytest.mark.needs("numba")
def test_another_cell_is_compiled_anew() -> None:
    """The count above can count: forward and backward once each."""
    run_everything(make_layer("ligru", 3, 4, backend="numba", dtype="float64"), 3, 2)
    before = compilations()

    def another(x, h, R):
        return tanh(x.h + R.h(h)) - 0.0625 * h

    run_everything(make_layer(another, 3, 4, backend="numba", dtype="float64"), 3, 2)
    after = compilations()
    assert after["forward"] == before["forward"] + 1
    assert after["backward"] == before["backward"] + 1
