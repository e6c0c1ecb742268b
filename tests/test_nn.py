"""`fastrnn.nn` against PyTorch, against finite differences, and against deliberately wrong versions of itself."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np
import pytest
from cases import WITHOUT
from hypothesis import given, settings
from hypothesis import strategies as st

from fastrnn import nn

if "torch" not in WITHOUT:
    import torch

DTYPES = ["float32", "float64"]
# Largest difference from PyTorch, in numbers of size 1: sums in another order; and after 300 steps of an optimiser.
TOLERANCE = {"float32": 2e-6, "float64": 1e-13}
STEPS_TOLERANCE = {"float32": 1e-6, "float64": 1e-12}
LEADING = [(), (7,), (5, 3), (2, 3, 4), (0,), (4, 0)]


def random(*shape: int, seed: int = 1, dtype: str = "float64") -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


def leaf(array: np.ndarray) -> torch.Tensor:
    return torch.tensor(array, requires_grad=True)


def grad(tensor: torch.Tensor) -> np.ndarray:
    assert tensor.grad is not None
    return tensor.grad.numpy()


def assert_close(actual: Any, expected: Any, dtype: str, table: dict[str, float] = TOLERANCE) -> None:
    actual, expected = np.asarray(actual), np.asarray(expected)
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype == np.dtype(dtype)
    np.testing.assert_allclose(actual, expected, rtol=table[dtype], atol=table[dtype])


def assert_is_gradient(loss: Callable[[np.ndarray], float], at: np.ndarray, gradient: np.ndarray) -> None:
    """Central differences of ``loss`` in every element of ``at``, in float64."""
    assert at.dtype == gradient.dtype == np.float64
    assert at.shape == gradient.shape
    numeric = np.empty_like(at)
    for index in np.ndindex(at.shape):
        step = np.zeros_like(at)
        step[index] = 1e-5
        numeric[index] = (loss(at + step) - loss(at - step)) / 2e-5
    assert np.abs(numeric).max(initial=0.0) > 1e-3, "a gradient of zeros would pass anything"
    np.testing.assert_allclose(gradient, numeric, rtol=1e-6, atol=1e-9)


# Linear


@pytest.mark.needs("torch")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("leading", LEADING)
def test_linear_is_torchs(leading: tuple[int, ...], bias: bool, dtype: str) -> None:
    ours = nn.Linear(6, 4, bias=bias, dtype=dtype, seed=3)
    theirs = torch.nn.Linear(6, 4, bias=bias, dtype=getattr(torch, dtype))
    theirs.load_state_dict({name: torch.tensor(value) for name, value in ours.parameters.items()})
    x, dy = random(*leading, 6, dtype=dtype), random(*leading, 4, seed=2, dtype=dtype)
    x_theirs = leaf(x)
    y_theirs = theirs(x_theirs)
    y_theirs.backward(torch.tensor(dy))

    y, tape = ours.record(x)
    grads = ours.backward(tape, dy)
    assert_close(y, y_theirs.detach().numpy(), dtype)
    assert np.array_equal(ours(x), y)
    assert_close(grads.x, grad(x_theirs), dtype)
    assert list(grads.parameters) == list(ours.parameters) == (["weight", "bias"] if bias else ["weight"])
    for name, parameter in theirs.named_parameters():
        assert_close(grads.parameters[name], grad(parameter), dtype)


@pytest.mark.parametrize("which", ["x", "weight", "bias"])
def test_linear_finite_differences(which: str) -> None:
    linear = nn.Linear(5, 3, dtype="float64", seed=4)
    x, dy = random(2, 4, 5), random(2, 4, 3, seed=2)
    grads = linear.backward(linear.record(x)[1], dy)

    def loss(value: np.ndarray) -> float:
        if which == "x":
            return float((linear(value) * dy).sum())
        other = nn.Linear(5, 3, dtype="float64", seed=4)
        other.set_parameters({which: value})
        return float((other(x) * dy).sum())

    if which == "x":
        assert_is_gradient(loss, x, grads.x)
    else:
        assert_is_gradient(loss, linear.parameters[which].copy(), grads.parameters[which])


def test_linear_starts_like_torchs() -> None:
    linear = nn.Linear(100, 200)
    for value in linear.parameters.values():
        assert value.min() < -0.09 and value.max() > 0.09 and abs(value.mean()) < 0.015
        assert np.abs(value).max() <= np.float32(0.1)
    assert linear.num_parameters == 100 * 200 + 200
    assert nn.Linear(100, 200, bias=False).num_parameters == 100 * 200


@pytest.mark.parametrize("make", [lambda **k: nn.Linear(5, 3, **k), lambda **k: nn.Embedding(5, 3, **k)])
def test_seeds(make: Callable[..., nn.Module]) -> None:
    def weight(**kwargs: Any) -> np.ndarray:
        return make(**kwargs).parameters["weight"]

    assert np.array_equal(weight(), weight(seed=0))
    assert np.array_equal(weight(), weight(dtype="float64").astype("float32"))
    assert not np.array_equal(weight(), weight(seed=1))
    assert not np.array_equal(weight(seed=None), weight(seed=None))
    shared = np.random.default_rng(5)
    assert not np.array_equal(weight(seed=shared), weight(seed=shared))


def test_bias_gradient_of_many_rows_is_exact() -> None:
    linear = nn.Linear(1, 1)
    dy = np.full((1_000_000, 1), 0.1, np.float32)
    grads = linear.backward(linear.record(np.zeros_like(dy))[1], dy)
    assert grads.parameters["bias"][0] == np.float32(1_000_000 * float(np.float32(0.1)))


# Embedding


@pytest.mark.needs("torch")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("padding_idx", [None, 0, 4])
@pytest.mark.parametrize("leading", LEADING)
def test_embedding_is_torchs(leading: tuple[int, ...], padding_idx: int | None, dtype: str) -> None:
    ours = nn.Embedding(7, 3, padding_idx=padding_idx, dtype=dtype, seed=3)
    if padding_idx is not None:
        assert not ours.parameters["weight"][padding_idx].any()
    weight = random(7, 3, dtype=dtype)
    ours.set_parameters({"weight": weight})
    theirs = torch.nn.Embedding(7, 3, padding_idx=padding_idx, dtype=getattr(torch, dtype))
    theirs.load_state_dict({"weight": torch.tensor(weight)})
    indices = np.random.default_rng(0).integers(0, 7, leading)
    dy = random(*leading, 3, seed=2, dtype=dtype)
    y_theirs = theirs(torch.tensor(indices))
    y_theirs.backward(torch.tensor(dy))

    y, tape = ours.record(indices)
    grads = ours.backward(tape, dy)
    assert np.array_equal(y, y_theirs.detach().numpy()) and y.dtype == dtype
    assert np.array_equal(ours(indices), y)
    assert grads.x is None
    assert_close(grads.parameters["weight"], grad(theirs.weight), dtype)


@settings(deadline=None)
@given(
    st.lists(st.integers(0, 4), max_size=40), st.sampled_from([None, 2]), st.sampled_from(["int8", "int64", "uint64"])
)
def test_embedding_gradient_adds_up_repeats(indices: list[int], padding_idx: int | None, integers: str) -> None:
    embedding = nn.Embedding(5, 2, padding_idx=padding_idx, dtype="float64")
    dy = random(len(indices), 2)
    expected = np.zeros((5, 2))
    for index, row in zip(indices, dy, strict=True):
        expected[index] += 0.0 if index == padding_idx else row
    _, tape = embedding.record(np.array(indices, integers))
    np.testing.assert_allclose(embedding.backward(tape, dy).parameters["weight"], expected, rtol=1e-12, atol=1e-14)


def test_embedding_finite_differences() -> None:
    embedding = nn.Embedding(4, 3, dtype="float64")
    indices, dy = [[0, 3, 3], [3, 1, 0]], random(2, 3, 3)

    def loss(weight: np.ndarray) -> float:
        other = nn.Embedding(4, 3, dtype="float64")
        other.set_parameters({"weight": weight})
        return float((other(indices) * dy).sum())

    weight = embedding.parameters["weight"].copy()
    assert_is_gradient(loss, weight, embedding.backward(embedding.record(indices)[1], dy).parameters["weight"])


def test_embedding_gradient_of_many_repeats_is_exact() -> None:
    embedding = nn.Embedding(2, 3)
    dy = np.full((1_000_000, 3), 0.1, np.float32)
    grads = embedding.backward(embedding.record(np.ones(1_000_000, int))[1], dy)
    expected = np.outer([0.0, 1e6 * float(np.float32(0.1))], np.ones(3))
    np.testing.assert_allclose(grads.parameters["weight"], expected, rtol=1e-7)


def test_embedding_starts_standard_normal() -> None:
    embedding = nn.Embedding(200, 100)
    assert abs(embedding.parameters["weight"].std() - 1) < 0.02
    assert abs(embedding.parameters["weight"].mean()) < 0.02
    assert embedding.num_parameters == 20_000


@pytest.mark.parametrize("indices", [2, np.array(2), [2], [[2, 1]]])
def test_embedding_output_is_a_copy(indices: Any) -> None:
    embedding = nn.Embedding(4, 3)
    before = embedding.parameters["weight"].copy()
    embedding(indices)[...] = 9.0
    embedding.record(indices)[0][...] = 9.0
    assert np.array_equal(embedding.parameters["weight"], before)


def test_padding_is_not_looked_at_in_backward() -> None:
    embedding = nn.Embedding(3, 2, padding_idx=1)
    grads = embedding.backward(embedding.record([0, 1])[1], [[1.0, 2.0], [np.nan, np.nan]])
    assert np.array_equal(grads.parameters["weight"], [[1, 2], [0, 0], [0, 0]])


# Tapes and parameters


@pytest.mark.parametrize(
    ("layer", "x"),
    [
        (nn.Linear(3, 2, dtype="float64"), random(4, 3)),
        (nn.Embedding(6, 2, dtype="float64"), np.array([5, 1, 5, 0])),
    ],
    ids=["Linear", "Embedding"],
)
def test_tape_is_independent_of_later_changes(layer: Any, x: np.ndarray) -> None:
    dy, x = random(4, 2, seed=2), x.copy()
    expected = layer.backward(layer.record(x)[1], dy)
    y, tape = layer.record(x)
    x[...] = 0
    y[...] = 0.0
    for value in layer.parameters.values():
        value[...] = 7.0
    layer.set_parameters({"weight": np.ones_like(layer.parameters["weight"])})
    for _ in range(2):
        actual = layer.backward(tape, dy)
        assert np.array_equal(actual.x, expected.x)
        for name, value in expected.parameters.items():
            assert value.any() and np.array_equal(actual.parameters[name], value)
            actual.parameters[name][...] = 3.0  # the caller's own: the next backward does not see it


def test_parameters_changed_in_place_are_seen_by_the_next_call() -> None:
    linear, embedding = nn.Linear(2, 1), nn.Embedding(3, 1)
    linear.parameters["weight"][...] = [[2.0, 3.0]]
    linear.parameters["bias"][...] = 0.5
    embedding.parameters["weight"][...] = [[1.0], [2.0], [4.0]]
    assert linear([1.0, 10.0]) == 32.5
    assert np.array_equal(embedding([2, 1]), [[4.0], [2.0]])


def test_set_parameters_copies() -> None:
    linear = nn.Linear(2, 3)
    own, weight = linear.parameters["weight"], random(3, 2)
    linear.set_parameters({"weight": weight})
    assert linear.parameters["weight"] is own
    weight[...] = 0.0
    assert np.array_equal(own, random(3, 2, dtype="float32"))


def test_set_parameters_from_its_own_memory() -> None:
    linear = nn.Linear(3, 3)
    weight, bias = (linear.parameters[name].copy() for name in ("weight", "bias"))
    linear.set_parameters({"weight": linear.parameters["weight"].T, "bias": linear.parameters["weight"][1]})
    assert np.array_equal(linear.parameters["weight"], weight.T)
    assert np.array_equal(linear.parameters["bias"], weight[1]) and not np.array_equal(bias, weight[1])


@pytest.mark.parametrize("bad", [{"bias": np.ones(2)}, {"bais": np.ones(3)}, {"bias": ["a"] * 3}])
def test_set_parameters_all_or_nothing(bad: dict[str, Any]) -> None:
    linear = nn.Linear(2, 3)
    before = {name: value.copy() for name, value in linear.parameters.items()}
    with pytest.raises((ValueError, TypeError)):
        linear.set_parameters({"weight": np.ones((3, 2)), **bad})
    for name, value in before.items():
        assert np.array_equal(linear.parameters[name], value)


def test_parameters_cannot_be_replaced_behind_the_layers_back() -> None:
    with pytest.raises(TypeError):
        nn.Linear(2, 3).parameters["weight"] = np.ones((3, 2))  # type: ignore[index]


@pytest.mark.parametrize("layer", [nn.Linear(3, 2, seed=7), nn.Embedding(5, 2, seed=7)])
@pytest.mark.parametrize("clone", [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer))])
def test_layers_copy_and_pickle(layer: Any, clone: Callable[[Any], Any]) -> None:
    other = clone(layer)
    assert repr(other) == repr(layer)
    assert np.array_equal(other.parameters["weight"], layer.parameters["weight"])
    assert other.parameters["weight"] is not layer.parameters["weight"]


# Losses


@pytest.mark.needs("torch")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("shape", [(), (6,), (5, 3)])
def test_softmax_cross_entropy_is_torchs(shape: tuple[int, ...], masked: bool, weighted: bool, dtype: str) -> None:
    logits = random(*shape, 4, dtype=dtype) * 3
    targets = np.random.default_rng(0).integers(0, 4, shape)
    mask = np.random.default_rng(1).random(shape) < 0.6 if shape else np.array(True)
    weight = np.array([0.5, 2.0, 0.0, 1.5]) if weighted else None
    if weighted and not shape:
        targets = np.array(1)
    rows = leaf(logits.reshape(-1, 4))
    theirs = torch.nn.functional.cross_entropy(
        rows,
        torch.tensor(np.where(mask, targets, -100) if masked else targets).reshape(-1),
        weight=None if weight is None else torch.tensor(weight.astype(dtype)),
    )
    theirs.backward()
    loss, dlogits = nn.softmax_cross_entropy(logits, targets, mask=mask if masked else None, class_weight=weight)
    assert isinstance(loss, float)
    assert loss == pytest.approx(theirs.item(), rel=TOLERANCE[dtype])
    assert_close(dlogits, grad(rows).reshape(logits.shape), dtype)


@pytest.mark.needs("torch")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (6,), (5, 3), (2, 0, 3), (0,)])
def test_mean_squared_error_is_torchs(shape: tuple[int, ...], dtype: str) -> None:
    prediction, target = random(*shape, dtype=dtype), random(*shape, seed=2, dtype=dtype)
    if 0 in shape:  # PyTorch says NaN
        with pytest.raises(ValueError, match="prediction must have an element"):
            nn.mean_squared_error(prediction, target)
        return
    theirs_in = leaf(prediction)
    theirs = torch.nn.functional.mse_loss(theirs_in, torch.tensor(target))
    theirs.backward()
    loss, dprediction = nn.mean_squared_error(prediction, target)
    assert isinstance(loss, float)
    assert loss == pytest.approx(theirs.item(), rel=TOLERANCE[dtype])
    assert_close(dprediction, grad(theirs_in), dtype)


MASK = np.array([[True, False, True], [True, True, False]])
WEIGHT = np.array([0.5, 2.0, 1.0, 3.0])
TARGETS = np.array([[3, 0, 1], [2, 3, 1]])
LOSSES: dict[str, Callable[[np.ndarray], tuple[float, np.ndarray]]] = {
    "cross-entropy": lambda x: nn.softmax_cross_entropy(x, TARGETS),
    "cross-entropy, mask": lambda x: nn.softmax_cross_entropy(x, TARGETS, mask=MASK),
    "cross-entropy, mask, weight": lambda x: nn.softmax_cross_entropy(x, TARGETS, mask=MASK, class_weight=WEIGHT),
    "squared error": lambda x: nn.mean_squared_error(x, random(2, 3, 4, seed=9)),
    "squared error, mask": lambda x: nn.mean_squared_error(x, random(2, 3, 4, seed=9), mask=MASK),
    "squared error, full mask": lambda x: nn.mean_squared_error(
        x, random(2, 3, 4, seed=9), mask=np.arange(24).reshape(2, 3, 4) % 3 > 0
    ),
}
WRONG: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "sign": lambda g: -g,
    "sum for mean": lambda g: g * 6,
    "mean over all, not over the counted": lambda g: g * 4 / 6,
    "half": lambda g: g / 2,
    "zero": np.zeros_like,
    "next row": lambda g: np.roll(g, 1, axis=1),
    "next class": lambda g: np.roll(g, 1, axis=2),
    "leak into the padding": lambda g: np.where(g == 0, 0.01, g),
    "one element": lambda g: g + np.eye(24)[7].reshape(2, 3, 4) * 1e-4,
}


@pytest.mark.parametrize("loss", LOSSES)
def test_loss_finite_differences(loss: str) -> None:
    x = random(2, 3, 4)
    assert_is_gradient(lambda at: LOSSES[loss](at)[0], x, LOSSES[loss](x)[1])


@pytest.mark.parametrize("wrong", WRONG)
def test_finite_differences_bite(wrong: str) -> None:
    x, loss = random(2, 3, 4), LOSSES["squared error, mask"]
    with pytest.raises(AssertionError):
        assert_is_gradient(lambda at: loss(at)[0], x, WRONG[wrong](loss(x)[1]))


@pytest.mark.parametrize("dtype", DTYPES)
def test_cross_entropy_of_large_logits(dtype: str) -> None:
    huge = float(np.finfo(dtype).max)
    with np.errstate(all="raise", under="ignore"):
        loss, dlogits = nn.softmax_cross_entropy(np.array([[1e4, 0.0], [1e4, 0.0]], dtype), [0, 1])
        assert loss == 5000.0
        assert np.array_equal(dlogits, [[0, 0], [0.5, -0.5]])
        loss, dlogits = nn.softmax_cross_entropy(np.array([huge, -huge], dtype), 0)
        assert loss == 0.0 and not dlogits.any()
        loss, dlogits = nn.softmax_cross_entropy(np.array([0.0, -np.inf, 0.0], dtype), 0)
    assert loss == pytest.approx(math.log(2))
    assert np.array_equal(dlogits, [-0.5, 0.0, 0.5])


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=5), st.integers(0, 10**6))
def test_ragged_loss_is_the_loss_of_the_valid_rows_alone(lengths: list[int], seed: int) -> None:
    rows, steps = len(lengths), 5
    mask = np.arange(steps)[:, None] < np.array(lengths)
    logits, targets = random(steps, rows, 3, seed=seed), np.random.default_rng(seed).integers(0, 3, (steps, rows))
    wild = np.where(mask[..., None], logits, np.nan)
    if not mask.any():
        with pytest.raises(ValueError, match="mask must be True somewhere"):
            nn.softmax_cross_entropy(wild, targets, mask=mask)
        with pytest.raises(ValueError, match="mask must be True somewhere"):
            nn.mean_squared_error(wild, wild, mask=mask)
        return
    loss, dlogits = nn.softmax_cross_entropy(wild, np.where(mask, targets, -100), mask=mask)
    expected, dexpected = nn.softmax_cross_entropy(logits[mask], targets[mask])
    assert loss == expected
    assert np.array_equal(dlogits[mask], dexpected) and not dlogits[~mask].any()

    loss, dprediction = nn.mean_squared_error(wild, np.where(mask[..., None], logits[::-1], np.inf), mask=mask)
    expected, dexpected = nn.mean_squared_error(logits[mask], logits[::-1][mask])
    assert loss == expected
    assert np.array_equal(dprediction[mask], dexpected) and not dprediction[~mask].any()


@pytest.mark.parametrize(("dtype", "expected"), [("float16", "float32"), ("float32", "float32"), ("int64", "float64")])
def test_loss_dtypes(dtype: str, expected: str) -> None:
    x = np.array([[1, 2], [3, 4]], dtype)
    assert nn.softmax_cross_entropy(x, [0, 1])[1].dtype == expected
    assert nn.mean_squared_error(x, [[1, 1], [1, 1]])[1].dtype == expected


def test_mean_squared_error_of_float32_does_not_overflow() -> None:
    assert nn.mean_squared_error(np.full(4, 1e30, np.float32), np.zeros(4))[0] == pytest.approx(1e60)


# Optimisers


@dataclasses.dataclass(frozen=True)
class LayerGradients:
    """The fields of a recurrent layer's gradients."""

    x: Any
    state: Any
    parameters: dict[str, Any]


