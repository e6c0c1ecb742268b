"""A recurrent engine for CPUs: RNN, GRU, LSTM and any cell that you write down, forward and backward, batch or stream.

>>> import numpy as np, fastrnn
>>> lstm = fastrnn.LSTM(80, 12)
>>> y, (h, c) = lstm(np.zeros((5, 3, 80), np.float32))
>>> y.shape
(5, 3, 12)
"""

from typing import TYPE_CHECKING

import numpy  # noqa: F401  from here it is some milliseconds faster than from deep within our own imports

from fastrnn import cells, equations
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
from fastrnn.threads import get_num_threads, set_num_threads, threads

if TYPE_CHECKING:
    from fastrnn import nn
    from fastrnn.tape import Gradients, Tape

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

# What a layer's call does without is imported when it is first asked for: name -> module.
_LAZY = {"Gradients": "tape", "Tape": "tape", "nn": "nn"}

if not TYPE_CHECKING:  # to a type checker, which has them from above, it would mean that there is any name

    def __getattr__(name: str) -> object:
        if name not in _LAZY:
            raise AttributeError(f"module 'fastrnn' has no attribute {name!r}")
        import importlib

        module = importlib.import_module(f"fastrnn.{_LAZY[name]}")
        found = globals()[name] = module if name == _LAZY[name] else getattr(module, name)
        return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
