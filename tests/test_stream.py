"""Streams: step, chunk and whole call agree; the state is safe from errors; parameters may change under them."""

from __future__ import annotations

import itertools
import threading
import time
from typing import Any

import numpy as np
import pytest
from cases import any_cell, compiled
from sharing import share_everything

import fastrnn
from fastrnn.backends import load, numpy_
from fastrnn.backends.tiled import form, workers
from fastrnn.backends.tiled import frame as f
from fastrnn.backends.tiled.steps import LongSteps
from fastrnn.reuse import address

T, B, I, H = 9, 3, 4, 6  # noqa: E741
KINDS = {
    "lstm": lambda **o: fastrnn.LSTM(I, H, **o),
    "lstm_proj": lambda **o: fastrnn.LSTM(I, H, proj_size=2, **o),
    "gru": lambda **o: fastrnn.GRU(I, H, **o),
    "gru_before": lambda **o: fastrnn.GRU(I, H, reset_after=False, **o),
    "rnn": lambda **o: fastrnn.RNN(I, H, **o),
}


@pytest.fixture
def x() -> np.ndarray:
    return np.random.default_rng(3).normal(size=(T, B, I)).astype(np.float32)


def states(state: Any) -> tuple[np.ndarray, ...]:
    return state if isinstance(state, tuple) else (state,)


