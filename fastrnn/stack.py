"""Layers one upon the other, with dropout between them. Arrays are (T, B, ...), states (L*D, B, S)."""

from __future__ import annotations

import threading
from math import prod
from typing import Any

import numpy as np

from fastrnn import checkpoints, reuse
from fastrnn.backends.contract import Array, Rows, States, Weights
from fastrnn.layer import Layer
from fastrnn.parameters import Packs
from fastrnn.threads import renew_after_fork

Masks = dict[int, tuple[Array, float]]  # by the layer: True where dropout keeps its input, and the share it drops
CHUNK_BYTES = 1 << 22  # of what is held between two layers: hundreds of steps but for wide layers and large batches


class Stack:
    """The layers of one model. It holds no parameters: packs come with every call."""

    _lock: threading.RLock  # of the generator; a signal's handler may ask for its state

    def __init__(self, layers: list[Layer], dropout: float, seed: int | None) -> None:
        self.layers, self.dropout, self._seed = layers, dropout, seed
        self.directions = layers[0].directions
        self.output_size = self.directions * layers[0].output_size
        self.shapes: dict[str, tuple[int, ...]] = {}  # of all parameters, by their full names
        self._parts: list[tuple[Layer, slice]] = []  # of each direction its layer, and which parameters are its own
        for index, layer in enumerate(layers):
            for suffix in ("", "_reverse")[: self.directions]:
                begin = len(self.shapes)
                self.shapes |= {f"{name}_l{index}{suffix}": shape for name, shape in layer.shapes.items()}
                self._parts.append((layer, slice(begin, len(self.shapes))))
        self.dtype = layers[0].dtype
        self._new = reuse.maker(max(map(prod, self.shapes.values())))
        self._generator: np.random.Generator | None = None
        renew_after_fork(self, threading.RLock)

    def _random(self) -> np.random.Generator:
        """What the dropout draws from. Made when it is needed: `numpy.random` takes milliseconds to import."""
        if self._generator is None:
            entropy = None if self._seed is None else [self._seed, 1]
            self._generator = np.random.Generator(np.random.PCG64(entropy))
        return self._generator

    @property
    def dropout_state(self) -> Any:
        """Where the random numbers of the dropout have got to; None if there never was any."""
        if self.dropout == 0.0 and self._generator is None:
            return None
        with self._lock:
            return self._random().bit_generator.state

    @dropout_state.setter
    def dropout_state(self, state: Any) -> None:
        if state is not None:
            with self._lock:
                self._random().bit_generator.state = state

    def packs(self, values: Weights) -> Packs:
        """The packs of all layers and directions, of all parameters in the order of `shapes`."""
        return tuple([layer.pack(values[own]) for layer, own in self._parts])

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
    ) -> tuple[list[list[Any]], Masks]:  # fmt: skip
        """As `forward` with a whole y, with dropout. x must not change as long as the tapes are in use.

        It returns for each layer the tapes of its directions, with ``every`` checkpoints (`fastrnn.checkpoints`), and
        the masks of the layers' inputs.
        """
        tapes: list[list[Any]] = []
        masks: Masks = {}
        dropout = self.dropout  # it may be set meanwhile
        for index, layer in enumerate(self.layers):
            if index and dropout:
                masks[index] = self._mask(x.shape, dropout), dropout
                self._drop(x, *masks[index])
            out = y if layer is self.layers[-1] else layer.room(rows, self.output_size)
            arguments = packs, rows, x, out, state, final, index * self.directions
            tapes.append(layer.record(*arguments) if every is None else checkpoints.record(layer, *arguments, every))
            x = out
        return tapes, masks

    def backward(
        self, tapes: list[list[Any]], masks: Masks, rows: Rows, dy: Array, dstate: States, checkpointed: bool
    ) -> tuple[Array, dict[str, Array]]:
        """The gradients of x and the parameters. ``dstate`` changes in place, from the final states' to the first's."""
        new, dtype = self._new, self.dtype
        gradients = {name: new(shape, dtype) for name, shape in self.shapes.items()}
        into = tuple(gradients.values())
        for index in range(len(self.layers) - 1, -1, -1):
            layer, base = self.layers[index], index * self.directions
            own = [into[part] for _, part in self._parts[base : base + self.directions]]
            if checkpointed:
                dy = checkpoints.backward(layer, tapes[index], dy, dstate, own, base)
            else:
                dy = layer.backward(tapes[index], rows, dy, dstate, own, base)
            if index in masks:
                self._drop(dy, *masks[index])
        return dy, gradients

    def _mask(self, shape: tuple[int, ...], dropout: float) -> Array:
        """What to keep of a layer's input, drawn for padding too, so that it does not depend on the lengths."""
        with self._lock:
            return self._random().random(shape, dtype=np.float32) >= np.float32(dropout)

    def _drop(self, x: Array, mask: Array, dropout: float) -> None:
        """Zero what is not kept and scale the rest, in place, so that the mean stays."""
        with np.errstate(all="ignore"):
            x *= mask
            x *= x.dtype.type(1.0 / (1.0 - dropout))
