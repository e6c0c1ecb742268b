"""The minimal GRU, without recurrent products. L. Feng et al., Were RNNs all we needed?, 2024 (arXiv:2410.01201)."""

from __future__ import annotations

from typing import Any

from fastrnn.equations import sigmoid


def mingru(x: Any, h: Any) -> Any:
    """h' = (1 - z) h + z n with z and n functions of the input alone. Gates z n (the paper's section 3.1)."""
    z = sigmoid(x.z)
    return (1 - z) * h + z * x.n
