"""Train a bidirectional LSTM to tell nine speakers apart, test it, and time it on each backend."""

from __future__ import annotations

import argparse
import importlib.util
import platform
import textwrap
import time
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING

import numpy as np

import fastrnn
from fastrnn.commands import CommandError, at_least, vowels
from fastrnn.commands.environment import begin_again, is_fair, tuning
from fastrnn.commands.speakers import BATCH_SIZE, SPEAKERS, SpeakerModel
from fastrnn.commands.timing import ROUNDS, time_epochs
from fastrnn.commands.vowels import IntArray, Utterances

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress

HELP = "train a bidirectional LSTM on real recordings, and time it on each backend"
REQUIRED = ("rich", "sktime")  # the extra `demo`
EXPECTED = 0.95  # the accuracy below which something is wrong, with the default settings


def configure(parser: argparse.ArgumentParser) -> None:
    """Add the arguments."""
    parser.formatter_class = argparse.ArgumentDefaultsHelpFormatter
    parser.add_argument("--epochs", type=at_least(1), default=20, metavar="N", help="how often to see each utterance")
    parser.add_argument("--hidden-size", type=at_least(1), default=64, metavar="N", help="units of each direction")
    parser.add_argument("--seed", type=at_least(0), default=0, metavar="N", help="of the parameters and the order")
    parser.add_argument("--threads", type=at_least(1), default=1, metavar="N", help="of every backend")
    parser.add_argument(
        "--backend", choices=list(fastrnn.backends()), help="what trains (default: the first one that is available)"
    )


def run(options: argparse.Namespace) -> int:
    """Run the demo; the exit code."""
    missing = [name for name in REQUIRED if importlib.util.find_spec(name) is None]
    if missing:
        what = " and ".join(missing)
        verb = "is" if len(missing) == 1 else "are"
        raise CommandError(f"it needs {what}, which {verb} not installed: pip install 'fastrnn[demo]'")
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=True)
    if not is_fair(options.threads):
        if tuning():
            console.print(f"{' and '.join(tuning())}, set here, would change NumPy's speed: the demo runs without.")
        return begin_again(options.arguments, options.threads)
    try:
        training, test = vowels.load()
        model = SpeakerModel(training.x.shape[-1], options.hidden_size, options.seed, options.backend)
    except (FileNotFoundError, ValueError, RuntimeError) as error:  # each of them says what is wrong with what
        raise CommandError(str(error)) from error
    _show_header(console, options, model, training, test)
    with fastrnn.threads(options.threads):
        _show_first_call(console, model, training)
        _train(console, model, training, options.epochs)
        _show_accuracy(console, model.predict(test), test)
        _show_times(console, options, training)
    return 0


def _show_header(
    console: Console, options: argparse.Namespace, model: SpeakerModel, training: Utterances, test: Utterances
) -> None:
    lengths = np.concatenate((training.lengths, test.lengths))
    rows = {
        "software": ", ".join([f"Python {platform.python_version()}", *_versions("fastrnn", "numpy", "numba")]),
        "backend": f"{model.lstm.backend}, {_counted(options.threads, 'thread')}",
        "data": f"JapaneseVowels, from sktime {version('sktime')}: {len(training)} recordings to learn from and "
        f"{len(test)} to test, {SPEAKERS} speakers, {lengths.min()} to {lengths.max()} frames of "
        f"{training.x.shape[-1]} coefficients",
        "model": f"bidirectional LSTM, {_counted(options.hidden_size, 'unit')} a direction, and a linear head: "
        f"{model.num_parameters:,} parameters",
        "training": f"{_counted(options.epochs, 'epoch')}, ragged batches of {BATCH_SIZE}, Adam, seed {options.seed}",
    }
    _show(console, rows)


def _show_first_call(console: Console, model: SpeakerModel, training: Utterances) -> None:
    """Call everything once: what is compiled is compiled here, and not in the first epoch."""
    begin = time.perf_counter()
    batch = training.take(np.arange(BATCH_SIZE))
    with console.status("compiling, or loading what was compiled before", spinner="line"):
        model.gradients(batch)
        model.predict(batch)
    seconds = time.perf_counter() - begin
    compiled = ", compiling included; later runs load it from the cache" if model.lstm.backend == "numba" else ""
    _show(console, {"first call": f"{seconds:.2f} s{compiled}"})


