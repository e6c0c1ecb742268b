"""The oracle against PyTorch's golden values and against ``onnx.reference``, and thereby each against another.

Nothing here touches fastrnn. The tolerances are those of float64: only the order of a few sums differs.
"""

from __future__ import annotations

import ast
from pathlib import Path
from typing import Any

import golden
import numpy as np
import onnx_reference
import oracle
import pytest

RTOL, ATOL = 1e-11, 1e-12  # values
GRADIENT_RTOL, GRADIENT_ATOL = 1e-6, 1e-7  # central differences against analytic gradients

GOLDEN = {case_id: (config, arrays) for kind in golden.KINDS for case_id, config, arrays in golden.cases(kind)}
T, B, I, H, P = 6, 4, 3, 5, 2  # noqa: E741


def cell_of(config: dict[str, Any]) -> str:
    """The oracle's cell for a golden case."""
    return "lstm_projected" if config["proj_size"] else config["kind"]


def run_oracle(config: dict[str, Any], arrays: dict[str, np.ndarray]) -> tuple[np.ndarray, Any]:
    """The oracle on a golden case, or on changed arrays of one."""
    return oracle.stack(
        cell_of(config),
        golden.group(arrays, "parameters"),
        arrays["x"],
        golden.initial_state(arrays),
        config["num_layers"],
        config["bidirectional"],
        arrays.get("lengths"),
    )


def as_tuple(state: Any) -> tuple[np.ndarray, ...]:
    """h or (h, c) -> (h,) or (h, c)."""
    return state if isinstance(state, tuple) else (state,)


def assert_same(actual: tuple[np.ndarray, Any], expected: tuple[np.ndarray, Any]) -> None:
    """The same y and the same final state, shapes included."""
    pairs = list(zip((actual[0], *as_tuple(actual[1])), (expected[0], *as_tuple(expected[1])), strict=True))
    for a, e in pairs:
        assert a.shape == e.shape
        np.testing.assert_allclose(a, e, rtol=RTOL, atol=ATOL)


def differs(actual: tuple[np.ndarray, Any], expected: tuple[np.ndarray, Any]) -> bool:
    """Whether any value is far off."""
    pairs = zip((actual[0], *as_tuple(actual[1])), (expected[0], *as_tuple(expected[1])), strict=True)
    return any(a.shape != e.shape or not np.allclose(a, e, rtol=1e-3, atol=1e-3) for a, e in pairs)


def golden_outputs(arrays: dict[str, np.ndarray]) -> tuple[np.ndarray, Any]:
    """What PyTorch returned."""
    return arrays["y"], golden.final_state(arrays)


def draw(cell: str, seed: int, directions: int = 1, bias: bool = True) -> tuple[dict[str, np.ndarray], np.ndarray, Any]:
    """Random parameters under the public names, x (T, B, I) and a state, (D, B, size) each."""
    rng = np.random.default_rng(seed)
    proj_size = P if cell == "lstm_projected" else 0
    parameters = {}
    for suffix in ("_l0", "_l0_reverse")[:directions]:
        for name, shape in oracle.parameter_shapes(cell, I, H, proj_size, bias).items():
            parameters[name + suffix] = rng.normal(size=shape) * 0.6
    h = rng.normal(size=(directions, B, proj_size or H))
    c = rng.normal(size=(directions, B, H))
    return parameters, rng.normal(size=(T, B, I)), ((h, c) if cell.startswith("lstm") else h)


# --- the golden files themselves --------------------------------------------------------------------------------------


def test_golden_files_cover_every_combination() -> None:
    """64 LSTM cases and 32 of each other kind, all different."""
    configs = [config for config, _ in GOLDEN.values()]
    assert {kind: sum(c["kind"] == kind for c in configs) for kind in golden.KINDS} == {
        "lstm": 64,
        "gru": 32,
        "rnn_tanh": 32,
        "rnn_relu": 32,
    }
    assert all(config["torch"].startswith("2.") for config in configs)


