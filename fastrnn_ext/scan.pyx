# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The time loops and the way into them, as the extension has them: see `fastrnn.backends.tiled.native`.

The loops walk over chunks of time: first what can be done for all of a chunk's steps at once (the input products, the
gradient of x), then step by step what cannot. Rows are sorted, longest first, so that those active at a step are the
first ``active[s]``; a call takes the sorted rows ``low .. high - 1``. A team of threads may share the units of each
stage: then each runs the same loops on a frame of its own, and they wait for one another after each stage.

A kernel that finds no memory says so in its frame, ``team = NO_MEMORY``, and counts itself as through with all stages,
so that nobody waits for it; whoever called it raises.
"""

from libc.stdint cimport int64_t, intptr_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy, memset

cimport numpy as cnp
from cpython.ref cimport PyObject

include "fields.pxi"
include "sources.pxi"

cdef extern from "<stdint.h>" nogil:
    int64_t INT64_MAX

cdef extern from "machine.h" nogil:
    int64_t load_acquire(int64_t at)
    void store_release(int64_t at, int64_t value)
    bint exchange_if(int64_t at, int64_t expected, int64_t value)
    int64_t fetch_add(int64_t at, int64_t value)
    void rest()
    int64_t wait_for(int64_t at, int64_t value)
    void meet(int64_t frame)
    int64_t flush_denormals()
    void restore_mode(int64_t mode)
    void give_way()
    bint processor_has(int which)
    bint processor_halves()
    void fetch_bytes(int64_t at, int64_t count)

cdef extern from "Python.h":
    ctypedef PyObject *(*PyCFunction)(PyObject *, PyObject *)
    ctypedef struct PyMethodDef:
        const char *ml_name
        PyCFunction ml_meth
        int ml_flags
        const char *ml_doc
    int METH_FASTCALL
    int PyErr_CheckSignals() except -1
    object PyCFunction_NewEx(PyMethodDef *definition, object to, PyObject *module)

cdef extern from "tables.h" nogil:
    ctypedef void (*fastrnn_stages)(int64_t frame, int64_t linked, int64_t rows) noexcept nogil
    ctypedef void (*fastrnn_outer)(
        int64_t a, int64_t a_stride, int64_t b, int64_t b_offsets, int64_t into, int64_t into_stride, int64_t rows,
        int64_t height, int64_t width, int64_t copied, int first) noexcept nogil
    ctypedef struct fastrnn_cell:
        const char *equations
        fastrnn_stages *stages
    ctypedef struct fastrnn_unit:
        const char *isa
        int64_t item_bytes, vector_bytes, registers, fma
        const fastrnn_cell *cells
        int64_t count
        fastrnn_outer outer
    const fastrnn_unit **fastrnn_units

ctypedef void (*kernel_function)(
    int64_t program, int64_t here, int64_t low, int64_t high, int64_t start, int64_t stop) noexcept nogil

cdef enum:
    NO_MEMORY = -1
    ALIGNMENT = 64


cdef inline int64_t *words(int64_t address) noexcept nogil:
    return <int64_t *><intptr_t>address


cdef inline int64_t lesser(int64_t a, int64_t b) noexcept nogil:
    return a if a < b else b


cdef inline int64_t greater(int64_t a, int64_t b) noexcept nogil:
    return a if a > b else b


cdef inline int64_t address_of(const void *pointer) noexcept nogil:
    return <int64_t><intptr_t>pointer


cdef inline int64_t aligned(int64_t address) noexcept nogil:
    return (address + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT


cdef void give_up(int64_t *frame) noexcept nogil:
    """No memory: see above."""
    if frame[F_TEAM] > 1:
        store_release(frame[F_COUNTERS] + frame[F_MEMBER] * F_COUNTER_BYTES, INT64_MAX)
    frame[F_TEAM] = NO_MEMORY


# The rows of a call ---------------------------------------------------------------------------------------------------


cdef void row_offsets(
    int64_t *offsets, const int64_t *order, const int64_t *lengths, int64_t low, int64_t high, int64_t step,
    bint reverse, int64_t step_bytes, int64_t row_bytes) noexcept nogil:
    """Write where each row low .. high - 1 finds its step: time and place in the batch, in bytes."""
    cdef int64_t r, time
    for r in range(low, high):
        time = lengths[r] - 1 - step if reverse else step
        offsets[r - low] = time * step_bytes + order[r] * row_bytes


cdef void fetch_rows(
    const int64_t *frame, int64_t field, int64_t count, int64_t low, int64_t high, int64_t step,
    int64_t stop) noexcept nogil:
    """Ask for the ``count`` bytes that rows low .. high - 1 have at a step before ``stop`` in the array over time and
    batch whose address and strides stand in the frame from a field on."""
    cdef const int64_t *order = words(frame[F_ORDER])
    cdef const int64_t *lengths = words(frame[F_LENGTHS])
    cdef const int64_t *active = words(frame[F_ACTIVE])
    cdef int64_t r, time
    if count == 0 or step >= stop:
        return
    for r in range(low, lesser(active[step], high)):
        time = lengths[r] - 1 - step if frame[F_REVERSE] != 0 else step
        fetch_bytes(frame[field] + time * frame[field + 1] + order[r] * frame[field + 2], count)


cdef int64_t chunk_end(
    const int64_t *active, int64_t low, int64_t high, int64_t start, int64_t stop, int64_t most,
    int64_t *rows) noexcept nogil:
    """The end of the steps from ``start`` that have at most ``most`` active rows together, at least one step; with the
    number of rows."""
    cdef int64_t end = start, more
    rows[0] = 0
    while end < stop:
        more = lesser(active[end], high) - low
        if more <= 0 or (end > start and rows[0] + more > most):
            break
        rows[0] += more
        end += 1
    return end


cdef int64_t chunk_begin(
    const int64_t *active, int64_t low, int64_t high, int64_t start, int64_t stop, int64_t most,
    int64_t *rows) noexcept nogil:
    """The same going backward from ``start - 1``."""
    cdef int64_t begin = start, more
    rows[0] = 0
    while begin > stop:
        more = greater(lesser(active[begin - 1], high) - low, 0)
        if begin < start and rows[0] + more > most:
            break
        rows[0] += more
        begin -= 1
    return begin


cdef int64_t scratch_bytes(const int64_t *frame, int64_t rows, int64_t steps, int64_t members) noexcept nogil:
    """What a forward scan of some rows needs besides: states and kept values where it does not record, the projected
    inputs of ``steps`` row steps, and for each member of a team two tables of offsets."""
    cdef int64_t states = 0 if frame[F_RECORD] != 0 else rows * frame[F_SCRATCH_BYTES]
    return states + steps * (frame[F_PROJECTED_STRIDE] + 16 * members) + ALIGNMENT


# States ---------------------------------------------------------------------------------------------------------------


cdef inline int64_t state_row(bint record, int64_t span, const int64_t *base, int64_t step) noexcept nogil:
    """The row, in a state's buffer, of sorted row 0 before ``step``: ``span`` initial states and then a history when
    recording, else two buffers of ``span`` rows in turn."""
    if not record:
        return (step & 1) * span
    return span + base[step - 1] if step > 0 else 0


cdef inline int64_t *state_fields(int64_t *frame, int64_t k) noexcept nogil:
    return frame + F_FIRST_STATE + F_STATE_FIELDS * k


cdef void carve(int64_t *frame, int64_t low, int64_t high, int64_t at) noexcept nogil:
    """Give the states, unless they stay in place, and kept values of rows low .. high - 1 places from ``at`` on."""
    cdef int64_t k, rows = high - low
    cdef int64_t *state
    for k in range(frame[F_STATES] if frame[F_IN_PLACE] == 0 else 0):
        state = state_fields(frame, k)
        state[F_STATE_BASE] = at - low * state[F_STATE_STRIDE]
        at += 2 * rows * state[F_STATE_STRIDE]
    frame[F_KEPT_BASE] = at - low * frame[F_KEPT_STRIDE]
    frame[F_SPAN] = rows


cdef void load_states(
    int64_t *frame, const int64_t *order, int64_t low, int64_t high, int64_t initial, int64_t base,
    int64_t stride) noexcept nogil:
    """Copy the rows of each state from the caller's arrays, zeros where there are none, to the buffer that the fields
    name."""
    cdef int64_t k, r, count, into, row
    cdef int64_t *state
    for k in range(frame[F_STATES]):
        state = state_fields(frame, k)
        count, row = state[F_STATE_BYTES], state[initial + 1]
        for r in range(low, high):
            into = state[base] + r * state[stride]
            if state[initial] == 0:
                memset(words(into), 0, count)
            else:
                memcpy(words(into), words(state[initial] + order[r] * row), count)


cdef void store_final(
    int64_t *frame, const int64_t *order, const int64_t *lengths, const int64_t *base, int64_t low,
    int64_t high) noexcept nogil:
    """Copy each row's last state to the caller's arrays."""
    cdef bint record = frame[F_RECORD] != 0
    cdef int64_t k, r, row, count
    cdef int64_t *state
    for k in range(frame[F_STATES]):
        state = state_fields(frame, k)
        count = state[F_STATE_BYTES]
        for r in range(low, high):
            row = state_row(record, frame[F_SPAN], base, lengths[r]) + r
            memcpy(words(state[F_STATE_FINAL] + order[r] * state[F_STATE_FINAL_ROW]),
                   words(state[F_STATE_BASE] + row * state[F_STATE_STRIDE]), count)


cdef void store_adjoints(int64_t *frame, const int64_t *order, int64_t low, int64_t high) noexcept nogil:
    """Copy the gradients of the initial states to the caller's arrays."""
    cdef int64_t k, r, count
    cdef int64_t *state
    for k in range(frame[F_STATES]):
        state = state_fields(frame, k)
        count = state[F_STATE_BYTES]
        for r in range(low, high):
            memcpy(words(state[F_ADJOINT_FINAL] + order[r] * state[F_ADJOINT_FINAL_ROW]),
                   words(state[F_ADJOINT_BASE] + r * state[F_ADJOINT_STRIDE]), count)


