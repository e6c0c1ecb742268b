"""Python's arrays as C sees them: handed to a compiled function as the address of the object.

Numba's own way takes each array apart, which is a good part of a short call. A step's x and y, which are the caller's,
are checked here, for what Python would check takes more than a small step; all else is as the library made it, arrays
and tuples, and trusted. The fields are those of ``PyArrayObject`` and ``PyArray_Descr``, which are part of NumPy's
binary interface: every compiled extension reads them where they are read here.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.core.pythonapi import NativeValue
from numba.extending import intrinsic, models, register_model, unbox

from fastrnn.backends.numba_.atomics import I64
from fastrnn.backends.numba_.compile import inner
from fastrnn.backends.numba_.intrinsics import NUMBERS, TABLE, array_at, whole_numbers
from fastrnn.backends.tiled import frame as f

# In words of 8 bytes, after what every object begins with (and the last word of which is its type).
HEAD = object.__basicsize__ // 8
DATA, AXES, SIZES, STRIDES, DTYPE, FLAGS = HEAD, HEAD + 1, HEAD + 2, HEAD + 3, HEAD + 5, HEAD + 6
TYPE, WORDS = HEAD - 1, HEAD + 7
CONTIGUOUS, ALIGNED, WRITEABLE = 0x1, 0x100, 0x400  # NPY_ARRAY_C_CONTIGUOUS and so on
KIND = HEAD + 1  # of a dtype: two bytes, then the byte order, a byte, and four of the type's number
NATIVE = ord("=")
HALF = 0xFFFFFFFF
ITEMS = tuple.__basicsize__  # bytes into a tuple, where the addresses of what it holds begin


class ObjectType(types.Opaque):
    """Any Python object, by its address."""

    def __init__(self) -> None:
        super().__init__(name="fastrnn.Object")


@register_model(ObjectType)
class _ObjectModel(models.PrimitiveModel):
    def __init__(self, manager: Any, kind: Any) -> None:
        super().__init__(manager, kind, ir.IntType(64))


@unbox(ObjectType)
def _unbox(_kind: Any, value: Any, context: Any) -> NativeValue:
    return NativeValue(context.builder.ptrtoint(value, ir.IntType(64)))


@intrinsic
def object_at(_context: Any, _at: Any) -> Any:
    """The object at an address."""

    def codegen(_target: Any, _builder: Any, _signature: Any, args: Any) -> Any:
        return args[0]

    return ObjectType()(types.int64), codegen


@inner
def plain_axes(thing, table, width, flags):  # type: ignore[no-untyped-def]
    """The axes of a plain array of a step's dtype, rows and ``width``: 2, of one row also 1. 0 for anything else."""
    array = words(thing)
    if array[TYPE] != table[f.STEP_ARRAY]:  # then the other words may not even be there
        return 0
    kind = whole_numbers(array[DTYPE], WORDS)[KIND]
    if kind >> 32 != table[f.STEP_DTYPE] or kind >> 16 & 0xFF != NATIVE or array[FLAGS] & flags != flags:
        return 0
    axes = array[AXES] & HALF
    sizes = whole_numbers(array[SIZES], 2)
    if axes == 2 and sizes[0] == table[f.STEP_ROWS] and sizes[1] == width:
        return 2
    return 1 if axes == 1 and table[f.STEP_ROWS] == 1 and sizes[0] == width else 0


def _load_word(builder: Any, at: Any, word: int = 0) -> Any:
    return builder.load(builder.inttoptr(builder.add(at, I64(8 * word)), I64.as_pointer()))


def _held(builder: Any, things: Any, index: Any) -> Any:
    return _load_word(builder, builder.add(things, builder.mul(index, I64(8))), ITEMS // 8)


@intrinsic
def item(_context: Any, things: Any, _index: Any) -> Any:
    """What a tuple holds."""

    def codegen(_target: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return _held(builder, *args)

    return ObjectType()(things, types.int64), codegen


@intrinsic
def argument(_context: Any, _given: Any, _index: Any) -> Any:
    """One of the arguments at an address."""

    def codegen(_target: Any, builder: Any, _signature: Any, args: Any) -> Any:
        given, index = args
        return _load_word(builder, builder.add(given, builder.mul(index, I64(8))))

    return ObjectType()(types.int64, types.int64), codegen


@intrinsic
def count_of(_context: Any, things: Any) -> Any:
    """How many things a tuple holds."""

    def codegen(_target: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return _load_word(builder, args[0], HEAD)

    return types.int64(things), codegen


@intrinsic
def data(_context: Any, thing: Any) -> Any:
    """Where an array's values begin."""

    def codegen(_target: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return _load_word(builder, args[0], DATA)

    return types.int64(thing), codegen


@intrinsic
def words(_context: Any, thing: Any) -> Any:
    """The words of an array."""

    def codegen(target: Any, builder: Any, signature: Any, args: Any) -> Any:
        return array_at(target, builder, signature, [args[0], I64(WORDS)])

    return NUMBERS(thing), codegen


@intrinsic
def words_in(_context: Any, things: Any, _index: Any) -> Any:
    """The words of an array that a tuple holds."""

    def codegen(target: Any, builder: Any, signature: Any, args: Any) -> Any:
        return array_at(target, builder, signature, [_held(builder, *args), I64(WORDS)])

    return NUMBERS(things, types.int64), codegen


@intrinsic
def sizes(_context: Any, thing: Any) -> Any:
    """The sizes of an array's first two axes; of one axis only the first is to be used."""

    def codegen(target: Any, builder: Any, signature: Any, args: Any) -> Any:
        return array_at(target, builder, signature, [_load_word(builder, args[0], SIZES), I64(2)])

    return NUMBERS(thing), codegen


@intrinsic
def numbers_of(_context: Any, thing: Any) -> Any:
    """A contiguous int64 array of one axis."""

    def codegen(target: Any, builder: Any, signature: Any, args: Any) -> Any:
        return array_at(target, builder, signature, _at_and_sizes(builder, args[0], 1))

    return NUMBERS(thing), codegen


@intrinsic
def table_in(_context: Any, things: Any, _index: Any) -> Any:
    """A contiguous int64 array of two axes that a tuple holds."""

    def codegen(target: Any, builder: Any, signature: Any, args: Any) -> Any:
        return array_at(target, builder, signature, _at_and_sizes(builder, _held(builder, *args), 2))

    return TABLE(things, types.int64), codegen


def _at_and_sizes(builder: Any, thing: Any, axes: int) -> list[Any]:
    found = _load_word(builder, thing, SIZES)
    return [_load_word(builder, thing, DATA)] + [_load_word(builder, found, axis) for axis in range(axes)]
