"""Tapes with checkpoints: the same gradients as whole ones, to the bit, from a fraction of the memory."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np
import odd_cells
import pytest
from cases import BACKENDS, DTYPES, any_cell, assert_close, assert_same_bits, compiled
from conformance import Arrays, as_tuple, backend_of, draw_call, make_layer, states_of
from hypothesis import given, settings
from hypothesis import strategies as st

import fastrnn
from fastrnn import checkpoints
from fastrnn.backends.contract import Rows

KINDS: dict[str, dict[str, Any]] = {
    "lstm": {},
    "gru": {"bidirectional": True},
    "gru_reset_before": {"num_layers": 2},
    "rnn_tanh": {"bias": False},
    "lstm_projected": {"proj_size": 6, "num_layers": 2, "bidirectional": True},
    "lstm_peephole": {"bidirectional": True},
}
RAGGED = [3, 0, 7, 5, 7, 1]


def gradients(
    layer: fastrnn.Recurrent, values: Arrays, lengths: Any, every: int | None, sequence: bool = True
) -> Arrays:
    """Everything that record and backward give, by name."""
    y, final, tape = layer.record(values["x"], states_of(values), lengths, sequence, every)
    dy = values["dy"] if sequence else values["dy"][0]
    found = layer.backward(tape, dy, states_of(values, "dstate"))
    written = {"y": y, "dx": found.x, **found.parameters}
    written.update({f"final{k}": s for k, s in enumerate(as_tuple(final))})
    written.update({f"dstate{k}": s for k, s in enumerate(as_tuple(found.state))})
    return written


def assert_same(layer: fastrnn.Recurrent, found: Arrays, expected: Arrays) -> None:
    """Equal, to the bit where the backend keeps that promise."""
    assert set(found) == set(expected)
    for name, value in expected.items():
        if backend_of(layer.backend).same_bits:
            assert_same_bits(found[name], value, name)
        else:
            assert_close(found[name], value, "gradient", layer.dtype.name, name)


def check_every(layer: fastrnn.Recurrent, steps: int, lengths: list[int] | None, ks: Any, batch: int = 6) -> None:
    """Checkpoints every k steps, for some k, against none."""
    values = draw_call(layer, steps, batch)
    expected = gradients(layer, values, lengths, None)
    for every in ks:
        assert_same(layer, gradients(layer, values, lengths, every), expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("lengths", [None, RAGGED, [0] * 6])
def test_the_same_gradients(backend: str, kind: str, dtype: str, lengths: list[int] | None) -> None:
    """Every cell, with k from 1 to more than T."""
    check_every(make_layer(kind, 5, 19, backend=backend, dtype=dtype, **KINDS[kind]), 7, lengths, (1, 2, 3, 6, 7, 50))


@any_cell
@pytest.mark.parametrize("cell", odd_cells.CELLS, ids=lambda cell: cell.__name__)
def test_cells_of_ones_own(backend: str, cell: Any) -> None:
    """Every operation, products of products, states that nothing reads."""
    options = {"proj_size": 3} if cell is odd_cells.projected_inside else {}
    # In float64, for which test_gradients has compiled these cells.
    layer = make_layer(cell, 4, 9, backend=backend, dtype="float64", bidirectional=True, **options)
    check_every(layer, 5, [5, 2, 0, 4, 4, 5], (1, 2, 3))


@compiled
@pytest.mark.parametrize("batch", [1, 3, 64, 128, 130])
def test_blocks_of_the_sums(backend: str, batch: int) -> None:
    """Hundreds of rows, whose blocks of 128 begin and end within pieces, at their ends, and span several of them."""
    layer = make_layer("gru_reset_before", 3, 9, backend=backend, bidirectional=True)
    steps = 300 // batch + 3
    lengths = np.random.default_rng(batch).integers(1, steps + 1, batch).tolist()
    for given_lengths in (None, lengths):
        check_every(layer, steps, given_lengths, (1, 2, 5, 40, 64, 129), batch)


@pytest.mark.parametrize("backend", BACKENDS)
@given(data=st.data())
@settings(max_examples=25, deadline=None, database=None)
def test_any_shape(backend: str, data: st.DataObject) -> None:
    """Any T, B, lengths, k, cell, layers, directions, and only the last output."""
    kind = data.draw(st.sampled_from(sorted(KINDS)))
    options = {"num_layers": data.draw(st.integers(1, 3)), "bidirectional": data.draw(st.booleans())}
    layer = make_layer(kind, 3, 8, backend=backend, **{**KINDS[kind], **options})
    steps, batch = data.draw(st.integers(1, 40)), data.draw(st.integers(1, 9))
    each = st.lists(st.integers(0, steps), min_size=batch, max_size=batch)
    lengths = data.draw(st.none() | each)
    every, sequence = data.draw(st.integers(1, 45)), data.draw(st.booleans())
    values = draw_call(layer, steps, batch)
    expected = gradients(layer, values, lengths, None, sequence)
    assert_same(layer, gradients(layer, values, lengths, every, sequence), expected)


@pytest.mark.parametrize("layout", ["batch_first", "unbatched", "empty batch", "no steps"])
def test_layouts(backend: str, layout: str, rng: np.random.Generator) -> None:
    """Each way to lay out a batch, and nothing at all."""
    layer = make_layer("lstm", 5, 8, backend=backend, bidirectional=True, batch_first=layout == "batch_first")
    shape = {"unbatched": (7, 5), "empty batch": (7, 0, 5), "no steps": (0, 4, 5)}.get(layout, (4, 7, 5))
    x = rng.normal(size=shape)
    found = []
    for every in (None, 3):
        y, _, tape = layer.record(x, checkpoint_every=every)
        gradient = layer.backward(tape, np.ones_like(y))
        found.append({"y": y, "dx": gradient.x, "dh": gradient.state[0], **gradient.parameters})
    assert_same(layer, found[1], found[0])


def test_dropout_is_the_same(backend: str) -> None:
    """The masks are drawn once, in record."""
    found = []
    for every in (None, 2):
        layer = make_layer("gru", 5, 8, backend=backend, num_layers=3, dropout=0.4, seed=3)
        found.append(gradients(layer, draw_call(layer, 7, 6), RAGGED, every))
    assert_same(layer, found[1], found[0])


def test_several_backwards_and_threads(backend: str) -> None:
    """One tape, many calls at once, with two threads each."""
    layer = make_layer("lstm", 5, 64, backend=backend, num_layers=2, bidirectional=True)
    values = draw_call(layer, 40, 30)
    lengths = np.random.default_rng(2).integers(0, 41, 30)
    expected = gradients(layer, values, lengths, None)
    with fastrnn.threads(2):
        _, _, tape = layer.record(values["x"], states_of(values), lengths, checkpoint_every=9)
        found: list[Any] = [None] * 3

        def work(k: int) -> None:
            found[k] = layer.backward(tape, values["dy"], states_of(values, "dstate"))

        workers = [threading.Thread(target=work, args=(k,)) for k in range(len(found))]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
    for gradient in found:
        written = {"dx": gradient.x, **gradient.parameters}
        assert_same(layer, written, {name: expected[name] for name in written})


def test_the_tape_holds_copies(backend: str, rng: np.random.Generator) -> None:
    """Nothing that happens after record reaches it."""
    layer = make_layer("lstm", 5, 8, backend=backend, num_layers=2)
    values = draw_call(layer, 9, 6)
    expected = gradients(layer, values, None, 4)
    x, state = values["x"].astype(np.float32), tuple(s.astype(np.float32) for s in states_of(values))
    y, final, tape = layer.record(x, state, checkpoint_every=4)
    for array in (x, y, *state, *final):
        array[...] = 9.0
    layer.set_parameters({name: np.zeros(value.shape) for name, value in layer.parameters.items()})
    again = layer.backward(tape, values["dy"], states_of(values, "dstate"))
    assert_same(layer, {"dx": again.x, **again.parameters}, {n: expected[n] for n in ("dx", *again.parameters)})


@pytest.mark.parametrize("lengths", [None, [64] * 15 + [8]])
def test_it_holds_less(backend: str, lengths: list[int] | None) -> None:
    """x, the layers' inputs and two states every k steps; a whole tape has all gates and states of every step."""
    layer = make_layer("lstm", 8, 32, backend=backend, num_layers=2, bidirectional=True)
    x = np.zeros((64, 16, 8), np.float32)
    whole = layer.record(x, lengths=lengths)[2].nbytes
    inputs = 4 * 64 * 16 * (8 + 2 * 32)
    state = 4 * 2 * 16 * 32  # h and c of one layer and direction
    for every in (1, 8, 10, 64, 100):
        found = layer.record(x, lengths=lengths, checkpoint_every=every)[2].nbytes
        assert found == inputs + 4 * state * -(-64 // every)
    assert whole > inputs + 4 * 64 * state * 2  # at least the gates beside the states
    assert layer.record(x, lengths=lengths, checkpoint_every=8)[2].nbytes < whole / 5


@pytest.mark.parametrize(
    ("value", "error"), [(0, ValueError), (-3, ValueError), (2.0, TypeError), (True, TypeError), ("4", TypeError)]
)
def test_a_wrong_k(backend: str, value: Any, error: type[Exception]) -> None:
    """It is refused by name, before anything is computed."""
    layer = fastrnn.LSTM(3, 4, backend=backend)
    with pytest.raises(error, match="checkpoint_every: expected an integer of at least 1"):
        layer.record(np.zeros((2, 1, 3)), checkpoint_every=value)


def test_the_wrong_checkpoint_is_caught(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Backward that begins each piece with the states before another one."""
    layer = make_layer("gru", 5, 8, backend=backend)
    check_every(layer, 7, RAGGED, (3,))
    real = checkpoints._recorded
    monkeypatch.setattr(checkpoints, "_recorded", lambda layer, tapes, pieces, index: real(layer, tapes, pieces, 0))
    with pytest.raises(AssertionError):
        check_every(layer, 7, RAGGED, (3,))


def test_a_wrong_boundary_is_caught(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Pieces whose rows are those of one step earlier: some rows end a step too late."""
    layer = make_layer("gru", 5, 8, backend=backend)
    real = Rows.piece
    check_every(layer, 7, RAGGED, (3,))
    monkeypatch.setattr(Rows, "piece", lambda rows, start, stop: real(rows, max(start - 1, 0), stop - min(start, 1)))
    with pytest.raises(AssertionError):
        check_every(layer, 7, RAGGED, (3,))


@compiled
def test_another_order_of_the_sums_is_caught(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks that begin with the piece, not at multiples of 128, are another sum."""
    from fastrnn.backends.tiled import sums

    layer = make_layer("lstm", 5, 8, backend=backend)
    check_every(layer, 50, None, (7,))
    monkeypatch.setattr(sums.TiledSums, "_runs", lambda self, lines, last: ([lines], 0))
    with pytest.raises(AssertionError):
        check_every(layer, 50, None, (7,))
