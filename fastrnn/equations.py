"""Cells as equations: symbols, the operations on them, and the tracing of a cell to a graph.

A cell is an ordinary function that reads like its paper::

    def lstm(x, h, c, R):
        i = sigmoid(x.i + R.i(h))
        f = sigmoid(x.f + R.f(h))
        g = tanh(x.g + R.g(h))
        o = sigmoid(x.o + R.o(h))
        c = f * c + i * g
        return o * tanh(c), c

The names of its arguments say what they are:

``x``       the input products: ``x.i`` is W_i x_t + bias_i of gate ``i``
``R``       the recurrent products: ``R.i(h)`` is R_i h, of a state or of an expression of states
``P``       the projection, a product to ``proj_size`` values: ``P(o * tanh(c))``
``b``       a second bias, added after the recurrent product: ``b.n`` is the parameter ``bias_hn``
``p``       a vector that multiplies element by element: ``p.i`` is the parameter ``peephole_i``

Every other argument is a state. The cell returns the new states in the order of its arguments; the first is its output.
Calling the function once with symbols gives the graph from which all backends, and the derivative, are made.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any, NamedTuple

from fastrnn.graph import HIDDEN, PROJECTED, CellError, Graph, Node, reachable
from fastrnn.record import Record

RESERVED = ("x", "R", "P", "b", "p")


def _unary(op: str, value: Any) -> Node:
    if not isinstance(value, Node):
        raise CellError(f"{op}() expects a symbol, got {type(value).__name__}")
    return value.graph.node(op, (value,))


def sigmoid(value: Node) -> Node:
    """1 / (1 + exp(-value))."""
    return _unary("sigmoid", value)


def tanh(value: Node) -> Node:
    """The hyperbolic tangent."""
    return _unary("tanh", value)


def relu(value: Node) -> Node:
    """The larger of value and 0; its derivative at 0 is 0."""
    return _unary("relu", value)


def exp(value: Node) -> Node:
    """e to the power of value."""
    return _unary("exp", value)


def softplus(value: Node) -> Node:
    """log(1 + exp(value))."""
    return _unary("softplus", value)


def maximum(a: Any, b: Any) -> Node:
    """The larger of two values; at a tie the derivative goes to the second. NaN in either gives NaN."""
    return _either(a, b).graph.binary("max", a, b)


def minimum(a: Any, b: Any) -> Node:
    """The smaller of two values; at a tie the derivative goes to the second. NaN in either gives NaN."""
    return _either(a, b).graph.binary("min", a, b)


def hard_sigmoid(value: Node, slope: float = 1 / 6, offset: float = 0.5) -> Node:
    """slope * value + offset, held between 0 and 1.

    The slope is 1/6 in PyTorch and Keras 3, and 0.2 in ONNX's default and Keras 1 and 2.
    """
    return maximum(0.0, minimum(1.0, slope * value + offset))


def softsign(value: Node) -> Node:
    """value / (1 + abs(value))."""
    return value / (1.0 + abs(value))


def _either(a: Any, b: Any) -> Node:
    for value in (a, b):
        if isinstance(value, Node):
            return value
    raise CellError("maximum() and minimum() expect at least one symbol")


class _Gates:
    """What a cell sees as ``x``, ``R``, ``b`` or ``p``: an attribute a gate."""

    def __init__(self, read: Callable[[str], Any]) -> None:
        object.__setattr__(self, "_read", read)

    def __getattr__(self, gate: str) -> Any:
        if gate.startswith("_"):
            raise AttributeError(gate)
        return self._read(gate)

    def __setattr__(self, gate: str, value: Any) -> None:
        raise CellError(f"gate {gate!r} is assigned to; gates are read only")


class Sizes(NamedTuple):
    """The sizes of one layer: I, H, and P (0 without a projection)."""

    input_size: int
    hidden_size: int
    proj_size: int = 0

    def width(self, width: str) -> int:
        """The number of values of a width, ``HIDDEN`` or ``PROJECTED``."""
        return self.hidden_size if width == HIDDEN else self.proj_size


class Cell(Record):
    """A traced cell.

    ``gates`` in order of their first use, with ``input_gates`` and ``recurrent_gates`` those that have an input and a
    recurrent product; ``vectors`` the parameters of one value a unit (``bias_hn``, ``peephole_i``); ``states`` the
    names of the states and ``outputs`` the nodes of their new values; ``widths`` the width of each node by its number;
    ``text`` the equations, written out, and what else tells cells apart.
    """

    name: str
    function: Callable[..., Any]
    graph: Graph
    gates: tuple[str, ...]
    input_gates: tuple[str, ...]
    recurrent_gates: tuple[str, ...]
    vectors: tuple[str, ...]
    states: tuple[str, ...]
    outputs: tuple[Node, ...]
    has_projection: bool
    widths: Mapping[int, str]
    text: str

    @property
    def digest(self) -> str:
        """What tells cells with other equations apart."""
        import hashlib  # only compiled kernels ask for it

        return hashlib.sha256(self.text.encode()).hexdigest()[:20]

    def width(self, node: Node) -> str:
        """HIDDEN or PROJECTED; a constant, which has none, counts as HIDDEN."""
        return self.widths.get(node.number, HIDDEN)

    @property
    def state_widths(self) -> tuple[str, ...]:
        """The width of each state."""
        return tuple(self.width(node) for node in self.outputs)

    @property
    def recurrent_width(self) -> str:
        """The width of what the recurrent products multiply."""
        return next((self.width(n.args[0]) for n in reachable(self.outputs) if n.op == "product"), HIDDEN)

    def parameter_shapes(self, sizes: Sizes, bias: bool = True) -> dict[str, tuple[int, ...]]:
        """Name (without layer and direction) to shape, in the order of the summary."""
        hidden = sizes.hidden_size
        shapes: dict[str, tuple[int, ...]] = {"weight_ih": (len(self.input_gates) * hidden, sizes.input_size)}
        if self.recurrent_gates:
            shapes["weight_hh"] = (len(self.recurrent_gates) * hidden, sizes.width(self.recurrent_width))
        if self.has_projection:
            shapes["weight_hr"] = (sizes.proj_size, hidden)
        if bias:
            shapes["bias"] = (len(self.input_gates) * hidden,)
        for name in self.vectors:
            if bias or not name.startswith("bias_h"):
                shapes[name] = (hidden,)
        return shapes


def trace(function: Callable[..., Any] | Cell) -> Cell:
    """Call a cell's function with symbols and check what it returns.

    Raises `CellError`, which names the cell and the line, for a cell that cannot be one; `TypeError` for what is not a
    function. The same function with the same equations gives the same cell; it is traced anew all the same, for what it
    reads outside, a constant say, may have changed.
    """
    if isinstance(function, Cell):
        return function
    if not inspect.isfunction(function):
        raise TypeError(f"cell: expected a function such as fastrnn.cells.lstm, got {function!r}")
    found = _Tracer(function).cell()
    return _first(function, found.text).setdefault("cell", found)


@lru_cache(maxsize=256)
def _first(_function: Callable[..., Any], _text: str) -> dict[str, Cell]:
    """Where the first cell of a function with these equations is kept; the arguments are the key."""
    return {}


class _Tracer:
    """One trace of one function."""

    def __init__(self, function: Callable[..., Any]) -> None:
        self.function, self.graph = function, Graph()
        self.gates: dict[str, None] = {}
        self.names = self._argument_names()
        self.states = tuple(name for name in self.names if name not in RESERVED)
        if not self.states:
            raise self.error("it has no state: every argument but x, R, P, b and p is one")
        if "x" not in self.names:
            raise self.error("it has no argument x, the input")

    def error(self, what: str, line: int = 0) -> CellError:
        code = self.function.__code__
        return CellError(f"cell {self.function.__name__!r} ({code.co_filename}:{line or code.co_firstlineno}): {what}")

    def _argument_names(self) -> tuple[str, ...]:
        parameters = inspect.signature(self.function).parameters.values()
        for parameter in parameters:
            if parameter.kind not in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD):
                raise self.error(f"argument {parameter.name!r} has to be a plain positional one")
        return tuple(p.name for p in parameters if p.default is p.empty)

    def cell(self) -> Cell:
        outputs = self._outputs(self._call())
        used = reachable(outputs)
        self._check_used(used, outputs)
        widths = self._widths(used, outputs)
        self._check_products(used, widths)
        products = {node.name for node in used if node.op == "product"}
        inputs = {node.name for node in used if node.op == "input"}
        # The gates are in it, for kernels know them by their places.
        text = f"{', '.join(self.gates)}: {'; '.join(map(repr, used))} -> {', '.join(str(n.number) for n in outputs)}"
        return Cell(
            name=self.function.__name__,
            function=self.function,
            graph=self.graph,
            gates=tuple(self.gates),
            input_gates=tuple(gate for gate in self.gates if gate in inputs),
            recurrent_gates=tuple(gate for gate in self.gates if gate in products),
            vectors=tuple(node.name for node in used if node.op == "vector"),
            states=self.states,
            outputs=outputs,
            has_projection=any(node.op == "projection" for node in used),
            widths=widths,
            text=text,
        )

    def _symbol(self, name: str) -> Any:
        if name == "x":
            return _Gates(lambda gate: self._gate(gate, self.graph.node("input", name=gate)))
        if name == "R":
            return _Gates(lambda gate: self._gate(gate, lambda operand: self._product("product", operand, gate)))
        if name == "P":
            return lambda operand: self._product("projection", operand, None)
        if name in ("b", "p"):
            prefix = {"b": "bias_h", "p": "peephole_"}[name]
            return _Gates(lambda gate: self.graph.node("vector", name=prefix + gate))
        return self.graph.node("state", name=self.states.index(name))

    def _gate(self, gate: str, value: Any) -> Any:
        self.gates.setdefault(gate)
        return value

    def _product(self, op: str, operand: Any, gate: str | None) -> Node:
        what = f"R.{gate}" if gate else "P"
        if not isinstance(operand, Node):
            raise CellError(f"{what} multiplies {type(operand).__name__}, expected a state or an expression of states")
        operand = self.graph.constant(operand)  # which refuses that of another trace
        if not any(node.op == "state" for node in reachable([operand])):
            raise CellError(f"{what} multiplies something that is no state: write the product of an input as x.{gate}")
        return self.graph.node(op, (operand,), gate)

    def _call(self) -> Any:
        symbols = [self._symbol(name) for name in self.names]
        self.graph.tracing = True
        try:
            return self.function(*symbols)
        except Exception as error:
            import traceback

            frames = traceback.extract_tb(error.__traceback__)
            lines = [f.lineno for f in frames if f.filename == self.function.__code__.co_filename]
            what = (
                str(error) if isinstance(error, CellError) else f"unknown operation ({type(error).__name__}: {error})"
            )
            raise self.error(what, (lines and lines[-1]) or 0) from error
        finally:
            self.graph.tracing = False

    def _outputs(self, returned: Any) -> tuple[Node, ...]:
        outputs = returned if isinstance(returned, tuple) else (returned,)
        expected = ", ".join(self.states)
        if len(outputs) != len(self.states):
            raise self.error(
                f"it has the states ({expected}) and returns {len(outputs)} values; a state is not returned"
            )
        for name, node in zip(self.states, outputs, strict=True):
            if not isinstance(node, Node):
                raise self.error(f"state {name!r}: expected an expression, got {type(node).__name__}")
            if node.graph is not self.graph:
                raise self.error(f"state {name!r} comes from another trace")
            if all(n.op == "constant" for n in reachable([node])):
                raise self.error(f"state {name!r} is a constant")
        return outputs

    def _check_used(self, used: list[Node], outputs: tuple[Node, ...]) -> None:
        kept = {node.number for node in used}
        words = {"input": "x.{}", "product": "R.{}", "vector": "{}", "projection": "the projection P"}
        for node in self.graph.nodes:
            if node.op in words and node.number not in kept:
                raise self.error(
                    f"gate {words[node.op].format(node.name)} is never used in a returned state", node.line
                )
        if not any(node.op == "input" for node in used):
            raise self.error("it never uses its input x")
        for gate in self.gates:
            if not any(node.op in ("input", "product") and node.name == gate for node in used):
                raise self.error(f"gate {gate!r} is named but no product of it is used")
        read = {node.name for node in used if node.op == "state"}
        for index, name in enumerate(self.states[1:], 1):
            if index not in read:
                raise self.error(f"state {name!r} is never read, so it is none")

    def _check_products(self, used: list[Node], widths: Mapping[int, str]) -> None:
        seen: dict[str | None, Node] = {}
        for node in used:
            if node.op in ("product", "projection"):
                if node.name in seen:
                    what = f"R.{node.name}" if node.name else "P"
                    raise self.error(
                        f"{what} multiplies two different expressions; give each product its own gate", node.line
                    )
                seen[node.name] = node
        products = [node for node in used if node.op == "product"]
        if len({widths[node.args[0].number] for node in products}) > 1:
            raise self.error(
                "some recurrent products multiply hidden_size and some proj_size values", products[-1].line
            )

    def _widths(self, used: list[Node], outputs: tuple[Node, ...]) -> dict[int, str]:
        states: list[str | None] = [None] * len(outputs)  # not known yet
        for _ in range(2 * len(outputs) + 2):
            widths: dict[int, str] = {}
            clash: Node | None = None
            for node in used:
                inner = {widths[a.number] for a in node.args if a.number in widths}
                if node.op == "state":
                    known = states[node.name]
                    widths.update({node.number: known} if known else {})
                elif node.op in ("input", "vector", "product", "projection"):
                    widths[node.number] = PROJECTED if node.op == "projection" else HIDDEN
                    clash = node if node.op == "projection" and PROJECTED in inner else clash
                elif node.op != "constant" and inner:
                    widths[node.number] = HIDDEN if HIDDEN in inner else PROJECTED
                    clash = node if len(inner) > 1 else clash
            found = [widths.get(node.number) for node in outputs]
            if found == states and None in states:
                found[found.index(None)] = HIDDEN  # nothing says otherwise
            elif found == states:
                break
            states = found
        if clash is not None or found != states:
            line = clash.line if clash is not None else 0
            raise self.error("it mixes values of hidden_size and of proj_size element by element", line)
        return widths
