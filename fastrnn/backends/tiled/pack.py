"""Packs: the weights of one layer and direction as the tile reads them, in the frame that every scan starts from."""

from __future__ import annotations

from collections.abc import Callable

from fastrnn.backends.contract import Array
from fastrnn.backends.tiled.form import Form
from fastrnn.backends.tiled.packing import Packing
from fastrnn.record import lazy

Weights = tuple[Array, ...]


class TiledPack:
    """Weights of one form. Each frame is packed when it is first asked for: who only goes forward needs one."""

    def __init__(self, form: Form, packed: Callable[[Packing, Weights], Array], weights: Weights) -> None:
        self.form, self.plan, self.sizes, self.dtype = form, form.plan, form.sizes, form.dtype
        self._packed = packed  # makes a frame, which holds the memory of its packed weights
        self._weights = weights  # in the order of the form's shapes

    @lazy
    def frame(self) -> Array:
        """The frame of a forward scan."""
        return self._packed(self.form.forward, self._weights)

    @lazy
    def training_frame(self) -> Array:
        """The frame of a backward scan."""
        return self._packed(self.form.backward, self._weights)
