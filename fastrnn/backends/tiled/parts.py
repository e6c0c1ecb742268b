"""Which rows of which weight have their gradient from one product."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from fastrnn.plan import Place
from fastrnn.record import Record

if TYPE_CHECKING:
    from fastrnn.backends.tiled.pack import TiledPack

MERGED = 256  # rows of a weight in one product; more of them would gain nothing, and threads could share them less
X: Place = ("x", 0)


class WeightPart(Record):
    """Rows of a weight and their width, the first column of their gates' gradients, and what these multiply."""

    weight: str
    row: int
    rows: int
    width: int
    column: int
    place: Place


def parts_of(pack: TiledPack) -> Iterator[WeightPart]:
    """All weights, gate by gate."""
    plan, columns, hidden = pack.plan, pack.gradient_offsets, pack.sizes.hidden_size
    widths = {name: value.shape[1] for name, value in pack.weights.items() if value.ndim == 2}
    for index, column in enumerate(plan.input_columns):
        yield WeightPart("weight_ih", index * hidden, hidden, widths["weight_ih"], columns[column], X)
    for index, gate in enumerate(plan.cell.recurrent_gates):
        column, place = columns[plan.product_columns[gate]], plan.operands[gate]
        yield WeightPart("weight_hh", index * hidden, hidden, widths["weight_hh"], column, place)
    if plan.cell.has_projection:
        column, place = columns[plan.product_columns[None]], plan.operands[None]
        yield WeightPart("weight_hr", 0, pack.sizes.proj_size, widths["weight_hr"], column, place)


def merged(parts: Iterator[WeightPart]) -> Iterator[WeightPart]:
    """Neighbours as one where their gradients, too, stand side by side: fewer products, and fewer copies of x and h."""
    before: WeightPart | None = None
    for part in parts:
        if before is None:
            before = part
            continue
        joined = before.row + before.rows == part.row and before.column + before.rows == part.column
        if joined and (before.weight, before.place) == (part.weight, part.place) and before.rows + part.rows <= MERGED:
            before = before.replaced(rows=before.rows + part.rows)
        else:
            yield before
            before = part
    if before is not None:
        yield before
