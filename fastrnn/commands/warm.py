"""Compile kernels ahead and keep them on disk, so that no later process waits for a compiler.

A container image can carry them: set NUMBA_CACHE_DIR to a directory of the image, run `fastrnn warm` when the image is
built, and leave the variable set. At run time the directory may be read-only and the user another one. The kernels are
made for the processor that they are compiled on; for a fleet of several kinds set NUMBA_CPU_NAME and
NUMBA_CPU_FEATURES to what all of them have, both when warming and when running.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import numpy as np

from fastrnn import Recurrent, cells
from fastrnn.backends import found_by_loading
from fastrnn.commands import CommandError
from fastrnn.equations import trace

HELP = "compile kernels ahead and keep them on disk"

DTYPES = ("float32", "float64")
INPUT, HIDDEN, PROJECTED = 3, 5, 2  # any sizes: a kernel serves all of them


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    several: dict[str, Any] = {"nargs": "+", "metavar": "NAME"}
    parser.add_argument("--cells", choices=cells.__all__, default=cells.__all__, **several,
                        help=f"which cells: {', '.join(cells.__all__)} (default: all)")  # fmt: skip
    parser.add_argument("--dtypes", choices=DTYPES, default=DTYPES, **several, help="float32, float64 (default: both)")
    parser.add_argument("--modes", choices=MODES, default=tuple(MODES), **several,
                        help=f"what they are for: {', '.join(MODES)} (default: all)")  # fmt: skip


def run(options: argparse.Namespace) -> int:
    """Compile, and say what was compiled and where it is."""
    found = found_by_loading("numba")
    if not found:
        raise CommandError(f"only the backend 'numba' compiles, and it is {found}")
    from fastrnn.backends.numba_.cache import directories, usage
    from fastrnn.backends.numba_.native import compile_host

    place = directories()[0]
    if not usage(place).writable:
        raise CommandError(f"{place} is not writable; set NUMBA_CACHE_DIR to a directory that is")
    before, began = usage(place), time.perf_counter()
    print(f"compiling into {place}", flush=True)
    compile_host()
    for cell in options.cells:
        for dtype in options.dtypes:
            print(f"{cell:18}{dtype:10}{warmed(cell, dtype, options.modes, place)}", flush=True)
    after = usage(place)
    new, seconds = after.usable - before.usable, time.perf_counter() - began
    print(f"{new} kernels compiled in {seconds:.1f} s; {after.usable} there now, {after.size / 1e6:.1f} MB in all")
    return 0


def warmed(cell: str, dtype: str, modes: list[str], place: Path) -> str:
    """Compile one cell; what it took, mode by mode."""
    from fastrnn.backends.numba_.cache import usage

    function = getattr(cells, cell)
    size = PROJECTED if trace(function).has_projection else 0
    layer = Recurrent(function, INPUT, HIDDEN, proj_size=size, dtype=dtype, backend="numba")
    told = []
    for mode in modes:
        before, began = usage(place).usable, time.perf_counter()
        MODES[mode](layer)
        new = usage(place).usable - before
        took = f"{new} in {time.perf_counter() - began:.1f} s" if new else "was there"
        told.append(f"{mode} {took:16}")
    return "".join(told).rstrip()


def infer(layer: Recurrent) -> None:
    """Whole sequences, of one length and of several, all outputs and the last ones."""
    x = np.zeros((2, 3, INPUT), layer.dtype)
    layer(x)
    layer(x, lengths=[2, 0, 1], sequence=False)


def train(layer: Recurrent) -> None:
    """Forward and backward."""
    y, _, tape = layer.record(np.zeros((2, 3, INPUT), layer.dtype), lengths=[2, 0, 1])
    layer.backward(tape, y)


def step(layer: Recurrent) -> None:
    """Streams, of one sequence and of several."""
    for batch in (1, 2):
        stream = layer.stream(batch)
        stream.step(np.zeros((batch, INPUT), layer.dtype))
        if batch == 1:
            stream.step(np.zeros(INPUT, layer.dtype))
        stream.chunk(np.zeros((2, batch, INPUT), layer.dtype))


MODES = {"inference": infer, "training": train, "streaming": step}
