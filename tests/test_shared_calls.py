"""Calls that a team shares: which are worth it, and that those made ready by compiled code give the same bits."""

from __future__ import annotations

import itertools
import time
from typing import Any
from unittest import mock

import numpy as np
import pytest
from cases import assert_same_bits, compiled
from conformance import as_tuple
from sharing import share_everything

import fastrnn
from fastrnn.backends import load
from fastrnn.backends.contract import Rows
from fastrnn.backends.tiled import box as bx
from fastrnn.backends.tiled import crew as crews
from fastrnn.backends.tiled import frame as f
from fastrnn.backends.tiled import worth
from fastrnn.backends.tiled.box import NOBODY
from fastrnn.backends.tiled.crew import Crew
from fastrnn.reuse import address

B, I, H = 3, 5, 33  # noqa: E741
LAYERS = {
    "lstm, two layers": lambda **o: fastrnn.LSTM(I, H, num_layers=2, **o),
    "gru, reset before": lambda **o: fastrnn.GRU(I, H, reset_after=False, **o),
    "rnn, both directions": lambda **o: fastrnn.RNN(I, H, bidirectional=True, **o),
}


def a_crew(monkeypatch: pytest.MonkeyPatch, halves: bool = False, **native: Any) -> Crew:
    """One of a thread that waits, on two processors, whose calls come soon one after the other."""
    crew = Crew(mock.Mock(halves=halves, **native))
    crew._workers = [mock.Mock(box=np.full(bx.WORDS, bx.WAITING))]
    crew.all_boxes = np.array([address(crew._workers[0].box)])
    monkeypatch.setattr(worth, "processors", lambda: 2)
    monkeypatch.setattr(worth, "SOON", 1e9)
    return crew


@compiled
@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("members", [2, 3])
@pytest.mark.parametrize("lengths", [None, [2, 6, 0]])
@pytest.mark.parametrize(
    ("steps", "dtype", "given"), [(6, "float32", False), (6, "float64", True), (400, "float32", True)]
)
def test_a_team_gives_the_same_bits(
    backend: str, kind: str, members: int, lengths: Any, steps: int, dtype: Any, given: bool
) -> None:
    """Of every layer and direction, in one chunk of time or several, ragged or not, from zeros or a given state."""
    layer = LAYERS[kind](backend=backend, dtype=dtype)
    x = np.random.default_rng(1).normal(size=(steps, B, I))
    first = layer(x)[1] if given else None

    def call() -> list[np.ndarray]:
        y, state = layer(x, first, lengths, sequence=not layer.bidirectional)
        return [y, *as_tuple(state)]

    alone = call()
    native = load(backend).native  # type: ignore[attr-defined]
    found: list[int] = []
    real = native.team_on

    def team_on(*given: Any) -> int:
        found.append(real(*given) % f.WAITS)
        return found[-1]

    end = time.monotonic() + 60
    with mock.patch.object(native, "team_on", team_on, create=True), share_everything(), fastrnn.threads(members):
        while found.count(members) < 4 and time.monotonic() < end:
            for got, expected in zip(call(), alone, strict=True):
                assert_same_bits(got, expected, kind)
    assert found.count(members) >= 4


