"""The compiled backend. Importing this package imports nothing but itself; Numba comes in with `backend`."""

from __future__ import annotations

import importlib.util
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fastrnn.backends.contract import Backend

__all__ = ["backend", "details", "unavailable"]


def unavailable() -> str | None:
    """Why this backend cannot be used here, or None where it can."""
    if importlib.util.find_spec("numba") is None:
        return "Numba is not installed"
    if os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0"):
        return "NUMBA_DISABLE_JIT is set"
    return None


def details() -> dict[str, str]:
    """What `fastrnn info` tells of this backend."""
    import llvmlite
    import numba

    from fastrnn.backends.numba_.target import target

    vectors = target()
    return {
        "Numba": numba.__version__,
        "llvmlite": llvmlite.__version__,
        "vectors": f"{vectors.vector_bytes} bytes, {vectors.registers} registers, "
        + ("fused multiply-add" if vectors.fma else "no fused multiply-add"),
    }


def backend() -> Backend:
    """The backend."""
    from fastrnn.backends.numba_.signals import signals_wait

    with signals_wait():
        from fastrnn.backends.numba_.native import NumbaNative
        from fastrnn.backends.tiled.backend import TiledBackend

        return TiledBackend("numba", NumbaNative())