@pytest.mark.parametrize("case", GOLDEN)
def test_golden_case_can_tell(case: str) -> None:
    """Sizes differ, lengths are not sorted, states and gradients are not zero, padding of y and of d x is."""
    config, arrays = GOLDEN[case]
    assert len({config["T"], config["B"], config["hidden_size"]}) == 3
    assert config["input_size"] != config["hidden_size"]
    assert ("lengths" in arrays) == config["lengths"]
    assert ("h_0" in arrays) == config["initial_state"]
    gradients = golden.group(arrays, "gradients")
    assert set(gradients) == {"x", "h_0", "c_0"} & set(arrays) | set(golden.group(arrays, "parameters"))
    for name, gradient in gradients.items():
        value = arrays[name] if name in arrays else arrays[f"parameters/{name}"]
        assert gradient.shape == value.shape
        assert np.any(gradient != 0.0) and np.any(value != 0.0), name
        assert np.array_equal(value, value.astype(np.float32)), f"{name} is not exact in float32"
    if config["lengths"]:
        assert arrays["lengths"].max() == config["T"]
        assert list(arrays["lengths"]) != sorted(arrays["lengths"], reverse=True)
        for b, n in enumerate(arrays["lengths"]):
            assert not arrays["y"][n:, b].any() and not gradients["x"][n:, b].any()
            assert arrays["x"][n:, b].all(axis=1).any() or n == config["T"]


# --- the oracle against PyTorch ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", GOLDEN)
def test_oracle_matches_torch(case: str) -> None:
    """y and the final state of every golden case."""
    config, arrays = GOLDEN[case]
    assert_same(run_oracle(config, arrays), golden_outputs(arrays))


def golden_loss(config: dict[str, Any], arrays: dict[str, np.ndarray]) -> tuple[Any, dict[str, np.ndarray]]:
    """The golden loss as a function of a dict of x, states and parameters, and that dict."""
    variables = golden.group(arrays, "parameters")
    variables.update({name: arrays[name] for name in ("x", "h_0", "c_0") if name in arrays})

    def loss(values: dict[str, np.ndarray]) -> float:
        replaced = {name if name in arrays else f"parameters/{name}": value for name, value in values.items()}
        y, state = run_oracle(config, arrays | replaced)
        total = np.sum(y * arrays["dy"])
        for final, weight in zip(as_tuple(state), ("dh_n", "dc_n"), strict=False):
            total += np.sum(final * arrays[weight])
        return float(total)

    return loss, variables


@pytest.mark.parametrize("case", GOLDEN)
def test_oracle_slopes_match_torch(case: str) -> None:
    """The oracle's slope along a random direction, one array at a time, against PyTorch's gradient."""
    config, arrays = GOLDEN[case]
    loss, variables = golden_loss(config, arrays)
    gradients = golden.group(arrays, "gradients")
    rng = np.random.default_rng(3)
    for name, value in variables.items():
        direction = rng.normal(size=value.shape)
        slope = oracle.directional_difference(loss, variables, {name: direction})
        expected = np.sum(gradients[name] * direction)
        scale = np.sum(np.abs(gradients[name] * direction))
        assert abs(slope - expected) <= GRADIENT_RTOL * scale + GRADIENT_ATOL, name


@pytest.mark.parametrize(
    "case",
    [
        "lstm-1layer-lengths-state",
        "lstm-1layer-projected-lengths-state",
        "gru-1layer-lengths-state",
        "rnn_tanh-1layer-lengths-state",
        "rnn_relu-1layer-lengths-state",
    ],
)
def test_finite_differences_match_torch(case: str) -> None:
    """Every element of every gradient, by finite differences of the oracle."""
    config, arrays = GOLDEN[case]
    loss, variables = golden_loss(config, arrays)
    actual = oracle.finite_differences(loss, variables)
    for name, expected in golden.group(arrays, "gradients").items():
        np.testing.assert_allclose(actual[name], expected, rtol=GRADIENT_RTOL, atol=GRADIENT_ATOL, err_msg=name)


# --- the oracle against onnx.reference --------------------------------------------------------------------------------


