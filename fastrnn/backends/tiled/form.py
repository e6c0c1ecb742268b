"""The form of packs: what all packs of one layer and direction have in common, whatever the values of the weights.

Where everything stands in rows and packed weights, and all tables that follow from it. Made once; a pack is made after
each change of the weights.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from fastrnn.backends.contract import Array
from fastrnn.backends.tiled import frame as f
from fastrnn.backends.tiled.frame import state_field
from fastrnn.backends.tiled.native import KernelOf, Native
from fastrnn.backends.tiled.packing import SHORT, Block, Copies, Matrix, Packing
from fastrnn.backends.tiled.program import Program
from fastrnn.backends.tiled.room import ALIGNMENT, padded, pitch
from fastrnn.backends.tiled.stage import TileStage
from fastrnn.equations import Sizes
from fastrnn.plan import Place, Product, Stage
from fastrnn.record import lazy
from fastrnn.reuse import address

if TYPE_CHECKING:
    from fastrnn.backends.tiled.parts import WeightPart
    from fastrnn.backends.tiled.whole import WholeBackward

ONES = {size: np.ones(1, f"f{size}") for size in (4, 8)}  # by the bytes of a value
CHUNK_BYTES = 256 * 1024  # of projected input at once: about what stays in the second cache beside the weights
CHUNK_ROWS = 48  # but at least so many rows, for the weights to be worth reading
# For weights of more bytes than a core's share of the caches may hold, so many rows, by vector registers: processors
# with 16 have smaller second caches.
FAR = {32: (8 << 20, 256), 16: (2 << 20, 512)}
PIECE = 2e9  # multiply-adds between two checkpoints: some tens of milliseconds, so that Ctrl-C answers soon


class Form:
    """Of a program, sizes, and the names of the parameters that there are.

    Attributes
    ----------
    weight_count, input_count : int
        Multiply-adds of one row step, and those of its input products alone.
    state_strides, kept_stride, gradient_stride : list of int, int, int
        Bytes from one row to the next, of each state, and of what forward keeps and backward writes.
    state_bytes, states_slack : int
        Bytes of a row of all states, and what it takes to begin the table of each on a cache line.
    kept_offsets, gradient_offsets : list of int
        Where in these rows each column begins, and how wide they are, in values.
    most_rows : int
        Row steps between two checkpoints.
    frame_size : int
        Of a frame, in fields.
    """

    def __init__(self, native: Native, program: Program, sizes: Sizes, names: Sequence[str]) -> None:
        self.native = native
        self.program, self.plan, self.sizes, self.dtype = program, program.plan, sizes, program.dtype
        cell, size = self.plan.cell, self.dtype.itemsize
        every = cell.parameter_shapes(sizes)
        self.shapes = {name: every[name] for name in names}
        counts = {name: shape[0] * shape[1] for name, shape in self.shapes.items() if len(shape) == 2}
        self.input_count, self.weight_count = counts["weight_ih"], sum(counts.values())
        self._numbers = {name: number for number, name in enumerate(names)}
        self._pads = {width: padded(sizes.width(width), program.lanes) for width in "HP"}
        self.state_strides = [pitch(self._pads[w], size) * size for w in cell.state_widths]
        self.state_bytes, self.states_slack = sum(self.state_strides), ALIGNMENT * (len(self.state_strides) + 1)
        self.kept_offsets = self._offsets(self.plan.kept_widths)
        self.gradient_offsets = self._offsets(self.plan.gradient_widths)
        self.kept_stride, self.gradient_stride = (
            pitch(offsets[-1], size) * size for offsets in (self.kept_offsets, self.gradient_offsets)
        )
        self.frame_size = program.layout.size
        self.most_rows = max(1, int(PIECE / max(self.weight_count, 1)))
        self.state_fields = [state_field(k, 0) for k in range(len(cell.states))]

    def _offsets(self, widths: tuple[str, ...]) -> list[int]:
        """Where each column begins in a row, and the row's width, in values."""
        offsets = [0]
        for width in widths:
            offsets.append(offsets[-1] + self._pads[width])
        return offsets

    # The frames of scans ----------------------------------------------------------------------------------------------

    @lazy
    def forward(self) -> Packing:
        """The frame of a forward scan."""
        copies = Copies(self.program.target, self.dtype)
        return self._packing(self._forward_frame(copies), copies)

    @lazy
    def backward(self) -> Packing:
        """The frame of a backward scan: with the transposed weights, and without the others."""
        copies = Copies(self.program.target, self.dtype)
        return self._packing(self._backward_frame(copies), copies)

    @lazy
    def both(self) -> Packing | None:
        """The two one after the other; None where there is so much to copy that nothing is won by that."""
        if 2 * self.weight_count * self.dtype.itemsize >= SHORT:
            return None
        copies = Copies(self.program.target, self.dtype)
        forward = self._forward_frame(copies)
        copies.first_field = self.frame_size
        return self._packing(np.concatenate([forward, self._backward_frame(copies)]), copies)

    def _forward_frame(self, copies: Copies) -> Array:
        frame = self._frame()
        frame[f.KERNEL], frame[f.PROGRAM] = self.native.forward(self.program)
        frame[f.CHUNK] = self._chunk_rows(int(frame[f.PROJECTED_STRIDE]))
        copies.add_products(f.INPUT_WEIGHTS, [self._matrix("weight_ih")], self.program.input)
        copies.add_vectors(f.BIAS, [self._numbers.get("bias")], self.shapes["weight_ih"][0], self._written_input())
        self._add_stages(copies, self.plan.forward, self.program.forward)
        self._add_cell_vectors(copies)
        return frame

    def _backward_frame(self, copies: Copies) -> Array:
        layout, size, frame = self.program.layout, self.dtype.itemsize, self._frame()
        frame[f.KERNEL], frame[f.PROGRAM] = self.native.backward(self.program)
        frame[f.RECORD] = 1
        frame[f.CHUNK] = self._chunk_rows(int(frame[f.GRADIENT_STRIDE]))
        self._add_stages(copies, self.plan.backward, self.program.backward)
        self._add_stages(copies, self.plan.finish, self.program.finish)
        inputs = [self._matrix("weight_ih", transposed=True)]
        copies.add_products(f.INPUT_GRADIENT_WEIGHTS, inputs, self.program.input_gradient)
        self._add_cell_vectors(copies)
        for index, column in enumerate(self.plan.input_columns):
            frame[layout.input_segments + index] = self.gradient_offsets[column] * size
        for product in layout.products():
            if id(product) in layout.segments:
                for index, (_, column) in enumerate(product.rows):
                    frame[layout.segments[id(product)] + index] = self.gradient_offsets[column] * size
        return frame

    def _packing(self, frame: Array, copies: Copies) -> Packing:
        return Packing(frame, copies, self.native, self.dtype, len(self.shapes))

    def _frame(self) -> Array:
        """A frame with what both kinds of scans need of sizes and strides."""
        cell, sizes, size = self.plan.cell, self.sizes, self.dtype.itemsize
        frame = np.zeros(self.frame_size, np.int64)
        frame[f.INPUT], frame[f.HIDDEN_SIZE], frame[f.PROJ_SIZE] = sizes.input_size, sizes.hidden_size, sizes.proj_size
        frame[f.PADDED_H], frame[f.PADDED_P] = self._pads["H"], self._pads["P"]
        frame[f.KEPT_STRIDE], frame[f.GRADIENT_STRIDE] = self.kept_stride, self.gradient_stride
        frame[f.VECTOR_STRIDE] = self._pads["H"] * size
        frame[f.STATES], frame[f.HALVES] = len(cell.states), self.native.halves
        frame[f.SCRATCH_BYTES] = 2 * sum(self.state_strides) + self.kept_stride
        frame[f.X_BYTES], frame[f.Y_BYTES] = size * sizes.input_size, size * sizes.width(cell.state_widths[0])
        for k, width in enumerate(cell.state_widths):
            frame[state_field(k, f.STATE_STRIDE)] = frame[state_field(k, f.ADJOINT_STRIDE)] = self.state_strides[k]
            frame[state_field(k, f.STATE_BYTES)] = sizes.width(width) * size
        # Blocks are written whole, and a gate is read in whole vectors, both beyond their ends.
        values = self.shapes["weight_ih"][0]
        room = padded(max(self._written_input(), values - sizes.hidden_size + self._pads["H"]), self.program.lanes)
        frame[f.FLAT_INPUT], frame[f.PROJECTED_STRIDE] = values, pitch(room, size) * size
        return frame

    def _written_input(self) -> int:
        """How many values of a projected input are written: all gates' as one flat product, a gate after the other."""
        return padded(self.shapes["weight_ih"][0], self.program.input.vectors * self.program.lanes)

    def _chunk_rows(self, row_bytes: int) -> int:
        """How many rows of time and batch to project at once, where each of them takes so many bytes."""
        far_bytes, far_rows = FAR[self.program.target.registers]
        far = self.input_count * self.dtype.itemsize > far_bytes
        return max(far_rows if far else CHUNK_ROWS, CHUNK_BYTES // row_bytes)

    def _add_cell_vectors(self, copies: Copies) -> None:
        vectors = [self._numbers.get(name) for name in self.plan.cell.vectors]
        copies.add_vectors(f.VECTORS, vectors or [None], self.sizes.hidden_size, self._pads["H"])

    def _add_stages(self, copies: Copies, stages: tuple[Stage, ...], tiles: list[TileStage]) -> None:
        for stage, tile in zip(stages, tiles, strict=True):
            for product in stage.products:
                copies.add_products(self.program.layout.weights[id(product)], self._matrices(product), tile)

    def _matrices(self, product: Product) -> list[Matrix]:
        """The weights of a product, one matrix a sum; transposed, and the gates in one sum, going backward."""
        blocks = [self._block(name) for name in product.names]
        if product.rows[0][0] == "gradient":
            return [Matrix(blocks, transposed=True)]
        return [Matrix([block]) for block in blocks]

    def _block(self, gate: str | None) -> Block:
        """The (H, width of h) recurrent weights of a gate, or the projection's."""
        if gate is None:
            return self._matrix("weight_hr").blocks[0]
        whole, hidden = self._matrix("weight_hh").blocks[0], self.sizes.hidden_size
        return whole._replace(row=self.plan.cell.recurrent_gates.index(gate) * hidden, rows=hidden)

    def _matrix(self, name: str, transposed: bool = False) -> Matrix:
        """All of a weight."""
        return Matrix([Block(self._numbers[name], 0, *self.shapes[name])], transposed)

    # The gradients of the weights -------------------------------------------------------------------------------------

    @lazy
    def outer(self) -> KernelOf:
        """The product of the weight gradients."""
        return self.native.weight_gradient(self.dtype)

    @lazy
    def operand_widths(self) -> dict[Place, int]:
        """What products multiply, x first: by its place how many bytes a row has of it."""
        from fastrnn.backends.tiled.parts import X

        plan, sizes = self.plan, self.sizes
        places = {"state": plan.cell.state_widths, "kept": plan.kept_widths}
        found: dict[Place, int] = {X: sizes.input_size}
        found |= {place: sizes.width(places[place[0]][place[1]]) for place in plan.operands.values()}
        return {place: width * self.dtype.itemsize for place, width in found.items()}

    @lazy
    def weight_parts(self) -> list[WeightPart]:
        """What the weight gradients are computed in."""
        from fastrnn.backends.tiled.parts import merged, parts_of  # only training needs them

        return list(merged(parts_of(self)))

    @lazy
    def gradient_calls(self) -> tuple[Array, Array]:
        """Frames and ranges of the products for `weight_parts`, and last of the one for the sums of vectors.

        What a call brings is zero in them; of the gates' gradients and of the weight's gradient they have how far into
        these the product begins.
        """
        size, parts = self.dtype.itemsize, self.weight_parts
        frames, ranges = np.zeros((len(parts) + 1, f.SHORT_SIZE), np.int64), np.zeros((len(parts) + 1, 4), np.int64)
        frames[:, f.KERNEL], frames[:, f.PROGRAM] = self.outer
        for frame, part in zip(frames, parts, strict=False):
            frame[f.OUTER_A], frame[f.OUTER_A_STRIDE] = part.column * size, self.gradient_stride
            frame[f.OUTER_INTO], frame[f.OUTER_INTO_STRIDE] = part.row * part.width * size, part.width * size
            frame[f.OUTER_WIDTH] = part.width
            frame[f.OUTER_GATE_ROWS], frame[f.OUTER_GAP] = part.gate_rows if part.gap else part.rows, part.gap * size
        sums = frames[-1]
        sums[f.OUTER_A] = address(ONES[self.dtype.itemsize])
        sums[f.OUTER_INTO_STRIDE] = self.gradient_stride
        sums[f.OUTER_WIDTH] = self.gradient_stride // size
        sums[f.OUTER_GATE_ROWS] = 1
        ranges[:, 1] = [*[part.rows for part in parts], 1]
        return frames, ranges

    @lazy
    def whole(self) -> WholeBackward:
        """Backward scans over whole sequences."""
        from fastrnn.backends.tiled.whole import WholeBackward

        return WholeBackward(self)
