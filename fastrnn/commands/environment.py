"""The environment in which a comparison with NumPy is fair.

NumPy's matrix products take their kernels and their number of threads from environment variables, once, when it is
imported. By then it is too late to set them: the command begins again, in an environment that is right.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence

THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS", "BLIS_NUM_THREADS", "VECLIB_MAXIMUM_THREADS")
# What makes OpenBLAS and NumPy take other kernels or other block sizes than the machine's own.
TUNING = ("OPENBLAS_CORETYPE", "OPENBLAS_L2_SIZE", "OPENBLAS_BLOCK_FACTOR", "NPY_DISABLE_CPU_FEATURES")
MARK = "FASTRNN_FAIR"  # set once the command has begun again, so that it never does so twice

PROGRAM = """\
import sys
sys.path[:] = {path!r}
try:
    from fastrnn.__main__ import main
except KeyboardInterrupt:
    sys.exit(130)
sys.exit(main(sys.argv[1:]))
"""


def is_fair(threads: int) -> bool:
    """Whether this process has been started in an environment that is right, as far as it can be."""
    return MARK in os.environ or all(os.environ.get(name) == value for name, value in _wanted(threads).items())


def tuning() -> list[str]:
    """The variables of `TUNING` that are set."""
    return [name for name in TUNING if name in os.environ]


def begin_again(arguments: Sequence[str], threads: int) -> int:
    """Run ``fastrnn`` with these arguments in a new process, in an environment that is right; the exit code.

    Where the system can do so, the new process takes the place of this one, and nothing returns.
    """
    environment = {
        name: value for name, value in {**os.environ, **_wanted(threads), MARK: "1"}.items() if value is not None
    }
    # With the same search path: a module in the current directory must not take the place of an installed one.
    program = PROGRAM.format(path=sys.path)
    command = [sys.executable, "-c", program, *arguments]
    sys.stdout.flush()
    if os.name != "nt":
        os.execve(sys.executable, command, environment)
    return subprocess.call(command, env=environment)  # on Windows, where the shell would not wait for the new process


def _wanted(threads: int) -> dict[str, str | None]:
    """The variables that matter, and what they should be; None: not set."""
    return {**dict.fromkeys(TUNING), **dict.fromkeys(THREADS, str(threads))}
