# What packs weights: a list of copies, see `fastrnn.backends.tiled.packing`.


cdef inline void copy_rows(
    char *into, int64_t into_step, const char *source, int64_t source_step, int64_t ahead, int64_t count,
    int64_t filled) noexcept nogil:
    """So many rows of ``filled`` bytes; what is so many bytes ahead is fetched."""
    cdef int64_t k
    for k in range(count):
        fetch_bytes(address_of(into) + F_COPY_ROWS_AHEAD * into_step, 1)
        fetch_bytes(address_of(source) + ahead, 1)
        if filled == ALIGNMENT:  # then it takes one or a few instructions
            memcpy(into, source, ALIGNMENT)
        else:
            memcpy(into, source, filled)
        into += into_step
        source += source_step


cdef inline void copy_column(char *into, const char *source, int64_t size, int64_t count) noexcept nogil:
    """Values that stand side by side, each to a line of its own."""
    cdef int64_t k
    if size == 4:
        for k in range(count):
            memcpy(into + k * ALIGNMENT, source + k * 4, 4)
    else:
        for k in range(count):
            memcpy(into + k * ALIGNMENT, source + k * 8, 8)


cdef void copy_weights(
    int64_t size, int64_t here, int64_t low, int64_t high, int64_t _start, int64_t _stop) noexcept nogil:
    """The copies low .. high - 1 of the list in a frame, of values of ``size`` bytes: see `frame.COPIES`."""
    cdef const int64_t *frame = words(here)
    cdef const int64_t *copy
    cdef const char *source
    cdef const char *line
    cdef char *into
    cdef char room[1024 + ALIGNMENT]
    cdef char *square = <char *>words(aligned(address_of(room)))  # a line for each value of a line: of 16, or of 8
    cdef int64_t number, k, unit, count, depth, into_step, step, filled, rest, values = ALIGNMENT // size
    for number in range(low, high):
        copy = words(frame[F_COPIES]) + F_COPY_FIELDS * number
        source = <const char *>words(words(frame[F_COPY_SOURCES])[copy[F_COPY_WEIGHT]] + copy[F_COPY_BEGIN])
        into = <char *>words(frame[F_COPY_MEMORY] + copy[F_COPY_INTO])
        into_step, depth, filled = copy[F_COPY_INTO_STEP], copy[F_COPY_DEPTH], copy[F_COPY_UNITS] * size
        rest = copy[F_COPY_LANES] * size - filled
        if copy[F_COPY_UNIT_STEP] == size:
            step = copy[F_COPY_DEPTH_STEP]
            copy_rows(into, into_step, source, step, F_COPY_ROWS_AHEAD * step, depth, filled)
        else:
            # A cache line of each unit, turned round nearby, is read once and written in whole rows.
            k = 0
            while k < depth:
                count = lesser(values, depth - k)
                for unit in range(copy[F_COPY_UNITS]):
                    line = source + unit * copy[F_COPY_UNIT_STEP] + k * size
                    fetch_bytes(address_of(line) + F_COPY_LINES_AHEAD * ALIGNMENT, 1)
                    copy_column(square + unit * size, line, size, count)
                copy_rows(into + k * into_step, into_step, square, ALIGNMENT, 0, count, filled)
                k += values
        if rest > 0:
            for k in range(depth):
                memset(into + k * into_step + filled, 0, rest)


cdef object pack_on(object bound_to, PyObject **given, Py_ssize_t count):
    """See `Native.bound_pack`."""
    cdef cnp.ndarray template, places, call_template, memory, weight
    cdef tuple weights
    cdef int64_t size, number, copies, packed, made, k
    cdef int64_t *frame
    cdef int64_t *sources
    if count != 3:
        return 0
    template, places, call_template = <tuple>bound_to
    memory, weights, made = <object>given[0], <tuple><object>given[1], <object>given[2]
    size, number, frame = template.shape[0], len(weights), words(data(memory))
    copies, sources = address_of(frame + size), frame + size + F_SHORT_SIZE
    packed = aligned(address_of(sources + number))
    for k in range(size):
        frame[k] = words(data(template))[k] + words(data(places))[k] * packed
    for k in range(number):
        weight = weights[k]
        sources[k] = data(weight)
    memcpy(words(copies), words(data(call_template)), 8 * F_SHORT_SIZE)
    words(copies)[F_COPY_SOURCES], words(copies)[F_COPY_MEMORY] = address_of(sources), packed
    call(copies, 0, made, 0, 0)
    return 1


cdef PyMethodDef pack_definition = fast_method(<void *>pack_on)


def bound_pack(tuple tables not None):
    """See `Native`."""
    return PyCFunction_NewEx(&pack_definition, tables, NULL)