cdef void point_states(int64_t *frame, const int64_t *base, int64_t step, int64_t low) noexcept nogil:
    """Set the addresses of the states before and after a step."""
    cdef bint record = frame[F_RECORD] != 0
    cdef int64_t k, before = state_row(record, frame[F_SPAN], base, step) + low
    cdef int64_t after = state_row(record, frame[F_SPAN], base, step + 1) + low
    cdef int64_t *state
    for k in range(frame[F_STATES]):
        state = state_fields(frame, k)
        if frame[F_IN_PLACE] != 0:
            state[F_STATE_IN] = state[F_STATE_INITIAL] + low * state[F_STATE_STRIDE]
            state[F_STATE_OUT] = state[F_STATE_FINAL] + low * state[F_STATE_STRIDE]
        else:
            state[F_STATE_IN] = state[F_STATE_BASE] + before * state[F_STATE_STRIDE]
            state[F_STATE_OUT] = state[F_STATE_BASE] + after * state[F_STATE_STRIDE]


# Kernels --------------------------------------------------------------------------------------------------------------


cdef void forward_scan(
    int64_t program, int64_t here, int64_t low, int64_t high, int64_t start, int64_t stop) noexcept nogil:
    """The steps start .. stop - 1 of sorted rows low .. high - 1, with the frame at the address ``here``."""
    cdef int64_t *frame = words(here)
    cdef int64_t room = lesser(greater(frame[F_CHUNK], high - low), (stop - start) * (high - low))
    cdef void *own = NULL
    cdef int64_t mode, scratch = frame[F_SCRATCH]
    if scratch == 0:
        own = malloc(scratch_bytes(frame, high - low, room, 1))
        if own == NULL:
            give_up(frame)
            return
        scratch = aligned(address_of(own))
    mode = flush_denormals()
    if frame[F_RECORD] == 0:
        carve(frame, low, high, scratch)
        scratch += (high - low) * frame[F_SCRATCH_BYTES]
    forward_steps(<const fastrnn_cell *>words(program), frame, low, high, start, stop, scratch, room)
    restore_mode(mode)
    free(own)


