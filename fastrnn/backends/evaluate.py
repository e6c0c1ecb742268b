"""A cell's graph as a list of NumPy calls: one step of forward, one step of backward.

A schedule works on a list of values, one slot a node that some call reads or writes. Slots of leaves are filled by the
caller before each step; every call reads some slots and fills others. Calls are made once for all packs of a layer, so
that a step is a loop over ready closures.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from fastrnn.checks import Array
from fastrnn.equations import Cell, Sizes
from fastrnn.graph import Node, reachable
from fastrnn.plan import Plan, Product

Values = list[Any]
Call = Callable[[Values], None]
PROJECTION = (None,)


def sigmoid(a: Array) -> Array:
    """1 / (1 + exp(-a)); where exp overflows the result is 0, as it should be (the caller silences the warning)."""
    result: Array = np.negative(a)
    np.exp(result, out=result)
    result += 1
    np.reciprocal(result, out=result)
    return result


def relu(a: Array) -> Array:
    """The larger of a and 0; NaN stays NaN."""
    result: Array = np.maximum(a, 0)
    return result


def softplus(a: Array) -> Array:
    """log(1 + exp(a)) without overflow."""
    result: Array = np.logaddexp(a, a.dtype.type(0))
    return result


def select_gt(a: Array, b: Array, u: Array, v: Array) -> Array:
    """u where a > b, else v."""
    return np.where(np.greater(a, b), u, v)


OPERATIONS: dict[str, Callable[..., Array]] = {
    "neg": np.negative,
    "sigmoid": sigmoid,
    "tanh": np.tanh,
    "relu": relu,
    "exp": np.exp,
    "softplus": softplus,
    "add": np.add,
    "sub": np.subtract,
    "mul": np.multiply,
    "div": np.divide,
    "max": np.maximum,
    "min": np.minimum,
    "select_gt": select_gt,
}


class Schedule:
    """The calls of one step, in order, over slots. ``slot`` gives a node its slot."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.slots: dict[int, int] = {}
        self.size = 0
        self.constants: dict[int, float] = {}
        self.vectors: dict[int, str] = {}

    def new(self) -> int:
        """A slot that belongs to no node."""
        self.size += 1
        return self.size - 1

    def slot(self, node: Node) -> int:
        """The slot of a node, made at the first call; a constant or a vector is filled in once, by `blank`."""
        found = self.slots.get(node.number)
        if found is None:
            found = self.slots[node.number] = self.new()
            if node.op == "constant":
                self.constants[found] = node.value
            elif node.op == "vector":
                self.vectors[found] = node.name
        return found

    def blank(self, vectors: Mapping[str, Array], dtype: np.dtype[Any]) -> Values:
        """The list of values to copy for each step: constants and vectors in place, the rest empty."""
        values: Values = [None] * self.size
        for slot, value in self.constants.items():
            values[slot] = dtype.type(value)
        for slot, name in self.vectors.items():
            values[slot] = vectors[name]
        return values

    def apply(self, node: Node) -> None:
        """Add the call that computes a node element by element from its arguments."""
        self.calls.append(_call(OPERATIONS[node.op], [self.slot(a) for a in node.args], self.slot(node)))


def _call(operation: Callable[..., Array], arguments: Sequence[int], result: int) -> Call:
    if len(arguments) == 1:
        (a,) = arguments

        def unary(values: Values) -> None:
            values[result] = operation(values[a])

        return unary
    if len(arguments) == 2:
        a, b = arguments

        def binary(values: Values) -> None:
            values[result] = operation(values[a], values[b])

        return binary

    def several(values: Values) -> None:
        values[result] = operation(*[values[slot] for slot in arguments])

    return several


class Group:
    """Recurrent products that read the same operand: one matrix product, its gates side by side.

    The order of the gates is this file's own: those that begin with an input product come first, so that these are
    added in one go, and those with the same activation stand together, so that it is applied in one go.
    """

    def __init__(self, product: Product, nodes: Sequence[Node]) -> None:
        activation: dict[int, Node] = {}
        for node in nodes:
            if len(node.args) == 1 and node.op in OPERATIONS:
                activation.setdefault(node.args[0].number, node)
        members = []
        for name, result, seed in zip(product.names, product.results, product.seeds, strict=True):
            kind = seed[0] if seed is not None else "none"
            members.append((kind != "input", activation.get(result.number), name, result, seed))
        members.sort(key=lambda m: (m[0], m[1].op if m[1] is not None else "~"))
        self.key = product.names
        self.names = tuple(m[2] for m in members)
        self.results = tuple(m[3] for m in members)
        self.activations = tuple(m[1] for m in members)
        self.inputs = tuple(m[4][1] for m in members if m[4] is not None and m[4][0] == "input")
        seeded = [(j, m[3]) for j, m in enumerate(members) if m[4] is not None and m[4][0] == "vector"]
        self.vectors = tuple((j, next(a for a in result.args if a.op == "vector")) for j, result in seeded)
        products = [node for node in nodes if node.op in ("product", "projection")]
        self.operand = next(node.args[0] for node in products if node.name in self.names)


