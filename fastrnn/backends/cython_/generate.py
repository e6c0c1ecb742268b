"""What the build prints: each cell's kernels as C, for each element type and instruction set, and the frame's fields.

A file holds one element type and instruction set; the compiler is told the latter. Constants come from where Python has
them, so that nothing is written twice.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from fastrnn import cells
from fastrnn.backends import contract
from fastrnn.backends.cython_.c_text import Functions
from fastrnn.backends.cython_.sets import SETS
from fastrnn.backends.tiled import box, frame, program
from fastrnn.backends.tiled.emitter import WHOLE, Emitter
from fastrnn.backends.tiled.outer import ARGUMENTS, CACHE_LINE, emit_outer, room_bytes
from fastrnn.backends.tiled.program import KINDS, Program
from fastrnn.equations import Cell, trace
from fastrnn.plan import plan

DTYPES = ("float32", "float64")


@dataclass(frozen=True)
class Unit:
    """One generated file: an instruction set and an element type."""

    isa: str
    dtype: str

    @property
    def name(self) -> str:
        return f"kernels_{self.isa}_{self.dtype}"


def shipped() -> list[Cell]:
    """The cells that the extension holds."""
    return [trace(getattr(cells, name)) for name in cells.__all__]


def fields() -> dict[str, int]:
    """The constants that kernels share with Python: F_.. of the frame, the stages and the products, B_.. of a box,
    C_.. of the contract, and the bytes of a cache line."""
    modules = (("C_", contract), ("F_", frame), ("F_", program), ("B_", box))
    found = {
        prefix + name: value
        for prefix, module in modules
        for name, value in vars(module).items()
        if name.isupper() and isinstance(value, int)
    }
    return found | {"CACHE_LINE": CACHE_LINE}


def write(folder: Path, isas: Sequence[str]) -> list[tuple[Unit, Path]]:
    """Write all files; returns the C files that hold kernels."""
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "fields.h", "\n".join(f"#define {name} INT64_C({value})" for name, value in fields().items()))
    names = "\n".join(f"        {name}" for name in fields())
    _write(folder / "fields.pxi", f'cdef extern from "fields.h" nogil:\n    enum:\n{names}')
    units = [Unit(isa, dtype) for isa in isas for dtype in DTYPES]
    found = []
    for unit in units:
        found.append((unit, folder / f"{unit.name}.c"))
        _write(found[-1][1], kernels(unit))
    _write(folder / "units.c", index(units))
    return found


def _write(path: Path, text: str) -> None:
    """Leave a file alone that is as it should be, for builds that look at its age."""
    if not path.exists() or path.read_text(encoding="utf-8") != text + "\n":
        path.write_text(text + "\n", encoding="utf-8")


def index(units: Sequence[Unit]) -> str:
    """The file that lists all units."""
    lines = ['#include "machine.h"', '#include "tables.h"', ""]
    lines += [f"extern const fastrnn_unit {unit.name};" for unit in units]
    listed = ", ".join([*(f"&{unit.name}" for unit in units), "0"])
    return "\n".join([*lines, f"const fastrnn_unit *const fastrnn_units[] = {{{listed}}};"])


def kernels(unit: Unit) -> str:
    """One unit's file."""
    target, dtype = SETS[unit.isa].target, np.dtype(unit.dtype)
    functions = Functions(dtype, target)
    rows = []
    for cell in shipped():
        made = Program(plan(cell), dtype, target)
        stages = [functions.define("stages", [WHOLE] * 3, partial(_stages, made, kind))[0] for kind in range(KINDS)]
        rows.append(f"    {{{json.dumps(cell.text)}, {{{', '.join(stages)}}}}}, /* {cell.name} */")
    outer_name, _ = functions.define("outer", ARGUMENTS, _outer)
    product = f"{outer_name}, {room_bytes(target, dtype.itemsize)}"
    return "\n".join(
        [
            f"#define FASTRNN_BITS {dtype.itemsize * 8}",
            f"#define FASTRNN_{unit.isa.upper()}",
            '#include "vector.h"',
            '#include "tables.h"',
            "",
            functions.text(),
            "",
            "static const fastrnn_cell cells[] = {",
            *rows,
            "};",
            "",
            f"extern const fastrnn_unit {unit.name};",
            f'const fastrnn_unit {unit.name} = {{"{unit.isa}", {dtype.itemsize}, cells, {len(rows)}, {product}}};',
        ]
    )


def _stages(made: Program, kind: int, emit: Emitter, arguments: list[Any]) -> None:
    made.emit(emit, kind, *arguments)


def _outer(emit: Emitter, arguments: list[Any]) -> None:
    emit_outer(emit, *arguments)
