# A backward scan over whole sequences and all gradients that come of it: what `tiled.backward` and `tiled.sums` do in
# Python for scans in pieces. See `tiled.whole`.


cdef int point_backward(int64_t *fields, cnp.ndarray dy, cnp.ndarray dx, tuple state, int64_t at) except -1:
    """Point a backward frame at its arrays, of the states at their parts ``at``."""
    cdef int64_t *each
    cdef int64_t k
    point_at(fields, F_DY, dy)
    point_at(fields, F_DX, dx)
    for k in range(fields[F_STATES]):
        each = state_fields(fields, k)
        point_at_part(each, F_ADJOINT_INITIAL, state[k], at)
        point_at_part(each, F_ADJOINT_FINAL, state[k], at)
    return 0


cdef int64_t carve_backward(int64_t *fields, int64_t at) noexcept nogil:
    """Give the gradients of gates and states their places, from the address ``at`` on, each on a cache line of its own.

    It returns the line after them, where the sums of all rows come, and then the tables of offsets.
    """
    cdef int64_t k, total = words(fields[F_BASE])[fields[F_LONGEST]]
    at = aligned(at)
    fields[F_GRADIENT_BASE] = at
    at += aligned(total * fields[F_GRADIENT_STRIDE])
    for k in range(fields[F_STATES]):
        state_fields(fields, k)[F_ADJOINT_BASE] = at
        at += aligned(fields[F_BATCH] * state_fields(fields, k)[F_ADJOINT_STRIDE])
    return at


cdef int64_t begin_of(const int64_t *operand, int64_t *fields, int64_t x) noexcept nogil:
    """From where the offsets of an operand's rows count."""
    if operand[F_OPERAND_KIND] == F_OF_X:
        return x
    if operand[F_OPERAND_KIND] == F_OF_STATE:
        return state_fields(fields, operand[F_OPERAND_STATE])[F_STATE_BASE]
    return operand[F_OPERAND_OFFSET] + (
        fields[F_KEPT_BASE] if operand[F_OPERAND_KIND] == F_OF_KEPT else fields[F_GRADIENT_BASE])


cdef void write_offsets(
    const int64_t *operand, const int64_t *fields, int64_t step_bytes, int64_t row_bytes, int64_t total,
    int64_t *offsets) noexcept nogil:
    """Where each of an operand's rows stands, by compact number; x has these strides."""
    cdef int64_t row
    if operand[F_OPERAND_KIND] == F_OF_X:
        fill_step_offsets(offsets, fields + F_ORDER, fields[F_REVERSE] != 0, step_bytes, row_bytes)
    elif operand[F_OPERAND_KIND] == F_OF_STATE:
        fill_history_offsets(offsets, fields + F_ORDER, operand[F_OPERAND_STRIDE])
    else:
        for row in range(total):
            offsets[row] = row * operand[F_OPERAND_STRIDE]


cdef struct Work:
    # What `WholeBackward.tables` has, and how many of each there are; the frames and ranges of this call, the addresses
    # of the gradients of the weights, of sums and of tables of offsets.
    const int64_t *operands
    const int64_t *products
    const int64_t *parts
    int64_t call_size, operand_count, product_count, part_count
    int64_t *frames
    int64_t *calls
    int64_t *ranges
    int64_t *into
    int64_t sums, tables


cdef void point_products(
    const Work *work, int64_t *fields, int64_t x, int64_t step_bytes, int64_t row_bytes) noexcept nogil:
    """Point the frames of all products at all rows."""
    cdef int64_t total = words(fields[F_BASE])[fields[F_LONGEST]], i, operand
    cdef const int64_t *product
    cdef int64_t *frame
    for i in range(work.operand_count):
        write_offsets(
            work.operands + F_OPERAND_FIELDS * i, fields, step_bytes, row_bytes, total,
            words(work.tables + 8 * total * i))
    for i in range(work.product_count):
        frame, product = work.calls + work.call_size * i, work.products + F_PRODUCT_FIELDS * i
        if product[F_PRODUCT_WEIGHT] >= 0:
            frame[F_OUTER_A] += fields[F_GRADIENT_BASE]
            frame[F_OUTER_INTO] += work.into[product[F_PRODUCT_WEIGHT]]
        else:
            frame[F_OUTER_INTO] += work.sums
        operand = product[F_PRODUCT_OPERAND]
        frame[F_OUTER_B] += begin_of(work.operands + F_OPERAND_FIELDS * operand, fields, x)
        frame[F_OUTER_B_OFFSETS] = work.tables + 8 * total * operand
        frame[F_OUTER_COUNT] = total
        work.ranges[4 * i], work.ranges[4 * i + 1] = product[F_PRODUCT_LOW], product[F_PRODUCT_HIGH]
        work.ranges[4 * i + 2], work.ranges[4 * i + 3] = 0, total


