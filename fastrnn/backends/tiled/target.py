"""What a machine's vectors look like, and the tile's shape that suits them."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np


class Target(NamedTuple):
    """Bytes of a vector register, how many of them there are, and whether they multiply and add in one operation."""

    vector_bytes: int
    registers: int
    fma: bool

    def lanes(self, dtype: np.dtype[Any]) -> int:
        """Values in one vector."""
        return self.vector_bytes // dtype.itemsize

    def heights(self, vectors: int) -> tuple[int, ...]:
        """How many rows a tile of so many vectors a row takes at once: the tallest first, then down to one.

        With 32 registers 24 of them accumulate, with 16 registers 12, which leaves room for 3 rows' values and one of
        the weights; 9 where products need a register before they are added. More than that spills (measured).
        """
        room = 24 if self.registers == 32 else 12 if self.fma else 9
        tallest = max(1, min(room // vectors, 8))
        return (tallest, *(h for h in (4, 2, 1) if h < tallest))

    def left_out(self, vectors: int) -> int:
        """Which of these heights is left out where the processor takes vectors of 64 bytes in two halves; 0: none.

        At the end of a chain (see `chains`), or of a tile, all sums are stored. On a Zen 4 sixteen stores of 64 bytes
        pass unnoticed; twenty hold up what follows for some 80 cycles, 5 % of a chain's time. Tiles of twelve sums gain
        nothing.
        """
        tallest, *rest = self.heights(vectors)
        wide = self.vector_bytes == 64
        return tallest if wide and tallest * vectors > 16 and rest and rest[0] * vectors == 16 else 0
