"""How long an epoch takes on each backend."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

from fastrnn.commands.speakers import SpeakerModel
from fastrnn.commands.vowels import Utterances

ROUNDS = 15
FEWEST_ROUNDS = 3
SECONDS = 10.0  # after which no further round begins


def time_epochs(
    models: dict[str, SpeakerModel], training: Utterances, on_round: Callable[[], None] = lambda: None
) -> dict[str, float]:
    """The seconds of a training epoch of each model: the median of some rounds, in which all take their turn."""
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for model in models.values():
        model.train_epoch(training)  # compiles, and touches all memory for the first time
    begin = time.perf_counter()
    for number in range(ROUNDS):
        if number >= FEWEST_ROUNDS and time.perf_counter() - begin > SECONDS:
            break
        for name, model in models.items():
            start = time.perf_counter()
            model.train_epoch(training)
            seconds[name].append(time.perf_counter() - start)
        on_round()
    return {name: statistics.median(found) for name, found in seconds.items()}
