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

from fastrnn.backends.numba_.compile import inner
from fastrnn.backends.numba_.intrinsics import whole_numbers
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
def _address(_context: Any, thing: Any) -> Any:
    def codegen(_target: Any, _builder: Any, _signature: Any, args: Any) -> Any:
        return args[0]

    return types.int64(thing), codegen


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


@inner
def words(thing):  # type: ignore[no-untyped-def]
    """The words of an array."""
    return whole_numbers(_address(thing), WORDS)


@inner
def words_in(things, index):  # type: ignore[no-untyped-def]
    """The words of an array that a tuple holds."""
    return words(item(things, index))


@inner
def count_of(things):  # type: ignore[no-untyped-def]
    """How many things a tuple holds."""
    return whole_numbers(_address(things), HEAD + 1)[HEAD]


@inner
def item(things, index):  # type: ignore[no-untyped-def]
    """What a tuple holds."""
    return object_at(whole_numbers(_address(things) + ITEMS, index + 1)[index])


@inner
def data(thing):  # type: ignore[no-untyped-def]
    """Where an array's values begin."""
    return words(thing)[DATA]


@inner
def sizes(thing):  # type: ignore[no-untyped-def]
    """The sizes of an array's first two axes; of one axis only the first is to be used."""
    return whole_numbers(words(thing)[SIZES], 2)


@inner
def numbers_of(thing):  # type: ignore[no-untyped-def]
    """A contiguous int64 array of one axis."""
    return whole_numbers(data(thing), sizes(thing)[0])
