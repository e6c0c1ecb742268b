"""A backward scan over whole sequences and all gradients that come of it, made ready by compiled code.

What `tiled.backward` and `tiled.sums` do in Python for scans in pieces: see `tiled.whole`.
"""

from __future__ import annotations

from fastrnn.backends.numba_.bound import (
    get_lock_back,
    give_up_lock,
    memory_error,
    number_to_object,
    object_to_number,
)
from fastrnn.backends.numba_.compile import compiled, inner
from fastrnn.backends.numba_.host import (
    as_list,
    as_team,
    cut_rows,
    point_at,
    point_at_part,
    point_at_rows,
    total_of,
)
from fastrnn.backends.numba_.intrinsics import copy_bytes, whole_numbers, whole_table
from fastrnn.backends.numba_.objects import (
    DATA,
    STRIDES,
    argument,
    data,
    numbers_of,
    object_at,
    table_in,
    words,
    words_in,
)
from fastrnn.backends.numba_.rows import fill_history_offsets, fill_step_offsets, tables_at
from fastrnn.backends.numba_.scan import aligned, state_fields
from fastrnn.backends.tiled import frame as f


@inner
def point_backward(fields, dy, dx, state, at):  # type: ignore[no-untyped-def]
    """Point a backward frame at its arrays, of the states at their parts ``at``."""
    point_at(fields, f.DY, words(dy))
    point_at(fields, f.DX, words(dx))
    for k in range(fields[f.STATES]):
        point_at_part(fields, state_fields(k) + f.ADJOINT_INITIAL, words_in(state, k), at)
        point_at_part(fields, state_fields(k) + f.ADJOINT_FINAL, words_in(state, k), at)


@inner
def carve_backward(fields, at):  # type: ignore[no-untyped-def]
    """Give the gradients of gates and states their places, from the address ``at`` on, each on a cache line of its own.

    It returns the line after them, where the sums of all rows come, and then the tables of offsets.
    """
    at = aligned(at)
    fields[f.GRADIENT_BASE] = at
    at += aligned(total_of(fields) * fields[f.GRADIENT_STRIDE])
    for k in range(fields[f.STATES]):
        fields[state_fields(k) + f.ADJOINT_BASE] = at
        at += aligned(fields[f.BATCH] * fields[state_fields(k) + f.ADJOINT_STRIDE])
    return at


@inner
def begin_of(operand, fields, x):  # type: ignore[no-untyped-def]
    """From where the offsets of an operand's rows count."""
    if operand[f.OPERAND_KIND] == f.OF_X:
        return x[DATA]
    if operand[f.OPERAND_KIND] == f.OF_STATE:
        return fields[state_fields(operand[f.OPERAND_STATE]) + f.STATE_BASE]
    base = fields[f.KEPT_BASE] if operand[f.OPERAND_KIND] == f.OF_KEPT else fields[f.GRADIENT_BASE]
    return base + operand[f.OPERAND_OFFSET]


@inner
def write_offsets(operand, fields, x, offsets):  # type: ignore[no-untyped-def]
    """Where each of an operand's rows stands, by compact number."""
    order, lengths, active, base = tables_at(fields[f.ORDER : f.ORDER + f.TABLE_SIZE])
    if operand[f.OPERAND_KIND] == f.OF_X:
        strides = whole_numbers(x[STRIDES], 2)
        reverse = fields[f.REVERSE] != 0
        fill_step_offsets(offsets, order, lengths, active, base, reverse, strides[0], strides[1])
    elif operand[f.OPERAND_KIND] == f.OF_STATE:
        fill_history_offsets(offsets, active, base, len(order), operand[f.OPERAND_STRIDE])
    else:
        for row in range(len(offsets)):
            offsets[row] = row * operand[f.OPERAND_STRIDE]


