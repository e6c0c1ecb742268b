"""Steps shared by a crew: while they go well it is not asked about each, and what it has to know it is told later."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from unittest import mock

import numpy as np
import pytest
from cases import compiled

import fastrnn
from fastrnn.backends import load
from fastrnn.backends.tiled import frame as f
from fastrnn.backends.tiled import steps

X, Y = np.zeros((3, 8), np.float32), np.empty((3, 64), np.float32)
WORK = 55_296  # multiply-adds of a step
STRETCH = 10  # steps without a question


class Scene:
    """A step whose crew and kernel are played: what was called, and what the kernel and the crew are to answer."""

    def __init__(self, step: Any) -> None:
        self.step, self.done = step, list[Any]()
        self.found = self.size = 2

    def run(self, count: int = 1) -> list[Any]:
        """What some steps have called."""
        self.done.clear()
        for _ in range(count):
            assert self.step.run(X, Y) == self.found
        return self.done[:]

    def noted(self, what: str, answer: Any = None) -> Any:
        """A function that notes its call."""

        def function(*given: Any, **_: Any) -> Any:
            self.done.append((what, *given) if what in ("well", "learn") else what)
            return answer(*given) if answer else None

        return function


@pytest.fixture
def scene(backend: str) -> Iterator[Scene]:
    loaded: Any = load(backend)
    with mock.patch.object(steps, "WORTH_ASKING", STRETCH * WORK), fastrnn.threads(1):
        stream = fastrnn.LSTM(8, 64, backend=backend).stream(3)
        stream.step(X, out=Y)
    scene = Scene(stream._steps)
    crew = {
        "size": scene.noted("size", lambda *_: scene.size),
        "went_well": scene.noted("well"),
        "learn": scene.noted("learn", lambda found, _: found % f.WAITS),
        "wake": scene.noted("wake"),
    }
    scene.step.run = scene.step._shared  # whatever the size
    scene.step._alone = scene.noted("alone", lambda *_: scene.found)
    with (
        mock.patch.multiple(loaded.crew, **crew),
        mock.patch.object(loaded.native, "bound_step", return_value=scene.noted("step", lambda *_: scene.found)),
        fastrnn.threads(2),
    ):
        yield scene


@compiled
def test_while_steps_go_well_nobody_is_asked(scene: Scene) -> None:
    """Once in a stretch of them; then the crew hears of the others."""
    assert scene.run() == ["size", "step", ("learn", 2, WORK)]
    assert scene.run(STRETCH) == ["step"] * STRETCH
    assert scene.run() == [("well", STRETCH, STRETCH), "size", "step", ("learn", 2, WORK)]
    assert scene.run(3) == ["step"] * 3


@compiled
@pytest.mark.parametrize("found", [1, 2 + f.WAITS])
def test_a_step_that_did_not_go_well_is_told(scene: Scene, found: int) -> None:
    """Somebody slept, or was waited for for long. Sleepers are woken if more steps come soon, which the crew knows."""
    for size in (1, 2):
        scene.run(4)
        scene.found, scene.size = found, size
        woken = ["wake"] if found == 1 and size == 2 else []
        assert scene.run() == ["step", ("well", 3, 3), "size", ("learn", found, WORK), *woken]
        scene.found, scene.size = 2, 2
        assert scene.run() == ["size", "step", ("learn", 2, WORK)]
        scene.run(STRETCH)


@compiled
def test_what_is_no_step_changes_nothing(scene: Scene) -> None:
    """Arrays that a step cannot use are copied by the caller, and the step comes again."""
    scene.run(4)
    scene.found = 0
    assert scene.run() == ["step"]
    scene.found = 2
    assert scene.run(STRETCH - 3) == ["step"] * (STRETCH - 3)
    assert scene.run()[0] == ("well", STRETCH, STRETCH)


@compiled
def test_another_number_of_threads_counts_at_once(scene: Scene) -> None:
    scene.run(4)
    with fastrnn.threads(1):
        assert scene.run() == [("well", 3, 3), "alone"]
    scene.run(2)
    scene.size = 3
    with fastrnn.threads(3):
        assert scene.run() == [("well", 1, 1), "size", "step", ("learn", 2, WORK), "wake"]


@compiled
def test_a_crew_that_is_another_one_is_asked(scene: Scene, backend: str) -> None:
    """After a fork there is nobody in the old boxes, and to wait for them would be for ever."""
    scene.run(4)
    crew = load(backend).crew  # type: ignore[attr-defined]
    with mock.patch.object(crew, "all_boxes", crew.all_boxes.copy()):
        assert scene.run()[:2] == [("well", 3, 3), "size"]


@compiled
def test_the_crew_knows_when_the_last_step_was(scene: Scene, backend: str) -> None:
    """Others ask how long ago that was: whether workers are still awake."""
    crew = load(backend).crew  # type: ignore[attr-defined]
    scene.run(2)
    crew.last = 0.0
    scene.run(1)
    assert crew.last > 0.0


@compiled
def test_long_steps_always_ask(backend: str) -> None:
    """Sleepers are woken at their begin: see `WORTH_ROUSING`."""
    crew: Any = load(backend).crew  # type: ignore[attr-defined]
    asked = mock.Mock(return_value=1)
    with (
        mock.patch.multiple(steps, WORTH_ROUSING=WORK - 1, WORTH_ASKING=STRETCH * WORK, WORTH_STEPPING=1),
        mock.patch.object(crew, "size", asked),
        fastrnn.threads(2),
    ):
        stream = fastrnn.LSTM(8, 64, backend=backend).stream(3)
        for _ in range(5):
            stream.step(X, out=Y)
    assert asked.call_count == 5
