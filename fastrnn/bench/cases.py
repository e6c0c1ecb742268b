"""The one table of cases: what is computed, in which sizes, with how many threads.

It drives ``fastrnn bench``, ``pytest benchmarks`` and the tests.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

CELLS = ("lstm", "gru", "rnn")
MODES = ("step", "forward", "training")
GATES = {"lstm": 4, "gru": 3, "rnn": 1}
ACTIVATIONS = {"lstm": 5, "gru": 3, "rnn": 1}  # sigmoids and tanhs of one unit and step
GROUPS = {
    "targets": "the sizes of the published comparison",
    "between": "sizes between them: no multiple of a vector's length, I other than H, few and many steps and rows",
    "deep": "layers and directions",
    "ragged": "rows of different lengths beside the same rows padded, as in pytorch#149194",
    "float64": "double precision",
    "denormal": "inputs, states and gradients below the smallest normal number beside usual ones, as in oneDNN#561",
    "quick": "a few of each, for a first look",
}
_QUICK = (
    "lstm-step-B1-H32",
    "lstm-step-B1-H128",
    "gru-step-B1-H128",
    "lstm-step-B16-H128",
    "lstm-forward-T128-B1-H128",
    "lstm-forward-T128-B16-H128",
    "gru-forward-T128-B16-H128",
    "rnn-forward-T128-B16-H128",
    "lstm-training-T64-B16-H128",
    "gru-training-T64-B16-H128",
    "lstm-step-B1-H512-t2",
    "lstm-forward-T128-B16-H128-t2",
)


@dataclass(frozen=True)
class Case:
    """One thing to time.

    Attributes
    ----------
    cell : {"lstm", "gru", "rnn"}
        The GRU has its reset gate after the product, the RNN is a tanh.
    mode : {"step", "forward", "training"}
        One time step with the state kept from call to call; a whole sequence; a whole sequence forward and backward.
    T, B, I, H : int
        Time steps (1 for a step), rows, inputs and units.
    layers, directions : int
    ragged : bool
        Whether the rows have different lengths; see `lengths`.
    dtype : {"float32", "float64"}
    denormal : bool
        Whether x, dy, all states and gradients are denormal: x and dy are scaled down, and the biases are zero.
    threads : int
    groups : tuple of str
        Names out of `GROUPS`.
    """

    cell: str
    mode: str
    T: int
    B: int
    I: int  # noqa: E741
    H: int
    layers: int = 1
    directions: int = 1
    ragged: bool = False
    dtype: str = "float32"
    denormal: bool = False
    threads: int = 1
    groups: tuple[str, ...] = ()

    @property
    def id(self) -> str:
        """A unique name, such as ``lstm-forward-T128-B16-H512-t2``; what is as usual is left out."""
        parts = [self.cell, self.mode]
        if self.mode != "step":
            parts.append(f"T{self.T}")
        parts.append(f"B{self.B}")
        if self.I != self.H:
            parts.append(f"I{self.I}")
        parts.append(f"H{self.H}")
        if self.layers > 1:
            parts.append(f"L{self.layers}")
        parts += ["bi"] * (self.directions == 2) + ["ragged"] * self.ragged + ["f64"] * (self.dtype == "float64")
        parts += ["denormal"] * self.denormal
        if self.threads > 1:
            parts.append(f"t{self.threads}")
        return "-".join(parts)

    @property
    def label(self) -> str:
        """The id without mode and threads, for tables that have one mode and one number of threads."""
        words = self.id.split("-")
        words.remove(self.mode)
        kept = [word for word in words[1:] if word != f"t{self.threads}"]
        return " ".join([self.cell.upper(), *kept])

    @property
    def lengths(self) -> NDArray[np.int64] | None:
        """The rows' lengths, (B,), or None for all T: from T / 4 to T, spread evenly, in an order that is none."""
        if not self.ragged:
            return None
        even = np.linspace(max(1, self.T // 4), self.T, self.B).round().astype(np.int64)
        shuffled: NDArray[np.int64] = np.random.default_rng(self.B).permutation(even)
        return shuffled

    @property
    def total_steps(self) -> int:
        """Valid time steps of all rows."""
        lengths = self.lengths
        return self.T * self.B if lengths is None else int(lengths.sum())

    def to_json(self) -> dict[str, Any]:
        """As a dictionary of plain values, with the id for whoever reads it."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        return {"id": self.id, **fields, "groups": list(self.groups)}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Case:
        """The reverse of `to_json`."""
        fields = {name: data[name] for name in cls.__dataclass_fields__ if name in data}  # older files have fewer
        return cls(**{**fields, "groups": tuple(data["groups"])})


def _case(cell: str, mode: str, T: int, B: int, I: int, H: int, group: str, **options: Any) -> Case:  # noqa: E741
    return Case(cell, mode, T, B, I, H, groups=(group,), **options)


def _targets() -> Iterator[Case]:
    """The points at which the peers have been measured."""
    for batch in (1, 16):
        for cell in CELLS:
            for hidden in (32, 128, 512):
                yield _case(cell, "step", 1, batch, hidden, hidden, "targets")
        yield _case("lstm", "step", 1, batch, 80, 12, "targets")
    for mode, steps, batches in (("forward", 128, (1, 16, 64)), ("training", 64, (16, 64))):
        for cell in CELLS:
            for batch in batches:
                for hidden in (32, 128, 512) if cell == "lstm" else (128, 512):
                    yield _case(cell, mode, steps, batch, hidden, hidden, "targets")
    for mode, steps, batches in (("step", 1, (1, 16)), ("forward", 128, (1, 16, 64)), ("training", 64, (16, 64))):
        for cell in CELLS:
            for batch in batches:
                for hidden in (128, 512):
                    yield _case(cell, mode, steps, batch, hidden, hidden, "targets", threads=2)


_STEPS_BETWEEN = (
    # cell, B, I, H, threads
    ("lstm", 1, 40, 8, 1),
    ("gru", 1, 13, 77, 1),
    ("lstm", 1, 80, 256, 1),
    ("lstm", 1, 1024, 1024, 1),
    ("rnn", 1, 1024, 1024, 1),
    ("lstm", 5, 40, 100, 1),
    ("lstm", 16, 100, 100, 1),
    ("gru", 4, 64, 64, 1),
    ("lstm", 64, 128, 128, 1),
    ("gru", 256, 65, 129, 1),
    ("lstm", 256, 256, 256, 1),
    ("lstm", 1, 256, 256, 2),
    ("lstm", 1, 1024, 1024, 2),
    ("gru", 3, 80, 300, 2),
    ("lstm", 256, 256, 256, 2),
)
_SEQUENCES_BETWEEN = (
    # cell, mode, T, B, I, H, threads
    ("lstm", "forward", 1, 16, 64, 64, 1),
    ("lstm", "forward", 15, 1, 32, 32, 1),
    ("lstm", "forward", 63, 1, 32, 32, 1),
    ("gru", "forward", 63, 1, 32, 32, 1),
    ("lstm", "forward", 100, 1, 80, 12, 1),
    ("lstm", "forward", 200, 256, 40, 8, 1),
    ("gru", "forward", 200, 5, 13, 77, 1),
    ("rnn", "forward", 128, 33, 65, 129, 1),
    ("lstm", "forward", 2000, 1, 64, 64, 1),
    ("gru", "forward", 2000, 4, 40, 200, 1),
    ("lstm", "forward", 64, 16, 100, 100, 1),
    ("lstm", "forward", 64, 64, 50, 50, 1),
    ("lstm", "forward", 64, 64, 200, 200, 1),
    ("gru", "forward", 64, 32, 100, 100, 1),
    ("lstm", "forward", 30, 6, 500, 500, 1),
    ("lstm", "forward", 50, 256, 80, 256, 1),
    ("gru", "forward", 128, 24, 300, 250, 1),
    ("lstm", "forward", 32, 1, 1024, 1024, 1),
    ("lstm", "forward", 32, 16, 1024, 1024, 1),
    ("lstm", "forward", 2, 12, 384, 384, 2),
    ("lstm", "forward", 64, 8, 300, 300, 2),
    ("lstm", "forward", 128, 7, 100, 333, 2),
    ("gru", "forward", 2000, 4, 40, 200, 2),
    ("lstm", "forward", 32, 16, 1024, 1024, 2),
    ("rnn", "training", 1, 1, 8, 8, 1),
    ("lstm", "training", 20, 8, 40, 32, 1),
    ("lstm", "training", 30, 1, 80, 32, 1),
    ("lstm", "training", 63, 7, 40, 100, 1),
    ("lstm", "training", 64, 32, 100, 100, 1),
    ("gru", "training", 100, 24, 13, 77, 1),
    ("rnn", "training", 100, 33, 65, 129, 1),
    ("rnn", "training", 128, 32, 640, 24, 1),
    ("gru", "training", 500, 8, 80, 128, 1),
    ("lstm", "training", 50, 256, 80, 64, 1),
    ("lstm", "training", 16, 32, 1024, 1024, 1),
    ("lstm", "training", 63, 7, 40, 100, 2),
    ("rnn", "training", 128, 32, 640, 24, 2),
    ("gru", "training", 50, 64, 300, 250, 2),
)


def _between() -> Iterator[Case]:
    for cell, batch, inputs, hidden, threads in _STEPS_BETWEEN:
        yield _case(cell, "step", 1, batch, inputs, hidden, "between", threads=threads)
    for cell, mode, steps, batch, inputs, hidden, threads in _SEQUENCES_BETWEEN:
        yield _case(cell, mode, steps, batch, inputs, hidden, "between", threads=threads)


def _special() -> Iterator[Case]:
    """Layers and directions, ragged rows, double precision."""
    for threads in (1, 2):
        yield _case("lstm", "forward", 100, 8, 80, 128, "deep", layers=2, directions=2, threads=threads)
        yield _case("gru", "training", 50, 16, 80, 128, "deep", layers=2, directions=2, threads=threads)
    yield _case("lstm", "step", 1, 1, 80, 128, "deep", layers=3)
    for mode, steps in (("forward", (10, 100, 500, 1000)), ("training", (10, 100, 500))):
        for count in steps:
            for ragged in (False, True):
                yield _case("lstm", mode, count, 32, 64, 96, "ragged", ragged=ragged)
    for mode in ("forward", "training"):
        yield _case("gru", mode, 200, 32, 64, 96, "ragged", ragged=True)
    yield _case("lstm", "step", 1, 1, 128, 128, "float64", dtype="float64")
    yield _case("lstm", "forward", 128, 16, 128, 128, "float64", dtype="float64")
    yield _case("gru", "training", 64, 16, 128, 128, "float64", dtype="float64")
    for cell, mode in (("lstm", "forward"), ("lstm", "training"), ("gru", "training")):
        for denormal in (False, True):
            yield _case(cell, mode, 100, 16, 96, 96, "denormal", denormal=denormal)


def _with_quick(cases: Iterable[Case]) -> tuple[Case, ...]:
    return tuple(replace(c, groups=(*c.groups, "quick")) if c.id in _QUICK else c for c in cases)


CASES = _with_quick([*_targets(), *_between(), *_special()])


def by_id(name: str) -> Case:
    """The case of an id.

    Raises
    ------
    ValueError
        If there is none.
    """
    for case in CASES:
        if case.id == name:
            return case
    raise ValueError(f"case: there is no {name!r}")


def select(
    groups: Sequence[str] | None = None,
    cells: Sequence[str] | None = None,
    modes: Sequence[str] | None = None,
    threads: int | None = None,
    matching: str = "",
) -> tuple[Case, ...]:
    """Some of the cases, in the table's order.

    Parameters
    ----------
    groups, cells, modes : sequence of str, optional
        Only those of these groups, cells and modes.
    threads : int, optional
        Only those with one thread, for 1; those with two threads run with ``threads``, for more.
    matching : str
        Only those whose id has this in it.
    """
    found = []
    for case in CASES:
        if threads is not None:
            if (threads > 1) != (case.threads > 1):
                continue
            case = replace(case, threads=threads)
        wanted = groups is None or set(groups) & set(case.groups)
        if wanted and (cells is None or case.cell in cells) and (modes is None or case.mode in modes):
            found.append(case)
    return tuple(case for case in found if matching in case.id)
