"""The time loops. One compilation of each serves a cell for all sizes, lengths and directions.

Both walk over chunks of time: first what can be done for all of a chunk's steps at once (the input products, the
gradient of x), then step by step what cannot. Rows are sorted, longest first, so that those active at a step are the
first ``active[s]``; a call takes the sorted rows ``low .. high - 1``. A team of threads may share each stage, its
units and some of its rows: then each runs the same loops on a frame of its own, and they wait for one another after
each stage, but for the last one of a call whose states stay in place.

A kernel that finds no memory says so in its frame, ``team = NO_MEMORY``, and counts itself as through with all stages,
so that nobody waits for it; whoever called it raises. It cannot: it is called by its address.
"""

from __future__ import annotations

from fastrnn.backends.numba_.atomics import meet, store_release
from fastrnn.backends.numba_.compile import compiled, inlined, inner
from fastrnn.backends.numba_.intrinsics import (
    allocate,
    clear_bytes,
    copy_bytes,
    fetch_bytes,
    flush_denormals,
    free,
    one_by_one,
    outer_product,
    outer_room,
    restore_mode,
    run_stages,
    whole_numbers,
    whole_table,
)
from fastrnn.backends.tiled import frame as f
from fastrnn.backends.tiled.program import (
    BACKWARD_STEP,
    FINISH_STEP,
    FORWARD_STEP,
    INPUT_GRADIENT_STAGE,
    INPUT_STAGE,
)
from fastrnn.backends.tiled.room import ALIGNMENT

FRAME = 1 << 16  # more fields than any frame has: its array does not know how long it is
ALL_STAGES = (1 << 63) - 1  # more than any kernel counts


@inner
def give_up(frame):  # type: ignore[no-untyped-def]
    """No memory: see above."""
    if frame[f.TEAM] > 1:
        store_release(frame[f.COUNTERS] + frame[f.MEMBER] * f.COUNTER_BYTES, ALL_STAGES)
    frame[f.TEAM] = f.NO_MEMORY


@inlined
def aligned(at):  # type: ignore[no-untyped-def]
    """The next multiple of `ALIGNMENT`."""
    return (at + ALIGNMENT - 1) // ALIGNMENT * ALIGNMENT


@inlined
def row_offsets(offsets, at, order, lengths, low, high, step, reverse, step_bytes, row_bytes):  # type: ignore[no-untyped-def]
    """Write from ``at`` on where each row low .. high - 1 finds its step: time and place in the batch, in bytes."""
    for r in range(low, high):
        time = lengths[r] - 1 - step if reverse else step
        offsets[at + r - low] = time * step_bytes + order[r] * row_bytes


@inner
def fetch_rows(frame, field, count, low, high, step, stop, ended):  # type: ignore[no-untyped-def]
    """Ask for the ``count`` bytes that rows low .. high - 1 have at a step before ``stop`` in the array over time and
    batch whose address and strides stand in the frame from a field on; with ``ended``, also those past a row's end."""
    if count < f.LEAST_FETCHED or step >= stop:
        return
    order = whole_numbers(frame[f.ORDER], frame[f.BATCH])
    lengths = whole_numbers(frame[f.LENGTHS], frame[f.BATCH])
    active = whole_numbers(frame[f.ACTIVE], frame[f.LONGEST])
    reverse = frame[f.REVERSE] != 0
    for r in range(low, high if ended else min(active[step], high)):
        time = lengths[r] - 1 - step if reverse and r < active[step] else step
        fetch_bytes(frame[field] + time * frame[field + 1] + order[r] * frame[field + 2], count)


@inner
def clear_ended(frame, field, count, low, high, start, stop):  # type: ignore[no-untyped-def]
    """Zero the ``count`` bytes that rows low .. high - 1 have at steps start .. stop - 1 past their ends, in an array
    as above; but not in one in which every step is the same memory. The members of a team clear some rows each."""
    order = whole_numbers(frame[f.ORDER], frame[f.BATCH])
    active = whole_numbers(frame[f.ACTIVE], frame[f.LONGEST])
    step_bytes = frame[field + 1]
    for step in range(start, stop if step_bytes != 0 else start):
        first = max(low, active[step] if step < len(active) else 0) + frame[f.MEMBER]
        for r in range(first, high, max(frame[f.TEAM], 1)):
            clear_bytes(frame[field] + step * step_bytes + order[r] * frame[field + 2], count)


