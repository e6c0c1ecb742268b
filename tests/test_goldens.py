"""Every golden case of PyTorch by the public interface: outputs, states, and all gradients."""

from __future__ import annotations

import golden
import pytest
from cases import DTYPES
from conformance import check_golden

GOLDEN = {case_id: (config, arrays) for kind in golden.KINDS for case_id, config, arrays in golden.cases(kind)}


@pytest.mark.parametrize("case", GOLDEN)
@pytest.mark.parametrize("dtype", DTYPES)
def test_golden(backend: str, dtype: str, case: str) -> None:
    """As PyTorch computed it in float64, within the tolerance of the dtype."""
    check_golden(*GOLDEN[case], backend, dtype)
