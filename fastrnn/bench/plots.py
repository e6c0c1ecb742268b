"""Two pictures of a run: how the contenders' times stand to ours, and where each stands under the roofline.

They have no background and mid-grey text, so that they can be read on light and dark pages. The same run always gives
the same bytes.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastrnn.bench import limits
from fastrnn.bench.contenders import contender
from fastrnn.bench.machine import Limits
from fastrnn.bench.markdown import groups
from fastrnn.bench.results import Result, Run

_GREY, _FAINT, _LOSS = "#808890", "#80889050", "#d64545"
_STYLES = {  # colour, marker: told apart without the colour, too
    "numba": ("#e8590c", "*"),
    "cython": ("#f2a33a", "P"),
    "numpy": ("#808890", "o"),
    "pytorch": ("#c2418f", "s"),
    "onnxruntime": ("#3b82d6", "D"),
    "openvino": ("#7a5bd0", "^"),
    "jax": ("#2f9e63", "v"),
    "litert": ("#17a2b0", "X"),
}
_OTHER = ("#9a8050", "h")


def save(run: Run, path: Path) -> list[Path]:
    """Write both pictures beside each other: for ``bench.svg`` ``bench-ratio.svg`` and ``bench-roofline.svg``.

    Parameters
    ----------
    path : Path
        Its suffix, ``.svg`` or ``.png``, says which kind.

    Raises
    ------
    ImportError
        Without matplotlib.
    """
    written = []
    for target, draw in zip(targets(path), (ratio, roofline), strict=True):
        with _style() as figure_of:
            figure = draw(run, figure_of)
            if figure is not None:
                extra = {"metadata": {"Date": None, "Creator": None}} if target.suffix == ".svg" else {}
                figure.savefig(target, transparent=True, bbox_inches="tight", **extra)
                if target.suffix == ".svg":
                    _shrink(target)
                written.append(target)
    return written


def targets(path: Path) -> list[Path]:
    """The files of both pictures."""
    return [path.with_name(f"{path.stem}-{name}{path.suffix or '.svg'}") for name in ("ratio", "roofline")]


def _shrink(path: Path) -> None:
    """Drop what a picture does not need: comments, indentation, far digits, styles said over and over."""
    text = path.read_text(encoding="utf-8")
    text = re.sub(r"<!-- .*? -->|^ +", "", text, flags=re.MULTILINE)
    text = re.sub(r"(?<=\d\.\d\d)\d+", "", text)
    text = re.sub(r"font-family: [^;]*;", "font-family: sans-serif;", text)
    text = re.sub(r' transform="rotate\(-0 [\d. ]+\)"', "", text)
    text = re.sub(r"\n+", "\n", text)
    text = re.sub(r'(<g clip-path="[^"]*")>\n((?:<use [^>]*/>\n)+)', _one_style, text)
    path.write_text(text, encoding="utf-8")


def _one_style(found: re.Match[str]) -> str:
    """The markers of one contender: their style is given once."""
    style = re.search(r' style="[^"]*"', found[2])
    if style is None or found[2].count(style[0]) != found[2].count("<use"):
        return found[0]
    return f"{found[1]}{style[0]}>\n{found[2].replace(style[0], '')}"


@contextmanager
def _style() -> Iterator[Any]:
    """A maker of figures, under settings that make them small, the same each time, and readable on any page."""
    matplotlib = importlib.import_module("matplotlib")
    figure = importlib.import_module("matplotlib.figure")
    settings = {
        "svg.hashsalt": "fastrnn",
        "svg.fonttype": "none",
        "font.family": "sans-serif",
        "font.sans-serif": ["DejaVu Sans", "Verdana", "Arial", "sans-serif"],
        "font.size": 7.5,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "figure.dpi": 100,
        **{f"{part}.color": _GREY for part in ("text", "xtick", "ytick")},
        **{f"axes.{part}": _GREY for part in ("edgecolor", "labelcolor", "titlecolor")},
    }
    with matplotlib.rc_context(settings):
        yield figure.Figure


def ratio(run: Run, figure_of: Any) -> Any:
    """A row for each case, by mode and threads: the contenders' times as multiples of ours. Left of 1 is a loss."""
    panels = [(title, [r for r in results if r.ratio is not None]) for title, results in groups(run.results)]
    panels = [(title, results) for title, results in panels if results]
    if not panels:
        return None
    columns = min(3, len(panels))
    lines = [panels[start : start + columns] for start in range(0, len(panels), columns)]
    heights = [max(len(results) for _, results in line) + 3 for line in lines]
    figure = figure_of(figsize=(3.6 * columns, 0.145 * sum(heights) + 0.6))
    grid = figure.subplots(len(lines), columns, squeeze=False, gridspec_kw={"height_ratios": heights})
    farthest = 1.0
    for row, line in enumerate(lines):
        for column in range(columns):
            axes = grid[row][column]
            if column < len(line):
                farthest = max(farthest, _ratio_panel(axes, *line[column], heights[row] - 3))
            else:
                axes.set_visible(False)
    for axes in grid.flat:
        axes.set_xlim(0.5, min(64.0, farthest * 1.15))
    _legend(figure, run)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.25 / figure.get_figheight()))
    return figure


