"""The extension: the same bits as Numba, each instruction set, what it does not take, and never a stale one."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cases import ANY_CELL, CELLS, DTYPES, assert_same_bits
from conformance import as_tuple, make_layer
from random_calls import call, digest

import fastrnn
from fastrnn import sigmoid, tanh
from fastrnn.backends import choose, cython_
from fastrnn.backends.cython_ import generate, sets
from fastrnn.backends.tiled.sources import SHARED
from fastrnn.equations import trace

HERE = Path(__file__).parent
CALLS = 120  # random ones in this process
CALLS_OF_EACH = 40  # with other instructions, in a process of their own
FEW = ("lstm", "gru", "lstm_projected")  # what Numba has to compile once more for them
FUSED = [name for name in ("avx512", "avx2", "neon") if name in cython_._sets()]
NEXT = ANY_CELL[-1]  # the best that takes what the extension does not
NUMBA_CPU = {"avx512": "skylake-avx512", "avx2": "haswell", "baseline": "nehalem"}


def run(*arguments: str, **variables: str) -> str:
    """The output of Python in a process of its own, which must not fail."""
    done = run_anyhow(*arguments, **variables)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_anyhow(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("FASTRNN_")}
    command = [sys.executable, *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=HERE, env={**environment, **variables})


# --- the same bits as Numba -------------------------------------------------------------------------------------------


@pytest.mark.needs("numba")
@pytest.mark.parametrize("seed", range(CALLS))
def test_random_calls(seed: int) -> None:
    """Any cell, dtype, sizes, lengths, direction, threads: forward, backward, gradients, streams."""
    numba = call("numba", seed)
    for name, value in call("cython", seed).items():
        assert_same_bits(value, numba[name], name)


def test_digests_tell_bits_apart() -> None:
    """What the tests below compare: one last bit of one value, a sign of zero, another call."""
    values = call("cython", 3)
    same = {name: value.copy() for name, value in values.items()}
    assert digest(values) == digest(same)
    same["y 0"].flat[-1] = np.nextafter(same["y 0"].flat[-1], 9)
    assert digest(values) != digest(same)
    assert digest({"a": np.zeros(2)}) != digest({"a": -np.zeros(2)})
    assert digest(values) != digest(call("cython", 4))


def digests(backend: str, names: tuple[str, ...], **variables: str) -> list[str]:
    """Of `CALLS_OF_EACH` calls in a process of its own."""
    found = run("random_calls.py", backend, "1000", str(1000 + CALLS_OF_EACH), *names, **variables).split()
    assert len(set(found)) == CALLS_OF_EACH
    return found


@pytest.mark.needs("numba")
@pytest.mark.parametrize("isa", cython_._sets())
def test_each_instruction_set(isa: str) -> None:
    """The width of vectors does not matter, only whether there is a fused multiply-add."""
    limited = isa in NUMBA_CPU and isa != cython_._sets()[0]  # Numba takes the best set without being told
    found = digests("cython", FEW, FASTRNN_ISA=isa)
    assert found == digests("numba", FEW, **({"NUMBA_CPU_NAME": NUMBA_CPU[isa]} if limited else {}))


def test_fused_sets_agree() -> None:
    """All cells: every set with fused multiply-adds gives the same, the baseline another."""
    found = {isa: digests("cython", CELLS, FASTRNN_ISA=isa) for isa in cython_._sets()}
    assert len({tuple(found[isa]) for isa in FUSED}) <= 1
    if "baseline" in found:
        assert all(not set(found["baseline"]) & set(found[isa]) for isa in FUSED)


@pytest.mark.needs("numba")
@pytest.mark.parametrize("isa", [isa for isa in cython_._sets()[1:] if isa in NUMBA_CPU])
def test_numbas_products_with_other_vectors(isa: str) -> None:
    """Those of the weights' gradients, which the calls above have few of that are wide."""
    out = run(
        "-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-k", "products_are and numba",
        "test_products.py", NUMBA_CPU_NAME=NUMBA_CPU[isa],
    )  # fmt: skip
    assert re.search(r"(\d+) passed", out)
    assert "failed" not in out


