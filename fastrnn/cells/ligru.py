"""The light GRU: no reset gate, a ReLU candidate.

M. Ravanelli, P. Brakel, M. Omologo and Y. Bengio, Light gated recurrent units for speech recognition, 2018
(arXiv:1803.10225). Its batch normalisation of the input products is affine at inference and can be folded into
weight_ih and bias.
"""

from __future__ import annotations

from typing import Any

from fastrnn.equations import relu, sigmoid


def ligru(x: Any, h: Any, R: Any) -> Any:
    """h' = z h + (1 - z) relu(W_n x + R_n h). Gates z n."""
    z = sigmoid(x.z + R.z(h))
    n = relu(x.n + R.n(h))
    return z * h + (1 - z) * n
