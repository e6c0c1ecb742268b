"""Write the golden files: ``python tests/golden/make_golden.py [folder]``. Needs PyTorch.

One file a kind, all combinations of the options in each; ``__init__.py`` says what is in them. Deterministic: what goes
in is seeded, and the same PyTorch on the same machine writes the same bytes.
"""

from __future__ import annotations

import itertools
import json
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

KINDS = ("lstm", "gru", "rnn_tanh", "rnn_relu")
T, B, H = 6, 3, 5  # T != H and I != H, so that no swapped axis goes unseen


def configurations(kind: str) -> list[dict[str, Any]]:
    """All combinations of the options of one kind."""
    rng = np.random.default_rng(zlib.crc32(kind.encode()))
    result: list[dict[str, Any]] = []
    options = itertools.product(
        (1, 2),
        (False, True),
        (True, False),
        (False, True) if kind == "lstm" else (False,),
        (False, True),
        (False, True),
    )
    for num_layers, bidirectional, bias, projected, lengths, initial_state in options:
        config = {
            "case": f"case{len(result)}",
            "kind": kind,
            "num_layers": num_layers,
            "bidirectional": bidirectional,
            "bias": bias,
            "proj_size": int(rng.integers(2, 4)) if projected else 0,
            "lengths": lengths,
            "initial_state": initial_state,
            "input_size": int(rng.integers(3, 5)),
            "hidden_size": H,
            "T": T,
            "B": B,
            "torch": torch.__version__,
        }
        result.append(config)
    return result


def draw(rng: np.random.Generator, shape: tuple[int, ...], scale: float) -> torch.Tensor:
    """Random normal values rounded to 1/256: exact in float32 as well, and small in the compressed file."""
    return torch.from_numpy(np.round(rng.standard_normal(shape) * scale * 256.0) / 256.0)


def draw_lengths(rng: np.random.Generator) -> np.ndarray:
    """(B,) lengths, one of them T and not the first, so that they are not sorted."""
    lengths = rng.integers(1, T, size=B)
    lengths[rng.integers(1, B)] = T
    return lengths


def module(config: dict[str, Any], rng: np.random.Generator) -> torch.nn.RNNBase:
    """The PyTorch module, with random parameters in float64."""
    options = {
        "input_size": config["input_size"],
        "hidden_size": config["hidden_size"],
        "num_layers": config["num_layers"],
        "bidirectional": config["bidirectional"],
        "bias": config["bias"],
    }
    kind = config["kind"]
    result: torch.nn.RNNBase
    if kind == "lstm":
        result = torch.nn.LSTM(**options, proj_size=config["proj_size"])
    elif kind == "gru":
        result = torch.nn.GRU(**options)
    else:
        result = torch.nn.RNN(**options, nonlinearity=kind.removeprefix("rnn_"))
    result = result.double()
    with torch.no_grad():
        for parameter in result.parameters():
            parameter.copy_(draw(rng, tuple(parameter.shape), 0.5))
    return result


