"""The time loops. One compilation of each serves a cell for all sizes, lengths and directions.

Both walk over chunks of time: first what can be done for all of a chunk's steps at once (the input products, the
gradient of x), then step by step what cannot. Rows are sorted, longest first, so that those active at a step are the
first ``active[s]``; a call takes the sorted rows ``low .. high - 1``.
"""

from __future__ import annotations

import numpy as np

from fastrnn.backends.numba_ import frame as f
from fastrnn.backends.numba_ import outer
from fastrnn.backends.numba_.compile import compiled, inner
from fastrnn.backends.numba_.intrinsics import (
    BACKWARD_STEP,
    FINISH_STEP,
    FORWARD_STEP,
    INPUT_GRADIENT_STAGE,
    INPUT_STAGE,
    copy_bytes,
    flush_denormals,
    keep,
    outer_product,
    restore_mode,
    run_stages,
    whole_numbers,
)
from fastrnn.backends.numba_.target import target

BLOCK_BYTES = outer.BLOCK * max(outer.WIDTHS) * target().vector_bytes


@inner
def row_offsets(offsets, at, order, lengths, low, high, step, reverse, step_bytes, row_bytes):  # type: ignore[no-untyped-def]
    """Write from ``at`` on where each row low .. high - 1 finds its step: time and place in the batch, in bytes."""
    for r in range(low, high):
        time = lengths[r] - 1 - step if reverse else step
        offsets[at + r - low] = time * step_bytes + order[r] * row_bytes


@inner
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
def state_row(record, span, base, step):  # type: ignore[no-untyped-def]
    """The row, in a state's buffer, of sorted row 0 before ``step``: ``span`` initial states and then a history when
    recording, else two buffers of ``span`` rows in turn."""
    if not record:
        return (step & 1) * span
    return span + base[step - 1] if step > 0 else 0


@inner
def carve(frame, low, high, scratch):  # type: ignore[no-untyped-def]
    """Give the states and the kept values of rows low .. high - 1 their places in ``scratch``."""
    rows = high - low
    at = (scratch + 63) // 64 * 64
    for k in range(frame[f.STATES]):
        fields = f.FIRST_STATE + f.STATE_FIELDS * k
        stride = frame[fields + f.STATE_STRIDE]
        frame[fields + f.STATE_BASE] = at - low * stride
        at += 2 * rows * stride
    frame[f.KEPT_BASE] = at - low * frame[f.KEPT_STRIDE]
    frame[f.SPAN] = rows


@inner
def load_states(frame, order, low, high, initial, base, stride):  # type: ignore[no-untyped-def]
    """Copy the rows of each state from the caller's arrays to the buffer that the fields name."""
    for k in range(frame[f.STATES]):
        fields = f.FIRST_STATE + f.STATE_FIELDS * k
        count = frame[fields + f.STATE_BYTES]
        for r in range(low, high):
            into = frame[fields + base] + r * frame[fields + stride]
            copy_bytes(into, frame[fields + initial] + order[r] * count, count)


@inner
def store_final(frame, order, lengths, base, low, high):  # type: ignore[no-untyped-def]
    """Copy each row's last state to the caller's arrays."""
    record = frame[f.RECORD] != 0
    for k in range(frame[f.STATES]):
        fields = f.FIRST_STATE + f.STATE_FIELDS * k
        count = frame[fields + f.STATE_BYTES]
        for r in range(low, high):
            row = state_row(record, frame[f.SPAN], base, lengths[r]) + r
            source = frame[fields + f.STATE_BASE] + row * frame[fields + f.STATE_STRIDE]
            copy_bytes(frame[fields + f.STATE_FINAL] + order[r] * count, source, count)


@inner
def point_states(frame, base, step, low):  # type: ignore[no-untyped-def]
    """Set the addresses of the states before and after a step."""
    record = frame[f.RECORD] != 0
    before = state_row(record, frame[f.SPAN], base, step) + low
    after = state_row(record, frame[f.SPAN], base, step + 1) + low
    for k in range(frame[f.STATES]):
        fields = f.FIRST_STATE + f.STATE_FIELDS * k
        frame[fields + f.STATE_IN] = frame[fields + f.STATE_BASE] + before * frame[fields + f.STATE_STRIDE]
        frame[fields + f.STATE_OUT] = frame[fields + f.STATE_BASE] + after * frame[fields + f.STATE_STRIDE]


@compiled
def forward(program, frame, low, high, start, stop):  # type: ignore[no-untyped-def]
    """The steps start .. stop - 1 of sorted rows low .. high - 1."""
    mode = flush_denormals()
    here = frame.ctypes.data
    order = whole_numbers(frame[f.ORDER], frame[f.BATCH])
    lengths = whole_numbers(frame[f.LENGTHS], frame[f.BATCH])
    active = whole_numbers(frame[f.ACTIVE], frame[f.LONGEST])
    base = whole_numbers(frame[f.BASE], frame[f.LONGEST] + 1)
    record = frame[f.RECORD] != 0
    reverse = frame[f.REVERSE] != 0
    own = 0 if record or frame[f.SCRATCH] != 0 else (high - low) * frame[f.SCRATCH_BYTES] + 64
    scratch = np.empty(own, np.uint8)
    if not record:
        carve(frame, low, high, scratch.ctypes.data if own else frame[f.SCRATCH])
    if start == 0:
        load_states(frame, order, low, high, f.STATE_INITIAL, f.STATE_BASE, f.STATE_STRIDE)
    most = max(frame[f.CHUNK], high - low)
    room = min(most, (stop - start) * (high - low))
    projected = np.empty(room * frame[f.PROJECTED_STRIDE] + 64, np.uint8)
    first = (projected.ctypes.data + 63) // 64 * 64
    offsets = np.empty((2, room), np.int64)
    frame[f.X_OFFSETS] = offsets.ctypes.data
    y_table = offsets[1].ctypes.data
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
            run_stages(program, FORWARD_STEP, here, 0, count)
            at += count
        step = end
    if stop == len(active):
        store_final(frame, order, lengths, base, low, high)
    restore_mode(mode)
    keep(scratch)
    keep(projected)
    keep(offsets)


