"""RNN, GRU and LSTM as one writes them by hand in NumPy: gates side by side in one product, buffers kept, no library.

What somebody without a library would run, and often a hard peer to beat. Rows of one length, one direction.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastrnn.bench.contenders.base import Prepared
from fastrnn.bench.workload import Array, Workload


def prepare(work: Workload) -> Prepared:
    """The case's step, sequence, or sequence forward and backward; one layer only for the last."""
    return {"step": _step, "forward": _forward, "training": _training}[work.case.mode](work)


def supports(work: Workload) -> bool:
    """Whether it does this case."""
    case = work.case
    return not case.ragged and case.directions == 1 and (case.layers == 1 or case.mode == "step")


def _sigmoid(a: Array) -> None:
    """In place."""
    np.negative(a, a)
    np.exp(a, a)
    a += 1
    np.reciprocal(a, a)


class _Layer:
    """A layer's weights, transposed for the products, and what one step computes."""

    def __init__(self, work: Workload, index: int) -> None:
        case = work.case
        self.size = case.H
        weight_ih, weight_hh, self.bias = work.layer(index)
        self.w, self.r = np.ascontiguousarray(weight_ih.T), np.ascontiguousarray(weight_hh.T)
        self.inner = work.parameters.get(f"bias_hn_l{index}")
        self.states = [np.zeros((case.B, case.H), case.dtype) for _ in range(2 if case.cell == "lstm" else 1)]
        self.product = np.empty((case.B, len(self.bias)), case.dtype)
        # From the input's products, which become the gates, and the states to the new states.
        self.step: Callable[[Array, list[Array]], list[Array]] = getattr(self, f"_{case.cell}")

    def products(self, x: Array) -> Array:
        """W x + b, for one step or all of them."""
        flat = np.dot(x if x.ndim == 2 else x.reshape(-1, x.shape[-1]), self.w)
        flat += self.bias
        products: Array = flat if x.ndim == 2 else flat.reshape(*x.shape[:-1], -1)
        return products

    def _rnn(self, a: Array, states: list[Array]) -> list[Array]:
        a += np.dot(states[0], self.r, self.product)
        return [np.tanh(a, a)]

    def _gru(self, a: Array, states: list[Array]) -> list[Array]:
        (h,), size = states, self.size
        product = np.dot(h, self.r, self.product)
        gates, n = a[:, : 2 * size], a[:, 2 * size :]
        gates += product[:, : 2 * size]
        _sigmoid(gates)
        inner = product[:, 2 * size :]
        inner += self.inner
        n += gates[:, :size] * inner
        np.tanh(n, n)
        new = h - n
        new *= gates[:, size:]
        new += n
        return [new]

    def _lstm(self, a: Array, states: list[Array]) -> list[Array]:
        (h, c), size = states, self.size
        a += np.dot(h, self.r, self.product)
        _sigmoid(a[:, : 2 * size])
        g, o = a[:, 2 * size : 3 * size], a[:, 3 * size :]
        np.tanh(g, g)
        _sigmoid(o)
        new = a[:, size : 2 * size] * c
        new += a[:, :size] * g
        return [o * np.tanh(new), new]


def _step(work: Workload) -> Prepared:
    layers = [_Layer(work, index) for index in range(work.case.layers)]
    first = work.x[0]

    def call() -> None:
        x = first
        for layer in layers:
            layer.states = layer.step(layer.products(x), layer.states)
            x = layer.states[0]

    return Prepared(call, lambda: {"y": layers[-1].states[0], "h": np.stack([layer.states[0] for layer in layers])})


def _forward(work: Workload) -> Prepared:
    layer, case = _Layer(work, 0), work.case
    start = layer.states
    y = np.empty((case.T, case.B, case.H), case.dtype)

    def call() -> None:
        nonlocal y
        y = np.empty_like(y)
        states = start
        for t, a in enumerate(layer.products(work.x)):
            states = layer.step(a, states)
            y[t] = states[0]

    return Prepared(call, lambda: {"y": y, "h": y[-1:]})


def _training(work: Workload) -> Prepared:
    layer, case = _Layer(work, 0), work.case
    results: dict[str, Any] = {}

    def call() -> None:
        gates = layer.products(work.x)
        kept = [layer.states]
        inners = []
        for a in gates:
            kept.append(layer.step(a, kept[-1]))
            if case.cell == "gru":
                inners.append(layer.product[:, 2 * case.H :].copy())
        results.update(_backward(work, layer, gates, kept, inners))

    return Prepared(call, lambda: results)


def _backward(work: Workload, layer: _Layer, gates: Array, kept: Any, inners: list[Array]) -> dict[str, Any]:
    """Through time; ``da`` is the gradient of W x + b, ``dr`` that of R h."""
    case = work.case
    back = {"rnn": _rnn_back, "gru": _gru_back, "lstm": _lstm_back}[case.cell]
    da = np.empty_like(gates)
    dr = np.empty_like(gates) if case.cell == "gru" else da
    dstates = [np.zeros_like(state) for state in kept[0]]
    recurrent = np.ascontiguousarray(layer.r.T)
    for t in reversed(range(case.T)):
        dstates[0] += work.dy[t]
        back(gates[t], kept[t], kept[t + 1], inners[t] if inners else None, dstates, da[t], dr[t])
        dstates[0] += dr[t] @ recurrent
    h = np.stack([states[0] for states in kept])
    flat, dflat = da.reshape(-1, da.shape[-1]), dr.reshape(-1, dr.shape[-1])
    found = {
        "y": h[1:],
        "h": h[-1:],
        "dx": (flat @ layer.w.T).reshape(case.T, case.B, case.I),
        "dweight_ih_l0": flat.T @ work.x.reshape(-1, case.I),
        "dweight_hh_l0": dflat.T @ h[:-1].reshape(-1, case.H),
        "dbias_l0": flat.sum(0),
    }
    return {**found, "dbias_hn_l0": dflat[:, 2 * case.H :].sum(0)} if case.cell == "gru" else found


def _rnn_back(a: Array, old: Any, new: Any, inner: Any, d: list[Array], da: Array, dr: Array) -> None:
    np.multiply(d[0], 1 - a * a, da)
    d[0][...] = 0


def _gru_back(a: Array, old: Any, new: Any, inner: Any, d: list[Array], da: Array, dr: Array) -> None:
    r, z, n = np.split(a, 3, axis=1)
    dh, size = d[0], a.shape[1] // 3
    dn = dh * (1 - z) * (1 - n * n)
    np.multiply(dn * inner, r * (1 - r), da[:, :size])
    np.multiply(dh * (old[0] - n), z * (1 - z), da[:, size : 2 * size])
    da[:, 2 * size :] = dn
    dr[:, : 2 * size] = da[:, : 2 * size]
    np.multiply(dn, r, dr[:, 2 * size :])
    dh *= z


def _lstm_back(a: Array, old: Any, new: Any, inner: Any, d: list[Array], da: Array, dr: Array) -> None:
    i, f, g, o = np.split(a, 4, axis=1)
    (dh, dc), size = d, a.shape[1] // 4
    tanh = np.tanh(new[1])
    dc += dh * o * (1 - tanh * tanh)
    np.multiply(dc * g, i * (1 - i), da[:, :size])
    np.multiply(dc * old[1], f * (1 - f), da[:, size : 2 * size])
    np.multiply(dc * i, 1 - g * g, da[:, 2 * size : 3 * size])
    np.multiply(dh * tanh, o * (1 - o), da[:, 3 * size :])
    dc *= f
    dh[...] = 0