cdef void forward_steps(
    const fastrnn_cell *cell, int64_t *frame, int64_t low, int64_t high, int64_t start, int64_t stop, int64_t first,
    int64_t room) noexcept nogil:
    """The same, once states have their places; the projected input goes to ``first`` on, and the tables after it."""
    cdef const int64_t *order = words(frame[F_ORDER])
    cdef const int64_t *lengths = words(frame[F_LENGTHS])
    cdef const int64_t *active = words(frame[F_ACTIVE])
    cdef const int64_t *base = words(frame[F_BASE])
    cdef int64_t here = address_of(frame), most = greater(frame[F_CHUNK], high - low)
    cdef bint record = frame[F_RECORD] != 0, reverse = frame[F_REVERSE] != 0
    cdef bint copies = frame[F_IN_PLACE] == 0 and frame[F_MEMBER] == 0
    cdef bint ragged = stop > start and active[frame[F_LONGEST] - 1] < frame[F_BATCH]
    cdef int64_t step = start, end, s, rows, at, last
    cdef int64_t *x_offsets = words(first + room * (frame[F_PROJECTED_STRIDE] + 16 * frame[F_MEMBER]))
    cdef int64_t *y_offsets = x_offsets + room
    if start == 0 and copies:
        load_states(frame, order, low, high, F_STATE_INITIAL, F_STATE_BASE, F_STATE_STRIDE)
    frame[F_X_OFFSETS] = address_of(x_offsets)
    while step < stop:
        end = chunk_end(active, low, high, step, stop, most, &rows)
        if rows == 0:
            break
        at = 0
        for s in range(step, end):
            last = lesser(active[s], high)
            row_offsets(x_offsets + at, order, lengths, low, last, s, reverse, frame[F_X_STEP], frame[F_X_ROW])
            row_offsets(y_offsets + at, order, lengths, low, last, s, reverse, frame[F_Y_STEP], frame[F_Y_ROW])
            at += last - low
        frame[F_PROJECTED_INPUT] = first
        cell.stages[F_INPUT_STAGE](here, 0, rows)
        at = 0
        for s in range(step, end):
            last = lesser(active[s], high)
            frame[F_PROJECTED_INPUT] = first + at * frame[F_PROJECTED_STRIDE]
            frame[F_Y_OFFSETS] = address_of(y_offsets + at)
            frame[F_KEPT] = frame[F_KEPT_BASE] + ((base[s] if record else 0) + low) * frame[F_KEPT_STRIDE]
            point_states(frame, base, s, low)
            if ragged:  # else the rows follow one another, and the processor sees by itself what comes next
                fetch_rows(frame, F_X, frame[F_X_FETCHED], low, high, s + end - step, stop)
                fetch_rows(frame, F_Y, frame[F_Y_FETCHED], low, high, s + 1, stop)
            cell.stages[F_FORWARD_STEP](here, 0, last - low)
            at += last - low
        step = end
    if stop == frame[F_LONGEST] and copies:
        store_final(frame, order, lengths, base, low, high)


cdef void backward_scan(
    int64_t program, int64_t here, int64_t low, int64_t high, int64_t start, int64_t stop) noexcept nogil:
    """The steps start - 1 .. stop, in this order, of sorted rows low .. high - 1; ``here`` as in `forward_scan`."""
    cdef int64_t *frame = words(here)
    cdef int64_t most = greater(frame[F_CHUNK], high - low)
    cdef int64_t room = lesser(most, greater(start - stop, 1) * (high - low))
    cdef int64_t *offsets = <int64_t *>malloc(3 * 8 * greater(room, 1))
    cdef int64_t mode
    if offsets == NULL:
        give_up(frame)
        return
    mode = flush_denormals()
    backward_steps(<const fastrnn_cell *>words(program), frame, low, high, start, stop, offsets, room)
    restore_mode(mode)
    free(offsets)


cdef void backward_steps(
    const fastrnn_cell *cell, int64_t *frame, int64_t low, int64_t high, int64_t start, int64_t stop,
    int64_t *dy_offsets, int64_t room) noexcept nogil:
    """The same, with ``room`` for each of three tables of offsets."""
    cdef const int64_t *order = words(frame[F_ORDER])
    cdef const int64_t *active = words(frame[F_ACTIVE])
    cdef const int64_t *base = words(frame[F_BASE])
    cdef int64_t here = address_of(frame), most = greater(frame[F_CHUNK], high - low), longest = frame[F_LONGEST]
    cdef int64_t *dx_offsets = dy_offsets + room
    cdef int64_t *gradient_offsets = dx_offsets + room
    cdef int64_t *state
    cdef int64_t step = start, begin, rows, k
    if start == longest and frame[F_MEMBER] == 0:
        load_states(frame, order, low, high, F_ADJOINT_INITIAL, F_ADJOINT_BASE, F_ADJOINT_STRIDE)
    meet(here)
    for k in range(frame[F_STATES]):
        state = state_fields(frame, k)
        state[F_ADJOINT] = state[F_ADJOINT_BASE] + low * state[F_ADJOINT_STRIDE]
    frame[F_DX_OFFSETS] = address_of(dx_offsets)
    frame[F_GRADIENT_OFFSETS] = address_of(gradient_offsets)
    while step > stop:
        begin = chunk_begin(active, low, high, step, stop, most, &rows)
        backward_chunk(cell, frame, low, high, step, begin, dy_offsets, dx_offsets, gradient_offsets)
        if rows > 0 and frame[F_DX] != 0:
            cell.stages[F_INPUT_GRADIENT_STAGE](here, 0, rows)
        step = begin
    if stop == 0:
        if longest > 0 and lesser(active[0], high) > low:
            frame[F_GRADIENT_AFTER] = frame[F_GRADIENT_BASE] + low * frame[F_GRADIENT_STRIDE]
            cell.stages[F_FINISH_STEP](here, 0, lesser(active[0], high) - low)
        if frame[F_MEMBER] == 0:
            store_adjoints(frame, order, low, high)


