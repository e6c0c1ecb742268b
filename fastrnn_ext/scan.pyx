# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True, initializedcheck=False
"""The time loops and the way into them, as the extension has them: see `fastrnn.backends.tiled.native`.

The loops walk over chunks of time: first what can be done for all of a chunk's steps at once (the input products, the
gradient of x), then step by step what cannot. Rows are sorted, longest first, so that those active at a step are the
first ``active[s]``; a call takes the sorted rows ``low .. high - 1``. A team of threads may share each stage, its
units and some of its rows: then each runs the same loops on a frame of its own, and they wait for one another after
each stage, but for the last one of a call whose states stay in place.

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
        int64_t frame, int64_t low, int64_t high, int64_t more, int64_t rows, int64_t room) noexcept nogil
    ctypedef struct fastrnn_cell:
        const char *equations
        fastrnn_stages *stages
    ctypedef struct fastrnn_unit:
        const char *isa
        int64_t item_bytes
        const fastrnn_cell *cells
        int64_t count
        fastrnn_outer outer
        int64_t outer_room
    const fastrnn_unit **fastrnn_units

ctypedef void (*kernel_function)(
    int64_t program, int64_t here, int64_t low, int64_t high, int64_t start, int64_t stop) noexcept nogil

cdef enum:
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
    frame[F_TEAM] = F_NO_MEMORY


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
    const int64_t *frame, int64_t field, int64_t count, int64_t low, int64_t high, int64_t step, int64_t stop,
    bint ended) noexcept nogil:
    """Ask for the ``count`` bytes that rows low .. high - 1 have at a step before ``stop`` in the array over time and
    batch whose address and strides stand in the frame from a field on; with ``ended``, also those past a row's end."""
    cdef const int64_t *order = words(frame[F_ORDER])
    cdef const int64_t *lengths = words(frame[F_LENGTHS])
    cdef const int64_t *active = words(frame[F_ACTIVE])
    cdef int64_t r, time
    if count < F_LEAST_FETCHED or step >= stop:
        return
    for r in range(low, high if ended else lesser(active[step], high)):
        time = lengths[r] - 1 - step if frame[F_REVERSE] != 0 and r < active[step] else step
        fetch_bytes(frame[field] + time * frame[field + 1] + order[r] * frame[field + 2], count)


cdef void clear_ended(
    const int64_t *frame, int64_t field, int64_t count, int64_t low, int64_t high, int64_t start,
    int64_t stop) noexcept nogil:
    """Zero the ``count`` bytes that rows low .. high - 1 have at steps start .. stop - 1 past their ends, in an array
    as above; but not in one in which every step is the same memory. The members of a team clear some rows each."""
    cdef const int64_t *order = words(frame[F_ORDER])
    cdef const int64_t *active = words(frame[F_ACTIVE])
    cdef int64_t step_bytes = frame[field + 1], team = greater(frame[F_TEAM], 1), step, r
    if step_bytes == 0:
        return
    for step in range(start, stop):
        r = greater(low, active[step] if step < frame[F_LONGEST] else 0) + frame[F_MEMBER]
        while r < high:
            memset(words(frame[field] + step * step_bytes + order[r] * frame[field + 2]), 0, count)
            r += team


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
                fetch_rows(frame, F_X, frame[F_X_BYTES], low, high, s + end - step, stop, False)
                fetch_rows(frame, F_Y, frame[F_Y_BYTES], low, high, s + 1, stop, True)
                clear_ended(frame, F_Y, frame[F_Y_BYTES], low, high, s, s + 1)
            cell.stages[F_FORWARD_STEP](here, 0, last - low)
            if frame[F_IN_PLACE] == 0:  # else it is a lone step: whoever shares it waits for all to be through
                meet(here)
            at += last - low
        step = end
    clear_ended(
        frame, F_Y, frame[F_Y_BYTES], low, high, step, frame[F_STEPS] if stop == frame[F_LONGEST] else stop)
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
    if start == longest:
        clear_ended(frame, F_DX, frame[F_X_BYTES], low, high, longest, frame[F_STEPS])
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
        if last < high:
            clear_ended(frame, F_DX, frame[F_X_BYTES], low, high, s, s + 1)
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

    With ``more`` the sum is added to what is there.
    """
    cdef const fastrnn_unit *unit = <const fastrnn_unit *>words(program)
    cdef int64_t mode
    cdef void *room = malloc(unit.outer_room + ALIGNMENT)
    if room == NULL:
        give_up(words(here))
        return
    mode = flush_denormals()
    unit.outer(here, low, high, more, count, aligned(address_of(room)))
    restore_mode(mode)
    free(room)


# What calls them ------------------------------------------------------------------------------------------------------

include "teams.pxi"
include "host.pxi"
include "gradients.pxi"
include "steps.pxi"
include "rows.pxi"
include "copies.pxi"


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
COPYING = address_of(<const void *>copy_weights)
