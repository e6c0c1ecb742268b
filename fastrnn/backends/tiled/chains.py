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
    """What a k loop multiplies: the values of each row, and each panel's vectors of weights, ``width`` for each k."""

    rows: list[Any]
    panels: list[Any]
    width: int

    @property
    def columns(self) -> int:
        """Vectors of weights of all panels for each k."""
        return self.width * len(self.panels)


class Sums(ABC):
    """Some of a tile's sums, in the order [row][column of the panels]."""

    def __init__(self, emit: Emitter) -> None:
        self.emit = emit
        self.carried: list[Any] = []  # those that a loop has to carry from round to round

    @abstractmethod
    def put(self, values: list[Any]) -> None:
        """These are the sums."""

    @abstractmethod
    def add(self, values: list[Any]) -> None:
        """Add to each."""

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


class InMemory(Sums):
    """Sums in memory: those of a row where ``columns`` says, those of the next ``line`` bytes further.

    Loops then have all registers for their own. Two columns may be in one place, if they are the same.
    """

    def __init__(self, emit: Emitter, columns: list[Any], line: int, rows: int) -> None:
        super().__init__(emit)
        self.places = [emit.sum(column, emit.whole(row * line)) for row in range(rows) for column in columns]

    def put(self, values: list[Any]) -> None:
        for place, value in zip(self.places, values, strict=True):
            self.emit.store(place, value)

    def values(self) -> list[Any]:
        """All of them."""
        return [self.emit.load(place) for place in self.places]

    def add(self, values: list[Any]) -> None:
        self.put([self.emit.add(total, value) for total, value in zip(self.values(), values, strict=True)])


def add_up(emit: Emitter, factors: Factors, depth: Any, totals: Sums, start: list[Any] | None = None) -> None:
    """Add the sums over ``depth`` values of k to the totals; with ``start``, the totals begin with that."""
    length, first = emit.whole(CHAIN), emit.whole(0)
    if start is not None:  # the first chain goes on from it, every other one starts from zero
        totals.put(_chain(emit, factors, first, emit.lesser(depth, length), start))
        first = length
    zeros = [emit.const(0.0)] * (len(factors.rows) * factors.columns)
    with totals.loop(first, emit.sum(depth, emit.whole(CHAIN - 1)), CHAIN) as begin:
        totals.add(_chain(emit, factors, begin, emit.lesser(depth, emit.sum(begin, length)), zeros))


def _chain(emit: Emitter, factors: Factors, start: Any, stop: Any, values: list[Any]) -> list[Any]:
    """One chain of multiply-adds a sum, over k from start to stop."""
    k = start
    for unroll in (UNROLL, 1):
        with emit.loop(k, stop, unroll, values) as (index, inner, following):
            following += _multiply(emit, factors, index, inner, unroll)
        values, k = following[:-1], following[-1]
    return values


def _multiply(emit: Emitter, factors: Factors, index: Any, values: list[Any], unroll: int) -> list[Any]:
    """``unroll`` steps of the k loop: every sum of every row, in the order [row][column].

    Beside the sums, 32 registers hold all weights of a step; fewer hold the weights or the rows, what there is less of.
    """
    few = emit.target.registers < 32 and len(factors.rows) < factors.columns
    multiply = _weight_by_weight if few else _row_by_row
    for j in range(unroll):
        values = multiply(emit, factors, emit.sum(index, emit.whole(j)), list(values))
    return values


def _weights_of(emit: Emitter, factors: Factors, k: Any) -> list[tuple[Any, Any]]:
    """Where the weights of one step are: the panel, and which of its vectors."""
    first = emit.times(k, factors.width)
    return [(panel, emit.sum(first, emit.whole(v))) for panel in factors.panels for v in range(factors.width)]


def _row_by_row(emit: Emitter, factors: Factors, k: Any, values: list[Any]) -> list[Any]:
    """One step, for which all weights are read first."""
    weights = [emit.vector(panel, place) for panel, place in _weights_of(emit, factors, k)]
    for m, row in enumerate(factors.rows):
        value = emit.value(row, k)
        for v, weight in enumerate(weights):
            at = m * len(weights) + v
            values[at] = emit.accumulate(value, weight, values[at])
    return values


def _weight_by_weight(emit: Emitter, factors: Factors, k: Any, values: list[Any]) -> list[Any]:
    """One step, for which all rows' values are read first."""
    places = _weights_of(emit, factors, k)
    rows = [emit.value(row, k) for row in factors.rows]
    for v, (panel, place) in enumerate(places):
        weight = emit.vector(panel, place)
        for m, value in enumerate(rows):
            at = m * len(places) + v
            values[at] = emit.accumulate(value, weight, values[at])
    return values
