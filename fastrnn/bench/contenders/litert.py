"""LiteRT (TensorFlow Lite): its interpreter and its compiled model, both with XNNPACK."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from fastrnn.bench.cases import Case
from fastrnn.bench.contenders.base import Contender, Prepared, Variants
from fastrnn.bench.contenders.litert_model import sequence_model, step_model
from fastrnn.bench.workload import Array, Workload


class LiteRt(Contender):
    """Steps of every cell; whole sequences where the runtime has an operator for them."""

    name = "litert"
    title = "LiteRT"
    modules = ("ai_edge_litert", "flatbuffers")
    packages = ("ai-edge-litert",)

    def environment(self, threads: int) -> dict[str, str]:
        return {"TF_CPP_MIN_LOG_LEVEL": "3"}

    def unsupported(self, case: Case) -> str | None:
        if case.mode == "training":
            return "no training"
        if case.mode == "forward" and case.cell == "gru":
            return "no operator for sequences of a GRU"
        if case.ragged or case.directions == 2:
            return "no lengths and no second direction"
        return "float32 only" if case.dtype != "float32" else None

    def variants(self, work: Workload, threads: int) -> Variants:
        if work.case.mode == "forward":
            return {"interpreter": lambda: _whole(work, _interpreter(sequence_model(work), threads))}
        return {
            "interpreter": lambda: _interpreted(work, _interpreter(step_model(work), threads)),
            "compiled model": lambda: _compiled(work, threads),
        }


def _interpreter(model: bytes, threads: int) -> Any:
    made = importlib.import_module("ai_edge_litert.interpreter").Interpreter(model_content=model, num_threads=threads)
    made.allocate_tensors()
    return made


def _indices(interpreter: Any) -> tuple[list[int], list[int]]:
    details = interpreter.get_input_details(), interpreter.get_output_details()
    inputs, outputs = ([entry["index"] for entry in side] for side in details)
    return inputs, outputs


def _whole(work: Workload, interpreter: Any) -> Prepared:
    (source,), (target,) = _indices(interpreter)
    x, y = np.ascontiguousarray(work.x), np.zeros(0)

    def call() -> None:
        nonlocal y
        interpreter.reset_all_variables()
        interpreter.set_tensor(source, x)
        interpreter.invoke()
        y = interpreter.get_tensor(target)

    return Prepared(call, lambda: {"y": y})


def _interpreted(work: Workload, interpreter: Any) -> Prepared:
    case = work.case
    (first, *inputs), outputs = _indices(interpreter)
    x = np.ascontiguousarray(work.x[0])
    states = [np.zeros((case.B, case.H), np.float32) for _ in outputs]
    write, invoke, read = interpreter.set_tensor, interpreter.invoke, interpreter.get_tensor

    def call() -> None:
        nonlocal states
        write(first, x)
        for index, state in zip(inputs, states, strict=True):
            write(index, state)
        invoke()
        states = [read(index) for index in outputs]

    return Prepared(call, lambda: _named(work, states))


def _compiled(work: Workload, threads: int) -> Prepared:
    """The states' buffers are swapped after each step: nothing of them is copied."""
    case = work.case
    module = importlib.import_module("ai_edge_litert.compiled_model")
    cpu = module.HardwareAccelerator.CPU
    options = module.Options(hardware_accelerators=cpu, cpu_options=module.CpuOptions(num_threads=threads))
    model = module.CompiledModel.from_buffer(step_model(work), options=options)
    first, *inputs = model.create_input_buffers(0)
    outputs = model.create_output_buffers(0)
    x, size = np.ascontiguousarray(work.x[0]), case.B * case.H
    for buffer in inputs:
        buffer.write(np.zeros(size, np.float32))
    turns = [([first, *inputs], outputs), ([first, *outputs], inputs)]

    def call() -> None:
        first.write(x)
        model.run_by_index(0, *turns[0])
        turns.reverse()

    def named() -> dict[str, Array]:
        states = [buffer.read(size, np.float32).reshape(case.B, case.H) for buffer in turns[1][1]]
        return _named(work, states)

    return Prepared(call, named)


def _named(work: Workload, states: list[Array]) -> dict[str, Array]:
    each = len(states) // work.case.layers
    h = np.stack(states[::each])
    return {"y": h[-1], "h": h}
