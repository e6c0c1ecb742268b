"""Packs: the weights of one layer and direction as the tile reads them, in the frame that every scan starts from."""

from __future__ import annotations

from collections.abc import Callable

from fastrnn.backends.contract import Array, Parameters
from fastrnn.backends.tiled.form import Form
from fastrnn.backends.tiled.packing import Packing
from fastrnn.record import lazy


class TiledPack:
    """Parameters of one form. Each frame is packed when it is first asked for: who only goes forward needs one."""

    def __init__(self, form: Form, packed: Callable[[Packing, Parameters], Array], weights: Parameters) -> None:
        self.form = form
        self._packed = packed  # makes memory that begins with a frame, which keeps it alive
        self._weights = weights  # in the order of the form's shapes

    def expect_training(self) -> None:
        """Pack both frames in one call, which takes less time, unless there is one already or there is much to copy."""
        if "frame" not in self.__dict__ and self.form.both.short:
            memory, size, own = self._packed(self.form.both, self._weights), self.form.frame_size, self.__dict__
            own["frame"], own["training_frame"] = memory[:size], memory[size : 2 * size]

    @lazy
    def frame(self) -> Array:
        """The frame of a forward scan."""
        return self._packed(self.form.forward, self._weights)[: self.form.frame_size]

    @lazy
    def training_frame(self) -> Array:
        """The frame of a backward scan."""
        return self._packed(self.form.backward, self._weights)[: self.form.frame_size]
