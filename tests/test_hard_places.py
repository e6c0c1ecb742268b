"""Read-only installations, no home, another user, full disks, damaged and old caches, edits, many processes at once."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from places import (
    COMPUTE,
    PLAIN_USER,
    Computed,
    compute,
    copy_of_package,
    finished,
    make_read_only,
    make_writable,
    start,
)

pytestmark = pytest.mark.needs("numba")
KERNELS = 4  # of one call: what packs the weights, forward, and what calls each of them

linux = pytest.mark.skipif(sys.platform != "linux", reason="rights are given up by Linux's means")


@pytest.fixture(scope="module")
def warm(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Computed]:
    """A cache directory with the kernels of one call, and what that call gave."""
    directory = tmp_path_factory.mktemp("warm")
    found = compute(NUMBA_CACHE_DIR=str(directory))
    assert (found.backend, found.misses, found.warnings) == ("numba", KERNELS, [])
    assert len(files_of(directory)) == KERNELS
    return directory, found


@pytest.fixture
def cache(warm: tuple[Path, Computed], tmp_path: Path) -> Path:
    """A copy of it to spoil."""
    return Path(shutil.copytree(warm[0], tmp_path / "cache"))


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Path]:
    """A directory with a copy of the package, to be made read-only or to be edited."""
    copy_of_package(tmp_path / "site")
    yield tmp_path / "site"
    make_writable(tmp_path / "site")


def files_of(directory: Path) -> list[Path]:
    return sorted(path for path in directory.rglob("*") if path.is_file())


def test_a_warm_cache_compiles_nothing_and_needs_no_scipy(warm: tuple[Path, Computed]) -> None:
    """Numba imports SciPy, where it is, as soon as it prepares to compile."""
    found = compute(NUMBA_CACHE_DIR=str(warm[0]))
    assert found == warm[1]._replace(misses=0, scipy=[])


@linux
def test_read_only_installation_and_no_home(site: Path, warm: tuple[Path, Computed], tmp_path: Path) -> None:
    """The kernels are compiled in memory, and that is said once, with the way out."""
    make_read_only(site)
    working = tmp_path / "working"
    working.mkdir()
    working.chmod(0o777)
    found = compute(PLAIN_USER, working, PYTHONPATH=str(site), HOME="/nonexistent")
    assert found.file.startswith(str(site))
    assert (found.bits, found.misses) == (warm[1].bits, KERNELS)
    assert len(found.warnings) == 1
    assert "every process compiles anew" in found.warnings[0]
    assert "NUMBA_CACHE_DIR" in found.warnings[0]
    assert str(site) in found.warnings[0]
    assert not files_of(working)  # no directory of the name ~


@linux
def test_read_only_cache_of_another_user(site: Path, cache: Path, warm: tuple[Path, Computed]) -> None:
    """As in a container: warmed by root when the image is built, read by a user who can write nowhere."""
    make_read_only(site)
    make_read_only(cache)
    found = compute(PLAIN_USER, PYTHONPATH=str(site), HOME="/nonexistent", NUMBA_CACHE_DIR=str(cache))
    make_writable(cache)
    assert found == warm[1]._replace(misses=0, file=found.file, scipy=[])


@linux
def test_a_user_without_rights_on_the_package_has_a_cache_of_their_own(site: Path, tmp_path: Path) -> None:
    """In their home."""
    make_read_only(site)
    home = tmp_path / "home"
    home.mkdir()
    home.chmod(0o777)
    variables = {"PYTHONPATH": str(site), "HOME": str(home)}
    first, second = (compute(PLAIN_USER, **variables) for _ in range(2))
    assert (first.misses, first.warnings) == (KERNELS, [])
    assert (second.misses, second.bits) == (0, first.bits)
    assert len(files_of(home)) == KERNELS


def test_jit_disabled(warm: tuple[Path, Computed]) -> None:
    """Another backend is chosen; asking for this one says why it cannot be."""
    found = compute(backend=None, NUMBA_DISABLE_JIT="1")
    assert found.backend != "numba"
    assert not found.warnings
    program = """
import fastrnn, json
try:
    fastrnn.LSTM(3, 4, backend="numba")
except RuntimeError as error:
    print(json.dumps(str(error)))
