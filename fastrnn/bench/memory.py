"""How much memory a long batch takes: inference and training, ours with and without checkpoints, beside PyTorch's.

Each way runs in a process of its own. What counts is by how much the memory of the process grows, at most, over what it
was with the inputs and the weights in place and the kernels warm.
"""

from __future__ import annotations

import gc
import importlib
import importlib.metadata
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import fastrnn
from fastrnn.bench import process
from fastrnn.bench.contenders import contender

CONTENDERS = ("numba", "cython", "pytorch")
WAYS = {"inference": None, "training": None, "training, checkpoint_every=32": 32}
_MB = 10**6  # as in `fastrnn info`


@dataclass(frozen=True)
class Size:
    """An LSTM and its batch, I = H."""

    T: int = 1000
    B: int = 64
    H: int = 512


@dataclass(frozen=True)
class Use:
    """What one way took.

    Attributes
    ----------
    contender, way : str
    peak : int or None
        Bytes beyond what was there before the call, at most; None if it broke.
    held : int or None
        Bytes of this that forward left for backward, y included.
    tape : int or None
        What our tape says that it holds.
    seconds : float or None
        Of the one call.
    reason : str
        Why there are no figures.
    """

    contender: str
    way: str
    peak: int | None = None
    held: int | None = None
    tape: int | None = None
    seconds: float | None = None
    reason: str = ""


def ways(names: Sequence[str]) -> list[tuple[str, str]]:
    """Contenders and what is measured of them, one after the other."""
    return [(name, way) for name in names for way in WAYS if name != "pytorch" or WAYS[way] is None]


def measure(names: Sequence[str], size: Size, tell: Callable[[str], None] = lambda what: None) -> Iterator[Use]:
    """All ways of some of `CONTENDERS`, each as soon as it is known; one that breaks costs the others nothing."""
    for name, way in ways(names):
        tell(f"{name}: {way}")
        yield _use(name, way, size)


def _use(name: str, way: str, size: Size) -> Use:
    program = f"import sys; sys.path[:] = {sys.path!r}; from fastrnn.bench.memory import main; main(sys.argv[1])"
    request = json.dumps({"name": name, "way": way, "size": asdict(size)})
    command = [sys.executable, "-c", program, request]
    done = subprocess.run(command, env=process.environment(name, 1), capture_output=True, text=True, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or [f"its process has ended with exit code {done.returncode}"]
        return Use(name, way, reason=said[-1][:200])
    return Use(name, way, **json.loads(done.stdout.splitlines()[-1]))


def versions(names: Sequence[str]) -> dict[str, str]:
    """Of the packages of some contenders, which are not imported for it."""
    found = {}
    for package in (package for name in names for package in contender(name).packages):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "unknown"
    return found


def main(request: str) -> None:
    """In the process: run one way, print what it took."""
    asked = json.loads(request)
    size = Size(**asked["size"])
    prepare = _pytorch if asked["name"] == "pytorch" else _ours
    run = prepare(asked["name"], asked["way"], size)
    run(2)
    gc.collect()
    before = _resident(reset=True)
    begin = time.perf_counter()
    held, tape = run(size.T)
    took = time.perf_counter() - begin
    peak = _peak() - before
    print(json.dumps({"peak": peak, "held": held and held - before, "tape": tape, "seconds": took}))


def _inputs(size: Size) -> tuple[Any, Any]:
    """x and dy, (T, B, H) each."""
    random = np.random.default_rng(0)
    return tuple(random.standard_normal((size.T, size.B, size.H), dtype=np.float32) for _ in "xy")  # type: ignore[return-value]


def _ours(name: str, way: str, size: Size) -> Callable[[int], tuple[int | None, int | None]]:
    layer = fastrnn.LSTM(size.H, size.H, backend=name)
    x, dy = _inputs(size)

    def run(steps: int) -> tuple[int | None, int | None]:
        if way == "inference":
            layer(x[:steps])
            return None, None
        y, _, tape = layer.record(x[:steps], checkpoint_every=WAYS[way])
        held, kept = _resident(), tape.nbytes
        gradients = layer.backward(tape, dy[:steps])
        del y, tape, gradients
        return held, kept

    return run


def _pytorch(name: str, way: str, size: Size) -> Callable[[int], tuple[int | None, int | None]]:
    torch = importlib.import_module("torch")
    torch.set_num_threads(1)
    module = torch.nn.LSTM(size.H, size.H)
    x, dy = map(torch.from_numpy, _inputs(size))

    def run(steps: int) -> tuple[int | None, int | None]:
        if way == "inference":
            with torch.inference_mode():
                module(x[:steps])
            return None, None
        part = x[:steps].requires_grad_()
        y, _ = module(part)
        held = _resident()
        gradients = torch.autograd.grad(y, (part, *module.parameters()), dy[:steps])
        del y, gradients
        return held, None

    return run


def _resident(reset: bool = False) -> int:
    """The bytes of this process in memory now; with ``reset`` the peak begins here, where the system can do that."""
    status = Path("/proc/self/status")
    if not status.exists():
        return _peak()
    if reset:
        Path("/proc/self/clear_refs").write_text("5")
    return _field(status, "VmRSS")


def _peak() -> int:
    """The most bytes that this process had in memory."""
    status = Path("/proc/self/status")
    if status.exists():
        return _field(status, "VmHWM")
    resource = importlib.import_module("resource")
    unit = 1 if sys.platform == "darwin" else 1024
    return int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss) * unit


def _field(status: Path, name: str) -> int:
    line = next(line for line in status.read_text().splitlines() if line.startswith(name))
    return int(line.split()[1]) * 1024


def megabytes(count: int | None) -> str:
    """For a table."""
    return "-" if count is None else f"{count / _MB:,.0f}"
