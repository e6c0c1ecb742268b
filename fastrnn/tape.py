"""What goes from `record` to `backward`, and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastrnn.backends.contract import Array, Rows

if TYPE_CHECKING:
    from fastrnn.recurrent import Recurrent
    from fastrnn.stack import Masks


@dataclass(frozen=True, eq=False, init=False)
class Tape:
    """What `Recurrent.record` keeps for `Recurrent.backward`. It holds copies: no later change can reach it.

    Attributes
    ----------
    layer : Recurrent
        The layer that recorded it; no other takes it.
    nbytes : int
        Bytes of memory that it holds, but for the layer's weights: x, the outputs of all layers but the last one, and
        what forward kept of each step, or at each checkpoint.
    """

    layer: Recurrent
    _rows: Rows
    _tapes: list[list[Any]]
    _masks: Masks
    _batched: bool
    _sequence: bool
    _checkpoints: bool

    def __init__(
        self, layer: Recurrent, _rows: Rows, _tapes: list[list[Any]], _masks: Masks, _batched: bool, _sequence: bool,
        _checkpoints: bool,
    ) -> None:  # fmt: skip
        """Of what `Stack.record` gave, and how it was called."""
        own = self.__dict__  # past what freezes it, in a third of the time of the generated way
        own["layer"], own["_rows"], own["_tapes"], own["_masks"] = layer, _rows, _tapes, _masks
        own["_batched"], own["_sequence"], own["_checkpoints"] = _batched, _sequence, _checkpoints

    @property
    def nbytes(self) -> int:
        inputs = sum(directions[0].x.nbytes for directions in self._tapes)
        kept = sum(tape.nbytes for directions in self._tapes for tape in directions)
        return int(inputs + kept + sum(mask.nbytes for mask, _ in self._masks.values()))

    def __repr__(self) -> str:
        return f"<Tape of {self._rows.batch} rows, {self._rows.total} steps in all, of {self.layer!r}>"


@dataclass(frozen=True, eq=False, init=False)
class Gradients:
    """The gradients of a loss, as `Recurrent.backward` returns them.

    Attributes
    ----------
    x : ndarray
        In the shape of x; zero past a row's end.
    state : ndarray or tuple of ndarray
        Of the initial state, shaped as the layer's state.
    parameters : dict of str to ndarray
        By the parameter's name, in its shape.
    """

    x: Array
    state: Any
    parameters: dict[str, Array]

    def __init__(self, x: Array, state: Any, parameters: dict[str, Array]) -> None:
        own = self.__dict__  # as above
        own["x"], own["state"], own["parameters"] = x, state, parameters
