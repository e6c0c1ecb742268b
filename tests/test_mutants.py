"""The suite bites: wrong cells, backends and layers go through the checks of the other files, and each one fails.

A mutant is put in by monkeypatching. Each test first runs its check on what is right, which passes.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import mutants
import numpy as np
import pytest
from cases import CASES, SMALL_CASES, any_cell, assert_close, assert_same_bits
from conformance import (
    backend_of,
    check_changed_parameters,
    check_golden,
    check_scan,
    check_scan_gradients,
    check_stack,
    make_layer,
)
from test_equations import check_rule
from test_goldens import GOLDEN
from test_same_bits import check_batch_of_one, check_other_rows, draw_batch

import fastrnn
import fastrnn.plan
from fastrnn import cells
from fastrnn.backends import _loaded
from fastrnn.derive import RULES, derive
from fastrnn.equations import trace
from fastrnn.layout import StateLayout
from fastrnn.parameters import ParameterStore
from fastrnn.stack import Stack

Patch = pytest.MonkeyPatch


def assert_bites(check: Callable[[], None], put_in: Callable[[], None]) -> None:
    """The check passes, and after the mutant is put in it fails."""
    check()
    put_in()
    with pytest.raises(AssertionError):
        check()


# --- wrong cells ------------------------------------------------------------------------------------------------------

WRONG_CELLS = [
    ("lstm", mutants.lstm_gates_swapped),
    ("lstm", mutants.lstm_old_cell_state),
    ("lstm", mutants.lstm_without_a_recurrent_term),
    ("gru", mutants.gru_update_turned_round),
    ("gru", mutants.gru_bias_outside_the_reset),
    ("gru_reset_before", cells.gru),
    ("gru", cells.gru_reset_before),
    ("lstm_peephole", mutants.peephole_of_the_old_state),
    ("rnn_relu", cells.rnn_tanh),
]


@pytest.mark.parametrize(("name", "wrong"), WRONG_CELLS, ids=lambda v: v if isinstance(v, str) else v.__name__)
def test_wrong_cell(name: str, wrong: Any) -> None:
    """Forward, at a small and at an odd size."""
    for case in ("single-unit", "lengths-reverse"):
        check_scan(backend_of("numpy"), name, CASES[case], "float32")
        with pytest.raises(AssertionError):
            check_scan(backend_of("numpy"), name, CASES[case], "float32", cell=wrong)


@pytest.mark.needs("numba")
def test_wrong_cell_compiled() -> None:
    """The same on the compiled backend, forward and backward."""
    with pytest.raises(AssertionError):
        check_scan(backend_of("numba"), "lstm", CASES["seven-rows"], "float64", cell=mutants.lstm_gates_swapped)
    with pytest.raises(AssertionError):
        check_scan_gradients(backend_of("numba"), "lstm", SMALL_CASES["plain"], cell=mutants.lstm_gates_swapped)


# --- wrong backends ---------------------------------------------------------------------------------------------------


FORWARD = [
    mutants.StatesSwapped,
    mutants.StateForgotten,
    mutants.LengthsIgnored,
    mutants.ReverseFromTheEnd,
    mutants.Inexact,
    mutants.WeightsDropped,
]
BACKWARD = {
    "output's gradient forgotten": mutants.OutputGradientForgotten,
    "state's gradient forgotten": mutants.StateGradientForgotten,
    "lengths ignored": mutants.LengthsIgnored,
    "no gradient of the bias": mutants.gradient_changed(bias=np.zeros_like),
    "no gradient of the recurrent weights": mutants.gradient_changed(weight_hh=np.zeros_like),
    "gates of a gradient moved": mutants.gradient_changed(weight_ih=lambda g: np.roll(g, 1, axis=0)),
    "a gradient a little too large": mutants.gradient_changed(weight_ih=lambda g: g * 1.00001),
}


@pytest.mark.parametrize("mutant", FORWARD, ids=lambda m: m.__name__)
def test_wrong_forward(backend: str, mutant: type[mutants.Mutant]) -> None:
    """One scan in reverse with lengths."""
    real = backend_of(backend)
    check_scan(real, "lstm", CASES["lengths-reverse"], "float32")
    with pytest.raises(AssertionError):
        check_scan(mutant(real), "lstm", CASES["lengths-reverse"], "float32")


@pytest.mark.parametrize("mutant", BACKWARD)
def test_wrong_backward(backend: str, mutant: str) -> None:
    """The gradients of one scan."""
    real = backend_of(backend)
    check_scan_gradients(real, "lstm", SMALL_CASES["lengths"])
    with pytest.raises(AssertionError):
        check_scan_gradients(BACKWARD[mutant](real), "lstm", SMALL_CASES["lengths"])


@pytest.mark.parametrize("mutant", [*FORWARD[:4], *BACKWARD.values()], ids=lambda m: m.__name__)
def test_wrong_backend_meets_the_goldens(backend: str, mutant: type[mutants.Mutant], monkeypatch: Patch) -> None:
    """The same mutants under the public layers."""
    check = partial(check_golden, *GOLDEN["lstm-1layer-bidirectional-lengths-state"], backend, "float64")
    wrong = mutant(backend_of(backend))
    assert_bites(check, lambda: monkeypatch.setitem(_loaded, backend, wrong))


def test_wrong_backend_meets_a_stack(backend: str, monkeypatch: Patch) -> None:
    """And under a stack."""
    wrong = mutants.StatesSwapped(backend_of(backend))
    check = partial(check_stack, backend, "lstm", "float32")
    assert_bites(check, lambda: monkeypatch.setitem(_loaded, backend, wrong))


def test_history_off_by_one(monkeypatch: Patch) -> None:
    """The recurrent weights' gradient from the state after the step in place of the one before."""
    from fastrnn.backends import numpy_

    right = numpy_.NumpyTape.operand
    check = partial(check_scan_gradients, backend_of("numpy"), "lstm", SMALL_CASES["plain"])
    wrong = lambda tape, name: np.roll(right(tape, name), 1, axis=0)  # noqa: E731
    assert_bites(check, lambda: monkeypatch.setattr(numpy_.NumpyTape, "operand", wrong))


