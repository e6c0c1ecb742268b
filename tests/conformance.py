"""The checks that every backend goes through, as functions, so that a deliberately wrong one goes through the same.

The first half drives a backend by its contract, one scan at a time; the second half the public layers.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import golden
import numpy as np
import oracle
from cases import Case, assert_close

import fastrnn
from fastrnn import cells
from fastrnn.backends import load
from fastrnn.backends.contract import Backend, Rows
from fastrnn.equations import Cell, Sizes, trace
from fastrnn.plan import plan

Arrays = dict[str, np.ndarray]
UNTOUCHED = 123.25  # what stands in a buffer before a scan


def exact(values: np.ndarray) -> np.ndarray:
    """Rounded to float32, as float64: the same number in both types."""
    return values.astype(np.float32).astype(np.float64)


def draw_parameters(shapes: Mapping[str, tuple[int, ...]], seed: int) -> Arrays:
    """Random parameters that neither saturate the gates nor leave them near zero, drawn by name, not in order."""
    found = {}
    for name, shape in shapes.items():
        values = np.random.default_rng([seed, *name.encode()]).normal(size=shape)
        found[name] = exact(values * (min(1.0, 1.2 / np.sqrt(shape[-1])) if len(shape) == 2 else 0.7))
    return found


def as_tuple(state: Any) -> tuple[np.ndarray, ...]:
    """h or (h, c) as (h,) or (h, c)."""
    return state if isinstance(state, tuple) else (state,)


# --- a backend by its contract ----------------------------------------------------------------------------------------


@dataclass(frozen=True, eq=False)
class Scan:
    """The input of one scan and of its backward pass, float64 and exact in float32."""

    cell: Cell
    case: Case
    sizes: Sizes
    parameters: Arrays
    x: np.ndarray
    state: tuple[np.ndarray, ...]
    dy: np.ndarray
    dfinal: tuple[np.ndarray, ...]

    @property
    def variables(self) -> Arrays:
        """All that a gradient is taken of, by name."""
        return {"x": self.x, **{f"state{k}": s for k, s in enumerate(self.state)}, **self.parameters}

    @property
    def rows(self) -> Rows:
        """The rows of the case."""
        lengths = self.case.lengths
        return Rows.of(self.case.T, self.case.B, None if lengths is None else np.array(lengths, np.int64))

    def valid(self) -> np.ndarray:
        """(T, B): whether a step is one of its row's."""
        lengths = self.case.lengths or (self.case.T,) * self.case.B
        return np.arange(self.case.T)[:, None] < np.array(lengths)[None]


def draw_scan(cell: Any, case: Case, seed: int = 5) -> Scan:
    """Random input of one scan of a cell: a function, a traced cell, or the name of a shipped one."""
    cell = trace(getattr(cells, cell) if isinstance(cell, str) else cell)
    rng = np.random.default_rng(seed)
    sizes = Sizes(case.I, case.H, case.P if cell.has_projection else 0)
    widths = [sizes.width(width) for width in cell.state_widths]

    def states() -> tuple[np.ndarray, ...]:
        return tuple(exact(rng.normal(size=(case.B, width))) for width in widths)

    return Scan(
        cell=cell,
        case=case,
        sizes=sizes,
        parameters=draw_parameters(cell.parameter_shapes(sizes, case.bias), seed),
        x=exact(rng.normal(size=(case.T, case.B, case.I))),
        state=states(),
        dy=exact(rng.normal(size=(case.T, case.B, widths[0]))),
        dfinal=states(),
    )


def pack_of(backend: Backend, scan: Scan, parameters: Mapping[str, np.ndarray]) -> Any:
    """A pack of these parameters, in their dtype."""
    make = backend.packer(plan(scan.cell), list(parameters), scan.sizes, parameters["weight_ih"].dtype)
    return make(tuple(parameters.values()))


