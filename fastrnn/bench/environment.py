"""Where a run took place: what a reader has to know to judge its figures."""

from __future__ import annotations

import datetime
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import fastrnn
from fastrnn.commands.environment import tuning


def describe(versions: dict[str, str], isa: str | None = None) -> dict[str, Any]:
    """Processor, system, date, the versions that contenders have told, the instruction set that they are kept to."""
    found = {"fastrnn": fastrnn.__version__, "python": platform.python_version(), "numpy": _version("numpy")}
    return {
        "processor": processor(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "date": datetime.datetime.now(datetime.timezone.utc).date().isoformat(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "cleared": tuning(),
        "cpu_name": os.environ.get("NUMBA_CPU_NAME", "host"),
        "isa": isa,
        "versions": dict(sorted({**found, **versions}.items())),
    }


def processor() -> str:
    """The processor's name, as far as the system tells it."""
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "unknown"
