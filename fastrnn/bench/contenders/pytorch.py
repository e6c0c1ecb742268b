"""PyTorch: its modules with and without oneDNN ("mkldnn") and scripted, its cells for single steps, packed and padded
rows."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from fastrnn.bench.contenders.base import Contender, Prepared, Variants
from fastrnn.bench.workload import Array, Workload

_MODULES = {"lstm": "LSTM", "gru": "GRU", "rnn": "RNN"}


class PyTorch(Contender):
    """``torch.nn`` on the CPU, eager; whole sequences by TorchScript, too, which takes less time to begin."""

    name = "pytorch"
    title = "PyTorch"
    modules = ("torch",)
    packages = ("torch",)

    def pin(self, threads: int) -> None:
        torch = importlib.import_module("torch")
        torch.set_num_threads(threads)
        torch.set_num_interop_threads(1)

    def variants(self, work: Workload, threads: int) -> Variants:
        case = work.case
        # oneDNN has a path of its own for float32 LSTMs that are not packed, and for nothing else of these.
        switches = (True, False) if case.cell == "lstm" and case.dtype == "float32" else (True,)
        found: Variants = {}
        ways = [("packed", _packed)] if case.ragged else [("module", _whole)]
        if case.ragged and case.directions == 1:
            ways.append(("padded", _padded))
        for way, run in ways:
            for onednn in switches if way != "packed" else (True,):
                label = way if onednn else f"{way}, mkldnn off"
                found[label] = _variant(work, run, onednn)
        if case.mode == "forward" and not case.ragged:
            found["scripted"] = _variant(work, _scripted, True)
        if case.mode == "step" and case.directions == 1:
            found["cell"] = lambda: _cells(work)
        return found


def _variant(
    work: Workload, run: Callable[[Workload, Any], Callable[..., Any]], onednn: bool
) -> Callable[[], Prepared]:
    def prepared() -> Prepared:
        module = _module(work)
        forward = run(work, module)
        prepare = {"step": _step, "forward": _forward, "training": _training}[work.case.mode]
        return prepare(work, module, forward, onednn)

    return prepared


@contextmanager
def _mode(onednn: bool, training: bool = False) -> Iterator[None]:
    torch = importlib.import_module("torch")
    with torch.backends.mkldnn.flags(enabled=onednn), torch.inference_mode(not training):
        yield


def _module(work: Workload) -> Any:
    torch, case = importlib.import_module("torch"), work.case
    module = getattr(torch.nn, _MODULES[case.cell])(
        case.I, case.H, case.layers, bidirectional=case.directions == 2, dtype=getattr(torch, case.dtype)
    )
    with torch.no_grad():
        for suffix in work.suffixes():
            _fill(module, work, suffix, suffix)
    return module


def _fill(module: Any, work: Workload, ours: str, theirs: str) -> None:
    """Our parameters in a module's or a cell's; the second bias is 0 but for the GRU's inner one."""
    torch = importlib.import_module("torch")
    for name in ("weight_ih", "weight_hh"):
        getattr(module, name + theirs).copy_(torch.from_numpy(work.parameters[name + ours]))
    getattr(module, "bias_ih" + theirs).copy_(torch.from_numpy(work.parameters["bias" + ours]))
    inner = getattr(module, "bias_hh" + theirs)
    inner.zero_()
    if work.case.cell == "gru":
        inner[2 * work.case.H :] = torch.from_numpy(work.parameters["bias_hn" + ours])


def _whole(work: Workload, module: Any) -> Callable[..., Any]:
    return lambda x: module(x)


def _scripted(work: Workload, module: Any) -> Callable[..., Any]:
    torch = importlib.import_module("torch")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        scripted = torch.jit.script(torch.nn.Sequential(module))  # a module by itself has several forms of forward
    return lambda x: scripted(x)


