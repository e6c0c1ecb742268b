"""Recording with checkpoints: a tape of the states every k steps, and backward through one piece of k steps at a time.

Forward runs piece after piece and keeps the states before each. Backward takes the pieces from the last to the first:
it runs a piece's forward again, recording this time, goes back over it, adds its share to the parameters' gradients,
and lets the piece's tape go. Cutting time changes no bits, and the backends add up the shares in an order that does not
depend on the cuts (`contract.Backend.sums`), so the gradients are those of a whole tape, to the bit where a backend has
it so.

What stays is x, which for a layer above the first is the output of the one below: with two directions it cannot be
computed anew piece by piece, and in none is it more than a small part of what a whole tape keeps.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from fastrnn.backends.contract import Array, Rows, States, Weights, each
from fastrnn.layer import Layer, repeated
from fastrnn.parameters import Packs
from fastrnn.record import Record
from fastrnn.threads import get_num_threads


class Checkpoints(Record):
    """The tape of one layer and direction: its input, and the states before every ``every``-th step, from step 0 on.

    A step is counted as the direction takes it: in reverse, step 0 of a row is its last one.
    """

    pack: Any
    rows: Rows
    x: Array
    reverse: bool
    every: int
    states: list[States]

    @property
    def nbytes(self) -> int:
        """See `contract.Tape`."""
        return sum(state.nbytes for states in self.states for state in states)

    def piece(self, index: int) -> Piece:
        """The steps from the checkpoint ``index`` to the next one."""
        start = index * self.every
        return Piece(self.rows, start, min(start + self.every, self.rows.longest), self.reverse)


class Piece:
    """Some steps of a scan, as a forward scan of its own: ``rows``, and where arrays over time hold these steps."""

    def __init__(self, rows: Rows, start: int, stop: int, reverse: bool) -> None:
        self.rows = rows.piece(start, stop)
        longest = rows.longest
        self._times: tuple[slice, slice] | None = slice(start, stop), slice(None)
        if reverse and rows.even:
            self._times = slice(longest - stop, longest - start), slice(None, None, -1)
        elif reverse:  # each row has its own times
            lengths = np.empty(rows.batch, np.int64)
            lengths[rows.order] = rows.lengths
            self._times, self._of_rows = None, lengths - 1 - np.arange(start, stop)[:, None]

    def take(self, x: Array) -> Array:
        """These steps of (T, B, width): a view where they stand side by side, else a copy."""
        if self._times is not None:
            steps, order = self._times
            return x[steps][order]
        taken: Array = x[np.maximum(self._of_rows, 0), np.arange(self.rows.batch)]  # past a row's end any, never read
        return taken

    def room(self, y: Array) -> Array:
        """Where to write these steps of (T, B, width); `put` takes them to their places."""
        return self.take(y) if self._times is not None else np.empty((self.rows.steps, *y.shape[1:]), y.dtype)

    def put(self, room: Array, y: Array) -> None:
        """Copy the valid steps from ``room`` to ``y``, if they are not there already."""
        if self._times is None:
            step, row = np.nonzero(self._of_rows >= 0)
            y[self._of_rows[step, row], row] = room[step, row]


def record(
    layer: Layer, packs: Packs, rows: Rows, x: Array, y: Array, state: States | None, final: States, base: int,
    every: int,
) -> list[Checkpoints]:  # fmt: skip
    """As `Layer.record`, keeping the states before every ``every``-th step only."""
    rows.clear(y)  # pieces are of steps that some row has; in reverse, each row has its own times, and they are copied
    tapes = []
    for direction in range(layer.directions):
        begin, like = each(state, base + direction), each(final, base + direction)
        first = tuple([np.zeros_like(s) for s in like] if begin is None else [np.array(s) for s in begin])
        tapes.append(Checkpoints(packs[base + direction], rows, x, direction == 1, every, [first]))
    for index in range(-(-rows.longest // every)):
        parts, rooms = [], []
        for direction, tape in enumerate(tapes):
            piece, begin, out = tape.piece(index), tape.states[-1], layer.of(y, direction)
            end = tuple([np.empty_like(s) for s in begin])
            rooms.append((piece, piece.room(out), out))
            parts.append(layer.backend.forward(tape.pack, piece.rows, piece.take(x), rooms[-1][1], begin, end, False))
            tape.states.append(end)
        layer.backend.run(parts, piece.rows, get_num_threads())
        for piece, room, out in rooms:
            piece.put(room, out)
    for direction, tape in enumerate(tapes):
        for whole, last in zip(each(final, base + direction), tape.states.pop(), strict=True):
            whole[...] = last
    return tapes


def backward(
    layer: Layer,
    tapes: Sequence[Checkpoints],
    dy: Array,
    dstate: States,
    into: Sequence[Weights],
    base: int,
) -> Array:
    """As `Layer.backward`, from the tapes of `record`."""
    rows = tapes[0].rows
    dxs = [layer.room(rows, layer.sizes.input_size) for _ in tapes]
    for dx in dxs:
        rows.clear(dx)
    sums = [layer.backend.sums(tape.pack, own, rows.total) for tape, own in zip(tapes, into, strict=True)]
    for index in reversed(range(len(tapes[0].states))):
        pieces = [tape.piece(index) for tape in tapes]
        recorded = _recorded(layer, tapes, pieces, index)
        parts, rooms = [], []
        for direction, (piece, tape, dx) in enumerate(zip(pieces, recorded, dxs, strict=True)):
            ends, room, out = each(dstate, base + direction), piece.room(dx), piece.take(layer.of(dy, direction))
            parts.append(layer.backend.backward(tape, out, ends, room, ends, sums[direction]))
            rooms.append(room)
        layer.backend.run(parts, pieces[0].rows, get_num_threads())
        for piece, room, dx in zip(pieces, rooms, dxs, strict=True):
            piece.put(room, dx)
    return layer.total(dxs)


def _recorded(layer: Layer, tapes: Sequence[Checkpoints], pieces: Sequence[Piece], index: int) -> list[Any]:
    """The whole tapes of a piece, from a forward scan that begins at its checkpoint."""
    backend, recorded, parts = layer.backend, [], []
    for tape, piece in zip(tapes, pieces, strict=True):
        x, begin = piece.take(tape.x), tape.states[index]
        recorded.append(backend.tape(tape.pack, piece.rows, x, False))
        unread = repeated(np.empty((piece.rows.batch, layer.output_size), layer.dtype), piece.rows.steps)
        end = tuple([np.empty_like(s) for s in begin])
        parts.append(backend.forward(tape.pack, piece.rows, x, unread, begin, end, False, recorded[-1]))
    layer.backend.run(parts, pieces[0].rows, get_num_threads())
    return recorded
