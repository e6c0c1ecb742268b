"""Small objects with named fields that do not change, and attributes that are made when they are needed.

What a frozen dataclass is, but for the generated code: compiling that takes half a millisecond a class, which every
process would spend on import.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Generic, TypeVar, overload

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform
else:

    def dataclass_transform(**_: bool) -> Callable[[type], type]:
        """Only type checkers, to which it says what a subclass's constructor takes, need the real one."""
        return lambda kind: kind


Self = TypeVar("Self", bound="Record")
Value = TypeVar("Value")


class lazy(Generic[Value]):
    """An attribute that is computed when it is first asked for, and kept.

    What `functools.cached_property` is, but that one holds a lock of the whole class meanwhile before Python 3.12, for
    which a child that is forked at that moment would wait for ever.
    """

    def __init__(self, make: Callable[[Any], Value]) -> None:
        self.make, self.__doc__ = make, make.__doc__

    def __set_name__(self, owner: type, name: str) -> None:
        self.name = name

    @overload
    def __get__(self, owner: None, kind: type) -> lazy[Value]: ...

    @overload
    def __get__(self, owner: object, kind: type) -> Value: ...

    def __get__(self, owner: object | None, kind: type) -> Value | lazy[Value]:
        if owner is None:
            return self
        value: Value = owner.__dict__.setdefault(self.name, self.make(owner))  # of two threads' values all see one
        return value


@dataclass_transform(frozen_default=True, eq_default=False)
class Record:
    """An object whose class lists its fields as annotations. Two are equal only if they are the same object."""

    def __init__(self, *values: Any, **named: Any) -> None:
        fields = type(self).__annotations__
        if not named and len(values) == len(fields):
            self.__dict__.update(zip(fields, values, strict=True))
            return
        given = {**dict(zip(fields, values, strict=False)), **named}
        if len(values) + len(named) != len(fields) or given.keys() != fields.keys():
            expected = ", ".join(fields)
            raise TypeError(f"{type(self).__name__}: expected ({expected}), got {len(values)} and {list(named)}")
        self.__dict__.update(given)

    def __setattr__(self, name: str, value: object) -> None:
        raise AttributeError(f"{type(self).__name__}.{name} cannot be changed")

    def replaced(self: Self, **changes: Any) -> Self:
        """A copy with other values in some fields."""
        return type(self)(**{**{name: getattr(self, name) for name in type(self).__annotations__}, **changes})
