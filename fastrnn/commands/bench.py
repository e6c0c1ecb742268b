"""Time the library beside NumPy and whatever peers are installed, and show how near to the machine's limit it is."""

from __future__ import annotations

import argparse
import importlib.util
import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from fastrnn.backends.tiled.worth import processors
from fastrnn.bench import cases, compare, contenders, environment, isa, machine, memory, plots, targets
from fastrnn.bench.cases import Case
from fastrnn.bench.machine import Limits
from fastrnn.bench.results import Run
from fastrnn.bench.runner import QUICK, Effort, Runner, set_limits
from fastrnn.commands import CommandError, at_least, bench_memory

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

# What an option that stands for something else than measuring speed goes with.
_CHOICES = ("quick", "contenders", "threads", "cells", "modes", "groups", "isa", "cases")
_GOES_WITH: dict[str, tuple[str, ...]] = {
    "compare": (),
    "memory": ("quick", "contenders", "list", "json"),
    "list": ("memory", *_CHOICES),
}

HELP = "compare the speed with NumPy, PyTorch, ONNX Runtime and others that are installed"


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.set_defaults(refuse=parser.error)
    parser.epilog = "Groups: " + "; ".join(f"{name}, {text}" for name, text in cases.GROUPS.items()) + "."
    parser.add_argument("--quick", action="store_true", help="a few cases, a minute or two")
    parser.add_argument(
        "--contenders",
        nargs="+",
        metavar="NAME",
        help=f"those to run, of: {', '.join(contenders.NAMES)} (default: all)",
    )
    parser.add_argument(
        "--threads", type=at_least(1), metavar="N", help="of every contender (default: cases with 1 and with 2)"
    )
    parser.add_argument("--cells", nargs="+", choices=cases.CELLS, metavar="CELL", help="lstm, gru, rnn (default: all)")
    parser.add_argument("--modes", nargs="+", choices=cases.MODES, metavar="MODE", help="step, forward, training")
    parser.add_argument("--groups", nargs="+", choices=list(cases.GROUPS), metavar="GROUP", help="see below")
    parser.add_argument("--memory", action="store_true", help="not the speed, but the memory of a long batch")
    parser.add_argument(
        "--isa", choices=isa.NAMES, help="keep all contenders to AVX2 or to SSE; those that cannot be kept are left out"
    )
    parser.add_argument("--cases", default="", metavar="TEXT", help="only those with this in their names")
    parser.add_argument("--list", action="store_true", help="show the cases and contenders, and measure nothing")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all figures to this file")
    parser.add_argument(
        "--plot", type=Path, metavar="FILE", help="draw FILE-ratio and FILE-roofline; .svg or .png (needs matplotlib)"
    )
    parser.add_argument(
        "--compare", nargs=2, type=Path, metavar=("A.json", "B.json"), help="show what changed between two runs"
    )


def run(options: argparse.Namespace) -> int:
    """Run it; the exit code: 0, 1 if one of our own outputs is wrong, 130 after Ctrl-C."""
    _check_combination(options)
    _check_packages(options)
    _check_targets(options)
    from fastrnn.bench.console import make

    console = make(patient=options.json is not None or options.plot is not None)
    if options.compare:
        return _compare(console, *options.compare)
    names, missing = _contenders(options)
    chosen = [] if options.memory else _cases(options)
    if options.list:
        return _list(console, chosen, names, missing, options.memory)
    if not names:
        raise CommandError("no contender is here: " + "; ".join(f"{name}: {why}" for name, why in missing.items()))
    with targets.terminated_is_interrupted():
        if options.memory:
            return bench_memory.run(console, names, missing, options)
        return _speed(console, chosen, names, missing, options)


