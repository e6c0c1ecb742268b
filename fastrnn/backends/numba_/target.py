"""What the machine's vectors look like, and the tile's shape that suits them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import llvmlite.binding as llvm
import numpy as np
from numba.core import config

_AVX512 = (
    "avx512",
    "znver4",
    "znver5",
    "x86-64-v4",
    "icelake",
    "cascadelake",
    "cannonlake",
    "sapphirerapids",
    "tigerlake",
)
_AVX2 = ("haswell", "broadwell", "skylake", "alderlake", "znver", "x86-64-v3", "core-avx2")


@dataclass(frozen=True)
class Target:
    """Bytes of a vector register, how many of them there are, and whether they multiply and add in one operation."""

    vector_bytes: int
    registers: int
    fma: bool

    def lanes(self, dtype: np.dtype[Any]) -> int:
        """Values in one vector."""
        return self.vector_bytes // dtype.itemsize

    def heights(self, vectors: int) -> tuple[int, ...]:
        """How many rows a tile of so many vectors a row takes at once: the tallest first, then down to one.

        With 32 registers 24 of them accumulate, with 16 registers 9: more than that spills (measured).
        """
        room = (24 if self.registers == 32 else 9) // vectors
        tallest = max(1, min(room, 8))
        return (tallest, *(h for h in (4, 2, 1) if h < tallest))


@lru_cache(maxsize=1)
def target() -> Target:
    """The vectors that Numba compiles for here; ``NUMBA_CPU_NAME`` and ``NUMBA_CPU_FEATURES`` are heeded."""
    if config.CPU_FEATURES:
        features = {f[1:] for f in config.CPU_FEATURES.split(",") if f.startswith("+")}
    elif config.CPU_NAME and config.CPU_NAME != "host":
        features = _features_of(config.CPU_NAME)
    else:
        features = {name for name, present in llvm.get_host_cpu_features().items() if present}
        if llvm.get_process_triple().startswith(("aarch64", "arm64")):
            return Target(16, 32, True)
    if "avx512f" in features:
        return Target(64, 32, True)
    if "avx2" in features:
        return Target(32, 16, "fma" in features)
    return Target(16, 16, "fma" in features)


def _features_of(cpu: str) -> set[str]:
    """The vector features that go with a processor's name."""
    if any(name in cpu for name in _AVX512):
        return {"avx512f", "avx2", "fma"}
    return {"avx2", "fma"} if any(name in cpu for name in _AVX2) else set()
