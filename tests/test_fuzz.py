"""Random calls of everything public, in a process of its own, so that a crash is a failure like any other."""

from __future__ import annotations

import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest

import fastrnn

HERE = Path(__file__).parent
EXAMPLES = {"numpy": 600, "numba": 1200, "cython": 1200}  # some fifteen seconds each


def test_random_calls(backend: str) -> None:
    """See `fuzz`: right results or an error that names the argument, no warning, no crash."""
    search = f"import sys; sys.path[:] = {sys.path!r}; import fuzz; fuzz.main({backend!r}, {EXAMPLES[backend]})"
    command = [sys.executable, "-X", "faulthandler", "-W", "error", "-c", search]
    done = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stderr[-6000:]}"


def test_numbers_beyond_a_type_are_infinite(backend: str) -> None:
    """Conversion to float32 overflows without a warning, in a call as in record."""
    layer = fastrnn.RNN(1, 2, nonlinearity="relu", backend=backend)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for call in (layer, layer.record):
            assert not np.isfinite(call([[[1e300]]])[0]).all()
        layer.set_parameters({"bias_l0": [-1e300, 0.0]})
    assert layer.parameters["bias_l0"][0] == -np.inf


@pytest.mark.parametrize("bidirectional", [False, True])
def test_infinities_go_back_without_a_warning(backend: str, bidirectional: bool) -> None:
    """Through both directions, dropout and the sums of the weights' gradients."""
    layer = fastrnn.RNN(
        2, 3, nonlinearity="relu", num_layers=2, dropout=0.5, bidirectional=bidirectional, backend=backend
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        y, _, tape = layer.record(np.full((2, 1, 2), np.inf))
        layer.backward(tape, np.full(y.shape, np.inf))


def test_a_stream_of_more_rows_than_there_can_be(backend: str) -> None:
    """It is refused, not tried."""
    with pytest.raises(ValueError, match="batch_size: expected an integer of at most"):
        fastrnn.RNN(1, 2, backend=backend).stream(2**70)