def _speed(
    console: Console, chosen: list[Case], names: list[str], missing: dict[str, str], options: argparse.Namespace
) -> int:
    """Measure the speed, and write it."""
    from fastrnn.bench import report
    from fastrnn.bench.console import progress as bars

    effort = QUICK if options.quick else Effort()
    found = Run(
        environment.describe({}, options.isa, environment.load()),
        {},
        missing,
        [],
        [],
        options.quick,
        True,
        asdict(effort),
    )
    found.environment["variables"] = {} if options.isa else isa.by_hand()
    keeper = targets.Keeper(options.json)
    limits: dict[int, Limits] = {}
    with bars(console) as progress:
        try:
            _learn(found, limits, _measure(progress, chosen, options.quick))
            _run(console, progress, chosen, names, limits, effort, found, keeper)
            # And once more: what else ran at that moment has made it look slower than it is.
            _learn(found, limits, _measure(progress, chosen, quick=True))
            found.interrupted = False
        except KeyboardInterrupt:
            if not found.results:
                raise
    keeper.keep(found, last=True)  # before anything that may go wrong
    report.show_environment(console, found.environment, missing)
    report.show_machine(console, limits)
    if not limits:
        console.print(f"[yellow]no limits and no roofline, which take Numba to measure: {machine.unavailable()}[/]")
    report.show_results(console, found)
    _say_what_was_written(console, found, keeper, options.plot)
    if found.interrupted:
        console.print(f"[yellow]interrupted: {len(found.results)} of {len(chosen)} cases were complete[/]")
        return 130
    ours = [entry for result in found.results for entry in result.entries if contenders.contender(entry.contender).ours]
    return int(any(entry.status in ("wrong", "failed") for entry in ours))


def _check_combination(options: argparse.Namespace) -> None:
    """An option that would do nothing is a mistake, and is told as one."""
    for mode, others in _GOES_WITH.items():
        if getattr(options, mode):
            for name in (*_CHOICES, "memory", "list", "json", "plot"):
                if name not in (mode, *others) and getattr(options, name):
                    options.refuse(f"argument --{name}: not allowed with argument --{mode}")


def _check_packages(options: argparse.Namespace) -> None:
    """Before anything is measured: what the options need is here, and the files can be written."""
    wanted = ["rich"] + (["matplotlib"] if options.plot else [])
    missing = [name for name in wanted if importlib.util.find_spec(name) is None]
    if missing:
        raise CommandError(
            f"{' and '.join(missing)} missing: `pip install {' '.join(missing)}` is enough to compare with what is "
            "here; `pip install 'fastrnn[bench]'` installs all contenders, too"
        )
    if options.plot and options.plot.suffix not in ("", ".svg", ".png"):
        raise CommandError(f"--plot: expected a name that ends in .svg or .png, got {str(options.plot)!r}")


def _check_targets(options: argparse.Namespace) -> None:
    """Before anything is measured: the files can be written."""
    found = {"--json": targets.problem(options.json) if options.json else None}
    if options.plot:
        folder = targets.problem(options.plot) if options.plot.is_dir() else None
        found["--plot"] = folder or next(filter(None, map(targets.problem, plots.targets(options.plot))), None)
    for name, problem in found.items():
        if problem is not None:
            raise CommandError(f"{name}: {problem}")


def _cases(options: argparse.Namespace) -> list[Case]:
    groups = ["quick"] if options.quick and not options.groups else options.groups
    chosen = cases.select(groups, options.cells, options.modes, options.threads, options.cases)
    if options.threads is None:
        chosen = tuple(case for case in chosen if case.threads <= processors())
    if not chosen:
        raise CommandError("no case is left by --groups, --cells, --modes, --threads and --cases")
    return sorted(chosen, key=lambda case: case.threads)  # one process of a contender serves all of these


