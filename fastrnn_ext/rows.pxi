# The tables of a batch's rows (`fastrnn.backends.contract.Rows`), and what follows from them.


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
    table[4], table[5], table[6] = batch, longest, steps
    return longest


cdef void fill_step_offsets(
    int64_t *offsets, const int64_t *table, bint reverse, int64_t step_bytes, int64_t row_bytes) noexcept nogil:
    """Where every valid step of every row stands in an array over time and batch, by compact number."""
    cdef const int64_t *active = words(table[F_ACTIVE - F_ORDER])
    cdef const int64_t *base = words(table[F_BASE - F_ORDER])
    cdef int64_t s
    for s in range(table[F_LONGEST - F_ORDER]):
        row_offsets(
            offsets + base[s], words(table[0]), words(table[F_LENGTHS - F_ORDER]), 0, active[s], s, reverse, step_bytes,
            row_bytes)


cdef void fill_history_offsets(int64_t *offsets, const int64_t *table, int64_t stride) noexcept nogil:
    """Where the state before every valid step stands in a state's history, by compact number."""
    cdef const int64_t *active = words(table[F_ACTIVE - F_ORDER])
    cdef const int64_t *base = words(table[F_BASE - F_ORDER])
    cdef int64_t s, r, first
    for s in range(table[F_LONGEST - F_ORDER]):
        first = state_row(True, table[F_BATCH - F_ORDER], base, s)
        for r in range(active[s]):
            offsets[base[s] + r] = (first + r) * stride


def step_offsets(
    cnp.ndarray offsets not None, cnp.ndarray table not None, bint reverse, int64_t step_bytes, int64_t row_bytes,
):
    """See `Native`."""
    fill_step_offsets(words(data(offsets)), words(data(table)), reverse, step_bytes, row_bytes)


def history_offsets(cnp.ndarray offsets not None, cnp.ndarray table not None, int64_t stride):
    """See `Native`."""
    fill_history_offsets(words(data(offsets)), words(data(table)), stride)
