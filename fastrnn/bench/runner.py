"""A run: contenders in processes of their own, one of them at work at a time, taking turns within each case."""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from fastrnn.bench import limits, workload
from fastrnn.bench.cases import Case
from fastrnn.bench.contenders import contender
from fastrnn.bench.machine import Limits, handover
from fastrnn.bench.process import Process, WorkerError
from fastrnn.bench.results import Entry, Result

_REST = 0.04  # seconds in which the last one's helping threads, which look for work for a while, go to sleep
CLOSE = 1.25
_OURS = ("numba", "cython")  # the first of them that is timed is compared with peers, as in `Result.ours`
PERCENTILES = {"p50": 50.0, "p99": 99.0, "p99.9": 99.9}


@dataclass(frozen=True)
class Effort:
    """How long to measure.

    Attributes
    ----------
    turn : float
        Seconds of a contender's turn; a call that takes longer is a turn.
    rounds, fewest_rounds : int
        Rounds of a case, and how many there are even if they take more than ``seconds``.
    seconds : float
        After which no further round of all begins.
    close_rounds : int
        How many there are even then for those that are within `CLOSE` of the fastest, if we and the best peer are: a
        case of long calls would otherwise be decided by the chance of a few. Where one of us is not, all stop: a
        minimum over more rounds is a lower one, and both sides of a ratio have the same.
    samples : int
        Single steps to take the percentiles of; 0: none.
    """

    turn: float = 0.005
    rounds: int = 40
    fewest_rounds: int = 5
    seconds: float = 6.0
    close_rounds: int = 15
    samples: int = 20_000


QUICK = Effort(turn=0.002, rounds=10, fewest_rounds=3, seconds=1.0, close_rounds=3, samples=2_000)


@dataclass
class _Lane:
    """One variant of one contender in one case."""

    name: str
    variant: str
    calls: int
    seconds: list[float] = field(default_factory=list)
    busy: list[float] = field(default_factory=list)


def set_limits(results: Iterable[Result], machine: dict[int, Limits]) -> None:
    """Give each result its limits, where the machine was measured with so many threads."""
    for result in results:
        found = machine.get(result.case.threads)
        if found is not None:
            result.limit = limits.limit(result.case, found)
            result.limit_activations = limits.with_activations(result.case, found)


