"""A row's bits depend on the row alone: not on the batch, the place in it, other rows, padding, cuts or threads."""

from __future__ import annotations

from functools import lru_cache
from itertools import pairwise
from typing import Any
from unittest import mock

import numpy as np
import pytest
from cases import BACKENDS, CASES, DTYPES, assert_same_bits
from conformance import Arrays, as_tuple, backend_of, draw_scan, make_layer, run_scan
from hypothesis import given, settings
from hypothesis import strategies as st
from sharing import share_everything

import fastrnn
from fastrnn.backends.tiled import form
from fastrnn.backends.tiled import sums as tiled_sums

BIT_TRUE = [name for name in BACKENDS if backend_of(name).same_bits]
KINDS: dict[str, dict[str, Any]] = {
    "lstm": {},
    "gru": {},
    "gru_reset_before": {},
    "rnn_tanh": {},
    "lstm_projected": {"proj_size": 6},
    "lstm in a stack": {"num_layers": 2, "bidirectional": True},
}
INPUT_SIZE, HIDDEN_SIZE = 5, 21

every_kind = pytest.mark.parametrize("kind", KINDS)
every_dtype = pytest.mark.parametrize("dtype", DTYPES)
every_backend = pytest.mark.parametrize("backend", BIT_TRUE)
few_examples = settings(max_examples=8, deadline=None, database=None)
seeds = st.integers(0, 2**32 - 1)


@pytest.mark.needs("numba")
def test_there_is_one() -> None:
    """The compiled backends keep the promise; without them the tests below would test nothing."""
    assert {"numba", "cython"} <= set(BIT_TRUE)


@st.composite
def ragged(draw: st.DrawFn) -> tuple[int, int, list[int]]:
    """T, B and lengths in any order, zeros among them."""
    steps, batch = draw(st.integers(1, 9)), draw(st.integers(1, 14))
    return steps, batch, draw(st.lists(st.integers(0, steps), min_size=batch, max_size=batch))


@lru_cache(maxsize=64)
def layer_of(backend: str, kind: str, dtype: str) -> fastrnn.Recurrent:
    """One layer for each kind."""
    return make_layer(kind.split()[0], INPUT_SIZE, HIDDEN_SIZE, backend=backend, dtype=dtype, **KINDS[kind])


def draw_batch(layer: fastrnn.Recurrent, steps: int, batch: int, seed: int) -> Arrays:
    """x, state0 ..., dy and dstate0 ..., the batch on axis 1 of each."""
    rng = np.random.default_rng(seed)
    y, state = layer(np.zeros((steps, batch, layer.input_size)))
    shapes = {"x": (steps, batch, layer.input_size), "dy": y.shape}
    for k, s in enumerate(as_tuple(state)):
        shapes.update({f"state{k}": s.shape, f"dstate{k}": s.shape})
    return {name: rng.normal(size=shape).astype(layer.dtype) for name, shape in shapes.items()}


def states(values: Arrays, prefix: str) -> Any:
    """In the form that a layer takes."""
    found = tuple(values[name] for name in sorted(values) if name.startswith(prefix))
    return found if len(found) > 1 else found[0]


def compute(layer: fastrnn.Recurrent, values: Arrays, lengths: Any = None) -> tuple[Arrays, Arrays]:
    """All results of rows, the batch on axis 1 of each, and the parameters' gradients. A plain call has to agree."""
    y, final, tape = layer.record(values["x"], states(values, "state"), lengths)
    plain, plain_final = layer(values["x"], states(values, "state"), lengths)
    assert_same_bits(plain, y, "y of a plain call")
    for one, other in zip(as_tuple(plain_final), as_tuple(final), strict=True):
        assert_same_bits(one, other, "final state of a plain call")
    found = layer.backward(tape, values["dy"], states(values, "dstate"))
    rows = {"y": y, "dx": found.x}
    rows.update({f"final{k}": s for k, s in enumerate(as_tuple(final))})
    rows.update({f"dstate{k}": s for k, s in enumerate(as_tuple(found.state))})
    return rows, found.parameters


def assert_rows(actual: Arrays, expected: Arrays, what: str) -> None:
    """Every result equal to the bit."""
    assert set(actual) == set(expected)
    for name, value in expected.items():
        assert_same_bits(actual[name], value, f"{name}, {what}")


