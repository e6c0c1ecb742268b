"""Contenders for the tests of the benchmark: wrong ones, broken ones, one that is not here."""

from __future__ import annotations

import ctypes
import os
from typing import ClassVar

from fastrnn.bench.contenders.base import Contender, Prepared, Variants
from fastrnn.bench.contenders.ours import NumpyContender
from fastrnn.bench.workload import Array, Workload


class Wrong(NumpyContender):
    """Its output is off by a little more than what is allowed."""

    title: ClassVar[str] = "Wrong"

    def variants(self, work: Workload, threads: int) -> Variants:
        def prepared() -> Prepared:
            right = super(Wrong, self).variants(work, threads)["stream"]()

            def outputs() -> dict[str, Array]:
                found = right.outputs()
                return {**found, "y": found["y"] + 1e-3}

            return Prepared(right.call, outputs)

        return {"off": prepared}


class PartlyWrong(NumpyContender):
    """One of its ways is off, one breaks, one is right."""

    title: ClassVar[str] = "Partly wrong"

    def variants(self, work: Workload, threads: int) -> Variants:
        right = super().variants(work, threads)
        return {"broken": Broken().variants(work, threads)["only"], **Wrong().variants(work, threads), **right}


class Stateless(NumpyContender):
    """Forgets its state after each step."""

    title: ClassVar[str] = "Stateless"

    def variants(self, work: Workload, threads: int) -> Variants:
        def prepared() -> Prepared:
            from fastrnn.bench.workload import build, outputs_of

            layer = build(work.case, "numpy")
            layer.set_parameters(work.parameters)
            results = []

            def call() -> None:
                results[:] = [layer(work.x)]

            def outputs() -> dict[str, Array]:
                y, state = results[0]
                return outputs_of(y[-1], state)

            return Prepared(call, outputs)

        return {"stateless": prepared}


class Broken(Contender):
    """Cannot prepare anything."""

    name = "broken"
    title = "Broken"

    def variants(self, work: Workload, threads: int) -> Variants:
        def prepared() -> Prepared:
            raise ZeroDivisionError("no such thing")

        return {"only": prepared}


class Ended(Contender):
    """Its process ends within the first call."""

    name = "ended"
    title = "Ended"

    def variants(self, work: Workload, threads: int) -> Variants:
        return {"only": lambda: Prepared(lambda: os._exit(3), dict)}


class Hanging(Contender):
    """Its call never returns, and holds the interpreter's lock."""

    name = "hanging"
    title = "Hanging"

    def variants(self, work: Workload, threads: int) -> Variants:
        return {"only": lambda: Prepared(lambda: ctypes.PyDLL(None).sleep(3600), dict)}


class Unpinned(NumpyContender):
    """Ends before it has said a word."""

    title: ClassVar[str] = "Unpinned"

    def pin(self, threads: int) -> None:
        raise ZeroDivisionError("no threads here")


class Missing(Contender):
    """Needs a module that nobody has."""

    name = "missing"
    title = "Missing"
    modules = ("no_such_module_anywhere",)

    def variants(self, work: Workload, threads: int) -> Variants:
        raise AssertionError("never asked")


class Seen(NumpyContender):
    """Fails unless its process has been started in the right environment."""

    title: ClassVar[str] = "Seen"

    def environment(self, threads: int) -> dict[str, str]:
        return {"FASTRNN_TEST_SEEN": str(threads)}

    def variants(self, work: Workload, threads: int) -> Variants:
        print("a line that is no answer")
        os.write(1, b"another one\n")
        assert "OPENBLAS_CORETYPE" not in os.environ
        assert "OPENBLAS_L2_SIZE" not in os.environ
        assert os.environ["OMP_NUM_THREADS"] == os.environ["FASTRNN_TEST_SEEN"] == str(threads)
        return super().variants(work, threads)
