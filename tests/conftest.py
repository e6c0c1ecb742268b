"""What all tests share: a fixture with each backend that has to be there, and the state of the process put back."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest
from cases import BACKENDS

import fastrnn


@pytest.fixture(params=BACKENDS)
def backend(request: pytest.FixtureRequest) -> str:
    """The name of each backend in turn. One that is missing is a failure, not a skip."""
    found = fastrnn.backends()[request.param]
    assert found, f"the backend {request.param!r} has to be here and is {found}"
    return str(request.param)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    yield
    fastrnn.set_num_threads(1)


@pytest.fixture
def rng() -> np.random.Generator:
    """A generator with a seed of its own for each test."""
    return np.random.default_rng(7)
