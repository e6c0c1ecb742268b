"""Long chains without a nonlinear operation: 500 steps against a float64 matrix recursion, as close as rounding allows.

Each step rounds sums of some thirty terms whose absolute values add up to M; the chain neither dies nor explodes, so
after t steps the error is at most about t eps M. Anything else, a lost low bit in a weight, a wrong row, is far above.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from cases import DTYPES, any_cell
from conformance import make_layer

import fastrnn

T, B, I, H = 500, 3, 3, 19  # noqa: E741


def leaky(x: Any, h: Any, R: Any) -> Any:
    """One state: h' = x + R h / 2 + 3 h / 8."""
    return x.h + 0.5 * R.h(h) + 0.375 * h


def crossed(x: Any, h: Any, c: Any, R: Any) -> Any:
    """Two states that feed one another."""
    return x.h + R.h(c) - 0.25 * h, 0.5 * c + R.c(h)


class System(NamedTuple):
    """s' = A s + W x + b, in float64; ``blocks`` says which parts of A are which gate of weight_hh, and times what."""

    A: np.ndarray
    W: np.ndarray
    b: np.ndarray
    blocks: tuple[tuple[slice, slice, float], ...]


FIRST, SECOND = slice(0, H), slice(H, 2 * H)


def system_of(layer: fastrnn.Recurrent) -> System:
    """The matrices of a layer of `leaky` or `crossed`."""
    p = {name: np.array(value, np.float64) for name, value in layer.parameters.items()}
    R, W, b = p["weight_hh_l0"], p["weight_ih_l0"], p["bias_l0"]
    if layer.cell.name == "leaky":
        return System(0.5 * R + 0.375 * np.eye(H), W, b, ((FIRST, FIRST, 0.5),))
    A = np.block([[-0.25 * np.eye(H), R[:H]], [R[H:], 0.5 * np.eye(H)]])
    zeros = np.zeros((H, I))
    return System(
        A, np.concatenate([W, zeros]), np.concatenate([b, zeros[:, 0]]), ((FIRST, SECOND, 1.0), (SECOND, FIRST, 1.0))
    )


def prepared(cell: Any, backend: str, dtype: str) -> tuple[fastrnn.Recurrent, System]:
    """A layer whose chain stays as large as it is: recurrent weights scaled until A has a spectral radius of 1."""
    layer = make_layer(cell, I, H, backend=backend, dtype=dtype)
    weights = np.array(layer.parameters["weight_hh_l0"])
    low, high = 0.0, 8.0
    for _ in range(40):
        middle = (low + high) / 2
        layer.set_parameters({"weight_hh_l0": weights * middle})
        radius = np.abs(np.linalg.eigvals(system_of(layer).A)).max()
        low, high = (middle, high) if radius < 1 else (low, middle)
    return layer, system_of(layer)


def split(states: np.ndarray) -> Any:
    """(B, states side by side) as a layer takes them."""
    parts = tuple(np.split(states[None], states.shape[1] // H, axis=2))
    return parts if len(parts) > 1 else parts[0]


def joined(state: Any) -> np.ndarray:
    """The other way."""
    return np.concatenate(state if isinstance(state, tuple) else [state], axis=2)[0]


@any_cell
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", [leaky, crossed], ids=lambda c: c.__name__)
def test_chain(backend: str, cell: Any, dtype: str) -> None:
    """Every step's output and the last state; the error is held against the number of steps so far."""
    layer, (A, W, b, _) = prepared(cell, backend, dtype)
    rng = np.random.default_rng(2)
    x, state = rng.normal(size=(T, B, I)).astype(dtype), rng.normal(size=(B, len(A))).astype(dtype)
    y, final = layer(x, split(state))
    state, eps, magnitude = state.astype(np.float64), np.finfo(dtype).eps, 0.0
    for t in range(T):
        terms = np.abs(x[t]) @ np.abs(W).T + np.abs(b) + np.abs(state) @ np.abs(A).T
        magnitude = max(magnitude, float(terms.max()))
        state = state @ A.T + x[t].astype(np.float64) @ W.T + b
        error = np.abs(y[t] - state[:, FIRST]).max()
        assert error <= (t + 1) * eps * magnitude, f"step {t}: {error}"
    assert np.abs(state).max() > 1.0, "the chain has died"
    assert np.abs(joined(final) - state).max() <= T * eps * magnitude


@any_cell
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", [leaky, crossed], ids=lambda c: c.__name__)
def test_gradient_chain(backend: str, cell: Any, dtype: str) -> None:
    """The same backward: of x at every step, of the first state, and of all parameters."""
    layer, (A, W, b, blocks) = prepared(cell, backend, dtype)
    rng = np.random.default_rng(3)
    x, start = rng.normal(size=(T, B, I)).astype(dtype), rng.normal(size=(B, len(A))).astype(dtype)
    dy, end = rng.normal(size=(T, B, H)).astype(dtype), rng.normal(size=(B, len(A))).astype(dtype)
    _, _, tape = layer.record(x, split(start))
    found = layer.backward(tape, dy, split(end))
    states = [start.astype(np.float64)]
    for t in range(T):
        states.append(states[-1] @ A.T + x[t].astype(np.float64) @ W.T + b)
    eps, magnitude, largest = np.finfo(dtype).eps, 0.0, max(np.abs(s).max() for s in states)
    adjoint = end.astype(np.float64)
    dA, dW, db = np.zeros_like(A), np.zeros_like(W), np.zeros_like(b)
    for t in reversed(range(T)):
        adjoint[:, FIRST] += dy[t]
        magnitude = max(
            magnitude, float((np.abs(adjoint) @ np.abs(A)).max()), float((np.abs(adjoint) @ np.abs(W)).max())
        )
        error = np.abs(found.x[t] - adjoint @ W).max()
        assert error <= (T - t) * eps * magnitude, f"step {t}: {error}"
        dA, dW, db = dA + adjoint.T @ states[t], dW + adjoint.T @ x[t], db + adjoint.sum(axis=0)
        adjoint = adjoint @ A
    assert np.abs(joined(found.state) - adjoint).max() <= T * eps * magnitude
    limit = T * eps * magnitude * B * T  # of a sum over all rows and steps of adjoint times at most 1
    gates = [dA[rows, columns] * factor for rows, columns, factor in blocks]
    assert np.abs(found.parameters["weight_hh_l0"] - np.concatenate(gates)).max() <= limit * largest / np.sqrt(T)
    assert np.abs(found.parameters["weight_ih_l0"] - dW[FIRST]).max() <= limit * 4 / np.sqrt(T)
    assert np.abs(found.parameters["bias_l0"] - db[FIRST]).max() <= limit / np.sqrt(T)
