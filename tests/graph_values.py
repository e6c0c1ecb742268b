"""A cell's graph evaluated node by node with NumPy, in plain recursion: the tests' own, shared with no backend."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fastrnn.equations import Cell, Sizes
from fastrnn.graph import Node

Values = Mapping[str, np.ndarray]

OPERATIONS: dict[str, Callable[..., Any]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "neg": lambda a: -a,
    "max": np.maximum,
    "min": np.minimum,
    "exp": np.exp,
    "tanh": np.tanh,
    "sigmoid": lambda a: 1.0 / (1.0 + np.exp(-a)),
    "relu": lambda a: np.where(a > 0.0, a, 0.0),
    "softplus": lambda a: np.log1p(np.exp(a)),
    "select_gt": lambda a, b, u, v: np.where(a > b, u, v),
}


def evaluate(node: Node, leaf: Callable[[Node, Callable[[Node], Any]], Any], known: dict[int, Any]) -> Any:
    """The value of a node; ``leaf(node, value_of)`` gives that of everything that is not arithmetic."""
    if node.number not in known:
        if node.op == "constant":
            known[node.number] = node.value
        elif node.op in OPERATIONS:
            known[node.number] = OPERATIONS[node.op](*(evaluate(a, leaf, known) for a in node.args))
        else:
            known[node.number] = leaf(node, lambda inner: evaluate(inner, leaf, known))
    return known[node.number]


def step(cell: Cell, sizes: Sizes, parameters: Values, x: np.ndarray, state: tuple[np.ndarray, ...]) -> Any:
    """One time step of (B, I): the new states. ``parameters`` has the names without layer and direction."""
    hidden = sizes.hidden_size

    def block(name: str, gates: tuple[str, ...], gate: str) -> np.ndarray:
        return parameters[name][gates.index(gate) * hidden :][:hidden]

    def leaf(node: Node, value_of: Callable[[Node], Any]) -> Any:
        if node.op == "state":
            return state[node.name]
        if node.op == "input":
            product = x @ block("weight_ih", cell.input_gates, node.name).T
            return product + block("bias", cell.input_gates, node.name) if "bias" in parameters else product
        if node.op == "vector":
            return parameters.get(node.name, np.zeros(hidden))
        if node.op == "product":
            return value_of(node.args[0]) @ block("weight_hh", cell.recurrent_gates, node.name).T
        assert node.op == "projection", node
        return value_of(node.args[0]) @ parameters["weight_hr"].T

    known: dict[int, Any] = {}
    return tuple(evaluate(node, leaf, known) for node in cell.outputs)


def scan(
    cell: Cell, sizes: Sizes, parameters: Values, x: np.ndarray, state: tuple[np.ndarray, ...], lengths: Any = None,
    reverse: bool = False,
) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:  # fmt: skip
    """One direction over x (T, B, I), each row by itself: y, zero past a row's end, and the final states."""
    T, B, _ = x.shape
    y, final = np.zeros((T, *state[0].shape)), tuple(np.array(s) for s in state)
    for b in range(B):
        n = T if lengths is None else int(lengths[b])
        row = tuple(s[b : b + 1] for s in final)
        for t in reversed(range(n)) if reverse else range(n):
            row = step(cell, sizes, parameters, x[t, b : b + 1], row)
            y[t, b] = row[0][0]
        for whole, last in zip(final, row, strict=True):
            whole[b] = last[0]
    return y, final
