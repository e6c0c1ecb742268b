"""What Numba's kernels need to be in LLVM's text, and no result shows: only their speed or another processor would."""

from __future__ import annotations

import re
from collections import Counter
from typing import Any

import numpy as np
import pytest
from numba import njit, types
from numba.extending import intrinsic

from fastrnn.backends.numba_ import host
from fastrnn.backends.numba_.atomics import meet
from fastrnn.backends.numba_.objects import ObjectType
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


BOX, WHOLE, WORDS = ObjectType(), types.int64, types.Array(types.int64, 1, "C")
LOAD, STORE, EXCHANGE, ADD = "load acquire", "store release", "cmpxchg acq_rel acquire", "atomicrmw acq_rel"
ATOMIC = re.compile(r"\b(load|store|cmpxchg|atomicrmw)\b(.*)")
ORDER = re.compile(r"\b(unordered|monotonic|acquire|release|acq_rel|seq_cst)\b")


@njit
def meeting(here):  # type: ignore[no-untyped-def]
    """What all members do after a stage."""
    meet(here)


@pytest.mark.parametrize(
    ("function", "signature", "expected"),
    [
        (host.post, [WHOLE] * 7, [STORE]),
        (host.serve, [BOX, WHOLE], [LOAD, LOAD, STORE, STORE, EXCHANGE, ADD]),
        (host.dismiss, [WORDS, WHOLE], [LOAD, STORE]),
        (host.volley, [BOX, WHOLE], [EXCHANGE, STORE, LOAD, STORE]),
        (host.take, [WORDS, WORDS, WHOLE], [EXCHANGE]),
        (host.rouse, [BOX], [EXCHANGE]),
        (host.expect, [BOX, WHOLE], [LOAD]),
        (meeting, [WHOLE], [STORE, LOAD]),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_who_sees_a_word_sees_what_was_written_before(function: Any, signature: list[Any], expected: list[str]) -> None:
    """An x86 orders plain reads and writes like that by itself; an ARM does what it is told.

    A word may be read or written in more places than are written here, as LLVM copies code, but not in another order.
    """
    plain = njit(nogil=True, error_model="numpy")(function.py_func)  # of one from the disk there is no text
    plain.compile(tuple(signature))
    found = Counter(
        " ".join([kind, *orders])
        for kind, rest in ATOMIC.findall(plain.inspect_llvm(plain.signatures[0]))
        if (orders := ORDER.findall(rest))
    )
    assert found.keys() == set(expected)
    assert Counter(expected) <= found
