# What Python calls of the kernels: whole scans, pieces of them, and what workers do. See `Native`.


cdef PyMethodDef fast_method(void *function) noexcept:
    """How to call a function (bound_to, arguments, how many): as the interpreter calls its own, the arguments where
    they lie on its stack. That takes a third of the time of a tuple of them."""
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


cdef object run_on_arrays(object _, PyObject **given, Py_ssize_t count):
    """See `Native.run_on`."""
    cdef cnp.ndarray frame
    cdef int64_t *fields
    if count != 9:
        return 0
    frame = <object>given[0]
    fields = <int64_t *> malloc(8 * frame.shape[0])
    if fields == NULL:
        raise MemoryError("no memory for what a call needs")
    try:
        memcpy(fields, words(data(frame)), 8 * frame.shape[0])
        point_forward(
            fields, <object>given[1], <object>given[2], <object>given[3], <object>given[4], <object>given[5],
            <object>given[6], <object>given[7], <object>given[8])
        with nogil:
            call(address_of(fields), 0, fields[F_BATCH], 0, fields[F_LONGEST])
        if failed(fields):
            raise MemoryError("no memory for what a kernel needs")
    finally:
        free(fields)
    return 1


cdef PyMethodDef run_definition = fast_method(<void *>run_on_arrays)
run_on = PyCFunction_NewEx(&run_definition, (), NULL)


cdef int64_t cut_rows(
    const int64_t *fields, int64_t *ranges, int64_t members, int64_t start, int64_t stop) noexcept nogil:
    """Write ranges of the sorted rows with about as many valid steps each, for at most so many calls. How many."""
    cdef const int64_t *lengths = words(fields[F_LENGTHS])
    cdef int64_t batch = fields[F_BATCH], total = words(fields[F_BASE])[fields[F_LONGEST]]
    cdef int64_t row, count = 0, low = 0, steps = 0
    for row in range(batch):
        steps += lengths[row]
        if row + 1 == batch or (count + 1 < members and steps * members >= total * (count + 1)):
            ranges[4 * count], ranges[4 * count + 1], ranges[4 * count + 2] = low, row + 1, start
            ranges[4 * count + 3] = stop
            low = row + 1
            count += 1
    return count


def team_on(
    cnp.ndarray boxes not None, int64_t members, bint apart, cnp.ndarray frame not None, cnp.ndarray table not None,
    cnp.ndarray x not None, cnp.ndarray y not None, tuple state not None, tuple final not None, int64_t at,
    bint reverse, cnp.ndarray kept not None,
):
    """See `Native`."""
    cdef int64_t workers = data(boxes), waiting = boxes.shape[0], size = frame.shape[0], batch, longest, found, i
    cdef int64_t fixed = F_COUNTER_BYTES * (members + 1) + 8 * (size + 4) * members, count = 1, tallest = 0, room
    cdef int64_t *fields = <int64_t *> malloc(8 * (size + 4 * members))
    cdef int64_t *ranges
    cdef int64_t counters, frames, scratch
    cdef void *memory = NULL
    if fields == NULL:
        raise MemoryError("no memory for what a call needs")
    try:
        ranges = fields + size
        memcpy(fields, words(data(frame)), 8 * size)
        point_forward(fields, table, x, y, state, final, at, reverse, kept)
        batch, longest = fields[F_BATCH], fields[F_LONGEST]
        if apart:
            count = cut_rows(fields, ranges, members, 0, longest)
            for i in range(count):
                tallest = greater(tallest, ranges[4 * i + 1] - ranges[4 * i])
        else:
            tallest = batch
        room = aligned(chunk_bytes(fields, tallest, longest, 1 if apart else members))
        memory = malloc(fixed + ALIGNMENT + count * room)
        if memory == NULL:
            raise MemoryError("no memory for what a call needs")
        counters = (address_of(memory) + F_COUNTER_BYTES - 1) // F_COUNTER_BYTES * F_COUNTER_BYTES
        frames = counters + F_COUNTER_BYTES * members
        scratch = aligned(frames + 8 * size * members)
        fields[F_COUNTERS] = counters
        for i in range(members):
            fields[F_SCRATCH] = scratch + (i * room if apart else 0)
            memcpy(words(frames + 8 * size * i), fields, 8 * size)
        with nogil:
            if apart:
                found = as_list(words(workers), waiting, frames, size, address_of(ranges), count, members)
            else:
                found = as_team(words(workers), waiting, frames, size, members, 0, batch, 0, longest)
        if found == F_NO_MEMORY:
            raise MemoryError("no memory for what a kernel needs")
        return found
    finally:
        free(memory)
        free(fields)


cdef int point_at_rows(int64_t *fields, cnp.ndarray table, bint reverse, cnp.ndarray kept) except -1:
    """Point a frame at its rows and at the tables of a tape, if there is one, as `backend.Tape` places them."""
    cdef int64_t *each
    cdef int64_t k, at, total
    memcpy(fields + F_ORDER, words(data(table)), 8 * F_TABLE_SIZE)
    fields[F_REVERSE] = reverse
    if kept.shape[0] > 0:
        total, at = words(fields[F_BASE])[fields[F_LONGEST]], aligned(data(kept))
        fields[F_RECORD] = 1
        fields[F_SPAN] = fields[F_BATCH]
        fields[F_KEPT_BASE] = at
        at += aligned(total * fields[F_KEPT_STRIDE])
        for k in range(fields[F_STATES]):
            each = state_fields(fields, k)
            each[F_STATE_BASE] = at
            at += aligned((fields[F_BATCH] + total) * each[F_STATE_STRIDE])
    return 0


cdef int point_forward(
    int64_t *fields, cnp.ndarray table, cnp.ndarray x, cnp.ndarray y, tuple state, tuple final, int64_t at,
    bint reverse, cnp.ndarray kept) except -1:
    """Point a forward frame at its rows and arrays, of the states at their parts ``at``; no ``state``: zeros."""
    cdef int64_t *each
    cdef int64_t k
    point_at_rows(fields, table, reverse, kept)
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
    if found == F_NO_MEMORY:
        raise MemoryError("no memory for what a kernel needs")
    return found


def run_list(cnp.ndarray boxes not None, cnp.ndarray frames not None, cnp.ndarray ranges not None, int64_t most):
    """See `Native`."""
    cdef int64_t workers = data(boxes), waiting = boxes.shape[0], here = data(frames), size = frames.shape[1]
    cdef int64_t ends = data(ranges), count = frames.shape[0], found
    with nogil:
        found = as_list(words(workers), waiting, here, size, ends, count, most)
    if found == F_NO_MEMORY:
        raise MemoryError("no memory for what a kernel needs")
    return found


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


def room(cnp.ndarray frame not None, int64_t rows, int64_t steps, int64_t members):
    """See `Native`."""
    return chunk_bytes(words(data(frame)), rows, steps, members)


cdef int64_t chunk_bytes(const int64_t *fields, int64_t rows, int64_t steps, int64_t members) noexcept nogil:
    """`scratch_bytes`, with as many steps at once as a chunk may have."""
    return scratch_bytes(fields, rows, lesser(greater(fields[F_CHUNK], rows), rows * steps), members)
