"""What threads that work together need: atomic reads and writes, a meeting after each stage, calls by address.

Memory that threads share is read by ``load_acquire`` and written by ``store_release``: what a thread has written before
the one is there for whoever sees its value by the other.
"""

from __future__ import annotations

import sys
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import intrinsic

from fastrnn.backends.tiled import frame as f

I64, I32, I1 = (ir.IntType(bits) for bits in (64, 32, 1))
SPINS = 1024  # looks between two offers to let another thread run: some 20 us
WORD = 8  # bytes


def emit_pause(builder: Any) -> None:
    """Let the processor's other hardware thread run for a moment, and save energy."""
    if str(builder.module.triple).startswith(("aarch64", "arm64")):
        kind = ir.FunctionType(ir.VoidType(), [I32])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.aarch64.hint"), [I32(1)])
    else:
        kind = ir.FunctionType(ir.VoidType(), [])
        builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse2.pause"), [])


def emit_give_way(builder: Any) -> None:
    """Let another thread of the system run: the one that is waited for may have no processor."""
    name = "SwitchToThread" if sys.platform == "win32" else "sched_yield"
    function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(I32, []), name)
    builder.call(function, [])


def _word(builder: Any, address: Any) -> Any:
    return builder.inttoptr(address, I64.as_pointer())


def emit_meeting(builder: Any, frame: Any) -> None:
    """Wait until all members of the frame's team are here; nothing where there is none."""
    team = builder.load(_word(builder, builder.add(frame, I64(8 * f.TEAM))))
    with builder.if_then(builder.icmp_signed(">", team, I64(1)), likely=False):
        builder.call(_meeting(builder.module), [frame])


def _meeting(module: Any) -> Any:
    """The function that waits: count my own stages, then look until everyone has counted as many."""
    name = "fastrnn_meeting"
    if name in module.globals:
        return module.globals[name]
    function = ir.Function(module, ir.FunctionType(ir.VoidType(), [I64]), name)
    function.linkage = "internal"
    function.attributes.add("noinline")
    b = ir.IRBuilder(function.append_basic_block("entry"))
    (frame,) = function.args
    team, member, counters = (
        b.load(_word(b, b.add(frame, I64(8 * field)))) for field in (f.TEAM, f.MEMBER, f.COUNTERS)
    )
    mine = _word(b, b.add(counters, b.mul(member, I64(f.COUNTER_BYTES))))
    count = b.add(b.load(mine), I64(1))
    b.store_atomic(count, mine, "release", WORD)
    waits = _word(b, b.add(counters, b.add(b.mul(member, I64(f.COUNTER_BYTES)), I64(8))))
    with cgutils.for_range(b, team) as everyone:
        theirs = _word(b, b.add(counters, b.mul(everyone.index, I64(f.COUNTER_BYTES))))
        emit_wait(b, lambda: b.icmp_signed(">=", b.load_atomic(theirs, "acquire", WORD), count), waits)
    b.ret_void()
    return function


def emit_wait(builder: Any, is_done: Any, waits: Any) -> None:
    """Look until ``is_done()`` is true; count at ``waits`` how often that takes long."""
    looks = cgutils.alloca_once_value(builder, I64(0))
    look, again = builder.append_basic_block("look"), builder.append_basic_block("again")
    rest, done = builder.append_basic_block("rest"), builder.append_basic_block("done")
    builder.branch(look)
    builder.position_at_end(look)
    builder.cbranch(is_done(), done, again)
    builder.position_at_end(again)
    emit_pause(builder)
    count = builder.add(builder.load(looks), I64(1))
    builder.store(count, looks)
    builder.cbranch(builder.icmp_signed("==", builder.srem(count, I64(SPINS)), I64(0)), rest, look)
    builder.position_at_end(rest)
    builder.store(builder.add(builder.load(waits), I64(1)), waits)
    emit_give_way(builder)
    builder.branch(look)
    builder.position_at_end(done)


def _nothing(target: Any) -> Any:
    return cgutils.get_null_value(target.get_value_type(types.none))


@intrinsic
def meet(_context: Any, frame: Any) -> Any:
    """Wait until all members of the frame's team are here."""

    def codegen(target: Any, builder: Any, _signature: Any, args: Any) -> Any:
        emit_meeting(builder, args[0])
        return _nothing(target)

    return types.none(types.int64), codegen


@intrinsic
def pause(_context: Any) -> Any:
    """A moment's rest in a loop that looks for a change."""

    def codegen(target: Any, builder: Any, _signature: Any, _args: Any) -> Any:
        emit_pause(builder)
        return _nothing(target)

    return types.none(), codegen


@intrinsic
def give_way(_context: Any) -> Any:
    """Let another thread of the system run."""

    def codegen(target: Any, builder: Any, _signature: Any, _args: Any) -> Any:
        emit_give_way(builder)
        return _nothing(target)

    return types.none(), codegen


@intrinsic
def load_acquire(_context: Any, address: Any) -> Any:
    """The int64 at an address."""

    def codegen(_target: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.load_atomic(_word(builder, args[0]), "acquire", WORD)

    return types.int64(types.int64), codegen


@intrinsic
def store_release(_context: Any, address: Any, value: Any) -> Any:
    """Write an int64 to an address."""

    def codegen(target: Any, builder: Any, _signature: Any, args: Any) -> Any:
        builder.store_atomic(args[1], _word(builder, args[0]), "release", WORD)
        return _nothing(target)

    return types.none(types.int64, types.int64), codegen


@intrinsic
def exchange_if(_context: Any, address: Any, expected: Any, value: Any) -> Any:
    """Write ``value`` to an address if ``expected`` is there; whether it was."""

    def codegen(_target: Any, builder: Any, _signature: Any, args: Any) -> Any:
        found = builder.cmpxchg(_word(builder, args[0]), args[1], args[2], "acq_rel", "acquire")
        return builder.extract_value(found, 1)

    return types.boolean(types.int64, types.int64, types.int64), codegen


@intrinsic
def fetch_add(_context: Any, address: Any, value: Any) -> Any:
    """Add to the int64 at an address; what was there before."""

    def codegen(_target: Any, builder: Any, _signature: Any, args: Any) -> Any:
        return builder.atomic_rmw("add", _word(builder, args[0]), args[1], "acq_rel")

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def wait_for(_context: Any, address: Any, value: Any) -> Any:
    """Look at an address until ``value`` is there; how often that took long."""

    def codegen(_target: Any, builder: Any, _signature: Any, args: Any) -> Any:
        word, value = _word(builder, args[0]), args[1]
        waits = cgutils.alloca_once_value(builder, I64(0))
        emit_wait(builder, lambda: builder.icmp_signed("==", builder.load_atomic(word, "acquire", WORD), value), waits)
        return builder.load(waits)

    return types.int64(types.int64, types.int64), codegen


@intrinsic
def call_kernel(
    _context: Any, kernel: Any, program: Any, frame: Any, low: Any, high: Any, start: Any, stop: Any
) -> Any:
    """Call the compiled scan at an address."""

    def codegen(target: Any, builder: Any, _signature: Any, args: Any) -> Any:
        kind = ir.FunctionType(ir.VoidType(), [I64] * 6)
        builder.call(builder.inttoptr(args[0], kind.as_pointer()), list(args[1:]))
        return _nothing(target)

    return types.none(*[types.int64] * 7), codegen
