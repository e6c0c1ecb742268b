"""Packs: the weights as the tile reads them, and the frame that every call of a layer starts from."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from fastrnn.backends.contract import Array
from fastrnn.backends.tiled import frame as f
from fastrnn.backends.tiled.frame import state_field
from fastrnn.backends.tiled.native import KernelOf, Native
from fastrnn.backends.tiled.program import Program
from fastrnn.backends.tiled.stage import TileStage
from fastrnn.backends.tiled.tail import tail_vectors
from fastrnn.backends.tiled.target import Target
from fastrnn.equations import Sizes
from fastrnn.plan import Place, Product, Stage
from fastrnn.record import lazy
from fastrnn.reuse import address, held

if TYPE_CHECKING:
    from fastrnn.backends.tiled.parts import WeightPart
    from fastrnn.backends.tiled.whole import WholeBackward

ONES = {size: np.ones(1, f"f{size}") for size in (4, 8)}  # by the bytes of a value
ALIGNMENT = 64  # bytes: a cache line, and the longest vector
CHUNK_BYTES = 256 * 1024  # of projected input at once: about what stays in the second cache beside the weights
CHUNK_ROWS = 48  # but at least so many rows, for the weights to be worth reading
# For weights of more bytes than a core's share of the caches may hold, so many rows, by vector registers: processors
# with 16 have smaller second caches.
FAR = {32: (8 << 20, 256), 16: (2 << 20, 512)}
PIECE = 2e9  # multiply-adds between two checkpoints: some tens of milliseconds, so that Ctrl-C answers soon


def aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    """An uninitialised array that begins at a multiple of `ALIGNMENT`."""
    size = math.prod(shape) * dtype.itemsize
    raw = np.empty(size + ALIGNMENT, np.uint8)
    skip = -address(raw) % ALIGNMENT
    return raw[skip : skip + size].view(dtype).reshape(shape)


class Room:
    """Memory that one call needs, and the next one again (`fastrnn.reuse`): tables of so many bytes, known by address.

    Attributes
    ----------
    at : list of int
        Where each table begins: at multiples of `ALIGNMENT`.
    nbytes : int
        Of all tables.
    """

    def __init__(self, *sizes: int) -> None:
        self.nbytes = sum(sizes)
        self._held = held(self.nbytes + ALIGNMENT * len(sizes))
        begin = self._held.address
        self.at = []
        for size in sizes:
            self.at.append(begin)
            begin += padded(size, ALIGNMENT)

    @lazy
    def places(self) -> Array:
        """The same for compiled code."""
        return np.array(self.at, np.int64)


def padded(count: int, block: int) -> int:
    """``count`` rounded up to a multiple of ``block``."""
    return -(-count // block) * block


def pitch(width: int, size: int) -> int:
    """How many values apart to put rows of ``width`` values of ``size`` bytes.

    Rows a multiple of eight cache lines apart share few sets of a cache and drive each other out: one line more helps.
    """
    crowded = width * size % (8 * ALIGNMENT) == 0
    return width + ALIGNMENT // size if crowded else width


def spaced(shape: tuple[int, int, int], dtype: np.dtype[Any]) -> Array:
    """Zeros in rows that begin on cache lines and are padded to whole ones, as far apart as `pitch` says."""
    *outer, width = shape
    size = dtype.itemsize
    room = aligned((*outer, pitch(padded(width, ALIGNMENT // size), size)), dtype)
    room.fill(0)
    return room[..., :width]


def pack_matrices(matrices: list[Array], stage: TileStage, target: Target, dtype: np.dtype[Any]) -> tuple[Array, Array]:
    """(blocks, tail): (units, K) matrices, one a sum, as the stage's tiles read them.

    Both are flat, and zero where there is no unit. In blocks, [block][panel][k][column][lane] (see `tile`), there are
    all units, and those of the tail once more as [vector][k][lane] (see `tail`).
    """
    (units, depth), lanes, sums = matrices[0].shape, target.lanes(dtype), len(matrices)
    of_block = stage.vectors * lanes
    full = units - units % of_block
    rest = padded(units - full, lanes if stage.vectors == 2 else of_block)
    blocks = aligned((depth * sums * (full + rest),), dtype)
    _pack_blocks(blocks[: depth * sums * full], [matrix[:full] for matrix in matrices], stage.vectors, target)
    if rest:
        last = [_with_zeros([matrix[full:]], rest, dtype) for matrix in matrices]
        _pack_blocks(blocks[depth * sums * full :], last, rest // lanes, target)
    left = [matrix[stage.blocks_before_tail(units, lanes) * of_block :] for matrix in matrices]
    dense = _with_zeros(left, tail_vectors(sums, len(left[0]), lanes) * lanes, dtype)
    tail = aligned((dense.size,), dtype)
    tail.reshape(-1, depth, lanes)[:] = dense.reshape(-1, lanes, depth).transpose(0, 2, 1)
    return blocks, tail


def _with_zeros(matrices: list[Array], rows: int, dtype: np.dtype[Any]) -> Array:
    """One below the other, and below them zeros up to so many rows."""
    found = np.zeros((rows, matrices[0].shape[1]), dtype)
    np.concatenate(matrices, out=found[: sum(map(len, matrices))])
    return found


def _pack_blocks(into: Array, matrices: list[Array], vectors: int, target: Target) -> None:
    """Whole blocks of so many vectors."""
    depth, lanes, columns = matrices[0].shape[1], target.lanes(into.dtype), len(matrices) * vectors
    width = target.panel(columns)
    together = math.gcd(width, vectors)
    panels = into.reshape(-1, columns // width, depth, width, lanes)
    for s, matrix in enumerate(matrices):
        blocks = matrix.reshape(-1, vectors, lanes, depth)
        for v in range(0, vectors, together):
            panel, column = divmod(s * vectors + v, width)
            panels[:, panel, :, column : column + together] = blocks[:, v : v + together].transpose(0, 3, 1, 2)


class TiledPack:
    """The weights of one layer and direction. What only training needs is packed when it is first asked for."""

    def __init__(self, native: Native, program: Program, parameters: Mapping[str, Array], sizes: Sizes) -> None:
        self.native = native
        self.program, self.plan, self.sizes, self.dtype = program, program.plan, sizes, program.dtype
        cell, hidden = self.plan.cell, sizes.hidden_size
        self.weights = {name: np.array(value, self.dtype) for name, value in parameters.items()}
        self.input_count = self.weights["weight_ih"].size
        self.weight_count = sum(value.size for value in self.weights.values() if value.ndim == 2)
        self._pads = {width: padded(sizes.width(width), program.lanes) for width in "HP"}
        size = self.dtype.itemsize
        self.state_strides = [pitch(self._pads[w], size) * size for w in cell.state_widths]
        self.kept_offsets = self._offsets(self.plan.kept_widths)
        self.gradient_offsets = self._offsets(self.plan.gradient_widths)
        self.kept_stride, self.gradient_stride = (
            pitch(offsets[-1], size) * size for offsets in (self.kept_offsets, self.gradient_offsets)
        )
        self._held: list[Array] = []
        self.most_rows = max(1, int(PIECE / max(self.weight_count, 1)))  # row steps between two checkpoints
        self.state_fields = [state_field(k, 0) for k in range(len(cell.states))]
        self._weights_frame = self._frame(hidden)

    def _offsets(self, widths: tuple[str, ...]) -> list[int]:
        """Where each column begins in a row, and the row's width, in values."""
        offsets = [0]
        for width in widths:
            offsets.append(offsets[-1] + self._pads[width])
        return offsets

    def _chunk_rows(self, row_bytes: int) -> int:
        """How many rows of time and batch to project at once, where each of them takes so many bytes."""
        far_bytes, far_rows = FAR[self.program.target.registers]
        far = self.weights["weight_ih"].nbytes > far_bytes
        return max(far_rows if far else CHUNK_ROWS, CHUNK_BYTES // row_bytes)

    def _place(self, frame: Array, field: int, array: Array) -> None:
        self._held.append(array)
        frame[field] = address(array)

    def _frame(self, hidden: int) -> Array:
        cell, sizes, size = self.plan.cell, self.sizes, self.dtype.itemsize
        frame = np.zeros(self.program.layout.size, np.int64)
        frame[f.INPUT], frame[f.HIDDEN_SIZE], frame[f.PROJ_SIZE] = sizes.input_size, hidden, sizes.proj_size
        frame[f.PADDED_H], frame[f.PADDED_P] = self._pads["H"], self._pads["P"]
        frame[f.KEPT_STRIDE], frame[f.GRADIENT_STRIDE] = self.kept_stride, self.gradient_stride
        frame[f.VECTOR_STRIDE] = self._pads["H"] * size
        frame[f.STATES], frame[f.HALVES] = len(cell.states), self.native.halves
        frame[f.SCRATCH_BYTES] = 2 * sum(self.state_strides) + self.kept_stride
        frame[f.X_BYTES], frame[f.Y_BYTES] = size * sizes.input_size, size * sizes.width(cell.state_widths[0])
        for k, width in enumerate(cell.state_widths):
            frame[state_field(k, f.STATE_STRIDE)] = frame[state_field(k, f.ADJOINT_STRIDE)] = self.state_strides[k]
            frame[state_field(k, f.STATE_BYTES)] = sizes.width(width) * size
        self._pack_input(frame)
        frame[f.CHUNK] = self._chunk_rows(int(frame[f.PROJECTED_STRIDE]))
        self._pack_stages(frame, self.plan.forward, self.program.forward)
        vectors = aligned((max(len(cell.vectors), 1), self._pads["H"]), self.dtype)
        vectors[...] = 0
        flat = vectors.reshape(-1)
        for index, name in enumerate(cell.vectors):
            if name in self.weights:
                flat[index * self._pads["H"] :][:hidden] = self.weights[name]
        self._place(frame, f.VECTORS, vectors)
        return frame

    def _pack_input(self, frame: Array) -> None:
        """All gates' input weights as one flat product, a gate after the other."""
        flat, size, lanes = self.weights["weight_ih"], self.dtype.itemsize, self.program.lanes
        values = len(flat)
        # Blocks are written whole, and a gate is read in whole vectors, both beyond their ends.
        written = padded(values, self.program.input.vectors * lanes)
        room = padded(max(written, values - self.sizes.hidden_size + self._pads["H"]), lanes)
        frame[f.FLAT_INPUT] = values
        frame[f.PROJECTED_STRIDE] = pitch(room, size) * size
        self._place_weights(frame, f.INPUT_WEIGHTS, [flat], self.program.input)
        bias = aligned((written,), self.dtype)
        bias[...] = 0
        if "bias" in self.weights:
            bias[:values] = self.weights["bias"]
        self._place(frame, f.BIAS, bias)

    def _pack_stages(self, frame: Array, stages: tuple[Stage, ...], tiles: list[TileStage]) -> None:
        for stage, tile in zip(stages, tiles, strict=True):
            for product in stage.products:
                self._place_weights(frame, self.program.layout.weights[id(product)], self._matrices(product), tile)

    def _place_weights(self, frame: Array, field: int, matrices: list[Array], tile: TileStage) -> None:
        for number, packed in enumerate(pack_matrices(matrices, tile, self.program.target, self.dtype)):
            self._place(frame, field + number, packed)

    def _gate(self, gate: str) -> Array:
        """The (H, width of h) recurrent weights of a gate."""
        index, hidden = self.plan.cell.recurrent_gates.index(gate), self.sizes.hidden_size
        return self.weights["weight_hh"][index * hidden : (index + 1) * hidden]

    def _matrices(self, product: Product) -> list[Array]:
        """The weights of a product as (units, K), one a sum; transposed, and the gates in one sum, going backward."""
        blocks = [self.weights["weight_hr"] if name is None else self._gate(name) for name in product.names]
        return [np.concatenate(blocks).T] if product.rows[0][0] == "gradient" else blocks

    @lazy
    def frame(self) -> Array:
        """The frame of a forward scan."""
        frame = self._weights_frame
        frame[f.KERNEL], frame[f.PROGRAM] = self.native.forward(self.program)
        return frame

    @lazy
    def run(self) -> Callable[..., int]:
        """A forward scan over whole sequences: see `Native.bound_run`."""
        return self.native.bound_run(self.frame)

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
        frames, ranges = np.zeros((len(parts) + 1, f.OUTER_SIZE), np.int64), np.zeros((len(parts) + 1, 4), np.int64)
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

    @lazy
    def training_frame(self) -> Array:
        """The frame of a backward scan, with the transposed weights."""
        frame, layout, size = self._weights_frame.copy(), self.program.layout, self.dtype.itemsize
        frame[f.KERNEL], frame[f.PROGRAM] = self.native.backward(self.program)
        frame[f.RECORD] = 1
        frame[f.CHUNK] = self._chunk_rows(int(frame[f.GRADIENT_STRIDE]))
        self._pack_stages(frame, self.plan.backward, self.program.backward)
        self._pack_stages(frame, self.plan.finish, self.program.finish)
        matrices = [self.weights["weight_ih"].T]
        self._place_weights(frame, f.INPUT_GRADIENT_WEIGHTS, matrices, self.program.input_gradient)
        for index, column in enumerate(self.plan.input_columns):
            frame[layout.input_segments + index] = self.gradient_offsets[column] * size
        for product in layout.products():
            if id(product) in layout.segments:
                for index, (_, column) in enumerate(product.rows):
                    frame[layout.segments[id(product)] + index] = self.gradient_offsets[column] * size
        return frame
