"""What all contenders of a case share: parameters, inputs, and what has to come out, computed in float64 by NumPy."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastrnn
from fastrnn.bench.cases import Case

Array = NDArray[Any]

CHECKED_STEPS = 3  # how many steps are compared: more than one, so that a state that is not kept shows
TOLERANCES = {  # the largest difference, in units of the largest expected value or 1
    ("value", "float32"): 2e-4,
    ("value", "float64"): 1e-9,
    ("gradient", "float32"): 1e-3,
    ("gradient", "float64"): 1e-8,
}


class WrongOutput(Exception):
    """What a contender computes is not what it should be; the message says what differs by how much."""


@dataclass(frozen=True, eq=False)
class Workload:
    """One case with its numbers.

    Attributes
    ----------
    case : Case
    parameters : dict of str to ndarray
        By our names, in the case's dtype.
    x : ndarray, (T, B, I)
    dy : ndarray, (T, B, D*H)
        The gradient of the loss with respect to y; zero past a row's end.
    expected : dict of str to ndarray
        In float64: ``y``, ``h`` and, in training, ``dx`` and ``d`` before each parameter's name. A step's are those
        after `CHECKED_STEPS` steps with the same x, from a state of zeros.
    """

    case: Case
    parameters: dict[str, Array]
    x: Array
    dy: Array
    expected: dict[str, Array]

    def layer(self, index: int, reverse: bool = False) -> tuple[Array, Array, Array]:
        """W (G*H, I), R (G*H, H) and bias (G*H,) of a layer and direction."""
        suffix = f"_l{index}_reverse" if reverse else f"_l{index}"
        weight_ih, weight_hh, bias = (self.parameters[name + suffix] for name in ("weight_ih", "weight_hh", "bias"))
        return weight_ih, weight_hh, bias

    def suffixes(self) -> list[str]:
        """What stands behind the parameters' names, layer by layer, each direction."""
        ends = ("", "_reverse")[: self.case.directions]
        return [f"_l{index}{end}" for index in range(self.case.layers) for end in ends]

    def check(self, outputs: dict[str, Array]) -> float:
        """The largest difference from what is expected, in units of the largest expected value or 1.

        Raises
        ------
        WrongOutput
            If something is missing, has another shape, or differs by more than the table's tolerance.
        """
        worst = 0.0
        for name, expected in self.expected.items():
            if name not in outputs and name.startswith("h"):
                continue  # some give no final state of a whole sequence
            if name not in outputs:
                raise WrongOutput(f"{name} is missing")
            found = np.asarray(outputs[name])
            if found.shape != expected.shape:
                raise WrongOutput(f"{name} has shape {found.shape}, not {expected.shape}")
            scale = max(1.0, float(np.abs(expected).max(initial=0.0)))
            error = float(np.abs(found - expected).max(initial=0.0)) / scale
            kind = "gradient" if name.startswith("d") else "value"
            if not error <= TOLERANCES[kind, self.case.dtype]:
                raise WrongOutput(f"{name} differs by {error:.1e}, allowed is {TOLERANCES[kind, self.case.dtype]:.0e}")
            worst = max(worst, error)
        return worst

    def save(self, path: Path) -> None:
        """Write everything to an .npz file."""
        arrays = {f"p.{name}": value for name, value in self.parameters.items()}
        arrays.update({f"e.{name}": value for name, value in self.expected.items()})
        np.savez(path, case=np.array(json.dumps(self.case.to_json())), x=self.x, dy=self.dy, **arrays)  # type: ignore[arg-type]

    @classmethod
    def load(cls, path: Path) -> Workload:
        """Read what `save` wrote."""
        with np.load(path) as file:
            arrays = {name: file[name] for name in file.files}
        case = Case.from_json(json.loads(str(arrays["case"])))
        parts = [{n[2:]: v for n, v in arrays.items() if n.startswith(prefix)} for prefix in ("p.", "e.")]
        return cls(case, parts[0], arrays["x"], arrays["dy"], parts[1])


def make(case: Case, seed: int = 0) -> Workload:
    """The numbers of a case, always the same ones for the same seed."""
    layer = build(case, "numpy", seed)
    random = np.random.default_rng(seed)
    x = random.standard_normal((case.T, case.B, case.I), dtype=np.float64).astype(case.dtype)
    dy = random.standard_normal((case.T, case.B, case.directions * case.H)).astype(case.dtype)
    lengths = case.lengths
    if lengths is not None:
        outside = np.arange(case.T)[:, None] >= lengths
        x[outside], dy[outside] = 0, 0
    parameters = {name: np.array(value) for name, value in layer.parameters.items()}
    if case.denormal:
        x, dy = (array * np.asarray(np.finfo(case.dtype).tiny / 16, case.dtype) for array in (x, dy))
        parameters = {name: value * (not name.startswith("bias")) for name, value in parameters.items()}
    return Workload(case, parameters, x, dy, _expected(case, parameters, x, dy))


def build(case: Case, backend: str, seed: int = 0) -> fastrnn.Recurrent:
    """Our layer for a case."""
    options: dict[str, Any] = {"num_layers": case.layers, "bidirectional": case.directions == 2}
    kind = {"lstm": fastrnn.LSTM, "gru": fastrnn.GRU, "rnn": fastrnn.RNN}[case.cell]
    layer: fastrnn.Recurrent = kind(case.I, case.H, dtype=case.dtype, seed=seed, backend=backend, **options)
    return layer


def outputs_of(y: Array, state: Any, gradients: Any = None) -> dict[str, Array]:
    """What our layer returns, under the names of `Workload.expected`."""
    outputs = {"y": y, "h": state[0] if isinstance(state, tuple) else state}
    if gradients is not None:
        outputs["dx"] = gradients.x
        outputs.update({f"d{name}": value for name, value in gradients.parameters.items()})
    return outputs


def _expected(case: Case, parameters: dict[str, Array], x: Array, dy: Array) -> dict[str, Array]:
    reference = build(Case(**{**case.__dict__, "dtype": "float64"}), "numpy")
    reference.set_parameters(parameters)
    if case.mode == "step":
        y, state = reference(np.repeat(x, CHECKED_STEPS, axis=0))
        return outputs_of(y[-1], state)
    if case.mode == "forward":
        return outputs_of(*reference(x, lengths=case.lengths))
    y, state, tape = reference.record(x, lengths=case.lengths)
    return outputs_of(y, state, reference.backward(tape, dy))
