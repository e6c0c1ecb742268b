"""``fastrnn bench --memory``: not the speed, but the memory of a long batch."""

from __future__ import annotations

import argparse
from dataclasses import asdict
from typing import TYPE_CHECKING

from fastrnn.bench import environment, isa, memory, targets
from fastrnn.bench.contenders import contender
from fastrnn.bench.results import Run
from fastrnn.commands import CommandError

if TYPE_CHECKING:
    from rich.console import Console


def run(console: Console, names: list[str], missing: dict[str, str], options: argparse.Namespace) -> int:
    """Measure it, and write it; the exit code: 0, 1 if one of our own broke, 130 after Ctrl-C."""
    from fastrnn.bench import report
    from fastrnn.bench.console import progress as bars

    size = memory.Size(T=100, H=128) if options.quick else memory.Size()
    found = Run(
        environment.describe(memory.versions(names), before=environment.load()),
        {},
        missing,
        [],
        [],
        options.quick,
        interrupted=True,
    )
    found.environment["variables"] = isa.by_hand()
    keeper, uses, todo = targets.Keeper(options.json), [], memory.ways(names)
    with bars(console) as progress:
        bar = progress.add_task("memory", total=len(todo), after="")
        try:
            for use in memory.measure(names, size, lambda what: progress.update(bar, after=what)):
                uses.append(use)
                found.memory.append({**asdict(size), **asdict(use)})
                keeper.keep(found)
                progress.advance(bar)
                if not console.is_terminal:
                    console.print(f"{len(uses)} of {len(todo)}: {use.contender}, {use.way}")
            found.interrupted = False
        except KeyboardInterrupt:
            if not uses:
                raise
    keeper.keep(found, last=True)
    report.show_environment(console, found.environment, missing)
    report.show_memory(console, uses, size)
    if keeper.path and not keeper.problem:
        console.print(f"figures: {keeper.path}")
    if keeper.problem:
        raise CommandError(keeper.problem)
    if found.interrupted:
        console.print(f"[yellow]interrupted: {len(uses)} of {len(todo)} were complete[/]")
        return 130
    return int(any(use.reason and contender(use.contender).ours for use in uses))
