"""What a machine's vectors look like, and the tile's shape that suits them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

UNDER_WAY = 8  # vectors of sums at once hide the latency of each


class Target(NamedTuple):
    """Bytes of a vector register, how many of them there are, and whether they multiply and add in one operation."""

    vector_bytes: int
    registers: int
    fma: bool

    def lanes(self, dtype: np.dtype[Any]) -> int:
        """Values in one vector."""
        return self.vector_bytes // dtype.itemsize

    @property
    def sums(self) -> int:
        """Vectors of sums in registers at once.

        With 32 registers 24 of them accumulate, with 16 registers 12, which leaves room for 3 rows' values and one of
        the weights; 9 where products need a register before they are added. More than that spills (measured).
        """
        return 24 if self.registers == 32 else 12 if self.fma else 9

    def heights(self, vectors: int) -> tuple[int, ...]:
        """How many rows a tile of so many vectors a row takes at once: the tallest first, then down to one.

        Three rows at once, since two and one would read the weights once more, for few sums: of three to fifteen rows
        that takes up to 16 % longer on a Zen 4, with weights in the second cache. Processors without fused
        multiply-adds do without: what they get is there to be right, and not to be large.
        """
        tallest = max(1, min(self.sums // vectors, 8))
        return (tallest, *(h for h in (4, 3, 2, 1) if h < tallest and (h != 3 or self.fma)))

    def panel(self, columns: int) -> int:
        """How many of a block's columns stand beside each other in memory, for each k: all, or two where registers are
        few.

        Of 12 sums in 16 registers two columns by six rows read the fewest bytes. Four columns leave three rows, which
        read the weights so often that the second cache cannot keep up: 21 bytes a cycle on a Zen 3, of the 27 that it
        reads when it does nothing else; two take 11.
        """
        return 2 if self.registers == 16 and columns > 3 and columns % 2 == 0 else columns

    def tile_heights(self, columns: Sequence[int]) -> tuple[int, ...]:
        """`heights` of a tile with so many columns of each product."""
        widest = max(map(self.panel, columns))
        if self.registers == 32 or max(columns) == widest:
            return self.heights(sum(columns))
        return tuple(sorted({*self.heights(widest), *self.heights(max(columns))}, reverse=True))

    def parts(self, height: int, columns: int, span: int) -> list[range]:
        """The columns that a tile of so many rows and blocks takes one after the other: as many panels at once as there
        are registers for, and about as many each time."""
        width = self.panel(columns)
        panels = columns // width
        count = -(-panels // max(1, self.sums // (height * width * span)))
        return [range(width * (panels * i // count), width * (panels * (i + 1) // count)) for i in range(count)]

    def left_out(self, vectors: int) -> int:
        """Which of the `heights` is left out where the processor takes vectors of 64 bytes in two halves; 0: none.

        At the end of a chain (see `chains`), or of a tile, all sums are stored. On a Zen 4 sixteen stores of 64 bytes
        pass unnoticed; twenty hold up what follows for some 80 cycles, 5 % of a chain's time. Tiles of twelve sums gain
        nothing.
        """
        tallest, *rest = self.heights(vectors)
        wide = self.vector_bytes == 64
        return tallest if wide and tallest * vectors > 16 and rest and rest[0] * vectors == 16 else 0
