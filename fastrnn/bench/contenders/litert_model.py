"""LiteRT models from our parameters, written as flatbuffers: TensorFlow is not needed for it.

A step is a graph of small operators, which the runtime hands to XNNPACK. A whole sequence is the runtime's own
sequence operator, which it has for LSTM and RNN.
"""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from fastrnn.bench.workload import Array, Workload

SIGNATURE = "serving_default"
_VERSIONS = {"FULLY_CONNECTED": 1}


class ModelWriter:
    """Tensors and operators of one subgraph, added one by one; a tensor is known by its number."""

    def __init__(self) -> None:
        self.schema: Any = importlib.import_module("ai_edge_litert.schema_py_generated")
        self._model = self.schema.ModelT()
        self._model.version = 3
        self._model.buffers = [self.schema.BufferT()]
        self._model.operatorCodes = []
        self._graph = self.schema.SubGraphT()
        self._graph.tensors, self._graph.operators = [], []
        self._codes: dict[str, int] = {}

    def tensor(self, shape: tuple[int, ...], value: Array | None = None, dtype: str = "FLOAT32", **flags: Any) -> int:
        """A tensor, constant if it has a value."""
        made = self.schema.TensorT()
        made.shape, made.type = list(shape), getattr(self.schema.TensorType, dtype)
        made.name = f"t{len(self._graph.tensors)}"
        for name, flag in flags.items():
            setattr(made, name, flag)
        if value is not None:
            buffer = self.schema.BufferT()
            buffer.data = np.frombuffer(np.ascontiguousarray(value).tobytes(), np.uint8)
            made.buffer = len(self._model.buffers)
            self._model.buffers.append(buffer)
        self._graph.tensors.append(made)
        return len(self._graph.tensors) - 1

    def constant(self, value: Any, dtype: str = "FLOAT32") -> int:
        """A constant tensor."""
        array = np.asarray(value, np.float32 if dtype == "FLOAT32" else np.int32)
        return self.tensor(array.shape, array, dtype)

    def add(self, operator: str, inputs: list[int], outputs: list[int], options: str = "", **values: Any) -> list[int]:
        """An operator by its builtin name, with its options' table and the fields in it."""
        schema = self.schema
        if operator not in self._codes:
            code = schema.OperatorCodeT()
            code.builtinCode = getattr(schema.BuiltinOperator, operator)
            code.deprecatedBuiltinCode = min(code.builtinCode, 127)
            self._codes[operator] = len(self._model.operatorCodes)
            self._model.operatorCodes.append(code)
        made = schema.OperatorT()
        made.opcodeIndex, made.inputs, made.outputs = self._codes[operator], inputs, outputs
        if options:
            made.builtinOptionsType = getattr(schema.BuiltinOptions, options)
            made.builtinOptions = getattr(schema, options + "T")()
            for name, value in values.items():
                setattr(made.builtinOptions, name, value)
        self._graph.operators.append(made)
        return outputs

    def finish(self, inputs: list[int], outputs: list[int]) -> bytes:
        """The model's bytes."""
        schema = self.schema
        self._graph.inputs, self._graph.outputs = inputs, outputs
        signature = schema.SignatureDefT()
        signature.signatureKey, signature.inputs, signature.outputs = SIGNATURE, [], []
        for side, tensors in ((signature.inputs, inputs), (signature.outputs, outputs)):
            for index, tensor in enumerate(tensors):
                entry = schema.TensorMapT()
                entry.name, entry.tensorIndex = f"{'in' if side is signature.inputs else 'out'}{index}", tensor
                side.append(entry)
        self._model.subgraphs, self._model.signatureDefs = [self._graph], [signature]
        builder = importlib.import_module("flatbuffers").Builder(1 << 20)
        builder.Finish(self._model.Pack(builder), b"TFL3")
        return bytes(builder.Output())


class _Step(ModelWriter):
    """Operators on (B, size) tensors."""

    def __init__(self, batch: int) -> None:
        super().__init__()
        self.batch = batch

    def product(self, x: int, weight: Array, bias: Array) -> int:
        """x W' + b."""
        out = self.tensor((self.batch, weight.shape[0]))
        self.add("FULLY_CONNECTED", [x, self.constant(weight), self.constant(bias)], [out], "FullyConnectedOptions")
        return out

    def joined(self, a: int, b: int, size: int) -> int:
        out = self.tensor((self.batch, size))
        self.add("CONCATENATION", [a, b], [out], "ConcatenationOptions", axis=1)
        return out

    def split(self, a: int, count: int, size: int) -> list[int]:
        outs = [self.tensor((self.batch, size)) for _ in range(count)]
        return self.add("SPLIT", [self.constant(1, "INT32"), a], outs, "SplitOptions", numSplits=count)

    def apply(self, operator: str, operands: list[int], size: int, options: str = "") -> int:
        """An elementwise operator."""
        return self.add(operator, operands, [self.tensor((self.batch, size))], options)[0]


