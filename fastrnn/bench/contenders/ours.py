"""The library's own backends: the compiled ones, and the NumPy backend, which all others are measured against."""

from __future__ import annotations

from typing import Any, ClassVar

import numpy as np

import fastrnn
from fastrnn.bench.contenders import plain_numpy
from fastrnn.bench.contenders.base import Contender, Prepared, Variants
from fastrnn.bench.workload import Array, Workload, build, outputs_of


class _Backend(Contender):
    """A backend of this library."""

    packages: ClassVar[tuple[str, ...]] = ("numpy",)

    def unavailable(self) -> str | None:
        return fastrnn.backends()[self.name].reason or None

    def pin(self, threads: int) -> None:
        fastrnn.set_num_threads(threads)

    def variants(self, work: Workload, threads: int) -> Variants:
        prepare = {"step": _step, "forward": _forward, "training": _training}[work.case.mode]

        def prepared() -> Prepared:
            layer = build(work.case, self.name)
            layer.set_parameters(work.parameters)
            return prepare(layer, work)

        return {"layer" if work.case.mode != "step" else "stream": prepared}


class NumbaContender(_Backend):
    """Compiled by Numba: what users get who choose nothing."""

    name: ClassVar[str] = "numba"
    title: ClassVar[str] = "fastrnn"
    ours = True
    packages = ("numpy", "numba", "llvmlite")


class CythonContender(_Backend):
    """The compiled extension."""

    name: ClassVar[str] = "cython"
    title: ClassVar[str] = "fastrnn (Cython)"
    ours = True


class NumpyContender(_Backend):
    """NumPy with the gates vectorised: our readable reference, and the same as one writes it by hand."""

    name: ClassVar[str] = "numpy"
    title: ClassVar[str] = "NumPy"

    def environment(self, threads: int) -> dict[str, str]:
        # OpenBLAS's threads look for work for 2^28 clocks, a tenth of a second in which whoever has the next turn would
        # have a processor less. After 2^22, some 2 ms, they sleep: far longer than from one product to the next.
        return {"OPENBLAS_THREAD_TIMEOUT": "22"}

    def variants(self, work: Workload, threads: int) -> Variants:
        found = super().variants(work, threads)
        if plain_numpy.supports(work):
            found["by hand"] = lambda: plain_numpy.prepare(work)
        return found


def _step(layer: fastrnn.Recurrent, work: Workload) -> Prepared:
    stream = layer.stream(work.case.B)
    step, x = stream.step, work.x[0]
    y = np.empty((work.case.B, work.case.H), layer.dtype)

    def call() -> None:
        step(x, y)

    return Prepared(call, lambda: outputs_of(y, stream.state))


def _forward(layer: fastrnn.Recurrent, work: Workload) -> Prepared:
    x, lengths = work.x, work.case.lengths
    results: Any = None

    def call() -> None:
        nonlocal results
        results = layer(x, None, lengths)

    return Prepared(call, lambda: outputs_of(*results))


def _training(layer: fastrnn.Recurrent, work: Workload) -> Prepared:
    """There and back with new weights, as after each step of an optimizer. Peers are given theirs once, before."""
    x, dy, lengths, parameters = work.x, work.dy, work.case.lengths, work.parameters
    results: Any = None

    def call() -> None:
        nonlocal results
        layer.set_parameters(parameters)
        y, state, tape = layer.record(x, None, lengths)
        results = y, state, layer.backward(tape, dy)

    def outputs() -> dict[str, Array]:
        return outputs_of(*results)

    return Prepared(call, outputs)