cdef void backward_chunk(
    const fastrnn_cell *cell, int64_t *frame, int64_t low, int64_t high, int64_t start, int64_t stop,
    int64_t *dy_offsets, int64_t *dx_offsets, int64_t *gradient_offsets) noexcept nogil:
    """The steps of one chunk; the tables are filled for its rows."""
    cdef const int64_t *order = words(frame[F_ORDER])
    cdef const int64_t *lengths = words(frame[F_LENGTHS])
    cdef const int64_t *active = words(frame[F_ACTIVE])
    cdef const int64_t *base = words(frame[F_BASE])
    cdef bint reverse = frame[F_REVERSE] != 0
    cdef int64_t stride = frame[F_GRADIENT_STRIDE]
    cdef int64_t s, r, last, linked, at = 0
    for s in range(start - 1, stop - 1, -1):
        last = lesser(active[s], high)
        if last <= low:
            continue
        row_offsets(dy_offsets + at, order, lengths, low, last, s, reverse, frame[F_DY_STEP], frame[F_DY_ROW])
        row_offsets(dx_offsets + at, order, lengths, low, last, s, reverse, frame[F_DX_STEP], frame[F_DX_ROW])
        for r in range(low, last):
            gradient_offsets[at + r - low] = (base[s] + r) * stride
        frame[F_DY_OFFSETS] = address_of(dy_offsets + at)
        frame[F_KEPT] = frame[F_KEPT_BASE] + (base[s] + low) * frame[F_KEPT_STRIDE]
        frame[F_GRADIENT] = frame[F_GRADIENT_BASE] + (base[s] + low) * stride
        frame[F_GRADIENT_AFTER] = frame[F_GRADIENT_BASE] + (base[s + 1] + low) * stride
        linked = greater(lesser(active[s + 1], high) - low, 0) if s + 1 < frame[F_LONGEST] else 0
        point_states(frame, base, s, low)
        cell.stages[F_BACKWARD_STEP](address_of(frame), linked, last - low)
        at += last - low


cdef void weight_gradient_product(
    int64_t program, int64_t here, int64_t low, int64_t high, int64_t more, int64_t count) noexcept nogil:
    """Rows low .. high - 1 of ``into[m, n]``, the sum over ``count`` rows of a[row, m] * b[row, n].

    With ``more`` the sum is added to what is there. Blocks go from the last to the first, the order in which backward
    makes them, so that a sum over pieces of time is the sum over the whole.
    """
    cdef const fastrnn_unit *unit = <const fastrnn_unit *>words(program)
    cdef int64_t *frame = words(here)
    cdef int64_t a_stride = frame[F_OUTER_A_STRIDE], into_stride = frame[F_OUTER_INTO_STRIDE]
    cdef int64_t a = frame[F_OUTER_A] + low * unit.item_bytes, into = frame[F_OUTER_INTO] + low * into_stride
    cdef int64_t mode, first = (count + OUTER_BLOCK - 1) // OUTER_BLOCK * OUTER_BLOCK - OUTER_BLOCK
    cdef bint overwrites = more == 0
    cdef void *room = malloc(OUTER_BLOCK * OUTER_VECTORS * unit.vector_bytes + ALIGNMENT)
    if room == NULL:
        give_up(frame)
        return
    mode = flush_denormals()
    while first >= 0:
        unit.outer(
            a + first * a_stride, a_stride, frame[F_OUTER_B], frame[F_OUTER_B_OFFSETS] + 8 * first, into, into_stride,
            lesser(OUTER_BLOCK, count - first), high - low, frame[F_OUTER_WIDTH], aligned(address_of(room)), overwrites)
        first -= OUTER_BLOCK
        overwrites = False
    restore_mode(mode)
    free(room)


# Calls and teams: a box is a worker's mailbox, see `fastrnn.backends.tiled.box` --------------------------------------


cdef inline void call(int64_t here, int64_t low, int64_t high, int64_t start, int64_t stop) noexcept nogil:
    """Run the kernel of the frame at an address."""
    cdef const int64_t *frame = words(here)
    (<kernel_function><intptr_t>frame[F_KERNEL])(frame[F_PROGRAM], here, low, high, start, stop)


cdef bint failed(int64_t *frame) noexcept nogil:
    """Whether a kernel found no memory; the frame forgets it."""
    if frame[F_TEAM] != NO_MEMORY:
        return False
    frame[F_TEAM] = 0
    return True


