"""A signal's handler that reads or sets parameters while a call does: to save a model when the process is to end, say.

It runs within the call, in the same thread, wherever that calls something: here after each such call in turn.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import count
from typing import Any

import numpy as np
import pytest

from fastrnn import parameters
from fastrnn.parameters import ParameterStore

ONE, OTHER = "weight", "bias"
HELD: list[Any] = []  # arrays that the calls were given, kept


def write(store: ParameterStore, name: str, value: float) -> None:
    store.lease(name)[:] = value


def hold(store: ParameterStore) -> None:
    HELD.append(store.lease(ONE))


def held_and_read(store: ParameterStore) -> None:
    hold(store)
    store.packs()


def twice(store: ParameterStore) -> None:
    """The second look ends leases that have died."""
    store.present()
    store.packs()


BEFORE = {
    "nothing": lambda store: None,
    "held": hold,
    "dropped": lambda store: write(store, ONE, 5.0),
    "dropped and seen": lambda store: (write(store, ONE, 5.0), store.packs()),
}
CALLS = {
    "set": lambda store: store.set({ONE: np.full(4, 1.0)}),
    "write": lambda store: write(store, ONE, 1.0),
    "hold": hold,
    "packs": lambda store: store.packs(),
    "present": lambda store: store.present(),
}
HANDLERS = {
    "set the same": (lambda store: store.set({ONE: np.full(4, 3.0)}), ONE),
    "set": (lambda store: store.set({OTHER: np.full(3, 3.0)}), OTHER),
    "write": (lambda store: write(store, OTHER, 3.0), OTHER),
    "read": (lambda store: store.lease(ONE).copy(), None),
    "hold": (held_and_read, None),
    "look twice": (twice, None),
    "values": (lambda store: store.values(), None),
}


def made() -> ParameterStore:
    values = {ONE: np.zeros(4), OTHER: np.zeros(3)}
    return ParameterStore(values, np.dtype(np.float64), lambda arrays: tuple(array.copy() for array in arrays))


def interrupted(call: Callable[[], object], at: int, handler: Callable[[], object]) -> bool:
    """Run a call, with the handler after the ``at``-th return into its functions, or begin of one; whether it ran."""
    left = at + 1

    def look(frame: Any, event: str, _: object) -> None:
        nonlocal left
        above = frame.f_back if event == "return" else frame
        if event != "c_call" and above.f_code.co_filename == parameters.__file__:
            left -= 1
            if left == 0:
                sys.setprofile(None)
                handler()

    sys.setprofile(look)
    try:
        call()
    finally:
        sys.setprofile(None)
    return left <= 0


@pytest.mark.parametrize("before", BEFORE)
@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("handler", HANDLERS)
def test_nothing_is_lost_and_nothing_waits(before: str, call: str, handler: str) -> None:
    lock = made()._lock
    with lock:
        assert lock.acquire(blocking=False), "the handler would wait for ever"
    handle, handled = HANDLERS[handler]
    for at in count():
        HELD.clear()
        store = made()
        BEFORE[before](store)
        ran = interrupted(lambda store=store: CALLS[call](store), at, lambda store=store: handle(store))
        first = {1.0} if call in ("set", "write") else {5.0} if before.startswith("dropped") else {0.0}
        possible = {ONE: first, OTHER: {0.0}}
        if handled and ran:
            possible[handled] = possible[handled] | {3.0} if call in ("set", "write") and handled == ONE else {3.0}
        agree(store, possible, f"{at}")
        for value, array in enumerate(HELD, 7):
            array[:] = value
            agree(store, {**possible, ONE: {float(value)}}, f"{at}: written to array {value - 7}")
        if not ran:
            break
    assert at > 2


def agree(store: ParameterStore, possible: dict[str, set[float]], message: str) -> None:
    """What is packed is what is there, and one of what may be."""
    packs, present = store.packs(), store.present()
    for (name, value), packed in zip(present.items(), packs, strict=True):
        np.testing.assert_array_equal(packed, value, message)
        assert value[0] in possible[name], f"{message}: {name} {value[0]}"
        np.testing.assert_array_equal(store.lease(name), value, message)
