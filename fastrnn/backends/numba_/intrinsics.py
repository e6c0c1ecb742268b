"""The kernels' own instructions, callable from Numba functions: stages of a program, memory, floating-point modes."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic
from numba.np.arrayobj import populate_array

from fastrnn.backends.numba_.atomics import I64
from fastrnn.backends.numba_.compile import inner
from fastrnn.backends.numba_.vector import Emitter
from fastrnn.backends.tiled.outer import CACHE_LINE, emit_outer, room_bytes
from fastrnn.backends.tiled.program import Program

NUMBERS = types.Array(types.int64, 1, "C")
TABLE = types.Array(types.int64, 2, "C")
WORDS_ON_STACK = 128  # enough for a team's members (`frame.MOST_MEMBERS`), and for a square of values a line wide


@intrinsic(prefer_literal=True)
def run_stages(_context: Any, program: Any, kind: Any, frame: Any, linked: Any, rows: Any) -> Any:
    """Run a program's stages of one kind, a literal; see `tiled.program.Program.emit`."""
    which = kind.literal_value

    def codegen(_target: Any, builder: Any, _signature: Any, args: Any) -> Any:
        found: Program = program.program
        _, _, frame, linked, rows = args
        found.emit(Emitter(builder, found.dtype), which, frame, linked, rows)
        return cgutils.get_null_value(_target.get_value_type(types.none))

    return types.none(program, kind, types.int64, types.int64, types.int64), codegen


@intrinsic
def outer_product(_context, program, frame, low, high, more, rows, room):  # type: ignore[no-untyped-def]
    """Some rows of a weight gradient; see `tiled.outer.emit_outer`."""

    def codegen(target: Any, builder: Any, _signature: Any, args: Any) -> Any:
        emit_outer(Emitter(builder, program.program.dtype), *args[1:])
        return cgutils.get_null_value(target.get_value_type(types.none))

    return types.none(program, *[types.int64] * 6), codegen


@intrinsic
def outer_room(_context, program):  # type: ignore[no-untyped-def]
    """The bytes that a weight gradient needs, from a cache line on."""

    def codegen(_target: Any, builder: Any, _signature: Any, _args: Any) -> Any:
        emit = Emitter(builder, program.program.dtype)
        return I64(room_bytes(emit.target, emit.size))

    return types.int64(program), codegen


def array_at(target: Any, builder: Any, signature: Any, args: Any) -> Any:
    """Code for a contiguous int64 array of an address and its sizes, one for each axis."""
    address, *sizes = args
    made = target.make_array(signature.return_type)(target, builder)
    strides = [I64(8)]
    for size in reversed(sizes[1:]):
        strides.insert(0, builder.mul(strides[0], size))
    values = builder.inttoptr(address, I64.as_pointer())
    populate_array(made, data=values, shape=sizes, strides=strides, itemsize=I64(8), meminfo=None)
    return made._getvalue()


@intrinsic
def whole_numbers(_context: Any, _address: Any, _count: Any) -> Any:
    """The int64 array of ``count`` values at an address."""
    return NUMBERS(types.int64, types.int64), array_at


@intrinsic
def whole_table(_context: Any, _address: Any, _rows: Any, _width: Any) -> Any:
    """The int64 array of two axes at an address."""
    return TABLE(types.int64, types.int64, types.int64), array_at


