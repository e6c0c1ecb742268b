"""The graph of a cell: nodes, and the operations that make them.

Nodes behave like numbers in a cell's equations; `equations` gives them their functions and traces a cell to a graph.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Container, Iterable
from typing import Any

import numpy as np

UNARY = frozenset({"neg", "sigmoid", "tanh", "relu", "exp", "softplus"})
NONLINEAR = frozenset({"sigmoid", "tanh", "relu", "exp", "softplus", "div"})  # dear enough to keep, not to do again
LEAVES = frozenset({"input", "state", "vector", "constant", "adjoint"})
PRODUCTS = frozenset({"product", "projection", "backproduct"})

HIDDEN, PROJECTED = "H", "P"  # the two widths that a value can have


class CellError(ValueError):
    """A cell that cannot be a cell; the message names it and the place."""


class Node:
    """One value of a graph. Equal expressions are the same node; ``number`` is a topological order."""

    __slots__ = ("args", "graph", "line", "name", "number", "op", "value")

    def __init__(self, graph: Graph, op: str, args: tuple[Node, ...], name: Any, value: float, line: int) -> None:
        self.graph, self.op, self.args, self.name, self.value, self.line = graph, op, args, name, value, line
        self.number = -1

    def __repr__(self) -> str:
        inner = ", ".join(f"%{a.number}" for a in self.args)
        label = self.value if self.op == "constant" else self.name
        return (
            f"%{self.number} = {self.op}"
            + (f"[{label}]" if label is not None else "")
            + (f"({inner})" if inner else "")
        )

    def __add__(self, other: Any) -> Node:
        return self.graph.binary("add", self, other)

    def __radd__(self, other: Any) -> Node:
        return self.graph.binary("add", other, self)

    def __sub__(self, other: Any) -> Node:
        return self.graph.binary("sub", self, other)

    def __rsub__(self, other: Any) -> Node:
        return self.graph.binary("sub", other, self)

    def __mul__(self, other: Any) -> Node:
        return self.graph.binary("mul", self, other)

    def __rmul__(self, other: Any) -> Node:
        return self.graph.binary("mul", other, self)

    def __truediv__(self, other: Any) -> Node:
        return self.graph.binary("div", self, other)

    def __rtruediv__(self, other: Any) -> Node:
        return self.graph.binary("div", other, self)

    def __neg__(self) -> Node:
        return self.graph.node("neg", (self,))

    def __abs__(self) -> Node:
        return self.graph.binary("max", self, -self)

    def __bool__(self) -> bool:
        raise CellError("the equations branch on a value; write maximum() or minimum() in place of a condition")

    def __eq__(self, other: object) -> bool:
        """Refused within a cell's equations, where it would silently take one branch; else: the same node?"""
        if self.graph.tracing:
            raise CellError("the equations compare values; write maximum() or minimum() in place of a condition")
        return NotImplemented

    __hash__ = object.__hash__  # which a class with an `__eq__` would lose

    def __array_ufunc__(self, ufunc: np.ufunc, method: str, *inputs: Any, **kwargs: Any) -> Node:
        op = _UFUNCS.get(ufunc.__name__)
        if op is None or method != "__call__" or kwargs:
            raise CellError(f"unknown operation numpy.{ufunc.__name__}")
        return self.graph.node(op, (self,)) if op in UNARY else self.graph.binary(op, *inputs)


_UFUNCS = {"add": "add", "subtract": "sub", "multiply": "mul", "divide": "div", "negative": "neg", "tanh": "tanh",
           "exp": "exp", "maximum": "max", "minimum": "min"}  # fmt: skip


class Graph:
    """The nodes of one cell, or of one cell and its derivative, each made once."""

    def __init__(self) -> None:
        self.nodes: list[Node] = []
        self.tracing = False  # whether a cell's function is being called
        self._known: dict[tuple[Any, ...], Node] = {}

    def node(self, op: str, args: tuple[Node, ...] = (), name: Any = None, value: float = 0.0) -> Node:
        key = (op, tuple([a.number for a in args]), name, value, np.signbit(value))  # nodes themselves may not compare
        found = self._known.get(key)
        if found is None:
            found = Node(self, op, args, name, value, _line_of_cell())
            found.number = len(self.nodes)
            self.nodes.append(found)
            self._known[key] = found
        return found

    def constant(self, value: Any) -> Node:
        """``value`` as a node; a node stays itself."""
        if isinstance(value, Node):
            if value.graph is not self:
                raise CellError("a value from another trace is used: keep no symbols between calls")
            return value
        if isinstance(value, (bool, str)) or not np.isscalar(value):
            raise CellError(f"expected a number or a symbol, got {type(value).__name__}")
        return self.node("constant", value=float(value))  # type: ignore[arg-type]

    def binary(self, op: str, left: Any, right: Any) -> Node:
        a, b = self.constant(left), self.constant(right)
        if op == "mul" and 1.0 in (a.value, b.value):  # 1 * a: exact, and frequent in derivatives
            if a.op == "constant" and a.value == 1.0:
                return b
            if b.op == "constant" and b.value == 1.0:
                return a
        return self.node(op, (a, b))

    def select_gt(self, a: Any, b: Any, u: Any, v: Any) -> Node:
        """``u`` where a > b, else ``v``: what the derivatives of max, min and relu need."""
        return self.node("select_gt", (self.constant(a), self.constant(b), self.constant(u), self.constant(v)))


def reachable(roots: Iterable[Node], given: Container[int] = ()) -> list[Node]:
    """The roots and all that they are made of, arguments first; what ``given`` nodes are made of is left out."""
    seen: dict[int, Node] = {}
    waiting = list(roots)
    while waiting:
        node = waiting.pop()
        if node.number not in seen:
            seen[node.number] = node
            if node.number not in given:
                waiting.extend(node.args)
    return [seen[number] for number in sorted(seen)]


_OWN_FILES = {os.path.join(os.path.dirname(__file__), name) for name in ("graph.py", "equations.py", "derive.py")}


def _line_of_cell() -> int:
    """The line in the cell's function that is making a node: the first frame outside the modules that pass it on."""
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename in _OWN_FILES:
        frame = frame.f_back
    return frame.f_lineno
