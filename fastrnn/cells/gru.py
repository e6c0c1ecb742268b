"""Gated recurrent units.

K. Cho et al., Learning phrase representations using RNN encoder-decoder for statistical machine translation, 2014
(arXiv:1406.1078). Gates: reset ``r``, update ``z``, candidate ``n``, in this order, as in PyTorch. State: ``h``. The
update everywhere here is h' = (1 - z) n + z h; the first version of the paper has z and 1 - z the other way round.
"""

from __future__ import annotations

from typing import Any

from fastrnn.equations import sigmoid, tanh


def gru(x: Any, h: Any, R: Any, b: Any) -> Any:
    """The reset gate after the recurrent product: what PyTorch and cuDNN compute, Keras from version 2.

    ONNX calls it ``linear_before_reset=1``. ``bias_hn`` stands inside the reset. Gates r z n.
    """
    r = sigmoid(x.r + R.r(h))
    z = sigmoid(x.z + R.z(h))
    n = tanh(x.n + r * (R.n(h) + b.n))
    return (1 - z) * n + z * h


def gru_reset_before(x: Any, h: Any, R: Any) -> Any:
    """The reset gate before the recurrent product, as in the paper: ONNX's and Keras 1's default. Gates r z n."""
    r = sigmoid(x.r + R.r(h))
    z = sigmoid(x.z + R.z(h))
    n = tanh(x.n + R.n(r * h))
    return (1 - z) * n + z * h
