"""The Numba types that carry a program into a compilation.

Kernels are compiled once a program. The program is an argument whose *type* holds a digest of the cell's equations, the
element type and the sources of the kernels, so that Numba's disk cache finds the right code in another process and
never finds that of another cell or of an older version of these files.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numba.core import types
from numba.core.pythonapi import NativeValue
from numba.extending import models, register_model, typeof_impl, unbox

import fastrnn
from fastrnn.backends.numba_.target import target
from fastrnn.backends.tiled.program import Program


@dataclass(frozen=True)
class Shared:
    """What stands in for a program in kernels that are the same for all cells; ``dtype`` where they compute."""

    name: str
    dtype: np.dtype[Any] | None = None


class ProgramType(types.Opaque):
    """The Numba type of a program: nothing but its digest, by which the intrinsics find it."""

    def __init__(self, digest: str) -> None:
        self.digest = digest
        super().__init__(name=f"fastrnn.Program({digest})")

    @property
    def program(self) -> Any:
        return _PROGRAMS[self.digest]


_PROGRAMS: dict[str, Program | Shared] = {}
register_model(ProgramType)(models.OpaqueModel)


@lru_cache(maxsize=512)
def type_of(program: Program | Shared) -> ProgramType:
    """The type of a program: a digest of its name, element type, target and of the sources of the kernels."""
    name = program.plan.cell.digest if isinstance(program, Program) else program.name
    dtype = program.dtype.name if program.dtype is not None else "any"
    digest = hashlib.sha256(f"{name} {dtype} ".encode() + _sources()).hexdigest()[:20]
    _PROGRAMS[digest] = program
    return ProgramType(digest)


@typeof_impl.register(Program)
@typeof_impl.register(Shared)
def _typeof_program(value: Program | Shared, _context: Any) -> ProgramType:
    return type_of(value)


@unbox(ProgramType)
def _unbox_program(_kind: Any, _value: Any, context: Any) -> NativeValue:
    return NativeValue(context.context.get_dummy_value())


@lru_cache(maxsize=1)
def _sources() -> bytes:
    """Everything that decides which instructions are emitted."""
    package = Path(fastrnn.__file__).parent
    found = hashlib.sha256(repr(target()).encode())
    shared = [package / f"{name}.py" for name in ("approximations", "derive", "equations", "graph", "plan")]
    folders = [package / "backends" / name for name in ("numba_", "tiled")]
    for path in [*(path for folder in folders for path in sorted(folder.glob("*.py"))), *shared]:
        found.update(path.read_bytes())
    return found.digest()
