"""The compiled backend for where Numba is missing: its kernels are in the extension ``fastrnn_ext``.

Importing this package imports nothing but itself; the extension comes in when it is asked for.
"""

from __future__ import annotations

import importlib
import os
from functools import lru_cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fastrnn.backends.contract import Backend
    from fastrnn.equations import Cell

VARIABLE = "FASTRNN_ISA"


def unavailable() -> str | None:
    """Why this backend cannot be used here, or None where it can."""
    reason = _missing()
    if reason is None:
        try:
            instruction_set()
        except ValueError as error:
            reason = str(error)
    return reason


def lacks(cell: Cell) -> str | None:
    """Why this backend cannot run a cell, or None where it can."""
    if cell.text in _cells(instruction_set()):
        return None
    return f"the extension has the cells of fastrnn.cells, and {cell.name!r} is none of them"


def details() -> dict[str, str]:
    """What `fastrnn info` tells of this backend."""
    return {"instruction set": instruction_set(), "built for": ", ".join(_built())}


def backend() -> Backend:
    """The backend."""
    from fastrnn.backends.cython_.native import CythonNative
    from fastrnn.backends.tiled.backend import TiledBackend

    return TiledBackend("cython", CythonNative(extension(), instruction_set()))


def extension() -> Any:
    """The compiled module; ImportError where there is none."""
    return importlib.import_module("fastrnn_ext._scan")


@lru_cache(maxsize=1)
def _missing() -> str | None:
    from fastrnn.backends.cython_.sets import fingerprints

    try:
        folder = os.path.dirname(importlib.import_module("fastrnn_ext").__file__ or "")
    except ImportError:
        return "the extension fastrnn_ext is not installed"
    try:
        built = extension().SOURCES
    except ImportError as error:
        try:
            with open(os.path.join(folder, "not_built.txt"), encoding="utf-8") as note:
                why = note.read().strip()
        except OSError:
            why = str(error)
        return f"the extension fastrnn_ext is not built: {why}"
    changed = [name for name, digest in fingerprints(folder).items() if built.get(name) != digest]
    if changed:
        return f"the extension fastrnn_ext was built from another {changed[0]}; install fastrnn again"
    return None if _sets() else "the extension fastrnn_ext has no kernels for this processor"


def _built() -> tuple[str, ...]:
    """The instruction sets that the extension has, the best first."""
    from fastrnn.backends.cython_.sets import SETS

    found = {isa for isa, *_ in extension().units()}
    return tuple(name for name in SETS if name in found)


@lru_cache(maxsize=1)
def _sets() -> tuple[str, ...]:
    """Those of them that this machine has."""
    from fastrnn.backends.cython_.sets import SETS

    return tuple(name for name in _built() if extension().has(SETS[name].asked))


def instruction_set() -> str:
    """The instruction set in use: the best one, or what ``FASTRNN_ISA`` says; ValueError for one that is not here."""
    return _asked(os.environ.get(VARIABLE) or None)


@lru_cache(maxsize=8)
def _asked(name: str | None) -> str:
    from fastrnn.backends.cython_.sets import SETS

    if name is None:
        return _sets()[0]
    if name not in SETS:
        raise ValueError(f"{VARIABLE}: expected one of {', '.join(SETS)}, got {name!r}")
    if name not in _sets():
        raise ValueError(f"{VARIABLE}: expected one of {', '.join(_sets())}, which are here, got {name!r}")
    return name


@lru_cache(maxsize=8)
def _cells(isa: str) -> frozenset[str]:
    """The equations of the cells that the extension has for an instruction set."""
    return frozenset(text for name, _, _, cells in extension().units() for text in cells if name == isa)
