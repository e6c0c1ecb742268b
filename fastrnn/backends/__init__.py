"""The backends, which of them are available, and the choice between them. What a backend is: `contract`.

Nothing of a backend is imported before it is asked for.
"""

from __future__ import annotations

import importlib
import os
import threading
from typing import NamedTuple, cast

from fastrnn.backends.contract import Backend

VARIABLE = "FASTRNN_BACKEND"
# In the order of preference. Each module has `backend`, which makes it, and `unavailable`, which says why it cannot.
_MODULES = {name: f"fastrnn.backends.{name}_" for name in ("numba", "cython", "numpy")}
_loaded: dict[str, Backend] = {}
_lock = threading.Lock()


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


def choose(name: str | None = None) -> str:
    """The name of the backend to use: ``name``, else the environment's, else the first one that is available.

    Raises
    ------
    TypeError, ValueError
        For a name that is none; the message says whether the argument or the variable has it.
    RuntimeError
        If the backend that was asked for is not available.
    """
    if name is not None and not isinstance(name, str):
        raise TypeError(f"backend: expected one of {_choices()} or None, got {type(name).__name__}")
    asked, source = (name, "backend") if name is not None else (os.environ.get(VARIABLE) or None, VARIABLE)
    if asked is None:
        return next(name for name in _MODULES if _availability(name))
    if asked not in _MODULES:
        raise ValueError(f"{source}: expected one of {_choices()}, got {asked!r}")
    found = _availability(asked)
    if not found:
        raise RuntimeError(f"{source}: the backend {asked!r} is {found}")
    return asked


def load(name: str) -> Backend:
    """The backend of a name that `choose` gave; always the same object."""
    found = _loaded.get(name)
    if found is None:
        with _lock:
            if name not in _loaded:
                _loaded[name] = cast(Backend, importlib.import_module(_MODULES[name]).backend())
            found = _loaded[name]
    return found


def details(name: str) -> dict[str, str]:
    """What a backend that is available tells of itself: versions, instruction set."""
    module = importlib.import_module(_MODULES[name])
    found: dict[str, str] = module.details() if hasattr(module, "details") else {}
    return found


def _availability(name: str) -> Availability:
    try:
        reason = importlib.import_module(_MODULES[name]).unavailable()
    except ImportError as error:
        reason = str(error)
    return Availability(name, reason is None, reason or "")


def _choices() -> str:
    return ", ".join(map(repr, _MODULES))
