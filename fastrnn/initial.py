"""The initial values of parameters, and the random numbers that they are made from."""

from __future__ import annotations

import math
import os
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
    2015). The seed draws the same values for both dtypes, rounded, whatever the version of NumPy.
    """
    random = SplitMix64(seed)
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


class SplitMix64:
    """Random numbers by counting and mixing (G. Steele, D. Lea and C. Flood, Fast splittable pseudorandom number
    generators, 2014), in whole arrays: importing `numpy.random` takes longer than drawing a layer.

    ``seed`` is any integer of at least 0; None takes one from the operating system.
    """

    STEP = 0x9E3779B97F4A7C15  # the golden ratio of 2^64, made odd

    def __init__(self, seed: int | None) -> None:
        number = int.from_bytes(os.urandom(16), "little") if seed is None else seed
        self._at = np.zeros(1, np.uint64)  # an array, since the arithmetic of arrays wraps without a warning
        while True:  # the seed 64 bits at a time
            self._at = _mixed(self._at ^ np.uint64(number % (1 << 64)))
            number >>= 64
            if number == 0:
                break
            self._at += np.uint64(self.STEP)

    def uniform(self, low: float, high: float, shape: tuple[int, ...]) -> Array:
        """Uniform between low and high, float64."""
        values = np.empty(math.prod(shape))
        steps = np.arange(1, 4097, dtype=np.uint64) * np.uint64(self.STEP)  # few enough to stay in the first caches
        for start in range(0, len(values), len(steps)):
            piece = values[start : start + len(steps)]
            bits = steps[: len(piece)] + self._at
            self._at = bits[-1:]
            np.multiply(_mixed(bits) >> np.uint64(11), (high - low) * 2.0**-53, out=piece)
        values += low
        return values.reshape(shape)

    def normal(self, shape: tuple[int, ...]) -> Array:
        """Standard normal (G. Box and M. Muller, A note on the generation of random normal deviates, 1958), float64."""
        radius = np.sqrt(-2.0 * np.log1p(-self.uniform(0.0, 1.0, shape)))
        return radius * np.cos(2.0 * np.pi * self.uniform(0.0, 1.0, shape))


def _mixed(bits: Array) -> Array:
    """Bits in which every bit depends on all those of the argument."""
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        bits = bits ^ (bits >> np.uint64(shift))
        bits *= np.uint64(factor)
    bits ^= bits >> np.uint64(31)
    return bits


def _orthogonal(random: SplitMix64, rows: int, columns: int) -> Array:
    """A random matrix with orthonormal columns (rows >= columns) or rows, uniform among them (Haar)."""
    q: Array
    q, r = np.linalg.qr(random.normal((max(rows, columns), min(rows, columns))))
    q *= np.copysign(1.0, np.diagonal(r))
    return q if rows >= columns else q.T