class Sealed:
    """A module whose arrays are read-only: new values must come through ``set_parameters``."""

    def __init__(self, **parameters: np.ndarray) -> None:
        self._parameters = parameters
        self.calls = 0
        for value in parameters.values():
            value.setflags(write=False)

    @property
    def parameters(self) -> Mapping[str, np.ndarray]:
        return MappingProxyType(self._parameters)

    def set_parameters(self, values: Mapping[str, Any]) -> None:
        self.calls += 1
        for name, value in values.items():
            assert value.shape == self._parameters[name].shape and value.dtype == self._parameters[name].dtype
            self._parameters[name] = value.copy()
            self._parameters[name].setflags(write=False)


SGD_CASES: list[dict[str, Any]] = [
    {},
    {"momentum": 0.9},
    {"momentum": 0.9, "weight_decay": 0.05},
    {"momentum": 0.8, "nesterov": True},
    {"weight_decay": 0.1},
]
ADAM_CASES: list[dict[str, Any]] = [
    {},
    {"betas": (0.8, 0.95)},
    {"eps": 1e-3},
    {"weight_decay": 0.05},
    {"betas": (0.0, 0.5), "eps": 0.1, "weight_decay": 0.01},
]
CASES = [("SGD", case) for case in SGD_CASES] + [("Adam", case) for case in ADAM_CASES]


