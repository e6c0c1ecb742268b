"""The checks of what comes in. Every message names the argument, what was expected, and what came."""

from __future__ import annotations

import math
import operator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy import ndarray

from fastrnn import reuse

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]
else:
    Array = np.ndarray  # numpy.typing takes half a millisecond to import

FLOAT32, FLOAT64 = np.dtype(np.float32), np.dtype(np.float64)


def described(value: object) -> str:
    """A value as a message shows it: itself where that is short, else its type."""
    if isinstance(value, ndarray):
        return f"an array of shape {value.shape}, dtype {value.dtype}"
    text = repr(value)
    return f"{type(value).__name__} {text}" if len(text) <= 60 and "\n" not in text else type(value).__name__


def array(name: str, value: object, dtype: np.dtype[Any], copy: bool = False) -> Array:
    """Anything that NumPy can view as an array of real numbers, as this ``dtype`` object, its last axis contiguous.

    What is already so is not copied, unless ``copy``; the copy is C-contiguous.
    """
    if type(value) is ndarray and value.dtype is dtype:
        if copy and value.size < reuse.FEW:
            return value.copy()  # as below, sooner
    else:
        value = _numbers(name, value)
        if value.dtype != dtype:  # another byte order is another dtype, too
            copy = True
        elif value.dtype is not dtype:  # equal, and another object: unpickled, say, or with metadata
            value = value.view(dtype)
    if copy:
        found = reuse.empty(value.shape, dtype)
        with np.errstate(all="ignore"):  # what is beyond float32 is infinite, as IEEE 754 has it
            found[...] = value
        return found
    flags = value.flags
    if flags.carray or (flags.c_contiguous and flags.aligned):  # the first is sooner, and not for what is read-only
        return value
    if not flags.aligned or (value.ndim and value.shape[-1] > 1 and value.strides[-1] != value.itemsize):
        return np.array(value, dtype, order="C")
    return value


def _unmasked(name: str, value: object, expected: str) -> None:
    """Refuse a masked array, of which NumPy would take what is under the mask as well."""
    if isinstance(value, ndarray) and hasattr(value, "mask"):  # numpy.ma is not loaded where nobody uses it
        raise TypeError(f"{name}: expected {expected}, got a masked array: fill it first, as value.filled(0) does")


def _numbers(name: str, value: object) -> Array:
    _unmasked(name, value, "an array of real numbers")
    try:
        found = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{name}: expected an array of real numbers, got {described(value)} ({error})") from error
    except (TypeError, RuntimeError, BufferError) as error:
        raise TypeError(f"{name}: expected an array of real numbers, got {described(value)} ({error})") from error
    if found.dtype.kind not in "fiub":
        raise TypeError(f"{name}: expected an array of real numbers, got {type(value).__name__} of dtype {found.dtype}")
    return found


def shaped(
    name: str, value: object, dtype: np.dtype[Any], shape: tuple[int, ...], axes: str, copy: bool = False
) -> Array:
    """As `array`, in one shape; ``axes`` says in the message what the axes are."""
    if copy and type(value) is ndarray and value.dtype is dtype and value.shape == shape and value.size < reuse.FEW:
        return value.copy()  # what `array` does, sooner
    found = array(name, value, dtype, copy)
    if found.shape != shape:
        raise ValueError(f"{name}: expected {axes} = {shape}, got {found.shape}")
    return found


def integer(name: str, value: object, expected: str) -> int:
    """An integer, and nothing that merely has a whole value."""
    try:
        if isinstance(value, (bool, np.bool_)):
            raise TypeError
        return operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        raise TypeError(f"{name}: expected {expected}, got {described(value)}") from None


def size(name: str, value: object, least: int = 1, most: int | None = None) -> int:
    """An integer of at least ``least`` and, if given, at most ``most``."""
    expected = f"an integer of at least {least}"
    number = integer(name, value, expected)
    if most is not None and number > most:
        raise ValueError(f"{name}: expected an integer of at most {most:,}, got {number}")
    if number < least:
        raise ValueError(f"{name}: expected {expected}, got {number}")
    return number


def flag(name: str, value: object) -> bool:
    """True or False."""
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{name}: expected True or False, got {described(value)}")
    return bool(value)


def word(name: str, value: object, choices: tuple[str, ...]) -> str:
    """One of some words."""
    expected = " or ".join(map(repr, choices))
    if not isinstance(value, str):
        raise TypeError(f"{name}: expected {expected}, got {described(value)}")
    if value not in choices:
        raise ValueError(f"{name}: expected {expected}, got {value!r}")
    return value


def float_dtype(value: object) -> np.dtype[Any]:
    """float32 or float64, however it is written."""
    try:
        found = np.dtype(value) if value is not None else None  # type: ignore[call-overload]
    except TypeError:
        raise TypeError(f"dtype: expected float32 or float64, got {described(value)}") from None
    for dtype in (FLOAT32, FLOAT64):
        if found is not None and found == dtype:  # for NumPy None, too, is equal to float64
            return dtype
    raise ValueError(f"dtype: expected float32 or float64, got {described(value)}")


def number(name: str, value: object, expected: str) -> float:
    """A finite real number."""
    if isinstance(value, (bool, np.bool_, str, bytes, complex)):
        raise TypeError(f"{name}: expected {expected}, got {described(value)}")
    try:
        found = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        raise TypeError(f"{name}: expected {expected}, got {described(value)}") from None
    if not math.isfinite(found):
        raise ValueError(f"{name}: expected {expected}, got {found!r}")
    return found


def fraction(name: str, value: object) -> float:
    """A number in [0, 1)."""
    expected = "a number of at least 0 and less than 1"
    found = number(name, value, expected)
    if not 0.0 <= found < 1.0:
        raise ValueError(f"{name}: expected {expected}, got {found!r}")
    return found


def seed(value: object) -> int | None:
    """An integer of at least 0, or None for another one each time."""
    if value is None:
        return None
    expected = "an integer of at least 0, or None"
    found = integer("seed", value, expected)
    if found < 0:
        raise ValueError(f"seed: expected {expected}, got {found}")
    return found


def lengths(value: object, batch: int) -> Array:
    """How many steps of each row are valid: (B,) integers, copied as int64.

    Whether each is from 0 to T is left to `Backend.rows`, which has to look at them anyway, and `wrong_lengths`.
    """
    if type(value) is not ndarray:
        _unmasked("lengths", value, f"({batch},) integers")
    try:
        found = np.asarray(value)
    except (ValueError, TypeError, RuntimeError) as error:
        raise type(error)(f"lengths: expected ({batch},) integers, got {described(value)} ({error})") from error
    if found.dtype.kind not in "iu" and not (found.size == 0 and found.dtype.kind == "f"):  # [] has the dtype float64
        raise TypeError(f"lengths: expected integers, got {type(value).__name__} of dtype {found.dtype}")
    if found.shape != (batch,):
        raise ValueError(f"lengths: expected (B,) = ({batch},), got {found.shape}")
    return found.astype(np.int64)


def wrong_lengths(value: object, copy: Array, steps: int) -> ValueError:
    """What to say of lengths of which one is not from 0 to T; ``copy`` is what `lengths` made of them."""
    row = int(np.argmax((copy < 0) | (copy > steps)))
    unsigned = np.asarray(value).dtype.kind == "u"
    length = copy.view(np.uint64)[row] if unsigned else copy[row]
    return ValueError(f"lengths: expected 0 to T = {steps}, got {length} for row {row}")
