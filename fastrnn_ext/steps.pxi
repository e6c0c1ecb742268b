# Single steps of all layers: see `Native.bound_step`.


cdef bint plain(object thing, const int64_t *table, int64_t width, int64_t axes, int flags) noexcept:
    """Whether an object is an array of a step's dtype, rows and so on that can be used as it is."""
    if not cnp.PyArray_CheckExact(thing):
        return False
    cdef cnp.ndarray array = thing
    if cnp.PyArray_TYPE(array) != table[F_STEP_DTYPE] or not cnp.PyArray_ISNOTSWAPPED(array):
        return False
    if not cnp.PyArray_CHKFLAGS(array, flags) or cnp.PyArray_NDIM(array) != axes:
        return False
    if axes == 2:
        return array.shape[0] == table[F_STEP_ROWS] and array.shape[1] == width
    return axes == 1 and table[F_STEP_ROWS] == 1 and array.shape[0] == width


cdef inline int64_t *turns_of(const int64_t *table) noexcept nogil:
    """Whose turn it is, and whether somebody holds the states: see `contract.TURN`."""
    return words(table[F_STEP_TURNS])


cdef inline int64_t step_frames(const int64_t *table) noexcept nogil:
    """The frames of the step whose turn it is."""
    return table[F_STEP_FRAMES] + 8 * table[F_STEP_SIZE] * table[F_STEP_MEMBERS] * table[F_STEP_LAYERS] * turns_of(
        table)[C_TURN]


cdef bint begin_step(const int64_t *table, object x, object y) noexcept:
    """Point a step's frames at x and y, if these are plain arrays as it is said there; whether they are."""
    cdef int64_t here = step_frames(table), layers = table[F_STEP_LAYERS]
    cdef int64_t members = table[F_STEP_MEMBERS], size = table[F_STEP_SIZE]
    cdef int64_t m, axes
    if not cnp.PyArray_CheckExact(x):
        return False
    axes = cnp.PyArray_NDIM(x)
    if not plain(x, table, table[F_STEP_INPUTS], axes, cnp.NPY_ARRAY_CARRAY_RO):
        return False
    if not plain(y, table, table[F_STEP_OUTPUTS], axes, cnp.NPY_ARRAY_CARRAY):
        return False
    for m in range(members):
        words(here + 8 * size * m)[F_X] = data(x)
        words(here + 8 * size * (members * (layers - 1) + m))[F_Y] = data(y)
    return True


cdef int64_t all_layers(const int64_t *table) noexcept nogil:
    """One step of every layer; with more than one member a team shares the units. NO_MEMORY, or who took part."""
    cdef int64_t here = step_frames(table), rows = table[F_STEP_ROWS]
    cdef int64_t members = table[F_STEP_MEMBERS], size = table[F_STEP_SIZE]
    cdef int64_t k, joined = 1
    cdef bint wrong = False
    for k in range(table[F_STEP_LAYERS]):
        if members == 1:
            call(here, 0, rows, 0, 1)
            wrong |= failed(words(here))
        else:
            joined = as_team(words(table[F_STEP_BOXES]), table[F_STEP_BOX_COUNT], here, size, members, 0, rows, 0, 1)
            wrong |= joined == F_NO_MEMORY
        here += 8 * size * members
    return F_NO_MEMORY if wrong else joined


cdef object step(object bound_to, PyObject **given, Py_ssize_t count):
    """See `Native.bound_step`."""
    cdef const int64_t *table = words(data((<tuple>bound_to)[0]))
    cdef int64_t joined
    if count != 2 or not begin_step(table, <object>given[0], <object>given[1]):
        return 0
    with nogil:
        joined = all_layers(table)
    if joined == F_NO_MEMORY:
        raise MemoryError("no memory for what a kernel needs")
    PyErr_CheckSignals()  # else a handler would raise when the step has been taken
    turns_of(table)[C_TURN] ^= 1
    return joined


cdef object brief_step(object bound_to, PyObject **given, Py_ssize_t count):
    """See `Native.bound_step`: with the interpreter's lock."""
    cdef const int64_t *table = words(data((<tuple>bound_to)[0]))
    cdef int64_t joined
    if count != 2 or turns_of(table)[C_HELD] or not begin_step(table, <object>given[0], <object>given[1]):
        return 0
    joined = all_layers(table)
    if joined == F_NO_MEMORY:
        raise MemoryError("no memory for what a kernel needs")
    turns_of(table)[C_TURN] ^= 1
    return joined


cdef PyMethodDef step_definition = fast_method(<void *>step), brief_definition = fast_method(<void *>brief_step)


def bound_step(cnp.ndarray step_call not None, needed, bint brief):
    """See `Native`."""
    return PyCFunction_NewEx(&brief_definition if brief else &step_definition, (step_call, needed), NULL)
