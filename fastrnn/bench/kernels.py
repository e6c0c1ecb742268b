"""The loops that measure the machine, written as LLVM instructions and compiled by Numba.

Vectors are as wide as the caller says; LLVM splits them where the machine's are narrower, so that the fastest of some
widths and numbers of accumulators is the machine's peak, whatever the machine.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from llvmlite import ir
from numba import njit, types
from numba.core import cgutils
from numba.extending import intrinsic

_I64, _F32 = ir.IntType(64), ir.FloatType()

Kernel = Callable[..., Any]


def _vector(lanes: int, value: float | None = None) -> Any:
    kind = ir.VectorType(_F32, lanes)
    return kind if value is None else ir.Constant(kind, [value] * lanes)


def _loop(builder: Any, count: Any, starts: list[Any], body: Callable[[Any, list[Any]], list[Any]]) -> list[Any]:
    """A counted loop, at least once; the values that it carries are those that ``body`` gives."""
    before = builder.block
    inside, after = builder.append_basic_block("loop"), builder.append_basic_block("after")
    builder.branch(inside)
    builder.position_at_end(inside)
    index = builder.phi(_I64)
    carried = [builder.phi(start.type) for start in starts]
    results = body(index, carried)
    following = builder.add(index, _I64(1))
    builder.cbranch(builder.icmp_signed("<", following, count), inside, after)
    index.add_incoming(_I64(0), before)
    index.add_incoming(following, inside)
    for phi, start, result in zip(carried, starts, results, strict=True):
        phi.add_incoming(start, before)
        phi.add_incoming(result, inside)
    builder.position_at_end(after)
    return results


def _total(builder: Any, vectors: list[Any]) -> Any:
    """One number that depends on all lanes of all vectors, so that nothing of them can be left out."""
    total = vectors[0]
    for vector in vectors[1:]:
        total = builder.fadd(total, vector)
    lanes = [builder.extract_element(total, ir.Constant(ir.IntType(32), k)) for k in range(total.type.count)]
    number = lanes[0]
    for lane in lanes[1:]:
        number = builder.fadd(number, lane)
    return number


def _multiply_add(builder: Any, lanes: int) -> Any:
    """In one instruction where the processor has it, in two where it has not."""
    kind = _vector(lanes)
    return cgutils.get_or_insert_function(
        builder.module, ir.FunctionType(kind, [kind] * 3), f"llvm.fmuladd.v{lanes}f32"
    )


def multiply_add(lanes: int, accumulators: int) -> Kernel:
    """``f(n)``: n rounds of independent multiply-adds, one for each accumulator."""

    @intrinsic  # type: ignore[untyped-decorator]
    def rounds(_context: Any, count: Any) -> Any:
        def codegen(_target: Any, builder: Any, _signature: Any, args: Any) -> Any:
            fma = _multiply_add(builder, lanes)
            starts = [_vector(lanes, 0.5 + k) for k in range(accumulators)]
            scale, shift = _vector(lanes, 0.999), _vector(lanes, 0.001)
            return _total(
                builder, _loop(builder, args[0], starts, lambda _, v: [builder.call(fma, [a, scale, shift]) for a in v])
            )

        return types.float32(types.int64), codegen

    return _compiled(rounds)


def activations(lanes: int, chains: int) -> Kernel:
    """``f(n)``: n rounds of rational functions of the degrees a float32 tanh takes, one vector for each chain."""

    @intrinsic  # type: ignore[untyped-decorator]
    def rounds(_context: Any, count: Any) -> Any:
        def codegen(_target: Any, builder: Any, _signature: Any, args: Any) -> Any:
            fma = _multiply_add(builder, lanes)

            def tanh(x: Any) -> Any:
                for limit, order in ((_vector(lanes, -8.0), "<"), (_vector(lanes, 8.0), ">")):
                    x = builder.select(builder.fcmp_ordered(order, x, limit), limit, x)
                square = builder.fmul(x, x)
                p, q = _vector(lanes, 1e-3), _vector(lanes, 1e-3)
                for k in range(6):
                    p = builder.call(fma, [p, square, _vector(lanes, 1.0 + k)])
                for k in range(3):
                    q = builder.call(fma, [q, square, _vector(lanes, 2.0 + k)])
                return builder.fdiv(builder.fmul(x, p), q)

            starts = [_vector(lanes, 0.1 + k) for k in range(chains)]
            return _total(builder, _loop(builder, args[0], starts, lambda _, v: [tanh(x) for x in v]))

        return types.float32(types.int64), codegen

    return _compiled(rounds)


def _compiled(rounds: Any) -> Kernel:
    @njit("float32(int64)", nogil=True)  # type: ignore[untyped-decorator]
    def kernel(count: Any) -> Any:
        return rounds(count)

    compiled: Kernel = kernel
    return compiled


class Reader(NamedTuple):
    """``kernel(address, blocks, passes)`` reads so many blocks, ``block`` bytes each, from each of its regions, which
    follow one another, so many times over."""

    kernel: Kernel
    block: int
    regions: int


def read(lanes: int, streams: int, regions: int) -> Reader:
    """A reader that adds what it reads: a block is one vector for each of some independent sums.

    It walks through all regions side by side: a processor fetches ahead for each, and some give more that way.
    """

    @intrinsic  # type: ignore[untyped-decorator]
    def once(_context: Any, address: Any, blocks: Any, start: Any) -> Any:
        def codegen(_target: Any, builder: Any, _signature: Any, args: Any) -> Any:
            pointer = _vector(lanes).as_pointer()
            first = builder.insert_element(_vector(lanes, 0.0), args[2], ir.Constant(ir.IntType(32), 0))

            def body(index: Any, sums: list[Any]) -> list[Any]:
                places = [builder.add(index, builder.mul(args[1], _I64(r))) for r in range(regions)]
                bases = [builder.add(args[0], builder.mul(place, _I64(4 * lanes * streams))) for place in places]
                addresses = [builder.add(base, _I64(4 * lanes * k)) for base in bases for k in range(streams)]
                loads = [builder.load(builder.inttoptr(a, pointer), align=4 * lanes) for a in addresses]
                return [builder.fadd(a, b) for a, b in zip(sums, loads, strict=True)]

            return _total(builder, _loop(builder, args[1], [first] * (regions * streams), body))

        return types.float32(types.int64, types.int64, types.float32), codegen

    @njit("float32(int64, int64, int64)", nogil=True)  # type: ignore[untyped-decorator]
    def kernel(address: Any, blocks: Any, passes: Any) -> Any:
        total = types.float32(0)
        for _ in range(passes):
            total = once(address, blocks, total)  # each pass depends on the last: none can be left out
        return total

    return Reader(kernel, 4 * lanes * streams, regions)


def volley() -> Kernel:
    """``f(address, mine, other, n)``: wait for ``mine`` at the address, put ``other`` there, n times. Two play it.

    Gives up after two hundred million looks, so that a partner who never comes is no deadlock. Returns how many
    rounds were played.
    """

    @intrinsic  # type: ignore[untyped-decorator]
    def look(_context: Any, address: Any) -> Any:
        def codegen(_target: Any, builder: Any, _signature: Any, args: Any) -> Any:
            return builder.load_atomic(builder.inttoptr(args[0], _I64.as_pointer()), "acquire", 8)

        return types.int64(types.int64), codegen

    @intrinsic  # type: ignore[untyped-decorator]
    def put(_context: Any, address: Any, value: Any) -> Any:
        def codegen(_target: Any, builder: Any, _signature: Any, args: Any) -> Any:
            builder.store_atomic(args[1], builder.inttoptr(args[0], _I64.as_pointer()), "release", 8)
            return _I64(0)

        return types.int64(types.int64, types.int64), codegen

    @njit("int64(int64, int64, int64, int64)", nogil=True)  # type: ignore[untyped-decorator]
    def kernel(address: Any, mine: Any, other: Any, rounds: Any) -> Any:
        looks = 0
        for played in range(rounds):
            while look(address) != mine:
                looks += 1
                if looks > 200_000_000:
                    return played
            put(address, other)
        return rounds

    compiled: Kernel = kernel
    return compiled
