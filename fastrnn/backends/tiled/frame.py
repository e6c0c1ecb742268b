"""The frame: where a kernel finds its buffers. One C-contiguous int64 array of addresses, strides and sizes.

Kernels take one frame in place of dozens of arguments, so that every call has the same signature (one compilation a
cell) and costs the same little. Addresses and strides are in bytes. A *place* of the plan (`plan.Place`) is an address
at the current time step, a row stride, and for the tape and the gradients the offset of a column.
"""

from __future__ import annotations

from fastrnn.graph import HIDDEN
from fastrnn.plan import Place, Plan, Product

# Sizes, in values: exact, and padded to whole vectors. Past the last unit of a row there may be any values.
INPUT, HIDDEN_SIZE, PROJ_SIZE, PADDED_H, PADDED_P = range(5)
# Whether forward keeps everything that backward needs, or only what its own later stages need.
RECORD = 5
# The caller's arrays over time and batch, each with these two strides, and tables of byte offsets into them.
X, X_STEP, X_ROW, Y, Y_STEP, Y_ROW, DY, DY_STEP, DY_ROW, DX, DX_STEP, DX_ROW = range(6, 18)
X_OFFSETS, Y_OFFSETS, DY_OFFSETS, DX_OFFSETS = range(18, 22)
# Rows with a fixed stride: base, current address, stride.
PROJECTED_INPUT, PROJECTED_STRIDE, BIAS, VECTORS, VECTOR_STRIDE = range(22, 27)
KEPT_BASE, KEPT, KEPT_STRIDE, GRADIENT_BASE, GRADIENT, GRADIENT_STRIDE, GRADIENT_AFTER, GRADIENT_OFFSETS = range(27, 35)
# Weights in blocks, and in the field after that their tail: see `packing`.
INPUT_WEIGHTS, INPUT_WEIGHTS_OF_TAIL, INPUT_GRADIENT_WEIGHTS, INPUT_GRADIENT_WEIGHTS_OF_TAIL = range(35, 39)
FLAT_INPUT, CHUNK, STATES, REVERSE = range(39, 43)
# The rows of the call: addresses of the tables of `contract.Rows`, and their sizes, as its `table` has them.
ORDER, LENGTHS, ACTIVE, BASE, BATCH, LONGEST, STEPS = range(43, 50)
TABLE_SIZE = STEPS + 1 - ORDER
# Room for what a forward scan needs besides (0: the kernel makes its own; see `Native.room`), the bytes of it that the
# states and kept values of a row need, and how many rows apart the two buffers of a state are.
SCRATCH, SCRATCH_BYTES, SPAN = range(50, 53)
# The compiled scan that this frame is for: its address and its first argument. See `native`.
KERNEL, PROGRAM = range(53, 55)
# Threads that share every stage, see `loops` (0 or 1: none do), which of them this frame is for, and the address where
# each of them counts, `COUNTER_BYTES` apart, the stages that it is through with and then how often it waited for long.
TEAM, MEMBER, COUNTERS = range(55, 58)
NO_MEMORY = -1  # what a kernel writes in place of the team if it finds no memory, and what its callers return
# The bytes of a row of x and of y at one time step. Where lengths differ, from so many on they are fetched before they
# are needed: to ask for shorter ones takes longer than to wait for them.
X_BYTES, Y_BYTES = range(58, 60)
LEAST_FETCHED = 256
# Whether the processor takes vectors of 64 bytes in two halves: see `target.Target.left_out`.
HALVES = 60
# Whether the states before and after are the caller's own rows, in a call of one time step: then nothing is copied, and
# a team does not meet after the last stage, since whoever called waits for all of it.
IN_PLACE = 61
FIRST_STATE = 62  # from here on, for each state, the caller's arrays with their rows' stride:
STATE_BASE, STATE_STRIDE, STATE_IN, STATE_OUT, ADJOINT_BASE, ADJOINT_STRIDE, ADJOINT = range(7)
STATE_INITIAL, STATE_INITIAL_ROW, STATE_FINAL, STATE_FINAL_ROW = range(7, 11)
ADJOINT_INITIAL, ADJOINT_INITIAL_ROW, ADJOINT_FINAL, ADJOINT_FINAL_ROW, STATE_BYTES = range(11, 16)
STATE_FIELDS = 16
# The frame of a weight gradient, which has the fields above in common with the others: see `outer.emit_outer`.
# Of a gate it has so many rows, which are columns of a, and after these come the bytes of a gap: see `outer`.
OUTER_A, OUTER_A_STRIDE, OUTER_B, OUTER_B_OFFSETS, OUTER_COUNT, OUTER_INTO, OUTER_INTO_STRIDE, OUTER_WIDTH = range(8)
OUTER_GATE_ROWS, OUTER_GAP = range(8, 10)
SHORT_SIZE = FIRST_STATE  # of this frame and the next one, which have no states
# The frame of the copies that pack weights: addresses of their list, of the weights' addresses, and of the memory.
COPIES, COPY_SOURCES, COPY_MEMORY = range(3)
# Of each copy: of which weight, and from where in it; how many units, in how many lanes (the others get zeros), and how
# far apart the units' values are; how many values each unit has, and how far apart these are; where it goes in the
# memory, and how far apart the values of each unit are there. All steps are in bytes; where the units' is not that of
# values, the values of a unit stand side by side.
COPY_WEIGHT, COPY_BEGIN, COPY_UNITS, COPY_LANES, COPY_UNIT_STEP, COPY_DEPTH, COPY_DEPTH_STEP = range(7)
COPY_INTO, COPY_INTO_STEP = range(7, 9)
COPY_FIELDS = 9
# So many cache lines of a unit, and so many rows, are fetched before they are copied or written: they are far apart,
# and the processor does not see in which order they come. It halves the time of a pack that no cache holds.
COPY_LINES_AHEAD, COPY_ROWS_AHEAD = 4, 32
# What a single step of a stack is called with, made once: the address of its frames (turns, layers, members, size),
# the last three of these sizes, the address and number of the boxes of those who may help, the address of whose turn it
# is (`contract.TURN`), and what x and y have to be: the address of the type of arrays, the number of their dtype, their
# rows, and the widths of x and of y.
STEP_FRAMES, STEP_LAYERS, STEP_MEMBERS, STEP_SIZE, STEP_BOXES, STEP_BOX_COUNT, STEP_TURNS = range(7)
STEP_ARRAY, STEP_DTYPE, STEP_ROWS, STEP_INPUTS, STEP_OUTPUTS = range(7, 12)
STEP_FIELDS = 12
# What `whole.WholeBackward.tables` has of the products of a whole scan's weight gradients. What they multiply with
# the gates' gradients: x, the states before the steps, kept values, or these gradients themselves; which state it is,
# how far into a row they begin, and how far apart rows are, both in bytes.
OF_X, OF_STATE, OF_KEPT, OF_GRADIENT = range(4)
OPERAND_KIND, OPERAND_STATE, OPERAND_OFFSET, OPERAND_STRIDE = range(4)
OPERAND_FIELDS = 4
# Of each product: which of these, and of which weight's gradient (-1: of the sums of all rows) which rows.
PRODUCT_OPERAND, PRODUCT_WEIGHT, PRODUCT_LOW, PRODUCT_HIGH = range(4)
PRODUCT_FIELDS = 4
# The parts of the sums, in bytes: where each begins, to which weight's gradient it goes, where to in it, and its size.
PART_FROM, PART_WEIGHT, PART_INTO, PART_BYTES = range(4)
PART_FIELDS = 4
COUNTER_BYTES = 128  # two cache lines, since processors fetch lines in pairs
MOST_MEMBERS = 64
WAITS = 256  # a team returns how many they were, and so many times how often they waited for long, some 10 us each


