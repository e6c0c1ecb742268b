"""What is fetched ahead: no result shows it. The stages are those that both compiled backends run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest

from fastrnn import cells
from fastrnn.backends.cython_.c_text import Functions
from fastrnn.backends.tiled import frame as f
from fastrnn.backends.tiled.emitter import WHOLE
from fastrnn.backends.tiled.outer import OPERAND_KINDS, Operands, emit_outer
from fastrnn.backends.tiled.program import BACKWARD_STEP, KINDS, Program
from fastrnn.backends.tiled.target import Target
from fastrnn.equations import trace
from fastrnn.plan import plan

FLOAT32 = np.dtype(np.float32)
AVX512 = Target(64, 32, True)


def program_of(name: str) -> Program:
    return Program(plan(trace(getattr(cells, name))), FLOAT32, AVX512)


def fetches(kinds: Sequence[str], body: Callable[..., None]) -> int:
    """How many of them there are in what is emitted."""
    functions = Functions(FLOAT32, AVX512)
    functions.define("emitted", kinds, body)
    return functions.text().count("PREFETCH(")


@pytest.mark.parametrize("name", cells.__all__)
def test_a_step_back_fetches_the_tape_and_dy(name: str) -> None:
    """All that its stages read of the tape, and dy once."""
    program = program_of(name)
    fetched = []
    for stage, tile in zip(program.plan.backward, program.backward, strict=True):
        kept = [program._rows(place) for place in stage.loads.values() if place[0] == "kept"]
        assert set(kept) <= set(tile.reads)
        fetched += [rows.address for rows in tile.reads if rows not in kept]
    assert fetched == [f.DY]


@pytest.mark.parametrize("name", ["lstm", "gru", "rnn_tanh"])
def test_only_a_step_back_fetches(name: str) -> None:
    """What else there is reads what has been written just before."""
    program = program_of(name)
    found = [
        fetches([WHOLE] * 3, lambda emit, arguments, kind=kind: program.emit(emit, kind, *arguments))
        for kind in range(KINDS)
    ]
    assert [kind for kind, count in enumerate(found) if count] == [BACKWARD_STEP]


def test_weight_gradients_fetch_the_next_tiles_values() -> None:
    def body(emit: Any, arguments: list[Any]) -> None:
        emit_outer(emit, Operands(*arguments))

    assert fetches(OPERAND_KINDS, body) > 0
