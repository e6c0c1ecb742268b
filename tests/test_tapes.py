"""Recording, backward and dropout: what a tape holds, what gradients it gives, and what is dropped when."""

from __future__ import annotations

import copy
import threading
from typing import Any

import numpy as np
import oracle
import pytest
from layer_cases import LAYERS, LENGTHS, B, H, I, T, assert_close, random_state, states

import fastrnn

# --- tapes ------------------------------------------------------------------------------------------------------------


def run(layer: fastrnn.Recurrent, x: Any, state: Any, lengths: Any, dy: Any, dstate: Any) -> float:
    y, final = layer(x, state, lengths)
    return float((y * dy).sum() + sum((a * b).sum() for a, b in zip(states(final), states(dstate), strict=True)))


@pytest.mark.parametrize("name", LAYERS)
def test_gradients_by_differences(backend: str, name: str, rng: np.random.Generator) -> None:
    """Along a random direction of everything at once, with batch_first, lengths, two layers, two directions."""
    layer = LAYERS[name](num_layers=2, bidirectional=True, batch_first=True, dtype="float64", backend=backend)
    x, state = rng.normal(size=(B, T, I)), random_state(layer, rng)
    y, final, tape = layer.record(x, state, LENGTHS)
    dy = rng.normal(size=y.shape)
    dstate = tuple(rng.normal(size=s.shape) for s in states(final))
    dstate = dstate if len(dstate) > 1 else dstate[0]
    grads = layer.backward(tape, dy, dstate)
    arrays = {"x": x, **{f"state{k}": s for k, s in enumerate(states(state))}}
    arrays |= {name: value.copy() for name, value in layer.parameters.items()}
    found = {"x": grads.x, **{f"state{k}": s for k, s in enumerate(states(grads.state))}, **grads.parameters}
    assert list(grads.parameters) == list(layer.parameters)
    directions = {name: rng.normal(size=a.shape) for name, a in arrays.items()}

    def loss(values: dict[str, np.ndarray]) -> float:
        layer.set_parameters({name: values[name] for name in layer.parameters})
        initial = tuple(values[f"state{k}"] for k in range(len(states(state))))
        return run(layer, values["x"], initial if len(initial) > 1 else initial[0], LENGTHS, dy, dstate)

    for name in arrays:
        slope = oracle.directional_difference(loss, arrays, {name: directions[name]})
        np.testing.assert_allclose((found[name] * directions[name]).sum(), slope, rtol=1e-6, atol=1e-7, err_msg=name)


def test_a_tape_holds_copies(backend: str, rng: np.random.Generator) -> None:
    layer = fastrnn.LSTM(I, H, num_layers=2, dtype="float64", backend=backend)
    x, state = rng.normal(size=(T, B, I)), random_state(layer, rng)
    y, final, tape = layer.record(x, state)
    dy = rng.normal(size=y.shape)
    expected = layer.backward(tape, dy, final)
    x[...] = 9.0
    for s in state:
        s[...] = 9.0
    y[...] = 9.0
    held = layer.parameters["weight_hh_l0"]
    held[...] = 9.0
    layer.set_parameters({"weight_ih_l1": np.zeros((4 * H, H))})
    final[0][...], other = final[0].copy(), final
    again = layer.backward(tape, dy, other)
    np.testing.assert_array_equal(again.x, expected.x)
    for a, b in zip(again.state, expected.state, strict=True):
        np.testing.assert_array_equal(a, b)
    for name, value in expected.parameters.items():
        np.testing.assert_array_equal(again.parameters[name], value)