def trajectories(
    dtype: str, ours: tuple[str, dict[str, Any]], theirs: tuple[str, dict[str, Any]], steps: int = 300
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Two modules and their like in PyTorch, the same gradients for both, a new learning rate half way."""
    a = Sealed(weight=random(4, 3, dtype=dtype), bias=random(4, seed=2, dtype=dtype))
    b = Sealed(weight=random(2, 5, seed=3, dtype=dtype))
    tensors = [torch.tensor(value.copy()) for module in (a, b) for value in module.parameters.values()]
    optimizer = getattr(nn, ours[0])([a, b], learning_rate=0.01, **ours[1])
    reference = getattr(torch.optim, theirs[0])(tensors, lr=0.01, **theirs[1])
    generator = np.random.default_rng(0)
    for step in range(steps):
        if step == steps // 2:
            optimizer.learning_rate = 0.004
            reference.param_groups[0]["lr"] = 0.004
        gradients = [(generator.standard_normal(tuple(tensor.shape)) + 0.3).astype(dtype) for tensor in tensors]
        for tensor, gradient in zip(tensors, gradients, strict=True):
            tensor.grad = torch.tensor(gradient)
        reference.step()
        optimizer.step(
            [
                LayerGradients(None, None, {"bias": gradients[1], "weight": gradients[0]}),
                nn.Gradients(None, {"weight": gradients[2]}),
            ]
        )
    assert a.calls == b.calls == steps
    mine = [value for module in (a, b) for value in module.parameters.values()]
    return mine, [tensor.numpy() for tensor in tensors]


@pytest.mark.needs("torch")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("name", "options"), CASES, ids=str)
def test_optimizers_are_torchs(name: str, options: dict[str, Any], dtype: str) -> None:
    for actual, expected in zip(*trajectories(dtype, (name, options), (name, options)), strict=True):
        assert_close(actual, expected, dtype, STEPS_TOLERANCE)


@pytest.mark.needs("torch")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        (("SGD", {}), ("SGD", {"maximize": True})),
        (("SGD", {}), ("SGD", {"momentum": 0.1})),
        (("SGD", {"momentum": 0.9}), ("SGD", {"momentum": 0.9, "dampening": 0.1})),
        (("SGD", {"momentum": 0.9}), ("SGD", {"momentum": 0.9, "nesterov": True})),
        (("SGD", {}), ("SGD", {"weight_decay": 1e-3})),
        (("Adam", {}), ("Adam", {"amsgrad": True, "betas": (0.9, 0.9)})),
        (("Adam", {}), ("Adam", {"betas": (0.9, 0.998)})),
        (("Adam", {}), ("Adam", {"betas": (0.89, 0.999)})),
        (("Adam", {}), ("Adam", {"eps": 1e-4})),
        (("Adam", {"weight_decay": 0.05}), ("AdamW", {"weight_decay": 0.05})),
    ],
    ids=str,
)
def test_comparison_with_torch_bites(ours: Any, theirs: Any, dtype: str) -> None:
    pairs = list(zip(*trajectories(dtype, ours, theirs), strict=True))
    for actual, expected in pairs:
        with pytest.raises(AssertionError):
            assert_close(actual, expected, dtype, STEPS_TOLERANCE)


@pytest.mark.needs("torch")
@pytest.mark.parametrize(
    ("make", "reference"),
    [
        (lambda modules: nn.SGD(modules, 0.1, momentum=0.9), lambda tensors: torch.optim.SGD(tensors, 0.1, 0.9)),
        (lambda modules: nn.Adam(modules, 0.1), lambda tensors: torch.optim.Adam(tensors, 0.1)),
    ],
)
def test_none_leaves_a_parameter_and_its_state_alone(make: Any, reference: Any) -> None:
    a, b = Sealed(p=random(3), q=random(3, seed=2)), Sealed(p=random(2, seed=3))
    tensors = [torch.tensor(value.copy()) for module in (a, b) for value in module.parameters.values()]
    optimizer, torchs = make([a, b]), reference(tensors)
    generator = np.random.default_rng(0)
    for step in range(12):
        present = [True, step % 3 != 0, step % 2 == 0]
        values = [generator.standard_normal(tuple(tensor.shape)) for tensor in tensors]
        for tensor, value, here in zip(tensors, values, present, strict=True):
            tensor.grad = torch.tensor(value) if here else None
        torchs.step()
        first = nn.Gradients(None, {"p": values[0], "q": values[1] if present[1] else None})  # type: ignore[dict-item]
        optimizer.step([first, nn.Gradients(None, {"p": values[2]}) if present[2] else None])
    for module, expected in ((a, tensors[:2]), (b, tensors[2:])):
        for value, tensor in zip(module.parameters.values(), expected, strict=True):
            assert_close(value, tensor.numpy(), "float64", STEPS_TOLERANCE)


@pytest.mark.parametrize("make", [lambda m: nn.SGD(m, 0.1, momentum=0.9), lambda m: nn.Adam(m, 0.1)])
@pytest.mark.parametrize(
    "bad", [{"weight": np.ones((2, 3))}, {"weight": np.ones((1, 3)), "bias": np.ones(2)}, {"weight": "no", "bias": [1]}]
)
def test_step_is_all_or_nothing(make: Any, bad: dict[str, Any]) -> None:
    a, b = nn.Linear(2, 3, dtype="float64"), nn.Linear(3, 1, dtype="float64")
    optimizer = make([a, b])
    good = [nn.Gradients(None, {name: np.ones_like(v) for name, v in m.parameters.items()}) for m in (a, b)]
    optimizer.step(good)
    before = copy.deepcopy(([dict(m.parameters) for m in (a, b)], optimizer.state))
    with pytest.raises((ValueError, TypeError), match=r"grads\[1\]"):
        optimizer.step([good[0], nn.Gradients(None, bad)])
    np.testing.assert_equal(([dict(m.parameters) for m in (a, b)], optimizer.state), before)


@pytest.mark.parametrize("make", [lambda m: nn.SGD(m, 0.1, momentum=0.9), lambda m: nn.Adam(m, 0.1)])
def test_state_is_the_optimizers_own(make: Any) -> None:
    layers = nn.Linear(2, 3), nn.Linear(2, 3)
    optimizers = [make([layer]) for layer in layers]
    shared = random(3, 2, dtype="float32"), random(3, dtype="float32")
    for step in range(3):
        optimizers[0].step([nn.Gradients(None, {"weight": shared[0], "bias": shared[1]})])
        mine = random(3, 2, dtype="float32") / 2**step, random(3, dtype="float32") / 2**step
        optimizers[1].step([nn.Gradients(None, {"weight": mine[0], "bias": mine[1]})])
        for array in shared:
            array *= 0.5  # the caller goes on using the array: the state must not be it
    for name, value in layers[0].parameters.items():
        assert np.array_equal(value, layers[1].parameters[name])


def test_a_learning_rate_from_numpy_keeps_float32() -> None:
    layer = Sealed(p=random(3, dtype="float32"))
    for optimizer in (nn.SGD([layer], np.float64(0.1), momentum=np.float64(0.9)), nn.Adam([layer], np.float64(0.1))):
        optimizer.step([nn.Gradients(None, {"p": np.ones(3)})])
        assert layer.parameters["p"].dtype == np.float32


# Clipping


@pytest.mark.needs("torch")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("max_norm", [0.5, 3.0, 100.0])
def test_clipping_is_torchs(max_norm: float, dtype: str) -> None:
    arrays = [random(4, 3, dtype=dtype), random(5, seed=2, dtype=dtype), random(2, 2, seed=3, dtype=dtype)]
    tensors = [leaf(array) for array in arrays]
    for tensor, array in zip(tensors, arrays, strict=True):
        tensor.grad = torch.tensor(array)
    theirs = torch.nn.utils.clip_grad_norm_(tensors, max_norm)
    x, state = random(3), (random(2), random(2))
    grads = [LayerGradients(x, state, {"a": arrays[0], "b": arrays[1]}), nn.Gradients(x, {"a": arrays[2]})]
    clipped, norm = nn.clip_by_global_norm(grads, max_norm)

    assert isinstance(norm, float) and norm == pytest.approx(theirs.item(), rel=1e-6)
    assert isinstance(clipped[0], LayerGradients) and isinstance(clipped[1], nn.Gradients)
    assert clipped[0].x is x and clipped[0].state is state and clipped[1].x is x
    new = [clipped[0].parameters["a"], clipped[0].parameters["b"], clipped[1].parameters["a"]]
    for actual, tensor, array in zip(new, tensors, arrays, strict=True):
        assert actual.dtype == dtype and not np.shares_memory(actual, array)
        np.testing.assert_allclose(actual, grad(tensor), rtol=3e-6)  # PyTorch divides by norm + 1e-6
    total = math.sqrt(sum(float((array.astype(float) ** 2).sum()) for array in new))
    assert total == pytest.approx(min(norm, max_norm), rel=1e-6)
    if norm <= max_norm:
        assert all(np.array_equal(actual, array) for actual, array in zip(new, arrays, strict=True))
    assert np.array_equal(arrays[0], random(4, 3, dtype=dtype))


# Squares that overflow, that have few digits left, or that vanish.
NORMS = [("float32", 1e30), ("float32", 1e-22), ("float64", 1e200), ("float64", 1e-160), ("float64", 1e-200)]


@pytest.mark.parametrize(("dtype", "size"), NORMS)
def test_norm_neither_overflows_nor_vanishes(dtype: str, size: float) -> None:
    grads = [nn.Gradients(None, {"a": np.array([3 * size], dtype), "b": np.array([4 * size], dtype)})]
    clipped, norm = nn.clip_by_global_norm(grads, size)
    assert norm == pytest.approx(5 * size, rel=1e-6, abs=0.0)
    assert clipped[0].parameters["a"][0] == pytest.approx(0.6 * size, rel=1e-6, abs=0.0)


def test_clipping_nothing() -> None:
    empty = nn.Gradients(None, {"a": np.zeros((0, 3)), "b": np.zeros(2)})
    for grads in ([], [None], [empty], [None, empty]):
        clipped, norm = nn.clip_by_global_norm(grads, 1.0)
        assert norm == 0.0 and len(clipped) == len(grads)
        assert [one is None for one in clipped] == [one is None for one in grads]
    assert clipped[1].parameters["a"].shape == (0, 3)
    held = nn.Gradients(None, {"a": None, "b": np.array([3.0, 4.0])})  # type: ignore[dict-item]
    clipped, norm = nn.clip_by_global_norm([held], 2.5)
    assert norm == 5.0 and clipped[0].parameters["a"] is None
    assert np.array_equal(clipped[0].parameters["b"], [1.5, 2.0])
    assert nn.clip_by_global_norm([held], math.inf)[1] == 5.0


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_clipping_a_norm_that_is_not_finite(bad: float) -> None:
    grads = [nn.Gradients(None, {"a": np.ones(2)}), nn.Gradients(None, {"b": np.ones(2), "c": np.array([1.0, bad])})]
    with pytest.raises(ValueError, match=r"grads\[1\]\.parameters\['c'\] must be finite"):
        nn.clip_by_global_norm(grads, 1.0)
    clipped, norm = nn.clip_by_global_norm(grads, 1.0, error_if_nonfinite=False)
    assert not math.isfinite(norm) and math.isnan(norm) == math.isnan(bad)
    for old, new in zip(grads, clipped, strict=True):
        for name, value in old.parameters.items():
            assert np.array_equal(new.parameters[name], value, equal_nan=True)
            assert not np.shares_memory(new.parameters[name], value)


# All together


@pytest.mark.needs("torch")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["SGD", "Adam"])
def test_training_is_torchs(name: str, dtype: str) -> None:
    """The same model and the same loop, ragged rows and clipping included: every loss, every parameter at the end."""
    embedding, hidden = nn.Embedding(9, 6, padding_idx=0, dtype=dtype), nn.Linear(6, 8, dtype=dtype, seed=1)
    head, value = nn.Linear(8, 5, dtype=dtype, seed=2), nn.Linear(8, 1, bias=False, dtype=dtype, seed=3)
    modules = [embedding, hidden, head, value]
    kind = getattr(torch, dtype)
    theirs = [
        torch.nn.Embedding(9, 6, padding_idx=0, dtype=kind),
        torch.nn.Linear(6, 8, dtype=kind),
        torch.nn.Linear(8, 5, dtype=kind),
        torch.nn.Linear(8, 1, bias=False, dtype=kind),
    ]
    for ours, other in zip(modules, theirs, strict=True):
        other.load_state_dict({key: torch.tensor(array) for key, array in ours.parameters.items()})
    tensors = [tensor for module in theirs for tensor in module.parameters()]
    if name == "SGD":
        optimizer: nn.Optimizer = nn.SGD(modules, learning_rate=0.5, momentum=0.9)
        reference: torch.optim.Optimizer = torch.optim.SGD(tensors, lr=0.5, momentum=0.9)
    else:
        optimizer, reference = nn.Adam(modules, learning_rate=0.01), torch.optim.Adam(tensors, lr=0.01)

    generator = np.random.default_rng(0)
    lengths = np.array([4, 1, 6, 3])
    mask = np.arange(6)[:, None] < lengths
    losses = []
    for _ in range(60):
        tokens = np.where(mask, generator.integers(1, 9, mask.shape), 0)
        classes, size = np.where(mask, tokens * 3 % 5, -100), (tokens[..., None] % 2).astype(dtype)

        e, e_tape = embedding.record(tokens)
        h, h_tape = hidden.record(e)
        a = np.tanh(h)
        logits, head_tape = head.record(a)
        v, value_tape = value.record(a)
        cross_entropy, dlogits = nn.softmax_cross_entropy(logits, classes, mask=mask)
        squared_error, dv = nn.mean_squared_error(v, size, mask=mask)
        head_grads, value_grads = head.backward(head_tape, dlogits), value.backward(value_tape, dv)
        hidden_grads = hidden.backward(h_tape, (head_grads.x + value_grads.x) * (1 - a * a))
        embedding_grads = embedding.backward(e_tape, hidden_grads.x)
        grads, norm = nn.clip_by_global_norm([embedding_grads, hidden_grads, head_grads, value_grads], 0.25)
        optimizer.step(grads)
        losses.append(cross_entropy + squared_error)

        a_theirs = torch.tanh(theirs[1](theirs[0](torch.tensor(tokens))))
        chosen = torch.tensor(mask)
        loss = torch.nn.functional.cross_entropy(theirs[2](a_theirs).reshape(-1, 5), torch.tensor(classes).reshape(-1))
        loss = loss + torch.nn.functional.mse_loss(theirs[3](a_theirs)[chosen], torch.tensor(size)[chosen])
        reference.zero_grad()
        loss.backward()
        norm_theirs = torch.nn.utils.get_total_norm([tensor.grad for tensor in tensors if tensor.grad is not None])
        assert norm == pytest.approx(norm_theirs.item(), rel=1e-3 if dtype == "float32" else 1e-11)
        for tensor in tensors:
            tensor.grad *= min(1.0, 0.25 / norm_theirs.item())
        reference.step()
        assert losses[-1] == pytest.approx(loss.item(), rel=1e-4 if dtype == "float32" else 1e-11)

    assert np.mean(losses[-10:]) < 0.5 * losses[0]
    assert not embedding.parameters["weight"][0].any()
    tolerance = 1e-3 if dtype == "float32" else 1e-10
    for ours, other in zip(modules, theirs, strict=True):
        for key, tensor in other.named_parameters():
            np.testing.assert_allclose(ours.parameters[key], tensor.detach().numpy(), rtol=0, atol=tolerance)


# What comes in


def test_inputs_are_never_modified() -> None:
    linear, embedding = nn.Linear(3, 2), nn.Embedding(4, 2, padding_idx=1)
    for dtype in DTYPES:
        inputs = {
            "x": random(5, 3, dtype=dtype),
            "dy": random(5, 2, seed=2, dtype=dtype),
            "target": random(5, 2, seed=3, dtype=dtype),
            "indices": np.array([0, 3, 1, 3, 2]),
            "targets": np.array([0, 1, 1, 0, 1]),
            "mask": np.array([True, True, False, True, True]),
            "class_weight": np.array([1.0, 2.0], dtype),
            "weight": random(2, 3, dtype=dtype),
        }
        before = copy.deepcopy(inputs)
        for array in inputs.values():
            array.setflags(write=False)  # a write raises; and what is read-only is welcome
        linear(inputs["x"])
        grads = linear.backward(linear.record(inputs["x"])[1], inputs["dy"])
        embedding(inputs["indices"])
        embedding.backward(embedding.record(inputs["indices"])[1], inputs["dy"])
        nn.softmax_cross_entropy(
            inputs["dy"], inputs["targets"], mask=inputs["mask"], class_weight=inputs["class_weight"]
        )
        nn.softmax_cross_entropy(inputs["dy"], inputs["targets"])
        nn.mean_squared_error(inputs["dy"], inputs["target"], mask=inputs["mask"])
        nn.mean_squared_error(inputs["dy"], inputs["target"])
        linear.set_parameters({"weight": inputs["weight"]})
        for array in grads.parameters.values():
            array.setflags(write=False)
        for optimizer in (
            nn.SGD([linear], 0.1, momentum=0.9, nesterov=True, weight_decay=0.1),
            nn.Adam([linear], weight_decay=0.1),
        ):
            optimizer.step([grads])
            optimizer.step([grads])
        nn.clip_by_global_norm([grads], 1e-3)
        for name, array in inputs.items():
            assert np.array_equal(array, before[name])


@pytest.mark.needs("torch")
def test_any_array_like() -> None:
    linear, embedding = nn.Linear(2, 2), nn.Embedding(4, 2)
    x = random(6, 4, dtype="float32")[::2, ::2]  # strided
    assert np.array_equal(linear(x), linear(x.tolist())) and linear(x).dtype == np.float32
    assert np.array_equal(linear(torch.tensor(x)), linear(x))
    assert np.array_equal(linear(x.astype(">f8")), linear(x)) and linear(x.astype(">f8")).dtype == np.float32
    assert np.array_equal(linear([[1, 2], [0, True]]), linear(np.array([[1.0, 2.0], [0.0, 1.0]])))
    assert embedding([]).shape == (0, 2) and embedding(3).shape == (2,) and embedding(((1, 2),)).shape == (1, 2, 2)
    assert np.array_equal(embedding(torch.tensor([1, 3])), embedding([1, 3]))
    assert linear(np.zeros((3, 0, 2))).shape == (3, 0, 2)
    np.testing.assert_equal(
        nn.softmax_cross_entropy(torch.tensor(x), torch.tensor([0, 1, 1])), nn.softmax_cross_entropy(x, (0, 1, 1))
    )


LINEAR = nn.Linear(3, 2)
EMBEDDING = nn.Embedding(4, 2)
TAPE = LINEAR.record(np.ones((5, 3)))[1]
GRADS = LINEAR.backward(TAPE, np.ones((5, 2)))
SGD = nn.SGD([LINEAR, EMBEDDING], 0.1)
BAD: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (lambda: nn.Linear(0, 2), ValueError, "in_features must be an integer of at least 1; got 0"),
    (lambda: nn.Linear(3, 2.0), TypeError, "out_features must be an integer of at least 1; got float 2.0"),
    (lambda: nn.Linear(True, 2), TypeError, "in_features must be an integer of at least 1; got bool True"),
    (lambda: nn.Linear(3, 2, bias=1), TypeError, "bias must be True or False; got int 1"),
    (lambda: nn.Linear(3, 2, dtype="float16"), ValueError, "dtype must be float32 or float64; got str 'float16'"),
    (lambda: nn.Linear(3, 2, dtype=None), ValueError, "dtype must be float32 or float64; got NoneType None"),
    (lambda: nn.Linear(3, 2, dtype="floaty"), TypeError, "dtype must be float32 or float64; got str 'floaty'"),
    (lambda: nn.Linear(3, 2, seed=-1), ValueError, "seed must be an integer of at least 0; got -1"),
    (lambda: nn.Linear(3, 2, seed="x"), TypeError, "seed must be an integer of at least 0, a numpy.random.Gen"),
    (lambda: LINEAR(np.ones((5, 4))), ValueError, "x must have shape (..., in_features=3); got (5, 4)"),
    (lambda: LINEAR(1.0), ValueError, "x must have shape (..., in_features=3); got ()"),
    (
        lambda: LINEAR(np.ones(3, complex)),
        TypeError,
        "x must be an array of real numbers; got ndarray of dtype complex",
    ),
    (lambda: LINEAR(None), TypeError, "x must be an array of real numbers; got NoneType of dtype object"),
    (
        lambda: LINEAR([[1.0], [1.0, 2.0]]),
        ValueError,
        "x must be an array of real numbers; got list [[1.0], [1.0, 2.0]]",
    ),
    (lambda: LINEAR.record("abc"), TypeError, "x must be an array of real numbers; got str of dtype"),
    (lambda: LINEAR.backward(TAPE, np.ones((2, 5))), ValueError, "dy must have shape (5, 2); got (2, 5)"),
    (lambda: LINEAR.backward(TAPE, ["a"]), TypeError, "dy must be an array of real numbers; got list"),
    (lambda: LINEAR.backward("tape", np.ones((5, 2))), TypeError, "tape must be of type LinearTape, from this layer's"),
    (lambda: nn.Linear(3, 2).backward(TAPE, np.ones((5, 2))), ValueError, "tape must come from this layer's record"),
    (lambda: EMBEDDING.backward(TAPE, np.ones((5, 2))), TypeError, "tape must be of type EmbeddingTape"),
    (
        lambda: LINEAR.set_parameters([1]),
        TypeError,
        "values must be a mapping from parameter names to arrays; got list",
    ),
    (lambda: LINEAR.set_parameters({"w": 1}), ValueError, "values must name parameters out of weight, bias; got 'w'"),
    (lambda: LINEAR.set_parameters({"bias": 1}), ValueError, "values['bias'] must have shape (2,); got ()"),
    (lambda: nn.Embedding(4, 0), ValueError, "embedding_dim must be an integer of at least 1; got 0"),
    (lambda: nn.Embedding("4", 2), TypeError, "num_embeddings must be an integer of at least 1; got str '4'"),
    (lambda: nn.Embedding(4, 2, padding_idx=4), ValueError, "padding_idx must be an integer in 0..3; got 4"),
    (lambda: nn.Embedding(4, 2, padding_idx=-1), ValueError, "padding_idx must be an integer in 0..3; got -1"),
    (lambda: EMBEDDING([[1, 4]]), ValueError, "indices must be in 0..3 (num_embeddings=4); got 4 at index (0, 1)"),
    (lambda: EMBEDDING(-1), ValueError, "indices must be in 0..3 (num_embeddings=4); got -1 at index ()"),
    (lambda: EMBEDDING(np.array([2**63], "uint64")), ValueError, "indices must be in 0..3 (num_embeddings=4); got 9"),
    (lambda: EMBEDDING([1.0]), TypeError, "indices must be an array of integers; got dtype float64"),
    (lambda: EMBEDDING([True]), TypeError, "indices must be an array of integers; got dtype bool"),
    (lambda: EMBEDDING.record([1.5]), TypeError, "indices must be an array of integers; got dtype float64"),
    (
        lambda: EMBEDDING.backward(EMBEDDING.record([1])[1], [1.0, 2.0]),
        ValueError,
        "dy must have shape (1, 2); got (2,)",
    ),
    (lambda: nn.softmax_cross_entropy(1.0, 0), ValueError, "logits must have shape (..., C) with C at least 1; got ()"),
    (lambda: nn.softmax_cross_entropy(np.ones((2, 0)), [0, 0]), ValueError, "logits must have shape (..., C) with C"),
    (lambda: nn.softmax_cross_entropy(np.ones((2, 3)), [0]), ValueError, "targets must have shape (2,); got (1,)"),
    (lambda: nn.softmax_cross_entropy(np.ones((2, 3)), [0, 3]), ValueError, "targets must be in 0..2 (logits have 3"),
    (lambda: nn.softmax_cross_entropy(np.ones((2, 3)), [0.0, 1.0]), TypeError, "targets must be an array of integers"),
    (lambda: nn.softmax_cross_entropy(np.ones((2, 3)), [[0], [0, 1]]), ValueError, "targets must be an array of integ"),
    (
        lambda: nn.softmax_cross_entropy(np.ones((0, 3)), []),
        ValueError,
        "targets must have an element to take the mean",
    ),
    (
        lambda: nn.softmax_cross_entropy([[1, 2]], [0], mask=[1]),
        TypeError,
        "mask must be an array of booleans; got list",
    ),
    (lambda: nn.softmax_cross_entropy([[1, 2]], [0], mask=True), ValueError, "mask must have shape (1,); got ()"),
    (lambda: nn.softmax_cross_entropy([[1, 2]], [0], mask=[False]), ValueError, "mask must be True somewhere"),
    (
        lambda: nn.softmax_cross_entropy([[1, 2]], [0], class_weight=[1, 2, 3]),
        ValueError,
        "class_weight must have shape (2,); got (3,)",
    ),
    (
        lambda: nn.softmax_cross_entropy([[1, 2]], [0], class_weight=[1, -2]),
        ValueError,
        "class_weight must be finite and at least 0; got -2.0 at index 1",
    ),
    (
        lambda: nn.softmax_cross_entropy([[1, 2]], [0], class_weight=[0, 1]),
        ValueError,
        "class_weight must be above 0 for some counted target",
    ),
    (lambda: nn.mean_squared_error([1, 2], [[1, 2]]), ValueError, "target must have shape (2,); got (1, 2)"),
    (lambda: nn.mean_squared_error(["a"], [1]), TypeError, "prediction must be an array of real numbers; got list"),
    (lambda: nn.mean_squared_error([1, 2], [1, 2], mask=[0, 1]), TypeError, "mask must be an array of booleans"),
    (
        lambda: nn.mean_squared_error(np.ones((2, 3)), np.ones((2, 3)), mask=np.ones(3, bool)),
        ValueError,
        "mask must have prediction's shape (2, 3) or its first axes; got (3,)",
    ),
    (
        lambda: nn.mean_squared_error(np.ones((2, 0)), np.ones((2, 0)), mask=[True, True]),
        ValueError,
        "prediction must have an element to take the mean of; got shape (2, 0)",
    ),
    (lambda: nn.SGD(LINEAR, 0.1), TypeError, "modules must be a sequence of layers, as in [layer]; got Linear"),
    (lambda: nn.SGD([], 0.1), ValueError, "modules must have at least one layer"),
    (
        lambda: nn.SGD([LINEAR, 3], 0.1),
        TypeError,
        "modules[1] must have a mapping parameters and set_parameters; got int",
    ),
    (lambda: nn.SGD([LINEAR, LINEAR], 0.1), ValueError, "modules must have each layer once; got modules[1] a second"),
    (lambda: nn.SGD([LINEAR], -0.1), ValueError, "learning_rate must be a number in [0, inf); got -0.1"),
    (lambda: nn.SGD([LINEAR], "0.1"), TypeError, "learning_rate must be a number in [0, inf); got str '0.1'"),
    (lambda: nn.SGD([LINEAR], math.nan), ValueError, "learning_rate must be a number in [0, inf); got nan"),
    (lambda: nn.SGD([LINEAR], 0.1, momentum=1.0), ValueError, "momentum must be a number in [0, 1); got 1.0"),
    (lambda: nn.SGD([LINEAR], 0.1, nesterov=True), ValueError, "momentum must be above 0 with nesterov=True; got 0.0"),
    (lambda: nn.SGD([LINEAR], 0.1, 0.9, nesterov="yes"), TypeError, "nesterov must be True or False; got str 'yes'"),
    (lambda: nn.SGD([LINEAR], 0.1, weight_decay=math.inf), ValueError, "weight_decay must be a number in [0, inf)"),
    (
        lambda: setattr(SGD, "learning_rate", None),
        TypeError,
        "learning_rate must be a number in [0, inf); got NoneType",
    ),
    (lambda: nn.Adam([LINEAR], betas=0.9), TypeError, "betas must be two numbers; got float 0.9"),
    (lambda: nn.Adam([LINEAR], betas=(0.9,)), ValueError, "betas must be two numbers; got tuple (0.9,)"),
    (lambda: nn.Adam([LINEAR], betas=(0.9, 1)), ValueError, "betas[1] must be a number in [0, 1); got 1.0"),
    (lambda: nn.Adam([LINEAR], eps=0), ValueError, "eps must be a number in (0, inf); got 0.0"),
    (lambda: SGD.step(GRADS), TypeError, "grads must be a sequence, one for each module; got Gradients"),
    (lambda: SGD.step([GRADS]), ValueError, "grads must have one for each of 2 modules; got 1"),
    (
        lambda: SGD.step([GRADS, 3]),
        TypeError,
        "grads[1] must have a mapping parameters, as backward returns it; got int",
    ),
    (lambda: SGD.step([GRADS, GRADS]), ValueError, "grads[1].parameters must have names weight; got weight, bias"),
    (
        lambda: SGD.step([dataclasses.replace(GRADS, parameters={"weight": np.ones((2, 3))}), None]),
        ValueError,
        "grads[0].parameters must have names weight, bias; got weight",
    ),
    (
        lambda: SGD.step([GRADS, nn.Gradients(None, {"weight": np.ones((2, 4))})]),
        ValueError,
        "grads[1].parameters['weight'] must have shape (4, 2); got (2, 4)",
    ),
    (lambda: nn.clip_by_global_norm(GRADS, 1.0), TypeError, "grads must be a sequence of gradients, as in [grads]"),
    (
        lambda: nn.clip_by_global_norm([3], 1.0),
        TypeError,
        "grads[0] must be a dataclass, as backward returns it; got int",
    ),
    (lambda: nn.clip_by_global_norm([TAPE], 1.0), TypeError, "grads[0] must have a mapping parameters"),
    (lambda: nn.clip_by_global_norm([GRADS], 0), ValueError, "max_norm must be a number in (0, inf]; got 0.0"),
    (lambda: nn.clip_by_global_norm([GRADS], math.nan), ValueError, "max_norm must be a number in (0, inf]; got nan"),
    (lambda: nn.clip_by_global_norm([GRADS], 1, error_if_nonfinite=1), TypeError, "error_if_nonfinite must be True or"),
    (
        lambda: nn.clip_by_global_norm([GRADS, nn.Gradients(None, {"a": "b"})], 1.0),
        TypeError,
        "grads[1].parameters['a'] must be an array of real numbers; got str",
    ),
]
if "torch" not in WITHOUT:
    BAD += [
        (
            lambda: LINEAR(torch.ones(3, requires_grad=True)),
            TypeError,
            "x must be an array of real numbers; got Tensor",
        ),
        (lambda: nn.SGD([torch.nn.Linear(1, 1)], 0.1), TypeError, "modules[0] must have a mapping parameters"),
    ]


@pytest.mark.parametrize(("call", "error", "message"), BAD, ids=[message for _, _, message in BAD])
def test_bad_input(call: Callable[[], Any], error: type[Exception], message: str) -> None:
    before = copy.deepcopy([dict(layer.parameters) for layer in (LINEAR, EMBEDDING)])
    with pytest.raises(error) as caught:
        call()
    assert str(caught.value).startswith(message)
    np.testing.assert_equal([dict(layer.parameters) for layer in (LINEAR, EMBEDDING)], before)