def assert_same(layer: fastrnn.Recurrent, a: Any, b: Any) -> None:
    """To the bit where the backend promises it."""
    same_bits = layer._stack.layers[0].backend.same_bits
    for p, q in zip(states(a), states(b), strict=True):
        if same_bits:
            np.testing.assert_array_equal(p, q)
        else:
            np.testing.assert_allclose(p, q, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("num_layers", [1, 3])
def test_step_chunk_and_whole(backend: str, name: str, num_layers: int, x: np.ndarray) -> None:
    layer = KINDS[name](num_layers=num_layers, backend=backend)
    y, final = layer(x)
    stream = layer.stream(batch_size=B)
    assert_same(layer, np.stack([stream.step(x_t) for x_t in x]), y)
    assert_same(layer, stream.state, final)
    for cuts in ([0, 9], [0, 1, 9], [0, 4, 5, 9], [0, 0, 3, 3, 9]):
        stream.reset()
        parts = [stream.chunk(x[low:high]) for low, high in itertools.pairwise(cuts)]
        assert_same(layer, np.concatenate(parts), y)
        assert_same(layer, stream.state, final)
    stream.reset()
    mixed = [stream.step(x[0])[None], stream.chunk(x[1:5]), stream.step(x[5])[None], stream.chunk(x[6:])]
    assert_same(layer, np.concatenate(mixed), y)


def test_one_sequence(backend: str, x: np.ndarray) -> None:
    layer = fastrnn.LSTM(I, H, num_layers=2, backend=backend)
    y, _ = layer(x[:, :1])
    stream = layer.stream()
    assert stream.batch_size == 1
    flat = np.stack([stream.step(x_t) for x_t in x[:, 0]])
    assert flat.shape == (T, H)
    assert_same(layer, flat, y[:, 0])
    stream.reset()
    assert stream.step(x[0, :1]).shape == (1, H)
    stream.reset()
    assert_same(layer, stream.chunk(x[:, 0]), y[:, 0])
    stream.reset()
    assert stream.chunk(x[:, :1]).shape == (T, 1, H)


def test_batch_first(backend: str, x: np.ndarray) -> None:
    layer = fastrnn.GRU(I, H, batch_first=True, backend=backend)
    xb = np.ascontiguousarray(x.swapaxes(0, 1))
    stream = layer.stream(B)
    y = stream.chunk(xb)
    assert y.shape == (B, T, H)
    assert_same(layer, y, layer(xb)[0])


def test_out(backend: str, x: np.ndarray) -> None:
    layer = fastrnn.GRU(I, I, num_layers=2, backend=backend)
    y, _ = layer(x)
    stream = layer.stream(B)
    out = np.full((B, I), np.nan, np.float32)
    for t in range(T):
        assert stream.step(x[t], out=out) is out
        assert_same(layer, out, y[t])
    stream.reset()
    strided = np.zeros((B, 2 * I), np.float32)[:, ::2]
    stream.step(x[0], out=strided)
    assert_same(layer, strided, y[0])
    stream.reset()
    both = x[0].copy()
    stream.step(both, out=both)  # x itself
    assert_same(layer, both, y[0])
    stream.reset()
    whole = x.copy()
    assert stream.chunk(whole, out=whole) is whole
    assert_same(layer, whole, y)


def test_the_state_goes_in_and_out(backend: str, x: np.ndarray) -> None:
    layer = fastrnn.LSTM(I, H, num_layers=2, backend=backend)
    _, middle = layer(x[:4])
    stream = layer.stream(B)
    stream.reset(middle)
    assert_same(layer, stream.state, middle)
    assert_same(layer, stream.chunk(x[4:]), layer(x)[0][4:])
    for s in stream.state:
        s[...] = np.nan  # copies
    kept = [s.copy() for s in middle]
    stream.reset(middle)
    for s in middle:
        s[...] = np.nan  # copied
    assert_same(layer, stream.state, tuple(kept))
    stream.reset()
    assert not any(s.any() for s in stream.state)
    gru = fastrnn.GRU(I, H, backend=backend)
    assert gru.stream(2).state.shape == (1, 2, H)


@pytest.mark.parametrize("kind", ["lstm_proj", "gru"])
def test_a_stream_of_one_sequence_takes_the_state_of_a_call_without_a_batch(kind: str, x: np.ndarray) -> None:
    layer = KINDS[kind](num_layers=1 if kind == "lstm_proj" else 2, backend="numpy")
    y, state = layer(x[:, 0])
    _, middle = layer(x[:4, 0])
    stream = layer.stream()
    stream.reset(middle)
    np.testing.assert_array_equal(stream.chunk(x[4:, 0]), y[4:])
    for a, b in zip(states(stream.state), states(state), strict=True):
        np.testing.assert_array_equal(a[:, 0], b)
    for s in states(middle):
        assert s.ndim == 2
    with pytest.raises(ValueError, match=r"\(L\*D, B, size\) = "):
        layer.stream(2).reset(middle)
    for wrong in (states(middle)[0][:, 1:], [[1.0], [1.0, 2.0]], None, (), "text"):
        with pytest.raises((TypeError, ValueError), match="state"):
            stream.reset(wrong if kind == "gru" and wrong is not None else (wrong, wrong))


def test_streams_are_independent(backend: str, x: np.ndarray) -> None:
    layer = fastrnn.GRU(I, H, backend=backend)
    one, other = layer.stream(B), layer.stream(B)
    first = one.step(x[0])
    one.step(x[1])
    assert_same(layer, other.step(x[0]), first)


def test_a_parameter_that_changes_counts_from_the_next_step(backend: str, x: np.ndarray) -> None:
    layer = fastrnn.GRU(I, H, backend=backend)
    stream = layer.stream(B)
    stream.step(x[0])
    state = stream.state
    layer.parameters["weight_hh_l0"][...] *= 2.0
    y = stream.step(x[1])
    assert_same(layer, y, layer(x[1:2], state)[0][0])
    state = stream.state
    layer.set_parameters({"bias_l0": np.ones(3 * H)})
    assert_same(layer, stream.step(x[2]), layer(x[2:3], state)[0][0])


def test_an_error_leaves_the_state(backend: str, x: np.ndarray) -> None:
    layer = fastrnn.LSTM(I, H, num_layers=3, backend=backend)
    stream = layer.stream(B)
    stream.chunk(x)
    before = stream.state
    calls: list[Any] = [
        lambda: stream.step(x[0, :, :2]),
        lambda: stream.step("text"),
        lambda: stream.step(x[0], out=np.zeros((B, H + 1), np.float32)),
        lambda: stream.chunk(x[:, :2]),
        lambda: stream.chunk(x, out=np.zeros((T, B, H))),
        lambda: stream.reset((np.zeros((3, B, H)), np.zeros((3, B, H + 1)))),
        lambda: stream.reset(np.zeros((3, B, H))),
    ]
    for call in calls:
        with pytest.raises((TypeError, ValueError)):
            call()
        for a, b in zip(stream.state, before, strict=True):
            np.testing.assert_array_equal(a, b)


def test_a_step_that_breaks_off_between_layers(x: np.ndarray) -> None:
    """Ctrl-C can come when the first layer has been computed and the second has not."""
    layer = fastrnn.LSTM(I, H, num_layers=2, backend="numpy")
    stream = layer.stream(B)
    stream.chunk(x)
    before = stream.state
    stream.step(x[0])
    expected = stream.state
    stream.reset(before)

    def broken(low: int, high: int) -> None:
        raise KeyboardInterrupt

    both = stream._steps.parts  # of either turn
    upper = [parts[1] for parts in both]
    for parts in both:
        parts[1] = broken
    with pytest.raises(KeyboardInterrupt):
        stream.step(x[0])
    for parts, part in zip(both, upper, strict=True):
        parts[1] = part
    for a, b in zip(stream.state, before, strict=True):
        np.testing.assert_array_equal(a, b)
    stream.step(x[0])
    for a, b in zip(stream.state, expected, strict=True):
        np.testing.assert_array_equal(a, b)


@any_cell
def test_two_threads_on_one_stream_take_turns(backend: str) -> None:
    """A state that counts steps: none is lost."""

    def counter(c: Any, x: Any) -> Any:
        return c + x.one

    layer = fastrnn.Recurrent(counter, 1, 1, bias=False, dtype="float64", backend=backend)
    layer.set_parameters({"weight_ih_l0": [[1.0]]})
    stream = layer.stream()

    def work() -> None:
        for _ in range(500):
            stream.step([1.0])

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert stream.state[0, 0, 0] == 2000.0


def test_bidirectional_has_none() -> None:
    with pytest.raises(ValueError, match="needs the whole sequence"):
        fastrnn.GRU(I, H, bidirectional=True).stream()


def test_repr() -> None:
    assert repr(fastrnn.GRU(I, H).stream(2)) == "<Stream of 2 sequences of GRU(4, 6)>"


@pytest.mark.parametrize("kind", KINDS)
def test_steps_are_shared_by_threads(kind: str, backend: str, x: np.ndarray, monkeypatch: Any) -> None:
    """Several threads take part, as soon as they are awake, and nobody can tell."""
    layer = KINDS[kind](backend=backend)
    alone = np.stack([*map(layer.stream(B).step, x)])
    seen = []
    if backend == "numpy":
        spread = numpy_.threads_run
        monkeypatch.setattr(numpy_, "threads_run", lambda tasks: (seen.append(len(tasks)), spread(tasks)))
    else:
        native = load(backend).native
        bound_step = native.bound_step

        def noting(*bound_to: Any) -> Any:
            step = bound_step(*bound_to)
            return lambda *given: seen.append(abs(step(*given))) or seen[-1]

        monkeypatch.setattr(native, "bound_step", noting)
    monkeypatch.setattr(
        workers, "LOOKS", 3_000_000
    )  # the first steps find the worker asleep; then it stays awake for long
    end = time.monotonic() + 60
    while 2 not in seen and time.monotonic() < end:
        with share_everything(), fastrnn.threads(2):
            together = np.stack([*map(layer.stream(B).step, x)])
        assert_same(layer, together, alone)
    assert 2 in seen


@pytest.mark.parametrize("num_layers", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_a_step_of_very_many_rows_is_cut(
    kind: str, num_layers: int, backend: str, x: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that Ctrl-C is answered within it; the bits are the same."""
    whole = np.stack([*map(KINDS[kind](num_layers=num_layers, backend=backend).stream(B).step, x)])
    monkeypatch.setattr(form, "PIECE", 1)
    layer = KINDS[kind](num_layers=num_layers, backend=backend)
    stream = layer.stream(B)
    assert_same(layer, np.stack([*map(stream.step, x)]), whole)
    if backend != "numpy":
        assert isinstance(stream._steps, LongSteps)


@compiled
@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("batch", [1, B])
def test_a_step_uses_the_states_where_they_are(backend: str, name: str, batch: int, x: np.ndarray) -> None:
    """It copies none of them, and writes whole vectors: each row has a cache line of its own at least."""
    layer = KINDS[name](num_layers=2, backend=backend)
    stream = layer.stream(batch)
    for x_t, turn in zip(x[:4, :batch], (0, 1, 0, 1), strict=True):
        stream.step(x_t)
        frames = stream._steps._frames[turn][:, 0]
        for k, (before, after) in enumerate(zip(stream._states[turn], stream._states[1 - turn], strict=True)):
            fields = f.FIRST_STATE + f.STATE_FIELDS * k
            for layer_frame, p, q in zip(frames, before, after, strict=True):
                assert layer_frame[fields + f.STATE_IN] == address(p[0])
                assert layer_frame[fields + f.STATE_OUT] == address(q[0])
                assert address(p[0]) % 64 == address(q[0]) % 64 == 0
                assert p.strides[0] == q.strides[0] == layer_frame[fields + f.STATE_STRIDE]
                assert p.strides[0] % 64 == 0


def test_a_cut_step_into_its_own_input(backend: str, x: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(form, "PIECE", 1)
    layer = fastrnn.RNN(I, I, backend=backend)
    expected = layer.stream(B).step(x[0])
    for source, target in ((0, 0), (1, 0), (0, 1)):  # the rows that are written are those read, or the ones beside
        memory = np.zeros((B + 1, I), np.float32)
        memory[source : source + B] = x[0]
        got = layer.stream(B).step(memory[source : source + B], out=memory[target : target + B])
        assert_same(layer, got, expected)