@pytest.mark.parametrize("isa", cython_._sets())
def test_conformance_of_each_set(isa: str) -> None:
    """The oracle, gradients, denormals, and the products of the weights' gradients once more."""
    files = ["test_oracle_match.py", "test_gradients.py", "test_denormals.py", "test_products.py"]
    options = ["-q", "-p", "no:cacheprovider", "-p", "no:xdist", "-k", "cython"]
    out = run("-m", "pytest", *options, *files, FASTRNN_ISA=isa)
    assert re.search(r"(\d+) passed", out)
    assert "failed" not in out


@pytest.mark.needs("numba")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("special", [np.nan, np.inf, -np.inf, 1e30, -1e30])
@pytest.mark.parametrize("cell", CELLS)
def test_special_values(cell: str, special: float, dtype: str) -> None:
    """Where the operations' behaviour at NaN and infinities shows."""
    results = []
    for backend in ("numba", "cython"):
        options: dict[str, Any] = {"proj_size": 6} if cell == "lstm_projected" else {}
        layer = make_layer(cell, 3, 19, backend=backend, dtype=dtype, **options)
        x = np.ones((3, 5, 3))
        x[1, 2, 0] = special
        y, state, tape = layer.record(x)
        back = layer.backward(tape, np.ones_like(y))
        results.append([y, *as_tuple(state), back.x, *as_tuple(back.state), *back.parameters.values()])
    for numba, cython in zip(*results, strict=True):
        assert_same_bits(cython, numba, cell)


# --- which instruction set --------------------------------------------------------------------------------------------

SHOW = "from fastrnn.backends import cython_; print(cython_.instruction_set())"


def test_the_best_set_is_chosen() -> None:
    """Without the variable, or with an empty one."""
    best = cython_._sets()[0]
    assert run("-c", SHOW).strip() == run("-c", SHOW, FASTRNN_ISA="").strip() == best


@pytest.mark.parametrize("isa", cython_._sets())
def test_a_set_is_forced(isa: str) -> None:
    """And its vectors are those that are packed for."""
    code = f"{SHOW}; from fastrnn.backends import load; print(load('cython').native.target)"
    assert run("-c", code, FASTRNN_ISA=isa).splitlines() == [isa, str(sets.SETS[isa].target)]


@pytest.mark.parametrize("name", ["mmx", "AVX2", "neon" if "neon" not in cython_._sets() else "avx2"])
def test_a_wrong_set(name: str) -> None:
    """An error that says which there are; the other backends work."""
    done = run_anyhow("-c", "import fastrnn; fastrnn.LSTM(3, 4, backend='cython')", FASTRNN_ISA=name)
    assert done.returncode != 0
    expected = "RuntimeError: backend: the backend 'cython' is not available: FASTRNN_ISA: expected one of .*, got "
    assert re.search(expected + repr(name), done.stderr), done.stderr
    assert run("-c", "import fastrnn; print(fastrnn.LSTM(3, 4).backend)", FASTRNN_ISA=name).strip() == NEXT


@pytest.mark.parametrize(
    ("platform", "expected"),
    [
        ("linux-x86_64", ["avx512", "avx2", "baseline"]),
        ("win-amd64", ["avx512", "avx2", "baseline"]),
        ("win-arm64", ["neon"]),
        ("macosx-10.9-x86_64", ["avx512", "avx2", "baseline"]),
        ("macosx-11.0-arm64", ["neon"]),
        ("arm64", ["neon"]),
        ("linux-aarch64", ["neon"]),
        ("linux-riscv64", ["baseline"]),
        ("win32", ["baseline"]),
    ],
)
def test_sets_of_platforms(platform: str, expected: list[str]) -> None:
    """What a build makes."""
    assert sets.sets_of(platform) == expected


# --- cells that it does not take --------------------------------------------------------------------------------------


def decaying(x: Any, h: Any, R: Any) -> Any:
    """No cell of the library."""
    return sigmoid(x.d) * h + tanh(x.n + R.n(h))


