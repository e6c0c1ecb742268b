"""Tracing, what is refused and how, the plans, and the rules of differentiation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import graph_values
import numpy as np
import odd_cells
import oracle
import pytest
from cases import CELLS, assert_close

import fastrnn
from fastrnn import CellError, cells, exp, hard_sigmoid, maximum, minimum, relu, sigmoid, softplus, softsign, tanh
from fastrnn.derive import RULES, derive
from fastrnn.equations import Sizes, trace
from fastrnn.graph import Graph, Node, reachable
from fastrnn.plan import plan


def test_gates_are_in_the_order_of_their_first_use() -> None:
    """Which is PyTorch's."""
    assert trace(cells.lstm).gates == ("i", "f", "g", "o")
    assert trace(cells.gru).gates == ("r", "z", "n")
    assert trace(cells.lstm).states == ("h", "c")


def test_products_of_a_cell() -> None:
    """Which gates have an input product, which a recurrent one, and the vectors."""
    cell = trace(odd_cells.vectors)
    assert cell.input_gates == ("i", "g")
    assert cell.recurrent_gates == ("i", "g")
    assert set(cell.vectors) == {"peephole_i", "peephole_j", "bias_hg", "bias_hk"}
    shared = trace(odd_cells.shared_product)
    assert shared.input_gates == ("n", "z")
    assert shared.recurrent_gates == ("u", "n")


@pytest.mark.parametrize("name", CELLS)
def test_parameter_shapes(name: str) -> None:
    """Those of the oracle, with and without biases."""
    proj_size = 3 if name == "lstm_projected" else 0
    for bias in (True, False):
        shapes = trace(getattr(cells, name)).parameter_shapes(Sizes(4, 5, proj_size), bias)
        assert shapes == oracle.parameter_shapes(name, 4, 5, proj_size, bias)


def test_tracing_again_gives_the_same_cell() -> None:
    """The same object for the same function, the same digest for the same equations, another for others."""

    def again(x: Any, h: Any, R: Any) -> Any:
        return tanh(x.h + R.h(h))

    def other(x: Any, h: Any, R: Any) -> Any:
        return tanh(x.h - R.h(h))

    assert trace(cells.rnn_tanh) is trace(cells.rnn_tanh)
    assert trace(trace(cells.rnn_tanh)) is trace(cells.rnn_tanh)
    assert trace(again).digest == trace(cells.rnn_tanh).digest
    assert trace(other).digest != trace(again).digest
    assert trace(again).digest == trace(again).digest


RATE = 0.25


def test_what_a_cell_reads_outside_is_read_for_each_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    def leaky(x: Any, h: Any) -> Any:
        return RATE * h + x.h

    before = trace(leaky)
    monkeypatch.setitem(globals(), "RATE", 0.75)
    after = trace(leaky)
    assert before.digest != after.digest
    assert trace(leaky) is after
    monkeypatch.setitem(globals(), "RATE", 0.25)
    assert trace(leaky) is before


def test_cells_with_their_gates_in_another_order_are_other_cells() -> None:
    """The parameters are in that order, and kernels find them by it, though the equations read the same."""

    def in_one(x: Any, h: Any, R: Any) -> Any:
        return tanh(R.n(sigmoid(x.r + R.r(h)) * h) + x.n)

    def in_two(x: Any, h: Any, R: Any) -> Any:
        r = sigmoid(x.r + R.r(h))
        return tanh(R.n(r * h) + x.n)

    one, two = trace(in_one), trace(in_two)
    assert one.gates == ("n", "r")
    assert two.gates == ("r", "n")
    assert one.digest != two.digest


def test_an_argument_with_a_default_is_an_option() -> None:
    """It is no state; the cell is traced with its default."""

    def leaky(x: Any, h: Any, R: Any, leak: float = 0.25) -> Any:
        return (1 - leak) * h + leak * tanh(x.h + R.h(h))

    assert trace(leaky).states == ("h",)


def test_equal_expressions_are_one_node() -> None:
    """Written twice, computed once; numpy's functions are the same operations."""

    def twice(x: Any, h: Any, R: Any) -> Any:
        return np.tanh(x.h + R.h(h)) * tanh(x.h + R.h(h))

    assert sum(node.op == "tanh" for node in reachable(trace(twice).outputs)) == 1


# --- what is refused --------------------------------------------------------------------------------------------------

stolen: list[Node] = []


def gate_never_used(x, h, R):
    unused = sigmoid(x.u + R.u(h))  # noqa: F841
    return tanh(x.h + R.h(h))


def vector_never_used(x, h, R, p):
    p.k * h
    return tanh(x.h + R.h(h))


def state_not_returned(x, h, c, R):
    return tanh(x.h + R.h(h) + c)


def too_many_returned(x, h, R):
    return tanh(x.h + R.h(h)), h


def state_never_read(x, h, c, R):
    return tanh(x.h + R.h(h)), sigmoid(x.c)


def unknown_operation(x, h, R):
    return np.sin(x.h + R.h(h))


