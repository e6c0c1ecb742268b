"""What kernels are emitted from, but for the compiled backends' own files: for `numba_.cache` and `cython_.sets`."""

from __future__ import annotations

# Modules of the package: an edit of one of them makes kernels stale.
SHARED = ("approximations", "backends/contract", "derive", "equations", "graph", "plan")
