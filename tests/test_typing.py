"""What a type checker sees of the package as users have it: `mypy --strict` on a program of theirs."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import fastrnn

pytestmark = pytest.mark.needs("mypy")

PROGRAM = """
import numpy as np

import fastrnn
from fastrnn import nn
from fastrnn.cells import lstm_peephole

lstm = fastrnn.LSTM(80, 12, num_layers=2, bidirectional=True)
y, state = lstm(np.zeros((5, 3, 80), np.float32), lengths=[5, 0, 2])
y, state, tape = lstm.record(np.zeros((5, 3, 80)))
gradients = lstm.backward(tape, y)
head = nn.Linear(24, 5)
optimizer = nn.Adam([lstm, head], learning_rate=1e-3)
stream = fastrnn.Recurrent(lstm_peephole, 3, 4).stream(batch_size=2)
reveal_type(lstm.cell.gates)
reveal_type(tape)
reveal_type(gradients.x)
reveal_type(stream.step(np.zeros((2, 3))))
reveal_type(nn.Linear)
reveal_type(fastrnn.backends()["numpy"].reason)
reveal_type(lstm.gate("f").weight_ih)
fastrnn.LSTM("80", 12)
fastrnn.Transformer
"""


def test_a_users_program(tmp_path: Path) -> None:
    """Lazy names and records have their types, and the two mistakes at the end are found."""
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--cache-dir", "cache", "program.py"]
    place = Path(fastrnn.__file__).parents[1]  # an installed package is found without being told, thanks to py.typed
    environment = {} if place.name == "site-packages" else {"MYPYPATH": str(place)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    lines = [line.removeprefix("program.py:") for line in done.stdout.splitlines()]
    revealed = [line.split('"')[1] for line in lines if "Revealed type is" in line]
    assert [kind.replace("builtins.", "") for kind in revealed[:2]] == ["tuple[str, ...]", "fastrnn.tape.Tape"]
    assert [kind.partition("[")[0] for kind in revealed[2:4]] == ["numpy.ndarray"] * 2
    assert "fastrnn.nn.linear.Linear" in revealed[4]
    assert revealed[5].endswith("str")
    assert revealed[6].startswith("numpy.ndarray[")
    assert revealed[6].endswith("None")
    errors = [line for line in lines if "error:" in line]
    assert len(errors) == 2, done.stdout + done.stderr
    assert 'Argument 1 to "LSTM" has incompatible type "str"; expected "int"' in errors[0]
    assert 'Module has no attribute "Transformer"' in errors[1]
