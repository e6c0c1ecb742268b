"""Which module may import which, and what comes in with ``import fastrnn``."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

import fastrnn
from fastrnn.backends.tiled.sources import SHARED

ROOT = Path(fastrnn.__file__).parent
FILES = {str(path.relative_to(ROOT).with_suffix("")).replace("/", "."): path for path in sorted(ROOT.rglob("*.py"))}


def imported(module: str) -> set[str]:
    """The full names of what a module imports (``from a import b``: both a and a.b), but for type checking alone."""
    found: set[str] = set()
    package = ["fastrnn", *module.split(".")[:-1]]
    waiting: list[ast.AST] = [ast.parse(FILES[module].read_text(encoding="utf-8"))]
    while waiting:
        node = waiting.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            waiting += node.orelse
            continue
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            start = package[: len(package) + 1 - node.level] if node.level else []
            source = ".".join([*start, *([node.module] if node.module else [])])
            found |= {source} | {f"{source}.{alias.name}" for alias in node.names}
        waiting += ast.iter_child_nodes(node)
    return found


def ours(module: str) -> set[str]:
    """What a module of the package imports of the package, without the package's name."""
    names = {name for name in imported(module) if name.startswith("fastrnn.")}
    for node in ast.walk(ast.parse(FILES[module].read_text(encoding="utf-8"))):  # import fastrnn; fastrnn.layers...
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "fastrnn":
            names |= {f"fastrnn.{node.attr}"} - {"fastrnn.__file__"}
    return {name.removeprefix("fastrnn.") for name in names}


def under(names: set[str], *prefixes: str) -> set[str]:
    """Those that are one of some modules or within it."""
    return {name for name in names if any(name == p or name.startswith(f"{p}.") for p in prefixes)}


LAYERS = (
    "layer",
    "layers",
    "stack",
    "checkpoints",
    "recurrent",
    "stream",
    "parameters",
    "layout",
    "tape",
    "summary",
    "initial",
)
EQUATIONS = ("record", "graph", "equations", "derive", "plan")


def test_the_rules_speak_of_files_that_exist() -> None:
    """A renamed file must not slip through."""
    for module in (
        *LAYERS,
        *EQUATIONS,
        "approximations",
        "threads",
        "checks",
        "backends.__init__",
        "backends.contract",
    ):
        assert module in FILES, f"{module} is gone: mend the rules"


@pytest.mark.parametrize("module", [*EQUATIONS, *(m for m in FILES if m.startswith("cells."))])
def test_equations_know_no_backend_and_no_layer(module: str) -> None:
    """Equations, cells, derivative and plan import one another at most."""
    names = ours(module)
    assert names == under(names, "cells", *EQUATIONS)


def test_graph_before_equations_before_derive_before_plan() -> None:
    """And among themselves only downward."""
    for index, module in enumerate(EQUATIONS):
        assert not under(ours(module), *EQUATIONS[index:], "cells"), module


def test_approximations_import_nothing() -> None:
    """They are formulas."""
    assert not ours("approximations")


@pytest.mark.parametrize("module", [m for m in FILES if m.startswith("backends.")])
def test_backends_know_no_layer(module: str) -> None:
    """Backends import equations, plans, approximations, the contract, threads' checkpoint, buffers, and themselves."""
    names = ours(module)
    cells = ("cells",) if module == "backends.cython_.generate" else ()  # which prints those that ship
    known = under(names, "backends", "approximations", "threads", "reuse", *EQUATIONS, *cells)
    assert names - {"checks", "checks.Array"} == known  # of the checks the type alone


@pytest.mark.parametrize("module", [m for m in FILES if m.startswith("backends.")])
def test_backends_do_not_know_one_another(module: str) -> None:
    """Nor does the contract know any; the registry names them, and imports them when asked."""
    family = module.split(".")[1]
    compiled = {name: (f"backends.{name}", "backends.tiled") for name in ("numba_", "cython_", "tiled")}
    own = {**compiled, "numpy_": ("backends.evaluate", "backends.numpy_pack", "backends.steps")}.get(family, ())
    between = {"evaluate": ("backends.steps",), "numpy_pack": ("backends.evaluate",)}
    helpers = {**between, "steps": (), "contract": (), "__init__": ()}.get(family, ())
    assert not under(ours(module), "backends") - under(ours(module), "backends.contract", *own, *helpers) - {"backends"}


@pytest.mark.parametrize("module", [m for m in FILES if m.startswith(("backends.tiled.", "backends.cython_."))])
def test_only_numba_s_own_files_import_numba(module: str) -> None:
    """What compiled backends share, and the extension, work without."""
    assert not {name.partition(".")[0] for name in imported(module)} & {"numba", "llvmlite"}


def closure(modules: set[str]) -> set[str]:
    """Some modules of the package, and all that they import of it."""
    found, waiting = set[str](), list(modules)
    while waiting:
        module = waiting.pop()
        if module not in found:
            found.add(module)
            waiting += {part for name in ours(module) for part in (name, name.rpartition(".")[0])} & FILES.keys()
    return found


def test_what_kernels_are_emitted_from_is_listed() -> None:
    """An edit of it makes them stale. What else compiled backends import has no part in what they emit."""
    own = {name for name in FILES if name.startswith(("backends.numba_.", "backends.cython_.", "backends.tiled."))}
    others = under(closure(own), "cells", "checks", "record", "reuse", "threads")
    assert closure(own) - own - others == {name.replace("/", ".") for name in SHARED}