cdef void call_from_list(int64_t here) noexcept nogil:
    """Take calls from the list at an address until none is left."""
    cdef const int64_t *work = words(here)
    cdef const int64_t *ends
    cdef int64_t k
    while True:
        k = fetch_add(here + 8 * B_LIST_TAKEN, 1)
        if k >= work[B_LIST_COUNT]:
            break
        ends = words(work[B_LIST_RANGES] + 32 * k)
        call(work[B_LIST_FRAMES] + 8 * work[B_LIST_SIZE] * k, ends[0], ends[1], ends[2], ends[3])


cdef void attend(int64_t here, int64_t looks) noexcept nogil:
    """Do the jobs that are posted in a box, until none has come for so many looks; then the box is asleep.

    The first one is waited for four times as long: who has woken this worker may have to end a piece of work before.
    """
    cdef const int64_t *box = words(here)
    cdef int64_t job, seen = load_acquire(here + 8 * B_JOB), idle = -3 * looks
    store_release(here + 8 * B_STATE, B_WAITING)
    while True:
        job = load_acquire(here + 8 * B_JOB)
        if job != seen:
            if box[B_JOB_LIST] != 0:
                call_from_list(box[B_JOB_LIST])
            else:
                call(box[B_JOB_FRAME], box[B_LOW], box[B_HIGH], box[B_START], box[B_STOP])
            store_release(here + 8 * B_DONE, job)
            seen = job
            idle = 0
        elif idle < looks:
            rest()
            idle += 1
            if idle % B_LOOKS_PER_WAY == 0:
                give_way()
        elif exchange_if(here + 8 * B_STATE, B_WAITING, B_ASLEEP):
            break
        else:
            idle = 0  # somebody has taken it: a job comes in a moment


cdef int64_t take(const int64_t *boxes, int64_t count, int64_t *taken, int64_t most) noexcept nogil:
    """Take up to ``most`` boxes that wait for a job; their addresses go to ``taken``. How many."""
    cdef int64_t i, found = 0
    for i in range(count):
        if found < most and exchange_if(boxes[i] + 8 * B_STATE, B_WAITING, B_TAKEN):
            taken[found] = boxes[i]
            found += 1
    return found


cdef void post(
    int64_t here, int64_t job, int64_t frame, int64_t low, int64_t high, int64_t start, int64_t stop) noexcept nogil:
    """Give the worker of a box that is taken a job: a list at the address ``job``, or with 0 one call."""
    cdef int64_t *box = words(here)
    box[B_JOB_LIST] = job
    box[B_JOB_FRAME] = frame
    box[B_LOW] = low
    box[B_HIGH] = high
    box[B_START] = start
    box[B_STOP] = stop
    store_release(here + 8 * B_JOB, box[B_JOB] + 1)


cdef void dismiss(const int64_t *taken, int64_t count) noexcept nogil:
    """Wait until the workers that were taken are done, and let them go."""
    cdef int64_t i
    for i in range(count):
        wait_for(taken[i] + 8 * B_DONE, words(taken[i])[B_JOB])
        store_release(taken[i] + 8 * B_STATE, B_WAITING)


cdef int64_t as_team(
    const int64_t *boxes, int64_t count, int64_t frames, int64_t size, int64_t most, int64_t low, int64_t high,
    int64_t start, int64_t stop) noexcept nogil:
    """Run one kernel, the units of each stage shared with those workers that wait for a job, ``most`` of all together.

    ``frames`` is the address of a frame for each, ``size`` fields each. How many members the team had, and
    how often they waited for long, as one number (see `frame.WAITS`); or NO_MEMORY.
    """
    cdef int64_t taken[F_MOST_MEMBERS]
    cdef int64_t i, joined = take(boxes, count, taken, most - 1)
    cdef int64_t counters = words(frames)[F_COUNTERS]
    cdef int64_t waits = 0
    cdef bint wrong = False
    for i in range(joined + 1):
        words(frames + 8 * size * i)[F_TEAM] = joined + 1
        words(frames + 8 * size * i)[F_MEMBER] = i
        words(counters + i * F_COUNTER_BYTES)[0] = words(counters + i * F_COUNTER_BYTES)[1] = 0
    for i in range(joined):
        post(taken[i], 0, frames + 8 * size * (i + 1), low, high, start, stop)
    call(frames, low, high, start, stop)
    dismiss(taken, joined)
    for i in range(joined + 1):
        wrong |= failed(words(frames + 8 * size * i))
        waits += words(counters + i * F_COUNTER_BYTES)[1]
    return NO_MEMORY if wrong else joined + 1 + F_WAITS * waits


# What Python calls ----------------------------------------------------------------------------------------------------


cdef PyMethodDef fast_method(void *function) noexcept:
    """How to call a function (bound_to, arguments, how many): as the interpreter calls its own, the arguments where they
    lie on its stack. That takes a third of the time of a tuple of them."""
    cdef PyMethodDef definition
    definition.ml_name = b"run"
    definition.ml_meth = <PyCFunction>function
    definition.ml_flags = METH_FASTCALL
    definition.ml_doc = NULL
    return definition


cdef inline int64_t data(cnp.ndarray array) noexcept:
    return address_of(cnp.PyArray_DATA(array))


cdef inline void point_at(int64_t *frame, int64_t field, cnp.ndarray array) noexcept:
    """Write an array's address into a field of the frame, the strides of all axes but the last into the next ones."""
    cdef int axis
    frame[field] = data(array)
    for axis in range(cnp.PyArray_NDIM(array) - 1):
        frame[field + 1 + axis] = cnp.PyArray_STRIDE(array, axis)


def point(
    cnp.ndarray frame not None, int64_t field, cnp.ndarray array not None, int64_t other_field,
    cnp.ndarray other not None,
):
    """See `Native`."""
    point_at(words(data(frame)), field, array)
    point_at(words(data(frame)), other_field, other)


