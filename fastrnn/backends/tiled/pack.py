"""Packs: the weights of one layer and direction as the tile reads them, in the frame that every scan starts from."""

from __future__ import annotations

from collections.abc import Callable

from fastrnn.backends.contract import Array, Weights
from fastrnn.backends.tiled.form import Form
from fastrnn.backends.tiled.packing import Packing
from fastrnn.record import lazy


class TiledPack:
    """Weights packed as a form has it, each frame when it is first asked for: who only goes forward needs one."""

    def __init__(self, form: Form, packed: Callable[[Packing, Weights], Array], weights: Weights) -> None:
        self.form = form
        self._packed = packed  # makes memory that begins with a frame, which keeps it alive
        self._weights = weights  # in the order of the form's shapes

    def expect_training(self) -> None:
        """Pack both frames in one call, which takes less time, unless there is one already or there is much to copy."""
        own, both = self.__dict__, self.form.both
        if "frame" not in own and both is not None:
            memory, size = self._packed(both, self._weights), self.form.frame_size
            # One that another thread has packed meanwhile stays: copies of it do not keep its weights alive, this does.
            own.setdefault("frame", memory[:size])
            own.setdefault("training_frame", memory[size : 2 * size])

    @lazy
    def frame(self) -> Array:
        """The frame of a forward scan."""
        return self._packed(self.form.forward, self._weights)[: self.form.frame_size]

    @lazy
    def training_frame(self) -> Array:
        """The frame of a backward scan."""
        return self._packed(self.form.backward, self._weights)[: self.form.frame_size]
