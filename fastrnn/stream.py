"""A session: the state of some sequences that go on from call to call.

A step is the layer's own scan over one time step, on buffers that are made once.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from fastrnn import checks
from fastrnn.backends.contract import HELD, TURN, TURN_FIELDS, Array, States
from fastrnn.layout import plain_rows
from fastrnn.threads import renew_after_fork

if TYPE_CHECKING:
    from numpy.typing import ArrayLike

    from fastrnn.recurrent import Recurrent


class Stream:
    """A session of a layer, made by `Recurrent.stream`.

    Each call goes on where the last one ended; a changed parameter counts from the next call on. After an error the
    state is what it was before the call; but a signal that comes within a step of 2 us or less is handled after it.
    Calls from several threads come one after the other. A copy is a session of its own, of the same layer, that goes on
    from the same state; a deep copy and a pickle have their own layer, too.

    Attributes
    ----------
    layer : Recurrent
    batch_size : int
        B, how many sequences go side by side.

    Examples
    --------
    >>> import numpy as np, fastrnn
    >>> stream = fastrnn.GRU(80, 12).stream()
    >>> stream.step(np.zeros(80)).shape
    (12,)
    """

    _lock: threading.Lock

    def __init__(self, layer: Recurrent, batch_size: int = 1) -> None:
        if layer.bidirectional:
            raise ValueError(
                "stream: expected a layer with one direction, got bidirectional=True: the reverse direction begins at "
                "the end and needs the whole sequence"
            )
        self.layer = layer
        self.batch_size = batch_size = checks.size("batch_size", batch_size, most=1 << 31)
        self._backend = layer._stack.layers[0].backend
        self._store = layer._store
        self._packs: Any = ()  # those that the steps are made for; none yet
        self._rows = plain_rows(1, batch_size)
        # A step goes from the states that hold to the other ones, so that nothing is ever half done.
        self._states = (self._room(), self._room())
        self._turns = np.zeros(TURN_FIELDS, np.int64)
        self._hold = _Hold(self._turns)
        renew_after_fork(self, threading.Lock)
        self._dtype = layer.dtype
        self._shapes: dict[tuple[int, ...], tuple[int, ...]] = {  # of x and of the y that it gets
            (batch_size, layer.input_size): (batch_size, layer._width)
        }
        if batch_size == 1:
            self._shapes[layer.input_size,] = (layer._width,)
        self._steps: Any = None
        self._atomic: Callable[[Any, Any], int] | None = None  # the step, if nothing can come in between

    def step(self, x: ArrayLike, out: Array | None = None) -> Array:
        """One time step of every sequence.

        Parameters
        ----------
        x : array_like, shape (B, I), or (I,) with one sequence
        out : ndarray, shape (B, D*H), or (D*H,) with one sequence
            Where to write y, of the layer's dtype; with it, nothing is allocated. It may be `x` itself.

        Returns
        -------
        y : ndarray, shape (B, H), or (H,) for an x of (I,)
            `out` if it is given.

        Raises
        ------
        TypeError, ValueError
            For a wrong shape or dtype; the state is then left as it was.
        """
        if out is None and type(x) is np.ndarray and x.dtype is self._dtype and x.shape in self._shapes:
            out = np.empty(self._shapes[x.shape], self._dtype)
        if self._packs is self._store.current:
            atomic = self._atomic
            if atomic is not None and atomic(x, out):  # it looks at what they are
                return out  # type: ignore[return-value]  # None is not what a step can write to
        with self._lock:
            if self._packs is not self._store.current:
                self._bind(self._store.packs())
            found = self._steps.run(x, out)
            if not found and self._turns[HELD]:  # an interrupt or a fork has left it set: who has the lock is here
                self._turns[HELD] = 0
                found = self._steps.run(x, out)
        if found:
            return out  # type: ignore[return-value]
        return self._step_of_copies(x, out)

    def _step_of_copies(self, x: ArrayLike, out: Array | None) -> Array:
        """A step from and to what kernels cannot use as it is; what they can never use is an error."""
        x = np.array(checks.array("x", x, self._dtype), order="C", ndmin=1)
        shape = self._shapes.get(x.shape)
        if shape is None:
            raise ValueError(f"x: expected {' or '.join(map(str, self._shapes))}, got {x.shape}")
        if out is None:
            return self.step(x)
        self._check_out(out, shape)
        out[...] = self.step(x)
        return out

    def chunk(self, x: ArrayLike, out: Array | None = None) -> Array:
        """Some time steps of every sequence; the same as one step after the other.

        Parameters
        ----------
        x : array_like, shape (T, B, I), with batch_first (B, T, I); or (T, I) with one sequence
        out : ndarray, in the shape of y
            Where to write y, of the layer's dtype. It may be `x` itself.

        Returns
        -------
        y : ndarray, shape (T, B, H), laid out as x
            `out` if it is given.

        Raises
        ------
        TypeError, ValueError
            For a wrong shape or dtype; the state is then left as it was.
        """
        layer = self.layer
        xt, batched = layer._layout.input(x)
        steps, batch = xt.shape[:2]
        if batch != self.batch_size:
            raise ValueError(f"x: expected B = {self.batch_size} sequences, as the stream has, got {batch}")
        shape, _ = layer._layout.shape(steps, batch, layer._width, batched)
        if out is not None:
            self._check_out(out, shape)
        rows = plain_rows(steps, batch)
        y, yt = layer._layout.output(rows, layer._width, batched)
        with self._lock, self._hold as turn:
            state, final = self._states[turn], self._states[1 - turn]
            layer._stack.forward(self._store.packs(), rows, xt, yt, state, final)
            if out is not None:
                out[...] = y
            self._turns[TURN] = 1 - turn
        return y if out is None else out

    @property
    def state(self) -> Any:
        """A copy of the state, as the layer returns it: (L, B, S) each."""
        with self._lock, self._hold as turn:
            states = tuple(array.copy() for array in self._states[turn])
        return self.layer._states.present(states, True)

    def reset(self, state: Any = None) -> None:
        """Set the state.

        Parameters
        ----------
        state : array_like or tuple of array_like, (L, B, S) each; or (L, S) with one sequence
            In the form of `Stream.state`, or as a call without a batch returns it. None for zeros.

        Raises
        ------
        TypeError, ValueError
            For a wrong form or shape; the state is then left as it was.
        """
        layout = self.layer._states
        if state is None:
            new = layout.zeros(self.batch_size)
        else:
            batched = self.batch_size != 1 or not layout.lacks_batch(state)
            new = layout.read("state", state, self.batch_size, batched)
        with self._lock, self._hold as turn:
            for array, values in zip(self._states[1 - turn], new, strict=True):
                array[...] = values
            self._turns[TURN] = 1 - turn

    def __getstate__(self) -> dict[str, Any]:
        """What copying and pickling take: the layer, the state, and nothing that goes on with this session."""
        own = {name: value for name, value in self.__dict__.items() if name not in _MADE}
        return own | {"state": self.state}

    def __setstate__(self, state: dict[str, Any]) -> None:
        own = dict(state)
        values = own.pop("state")
        Stream.__init__(self, own.pop("layer"), own.pop("batch_size"))
        self.__dict__.update(own)
        self.reset(values)

    def __repr__(self) -> str:
        return f"<Stream of {self.batch_size} sequences of {self.layer!r}>"

    def _room(self) -> States:
        """Room for the states, zero, as the backend's steps like it."""
        layout, backend = self.layer._states, self._backend
        return tuple([backend.state_room((layout.count, self.batch_size, w), layout.dtype) for w in layout.widths])

    def _bind(self, packs: Any) -> None:
        """Make steps with these weights ready."""
        if packs is self._packs:
            return
        self._steps = self._backend.steps(packs, self._rows, self._states, self._turns)
        self._atomic = self._steps.run if self._steps.atomic and _one_at_a_time() else None
        self._packs = packs  # the last: from now on others may take a step at once

    def _check_out(self, out: object, shape: tuple[int, ...]) -> None:
        if not isinstance(out, np.ndarray):
            raise TypeError(f"out: expected an array of shape {shape}, got {checks.described(out)}")
        if out.shape != shape or out.dtype != self.layer.dtype:
            expected = f"an array of shape {shape}, dtype {self.layer.dtype}"
            raise ValueError(f"out: expected {expected}, got {checks.described(out)}")
        if not out.flags.writeable:
            raise ValueError("out: expected an array that can be written, got a read-only one")


_MADE = frozenset(  # by the constructor, again in each copy; what else a session has is its users' own
    {"_backend", "_store", "_packs", "_rows", "_states", "_turns", "_hold", "_lock", "_dtype", "_shapes", "_steps",
     "_atomic"}
)  # fmt: skip


class _Hold:
    """``with hold as turn``: keeps atomic steps, which take no lock, away from the states. For who has the lock."""

    def __init__(self, turns: Array) -> None:
        self._turns = turns

    def __enter__(self) -> int:
        self._turns[HELD] = 1
        return int(self._turns[TURN])

    def __exit__(self, *_: object) -> None:
        self._turns[HELD] = 0


def _one_at_a_time() -> bool:
    """Whether threads hold the interpreter's lock while they use it; some builds of Python have none."""
    return bool(getattr(sys, "_is_gil_enabled", lambda: True)())
