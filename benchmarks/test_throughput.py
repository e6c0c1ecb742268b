"""``pytest benchmarks``: the library's backends against the NumPy one, a group for each case.

The cases are those of ``fastrnn bench`` with one thread and not too many numbers; the peers are there, not here.
``pytest benchmarks -k step`` for the steps, ``-k quick`` for a first look.
"""

from __future__ import annotations

from typing import Any

import pytest

import fastrnn
from fastrnn.bench import workload
from fastrnn.bench.cases import CASES, MODES, Case
from fastrnn.bench.contenders import contender
from fastrnn.bench.limits import operations

MOST_OPERATIONS = 3e9  # of one call: some tenths of a second for NumPy
BACKENDS = tuple(fastrnn.backends())


def _cases(mode: str) -> list[Any]:
    found = [c for c in CASES if c.mode == mode and c.threads == 1 and operations(c) <= MOST_OPERATIONS]
    return [pytest.param(c, id=f"{c.id}{'-quick' if 'quick' in c.groups else ''}") for c in found]


_works: dict[str, workload.Workload] = {}


def _work(case: Case) -> workload.Workload:
    """The numbers of a case; only the last one's are kept."""
    if case.id not in _works:
        _works.clear()
        _works[case.id] = workload.make(case)
    return _works[case.id]


def _measure(benchmark: Any, case: Case, backend: str) -> None:
    who = contender(backend)
    reason = who.unavailable()
    if reason is not None:
        pytest.skip(reason)
    work = _work(case)
    label, prepare = next(iter(who.variants(work, 1).items()))
    assert label in ("stream", "layer")
    prepared = prepare()
    for _ in range(workload.CHECKED_STEPS if case.mode == "step" else 1):
        prepared.call()
    benchmark.group = f"{MODES.index(case.mode)} {case.id}"
    benchmark.extra_info.update(error=work.check(prepared.outputs()), gflop=operations(case) / 1e9)
    benchmark(prepared.call)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", _cases("step"))
def test_step(benchmark: Any, case: Case, backend: str) -> None:
    """One time step with its state kept."""
    _measure(benchmark, case, backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", _cases("forward"))
def test_forward(benchmark: Any, case: Case, backend: str) -> None:
    """A whole sequence."""
    _measure(benchmark, case, backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("case", _cases("training"))
def test_forward_and_backward(benchmark: Any, case: Case, backend: str) -> None:
    """A whole sequence forward and backward."""
    _measure(benchmark, case, backend)
