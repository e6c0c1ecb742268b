"""What Numba's kernels need LLVM to leave alone, and no result shows: only their speed would tell."""

from __future__ import annotations

from typing import Any

import numpy as np
from numba import njit, types
from numba.extending import intrinsic

from fastrnn.backends.numba_.vector import Emitter
from fastrnn.backends.tiled.chains import CHAIN

SIGNATURE = (types.int64, types.int64)


@intrinsic
def add_squares(_context: Any, _address: Any, _count: Any) -> Any:
    """A loop of one multiply-add, as long as a chain at most; the sums go back to the address."""

    def codegen(_target: Any, builder: Any, _signature: Any, args: Any) -> Any:
        emit = Emitter(builder, np.dtype(np.float32))
        address, count = args
        stop = emit.lesser(count, emit.whole(CHAIN))
        with emit.loop(emit.whole(0), stop, 1, [emit.const(0.0)]) as (index, (total,), following):
            value = emit.value(emit.values(address), index)
            following.append(emit.fma(value, value, total))
        emit.store(address, following[0])
        return emit.whole(0)

    return types.int64(*SIGNATURE), codegen


@intrinsic
def choose(_context: Any, _a: Any, _b: Any) -> Any:
    """100 * (a / b) + a * b if a is not zero, which are made where they are needed; else 100 * a + b."""

    def codegen(_target: Any, builder: Any, _signature: Any, args: Any) -> Any:
        emit = Emitter(builder, np.dtype(np.float32))
        a, b = args
        flag = emit.differ(a, emit.whole(0))
        first, second = emit.choose_made(flag, lambda: [emit.quotient(a, b), emit.times(a, b)], [a, b])
        return emit.sum(emit.times(first, 100), second)

    return types.int64(*SIGNATURE), codegen


def test_numbers_are_chosen() -> None:
    """Members of a team that all took what a thread by itself takes would compute everything, with the same bits."""

    @njit
    def call(a, b):  # type: ignore[no-untyped-def]
        return choose(a, b)

    assert call(7, 2) == 314
    assert call(0, 5) == 5
    assert call(0, 0) == 0  # and does not divide


def test_loops_stay_as_they_are_written() -> None:
    """LLVM writes such a loop out by itself; those of a tile then need more addresses than there are registers."""

    @njit
    def call(address, count):  # type: ignore[no-untyped-def]
        return add_squares(address, count)

    call.compile(SIGNATURE)
    lines = call.inspect_llvm(SIGNATURE).splitlines()
    additions = [line for line in lines if "= fadd" in line or ("call" in line and "@llvm.fma." in line)]
    assert len(additions) == 1, additions
