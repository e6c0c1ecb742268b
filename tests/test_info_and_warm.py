"""`fastrnn info` and `fastrnn warm`: what they tell is so."""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import pytest
from places import compute, finished, start

import fastrnn
from fastrnn.__main__ import main

COMMAND = (
    "import sys\nfrom fastrnn.__main__ import main\nprint()\ncode = main({arguments!r})\nprint('[' + str(code) + ']')"
)


def test_info(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FASTRNN_BACKEND", raising=False)
    assert main(["info"]) == 0
    printed = capsys.readouterr().out
    used = fastrnn.LSTM(2, 3).backend
    assert f"fastrnn {fastrnn.__version__}," in printed
    assert f"NumPy {np.__version__}," in printed
    assert f"used     {used}: the first that is available; FASTRNN_BACKEND is not set\n" in printed
    for name, found in fastrnn.backends().items():
        (line,) = [line for line in printed.splitlines() if line[4:].startswith(f"{name} ")]
        assert line.startswith("  * " if name == used else "    ")
        assert ("  available" in line) if found else line.endswith(f"no: {found.reason}")


def test_info_as_json(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTRNN_BACKEND", "numpy")
    assert main(["info", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["used"], found["why"], found["threads"]) == ("numpy", "FASTRNN_BACKEND asks for it", 1)
    assert found["variables"]["FASTRNN_BACKEND"] == "numpy"
    assert {name: each["available"] for name, each in found["backends"].items()} == {
        name: bool(each) for name, each in fastrnn.backends().items()
    }


def test_info_about_a_backend_that_is_none(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FASTRNN_BACKEND", "abacus")
    assert main(["info"]) == 1
    assert capsys.readouterr().err.startswith("fastrnn info: FASTRNN_BACKEND: expected one of ")


def test_warm_without_the_compiler(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NUMBA_DISABLE_JIT", "1")
    assert main(["warm"]) == 1
    errors = capsys.readouterr().err
    assert errors.startswith("fastrnn warm: only the backend 'numba' compiles, and it is not available: ")


@pytest.mark.needs("numba")
def test_warm_compiles_what_calls_need(tmp_path: Path) -> None:
    """After it neither a call nor training nor a stream compiles; a second one finds all there; info counts them."""
    variables = {"NUMBA_CACHE_DIR": str(tmp_path)}
    warm = COMMAND.format(arguments=["warm", "--cells", "rnn_tanh", "--dtypes", "float32"])
    process = start(warm, variables)
    printed, errors = process.communicate(timeout=300)
    assert process.returncode == 0, errors
    kernels = [path for path in tmp_path.rglob("*") if path.is_file()]
    size = sum(path.stat().st_size for path in kernels)
    assert f"compiling into {tmp_path / 'fastrnn'}\n" in printed
    assert f"\n{len(kernels)} kernels compiled in " in printed
    assert f"; {len(kernels)} there now, {size / 1e6:.1f} MB in all\n[0]" in printed
    assert compute(**variables).misses == 0
    training = """
import numpy as np, fastrnn, json
layer = fastrnn.RNN(40, 70, backend="numba")
y, _, tape = layer.record(np.ones((9, 4, 40)), lengths=[9, 0, 3, 4])
layer.backward(tape, y)
stream = layer.stream()
stream.step(np.ones(40)), stream.chunk(np.ones((3, 40)))
from fastrnn.backends.numba_ import scan
functions = [f for f in vars(scan).values() if hasattr(f, "stats") and f.stats.cache_hits + f.stats.cache_misses]
print(json.dumps([sum(sum(f.stats.cache_misses.values()) for f in functions), len(functions)]))
"""
    misses, used = finished(start(training, variables))
    assert misses == 0
    assert used >= 3
    again = start(warm, variables).communicate(timeout=300)[0]
    assert "\n0 kernels compiled in " in again
    assert again.count("was there") == 3
    info = start(COMMAND.format(arguments=["info"]), variables).communicate(timeout=300)[0]
    assert f"  {tmp_path / 'fastrnn'}\n    {len(kernels)} kernels, {size / 1e6:.1f} MB, writable\n" in info


@pytest.mark.needs("numba")
def test_warm_into_a_place_that_is_none(tmp_path: Path) -> None:
    """It fails, as an image's build should, before it compiles anything."""
    (tmp_path / "occupied").write_bytes(b"")
    process = start(COMMAND.format(arguments=["warm"]), {"NUMBA_CACHE_DIR": str(tmp_path / "occupied")})
    printed, errors = process.communicate(timeout=300)
    assert printed.endswith("[1]\n")
    assert "is not writable; set NUMBA_CACHE_DIR to a directory that is" in errors


@pytest.fixture
def broken(tmp_path: Path) -> dict[str, str]:
    """The variables of a process with a Numba that cannot be imported, as if NumPy were too new for it."""
    (tmp_path / "numba").mkdir()
    (tmp_path / "numba" / "__init__.py").write_text(f"raise ImportError({WHY!r})\n")
    return {"PYTHONPATH": os.pathsep.join([str(tmp_path), str(Path(fastrnn.__file__).parents[1])])}


WHY = "Numba needs NumPy 1.0 or less."
REASON = f"it cannot be imported here: {WHY}"


def other_than_numba() -> str:
    """The best of the other backends here."""
    return next(name for name, found in fastrnn.backends().items() if found and name != "numba")


def test_a_numba_that_cannot_be_imported(broken: dict[str, str], tmp_path: Path) -> None:
    """The first call says so, and any later one of that layer; new layers and copies have another backend."""
    program = """
import copy, json, warnings
import fastrnn
layer, told = fastrnn.LSTM(3, 4), []
def tell(function):
    try:
        function()
    except RuntimeError as error:
        told.append([str(error), str(error.__cause__)])
assert layer.backend == "numba"
tell(lambda: layer([[1.0, 2.0, 3.0]]))
tell(lambda: layer([[1.0, 2.0, 3.0]]))
tell(lambda: fastrnn.LSTM(3, 4, backend="numba"))
new = fastrnn.LSTM(3, 4)
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    copied = copy.deepcopy(layer)
assert copied([[1.0, 2.0, 3.0]])[0].shape == new([[1.0, 2.0, 3.0]])[0].shape
reason = fastrnn.backends()["numba"].reason
print(json.dumps([told, new.backend, copied.backend, [str(w.message) for w in caught], reason]))
"""
    told, new, copied, warned, reason = finished(start(program, broken, tmp_path))
    other = other_than_numba()
    said = f"the backend 'numba' is not available: {REASON}"
    choose = f"{said}; choose another one, with backend={other!r} or FASTRNN_BACKEND={other}"
    assert told == [[choose, WHY], [choose, "None"], [f"backend: {said}", "None"]]
    assert new == copied == other
    assert warned == [f"a layer of backend 'numba' runs on {other!r} here: the backend is not available: {REASON}"]
    assert reason == REASON


def test_info_about_a_numba_that_cannot_be_imported(broken: dict[str, str], tmp_path: Path) -> None:
    """It says why, and what is used instead."""
    process = start(COMMAND.format(arguments=["info"]), broken, tmp_path)
    printed, errors = process.communicate(timeout=300)
    assert not errors
    assert printed.endswith("[0]\n")
    assert f"    numba   no: {REASON}\n" in printed
    assert f"\nused     {other_than_numba()}: the first that is available; FASTRNN_BACKEND is not set\n" in printed
    process = start(COMMAND.format(arguments=["info"]), {**broken, "FASTRNN_BACKEND": "numba"}, tmp_path)
    printed, errors = process.communicate(timeout=300)
    assert printed.endswith("[1]\n")
    assert errors == f"fastrnn info: FASTRNN_BACKEND: the backend 'numba' is not available: {REASON}\n"


def test_warm_with_a_numba_that_cannot_be_imported(broken: dict[str, str], tmp_path: Path) -> None:
    """There is nothing to compile with."""
    process = start(COMMAND.format(arguments=["warm"]), broken, tmp_path)
    printed, errors = process.communicate(timeout=300)
    assert printed.endswith("[1]\n")
    assert errors == f"fastrnn warm: only the backend 'numba' compiles, and it is not available: {REASON}\n"


def test_bench_measures_no_machine_with_a_numba_that_cannot_be_imported(broken: dict[str, str], tmp_path: Path) -> None:
    """It says why."""
    program = "import json\nfrom fastrnn.bench import machine\nprint(json.dumps(machine.unavailable()))"
    assert finished(start(program, broken, tmp_path)) == REASON