def our_parameters(kind: str, theirs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """PyTorch's two biases -> one bias a gate; for a GRU the recurrent bias of n stays apart, as ``bias_hn``."""
    ours = {}
    for name, value in theirs.items():
        if name.startswith("weight"):
            ours[name] = value
        elif name.startswith("bias_ih"):
            suffix = name.removeprefix("bias_ih")
            recurrent = theirs["bias_hh" + suffix].copy()
            if kind == "gru":
                ours["bias_hn" + suffix] = recurrent[2 * H :].copy()
                recurrent[2 * H :] = 0.0
            ours["bias" + suffix] = value + recurrent
    return ours


def our_gradients(kind: str, theirs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Gradients under our names: d bias is that of ``bias_ih``, d bias_hn the n part of that of ``bias_hh``."""
    ours = {}
    for name, value in theirs.items():
        if name.startswith("weight"):
            ours[name] = value
        elif name.startswith("bias_ih"):
            ours["bias" + name.removeprefix("bias_ih")] = value
        elif kind == "gru":
            ours["bias_hn" + name.removeprefix("bias_hh")] = value[2 * H :]
    return ours


def run(config: dict[str, Any], rng: np.random.Generator) -> dict[str, np.ndarray]:
    """One case: draw what goes in, run PyTorch forward and backward, name everything."""
    kind = config["kind"]
    net = module(config, rng)
    rows = config["num_layers"] * (2 if config["bidirectional"] else 1)
    arrays: dict[str, np.ndarray] = {}

    inputs = {"x": draw(rng, (T, B, config["input_size"]), 1.0)}
    if config["initial_state"]:
        inputs["h_0"] = draw(rng, (rows, B, config["proj_size"] or H), 0.5)
        if kind == "lstm":
            inputs["c_0"] = draw(rng, (rows, B, H), 1.0)
    for tensor in inputs.values():
        tensor.requires_grad_(True)
    state: Any = inputs.get("h_0")
    if kind == "lstm" and state is not None:
        state = (state, inputs["c_0"])

    if config["lengths"]:
        arrays["lengths"] = draw_lengths(rng)
        lengths = torch.from_numpy(arrays["lengths"])
        packed = pack_padded_sequence(inputs["x"], lengths, enforce_sorted=False)
        packed_y, final = net(packed, state)
        y, _ = pad_packed_sequence(packed_y, total_length=T)
    else:
        y, final = net(inputs["x"], state)

    outputs = {"y": y}
    outputs.update({"h_n": final[0], "c_n": final[1]} if kind == "lstm" else {"h_n": final})
    loss = torch.zeros((), dtype=torch.float64)
    for name, tensor in outputs.items():
        weights = draw(rng, tuple(tensor.shape), 1.0)
        loss = loss + (tensor * weights).sum()
        arrays[f"d{name}"] = weights.numpy()
    loss.backward()

    arrays.update({name: tensor.detach().numpy() for name, tensor in (inputs | outputs).items()})
    values = {name: p.detach().numpy() for name, p in net.named_parameters()}
    slopes = {name: p.grad.numpy() for name, p in net.named_parameters() if p.grad is not None}
    arrays.update({f"parameters/{name}": value for name, value in our_parameters(kind, values).items()})
    arrays.update({f"gradients/{name}": t.grad.numpy() for name, t in inputs.items() if t.grad is not None})
    arrays.update({f"gradients/{name}": value for name, value in our_gradients(kind, slopes).items()})
    return arrays


def join_gradients(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """All gradients in one vector, to keep the file small: x, h_0, c_0, then the parameters in their order."""
    names: list[str] = [name for name in ("x", "h_0", "c_0") if name in arrays]
    names += [name.removeprefix("parameters/") for name in arrays if name.startswith("parameters/")]
    result = {name: array for name, array in arrays.items() if not name.startswith("gradients/")}
    result["gradients"] = np.concatenate([arrays[f"gradients/{name}"].ravel() for name in names])
    assert len(names) == len(arrays) - len(result) + 1, "a gradient is left over"
    return result


def make(kind: str) -> dict[str, Any]:
    """All arrays of a kind's file: ``caseN/NAME``, and the configurations as JSON."""
    configs = configurations(kind)
    everything: dict[str, Any] = {"configs": np.array(json.dumps(configs))}
    for number, config in enumerate(configs):
        rng = np.random.default_rng([zlib.crc32(kind.encode()), number])
        for name, array in join_gradients(run(config, rng)).items():
            everything[f"{config['case']}/{name}"] = array
    return everything


def main() -> None:
    """Write one file a kind."""
    torch.set_num_threads(1)
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    for kind in KINDS:
        path = folder / f"{kind}.npz"
        np.savez_compressed(path, **make(kind))
        print(f"{path}: {path.stat().st_size / 1024:.0f} kB")


if __name__ == "__main__":
    main()
