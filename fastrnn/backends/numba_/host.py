"""The way into the kernels: calls of them, alone or by threads, for whole scans. Their way back: `gradients`; single
steps: `steps`.

These functions know no cell. A frame holds the address of its kernel, so that one compilation of each serves all.

A *box* is a worker's mailbox. Its state says whether the worker sleeps, is being woken, waits for a job or is taken by
a caller; only who has taken it may post a job, and only the worker says that one is done. A worker that has waited long
enough goes to sleep, in Python, where it costs nothing (see `fastrnn.backends.tiled.crew`).
"""

from __future__ import annotations

import numpy as np

from fastrnn.backends.numba_.atomics import (
    call_kernel,
    exchange_if,
    fetch_add,
    give_way,
    load_acquire,
    pause,
    store_release,
    wait_for,
)
from fastrnn.backends.numba_.bound import (
    NO_MEMORY_TEXT,
    get_lock_back,
    give_up_lock,
    memory_error,
    number_to_object,
    object_to_number,
)
from fastrnn.backends.numba_.compile import compiled, inlined, inner
from fastrnn.backends.numba_.intrinsics import (
    allocate,
    clear_bytes,
    copy_bytes,
    free,
    keep,
    whole_numbers,
    words_on_stack,
)
from fastrnn.backends.numba_.objects import (
    AXES,
    DATA,
    HALF,
    STRIDES,
    argument,
    count_of,
    data,
    numbers_of,
    sizes,
    words,
    words_in,
)
from fastrnn.backends.numba_.scan import FRAME, aligned, scratch_bytes, state_fields
from fastrnn.backends.tiled import box as bx
from fastrnn.backends.tiled import frame as f
from fastrnn.backends.tiled.box import ASLEEP, DONE, JOB, STATE, TAKEN, WAITING, WAKING
from fastrnn.backends.tiled.room import ALIGNMENT


@inner
def call(here, low, high, start, stop):  # type: ignore[no-untyped-def]
    """Run the kernel of the frame at an address."""
    frame = whole_numbers(here, FRAME)
    call_kernel(frame[f.KERNEL], frame[f.PROGRAM], here, low, high, start, stop)


@inner
def failed(here):  # type: ignore[no-untyped-def]
    """Whether the kernel of the frame at an address found no memory; the frame forgets it."""
    frame = whole_numbers(here, FRAME)
    wrong = frame[f.TEAM] == f.NO_MEMORY
    if wrong:
        frame[f.TEAM] = 0
    return wrong


@inner
def raise_if(wrong):  # type: ignore[no-untyped-def]
    """Raise, if a kernel found no memory. By address nothing may call what calls this: see `bound.memory_error`."""
    if wrong:
        raise MemoryError(NO_MEMORY_TEXT)


@inlined
def total_of(fields):  # type: ignore[no-untyped-def]
    """The number of valid steps of all rows."""
    return whole_numbers(fields[f.BASE], fields[f.LONGEST] + 1)[fields[f.LONGEST]]


@compiled
def run(frame, low, high, start, stop):  # type: ignore[no-untyped-def]
    """Run the kernel of a frame."""
    here = data(frame)
    call(here, low, high, start, stop)
    raise_if(failed(here))


@inner
def point_at(fields, field, array):  # type: ignore[no-untyped-def]
    """Write an array's address into a field of a frame, the strides of all axes but the last into the next ones.

    The array comes as its words, see `objects`.
    """
    fields[field] = array[DATA]
    axes = array[AXES] & HALF
    strides = whole_numbers(array[STRIDES], axes)
    for axis in range(axes - 1):
        fields[field + 1 + axis] = strides[axis]


@inner
def point_at_part(fields, field, array, at):  # type: ignore[no-untyped-def]
    """`point_at` for the part ``at`` of an array of three axes, along its first one."""
    strides = whole_numbers(array[STRIDES], 2)
    fields[field] = array[DATA] + at * strides[0]
    fields[field + 1] = strides[1]


@compiled
def point(frame, field, array, other_field, other):  # type: ignore[no-untyped-def]
    """`point_at` for two arrays."""
    fields = numbers_of(frame)
    point_at(fields, field, words(array))
    point_at(fields, other_field, words(other))


