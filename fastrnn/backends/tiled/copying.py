"""Packing by several threads, where there is much to copy, and in pieces."""

from __future__ import annotations

from time import perf_counter

import numpy as np

from fastrnn.backends.contract import Array
from fastrnn.backends.tiled import worth
from fastrnn.backends.tiled.box import NOBODY
from fastrnn.backends.tiled.crew import Crew
from fastrnn.backends.tiled.packing import Packing
from fastrnn.threads import checkpoint

PIECES = 4  # for each thread, of copies that several share
PIECE_BYTES = 1 << 27  # between two checkpoints


def copy_by_threads(helpers: Crew, packing: Packing, frame: Array, threads: int) -> None:
    """Make the copies of a packing, given their frame, on as many threads as that is worth."""
    work, before = worth.WORK_OF_A_BYTE * packing.nbytes, helpers.last
    members = helpers.size(threads, work, worth.WORTH_BINDING)
    if members == 1:
        helpers.last = before  # nobody was called: the scan that follows begins after a pause, if there was one
    boxes = NOBODY if members == 1 else helpers.boxes(members - 1)
    together = 1 if members == 1 else PIECES * members
    pieces = -(-packing.nbytes // PIECE_BYTES)
    ranges, frames = packing.ranges(together * pieces), np.repeat(frame[None], together, 0)
    for first in range(0, len(ranges), together):
        if members > 1:
            helpers.gather(members - 1, work / pieces)
        helpers.seen(helpers.native.run_list(boxes, frames, ranges[first : first + together], members))
        checkpoint()
    if members > 1:
        helpers.last = perf_counter()
