"""The derivative of a cell: reverse-mode differentiation of its straight-line equations.

For one time step, given the gradients of the new states (the ``adjoint`` leaves), this writes down the gradients of all
that the step read. Products become products with the transposed matrix: those of an inner expression (``R.n(r * h)``)
as a ``backproduct`` node; those of a state are left to the caller, since they link one step to the one before.
"""

from __future__ import annotations

from collections.abc import Callable

from fastrnn.equations import Cell
from fastrnn.graph import HIDDEN, LEAVES, PRODUCTS, Graph, Node, reachable
from fastrnn.record import Record

Names = tuple["str | None", ...]  # gates of R whose products read the same rows; (None,) is the projection


class Gradient(Record):
    """The gradients of one step, as nodes of the cell's graph.

    ``inputs`` and ``products`` map a gate to the gradient of its input product and of its recurrent product (the key
    None is the projection); ``vectors`` a parameter to what one row adds to its gradient; ``states`` holds what reaches
    each previous state element by element (None: nothing), ``recurrent`` the groups of products that read that state
    directly, whose gradients are to be multiplied with the transposed weights and added; ``operands`` maps a product to
    what it multiplied.
    """

    adjoints: tuple[Node, ...]
    inputs: dict[str, Node]
    products: dict[str | None, Node]
    vectors: dict[str, Node]
    states: tuple[Node | None, ...]
    recurrent: tuple[tuple[Names, ...], ...]
    operands: dict[str | None, Node]
    widths: dict[int, str]


def derive(cell: Cell) -> Gradient:
    """The gradient of ``cell``. Its new nodes join the cell's own graph."""
    return _Derivation(cell).gradient()


class _Derivation:
    def __init__(self, cell: Cell) -> None:
        self.cell, self.graph = cell, cell.graph
        self.sums: dict[int, Node] = {}  # node number -> its gradient so far
        self.groups: dict[int, list[str | None]] = {}  # operand number -> the products that read it
        self.products: dict[str | None, Node] = {}

    def gradient(self) -> Gradient:
        nodes = reachable(self.cell.outputs)
        adjoints = tuple(self.graph.node("adjoint", name=k) for k in range(len(self.cell.states)))
        for output, adjoint in zip(self.cell.outputs, adjoints, strict=True):
            self._add(output, adjoint)
        for node in reversed(nodes):
            if node.op not in LEAVES:
                self._backproducts(node)
                self._propagate(node)
        leaves = {(node.op, node.name): node for node in nodes if node.op in LEAVES}
        states = [leaves.get(("state", k)) for k in range(len(self.cell.states))]
        found = Gradient(
            adjoints=adjoints,
            inputs={gate: self.sums[leaves["input", gate].number] for gate in self.cell.input_gates},
            products=self.products,
            vectors={name: self.sums[leaves["vector", name].number] for name in self.cell.vectors},
            states=tuple(self.sums.get(s.number) if s is not None else None for s in states),
            recurrent=tuple(self._grouped(s) if s is not None else () for s in states),
            operands={node.name: node.args[0] for node in nodes if node.op in PRODUCTS},
            widths=dict(self.cell.widths),
        )
        self._widths(found)
        return found

    def _add(self, node: Node, gradient: Node) -> None:
        if node.op != "constant":
            before = self.sums.get(node.number)
            self.sums[node.number] = gradient if before is None else before + gradient

    def _propagate(self, node: Node) -> None:
        gradient = self.sums.get(node.number)
        if gradient is None:
            return
        if node.op in PRODUCTS:
            self.products[node.name] = gradient
            self.groups.setdefault(node.args[0].number, []).append(node.name)
        else:
            for argument, part in zip(node.args, RULES[node.op](node, gradient, self.graph), strict=True):
                if argument.op != "constant":
                    self._add(argument, part())

    def _grouped(self, operand: Node) -> tuple[Names, ...]:
        """The products that read ``operand``: those of R, in gate order, and the projection apart."""
        names = self.groups.get(operand.number, [])
        gates = tuple(gate for gate in self.cell.recurrent_gates if gate in names)
        return ((gates,) if gates else ()) + (((None,),) if None in names else ())

    def _backproducts(self, node: Node) -> None:
        for names in self._grouped(node):
            self._add(node, self.graph.node("backproduct", tuple(self.products[n] for n in names), names))

    def _widths(self, found: Gradient) -> None:
        """The widths of the nodes that the derivative made, in topological order."""
        operand_widths = {name: self.cell.width(node) for name, node in found.operands.items()}
        for node in self.graph.nodes:
            if node.number in found.widths or node.op == "constant":
                continue
            if node.op == "adjoint":
                found.widths[node.number] = self.cell.state_widths[node.name]
            elif node.op == "backproduct":
                found.widths[node.number] = operand_widths[node.name[0]]
            else:
                inner = {found.widths[a.number] for a in node.args if a.number in found.widths}
                found.widths[node.number] = inner.pop() if inner else HIDDEN


Parts = tuple[Callable[[], Node], ...]


def _quotient(node: Node, g: Node, graph: Graph) -> Parts:
    return lambda: g / node.args[1], lambda: -(g / node.args[1] * node)


def _larger(node: Node, g: Node, graph: Graph) -> Parts:
    a, b = node.args
    return lambda: graph.select_gt(a, b, g, 0.0), lambda: graph.select_gt(a, b, 0.0, g)


def _smaller(node: Node, g: Node, graph: Graph) -> Parts:
    a, b = node.args
    return lambda: graph.select_gt(b, a, g, 0.0), lambda: graph.select_gt(b, a, 0.0, g)


# op -> (node, its gradient, graph) -> for each argument a function that writes that argument's gradient down.
# The nonlinear ones use their own result, y, so that nothing but y has to be kept.
RULES: dict[str, Callable[[Node, Node, Graph], Parts]] = {
    "add": lambda y, g, _: (lambda: g, lambda: g),
    "sub": lambda y, g, _: (lambda: g, lambda: -g),
    "mul": lambda y, g, _: (lambda: g * y.args[1], lambda: g * y.args[0]),
    "div": _quotient,
    "max": _larger,
    "min": _smaller,
    "neg": lambda y, g, _: (lambda: -g,),
    "sigmoid": lambda y, g, _: (lambda: g * (y * (1.0 - y)),),
    "tanh": lambda y, g, _: (lambda: g * (1.0 - y * y),),
    "relu": lambda y, g, graph: (lambda: graph.select_gt(y, 0.0, g, 0.0),),
    "exp": lambda y, g, _: (lambda: g * y,),
    "softplus": lambda y, g, graph: (lambda: g * (1.0 - graph.node("exp", (-y,))),),
}
