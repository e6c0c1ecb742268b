"""OpenVINO's CPU plugin, in float32 (by default it may compute in bfloat16) and without its own pinning to cores."""

from __future__ import annotations

import importlib
import io
from typing import Any

import numpy as np

from fastrnn.bench.cases import Case
from fastrnn.bench.contenders.base import Contender, Prepared, Variants
from fastrnn.bench.contenders.onnx_model import model, states
from fastrnn.bench.contenders.onnxruntime_ import named_outputs
from fastrnn.bench.workload import Array, Workload


class OpenVino(Contender):
    """One synchronous inference request at a time; two that take turns for steps."""

    name = "openvino"
    title = "OpenVINO"
    modules = ("openvino", "onnx")
    packages = ("openvino",)

    def unsupported(self, case: Case) -> str | None:
        if case.mode == "training":
            return "no training"
        return "float32 only" if case.dtype != "float32" else None

    def variants(self, work: Workload, threads: int) -> Variants:
        return {"request": lambda: _requests(work, _compiled(work, threads))}


def _compiled(work: Workload, threads: int) -> Any:
    openvino = importlib.import_module("openvino")
    core = openvino.Core()
    settings = {
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": "f32",
        "ENABLE_CPU_PINNING": False,
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
    }
    return core.compile_model(core.read_model(io.BytesIO(model(work))), "CPU", settings)


def _requests(work: Workload, compiled: Any) -> Prepared:
    case = work.case
    tensor = importlib.import_module("openvino").Tensor
    names = [f"{state}{layer}" for layer in range(case.layers) for state in states(work)]
    shape = (case.directions, case.B, case.H)
    memory = [{name: np.zeros(shape, np.float32) for name in names} for _ in range(2)]
    x = np.ascontiguousarray(work.x)
    requests = []
    for turn in range(2 if case.mode == "step" else 1):
        request = compiled.create_infer_request()
        request.set_tensor("X", tensor(x, shared_memory=True))
        if case.mode == "step":
            for name in names:
                request.set_tensor(f"{name}_in", tensor(memory[1 - turn][name], shared_memory=True))
                request.set_tensor(f"{name}_out", tensor(memory[turn][name], shared_memory=True))
        requests.append((request, x, memory))  # a request does not keep the memory that it shares

    def step() -> None:
        requests[0][0].infer()
        requests.reverse()

    def outputs() -> dict[str, Array]:
        last = requests[-1][0]
        found = {f"{name}_out": last.get_tensor(f"{name}_out").data for name in names}
        if case.mode != "step":
            found["Y"] = last.get_tensor("Y").data
        return named_outputs(case, found)

    def whole() -> None:
        requests[0][0].infer()

    return Prepared(step if case.mode == "step" else whole, outputs)