def _ratio_panel(axes: Any, title: str, results: Sequence[Result], rows: int) -> float:
    """One panel; the farthest multiple in it."""
    axes.set_xscale("log", base=2)
    axes.set_title(title, loc="left", fontsize=8)
    axes.set_xlabel("time / fastrnn's time")
    axes.axvspan(1e-3, 1.0, color=_LOSS, alpha=0.12, linewidth=0)
    axes.axvline(1.0, color=_STYLES["numba"][0], linewidth=1.2)
    points: dict[str, list[tuple[float, int]]] = {}
    labels = []
    for index, result in enumerate(results):
        ours = result.ours()
        assert ours is not None
        labels.append(result.case.label)
        for entry in result.peers():
            points.setdefault(entry.contender, []).append((entry.minimum / ours.minimum, index))
    reached = [result.ratio or 1.0 for result in results]
    colours = [_LOSS if end < 1 else _FAINT for end in reached]
    axes.hlines(range(len(results)), 1.0, reached, colors=colours, linewidth=1.5)
    for name, pairs in points.items():
        colour, marker = _STYLES.get(name, _OTHER)
        xs, ys = zip(*pairs, strict=True)
        axes.plot(xs, ys, marker, color=colour, markersize=3.2, markeredgewidth=0, linestyle="none")
    axes.set_yticks(range(len(labels)), labels)
    for text, result in zip(axes.get_yticklabels(), results, strict=True):
        if (result.ratio or 1.0) < 1:
            text.set_color(_LOSS)
    axes.set_ylim(max(rows, len(labels)) - 0.4, -0.6)
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    axes.grid(axis="x", color=_FAINT, linewidth=0.5)
    axes.tick_params(length=0)
    axes.spines["left"].set_visible(False)
    return max((x for pairs in points.values() for x, _ in pairs), default=1.0)


