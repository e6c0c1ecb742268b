"""The Numba types that carry a program into a compilation.

Kernels are compiled once a program. The program is an argument whose *type* holds a digest of the cell's equations, the
element type and the sources of the kernels, so that Numba's disk cache finds the right code in another process and
never finds that of another cell or of an older version of these files.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
from numba.core import types
from numba.core.pythonapi import NativeValue
from numba.extending import models, register_model, typeof_impl, unbox

from fastrnn.backends.numba_.cache import sources
from fastrnn.backends.tiled.program import Program


@dataclass(frozen=True)
class Shared:
    """What stands in for a program in a kernel that is the same for all cells."""

    name: str
    dtype: np.dtype[Any]


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
    digest = hashlib.sha256(f"{name} {program.dtype.name} ".encode() + sources()).hexdigest()[:20]
    _PROGRAMS[digest] = program
    return ProgramType(digest)


@typeof_impl.register(Program)
@typeof_impl.register(Shared)
def _typeof_program(value: Program | Shared, _context: Any) -> ProgramType:
    return type_of(value)


@unbox(ProgramType)
def _unbox_program(_kind: Any, _value: Any, context: Any) -> NativeValue:
    return NativeValue(context.context.get_dummy_value())
