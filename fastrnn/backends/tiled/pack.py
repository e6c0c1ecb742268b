"""Packs: the weights of one layer and direction as the tile reads them, in the frame that every scan starts from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from fastrnn.backends.contract import Array
from fastrnn.backends.tiled.form import Form
from fastrnn.backends.tiled.packing import Packing
from fastrnn.record import lazy


class TiledPack:
    """Weights of one form. Each frame is packed when it is first asked for: what only goes forward needs one of them.

    Attributes
    ----------
    backs : dict
        By the number of threads, what `WholeBackward` runs.
    """

    def __init__(self, form: Form, parameters: Mapping[str, Array]) -> None:
        self.form, self.plan, self.sizes, self.dtype = form, form.plan, form.sizes, form.dtype
        self.backs: dict[int, tuple[Callable[..., int], int]] = {}
        self._weights = [np.ascontiguousarray(parameters[name], form.dtype) for name in form.shapes]
        self._held: list[Any] = []

    def _packed(self, packing: Packing) -> Array:
        frame, memory = packing.pack(self.form.native, self.form.copying, self._weights)
        self._held.append(memory)
        return frame

    @lazy
    def frame(self) -> Array:
        """The frame of a forward scan."""
        return self._packed(self.form.forward)

    @lazy
    def run(self) -> Callable[..., int]:
        """A forward scan over whole sequences: see `Native.bound_run`."""
        return self.form.native.bound_run(self.frame)

    @lazy
    def training_frame(self) -> Array:
        """The frame of a backward scan."""
        return self._packed(self.form.backward)
