"""The initial values of parameters."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np

from fastrnn.checks import Array


def initial_values(
    shapes: Mapping[str, tuple[int, ...]],
    hidden_size: int,
    seed: int | None,
    recurrent_init: str,
    forget: slice | None,
    forget_bias: float,
) -> dict[str, Array]:
    """Draw the parameters, float64, in the order of their names.

    All are uniform in -1/sqrt(H) to 1/sqrt(H), as in PyTorch. With ``recurrent_init`` "orthogonal" each gate's block of
    ``weight_hh`` is a random orthogonal matrix (A. Saxe, J. McClelland and S. Ganguli, 2014, arXiv:1312.6120); with a
    projection its columns are orthonormal. ``forget`` says where in ``bias`` the forget gate stands; ``forget_bias`` is
    put there (R. Jozefowicz, W. Zaremba and I. Sutskever, An empirical exploration of recurrent network architectures,
    2015). The seed draws the same values for both dtypes, rounded.
    """
    random = np.random.Generator(np.random.PCG64(seed))
    bound = 1.0 / math.sqrt(hidden_size)
    values: dict[str, Array] = {}
    for name, shape in shapes.items():
        if recurrent_init == "orthogonal" and name.startswith("weight_hh"):
            blocks = [_orthogonal(random, hidden_size, shape[1]) for _ in range(shape[0] // hidden_size)]
            values[name] = np.concatenate(blocks)
        else:
            values[name] = random.uniform(-bound, bound, shape)
        if forget is not None and (name == "bias" or name.startswith("bias_l")):
            values[name][forget] = forget_bias
    return values


def _orthogonal(random: np.random.Generator, rows: int, columns: int) -> Array:
    """A random matrix with orthonormal columns (rows >= columns) or rows, uniform among them (Haar)."""
    tall = random.standard_normal((max(rows, columns), min(rows, columns)))
    q: Array
    q, r = np.linalg.qr(tall)
    q *= np.copysign(1.0, np.diagonal(r))
    return q if rows >= columns else q.T