cdef object run_on(object bound_to, PyObject **given, Py_ssize_t count):
    """See `Native.bound_run`."""
    cdef cnp.ndarray frame = (<tuple>bound_to)[0]
    cdef int64_t *fields
    if count != 7:
        return 0
    fields = <int64_t *> malloc(8 * frame.shape[0])
    if fields == NULL:
        raise MemoryError("no memory for what a call needs")
    try:
        memcpy(fields, words(data(frame)), 8 * frame.shape[0])
        point_forward(
            fields, <object>given[0], <object>given[1], <object>given[2], <object>given[3], <object>given[4],
            <object>given[5], <object>given[6])
        with nogil:
            call(address_of(fields), 0, fields[F_BATCH], 0, fields[F_LONGEST])
        if failed(fields):
            raise MemoryError("no memory for what a kernel needs")
    finally:
        free(fields)
    return 1


cdef PyMethodDef run_definition = fast_method(<void *>run_on)


def bound_run(cnp.ndarray frame not None):
    """See `Native`."""
    return PyCFunction_NewEx(&run_definition, (frame,), NULL)


def team_on(
    cnp.ndarray boxes not None, int64_t members, cnp.ndarray frame not None, cnp.ndarray table not None,
    cnp.ndarray x not None, cnp.ndarray y not None, tuple state not None, tuple final not None, int64_t at,
    bint reverse,
):
    """See `Native`."""
    cdef int64_t workers = data(boxes), count = boxes.shape[0], size = frame.shape[0], found, i
    cdef const int64_t *rows = words(data(table))
    cdef int64_t batch = rows[F_BATCH - F_ORDER], longest = rows[F_LONGEST - F_ORDER]
    cdef int64_t scratch = chunk_bytes(words(data(frame)), batch, longest, members)
    cdef void *memory = malloc(F_COUNTER_BYTES * (members + 1) + 8 * size * members + scratch)
    cdef int64_t counters, frames
    cdef int64_t *fields
    if memory == NULL:
        raise MemoryError("no memory for what a call needs")
    try:
        counters = (address_of(memory) + F_COUNTER_BYTES - 1) // F_COUNTER_BYTES * F_COUNTER_BYTES
        frames = counters + F_COUNTER_BYTES * members
        fields = words(frames)
        memcpy(fields, words(data(frame)), 8 * size)
        point_forward(fields, table, x, y, state, final, at, reverse)
        fields[F_COUNTERS] = counters
        fields[F_SCRATCH] = aligned(frames + 8 * size * members)
        for i in range(1, members):
            memcpy(words(frames + 8 * size * i), fields, 8 * size)
        with nogil:
            found = as_team(words(workers), count, frames, size, members, 0, batch, 0, longest)
        if found == NO_MEMORY:
            raise MemoryError("no memory for what a kernel needs")
        return found
    finally:
        free(memory)


cdef int point_forward(
    int64_t *fields, cnp.ndarray table, cnp.ndarray x, cnp.ndarray y, tuple state, tuple final, int64_t at,
    bint reverse) except -1:
    """Point a forward frame at its rows and arrays, of the states at their parts ``at``; no ``state``: zeros."""
    cdef int64_t *each
    cdef int64_t k
    memcpy(fields + F_ORDER, words(data(table)), 8 * F_TABLE_SIZE)
    fields[F_REVERSE] = reverse
    point_at(fields, F_X, x)
    point_at(fields, F_Y, y)
    for k in range(fields[F_STATES]):
        each = state_fields(fields, k)
        if not state:
            each[F_STATE_INITIAL] = 0
        else:
            point_at_part(each, F_STATE_INITIAL, state[k], at)
        point_at_part(each, F_STATE_FINAL, final[k], at)
    return 0


cdef inline void point_at_part(int64_t *frame, int64_t field, cnp.ndarray array, int64_t at) noexcept:
    """`point_at` for the part ``at`` of an array of three axes, along its first one."""
    frame[field] = data(array) + at * cnp.PyArray_STRIDE(array, 0)
    frame[field + 1] = cnp.PyArray_STRIDE(array, 1)


def run(cnp.ndarray frame not None, int64_t low, int64_t high, int64_t start, int64_t stop):
    """See `Native`."""
    cdef int64_t here = data(frame)
    with nogil:
        call(here, low, high, start, stop)
    if failed(words(here)):
        raise MemoryError("no memory for what a kernel needs")


def run_as_team(
    cnp.ndarray boxes not None, cnp.ndarray frames not None, int64_t low, int64_t high, int64_t start, int64_t stop
):
    """See `Native`."""
    cdef int64_t workers = data(boxes), count = boxes.shape[0], here = data(frames), size = frames.shape[1]
    cdef int64_t members = frames.shape[0], found
    with nogil:
        found = as_team(words(workers), count, here, size, members, low, high, start, stop)
    if found == NO_MEMORY:
        raise MemoryError("no memory for what a kernel needs")
    return found


def run_list(cnp.ndarray boxes not None, cnp.ndarray frames not None, cnp.ndarray ranges not None, int64_t most):
    """See `Native`."""
    cdef int64_t taken[F_MOST_MEMBERS]
    cdef int64_t work[B_LIST_FIELDS]
    cdef int64_t workers = data(boxes), waiting = boxes.shape[0], count = frames.shape[0]
    cdef int64_t i, joined
    cdef bint wrong = False
    work[B_LIST_TAKEN] = 0
    work[B_LIST_COUNT] = count
    work[B_LIST_FRAMES] = data(frames)
    work[B_LIST_SIZE] = frames.shape[1]
    work[B_LIST_RANGES] = data(ranges)
    with nogil:
        joined = take(words(workers), waiting, taken, lesser(most, count) - 1)
        for i in range(joined):
            post(taken[i], address_of(work), 0, 0, 0, 0, 0)
        call_from_list(address_of(work))
        dismiss(taken, joined)
        for i in range(count):
            wrong |= failed(words(work[B_LIST_FRAMES] + 8 * work[B_LIST_SIZE] * i))
    if wrong:
        raise MemoryError("no memory for what a kernel needs")
    return joined + 1