class Runner:
    """Runs cases with some contenders; a context manager, at whose end their processes are gone.

    Parameters
    ----------
    names : sequence of str
        Contenders that are available here.
    effort : Effort
    machine : dict of int to Limits
        What so many threads can do; a case with another number of threads gets no limit.
    on_step : function of (str, str)
        Told what happens now: the case's id, and what is done.
    isa : str or None
        An instruction set that all are kept to, of `isa.NAMES`.

    Attributes
    ----------
    versions : dict of str to str
        Of all packages that the contenders have loaded.
    """

    def __init__(
        self,
        names: Sequence[str],
        effort: Effort | None = None,
        machine: dict[int, Limits] | None = None,
        on_step: Callable[[str, str], None] = lambda case, what: None,
        isa: str | None = None,
    ) -> None:
        self.names, self.effort, self.isa = list(names), effort or Effort(), isa
        self.machine, self.on_step = machine or {}, on_step
        self.versions: dict[str, str] = {}
        self._processes: dict[tuple[str, int], Process] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="fastrnn-bench-")

    def __enter__(self) -> Runner:
        return self

    def __exit__(self, *_: object) -> None:
        for process in self._processes.values():
            process.close()
        self._folder.cleanup()

    def run(self, case: Case) -> Result:
        """One case with all contenders: check, calibrate, take turns, take the percentiles of a step."""
        self.on_step(case.id, "reference")
        path = Path(self._folder.name) / "case.npz"
        workload.make(case).save(path)
        entries = {name: self._load(name, case, path) for name in self.names}
        path.unlink()
        hands = [handover() if case.threads > 1 and self.machine else None]
        lanes = self._calibrated(case, entries)
        self._take_turns(case, lanes, entries)
        for entry in entries.values():
            _settle(entry, [lane for lane in lanes if lane.name == entry.contender])
        latency = self._latency(case, entries)
        hands.append(handover() if case.threads > 1 and self.machine else None)
        for name in self.names:
            self._ask(entries[name], case, "drop")
        found = [hand for hand in hands if hand is not None]
        result = Result(case, list(entries.values()), None, None, statistics.mean(found) if found else None, latency)
        set_limits([result], self.machine)
        return result

    def _load(self, name: str, case: Case, path: Path) -> Entry:
        """Have a contender prepare a case and check its outputs."""
        self.on_step(case.id, f"{contender(name).title}: check")
        reason = contender(name).unsupported(case)
        if reason is not None:
            return Entry(name, "unsupported", reason)
        entry = Entry(name, "ok")
        answer = self._ask(entry, case, "load", path=str(path))
        found: dict[str, dict[str, Any]] = answer.get("variants", {})
        passed = [variant for variant in found.values() if "error" in variant]
        entry.error = max((variant["error"] for variant in passed), default=entry.error)
        for variant, facts in found.items():
            entry.variants[variant] = facts.get("wrong") or facts.get("failed") or 0.0
        if entry.status == "ok" and not passed:
            wrong = any("wrong" in facts for facts in found.values())
            entry.status = "wrong" if wrong else "failed"
            entry.reason = "; ".join(f"{key}: {text}" for key, text in entry.variants.items()) or "no way to compute it"
        return entry

    def _calibrated(self, case: Case, entries: dict[str, Entry]) -> list[_Lane]:
        lanes = []
        for name, entry in entries.items():
            for variant, fact in entry.variants.items():
                if isinstance(fact, str) or entry.status != "ok":
                    continue
                self.on_step(case.id, f"{contender(name).title}: calibrate")
                answer = self._ask(entry, case, "calibrate", variant=variant, seconds=self.effort.turn)
                if "calls" in answer:
                    lanes.append(_Lane(name, variant, answer["calls"]))
        return lanes

    def _take_turns(self, case: Case, lanes: list[_Lane], entries: dict[str, Entry]) -> None:
        """Rounds in which each has one turn. The order moves on, so that nobody always comes after the same one."""
        spent = 0.0
        for number in range(self.effort.rounds):
            taking = self._taking_part([lane for lane in lanes if entries[lane.name].status == "ok"], number, spent)
            if not taking:
                break
            self.on_step(case.id, f"round {number + 1}")
            first = number % len(taking)
            for lane in taking[first:] + taking[:first]:
                entry = entries[lane.name]
                if entry.status != "ok":
                    continue
                if case.threads > 1:
                    time.sleep(_REST)
                answer = self._ask(entry, case, "time", variant=lane.variant, calls=lane.calls)
                if "seconds" in answer:
                    lane.seconds.append(answer["seconds"])
                    lane.busy.append(answer["busy"])
                    spent += answer["turn"]

    def _taking_part(self, lanes: list[_Lane], number: int, spent: float) -> list[_Lane]:
        """Who takes part in a round: all, and once their time is up those that may yet be the fastest.

        Then, too, the best peer has as many rounds as we have.
        """
        if number < self.effort.fewest_rounds or spent <= self.effort.seconds:
            return lanes
        timed = [lane for lane in lanes if lane.seconds]
        if number >= self.effort.close_rounds or not timed:
            return []
        best = min(min(lane.seconds) for lane in timed)
        close = [lane for lane in timed if min(lane.seconds) <= CLOSE * best]
        ours = next((name for name in _OURS if any(lane.name == name for lane in timed)), None)
        return close if _sides(close, ours) == _sides(timed, ours) else []

    def _latency(self, case: Case, entries: dict[str, Entry]) -> dict[str, dict[str, float]]:
        """Percentiles of single steps, for one row: what a live stream feels. Contenders take turns here, too."""
        if case.mode != "step" or case.B != 1 or not self.effort.samples:
            return {}
        self.on_step(case.id, "single steps")
        turns = 10
        samples: dict[str, list[float]] = {}
        for _ in range(turns):
            for name, entry in entries.items():
                if entry.status == "ok":
                    time.sleep(_REST if case.threads > 1 else 0)
                    calls = max(10, self.effort.samples // turns)
                    answer = self._ask(entry, case, "sample", variant=entry.variant, calls=calls)
                    samples.setdefault(name, []).extend(answer.get("nanoseconds", []))
        return {
            name: {key: float(np.percentile(values, share)) / 1e9 for key, share in PERCENTILES.items()}
            for name, values in samples.items()
            if values
        }

    def _ask(self, entry: Entry, case: Case, do: str, **arguments: Any) -> dict[str, Any]:
        """An answer of a contender; if it breaks, its entry says so, and its process is gone."""
        key = entry.contender, case.threads
        try:
            if do == "drop" and key not in self._processes:
                return {}
            answer = self._process(*key).ask(do, **arguments)
        except WorkerError as error:
            answer = {"failed": str(error)}
            with suppress(KeyError):
                self._processes.pop(key).close()
        if "failed" in answer:
            entry.status, entry.reason = "failed", answer["failed"]
        return answer

    def _process(self, name: str, threads: int) -> Process:
        if (name, threads) not in self._processes:
            for old in [key for key in self._processes if key[1] != threads]:
                self._processes.pop(
                    old
                ).close()  # cases come by their number of threads; no one idles in the background
            process = Process(name, threads, self.isa)
            self._processes[name, threads] = process
            self.versions.update(process.versions)
        return self._processes[name, threads]


def _sides(lanes: list[_Lane], ours: str | None) -> set[bool]:
    """Which sides of the ratio are among them: ours, True, and peers, False."""
    return {lane.name == ours for lane in lanes if lane.name == ours or lane.name not in _OURS}


def _settle(entry: Entry, lanes: list[_Lane]) -> None:
    """Give an entry the figures of its fastest variant."""
    timed = [lane for lane in lanes if lane.seconds]
    if entry.status != "ok" or not timed:
        if entry.status == "ok":
            entry.status, entry.reason = "failed", "it was not timed"
        return
    for lane in timed:
        entry.variants[lane.variant] = min(lane.seconds)
    best = min(timed, key=lambda lane: min(lane.seconds))
    entry.variant, entry.minimum = best.variant, min(best.seconds)
    entry.median, entry.busy = statistics.median(best.seconds), statistics.median(best.busy)
