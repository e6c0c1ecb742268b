"""Settings of the throughput suite.

NumPy takes its kernels and its threads from variables that are read when it is imported, so this has to come first.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

_CLEARED = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "OPENBLAS_BLOCK_FACTOR", "NPY_DISABLE_CPU_FEATURES")
_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
_late = "numpy" in sys.modules and any(name in os.environ for name in _CLEARED)
for _name in _CLEARED:
    os.environ.pop(_name, None)
os.environ.update(dict.fromkeys(_THREADS, "1"))

import pytest  # noqa: E402

import fastrnn  # noqa: E402


def pytest_report_header() -> str:
    """What the figures are worth."""
    backends = ", ".join(f"{name} {found}" for name, found in fastrnn.backends().items())
    late = "; NumPy was imported with OPENBLAS variables set: its times are not its own" if _late else ""
    return f"fastrnn {fastrnn.__version__}: {backends}{late}"


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    fastrnn.set_num_threads(1)
    yield
    fastrnn.set_num_threads(1)
