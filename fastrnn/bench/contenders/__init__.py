"""The contenders, one file each, and the list of them."""

from __future__ import annotations

import importlib
from functools import lru_cache

from fastrnn.bench.contenders.base import Contender, Prepared, Variants

__all__ = ["NAMES", "Contender", "Prepared", "Variants", "contender"]

_CLASSES = {  # module, class
    "numba": ("ours", "NumbaContender"),
    "cython": ("ours", "CythonContender"),
    "numpy": ("ours", "NumpyContender"),
    "pytorch": ("pytorch", "PyTorch"),
    "onnxruntime": ("onnxruntime_", "OnnxRuntime"),
    "openvino": ("openvino_", "OpenVino"),
    "jax": ("jax_", "Jax"),
    "litert": ("litert", "LiteRt"),
}
NAMES = tuple(_CLASSES)


@lru_cache
def contender(name: str) -> Contender:
    """The contender of a name; ``module:class`` is one from elsewhere.

    Raises
    ------
    ValueError
        If there is none.
    """
    if ":" in name:
        module, kind = name.split(":", 1)
    elif name in _CLASSES:
        module, kind = _CLASSES[name]
        module = f"fastrnn.bench.contenders.{module}"
    else:
        raise ValueError(f"contenders: expected some of {', '.join(NAMES)}, got {name!r}")
    made = getattr(importlib.import_module(module), kind)()
    assert isinstance(made, Contender)
    return made
