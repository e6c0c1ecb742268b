"""The tables of a batch's rows (`contract.Rows`), and what follows from them: where every step stands."""

from __future__ import annotations

from fastrnn.backends.numba_.compile import compiled, inlined, inner
from fastrnn.backends.numba_.intrinsics import whole_numbers
from fastrnn.backends.numba_.objects import numbers_of
from fastrnn.backends.numba_.scan import row_offsets, state_row
from fastrnn.backends.tiled import frame as f


@inlined
def tables(table):  # type: ignore[no-untyped-def]
    """order, lengths, active and base of the rows with a table, see `contract.Rows`."""
    return tables_at(numbers_of(table))


@inlined
def tables_at(numbers):  # type: ignore[no-untyped-def]
    """The same, by the table's numbers."""
    batch, longest = numbers[f.BATCH - f.ORDER], numbers[f.LONGEST - f.ORDER]
    order, lengths = whole_numbers(numbers[0], batch), whole_numbers(numbers[f.LENGTHS - f.ORDER], batch)
    active, base = whole_numbers(numbers[f.ACTIVE - f.ORDER], longest), numbers[f.BASE - f.ORDER]
    return order, lengths, active, whole_numbers(base, longest + 1)


@inner
def sort(lengths, steps, numbers):  # type: ignore[no-untyped-def]
    """The tables of rows with these lengths, side by side: see `Native.sort_rows`."""
    batch = len(lengths)
    for b in range(batch):
        if lengths[b] < 0 or lengths[b] > steps:
            return -1
    order = f.TABLE_SIZE
    ordered = order + batch
    active = ordered + batch
    base = active + steps
    for s in range(steps + 1):
        numbers[base + s] = 0
    for b in range(batch):
        numbers[base + lengths[b]] += 1
    longest = 0
    longer = 0  # rows that are
    for s in range(steps, -1, -1):
        count = numbers[base + s]
        if count > 0 and longer == 0:
            longest = s
        numbers[base + s] = longer  # the place of the next row of this length
        if s < steps:
            numbers[active + s] = longer
        longer += count
    for b in range(batch):
        place = numbers[base + lengths[b]]
        numbers[base + lengths[b]] = place + 1
        numbers[order + place] = b
        numbers[ordered + place] = lengths[b]
    numbers[base] = 0
    for s in range(longest):
        numbers[base + s + 1] = numbers[base + s] + numbers[active + s]
    here = numbers.ctypes.data
    numbers[0], numbers[1] = here + 8 * order, here + 8 * ordered
    numbers[2], numbers[3] = here + 8 * active, here + 8 * base
    numbers[4], numbers[5], numbers[6] = batch, longest, steps
    return longest


@compiled
def sort_rows(lengths, steps, numbers):  # type: ignore[no-untyped-def]
    """`sort`."""
    return sort(numbers_of(lengths), steps, numbers_of(numbers))


@inner
def fill_step_offsets(offsets, order, lengths, active, base, reverse, step_bytes, row_bytes):  # type: ignore[no-untyped-def]
    """Where every valid step of every row stands in an array over time and batch, by compact number."""
    for s in range(len(active)):
        row_offsets(offsets, base[s], order, lengths, 0, active[s], s, reverse, step_bytes, row_bytes)


@inner
def fill_history_offsets(offsets, active, base, batch, stride):  # type: ignore[no-untyped-def]
    """Where the state before every valid step stands in a state's history, by compact number."""
    for s in range(len(active)):
        first = state_row(True, batch, base, s)
        for r in range(active[s]):
            offsets[base[s] + r] = (first + r) * stride


@compiled
def step_offsets(offsets, table, reverse, step_bytes, row_bytes):  # type: ignore[no-untyped-def]
    """`fill_step_offsets`."""
    order, lengths, active, base = tables(table)
    fill_step_offsets(numbers_of(offsets), order, lengths, active, base, reverse, step_bytes, row_bytes)


@compiled
def history_offsets(offsets, table, stride):  # type: ignore[no-untyped-def]
    """`fill_history_offsets`."""
    order, _, active, base = tables(table)
    fill_history_offsets(numbers_of(offsets), active, base, len(order), stride)
