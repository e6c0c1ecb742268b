"""Layers can be pickled and copied: to other processes, and to keep the best of a training run."""

from __future__ import annotations

import copy
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


def test_dropout_goes_on_where_it_was(backend):
    layer = fastrnn.LSTM(5, 6, num_layers=2, dropout=0.5, seed=1, backend=backend)
    layer.record(X)
    other = copy.deepcopy(layer)
    np.testing.assert_array_equal(layer.record(X)[0], other.record(X)[0])
