"""One-node ONNX models from our parameters, evaluated by ``onnx.reference``: a second oracle. It imports no fastrnn.

ONNX has the gates in another order (LSTM i o f c, GRU z r h, peepholes i o f, where c and h are our g and n), splits
each bias into an input and a recurrent half, and puts a directions axis first.

The evaluator of onnx 1.23 covers LSTM with peepholes, GRU with both places of the reset gate and RNN with tanh, in all
three directions, in float64. It does not cover, and here is what happens to it:

- ``sequence_lens``: ignored without a word. ``evaluate`` gives it each row alone, cut to its length, instead.
- ``activations`` of LSTM and GRU, ``clip``, ``input_forget``: ignored without a word. Not used here.
- ``activations=["Relu"]`` of RNN: an error. ``model`` builds it, ``evaluate`` refuses ``rnn_relu``.
- ONNX itself has no projection, no minGRU and no light GRU.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

MODELLED = ("lstm", "lstm_peephole", "gru", "gru_reset_before", "rnn_tanh", "rnn_relu")
EVALUATED = ("lstm", "lstm_peephole", "gru", "gru_reset_before", "rnn_tanh")
DIRECTIONS = ("forward", "reverse", "bidirectional")
OPSET, IR_VERSION = 14, 8

Parameters = Mapping[str, np.ndarray]


def operator_of(cell: str) -> tuple[str, str, str, dict[str, Any]]:
    """The ONNX operator, our gates, the same gates in ONNX's order, further attributes."""
    if cell in ("lstm", "lstm_peephole"):
        return "LSTM", "ifgo", "iofg", {}
    if cell in ("gru", "gru_reset_before"):
        return "GRU", "rzn", "zrn", {"linear_before_reset": int(cell == "gru")}
    if cell in ("rnn_tanh", "rnn_relu"):
        return "RNN", "h", "h", {"activations": [cell.removeprefix("rnn_").capitalize()]}
    raise ValueError(f"ONNX has no {cell}; it has {', '.join(MODELLED)}")


def reorder(array: np.ndarray, ours: str, theirs: str) -> np.ndarray:
    """(G*H, ...) with the gates in our order -> the same in ONNX's order."""
    blocks = dict(zip(ours, np.split(np.asarray(array), len(ours)), strict=True))
    return np.concatenate([blocks[gate] for gate in theirs])


def bias_of(cell: str, parameters: Parameters, suffix: str) -> np.ndarray:
    """(2*G*H,): the input half with our bias, the recurrent half zero but for the GRU's ``bias_hn``."""
    _, ours, theirs, _ = operator_of(cell)
    rows, hidden_size = parameters["weight_hh" + suffix].shape
    dtype = parameters["weight_hh" + suffix].dtype
    bias = np.asarray(parameters.get("bias" + suffix, np.zeros(rows, dtype)))
    recurrent = np.zeros(rows, dtype)
    if "bias_hn" + suffix in parameters:
        recurrent[2 * hidden_size :] = parameters["bias_hn" + suffix]
    return np.concatenate([reorder(bias, ours, theirs), reorder(recurrent, ours, theirs)])


def peepholes_of(parameters: Parameters, suffix: str) -> np.ndarray:
    """(3*H,) in ONNX's order i o f."""
    return np.concatenate([parameters[f"peephole_{gate}{suffix}"] for gate in "iof"])


def suffixes(direction: str) -> tuple[str, ...]:
    """Which parameters belong to a direction: a single one, reverse too, has the names without ``_reverse``."""
    return ("_l0", "_l0_reverse") if direction == "bidirectional" else ("_l0",)


