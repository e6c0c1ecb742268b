"""Packs of the NumPy backend: the weights of one layer and direction in the order in which they are multiplied."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from fastrnn.backends.contract import Array
from fastrnn.backends.evaluate import PROJECTION, Backward, Forward, Values
from fastrnn.equations import Sizes
from fastrnn.plan import Plan
from fastrnn.record import Record


class NumpyPack(Record):
    """One layer and direction: the schedules of its cell, and the weights as they are multiplied.

    ``weight_ih`` and ``bias`` have their gates in the order of ``forward.input_order``; ``backward_ih`` in the cell's.
    """

    plan: Plan
    sizes: Sizes
    dtype: np.dtype[Any]
    names: Sequence[str]  # of the parameters
    forward: Forward
    backward: Backward
    weight_ih: Array
    bias: Array | None
    backward_ih: Array
    recurrent: Mapping[tuple[str | None, ...], Array]
    blank_forward: Values
    blank_backward: Values
    columns: tuple[slice, ...]  # where in a row of a backward scan's work each gradient node stands

    @property
    def weight_count(self) -> int:
        """Multiply-adds of one row step."""
        return self.weight_ih.size + sum(matrix.size for matrix in self.recurrent.values())

    @property
    def state_sizes(self) -> tuple[int, ...]:
        """The width of each state."""
        return tuple(self.sizes.width(width) for width in self.plan.cell.state_widths)


def packed(
    plan: Plan, forward: Forward, backward: Backward, sizes: Sizes, dtype: np.dtype[Any],
    parameters: Mapping[str, Array],
) -> NumpyPack:  # fmt: skip
    """Copy the parameters into the order in which they are multiplied."""
    cell, hidden = plan.cell, sizes.hidden_size
    weight_ih = _frozen(_blocks(parameters["weight_ih"], range(len(cell.input_gates)), hidden), dtype)
    bias = parameters.get("bias")
    if bias is not None:
        bias = _frozen(_blocks(bias, forward.input_order, hidden), dtype)
    vectors = {name: _frozen(parameters.get(name, np.zeros(hidden)), dtype) for name in cell.vectors}
    blank_forward = forward.blank(vectors, dtype)
    for group in forward.groups:
        matrix = _recurrent(plan, parameters, group.names, hidden)
        blank_forward[forward.matrices[group.key]] = _frozen(matrix, dtype).T
    linked = [names for groups in plan.gradient.recurrent for names in groups]
    groups = dict.fromkeys([*linked, *backward.matrices])
    recurrent = {names: _frozen(_recurrent(plan, parameters, names, hidden), dtype) for names in groups}
    blank_backward = backward.blank(vectors, dtype)
    for names, slot in backward.matrices.items():
        blank_backward[slot] = recurrent[names]
    return NumpyPack(
        plan=plan,
        sizes=sizes,
        dtype=dtype,
        names=list(parameters),
        forward=forward,
        backward=backward,
        weight_ih=_frozen(_blocks(parameters["weight_ih"], forward.input_order, hidden), dtype),
        bias=bias,
        backward_ih=weight_ih,
        recurrent=recurrent,
        blank_forward=blank_forward,
        blank_backward=blank_backward,
        columns=_gradient_columns(plan, sizes),
    )


def _frozen(values: Array, dtype: np.dtype[Any]) -> Array:
    copy = np.array(values, dtype, order="C")
    copy.flags.writeable = False
    return copy


def _blocks(parameter: Array, gates: Any, hidden: int) -> Array:
    """The blocks of some gates, one below the other."""
    return np.concatenate([parameter[gate * hidden : (gate + 1) * hidden] for gate in gates])


def _recurrent(plan: Plan, parameters: Mapping[str, Array], names: tuple[str | None, ...], hidden: int) -> Array:
    if names == PROJECTION:
        return parameters["weight_hr"]
    gates = [plan.cell.recurrent_gates.index(str(name)) for name in names]
    return _blocks(parameters["weight_hh"], gates, hidden)


def _gradient_columns(plan: Plan, sizes: Sizes) -> tuple[slice, ...]:
    columns, start = [], 0
    for width in plan.gradient_widths:
        columns.append(slice(start, start + sizes.width(width)))
        start = columns[-1].stop
    return tuple(columns)
