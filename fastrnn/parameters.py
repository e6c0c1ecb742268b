"""The parameters of a layer: their values, and the packs made from them, which are never stale.

Who reads ``layer.parameters[name]`` gets an array that is the parameter, and may write to it, then or much later. So
the store hands out *leases* on memory: the array's base is a small object that lives as long as the array or any view
of it. While a parameter's lease is alive, each call compares its memory with the values that were there at the last
look; when it has died, once more. Values never change: where something was written there are others after that look.
So packs are made of them and go on using them, and a write that comes between two looks at the memory is found by the
next one.

A signal's handler may come in between anywhere, and read or set parameters as well: to save a model, say. The lock lets
it in, and nothing here is lost or taken twice through that.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from fastrnn import checks, reuse
from fastrnn.checks import Array
from fastrnn.threads import renew_after_fork

Packs = tuple[Any, ...]


class _Lease:
    """What an array on the store's memory is based on. NumPy keeps it alive for every view."""

    __slots__ = ("__array_interface__", "__weakref__", "_memory")

    def __init__(self, memory: Array) -> None:
        self._memory = memory
        self.__array_interface__ = memory.__array_interface__


class ParameterStore:
    """Named arrays of one dtype, in memory that it owns, and what ``make`` packs from them, in their order."""

    _lock: threading.RLock

    def __init__(
        self, values: Mapping[str, Array], dtype: np.dtype[Any], make: Callable[[tuple[Array, ...]], Packs]
    ) -> None:
        self.dtype, self._make = dtype, make
        self.shapes = {name: value.shape for name, value in values.items()}
        self._labels = {name: f"values[{name!r}]" for name in values}  # as messages of `set` have them
        # Neither the arrays nor the dictionary are ever written to: other values are another dictionary.
        self._values = {name: _copy(value, dtype) for name, value in values.items()}
        self._leased: dict[str, tuple[weakref.ref[_Lease], Array]] = {}  # the lease, and its memory
        self._made: tuple[dict[str, Array], Packs] | None = None  # the packs, and the values that they are made of
        self.current: Packs | None = None  # the packs, while nobody can have written to a parameter since
        renew_after_fork(self, threading.RLock)

    def lease(self, name: str) -> Array:
        """A writable array that is a parameter."""
        with self._lock:
            while True:
                entry, value = self._leased.get(name), self._values[name]
                lease = None if entry is None else entry[0]()
                if lease is not None:
                    return np.asarray(lease)
                memory = _copy(value, self.dtype) if entry is None else entry[1]
                lease = _Lease(memory)
                new = weakref.ref(lease), memory
                array = np.asarray(lease)
                present = self._leased[name] if name in self._leased else None  # noqa: SIM401  # no call from here on
                if present is entry and self._values[name] is value:
                    self._leased[name] = new
                    self.current = None
                    return array

    def set(self, values: Mapping[str, object]) -> None:
        """Copy new values into some parameters; after an error, none has changed."""
        if type(values) is not dict and not isinstance(values, Mapping):
            raise TypeError(f"values: expected a mapping from names to arrays, got {checks.described(values)}")
        new: dict[str, Array] = {}
        shapes, labels, dtype = self.shapes, self._labels, self.dtype
        for name, value in values.items():
            if name not in shapes:
                raise ValueError(f"values: expected names out of {', '.join(shapes)}; got {name!r}")
            # A copy, since the value may be a view of a parameter that is written before this one.
            new[name] = checks.shaped(labels[name], value, dtype, shapes[name], "the shape", True)
        with self._lock:
            if self._leased:
                self._write(new)  # or a look that comes in between could end the lease
            self._values = self._values | new
            self.current = None
            if self._leased:
                self._write(new)  # to what has been leased in between

    def present(self) -> dict[str, Array]:
        """The present values: read-only arrays that never change. They are what packs are made of."""
        with self._lock:
            if self._leased:
                self._look()
            found = {name: value.view() for name, value in self._values.items()}
        for value in found.values():
            value.flags.writeable = False
        return found

    def values(self) -> dict[str, Array]:
        """Copies of all parameters."""
        return {name: value.copy() for name, value in self.present().items()}

    def packs(self) -> Packs:
        """The packs of the present values: those of the last call where nothing has changed, the same objects."""
        packs = self.current
        if packs is not None:
            return packs
        with self._lock:
            if self._leased:
                self._look()
            made, values = self._made, self._values
            if made is None or made[0] is not values:
                self._made = made = values, self._make(tuple(values.values()))
            self.current = made[1] if self._values is values and not self._leased else None
            return made[1]

    def _look(self) -> None:
        """Find what has been written through leases; forget those that have died and agree with the values."""
        for name, entry in list(self._leased.items()):
            reference, memory = entry
            alive = reference() is not None  # asked before comparing: it may die in between
            if not np.array_equal(_bits(memory), _bits(self._values[name])):
                changed = {name: _copy(memory, self.dtype)}
                self._values = self._values | changed
            elif not alive and name in self._leased and self._leased[name] is entry:
                del self._leased[name]

    def _write(self, new: Mapping[str, Array]) -> None:
        """Write new values to what is leased."""
        for name, (_, memory) in list(self._leased.items()):
            if name in new:
                memory[...] = new[name]


def _copy(array: Array, dtype: np.dtype[Any]) -> Array:
    """In memory that begins on a cache line where there is much of it: packing is faster then."""
    found = reuse.empty(array.shape, dtype)
    found[...] = array
    return found


def _bits(array: Array) -> Array:
    """The array as integers: NaN is equal to itself, and 0 is not -0."""
    return array.view(np.uint32 if array.itemsize == 4 else np.uint64)


def _same(value: object, array: Array) -> bool:
    """Whether a value is the array, or another one on all of its memory."""
    if not isinstance(value, np.ndarray) or value.dtype != array.dtype:
        return False
    return value.__array_interface__["data"] == array.__array_interface__["data"] and (
        (value.shape, value.strides) == (array.shape, array.strides)
    )


class Parameters(Mapping[str, Array]):
    """The parameters of a layer by name, on the layer's own memory: the next call sees what is written to an array.

    A copy, deep or not, and a pickle are a plain dictionary of copies, for `Recurrent.set_parameters`.
    """

    def __init__(self, store: ParameterStore) -> None:
        self._store = store

    def __getitem__(self, name: str) -> Array:
        if name not in self._store.shapes:
            raise KeyError(f"{name!r} is no parameter; there are {', '.join(self._store.shapes)}")
        return self._store.lease(name)

    def __setitem__(self, name: str, value: object) -> None:
        """Refused, but for what ``parameters[name] += 1`` ends with, when the array is already written."""
        if not _same(value, self[name]):
            way = f"write parameters[{name!r}][:] = ... or set_parameters({{{name!r}: ...}})"
            raise TypeError(f"parameters[{name!r}]: no array can take the place of a parameter; {way}")

    def copy(self) -> dict[str, Array]:
        """Copies of all parameters, for `Recurrent.set_parameters`."""
        return self._store.values()

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (self.copy(),)

    def __iter__(self) -> Iterator[str]:
        return iter(self._store.shapes)

    def __len__(self) -> int:
        return len(self._store.shapes)

    def present(self) -> dict[str, Array]:
        """See `ParameterStore`. For who only reads: no call has to look for changes for its sake."""
        return self._store.present()

    def __repr__(self) -> str:
        return "Parameters(" + ", ".join(f"{name} {shape}" for name, shape in self._store.shapes.items()) + ")"