@inner
def point_products(fields, frames, ranges, operands, products, x, into, sums, tables):  # type: ignore[no-untyped-def]
    """Point the frames of all products at all rows, of which there are tables of offsets from an address on."""
    total = total_of(fields)
    for i in range(len(operands)):
        write_offsets(operands[i], fields, x, whole_numbers(tables + 8 * total * i, total))
    for i in range(len(products)):
        frame, operand, weight = frames[i], products[i, f.PRODUCT_OPERAND], products[i, f.PRODUCT_WEIGHT]
        if weight >= 0:
            frame[f.OUTER_A] += fields[f.GRADIENT_BASE]
            frame[f.OUTER_INTO] += words_in(into, weight)[DATA]
        else:
            frame[f.OUTER_INTO] += sums
        frame[f.OUTER_B] += begin_of(operands[operand], fields, x)
        frame[f.OUTER_B_OFFSETS] = tables + 8 * total * operand
        frame[f.OUTER_COUNT] = total
        ranges[i, 0], ranges[i, 1] = products[i, f.PRODUCT_LOW], products[i, f.PRODUCT_HIGH]
        ranges[i, 2], ranges[i, 3] = 0, total


@inner
def hand_out(parts, sums, into):  # type: ignore[no-untyped-def]
    """Each vector's part of the sums."""
    for i in range(len(parts)):
        end = words_in(into, parts[i, f.PART_WEIGHT])[DATA] + parts[i, f.PART_INTO]
        copy_bytes(end, sums + parts[i, f.PART_FROM], parts[i, f.PART_BYTES])


@inner
def run_scan(boxes, frames, ranges, members, apart):  # type: ignore[no-untyped-def]
    """Run the scan, as `host.team_on` does, with a frame for each member, of which the first one is ready."""
    fields, size = frames[0], frames.shape[1]
    for i in range(1, members):
        copy_bytes(frames.ctypes.data + 8 * size * i, frames.ctypes.data, 8 * size)
    longest = fields[f.LONGEST]
    if not apart:
        return as_team(boxes, frames.ctypes.data, size, members, 0, fields[f.BATCH], longest, 0)
    pieces = cut_rows(fields, ranges[:members], longest, 0)
    return as_list(boxes, frames.ctypes.data, size, ranges.ctypes.data, pieces, members)


@compiled
def back_on(bound_to, given, count):  # type: ignore[no-untyped-def]
    """See `Native.bound_back`. All memory but the kernels' is the caller's: nothing may raise."""
    found = 0
    if count == 14:
        to, x, into, room = object_at(bound_to), words(argument(given, 2)), argument(given, 9), argument(given, 10)
        boxes, members = numbers_of(argument(given, 11)), object_to_number(argument(given, 12))
        apart, at = object_to_number(argument(given, 13)), object_to_number(argument(given, 7))
        frame, calls = numbers_of(argument(given, 0)), table_in(to, 0)
        operands, products, parts = table_in(to, 1), table_in(to, 2), table_in(to, 3)
        counters = (data(room) + f.COUNTER_BYTES - 1) // f.COUNTER_BYTES * f.COUNTER_BYTES
        frames = whole_table(counters + f.COUNTER_BYTES * members, members, len(frame))
        own_calls = whole_table(frames.ctypes.data + 8 * frames.size, len(calls), calls.shape[1])
        ranges = whole_table(own_calls.ctypes.data + 8 * own_calls.size, max(len(calls), members), 4)
        copy_bytes(own_calls.ctypes.data, calls.ctypes.data, 8 * calls.size)
        copy_bytes(frames.ctypes.data, frame.ctypes.data, 8 * len(frame))
        fields = frames[0]
        fields[f.COUNTERS] = counters
        point_at_rows(fields, argument(given, 1), object_to_number(argument(given, 8)), argument(given, 5))
        point_backward(fields, argument(given, 3), argument(given, 4), argument(given, 6), at)
        sums = carve_backward(fields, ranges.ctypes.data + 8 * ranges.size)
        tables = sums + fields[f.GRADIENT_STRIDE]
        lock = give_up_lock()
        found = run_scan(boxes, frames, ranges, members, apart)
        wrong = found == f.NO_MEMORY
        if not wrong:
            point_products(fields, own_calls, ranges, operands, products, x, into, sums, tables)
            own, size = own_calls.ctypes.data, calls.shape[1]
            wrong = as_list(boxes, own, size, ranges.ctypes.data, len(calls), members) == f.NO_MEMORY
            hand_out(parts, sums, into)
        get_lock_back(lock)
        if wrong:
            return memory_error()
    return number_to_object(found)
