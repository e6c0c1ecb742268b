"""What a run has found: by case and contender, with what the machine allows, as plain values for JSON."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from fastrnn.bench.cases import CELLS, MODES, Case
from fastrnn.bench.machine import Limits

FORMAT = 1
_NO_RUN = "expected a file that `fastrnn bench --json` wrote"
_KINDS: dict[str, type] = {"environment": dict, "machine": dict, "missing": dict, "results": list}
_LATER: dict[str, type] = {"memory": list, "quick": bool, "interrupted": bool, "effort": dict}  # not in older files


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
            return _checked(json.loads(path.read_text(encoding="utf-8")))
        except KeyError as error:
            raise ValueError(f"{path}: {_NO_RUN}: {error} is missing") from error
        except (AttributeError, RecursionError, TypeError, ValueError) as error:
            raise ValueError(f"{path}: {_NO_RUN}: {error}") from error


def _to_json(result: Result) -> dict[str, Any]:
    entries = [{k: v for k, v in asdict(entry).items() if v == v and v != "" and v != {}} for entry in result.entries]
    data = {name: value for name, value in result.__dict__.items() if name not in ("case", "entries")}
    ratio = {"ratio": result.ratio, "ratio_of_medians": result.ratio_of_medians, "fraction": result.fraction}
    return {"case": result.case.to_json(), **data, **ratio, "entries": entries}


def _checked(data: dict[str, Any]) -> Run:
    """The run, whose values are what they should be: whoever reads them divides by times and looks up names."""
    if data["format"] != FORMAT:
        raise ValueError(f"format {data['format']}")
    fields = {name: data[name] for name in _KINDS} | {name: data[name] for name in _LATER if name in data}
    for name, value in fields.items():
        _expect(isinstance(value, (_KINDS | _LATER)[name]), name, value)
    for name in ("versions", "variables"):
        value = fields["environment"].get(name, {})
        _expect(isinstance(value, dict), name, value)
    for limits in fields["machine"].values():
        Limits.from_json(limits)
    return Run(**{**fields, "results": [_from_json(result) for result in fields["results"]]})


def _from_json(data: dict[str, Any]) -> Result:
    kept = {name: data[name] for name in ("limit", "limit_activations", "handover", "latency")}
    for name in ("limit", "limit_activations", "handover"):
        _expect(kept[name] is None or _is_time(kept[name]), name, kept[name])
    for times in kept["latency"].values():
        for share in ("p50", "p99", "p99.9"):
            _expect(_is_time(times[share]), share, times[share])
    return Result(_case(data["case"]), [_entry(entry) for entry in data["entries"]], **kept)


def _case(data: dict[str, Any]) -> Case:
    case = Case.from_json(data)
    for name, known in (("cell", CELLS), ("mode", MODES), ("dtype", ("float32", "float64"))):
        _expect(getattr(case, name) in known, name, getattr(case, name))
    for name in ("T", "B", "I", "H", "layers", "directions", "threads"):
        value = getattr(case, name)
        _expect(isinstance(value, int) and value > 0, name, value)
    return case


def _entry(data: dict[str, Any]) -> Entry:
    entry = Entry(**data)
    _expect(isinstance(entry.contender, str), "contender", entry.contender)
    for name in ("minimum", "median") if entry.status == "ok" else ():
        _expect(_is_time(getattr(entry, name)), name, getattr(entry, name))
    return entry


def _is_time(value: Any) -> bool:
    return isinstance(value, (int, float)) and 0 < value < math.inf


def _expect(right: bool, name: str, value: Any) -> None:
    if not right:
        raise ValueError(f"{name} is {str(value)[:40]!r}")


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