def check_batch_of_one(layer: fastrnn.Recurrent, values: Arrays, lengths: list[int]) -> None:
    """A batch of B rows against B batches of one row, each without lengths and cut to its own."""
    together, _ = compute(layer, values, lengths)
    for b, n in enumerate(lengths):
        one = {name: value[:, b : b + 1] for name, value in values.items()}
        one.update(x=one["x"][:n], dy=one["dy"][:n])
        alone, _ = compute(layer, one)
        for name, value in alone.items():
            rest = together[name][:, b : b + 1]
            if name in ("y", "dx"):
                assert not rest[n:].any(), f"{name} is not zero past the end"
                rest = rest[:n]
            assert_same_bits(rest, value, f"{name} of row {b}")


@every_backend
@every_kind
@every_dtype
@given(case=ragged(), seed=seeds)
@few_examples
def test_batch_of_one(backend: str, kind: str, dtype: str, case: tuple[int, int, list[int]], seed: int) -> None:
    """A batch of B rows against B batches of one row, each without lengths and cut to its own."""
    steps, batch, lengths = case
    layer = layer_of(backend, kind, dtype)
    check_batch_of_one(layer, draw_batch(layer, steps, batch, seed), lengths)


@every_backend
@every_kind
@every_dtype
@given(case=ragged(), seed=seeds)
@few_examples
def test_place_in_the_batch(backend: str, kind: str, dtype: str, case: tuple[int, int, list[int]], seed: int) -> None:
    """The rows in another order, and some of them alone."""
    steps, batch, lengths = case
    layer = layer_of(backend, kind, dtype)
    values = draw_batch(layer, steps, batch, seed)
    together, _ = compute(layer, values, lengths)
    rng = np.random.default_rng(seed)
    order = rng.permutation(batch)[: rng.integers(1, batch + 1)]
    moved, _ = compute(layer, {name: value[:, order] for name, value in values.items()}, np.array(lengths)[order])
    assert_rows(moved, {name: value[:, order] for name, value in together.items()}, "moved")


def check_other_rows(layer: fastrnn.Recurrent, values: Arrays, lengths: list[int], mine: int, junk: float) -> None:
    """One row among others, and among others that hold junk in every input."""
    together, _ = compute(layer, values, lengths)
    others = (np.arange(len(lengths)) != mine)[:, None]
    spoilt = {name: np.where(others, layer.dtype.type(junk), value) for name, value in values.items()}
    found, _ = compute(layer, spoilt, lengths)
    pick = [mine]
    assert_rows(
        {name: v[:, pick] for name, v in found.items()}, {n: v[:, pick] for n, v in together.items()}, "beside junk"
    )


@every_backend
@every_kind
@every_dtype
@given(case=ragged(), seed=seeds, junk=st.sampled_from([np.nan, np.inf, -np.inf, 3e38]))
@few_examples
def test_other_rows(
    backend: str, kind: str, dtype: str, case: tuple[int, int, list[int]], seed: int, junk: float
) -> None:
    """The other rows full of NaN, infinities or overflow, in every input."""
    steps, batch, lengths = case
    layer = layer_of(backend, kind, dtype)
    check_other_rows(layer, draw_batch(layer, steps, batch, seed), lengths, seed % batch, junk)


@every_backend
@every_kind
@every_dtype
@given(case=ragged(), seed=seeds)
@few_examples
def test_padding(backend: str, kind: str, dtype: str, case: tuple[int, int, list[int]], seed: int) -> None:
    """NaN in x and dy past the rows' ends, and more of it: nothing changes, the parameters' gradients included."""
    steps, batch, lengths = case
    layer = layer_of(backend, kind, dtype)
    values = draw_batch(layer, steps, batch, seed)
    clean, parameters = compute(layer, values, lengths)
    past = np.arange(steps + 2)[:, None] >= np.array(lengths)
    longer = dict(values)
    for name in ("x", "dy"):
        padded = np.concatenate([values[name], values[name][:1], values[name][:1]])
        longer[name] = np.where(past[:, :, None], layer.dtype.type(np.nan), padded)
    found, found_parameters = compute(layer, longer, lengths)
    for name in ("y", "dx"):
        assert not found[name][steps:].any()
        found[name] = found[name][:steps]
    assert_rows(found, clean, "with padding")
    assert_rows(found_parameters, parameters, "with padding")


