"""From the caller's axes to (T, B, ...) and back: batch_first and unbatched arrays are views, never copies."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from fastrnn import checks, reuse
from fastrnn.backends.contract import Array, Rows


class Layout:
    """How one layer's callers lay out a batch of sequences."""

    def __init__(self, input_size: int, batch_first: bool, dtype: np.dtype[Any]) -> None:
        self.input_size, self.batch_first, self.dtype = input_size, batch_first, dtype

    def input(self, value: object, copy: bool = False) -> tuple[Array, bool]:
        """x as (T, B, I), and whether it came with a batch axis."""
        x = checks.array("x", value, self.dtype, copy)
        if x.ndim == 3 and x.shape[2] == self.input_size:
            return (x.transpose(1, 0, 2) if self.batch_first else x), True
        if x.ndim == 2 and x.shape[1] == self.input_size:
            return x[:, None, :], False
        axes = "(B, T" if self.batch_first else "(T, B"
        raise ValueError(f"x: expected {axes}, {self.input_size}) or (T, {self.input_size}), got {x.shape}")

    def output(self, rows: Rows, width: int, batched: bool) -> tuple[Array, Array]:
        """A new y as the caller sees it, not initialised, and the same memory as (T, B, width)."""
        if batched and not self.batch_first:  # the same, sooner: most short calls come here
            steps, batch = rows.steps, rows.batch
            y = reuse.maker(steps * batch * width)((steps, batch, width), self.dtype)
            return y, y
        shape, _ = self.shape(rows.steps, rows.batch, width, batched)
        y = reuse.empty(shape, self.dtype)
        return y, self.time_major(y, batched)

    def time_major(self, y: Array, batched: bool) -> Array:
        """An array laid out as the caller's y as (T, B, ...)."""
        if not batched:
            return y[:, None]
        return y.swapaxes(0, 1) if self.batch_first else y

    def shape(self, steps: int, batch: int, width: int, batched: bool) -> tuple[tuple[int, ...], str]:
        """The shape of the caller's y, and the names of its axes."""
        if not batched:
            return (steps, width), "(T, D*H)"
        return ((batch, steps, width), "(B, T, D*H)") if self.batch_first else ((steps, batch, width), "(T, B, D*H)")

    def last(self, rows: Rows, yt: Array, batched: bool) -> Array:
        """Each row's last valid output as the caller gets it; zeros for a row that has none."""
        found = np.zeros((rows.batch, yt.shape[2]), self.dtype)
        index = last_steps(rows)
        found[index[1]] = yt[index]
        return found if batched else found[0]

    def output_gradient(self, dy: object, rows: Rows, width: int, batched: bool, sequence: bool) -> Array:
        """The caller's dy, of all outputs or (not ``sequence``) the last ones, as (T, B, width); None is zeros."""
        if dy is None:
            return reuse.zeros((rows.steps, rows.batch, width), self.dtype)
        if sequence:
            shape, axes = self.shape(rows.steps, rows.batch, width, batched)
            return self.time_major(checks.shaped("dy", dy, self.dtype, shape, axes), batched)
        shape, axes = ((rows.batch, width), "(B, D*H)") if batched else ((width,), "(D*H,)")
        last = checks.shaped("dy", dy, self.dtype, shape, axes).reshape(rows.batch, width)
        dyt = reuse.zeros((rows.steps, rows.batch, width), self.dtype)
        index = last_steps(rows)
        dyt[index] = last[index[1]]
        return dyt

    def input_gradient(self, dxt: Array, batched: bool) -> Array:
        """The gradient of x, (T, B, I), as the caller gets it."""
        if not batched:
            return dxt[:, 0]
        return np.ascontiguousarray(dxt.swapaxes(0, 1)) if self.batch_first else dxt


def plain_rows(steps: int, batch: int) -> Rows:
    """The rows of a batch whose steps are all valid; they are kept, for they are the same in every call."""
    return _plain_rows(steps, batch) if steps + batch < 1 << 16 else Rows.of(steps, batch)


_plain_rows = lru_cache(maxsize=64)(Rows.of)


def last_steps(rows: Rows) -> tuple[Array, Array]:
    """(t, b) of the last valid step of each row that has one."""
    count = int(np.count_nonzero(rows.lengths))
    return rows.lengths[:count] - 1, rows.order[:count]


class StateLayout:
    """The states of a layer as its callers see them: one array, or a tuple of several, (L*D, B, S) each."""

    def __init__(self, names: tuple[str, ...], widths: tuple[int, ...], count: int, dtype: np.dtype[Any]) -> None:
        self.names, self.widths, self.count, self.dtype = names, widths, count, dtype

    def zeros(self, batch: int) -> tuple[Array, ...]:
        """New states, all zero."""
        widths = self.widths
        if len(widths) == 1:  # written out, as in `empty`
            return (np.zeros((self.count, batch, widths[0]), self.dtype),)
        return tuple([np.zeros((self.count, batch, width), self.dtype) for width in widths])

    def empty(self, batch: int) -> tuple[Array, ...]:
        """New states to be written."""
        widths = self.widths
        if len(widths) == 1:  # written out, as every call comes here: a comprehension takes twice as long
            return (np.empty((self.count, batch, widths[0]), self.dtype),)
        if len(widths) == 2:
            h, c = widths
            return np.empty((self.count, batch, h), self.dtype), np.empty((self.count, batch, c), self.dtype)
        return tuple([np.empty((self.count, batch, width), self.dtype) for width in widths])

    def read(self, name: str, value: object, batch: int, batched: bool, copy: bool = False) -> tuple[Array, ...]:
        """The caller's states as C-contiguous (L*D, B, S) each; ``name`` is the argument's."""
        if len(self.names) == 1:
            labels, values = [name], [value]
        else:
            labels, values = [f"{name}, {state}" for state in self.names], self._several(name, value)
        states = []
        for label, array, width in zip(labels, values, self.widths, strict=True):
            shape = (self.count, batch, width) if batched else (self.count, width)
            axes = "(L*D, B, size)" if batched else "(L*D, size)"
            found = np.ascontiguousarray(checks.shaped(label, array, self.dtype, shape, axes, copy))
            states.append(found if batched else found[:, None])
        return tuple(states)

    def lacks_batch(self, value: object) -> bool:
        """Whether the caller's states, if they are any, have no batch axis: (L*D, S) each."""
        if len(self.names) > 1 and isinstance(value, (tuple, list)) and value:
            value = value[0]
        try:
            return np.ndim(value) == 2  # type: ignore[arg-type]
        except (TypeError, ValueError, RuntimeError, BufferError):
            return False  # no array: `read` says so

    def _several(self, name: str, value: object) -> list[object]:
        expected = f"a tuple ({', '.join(self.names)})"
        if not isinstance(value, (tuple, list)):
            raise TypeError(f"{name}: expected {expected}, got {checks.described(value)}")
        if len(value) != len(self.names):
            raise ValueError(f"{name}: expected {expected}, got {len(value)} values")
        return list(value)

    def present(self, states: tuple[Array, ...], batched: bool) -> Any:
        """States as the caller gets them."""
        if not batched:
            states = tuple([state[:, 0] for state in states])
        return states[0] if len(states) == 1 else states