def _contenders(options: argparse.Namespace) -> tuple[list[str], dict[str, str]]:
    """Who runs, and who does not and why."""
    usual = memory.CONTENDERS if options.memory else contenders.NAMES
    names = [name for text in options.contenders or usual for name in text.split(",")]
    if options.memory and not set(names) <= set(usual):
        others = ", ".join(name for name in names if name not in usual)
        options.refuse(f"argument --contenders: with --memory expected some of {', '.join(usual)}, got {others}")
    if options.isa:  # before Numba is imported: this process measures the machine with it
        os.environ.update(isa.variables(options.isa, "numba") or {})
    try:
        reasons = {name: contenders.contender(name).unavailable() for name in names}
    except (ValueError, ImportError, AttributeError) as error:
        raise CommandError(str(error)) from error
    if options.isa:
        unlimited = [name for name in names if isa.variables(options.isa, name) is None]
        reasons |= dict.fromkeys(unlimited, f"it cannot be kept to {options.isa}")
    missing = {name: reason for name, reason in reasons.items() if reason is not None}
    return [name for name in reasons if name not in missing], missing


def _list(console: Console, chosen: list[Case], names: list[str], missing: dict[str, str], of_memory: bool) -> int:
    for case in chosen:
        console.print(f"{case.id}  [dim]{', '.join(case.groups)}[/]")
    for name, way in memory.ways(names) if of_memory else ():
        console.print(f"{name}: {way}")
    for name in sorted({*names, *missing}, key=_place):
        console.print(f"{name}: {missing.get(name, 'here')}", style="dim" if name in missing else None)
    return 0


def _place(name: str) -> int:
    """Where a contender stands in the list of all; those from elsewhere come last."""
    return contenders.NAMES.index(name) if name in contenders.NAMES else len(contenders.NAMES)


def _measure(progress: Progress, chosen: list[Case], quick: bool) -> dict[int, Limits]:
    """What the machine can do with each number of threads; where it cannot be measured nothing is known."""
    counts = sorted({case.threads for case in chosen})
    if machine.unavailable():
        return {}
    bar = progress.add_task("machine", total=machine.steps(quick) * len(counts), after="peak and bandwidth")
    return {count: machine.measure(count, quick, lambda: progress.advance(bar)) for count in counts}


def _learn(found: Run, limits: dict[int, Limits], measured: dict[int, Limits]) -> None:
    """Have the better of what is known of the machine and what was measured now, and give it to the results."""
    for threads, now in measured.items():
        limits[threads] = limits[threads].better(now) if threads in limits else now
    found.machine = {str(threads): limit.to_json() for threads, limit in limits.items()}
    set_limits(found.results, limits)


def _run(
    console: Console,
    progress: Progress,
    chosen: list[Case],
    names: list[str],
    limits: dict[int, Limits],
    effort: Effort,
    found: Run,
    keeper: targets.Keeper,
) -> None:
    """Add the results and versions to what is found, and keep it after each case."""
    bar = progress.add_task("cases", total=len(chosen), after="")

    def tell(case: str, what: str) -> None:
        progress.update(bar, after=f"{case}: {what}")

    with Runner(names, effort, limits, tell, found.environment["isa"]) as runner:
        for number, case in enumerate(chosen, 1):
            found.results.append(runner.run(case))
            versions = {**found.environment["versions"], **runner.versions}
            found.environment["versions"] = dict(sorted(versions.items()))
            keeper.keep(found)
            progress.advance(bar)
            if not console.is_terminal:
                ratio = found.results[-1].ratio
                words = "" if ratio is None else f", ratio {ratio:.2f}"
                console.print(f"{number} of {len(chosen)}: {case.id}{words}")


def _say_what_was_written(console: Console, found: Run, keeper: targets.Keeper, plot: Path | None) -> None:
    if keeper.path and not keeper.problem:
        console.print(f"figures: {keeper.path}")
    try:
        for path in plots.save(found, plot) if plot else ():
            console.print(f"picture: {path}")
    except OSError as error:
        raise CommandError(f"--plot: {error}") from error
    if keeper.problem:
        raise CommandError(keeper.problem)


def _compare(console: Console, first: Path, second: Path) -> int:
    from fastrnn.bench import report

    try:
        before, after = Run.load(first), Run.load(second)
    except (OSError, ValueError) as error:
        raise CommandError(str(error)) from error
    changes = compare.compare(before, after)
    if not changes:
        raise CommandError(f"{first} and {second} have no case in common that was timed")
    report.show_changes(console, changes, compare.warnings(before, after))
    return 0
