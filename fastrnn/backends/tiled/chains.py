"""The k loops: sums of products for a few rows and a few vectors of units, and where the sums are held.

A sum is added up in chains of a fixed length: in a long one each addition would round at the size of the whole sum.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

from fastrnn.backends.tiled.emitter import Emitter

UNROLL = 4  # steps of the k loop written out
CHAIN = 64  # multiply-adds after one another in one sum


class Factors(NamedTuple):
    """What a k loop multiplies: the values of each row, the vectors of each block's weights, and the latter's shape."""

    rows: list[Any]
    panels: list[Any]
    sums: int
    vectors: int


class Sums(ABC):
    """A tile's sums of one product, in the order [row][vector of units][sum]; a *place* is a row at a vector."""

    def __init__(self, emit: Emitter) -> None:
        self.emit = emit
        self.carried: list[Any] = []  # those that a loop has to carry from round to round

    @abstractmethod
    def put(self, values: list[Any]) -> None:
        """These are the sums."""

    @abstractmethod
    def add(self, values: list[Any]) -> None:
        """Add to each."""

    @abstractmethod
    def at(self, place: int, count: int, first: Any) -> list[Any]:
        """The ``count`` sums of a place, counted from the ``first``, which only sums in memory need."""

    @contextmanager
    def loop(self, start: Any, stop: Any, step: int) -> Iterator[Any]:
        """A loop that may add to the sums; yields the index."""
        with self.emit.loop(start, stop, step, self.carried) as (index, self.carried, following):
            yield index
            following += self.carried
        self.carried = following[:-1]


class InRegisters(Sums):
    """Sums as values that are carried."""

    def put(self, values: list[Any]) -> None:
        self.carried = values

    def add(self, values: list[Any]) -> None:
        self.carried = [self.emit.add(total, value) for total, value in zip(self.carried, values, strict=True)]

    def at(self, place: int, count: int, first: Any) -> list[Any]:
        return self.carried[place * count : (place + 1) * count]


class InMemory(Sums):
    """Sums in memory of the function's own, for several rows and a long epilogue.

    Loops then have all registers for their own, and the epilogue comes in a loop over the rows, with its constants in
    registers. Written out for all rows it would share these with the sums of all rows, and be several times as much to
    compile. A lone row is faster without.
    """

    def __init__(self, emit: Emitter, count: int) -> None:
        super().__init__(emit)
        self.address = emit.room(count)

    def put(self, values: list[Any]) -> None:
        for address, value in zip(self._addresses(self.address, len(values)), values, strict=True):
            self.emit.store(address, value)

    def add(self, values: list[Any]) -> None:
        addresses = self._addresses(self.address, len(values))
        self.put([self.emit.add(self.emit.load(at), value) for at, value in zip(addresses, values, strict=True)])

    def at(self, place: int, count: int, first: Any) -> list[Any]:
        after = self.emit.sum(first, self.emit.whole(place))
        here = self.emit.sum(self.address, self.emit.times(after, count * self.emit.lanes * self.emit.size))
        return [self.emit.load(address) for address in self._addresses(here, count)]

    def _addresses(self, first: Any, count: int) -> list[Any]:
        size = self.emit.lanes * self.emit.size
        return [self.emit.sum(first, self.emit.whole(index * size)) for index in range(count)]


def add_up(emit: Emitter, factors: Factors, depth: Any, totals: Sums, start: list[Any] | None = None) -> None:
    """Add the sums over ``depth`` values of k to the totals; with ``start``, the totals begin with that."""
    length, first = emit.whole(CHAIN), emit.whole(0)
    if start is not None:  # the first chain goes on from it, every other one starts from zero
        totals.put(_chain(emit, factors, first, emit.lesser(depth, length), start))
        first = length
    zeros = [emit.const(0.0)] * (len(factors.rows) * _width(factors))
    with totals.loop(first, emit.sum(depth, emit.whole(CHAIN - 1)), CHAIN) as begin:
        totals.add(_chain(emit, factors, begin, emit.lesser(depth, emit.sum(begin, length)), zeros))


def _width(factors: Factors) -> int:
    """Vectors of weights in one step."""
    return factors.sums * factors.vectors * len(factors.panels)


def _chain(emit: Emitter, factors: Factors, start: Any, stop: Any, values: list[Any]) -> list[Any]:
    """One chain of multiply-adds a sum, over k from start to stop."""
    k = start
    for unroll in (UNROLL, 1):
        with emit.loop(k, stop, unroll, values) as (index, inner, following):
            following += _multiply(emit, factors, index, inner, unroll)
        values, k = following[:-1], following[-1]
    return values


def _multiply(emit: Emitter, factors: Factors, index: Any, values: list[Any], unroll: int) -> list[Any]:
    """``unroll`` steps of the k loop: every sum of every row, in the order [row][vector of units][sum].

    Beside the sums, 32 registers hold all weights of a step; fewer hold the weights or the rows, what there is less of.
    """
    few = emit.target.registers < 32 and len(factors.rows) < _width(factors)
    multiply = _weight_by_weight if few else _row_by_row
    for j in range(unroll):
        values = multiply(emit, factors, emit.sum(index, emit.whole(j)), list(values))
    return values


def _row_by_row(emit: Emitter, factors: Factors, k: Any, values: list[Any]) -> list[Any]:
    """One step, for which all weights are read first."""
    sums, vectors = factors.sums, factors.vectors
    first = emit.times(k, sums * vectors)
    weights = []
    for panel in factors.panels:
        loaded = [emit.vector(panel, emit.sum(first, emit.whole(v))) for v in range(sums * vectors)]
        weights += [loaded[s * vectors + v] for v in range(vectors) for s in range(sums)]
    for m, row in enumerate(factors.rows):
        value = emit.value(row, k)
        for v, weight in enumerate(weights):
            at = m * len(weights) + v
            values[at] = emit.fma(value, weight, values[at])
    return values


def _weight_by_weight(emit: Emitter, factors: Factors, k: Any, values: list[Any]) -> list[Any]:
    """One step, for which all rows' values are read first."""
    sums, vectors = factors.sums, factors.vectors
    first = emit.times(k, sums * vectors)
    places = [(panel, s * vectors + v) for panel in factors.panels for v in range(vectors) for s in range(sums)]
    rows = [emit.value(row, k) for row in factors.rows]
    for v, (panel, place) in enumerate(places):
        weight = emit.vector(panel, emit.sum(first, emit.whole(place)))
        for m, value in enumerate(rows):
            at = m * len(places) + v
            values[at] = emit.fma(value, weight, values[at])
    return values