@inner
def call_from_list(here):  # type: ignore[no-untyped-def]
    """Take calls from the list at an address until none is left."""
    work = whole_numbers(here, bx.LIST_FIELDS)
    while True:
        k = fetch_add(here + 8 * bx.LIST_TAKEN, 1)
        if k >= work[bx.LIST_COUNT]:
            break
        ends = whole_numbers(work[bx.LIST_RANGES] + 32 * k, 4)
        call(work[bx.LIST_FRAMES] + 8 * work[bx.LIST_SIZE] * k, ends[0], ends[1], ends[2], ends[3])


@compiled
def serve(box, looks):  # type: ignore[no-untyped-def]
    """Do the jobs that are posted in a box, until none has come for so many looks; then the box is asleep.

    The first one is waited for four times as long: who has woken this worker may have to end a piece of work before.
    """
    here, fields = data(box), numbers_of(box)
    seen = load_acquire(here + 8 * JOB)
    idle = -3 * looks
    store_release(here + 8 * STATE, WAITING)
    while True:
        job = load_acquire(here + 8 * JOB)
        if job != seen:
            if fields[bx.JOB_LIST] != 0:
                call_from_list(fields[bx.JOB_LIST])
            else:
                call(fields[bx.JOB_FRAME], fields[bx.LOW], fields[bx.HIGH], fields[bx.START], fields[bx.STOP])
            store_release(here + 8 * DONE, job)
            seen = job
            idle = 0
        elif idle < looks:
            pause()
            idle += 1
            if idle % bx.LOOKS_PER_WAY == 0:
                give_way()
        elif exchange_if(here + 8 * STATE, WAITING, ASLEEP):
            break
        else:
            idle = 0  # somebody has taken it: a job comes in a moment


@compiled
def rouse(box):  # type: ignore[no-untyped-def]
    """Whether the box was asleep; then it is being woken from now on, by whoever called this."""
    return exchange_if(data(box) + 8 * STATE, ASLEEP, WAKING)


@compiled
def expect(box, looks):  # type: ignore[no-untyped-def]
    """Look so often whether the worker of a box that is being woken is there; whether it is."""
    here = data(box)
    seen = 0
    while load_acquire(here + 8 * STATE) == WAKING and seen < looks:
        seen += 1
        pause()
        if seen % bx.LOOKS_PER_WAY == 0:
            give_way()
    return seen < looks


@compiled
def volley(box, rounds):  # type: ignore[no-untyped-def]
    """Hand a worker that waits a job without work, so many times one after the other; whether it waited."""
    here, fields = data(box), numbers_of(box)
    found = exchange_if(here + 8 * STATE, WAITING, TAKEN)
    if found:
        empty = words_on_stack()
        clear_bytes(empty, 8 * bx.LIST_FIELDS)
        for _ in range(rounds):
            post(here, empty, 0, 0, 0, 0, 0)
            wait_for(here + 8 * DONE, fields[JOB])
        store_release(here + 8 * STATE, WAITING)
    return found


@inner
def take(boxes, taken, most):  # type: ignore[no-untyped-def]
    """Take up to ``most`` boxes that wait for a job; their addresses go to ``taken``. How many."""
    count = 0
    for i in range(len(boxes)):
        if count < most and exchange_if(boxes[i] + 8 * STATE, WAITING, TAKEN):
            taken[count] = boxes[i]
            count += 1
    return count


@inner
def post(here, job, frame, low, high, start, stop):  # type: ignore[no-untyped-def]
    """Give the worker of a box that is taken a job: a list at the address ``job``, or with 0 one call."""
    box = whole_numbers(here, bx.WORDS)
    box[bx.JOB_LIST] = job
    box[bx.JOB_FRAME] = frame
    box[bx.LOW] = low
    box[bx.HIGH] = high
    box[bx.START] = start
    box[bx.STOP] = stop
    store_release(here + 8 * JOB, box[JOB] + 1)


@inner
def dismiss(taken, count):  # type: ignore[no-untyped-def]
    """Wait until the workers that were taken are done, and let them go; how often that took long.

    After a lone step nobody else waits for them.
    """
    waits = 0
    for i in range(count):
        box = whole_numbers(taken[i], bx.WORDS)
        waits += wait_for(taken[i] + 8 * DONE, box[JOB])
        store_release(taken[i] + 8 * STATE, WAITING)
    return waits


