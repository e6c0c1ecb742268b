"""The tables of a run in Markdown, for a README: a summary, and all figures under it. Losses come first."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from fastrnn.bench.contenders import contender
from fastrnn.bench.results import Result, Run, geometric_mean

BEGIN, END = "<!-- bench:begin -->", "<!-- bench:end -->"
LOSS = "🔻"
_MODES = {"step": "one step", "forward": "whole sequence", "training": "forward + backward"}


def replace_between(path: Path, text: str) -> None:
    """Put the text between a file's markers, `BEGIN` and `END`.

    Raises
    ------
    ValueError
        If it does not have each of them once, in this order.
    """
    content = path.read_text(encoding="utf-8")
    if content.count(BEGIN) != 1 or content.count(END) != 1 or content.index(BEGIN) > content.index(END):
        raise ValueError(f"{path}: expected {BEGIN} and, after it, {END}, once each")
    before, rest = content.split(BEGIN)
    after = rest.split(END)[1]
    path.write_text(f"{before}{BEGIN}\n{text.strip()}\n{END}{after}", encoding="utf-8")


def render(run: Run, details: bool = True) -> str:
    """The summary, what it was measured on, and, with ``details``, each figure."""
    parts = [_summary(run), _where(run)]
    latency = [result for result in run.results if result.latency]
    if latency:
        parts.append(_latency(latency))
    if details:
        tables = [f"**{title}**\n\n{_group(results)}" for title, results in groups(run.results)]
        parts.append("<details>\n<summary>All figures</summary>\n\n" + "\n\n".join(tables) + "\n\n</details>")
    return "\n\n".join(parts) + "\n"


def groups(results: Iterable[Result]) -> list[tuple[str, list[Result]]]:
    """The results by mode and number of threads, each group with its title."""
    found: dict[tuple[int, str], list[Result]] = {}
    for result in results:
        found.setdefault((result.case.threads, result.case.mode), []).append(result)
    return [(f"{_MODES[mode]}, {_threads(threads)}", group) for (threads, mode), group in found.items()]


def seconds(value: float | None) -> str:
    """A time in the unit that suits it, three digits."""
    if value is None or value != value:
        return "-"
    for factor, unit in ((1e6, "us"), (1e3, "ms"), (1.0, "s")):
        if value * factor < 1000 or unit == "s":
            scaled = value * factor
            return f"{scaled:.{0 if scaled >= 100 else 1 if scaled >= 10 else 2}f} {unit}"
    return "-"


def instruction_set(environment: dict[str, Any]) -> str | None:
    """What the contenders were kept to, in words; None where each of them uses what the processor has."""
    if environment.get("isa"):
        return f"all kept to {environment['isa']}"
    name = environment.get("cpu_name") or "host"
    found = environment.get("variables") or ({} if name == "host" else {"NUMBA_CPU_NAME": name})
    return ", ".join(f"{name}={value}" for name, value in found.items()) or None


def losses_first(results: Sequence[Result]) -> list[Result]:
    """Those that lose, the worst one first, then all others as they were."""
    losing = [result for result in results if (result.ratio or 1.0) < 1.0]
    losing.sort(key=lambda result: result.ratio or 1.0)
    return losing + [result for result in results if result not in losing]


def _summary(run: Run) -> str:
    rows = []
    for title, results in groups(run.results):
        for cell in ("lstm", "gru", "rnn"):
            mine = [result for result in results if result.case.cell == cell]
            ratios = [result.ratio for result in mine if result.ratio is not None]
            if not ratios:
                continue
            worst = min((r for r in mine if r.ratio is not None), key=lambda r: r.ratio or 0.0)
            fractions = [r.fraction for r in mine if r.fraction is not None]
            possible = [r.ratio / r.fraction for r in mine if r.ratio is not None and r.fraction is not None]
            lost = sum(ratio < 1.0 for ratio in ratios)
            rows.append(
                [
                    f"{cell.upper()}, {title}",
                    str(len(ratios)),
                    f"**{geometric_mean(ratios):.2f}**",
                    f"{geometric_mean(possible):.2f}" if possible else "-",
                    f"{min(ratios):.2f} ({worst.case.label.split(' ', 1)[1]}, {_title(worst)})",
                    f"{LOSS} {lost}" if lost else "0",
                    " to ".join(dict.fromkeys(f"{f(fractions):.0%}" for f in (min, max))) if fractions else "-",
                ]
            )
    header = ["", "sizes", "times the best peer's speed", "the limit's", "at the worst size", "losses", "of the limit"]
    return _table(header, rows)


def _where(run: Run) -> str:
    machine, versions = run.environment, run.environment.get("versions", {})
    listed = ", ".join(f"{name} {number}" for name, number in versions.items() if name not in ("llvmlite", "jaxlib"))
    kept = instruction_set(machine)
    text = (
        f"{machine.get('processor', 'unknown processor')}, {machine.get('cores', '?')} cores; {listed}. "
        f"{f'Instruction set: {kept}. ' if kept else ''}The speed is the best peer's minimum time over ours, all "
        "contenders taking turns within one run, and its geometric mean over the sizes. The limit is the machine's "
        "roofline, from its measured multiply-adds and bandwidth, in which activations and calls are free: what is "
        "beyond it reads faster than the loops that measured. How fast it would be, likewise, stands beside ours."
    )
    missing = "; ".join(f"{contender(name).title}: {reason}" for name, reason in run.missing.items())
    return text + (f" Not measured: {missing}." if missing else "")


def _latency(results: Sequence[Result]) -> str:
    rows = []
    for result in results:
        peers = {name: times for name, times in result.latency.items() if name not in ("numba", "cython")}
        ours = next((result.latency[name] for name in ("numba", "cython") if name in result.latency), None)
        if ours is None:
            continue
        cells = [seconds(ours[key]) for key in ("p50", "p99", "p99.9")]
        best = min(peers, key=lambda name: peers[name]["p50"], default=None)
        theirs = [seconds(peers[best][key]) for key in ("p50", "p99", "p99.9")] if best else ["-"] * 3
        label = f"{result.case.label}, {_threads(result.case.threads)}"
        name = contender(best).title if best else "-"
        rows.append([label, *cells, f"{0.01 / ours['p50']:,.0f}", name, *theirs])
    header = ["one step of one row", "p50", "p99", "p99.9", "times real time", "best peer", "p50", "p99", "p99.9"]
    note = "Real time is a step every 10 ms, as in audio."
    return f"{_table(header, rows)}\n\n{note}"


def _group(results: Sequence[Result]) -> str:
    """A group's rows, a column for each contender; the best peer is bold, a loss is marked."""
    names = list(dict.fromkeys(entry.contender for result in results for entry in result.timed()))
    two = any(result.handover is not None for result in results)
    rows = []
    for result in losses_first(results):
        ours, best = result.ours(), result.best_peer()
        times = {entry.contender: seconds(entry.minimum) for entry in result.timed()}
        broken = {entry.contender: entry.status for entry in result.entries if entry.status in ("wrong", "failed")}
        if best is not None:
            times[best.contender] = f"**{times[best.contender]}**"
        ratio = "-" if result.ratio is None else f"{LOSS if result.ratio < 1 else ''} {result.ratio:.2f}".strip()
        row = [result.case.label, ratio, "-" if result.fraction is None else f"{result.fraction:.0%}"]
        row += [seconds(result.limit), *(times.get(name) or broken.get(name) or "-" for name in names)]
        if two:
            row.append("-" if result.handover is None else f"{result.handover * 1e9:.0f} ns")
        rows.append(row)
        assert ours is None or ours.minimum > 0
    header = ["", "ratio", "of the limit", "limit", *(contender(name).title for name in names)]
    return _table([*header, "handover"] if two else header, rows)


def _title(result: Result) -> str:
    best = result.best_peer()
    return contender(best.contender).title if best else "-"


def _threads(count: int) -> str:
    return "1 thread" if count == 1 else f"{count} threads"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    rule = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, rule, *rows))
