"""The vectors that Numba compiles for on this machine."""

from __future__ import annotations

from functools import lru_cache

import llvmlite.binding as llvm
from numba.core import config

from fastrnn.backends.tiled.target import Target

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


def halves() -> bool:
    """Whether the processor takes vectors of 64 bytes in two halves, as a Zen 4 does.

    This is about the processor that runs the kernels, whatever they are compiled for.
    """
    return llvm.get_host_cpu_name() == "znver4" and bool(llvm.get_host_cpu_features().get("avx512f"))


def _features_of(cpu: str) -> set[str]:
    """The vector features that go with a processor's name."""
    if any(name in cpu for name in _AVX512):
        return {"avx512f", "avx2", "fma"}
    return {"avx2", "fma"} if any(name in cpu for name in _AVX2) else set()
