"""What goes from `record` to `backward`, and what comes out of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from fastrnn.backends.contract import Array
from fastrnn.stack import StackTape

if TYPE_CHECKING:
    from fastrnn.recurrent import Recurrent


@dataclass(frozen=True, eq=False)
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
    _stack: StackTape
    _batched: bool
    _sequence: bool

    @property
    def nbytes(self) -> int:
        return self._stack.nbytes

    def __repr__(self) -> str:
        rows = self._stack.rows
        return f"<Tape of {rows.batch} rows, {rows.total} steps in all, of {self.layer!r}>"


@dataclass(frozen=True, eq=False)
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