@intrinsic
def allocate(_context: Any, count: Any) -> Any:
    """The address of so many bytes, until `free`; 0 if there is no memory.

    A new array would raise then, of which the caller of a function by its address learns nothing.
    """

    def codegen(target: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.ptrtoint(target.nrt.allocate_unchecked(builder, args[0]), I64)

    return types.int64(types.int64), codegen


@intrinsic
def free(_context: Any, address: Any) -> Any:
    """Give back what `allocate` gave, or 0."""

    def codegen(target: Any, builder: Any, _signature: Any, args: Any) -> Any:
        target.nrt.free(builder, builder.inttoptr(args[0], cgutils.voidptr_t))
        return cgutils.get_null_value(target.get_value_type(types.none))

    return types.none(types.int64), codegen


@intrinsic
def words_on_stack(_context: Any) -> Any:
    """The address of `WORDS_ON_STACK` int64 words that live as long as the function, and cannot be missing.

    They begin on a cache line.
    """

    def codegen(_target: Any, builder: Any, _signature: Any, _args: Any) -> Any:
        words = cgutils.alloca_once(builder, I64, WORDS_ON_STACK)
        words.align = CACHE_LINE
        return builder.ptrtoint(words, I64)

    return types.int64(), codegen


@intrinsic
def keep(_context: Any, array: Any) -> Any:
    """Nothing but a last use: an array of which only the address is used would be freed right after it was taken."""

    def codegen(target: Any, _builder: Any, _signature: Any, _args: Any) -> Any:
        return cgutils.get_null_value(target.get_value_type(types.none))

    return types.none(array), codegen


@intrinsic
def one_by_one(_context: Any, index: Any) -> Any:
    """The index of a loop of a few rounds: the compiler would make vectors of them, which takes longer than they do."""

    def codegen(_target: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.asm(ir.FunctionType(I64, [I64]), "", "=r,0", args, side_effect=True)

    return types.int64(types.int64), codegen


@intrinsic
def copy_bytes(_context: Any, into: Any, source: Any, count: Any) -> Any:
    """Copy ``count`` bytes between two addresses."""

    def codegen(target: Any, builder: Any, _signature: Any, args: Any) -> Any:
        byte = ir.IntType(8).as_pointer()
        cgutils.raw_memcpy(builder, builder.inttoptr(args[0], byte), builder.inttoptr(args[1], byte), args[2], 1)
        return cgutils.get_null_value(target.get_value_type(types.none))

    return types.none(types.int64, types.int64, types.int64), codegen


@intrinsic
def clear_bytes(_context: Any, into: Any, count: Any) -> Any:
    """Set ``count`` bytes from an address on to zero."""

    def codegen(target: Any, builder: Any, _signature: Any, args: Any) -> Any:
        byte = ir.IntType(8)
        cgutils.memset(builder, builder.inttoptr(args[0], byte.as_pointer()), args[1], 0)
        return cgutils.get_null_value(target.get_value_type(types.none))

    return types.none(types.int64, types.int64), codegen


@intrinsic
def fetch_line(_context: Any, address: Any) -> Any:
    """Ask for the cache line at an address, which is needed soon but not at once; it may be any address."""

    def codegen(target: Any, builder: Any, _signature: Any, args: Any) -> Any:
        pointer, whole = builder.inttoptr(args[0], ir.IntType(8).as_pointer()), ir.IntType(32)
        kind = ir.FunctionType(ir.VoidType(), [pointer.type, whole, whole, whole])
        fetch = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
        to_read, to_second_cache, data = whole(0), whole(2), whole(1)
        builder.call(fetch, [pointer, to_read, to_second_cache, data])
        return cgutils.get_null_value(target.get_value_type(types.none))

    return types.none(types.int64), codegen


@inner
def fetch_bytes(address, count):  # type: ignore[no-untyped-def]
    """`fetch_line` for all lines of ``count`` bytes."""
    for line in range(address // CACHE_LINE, (address + count - 1) // CACHE_LINE + 1):
        fetch_line(line * CACHE_LINE)


_FLUSH = {"x86": 0x8040, "aarch64": 1 << 24}  # MXCSR: flush to zero, denormals are zero; FPCR: FZ


def _architecture(context: Any) -> str:
    triple = context.codegen()._tm.triple if hasattr(context.codegen(), "_tm") else ""
    return "aarch64" if triple.startswith(("aarch64", "arm64")) else "x86"


@intrinsic
def flush_denormals(_context: Any) -> Any:
    """Treat denormal numbers as zero from here on; returns the mode before, for `restore_mode`."""

    def codegen(target: Any, builder: Any, _signature: Any, _args: Any) -> Any:
        if _architecture(target) == "aarch64":
            kind = ir.FunctionType(I64, [])
            before = builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.aarch64.get.fpcr"), [])
            _set_arm_mode(builder, builder.or_(before, I64(_FLUSH["aarch64"])))
            return before
        slot = cgutils.alloca_once(builder, ir.IntType(32))
        _mxcsr(builder, "llvm.x86.sse.stmxcsr", slot)
        before = builder.load(slot)
        builder.store(builder.or_(before, ir.Constant(ir.IntType(32), _FLUSH["x86"])), slot)
        _mxcsr(builder, "llvm.x86.sse.ldmxcsr", slot)
        return builder.zext(before, I64)

    return types.int64(), codegen


@intrinsic
def restore_mode(_context: Any, mode: Any) -> Any:
    """Undo `flush_denormals`."""

    def codegen(target: Any, builder: Any, _signature: Any, args: Any) -> Any:
        if _architecture(target) == "aarch64":
            _set_arm_mode(builder, args[0])
        else:
            slot = cgutils.alloca_once(builder, ir.IntType(32))
            builder.store(builder.trunc(args[0], ir.IntType(32)), slot)
            _mxcsr(builder, "llvm.x86.sse.ldmxcsr", slot)
        return cgutils.get_null_value(target.get_value_type(types.none))

    return types.none(types.int64), codegen


def _mxcsr(builder: Any, name: str, slot: Any) -> None:
    byte = ir.IntType(8).as_pointer()
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.VoidType(), [byte]), name)
    builder.call(function, [builder.bitcast(slot, byte)])


def _set_arm_mode(builder: Any, mode: Any) -> None:
    kind = ir.FunctionType(ir.VoidType(), [I64])
    builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.aarch64.set.fpcr"), [mode])