def serve(cnp.ndarray box not None, int64_t looks):
    """See `Native`."""
    cdef int64_t here = data(box)
    with nogil:
        attend(here, looks)


def rouse(cnp.ndarray box not None):
    """See `Native`."""
    return exchange_if(data(box) + 8 * B_STATE, B_ASLEEP, B_WAKING)


def expect(cnp.ndarray box not None, int64_t looks):
    """See `Native`."""
    cdef int64_t here = data(box), seen = 0
    with nogil:
        while load_acquire(here + 8 * B_STATE) == B_WAKING and seen < looks:
            seen += 1
            rest()
            if seen % B_LOOKS_PER_WAY == 0:
                give_way()
    return bool(seen < looks)


def volley(cnp.ndarray box not None, int64_t rounds):
    """See `Native`."""
    cdef int64_t here = data(box)
    cdef int64_t empty[B_LIST_FIELDS]
    cdef int64_t i
    if not exchange_if(here + 8 * B_STATE, B_WAITING, B_TAKEN):
        return False
    memset(empty, 0, sizeof(empty))
    with nogil:
        for i in range(rounds):
            post(here, address_of(empty), 0, 0, 0, 0, 0)
            wait_for(here + 8 * B_DONE, words(here)[B_JOB])
        store_release(here + 8 * B_STATE, B_WAITING)
    return True


cdef bint plain(object thing, const int64_t *table, int64_t width, int64_t axes, int flags) noexcept:
    """Whether an object is an array of a step's dtype, rows and so on that can be used as it is."""
    if not cnp.PyArray_CheckExact(thing):
        return False
    cdef cnp.ndarray array = thing
    if cnp.PyArray_TYPE(array) != table[F_STEP_DTYPE] or not cnp.PyArray_ISNOTSWAPPED(array):
        return False
    if not cnp.PyArray_CHKFLAGS(array, flags) or cnp.PyArray_NDIM(array) != axes:
        return False
    if axes == 2:
        return array.shape[0] == table[F_STEP_ROWS] and array.shape[1] == width
    return axes == 1 and table[F_STEP_ROWS] == 1 and array.shape[0] == width


cdef inline int64_t *turns_of(const int64_t *table) noexcept nogil:
    """Whose turn it is, and whether somebody holds the states: see `contract.TURN`."""
    return words(table[F_STEP_TURNS])


cdef inline int64_t step_frames(const int64_t *table) noexcept nogil:
    """The frames of the step whose turn it is."""
    return table[F_STEP_FRAMES] + 8 * table[F_STEP_SIZE] * table[F_STEP_MEMBERS] * table[F_STEP_LAYERS] * turns_of(
        table)[C_TURN]


cdef bint begin_step(const int64_t *table, object x, object y) noexcept:
    """Point a step's frames at x and y, if these are plain arrays as it is said there; whether they are."""
    cdef int64_t here = step_frames(table), layers = table[F_STEP_LAYERS]
    cdef int64_t members = table[F_STEP_MEMBERS], size = table[F_STEP_SIZE]
    cdef int64_t m, axes
    if not cnp.PyArray_CheckExact(x):
        return False
    axes = cnp.PyArray_NDIM(x)
    if not plain(x, table, table[F_STEP_INPUTS], axes, cnp.NPY_ARRAY_CARRAY_RO):
        return False
    if not plain(y, table, table[F_STEP_OUTPUTS], axes, cnp.NPY_ARRAY_CARRAY):
        return False
    for m in range(members):
        words(here + 8 * size * m)[F_X] = data(x)
        words(here + 8 * size * (members * (layers - 1) + m))[F_Y] = data(y)
    return True


cdef int64_t all_layers(const int64_t *table) noexcept nogil:
    """One step of every layer; with more than one member the units are shared by a team. NO_MEMORY, or who took part."""
    cdef int64_t here = step_frames(table), rows = table[F_STEP_ROWS]
    cdef int64_t members = table[F_STEP_MEMBERS], size = table[F_STEP_SIZE]
    cdef int64_t k, joined = 1
    cdef bint wrong = False
    for k in range(table[F_STEP_LAYERS]):
        if members == 1:
            call(here, 0, rows, 0, 1)
            wrong |= failed(words(here))
        else:
            joined = as_team(words(table[F_STEP_BOXES]), table[F_STEP_BOX_COUNT], here, size, members, 0, rows, 0, 1)
            wrong |= joined == NO_MEMORY
        here += 8 * size * members
    return NO_MEMORY if wrong else joined


cdef object step(object bound_to, PyObject **given, Py_ssize_t count):
    """See `Native.bound_step`."""
    cdef const int64_t *table = words(data((<tuple>bound_to)[0]))
    cdef int64_t joined
    if count != 2 or not begin_step(table, <object>given[0], <object>given[1]):
        return 0
    with nogil:
        joined = all_layers(table)
    if joined == NO_MEMORY:
        raise MemoryError("no memory for what a kernel needs")
    PyErr_CheckSignals()  # else a handler would raise when the step has been taken
    turns_of(table)[C_TURN] ^= 1
    return joined


cdef object brief_step(object bound_to, PyObject **given, Py_ssize_t count):
    """See `Native.bound_step`: with the interpreter's lock."""
    cdef const int64_t *table = words(data((<tuple>bound_to)[0]))
    cdef int64_t joined
    if count != 2 or turns_of(table)[C_HELD] or not begin_step(table, <object>given[0], <object>given[1]):
        return 0
    joined = all_layers(table)
    if joined == NO_MEMORY:
        raise MemoryError("no memory for what a kernel needs")
    turns_of(table)[C_TURN] ^= 1
    return joined


