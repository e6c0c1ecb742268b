"""Packs: the weights of one layer and direction as the tile reads them, in the frame that every scan starts from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fastrnn.backends.contract import Array
from fastrnn.backends.tiled.form import Form
from fastrnn.backends.tiled.packing import Packing
from fastrnn.record import lazy
from fastrnn.reuse import address


class TiledPack:
    """Weights of one form. Each frame is packed when it is first asked for: who only goes forward needs one."""

    def __init__(self, form: Form, copy: Callable[[Packing, Array], None], parameters: Mapping[str, Array]) -> None:
        self.form, self.plan, self.sizes, self.dtype = form, form.plan, form.sizes, form.dtype
        self._copy = copy  # what makes the copies of a packing, given their frame
        self._weights = [np.ascontiguousarray(parameters[name], form.dtype) for name in form.shapes]
        self._sources = np.array([address(weight) for weight in self._weights], np.int64)

    @lazy
    def frame(self) -> Array:
        """The frame of a forward scan."""
        return self._forward[0]

    @lazy
    def training_frame(self) -> Array:
        """The frame of a backward scan."""
        return self._backward[0]

    # Each with what holds its packed weights.

    @lazy
    def _forward(self) -> tuple[Array, Any]:
        return self.form.forward.pack(self._sources, self._copy)

    @lazy
    def _backward(self) -> tuple[Array, Any]:
        return self.form.backward.pack(self._sources, self._copy)