cdef void hand_out(const Work *work) noexcept nogil:
    """Each vector's part of the sums."""
    cdef const int64_t *part
    cdef int64_t i
    for i in range(work.part_count):
        part = work.parts + F_PART_FIELDS * i
        memcpy(words(work.into[part[F_PART_WEIGHT]] + part[F_PART_INTO]), words(work.sums + part[F_PART_FROM]),
               part[F_PART_BYTES])


cdef Work work_of(cnp.ndarray frame, tuple to, tuple into, cnp.ndarray room, int64_t members) except *:
    """The tables that a function is bound to, and a call's own part of them in its room."""
    cdef cnp.ndarray calls = to[0], operands = to[1], products = to[2], parts = to[3], array
    cdef int64_t counters = (data(room) + F_COUNTER_BYTES - 1) // F_COUNTER_BYTES * F_COUNTER_BYTES
    cdef int64_t size = frame.shape[0], i
    cdef Work work
    work.operands, work.operand_count = words(data(operands)), operands.shape[0]
    work.products, work.product_count = words(data(products)), products.shape[0]
    work.parts, work.part_count = words(data(parts)), parts.shape[0]
    work.call_size = calls.shape[1]
    work.frames = words(counters + F_COUNTER_BYTES * members)
    work.calls = work.frames + size * members
    work.ranges = work.calls + work.call_size * work.product_count
    work.into = work.ranges + 4 * greater(work.product_count, members)
    memcpy(work.frames, words(data(frame)), 8 * size)
    memcpy(work.calls, words(data(calls)), 8 * work.call_size * work.product_count)
    for i in range(len(into)):
        array = into[i]
        work.into[i] = data(array)
    work.frames[F_COUNTERS] = counters
    return work


cdef int64_t run_scan(
    const Work *work, const int64_t *boxes, int64_t waiting, int64_t size, int64_t members, bint apart) noexcept nogil:
    """Run the scan, as `team_on` does, with a frame for each member, of which the first one is ready."""
    cdef int64_t *fields = work.frames
    cdef int64_t i, longest = fields[F_LONGEST], here = address_of(fields)
    for i in range(1, members):
        memcpy(fields + size * i, fields, 8 * size)
    if not apart:
        return as_team(boxes, waiting, here, size, members, 0, fields[F_BATCH], longest, 0)
    cdef int64_t pieces = cut_rows(fields, work.ranges, members, longest, 0)
    return as_list(boxes, waiting, here, size, address_of(work.ranges), pieces, members)


cdef object back_on(object bound_to, PyObject **given, Py_ssize_t count):
    """See `Native.bound_back`."""
    cdef cnp.ndarray frame, x, boxes
    cdef Work work
    cdef int64_t begin, step_bytes, row_bytes, workers, waiting, size, members, found
    cdef bint apart, wrong
    if count != 14:
        return 0
    frame, x, boxes = <object>given[0], <object>given[2], <object>given[11]
    members, apart = <object>given[12], <object>given[13]
    begin, step_bytes, row_bytes = data(x), cnp.PyArray_STRIDE(x, 0), cnp.PyArray_STRIDE(x, 1)
    workers, waiting, size = data(boxes), boxes.shape[0], frame.shape[0]
    work = work_of(frame, <tuple>bound_to, <tuple><object>given[9], <object>given[10], members)
    point_at_rows(work.frames, <object>given[1], <object>given[8], <object>given[5])
    point_backward(work.frames, <object>given[3], <object>given[4], <object>given[6], <object>given[7])
    work.sums = carve_backward(work.frames, address_of(work.into + len(<tuple><object>given[9])))
    work.tables = work.sums + work.frames[F_GRADIENT_STRIDE]
    with nogil:
        found = run_scan(&work, words(workers), waiting, size, members, apart)
        wrong = found == F_NO_MEMORY
        if not wrong:
            point_products(&work, work.frames, begin, step_bytes, row_bytes)
            wrong = as_list(
                words(workers), waiting, address_of(work.calls), work.call_size, address_of(work.ranges),
                work.product_count, members) == F_NO_MEMORY
            hand_out(&work)
    if wrong:
        raise MemoryError("no memory for what a kernel needs")
    return found


cdef PyMethodDef back_definition = fast_method(<void *>back_on)


def bound_back(tuple tables not None):
    """See `Native`."""
    return PyCFunction_NewEx(&back_definition, tables, NULL)