def roofline(run: Run, figure_of: Any) -> Any:
    """Speed over intensity for each number of threads and mode, under the roofs that were measured."""
    panels = [(title, results) for title, results in groups(run.results) if str(results[0].case.threads) in run.machine]
    if not panels:
        return None
    columns = min(3, len(panels))
    rows = -(-len(panels) // columns)
    figure = figure_of(figsize=(3.6 * columns, 2.9 * rows + 0.5))
    grid = figure.subplots(rows, columns, squeeze=False)
    for index, axes in enumerate(grid.flat):
        if index < len(panels):
            title, results = panels[index]
            _roofline_panel(axes, title, results, Limits.from_json(run.machine[str(results[0].case.threads)]))
        else:
            axes.set_visible(False)
    _legend(figure, run)
    figure.tight_layout(rect=(0, 0, 1, 1 - 0.25 / figure.get_figheight()))
    return figure


def _roofline_panel(axes: Any, title: str, results: Sequence[Result], machine: Limits) -> None:
    single = [result for result in results if result.case.dtype == "float32" and result.timed()]
    names = list(dict.fromkeys(entry.contender for result in single for entry in result.timed()))
    axes.set_xscale("log", base=2)
    axes.set_yscale("log")
    speeds = []
    for place, name in enumerate(names):
        colour, marker = _STYLES.get(name, _OTHER)
        xs, ys = [], []
        for result in single:
            entry = next((entry for entry in result.timed() if entry.contender == name), None)
            if entry is not None:  # side by side within the same intensity, so that they do not hide each other
                xs.append(limits.intensity(result.case) * 1.09 ** (place - (len(names) - 1) / 2))
                ys.append(limits.operations(result.case) / entry.minimum / 1e9)
        size = 5.5 if marker == "*" else 2.8
        axes.plot(xs, ys, marker, color=colour, markersize=size, markeredgewidth=0, linestyle="none", alpha=0.85)
        speeds += ys
    intensities = [limits.intensity(result.case) for result in single] or [1.0]
    low, high = min(intensities) / 3, max(intensities) * 2
    peak = machine.peak / 1e9
    axes.hlines(peak, low, high, color=_GREY, linewidth=1)
    axes.text(high, peak * 1.05, f"multiply-adds {peak:.0f} GFLOP/s", ha="right", va="bottom", fontsize=6.5)
    floor = max(0.02, min(speeds, default=1.0) / 2.5)
    for name, rate in _roofs(machine):
        if low * rate >= peak:
            continue
        ends = [max(low, floor / rate), peak / rate]
        axes.plot(ends, [end * rate for end in ends], color=_GREY, linewidth=0.7, linestyle=(0, (4, 2)))
        if ends[0] * rate * 1.6 < peak:
            axes.text(ends[0] * 1.06, ends[0] * rate * 1.28, name, fontsize=5.5, va="bottom")
    reads = ", ".join(f"{name} {rate:.0f}" for name, rate in _roofs(machine))
    axes.text(high, floor * 1.1, f"GB/s read from {reads}", ha="right", va="bottom", fontsize=6)
    axes.set_xlim(low, high)
    axes.set_ylim(floor, peak * 2)
    axes.set_title(title, loc="left", fontsize=8)
    axes.set_xlabel("operations for each byte of weights read")
    axes.set_ylabel("GFLOP/s")
    axes.xaxis.set_major_formatter(lambda x, _: f"{x:g}")
    axes.yaxis.set_major_locator(importlib.import_module("matplotlib.ticker").LogLocator(subs=(1, 2, 5)))
    axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
    axes.grid(color=_FAINT, linewidth=0.4)
    axes.minorticks_off()


def _roofs(machine: Limits) -> list[tuple[str, float]]:
    """Bandwidths at some footprints, in GB/s; a roof that is as high as the last one is left out."""
    found: list[tuple[str, float]] = []
    for name, footprint in (("16 KB", 1 << 14), ("512 KB", 1 << 19), ("8 MB", 1 << 23), ("128 MB", 1 << 27)):
        rate = machine.bytes_per_second(footprint) / 1e9
        if not found or rate < found[-1][1] / 1.25:
            found.append((name, rate))
    return found


def _legend(figure: Any, run: Run) -> None:
    line = importlib.import_module("matplotlib.lines").Line2D
    names = list(dict.fromkeys(entry.contender for result in run.results for entry in result.timed()))
    handles = []
    for name in names:
        colour, marker = _STYLES.get(name, _OTHER)
        title = contender(name).title
        handles.append(line([], [], color=colour, marker=marker, linestyle="none", markersize=5, label=title))
    figure.legend(handles=handles, loc="upper center", ncols=len(handles), frameon=False, labelcolor=_GREY)
