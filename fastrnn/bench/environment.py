"""Where a run took place: what a reader has to know to judge its figures."""

from __future__ import annotations

import datetime
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import fastrnn
from fastrnn.backends.tiled.worth import processors
from fastrnn.commands.environment import tuning


def load() -> float | None:
    """How many were at work in the last minute, where the system tells it. After a run that is the run itself."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None


def describe(versions: dict[str, str], isa: str | None = None, before: float | None = None) -> dict[str, Any]:
    """Processor, system, date, the versions that contenders have told, the instruction set that they are kept to.

    ``before`` is what `load` gave before anything was measured.
    """
    found = {"fastrnn": fastrnn.__version__, "python": platform.python_version(), "numpy": _version("numpy")}
    return {
        "processor": processor(),
        "cores": processors(),  # that the run may use: the machine may have more
        "system": f"{platform.system()} {platform.machine()}",
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "load": before,
        "cleared": tuning(),
        "cpu_name": os.environ.get("NUMBA_CPU_NAME", "host"),
        "isa": isa,
        "versions": dict(sorted({**found, **versions}.items())),
    }


def processor() -> str:
    """The processor's name, as far as the system tells it, with family and model: some have the name of many."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        first = cpuinfo.read_text(encoding="utf-8", errors="replace").split("\n\n")[0]
        pairs = (line.split(":", 1) for line in first.splitlines() if ":" in line)
        told = {name.strip(): value.strip() for name, value in pairs}
        if "model name" in told:
            known = (("family", "cpu family"), ("model", "model"))
            numbers = [f"{word} {told[name]}" for word, name in known if name in told]
            return told["model name"] + (f" ({', '.join(numbers)})" if numbers else "")
    return platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
