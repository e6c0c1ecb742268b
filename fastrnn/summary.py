"""A layer's parameters as a table and gate by gate."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from fastrnn import checks
from fastrnn.backends.contract import Array
from fastrnn.equations import Cell
from fastrnn.record import Record

_COLUMNS = {  # heading: how the names of its parameters begin
    "input weights": ("weight_ih",),
    "recurrent weights": ("weight_hh",),
    "projection": ("weight_hr",),
    "biases": ("bias",),
    "peepholes": ("peephole",),
}


class Gate(Record):
    """One gate's part of the parameters: views, through which the layer's own can be changed. None: there is none.

    Attributes
    ----------
    weight_ih : ndarray, shape (H, I), or None
    weight_hh : ndarray, shape (H, H), with a projection (H, P), or None
    bias : ndarray, shape (H,), or None
    bias_h : ndarray, shape (H,), or None
        The second bias, as ``bias_hn`` of a GRU's gate ``n``.
    peephole : ndarray, shape (H,), or None
    """

    weight_ih: Array | None
    weight_hh: Array | None
    bias: Array | None
    bias_h: Array | None
    peephole: Array | None


def gate_slice(gates: tuple[str, ...], gate: str, hidden_size: int) -> slice | None:
    """The rows of a gate among those of several; None where it has none."""
    if gate not in gates:
        return None
    start = gates.index(gate) * hidden_size
    return slice(start, start + hidden_size)


def parameter_suffix(layer: object, num_layers: int, reverse: object, bidirectional: bool) -> str:
    """How the names of the parameters of one layer and direction end."""
    index = checks.size("layer", layer, 0)
    if index >= num_layers:
        raise ValueError(f"layer: expected 0 to {num_layers - 1}, got {index}")
    if checks.flag("reverse", reverse) and not bidirectional:
        raise ValueError("reverse: expected False, since the layer has one direction; got True")
    return f"_l{index}_reverse" if reverse else f"_l{index}"


def gate_blocks(cell: Cell, gate: str, hidden_size: int, parameters: Mapping[str, Array], suffix: str) -> Gate:
    """The blocks of a gate of the layer and direction whose parameters end in ``suffix``."""

    def block(name: str, rows: slice | None) -> Array | None:
        return parameters[name + suffix][rows] if rows is not None and name + suffix in parameters else None

    inputs = gate_slice(cell.input_gates, gate, hidden_size)
    every = slice(None)
    return Gate(
        weight_ih=block("weight_ih", inputs),
        weight_hh=block("weight_hh", gate_slice(cell.recurrent_gates, gate, hidden_size)),
        bias=block("bias", inputs),
        bias_h=block(f"bias_h{gate}", every),
        peephole=block(f"peephole_{gate}", every),
    )


def summary(title: str, layers: Sequence[tuple[str, Mapping[str, tuple[int, ...]]]]) -> str:
    """A table of how many numbers there are: a row for each (label, shapes of the parameters by base name)."""
    counts = [[_count(shapes, starts) for starts in _COLUMNS.values()] for _, shapes in layers]
    used = [j for j in range(len(_COLUMNS)) if j < 2 or j == 3 or any(row[j] for row in counts)]
    headings = ["layer", *(list(_COLUMNS)[j] for j in used), "total"]
    rows = [[label, *(row[j] for j in used), sum(row)] for (label, _), row in zip(layers, counts, strict=True)]
    totals = [sum(column) for column in zip(*([row[j] for j in used] + [sum(row)] for row in counts), strict=True)]
    cells = [headings, *([str(row[0]), *(f"{n:,}" for n in row[1:])] for row in [*rows, ["total", *totals]])]
    widths = [max(len(row[j]) for row in cells) for j in range(len(headings))]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(text.rjust(w) for text, w in zip(row[1:], widths[1:], strict=True))])
        for row in cells
    ]
    rule = "-" * len(lines[0])
    return "\n".join([title, rule, lines[0], rule, *lines[1:-1], rule, lines[-1]])


def _count(shapes: Mapping[str, tuple[int, ...]], starts: tuple[str, ...]) -> int:
    return sum(math.prod(shape) for name, shape in shapes.items() if name.startswith(starts))
