"""What a run has found: by case and contender, with what the machine allows, as plain values for JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fastrnn.bench.cases import Case

FORMAT = 1


@dataclass
class Entry:
    """One contender in one case.

    Attributes
    ----------
    contender : str
    status : {"ok", "unsupported", "wrong", "failed"}
        Whether it was timed, does not do this, computes something else, or broke.
    reason : str
        Why it was not timed.
    variant : str
        Its fastest way, which the figures are of.
    minimum, median : float
        Seconds of a call: over rounds, each the mean of some calls.
    busy : float
        Processors that were busy meanwhile.
    error : float
        The largest difference of its outputs from the float64 reference; see `Workload.check`.
    variants : dict
        Minimum of each variant that was timed, or the reason why it was not.
    """

    contender: str
    status: str
    reason: str = ""
    variant: str = ""
    minimum: float = math.nan
    median: float = math.nan
    busy: float = math.nan
    error: float = math.nan
    variants: dict[str, float | str] = field(default_factory=dict)


@dataclass
class Result:
    """A case, what each contender made of it, and the limit; times are seconds.

    Attributes
    ----------
    case : Case
    entries : list of Entry
    limit, limit_activations : float or None
        None where the machine was not measured.
    handover : float or None
        Beside two threads: from one's write to the other's read, the mean of before and after.
    latency : dict
        Of a step, by contender: ``p50``, ``p99`` and ``p99.9``.
    """

    case: Case
    entries: list[Entry]
    limit: float | None = None
    limit_activations: float | None = None
    handover: float | None = None
    latency: dict[str, dict[str, float]] = field(default_factory=dict)

    def timed(self) -> list[Entry]:
        """The entries that have times."""
        return [entry for entry in self.entries if entry.status == "ok"]

    def ours(self, names: Iterable[str] = ("numba", "cython")) -> Entry | None:
        """Our own: the first of the compiled backends that was timed, as it is by default."""
        found = {entry.contender: entry for entry in self.timed()}
        return next((found[name] for name in names if name in found), None)

    def peers(self) -> list[Entry]:
        """All others, the NumPy backend among them."""
        return [entry for entry in self.timed() if entry.contender not in ("numba", "cython")]

    def best_peer(self) -> Entry | None:
        """The peer with the least time."""
        return min(self.peers(), key=lambda entry: entry.minimum, default=None)

    @property
    def ratio(self) -> float | None:
        """How many times as fast as the best peer we are, by the minima; under 1 is a loss."""
        ours, peer = self.ours(), self.best_peer()
        return None if ours is None or peer is None else peer.minimum / ours.minimum

    @property
    def ratio_of_medians(self) -> float | None:
        """The same by the medians, each contender's best."""
        ours, peers = self.ours(), self.peers()
        return min((p.median for p in peers), default=math.nan) / ours.median if ours and peers else None

    @property
    def fraction(self) -> float | None:
        """Which part of the limit we reach."""
        ours = self.ours()
        return None if ours is None or self.limit is None else self.limit / ours.minimum


@dataclass
class Run:
    """A whole run.

    Attributes
    ----------
    environment : dict
        Processor, system, versions, date, and what was set and cleared.
    machine : dict
        By number of threads, `Limits` as plain values.
    missing : dict of str to str
        Contenders that are not here, and why.
    results : list of Result
    memory : list of dict
        What a long batch takes, `memory.Use` as plain values; empty unless it was asked for.
    quick, interrupted : bool
        Whether it was a quick one; whether it has not come to its end, or not yet.
    effort : dict
        How long was measured, `runner.Effort` as plain values; empty in older files.
    """

    environment: dict[str, Any]
    machine: dict[str, Any]
    missing: dict[str, str]
    results: list[Result]
    memory: list[dict[str, Any]] = field(default_factory=list)
    quick: bool = False
    interrupted: bool = False
    effort: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        path.write_text(self.text(), encoding="utf-8")

    def text(self) -> str:
        """It as JSON."""
        data = {
            "format": FORMAT,
            "quick": self.quick,
            "interrupted": self.interrupted,
            "effort": self.effort,
            "environment": self.environment,
            "machine": self.machine,
            "missing": self.missing,
            "results": [_to_json(result) for result in self.results],
            "memory": self.memory,
        }
        return json.dumps(_rounded(data), indent=1, allow_nan=False) + "\n"

    @classmethod
    def load(cls, path: Path) -> Run:
        """Read what `save` wrote.

        Raises
        ------
        ValueError
            If the file is something else.
        """
        try:
            data = json.loads(path.read_text(encoding="utf-8"))
            if data["format"] != FORMAT:
                raise ValueError(f"format {data['format']}")
            results = [_from_json(result) for result in data["results"]]
            later = {name: data[name] for name in ("memory", "quick", "interrupted", "effort") if name in data}
            return cls(data["environment"], data["machine"], data["missing"], results, **later)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: expected a file that `fastrnn bench --json` wrote: {error}") from error


def _to_json(result: Result) -> dict[str, Any]:
    entries = [{k: v for k, v in asdict(entry).items() if v == v and v != "" and v != {}} for entry in result.entries]
    data = {name: value for name, value in result.__dict__.items() if name not in ("case", "entries")}
    ratio = {"ratio": result.ratio, "ratio_of_medians": result.ratio_of_medians, "fraction": result.fraction}
    return {"case": result.case.to_json(), **data, **ratio, "entries": entries}


def _from_json(data: dict[str, Any]) -> Result:
    kept = {name: data[name] for name in ("limit", "limit_activations", "handover", "latency")}
    return Result(Case.from_json(data["case"]), [Entry(**entry) for entry in data["entries"]], **kept)


def _rounded(value: Any) -> Any:
    """Five digits: more than any measurement has."""
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None
    if isinstance(value, dict):
        return {key: _rounded(entry) for key, entry in value.items()}
    return [_rounded(entry) for entry in value] if isinstance(value, (list, tuple)) else value


def geometric_mean(values: Iterable[float]) -> float:
    """NaN for none."""
    logs = [math.log(value) for value in values]
    return math.exp(sum(logs) / len(logs)) if logs else math.nan