def _packed(work: Workload, module: Any) -> Callable[..., Any]:
    torch = importlib.import_module("torch")
    rnn, lengths, steps = torch.nn.utils.rnn, torch.from_numpy(work.case.lengths), work.case.T

    def forward(x: Any) -> Any:
        packed, state = module(rnn.pack_padded_sequence(x, lengths, enforce_sorted=False))
        return rnn.pad_packed_sequence(packed, total_length=steps)[0], state

    return forward


def _padded(work: Workload, module: Any) -> Callable[..., Any]:
    """All steps of all rows, and what is past a row's end thrown away; the last valid output is the final h."""
    torch, case = importlib.import_module("torch"), work.case
    lengths = torch.from_numpy(case.lengths)
    mask = (torch.arange(case.T)[:, None] < lengths)[:, :, None].to(getattr(torch, case.dtype))
    last, rows = lengths - 1, torch.arange(case.B)

    def forward(x: Any) -> Any:
        y = module(x)[0] * mask
        return y, y[last, rows][None]

    return forward


def _state_h(state: Any) -> Any:
    return state[0] if isinstance(state, tuple) else state


def _step(work: Workload, module: Any, forward: Any, onednn: bool) -> Prepared:
    x = importlib.import_module("torch").from_numpy(work.x)
    y = state = None

    def call() -> None:
        nonlocal y, state
        y, state = module(x, state)

    def outputs() -> dict[str, Array]:
        assert y is not None
        return {"y": y[0].numpy(), "h": _state_h(state).numpy()}

    return Prepared(call, outputs, lambda: _mode(onednn))


def _forward(work: Workload, module: Any, forward: Any, onednn: bool) -> Prepared:
    x = importlib.import_module("torch").from_numpy(work.x)
    y = state = None

    def call() -> None:
        nonlocal y, state
        y, state = forward(x)

    def outputs() -> dict[str, Array]:
        assert y is not None
        return {"y": y.numpy(), "h": _state_h(state).numpy()}

    return Prepared(call, outputs, lambda: _mode(onednn))


def _training(work: Workload, module: Any, forward: Any, onednn: bool) -> Prepared:
    torch = importlib.import_module("torch")
    x, dy = torch.from_numpy(work.x).requires_grad_(), torch.from_numpy(work.dy)
    names, parameters = zip(*module.named_parameters(), strict=True)
    y = state = gradients = None

    def call() -> None:
        nonlocal y, state, gradients
        y, state = forward(x)
        gradients = torch.autograd.grad(y, (x, *parameters), dy)

    def outputs() -> dict[str, Array]:
        assert y is not None
        assert gradients is not None
        found = {"y": y.detach().numpy(), "h": _state_h(state).detach().numpy(), "dx": gradients[0].numpy()}
        for name, gradient in zip(names, gradients[1:], strict=True):
            if name.startswith("bias_hh"):
                if work.case.cell == "gru":
                    found["d" + name.replace("bias_hh", "bias_hn")] = gradient.numpy()[2 * work.case.H :]
            else:
                found["d" + name.replace("bias_ih", "bias")] = gradient.numpy()
        return found

    return Prepared(call, outputs, lambda: _mode(onednn, training=True))


def _cells(work: Workload) -> Prepared:
    torch, case = importlib.import_module("torch"), work.case
    made = []
    with torch.no_grad():
        for layer in range(case.layers):
            inputs = case.H if layer else case.I
            cell = getattr(torch.nn, _MODULES[case.cell] + "Cell")(inputs, case.H, dtype=getattr(torch, case.dtype))
            _fill(cell, work, f"_l{layer}", "")
            made.append(cell)
    x = torch.from_numpy(work.x[0])
    states: list[Any] = [None] * case.layers
    numbered = list(enumerate(made))

    def call() -> None:
        y = x
        for layer, cell in numbered:
            states[layer] = state = cell(y, states[layer])
            y = state[0] if type(state) is tuple else state

    def outputs() -> dict[str, Array]:
        h = np.stack([_state_h(state).numpy() for state in states])
        return {"y": h[-1], "h": h}

    return Prepared(call, outputs, lambda: _mode(True))