@inner
def as_team(boxes, frames, size, most, low, high, start, stop):  # type: ignore[no-untyped-def]
    """Run one kernel, the units of each stage shared with those workers that wait for a job, ``most`` of all together.

    ``frames`` is the address of a frame for each, ``size`` fields each. How many members the team had, and how often
    they waited for long, as one number (see `frame.WAITS`); or NO_MEMORY.
    """
    taken = whole_numbers(words_on_stack(), f.MOST_MEMBERS)  # nothing may raise: the interpreter is given up
    joined = take(boxes, taken, most - 1)
    counters = whole_numbers(whole_numbers(frames, FRAME)[f.COUNTERS], f.MOST_MEMBERS * f.COUNTER_BYTES // 8)
    for i in range(joined + 1):
        frame = whole_numbers(frames + 8 * size * i, FRAME)
        frame[f.TEAM] = joined + 1
        frame[f.MEMBER] = i
        counters[i * f.COUNTER_BYTES // 8] = 0
        counters[i * f.COUNTER_BYTES // 8 + 1] = 0
    for i in range(joined):
        post(taken[i], 0, frames + 8 * size * (i + 1), low, high, start, stop)
    call(frames, low, high, start, stop)
    waits = dismiss(taken, joined)
    wrong = False
    for i in range(joined + 1):
        wrong |= failed(frames + 8 * size * i)
        waits += counters[i * f.COUNTER_BYTES // 8 + 1]
    return f.NO_MEMORY if wrong else joined + 1 + f.WAITS * waits


@inner
def as_list(boxes, frames, size, ranges, count, most):  # type: ignore[no-untyped-def]
    """Run ``count`` kernels that have nothing to do with one another, with frames of ``size`` fields and (low, high,
    start, stop) at these addresses.

    Those workers that wait for a job help, ``most`` threads in all. How many took part, or NO_MEMORY.
    """
    taken = whole_numbers(words_on_stack(), f.MOST_MEMBERS)
    joined = take(boxes, taken, min(most, count) - 1)
    at = words_on_stack()
    work = whole_numbers(at, bx.LIST_FIELDS)
    work[bx.LIST_TAKEN] = 0
    work[bx.LIST_COUNT] = count
    work[bx.LIST_FRAMES] = frames
    work[bx.LIST_SIZE] = size
    work[bx.LIST_RANGES] = ranges
    for i in range(joined):
        post(taken[i], at, 0, 0, 0, 0, 0)
    call_from_list(at)
    dismiss(taken, joined)
    wrong = False
    for i in range(count):
        wrong |= failed(frames + 8 * size * i)
    return f.NO_MEMORY if wrong else joined + 1


@inner
def point_at_rows(fields, table, reverse, kept):  # type: ignore[no-untyped-def]
    """Point a frame at its rows and at the tables of a tape, if there is one, as `backend.Tape` places them.

    Whoever calls this need not have the interpreter's lock.
    """
    rows = numbers_of(table)
    for i in range(f.TABLE_SIZE):
        fields[f.ORDER + i] = rows[i]
    fields[f.REVERSE] = 1 if reverse else 0
    if sizes(kept)[0] > 0:
        total, at = total_of(fields), aligned(data(kept))
        fields[f.RECORD] = 1
        fields[f.SPAN] = fields[f.BATCH]
        fields[f.KEPT_BASE] = at
        at += aligned(total * fields[f.KEPT_STRIDE])
        for k in range(fields[f.STATES]):
            fields[state_fields(k) + f.STATE_BASE] = at
            at += aligned((fields[f.BATCH] + total) * fields[state_fields(k) + f.STATE_STRIDE])


@inner
def point_forward(fields, table, x, y, state, final, at, reverse, kept):  # type: ignore[no-untyped-def]
    """Point a forward frame at its rows and arrays, of the states at their parts ``at``; no ``state``: zeros."""
    point_at_rows(fields, table, reverse, kept)
    point_at(fields, f.X, words(x))
    point_at(fields, f.Y, words(y))
    for k in range(fields[f.STATES]):
        place = state_fields(k)
        if count_of(state) == 0:
            fields[place + f.STATE_INITIAL] = 0
        else:
            point_at_part(fields, place + f.STATE_INITIAL, words_in(state, k), at)
        point_at_part(fields, place + f.STATE_FINAL, words_in(final, k), at)


@compiled
def run_on(_, given, count):  # type: ignore[no-untyped-def]
    """Point a copy of a frame at rows and arrays, and run it: see `Native.run_on`."""
    if count != 9:
        return number_to_object(0)
    frame = argument(given, 0)
    size = sizes(frame)[0]
    here = allocate(8 * size)
    if here == 0:
        return memory_error()
    copy_bytes(here, data(frame), 8 * size)
    fields = whole_numbers(here, size)
    point_forward(
        fields, argument(given, 1), argument(given, 2), argument(given, 3), argument(given, 4), argument(given, 5),
        object_to_number(argument(given, 6)), object_to_number(argument(given, 7)), argument(given, 8),
    )  # fmt: skip
    lock = give_up_lock()
    call(here, 0, fields[f.BATCH], 0, fields[f.LONGEST])
    get_lock_back(lock)
    wrong = failed(here)
    free(here)
    return memory_error() if wrong else number_to_object(1)


@inner
def cut_rows(fields, ranges, start, stop):  # type: ignore[no-untyped-def]
    """Write ranges of the sorted rows with about as many valid steps each, for at most as many calls. How many."""
    batch, members = fields[f.BATCH], len(ranges)
    lengths = whole_numbers(fields[f.LENGTHS], batch)
    total = total_of(fields)
    count, low, steps = 0, 0, 0
    for row in range(batch):
        steps += lengths[row]
        if row + 1 == batch or (count + 1 < members and steps * members >= total * (count + 1)):
            ranges[count, 0], ranges[count, 1], ranges[count, 2], ranges[count, 3] = low, row + 1, start, stop
            low = row + 1
            count += 1
    return count


@compiled
def team_on(boxes, members, apart, frame, table, x, y, state, final, at, reverse, kept):  # type: ignore[no-untyped-def]
    """`run_on` by several threads: see `Native.team_on`."""
    size = sizes(frame)[0]
    fields = numbers_of(frame).copy()
    point_forward(fields, table, x, y, state, final, at, reverse, kept)
    batch, longest = fields[f.BATCH], fields[f.LONGEST]
    ranges = np.empty((members, 4), np.int64)
    count = cut_rows(fields, ranges, 0, longest) if apart else 1
    rows = 0  # of the largest range
    for i in range(count):
        rows = max(rows, ranges[i, 1] - ranges[i, 0] if apart else batch)
    room = aligned(chunk_bytes(fields, rows, longest, 1 if apart else members))
    scratch = np.empty(count * room + ALIGNMENT, np.uint8)
    counters = np.empty((members + 1) * f.COUNTER_BYTES, np.uint8)
    fields[f.COUNTERS] = (counters.ctypes.data + f.COUNTER_BYTES - 1) // f.COUNTER_BYTES * f.COUNTER_BYTES
    frames = np.empty((members, size), np.int64)
    for i in range(members):
        copy_bytes(frames.ctypes.data + 8 * size * i, fields.ctypes.data, 8 * size)
        frames[i, f.SCRATCH] = aligned(scratch.ctypes.data) + (i * room if apart else 0)
    if apart:
        found = as_list(numbers_of(boxes), frames.ctypes.data, size, ranges.ctypes.data, count, members)
    else:
        found = as_team(numbers_of(boxes), frames.ctypes.data, size, members, 0, batch, 0, longest)
    keep(scratch)
    keep(counters)
    keep(frames)
    keep(ranges)
    raise_if(found == f.NO_MEMORY)
    return found


@compiled
def run_as_team(boxes, frames, low, high, start, stop):  # type: ignore[no-untyped-def]
    """`as_team` with as many members as there are frames, (members, size)."""
    members, size = sizes(frames)[0], sizes(frames)[1]
    found = as_team(numbers_of(boxes), data(frames), size, members, low, high, start, stop)
    raise_if(found == f.NO_MEMORY)
    return found


@compiled
def run_list(boxes, frames, ranges, most):  # type: ignore[no-untyped-def]
    """`as_list` of frames (count, size) and ranges (count, 4)."""
    count, size = sizes(frames)[0], sizes(frames)[1]
    found = as_list(numbers_of(boxes), data(frames), size, data(ranges), count, most)
    raise_if(found == f.NO_MEMORY)
    return found


@inner
def chunk_bytes(fields, rows, steps, members):  # type: ignore[no-untyped-def]
    """The bytes of scratch for a forward scan, `scan.scratch_bytes`, with as many steps at once as a chunk may have."""
    return scratch_bytes(fields, rows, min(max(fields[f.CHUNK], rows), rows * steps), members)


@compiled
def room(frame, rows, steps, members):  # type: ignore[no-untyped-def]
    """`chunk_bytes`."""
    return chunk_bytes(numbers_of(frame), rows, steps, members)
