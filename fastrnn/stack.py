"""Layers one upon the other, with dropout between them. Arrays are (T, B, ...), states (L*D, B, S)."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from fastrnn import checkpoints, reuse
from fastrnn.backends.contract import Array, Rows, States
from fastrnn.layer import Layer
from fastrnn.parameters import Packs
from fastrnn.threads import renew_after_fork

CHUNK_BYTES = 1 << 22  # of what is held between two layers: hundreds of steps but for wide layers and large batches


class StackTape:
    """What `Stack.record` keeps: the tapes of each layer's directions, and what was dropped between the layers.

    Of each layer there are its input, the tapes of its directions, and a mask of the input: True where it is kept.
    """

    def __init__(
        self, rows: Rows, inputs: list[Array], tapes: list[list[Any]], masks: list[Array | None], checkpoints: bool
    ) -> None:
        self.rows, self.inputs, self.tapes, self.masks = rows, inputs, tapes, masks
        self.checkpoints = checkpoints

    @property
    def nbytes(self) -> int:
        """Bytes of all arrays, but for the packs."""
        arrays = [*self.inputs, *(mask for mask in self.masks if mask is not None)]
        kept: int = sum(tape.nbytes for tapes in self.tapes for tape in tapes)
        return kept + sum(array.nbytes for array in arrays)


class Stack:
    """The layers of one model. It holds no parameters: packs come with every call."""

    def __init__(self, layers: list[Layer], dropout: float, seed: int | None) -> None:
        self.layers, self.dropout, self._seed = layers, dropout, seed
        self.directions = layers[0].directions
        self.output_size = self.directions * layers[0].output_size
        self._each = [layer for layer in layers for _ in range(self.directions)]
        self.names = [
            {name: f"{name}_l{index}{suffix}" for name in layer.shapes}
            for index, layer in enumerate(layers)
            for suffix in ("", "_reverse")[: self.directions]
        ]
        self._generator: np.random.Generator | None = None
        self._lock = threading.Lock()  # of the generator
        renew_after_fork(self)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """The shapes of all parameters, by their full names, layer by layer."""
        return {
            full: layer.shapes[name]
            for layer, names in zip(self._each, self.names, strict=True)
            for name, full in names.items()
        }

    def _random(self) -> np.random.Generator:
        """What the dropout draws from. Made when it is needed: `numpy.random` takes milliseconds to import."""
        if self._generator is None:
            entropy = None if self._seed is None else [self._seed, 1]
            self._generator = np.random.Generator(np.random.PCG64(entropy))
        return self._generator

    @property
    def dropout_state(self) -> Any:
        """Where the random numbers of the dropout have got to; None without dropout."""
        if self.dropout == 0.0:
            return None
        with self._lock:
            return self._random().bit_generator.state

    @dropout_state.setter
    def dropout_state(self, state: Any) -> None:
        if state is not None:
            with self._lock:
                self._random().bit_generator.state = state

    def packs(self, values: Mapping[str, Array]) -> Packs:
        """The packs of all layers and directions."""
        return tuple(
            [
                layer.pack(tuple([values[full] for full in names.values()]))
                for layer, names in zip(self._each, self.names, strict=True)
            ]
        )

    def forward(self, packs: Packs, rows: Rows, x: Array, y: Array, state: States | None, final: States) -> None:
        """Run all layers. y is (T, B, D*O), or (B, D*O) for the last valid output of each row only.

        With one direction a chunk of time goes through all layers before the next one, so that what is between two
        layers is never held for all steps; a second direction begins at the end and needs them all. No ``state`` means
        zeros.
        """
        if len(packs) == 1 and y.ndim == 3:
            self.layers[0].forward(packs, rows, x, y, state, final, 0)
            return
        most = max(1, CHUNK_BYTES // max(1, rows.batch * self.output_size * x.itemsize))
        if len(packs) == 1 or self.directions == 2 or rows.longest <= most:
            self._forward(packs, rows, x, y, state, final)
            return
        for start in range(0, rows.steps, most):
            time = slice(start, min(start + most, rows.steps))
            piece = rows.piece(time.start, time.stop)
            self._forward(packs, piece, x[time], y[time] if y.ndim == 3 else y, state, final)
            state = final

    def _forward(self, packs: Packs, rows: Rows, x: Array, y: Array, state: States | None, final: States) -> None:
        """Run all layers over all steps."""
        for index, layer in enumerate(self.layers[:-1]):
            out = reuse.empty((rows.steps, rows.batch, self.output_size), layer.dtype)
            layer.forward(packs, rows, x, out, state, final, index * self.directions)
            x = out
        last = self.layers[-1]
        forward = last.forward if y.ndim == 3 else last.last
        forward(packs, rows, x, y, state, final, len(packs) - self.directions)

    def record(
        self, packs: Packs, rows: Rows, x: Array, y: Array, state: States | None, final: States,
        every: int | None = None,
    ) -> StackTape:  # fmt: skip
        """As `forward` with a whole y, with dropout. x must not change as long as the tape is in use.

        With ``every`` the tape keeps checkpoints, see `fastrnn.checkpoints`.
        """
        inputs, tapes, masks = [], [], []
        for index, layer in enumerate(self.layers):
            top = index == len(self.layers) - 1
            out = y if top else layer.room(rows, self.output_size)
            mask = self._mask(x.shape) if index else None
            self._drop(x, mask)
            masks.append(mask)
            inputs.append(x)
            arguments = packs, rows, x, out, state, final, index * self.directions
            tapes.append(layer.record(*arguments) if every is None else checkpoints.record(layer, *arguments, every))
            x = out
        return StackTape(rows, inputs, tapes, masks, every is not None)

    def backward(self, tape: StackTape, dy: Array, dstate: States) -> tuple[Array, dict[str, Array]]:
        """The gradients of x and the parameters. ``dstate`` changes in place, from the final states' to the first's."""
        found: list[dict[str, Array]] = []  # of each layer and direction
        for index in reversed(range(len(self.layers))):
            layer, base = self.layers[index], index * self.directions
            into = [layer.empty_parameters() for _ in range(self.directions)]
            if tape.checkpoints:
                dy = checkpoints.backward(layer, tape.tapes[index], dy, dstate, into, base)
            else:
                dy = layer.backward(tape.tapes[index], tape.rows, dy, dstate, into, base)
            self._drop(dy, tape.masks[index])
            found = into + found
        named = zip(self.names, found, strict=True)
        return dy, {full: arrays[name] for names, arrays in named for name, full in names.items()}

    def _mask(self, shape: tuple[int, ...]) -> Array | None:
        """What to keep of a layer's input, drawn for padding too, so that it does not depend on the lengths."""
        if self.dropout == 0.0:
            return None
        with self._lock:
            return self._random().random(shape, dtype=np.float32) >= np.float32(self.dropout)

    def _drop(self, x: Array, mask: Array | None) -> None:
        """Zero what is not kept and scale the rest, in place, so that the mean stays."""
        if mask is not None:
            with np.errstate(all="ignore"):
                x *= mask
                x *= x.dtype.type(1.0 / (1.0 - self.dropout))
