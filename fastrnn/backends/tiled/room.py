"""Memory as kernels want it: where it begins, how far apart its rows are, and that it is used again."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

import numpy as np

from fastrnn.backends.contract import Array
from fastrnn.record import lazy
from fastrnn.reuse import address, buffer

ALIGNMENT = 64  # bytes: a cache line, and the longest vector


def aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """An uninitialised array that begins at a multiple of `ALIGNMENT`."""
    size = math.prod(shape) * dtype.itemsize
    raw = np.empty(size + ALIGNMENT, np.uint8)
    skip = -address(raw) % ALIGNMENT
    return raw[skip : skip + size].view(dtype).reshape(shape)


class Room:
    """Memory that one call needs, and the next one again (`fastrnn.reuse`): tables of so many bytes.

    The first stands at the first multiple of `ALIGNMENT`, each other one at the next multiple after the one before.

    Attributes
    ----------
    memory : ndarray
        Bytes, a few more than the tables have.
    """

    def __init__(self, *sizes: int) -> None:
        self._sizes = sizes
        self.memory = buffer(sum(sizes) + ALIGNMENT * (len(sizes) + 1))

    @lazy
    def at(self) -> list[int]:
        """The address of each table."""
        return places(self.memory, self._sizes)


def places(memory: Array, sizes: Sequence[int]) -> list[int]:
    """Where the tables of a `Room` begin in its memory."""
    begin = padded(address(memory), ALIGNMENT)
    return [begin + skip for skip in accumulate([0, *[padded(size, ALIGNMENT) for size in sizes[:-1]]])]


def padded(count: int, block: int) -> int:
    """``count`` rounded up to a multiple of ``block``."""
    return -(-count // block) * block


def pitch(width: int, size: int) -> int:
    """How many values apart to put rows of ``width`` values of ``size`` bytes.

    Rows a multiple of four cache lines apart share few sets of a cache and drive each other out: one line more helps.
    Rows of 4 or 12 lines are left alone: it would be much beside them.
    """
    count = width * size
    crowded = count % (4 * ALIGNMENT) == 0 and (count % (8 * ALIGNMENT) == 0 or count >= 16 * ALIGNMENT)
    return width + ALIGNMENT // size if crowded else width


def spaced(shape: tuple[int, int, int], dtype: np.dtype[Any]) -> Array:
    """Zeros in rows that begin on cache lines and are padded to whole ones, as far apart as `pitch` says."""
    *outer, width = shape
    size = dtype.itemsize
    room = aligned((*outer, pitch(padded(width, ALIGNMENT // size), size)), dtype)
    room.fill(0)
    return room[..., :width]
