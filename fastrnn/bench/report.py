"""What ``fastrnn bench`` prints."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from fastrnn.bench import memory
from fastrnn.bench.columns import Columns
from fastrnn.bench.compare import Change, overall
from fastrnn.bench.contenders import contender
from fastrnn.bench.machine import Limits
from fastrnn.bench.markdown import groups, instruction_set, losses_first, seconds
from fastrnn.bench.results import Result, Run, geometric_mean

RAGGED_AIM = 1.05
_FOOTPRINTS = (("16 KB", 1 << 14), ("512 KB", 1 << 19), ("8 MB", 1 << 23), ("128 MB", 1 << 27))


def show_environment(console: Console, environment: dict[str, Any], missing: dict[str, str]) -> None:
    """Processor, versions, who is not here and why."""
    rows = {
        "processor": f"{environment['processor']}, {environment['cores']} cores",
        "software": ", ".join(f"{name} {number}" for name, number in environment["versions"].items()),
    }
    kept = instruction_set(environment)
    if kept is not None:
        rows["instructions"] = f"[yellow]{escape(kept)}[/]"
    if environment["cleared"]:
        rows["cleared"] = f"{', '.join(environment['cleared'])}: with them NumPy is not itself"
    if environment["load"] is not None and environment["load"] > 0.5:
        rows["load"] = f"[yellow]{environment['load']} before the run: something else is at work here[/]"
    rows.update({contender(name).title: f"not measured: {reason}" for name, reason in missing.items()})
    _grid(console, rows)


def show_machine(console: Console, machine: dict[int, Limits]) -> None:
    """What the roofline is made of."""
    rows = {}
    for threads, found in machine.items():
        reads = ", ".join(f"{name} {found.bytes_per_second(size) / 1e9:.0f}" for name, size in _FOOTPRINTS)
        rows["1 thread" if threads == 1 else f"{threads} threads"] = (
            f"{found.peak / 1e9:.0f} GFLOP/s of multiply-adds; GB/s read over and over from {reads}"
        )
    _grid(console, rows)


def show_results(console: Console, run: Run) -> None:
    """A table for each mode and number of threads, then latency, what went wrong, and the sum of it."""
    for title, results in groups(run.results):
        _table(title, results).show(console)
    latency = [result for result in run.results if result.latency]
    if latency:
        _latency_table(latency).show(console)
    pairs = denormal_pairs(run.results)
    if pairs:
        _pairs_table("time with denormal numbers over that with usual ones", pairs).show(console)
    pairs = ragged_pairs(run.results)
    if pairs:
        title = "time of ragged rows over their share of the padded rows' time"
        _pairs_table(title, pairs, f"1.00 is no work at all on padding; {RAGGED_AIM:.2f} is our aim.").show(console)
    _show_problems(console, run)
    ratios = [result.ratio for result in run.results if result.ratio is not None]
    if ratios:
        lost = sum(ratio < 1 for ratio in ratios)
        style = "bold red" if lost else "bold green"
        console.print(
            f"[{style}]{geometric_mean(ratios):.2f} times as fast as the best peer in geometric mean over "
            f"{len(ratios)} cases, {min(ratios):.2f} at the worst; {lost} {'loss' if lost == 1 else 'losses'}.[/]"
        )


def show_memory(console: Console, uses: Sequence[memory.Use], size: memory.Size) -> None:
    """What a long batch takes."""
    title = f"memory beyond weights, x and dy: LSTM T{size.T} B{size.B} H{size.H}, MB"
    table = Columns(title, ["", "", "peak", "held for backward", "of it our tape", "seconds"], labels=2)
    for use in uses:
        figures = [memory.megabytes(count) for count in (use.peak, use.held, use.tape)]
        took = "-" if use.seconds is None else _digits(use.seconds)
        table.add(contender(use.contender).title, use.way, *figures, took)
    table.show(console)
    for use in uses:
        if use.reason:
            console.print(f"[red]failed: {contender(use.contender).title}, {use.way}:[/]", escape(use.reason))


def show_changes(console: Console, changes: Sequence[Change], warnings: Sequence[str]) -> None:
    """The comparison of two runs."""
    for text in warnings:
        console.print(f"[yellow]not the same in both: {text}[/]")
    times = ["before", "after", "peers' speed", "our speed, peers' taken out"]
    table = Columns("", ["case", *times, "ratio before", "ratio after", "verdict"])
    for change in changes:
        table.add(
            change.id,
            seconds(change.before),
            seconds(change.after),
            _times(change.peers),
            _times(change.speedup),
            _times(change.ratio_before),
            _times(change.ratio_after),
            change.verdict,
            style={"faster": "green", "slower": "red"}.get(change.verdict, ""),
        )
    table.show(console)
    if changes:
        console.print(f"{overall(list(changes)):.3f} times as fast in geometric mean over {len(changes)} cases.")


def _table(title: str, results: Sequence[Result]) -> Columns:
    names = list(dict.fromkeys(entry.contender for result in results for entry in result.timed()))
    unit, scale = ("us", 1e6) if results[0].case.mode == "step" else ("ms", 1e3)
    two = any(result.handover is not None for result in results)
    header = ["case", "ratio", "of medians", "limit", "reached", *(contender(name).title for name in names)]
    table = Columns(f"{title}, {unit}", [*header, "handover, ns"] if two else header)
    table.caption = "Of each contender the minimum and, below it, the median."
    for result in losses_first(results):
        best, limit = result.best_peer(), result.fraction
        times = {
            entry.contender: f"{_digits(entry.minimum * scale)}\n[dim]{_digits(entry.median * scale)}[/]"
            for entry in result.timed()
        }
        if best is not None:
            times[best.contender] = f"[bold]{times[best.contender]}[/]"
        ratio = _times(result.ratio)
        row = [
            result.case.label,
            f"[bold red]{ratio}\nloss[/]" if (result.ratio or 1.0) < 1 else ratio,
            _times(result.ratio_of_medians),
            "-" if result.limit is None else _digits(result.limit * scale),
            "-" if limit is None else f"{limit:.0%}",
            *(times.get(name, "-") for name in names),
        ]
        table.add(*row, *(["-" if result.handover is None else f"{result.handover * 1e9:.0f}"] if two else []))
    return table


def _latency_table(results: Sequence[Result]) -> Columns:
    table = Columns("latency", ["one step of one row", "", "p50", "p99", "p99.9", "times real time"], labels=2)
    table.caption = "Real time is a step every 10 ms, as in audio."
    for result in results:
        label = f"{result.case.label}{'' if result.case.threads == 1 else f' t{result.case.threads}'}"
        for name, found in result.latency.items():
            values = [seconds(found[key]) for key in ("p50", "p99", "p99.9")]
            table.add(label, contender(name).title, *values, f"{0.01 / found['p50']:,.0f}")
            label = ""
    return table


Pairs = list[tuple[str, dict[str, float]]]


def denormal_pairs(results: Sequence[Result]) -> Pairs:
    """By case, each contender's time with denormal numbers over that with usual ones."""
    return [
        (usual.case.id, _over(result, usual, 1.0))
        for result in results
        if result.case.denormal and (usual := _twin(result, results, denormal=False)) is not None
    ]