def test_it_has_the_cells_that_ship() -> None:
    """For each instruction set and dtype; by their equations, whatever their names."""
    equations = {trace(getattr(fastrnn.cells, name)).text for name in fastrnn.cells.__all__}
    assert equations == {cell.text for cell in generate.shipped()}
    for _, _, _, found in cython_.extension().units():
        assert set(found) == equations

    def my_own_rnn(x: Any, h: Any, R: Any) -> Any:
        return tanh(x.h + R.h(h))

    assert fastrnn.Recurrent(my_own_rnn, 2, 3, backend="cython")(np.zeros((2, 2)))[0].shape == (2, 3)


def test_a_cell_that_it_has_not() -> None:
    """Asked for by name: an error."""
    expected = (
        "backend: the backend 'cython' does not take this cell: the extension has the cells of fastrnn.cells, and "
    )
    with pytest.raises(RuntimeError, match=f"^{expected}'decaying' is none of them$"):
        fastrnn.Recurrent(decaying, 2, 3, backend="cython")


def test_it_goes_to_the_next_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the variable: to Numba, or without it to NumPy; said once for each cell."""
    monkeypatch.setenv("FASTRNN_BACKEND", "cython")
    monkeypatch.setattr(sys.modules["fastrnn.backends"], "_said", set())
    with pytest.warns(RuntimeWarning, match=f"^cell 'decaying' runs on {NEXT!r}: the extension has"):
        assert fastrnn.Recurrent(decaying, 2, 3).backend == NEXT
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert fastrnn.Recurrent(decaying, 2, 3).backend == NEXT
        assert fastrnn.LSTM(2, 3).backend == "cython"
        assert choose() == "cython"


def test_without_numba() -> None:
    """The extension is chosen, and NumPy for a cell that it has not, which is said."""
    code = (
        "import sys, warnings; sys.modules['numba'] = None; import fastrnn, test_cython\n"
        "warnings.simplefilter('always')\n"
        "print(fastrnn.LSTM(2, 3).backend, fastrnn.Recurrent(test_cython.decaying, 2, 3).backend)\n"
        "print('numba' in sys.modules and sys.modules['numba'] is not None)\n"
    )
    done = run_anyhow("-c", code)
    assert done.stdout.split() == ["cython", "numpy", "False"], done.stderr
    assert "RuntimeWarning: cell 'decaying' runs on 'numpy': the extension has the cells" in done.stderr


# --- not built, or built from something else --------------------------------------------------------------------------


def test_not_built() -> None:
    """A reason; the note that a failed build leaves is part of it."""
    code = "import sys; sys.modules['fastrnn_ext._scan'] = None; import fastrnn; print(fastrnn.backends()['cython'])"
    assert run("-c", code).startswith("not available: the extension fastrnn_ext is not built: ")
    code = "import sys; sys.modules['fastrnn_ext'] = None; import fastrnn; print(fastrnn.backends()['cython'])"
    assert run("-c", code).strip() == "not available: the extension fastrnn_ext is not installed"


@pytest.mark.parametrize("name", ["fastrnn/plan.py", "fastrnn/backends/tiled/tile.py", "fastrnn/approximations.py"])
def test_stale(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An extension that was built from another source is refused, and the reason names it."""
    right = sets.fingerprints
    monkeypatch.setattr(sets, "fingerprints", lambda folder: {**right(folder), name: "another"})
    cython_._missing.cache_clear()
    try:
        assert str(fastrnn.backends()["cython"]) == (
            f"not available: the extension fastrnn_ext was built from another {name}; install fastrnn again"
        )
    finally:
        monkeypatch.undo()
        cython_._missing.cache_clear()
    assert fastrnn.backends()["cython"]


def test_every_source_counts() -> None:
    """All that the generator imports is among what is compared, and what it has in common with Numba's."""
    code = "import sys, fastrnn.backends.cython_.generate; print(*[m for m in sys.modules if m.startswith('fastrnn.')])"
    known = {name.removesuffix(".py").replace("/", ".") for name in sets.fingerprints(HERE)}
    needed = {
        name for name in run("-c", code).split() if re.search(r"\.(tiled|cython_)\.|\.(plan|graph|derive)$", name)
    }
    assert needed
    assert needed | {f"fastrnn.{name.replace('/', '.')}" for name in SHARED} <= known
