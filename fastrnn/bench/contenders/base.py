"""What a contender is: something that computes the cases, in a process of its own."""

from __future__ import annotations

import importlib.util
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import ClassVar

from fastrnn.bench.cases import Case
from fastrnn.bench.workload import Array, Workload


@dataclass(frozen=True, eq=False)
class Prepared:
    """A case that is ready to run.

    Attributes
    ----------
    call : function without arguments
        What is timed: a step, a sequence, or a sequence forward and backward. Its results are complete when it returns.
    outputs : function without arguments
        What the last call gave, under the names of `Workload.expected`.
    context : function without arguments
        A context manager that each series of calls stands in; not timed.
    """

    call: Callable[[], object]
    outputs: Callable[[], dict[str, Array]]
    context: Callable[[], AbstractContextManager[object]] = nullcontext


Variants = dict[str, Callable[[], Prepared]]


class Contender(ABC):
    """One library. Nothing of it is imported before `pin` or `variants` is called, in the contender's own process.

    Attributes
    ----------
    name : str
        As it is typed after ``--contenders``.
    title : str
        As reports show it.
    ours : bool
        Whether it is one of our own compiled backends, which all others are compared with.
    modules, packages : tuple of str
        What has to be importable, and whose versions are reported.
    """

    name: ClassVar[str]
    title: ClassVar[str]
    ours: ClassVar[bool] = False
    modules: ClassVar[tuple[str, ...]] = ()
    packages: ClassVar[tuple[str, ...]] = ()

    def unavailable(self) -> str | None:
        """Why it cannot run here, or None if it can."""
        missing = [name for name in self.modules if importlib.util.find_spec(name) is None]
        return f"not installed: {', '.join(missing)}" if missing else None

    def environment(self, threads: int) -> dict[str, str]:
        """Variables its process starts with, beside those that fix the threads of BLAS and OpenMP."""
        return {}

    def pin(self, threads: int) -> None:  # noqa: B027
        """Fix the number of threads by the library's own means. Called once, first of all."""

    def unsupported(self, case: Case) -> str | None:
        """Why it does not do this case, or None if it does."""
        return None

    @abstractmethod
    def variants(self, work: Workload, threads: int) -> Variants:
        """The ways in which it can compute a case, by name; the fastest one counts."""
