"""The cases that every backend is put through, and the one table of tolerances.

Sizes are no multiples of a vector's length, I differs from H, batches are of 1 to 13 rows with tails of 1, 2 and 3,
lengths are in no order, with zeros. Every case has states that are not zero.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

import numpy as np
import oracle
import pytest

# What this environment does not have, as whoever runs the tests says: what needs it is left out, and all else has to be
# there. Nothing is left out because it merely is not found.
WITHOUT = tuple(os.environ.get("FASTRNN_TEST_WITHOUT", "").split())
BACKENDS = tuple(name for name in ("numpy", "numba", "cython") if name not in WITHOUT)
COMPILED = tuple(name for name in BACKENDS if name != "numpy")
ANY_CELL = tuple(name for name in BACKENDS if name != "cython")  # which take more than the cells of `fastrnn.cells`
CELLS = tuple(oracle.CELLS)
DTYPES = ("float32", "float64")
any_cell = pytest.mark.parametrize("backend", ANY_CELL)
compiled = pytest.mark.parametrize("backend", COMPILED)


@dataclass(frozen=True)
class Case:
    """The sizes of one scan; P counts only for a cell with a projection."""

    name: str
    T: int
    B: int
    I: int  # noqa: E741
    H: int
    P: int
    lengths: tuple[int, ...] | None = None
    reverse: bool = False
    bias: bool = True

    def proj_size(self, cell: str) -> int:
        """P for a cell that projects, 0 for any other."""
        return self.P if cell == "lstm_projected" else 0


CASES = {
    case.name: case
    for case in (
        Case("single-unit", T=4, B=2, I=3, H=1, P=1),
        Case("single-step", T=1, B=6, I=5, H=7, P=3),
        Case("single-input", T=5, B=3, I=1, H=16, P=5),
        Case("single-row", T=9, B=1, I=4, H=37, P=17),
        Case("seven-rows", T=3, B=7, I=19, H=16, P=9),
        Case("reverse", T=4, B=4, I=6, H=7, P=2, reverse=True),
        Case("no-bias", T=3, B=5, I=9, H=7, P=6, bias=False),
        Case("wide", T=2, B=3, I=33, H=65, P=34),
        Case("lengths", T=5, B=6, I=3, H=17, P=16, lengths=(2, 0, 5, 1, 5, 3)),
        Case("lengths-reverse", T=6, B=9, I=2, H=37, P=4, lengths=(6, 1, 0, 4, 2, 6, 0, 3, 5), reverse=True),
        Case("lengths-shorter-than-T", T=7, B=13, I=5, H=9, P=8, lengths=(1, 4, 0, 2, 2, 5, 1, 0, 3, 5, 4, 1, 2)),
        Case("many-steps", T=90, B=11, I=3, H=33, P=18, lengths=(90, 71, 0, 88, 1, 90, 64, 89, 17, 90, 85)),
        Case("all-empty", T=3, B=2, I=4, H=5, P=2, lengths=(0, 0)),
    )
}

SMALL_CASES = {  # for finite differences of every element
    case.name: case
    for case in (
        Case("plain", T=3, B=3, I=2, H=3, P=2),
        Case("lengths", T=4, B=4, I=3, H=2, P=1, lengths=(2, 0, 4, 1)),
        Case("lengths-reverse", T=4, B=3, I=1, H=3, P=2, lengths=(1, 4, 3), reverse=True),
        Case("no-bias", T=2, B=2, I=2, H=3, P=2, bias=False),
    )
}

# (what, dtype) -> (relative, absolute); the absolute one in units of the largest expected value, at least 1.
TOLERANCES = {
    ("value", "float32"): (1e-5, 2e-6),
    ("value", "float64"): (1e-12, 1e-13),
    ("gradient", "float32"): (2e-5, 5e-6),
    ("gradient", "float64"): (1e-11, 1e-12),
    ("difference", "float64"): (1e-6, 1e-8),  # against central differences with steps of 1e-5
}


def assert_close(actual: Any, expected: Any, what: str, dtype: str, name: str = "") -> None:
    """The same shape, and values within the table's tolerance; NaN only where NaN is expected."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape, f"{name}: shape {actual.shape}, expected {expected.shape}"
    relative, absolute = TOLERANCES[what, dtype]
    scale = max(1.0, float(np.max(np.abs(expected), initial=0.0)))
    np.testing.assert_allclose(actual, expected, rtol=relative, atol=absolute * scale, err_msg=name)


def assert_same_bits(actual: Any, expected: Any, name: str = "") -> None:
    """Equal to the bit, NaN equal to NaN, 0 not equal to -0."""
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.dtype == expected.dtype, f"{name}: {actual.dtype}, expected {expected.dtype}"
    assert actual.shape == expected.shape, f"{name}: shape {actual.shape}, expected {expected.shape}"
    assert np.array_equal(actual, expected, equal_nan=True), f"{name}: {np.sum(actual != expected)} values differ"
    number = ~np.isnan(expected)
    assert np.array_equal(np.signbit(actual[number]), np.signbit(expected[number])), (
        f"{name}: a zero has the other sign"
    )
