"""Vanilla (Elman) cells. J. L. Elman, Finding structure in time, Cognitive Science 14, 1990."""

from __future__ import annotations

from typing import Any

from fastrnn.equations import relu, tanh


def rnn_tanh(x: Any, h: Any, R: Any) -> Any:
    """h' = tanh(W x + R h + bias): one gate, ``h``."""
    return tanh(x.h + R.h(h))


def rnn_relu(x: Any, h: Any, R: Any) -> Any:
    """h' = relu(W x + R h + bias): one gate, ``h``.

    Q. V. Le, N. Jaitly and G. E. Hinton, A simple way to initialize recurrent networks of rectified linear units, 2015.
    """
    return relu(x.h + R.h(h))