@pytest.mark.parametrize("lengths", [None, (3, 6, 1, 5)], ids=["full", "lengths"])
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "nobias"])
@pytest.mark.parametrize("direction", onnx_reference.DIRECTIONS)
@pytest.mark.parametrize("cell", onnx_reference.EVALUATED)
def test_oracle_matches_onnx(cell: str, direction: str, bias: bool, lengths: tuple[int, ...] | None) -> None:
    """y and the final state, with and without an initial state."""
    parameters, x, state = draw(cell, 11, 2 if direction == "bidirectional" else 1, bias)
    for initial in (state, None):
        expected = onnx_reference.evaluate(cell, parameters, x, initial, direction, lengths)
        if direction == "bidirectional":
            actual = oracle.stack(cell, parameters, x, initial, 1, True, lengths)
        else:
            states = None if initial is None else [s[0] for s in as_tuple(initial)]
            layer = oracle.layer_parameters(parameters, 0)
            y, final = oracle.scan(cell, layer, x, states, lengths, reverse=direction == "reverse")
            final = tuple(s[None] for s in final)
            actual = y, (final if len(final) == 2 else final[0])
        assert_same(actual, expected)


@pytest.mark.parametrize("case", [c for c in GOLDEN if "1layer" in c and "projected" not in c and "relu" not in c])
def test_onnx_matches_torch(case: str) -> None:
    """The second oracle on the golden cases that it covers."""
    config, arrays = GOLDEN[case]
    direction = "bidirectional" if config["bidirectional"] else "forward"
    actual = onnx_reference.evaluate(
        config["kind"],
        golden.group(arrays, "parameters"),
        arrays["x"],
        golden.initial_state(arrays),
        direction,
        arrays.get("lengths"),
    )
    assert_same(actual, golden_outputs(arrays))


@pytest.mark.parametrize("direction", onnx_reference.DIRECTIONS)
def test_onnx_model_of_relu_is_valid(direction: str) -> None:
    """A relu RNN can be written down and checked, though not evaluated."""
    parameters, x, _ = draw("rnn_relu", 5, 2)
    node = onnx_reference.model("rnn_relu", parameters, direction).graph.node[0]
    activations = next(a for a in node.attribute if a.name == "activations")
    assert set(activations.strings) == {b"Relu"}
    with pytest.raises(NotImplementedError, match="rnn_relu"):
        onnx_reference.evaluate("rnn_relu", parameters, x)


# --- cells that neither has, against others that they contain or by another road --------------------------------------


def test_coupled_gates_are_an_lstm_with_opposite_weights() -> None:
    """1 - sigmoid(a) = sigmoid(-a): the coupled LSTM is an LSTM whose i rows are those of f, negated."""
    coupled, x, state = draw("lstm_coupled", 21)
    full = {}
    for name, array in coupled.items():
        f, g, o = np.split(array, 3)
        full[name] = np.concatenate([-f, f, g, o])
    actual = oracle.stack("lstm_coupled", coupled, x, state)
    assert_same(actual, oracle.stack("lstm", full, x, state))
    assert_same(actual, onnx_reference.evaluate("lstm", full, x, state))


def test_mingru_matches_its_closed_form() -> None:
    """h_t = prod(1 - z) h_0 + sum over s of z_s n_s prod after s of (1 - z): no recurrence needed."""
    parameters, x, h_0 = draw("mingru", 22)
    products = x @ parameters["weight_ih_l0"].T + parameters["bias_l0"]
    z, n = 1.0 / (1.0 + np.exp(-products[..., :H])), products[..., H:]
    expected = np.empty((T, B, H))
    for t in range(T):
        kept = [np.prod(1.0 - z[s + 1 : t + 1], axis=0) for s in range(t + 1)]
        expected[t] = np.prod(1.0 - z[: t + 1], axis=0) * h_0[0] + sum(k * z[s] * n[s] for s, k in enumerate(kept))
    assert_same(oracle.stack("mingru", parameters, x, h_0), (expected, expected[-1:]))


def test_ligru_matches_matrix_form() -> None:
    """The same equations on whole matrices."""
    parameters, x, h_0 = draw("ligru", 23)
    h, ys = h_0[0], []
    for x_t in x:
        a = x_t @ parameters["weight_ih_l0"].T + parameters["bias_l0"] + h @ parameters["weight_hh_l0"].T
        z, n = 1.0 / (1.0 + np.exp(-a[:, :H])), np.maximum(a[:, H:], 0.0)
        h = z * h + (1.0 - z) * n
        ys.append(h)
    assert_same(oracle.stack("ligru", parameters, x, h_0), (np.stack(ys), h[None]))


