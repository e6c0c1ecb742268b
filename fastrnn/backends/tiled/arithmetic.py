"""A cell's graph as arithmetic on vectors: which operation each node is, in which order, and what is fused."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastrnn import approximations
from fastrnn.backends.tiled.emitter import Emitter
from fastrnn.graph import Node

_OPERATIONS: dict[str, Callable[..., Any]] = {
    "sigmoid": approximations.sigmoid, "tanh": approximations.tanh, "exp": approximations.exp,
    "softplus": approximations.softplus,
}  # fmt: skip
# The others are the emitter's own.
_METHODS = {
    "add": "add", "sub": "sub", "mul": "mul", "div": "div", "neg": "neg", "max": "quiet_max", "min": "quiet_min",
    "relu": "relu", "select_gt": "select_gt",
}  # fmt: skip


def evaluate(emit: Emitter, node: Node, known: dict[int, Any]) -> Any:
    """A node's value; ``known`` holds those emitted, loaded or accumulated, by node number."""
    value = known.get(node.number)
    if value is None:
        value = emit.const(node.value) if node.op == "constant" else _compute(emit, node, known)
        known[node.number] = value
    return value


def _compute(emit: Emitter, node: Node, known: dict[int, Any]) -> Any:
    fused = _fused(emit, node, known) if node.op in ("add", "sub") else None
    if fused is not None:
        return fused
    arguments = [evaluate(emit, a, known) for a in node.args]
    if node.op in _OPERATIONS:
        return _OPERATIONS[node.op](emit, *arguments)
    return getattr(emit, _METHODS[node.op])(*arguments)


def _fused(emit: Emitter, node: Node, known: dict[int, Any]) -> Any:
    """a + b * c and its kin as one multiply-add: the second product of a sum is fused, else the first."""
    a, b = node.args
    if b.op == "mul" and b.number not in known:
        left, right = (evaluate(emit, v, known) for v in b.args)
        return emit.fma(left if node.op == "add" else emit.neg(left), right, evaluate(emit, a, known))
    if a.op == "mul" and a.number not in known:
        left, right = (evaluate(emit, v, known) for v in a.args)
        rest = evaluate(emit, b, known)
        return emit.fma(left, right, rest if node.op == "add" else emit.neg(rest))
    return None
