"""Compiled functions that the interpreter calls as it calls its own, bound to what each call of them needs, if any.

Numba's way into a compiled function takes its arguments as a tuple, made anew for each call. Here they come where they
lie on the interpreter's stack (``METH_FASTCALL``), which takes a third of the time: much, for a short call.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from functools import cache
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

FASTCALL = 0x80  # METH_FASTCALL
NO_MEMORY_TEXT = "no memory for what a kernel needs"
SIGNATURE = (types.int64,) * 3  # what is bound, where the addresses of the arguments lie, how many these are


class _Definition(ctypes.Structure):
    """``PyMethodDef``."""

    _fields_ = (("name", ctypes.c_char_p), ("meth", ctypes.c_void_p), ("flags", ctypes.c_int), ("doc", ctypes.c_char_p))


# Prototypes of our own: those of `ctypes.pythonapi` are everybody's.
_make = ctypes.PYFUNCTYPE(ctypes.py_object, ctypes.c_void_p, ctypes.py_object, ctypes.c_void_p)(
    ("PyCFunction_NewEx", ctypes.pythonapi)
)
_hold = ctypes.PYFUNCTYPE(None, ctypes.py_object)(("Py_IncRef", ctypes.pythonapi))


@cache
def _definition(at: int) -> _Definition:
    """The definition of the function at an address.

    It is never freed: what is made of it looks at it once more when that is freed, at the end of the process perhaps,
    after this module.
    """
    found = _Definition(b"run", at, FASTCALL, None)
    _hold(found)
    return found


def bound(at: int, to: tuple[Any, ...]) -> Callable[..., Any]:
    """The compiled function at an address, of `SIGNATURE`, bound to a tuple, which it gets as its first argument."""
    made: Callable[..., Any] = _make(ctypes.addressof(_definition(at)), to, None)
    return made


@intrinsic
def number_to_object(_context: Any, number: Any) -> Any:
    """A whole number as Python has it: the address of a new reference."""

    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        made = context.get_python_api(builder).long_from_longlong(args[0])
        return builder.ptrtoint(made, ir.IntType(64))

    return types.int64(types.int64), codegen


@intrinsic
def memory_error(_context: Any) -> Any:
    """Raise `MemoryError` once the address 0, which this is, is returned. Only with the interpreter's lock."""

    def codegen(context: Any, builder: Any, _signature: Any, _args: Any) -> Any:
        context.get_python_api(builder).err_set_string("PyExc_MemoryError", NO_MEMORY_TEXT)
        return ir.IntType(64)(0)

    return types.int64(), codegen


@intrinsic
def object_to_number(_context: Any, thing: Any) -> Any:
    """A whole number of Python's, or a truth value. Only with the interpreter's lock: it may be any object."""

    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        api = context.get_python_api(builder)
        return api.long_as_longlong(builder.inttoptr(args[0], api.pyobj))

    return types.int64(thing), codegen


@intrinsic
def give_up_lock(_context: Any) -> Any:
    """Let other threads have the interpreter; what `get_lock_back` needs. Nothing may raise before that."""

    def codegen(context: Any, builder: Any, _signature: Any, _args: Any) -> Any:
        return builder.ptrtoint(context.get_python_api(builder).save_thread(), ir.IntType(64))

    return types.int64(), codegen


@intrinsic
def get_lock_back(_context: Any, held: Any) -> Any:
    """Wait for the interpreter."""

    def codegen(context: Any, builder: Any, _signature: Any, args: Any) -> Any:
        api = context.get_python_api(builder)
        api.restore_thread(builder.inttoptr(args[0], api.voidptr))
        return context.get_dummy_value()

    return types.none(types.int64), codegen


@intrinsic
def signals_raise(_context: Any) -> Any:
    """Run the handlers of signals that have come; whether one has raised. Then the address 0 is to be returned."""

    def codegen(_target: Any, builder: Any, _signature: Any, _args: Any) -> Any:
        kind = ir.FunctionType(ir.IntType(32), [])
        found = builder.call(cgutils.get_or_insert_function(builder.module, kind, "PyErr_CheckSignals"), [])
        return builder.icmp_signed("!=", found, ir.IntType(32)(0))

    return types.boolean(), codegen
