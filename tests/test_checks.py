"""Bad input: every argument, with the error's type, and what it says: the argument, what was expected, what came."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastrnn
import fastrnn.nn

X = np.zeros((5, 3, 80), np.float32)


@pytest.fixture(scope="module")
def lstm() -> fastrnn.LSTM:
    return fastrnn.LSTM(80, 12, num_layers=2, backend="numpy")


RAGGED = [[[0.0] * 80], [[0.0] * 79]]


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (np.zeros((5, 3, 79)), ValueError, r"x: expected \(T, B, 80\) or \(T, 80\), got \(5, 3, 79\)"),
        (np.zeros((80,)), ValueError, r"x: expected \(T, B, 80\) or \(T, 80\), got \(80,\)"),
        (np.zeros((2, 5, 3, 80)), ValueError, r"got \(2, 5, 3, 80\)"),
        (1.0, ValueError, r"got \(\)"),
        (RAGGED, ValueError, "x: expected an array of real numbers, got list"),
        (
            np.zeros((5, 3, 80), complex),
            TypeError,
            "x: expected an array of real numbers, got ndarray of dtype complex128",
        ),
        (np.full((5, 3, 80), "a"), TypeError, "x: expected an array of real numbers, got ndarray of dtype <U1"),
        (np.zeros((5, 3, 80), object), TypeError, "dtype object"),
        (np.zeros((5, 3, 80), "M8[s]"), TypeError, "dtype datetime64"),
        (None, TypeError, "x: expected an array of real numbers, got NoneType of dtype object"),
        ("text", TypeError, "x: expected an array of real numbers, got str"),
        ({"x": 1}, TypeError, "x: expected an array of real numbers, got dict"),
    ],
)
def test_x(lstm: fastrnn.LSTM, x: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        lstm(x)
    with pytest.raises(error, match=message):
        lstm.record(x)
    with pytest.raises(error, match=message):
        lstm.stream().chunk(x)


def test_x_with_batch_first_is_named_so() -> None:
    gru = fastrnn.GRU(4, 5, batch_first=True, backend="numpy")
    with pytest.raises(ValueError, match=r"x: expected \(B, T, 4\) or \(T, 4\), got \(2, 3, 5\)"):
        gru(np.zeros((2, 3, 5)))


def test_arrays_that_cannot_be_made(lstm: fastrnn.LSTM) -> None:
    class Broken:
        def __array__(self, *args: Any, **kwargs: Any) -> Any:
            raise RuntimeError("needs detach")

    with pytest.raises(TypeError, match=r"x: expected an array of real numbers, got .*needs detach"):
        lstm(Broken())


Z = np.zeros


@pytest.mark.parametrize(
    ("state", "error", "message"),
    [
        (Z((2, 3, 12)), TypeError, r"state: expected a tuple \(h, c\), got an array of shape \(2, 3, 12\)"),
        ((Z((2, 3, 12)),), ValueError, r"state: expected a tuple \(h, c\), got 1 values"),
        ((Z((2, 3, 12)),) * 3, ValueError, "got 3 values"),
        (
            (Z((2, 3, 12)), Z((2, 3, 11))),
            ValueError,
            r"state, c: expected \(L\*D, B, size\) = \(2, 3, 12\), got \(2, 3, 11\)",
        ),
        ((Z((1, 3, 12)), Z((2, 3, 12))), ValueError, r"state, h: expected .*got \(1, 3, 12\)"),
        ((Z((2, 12)), Z((2, 12))), ValueError, r"state, h: expected .*got \(2, 12\)"),
        ((Z((2, 3, 12), complex), Z((2, 3, 12))), TypeError, "state, h: expected an array of real numbers"),
        ((None, None), TypeError, "state, h: expected an array of real numbers"),
    ],
)
def test_state(lstm: fastrnn.LSTM, state: Any, error: type[Exception], message: str) -> None:
    for call in (lambda: lstm(X, state), lambda: lstm.record(X, state), lambda: lstm.stream(3).reset(state)):
        with pytest.raises(error, match=message):
            call()
    _, _, tape = lstm.record(X)
    with pytest.raises(error, match=message.replace("state", "dstate")):
        lstm.backward(tape, None, state)


def test_state_of_one_array() -> None:
    gru = fastrnn.GRU(80, 12, backend="numpy")
    with pytest.raises(ValueError, match=r"state: expected \(L\*D, B, size\) = \(1, 3, 12\), got \(1, 1, 3, 12\)"):
        gru(X, (Z((1, 3, 12)),))
    with pytest.raises(ValueError, match=r"state: expected \(L\*D, size\) = \(1, 12\), got \(1, 1, 12\)"):
        gru(X[:, 0], Z((1, 1, 12)))


@pytest.mark.parametrize(
    ("lengths", "error", "message"),
    [
        ([1, 2], ValueError, r"lengths: expected \(B,\) = \(3,\), got \(2,\)"),
        ([[1, 2, 3]], ValueError, r"lengths: expected \(B,\) = \(3,\), got \(1, 3\)"),
        (3, ValueError, r"lengths: expected \(B,\) = \(3,\), got \(\)"),
        ([1, 2, 6], ValueError, "lengths: expected 0 to T = 5, got 6 for row 2"),
        ([1, -1, 5], ValueError, "lengths: expected 0 to T = 5, got -1 for row 1"),
        (np.array([1, 2**63 + 5, 1], np.uint64), ValueError, "lengths: expected 0 to T = 5, got 9223372036854775813"),
        ([1.0, 2.0, 3.0], TypeError, "lengths: expected integers, got list of dtype float64"),
        ([1.0, np.nan, 3.0], TypeError, "lengths: expected integers, got list of dtype float64"),
        ([True, False, True], TypeError, "lengths: expected integers, got list of dtype bool"),
        (["1", "2", "3"], TypeError, "lengths: expected integers"),
        ([[1], [1, 2], [3]], ValueError, r"lengths: expected \(3,\) integers"),
        ([None] * 3, TypeError, "lengths: expected integers, got list of dtype object"),
        ([2**70, 1, 1], TypeError, "lengths: expected integers, got list of dtype object"),
    ],
)
def test_lengths(lstm: fastrnn.LSTM, lengths: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        lstm(X, lengths=lengths)
    with pytest.raises(error, match=message):
        lstm.record(X, lengths=lengths)


@pytest.mark.parametrize("sequence", [None, 1, "last"])
def test_sequence(lstm: fastrnn.LSTM, sequence: Any) -> None:
    with pytest.raises(TypeError, match="sequence: expected True or False, got"):
        lstm(X, sequence=sequence)
    with pytest.raises(TypeError, match="sequence: expected True or False, got"):
        lstm.record(X, sequence=sequence)


def test_backward(lstm: fastrnn.LSTM) -> None:
    y, final, tape = lstm.record(X)
    with pytest.raises(ValueError, match=r"dy: expected \(T, B, D\*H\) = \(5, 3, 12\), got \(5, 3, 11\)"):
        lstm.backward(tape, y[:, :, 1:])
    with pytest.raises(TypeError, match="dy: expected an array of real numbers"):
        lstm.backward(tape, "dy")
    with pytest.raises(ValueError, match="dy, dstate: expected at least one of them"):
        lstm.backward(tape)
    with pytest.raises(ValueError, match=r"dstate, h: expected"):
        lstm.backward(tape, y, (final[0][:1], final[1]))
    with pytest.raises(TypeError, match="tape: expected a Tape from this layer's record, got NoneType None"):
        lstm.backward(None, y)  # type: ignore[arg-type]
    other = fastrnn.LSTM(80, 12, num_layers=2, backend="numpy")
    with pytest.raises(ValueError, match=r"tape: expected one that this layer recorded, got one of LSTM\(80, 12"):
        other.backward(tape, y)
    last, _, tape = lstm.record(X, sequence=False)
    assert last.shape == (3, 12)
    with pytest.raises(ValueError, match=r"dy: expected \(B, D\*H\) = \(3, 12\), got \(5, 3, 12\)"):
        lstm.backward(tape, y)


def test_masked_arrays_are_refused() -> None:
    """NumPy would drop the mask and compute with what is under it."""
    layer = fastrnn.GRU(2, 3, backend="numpy")
    x = np.ma.masked_array(np.zeros((4, 1, 2), np.float32), mask=True)
    y, h, tape = layer.record(x.data)
    linear = fastrnn.nn.Linear(2, 3)
    calls: dict[str, list[Callable[[], Any]]] = {
        "x": [
            lambda: layer(x),
            lambda: layer.record(x),
            lambda: layer.stream().step(x[0]),
            lambda: layer.stream().chunk(x),
            lambda: linear(x),
        ],
        "state": [lambda: layer(x.data, np.ma.masked_array(h)), lambda: layer.stream().reset(np.ma.masked_array(h))],
        "lengths": [lambda: layer(x.data, lengths=np.ma.masked_array([4], mask=True))],
        "dy": [lambda: layer.backward(tape, np.ma.masked_array(y))],
        "dstate": [lambda: layer.backward(tape, dstate=np.ma.masked_array(h))],
        r"values\['bias_l0'\]": [lambda: layer.set_parameters({"bias_l0": np.ma.zeros(9)})],
    }
    for name, several in calls.items():
        for call in several:
            with pytest.raises(TypeError, match=rf"^{name}.* got a masked array: fill it first"):
                call()


# --- the constructor --------------------------------------------------------------------------------------------------

HUGE = "input_size, hidden_size, num_layers: expected parameters of at most"


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"input_size": 0}, ValueError, "input_size: expected an integer of at least 1, got 0"),
        ({"input_size": -3}, ValueError, "input_size: expected an integer of at least 1, got -3"),
        ({"input_size": 3.0}, TypeError, "input_size: expected an integer of at least 1, got float 3.0"),
        ({"input_size": "3"}, TypeError, "input_size: expected an integer of at least 1, got str '3'"),
        ({"hidden_size": True}, TypeError, "hidden_size: expected an integer of at least 1, got bool True"),
        ({"hidden_size": None}, TypeError, "hidden_size: expected an integer of at least 1, got NoneType None"),
        ({"hidden_size": 2**40}, ValueError, HUGE),
        ({"input_size": 2**62}, ValueError, HUGE),
        ({"num_layers": 2**40}, ValueError, HUGE),
        ({"num_layers": 2**16 + 1}, ValueError, "num_layers: expected an integer of at most 65,536, got 65,537"),
        ({"num_layers": 0}, ValueError, "num_layers: expected an integer of at least 1, got 0"),
        ({"bidirectional": 1}, TypeError, "bidirectional: expected True or False, got int 1"),
        ({"batch_first": "yes"}, TypeError, "batch_first: expected True or False, got str 'yes'"),
        ({"bias": None}, TypeError, "bias: expected True or False, got NoneType None"),
        ({"dropout": 1.0}, ValueError, "dropout: expected a number of at least 0 and less than 1, got 1.0"),
        ({"dropout": -0.1}, ValueError, "dropout: expected a number of at least 0 and less than 1, got -0.1"),
        ({"dropout": float("nan")}, ValueError, "dropout: expected a number of at least 0 and less than 1, got nan"),
        ({"dropout": "0.5"}, TypeError, "dropout: expected a number of at least 0 and less than 1, got str '0.5'"),
        ({"proj_size": -1}, ValueError, "proj_size: expected an integer of at least 0, got -1"),
        ({"proj_size": 5}, ValueError, "proj_size: expected less than hidden_size = 5, got 5"),
        ({"proj_size": 2.0}, TypeError, "proj_size: expected an integer of at least 0, got float 2.0"),
        ({"dtype": "float16"}, ValueError, "dtype: expected float32 or float64, got str 'float16'"),
        ({"dtype": ">f4"}, ValueError, "dtype: expected float32 or float64, got str '>f4'"),
        ({"dtype": int}, ValueError, "dtype: expected float32 or float64, got type <class 'int'>"),
        ({"dtype": None}, ValueError, "dtype: expected float32 or float64, got NoneType None"),
        ({"dtype": "floaty"}, TypeError, "dtype: expected float32 or float64, got str 'floaty'"),
        ({"seed": -1}, ValueError, "seed: expected an integer of at least 0, or None, got -1"),
        ({"seed": 1.5}, TypeError, "seed: expected an integer of at least 0, or None, got float 1.5"),
        ({"seed": True}, TypeError, "seed: expected an integer of at least 0, or None, got bool True"),
        ({"recurrent_init": "eye"}, ValueError, "recurrent_init: expected 'uniform' or 'orthogonal', got 'eye'"),
        ({"recurrent_init": 1}, TypeError, "recurrent_init: expected 'uniform' or 'orthogonal', got int 1"),
        ({"forget_bias": "1"}, TypeError, "forget_bias: expected a finite number or None, got str '1'"),
        ({"forget_bias": float("inf")}, ValueError, "forget_bias: expected a finite number or None, got inf"),
        ({"backend": "cuda"}, ValueError, "backend: expected one of 'numba', 'cython', 'numpy', got 'cuda'"),
        ({"colour": "red"}, TypeError, "unexpected keyword argument 'colour'"),
    ],
)
def test_constructor(options: dict[str, Any], error: type[Exception], message: str) -> None:
    with pytest.raises(error) as raised:
        fastrnn.LSTM(**{"input_size": 3, "hidden_size": 5, **options})
    assert message in str(raised.value)


def test_numpy_integers_and_dtypes_are_taken() -> None:
    layer = fastrnn.GRU(np.int64(3), np.uint8(4), num_layers=np.int16(2), seed=np.int32(1), dtype=np.float64)
    assert (layer.input_size, layer.hidden_size, layer.num_layers) == (3, 4, 2)
    assert type(layer.input_size) is int
    for dtype in ("float64", "f8", "d", float, np.float64, np.dtype("float64")):
        assert fastrnn.RNN(2, 3, dtype=dtype).dtype is np.dtype("float64")


def test_words() -> None:
    with pytest.raises(ValueError, match="nonlinearity: expected 'tanh' or 'relu', got 'sigmoid'"):
        fastrnn.RNN(3, 4, nonlinearity="sigmoid")
    with pytest.raises(TypeError, match="nonlinearity: expected 'tanh' or 'relu', got NoneType"):
        fastrnn.RNN(3, 4, nonlinearity=None)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="reset_after: expected True or False, got int 1"):
        fastrnn.GRU(3, 4, reset_after=1)  # type: ignore[arg-type]


def test_projections_belong_to_cells() -> None:
    with pytest.raises(ValueError, match="proj_size: expected 0, since cell 'gru' has no projection; got 2"):
        fastrnn.GRU(3, 4, proj_size=2)
    with pytest.raises(
        ValueError, match="proj_size: expected at least 1, since cell 'lstm_projected' has a projection"
    ):
        fastrnn.Recurrent(fastrnn.cells.lstm_projected, 3, 4)
    with pytest.raises(TypeError, match="cell: expected a function"):
        fastrnn.Recurrent("lstm", 3, 4)  # type: ignore[arg-type]


def test_gate() -> None:
    layer = fastrnn.LSTM(3, 4, num_layers=2)
    with pytest.raises(ValueError, match="name: expected 'i' or 'f' or 'g' or 'o', got 'z'"):
        layer.gate("z")
    with pytest.raises(TypeError, match="name: expected 'i' or"):
        layer.gate(0)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="layer: expected 0 to 1, got 2"):
        layer.gate("i", 2)
    with pytest.raises(ValueError, match="layer: expected an integer of at least 0, got -1"):
        layer.gate("i", -1)
    with pytest.raises(ValueError, match="reverse: expected False, since the layer has one direction; got True"):
        layer.gate("i", 0, True)


# --- streams ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "out", "error", "message"),
    [
        (Z((3, 79)), None, ValueError, r"x: expected \(3, 80\), got \(3, 79\)"),
        (Z(80), None, ValueError, r"x: expected \(3, 80\), got \(80,\)"),
        (Z((3, 80), complex), None, TypeError, "x: expected an array of real numbers"),
        (
            Z((3, 80)),
            Z((3, 12)),
            ValueError,
            r"out: expected an array of shape \(3, 12\), dtype float32, got an array of",
        ),
        (Z((3, 80)), Z((3, 11), np.float32), ValueError, r"out: expected .*, got an array of shape \(3, 11\)"),
        (Z((3, 80)), [[0.0] * 12] * 3, TypeError, "out: expected an array of shape .*, got list"),
    ],
)
def test_step(lstm: fastrnn.LSTM, x: Any, out: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        lstm.stream(3).step(x, out=out)


def test_more_of_streams(lstm: fastrnn.LSTM) -> None:
    with pytest.raises(ValueError, match=r"x: expected \(1, 80\) or \(80,\), got \(2, 80\)"):
        lstm.stream().step(Z((2, 80)))
    readonly = Z((3, 12), np.float32)
    readonly.flags.writeable = False
    with pytest.raises(ValueError, match="out: expected an array that can be written, got a read-only one"):
        lstm.stream(3).step(X[0], out=readonly)
    with pytest.raises(ValueError, match="x: expected B = 2 sequences, as the stream has, got 3"):
        lstm.stream(2).chunk(X)
    with pytest.raises(ValueError, match="x: expected B = 2 sequences, as the stream has, got 1"):
        lstm.stream(2).chunk(X[:, 0])
    with pytest.raises(ValueError, match="batch_size: expected an integer of at least 1, got 0"):
        lstm.stream(0)
    with pytest.raises(TypeError, match=r"batch_size: expected an integer of at least 1, got float 1\.5"):
        lstm.stream(1.5)  # type: ignore[arg-type]
