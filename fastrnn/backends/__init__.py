"""The backends, which of them are available, and the choice between them. What a backend is: `contract`.

Nothing of a backend is imported before it is asked for.
"""

from __future__ import annotations

import contextlib
import importlib
import itertools
import os
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, NamedTuple, cast

from fastrnn.backends.contract import Backend

if TYPE_CHECKING:
    from fastrnn.equations import Cell

VARIABLE = "FASTRNN_BACKEND"
# In the order of preference. Each module has `backend`, which makes it, and `unavailable`, which says why it cannot.
# One that does not take every cell has `lacks`, which says why not; `details` is for `fastrnn info`.
_MODULES = {name: f"fastrnn.backends.{name}_" for name in ("numba", "cython", "numpy")}
_loaded: dict[str, Backend] = {}
_broken: dict[str, str] = {}  # those that seemed available and could not be loaded, and why


class Availability(NamedTuple):
    """Whether a backend can be used here.

    Attributes
    ----------
    name : str
    available : bool
    reason : str
        Why it is not available; empty if it is.
    """

    name: str
    available: bool
    reason: str = ""

    def __bool__(self) -> bool:
        return self.available

    def __str__(self) -> str:
        return "available" if self.available else f"not available: {self.reason}"


def backends() -> dict[str, Availability]:
    """All backends by name, best first, with the reason why one is not available.

    Returns
    -------
    dict of str to Availability
        An `Availability` is true if the backend can be used, and prints as ``available`` or ``not available: ...``.

    Examples
    --------
    >>> import fastrnn
    >>> bool(fastrnn.backends()["numpy"])
    True
    """
    return {name: _availability(name) for name in _MODULES}


def choose(name: str | None = None, cell: Cell | None = None) -> str:
    """The name of the backend to use for a cell: ``name``, else the environment's, else the first that is available.

    Without ``name``, a cell that the backend does not take goes to the next one that does, with a warning.

    Raises
    ------
    TypeError, ValueError
        For a name that is none; the message says whether the argument or the variable has it.
    RuntimeError
        If the backend that was asked for is not available, or if ``name`` does not take the cell.
    """
    if name is not None and not isinstance(name, str):
        raise TypeError(f"backend: expected one of {_choices()} or None, got {type(name).__name__}")
    asked, source = (name, "backend") if name is not None else (os.environ.get(VARIABLE) or None, VARIABLE)
    if asked is None:
        return _first((name for name in _MODULES if _availability(name)), cell)
    if asked not in _MODULES:
        raise ValueError(f"{source}: expected one of {_choices()}, got {asked!r}")
    found = _availability(asked)
    if not found:
        raise RuntimeError(f"{source}: the backend {asked!r} is {found}")
    if name is None:
        others = (other for other in _MODULES if other != asked and _availability(other))
        return _first(itertools.chain([asked], others), cell)
    reason = _lacks(asked, cell)
    if reason is not None:
        raise RuntimeError(f"{source}: the backend {asked!r} does not take this cell: {reason}")
    return asked


def choose_again(name: str, cell: Cell) -> str:
    """The backend of a layer from elsewhere: ``name`` if it runs here, else the one by default, with a warning."""
    found = _availability(name)
    reason = _lacks(name, cell) if found else f"the backend is {found}"
    if reason is None:
        return name
    other = choose(None, cell)
    warnings.warn(f"a layer of backend {name!r} runs on {other!r} here: {reason}", RuntimeWarning, stacklevel=3)
    return other


def _first(names: Iterable[str], cell: Cell | None) -> str:
    """The first that takes a cell; says so if it is not the first of all. Those after it are not looked at."""
    why = None
    for name in names:  # the last one takes every cell
        reason = _lacks(name, cell)
        if reason is None:
            break
        why = why or reason
    if why and cell is not None and cell.text not in _said:
        _said.add(cell.text)
        warnings.warn(f"cell {cell.name!r} runs on {name!r}: {why}", RuntimeWarning, stacklevel=4)
    return name


_said: set[str] = set()  # the cells of which a warning has told


def _lacks(name: str, cell: Cell | None) -> str | None:
    lacks = getattr(importlib.import_module(_MODULES[name]), "lacks", None)
    return None if lacks is None or cell is None else cast("str | None", lacks(cell))


def load(name: str) -> Backend:
    """The backend of a name that `choose` gave; always the same object.

    Raises
    ------
    RuntimeError
        If it cannot be imported, of which nothing is known before it is tried: Numba, say, with a NumPy that is too new
        for it. From then on it is not available, and new layers have another one unless they ask for it.
    """
    found = _loaded.get(name)
    if found is None:  # made twice, if two threads come at once; the first counts
        found = _loaded.setdefault(name, _made(name))
    return found


def _made(name: str) -> Backend:
    cause = None
    if name not in _broken:
        try:
            return cast(Backend, importlib.import_module(_MODULES[name]).backend())
        except (ImportError, OSError, AttributeError, SystemError) as error:  # as compiled packages that do not fit
            cause, _broken[name] = error, f"it cannot be imported here: {' '.join(str(error).split())}"
    other = next(filter(_availability, _MODULES))
    ways = f"backend={other!r} or {VARIABLE}={other}"
    raise RuntimeError(f"the backend {name!r} is {_availability(name)}; choose another one, with {ways}") from cause


def found_by_loading(name: str) -> Availability:
    """As `backends` has it, but sure: what seems available is loaded."""
    if _availability(name):
        with contextlib.suppress(RuntimeError):
            load(name)
    return _availability(name)


def details(name: str) -> dict[str, str]:
    """What a backend that is available tells of itself: versions, instruction set."""
    module = importlib.import_module(_MODULES[name])
    found: dict[str, str] = module.details() if hasattr(module, "details") else {}
    return found


def _availability(name: str) -> Availability:
    if name in _broken:
        return Availability(name, False, _broken[name])
    try:
        reason = importlib.import_module(_MODULES[name]).unavailable()
    except ImportError as error:
        reason = str(error)
    return Availability(name, reason is None, reason or "")


def _choices() -> str:
    return ", ".join(map(repr, _MODULES))