@pytest.mark.needs("numba")
def test_history_off_by_one_compiled(monkeypatch: Patch) -> None:
    """The same in the table of the compiled backend."""
    native = backend_of("numba").native  # type: ignore[attr-defined]
    right = native.history_offsets

    def wrong(offsets: np.ndarray, *arguments: Any) -> None:
        right(offsets, *arguments)
        offsets[:] = np.roll(offsets, 1)

    check = partial(check_scan_gradients, backend_of("numba"), "lstm", SMALL_CASES["plain"])
    assert_bites(check, lambda: monkeypatch.setattr(native, "history_offsets", wrong))


@any_cell
@pytest.mark.parametrize("path", ["state 0", "state 1", "recurrent"])
def test_forgotten_path(backend: str, path: str, monkeypatch: Patch) -> None:
    """A gradient in which what reaches a previous state is forgotten: through the cell state, the update gate, or R."""
    name = "lstm" if path == "state 1" else "gru"
    right = trace(getattr(cells, name))
    wrong = right.replaced(text=f"forgotten {path} of {name}")  # another digest: compiled apart

    def forgetful(cell: Any) -> Any:
        found = derive(cell)
        if path == "recurrent":
            return found.replaced(recurrent=tuple(() for _ in found.recurrent))
        return found.replaced(states=tuple(None if path == f"state {k}" else s for k, s in enumerate(found.states)))

    monkeypatch.setattr(fastrnn.plan, "derive", forgetful)
    check_scan(backend_of(backend), name, SMALL_CASES["plain"], "float64", cell=wrong)
    with pytest.raises(AssertionError):
        check_scan_gradients(backend_of(backend), name, SMALL_CASES["plain"], cell=wrong)


