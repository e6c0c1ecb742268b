"""Instruction sets that a run can be kept to, so that one machine shows what others get.

Each library has a variable of its own for that. Those that have none (ONNX Runtime, LiteRT) do not take part, nor does
JAX: XLA's `--xla_cpu_max_isa` keeps what it compiles to one, but not its matrix products (RNN, B = 16, H = 512: 1.6
times as fast as AVX2 can be).
"""

from __future__ import annotations

import os
import platform
from typing import Any

import numpy as np

from fastrnn.commands.environment import TUNING

NAMES = ("avx2", "baseline") if platform.machine().lower() in ("x86_64", "amd64") else ()
# By instruction set and contender. Numba adds the processor's own features to a name that comes without any.
_VARIABLES: dict[str, dict[str, dict[str, str]]] = {
    "avx2": {
        "numba": {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": "+avx2,+fma"},
        "cython": {"FASTRNN_ISA": "avx2"},
        "numpy": {"OPENBLAS_CORETYPE": "Haswell"},
        "pytorch": {"ONEDNN_MAX_CPU_ISA": "AVX2", "ATEN_CPU_CAPABILITY": "avx2", "MKL_ENABLE_INSTRUCTIONS": "AVX2"},
        "openvino": {"ONEDNN_MAX_CPU_ISA": "AVX2"},
    },
    "baseline": {
        "numba": {"NUMBA_CPU_NAME": "x86-64", "NUMBA_CPU_FEATURES": "+sse2"},
        "cython": {"FASTRNN_ISA": "baseline"},
        "numpy": {"OPENBLAS_CORETYPE": "Prescott"},
        "pytorch": {
            "ONEDNN_MAX_CPU_ISA": "SSE41",
            "ATEN_CPU_CAPABILITY": "default",
            "MKL_ENABLE_INSTRUCTIONS": "SSE4_2",
        },
    },
}


def variables(isa: str, contender: str) -> dict[str, str] | None:
    """What a contender's process starts with to keep to an instruction set; None if it cannot be kept to it."""
    found = _VARIABLES[isa].get(contender)
    if contender == "numpy" and found is not None:
        wider = [name for name in numpy_features() if isa == "baseline" or "AVX512" in name or name == "X86_V4"]
        return {**found, "NPY_DISABLE_CPU_FEATURES": " ".join(wider)}
    return found


def by_hand() -> dict[str, str]:
    """Those of these variables that whoever runs this has set, and that a run does not clear."""
    known = {name for of_all in _VARIABLES.values() for of_one in of_all.values() for name in of_one}
    return {name: os.environ[name] for name in sorted(known - set(TUNING)) if name in os.environ}


def numpy_features() -> list[str]:
    """What NumPy's own loops use here beyond what every processor has."""
    library: Any = np
    umath = (library._core if library.__version__ >= "2" else library.core)._multiarray_umath
    return [name for name in umath.__cpu_dispatch__ if umath.__cpu_features__[name]]