CHOICES = ("backends.load", "backends.choose", "backends.choose_again")


@pytest.mark.parametrize("module", LAYERS)
def test_layers_know_no_backend_by_name(module: str) -> None:
    """They know the registry and the contract."""
    names = under(ours(module), "backends")
    assert names <= {"backends", "backends.contract"} | {
        name for name in names if name.startswith("backends.contract.") or name in CHOICES
    }
    text = FILES[module].read_text(encoding="utf-8")
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Compare):
            assert not {"'numba'", "'numpy'", "'cython'"} & {ast.unparse(c) for c in [node.left, *node.comparators]}


@pytest.mark.parametrize("module", [m for m in FILES if m.startswith("nn.")])
def test_nn_knows_nothing_of_the_rest(module: str) -> None:
    """What surrounds a recurrent layer needs none."""
    names = ours(module)
    assert names == under(names, "nn")


def modules_after(code: str) -> set[str]:
    """The modules that are there after some code in a process of its own, by their first names."""
    program = f"{code}\nimport sys, json\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


def first_names(modules: set[str]) -> set[str]:
    """numpy.linalg -> numpy, without those of the standard library and of the interpreter."""
    return {name.partition(".")[0] for name in modules} - set(sys.stdlib_module_names)


def test_import_fastrnn_brings_in_numpy_alone() -> None:
    """No Numba, SciPy, llvmlite, PyTorch, sktime; nothing that NumPy does not bring with it."""
    alone, before = modules_after("import fastrnn"), modules_after("import numpy")
    assert not first_names(alone) & {
        "numba",
        "llvmlite",
        "scipy",
        "torch",
        "onnx",
        "sktime",
        "pandas",
        "rich",
        "safetensors",
    }
    assert first_names(alone) - first_names(before) == {"fastrnn"}


LATE = {  # what takes milliseconds and a call does without: these come when they are needed
    *("numpy.random", "dataclasses", "hashlib", "traceback", "argparse", "json", "subprocess"),
    *("fastrnn.nn", "fastrnn.tape", "fastrnn.bench", "fastrnn.commands", "fastrnn.backends.numba_"),
}


@pytest.mark.parametrize("also", ["", "\nfastrnn.LSTM(3, 4, backend='numpy')([[1.0, 2.0, 3.0]])"])
def test_nothing_is_imported_before_it_is_needed(also: str) -> None:
    """Neither by ``import fastrnn`` nor by a first call; what the interpreter and NumPy have brought does not count."""
    code = f"import sys, numpy\nbefore = set(sys.modules)\nimport fastrnn{also}"
    report = "print(json.dumps(sorted(set(sys.modules) - before)))"
    program = f"{code}\nfound = set(sys.modules)\nimport json\n{report.replace('set(sys.modules)', 'found')}"
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert not LATE & set(json.loads(done.stdout))


def test_lazy_names_are_names() -> None:
    """They are listed, imported by name, and the same objects ever after; what is no name is an AttributeError."""
    program = """
import sys, fastrnn
assert "fastrnn.nn" not in sys.modules
assert {"nn", "Tape", "Gradients", "Recurrent"} <= set(dir(fastrnn))
assert set(fastrnn.__all__) <= set(dir(fastrnn))
assert "fastrnn.nn" not in sys.modules
from fastrnn import nn, Tape
assert nn is fastrnn.nn is sys.modules["fastrnn.nn"]
assert Tape is fastrnn.Tape is sys.modules["fastrnn.tape"].Tape
from fastrnn import *
assert Gradients is fastrnn.Gradients
try:
    fastrnn.Transformer
except AttributeError as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert done.stdout == "module 'fastrnn' has no attribute 'Transformer'\n"


def test_numpy_backend_brings_in_numpy_alone() -> None:
    """A layer on the reference backend needs nothing else, either."""
    code = "import fastrnn\nfastrnn.LSTM(3, 4, backend='numpy')([[1.0, 2.0, 3.0]])"
    assert not first_names(modules_after(code)) & {"numba", "llvmlite", "scipy", "torch"}


@pytest.mark.needs("numba")
def test_making_a_layer_does_not_import_numba() -> None:
    """Only computing does."""
    found = first_names(
        modules_after("import fastrnn\nprint(fastrnn.LSTM(3, 4, backend='numba').summary(), fastrnn.backends())")
    )
    assert not found & {"numba", "llvmlite"}


@pytest.mark.needs("numba")
def test_a_backend_that_is_not_chosen_is_not_looked_for() -> None:
    """Numba is here and takes every cell: nobody has to ask for the extension."""
    code = "import os\nos.environ.pop('FASTRNN_BACKEND', None)\nimport fastrnn\nprint(fastrnn.LSTM(3, 4).backend)"
    found = modules_after(code)
    assert "fastrnn.backends.numba_" in found
    assert not {name for name in found if name.startswith(("fastrnn_ext", "fastrnn.backends.cython_"))}


@pytest.mark.needs("numba")
def test_numba_backend_needs_no_scipy() -> None:
    """Kernels are compiled where SciPy cannot be imported."""
    computes = "import fastrnn\nfastrnn.LSTM(3, 4, backend='numba')([[1.0, 2.0, 3.0]])"
    code = f"import sys\nsys.modules['scipy'] = None\n{computes}"
    found = modules_after(code)
    assert "numba" in found
    assert not {name for name in found if name.startswith("scipy.")}