@inlined
def chunk_end(active, low, high, start, stop, most):  # type: ignore[no-untyped-def]
    """(end, rows): the steps from ``start`` that have at most ``most`` active rows together; at least one step."""
    rows = 0
    end = start
    while end < stop:
        more = min(active[end], high) - low
        if more <= 0 or (end > start and rows + more > most):
            break
        rows += more
        end += 1
    return end, rows


@inner
def chunk_begin(active, low, high, start, stop, most):  # type: ignore[no-untyped-def]
    """(begin, rows): the same going backward from ``start - 1``."""
    rows = 0
    begin = start
    while begin > stop:
        more = max(min(active[begin - 1], high) - low, 0)
        if begin < start and rows + more > most:
            break
        rows += more
        begin -= 1
    return begin, rows


@inner
def scratch_bytes(frame, rows, room, members):  # type: ignore[no-untyped-def]
    """What a forward scan of some rows needs besides: states and kept values where it does not record, the projected
    inputs of ``room`` row steps, and for each member of a team two tables of offsets."""
    states = 0 if frame[f.RECORD] != 0 else rows * frame[f.SCRATCH_BYTES]
    return states + room * (frame[f.PROJECTED_STRIDE] + 16 * members) + ALIGNMENT


@inlined
def state_fields(k):  # type: ignore[no-untyped-def]
    """Where the fields of state k begin in a frame."""
    return f.FIRST_STATE + f.STATE_FIELDS * k


@inner
def state_row(record, span, base, step):  # type: ignore[no-untyped-def]
    """The row, in a state's buffer, of sorted row 0 before ``step``: ``span`` initial states and then a history when
    recording, else two buffers of ``span`` rows in turn."""
    if not record:
        return (step & 1) * span
    return span + base[step - 1] if step > 0 else 0


@inner
def carve(frame, low, high, at):  # type: ignore[no-untyped-def]
    """Give the states, unless they stay in place, and kept values of rows low .. high - 1 places from ``at`` on."""
    rows = high - low
    for k in range(frame[f.STATES] if frame[f.IN_PLACE] == 0 else 0):
        fields = state_fields(k)
        stride = frame[fields + f.STATE_STRIDE]
        frame[fields + f.STATE_BASE] = at - low * stride
        at += 2 * rows * stride
    frame[f.KEPT_BASE] = at - low * frame[f.KEPT_STRIDE]
    frame[f.SPAN] = rows


@inner
def load_states(frame, order, low, high, initial, base, stride):  # type: ignore[no-untyped-def]
    """Copy the rows of each state from the caller's arrays, zeros where there are none, to the buffer that the fields
    name."""
    for k in range(frame[f.STATES]):
        fields = state_fields(k)
        count = frame[fields + f.STATE_BYTES]
        source, row = frame[fields + initial], frame[fields + initial + 1]
        for r in range(low, high):
            into = frame[fields + base] + r * frame[fields + stride]
            if source == 0:
                clear_bytes(into, count)
            else:
                copy_bytes(into, source + order[r] * row, count)


@inner
def store_final(frame, order, lengths, base, low, high):  # type: ignore[no-untyped-def]
    """Copy each row's last state to the caller's arrays."""
    record = frame[f.RECORD] != 0
    for k in range(frame[f.STATES]):
        fields = state_fields(k)
        count = frame[fields + f.STATE_BYTES]
        for r in range(low, high):
            row = state_row(record, frame[f.SPAN], base, lengths[r]) + r
            source = frame[fields + f.STATE_BASE] + row * frame[fields + f.STATE_STRIDE]
            copy_bytes(frame[fields + f.STATE_FINAL] + order[r] * frame[fields + f.STATE_FINAL_ROW], source, count)


@inlined
def point_states(frame, base, step, low):  # type: ignore[no-untyped-def]
    """Set the addresses of the states before and after a step."""
    record = frame[f.RECORD] != 0
    before = state_row(record, frame[f.SPAN], base, step) + low
    after = state_row(record, frame[f.SPAN], base, step + 1) + low
    for k in range(frame[f.STATES]):
        fields = state_fields(one_by_one(k))
        stride = frame[fields + f.STATE_STRIDE]
        if frame[f.IN_PLACE] != 0:
            frame[fields + f.STATE_IN] = frame[fields + f.STATE_INITIAL] + low * stride
            frame[fields + f.STATE_OUT] = frame[fields + f.STATE_FINAL] + low * stride
        else:
            frame[fields + f.STATE_IN] = frame[fields + f.STATE_BASE] + before * stride
            frame[fields + f.STATE_OUT] = frame[fields + f.STATE_BASE] + after * stride