@pytest.mark.parametrize("apart", [False, True])
def test_a_call_is_shared_with_those_who_wait(apart: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever did not come is woken. A team's waits are looked at, which threads apart do not have."""
    crew, run = a_crew(monkeypatch), mock.Mock(return_value=2)
    crew.wake = mock.Mock()  # type: ignore[method-assign]
    crew.learn = mock.Mock(side_effect=lambda found, work, steps: found)  # type: ignore[method-assign]
    crew._in_vain = 1
    assert crew.run_call(run, 1000, 10, 2, apart)
    assert run.call_args.args == (crew.all_boxes, 2)
    assert crew._in_vain == (0 if apart else 1)  # else it is `learn` that does that
    assert crew.learn.call_args_list == ([] if apart else [mock.call(2, 1000, 10)])
    assert not crew.wake.called
    run.return_value = 1
    assert crew.run_call(run, 1000, 10, 2, apart)
    assert crew.wake.call_args.args == (1,)


@pytest.mark.parametrize("apart", [False, True])
def test_a_short_call_does_not_wait_for_a_sleeper(apart: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """It goes alone, and the next one finds the other awake. A longer one is made ready for who comes later."""
    crew, run = a_crew(monkeypatch), mock.Mock()
    crew.wake = mock.Mock()  # type: ignore[method-assign]
    crew._workers[0].box[bx.STATE] = bx.ASLEEP
    assert crew.run_call(run, crews.HEAD - 1, 10, 2, apart)
    assert run.call_args.args == (NOBODY, 1)
    assert crew.wake.call_args.args == (1,)
    crew.wake.reset_mock()
    assert not crew.run_call(run, crews.HEAD, 10, 2, apart)
    assert run.call_count == 1
    assert not crew.wake.called


@pytest.mark.parametrize("bound", [False, True])
def test_what_has_to_be_made_ready_has_to_be_longer(bound: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    crew = a_crew(monkeypatch)
    least = worth.WORTH_BINDING if bound else worth.WORTH_CALLING
    rows = Rows.of(10, 1)
    for work, members in ((2 * least // 10 - 1, 1), (2 * least // 10, 2)):
        assert crew.split(2, rows, work, work, bound=bound) == (members, False)


by_pace = pytest.mark.parametrize(("halves", "pace"), [(False, 1.0), (True, worth.HALVES)])
ALONE, TOGETHER, APART = (1, False), (2, False), (2, True)


@by_pace
def test_a_step_is_worth_a_meeting(halves: bool, pace: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """By how fast a processor is, how far from the other one, and how many rows these hand to each other."""
    crew = a_crew(monkeypatch, halves)
    for batch, far in itertools.product((1, 2, 3), (1.0, 3.0)):
        crew.distance.factor = far
        of_row = int(2 * pace * far * worth.WORTH_MEETING * (batch + 1) / 2 / batch)
        assert crew.split(2, Rows.of(1000, batch), of_row - 1, batch * (of_row - 1)) == ALONE
        assert crew.split(2, Rows.of(1000, batch), of_row + 1, batch * (of_row + 1)) == TOGETHER


@by_pace
@pytest.mark.parametrize(("batch", "steps", "counts"), [(1, 1000, 0.25), (2, 1000, 0.5), (3, 1000, 0.75), (8, 60, 1.0)])
def test_input_products_are_worth_a_meeting(
    halves: bool, pace: float, batch: int, steps: int, counts: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is multiplied for many steps at once is shared as well; beside steps of few rows it counts for less."""
    crew, rows = a_crew(monkeypatch, halves), Rows.of(steps, batch)
    enough = 2 * pace * min(worth.WORTH_MEETING * (batch + 1) / 2, worth.WORTH_MEETING_ROWS)
    of_steps = enough / 2
    of_row = int((of_steps + (enough - of_steps) / counts) / batch)
    assert crew.split(2, rows, of_row - 1, of_steps, bound=False) == ALONE
    assert crew.split(2, rows, of_row + 2, of_steps, bound=False) == TOGETHER


@by_pace
@pytest.mark.parametrize("batch", [1, 3, 8])
@pytest.mark.parametrize("of_steps", [1.0, 0.5])
def test_rows_that_end_soon_count_for_what_they_are(
    halves: bool, pace: float, batch: int, of_steps: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but one have a step in a hundred: each of most steps has the work of one row, of which a part is at once."""
    crew = a_crew(monkeypatch, halves)
    rows = Rows.of(1000, batch, np.array([1000] + [10] * (batch - 1)))
    active = rows.total / rows.longest
    enough = pace * worth.WORTH_MEETING * (active + 1) / active  # of a row
    step_work = batch * of_steps * enough
    of_row = int(enough * (of_steps + (1 - of_steps) / (active / worth.TILE_ROWS)))
    assert crew.split(2, rows, of_row - 5, step_work - 5 * (of_steps == 1.0), bound=False) == ALONE
    assert crew.split(2, rows, of_row + 5, step_work + 5 * (of_steps == 1.0), bound=False) == TOGETHER


@by_pace
@pytest.mark.parametrize("far", [1.0, 3.0])
def test_rows_stay_together(halves: bool, pace: float, far: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """If they are few and a step is long, the longer the fewer; if most end soon; if it is too little to hand out."""
    crew = a_crew(monkeypatch, halves)
    crew.distance.factor = far
    together = 2 * pace * far * worth.WORTH_TOGETHER
    for batch, most in ((4, together), (7, together), (8, 2 * together), (47, 2 * together)):
        rows = Rows.of(10, batch)
        assert crew.split(2, rows, 1_000_000, int(most) - 2) == APART
        assert crew.split(2, rows, 1_000_000, int(most) + 2) == TOGETHER
    few, many = Rows.of(10, 8), Rows.of(10, 2 * worth.ROWS_APART)
    assert crew.split(2, few, worth.WORTH_APART // 40 + 1, 0, bound=False) == APART
    assert crew.split(2, few, worth.WORTH_APART // 40 - 1, 0, bound=False) == TOGETHER
    of_row = int(2 * pace * far * worth.WORTH_MEETING_ROWS / 8)  # of so few steps that they are not worth it apart
    few = Rows.of(int(100 / (pace * far)), 8)
    assert crew.split(2, few, of_row - 1, 8 * (of_row - 1), bound=False) == ALONE
    assert crew.split(2, few, of_row + 1, 8 * (of_row + 1), bound=False) == TOGETHER
    assert crew.split(2, many, 1_000_000, 48_000_000) == APART
    assert crew.split(2, many, 2_000, 96_000, bound=False)[0] == 1
    one_long = Rows.of(1000, 8, np.array([1000, 1, 1, 1, 1, 1, 1, 1]))
    assert crew.split(2, one_long, int(together) // 8 + 1, int(together) - 2, bound=False) == TOGETHER


@compiled
def test_small_training_steps_ask_nobody(backend: str) -> None:
    """What is worth no second thread does not look for one, before each list of products."""
    layer = fastrnn.LSTM(I, H, backend=backend)
    x = np.zeros((4, B, I), np.float32)
    crew = load(backend).crew  # type: ignore[attr-defined]
    with fastrnn.threads(2), mock.patch.object(crew, "run_products") as products:
        y, _, tape = layer.record(x)
        layer.backward(tape, y)
        assert not products.called
        with share_everything(), mock.patch.object(crew, "split", return_value=(1, False)):
            layer.backward(tape, y)
        assert products.called
