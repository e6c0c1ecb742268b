"""Long short-term memory and its variants, in the notation of Greff et al.

S. Hochreiter and J. Schmidhuber, Long short-term memory, Neural Computation 9, 1997; the forget gate is from F. A.
Gers, J. Schmidhuber and F. Cummins, Learning to forget, Neural Computation 12, 2000. K. Greff et al., LSTM: a search
space odyssey, 2015 (arXiv:1503.04069), compares the variants.

Gates: input ``i``, forget ``f``, candidate ``g``, output ``o``, in this order, as in PyTorch. States: ``h``, then
``c``.
"""

from __future__ import annotations

from typing import Any

from fastrnn.equations import sigmoid, tanh


def lstm(x: Any, h: Any, c: Any, R: Any) -> Any:
    """The LSTM with a forget gate and no peepholes: what PyTorch, Keras and ONNX compute. Gates i f g o."""
    i = sigmoid(x.i + R.i(h))
    f = sigmoid(x.f + R.f(h))
    g = tanh(x.g + R.g(h))
    o = sigmoid(x.o + R.o(h))
    c = f * c + i * g
    return o * tanh(c), c


def lstm_peephole(x: Any, h: Any, c: Any, R: Any, p: Any) -> Any:
    """Gates that see the cell state through diagonal weights: i and f the old one, o the new one. Gates i f g o.

    F. A. Gers and J. Schmidhuber, Recurrent nets that time and count, IJCNN 2000. Parameters ``peephole_i``,
    ``peephole_f`` and ``peephole_o``, (H,) each.
    """
    i = sigmoid(x.i + R.i(h) + p.i * c)
    f = sigmoid(x.f + R.f(h) + p.f * c)
    g = tanh(x.g + R.g(h))
    c = f * c + i * g
    o = sigmoid(x.o + R.o(h) + p.o * c)
    return o * tanh(c), c


def lstm_coupled(x: Any, h: Any, c: Any, R: Any) -> Any:
    """Coupled input and forget gates, i = 1 - f: three gates, f g o (CIFG in Greff et al., 2015)."""
    f = sigmoid(x.f + R.f(h))
    g = tanh(x.g + R.g(h))
    o = sigmoid(x.o + R.o(h))
    c = f * c + (1 - f) * g
    return o * tanh(c), c


def lstm_projected(x: Any, h: Any, c: Any, R: Any, P: Any) -> Any:
    """The output projected to ``proj_size`` values, which are what recurs: h is (P,), c is (H,). Gates i f g o.

    H. Sak, A. Senior and F. Beaufays, Long short-term memory based recurrent neural network architectures for large
    vocabulary speech recognition, 2014 (arXiv:1402.1128). The projection is the parameter ``weight_hr``, (P, H).
    """
    i = sigmoid(x.i + R.i(h))
    f = sigmoid(x.f + R.f(h))
    g = tanh(x.g + R.g(h))
    o = sigmoid(x.o + R.o(h))
    c = f * c + i * g
    return P(o * tanh(c)), c
