"""Run the suite, installed from the source distribution, on every Python here, the oldest versions, and NumPy alone.

    python tests/pythons.py dist build/pythons [arguments of pytest]

Each environment is a virtual environment of its own. The tests run in a folder in which the package is not, so that
what they test is what is installed. PyTorch is left out: `make test` has it.

The oldest versions are those that pyproject.toml allows, on the oldest Python here, and not only of what the package
runs with: the extension is built by the oldest setuptools and Cython, against the oldest NumPy that they may build for.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
VERSIONS = tuple(f"3.{minor}" for minor in range(10, 15))
TOOLS = ("pytest>=8", "pytest-xdist>=3.5", "hypothesis>=6.100", "onnx>=1.16", "matplotlib>=3.8", "rich>=13")
TYPES = ("mypy>=1.14",)
DEMO = ("sktime>=0.30",)


class Environment(NamedTuple):
    """One that the suite runs in."""

    name: str
    python: str
    requirements: tuple[str, ...]
    without: str
    build: tuple[str, ...] = ()  # what it is built with; if nothing is said, the newest, as pip does it


def environments() -> list[Environment]:
    """Those that this machine can have; at least one Python is there, the one that runs this."""
    found = {version: path for version in VERSIONS if (path := interpreter(version))}
    missing = [version for version in VERSIONS if version not in found]
    print(f"found Python {', '.join(found)}; not found: {', '.join(missing) or 'none'}")
    listed = [Environment(v, path, ("numpy", "numba", *DEMO), "torch") for v, path in found.items()]
    first = next(iter(found.values()))
    listed.append(Environment("oldest", first, (*oldest("dependencies"), *DEMO), "torch", oldest("requires")))
    listed.append(Environment("numpy-alone", sys.executable, ("numpy",), "numba torch sktime"))
    return listed


def oldest(name: str) -> tuple[str, ...]:
    """What a list in pyproject.toml requires, each in the oldest version that it allows."""
    (line,) = re.findall(rf"^{name} = \[(.*)\]$", (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    return tuple(requirement.replace(">=", "==") for requirement in re.findall(r'"([^"]+)"', line))


def interpreter(version: str) -> str | None:
    """A Python of this version that starts."""
    path = shutil.which(f"python{version}")
    probe = [path or "", "-c", "import sys, venv; print('%d.%d' % sys.version_info[:2])"]
    if path is None or subprocess.run(probe, capture_output=True, text=True).stdout.strip() != version:
        return None
    return path


def run(environment: Environment, source: Path, folder: Path, arguments: list[str]) -> bool:
    """Make the environment anew and run the suite in it; whether all is well."""
    print(f"\n=== {environment.name}: {environment.python}, {', '.join(environment.requirements)}", flush=True)
    home = folder / environment.name
    shutil.rmtree(home, ignore_errors=True)
    scripts = make(environment.python, home, (*environment.requirements, *TOOLS, *TYPES))
    if environment.build:
        source = wheel(environment, source, home)
    subprocess.run([*pip(scripts), "install", "--quiet", "--no-deps", str(source)], check=True)
    for name in ("tests", "examples", "benchmarks"):
        shutil.copytree(ROOT / name, home / "suite" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("README.md", "pyproject.toml"):
        shutil.copy(ROOT / name, home / "suite" / name)
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "FASTRNN"))}
    variables["FASTRNN_TEST_WITHOUT"] = environment.without
    subprocess.run([str(scripts / "fastrnn"), "info"], check=True, env=variables, cwd=home / "suite")
    command = [str(scripts / "pytest"), "-q", "-n", "auto", "-p", "no:cacheprovider", *arguments]
    return subprocess.run(command, env=variables, cwd=home / "suite").returncode == 0


def make(python: str, home: Path, requirements: tuple[str, ...]) -> Path:
    """A virtual environment with what is required; the folder of its programs."""
    subprocess.run([python, "-m", "venv", str(home)], check=True)
    scripts = home / ("Scripts" if os.name == "nt" else "bin")
    subprocess.run([*pip(scripts), "install", "--quiet", *requirements], check=True)
    return scripts


def pip(scripts: Path) -> tuple[str, ...]:
    """The command of an environment."""
    return str(scripts / "python"), "-m", "pip"


def wheel(environment: Environment, source: Path, home: Path) -> Path:
    """One that is built with just what the environment says. It has to have the extension."""
    print(f"built with {', '.join(environment.build)}", flush=True)
    scripts = make(environment.python, home / "build", environment.build)
    options = ["--quiet", "--no-build-isolation", "--no-deps", "--wheel-dir", str(home / "wheels")]
    required = {**os.environ, "FASTRNN_BUILD": "required"}
    subprocess.run([*pip(scripts), "wheel", *options, str(source)], check=True, env=required)
    (built,) = (home / "wheels").glob("*.whl")
    return built


def main(dist: Path, folder: Path, arguments: list[str]) -> int:
    """Run all; 1 if one has failed."""
    (source,) = dist.glob("*.tar.gz")  # a wheel is for one Python
    only = os.environ.get("PYTHONS", "").split()
    chosen = [e for e in environments() if not only or e.name in only]
    results = {each.name: run(each, source.resolve(), folder.resolve(), arguments) for each in chosen}
    print("\n" + "\n".join(f"{name:12} {'passed' if well else 'FAILED'}" for name, well in results.items()))
    return 0 if results and all(results.values()) else 1


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3:]))
