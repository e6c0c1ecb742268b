"""Parameters: every way of changing them is seen by the next call, and nothing else costs anything."""

from __future__ import annotations

import copy
import gc
import pickle
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastrnn
import fastrnn.nn
from fastrnn.nn import SGD

X = np.random.default_rng(0).normal(size=(5, 3, 4))
NAME = "weight_hh_l0"


def layer_of(backend: str, **options: Any) -> fastrnn.LSTM:
    return fastrnn.LSTM(4, 6, dtype="float64", backend=backend, **options)


def fresh(layer: fastrnn.Recurrent, backend: str) -> np.ndarray:
    """What a new layer with the same values puts out."""
    other = layer_of(backend, seed=99)
    other.set_parameters({name: value.copy() for name, value in layer.parameters.items()})
    return other(X)[0]


def in_place_through_a_held_array(layer: Any, held: np.ndarray) -> None:
    held[3, 2] += 1.0


def through_a_view_of_a_view(layer: Any, held: np.ndarray) -> None:
    held.T[1:][:, ::2][0, 1] -= 1.0


def through_a_temporary(layer: Any, held: np.ndarray) -> None:
    layer.parameters[NAME][...] *= 2.0


def through_a_temporary_in_place_operator(layer: Any, held: np.ndarray) -> None:
    array = layer.parameters[NAME]
    array += 0.25


def through_a_memoryview(layer: Any, held: np.ndarray) -> None:
    memoryview(layer.parameters[NAME]).cast("B").cast("d")[5] += 2.5


def through_a_gate(layer: Any, held: np.ndarray) -> None:
    layer.gate("f").weight_hh[1, 1] += 3.0


def through_a_gates_bias(layer: Any, held: np.ndarray) -> None:
    layer.gate("o").bias[:] += 1.5


def through_a_ufuncs_out(layer: Any, held: np.ndarray) -> None:
    np.add(held, 1.0, out=held)


def by_set_parameters(layer: Any, held: np.ndarray) -> None:
    layer.set_parameters({NAME: held + 0.5})


def by_copyto_of_a_reshaped_view(layer: Any, held: np.ndarray) -> None:
    np.copyto(held.reshape(-1)[:7], held[0, 0] + 0.5)


WAYS: list[Callable[[Any, np.ndarray], None]] = [
    in_place_through_a_held_array,
    through_a_view_of_a_view,
    through_a_temporary,
    through_a_temporary_in_place_operator,
    through_a_memoryview,
    through_a_gate,
    through_a_gates_bias,
    through_a_ufuncs_out,
    by_set_parameters,
    by_copyto_of_a_reshaped_view,
]


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
@pytest.mark.parametrize("hold", [True, False])
def test_every_change_is_seen(backend: str, way: Callable[[Any, np.ndarray], None], hold: bool) -> None:
    layer = layer_of(backend)
    stream = layer.stream(3)
    held = [layer.parameters[NAME]]
    for _ in range(3):
        before = layer(X)[0]
        stream.reset()
        stream.chunk(X)
        way(layer, held[0])
        if not hold:
            held.clear()
            gc.collect()
        y = layer(X)[0]
        assert not np.array_equal(y, before)
        np.testing.assert_array_equal(y, fresh(layer, backend))
        stream.reset()
        np.testing.assert_allclose(stream.step(X[0]), y[0], rtol=1e-12)
        np.testing.assert_array_equal(layer.record(X)[0], y)
        if not held:
            held.append(layer.parameters[NAME])


def test_a_view_that_outlives_everything_else(backend: str) -> None:
    layer = layer_of(backend)
    corner = layer.parameters[NAME][2:, 3:][:2, :2].T
    gc.collect()
    for value in (1.0, 2.0, 3.0):
        before = layer(X)[0]
        layer(X)
        corner[1, 0] = value
        assert not np.array_equal(layer(X)[0], before)
    corner[0, 0] = 4.0
    before = fresh(layer, backend)
    del corner
    gc.collect()
    np.testing.assert_array_equal(layer(X)[0], before)


