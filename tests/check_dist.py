"""What `make dist` checks of the built distributions: what is in them and how large they are.

python tests/check_dist.py dist
"""

from __future__ import annotations

import sys
import tarfile
import zipfile
from pathlib import Path, PurePosixPath

LARGEST = 5_000_000  # bytes installed, without dependencies
PACKAGES = ("fastrnn", "fastrnn_ext")
ROOT = Path(__file__).parents[1]


def check_wheel(wheel: Path) -> str:
    """The packages, typed and licensed, and nothing else: no tests, no benchmarks, nothing compiled by a test run."""
    with zipfile.ZipFile(wheel) as archive:
        sizes = {name: archive.getinfo(name).file_size for name in archive.namelist()}
    tops = {PurePosixPath(name).parts[0] for name in sizes}
    info = {top for top in tops if top.endswith(".dist-info")}
    assert len(info) == 1, tops
    assert tops - info <= set(PACKAGES), f"{wheel.name} has more than the packages: {sorted(tops)}"
    expected = {str(path.relative_to(ROOT)) for path in (ROOT / "fastrnn").rglob("*.py")} | {"fastrnn/py.typed"}
    assert expected <= set(sizes), f"{wheel.name} lacks {sorted(expected - set(sizes))}"
    assert any(name.endswith("licenses/LICENSE") for name in sizes), f"{wheel.name} has no licence"
    sources = (".pyc", ".kernel", ".c", ".o", ".h", ".pyx", ".pxi")
    junk = [name for name in sizes if "__pycache__" in name or name.endswith(sources)]
    assert not junk, f"{wheel.name} has {junk}"
    total = sum(sizes.values())
    assert total < LARGEST, f"{wheel.name} takes {total} bytes installed"
    return f"{wheel.name}: {wheel.stat().st_size / 1e6:.2f} MB, {total / 1e6:.2f} MB installed"


def check_sdist(sdist: Path) -> str:
    """The packages, and all that building and testing them need."""
    with tarfile.open(sdist) as archive:
        names = {"/".join(PurePosixPath(name).parts[1:]) for name in archive.getnames()}
    needed = {"LICENSE", "README.md", "CHANGELOG.md", "pyproject.toml", "setup.py", "tests/golden"}
    built_from = [path for path in (ROOT / "fastrnn_ext").iterdir() if path.suffix in (".pyx", ".pxi", ".h")]
    needed |= {f"fastrnn_ext/{path.name}" for path in built_from}
    needed |= {str(path.relative_to(ROOT)) for top in ("fastrnn", "tests") for path in (ROOT / top).rglob("*.py")}
    assert needed <= names, f"{sdist.name} lacks {sorted(needed - names)}"
    assert not [name for name in names if "__pycache__" in name]
    return f"{sdist.name}: {sdist.stat().st_size / 1e6:.2f} MB"


def main(folder: Path) -> None:
    """Check all there are; at least one of each."""
    wheels, sdists = sorted(folder.glob("*.whl")), sorted(folder.glob("*.tar.gz"))
    assert wheels and sdists, f"{folder} has no wheel or no source distribution"
    for line in [*map(check_wheel, wheels), *map(check_sdist, sdists)]:
        print(line)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
