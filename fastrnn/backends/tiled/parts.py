"""Which rows of which weight have their gradient from one product."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fastrnn.plan import Place
from fastrnn.record import Record

if TYPE_CHECKING:
    from fastrnn.backends.tiled.form import Form

MERGED = 256  # rows of a weight in one product: more of them would gain nothing
X: Place = ("x", 0)


class WeightPart(Record):
    """Rows of a weight and their width, the first column of their gates' gradients, and what these multiply.

    There are ``gate_rows`` of each gate, and ``gap`` columns between the gradients of one gate and of the next.
    """

    weight: str
    row: int
    rows: int
    width: int
    column: int
    place: Place
    gate_rows: int
    gap: int


def parts_of(form: Form) -> Iterator[WeightPart]:
    """All weights, gate by gate."""
    plan, columns, hidden = form.plan, form.gradient_offsets, form.sizes.hidden_size
    widths = {name: shape[1] for name, shape in form.shapes.items() if len(shape) == 2}
    for index, column in enumerate(plan.input_columns):
        yield WeightPart("weight_ih", index * hidden, hidden, widths["weight_ih"], columns[column], X, hidden, 0)
    for index, gate in enumerate(plan.cell.recurrent_gates):
        column, place = columns[plan.product_columns[gate]], plan.operands[gate]
        yield WeightPart("weight_hh", index * hidden, hidden, widths["weight_hh"], column, place, hidden, 0)
    if plan.cell.has_projection:
        column, place, rows = columns[plan.product_columns[None]], plan.operands[None], form.sizes.proj_size
        yield WeightPart("weight_hr", 0, rows, widths["weight_hr"], column, place, rows, 0)


def merged(parts: Iterator[WeightPart]) -> Iterator[WeightPart]:
    """Neighbours as one where their gradients, too, come one after the other, all as far apart: fewer products, and
    fewer copies of x and h."""
    before: WeightPart | None = None
    for part in parts:
        both = None if before is None else _as_one(before, part)
        if before is not None and both is None:
            yield before
        before = part if both is None else both
    if before is not None:
        yield before


def _as_one(before: WeightPart, part: WeightPart) -> WeightPart | None:
    """Gates and the one after them, if that is one product: of a weight's gates, all have as many rows."""
    gates, rows = before.rows // before.gate_rows, before.rows + part.rows
    gap = before.gap if gates > 1 else part.column - before.column - before.gate_rows
    follows = (
        part.weight == before.weight
        and part.place == before.place
        and part.column == before.column + gates * (before.gate_rows + gap)
    )
    return before.replaced(rows=rows, gap=gap) if follows and gap >= 0 and rows <= MERGED else None