@pytest.mark.parametrize("op", RULES)
def test_wrong_rule(op: str, monkeypatch: Patch) -> None:
    """Each rule of differentiation with a gradient that is one thousandth too large."""
    right = RULES[op]

    def wrong(node: Any, gradient: Any, graph: Any) -> Any:
        return right(node, gradient * 1.001, graph)

    assert_bites(partial(check_rule, op), lambda: monkeypatch.setitem(RULES, op, wrong))


# --- wrong layers -----------------------------------------------------------------------------------------------------


def test_stale_pack(backend: str, monkeypatch: Patch) -> None:
    """The first packs are kept whatever becomes of the parameters."""
    right, first = ParameterStore.packs, {}

    def stale(store: ParameterStore) -> Any:
        return first.setdefault(store, right(store))

    check = partial(check_changed_parameters, backend)
    assert_bites(check, lambda: monkeypatch.setattr(ParameterStore, "packs", stale))


def test_writes_in_place_unseen(backend: str, monkeypatch: Patch) -> None:
    """Only `set_parameters` counts."""
    check = partial(check_changed_parameters, backend)
    assert_bites(check, lambda: monkeypatch.setattr(ParameterStore, "_look", lambda store: None))


def test_directions_swapped(backend: str, monkeypatch: Patch) -> None:
    """The states of layers and directions in another order."""
    right = StateLayout.read

    def wrong(layout: StateLayout, *arguments: Any, **options: Any) -> Any:
        return tuple(np.ascontiguousarray(s[::-1]) for s in right(layout, *arguments, **options))

    assert_bites(
        partial(check_stack, backend, "gru", "float64"), lambda: monkeypatch.setattr(StateLayout, "read", wrong)
    )


def test_parameters_of_directions_swapped(backend: str, monkeypatch: Patch) -> None:
    """Each direction with the other one's weights."""
    right = Stack.packs

    def wrong(stack: Stack, values: Any) -> Any:
        packs = right(stack, values)
        return tuple(packs[index ^ 1] for index in range(len(packs)))

    assert_bites(
        partial(check_stack, backend, "rnn_tanh", "float64"), lambda: monkeypatch.setattr(Stack, "packs", wrong)
    )


# --- wrong bits -------------------------------------------------------------------------------------------------------


@pytest.mark.needs("numba")
def test_last_bit(monkeypatch: Patch) -> None:
    """One unit in the last place is enough."""

    def check() -> None:
        layer = make_layer("gru", 5, 21, backend="numba")
        check_batch_of_one(layer, draw_batch(layer, 4, 3, 1), [4, 4, 4])

    assert_bites(check, lambda: monkeypatch.setitem(_loaded, "numba", mutants.LastBit(backend_of("numba"))))


@pytest.mark.needs("numba")
def test_leak(monkeypatch: Patch) -> None:
    """NaN in one row must not come out of another."""

    def check() -> None:
        layer = make_layer("gru", 5, 21, backend="numba")
        check_other_rows(layer, draw_batch(layer, 4, 3, 1), [4, 4, 4], 1, np.nan)

    assert_bites(check, lambda: monkeypatch.setitem(_loaded, "numba", mutants.Leaky(backend_of("numba"))))


def test_comparisons_bite() -> None:
    """The comparisons themselves: shapes, NaN, the last bit, the sign of zero, a type."""
    one = np.ones((2, 3))
    assert_close(one, one, "value", "float64")
    assert_same_bits(one, one)
    for wrong in (one[:1], one.T, one * (1 + 1e-11), np.full((2, 3), np.nan)):
        with pytest.raises(AssertionError):
            assert_close(wrong, one, "value", "float64")
    for wrong in (one[:1], np.nextafter(one, 2), one.astype(np.float32)):
        with pytest.raises(AssertionError):
            assert_same_bits(wrong, one)
    with pytest.raises(AssertionError):
        assert_same_bits(np.array([-0.0]), np.array([0.0]))