class Forward(Schedule):
    """One step of a cell: fill ``states`` and ``inputs``, run, read ``outputs`` and ``kept``.

    ``inputs`` is the slot of the input products side by side, (n, gates * H), in the order ``input_order``.
    """

    def __init__(self, plan: Plan, sizes: Sizes) -> None:
        super().__init__()
        self.plan, self.hidden, self.projected = plan, sizes.hidden_size, sizes.proj_size
        cell = plan.cell
        nodes = reachable(cell.outputs)
        self.groups = [Group(p, nodes) for stage in plan.forward for p in stage.products]
        self.input_order = self._order(len(cell.input_gates))
        self.inputs = self.new()
        self.matrices = {group.key: self.new() for group in self.groups}
        self.states = {node.name: self.slot(node) for node in nodes if node.op == "state"}
        self._read = self._readers(nodes)
        self._done: set[int] = set()
        for node in nodes:
            self._schedule(node, cell)
        self.outputs = [self.slot(node) for node in cell.outputs]
        self.kept = [self.slot(node) for node in plan.kept]

    def _order(self, gates: int) -> list[int]:
        """The gates of the input product: those that a group adds, group by group, then the others."""
        order = list(dict.fromkeys(gate for group in self.groups for gate in group.inputs))
        return order + [gate for gate in range(gates) if gate not in order]

    def _readers(self, nodes: Iterable[Node]) -> set[int]:
        """The nodes whose own slot is read: not sums that are only added or activated within their group."""
        inside = {result.number for group in self.groups for result in group.results}
        inside |= {node.number for group in self.groups for node in group.activations if node is not None}
        read = {a.number for node in nodes if node.number not in inside for a in node.args}
        read |= {group.operand.number for group in self.groups}
        return read | {node.number for node in (*self.plan.cell.outputs, *self.plan.kept)}

    def _schedule(self, node: Node, cell: Cell) -> None:
        if node.number in self._done or node.op in ("state", "vector", "constant"):
            return
        if node.op == "input":
            if node.number in self._read:
                column = self.input_order.index(cell.input_gates.index(node.name)) * self.hidden
                self.calls.append(_columns(self.inputs, column, column + self.hidden, self.slot(node)))
        elif node.op in ("product", "projection"):
            group = next(group for group in self.groups if node.name in group.names)
            if group.results[0].number not in self._done:
                self._product(group, self.projected if group.key == PROJECTION else self.hidden)
        else:
            self.apply(node)
        self._done.add(node.number)

    def _product(self, group: Group, width: int) -> None:
        """The calls of a group: the product, what it is added to, the activations, and a view for each that is read."""
        vectors = [(self.slot(vector), j * width, (j + 1) * width) for j, vector in group.vectors]
        column = self.input_order.index(group.inputs[0]) * self.hidden if group.inputs else 0
        total = self.new()
        self.calls.append(
            _sums(
                (self.slot(group.operand), self.matrices[group.key], total),
                (self.inputs, column, len(group.inputs) * self.hidden),
                vectors,
            )
        )
        for j, result in enumerate(group.results):
            self._done.add(result.number)
            if result.number in self._read:
                self.calls.append(_columns(total, j * width, (j + 1) * width, self.slot(result)))
        for low, high in _runs([node.op if node is not None else "" for node in group.activations]):
            first = group.activations[low]
            if first is not None:
                active = self.new()
                self.calls.append(_activation(OPERATIONS[first.op], total, low * width, high * width, active))
                for j in range(low, high):
                    node = group.activations[j]
                    assert node is not None
                    self._done.add(node.number)
                    start = (j - low) * width
                    self.calls.append(_columns(active, start, start + width, self.slot(node)))


def _runs(words: Sequence[str]) -> Iterable[tuple[int, int]]:
    """The ranges of equal neighbours."""
    low = 0
    for high in range(1, len(words) + 1):
        if high == len(words) or words[high] != words[low]:
            yield low, high
            low = high


def _columns(source: int, low: int, high: int, result: int) -> Call:
    def view(values: Values) -> None:
        values[result] = values[source][:, low:high]

    return view


def _activation(operation: Callable[..., Array], source: int, low: int, high: int, result: int) -> Call:
    def activate(values: Values) -> None:
        values[result] = operation(values[source][:, low:high])

    return activate


def _sums(slots: tuple[int, int, int], inputs: tuple[int, int, int], vectors: list[tuple[int, int, int]]) -> Call:
    operand, matrix, result = slots
    source, low, count = inputs

    def multiply(values: Values) -> None:
        total = values[operand] @ values[matrix]
        if count == total.shape[1] == values[source].shape[1]:
            total += values[source]
        elif count:
            total[:, :count] += values[source][:, low : low + count]
        for vector, start, end in vectors:
            total[:, start:end] += values[vector]
        values[result] = total

    return multiply


class Backward(Schedule):
    """One step of the derivative: fill ``adjoints``, ``states`` and ``kept``, run, read ``gradients`` and ``carries``.

    ``carries`` holds for each state the slot of what reaches it element by element, or None.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__()
        gradient = plan.gradient
        roots = [*plan.gradient_nodes, *(node for node in gradient.states if node is not None)]
        kept = {node.number for node in plan.kept}
        self.matrices: dict[tuple[str | None, ...], int] = {}
        needed = reachable(roots, kept)
        for node in needed:
            if node.number in kept or node.op in ("state", "vector", "constant", "adjoint"):
                continue
            if node.op == "backproduct":
                self._backproduct(node)
            else:
                self.apply(node)
        self.adjoints = [self.slot(node) for node in gradient.adjoints]
        self.states = {node.name: self.slot(node) for node in needed if node.op == "state"}
        self.kept = [(column, self.slot(node)) for column, node in enumerate(plan.kept) if node.number in self.slots]
        self.gradients = [self.slot(node) for node in plan.gradient_nodes]
        self.carries = [None if node is None else self.slot(node) for node in gradient.states]

    def _backproduct(self, node: Node) -> None:
        names = node.name
        matrix = self.matrices.setdefault(names, self.new())
        arguments, result = [self.slot(a) for a in node.args], self.slot(node)

        def multiply(values: Values) -> None:
            rows = [values[slot] for slot in arguments]
            side_by_side = rows[0] if len(rows) == 1 else np.concatenate(rows, axis=1)
            values[result] = side_by_side @ values[matrix]

        self.calls.append(multiply)
