"""What packs weights: a list of copies, see `fastrnn.backends.tiled.packing`."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from fastrnn.backends.numba_.bound import number_to_object, object_to_number
from fastrnn.backends.numba_.compile import compiled, inner
from fastrnn.backends.numba_.host import call
from fastrnn.backends.numba_.intrinsics import clear_bytes, copy_bytes, fetch_line, whole_numbers, words_on_stack
from fastrnn.backends.numba_.objects import argument, count_of, data, item, numbers_of, object_at
from fastrnn.backends.numba_.scan import aligned
from fastrnn.backends.tiled import frame as f
from fastrnn.backends.tiled.outer import CACHE_LINE


@intrinsic
def copy_value(_context: Any, program: Any, _into: Any, _source: Any) -> Any:
    """Copy one value of the program's element type between two addresses."""

    def codegen(target: Any, builder: Any, signature: Any, args: Any) -> Any:
        kind = ir.IntType(8 * signature.args[0].program.dtype.itemsize).as_pointer()
        builder.store(builder.load(builder.inttoptr(args[2], kind)), builder.inttoptr(args[1], kind))
        return cgutils.get_null_value(target.get_value_type(types.none))

    return types.none(program, types.int64, types.int64), codegen


@intrinsic
def value_bytes(_context: Any, program: Any) -> Any:
    """The bytes of such a value."""

    def codegen(_target: Any, _builder: Any, signature: Any, _args: Any) -> Any:
        return ir.IntType(64)(signature.args[0].program.dtype.itemsize)

    return types.int64(program), codegen


@inner
def copy_rows(into, into_step, source, source_step, ahead, count, filled):  # type: ignore[no-untyped-def]
    """So many rows of ``filled`` bytes; what is so many bytes ahead is fetched."""
    for k in range(count):
        to, at = into + k * into_step, source + k * source_step
        fetch_line(to + f.COPY_ROWS_AHEAD * into_step)
        fetch_line(at + ahead)
        if filled == CACHE_LINE:  # then it takes one or a few instructions
            copy_bytes(to, at, CACHE_LINE)
        else:
            copy_bytes(to, at, filled)


@compiled
def copy_weights(program, here, low, high, _start, _stop):  # type: ignore[no-untyped-def]
    """The copies low .. high - 1 of the list in a frame: see `frame.COPIES`."""
    frame, size, square = whole_numbers(here, f.SHORT_SIZE), value_bytes(program), words_on_stack()
    for number in range(low, high):
        copy = whole_numbers(frame[f.COPIES] + 8 * f.COPY_FIELDS * number, f.COPY_FIELDS)
        source = whole_numbers(frame[f.COPY_SOURCES], copy[f.COPY_WEIGHT] + 1)[copy[f.COPY_WEIGHT]]
        source += copy[f.COPY_BEGIN]
        into, into_step = frame[f.COPY_MEMORY] + copy[f.COPY_INTO], copy[f.COPY_INTO_STEP]
        units, unit_step, depth = copy[f.COPY_UNITS], copy[f.COPY_UNIT_STEP], copy[f.COPY_DEPTH]
        filled, rest = units * size, (copy[f.COPY_LANES] - units) * size
        if unit_step == size:
            step = copy[f.COPY_DEPTH_STEP]
            copy_rows(into, into_step, source, step, f.COPY_ROWS_AHEAD * step, depth, filled)
        else:
            # A cache line of each unit, turned round nearby, is read once and written in whole rows.
            for k in range(0, depth, CACHE_LINE // size):
                count = min(CACHE_LINE // size, depth - k)
                for unit in range(units):
                    line = source + unit * unit_step + k * size
                    fetch_line(line + f.COPY_LINES_AHEAD * CACHE_LINE)
                    for column in range(count):
                        copy_value(program, square + column * CACHE_LINE + unit * size, line + column * size)
                copy_rows(into + k * into_step, into_step, square, CACHE_LINE, 0, count, filled)
        if rest > 0:
            for k in range(depth):
                clear_bytes(into + k * into_step + filled, rest)


@compiled
def pack_on(bound_to, given, count):  # type: ignore[no-untyped-def]
    """Write a frame, and make the first copies of those that pack its weights: see `Native.bound_pack`."""
    fits = count == 3
    if fits:
        to, frame, weights = object_at(bound_to), data(argument(given, 0)), argument(given, 1)
        template, places = numbers_of(item(to, 0)), numbers_of(item(to, 1))
        size, number = len(template), count_of(weights)
        copies, sources = frame + 8 * size, frame + 8 * (size + f.SHORT_SIZE)
        packed = aligned(sources + 8 * number)
        fields, call_fields, at = (
            whole_numbers(frame, size), whole_numbers(copies, f.SHORT_SIZE), whole_numbers(sources, number)
        )  # fmt: skip
        for field in range(size):
            fields[field] = template[field] + places[field] * packed
        for weight in range(number):
            at[weight] = data(item(weights, weight))
        copy_bytes(copies, data(item(to, 2)), 8 * f.SHORT_SIZE)
        call_fields[f.COPY_SOURCES], call_fields[f.COPY_MEMORY] = sources, packed
        call(copies, 0, object_to_number(argument(given, 2)), 0, 0)
    return number_to_object(fits)