def step_model(work: Workload) -> bytes:
    """One time step: inputs x and each layer's states, outputs each layer's new states; y is the last layer's h."""
    case = work.case
    writer = _Step(case.B)
    x = writer.tensor((case.B, case.I))
    inputs, outputs = [x], []
    for layer in range(case.layers):
        states = [writer.tensor((case.B, case.H)) for _ in range(2 if case.cell == "lstm" else 1)]
        new = _CELLS[case.cell](writer, work, layer, x, states)
        x = new[0]
        inputs += states
        outputs += new
    return writer.finish(inputs, outputs)


def _lstm(writer: _Step, work: Workload, layer: int, x: int, states: list[int]) -> list[int]:
    (h, c), size = states, work.case.H
    w, r, b = work.layer(layer)
    both = writer.joined(x, h, w.shape[1] + size)
    i, f, g, o = writer.split(writer.product(both, np.hstack([w, r]), b), 4, size)
    i, f, o = (writer.apply("LOGISTIC", [gate], size) for gate in (i, f, o))
    g = writer.apply("TANH", [g], size)
    kept, fresh = (writer.apply("MUL", pair, size, "MulOptions") for pair in ([f, c], [i, g]))
    c = writer.apply("ADD", [kept, fresh], size, "AddOptions")
    return [writer.apply("MUL", [o, writer.apply("TANH", [c], size)], size, "MulOptions"), c]


def _gru(writer: _Step, work: Workload, layer: int, x: int, states: list[int]) -> list[int]:
    (h,), size = states, work.case.H
    w, r, b = work.layer(layer)
    both = writer.joined(x, h, w.shape[1] + size)
    gates = writer.product(both, np.hstack([w, r])[: 2 * size], b[: 2 * size])
    reset, update = writer.split(writer.apply("LOGISTIC", [gates], 2 * size), 2, size)
    new = writer.product(x, w[2 * size :], b[2 * size :])
    old = writer.product(h, r[2 * size :], work.parameters[f"bias_hn_l{layer}"])
    gated = writer.apply("MUL", [reset, old], size, "MulOptions")
    n = writer.apply("TANH", [writer.apply("ADD", [new, gated], size, "AddOptions")], size)
    back = writer.apply("MUL", [update, writer.apply("SUB", [h, n], size, "SubOptions")], size, "MulOptions")
    return [writer.apply("ADD", [n, back], size, "AddOptions")]


def _rnn(writer: _Step, work: Workload, layer: int, x: int, states: list[int]) -> list[int]:
    (h,), size = states, work.case.H
    w, r, b = work.layer(layer)
    product = writer.product(writer.joined(x, h, w.shape[1] + size), np.hstack([w, r]), b)
    return [writer.apply("TANH", [product], size)]


_CELLS = {"lstm": _lstm, "gru": _gru, "rnn": _rnn}


def sequence_model(work: Workload) -> bytes:
    """A whole sequence of an LSTM or an RNN, time first, from zero states: input x, output y."""
    case = work.case
    writer = ModelWriter()
    first = x = writer.tensor((case.T, case.B, case.I))
    for layer in range(case.layers):
        y = writer.tensor((case.T, case.B, case.H))
        add = _lstm_sequence if case.cell == "lstm" else _rnn_sequence
        add(writer, work, layer, x, y)
        x = y
    return writer.finish([first], [x])


def _lstm_sequence(writer: ModelWriter, work: Workload, layer: int, x: int, y: int) -> None:
    shape = (work.case.B, work.case.H)
    w, r, b = (np.split(part, 4) for part in work.layer(layer))
    order = (0, 1, 2, 3)  # input, forget, cell, output: ours, too
    inputs = [x, *[writer.constant(w[k]) for k in order], *[writer.constant(r[k]) for k in order], -1, -1, -1]
    inputs += [*[writer.constant(b[k]) for k in order], -1, -1]
    inputs += [writer.tensor(shape, isVariable=True), writer.tensor(shape, isVariable=True), -1, -1, -1, -1]
    tanh = writer.schema.ActivationFunctionType.TANH
    options = "UnidirectionalSequenceLSTMOptions"
    writer.add("UNIDIRECTIONAL_SEQUENCE_LSTM", inputs, [y], options, fusedActivationFunction=tanh, timeMajor=True)


def _rnn_sequence(writer: ModelWriter, work: Workload, layer: int, x: int, y: int) -> None:
    state = writer.tensor((work.case.B, work.case.H), isVariable=True)
    inputs = [x, *[writer.constant(part) for part in work.layer(layer)], state]
    tanh = writer.schema.ActivationFunctionType.TANH
    options = "SequenceRNNOptions"
    writer.add("UNIDIRECTIONAL_SEQUENCE_RNN", inputs, [y], options, fusedActivationFunction=tanh, timeMajor=True)