def power(x, h, R):
    return tanh(x.h + R.h(h)) ** 2


def product_of_an_input(x, h, R):
    return tanh(R.h(x.h) + h)


def product_of_a_number(x, h, R):
    return tanh(x.h + R.h(1.0) + h)


def branch(x, h, R):
    return tanh(x.h + R.h(h)) if h else h


def comparison(x, h, R):
    return h if h > 0 else tanh(x.h + R.h(h))


def equality(x, h, R):
    return x.a if h == 0 else tanh(x.a + R.a(h))


def inequality(x, h, R):
    return x.a if 0.5 != h else tanh(x.a + R.a(h))  # noqa: SIM300  # the number asks the symbol


def membership(x, h, R):
    a, b = tanh(x.a), tanh(R.a(h))
    return a if h in (a, b) else a * b


def constant_state(x, h, c, R):
    return tanh(x.h + R.h(h) + c), h.graph.constant(1.0)


def number_for_a_state(x, h, c, R):
    return tanh(x.h + R.h(h) + c), 1.0


def same_gate_twice(x, h, c, R):
    return tanh(x.h + R.h(h)), tanh(R.h(c))


def mixed_widths(x, h, c, R, P):
    c = tanh(x.c + R.c(h)) + c
    return P(c) + c, c


def mixed_products(x, h, c, R, P):
    c = tanh(x.c + R.c(h)) + sigmoid(R.d(c))
    return P(c), c


def projection_of_projected(x, h, c, R, P):
    c = tanh(x.c + R.c(h)) + c
    return P(h), c


def no_input_argument(h, R):
    return tanh(R.h(h))


def input_never_used(x, h, R):
    return tanh(R.h(h))


def no_state(x):
    return tanh(x.h)


def symbol_of_another_trace(x, h, R):
    stolen.append(h)
    return tanh(x.h + R.h(stolen[0]))


def state_of_another_trace(x, h, c, R):
    stolen.append(h)
    return tanh(x.h + R.h(h) + c), stolen[0]


def returns_a_word(x, h, R):
    return "tanh(x.h + R.h(h))"


def returns_nothing(x, h, R):
    tanh(x.h + R.h(h))


def returns_a_list(x, h, c, R):
    return [tanh(x.h + R.h(h)), c]


def adds_a_word(x, h, R):
    return tanh(x.h + R.h(h)) + "bias"


def adds_an_array(x, h, R):
    return tanh(x.h + R.h(h)) + np.ones(3)


def assigns_a_gate(x, h, R):
    x.h = h
    return tanh(x.h + R.h(h))


def operation_on_a_number(x, h, R):
    return tanh(x.h + R.h(h)) * sigmoid(0.5)


def raises(x, h, R):
    return tanh(x.h + R.h(h)) / (1 // 0)


def many_arguments(x, h, *more):
    return tanh(x.h) + h


REFUSED: dict[Callable[..., Any], str] = {
    gate_never_used: "u",
    vector_never_used: "peephole_k",
    state_not_returned: "h, c",
    too_many_returned: "returns 2",
    state_never_read: "'c'",
    unknown_operation: "numpy.sin",
    power: "unknown operation",
    product_of_an_input: "R.h",
    product_of_a_number: "R.h",
    branch: "maximum",
    comparison: "unknown operation",
    equality: "compare values; write maximum",
    inequality: "compare values; write maximum",
    membership: "compare values; write maximum",
    constant_state: "'c' is a constant",
    number_for_a_state: "float",
    same_gate_twice: "R.h",
    mixed_widths: "proj_size",
    mixed_products: "proj_size",
    projection_of_projected: "proj_size",
    no_input_argument: "no argument x",
    input_never_used: "input x",
    no_state: "no state",
    symbol_of_another_trace: "another trace",
    state_of_another_trace: "another trace",
    returns_a_word: "str",
    returns_nothing: "NoneType",
    returns_a_list: "returns 1 values",
    adds_a_word: "str",
    adds_an_array: "ndarray",
    assigns_a_gate: "'h'",
    operation_on_a_number: "float",
    raises: "ZeroDivisionError",
    many_arguments: "'more'",
}


@pytest.mark.parametrize("function", REFUSED, ids=lambda f: f.__name__)
def test_refused(function: Callable[..., Any]) -> None:
    """A cell that cannot be one; the message names it, its file and a line of it, and what is wrong."""
    stolen.clear()
    if "another_trace" in function.__name__:
        stolen.append(trace(cells.rnn_tanh).graph.node("state", name=0))
    with pytest.raises(CellError) as caught:
        fastrnn.Recurrent(function, 3, 4)
    message = str(caught.value)
    code = function.__code__
    place = message.partition("(")[2].partition(")")[0]
    assert message.startswith(f"cell {function.__name__!r}")
    assert place.rpartition(":")[0] == code.co_filename
    lines = {code.co_firstlineno, *(line for *_, line in code.co_lines() if line is not None)}
    assert int(place.rpartition(":")[2]) in lines
    assert REFUSED[function] in message.partition("): ")[2]


@pytest.mark.parametrize(
    "value", [None, "lstm", 3, sigmoid(Graph().node("state", name=0)), object()], ids=lambda v: type(v).__name__
)
def test_no_function(value: Any) -> None:
    """What is no function is refused with what was expected."""
    with pytest.raises(TypeError, match="cell: expected a function"):
        trace(value)


# --- plans ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("cell", "stages"),
    [("rnn_tanh", 1), ("lstm", 1), ("lstm_peephole", 1), ("gru", 1), ("gru_reset_before", 2), ("lstm_projected", 2),
     ("mingru", 1), ("ligru", 1)],
)  # fmt: skip
def test_stages(cell: str, stages: int) -> None:
    """Only a product of a product's result has to wait."""
    assert len(plan(trace(getattr(cells, cell))).forward) == stages