class Layout:
    """The frame of one plan: the fields that follow the states, and where each place's columns begin."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._next = FIRST_STATE + STATE_FIELDS * len(plan.cell.states)
        self.input_segments = self._take(len(plan.input_columns))
        # By a product's id the field of its packed weights, before that of their tail, and its first segment's field.
        self.weights: dict[int, int] = {}
        self.segments: dict[int, int] = {}
        for product in self.products():
            self.weights[id(product)] = self._take(2)
            if product.rows[0][0] == "gradient":
                self.segments[id(product)] = self._take(len(product.rows))
        self.size = self._next

    def _take(self, count: int) -> int:
        self._next += count
        return self._next - count

    def products(self) -> list[Product]:
        """All products of forward, backward and finish."""
        plan = self.plan
        return [p for stages in (plan.forward, plan.backward, plan.finish) for s in stages for p in s.products]

    def column(self, place: Place) -> tuple[int, int]:
        """How many hidden and how many projected widths stand before a column of the tape or of the gradients."""
        kind, index = place
        widths = self.plan.kept_widths if kind == "kept" else self.plan.gradient_widths
        hidden = sum(width == HIDDEN for width in widths[:index])
        return hidden, index - hidden


def state_field(k: int, field: int) -> int:
    """The place in the frame of a field of state k."""
    return FIRST_STATE + STATE_FIELDS * k + field