@inlined
def forward_steps(program, here, low, high, start, stop, room, first):  # type: ignore[no-untyped-def]
    """`forward`, once states have their places; ``room`` rows of projected inputs go to ``first`` on, tables after."""
    frame = whole_numbers(here, FRAME)
    order = whole_numbers(frame[f.ORDER], frame[f.BATCH])
    lengths = whole_numbers(frame[f.LENGTHS], frame[f.BATCH])
    active = whole_numbers(frame[f.ACTIVE], frame[f.LONGEST])
    base = whole_numbers(frame[f.BASE], frame[f.LONGEST] + 1)
    record = frame[f.RECORD] != 0
    reverse = frame[f.REVERSE] != 0
    most = max(frame[f.CHUNK], high - low)
    ragged = stop > start and active[len(active) - 1] < frame[f.BATCH]
    copies = frame[f.IN_PLACE] == 0 and frame[f.MEMBER] == 0
    if start == 0 and copies:
        load_states(frame, order, low, high, f.STATE_INITIAL, f.STATE_BASE, f.STATE_STRIDE)
    tables = first + room * (frame[f.PROJECTED_STRIDE] + 16 * frame[f.MEMBER])
    offsets = whole_table(tables, 2, room)
    frame[f.X_OFFSETS] = tables
    y_table = tables + 8 * room
    step = start
    while step < stop:
        end, rows = chunk_end(active, low, high, step, stop, most)
        if rows == 0:
            break
        at = 0
        for s in range(step, end):
            last = min(active[s], high)
            row_offsets(offsets[0], at, order, lengths, low, last, s, reverse, frame[f.X_STEP], frame[f.X_ROW])
            row_offsets(offsets[1], at, order, lengths, low, last, s, reverse, frame[f.Y_STEP], frame[f.Y_ROW])
            at += last - low
        frame[f.PROJECTED_INPUT] = first
        run_stages(program, INPUT_STAGE, here, 0, rows)
        at = 0
        for s in range(step, end):
            count = min(active[s], high) - low
            frame[f.PROJECTED_INPUT] = first + at * frame[f.PROJECTED_STRIDE]
            frame[f.Y_OFFSETS] = y_table + 8 * at
            frame[f.KEPT] = frame[f.KEPT_BASE] + ((base[s] if record else 0) + low) * frame[f.KEPT_STRIDE]
            point_states(frame, base, s, low)
            if ragged:  # else the rows follow one another, and the processor sees by itself what comes next
                fetch_rows(frame, f.X, frame[f.X_BYTES], low, high, s + end - step, stop, False)
                fetch_rows(frame, f.Y, frame[f.Y_BYTES], low, high, s + 1, stop, True)
                clear_ended(frame, f.Y, frame[f.Y_BYTES], low, high, s, s + 1)
            run_stages(program, FORWARD_STEP, here, 0, count)
            if frame[f.IN_PLACE] == 0:  # else it is a lone step: whoever shares it waits for all to be through
                meet(here)
            at += count
        step = end
    clear_ended(frame, f.Y, frame[f.Y_BYTES], low, high, step, frame[f.STEPS] if stop == len(active) else stop)
    if stop == len(active) and copies:
        store_final(frame, order, lengths, base, low, high)


@compiled
def forward(program, here, low, high, start, stop):  # type: ignore[no-untyped-def]
    """The steps start .. stop - 1 of sorted rows low .. high - 1, with the frame at the address ``here``."""
    frame = whole_numbers(here, FRAME)
    room = min(max(frame[f.CHUNK], high - low), (stop - start) * (high - low))
    scratch, own = frame[f.SCRATCH], 0
    if scratch == 0:
        own = allocate(scratch_bytes(frame, high - low, room, 1))
        if own == 0:
            give_up(frame)
            return
        scratch = aligned(own)
    mode = flush_denormals()
    if frame[f.RECORD] == 0:
        carve(frame, low, high, scratch)
        scratch += (high - low) * frame[f.SCRATCH_BYTES]
    forward_steps(program, here, low, high, start, stop, room, scratch)
    restore_mode(mode)
    free(own)