@every_backend
@pytest.mark.parametrize("kind", [kind for kind in KINDS if not KINDS[kind].get("bidirectional")])
@every_dtype
@given(cuts=st.lists(st.integers(1, 5), min_size=1, max_size=5), batch=st.integers(1, 8), seed=seeds)
@few_examples
def test_cuts_in_time(backend: str, kind: str, dtype: str, cuts: list[int], batch: int, seed: int) -> None:
    """One call, calls that hand the state on, a stream's chunks and its steps; backward, too, in one go or several."""
    layer = layer_of(backend, kind, dtype)
    steps = sum(cuts)
    values = draw_batch(layer, steps, batch, seed)
    whole, _ = compute(layer, values)
    stream, stepped = layer.stream(batch), layer.stream(batch)
    start = states(values, "state")
    stream.reset(start)
    stepped.reset(start)
    ends = np.cumsum([0, *cuts])
    outputs, tapes, state = [], [], start
    for low, high in pairwise(ends):
        y, state, tape = layer.record(values["x"][low:high], state)
        outputs.append(y)
        tapes.append(tape)
        assert_same_bits(stream.chunk(values["x"][low:high]), y, "a chunk")
        for t in range(low, high):
            assert_same_bits(stepped.step(values["x"][t]), whole["y"][t], "a step")
    assert_same_bits(np.concatenate(outputs), whole["y"], "y in pieces")
    for found in (state, stream.state, stepped.state):
        for k, s in enumerate(as_tuple(found)):
            assert_same_bits(s, whole[f"final{k}"], "the last state")
    gradient, parts = states(values, "dstate"), []
    for tape, low, high in reversed(list(zip(tapes, ends[:-1], ends[1:], strict=True))):
        found = layer.backward(tape, values["dy"][low:high], gradient)
        gradient = found.state
        parts.insert(0, found.x)
    assert_same_bits(np.concatenate(parts), whole["dx"], "dx in pieces")
    for k, s in enumerate(as_tuple(gradient)):
        assert_same_bits(s, whole[f"dstate{k}"], "the gradient of the first state")


@every_backend
@every_kind
@every_dtype
@given(case=ragged(), seed=seeds)
@few_examples
def test_threads(backend: str, kind: str, dtype: str, case: tuple[int, int, list[int]], seed: int) -> None:
    """1, 2 and 3 threads, and again: rows and the gradients of the parameters."""
    steps, batch, lengths = case
    layer = layer_of(backend, kind, dtype)
    values = draw_batch(layer, steps, batch, seed)
    rows, parameters = compute(layer, values, lengths)
    for n, rows_apart in ((1, 1), (2, 1), (2, 100), (3, 2), (3, 100)):
        with share_everything(rows_apart), fastrnn.threads(n):
            found, found_parameters = compute(layer, values, lengths)
        assert_rows(found, rows, f"{n} threads")
        assert_rows(found_parameters, parameters, f"{n} threads")


@every_backend
@every_kind
def test_many_steps(backend: str, kind: str) -> None:
    """Sequences of several chunks of time, cut in odd places, with rows that end at odd times."""
    layer = layer_of(backend, kind, "float32")
    rng = np.random.default_rng(1)
    steps, batch = 310, 7
    lengths = [310, 0, 1, 309, 250, 97, 310]
    values = draw_batch(layer, steps, batch, int(rng.integers(99)))
    check_batch_of_one(layer, values, lengths)


@every_backend
@pytest.mark.parametrize("parts", [[(0, 4), (4, 9)], [(8, 9), (0, 1), (1, 8)], [(n, n + 1) for n in range(9)]], ids=str)
@pytest.mark.parametrize("cell", [kind for kind in KINDS if " " not in kind])
@every_dtype
def test_parts(backend: str, cell: str, dtype: str, parts: list[tuple[int, int]]) -> None:
    """The rows of a forward scan handed out in parts: everything that is written, by backward, too, from its tape."""
    scan = draw_scan(cell, CASES["lengths-reverse"])
    whole = run_scan(backend_of(backend), scan, dtype, gradients=True)
    assert_rows(run_scan(backend_of(backend), scan, dtype, parts, gradients=True), whole, "in parts")


@pytest.mark.needs("numba")
@pytest.mark.parametrize("rows", [1, 2, 5, 40])
@pytest.mark.parametrize("case", ["lengths-reverse", "many-steps"])
@pytest.mark.parametrize("cell", ["lstm", "gru_reset_before", "lstm_projected"])
@every_backend
def test_pieces(backend: str, cell: str, case: str, rows: int) -> None:
    """Long scans are computed in pieces, so that an interrupt is answered soon: the bits are those of one go."""

    scan = draw_scan(cell, CASES[case])
    whole = run_scan(backend_of(backend), scan, "float64", gradients=True)
    weights = sum(value.size for value in scan.parameters.values() if value.ndim == 2)
    with (
        mock.patch.object(form, "PIECE", rows * weights),
        mock.patch.object(tiled_sums, "PIECE", rows * weights),
    ):
        pieces = run_scan(backend_of(backend), scan, "float64", gradients=True)
        in_parts = run_scan(backend_of(backend), scan, "float64", [(0, 3), (3, scan.case.B)], gradients=True)
    assert_rows(pieces, whole, "in pieces")
    assert_rows(in_parts, whole, "in pieces of parts")