def run_scan(
    backend: Backend, scan: Scan, dtype: str, parts: Iterable[tuple[int, int]] | None = None, gradients: bool = False
) -> Arrays:
    """Everything that a scan writes, by name: y and final0 ..., and with ``gradients`` x, state0 ... and parameters."""
    kind = np.dtype(dtype)
    parts = list(parts or [(0, scan.case.B)])
    rows, reverse = scan.rows, scan.case.reverse
    parameters = {name: value.astype(kind) for name, value in scan.parameters.items()}
    pack = pack_of(backend, scan, parameters)
    x, state = scan.x.astype(kind), tuple(s.astype(kind) for s in scan.state)
    y, final = np.full(scan.dy.shape, UNTOUCHED, kind), tuple(np.full(s.shape, UNTOUCHED, kind) for s in state)
    tape = backend.tape(pack, rows, x, reverse) if gradients else None
    run = backend.forward(pack, rows, x, y, state, final, reverse, tape)
    for low, high in parts:
        run(low, high)
    written = {"y": y, **{f"final{k}": f for k, f in enumerate(final)}}
    if not gradients:
        return written
    dx, ends = np.full(x.shape, UNTOUCHED, kind), tuple(d.astype(kind) for d in scan.dfinal)
    into = {name: np.full(value.shape, UNTOUCHED, kind) for name, value in parameters.items()}
    sums = backend.sums(pack, tuple(into.values()), rows.total)
    backend.backward(tape, scan.dy.astype(kind), ends, dx, ends, sums)(0, scan.case.B)  # dstate may be dfinal's arrays
    return {**written, "x": dx, **{f"state{k}": d for k, d in enumerate(ends)}, **into}


def run_oracle(scan: Scan, name: str, values: Mapping[str, np.ndarray] | None = None) -> tuple[np.ndarray, Any]:
    """The oracle's cell ``name`` on a scan, or on other values of its variables."""
    values = scan.variables if values is None else values
    parameters = {key: values[key] for key in scan.parameters}
    state = [values[f"state{k}"] for k in range(len(scan.state))]
    return oracle.scan(name, parameters, values["x"], state, scan.case.lengths, scan.case.reverse)


@lru_cache(maxsize=512)
def oracle_outputs(name: str, case: Case) -> tuple[np.ndarray, Any]:
    """y and the final states of the shipped cell ``name``."""
    return run_oracle(draw_scan(name, case), name)


def check_scan(
    backend: Backend, name: str, case: Case, dtype: str, cell: Any = None, parts: Any = None, record: bool = False
) -> None:
    """y and the final states against the oracle's cell ``name``; y is zero past a row's end."""
    scan = draw_scan(cell or name, case)
    written = run_scan(backend, scan, dtype, parts, gradients=record)
    y, final = oracle_outputs(name, case)
    y = np.where(scan.valid()[:, :, None], y, 0)
    assert_close(written["y"], y, "value", dtype, "y")
    for k, expected in enumerate(final):
        assert_close(written[f"final{k}"], expected, "value", dtype, f"final{k}")


def oracle_loss(scan: Scan, name: str, values: Mapping[str, np.ndarray]) -> float:
    """sum(y * dy) + sum(final * dfinal), by the oracle."""
    y, final = run_oracle(scan, name, values)
    return float(np.sum(y * scan.dy) + sum(np.sum(f * d) for f, d in zip(final, scan.dfinal, strict=True)))


@lru_cache(maxsize=64)
def oracle_gradients(name: str, case: Case) -> Arrays:
    """The gradients of the shipped cell ``name`` by finite differences of the oracle, every element."""
    scan = draw_scan(name, case)
    return oracle.finite_differences(lambda values: oracle_loss(scan, name, values), scan.variables)


def oracle_slope(name: str, case: Case, variable: str, direction: np.ndarray) -> float:
    """The derivative of `oracle_loss` along a direction of one variable."""
    scan = draw_scan(name, case)
    return oracle.directional_difference(
        lambda values: oracle_loss(scan, name, values), scan.variables, {variable: direction}
    )


