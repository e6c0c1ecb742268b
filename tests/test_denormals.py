"""Denormal numbers: flushed to zero within a kernel, where they would cost much, and nowhere else."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from cases import DTYPES, any_cell, assert_close, assert_same_bits
from conformance import draw_call, make_layer, states_of

import fastrnn
from fastrnn import sigmoid

SMALLEST = {"float32": 1e-38, "float64": 2e-308}  # the last normal numbers, nearly


def denormals_live() -> bool:
    """Whether this thread computes with denormals, produced and taken in, in both types."""
    alive = []
    for name, small in SMALLEST.items():
        kind = np.dtype(name).type
        made = np.full(64, small, kind) * kind(0.125)
        alive += [bool(np.all(made != 0.0)), bool(np.all(made * kind(8.0) != 0.0))]
    return all(alive)


def tiny(layer: fastrnn.Recurrent, values: dict[str, np.ndarray], names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Some of the inputs, every second value of them denormal."""
    changed = dict(values)
    for name in names:
        flat = np.array(values[name], layer.dtype).reshape(-1)
        flat[::2] = SMALLEST[layer.dtype.name] * 0.25
        changed[name] = flat.reshape(values[name].shape)
    return changed


def without(layer: fastrnn.Recurrent, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The same with zeros for denormals."""
    least = np.finfo(layer.dtype).tiny
    return {name: np.where(np.abs(value) < least, 0.0, value) for name, value in values.items()}


def everything(layer: fastrnn.Recurrent, values: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """y, the final states and all gradients."""
    y, final, tape = layer.record(values["x"], states_of(values))
    found = layer.backward(tape, values["dy"], states_of(values, "dstate"))
    return {"y": y, "h": final[0], "c": final[1], "x": found.x, "dh": found.state[0], "dc": found.state[1],
            **found.parameters}  # fmt: skip


@pytest.mark.needs("numba")
@pytest.mark.parametrize("dtype", DTYPES)
def test_inputs_count_as_zero(dtype: str) -> None:
    """Denormals in x, states, dy and dstate, against zeros in their places."""
    layer = make_layer("lstm", 5, 19, backend="numba", dtype=dtype)
    values = tiny(layer, draw_call(layer, 4, 7), ("x", "state0", "state1", "dy", "dstate0", "dstate1"))
    expected = everything(layer, without(layer, values))
    for name, value in everything(layer, values).items():
        assert_same_bits(np.abs(value), np.abs(expected[name]), name)


@pytest.mark.needs("numba")
@pytest.mark.parametrize("dtype", DTYPES)
def test_weights_count_as_zero(dtype: str) -> None:
    """Denormal weights, against zeros in their places."""
    layer = make_layer("lstm", 5, 19, backend="numba", dtype=dtype)
    values = draw_call(layer, 4, 7)
    weights = {name: np.array(value) for name, value in layer.parameters.items()}
    layer.set_parameters(tiny(layer, weights, tuple(weights)))
    found = everything(layer, values)
    assert any(np.any((value != 0) & (np.abs(value) < np.finfo(dtype).tiny)) for value in layer.parameters.values())
    layer.set_parameters(without(layer, dict(layer.parameters)))
    for name, expected in everything(layer, values).items():
        assert_same_bits(np.abs(found[name]), np.abs(expected), name)


def fading(x: Any, h: Any) -> Any:
    """Nothing but a decay, which ends among the denormals."""
    return h * sigmoid(x.f)


@any_cell
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_state_fades_to_zero(backend: str, dtype: str) -> None:
    """A chain of halvings: the values are right down to the smallest normal number; a compiled kernel then has zero."""
    layer = make_layer(fading, 1, 3, backend=backend, dtype=dtype)
    layer.set_parameters({"weight_ih_l0": np.zeros((3, 1)), "bias_l0": np.zeros(3)})
    steps = 1100 if dtype == "float64" else 160
    y, _ = layer(np.zeros((steps, 1, 1)), np.ones((1, 1, 3)))
    expected = 0.5 ** np.arange(1, steps + 1)
    normal = expected >= np.finfo(dtype).tiny
    np.testing.assert_allclose(y[normal, 0, 0], expected[normal], rtol=1e-3 if dtype == "float32" else 1e-9)
    if backend == "numba":
        assert not y[~normal].any()
    assert_close(y[-1, 0], np.zeros(3), "value", dtype, "y")


def calls(layer: fastrnn.Recurrent) -> dict[str, Callable[[], Any]]:
    """Everything that runs a kernel."""
    values = draw_call(layer, 4, 3)
    _, _, tape = layer.record(values["x"])
    stream = layer.stream(3)
    return {
        "call": lambda: layer(values["x"]),
        "call with lengths": lambda: layer(values["x"], lengths=[0, 4, 1]),
        "empty": lambda: layer(values["x"], lengths=[0, 0, 0]),
        "record": lambda: layer.record(values["x"]),
        "backward": lambda: layer.backward(tape, values["dy"]),
        "step": lambda: stream.step(values["x"][0]),
        "chunk": lambda: stream.chunk(values["x"]),
    }


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_mode_is_put_back(backend: str, dtype: str) -> None:
    """After each call this thread computes with denormals as it did before."""
    layer = make_layer("lstm", 5, 19, backend=backend, dtype=dtype)
    assert denormals_live()
    for name, call in calls(layer).items():
        call()
        assert denormals_live(), f"after {name}"


def test_the_mode_of_another_thread(backend: str) -> None:
    """Nor does a thread that computes lose them, while others are at work."""
    layer = make_layer("lstm", 5, 19, backend=backend)
    alive: list[bool] = []

    def work() -> None:
        for call in calls(layer).values():
            call()
            alive.append(denormals_live())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(alive) == 4 * len(calls(layer))
    assert all(alive)
