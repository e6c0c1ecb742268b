"""From a cell's graph to what a backend runs: stages, and what forward keeps for backward.

A *stage* is what can be computed in one go over all units: some products, then arithmetic element by element. A product
needs all units of what it multiplies, so a product of a product's result (``R.n(r * h)``, the projection) begins a new
stage. Values that a later stage or the backward pass needs are *kept*: the results of products and of nonlinear
operations, as columns of a row of the tape; cheap arithmetic is done again where it is needed.

The backward step is planned in the same way. Its stages begin with the product that links it to the step after it (see
`derive`), so that this product, too, is followed by arithmetic in the same go.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable, Mapping
from functools import lru_cache

from fastrnn.derive import Gradient, Names, derive
from fastrnn.equations import Cell
from fastrnn.graph import HIDDEN, NONLINEAR, Node, reachable
from fastrnn.record import Record

# Where a value lives: ("input", gate index), ("state", k), ("vector", index), ("kept", column), ("adjoint", k)
# are read; ("state", k), ("kept", column), ("gradient", column), ("adjoint", k) are written.
Place = tuple[str, int]


class Product(Record):
    """Products that read the same rows, accumulated side by side.

    ``rows`` are the places whose values are multiplied, one after the other in one sum; ``names`` the gates of R (None:
    the projection); ``results`` the nodes that the sums are, one each; ``seeds`` what each sum starts from (None: 0).
    """

    names: Names
    rows: tuple[Place, ...]
    results: tuple[Node, ...]
    seeds: tuple[Place | None, ...]


class Stage:
    """One go over all units of one width: products, then loads, arithmetic and stores."""

    def __init__(self, level: int, width: str, products: tuple[Product, ...] = ()) -> None:
        self.level, self.width, self.products = level, width, products
        self.loads: dict[int, Place] = {}  # node number -> place
        self.stores: list[tuple[Node, Place]] = []

    @property
    def sums(self) -> dict[int, int]:
        """Node number -> index of its accumulator."""
        results = [node for product in self.products for node in product.results]
        return {node.number: index for index, node in enumerate(results)}


class Plan(Record):
    """All that a backend needs to know of a cell.

    ``kept`` and ``kept_widths``: the tape's columns, the first ``crossing`` of which forward needs itself;
    ``gradients`` likewise: the columns that a backward step writes. ``input_columns``, ``product_columns`` and
    ``vector_columns`` say in which column the gradient of a gate's input product, of a product, of a vector stands;
    ``operands`` where forward left what a product multiplied.
    """

    cell: Cell
    gradient: Gradient
    forward: tuple[Stage, ...]
    backward: tuple[Stage, ...]
    finish: tuple[Stage, ...]
    kept: tuple[Node, ...]
    kept_widths: tuple[str, ...]
    crossing: int
    gradient_nodes: tuple[Node, ...]
    gradient_widths: tuple[str, ...]
    input_columns: tuple[int, ...]
    product_columns: Mapping[str | None, int]
    vector_columns: Mapping[str, int]
    operands: Mapping[str | None, Place]


def plan(cell: Cell) -> Plan:
    """The plan of a traced cell, made once."""
    with _lock:
        return _plan(cell)


def _fresh_lock() -> None:
    global _lock
    _lock = threading.Lock()


_lock = threading.Lock()  # the derivative writes to the cell's graph
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_fresh_lock)


@lru_cache(maxsize=256)
def _plan(cell: Cell) -> Plan:
    gradient = derive(cell)
    seeded = _seeded(cell)
    backward = _Backward(cell, gradient, seeded)
    forward = _Forward(cell, seeded)
    wanted = list(backward.wanted)
    forward.keep_operands()
    forward.settle()
    crossing = len(forward.columns)
    for node in wanted:
        forward.keep(node)
    forward.settle()
    kept = tuple(forward.columns)
    backward.place_kept({node.number: column for column, node in enumerate(kept)})
    gradients = tuple(backward.columns)
    column_of = {node.number: column for column, node in enumerate(gradients)}
    return Plan(
        cell=cell,
        gradient=gradient,
        forward=tuple(forward.stages),
        backward=tuple(backward.stages),
        finish=backward.finish(),
        kept=kept,
        kept_widths=tuple(cell.width(node) for node in kept),
        crossing=crossing,
        gradient_nodes=gradients,
        gradient_widths=tuple(gradient.widths.get(node.number, HIDDEN) for node in gradients),
        input_columns=tuple(column_of[gradient.inputs[gate].number] for gate in cell.input_gates),
        product_columns={name: column_of[node.number] for name, node in gradient.products.items()},
        vector_columns={name: column_of[node.number] for name, node in gradient.vectors.items()},
        operands={name: forward.operand_place(node) for name, node in gradient.operands.items()},
    )


def _seeded(cell: Cell) -> dict[int, tuple[Node, Node]]:
    """Sums ``x.g + R.g(..)`` or ``R.g(..) + b.g``: the product may start from the other value, which saves an addition.

    Maps the number of the sum to (product, other), where the product has no other reader.
    """
    nodes = reachable(cell.outputs)
    readers = dict.fromkeys((node.number for node in nodes), 0)
    for node in [*nodes, *cell.outputs]:
        for argument in node.args:
            readers[argument.number] += 1
    found = {}
    for node in nodes:
        if node.op == "add":
            for one, other in (node.args, node.args[::-1]):
                if one.op == "product" and other.op in ("input", "vector") and readers[one.number] == 1:
                    found[node.number] = (one, other)
                    break
    return found


class _Stages:
    """What the planning of forward and of backward share."""

    def __init__(self, widths: Mapping[int, str], gates: tuple[str, ...], vectors: tuple[str, ...]) -> None:
        self.widths, self.gates, self.vectors = widths, gates, vectors
        self.stages: list[Stage] = []
        self.columns: list[Node] = []  # what the stages write for a later stage, or for a later pass
        self.levels: dict[int, int] = {}
        self._waiting: list[tuple[Stage, Node]] = []

    column_kind = "kept"

    def add_products(self, found: Iterable[tuple[int, str, Product]]) -> None:
        """Make a stage for each (level, width), sorted; one without products where there are none."""
        grouped: dict[tuple[int, str], list[Product]] = {}
        for level, width, product in found:
            grouped.setdefault((level, width), []).append(product)
        self.stages = [Stage(*key, products=tuple(grouped[key])) for key in sorted(grouped)]

    def width(self, node: Node) -> str:
        return self.widths.get(node.number, HIDDEN)

    def home(self, node: Node) -> Stage:
        """The first stage that can compute a node; one without products is made if there is none of its width."""
        level, width = self.levels.get(node.number, 0), self.width(node)
        for stage in self.stages:
            if stage.level >= level and stage.width == width:
                return stage
        stage = Stage(level, width)
        self.stages.append(stage)
        self.stages.sort(key=lambda s: (s.level, s.width))
        return stage

    def store(self, node: Node, place: Place, stage: Stage | None = None) -> None:
        stage = stage or self.home(node)
        stage.stores.append((node, place))
        self._waiting.append((stage, node))

    def keep(self, node: Node) -> int:
        """The column of a node, which its home stage writes."""
        if node not in self.columns:
            self.columns.append(node)
            self.store(node, (self.column_kind, len(self.columns) - 1))
        return self.columns.index(node)

    def settle(self) -> None:
        """Find the loads of everything that is stored; this may keep more."""
        while self._waiting:
            stage, node = self._waiting.pop(0)
            self._need(stage, node)

    def _need(self, stage: Stage, node: Node) -> None:
        if node.op == "constant" or node.number in stage.loads or node.number in stage.sums:
            return
        place = self.place(stage, node)
        if place is not None:
            stage.loads[node.number] = place
            return
        for argument in node.args:
            self._need(stage, argument)

    def place(self, stage: Stage, node: Node) -> Place | None:
        """Where a stage reads a node, or None where it computes it."""
        if node.op == "input":
            return ("input", self.gates.index(node.name))
        if node.op == "vector":
            return ("vector", self.vectors.index(node.name))
        if node.op == "state":
            return ("state", node.name)
        if self.is_dear(node) and self.home(node) is not stage:
            return (self.column_kind, self.keep(node))
        return None

    def is_dear(self, node: Node) -> bool:
        """Whether a node is kept rather than computed again."""
        return node.op in NONLINEAR or node.op in ("product", "projection", "backproduct")


class _Forward(_Stages):
    def __init__(self, cell: Cell, seeded: Mapping[int, tuple[Node, Node]]) -> None:
        super().__init__(cell.widths, cell.input_gates, cell.vectors)
        self.cell, self.seeded = cell, seeded
        self.sum_of = {product.number: number for number, (product, _) in seeded.items()}
        nodes = reachable(cell.outputs)
        for node in nodes:
            inner = max((self.levels[a.number] for a in node.args), default=0)
            begins = node.op in ("product", "projection") and node.args[0].op != "state"
            self.levels[node.number] = inner + 1 if begins else inner
        self.add_products(self._products(nodes))
        for k, node in enumerate(cell.outputs):
            self.store(node, ("state", k))

    def _products(self, nodes: list[Node]) -> Iterable[tuple[int, str, Product]]:
        operands = {node.args[0].number: node.args[0] for node in nodes if node.op in ("product", "projection")}
        for operand in operands.values():
            readers = [node for node in nodes if node.op == "product" and node.args[0] is operand]
            readers.sort(key=lambda node: self.cell.recurrent_gates.index(node.name))
            projections = [node for node in nodes if node.op == "projection" and node.args[0] is operand]
            for group in (readers, projections):
                if group:
                    yield self.levels[group[0].number], self.width(group[0]), self._product(operand, group)

    def _product(self, operand: Node, group: list[Node]) -> Product:
        by_number = {node.number: node for node in self.cell.graph.nodes}
        results, seeds = [], []
        for node in group:
            total = self.sum_of.get(node.number)
            results.append(node if total is None else by_number[total])
            seeds.append(None if total is None else self.place(Stage(0, HIDDEN), self.seeded[total][1]))
        rows = (("operand", operand.number),)  # settled by keep_operands, when its column is known
        return Product(tuple(node.name for node in group), rows, tuple(results), tuple(seeds))

    def keep_operands(self) -> None:
        """Operands that are no states become columns, so that the next stage finds them as rows."""
        by_number = {node.number: node for node in self.cell.graph.nodes}
        for stage in list(self.stages):
            for product in stage.products:
                operand = by_number[product.rows[0][1]]
                product.__dict__["rows"] = (self.operand_place(operand),)

    def operand_place(self, operand: Node) -> Place:
        return ("state", operand.name) if operand.op == "state" else ("kept", self.keep(operand))

    def is_dear(self, node: Node) -> bool:
        return super().is_dear(node) or node.number in self.seeded


class _Backward(_Stages):
    column_kind = "gradient"

    def __init__(self, cell: Cell, gradient: Gradient, seeded: Mapping[int, tuple[Node, Node]]) -> None:
        super().__init__(gradient.widths, cell.input_gates, cell.vectors)
        self.cell, self.gradient, self.seeded = cell, gradient, seeded
        self.forward = {node.number for node in reachable(cell.outputs)}
        self.wanted: list[Node] = []  # forward nodes to be kept on the tape
        self.linked = [k for k, groups in enumerate(gradient.recurrent) if groups]
        columns = [*gradient.inputs.values(), *gradient.products.values(), *gradient.vectors.values()]
        roots = [*columns, *(node for node in gradient.states if node is not None)]
        nodes = reachable(roots)
        for node in nodes:
            inner = max((self.levels[a.number] for a in node.args), default=0)
            self.levels[node.number] = inner + 1 if node.op == "backproduct" else inner
        for node in gradient.adjoints:
            self.levels.setdefault(node.number, 0)
        self.columns = list(dict.fromkeys(columns))
        self.add_products(self._products(nodes))
        for column, node in enumerate(self.columns):
            self.store(node, ("gradient", column))
        self.settle()
        for k, state in enumerate(gradient.states):
            # After every other reader of the gradient that it replaces: in the last stage of its width.
            value = cell.graph.constant(0.0) if state is None else state
            self.store(value, ("adjoint", k), self._last_stage(cell.state_widths[k]))
        self.settle()

    def _last_stage(self, width: str) -> Stage:
        same = [stage for stage in self.stages if stage.width == width]
        return same[-1] if same else self.home(self.gradient.adjoints[self.cell.state_widths.index(width)])

    def _products(self, nodes: list[Node]) -> Iterable[tuple[int, str, Product]]:
        for k in self.linked:
            for product in self._links(k):
                yield 0, self.cell.state_widths[k], product
        for node in nodes:
            if node.op == "backproduct":
                rows = tuple(("gradient", self.columns.index(a)) for a in node.args)
                yield self.levels[node.number], self.width(node), Product(node.name, rows, (node,), (None,))

    def _links(self, k: int) -> Iterable[Product]:
        """The products that add the step after's share to the gradient of state k, in one sum."""
        for names in self.gradient.recurrent[k]:
            rows = tuple(("gradient", self.columns.index(self.gradient.products[name])) for name in names)
            yield Product(names, rows, (self.gradient.adjoints[k],), (("adjoint", k),))

    def finish(self) -> tuple[Stage, ...]:
        """What remains after the first step: the products that reach the initial states."""
        stages: dict[str, list[int]] = {}
        for k in self.linked:
            stages.setdefault(self.cell.state_widths[k], []).append(k)
        found = []
        for width, ks in stages.items():
            stage = Stage(0, width, tuple(product for k in ks for product in self._links(k)))
            stage.stores = [(self.gradient.adjoints[k], ("adjoint", k)) for k in ks]
            found.append(stage)
        return tuple(found)

    def place(self, stage: Stage, node: Node) -> Place | None:
        if node.op == "adjoint":
            if node.name not in self.linked:
                return ("adjoint", node.name)
            return None if node.number in stage.sums else ("gradient", self.keep(node))
        if node.number in self.forward and node.op not in ("vector", "state"):
            if node.op == "input" or super().is_dear(node) or node.number in self.seeded:
                if node not in self.wanted:
                    self.wanted.append(node)
                return ("wanted", node.number)
            return None
        return super().place(stage, node)

    def place_kept(self, column_of: Mapping[int, int]) -> None:
        """Now that the tape's columns are known, say in which each forward value stands."""
        for stage in self.stages:
            for number, (kind, index) in stage.loads.items():
                if kind == "wanted":
                    stage.loads[number] = ("kept", column_of[index])