@compiled
def backward(program, frame, low, high, start, stop):  # type: ignore[no-untyped-def]
    """The steps start - 1 .. stop, in this order, of sorted rows low .. high - 1."""
    mode = flush_denormals()
    here = frame.ctypes.data
    order = whole_numbers(frame[f.ORDER], frame[f.BATCH])
    lengths = whole_numbers(frame[f.LENGTHS], frame[f.BATCH])
    active = whole_numbers(frame[f.ACTIVE], frame[f.LONGEST])
    base = whole_numbers(frame[f.BASE], frame[f.LONGEST] + 1)
    reverse = frame[f.REVERSE] != 0
    longest = len(active)
    stride = frame[f.GRADIENT_STRIDE]
    if start == longest:
        load_states(frame, order, low, high, f.ADJOINT_INITIAL, f.ADJOINT_BASE, f.ADJOINT_STRIDE)
    for k in range(frame[f.STATES]):
        fields = f.FIRST_STATE + f.STATE_FIELDS * k
        frame[fields + f.ADJOINT] = frame[fields + f.ADJOINT_BASE] + low * frame[fields + f.ADJOINT_STRIDE]
    most = max(frame[f.CHUNK], high - low)
    offsets = np.empty((3, min(most, max(start - stop, 1) * (high - low))), np.int64)
    frame[f.DX_OFFSETS] = offsets[1].ctypes.data
    frame[f.GRADIENT_OFFSETS] = offsets[2].ctypes.data
    step = start
    while step > stop:
        begin, rows = chunk_begin(active, low, high, step, stop, most)
        at = 0
        for s in range(step - 1, begin - 1, -1):
            last = min(active[s], high)
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
        store_adjoints(frame, order, low, high)
    restore_mode(mode)
    keep(offsets)


@inner
def store_adjoints(frame, order, low, high):  # type: ignore[no-untyped-def]
    """Copy the gradients of the initial states to the caller's arrays."""
    for k in range(frame[f.STATES]):
        fields = f.FIRST_STATE + f.STATE_FIELDS * k
        count = frame[fields + f.STATE_BYTES]
        for r in range(low, high):
            source = frame[fields + f.ADJOINT_BASE] + r * frame[fields + f.ADJOINT_STRIDE]
            copy_bytes(frame[fields + f.ADJOINT_FINAL] + order[r] * count, source, count)


@compiled
def step_offsets(order, lengths, active, base, reverse, step_bytes, row_bytes):  # type: ignore[no-untyped-def]
    """Where every valid step of every row stands in an array over time and batch, by compact number."""
    offsets = np.empty(base[-1], np.int64)
    for s in range(len(active)):
        row_offsets(offsets, base[s], order, lengths, 0, active[s], s, reverse, step_bytes, row_bytes)
    return offsets


@compiled
def history_offsets(active, base, batch, stride):  # type: ignore[no-untyped-def]
    """Where the state before every valid step stands in a state's history, by compact number."""
    offsets = np.empty(base[-1], np.int64)
    for s in range(len(active)):
        first = state_row(True, batch, base, s)
        for r in range(active[s]):
            offsets[base[s] + r] = (first + r) * stride
    return offsets


@compiled
def weight_gradient(program, a, a_stride, b, offsets, count, into, into_stride, height, width, more):  # type: ignore[no-untyped-def]
    """``into[m, n]`` = the sum over ``count`` rows of a[row, m] * b[row, n]; see `outer`. All but program are int64.

    With ``more`` the sum is added to what is there. Blocks go from the last to the first, the order in which backward
    makes them, so that a sum over pieces of time is the sum over the whole.
    """
    mode = flush_denormals()
    room = np.empty(BLOCK_BYTES + 64, np.uint8)
    copied = (room.ctypes.data + 63) // 64 * 64
    start = (count - 1) // outer.BLOCK * outer.BLOCK
    first = more == 0
    while start >= 0:
        rows = min(outer.BLOCK, count - start)
        table = offsets + 8 * start
        here = a + start * a_stride
        outer_product(program, here, a_stride, b, table, into, into_stride, rows, height, width, copied, first)
        start -= outer.BLOCK
        first = False
    restore_mode(mode)
    keep(room)


@compiled
def point(frame, field, array):  # type: ignore[no-untyped-def]
    """Write an array's address into a field of the frame, and its first two strides, those of x, into the next two."""
    frame[field] = array.ctypes.data
    if array.ndim == 3:
        frame[field + 1] = array.strides[0]
        frame[field + 2] = array.strides[1]