def test_backward_from_several_threads(backend: str, rng: np.random.Generator) -> None:
    layer = fastrnn.GRU(I, H, num_layers=2, bidirectional=True, backend=backend)
    _, _, tape = layer.record(rng.normal(size=(T, B, I)), lengths=LENGTHS)
    dys = rng.normal(size=(4, T, B, 2 * H))
    expected = [layer.backward(tape, dy).parameters["weight_hh_l0"] for dy in dys]
    found: list[Any] = [None] * len(dys)

    def work(k: int) -> None:
        for _ in range(5):
            found[k] = layer.backward(tape, dys[k]).parameters["weight_hh_l0"]

    workers = [threading.Thread(target=work, args=(k,)) for k in range(len(dys))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for a, b in zip(found, expected, strict=True):
        np.testing.assert_array_equal(a, b)


def test_parts_of_the_loss(backend: str, rng: np.random.Generator) -> None:
    layer = fastrnn.LSTM(I, H, num_layers=2, bidirectional=True, dtype="float64", backend=backend)
    y, final, tape = layer.record(rng.normal(size=(T, B, I)), lengths=LENGTHS)
    dy, dstate = rng.normal(size=y.shape), tuple(rng.normal(size=s.shape) for s in final)
    whole = layer.backward(tape, dy, dstate)
    one, other = layer.backward(tape, dy), layer.backward(tape, None, dstate)
    assert_close(whole.x, one.x + other.x)
    assert_close(whole.parameters["bias_l0"], one.parameters["bias_l0"] + other.parameters["bias_l0"])
    last, _, last_tape = layer.record(rng.normal(size=(T, B, I)), lengths=LENGTHS, sequence=False)
    assert last.shape == (B, 4 * H // 2)
    assert layer.backward(last_tape, last).x.shape == (T, B, I)


def test_last_output_and_its_gradient(backend: str, rng: np.random.Generator) -> None:
    layer = fastrnn.LSTM(I, H, num_layers=2, bidirectional=True, dtype="float64", backend=backend)
    x = rng.normal(size=(T, B, I))
    y, _, tape = layer.record(x, lengths=LENGTHS)
    last, _, last_tape = layer.record(x, lengths=LENGTHS, sequence=False)
    dlast = rng.normal(size=last.shape)
    dy = np.zeros_like(y)
    for b, n in enumerate(LENGTHS):
        np.testing.assert_array_equal(last[b], y[n - 1, b] if n else 0.0)
        if n:
            dy[n - 1, b] = dlast[b]
    assert_close(layer.backward(last_tape, dlast).x, layer.backward(tape, dy).x)


# --- dropout ----------------------------------------------------------------------------------------------------------


def test_dropout_is_only_applied_by_record(backend: str, rng: np.random.Generator) -> None:
    x = rng.normal(size=(T, B, I))
    options: dict[str, Any] = {"num_layers": 2, "dtype": "float64", "backend": backend}
    plain, dropping = fastrnn.GRU(I, H, **options), fastrnn.GRU(I, H, dropout=0.5, **options)
    np.testing.assert_array_equal(dropping(x)[0], plain(x)[0])
    assert not np.allclose(dropping.record(x)[0], plain.record(x)[0])
    single = fastrnn.GRU(I, H, dropout=0.5, backend=backend)  # no layer stands above it
    np.testing.assert_array_equal(single.record(x)[0], single(x)[0])


def test_dropout_is_reproducible(backend: str, rng: np.random.Generator) -> None:
    x = rng.normal(size=(T, B, I))

    def two(seed: int) -> list[np.ndarray]:
        layer = fastrnn.GRU(I, H, num_layers=2, dropout=0.5, seed=seed, backend=backend)
        layer.set_parameters({name: np.full(a.shape, 0.1) for name, a in layer.parameters.items()})
        layer(x)
        return [layer.record(x)[0], layer.record(x)[0]]

    one, again, other = two(1), two(1), two(2)
    np.testing.assert_array_equal(one, again)
    assert not np.array_equal(one[0], one[1])
    assert not np.array_equal(one[0], other[0])


def test_dropout_drops_its_share_and_keeps_the_mean() -> None:
    """Layer 0 puts out tanh(1) everywhere; layer 1 sums its inputs, so that its output counts what is kept."""
    width, p = 40, 0.3
    layer = fastrnn.RNN(1, width, num_layers=2, dropout=p, bias=False, dtype="float64", backend="numpy")
    zero = {name: np.zeros(a.shape) for name, a in layer.parameters.items()}
    layer.set_parameters({**zero, "weight_ih_l0": np.full((width, 1), 1e3), "weight_ih_l1": np.eye(width) * 1e-3})
    y = layer.record(np.ones((50, 20, 1)))[0] * 1e3
    kept = y > 0.5
    assert abs(kept.mean() - (1 - p)) < 0.01
    np.testing.assert_allclose(y[kept], 1 / (1 - p), rtol=1e-4)
    np.testing.assert_array_equal(y[~kept], 0.0)
    share = kept.mean(axis=(0, 1))
    assert np.abs(share - (1 - p)).max() < 0.08  # every unit alike


def test_gradients_through_dropout(backend: str, rng: np.random.Generator) -> None:
    """The same seed draws the same masks: record() is a function whose derivative can be measured."""
    x, direction, dy = rng.normal(size=(T, B, I)), rng.normal(size=(T, B, I)), rng.normal(size=(T, B, 2 * H))

    def recorded(value: np.ndarray) -> tuple[Any, ...]:
        layer = fastrnn.LSTM(
            I, H, num_layers=3, bidirectional=True, dropout=0.4, dtype="float64", backend=backend, seed=5
        )
        return layer, *layer.record(value)

    layer, _, _, tape = recorded(x)
    slope = ((recorded(x + 1e-5 * direction)[1] - recorded(x - 1e-5 * direction)[1]) * dy).sum() / 2e-5
    np.testing.assert_allclose((layer.backward(tape, dy).x * direction).sum(), slope, rtol=1e-6, atol=1e-8)


def test_dropout_can_be_set(rng: np.random.Generator) -> None:
    """It counts from the next recording on; a tape's gradients are those of the dropout that it was recorded with."""
    x = rng.normal(size=(4, 3, I))
    layer, other = (fastrnn.GRU(I, H, num_layers=2, dropout=0.5, seed=3, backend="numpy") for _ in range(2))
    y, _, tape = layer.record(x)
    expected = other.record(x)[2]
    layer.dropout = 0.0
    assert layer.dropout == copy.deepcopy(layer).dropout == 0.0
    np.testing.assert_array_equal(layer.record(x)[0], layer(x)[0])
    for name, value in other.backward(expected, y).parameters.items():
        np.testing.assert_array_equal(layer.backward(tape, y).parameters[name], value)
    copied = copy.deepcopy(layer)
    for each in (layer, copied):
        each.dropout = 0.5
    following = other.record(x)[0]
    assert not np.array_equal(following, y)
    for each in (layer, copied, copy.deepcopy(copied)):
        assert "dropout=0.5" in repr(each)
    np.testing.assert_array_equal(layer.record(x)[0], following)
    np.testing.assert_array_equal(copied.record(x)[0], following)
    with pytest.raises(ValueError, match="dropout: expected a number of at least 0 and less than 1, got 1"):
        layer.dropout = 1
    assert layer.dropout == 0.5
