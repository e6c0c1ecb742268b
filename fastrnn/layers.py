"""The layers that everybody knows: RNN, GRU and LSTM, each `Recurrent` with a cell of `fastrnn.cells`."""

from __future__ import annotations

from typing import Any

from fastrnn import cells, checks
from fastrnn.recurrent import Recurrent


class RNN(Recurrent):
    """A vanilla (Elman) recurrent layer: h' = tanh(W x + R h + bias).

    Parameters
    ----------
    input_size, hidden_size : int
        I and H.
    nonlinearity : {"tanh", "relu"}
    **options
        As for `Recurrent`: num_layers, bidirectional, batch_first, bias, dropout, dtype, seed, recurrent_init, backend.

    Notes
    -----
    J. L. Elman, Finding structure in time, Cognitive Science 14, 1990.

    Examples
    --------
    >>> import numpy as np, fastrnn
    >>> y, h = fastrnn.RNN(80, 12)(np.zeros((5, 3, 80)))
    >>> y.shape, h.shape
    ((5, 3, 12), (1, 3, 12))
    """

    _FIXED = Recurrent._FIXED | {"nonlinearity"}

    def __init__(self, input_size: int, hidden_size: int, *, nonlinearity: str = "tanh", **options: Any) -> None:
        self.nonlinearity = checks.word("nonlinearity", nonlinearity, ("tanh", "relu"))
        cell = cells.rnn_relu if nonlinearity == "relu" else cells.rnn_tanh
        super().__init__(cell, input_size, hidden_size, **options)

    def _cell_argument(self) -> list[str]:
        return []

    def _options(self) -> list[str]:
        return [] if self.nonlinearity == "tanh" else [f"nonlinearity={self.nonlinearity!r}"]


class GRU(Recurrent):
    """A layer of gated recurrent units, gates r z n.

    Parameters
    ----------
    input_size, hidden_size : int
        I and H.
    reset_after : bool
        Whether the reset gate stands after the recurrent product, as in PyTorch and Keras 2, or before it, as in the
        paper and by default in ONNX. With it there is a second bias, ``bias_hn``.
    **options
        As for `Recurrent`: num_layers, bidirectional, batch_first, bias, dropout, dtype, seed, recurrent_init, backend.

    Notes
    -----
    K. Cho et al., Learning phrase representations using RNN encoder-decoder, 2014 (arXiv:1406.1078); the update is
    h' = (1 - z) n + z h.

    Examples
    --------
    >>> import numpy as np, fastrnn
    >>> y, h = fastrnn.GRU(80, 12)(np.zeros((5, 3, 80)))
    >>> y.shape, h.shape
    ((5, 3, 12), (1, 3, 12))
    """

    _FIXED = Recurrent._FIXED | {"reset_after"}

    def __init__(self, input_size: int, hidden_size: int, *, reset_after: bool = True, **options: Any) -> None:
        self.reset_after = checks.flag("reset_after", reset_after)
        super().__init__(cells.gru if reset_after else cells.gru_reset_before, input_size, hidden_size, **options)

    def _cell_argument(self) -> list[str]:
        return []

    def _options(self) -> list[str]:
        return [] if self.reset_after else ["reset_after=False"]


class LSTM(Recurrent):
    """A long short-term memory layer, gates i f g o, states h and c.

    Parameters
    ----------
    input_size, hidden_size : int
        I and H.
    proj_size : int
        P: if it is not 0, the output is projected to P values, fewer than H, and these recur.
    **options
        As for `Recurrent`: num_layers, bidirectional, batch_first, bias, dropout, dtype, seed, recurrent_init,
        forget_bias, backend.

    Notes
    -----
    S. Hochreiter and J. Schmidhuber, Long short-term memory, Neural Computation 9, 1997, with the forget gate of F. A.
    Gers, J. Schmidhuber and F. Cummins, Learning to forget, Neural Computation 12, 2000; the projection is that of
    H. Sak, A. Senior and F. Beaufays, 2014 (arXiv:1402.1128).

    Examples
    --------
    >>> import numpy as np, fastrnn
    >>> lstm = fastrnn.LSTM(80, 12)
    >>> y, (h, c) = lstm(np.zeros((5, 3, 80)))
    >>> y.shape, h.shape, c.shape
    ((5, 3, 12), (1, 3, 12), (1, 3, 12))
    >>> lstm.num_parameters
    4464
    """

    def __init__(self, input_size: int, hidden_size: int, *, proj_size: int = 0, **options: Any) -> None:
        hidden, projected = checks.size("hidden_size", hidden_size), checks.size("proj_size", proj_size, 0)
        if projected >= hidden:
            raise ValueError(f"proj_size: expected less than hidden_size = {hidden}, got {projected}")
        cell = cells.lstm_projected if projected else cells.lstm
        super().__init__(cell, input_size, hidden_size, proj_size=projected, **options)

    def _cell_argument(self) -> list[str]:
        return []