@pytest.mark.parametrize("name", ["peephole_i", "peephole_f", "peephole_o"])
def test_every_peephole_matters(name: str) -> None:
    """Without peepholes it is the LSTM; each of the three alone changes the output."""
    parameters, x, state = draw("lstm_peephole", 24)
    bare = {key: value for key, value in parameters.items() if not key.startswith("peephole")}
    expected = oracle.stack("lstm", bare, x, state)
    assert_same(oracle.stack("lstm_peephole", bare, x, state), expected)
    one = bare | {f"{name}_l0": parameters[f"{name}_l0"]}
    assert differs(oracle.stack("lstm_peephole", one, x, state), expected)


def test_identity_projection_is_an_lstm() -> None:
    """weight_hr = 1 changes nothing."""
    parameters, x, state = draw("lstm", 25)
    projected = parameters | {"weight_hr_l0": np.eye(H)}
    assert_same(oracle.stack("lstm_projected", projected, x, state), oracle.stack("lstm", parameters, x, state))


# --- step, scan, stack ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cell", oracle.CELLS)
def test_scan_is_steps(cell: str) -> None:
    """Each row of a scan is a chain of steps, forwards or from its own last valid step backwards."""
    parameters, x, state = draw(cell, 31)
    params = oracle.layer_parameters(parameters, 0)
    initial = [s[0] for s in as_tuple(state)]
    lengths = [4, 0, T, 1]
    for reverse in (False, True):
        y, final = oracle.scan(cell, params, x, initial, lengths, reverse)
        for b, n in enumerate(lengths):
            row = tuple(s[b] for s in initial)
            for t in sorted(range(n), reverse=reverse):
                row = oracle.step(cell, params, x[t, b], row)
                assert np.array_equal(y[t, b], row[0])
            assert not y[n:, b].any()
            assert all(np.array_equal(f[b], r) for f, r in zip(final, row, strict=True))


@pytest.mark.parametrize("cell", oracle.CELLS)
def test_row_of_length_zero_keeps_its_state(cell: str) -> None:
    """In both directions and every layer; y is zero there, whatever the padding holds."""
    parameters, x, state = draw(cell, 32, 2)
    x[:, 2] = np.nan
    y, final = oracle.stack(cell, parameters, x, state, 1, True, lengths=[T, 2, 0, 3])
    assert not y[:, 2].any() and np.all(np.isfinite(y))
    for before, after in zip(as_tuple(state), as_tuple(final), strict=True):
        assert np.array_equal(before[:, 2], after[:, 2])
        assert not np.any(np.all(before[:, :2] == after[:, :2], axis=-1))


@pytest.mark.parametrize("cell", oracle.CELLS)
def test_inputs_are_not_modified(cell: str) -> None:
    """Neither parameters nor x nor the state."""
    parameters, x, state = draw(cell, 33, 2)
    arrays = [*parameters.values(), x, *as_tuple(state)]
    copies = [array.copy() for array in arrays]
    oracle.stack(cell, parameters, x, state, 1, True)
    assert all(np.array_equal(a, b) for a, b in zip(arrays, copies, strict=True))


def test_scalars_at_the_limits() -> None:
    """No overflow; infinities give their limits, NaN stays NaN."""
    assert oracle.sigmoid(0.0) == 0.5
    assert (oracle.sigmoid(1e4), oracle.sigmoid(-1e4)) == (1.0, 0.0)
    assert (oracle.sigmoid(np.inf), oracle.sigmoid(-np.inf)) == (1.0, 0.0)
    assert (oracle.relu(-2.0), oracle.relu(2.0)) == (0.0, 2.0)
    assert np.isnan(oracle.sigmoid(np.nan)) and np.isnan(oracle.relu(np.nan))


