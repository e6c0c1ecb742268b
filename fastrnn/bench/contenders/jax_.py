"""JAX: a compiled scan, the input's products for all steps at once ahead of it; its own gradients."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from typing import Any

import numpy as np

from fastrnn.bench.contenders.base import Contender, Prepared, Variants
from fastrnn.bench.workload import Array, Workload

UNROLL = 8


class Jax(Contender):
    """Everything under one ``jax.jit``, weights laid out as the products read them."""

    name = "jax"
    title = "JAX"
    modules = ("jax", "jaxlib")
    packages = ("jax", "jaxlib")

    def environment(self, threads: int) -> dict[str, str]:
        found = {"JAX_PLATFORMS": "cpu", "NPROC": str(threads), "PJRT_NPROC": str(threads)}
        return {**found, "XLA_FLAGS": "--xla_cpu_multi_thread_eigen=false"} if threads == 1 else found

    def variants(self, work: Workload, threads: int) -> Variants:
        if work.case.dtype == "float64":
            importlib.import_module("jax").config.update("jax_enable_x64", True)
        if work.case.mode == "step":
            return {"jit": lambda: _step(work)}
        if work.case.mode == "training":
            return {"scan": lambda: _training(work)}
        found: Variants = {"scan": lambda: _forward(work, 1)}
        if work.case.T > UNROLL and work.case.layers == 1:  # it takes long to compile, and rarely helps
            found["scan, unrolled"] = lambda: _forward(work, UNROLL)
        return found


def _parameters(work: Workload) -> dict[str, Any]:
    jax = importlib.import_module("jax")
    return {name: jax.device_put(np.ascontiguousarray(value.T)) for name, value in work.parameters.items()}


def _cell(work: Workload, parameters: dict[str, Any], suffix: str) -> Callable[[Any, Any], Any]:
    """From the input's products and the states to the new states."""
    jax = importlib.import_module("jax")
    np_, sigmoid, R = jax.numpy, jax.nn.sigmoid, parameters["weight_hh" + suffix]

    def lstm(xs: Any, states: Any) -> Any:
        h, c = states
        i, f, g, o = np_.split(xs + h @ R, 4, axis=-1)
        c = sigmoid(f) * c + sigmoid(i) * np_.tanh(g)
        return sigmoid(o) * np_.tanh(c), c

    def gru(xs: Any, states: Any) -> Any:
        (h,) = states
        (xr, xz, xn), (hr, hz, hn) = np_.split(xs, 3, axis=-1), np_.split(h @ R, 3, axis=-1)
        z = sigmoid(xz + hz)
        n = np_.tanh(xn + sigmoid(xr + hr) * (hn + parameters["bias_hn" + suffix]))
        return (n + z * (h - n),)

    def rnn(xs: Any, states: Any) -> Any:
        return (np_.tanh(xs + states[0] @ R),)

    return {"lstm": lstm, "gru": gru, "rnn": rnn}[work.case.cell]


def _products(parameters: dict[str, Any], suffix: str, x: Any) -> Any:
    return x @ parameters["weight_ih" + suffix] + parameters["bias" + suffix]


def _zeros(work: Workload) -> tuple[Any, ...]:
    np_, case = importlib.import_module("jax").numpy, work.case
    return (np_.zeros((case.B, case.H), case.dtype),) * (2 if case.cell == "lstm" else 1)


def _network(work: Workload, unroll: int) -> Callable[[dict[str, Any], Any], Any]:
    """From parameters and x to y and the final h of all layers and directions."""
    jax, case = importlib.import_module("jax"), work.case
    np_, lengths = jax.numpy, case.lengths
    mask = None if lengths is None else (np.arange(case.T)[:, None] < lengths)[:, :, None]

    def direction(parameters: dict[str, Any], suffix: str, x: Any) -> Any:
        cell = _cell(work, parameters, suffix)

        def body(states: Any, here: Any) -> Any:
            xs, valid = here
            new = cell(xs, states)
            if valid is None:
                return new, new[0]
            return tuple(np_.where(valid, a, b) for a, b in zip(new, states, strict=True)), new[0] * valid

        inputs = (_products(parameters, suffix, x), mask)
        return jax.lax.scan(body, _zeros(work), inputs, reverse="reverse" in suffix, unroll=unroll)

    def network(parameters: dict[str, Any], x: Any) -> Any:
        finals = []
        for layer in range(case.layers):
            ends = [f"_l{layer}", f"_l{layer}_reverse"][: case.directions]
            results = [direction(parameters, end, x) for end in ends]
            finals += [states[0] for states, _ in results]
            x = np_.concatenate([y for _, y in results], axis=-1) if len(results) > 1 else results[0][1]
        return x, np_.stack(finals)

    return network


def _step(work: Workload) -> Prepared:
    jax, case = importlib.import_module("jax"), work.case

    def step(parameters: dict[str, Any], x: Any, states: Any) -> Any:
        new = []
        for layer in range(case.layers):
            suffix = f"_l{layer}"
            new.append(_cell(work, parameters, suffix)(_products(parameters, suffix, x), states[layer]))
            x = new[-1][0]
        return new

    run, parameters, x = jax.jit(step), _parameters(work), jax.device_put(work.x[0])
    states = [_zeros(work) for _ in range(case.layers)]

    def call() -> None:
        nonlocal states
        states = run(parameters, x, states)
        states[-1][0].block_until_ready()

    def outputs() -> dict[str, Array]:
        h = np.stack([np.asarray(layer[0]) for layer in states])
        return {"y": h[-1], "h": h}

    return Prepared(call, outputs)


def _forward(work: Workload, unroll: int) -> Prepared:
    jax = importlib.import_module("jax")
    run, parameters, x = jax.jit(_network(work, unroll)), _parameters(work), jax.device_put(work.x)
    results: Any = None

    def call() -> None:
        nonlocal results
        results = jax.block_until_ready(run(parameters, x))

    return Prepared(call, lambda: {"y": np.asarray(results[0]), "h": np.asarray(results[1])})


def _training(work: Workload) -> Prepared:
    jax = importlib.import_module("jax")
    network = _network(work, unroll=1)

    @jax.jit  # type: ignore[untyped-decorator]
    def both(parameters: dict[str, Any], x: Any, dy: Any) -> Any:
        y, pull, h = jax.vjp(network, parameters, x, has_aux=True)
        return y, h, pull(dy)

    parameters, x, dy = _parameters(work), jax.device_put(work.x), jax.device_put(work.dy)
    results: Any = None

    def call() -> None:
        nonlocal results
        results = jax.block_until_ready(both(parameters, x, dy))

    def outputs() -> dict[str, Array]:
        y, h, (gradients, dx) = results
        found = {"y": np.asarray(y), "h": np.asarray(h), "dx": np.asarray(dx)}
        found.update({f"d{name}": np.asarray(value).T for name, value in gradients.items()})
        return found

    return Prepared(call, outputs)
