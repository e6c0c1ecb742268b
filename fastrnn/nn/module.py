"""What the small layers share: parameters by name, the gradients they return, and the checks of what comes in."""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import ArrayLike, DTypeLike, NDArray

FloatArray = NDArray[np.floating[Any]]
IntArray = NDArray[np.integer[Any]]
BoolArray = NDArray[np.bool_]
X_co = TypeVar("X_co", covariant=True)


@dataclass(frozen=True, eq=False)
class Gradients(Generic[X_co]):
    """Gradients of a loss, as ``backward`` returns them.

    Attributes
    ----------
    x : ndarray or None
        Gradient of the input, in the input's shape; None where the input is integers.
    parameters : dict of str to ndarray
        Gradient of each parameter, in the parameter's shape, under the parameter's name.
    """

    x: X_co
    parameters: dict[str, FloatArray]


class Parameters(Mapping[str, FloatArray]):
    """A module's parameters by name. A copy, deep or not, and a pickle are a plain dictionary of copies."""

    def __init__(self, arrays: dict[str, FloatArray]) -> None:
        self._arrays = arrays

    def __getitem__(self, name: str) -> FloatArray:
        return self._arrays[name]

    def __setitem__(self, name: str, value: object) -> None:
        """Refused, but for what ``parameters[name] += 1`` ends with, when the array is already written."""
        if value is not self._arrays[name]:
            way = f"write parameters[{name!r}][:] = ... or set_parameters({{{name!r}: ...}})"
            raise TypeError(f"parameters[{name!r}]: no array can take the place of a parameter; {way}")

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)

    def copy(self) -> dict[str, FloatArray]:
        """Copies of all parameters, for `Module.set_parameters`."""
        return {name: array.copy() for name, array in self._arrays.items()}

    def __reduce__(self) -> tuple[Any, ...]:
        return dict, (self.copy(),)

    def __repr__(self) -> str:
        return "Parameters(" + ", ".join(f"{name} {array.shape}" for name, array in self._arrays.items()) + ")"


class Module:
    """Named parameters that can be read, changed in place, and set.

    Parameters
    ----------
    parameters : dict of str to ndarray
        The arrays themselves, kept and not copied, all of one dtype.
    dtype : numpy.dtype
        Of the parameters and of everything the module returns.
    """

    dtype: np.dtype[Any]

    def __init__(self, parameters: dict[str, FloatArray], dtype: np.dtype[Any]) -> None:
        self._parameters = parameters
        self.dtype = dtype

    @property
    def parameters(self) -> Parameters:
        """The parameters by name. The arrays are the module's own: the next call sees a change made in place."""
        return Parameters(self._parameters)

    @property
    def num_parameters(self) -> int:
        """How many numbers all parameters hold together."""
        return sum(parameter.size for parameter in self._parameters.values())

    def set_parameters(self, values: Mapping[str, ArrayLike]) -> None:
        """Copy new values into some or all of the parameters.

        Parameters
        ----------
        values : mapping of str to array_like
            New values by name, each in its parameter's shape; converted to the module's dtype.

        Raises
        ------
        TypeError, ValueError
            For a name the module does not have, a wrong shape, or values that are not real numbers. All are checked
            before the first is copied: after an error no parameter has changed.
        """
        if not isinstance(values, Mapping):
            raise TypeError(f"values must be a mapping from parameter names to arrays; got {describe(values)}")
        new: dict[str, FloatArray] = {}
        for name, value in values.items():
            if name not in self._parameters:
                raise ValueError(f"values must name parameters out of {', '.join(self._parameters)}; got {name!r}")
            array = float_array(f"values[{name!r}]", value, self.dtype, shape=self._parameters[name].shape)
            shared = any(np.may_share_memory(array, own) for own in self._parameters.values())
            new[name] = array.copy() if shared else array
        for name, array in new.items():
            np.copyto(self._parameters[name], array)


def check_tape(tape: object, kind: type, layer: Module) -> None:
    """A tape of this kind that this very layer recorded."""
    if not isinstance(tape, kind):
        raise TypeError(f"tape must be of type {kind.__name__}, from this layer's record; got {describe(tape)}")
    owner = getattr(tape, "layer", None)
    if owner is not layer:
        raise ValueError(f"tape must come from this layer's record, that of {layer}; got another layer's: {owner}")


def describe(value: object) -> str:
    """A value as an error message shows it: its type, and the value itself where that is short."""
    text = repr(value)
    name = type(value).__name__
    return f"{name} {text}" if len(text) <= 60 and "\n" not in text else name


