"""What kernels are emitted with: one interface, which LLVM instructions and C text implement alike.

The tile, the stages and a cell's arithmetic are written once against it, so that both round alike, whatever stands
around an equation: what is fused into one multiply-add is written so, and nothing else is.

Values are whole numbers (64 bits, addresses among them), flags, or vectors of `Emitter.lanes` values. What they are in
Python is the emitter's own affair; each is made once and never changes.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import numpy as np

from fastrnn.backends.tiled.target import Target

WHOLE, FLAG = "whole", "flag"  # the kinds of a function's arguments
Body = Callable[[Any, list[Any]], None]  # emits a function's body, given its emitter and its arguments


class Emitter(ABC):
    """Emits for one element type and one target, at one place of one function."""

    def __init__(self, dtype: np.dtype[Any], target: Target) -> None:
        self.dtype, self.target = dtype, target
        self.bits, self.size, self.lanes = dtype.itemsize * 8, dtype.itemsize, target.lanes(dtype)

    # Whole numbers and flags -----------------------------------------------------------------------------------------

    @abstractmethod
    def whole(self, value: int) -> Any:
        """A constant."""

    def varying(self, value: int) -> Any:
        """The same, of a number in which functions that are alike but for it may be made one, to be called with it."""
        return self.whole(value)

    @abstractmethod
    def flag(self, value: bool) -> Any:
        """A constant."""

    @abstractmethod
    def sum(self, *terms: Any) -> Any:
        """The sum of whole numbers."""

    @abstractmethod
    def difference(self, a: Any, b: Any) -> Any:
        """a - b."""

    @abstractmethod
    def times(self, a: Any, b: Any) -> Any:
        """a * b; b may be a Python integer."""

    @abstractmethod
    def quotient(self, a: Any, b: Any) -> Any:
        """a / b of numbers that are not negative, without its remainder."""

    @abstractmethod
    def equal(self, a: Any, b: Any) -> Any:
        """The flag a == b."""

    @abstractmethod
    def less(self, a: Any, b: Any) -> Any:
        """The flag a < b."""

    @abstractmethod
    def differ(self, a: Any, b: Any) -> Any:
        """The flag a != b."""

    @abstractmethod
    def lesser(self, a: Any, b: Any) -> Any:
        """The smaller whole number."""

    @abstractmethod
    def greater(self, a: Any, b: Any) -> Any:
        """The larger whole number."""

    @abstractmethod
    def choose(self, flag: Any, a: Any, b: Any) -> Any:
        """a if the flag is set, else b: two whole numbers or two vectors."""

    # Control ---------------------------------------------------------------------------------------------------------

    @abstractmethod
    def when(self, flag: Any) -> AbstractContextManager[None]:
        """What is emitted within runs if the flag is set."""

    @abstractmethod
    def either(self, flag: Any) -> AbstractContextManager[tuple[Any, Any]]:
        """Two contexts: what is emitted within the first runs if the flag is set, else that within the second."""

    @abstractmethod
    def choose_made(self, flag: Any, make: Callable[[], Sequence[Any]], otherwise: Sequence[Any]) -> list[Any]:
        """Whole numbers: those of ``make``, whose instructions run only if the flag is set, else the others."""

    @abstractmethod
    def loop(
        self, start: Any, stop: Any, step: int, carried: list[Any]
    ) -> AbstractContextManager[tuple[Any, list[Any], list[Any]]]:
        """``for index in range(start, stop, step)`` while a full step remains.

        Yields (index, values, next): ``values`` are the carried vectors inside; put their successors into ``next``.
        After the block, ``next`` holds the values at the loop's end and ``next[-1]`` the index there.
        """

    @abstractmethod
    def function(self, name: str, kinds: Sequence[str], body: Body) -> Callable[..., None]:
        """A function of its own, never inlined, without a result; returns ``call(emit, *args)``, which emits a call."""

    @abstractmethod
    def meet(self, frame: Any) -> None:
        """Wait until all members of the frame's team are here; nothing where there is none."""

    # Memory ----------------------------------------------------------------------------------------------------------

    @abstractmethod
    def read_whole(self, address: Any) -> Any:
        """The whole number at an address."""

    @abstractmethod
    def load(self, address: Any) -> Any:
        """The vector at an address, which need not be aligned."""

    @abstractmethod
    def store(self, address: Any, value: Any) -> None:
        """Write a vector to an address, which need not be aligned."""

    @abstractmethod
    def load_first(self, address: Any, count: Any) -> Any:
        """The first ``count`` values, zero in the lanes after them; nothing beyond them is read."""

    @abstractmethod
    def store_first(self, address: Any, value: Any, count: Any) -> None:
        """The first ``count`` lanes; nothing beyond them is written."""

    @abstractmethod
    def prefetch(self, address: Any) -> None:
        """Bring what is at an address into the first cache; it need not be memory of ours."""

    @abstractmethod
    def room(self, count: int) -> Any:
        """The address of memory of the function's own for so many vectors, aligned and not initialised."""

    @abstractmethod
    def values(self, address: Any) -> Any:
        """The values from an address on, for `value`."""

    @abstractmethod
    def value(self, values: Any, index: Any) -> Any:
        """One value from memory in every lane."""

    @abstractmethod
    def vectors(self, address: Any, first: Any = None) -> Any:
        """The vectors from an aligned address on, or from the ``first`` there, for `vector`."""

    @abstractmethod
    def vector(self, vectors: Any, index: Any) -> Any:
        """One of the vectors."""

    # Arithmetic: the operations that `approximations` is written in --------------------------------------------------

    @abstractmethod
    def const(self, value: float) -> Any:
        """A number in every lane."""

    @abstractmethod
    def add(self, a: Any, b: Any) -> Any: ...

    @abstractmethod
    def sub(self, a: Any, b: Any) -> Any: ...

    @abstractmethod
    def mul(self, a: Any, b: Any) -> Any: ...

    @abstractmethod
    def div(self, a: Any, b: Any) -> Any: ...

    @abstractmethod
    def neg(self, a: Any) -> Any: ...

    @abstractmethod
    def abs(self, a: Any) -> Any: ...

    @abstractmethod
    def fused(self, a: Any, b: Any, c: Any) -> Any:
        """a * b + c, rounded once; asked for only where the target has it."""

    @abstractmethod
    def min(self, a: Any, b: Any) -> Any:
        """a < b ? a : b, hence b where either is NaN."""

    @abstractmethod
    def max(self, a: Any, b: Any) -> Any:
        """a > b ? a : b, hence b where either is NaN."""

    @abstractmethod
    def select_gt(self, a: Any, b: Any, u: Any, v: Any) -> Any:
        """a > b ? u : v, hence v where either is NaN."""

    @abstractmethod
    def select_nan(self, a: Any, u: Any, v: Any) -> Any:
        """u where a is NaN, else v."""

    @abstractmethod
    def shifted(self, a: Any, count: int) -> Any:
        """a's bits shifted so many places to the left."""

    def fma(self, a: Any, b: Any, c: Any) -> Any:
        """a * b + c, rounded once where the machine has the instruction; a library call would cost too much."""
        return self.fused(a, b, c) if self.target.fma else self.add(self.mul(a, b), c)

    def accumulate(self, a: Any, b: Any, c: Any) -> Any:
        """`fma` where c is a running sum, which is not needed any more."""
        return self.fma(a, b, c)

    def scale2(self, a: Any, n: Any) -> Any:
        """a * 2**n for a whole n in the range of normal exponents; see `approximations` for the two beyond.

        Adding 1.5 * 2**m leaves n in the low bits of the m bits of the mantissa, from where a shift makes it an
        exponent. A conversion to integer would do as well, but is undefined for NaN.
        """
        mantissa, bias = (23, 127) if self.bits == 32 else (52, 1023)
        return self.mul(a, self.shifted(self.add(n, self.const(1.5 * 2**mantissa + bias)), mantissa))

    def quiet_max(self, a: Any, b: Any) -> Any:
        """The larger one, NaN where either is."""
        return self.select_nan(a, a, self.max(a, b))

    def quiet_min(self, a: Any, b: Any) -> Any:
        """The smaller one, NaN where either is."""
        return self.select_nan(a, a, self.min(a, b))

    def relu(self, a: Any) -> Any:
        """a, or 0 where it is negative; NaN stays."""
        return self.select_gt(self.const(0.0), a, self.const(0.0), a)