def model(cell: str, parameters: Parameters, direction: str = "forward") -> onnx.ModelProto:
    """A checked model of one node, the weights as initializers.

    ``parameters`` has our public names, all of one dtype (float32 or float64): ``weight_ih_l0``, ``weight_hh_l0``,
    ``bias_l0``, ``bias_hn_l0``, ``peephole_i_l0``; a bidirectional model takes those with ``_reverse`` as well.
    Inputs: X (T, B, I), initial_h (D, B, H) and for LSTM initial_c (D, B, H). Outputs: Y (T, D, B, H), Y_h and for LSTM
    Y_c, (D, B, H) each.
    """
    op_type, ours, theirs, attributes = operator_of(cell)
    ends = suffixes(direction)
    if op_type == "RNN":
        attributes = {"activations": attributes["activations"] * len(ends)}
    weights = {
        "W": np.stack([reorder(parameters["weight_ih" + end], ours, theirs) for end in ends]),
        "R": np.stack([reorder(parameters["weight_hh" + end], ours, theirs) for end in ends]),
        "B": np.stack([bias_of(cell, parameters, end) for end in ends]),
    }
    if cell == "lstm_peephole":
        weights["P"] = np.stack([peepholes_of(parameters, end) for end in ends])
    D, _, H = weights["R"].shape
    is_lstm = op_type == "LSTM"
    node = helper.make_node(
        op_type,
        ["X", "W", "R", "B", "", "initial_h"] + ["initial_c"] * is_lstm + ["P"] * ("P" in weights),
        ["Y", "Y_h"] + ["Y_c"] * is_lstm,
        hidden_size=H,
        direction=direction,
        **attributes,
    )
    element = {"float32": TensorProto.FLOAT, "float64": TensorProto.DOUBLE}[weights["W"].dtype.name]
    shapes = {"X": ("T", "B", weights["W"].shape[-1]), "Y": ("T", D, "B", H)}
    values = {
        name: helper.make_tensor_value_info(name, element, shapes.get(name, (D, "B", H)))
        for name in ("X", "initial_h", "initial_c", "Y", "Y_h", "Y_c")
    }
    graph = helper.make_graph(
        [node],
        cell,
        [values["X"], values["initial_h"]] + [values["initial_c"]] * is_lstm,
        [values["Y"], values["Y_h"]] + [values["Y_c"]] * is_lstm,
        [numpy_helper.from_array(np.ascontiguousarray(array), name) for name, array in weights.items()],
    )
    result = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    onnx.checker.check_model(result, full_check=True)
    return result


def evaluate(
    cell: str,
    parameters: Parameters,
    x: np.ndarray,
    state: Any = None,
    direction: str = "forward",
    lengths: Any = None,
) -> tuple[np.ndarray, Any]:
    """One layer by ``onnx.reference``: x (T, B, I) -> y (T, B, D*H) and the final state.

    ``state`` is None (zeros), h or for LSTM (h, c), each (D, B, H); the final state is of the same kind. With
    ``lengths`` (B,), each at least 1, y is zero past a row's end. ``parameters`` as in ``model``; x in their dtype.
    """
    if cell not in EVALUATED:
        raise NotImplementedError(f"onnx.reference cannot evaluate {cell}; it can {', '.join(EVALUATED)}")
    runner = ReferenceEvaluator(model(cell, parameters, direction))
    T, B, _ = x.shape
    D, H = len(suffixes(direction)), parameters["weight_hh_l0"].shape[1]
    is_lstm = cell.startswith("lstm")
    if state is None:
        states: tuple[np.ndarray, ...] = (np.zeros((D, B, H), x.dtype),) * (2 if is_lstm else 1)
    else:
        states = tuple(state) if is_lstm else (state,)

    def run(part: np.ndarray, initial: Sequence[np.ndarray]) -> tuple[np.ndarray, list[np.ndarray]]:
        feeds = {"X": part, **dict(zip(("initial_h", "initial_c"), initial, strict=False))}
        y, *final = (np.asarray(output) for output in runner.run(None, feeds))
        return y.transpose(0, 2, 1, 3).reshape(part.shape[0], part.shape[1], D * H), final

    if lengths is None:
        y, final = run(x, states)
    else:
        y = np.zeros((T, B, D * H), x.dtype)
        final = [np.zeros_like(s) for s in states]
        for b, n in enumerate(lengths):
            row = slice(b, b + 1)
            y[:n, row], last = run(x[:n, row], [s[:, row] for s in states])
            for whole, one in zip(final, last, strict=True):
                whole[:, row] = one
    return y, (tuple(final) if is_lstm else final[0])
