"""The compiled backend for where Numba is missing: its kernels are in the extension ``fastrnn_ext``."""

from __future__ import annotations


def unavailable() -> str | None:
    """Why this backend cannot be used here, or None where it can."""
    return "the extension fastrnn_ext is not built"
