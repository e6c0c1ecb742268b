"""ONNX Runtime: plain calls, and with its inputs and outputs bound to memory ahead ("IO binding")."""

from __future__ import annotations

import importlib
from typing import Any

import numpy as np

from fastrnn.bench.cases import Case
from fastrnn.bench.contenders.base import Contender, Prepared, Variants
from fastrnn.bench.contenders.onnx_model import model
from fastrnn.bench.workload import Array, Workload


class OnnxRuntime(Contender):
    """The CPU provider, one session a case."""

    name = "onnxruntime"
    title = "ONNX Runtime"
    modules = ("onnxruntime", "onnx")
    packages = ("onnxruntime", "onnx")

    def unsupported(self, case: Case) -> str | None:
        if case.mode == "training":
            return "no training"
        return "float32 only" if case.dtype != "float32" else None

    def variants(self, work: Workload, threads: int) -> Variants:
        return {
            "run": lambda: _plain(work, _session(work, threads)),
            "io binding": lambda: _bound(work, _session(work, threads)),
        }


def _session(work: Workload, threads: int) -> Any:
    ort = importlib.import_module("onnxruntime")
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return ort.InferenceSession(model(work), options, providers=["CPUExecutionProvider"])


def state_names(session: Any) -> tuple[list[str], list[str]]:
    """The states that go in and those that come out, in the same order."""
    ins = [node.name for node in session.get_inputs() if node.name != "X"]
    outs = [node.name for node in session.get_outputs() if node.name != "Y"]
    return ins, outs


def named_outputs(case: Case, results: dict[str, Array]) -> dict[str, Array]:
    """A model's outputs under the names of `Workload.expected`."""
    h = np.concatenate([results[f"h{layer}_out"] for layer in range(case.layers)])
    return {"y": h[-1] if case.mode == "step" else results["Y"], "h": h}


def _plain(work: Workload, session: Any) -> Prepared:
    case, run = work.case, session.run
    ins, _ = state_names(session)
    names = [node.name for node in session.get_outputs()]
    feeds = {"X": work.x, **{name: np.zeros((1, case.B, case.H), np.float32) for name in ins}}
    results: list[Array] = []

    def step() -> None:
        nonlocal results
        results = run(names, feeds)
        feeds.update(zip(ins, results, strict=True))

    def whole() -> None:
        nonlocal results
        results = run(names, feeds)

    return Prepared(
        step if case.mode == "step" else whole,
        lambda: named_outputs(case, dict(zip(names, results, strict=True))),
    )


def _bound(work: Workload, session: Any) -> Prepared:
    """Two bindings that take turns: what one writes, the other one reads."""
    ort, case = importlib.import_module("onnxruntime"), work.case
    ins, outs = state_names(session)
    shape = (case.directions, case.B, case.H)
    memory = [{name: np.zeros(shape, np.float32) for name in outs} for _ in range(2)]
    values = [{name: ort.OrtValue.ortvalue_from_numpy(array) for name, array in side.items()} for side in memory]
    y = np.zeros((case.T, case.B, case.directions * case.H), np.float32)
    y_value = ort.OrtValue.ortvalue_from_numpy(y)
    bindings = []
    for turn in range(2):
        binding = session.io_binding()
        binding.bind_cpu_input("X", work.x)
        for name, source in zip(ins, outs, strict=False):
            binding.bind_ortvalue_input(name, values[1 - turn][source])
        for name in outs:
            binding.bind_ortvalue_output(name, values[turn][name])
        if case.mode != "step":
            binding.bind_ortvalue_output("Y", y_value)
        bindings.append(binding)
    run, turns = session.run_with_iobinding, [0]

    def call() -> None:
        turn = turns[0]
        run(bindings[turn])
        turns[0] = 1 - turn

    def outputs() -> dict[str, Array]:
        found = {name: value.numpy() for name, value in values[1 - turns[0]].items()}
        return named_outputs(case, {"Y": y_value.numpy(), **found})

    return Prepared(call, outputs)