@compiled
def backward(program, here, low, high, start, stop):  # type: ignore[no-untyped-def]
    """The steps start - 1 .. stop, in this order, of sorted rows low .. high - 1; ``here`` as in `forward`."""
    frame = whole_numbers(here, FRAME)
    most = max(frame[f.CHUNK], high - low)
    room = max(min(most, max(start - stop, 1) * (high - low)), 1)
    own = allocate(3 * 8 * room)
    if own == 0:
        give_up(frame)
        return
    mode = flush_denormals()
    offsets = whole_table(own, 3, room)
    order = whole_numbers(frame[f.ORDER], frame[f.BATCH])
    lengths = whole_numbers(frame[f.LENGTHS], frame[f.BATCH])
    active = whole_numbers(frame[f.ACTIVE], frame[f.LONGEST])
    base = whole_numbers(frame[f.BASE], frame[f.LONGEST] + 1)
    reverse = frame[f.REVERSE] != 0
    longest = len(active)
    stride = frame[f.GRADIENT_STRIDE]
    if start == longest and frame[f.MEMBER] == 0:
        load_states(frame, order, low, high, f.ADJOINT_INITIAL, f.ADJOINT_BASE, f.ADJOINT_STRIDE)
    if start == longest:
        clear_ended(frame, f.DX, frame[f.X_BYTES], low, high, longest, frame[f.STEPS])
    meet(here)
    for k in range(frame[f.STATES]):
        fields = state_fields(k)
        frame[fields + f.ADJOINT] = frame[fields + f.ADJOINT_BASE] + low * frame[fields + f.ADJOINT_STRIDE]
    frame[f.DX_OFFSETS] = offsets[1].ctypes.data
    frame[f.GRADIENT_OFFSETS] = offsets[2].ctypes.data
    step = start
    while step > stop:
        begin, rows = chunk_begin(active, low, high, step, stop, most)
        at = 0
        for s in range(step - 1, begin - 1, -1):
            last = min(active[s], high)
            if last < high:
                clear_ended(frame, f.DX, frame[f.X_BYTES], low, high, s, s + 1)
            if last <= low:
                continue
            row_offsets(offsets[0], at, order, lengths, low, last, s, reverse, frame[f.DY_STEP], frame[f.DY_ROW])
            row_offsets(offsets[1], at, order, lengths, low, last, s, reverse, frame[f.DX_STEP], frame[f.DX_ROW])
            for r in range(low, last):
                offsets[2, at + r - low] = (base[s] + r) * stride
            frame[f.DY_OFFSETS] = offsets[0].ctypes.data + 8 * at
            frame[f.KEPT] = frame[f.KEPT_BASE] + (base[s] + low) * frame[f.KEPT_STRIDE]
            frame[f.GRADIENT] = frame[f.GRADIENT_BASE] + (base[s] + low) * stride
            frame[f.GRADIENT_AFTER] = frame[f.GRADIENT_BASE] + (base[s + 1] + low) * stride
            linked = max(min(active[s + 1], high) - low, 0) if s + 1 < longest else 0
            point_states(frame, base, s, low)
            run_stages(program, BACKWARD_STEP, here, linked, last - low)
            at += last - low
        if rows > 0 and frame[f.DX] != 0:
            run_stages(program, INPUT_GRADIENT_STAGE, here, 0, rows)
        step = begin
    if stop == 0:
        if longest > 0 and min(active[0], high) > low:
            frame[f.GRADIENT_AFTER] = frame[f.GRADIENT_BASE] + low * stride
            run_stages(program, FINISH_STEP, here, 0, min(active[0], high) - low)
        if frame[f.MEMBER] == 0:
            store_adjoints(frame, order, low, high)
    restore_mode(mode)
    free(own)


@inner
def store_adjoints(frame, order, low, high):  # type: ignore[no-untyped-def]
    """Copy the gradients of the initial states to the caller's arrays."""
    for k in range(frame[f.STATES]):
        fields = state_fields(k)
        count = frame[fields + f.STATE_BYTES]
        for r in range(low, high):
            source = frame[fields + f.ADJOINT_BASE] + r * frame[fields + f.ADJOINT_STRIDE]
            copy_bytes(frame[fields + f.ADJOINT_FINAL] + order[r] * frame[fields + f.ADJOINT_FINAL_ROW], source, count)


@compiled
def weight_gradient(program, here, low, high, more, count):  # type: ignore[no-untyped-def]
    """Rows low .. high - 1 of ``into[m, n]``, the sum over ``count`` rows of a[row, m] * b[row, n].

    See `outer`. With ``more`` the sum is added to what is there.
    """
    room = allocate(outer_room(program) + ALIGNMENT)
    if room == 0:
        give_up(whole_numbers(here, FRAME))
        return
    mode = flush_denormals()
    outer_product(program, here, low, high, more, count, aligned(room))
    restore_mode(mode)
    free(room)