def check_scan_gradients(backend: Backend, name: str, case: Case, cell: Any = None, parts: Any = None) -> None:
    """The gradients of x, every state and every parameter in float64, against finite differences of the oracle."""
    scan = draw_scan(cell or name, case)
    written = run_scan(backend, scan, "float64", parts, gradients=True)
    for variable, expected in oracle_gradients(name, case).items():
        if variable == "x":
            assert not expected[~scan.valid()].any()
        assert_close(written[variable], expected, "difference", "float64", variable)


# --- layers -----------------------------------------------------------------------------------------------------------


def make_layer(cell: Any, input_size: int, hidden_size: int, seed: int = 7, **options: Any) -> fastrnn.Recurrent:
    """A layer of any cell, a shipped one by its name, with random parameters that are not its initial ones."""
    cell = getattr(cells, cell) if isinstance(cell, str) else cell
    layer = fastrnn.Recurrent(cell, input_size, hidden_size, **options)
    shapes = {name: value.shape for name, value in layer.parameters.items()}
    layer.set_parameters(draw_parameters(shapes, seed))
    return layer


def draw_call(layer: fastrnn.Recurrent, steps: int, batch: int, seed: int = 11) -> Arrays:
    """x, state0 ..., dy and dstate0 ... for a layer."""
    rng = np.random.default_rng(seed)
    y, state = layer(np.zeros((steps, batch, layer.input_size)))
    shapes = {"x": (steps, batch, layer.input_size), "dy": y.shape}
    for k, s in enumerate(as_tuple(state)):
        shapes.update({f"state{k}": s.shape, f"dstate{k}": s.shape})
    return {name: exact(rng.normal(size=shape)) for name, shape in shapes.items()}


def states_of(values: Mapping[str, np.ndarray], prefix: str = "state") -> Any:
    """state0 ... in the form that a layer takes."""
    found = tuple(values[f"{prefix}{k}"] for k in range(len(values)) if f"{prefix}{k}" in values)
    return found if len(found) > 1 else found[0]


def check_stack(backend: str, name: str, dtype: str, cell: Any = None, **options: Any) -> None:
    """A stack of two layers in both directions against the oracle, with and without lengths and states."""
    sizes = {"num_layers": 2, "bidirectional": True, **options}
    projected = {"proj_size": 2} if name == "lstm_projected" else {}
    layer = make_layer(cell or name, 3, 5, backend=backend, dtype=dtype, **sizes, **projected)
    values = draw_call(layer, 4, 3)
    parameters = dict(layer.parameters)
    for lengths in (None, [2, 4, 0]):
        for state in (None, states_of(values)):
            expected = oracle.stack(
                name, parameters, values["x"], state, sizes["num_layers"], sizes["bidirectional"], lengths
            )
            y, final = layer(values["x"], state, lengths)
            assert_close(y, expected[0], "value", dtype, "y")
            for k, (a, e) in enumerate(zip(as_tuple(final), as_tuple(expected[1]), strict=True)):
                assert_close(a, e, "value", dtype, f"final{k}")


def check_changed_parameters(backend: str) -> None:
    """A layer that has computed and whose parameters then change computes with the new ones, backward too."""
    layer = make_layer("lstm", 3, 4, backend=backend, dtype="float64")
    values = draw_call(layer, 3, 2)
    layer.record(values["x"])
    shapes = {name: value.shape for name, value in layer.parameters.items()}
    layer.set_parameters(draw_parameters(shapes, 99))
    y, _ = layer(values["x"])
    assert_close(y, oracle.stack("lstm", dict(layer.parameters), values["x"])[0], "value", "float64", "set_parameters")
    check_layer_differences(layer, values)
    layer.parameters["weight_hh_l0"][...] *= 0.5
    y, _ = layer(values["x"])
    assert_close(y, oracle.stack("lstm", dict(layer.parameters), values["x"])[0], "value", "float64", "in place")
    check_layer_differences(layer, values)


