"""Tell what was found on this machine, what is used, and why."""

from __future__ import annotations

import argparse
import json
import os
import platform
from typing import Any

import numpy as np

import fastrnn
from fastrnn.backends import VARIABLE, choose, details, found_by_loading
from fastrnn.backends.tiled.worth import processors
from fastrnn.commands import CommandError

HELP = "tell what was found, what is used, and why"

VARIABLES = (VARIABLE, "FASTRNN_ISA", "NUMBA_CACHE_DIR", "NUMBA_CPU_NAME", "NUMBA_CPU_FEATURES", "NUMBA_DISABLE_JIT")


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--json", action="store_true", help="print the same as JSON")


def run(options: argparse.Namespace) -> int:
    """Print what there is."""
    found = describe()
    print(json.dumps(found, indent=2) if options.json else text(found))
    return 0


def describe() -> dict[str, Any]:
    """What `text` shows, as JSON has it."""
    available = {name: found_by_loading(name) for name in fastrnn.backends()}
    try:
        used = choose()
    except (ValueError, RuntimeError) as error:
        raise CommandError(str(error)) from None
    asked = os.environ.get(VARIABLE)
    why = f"{VARIABLE} asks for it" if asked else f"the first that is available; {VARIABLE} is not set"
    return {
        "fastrnn": fastrnn.__version__,
        "python": platform.python_version(),
        "numpy": np.__version__,
        "system": f"{platform.system()} {platform.machine()}",
        "installed_in": os.path.dirname(fastrnn.__file__),
        "backends": {
            name: {"available": bool(found), "reason": found.reason, **(details(name) if found else {})}
            for name, found in available.items()
        },
        "used": used,
        "why": why,
        "threads": fastrnn.get_num_threads(),
        "processors": processors(),
        "variables": {name: os.environ[name] for name in VARIABLES if name in os.environ},
        "kernels": kernels() if available["numba"] else [],
    }


def kernels() -> list[dict[str, Any]]:
    """The directories of compiled kernels, in the order in which they are looked for."""
    from fastrnn.backends.numba_.cache import directories, usage

    return [{"directory": str(directory), **usage(directory)._asdict()} for directory in directories()]


def text(found: dict[str, Any]) -> str:
    """A page that is readable at a glance."""
    lines = [
        f"fastrnn {found['fastrnn']}, Python {found['python']}, NumPy {found['numpy']}, {found['system']}",
        f"installed in {found['installed_in']}",
        "",
        "backends, best first",
    ]
    for name, backend in found["backends"].items():
        told = ", ".join(f"{key} {value}" for key, value in backend.items() if key not in ("available", "reason"))
        state = f"available{f'  ({told})' if told else ''}" if backend["available"] else f"no: {backend['reason']}"
        lines.append(f"  {'*' if name == found['used'] else ' '} {name:8}{state}")
    threads = f"{found['threads']} a call, until set_num_threads says otherwise; {found['processors']} processors"
    lines += ["", f"used     {found['used']}: {found['why']}", f"threads  {threads}"]
    lines += [f"set      {name}={value}" for name, value in found["variables"].items()]
    if found["kernels"]:
        lines += ["", "compiled kernels, in the order in which they are looked for; `fastrnn warm` makes them ahead"]
    for place in found["kernels"]:
        others = f" ({place['others']} more of other versions or processors)" if place["others"] else ""
        access = "writable" if place["writable"] else "read-only"
        lines.append(f"  {place['directory']}")
        lines.append(f"    {place['usable']} kernels{others}, {place['size'] / 1e6:.1f} MB, {access}")
    return "\n".join(lines)
