"""What ways back keep for the next one: small rooms, and the tables of their products."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest
from cases import assert_same_bits, compiled
from sharing import share_everything

import fastrnn
from fastrnn.backends.tiled import whole as wholes
from fastrnn.backends.tiled.room import Room
from fastrnn.backends.tiled.whole import WholeBackward
from fastrnn.reuse import LEAST


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[Room]:
    """All rooms of ways back from now on; none is kept at first."""
    found: list[Room] = []

    class Counted(Room):
        def __init__(self, *sizes: int) -> None:
            found.append(self)
            super().__init__(*sizes)

    monkeypatch.setattr(wholes, "Room", Counted)
    monkeypatch.setattr(wholes, "_rooms", {})
    return found


def way_back(layer: Any, steps: int = 4, batch: int = 2) -> Any:
    """The gradients of some steps and rows."""
    y, _, tape = layer.record(np.ones((steps, batch, layer.input_size), np.float32))
    return layer.backward(tape, np.ones_like(y))


@compiled
def test_a_small_room_is_used_again_by_calls_of_the_same_sizes(backend: str, made: list[Room]) -> None:
    """Also after the weights have changed; the last ones are kept. A large one is not: see `fastrnn.reuse`."""
    layer = fastrnn.LSTM(3, 5, backend=backend)
    for _ in range(3):
        way_back(layer)
        layer.parameters["bias_l0"][:] += 1
    assert len(made) == 1
    others = [(8, 1), (1, 8), (4, 3), (5, 2)]
    for count, (steps, batch) in enumerate(others, 2):
        way_back(layer, steps, batch)
        assert len(made) == count
    for other in (fastrnn.LSTM(3, 70, backend=backend), fastrnn.GRU(3, 5, backend=backend)):
        way_back(other)
    assert len(made) == len(others) + 3
    with share_everything(rows_apart=100), fastrnn.threads(2):
        for _ in range(100):
            way_back(layer)
            if len(made) > len(others) + 3:
                break
    assert len(made) == len(others) + 4
    way_back(layer, 400, 20)
    assert made[-1].nbytes >= LEAST and made[-1] not in wholes._rooms.values()
    for steps in range(10, 11 + wholes.ROOMS):
        way_back(layer, steps)
    assert len(wholes._rooms) == wholes.ROOMS
    assert made[-1] in wholes._rooms.values() and made[0] not in wholes._rooms.values()


@compiled
def test_tables_are_made_once_for_all_packs_of_a_layer(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """One for each number of threads."""
    found: list[WholeBackward] = []
    real = WholeBackward.tables
    monkeypatch.setattr(WholeBackward, "tables", lambda whole, *given: found.append(whole) or real(whole, *given))
    layer = fastrnn.LSTM(3, 5, backend=backend)
    for _ in range(3):
        way_back(layer)
        layer.parameters["bias_l0"][:] += 1
    assert len(found) == 1
    with share_everything(rows_apart=100), fastrnn.threads(2):
        deadline = time.monotonic() + 60
        while len(found) == 1:  # until another thread is there
            way_back(layer)
            layer.parameters["bias_l0"][:] += 1
            assert time.monotonic() < deadline
        for _ in range(3):
            way_back(layer)
            layer.parameters["bias_l0"][:] += 1
    assert len(found) == 2
    way_back(fastrnn.LSTM(3, 5, backend=backend))
    assert len({id(whole) for whole in found}) == 2


@compiled
def test_no_two_ways_back_have_one_room_at_once(backend: str, made: list[Room]) -> None:
    layer = fastrnn.LSTM(3, 5, backend=backend)
    y, _, tape = layer.record(np.ones((4, 2, 3), np.float32))
    alone = layer.backward(tape, np.ones_like(y))
    runs = tape._stack.tapes[0][0].pack.form.whole._runs
    run, size = runs[1]
    found: list[Any] = []

    def meanwhile(*given: Any) -> int:
        runs[1] = run, size
        found.append(layer.backward(tape, np.ones_like(y)))
        return run(*given)

    runs[1] = meanwhile, size
    found.append(layer.backward(tape, np.ones_like(y)))
    assert len(made) == 2 and made[0].at != made[1].at
    for each in found:
        assert_same_bits(each.x, alone.x)
        for name, value in each.parameters.items():
            assert_same_bits(value, alone.parameters[name], name)
