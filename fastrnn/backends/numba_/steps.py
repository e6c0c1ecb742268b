"""Single time steps of a stack, as Python calls them: with x and y alone, from frames that were made once."""

from __future__ import annotations

from fastrnn.backends.contract import HELD, TURN, TURN_FIELDS
from fastrnn.backends.numba_.bound import get_lock_back, give_up_lock, number_to_object, signals_raise
from fastrnn.backends.numba_.compile import compiled, inlined, inner
from fastrnn.backends.numba_.host import as_team, call
from fastrnn.backends.numba_.intrinsics import whole_numbers
from fastrnn.backends.numba_.objects import ALIGNED, CONTIGUOUS, WRITEABLE, argument, data, item, object_at, plain_axes
from fastrnn.backends.numba_.scan import FRAME
from fastrnn.backends.tiled import frame as f


@inlined
def step_table(bound_to):  # type: ignore[no-untyped-def]
    """What the step is called with to which a function is bound: see `frame.STEP_FRAMES`."""
    return whole_numbers(data(item(object_at(bound_to), 0)), f.STEP_FIELDS)


@inlined
def turns_of(table):  # type: ignore[no-untyped-def]
    """Whose turn it is, and whether somebody holds the states: see `contract.TURN`."""
    return whole_numbers(table[f.STEP_TURNS], TURN_FIELDS)


@inner
def step_frames(table):  # type: ignore[no-untyped-def]
    """The address of the frames of the step whose turn it is, the members' of each layer side by side."""
    frames = turns_of(table)[TURN] * table[f.STEP_LAYERS] * table[f.STEP_MEMBERS]
    return table[f.STEP_FRAMES] + 8 * table[f.STEP_SIZE] * frames


@inner
def begin_step(table, x, y):  # type: ignore[no-untyped-def]
    """Point a step's frames at x and y, if these are plain arrays as it is said there; whether they are."""
    axes = plain_axes(x, table, table[f.STEP_INPUTS], CONTIGUOUS | ALIGNED)
    if axes == 0 or axes != plain_axes(y, table, table[f.STEP_OUTPUTS], CONTIGUOUS | ALIGNED | WRITEABLE):
        return False
    here, members, size = step_frames(table), table[f.STEP_MEMBERS], table[f.STEP_SIZE]
    last = members * (table[f.STEP_LAYERS] - 1)
    for m in range(members):
        whole_numbers(here + 8 * size * m, FRAME)[f.X] = data(x)
        whole_numbers(here + 8 * size * (last + m), FRAME)[f.Y] = data(y)
    return True


@inner
def all_layers(table):  # type: ignore[no-untyped-def]
    """One step of every layer, that of a team for several members. What `as_team` returns.

    None needs memory: the frames come with all of it (`frame.SCRATCH`).
    """
    here, rows, members, size = step_frames(table), table[f.STEP_ROWS], table[f.STEP_MEMBERS], table[f.STEP_SIZE]
    joined = 1
    for _ in range(table[f.STEP_LAYERS]):
        if members == 1:
            call(here, 0, rows, 0, 1)
        else:
            boxes = whole_numbers(table[f.STEP_BOXES], table[f.STEP_BOX_COUNT])
            joined = as_team(boxes, here, size, members, 0, rows, 0, 1)
        here += 8 * size * members
    return joined


@compiled
def step(bound_to, given, count):  # type: ignore[no-untyped-def]
    """See `Native.bound_step`."""
    table, found = step_table(bound_to), 0
    if count == 2 and begin_step(table, argument(given, 0), argument(given, 1)):
        lock = give_up_lock()
        found = all_layers(table)
        get_lock_back(lock)
        if signals_raise():  # else that would come when the step has been taken
            return 0
        turns_of(table)[TURN] ^= 1
    return number_to_object(found)


@compiled
def brief_step(bound_to, given, count):  # type: ignore[no-untyped-def]
    """See `Native.bound_step`: with the interpreter's lock."""
    table, found = step_table(bound_to), 0
    if count == 2 and turns_of(table)[HELD] == 0 and begin_step(table, argument(given, 0), argument(given, 1)):
        found = all_layers(table)
        turns_of(table)[TURN] ^= 1
    return number_to_object(found)
