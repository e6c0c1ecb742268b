# Calls of kernels, alone, by a team of threads, or from a list. A box is a worker's mailbox: see
# `fastrnn.backends.tiled.box`.


cdef inline void call(int64_t here, int64_t low, int64_t high, int64_t start, int64_t stop) noexcept nogil:
    """Run the kernel of the frame at an address."""
    cdef const int64_t *frame = words(here)
    (<kernel_function><intptr_t>frame[F_KERNEL])(frame[F_PROGRAM], here, low, high, start, stop)


cdef bint failed(int64_t *frame) noexcept nogil:
    """Whether a kernel found no memory; the frame forgets it."""
    if frame[F_TEAM] != F_NO_MEMORY:
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


cdef int64_t dismiss(const int64_t *taken, int64_t count) noexcept nogil:
    """Wait until the workers that were taken are done, and let them go; how often that took long.

    After a lone step nobody else waits for them.
    """
    cdef int64_t i, waits = 0
    for i in range(count):
        waits += wait_for(taken[i] + 8 * B_DONE, words(taken[i])[B_JOB])
        store_release(taken[i] + 8 * B_STATE, B_WAITING)
    return waits


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
    cdef int64_t waits
    cdef bint wrong = False
    for i in range(joined + 1):
        words(frames + 8 * size * i)[F_TEAM] = joined + 1
        words(frames + 8 * size * i)[F_MEMBER] = i
        words(counters + i * F_COUNTER_BYTES)[0] = words(counters + i * F_COUNTER_BYTES)[1] = 0
    for i in range(joined):
        post(taken[i], 0, frames + 8 * size * (i + 1), low, high, start, stop)
    call(frames, low, high, start, stop)
    waits = dismiss(taken, joined)
    for i in range(joined + 1):
        wrong |= failed(words(frames + 8 * size * i))
        waits += words(counters + i * F_COUNTER_BYTES)[1]
    return F_NO_MEMORY if wrong else joined + 1 + F_WAITS * waits


cdef int64_t as_list(
    const int64_t *boxes, int64_t waiting, int64_t frames, int64_t size, int64_t ranges, int64_t count,
    int64_t most) noexcept nogil:
    """Run ``count`` kernels that have nothing to do with one another, with frames of ``size`` fields and (low, high,
    start, stop) at these addresses.

    Those workers that wait for a job help, ``most`` threads in all. How many took part, or NO_MEMORY.
    """
    cdef int64_t taken[F_MOST_MEMBERS]
    cdef int64_t work[B_LIST_FIELDS]
    cdef int64_t i, joined = take(boxes, waiting, taken, lesser(most, count) - 1)
    cdef bint wrong = False
    work[B_LIST_TAKEN] = 0
    work[B_LIST_COUNT] = count
    work[B_LIST_FRAMES] = frames
    work[B_LIST_SIZE] = size
    work[B_LIST_RANGES] = ranges
    for i in range(joined):
        post(taken[i], address_of(work), 0, 0, 0, 0, 0)
    call_from_list(address_of(work))
    dismiss(taken, joined)
    for i in range(count):
        wrong |= failed(words(frames + 8 * size * i))
    return F_NO_MEMORY if wrong else joined + 1