def _array(name: str, value: object, kinds: str, expected: str, shape: tuple[int, ...] | None = None) -> NDArray[Any]:
    if isinstance(value, np.ndarray) and hasattr(value, "mask"):  # whose mask NumPy would drop
        raise TypeError(f"{name} must be {expected}; got a masked array: fill it first, as value.filled(0) does")
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name} must be {expected}; got {describe(value)}, not an array: {error}") from error
    except (TypeError, RuntimeError, BufferError) as error:
        raise TypeError(f"{name} must be {expected}; got {describe(value)}, not an array: {error}") from error
    if array.dtype.kind not in kinds:
        raise TypeError(f"{name} must be {expected}; got {type(value).__name__} of dtype {array.dtype}")
    if shape is not None and array.shape != shape:
        raise ValueError(f"{name} must have shape {shape}; got {array.shape}")
    return array


def float_array(
    name: str, value: object, dtype: np.dtype[Any] | None = None, shape: tuple[int, ...] | None = None
) -> FloatArray:
    """Anything array-like as an array of real numbers, without a copy where none is needed.

    With no ``dtype``, float16 and float32 become float32 and everything else float64.
    """
    array = _array(name, value, "biuf", "an array of real numbers", shape)
    if dtype is None:
        dtype = np.dtype(np.float32 if array.dtype.kind == "f" and array.dtype.itemsize <= 4 else np.float64)
    return array.astype(dtype, copy=False)


def index_array(
    name: str,
    value: object,
    high: int,
    what: str,
    shape: tuple[int, ...] | None = None,
    where: BoolArray | None = None,
) -> IntArray:
    """Anything array-like as an array of integers in ``0 <= n < high``, looked at only where ``where`` is true."""
    array = _array(name, value, "biuf", "an array of integers", shape)
    if array.size and array.dtype.kind not in "iu":  # an empty list is float64, and has nothing to lose
        raise TypeError(f"{name} must be an array of integers; got dtype {array.dtype}")
    wrong = (array < 0) | (array >= high)
    if where is not None:
        wrong &= where
    if wrong.any():
        at = tuple(int(i) for i in np.argwhere(wrong)[0])
        raise ValueError(f"{name} must be in 0..{high - 1} ({what}); got {array[at]} at index {at}")
    return array.astype(np.intp, copy=False)


def bool_array(name: str, value: object, shape: tuple[int, ...] | None = None) -> BoolArray:
    """Anything array-like as an array of booleans; numbers are refused."""
    return _array(name, value, "b", "an array of booleans", shape)


def positive_integer(name: str, value: object) -> int:
    """A size: an integer of at least 1."""
    number = _index(name, value, "an integer of at least 1")
    if number < 1:
        raise ValueError(f"{name} must be an integer of at least 1; got {number}")
    return number


def _index(name: str, value: object, expected: str) -> int:
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name} must be {expected}; got {describe(value)}") from None


def index_below(name: str, value: object, high: int) -> int:
    """An integer in ``0 <= n < high``."""
    number = _index(name, value, f"an integer in 0..{high - 1}")
    if not 0 <= number < high:
        raise ValueError(f"{name} must be an integer in 0..{high - 1}; got {number}")
    return number


def number_in(
    name: str,
    value: object,
    low: float = 0.0,
    high: float = math.inf,
    *,
    open_low: bool = False,
    infinite: bool = False,
) -> float:
    """A real number in ``low <= n < high``: ``open_low`` leaves ``low`` out, ``infinite`` lets infinity in."""
    bracket = "(" if open_low else "["
    expected = f"a number in {bracket}{low:g}, {high:g}{']' if infinite else ')'}"
    if isinstance(value, (bool, np.bool_, str, bytes, complex)):
        raise TypeError(f"{name} must be {expected}; got {describe(value)}")
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be {expected}; got {describe(value)}") from None
    inside = (low < number if open_low else low <= number) and (number < high or (infinite and number == high))
    if not inside:  # nan is never inside
        raise ValueError(f"{name} must be {expected}; got {number!r}")
    return number


def boolean(name: str, value: object) -> bool:
    """True or False, and nothing that merely behaves like one."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name} must be True or False; got {describe(value)}")
    return bool(value)


def float_dtype(value: DTypeLike) -> np.dtype[Any]:
    """float32 or float64."""
    try:
        dtype = np.dtype(value)
    except TypeError:
        raise TypeError(f"dtype must be float32 or float64; got {describe(value)}") from None
    if value is None or dtype not in (np.dtype(np.float32), np.dtype(np.float64)):
        raise ValueError(f"dtype must be float32 or float64; got {describe(value)}")
    return dtype


def generator(seed: int | np.random.Generator | None) -> np.random.Generator:
    """A random generator from a seed, from another generator (used on), or fresh from the system (None)."""
    if seed is None or isinstance(seed, np.random.Generator):
        return np.random.default_rng(seed)
    number = _index("seed", seed, "an integer of at least 0, a numpy.random.Generator or None")
    if number < 0:
        raise ValueError(f"seed must be an integer of at least 0; got {number}")
    return np.random.default_rng(number)
