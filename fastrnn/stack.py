"""Layers one upon the other, with dropout between them. Arrays are (T, B, ...), states (L*D, B, S)."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import numpy as np

from fastrnn.backends.contract import Array, Rows, States
from fastrnn.layer import Layer
from fastrnn.parameters import Packs
from fastrnn.record import Record
from fastrnn.threads import renew_after_fork


class StackTape(Record):
    """What `Stack.record` keeps: the tapes of each layer's directions, and what was dropped between the layers."""

    rows: Rows
    tapes: tuple[list[Any], ...]
    masks: tuple[Array | None, ...]  # of each layer's input: True where it is kept


class Stack:
    """The layers of one model. It holds no parameters: packs come with every call."""

    def __init__(self, layers: list[Layer], dropout: float, seed: int | None) -> None:
        self.layers, self.dropout, self._seed = layers, dropout, seed
        self.directions = layers[0].directions
        self.output_size = self.directions * layers[0].output_size
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
        layers = [layer for layer in self.layers for _ in range(self.directions)]
        return {
            full: layer.shapes[name]
            for layer, names in zip(layers, self.names, strict=True)
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
        layers = [layer for layer in self.layers for _ in range(self.directions)]
        return tuple(
            layer.pack({name: values[full] for name, full in names.items()})
            for layer, names in zip(layers, self.names, strict=True)
        )

    def forward(self, packs: Packs, rows: Rows, x: Array, y: Array, state: States, final: States) -> None:
        """Run all layers. y is (T, B, D*O), or (B, D*O) for the last valid output of each row only."""
        for index, layer in enumerate(self.layers[:-1]):
            out = np.empty((rows.steps, rows.batch, self.output_size), layer.dtype)
            layer.forward(packs, rows, x, out, state, final, index * self.directions)
            x = out
        last = self.layers[-1]
        forward = last.forward if y.ndim == 3 else last.last
        forward(packs, rows, x, y, state, final, len(packs) - self.directions)

    def record(self, packs: Packs, rows: Rows, x: Array, y: Array, state: States, final: States) -> StackTape:
        """As `forward` with a whole y, with dropout. x must not change as long as the tape is in use."""
        tapes, masks = [], []
        for index, layer in enumerate(self.layers):
            top = index == len(self.layers) - 1
            out = y if top else np.zeros((rows.steps, rows.batch, self.output_size), layer.dtype)
            mask = self._mask(x.shape) if index else None
            self._drop(x, mask)
            masks.append(mask)
            tapes.append(layer.record(packs, rows, x, out, state, final, index * self.directions))
            x = out
        return StackTape(rows, tuple(tapes), tuple(masks))

    def backward(self, tape: StackTape, dy: Array, dstate: States) -> tuple[Array, dict[str, Array]]:
        """The gradients of x and the parameters. ``dstate`` changes in place, from the final states' to the first's."""
        gradients: dict[str, Array] = {}
        for index in reversed(range(len(self.layers))):
            layer, base = self.layers[index], index * self.directions
            into = [layer.empty_parameters() for _ in range(self.directions)]
            dy = layer.backward(tape.tapes[index], tape.rows, dy, dstate, into, base)
            self._drop(dy, tape.masks[index])
            for names, arrays in zip(self.names[base : base + self.directions], into, strict=True):
                gradients.update({full: arrays[name] for name, full in names.items()})
        return dy, {name: gradients[name] for names in self.names for name in names.values()}

    def _mask(self, shape: tuple[int, ...]) -> Array | None:
        """What to keep of a layer's input, drawn for padding too, so that it does not depend on the lengths."""
        if self.dropout == 0.0:
            return None
        with self._lock:
            return self._random().random(shape, dtype=np.float32) >= np.float32(self.dropout)

    def _drop(self, x: Array, mask: Array | None) -> None:
        """Zero what is not kept and scale the rest, in place, so that the mean stays."""
        if mask is not None:
            x *= mask
            x *= x.dtype.type(1.0 / (1.0 - self.dropout))
