"""What a step is given: compiled code itself looks at what x and y are, and takes nothing but plain arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import fastrnn

I, H = 5, 6  # noqa: E741
Array = np.ndarray


class Subclass(np.ndarray):
    """An array that may mean something else."""


def misaligned(values: Array) -> Array:
    """The same values from an odd address on."""
    memory = np.zeros(values.nbytes + 1, np.uint8)[1:]
    found = memory.view(values.dtype).reshape(values.shape)
    found[...] = values
    assert not found.flags.aligned
    return found


def strided(values: Array) -> Array:
    """The same values, every second one of a longer array."""
    found = np.zeros((*values.shape, 2), values.dtype)[..., 0]
    found[...] = values
    return found


# The same values in another form; what of them is plain is taken as it is.
PLAIN: dict[str, Callable[[Array], Any]] = {
    "itself": lambda values: values,
    "a row of more": lambda values: np.stack([values, values])[1],
    "a dtype of its own": lambda values: values.view(np.dtype(values.dtype, metadata={"unit": "m"})),
}
CONVERTED: dict[str, Callable[[Array], Any]] = {
    "a list": lambda values: values.tolist(),
    "a subclass": lambda values: values.view(Subclass),
    "another dtype": lambda values: values.astype(np.float64 if values.dtype == np.float32 else np.float32),
    "integers as wide": lambda values: np.round(values).astype(f"i{values.itemsize}"),
    "another byte order": lambda values: values.astype(values.dtype.newbyteorder()),
    "strided": strided,
    "misaligned": misaligned,
}
WRONG: dict[str, Callable[[Array], Any]] = {
    "nothing": lambda values: None,
    "text": lambda values: "text",
    "a class": lambda values: np.ndarray,
    "an axis more": lambda values: values[None, None],
    "no axis": lambda values: values.ravel()[0],
    "one value less": lambda values: np.ascontiguousarray(values[..., 1:]),
    "one value more": lambda values: np.concatenate([values, values[..., :1]], axis=-1),
    "empty": lambda values: values[..., :0],
}


@pytest.fixture(params=[np.float32, np.float64], ids=["float32", "float64"])
def dtype(request: pytest.FixtureRequest) -> Any:
    return request.param


@pytest.fixture(params=["(I,)", "(1, I)", "(3, I)"])
def leading(request: pytest.FixtureRequest) -> tuple[int, ...]:
    return {"(I,)": (), "(1, I)": (1,), "(3, I)": (3,)}[request.param]


class Case:
    """A stream, and what goes in and out of it."""

    def __init__(self, backend: str, dtype: Any, leading: tuple[int, ...]) -> None:
        self.layer = fastrnn.GRU(I, H, num_layers=2, backend=backend, dtype=dtype)
        self.x = np.random.default_rng(0).normal(size=(*leading, I)).astype(dtype)
        self.batch = leading[0] if leading else 1
        self.y = np.full((*leading, H), np.nan, dtype)
        self.stream = self.layer.stream(self.batch)

    def expected(self, x: Any) -> Array:
        """What comes of some values in plain form."""
        y = self.layer(np.array(x, self.x.dtype).reshape(1, self.batch, I))[0]
        return y.reshape(self.y.shape)

    def run(self, x: Any, y: Any) -> int:
        """The step that a stream calls."""
        self.stream.step(self.x, out=self.y.copy())  # binds it
        self.stream.reset()
        return self.stream._steps.run(x, y)

    def close(self, got: Any, x: Any) -> None:
        np.testing.assert_allclose(got, self.expected(x), rtol=1e-6, atol=1e-7)


@pytest.fixture
def case(backend: str, dtype: Any, leading: tuple[int, ...]) -> Case:
    return Case(backend, dtype, leading)


@pytest.mark.parametrize("name", PLAIN)
def test_a_plain_array_is_taken_as_it_is(case: Case, name: str) -> None:
    x, y = PLAIN[name](case.x), PLAIN[name](case.y)
    assert case.run(x, y) == 1
    case.close(y, case.x)
    case.x.flags.writeable = False  # it is read alone
    assert case.run(case.x, y) == 1


@pytest.mark.parametrize("name", [*CONVERTED, *WRONG])
def test_anything_else_is_left_alone(case: Case, name: str) -> None:
    form = (CONVERTED | WRONG)[name]
    assert case.run(form(case.x), case.y) == 0
    assert np.isnan(case.y).all()
    y = form(case.y) if name != "integers as wide" else np.zeros(case.y.shape, f"i{case.y.itemsize}")
    before = np.array(y, copy=True, dtype=object)
    assert case.run(case.x, y) == 0
    if isinstance(y, np.ndarray):
        np.testing.assert_array_equal(y.astype(object).astype(str), before.astype(str))
    assert not np.any(case.stream.state)


def test_an_output_that_cannot_be_written_is_left_alone(case: Case) -> None:
    case.y.flags.writeable = False
    assert case.run(case.x, case.y) == 0
    assert np.isnan(case.y).all()
    with pytest.raises(ValueError, match="out: expected an array that can be written, got a read-only one"):
        case.stream.step(case.x, out=case.y)


def test_the_other_form_of_one_row_is_left_alone(backend: str, dtype: Any) -> None:
    case = Case(backend, dtype, ())
    assert case.run(case.x, case.y[None]) == 0
    assert case.run(case.x[None], case.y) == 0
    with pytest.raises(ValueError, match=r"out: expected an array of shape \(6,\)"):
        case.stream.step(case.x, out=case.y[None])


@pytest.mark.parametrize("name", CONVERTED)
def test_what_can_be_converted_is(case: Case, name: str) -> None:
    x = CONVERTED[name](case.x)
    y = case.stream.step(x)
    assert type(y) is np.ndarray
    assert y.dtype == case.x.dtype
    case.close(y, x)
    case.stream.reset()
    assert case.stream.step(x, out=case.y) is case.y
    np.testing.assert_array_equal(case.y, y)


@pytest.mark.parametrize("name", ["a subclass", "strided", "misaligned"])
def test_an_output_of_another_form_is_written(case: Case, name: str) -> None:
    out = CONVERTED[name](case.y)
    assert case.stream.step(case.x, out=out) is out
    case.close(out, case.x)


@pytest.mark.parametrize("name", WRONG)
def test_what_cannot_be_is_an_error(case: Case, name: str) -> None:
    with pytest.raises((TypeError, ValueError), match="x: expected"):
        case.stream.step(WRONG[name](case.x))
    if name != "nothing":
        with pytest.raises((TypeError, ValueError), match="out: expected"):
            case.stream.step(case.x, out=WRONG[name](case.y))
    assert not np.any(case.stream.state)