def test_finite_differences_on_a_known_function() -> None:
    """d sum(a^3 b) is (3 a^2 b, a^3); the arrays given stay as they are."""
    rng = np.random.default_rng(41)
    arrays = {"a": rng.normal(size=(2, 3)), "b": rng.normal(size=(2, 3))}
    copies = {name: array.copy() for name, array in arrays.items()}
    expected = {"a": 3.0 * arrays["a"] ** 2 * arrays["b"], "b": arrays["a"] ** 3}

    def f(values: dict[str, np.ndarray]) -> float:
        return float(np.sum(values["a"] ** 3 * values["b"]))

    actual = oracle.finite_differences(f, arrays)
    for name in arrays:
        np.testing.assert_allclose(actual[name], expected[name], rtol=1e-7, atol=1e-8)
        assert np.array_equal(arrays[name], copies[name])
    direction = {"a": rng.normal(size=(2, 3))}
    slope = oracle.directional_difference(f, arrays, direction)
    assert slope == pytest.approx(np.sum(expected["a"] * direction["a"]), rel=1e-7)


# --- the comparison bites ---------------------------------------------------------------------------------------------


def swapped_gates(config: dict[str, Any], arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The first two gates exchanged in every parameter that has gates."""
    gates = len(oracle.GATES[cell_of(config)])
    result = dict(arrays)
    for name, array in golden.group(arrays, "parameters").items():
        if name.startswith(("weight_ih", "weight_hh", "bias_l")):
            blocks = np.split(array, gates)
            result[f"parameters/{name}"] = np.concatenate([blocks[1], blocks[0], *blocks[2:]])
    return result


def swapped_directions(config: dict[str, Any], arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The parameters of the two directions exchanged."""
    result = dict(arrays)
    for name, array in golden.group(arrays, "parameters").items():
        if not name.endswith("_reverse"):
            result[f"parameters/{name}"] = arrays[f"parameters/{name}_reverse"]
            result[f"parameters/{name}_reverse"] = array
    return result


def swapped_states(config: dict[str, Any], arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """h_0 and c_0 exchanged."""
    return arrays | {"h_0": arrays["c_0"], "c_0": arrays["h_0"]}


def no_lengths(config: dict[str, Any], arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The padding taken for data."""
    return {name: array for name, array in arrays.items() if name != "lengths"}


def no_state(config: dict[str, Any], arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The initial state forgotten."""
    return {name: array for name, array in arrays.items() if name not in ("h_0", "c_0")}


def reversed_state_rows(config: dict[str, Any], arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The rows of the state (L*D, B, size) in another order of layers and directions."""
    return arrays | {name: arrays[name][::-1] for name in ("h_0", "c_0") if name in arrays}


def no_bias_hn(config: dict[str, Any], arrays: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The bias inside the reset forgotten."""
    return {name: array for name, array in arrays.items() if "bias_hn" not in name}


@pytest.mark.parametrize(
    ("mistake", "case"),
    [
        (swapped_gates, "lstm-1layer"),
        (swapped_gates, "lstm-1layer-nobias-projected-state"),
        (swapped_gates, "gru-1layer"),
        (swapped_directions, "lstm-1layer-bidirectional"),
        (swapped_directions, "gru-1layer-bidirectional-lengths"),
        (swapped_directions, "rnn_tanh-1layer-bidirectional"),
        (swapped_states, "lstm-1layer-state"),
        (no_lengths, "lstm-1layer-lengths"),
        (no_lengths, "rnn_relu-2layers-bidirectional-lengths-state"),
        (no_state, "gru-2layers-lengths-state"),
        (no_state, "rnn_tanh-1layer-state"),
        (reversed_state_rows, "lstm-2layers-state"),
        (reversed_state_rows, "gru-1layer-bidirectional-state"),
        (no_bias_hn, "gru-1layer"),
    ],
    ids=lambda value: value if isinstance(value, str) else value.__name__,
)
def test_golden_values_catch_mistakes(mistake: Any, case: str) -> None:
    """The unchanged case passes, the same case with a mistake is far off."""
    config, arrays = GOLDEN[case]
    assert not differs(run_oracle(config, arrays), golden_outputs(arrays))
    assert differs(run_oracle(config, mistake(config, arrays)), golden_outputs(arrays))


def test_oracles_import_nothing_of_fastrnn() -> None:
    """They are outside, or they prove nothing."""
    folder = Path(__file__).parent
    for path in (Path(oracle.__file__), Path(onnx_reference.__file__), *sorted((folder / "golden").glob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert not any(name.split(".")[0].startswith("fastrnn") for name in names), path
