"""What all tests share: a fixture with each backend that has to be there, and the state of the process put back."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import numpy as np
import pytest
from cases import BACKENDS, WITHOUT

import fastrnn

# Files that cannot even be imported without a package; in others the mark `needs` stands at single tests.
_FILES = {"numba": ["test_loops.py"], "sktime": ["test_demo.py"], "onnx": ["test_onnx.py", "test_oracle.py"]}
collect_ignore = [file for name in WITHOUT for file in _FILES.get(name, [])]


def pytest_configure() -> None:
    """Take Ctrl-C, which a shell that runs the suite in the background has it and all that it starts ignore."""
    if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_report_header() -> str:
    """Say what is left out."""
    return f"FASTRNN_TEST_WITHOUT: {' '.join(WITHOUT) or 'nothing is left out'}"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out the tests that need what this environment does not have."""
    left_out = [item for item in items if WITHOUT and _is_left_out(item)]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def _is_left_out(item: pytest.Item) -> bool:
    """Whether a test needs what is missing, or is for each of some backends of which none is here."""
    for mark in item.iter_markers():
        if mark.name == "needs" and set(mark.args) & set(WITHOUT):
            return True
        if mark.name == "skip" and "empty parameter set" in mark.kwargs["reason"]:
            return True
    return False


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