def test_three_stages() -> None:
    """Two levels of products within one step."""
    assert len(plan(trace(odd_cells.two_levels)).forward) == 3


def test_tape_of_the_lstm() -> None:
    """The four gates and tanh(c), nothing else; forward itself needs none of them."""
    found = plan(trace(cells.lstm))
    assert len(found.kept) == 5
    assert sorted(node.op for node in found.kept) == ["sigmoid"] * 3 + ["tanh"] * 2
    assert found.crossing == 0


def test_crossing_of_the_projection() -> None:
    """What is projected is all that the second stage reads of the first."""
    found = plan(trace(cells.lstm_projected))
    assert found.crossing == 1
    assert found.kept_widths == ("H",) * len(found.kept)


def test_vectors_start_the_sums() -> None:
    """The products of the GRU begin with the input product or the second bias."""
    (product,) = plan(trace(cells.gru)).forward[0].products
    assert product.seeds == (("input", 0), ("input", 1), ("vector", 0))


# --- the rules of differentiation -------------------------------------------------------------------------------------

OPERATIONS: dict[str, Callable[..., Node]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "mul": lambda a, b: a * b,
    "div": lambda a, b: a / b,
    "max": maximum,
    "min": minimum,
    "neg": lambda a, b: -a * b,
    "sigmoid": lambda a, b: sigmoid(a) * b,
    "tanh": lambda a, b: tanh(a) * b,
    "relu": lambda a, b: relu(a) * b,
    "exp": lambda a, b: exp(a) * b,
    "softplus": lambda a, b: softplus(a) * b,
    "hard_sigmoid": lambda a, b: hard_sigmoid(a) * b,
    "hard_sigmoid of Keras 2": lambda a, b: hard_sigmoid(a, 0.2) * b,
    "softsign": lambda a, b: softsign(a) * b,
    "abs": lambda a, b: abs(a) + b * b,
    "constants": lambda a, b: 2 / (3 - a) + (1.5 - b) * 0.25 - a / 2,
    "a value squared": lambda a, b: a * a + b * b * b,
    "a quotient of itself": lambda a, b: (a / (a * a + 1)) / b,
}


def test_every_rule_is_tested() -> None:
    """Each operation that has a rule stands above."""
    assert set(RULES) <= set(OPERATIONS)


def check_rule(name: str) -> None:
    """The derivative of one operation against central differences of the same graph."""

    def cell(x: Any, h: Any) -> Any:
        return OPERATIONS[name](x.a + h, x.b)

    found = trace(cell)
    gradient = derive(found)
    rng = np.random.default_rng(3)
    leaves = {
        ("input", "a"): rng.normal(size=400) * 2,
        ("input", "b"): rng.choice([-1, 1], 400) * rng.uniform(0.5, 2, 400),
        ("state", 0): np.zeros(400),
        ("adjoint", 0): rng.normal(size=400),
    }

    def value(node: Node, moved: str = "", by: float = 0.0) -> Any:
        return graph_values.evaluate(
            node, lambda leaf, _: leaves[leaf.op, leaf.name] + (by if leaf.name == moved else 0.0), {}
        )

    for gate, node in gradient.inputs.items():
        slope = (value(found.outputs[0], gate, 1e-6) - value(found.outputs[0], gate, -1e-6)) / 2e-6
        assert_close(value(node), slope * leaves["adjoint", 0], "difference", "float64", f"d {name} / d {gate}")


@pytest.mark.parametrize("name", OPERATIONS)
def test_rule(name: str) -> None:
    """Each rule, and each operation made of others."""
    check_rule(name)


def test_gradients_at_kinks() -> None:
    """relu'(0) is 0, as in PyTorch; at a tie of maximum and minimum the second one has it."""

    def cell(x: Any, h: Any) -> Any:
        return relu(x.a) + maximum(x.b, x.c) + minimum(x.d, x.e) + h

    gradient = derive(trace(cell))
    found = {gate: graph_values.evaluate(node, lambda leaf, _: 1.0 if leaf.op == "adjoint" else 0.0, {})
             for gate, node in gradient.inputs.items()}  # fmt: skip
    assert found == {"a": 0.0, "b": 0.0, "c": 1.0, "d": 0.0, "e": 1.0}