"""
    said = finished(start(program, {"NUMBA_DISABLE_JIT": "1"}))
    assert said == "backend: the backend 'numba' is not available: NUMBA_DISABLE_JIT is set"
    assert compute(NUMBA_CACHE_DIR=str(warm[0]), NUMBA_DISABLE_JIT="0").backend == "numba"


@pytest.mark.skipif(sys.platform == "win32", reason="there is no limit on the size of a file there")
def test_a_disk_that_is_full(warm: tuple[Path, Computed], tmp_path: Path) -> None:
    """No file can grow beyond a kilobyte: nothing is kept, nothing is left half written, and it is said once."""
    limit = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))\n"
    places = {"NUMBA_CACHE_DIR": str(tmp_path / "full"), "HOME": str(tmp_path)}
    found = compute(limit, **places)
    assert (found.bits, found.misses) == (warm[1].bits, KERNELS)
    assert len(found.warnings) == 1
    assert not files_of(tmp_path)


@pytest.mark.parametrize("damage", ["truncated", "empty", "flipped"])
def test_damaged_files(cache: Path, warm: tuple[Path, Computed], damage: str) -> None:
    """Truncated, empty, one bit flipped: compiled anew, and the files are whole again."""
    for path in files_of(cache):
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes({"truncated": path.read_bytes()[:-1], "empty": b"", "flipped": bytes(content)}[damage])
    (cache / "fastrnn" / "unrelated.kernel").write_bytes(b"garbage")
    found = compute(NUMBA_CACHE_DIR=str(cache))
    assert (found.bits, found.misses, found.warnings) == (warm[1].bits, KERNELS, [])
    assert compute(NUMBA_CACHE_DIR=str(cache)).misses == 0


def test_a_file_where_the_directory_should_be(warm: tuple[Path, Computed], tmp_path: Path) -> None:
    """It is left alone, and that nothing is kept is said."""
    (tmp_path / "occupied").write_bytes(b"mine")
    found = compute(NUMBA_CACHE_DIR=str(tmp_path / "occupied"))
    assert (found.bits, found.misses, len(found.warnings)) == (warm[1].bits, KERNELS, 1)
    assert (tmp_path / "occupied").read_bytes() == b"mine"


def test_an_upgrade_of_numba(cache: Path, warm: tuple[Path, Computed]) -> None:
    """Another version finds nothing that it could mistake for its own; the first one still finds its own."""
    upgraded = compute("import numba\nnumba.__version__ += '.1'\n", NUMBA_CACHE_DIR=str(cache))
    assert (upgraded.bits, upgraded.misses) == (warm[1].bits, KERNELS)
    assert len(files_of(cache)) == 2 * KERNELS
    assert compute(NUMBA_CACHE_DIR=str(cache)).misses == 0


def test_what_nobody_has_used_for_long_is_swept(cache: Path) -> None:
    """Kernels of other versions, once they are old; never those of this one, and nothing that is not ours."""
    from fastrnn.backends.numba_.cache import KEPT_DAYS

    stranger = cache / "fastrnn" / "notes.txt"
    stranger.write_text("mine")
    old = [*files_of(cache)]
    for path in old:
        os.utime(path, (0, path.stat().st_mtime - (KEPT_DAYS + 1) * 86400))
    compute("import numba\nnumba.__version__ += '.1'\n", NUMBA_CACHE_DIR=str(cache))
    assert not set(old) & set(files_of(cache)) - {stranger}
    assert stranger.exists()
    assert len(files_of(cache)) == KERNELS + 1


def test_two_processes_warm_one_cache_at_once(warm: tuple[Path, Computed], tmp_path: Path) -> None:
    """Both are right, and so is whoever comes after them; nothing half written is left."""
    variables = {"NUMBA_CACHE_DIR": str(tmp_path)}
    processes = [start(COMPUTE.format(backend="numba"), variables) for _ in range(2)]
    for process in processes:
        assert Computed(*finished(process)).bits == warm[1].bits
    assert [path.suffix for path in files_of(tmp_path)] == [".kernel"] * KERNELS
    last = compute(**variables)
    assert (last.bits, last.misses) == (warm[1].bits, 0)


def test_an_edited_source_is_compiled_anew(site: Path, cache: Path, warm: tuple[Path, Computed]) -> None:
    """Also in a file that the kernel only imports, of the same size and time of change."""
    variables = {"NUMBA_CACHE_DIR": str(cache), "PYTHONPATH": str(site)}
    assert compute(**variables) == warm[1]._replace(misses=0, scipy=[], file=str(site / "fastrnn" / "__init__.py"))
    source = site / "fastrnn" / "approximations.py"
    times, text = source.stat(), source.read_text(encoding="utf-8")
    assert text.count("limit=9.0") == 1
    source.write_text(text.replace("limit=9.0", "limit=0.5"), encoding="utf-8")
    os.utime(source, ns=(times.st_atime_ns, times.st_mtime_ns))
    edited = compute(**variables)
    assert edited.misses == KERNELS
    assert edited.bits != warm[1].bits


def test_every_source_counts(site: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An edit of any file that kernels are emitted from: those of an older one are not found any more."""
    from fastrnn.backends.numba_ import cache
    from fastrnn.backends.tiled.sources import SHARED

    package = site / "fastrnn"
    monkeypatch.setattr(cache, "fastrnn", SimpleNamespace(__file__=str(package / "__init__.py")))
    digest = cache.sources.__wrapped__
    before = digest()
    files = [path for folder in ("numba_", "tiled") for path in sorted((package / "backends" / folder).glob("*.py"))]
    for path in [*files, *(package / f"{name}.py" for name in SHARED)]:
        content = path.read_bytes()
        path.write_bytes(content.swapcase())
        assert digest() != before, path
        path.write_bytes(content)
    assert digest() == before


@pytest.mark.parametrize("method", ["fork", "spawn"])
def test_children(method: str, warm: tuple[Path, Computed], tmp_path: Path) -> None:
    """A child that was forked after a call, or spawned, computes the same bits from the same cache."""
    if method == "fork" and not hasattr(os, "fork"):
        return
    (tmp_path / "children.py").write_text(f"""
import json, multiprocessing, numpy as np, fastrnn
def bits():
    y, _ = fastrnn.RNN(3, 4, backend="numba")(np.linspace(-4, 4, 24).reshape(4, 2, 3))
    return y.tobytes().hex()
if __name__ == "__main__":
    own = bits()
    with multiprocessing.get_context({method!r}).Pool(2) as pool:
        print(json.dumps([own, *pool.starmap(bits, [()] * 2)]))
""")
    program = f"import runpy\nrunpy.run_path({str(tmp_path / 'children.py')!r}, run_name='__main__')"
    found = finished(start(program, {"NUMBA_CACHE_DIR": str(warm[0])}))
    assert found == [warm[1].bits] * 3
