"""The layers, sizes and small helpers that the tests of layers and of tapes share."""

from __future__ import annotations

from typing import Any

import numpy as np

import fastrnn

T, B, I, H = 7, 4, 3, 5  # noqa: E741
LENGTHS = [3, 0, 7, 5]
LAYERS = {
    "lstm": lambda **o: fastrnn.LSTM(I, H, **o),
    "lstm_proj": lambda **o: fastrnn.LSTM(I, H, proj_size=2, **o),
    "gru": lambda **o: fastrnn.GRU(I, H, **o),
    "gru_before": lambda **o: fastrnn.GRU(I, H, reset_after=False, **o),
    "rnn": lambda **o: fastrnn.RNN(I, H, **o),
    "relu": lambda **o: fastrnn.RNN(I, H, nonlinearity="relu", **o),
    "peephole": lambda **o: fastrnn.Recurrent(fastrnn.cells.lstm_peephole, I, H, **o),
}


def states(state: Any) -> tuple[np.ndarray, ...]:
    return state if isinstance(state, tuple) else (state,)


def random_state(layer: fastrnn.Recurrent, rng: np.random.Generator, batch: int = B) -> Any:
    """A state that is not zero, in the form of the layer's own."""
    _, zero = layer(np.zeros((1, batch, I) if not layer.batch_first else (batch, 1, I)))
    drawn = tuple(rng.normal(size=s.shape) for s in states(zero))
    return drawn if len(drawn) > 1 else drawn[0]


def assert_close(a: Any, b: Any) -> None:
    for x, y in zip(states(a), states(b), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-11, atol=1e-12)
