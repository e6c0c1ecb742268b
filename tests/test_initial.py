"""The random numbers that parameters begin with, against the same generator written one number at a time."""

from __future__ import annotations

import numpy as np
import pytest

from fastrnn.initial import SplitMix64

WORD = (1 << 64) - 1


def mixed(z: int) -> int:
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & WORD
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & WORD
    return z ^ (z >> 31)


def test_the_mixing_is_that_of_the_paper() -> None:
    """The first numbers of SplitMix64 from the state 0, as its authors' C program gives them."""
    expected = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert [mixed(k * SplitMix64.STEP & WORD) for k in (1, 2, 3)] == expected


@pytest.mark.parametrize("seed", [0, 1, WORD])
def test_uniform_one_by_one(seed: int) -> None:
    """Across the pieces that it is drawn in, and from call to call."""
    state, expected = mixed(seed), []
    for _ in range(10_000):
        state = (state + SplitMix64.STEP) & WORD
        expected.append((mixed(state) >> 11) * 2.0**-53)
    random = SplitMix64(seed)
    drawn = [random.uniform(0.0, 1.0, shape).ravel() for shape in ((3, 5), (1,), (4100, 2), (1784,))]
    assert np.concatenate(drawn).tolist() == expected


def test_uniform_and_normal_are_so() -> None:
    """Bounds, moments, and no correlation between neighbours or between seeds that follow one another."""
    count = 200_000
    uniform, other = (SplitMix64(seed).uniform(-3.0, 1.0, (count,)) for seed in (6, 7))
    assert -3.0 <= uniform.min() < -2.999
    assert 0.999 < uniform.max() <= 1.0
    assert abs(uniform.mean() + 1.0) < 0.02
    assert abs(uniform.var() - 16 / 12) < 0.02
    normal = SplitMix64(6).normal((count,))
    assert abs(normal.mean()) < 0.02
    assert abs(normal.var() - 1.0) < 0.02
    assert abs((normal**4).mean() - 3.0) < 0.1
    for a, b in ((uniform[1:], uniform[:-1]), (uniform, other), (normal[1:], normal[:-1])):
        assert abs(np.corrcoef(a, b)[0, 1]) < 0.01


def test_every_bit_of_a_seed_counts() -> None:
    """Seeds beyond 64 bits included; None is another one each time."""
    seeds = [0, 1, 1 << 63, 1 << 64, 1 << 65, (1 << 64) + 1, 1 << 128, None, None]
    assert len({float(SplitMix64(seed).uniform(0.0, 1.0, (1,))[0]) for seed in seeds}) == len(seeds)
