"""The examples run as they stand, on every backend, and what they claim is so."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import fastrnn

ROOT = Path(__file__).parents[1]
EXAMPLES = {  # what each prints, on the backends that keep the bits
    "quickstart.py": ["row 2 alone gives the same bits: True", "loss at last:"],
    "custom_cell.py": ["min_gru: gates z n, 352 parameters", "light_gru: gates z n, 864 parameters"],
    "streaming.py": ["bit for bit: True", "and so is the state: True", "in chunks as well: True"],
}


def test_every_example_is_tested() -> None:
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == set(EXAMPLES)


@pytest.mark.parametrize("backend", [name for name, found in fastrnn.backends().items() if found])
@pytest.mark.parametrize("name", EXAMPLES)
def test_example(name: str, backend: str, tmp_path: Path) -> None:
    variables = {"PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "error", "FASTRNN_BACKEND": backend}
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / name],
        cwd=tmp_path,
        env={**os.environ, **variables},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stderr) == (0, "")
    for line in EXAMPLES[name]:
        assert (line if backend != "numpy" else line.removesuffix("True")) in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_losses_fall(tmp_path: Path) -> None:
    def printed(name: str) -> str:
        command = [sys.executable, ROOT / "examples" / name]
        variables = {**os.environ, "PYTHONPATH": str(ROOT)}
        return subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120, check=True).stdout

    losses = [float(line.split()[3].rstrip(",")) for line in printed("quickstart.py").splitlines() if "loss" in line]
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < 0.9 * losses[0]
    steps = [line.split() for line in printed("custom_cell.py").splitlines() if "before" in line]
    assert len(steps) == 2
    assert all(float(words[1]) > float(words[5]) for words in steps)
