"""Processes in hard places: programs that compute with a copy of the package, with few rights or little room."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import fastrnn

PACKAGE = Path(fastrnn.__file__).parent
VARIABLES = ("HOME", "XDG_CACHE_HOME", "PYTHONPATH", "FASTRNN_BACKEND")

COMPUTE = """
import json, sys, warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import numpy as np, fastrnn
    layer = fastrnn.RNN(3, 4, backend={backend!r})
    y, _ = layer(np.linspace(-4, 4, 24).reshape(4, 2, 3))
misses = 0
if layer.backend == "numba":
    from fastrnn.backends.numba_ import copies, host, scan
    called = copies.copy_weights, copies.pack_on, scan.forward, host.run_on
    misses = sum(sum(function.stats.cache_misses.values()) for function in called)
print(json.dumps([layer.backend, y.tobytes().hex(), misses, [str(w.message) for w in caught], fastrnn.__file__,
                  sorted(name for name in sys.modules if name.startswith("scipy.linalg"))]))
"""

# A user who owns nothing. Where the tests run as root, the process becomes one; it keeps the right to read, since
# Python itself may be installed where only root may look. Where they do not, its files being read-only is enough.
PLAIN_USER = """
import ctypes, os, sys
if os.getuid() == 0:
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(8, 1, 0, 0, 0) == 0  # keep capabilities
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
    read = 1 << 2  # CAP_DAC_READ_SEARCH
    header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(read, read, 0, 0, 0, 0)
    assert libc.capset(header, sets) == 0, os.strerror(ctypes.get_errno())
assert os.getuid() != 0
"""


class Computed(NamedTuple):
    """What `COMPUTE` printed."""

    backend: str
    bits: str
    misses: int  # kernels that were not on disk
    warnings: list[str]
    file: str
    scipy: list[str]


def start(program: str, variables: dict[str, str], cwd: Path | None = None) -> subprocess.Popen[str]:
    """A process without home directory and with these environment variables, beside the package by default: the
    working directory is where Python looks first."""
    kept = {name: value for name, value in os.environ.items() if name not in VARIABLES and "NUMBA" not in name}
    environment = {"PYTHONPATH": str(PACKAGE.parent), "PYTHONDONTWRITEBYTECODE": "1", **kept, **variables}
    pipe = subprocess.PIPE
    command = [sys.executable, "-c", program]
    return subprocess.Popen(
        command, env=environment, cwd=cwd or environment["PYTHONPATH"], stdout=pipe, stderr=pipe, text=True
    )


def finished(process: subprocess.Popen[str]) -> Any:
    """The last line that a process printed, as JSON; it must have ended well."""
    out, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    return json.loads(out.splitlines()[-1])


def compute(before: str = "", cwd: Path | None = None, backend: str | None = "numba", **variables: str) -> Computed:
    """Run `COMPUTE`, and some lines before it, to its end."""
    return Computed(*finished(start(before + COMPUTE.format(backend=backend), variables, cwd)))


def copy_of_package(site: Path) -> Path:
    """A copy of the package in a new directory ``site``, without anything compiled."""
    return Path(shutil.copytree(PACKAGE, site / "fastrnn", ignore=shutil.ignore_patterns("__pycache__")))


def make_read_only(directory: Path) -> None:
    """Take the right to write away from everyone, root excepted."""
    for path in [directory, *directory.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)


def make_writable(directory: Path) -> None:
    """So that it can be deleted."""
    for path in [directory, *(path for path in directory.rglob("*") if path.is_dir())]:
        path.chmod(0o755)