def test_a_write_is_seen_though_its_array_is_gone_before_the_look_is_over(
    backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another thread may write when this one has just compared, and let go of the last array."""
    layer, twin = layer_of(backend), layer_of(backend)
    value = twin.parameters[NAME]
    value[0, 0] = 3.0
    held, real = [layer.parameters[NAME]], np.array_equal

    def compared(one: np.ndarray, other: np.ndarray) -> bool:
        same = real(one, other)
        while held:
            held.pop()[0, 0] = 3.0
        return same

    with monkeypatch.context() as inside:
        inside.setattr(np, "array_equal", compared)
        before = layer(X)[0]
    assert not held
    y = layer(X)[0]
    assert not np.array_equal(y, before)
    np.testing.assert_array_equal(y, twin(X)[0])
    assert layer.parameters[NAME][0, 0] == 3.0


def test_a_change_from_nan_to_nan_and_of_signs_is_handled(backend: str) -> None:
    layer = layer_of(backend)
    bias = layer.parameters["bias_l0"]
    bias[0] = np.nan
    layer(X)
    packs = layer._packs()
    assert layer._packs() is packs  # NaN is no change
    bias[1] = 0.0
    packs = layer._packs()
    bias[1] = -0.0
    assert layer._packs() is not packs


def test_packs_are_kept_while_nothing_changes() -> None:
    layer = layer_of("numpy")
    packs = layer._packs()
    layer(X)
    assert layer._packs() is packs
    held = layer.parameters[NAME]
    layer(X)
    assert layer._packs() is packs
    held[0, 0] += 1
    held[0, 0] -= 0  # written, with the same bits as before
    changed = layer._packs()
    assert changed is not packs
    del held
    gc.collect()
    assert layer._packs() is changed
    assert not layer._store._leased


def test_a_kept_tape_is_not_reached(backend: str) -> None:
    layer = layer_of(backend)
    y, _, tape = layer.record(X)
    expected = layer.backward(tape, y).x
    layer.parameters[NAME][...] = 0.0
    layer(X)
    np.testing.assert_array_equal(layer.backward(tape, y).x, expected)


@pytest.mark.parametrize("way", WAYS, ids=lambda way: way.__name__)
def test_a_tape_that_first_goes_back_after_a_change(backend: str, way: Callable[[Any, np.ndarray], None]) -> None:
    """What backward needs of the weights is made when it is called: of those that the tape was recorded with."""
    layer, twin = layer_of(backend), layer_of(backend)
    held = layer.parameters[NAME]
    y, _, tape = layer.record(X)
    way(layer, held)
    layer(X)
    way(layer, held)
    _, _, other = twin.record(X)
    expected, found = twin.backward(other, y), layer.backward(tape, y)
    np.testing.assert_array_equal(found.x, expected.x)
    for name, value in expected.parameters.items():
        np.testing.assert_array_equal(found.parameters[name], value)


def test_what_was_written_is_there_before_any_call(backend: str) -> None:
    """Also for who asks once more after the array is gone."""
    layer = layer_of(backend)
    layer(X)
    layer.parameters[NAME][0, 0] = 5.0
    gc.collect()
    assert layer.parameters[NAME][0, 0] == 5.0
    gc.collect()
    assert copy.deepcopy(layer).parameters[NAME][0, 0] == 5.0
    layer.parameters[NAME][0, 1] = 6.0
    np.testing.assert_array_equal(layer(X)[0], fresh(layer, backend))
    assert layer.parameters[NAME][0, :2].tolist() == [5.0, 6.0]


def test_parameters_is_a_mapping() -> None:
    layer = layer_of("numpy")
    assert list(layer.parameters) == ["weight_ih_l0", "weight_hh_l0", "bias_l0"]
    assert len(layer.parameters) == 3
    assert "weight_ih_l0" in layer.parameters
    assert "weight_ih_l1" not in layer.parameters
    with pytest.raises(KeyError, match="is no parameter; there are weight_ih_l0"):
        layer.parameters["weight_ih_l1"]
    assert repr(layer.parameters).startswith("Parameters(weight_ih_l0 (24, 4), ")
    array = layer.parameters["bias_l0"]
    assert array.flags.writeable
    assert array.dtype == np.float64
    assert np.shares_memory(array, layer.parameters["bias_l0"])


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, copy.copy, lambda v: v.copy(), lambda v: pickle.loads(pickle.dumps(v))]
)
@pytest.mark.parametrize("make", [lambda: layer_of("numpy"), lambda: fastrnn.nn.Linear(3, 2)])
def test_a_copy_of_the_parameters_is_a_dictionary(make: Any, duplicate: Any) -> None:
    """To keep the best weights of a training run, and to go back to them."""
    layer = make()
    best = duplicate(layer.parameters)
    assert type(best) is dict
    expected = {name: value.copy() for name, value in layer.parameters.items()}
    for value in layer.parameters.values():
        value += 1
    layer.set_parameters(best)
    assert best.keys() == layer.parameters.keys()
    for name, value in layer.parameters.items():
        np.testing.assert_array_equal(value, expected[name])
        np.testing.assert_array_equal(best[name], expected[name])
        assert not np.shares_memory(value, best[name])


@pytest.mark.parametrize(
    ("make", "name"), [(lambda: layer_of("numpy"), NAME), (lambda: fastrnn.nn.Linear(3, 2), "weight")]
)
def test_no_array_takes_the_place_of_a_parameter(make: Any, name: str) -> None:
    layer = make()
    before = layer.parameters[name].copy()
    layer.parameters[name] += 1
    layer.parameters[name] *= 2
    np.testing.assert_array_equal(layer.parameters[name], (before + 1) * 2)
    layer.parameters[name][:] = before
    for wrong in (before, 0.0, None, layer.parameters[name][:1], layer.parameters[name][::-1], before.astype(int)):
        with pytest.raises(TypeError, match=rf"write parameters\['{name}'\]\[:\] = .* or set_parameters\("):
            layer.parameters[name] = wrong
    np.testing.assert_array_equal(layer.parameters[name], before)
    with pytest.raises(KeyError):
        layer.parameters["none"] = before


def test_an_array_outlives_its_layer() -> None:
    array = layer_of("numpy").parameters[NAME]
    copy = array.copy()
    gc.collect()
    np.testing.assert_array_equal(array, copy)
    array[...] = 1.0


# --- set_parameters ---------------------------------------------------------------------------------------------------


def test_set_parameters_converts_and_copies() -> None:
    layer = fastrnn.RNN(2, 2, backend="numpy")
    given = np.array([[1, 2], [3, 4]], dtype=">f8")
    layer.set_parameters({"weight_ih_l0": given, "bias_l0": [1, 2]})
    given[...] = 0
    np.testing.assert_array_equal(layer.parameters["weight_ih_l0"], [[1, 2], [3, 4]])
    np.testing.assert_array_equal(layer.parameters["bias_l0"], [1, 2])
    assert layer.parameters["bias_l0"].dtype == np.float32
    layer.set_parameters({})


@pytest.mark.parametrize(
    ("bad", "error", "message"),
    [
        (
            {"weight_hh_l1": np.zeros((24, 6))},
            ValueError,
            "out of weight_ih_l0, weight_hh_l0, bias_l0; got 'weight_hh_l1'",
        ),
        ({"weight_hh_l0": np.zeros((6, 24))}, ValueError, r"expected the shape = \(24, 6\), got \(6, 24\)"),
        ({"weight_hh_l0": np.zeros((24, 6), complex)}, TypeError, "of dtype complex128"),
        ({"weight_hh_l0": [["a"] * 6] * 24}, TypeError, "expected an array of real numbers"),
        ({"weight_hh_l0": [[1.0], [1.0, 2.0]]}, ValueError, "expected an array of real numbers"),
        ({"weight_hh_l0": None}, TypeError, "expected an array of real numbers"),
        ([("weight_hh_l0", np.zeros((24, 6)))], TypeError, "expected a mapping"),
    ],
)
def test_set_parameters_is_all_or_nothing(bad: Any, error: type[Exception], message: str) -> None:
    layer = layer_of("numpy")
    before = {name: value.copy() for name, value in layer.parameters.items()}
    gc.collect()
    packs = layer._packs()
    values = {"bias_l0": np.ones(24), **bad} if isinstance(bad, dict) else bad
    with pytest.raises(error, match=message):
        layer.set_parameters(values)
    for name, value in before.items():
        np.testing.assert_array_equal(layer.parameters[name], value)
    assert layer._packs() is packs


def test_set_parameters_from_views_of_the_layer_itself() -> None:
    """Two parameters change places: neither may be read after it is written."""
    layer = fastrnn.RNN(3, 3, backend="numpy")
    a, b = layer.parameters["weight_ih_l0"], layer.parameters["weight_hh_l0"]
    before = a.copy(), b.copy()
    layer.set_parameters({"weight_ih_l0": b, "weight_hh_l0": a})
    np.testing.assert_array_equal(layer.parameters["weight_ih_l0"], before[1])
    np.testing.assert_array_equal(layer.parameters["weight_hh_l0"], before[0])


def test_a_call_never_sees_half_of_a_change(backend: str) -> None:
    """With all parameters k the output is one of two, never a mixture, while another thread goes to and fro."""
    layer = layer_of(backend)
    shapes = {name: value.shape for name, value in layer.parameters.items()}
    gc.collect()
    sets = [{name: np.full(shape, k) for name, shape in shapes.items()} for k in (0.1, -0.2)]
    allowed = []
    for values in sets:
        layer.set_parameters(values)
        allowed.append(layer(X)[0])
    stop = threading.Event()

    def change() -> None:
        while not stop.is_set():
            for values in sets:
                layer.set_parameters(values)

    worker = threading.Thread(target=change)
    worker.start()
    try:
        for _ in range(300):
            y = layer(X)[0]
            assert any(np.array_equal(y, a) for a in allowed)
    finally:
        stop.set()
        worker.join()


# --- initial values ---------------------------------------------------------------------------------------------------


def test_seeds() -> None:
    one, again, other = (fastrnn.GRU(3, 4, seed=s) for s in (1, 1, 2))
    for name in one.parameters:
        np.testing.assert_array_equal(one.parameters[name], again.parameters[name])
        assert not np.array_equal(one.parameters[name], other.parameters[name])
    drawn, drawn_again = fastrnn.GRU(3, 4, seed=None), fastrnn.GRU(3, 4, seed=None)
    assert not np.array_equal(drawn.parameters["bias_l0"], drawn_again.parameters["bias_l0"])
    wide = fastrnn.GRU(3, 4, seed=1, dtype="float64")
    np.testing.assert_array_equal(wide.parameters["bias_l0"].astype(np.float32), one.parameters["bias_l0"])


def test_uniform() -> None:
    layer = fastrnn.LSTM(50, 64, num_layers=2)
    for value in layer.parameters.values():
        assert np.abs(value).max() <= 1 / 8
        assert np.abs(value).max() > 0.11
        assert abs(value.std() - 1 / 8 / np.sqrt(3)) < 0.01


def test_orthogonal() -> None:
    layer = fastrnn.LSTM(5, 7, bidirectional=True, recurrent_init="orthogonal", dtype="float64")
    for name in ("weight_hh_l0", "weight_hh_l0_reverse"):
        blocks = np.split(layer.parameters[name], 4)
        for block in blocks:
            np.testing.assert_allclose(block @ block.T, np.eye(7), atol=1e-12)
        assert not np.allclose(blocks[0], blocks[1])
    projected = fastrnn.LSTM(5, 7, proj_size=3, recurrent_init="orthogonal", dtype="float64")
    block = projected.gate("g").weight_hh
    np.testing.assert_allclose(block.T @ block, np.eye(3), atol=1e-12)


def test_forget_bias() -> None:
    layer = fastrnn.LSTM(3, 4, num_layers=2, bidirectional=True, forget_bias=1.0)
    for index in (0, 1):
        for reverse in (False, True):
            np.testing.assert_array_equal(layer.gate("f", index, reverse).bias, 1.0)
            assert np.abs(layer.gate("i", index, reverse).bias).max() <= 0.5
    with pytest.raises(ValueError, match="forget_bias: expected None, since cell 'gru' has no gate f, only r, z, n"):
        fastrnn.GRU(3, 4, forget_bias=1.0)
    with pytest.raises(ValueError, match="forget_bias: expected None with bias=False"):
        fastrnn.LSTM(3, 4, forget_bias=1.0, bias=False)


def test_optimisers_see_what_was_written_and_hold_nothing(backend: str) -> None:
    """They read the values as they are at each step, and leave no array for whose sake each call looks for changes."""
    layer = layer_of(backend)
    y, _, tape = layer.record(X)
    gradients = layer.backward(tape, np.ones_like(y))
    expected = {name: value.copy() for name, value in layer.parameters.items()}
    held = layer.parameters[NAME]
    held[:] = expected[NAME] = 0.5
    optimizer = SGD([layer], learning_rate=0.25)
    optimizer.step([gradients])
    assert (held == layer.parameters[NAME]).all()
    del held
    optimizer.step([gradients])
    assert not layer._store._leased
    for name, value in layer.parameters.items():
        change = 0.25 * gradients.parameters[name]
        np.testing.assert_array_equal(value, expected[name] - change - change, name)


def test_values_that_are_only_read_cannot_be_written(backend: str) -> None:
    """They are what packs are made of. They stay as they are when the parameters change."""
    layer = layer_of(backend)
    values = layer.parameters.present()
    kept = values[NAME].copy()
    with pytest.raises(ValueError, match="read-only"):
        values[NAME][0, 0] = 1.0
    layer.parameters[NAME][...] = 2.0
    layer.set_parameters({NAME: kept * 3})
    np.testing.assert_array_equal(values[NAME], kept)
    np.testing.assert_array_equal(layer.parameters.present()[NAME], kept * 3)
