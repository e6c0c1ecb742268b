"""A layer's configuration: its names and defaults, and the checks that need its cell."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from fastrnn import checks
from fastrnn.equations import Cell, Sizes

# What is said of a layer when it is made, and cannot be changed. (The dropout can.)
FIXED = frozenset(
    {"cell", "input_size", "hidden_size", "num_layers", "bidirectional", "batch_first", "bias", "proj_size", "dtype",
     "seed", "recurrent_init", "forget_bias", "backend"}
)  # fmt: skip
DEFAULTS: dict[str, Any] = {"num_layers": 1, "bidirectional": False, "batch_first": False, "bias": True,
                            "dropout": 0.0, "proj_size": 0}  # fmt: skip

LARGEST = 1 << 40  # bytes of parameters; what is beyond is a mistake, and is said to be one
MOST_LAYERS = 1 << 16  # likewise: each takes memory of its own, however small its parameters


def projection(cell: Cell, value: object) -> int:
    """proj_size: at least 1 for a cell with a projection, 0 for any other."""
    size = checks.size("proj_size", value, 0)
    if cell.has_projection and size == 0:
        raise ValueError(f"proj_size: expected at least 1, since cell {cell.name!r} has a projection; got 0")
    if size and not cell.has_projection:
        raise ValueError(f"proj_size: expected 0, since cell {cell.name!r} has no projection; got {size}")
    return size


def forget_bias(cell: Cell, bias: bool, value: object) -> float | None:
    """forget_bias: only for a cell whose gate f has a bias."""
    if value is None:
        return None
    found = checks.number("forget_bias", value, "a finite number or None")
    if "f" not in cell.input_gates:
        has = f"cell {cell.name!r} has no gate f, only {', '.join(cell.gates)}"
        raise ValueError(f"forget_bias: expected None, since {has}; got {found}")
    if not bias:
        raise ValueError(f"forget_bias: expected None with bias=False, got {found}")
    return found


def check_total(
    cell: Cell, first: Sizes, upper: Sizes, num_layers: int, directions: int, bias: bool, dtype: np.dtype[Any]
) -> None:
    """Refuse sizes that no machine holds, before anything is allocated."""
    counts = [sum(math.prod(s) for s in cell.parameter_shapes(sizes, bias).values()) for sizes in (first, upper)]
    total = directions * (counts[0] + (num_layers - 1) * counts[1]) * dtype.itemsize
    if total > LARGEST:
        sizes = f"{first.input_size}, {first.hidden_size}, {num_layers}"
        raise ValueError(
            f"input_size, hidden_size, num_layers: expected parameters of at most {LARGEST:,} bytes, "
            f"got {total:,} bytes for {sizes}"
        )
    if num_layers > MOST_LAYERS:
        raise ValueError(f"num_layers: expected an integer of at most {MOST_LAYERS:,}, got {num_layers:,}")