def ragged_pairs(results: Sequence[Result]) -> Pairs:
    """By case, each contender's time of ragged rows over the share of the padded ones' that their valid steps are."""
    return [
        (result.case.id, _over(result, padded, result.case.total_steps / padded.case.total_steps))
        for result in results
        if result.case.ragged and (padded := _twin(result, results, ragged=False)) is not None
    ]


def _twin(result: Result, results: Sequence[Result], **changed: bool) -> Result | None:
    """The case that differs in this alone, if the run has it."""
    wanted = replace(result.case, **changed).id  # type: ignore[arg-type]
    return next((other for other in results if other.case.id == wanted), None)


def _over(result: Result, other: Result, share: float) -> dict[str, float]:
    """The times of those who were timed in both, over a share of the other's."""
    before = {entry.contender: entry.minimum for entry in other.timed()}
    return {e.contender: e.minimum / (share * before[e.contender]) for e in result.timed() if e.contender in before}


def _pairs_table(title: str, pairs: Pairs, caption: str = "") -> Columns:
    names = list(dict.fromkeys(name for _, ratios in pairs for name in ratios))
    table = Columns(title, ["case", *(contender(name).title for name in names)], caption=caption)
    for case, ratios in pairs:
        table.add(case, *(_times(ratios.get(name)) for name in names))
    return table


def _show_problems(console: Console, run: Run) -> None:
    """Wrong outputs, contenders that broke or kept more processors busy than they were given, ways left out."""
    for result in run.results:
        for entry in result.entries:
            who = f"{contender(entry.contender).title}, {result.case.id}"
            if entry.status == "wrong":
                console.print(f"[bold red]wrong output, not timed: {who}: {entry.reason}[/]")
            elif entry.status == "failed":
                console.print(f"[red]failed: {who}: {entry.reason}[/]")
            elif entry.busy > result.case.threads + 0.25:
                console.print(f"[yellow]{who}: {entry.busy:.1f} processors busy, not {result.case.threads}[/]")
    for line in left_out(run.results):
        console.print(f"[yellow]{escape(line)}[/]")


def left_out(results: Sequence[Result]) -> list[str]:
    """Ways that were wrong or broke where another way of the same contender was timed: it might be faster with them.

    A line for each contender, way and kind of reason, with the first one's figures.
    """
    found: dict[tuple[str, str, str], list[str]] = {}
    for result in results:
        for entry in result.timed():
            for variant, reason in entry.variants.items():
                if isinstance(reason, str):
                    kind = re.sub(r"\d[\d.]*(e[+-]?\d+)?", "", reason)  # errors differ from case to case
                    found.setdefault((entry.contender, variant, kind), []).append(reason)
    return [
        f"{contender(name).title}: variant {variant!r} left out of {len(reasons)} "
        f"{'case' if len(reasons) == 1 else 'cases'}: {reasons[0]}"
        for (name, variant, _), reasons in found.items()
    ]


def _digits(value: float) -> str:
    """Three digits, as in a table whose title has the unit."""
    return f"{value:.{0 if value >= 99.95 else 1 if value >= 9.995 else 2 if value >= 0.0995 else 3}f}"


def _times(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _grid(console: Console, rows: dict[str, str]) -> None:
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="dim", no_wrap=True)
    grid.add_column()
    for label, text in rows.items():
        grid.add_row(label, text)
    console.print(grid)
