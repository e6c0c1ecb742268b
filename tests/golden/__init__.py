"""Golden values computed by PyTorch in float64, written by ``make_golden.py`` and read here.

``cases(kind)`` yields (id, config, arrays) for the kinds in ``KINDS``. Letters: T time steps, B batch, I input_size,
H hidden_size, P proj_size, L layers, D directions; Hs is P where there is one, else H. The arrays of a case:

- ``x`` (T, B, I); ``lengths`` (B,) where ``config["lengths"]``: in no order, the longest is T, the shortest at least 1;
  x is not zero past a row's end;
- ``h_0`` (L*D, B, Hs) and for LSTM ``c_0`` (L*D, B, H) where ``config["initial_state"]``;
- ``parameters/NAME``: ``weight_ih_l0`` and so on, one bias a gate (a GRU has ``bias_hn_l0`` as well);
- ``y`` (T, B, D*Hs), zero past a row's end; ``h_n``; for LSTM ``c_n``;
- ``dy``, ``dh_n``, ``dc_n``: the loss is sum(y * dy) + sum(h_n * dh_n) + sum(c_n * dc_n);
- ``gradients/NAME``: of that loss, for ``x``, ``h_0`` and ``c_0`` where there are any, and every parameter.

Everything that goes in (x, states, parameters, dy ...) is exact in float32 too; what comes out is float64.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

KINDS = ("lstm", "gru", "rnn_tanh", "rnn_relu")
FOLDER = Path(__file__).parent


def cases(kind: str) -> Iterator[tuple[str, dict[str, Any], dict[str, np.ndarray]]]:
    """All cases of a kind: an id that reads well in a test report, the configuration, the arrays.

    ``config`` has ``case`` (its key in the file), ``kind``, ``num_layers``, ``bidirectional``, ``bias``, ``proj_size``
    (0: none), ``lengths`` and ``initial_state`` (bool: whether the arrays are there), ``input_size``, ``hidden_size``,
    ``T``, ``B``, ``torch`` (its version).
    """
    with np.load(FOLDER / f"{kind}.npz", allow_pickle=False) as file:
        everything = {name: file[name] for name in file.files}
    by_case: dict[str, dict[str, np.ndarray]] = {}
    for name, array in everything.items():
        case, _, rest = name.partition("/")
        by_case.setdefault(case, {})[rest] = array
    for config in json.loads(str(everything["configs"])):
        yield case_id(config), config, split_gradients(by_case[config["case"]])


def split_gradients(arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The file has the gradients of a case in one vector: x, h_0, c_0, then the parameters in their order."""
    result = {name: array for name, array in arrays.items() if name != "gradients"}
    variables = {name: arrays[name] for name in ("x", "h_0", "c_0") if name in arrays} | group(arrays, "parameters")
    start = 0
    for name, array in variables.items():
        result[f"gradients/{name}"] = arrays["gradients"][start : start + array.size].reshape(array.shape)
        start += array.size
    assert start == arrays["gradients"].size, "a gradient is left over"
    return result


def case_id(config: Mapping[str, Any]) -> str:
    """For instance ``lstm-2layers-bidirectional-nobias-projected-lengths-state``."""
    words = [
        config["kind"],
        f"{config['num_layers']}layers" if config["num_layers"] > 1 else "1layer",
        "bidirectional" if config["bidirectional"] else "",
        "" if config["bias"] else "nobias",
        "projected" if config["proj_size"] else "",
        "lengths" if config["lengths"] else "",
        "state" if config["initial_state"] else "",
    ]
    return "-".join(word for word in words if word)


def group(arrays: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The arrays under ``prefix/`` (``parameters`` or ``gradients``), without the prefix."""
    return {name[len(prefix) + 1 :]: array for name, array in arrays.items() if name.startswith(prefix + "/")}


def initial_state(arrays: Mapping[str, np.ndarray]) -> Any:
    """None, h_0, or (h_0, c_0): what a layer takes."""
    if "h_0" not in arrays:
        return None
    return (arrays["h_0"], arrays["c_0"]) if "c_0" in arrays else arrays["h_0"]


def final_state(arrays: Mapping[str, np.ndarray]) -> Any:
    """h_n, or (h_n, c_n): what a layer returns."""
    return (arrays["h_n"], arrays["c_n"]) if "c_n" in arrays else arrays["h_n"]