cdef PyMethodDef step_definition = fast_method(<void *>step), brief_definition = fast_method(<void *>brief_step)


def bound_step(cnp.ndarray step_call not None, needed, bint brief):
    """See `Native`."""
    return PyCFunction_NewEx(&brief_definition if brief else &step_definition, (step_call, needed), NULL)


def room(cnp.ndarray frame not None, int64_t rows, int64_t steps, int64_t members):
    """See `Native`."""
    return chunk_bytes(words(data(frame)), rows, steps, members)


cdef int64_t chunk_bytes(const int64_t *fields, int64_t rows, int64_t steps, int64_t members) noexcept nogil:
    """`scratch_bytes`, with as many steps at once as a chunk may have."""
    return scratch_bytes(fields, rows, lesser(greater(fields[F_CHUNK], rows), rows * steps), members)


def clear_padding(cnp.ndarray table not None, cnp.ndarray y not None, int64_t count):
    """See `Native`."""
    cdef int64_t at = data(y), steps = cnp.PyArray_DIM(y, 0)
    cdef int64_t step_bytes = cnp.PyArray_STRIDE(y, 0), row_bytes = cnp.PyArray_STRIDE(y, 1)
    cdef const int64_t *rows = words(data(table))
    cdef const int64_t *order = words(rows[0])
    cdef const int64_t *active = words(rows[F_ACTIVE - F_ORDER])
    cdef int64_t batch = rows[F_BATCH - F_ORDER], longest = rows[F_LONGEST - F_ORDER], r, time
    with nogil:
        for time in range(steps):
            for r in range(active[time] if time < longest else 0, batch):
                memset(words(at + time * step_bytes + order[r] * row_bytes), 0, count)


def sort_rows(cnp.ndarray lengths not None, int64_t steps, cnp.ndarray numbers not None):
    """See `Native`."""
    cdef int64_t batch = lengths.shape[0], longest = 0, longer = 0, count, place, b, s
    cdef const int64_t *ends = words(data(lengths))
    cdef int64_t *table = words(data(numbers))
    cdef int64_t *order = table + F_TABLE_SIZE
    cdef int64_t *ordered = order + batch
    cdef int64_t *active = ordered + batch
    cdef int64_t *base = active + steps
    for b in range(batch):
        if ends[b] < 0 or ends[b] > steps:
            return -1
    memset(base, 0, 8 * (steps + 1))
    for b in range(batch):
        base[ends[b]] += 1
    for s in range(steps, -1, -1):
        count = base[s]
        if count > 0 and longer == 0:
            longest = s
        base[s] = longer  # the place of the next row of this length
        if s < steps:
            active[s] = longer
        longer += count
    for b in range(batch):
        place = base[ends[b]]
        base[ends[b]] = place + 1
        order[place] = b
        ordered[place] = ends[b]
    base[0] = 0
    for s in range(longest):
        base[s + 1] = base[s] + active[s]
    table[0], table[1], table[2], table[3] = <int64_t> order, <int64_t> ordered, <int64_t> active, <int64_t> base
    table[4], table[5] = batch, longest
    return longest


def step_offsets(
    cnp.ndarray offsets not None, cnp.ndarray table not None, bint reverse, int64_t step_bytes, int64_t row_bytes,
):
    """See `Native`."""
    cdef int64_t *into = words(data(offsets))
    cdef const int64_t *rows = words(data(table))
    cdef const int64_t *active = words(rows[F_ACTIVE - F_ORDER])
    cdef const int64_t *base = words(rows[F_BASE - F_ORDER])
    cdef const int64_t *order = words(rows[0])
    cdef const int64_t *lengths = words(rows[F_LENGTHS - F_ORDER])
    cdef int64_t s
    with nogil:
        for s in range(rows[F_LONGEST - F_ORDER]):
            row_offsets(into + base[s], order, lengths, 0, active[s], s, reverse, step_bytes, row_bytes)


def history_offsets(cnp.ndarray offsets not None, cnp.ndarray table not None, int64_t stride):
    """See `Native`."""
    cdef int64_t *into = words(data(offsets))
    cdef const int64_t *rows = words(data(table))
    cdef const int64_t *active = words(rows[F_ACTIVE - F_ORDER])
    cdef const int64_t *base = words(rows[F_BASE - F_ORDER])
    cdef int64_t s, r, first
    with nogil:
        for s in range(rows[F_LONGEST - F_ORDER]):
            first = state_row(True, rows[F_BATCH - F_ORDER], base, s)
            for r in range(active[s]):
                into[base[s] + r] = (first + r) * stride


# What the extension holds ---------------------------------------------------------------------------------------------


def has(int which):
    """Whether the processor has an instruction set: `InstructionSet.asked`."""
    return which == 0 or processor_has(which)


def halves():
    """Whether the processor takes vectors of 64 bytes in two halves, as a Zen 4 does."""
    return processor_halves()


def units():
    """(instruction set, bytes of a value, address, {equations of a cell: address}) of each part of the extension."""
    cdef const fastrnn_unit *unit
    cdef int64_t index = 0, k
    found = []
    while fastrnn_units[index] != NULL:
        unit = fastrnn_units[index]
        cells = {unit.cells[k].equations.decode(): address_of(&unit.cells[k]) for k in range(unit.count)}
        found.append((unit.isa.decode(), unit.item_bytes, address_of(unit), cells))
        index += 1
    return found


FORWARD = address_of(<const void *>forward_scan)
BACKWARD = address_of(<const void *>backward_scan)
WEIGHT_GRADIENT = address_of(<const void *>weight_gradient_product)