def _train(console: Console, model: SpeakerModel, training: Utterances, epochs: int) -> None:
    first_rate = model.optimizer.learning_rate
    begin = time.perf_counter()
    with _progress(console) as progress:
        bar = progress.add_task("training", total=epochs, after="")
        for epoch in range(epochs):
            model.optimizer.learning_rate = first_rate * (1 - epoch / epochs)
            loss, accuracy = model.train_epoch(training)
            after = f"loss {loss:.4f}, training accuracy {accuracy:.1%}"
            progress.update(bar, advance=1, after=after)
            if _is_milestone(epoch + 1, epochs):
                console.print(f"epoch {epoch + 1:>{len(str(epochs))}} of {epochs}: {after}")
    console.print(f"{_counted(epochs, 'epoch')} in {time.perf_counter() - begin:.2f} s")


def _show_accuracy(console: Console, predicted: IntArray, test: Utterances) -> None:
    right = predicted == test.labels
    console.print(f"test accuracy [bold green]{right.mean():.1%}[/]: {right.sum()} of {len(test)} recordings")
    if not right.all():
        pairs = np.stack((test.labels, predicted))[:, ~right] + 1
        (speaker, taken), counts = np.unique(pairs, axis=1, return_counts=True)
        worst = int(counts.argmax())
        console.print(f"most often confused: speaker {speaker[worst]} taken for {taken[worst]}, {counts[worst]} times")
    if right.mean() < EXPECTED:
        console.print(f"(less than the {EXPECTED:.0%} that the default settings reach)")


def _show_times(console: Console, options: argparse.Namespace, training: Utterances) -> None:
    from rich.table import Table

    backends = fastrnn.backends()
    names = [name for name, found in backends.items() if found]
    models = {name: SpeakerModel(training.x.shape[-1], options.hidden_size, options.seed, name) for name in names}
    with _progress(console) as progress:
        bar = progress.add_task("timing", total=ROUNDS, after="epochs on each backend")
        seconds = time_epochs(models, training, lambda: progress.update(bar, advance=1))
    table = Table("backend")
    table.add_column("an epoch", justify="right")
    table.add_column("times NumPy's speed", justify="right")
    for name in names:
        table.add_row(name, f"{seconds[name] * 1e3:.1f} ms", f"{seconds['numpy'] / seconds[name]:.2f}")
    console.print(table)
    for name, found in backends.items():
        if not found:
            console.print(f"{name}: {found}", style="dim")
    rivals = [name for name in names if name != "numpy"]
    if not rivals:
        console.print("NumPy is the only backend that is available here.")
        return
    best = min(rivals, key=seconds.__getitem__)
    factor, threads = seconds["numpy"] / seconds[best], _counted(options.threads, "thread")
    console.print(
        f"[bold]With {best} an epoch is {factor:.1f} times as fast as with plain NumPy[/], on {threads} each."
    )


def _show(console: Console, rows: dict[str, str]) -> None:
    """Labels in a column, and what they say beside them."""
    for label, text in rows.items():
        console.print(textwrap.fill(text, console.width, initial_indent=f"{label:12}", subsequent_indent=" " * 12))


def _progress(console: Console) -> Progress:
    """A progress bar that is gone when it is done; without a terminal there is none."""
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[after]}"))
    return Progress(*columns, console=console, transient=True, disable=not console.is_terminal)


def _is_milestone(epoch: int, epochs: int) -> bool:
    """Whether an epoch leaves a line behind: the powers of two do, for most is learnt early, and the last one."""
    return epoch & (epoch - 1) == 0 or epoch == epochs


def _versions(*packages: str) -> list[str]:
    found = []
    for package in packages:
        try:
            found.append(f"{package} {version(package)}")
        except PackageNotFoundError:
            if package == "fastrnn":  # run from its folder
                found.append(f"{package} {fastrnn.__version__}")
    return found


def _counted(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
