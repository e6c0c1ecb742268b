"""The layers as users call them: shapes, names, layouts, lengths, threads. Values are checked elsewhere."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from cases import any_cell
from layer_cases import LAYERS, LENGTHS, B, H, I, T, assert_close, random_state, states
from sharing import share_everything

import fastrnn
from fastrnn import sigmoid, tanh
from fastrnn.backends import cython_
from fastrnn.checks import array

# --- shapes, names, dtypes --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_shapes(backend: str, name: str, bidirectional: bool, dtype: str, rng: np.random.Generator) -> None:
    layer = LAYERS[name](num_layers=2, bidirectional=bidirectional, dtype=dtype, backend=backend)
    d = 2 if bidirectional else 1
    out = 2 if name == "lstm_proj" else H
    y, state = layer(rng.normal(size=(T, B, I)))
    assert y.shape == (T, B, d * out)
    assert y.dtype == dtype
    found = [s.shape for s in states(state)]
    expected = [(2 * d, B, out), (2 * d, B, H)] if name.startswith(("lstm", "peephole")) else [(2 * d, B, H)]
    assert found == expected
    assert all(s.dtype == dtype for s in states(state))
    last, state = layer(rng.normal(size=(T, B, I)), state, sequence=False)
    assert last.shape == (B, d * out)


def test_names_and_sizes() -> None:
    lstm = fastrnn.LSTM(80, 12)
    assert lstm.num_parameters == 4 * (80 * 12 + 12 * 12 + 12) == 4464
    assert {name: a.shape for name, a in lstm.parameters.items()} == {
        "weight_ih_l0": (48, 80),
        "weight_hh_l0": (48, 12),
        "bias_l0": (48,),
    }
    names = set(fastrnn.GRU(3, 4, num_layers=2, bidirectional=True).parameters)
    base = ("weight_ih", "weight_hh", "bias", "bias_hn")
    assert names == {f"{n}_l{layer}{s}" for n in base for layer in (0, 1) for s in ("", "_reverse")}
    assert "weight_hr_l0" in fastrnn.LSTM(3, 4, proj_size=2).parameters
    assert "peephole_o_l0" in LAYERS["peephole"]().parameters
    assert set(fastrnn.GRU(3, 4, bias=False).parameters) == {"weight_ih_l0", "weight_hh_l0"}
    assert fastrnn.LSTM(3, 4, num_layers=2, bidirectional=True).parameters["weight_ih_l1"].shape == (16, 8)
    assert fastrnn.LSTM(3, 4, num_layers=2, proj_size=2).parameters["weight_ih_l1"].shape == (16, 2)


def test_repr_and_attributes() -> None:
    assert repr(fastrnn.LSTM(80, 12)) == "LSTM(80, 12)"
    text = repr(fastrnn.GRU(3, 4, num_layers=2, reset_after=False, dtype=np.float64, dropout=0.5))
    assert text == "GRU(3, 4, num_layers=2, dropout=0.5, dtype='float64', reset_after=False)"
    assert repr(LAYERS["relu"]()) == "RNN(3, 5, nonlinearity='relu')"
    assert repr(LAYERS["peephole"]()) == "Recurrent(lstm_peephole, 3, 5)"
    expected: dict[str, Any] = {
        "num_layers": 2,
        "bidirectional": True,
        "batch_first": True,
        "bias": False,
        "dropout": 0.25,
        "proj_size": 2,
        "dtype": np.dtype("float64"),
        "seed": 9,
        "backend": "numpy",
    }
    layer = fastrnn.LSTM(3, 4, **expected)
    assert {name: getattr(layer, name) for name in expected} == expected
    assert (layer.input_size, layer.hidden_size) == (3, 4)


def test_summary() -> None:
    text = fastrnn.LSTM(80, 12, num_layers=2, bidirectional=True).summary()
    lines = text.splitlines()
    assert lines[0] == "LSTM(80, 12, num_layers=2, bidirectional=True)"
    assert lines[2].split() == ["layer", "input", "weights", "recurrent", "weights", "biases", "total"]
    row = next(line for line in lines if line.startswith("0 reverse"))
    assert row.split()[2:] == ["3,840", "576", "48", "4,464"]
    assert lines[-1].split() == ["total", "9,984", "2,304", "192", "12,480"]
    assert "projection" in fastrnn.LSTM(8, 4, proj_size=2).summary()
    assert "peepholes" in LAYERS["peephole"]().summary()


def test_gate() -> None:
    lstm = fastrnn.LSTM(80, 12, num_layers=2, bidirectional=True)
    f = lstm.gate("f")
    assert (f.weight_ih.shape, f.weight_hh.shape, f.bias.shape) == ((12, 80), (12, 12), (12,))
    assert f.bias_h is None
    assert f.peephole is None
    np.testing.assert_array_equal(f.weight_hh, lstm.parameters["weight_hh_l0"][12:24])
    g = lstm.gate("o", layer=1, reverse=True)
    np.testing.assert_array_equal(g.weight_ih, lstm.parameters["weight_ih_l1_reverse"][36:])
    gru = fastrnn.GRU(3, 4)
    np.testing.assert_array_equal(gru.gate("n").bias_h, gru.parameters["bias_hn_l0"])
    assert gru.gate("r").bias_h is None
    assert LAYERS["peephole"]().gate("i").peephole.shape == (H,)
    assert LAYERS["peephole"]().gate("g").peephole is None
    assert fastrnn.RNN(3, 4, bias=False).gate("h").bias is None


@any_cell
def test_a_cell_of_ones_own(backend: str, rng: np.random.Generator) -> None:
    def leaky(x: Any, h: Any, R: Any, a: Any) -> Any:
        h = sigmoid(x.z) * h + tanh(x.n + R.n(h)) + a
        return h, 0.5 * a

    layer = fastrnn.Recurrent(leaky, I, H, dtype="float64", backend=backend)
    h, a = rng.normal(size=(2, 1, B, H))
    y, (_, decayed) = layer(rng.normal(size=(T, B, I)), (h, a))
    np.testing.assert_allclose(decayed, a * 0.5**T)
    assert y.shape == (T, B, H)
    assert layer.cell.gates == ("z", "n")


@any_cell
def test_a_state_that_moves_to_another(backend: str, rng: np.random.Generator) -> None:
    """A delay line hands states on unchanged, in both directions: no state may be overwritten before it is read."""

    def delay(x: Any, h: Any, u: Any, v: Any, R: Any) -> Any:
        return tanh(x.n + R.n(h) + u), v, h

    layer = fastrnn.Recurrent(delay, I, H, dtype="float64", backend=backend)
    x = rng.normal(size=(1, B, I))
    state = tuple(rng.normal(size=(1, B, H)) for _ in range(3))
    y, new = layer(x, state)
    np.testing.assert_array_equal(new[1], state[2])
    np.testing.assert_array_equal(new[2], state[0])
    stream = layer.stream(B)
    stream.reset(state)
    np.testing.assert_allclose(stream.step(x[0]), y[0])
    np.testing.assert_array_equal(stream.state[1], state[2])
    _, _, tape = layer.record(x, state)
    ends = tuple(rng.normal(size=(1, B, H)) for _ in range(3))
    np.testing.assert_array_equal(layer.backward(tape, None, ends).state[2], ends[1])
    both = fastrnn.Recurrent(delay, I, H, bidirectional=True, dtype="float64", backend=backend)
    x, state = rng.normal(size=(2, B, I)), tuple(rng.normal(size=(2, B, H)) for _ in range(3))
    for steps in (1, 2):
        for found, expected in zip(both(x[:steps], state, sequence=False)[1], both(x[:steps], state)[1], strict=True):
            assert_close(found, expected)


# --- layouts ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAYERS)
def test_batch_first(backend: str, name: str, rng: np.random.Generator) -> None:
    options: dict[str, Any] = {"num_layers": 2, "bidirectional": True, "dtype": "float64", "backend": backend}
    one, other = LAYERS[name](**options), LAYERS[name](batch_first=True, **options)
    x = rng.normal(size=(T, B, I))
    state = random_state(one, rng)
    y, final, tape = one.record(x, state, LENGTHS)
    y2, final2, tape2 = other.record(np.ascontiguousarray(x.swapaxes(0, 1)), state, LENGTHS)
    assert y2.shape == (B, T, y.shape[2])
    assert_close(y2.swapaxes(0, 1), y)
    assert_close(final2, final)
    dy = rng.normal(size=y.shape)
    grads, grads2 = one.backward(tape, dy, final), other.backward(tape2, dy.swapaxes(0, 1), final)
    assert grads2.x.shape == (B, T, I)
    assert_close(grads2.x.swapaxes(0, 1), grads.x)
    assert_close(grads2.state, grads.state)
    for key in grads.parameters:
        assert_close(grads2.parameters[key], grads.parameters[key])


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("batch_first", [False, True])
def test_unbatched(backend: str, name: str, batch_first: bool, rng: np.random.Generator) -> None:
    layer = LAYERS[name](num_layers=2, bidirectional=True, dtype="float64", backend=backend, batch_first=batch_first)
    axis = 0 if batch_first else 1
    x = rng.normal(size=(T, I))
    state = random_state(layer, rng, 1)
    flat = tuple(s[:, 0] for s in states(state))
    flat_state = flat if len(flat) > 1 else flat[0]
    y, final, tape = layer.record(np.expand_dims(x, axis), state)
    y1, final1, tape1 = layer.record(x, flat_state)
    assert_close(y1, y.squeeze(axis))
    assert_close(final1, tuple(s[:, 0] for s in states(final)))
    grads, grads1 = layer.backward(tape, y, final), layer.backward(tape1, y1, final1)
    assert_close(grads1.x, grads.x.squeeze(axis))
    assert_close(grads1.state, tuple(s[:, 0] for s in states(grads.state)))
    last, _ = layer(x, flat_state, sequence=False)
    assert last.shape == y1.shape[1:]
    assert_close(last, y1[-1])


@pytest.mark.parametrize("kind", ["list", "int", "fortran", "strided", "negative", "big", "readonly", "memoryview"])
def test_anything_that_is_an_array(backend: str, kind: str, rng: np.random.Generator) -> None:
    layer = fastrnn.LSTM(I, H, num_layers=2, bidirectional=True, dtype="float64", backend=backend)
    x = rng.integers(-3, 4, size=(T, B, I)).astype(np.float64)
    readonly = x.copy()
    readonly.flags.writeable = False
    wide = np.zeros((2 * T, B, 2 * I))
    wide[::2, :, ::2] = x
    given = {
        "list": x.tolist(),
        "int": x.astype(np.int8),
        "fortran": np.asfortranarray(x),
        "strided": wide[::2, :, ::2],
        "negative": x[::-1].copy()[::-1],
        "big": x.astype(">f8"),
        "readonly": readonly,
        "memoryview": memoryview(x),
    }[kind]
    expected = layer(x, lengths=LENGTHS)[0]
    np.testing.assert_array_equal(layer(given, lengths=LENGTHS)[0], expected)
    np.testing.assert_array_equal(layer.record(given, lengths=LENGTHS)[0], expected)


def test_unaligned_input(backend: str, rng: np.random.Generator) -> None:
    layer = fastrnn.GRU(I, H, backend=backend)
    x = rng.normal(size=(T, B, I)).astype(np.float32)
    raw = np.frombuffer(b"\0" + x.tobytes(), np.uint8)[1:].view(np.float32).reshape(x.shape)
    assert not raw.flags.aligned
    assert array("x", raw, raw.dtype).flags.aligned  # what backends get
    np.testing.assert_array_equal(layer(raw)[0], layer(x)[0])


def test_inputs_are_never_modified(backend: str, rng: np.random.Generator) -> None:
    layer = fastrnn.LSTM(I, H, num_layers=2, bidirectional=True, dropout=0.5, backend=backend)
    x = rng.normal(size=(T, B, I)).astype(np.float32)
    state = tuple(s.astype(np.float32) for s in random_state(layer, rng))
    lengths = np.array(LENGTHS)
    dy = rng.normal(size=(T, B, 2 * H)).astype(np.float32)
    given = (x, *state, lengths, dy)
    copies = [a.copy() for a in given]
    layer(x, state, lengths)
    layer(x, state, lengths, sequence=False)
    _, final, tape = layer.record(x, state, lengths)
    layer.backward(tape, dy, state)
    layer.backward(tape, dy, final)
    for given_array, copy in zip(given, copies, strict=True):
        np.testing.assert_array_equal(given_array, copy)
    assert not any(np.shares_memory(a, b) for a in states(final) for b in state)


def test_results_are_new_each_time(backend: str, rng: np.random.Generator) -> None:
    layer = fastrnn.GRU(I, H, backend=backend)
    x = rng.normal(size=(T, B, I))
    y, h = layer(x)
    kept = y.copy(), h.copy()
    y2, h2 = layer(2 * x)
    assert not np.shares_memory(y, y2)
    assert not np.shares_memory(h, h2)
    np.testing.assert_array_equal(y, kept[0])
    np.testing.assert_array_equal(h, kept[1])


# --- lengths ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", LAYERS)
def test_each_row_is_as_if_alone(backend: str, name: str, rng: np.random.Generator) -> None:
    layer = LAYERS[name](num_layers=2, bidirectional=True, dtype="float64", backend=backend)
    x, state = rng.normal(size=(T, B, I)), random_state(layer, rng)
    y, final = layer(x, state, LENGTHS)
    last, final_last = layer(x, state, LENGTHS, sequence=False)
    for b, n in enumerate(LENGTHS):
        row_state = tuple(s[:, b] for s in states(state))
        alone, end = layer(x[:n, b], row_state if len(row_state) > 1 else row_state[0])
        assert_close(y[:n, b], alone)
        assert not y[n:, b].any()
        assert_close(tuple(s[:, b] for s in states(final)), end)
        assert_close(tuple(s[:, b] for s in states(final_last)), end)
        assert_close(last[b], alone[-1] if n else np.zeros_like(last[b]))


@pytest.mark.parametrize("dtype", ["int8", "uint16", "int32", "int64", "uint64", "list"])
def test_lengths_of_any_integer_type(backend: str, dtype: str, rng: np.random.Generator) -> None:
    layer = fastrnn.GRU(I, H, backend=backend)
    x = rng.normal(size=(T, B, I))
    lengths = LENGTHS if dtype == "list" else np.array(LENGTHS, dtype)
    np.testing.assert_array_equal(layer(x, lengths=lengths)[0], layer(x, lengths=np.array(LENGTHS))[0])


def test_padding_is_not_read(backend: str, rng: np.random.Generator) -> None:
    layer = fastrnn.LSTM(I, H, num_layers=2, bidirectional=True, backend=backend)
    x = rng.normal(size=(T, B, I))
    poisoned = x.copy()
    dy = rng.normal(size=(T, B, 2 * H))
    poisoned_dy = dy.copy()
    for b, n in enumerate(LENGTHS):
        poisoned[n:, b] = np.nan
        poisoned_dy[n:, b] = np.nan
    y, _, tape = layer.record(x, lengths=LENGTHS)
    y2, _, tape2 = layer.record(poisoned, lengths=LENGTHS)
    np.testing.assert_array_equal(y2, y)
    grads, grads2 = layer.backward(tape, dy), layer.backward(tape2, poisoned_dy)
    np.testing.assert_array_equal(grads2.x, grads.x)
    for b, n in enumerate(LENGTHS):
        assert not grads.x[n:, b].any()
    for key, value in grads.parameters.items():
        np.testing.assert_array_equal(grads2.parameters[key], value)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize(("steps", "batch"), [(0, 3), (3, 0), (0, 0)])
@pytest.mark.parametrize("ragged", [False, True])
def test_nothing_to_do(backend: str, name: str, steps: int, batch: int, ragged: bool, rng: np.random.Generator) -> None:
    layer = LAYERS[name](num_layers=2, bidirectional=True, dtype="float64", backend=backend)
    state = random_state(layer, rng, batch)
    x = np.zeros((steps, batch, I))
    lengths = [0] * batch if ragged else None
    y, final, tape = layer.record(x, state, lengths)
    assert y.shape[:2] == (steps, batch)
    assert not y.any()
    assert_close(final, state)
    assert_close(layer(x, state, lengths)[1], state)
    last, final = layer(x, state, lengths, sequence=False)
    assert last.shape == (batch, y.shape[2])
    assert not last.any()
    assert_close(final, state)
    grads = layer.backward(tape, y, state)
    assert grads.x.shape == x.shape
    assert_close(grads.state, state)
    assert not any(value.any() for value in grads.parameters.values())


def test_nan_stays_in_its_row(backend: str, rng: np.random.Generator) -> None:
    layer = fastrnn.LSTM(I, H, backend=backend)
    x = rng.normal(size=(T, B, I))
    clean = layer(x)[0]
    x[2, 1] = np.nan
    x[3, 2] = np.inf
    y = layer(x)[0]
    assert np.isnan(y[2:, 1]).all()
    assert np.isfinite(y[:2]).all()
    np.testing.assert_allclose(y[:, [0, 3]], clean[:, [0, 3]], rtol=1e-6)


# --- threads, backends, import ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["lstm_proj", "gru"])
def test_threads_change_nothing(backend: str, name: str, rng: np.random.Generator) -> None:
    layer = LAYERS[name](num_layers=2, bidirectional=True, dtype="float64", backend=backend)
    x, lengths = rng.normal(size=(T, 13, I)), rng.integers(0, T + 1, size=13)
    y, final, tape = layer.record(x, lengths=lengths)
    grads = layer.backward(tape, y, final)
    for n, rows_apart in ((2, 1), (3, 1), (8, 1), (2, 100), (3, 100)):
        with share_everything(rows_apart), fastrnn.threads(n):
            y2, final2, tape2 = layer.record(x, lengths=lengths)
            grads2 = layer.backward(tape2, y, final)
            last = layer(x, lengths=lengths, sequence=False)[0]
        assert_close(y2, y)
        assert_close(final2, final)
        assert_close(grads2.x, grads.x)
        assert_close(grads2.state, grads.state)
        for key in grads.parameters:
            assert_close(grads2.parameters[key], grads.parameters[key])
        assert_close(last, layer(x, lengths=lengths, sequence=False)[0])


def test_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    found = fastrnn.backends()
    assert list(found) == ["numba", "cython", "numpy"]
    assert found["numpy"]
    assert str(found["numpy"]) == "available"
    assert str(found["cython"]) == "available"
    monkeypatch.setenv("FASTRNN_BACKEND", "numpy")
    assert fastrnn.RNN(2, 3).backend == "numpy"
    monkeypatch.setenv("FASTRNN_BACKEND", "mkl")
    with pytest.raises(ValueError, match=r"FASTRNN_BACKEND: expected one of 'numba', 'cython', 'numpy', got 'mkl'"):
        fastrnn.RNN(2, 3)
    assert fastrnn.RNN(2, 3, backend="numpy").backend == "numpy"
    monkeypatch.setenv("FASTRNN_BACKEND", "cython")
    assert fastrnn.RNN(2, 3).backend == "cython"
    monkeypatch.setattr(cython_, "unavailable", lambda: "the extension is not here")
    expected = "the backend 'cython' is not available: the extension is not here"
    with pytest.raises(RuntimeError, match=f"^FASTRNN_BACKEND: {expected}$"):
        fastrnn.RNN(2, 3)
    with pytest.raises(ValueError, match=r"^backend: expected one of"):
        fastrnn.RNN(2, 3, backend="Numpy")
    with pytest.raises(RuntimeError, match=f"^backend: {expected}$"):
        fastrnn.RNN(2, 3, backend="cython")
    with pytest.raises(TypeError, match=r"^backend: expected one of"):
        fastrnn.RNN(2, 3, backend=1)  # type: ignore[arg-type]


def test_numba_is_not_imported_before_it_is_needed() -> None:
    code = (
        "import sys, fastrnn; fastrnn.LSTM(3, 4); fastrnn.backends(); "
        "assert not {'numba', 'scipy', 'llvmlite', 'torch'} & set(sys.modules), 'too much is imported'; "
        "fastrnn.LSTM(3, 4, backend='numpy')([[0.0] * 3]); "
        "assert 'numba' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- the configuration ------------------------------------------------------------------------------------------------

CONFIGURED = {
    "cell": fastrnn.cells.gru, "input_size": 8, "hidden_size": 8, "num_layers": 2, "bidirectional": True,
    "batch_first": True, "bias": False, "proj_size": 1, "dtype": "float64", "seed": 1, "recurrent_init": "orthogonal",
    "forget_bias": 1.0, "backend": "numba",
}  # fmt: skip


@pytest.mark.parametrize("name", [*CONFIGURED, "nonlinearity"])
def test_the_configuration_cannot_be_changed(name: str) -> None:
    layer = fastrnn.RNN(I, H, backend="numpy")
    before = getattr(layer, name)
    with pytest.raises(AttributeError, match=rf"RNN\.{name} cannot be changed: make a new layer"):
        setattr(layer, name, CONFIGURED.get(name, "relu"))
    assert getattr(layer, name) is before


def test_reset_after_cannot_be_changed() -> None:
    with pytest.raises(AttributeError, match=r"GRU\.reset_after cannot"):
        fastrnn.GRU(I, H, backend="numpy").reset_after = False


def test_a_subclass_has_attributes_of_its_own() -> None:
    class Own(fastrnn.LSTM):
        def __init__(self) -> None:
            self.hidden_size = 7  # which the constructor overwrites
            self.early = 1
            super().__init__(I, H, backend="numpy")
            self.late = self.nonlinearity = self.early + 1

    layer = Own()
    layer.late += 1
    assert (layer.early, layer.late, layer.nonlinearity, layer.hidden_size) == (1, 3, 2, H)
