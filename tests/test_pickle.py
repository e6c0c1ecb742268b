"""Layers can be pickled and copied: to other processes, and to keep the best of a training run."""

from __future__ import annotations

import copy
import importlib
import pickle

import numpy as np
import pytest

import fastrnn

X = np.random.default_rng(0).normal(size=(4, 3, 5)).astype(np.float32)

LAYERS = {
    "lstm": lambda backend: fastrnn.LSTM(5, 6, num_layers=2, bidirectional=True, seed=3, backend=backend),
    "projected": lambda backend: fastrnn.LSTM(5, 6, proj_size=2, bias=False, backend=backend),
    "gru": lambda backend: fastrnn.GRU(5, 6, reset_after=False, dtype="float64", backend=backend),
    "rnn": lambda backend: fastrnn.RNN(5, 6, nonlinearity="relu", batch_first=True, backend=backend),
    "custom": lambda backend: fastrnn.Recurrent(fastrnn.cells.ligru, 5, 6, backend=backend),
}


@pytest.mark.parametrize("duplicate", [copy.deepcopy, copy.copy, lambda v: pickle.loads(pickle.dumps(v))])
@pytest.mark.parametrize("name", LAYERS)
def test_a_duplicate_computes_the_same_and_shares_nothing(name, duplicate, backend):
    layer = LAYERS[name](backend)
    layer.set_parameters({name: value + 0.25 for name, value in layer.parameters.items()})  # not what the seed gives
    before, _ = layer(X)
    other = duplicate(layer)
    assert type(other) is type(layer)
    assert repr(other) == repr(layer)
    assert other.backend == backend
    np.testing.assert_array_equal(other(X)[0], before)
    other.parameters["weight_ih_l0"][:] = 0
    np.testing.assert_array_equal(layer(X)[0], before)
    assert not np.array_equal(other(X)[0], before)


@pytest.mark.parametrize("duplicate", [copy.deepcopy, copy.copy, lambda v: pickle.loads(pickle.dumps(v))])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_duplicate_streams(duplicate, dtype, backend):
    """NumPy's dtypes that were pickled or copied are equal to its own, and other objects."""
    layer = fastrnn.GRU(5, 6, dtype=dtype, backend=backend)
    expected = layer.stream(3).step(X[0])
    other = duplicate(layer)
    assert other.dtype is np.dtype(dtype)
    for x in (X[0], duplicate(X[0].astype(dtype))):
        np.testing.assert_array_equal(other.stream(3).step(x), expected)


def test_a_duplicate_runs_where_its_backend_is_missing(monkeypatch, backend):
    layer = fastrnn.GRU(5, 6, backend=backend)
    saved = pickle.dumps(layer)
    monkeypatch.setattr(importlib.import_module(f"fastrnn.backends.{backend}_"), "unavailable", lambda: "gone")
    monkeypatch.delenv("FASTRNN_BACKEND", raising=False)
    with pytest.warns(RuntimeWarning, match=f"a layer of backend '{backend}' runs on .* here: .*not available: gone"):
        other = pickle.loads(saved)
    assert other.backend != backend
    np.testing.assert_allclose(other(X)[0], layer(X)[0], atol=1e-6)


@pytest.mark.needs("numba", "cython")
def test_a_duplicate_runs_where_its_backend_lacks_the_cell(monkeypatch):
    saved = pickle.dumps(fastrnn.Recurrent(fastrnn.cells.ligru, 5, 6, backend="cython"))
    monkeypatch.setattr(importlib.import_module("fastrnn.backends.cython_"), "lacks", lambda cell: "it is new")
    monkeypatch.delenv("FASTRNN_BACKEND", raising=False)
    with pytest.warns(RuntimeWarning, match="a layer of backend 'cython' runs on 'numba' here: it is new"):
        assert pickle.loads(saved).backend == "numba"


def test_dropout_goes_on_where_it_was(backend):
    layer = fastrnn.LSTM(5, 6, num_layers=2, dropout=0.5, seed=1, backend=backend)
    layer.record(X)
    other = copy.deepcopy(layer)
    np.testing.assert_array_equal(layer.record(X)[0], other.record(X)[0])


class Scaled(fastrnn.LSTM):
    """A user's own layer, with attributes of all kinds."""

    def __init__(self, input_size, hidden_size):
        self.early = [1]
        super().__init__(input_size, hidden_size)
        self._scale, self.__hidden, self._parameters, self._dropout_state = 2.0, "h", "p", "d"

    def hidden(self):
        return self.__hidden


@pytest.mark.parametrize("duplicate", [copy.deepcopy, copy.copy, lambda v: pickle.loads(pickle.dumps(v))])
def test_a_duplicate_has_all_attributes_of_a_subclass(duplicate):
    layer = Scaled(5, 6)
    layer.later = layer.early
    other = duplicate(layer)
    assert (other._scale, other.hidden(), other._parameters, other._dropout_state) == (2.0, "h", "p", "d")
    assert other.later is other.early == [1]
    np.testing.assert_array_equal(other(X)[0], layer(X)[0])
    assert vars(other).keys() == vars(layer).keys()


@pytest.mark.parametrize("duplicate", [copy.deepcopy, copy.copy, lambda v: pickle.loads(pickle.dumps(v))])
@pytest.mark.parametrize("batch", [1, 3])
def test_a_duplicate_of_a_stream_is_another_session(duplicate, batch, backend):
    layer = fastrnn.LSTM(5, 6, num_layers=2, seed=3, backend=backend)
    stream = layer.stream(batch)
    stream.name = "own"
    x = X[:, :batch]
    stream.step(x[0])
    other = duplicate(stream)
    assert (type(other), other.batch_size, other.name) == (fastrnn.Stream, batch, "own")
    assert (other.layer is layer) == (duplicate is copy.copy)
    expected = [stream.step(x[1]), stream.step(x[2])]
    np.testing.assert_array_equal([other.step(x[1]), other.step(x[2])], expected)
    other.reset()
    np.testing.assert_array_equal(layer.stream(batch).chunk(x), [other.step(each) for each in x])
    for mine, own in zip(stream.state, duplicate(stream).state, strict=True):
        np.testing.assert_array_equal(mine, own)
    assert vars(other).keys() == vars(stream).keys()


def test_a_layer_and_its_stream_are_copied_together():
    layer = fastrnn.GRU(5, 6, backend="numpy")
    other, stream = copy.deepcopy((layer, layer.stream()))
    assert stream.layer is other
    other.parameters["weight_ih_l0"][:] = 0
    np.testing.assert_array_equal(stream.step(X[0, 0]), other(X[:1, 0])[0][0])
