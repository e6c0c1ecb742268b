"""Layers against ``onnx.reference``: peepholes, the reset gate before the product, all directions."""

from __future__ import annotations

import numpy as np
import onnx_reference
import pytest
from cases import DTYPES, assert_close
from conformance import as_tuple, draw_call, make_layer, states_of


@pytest.mark.parametrize("lengths", [None, (3, 5, 1, 4)], ids=["full", "lengths"])
@pytest.mark.parametrize("bidirectional", [False, True], ids=["forward", "bidirectional"])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("cell", onnx_reference.EVALUATED)
def test_onnx(backend: str, cell: str, dtype: str, bidirectional: bool, lengths: tuple[int, ...] | None) -> None:
    """y and the final state of one layer with an initial state, and with none."""
    layer = make_layer(cell, 3, 6, backend=backend, dtype=dtype, bidirectional=bidirectional)
    values = draw_call(layer, 5, 4)
    parameters = {name: np.array(value, np.float64) for name, value in layer.parameters.items()}
    direction = "bidirectional" if bidirectional else "forward"
    for state in (states_of(values), None):
        expected_y, expected = onnx_reference.evaluate(cell, parameters, values["x"], state, direction, lengths)
        y, final = layer(values["x"], state, lengths)
        assert_close(y, expected_y, "value", dtype, "y")
        for k, (a, e) in enumerate(zip(as_tuple(final), as_tuple(expected), strict=True)):
            assert_close(a, e, "value", dtype, f"final{k}")
