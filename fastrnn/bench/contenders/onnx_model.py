"""ONNX models from our parameters, for ONNX Runtime and OpenVINO.

ONNX has the gates in another order (LSTM i o f c, GRU z r h, where c and h are our g and n), splits each bias into an
input and a recurrent half, and has an axis for the directions.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from fastrnn.bench.workload import Array, Workload

OPSET, IR_VERSION = 14, 8
_OPERATORS = {"lstm": ("LSTM", "ifgo", "iofg"), "gru": ("GRU", "rzn", "zrn"), "rnn": ("RNN", "h", "h")}


def states(work: Workload) -> list[str]:
    """The names of a layer's states."""
    return ["h", "c"] if work.case.cell == "lstm" else ["h"]


def model(work: Workload) -> bytes:
    """The model of a case, as bytes.

    Inputs: ``X`` (T, B, I) and, for a step, ``h0_in``, ``c0_in``, ``h1_in`` and so on, (D, B, H) each. Outputs: ``Y``
    (T, B, D*H), but none for a step, and for each layer ``h0_out``, ``c0_out`` and so on.
    """
    onnx = importlib.import_module("onnx")
    case, step = work.case, work.case.mode == "step"
    nodes: list[Any] = []
    constants: dict[str, Array] = {}
    inputs, outputs = [("X", (case.T, case.B, case.I))], []
    if not step:
        outputs.append(("Y", (case.T, case.B, case.directions * case.H)))
    if case.ragged:
        assert case.lengths is not None
        constants["lengths"] = case.lengths.astype(np.int32)
    x = "X"
    for layer in range(case.layers):
        last = layer == case.layers - 1
        nodes += _layer(onnx.helper, work, layer, x, "Y" if last else f"y{layer}", constants, not (last and step))
        x = f"y{layer}"
        shape = (case.directions, case.B, case.H)
        if step:
            inputs += [(f"{state}{layer}_in", shape) for state in states(work)]
        outputs += [(f"{state}{layer}_out", shape) for state in states(work)]
    return _serialized(onnx, nodes, constants, inputs, outputs)


def _layer(
    helper: Any, work: Workload, layer: int, x: str, y: str, constants: dict[str, Array], sequence: bool
) -> list[Any]:
    """A layer's nodes; between them the axis of directions goes."""
    case = work.case
    operator, _, _ = _OPERATORS[case.cell]
    suffixes = [f"_l{layer}", f"_l{layer}_reverse"][: case.directions]
    weights = [_converted(work, suffix) for suffix in suffixes]
    for name, parts in zip("WRB", zip(*weights, strict=True), strict=True):
        constants[f"{name}{layer}"] = np.stack(parts)
    names = [x, f"W{layer}", f"R{layer}", f"B{layer}", "lengths" if case.ragged else ""]
    if case.mode == "step":
        names += [f"{state}{layer}_in" for state in states(work)]
    attributes: dict[str, Any] = {"linear_before_reset": 1} if case.cell == "gru" else {}
    if case.directions == 2:
        attributes["direction"] = "bidirectional"
    results = [f"raw{layer}" if sequence else "", *[f"{state}{layer}_out" for state in states(work)]]
    nodes = [helper.make_node(operator, names, results, hidden_size=case.H, **attributes)]
    if sequence and case.directions == 1:
        constants["one"] = np.array([1])
        nodes.append(helper.make_node("Squeeze", [f"raw{layer}", "one"], [y]))
    elif sequence:
        constants["joined"] = np.array([case.T, case.B, 2 * case.H])
        nodes.append(helper.make_node("Transpose", [f"raw{layer}"], [f"turned{layer}"], perm=[0, 2, 1, 3]))
        nodes.append(helper.make_node("Reshape", [f"turned{layer}", "joined"], [y]))
    return nodes


def _converted(work: Workload, suffix: str) -> tuple[Array, Array, Array]:
    """W, R and B of one direction with the gates in ONNX's order."""
    _, ours, theirs = _OPERATORS[work.case.cell]
    weight_ih, weight_hh, bias = (work.parameters[name + suffix] for name in ("weight_ih", "weight_hh", "bias"))
    inner = np.zeros_like(bias)
    if work.case.cell == "gru":
        inner[2 * work.case.H :] = work.parameters["bias_hn" + suffix]

    def reordered(array: Array) -> Array:
        blocks = dict(zip(ours, np.split(array, len(ours)), strict=True))
        return np.concatenate([blocks[gate] for gate in theirs])

    return reordered(weight_ih), reordered(weight_hh), np.concatenate([reordered(bias), reordered(inner)])


def _serialized(onnx: Any, nodes: list[Any], constants: dict[str, Array], inputs: Any, outputs: Any) -> bytes:
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes,
        "case",
        *([helper.make_tensor_value_info(name, kind, shape) for name, shape in side] for side in (inputs, outputs)),
        [onnx.numpy_helper.from_array(np.ascontiguousarray(value), name) for name, value in constants.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    data: bytes = made.SerializeToString()
    return data