def layer_gradients(layer: fastrnn.Recurrent, values: Arrays, lengths: Any = None) -> Arrays:
    """The gradients of sum(y * dy) + sum(final * dstate) by a layer's own backward: x, state0 ..., parameters."""
    _, _, tape = layer.record(values["x"], states_of(values), lengths)
    found = layer.backward(tape, values["dy"], states_of(values, "dstate"))
    return {"x": found.x, **{f"state{k}": s for k, s in enumerate(as_tuple(found.state))}, **found.parameters}


def layer_loss(layer: fastrnn.Recurrent, values: Arrays, lengths: Any = None) -> float:
    """sum(y * dy) + sum(final * dstate) by a layer's own forward; parameters among ``values`` are set first."""
    parameters = {name: value for name, value in values.items() if name in layer.parameters}
    if parameters:
        layer.set_parameters(parameters)
    y, state = layer(values["x"], states_of(values), lengths)
    ends = as_tuple(states_of(values, "dstate"))
    return float(np.sum(y * values["dy"]) + sum(np.sum(s * d) for s, d in zip(as_tuple(state), ends, strict=True)))


def check_layer_differences(layer: fastrnn.Recurrent, values: Arrays, lengths: Any = None) -> None:
    """A float64 layer's gradients against finite differences of its own forward, every element."""
    actual = layer_gradients(layer, values, lengths)
    kept = {name: value.copy() for name, value in layer.parameters.items()}
    variables = {name: {**values, **kept}[name] for name in actual}
    loss = {name: value for name, value in values.items() if name not in variables}
    expected = oracle.finite_differences(lambda changed: layer_loss(layer, {**changed, **loss}, lengths), variables)
    layer.set_parameters(kept)
    for name, value in expected.items():
        assert_close(actual[name], value, "difference", "float64", name)


# --- PyTorch's golden values ------------------------------------------------------------------------------------------


def golden_layer(config: Mapping[str, Any], arrays: Arrays, backend: str, dtype: str) -> fastrnn.Recurrent:
    """The public layer of a golden case, with its parameters."""
    options = {name: config[name] for name in ("num_layers", "bidirectional", "bias")}
    options.update(backend=backend, dtype=dtype)
    sizes = config["input_size"], config["hidden_size"]
    layer: fastrnn.Recurrent
    if config["kind"] == "lstm":
        layer = fastrnn.LSTM(*sizes, proj_size=config["proj_size"], **options)
    elif config["kind"] == "gru":
        layer = fastrnn.GRU(*sizes, **options)
    else:
        layer = fastrnn.RNN(*sizes, nonlinearity=config["kind"].removeprefix("rnn_"), **options)
    layer.set_parameters(golden.group(arrays, "parameters"))
    return layer


def check_golden(config: Mapping[str, Any], arrays: Arrays, backend: str, dtype: str) -> None:
    """Outputs, states, and gradients of x, the states and all parameters, as PyTorch computed them."""
    layer = golden_layer(config, arrays, backend, dtype)
    state, lengths = golden.initial_state(arrays), arrays.get("lengths")
    y, final, tape = layer.record(arrays["x"], state, lengths)
    plain, plain_final = layer(arrays["x"], state, lengths)
    ends = {"y": arrays["y"], "h_n": arrays["h_n"], **({"c_n": arrays["c_n"]} if "c_n" in arrays else {})}
    for outputs in ((y, *as_tuple(final)), (plain, *as_tuple(plain_final))):
        for (name, expected), actual in zip(ends.items(), outputs, strict=True):
            assert_close(actual, expected, "value", dtype, name)
    dstate = (arrays["dh_n"], arrays["dc_n"]) if "dc_n" in arrays else arrays["dh_n"]
    found = layer.backward(tape, arrays["dy"], dstate)
    actual = {"x": found.x, **dict(zip(("h_0", "c_0"), as_tuple(found.state), strict=False)), **found.parameters}
    expected_gradients = golden.group(arrays, "gradients")
    assert set(found.parameters) == set(golden.group(arrays, "parameters"))
    for name, expected in expected_gradients.items():
        assert_close(actual[name], expected, "gradient", dtype, name)


def backend_of(name: str) -> Backend:
    """The backend's object; an error, and so a failure, where it is missing."""
    return load(name)
