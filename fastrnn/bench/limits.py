"""The least time that a case can take on a machine: the roofline.

A whole sequence takes T times the larger of (recurrent operations / peak, recurrent weights' bytes / bandwidth of a
loop over that many bytes), and its input products' operations / peak. Training takes the recurrence twice, forward and
back, and three more large products: the input's gradient and the two weights'. A step takes the larger of (operations /
peak, all weights' bytes / bandwidth). Activations, the traffic of states and the call itself are free, so that nothing
reaches the limit, unless it reads faster than the loops that measure; `with_activations` adds the first of them.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from fastrnn.bench.cases import ACTIVATIONS, GATES, Case
from fastrnn.bench.machine import Limits

_SIZES = {"float32": 4, "float64": 8}


def limit(case: Case, machine: Limits) -> float:
    """Seconds that the case takes at the least."""
    return sum(_seconds(case, inputs, machine) for inputs in _layers(case))


def with_activations(case: Case, machine: Limits) -> float:
    """The limit and the activations of the forward pass, at full vector speed."""
    count = case.total_steps * case.H * ACTIVATIONS[case.cell] * case.layers * case.directions
    return limit(case, machine) + count * machine.activation * (_SIZES[case.dtype] / 4)


def operations(case: Case) -> float:
    """Floating-point operations of the products, a multiply-add counting as two."""
    once = sum(2.0 * GATES[case.cell] * case.H * (inputs + case.H) for inputs in _layers(case))
    return case.total_steps * once * (3 if case.mode == "training" else 1)


def weight_bytes(case: Case) -> float:
    """The bytes of weights that have to be read once a time step: all of them for a step, else the recurrent ones."""
    wide = case.mode == "step"
    values = sum(GATES[case.cell] * case.H * (case.H + (inputs if wide else 0)) for inputs in _layers(case))
    return float(values * _SIZES[case.dtype])


def intensity(case: Case) -> float:
    """Operations for each byte of weights that is read, each time step reading its weights anew."""
    passes = case.T * (2 if case.mode == "training" else 1)
    return operations(case) / (passes * weight_bytes(case))


def _layers(case: Case) -> Iterator[int]:
    """The input size of each layer and direction."""
    for layer in range(case.layers):
        for _ in range(case.directions):
            yield case.directions * case.H if layer else case.I


def _seconds(case: Case, inputs: int, machine: Limits) -> float:
    """One layer and direction."""
    size = _SIZES[case.dtype]
    peak = machine.peak * 4 / size
    rows, hidden = GATES[case.cell] * case.H, case.H
    if case.mode == "step":
        weights = rows * (inputs + hidden)
        bandwidth = machine.bytes_per_second(weights * size)
        return max(2.0 * case.B * weights / peak, weights * size / bandwidth)
    reading = rows * hidden * size / machine.bytes_per_second(rows * hidden * size)
    recurrence = float(np.maximum(2.0 * _rows_at(case) * rows * hidden / peak, reading).sum())
    product, recurrent_product = (2.0 * case.total_steps * rows * size_ / peak for size_ in (inputs, hidden))
    if case.mode == "forward":
        return recurrence + product
    return 2 * recurrence + 3 * product + recurrent_product


def _rows_at(case: Case) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """How many rows have a step at each time, (T,)."""
    lengths = case.lengths
    if lengths is None:
        return np.full(case.T, case.B)
    counts: np.ndarray[tuple[int], np.dtype[np.int64]] = (np.arange(case.T)[:, None] < lengths).sum(axis=1)
    return counts
