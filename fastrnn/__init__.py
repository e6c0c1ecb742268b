"""A recurrent engine for CPUs: RNN, GRU, LSTM and any cell that you write down, forward and backward, batch or stream.

>>> import numpy as np, fastrnn
>>> lstm = fastrnn.LSTM(80, 12)
>>> y, (h, c) = lstm(np.zeros((5, 3, 80), np.float32))
>>> y.shape
(5, 3, 12)
"""

from fastrnn import cells, equations, nn
from fastrnn._version import __version__
from fastrnn.backends import backends
from fastrnn.equations import (
    exp,
    hard_sigmoid,
    maximum,
    minimum,
    relu,
    sigmoid,
    softplus,
    softsign,
    tanh,
)
from fastrnn.graph import CellError
from fastrnn.layers import GRU, LSTM, RNN
from fastrnn.recurrent import Recurrent
from fastrnn.stream import Stream
from fastrnn.tape import Gradients, Tape
from fastrnn.threads import get_num_threads, set_num_threads, threads

__all__ = [
    "GRU",
    "LSTM",
    "RNN",
    "CellError",
    "Gradients",
    "Recurrent",
    "Stream",
    "Tape",
    "__version__",
    "backends",
    "cells",
    "equations",
    "exp",
    "get_num_threads",
    "hard_sigmoid",
    "maximum",
    "minimum",
    "nn",
    "relu",
    "set_num_threads",
    "sigmoid",
    "softplus",
    "softsign",
    "tanh",
    "threads",
]
