"""Two runs side by side. What counts is the ratio to the best peer, which a machine's mood leaves alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from fastrnn.bench.markdown import instruction_set
from fastrnn.bench.results import Result, Run, geometric_mean

NOISE = 0.05  # a change of less than this is none


@dataclass(frozen=True)
class Change:
    """One case in two runs.

    Attributes
    ----------
    id : str
    before, after : float
        Our minimum, in seconds.
    peers : float or None
        How many times as fast the common peers are in the second run: the machine's doing. None without common peers.
    speedup : float
        How many times as fast we are in the second run, the peers' change taken out.
    ratio_before, ratio_after : float or None
        To the best peer of each run.
    """

    id: str
    before: float
    after: float
    peers: float | None
    speedup: float
    ratio_before: float | None
    ratio_after: float | None

    @property
    def verdict(self) -> str:
        """``faster``, ``slower`` or nothing."""
        if self.speedup > 1 + NOISE:
            return "faster"
        return "slower" if self.speedup < 1 / (1 + NOISE) else ""


def compare(before: Run, after: Run) -> list[Change]:
    """The cases that both runs have, in the first one's order."""
    later = {result.case.id: result for result in after.results}
    pairs = [(result, later[result.case.id]) for result in before.results if result.case.id in later]
    found = [_change(*pair) for pair in pairs]
    return [change for change in found if change is not None]


def warnings(before: Run, after: Run) -> list[str]:
    """What else differs: another processor, other versions, cases that only one of them has, how long was measured."""
    found = []
    for name in ("processor", "cores"):
        a, b = before.environment.get(name), after.environment.get(name)
        if a != b:
            found.append(f"{name}: {a} and {b}")
    kept = [instruction_set(run.environment) or "the processor's own" for run in (before, after)]
    if kept[0] != kept[1]:
        found.append(f"instructions: {kept[0]}; {kept[1]}")
    found += _different(*(run.environment.get("versions", {}) for run in (before, after)))
    if before.quick != after.quick:
        found.append(f"how long was measured: {_length(before)} and {_length(after)}")
    else:
        found += _different(before.effort, after.effort)
    for name, run in (("first", before), ("second", after)):
        if run.interrupted:
            found.append(f"the {name} run was interrupted")
    ids = [{result.case.id for result in run.results} for run in (before, after)]
    if ids[0] != ids[1]:
        found.append(f"{len(ids[0] ^ ids[1])} cases are in one of the runs only")
    return found


def _different(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Of what both know."""
    both = sorted(set(before) & set(after))
    return [f"{name}: {before[name]} and {after[name]}" for name in both if before[name] != after[name]]


def _length(run: Run) -> str:
    return "quick" if run.quick else "full"


def overall(changes: list[Change]) -> float:
    """The geometric mean of the speedups."""
    return geometric_mean(change.speedup for change in changes)


def _change(before: Result, after: Result) -> Change | None:
    a, b = before.ours(), after.ours()
    if a is None or b is None:
        return None
    then = {entry.contender: entry.minimum for entry in before.peers()}
    now = {entry.contender: entry.minimum for entry in after.peers()}
    common = [then[name] / now[name] for name in then if name in now]
    peers = geometric_mean(common) if common else None
    speedup = a.minimum / b.minimum / (peers or 1.0)
    return Change(before.case.id, a.minimum, b.minimum, peers, speedup, before.ratio, after.ratio)
