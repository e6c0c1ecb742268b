"""Compiled kernels on disk: one file a kernel, in a directory that a container image can carry.

Numba's own cache is not used. It reads nothing in a directory that it cannot write to; two processes that write to it
at once can leave an index that names the wrong code; a damaged file raises; and before it reads anything it prepares
for compiling, which imports SciPy and takes longer than all the rest.

A file's name holds a digest of everything that decides what is in it, and the file begins with a digest of the rest of
it. So files are never stale, need no index, and one that is damaged counts as missing.
"""

from __future__ import annotations

import hashlib
import os
import pickle
import sys
import time
import uuid
import warnings
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import llvmlite
import numba
from numba.core import config, sigutils
from numba.core.caching import NullCache
from numba.core.compiler import CompileResult
from numba.core.registry import cpu_target
from numba.core.runtime import rtsys
from numba.core.serialize import dumps
from numba.misc.appdirs import AppDirs

import fastrnn
from fastrnn.backends.numba_.target import target
from fastrnn.backends.tiled.sources import SHARED

SUFFIX = ".kernel"
KEPT_DAYS = 90  # how long the kernels of other versions and processors are kept
_DIGEST_BYTES = 32


@lru_cache(maxsize=1)
def sources() -> bytes:
    """A digest of everything that decides which instructions are emitted."""
    package = Path(fastrnn.__file__).parent
    found = hashlib.sha256(repr(target()).encode())
    shared = [package / f"{name}.py" for name in SHARED]
    folders = [package / "backends" / name for name in ("numba_", "tiled")]
    for path in [*(path for folder in folders for path in sorted(folder.glob("*.py"))), *shared]:
        found.update(path.read_bytes())
    return found.digest()


def directories() -> list[Path]:
    """Where kernels are looked for, best first; they are written to the first of these where that is possible.

    ``NUMBA_CACHE_DIR`` alone if it is set; else the package's own ``__pycache__``, then the user's cache directory if
    there is one.
    """
    if config.CACHE_DIR:
        return [Path(config.CACHE_DIR) / "fastrnn"]
    own = Path(__file__).parent / "__pycache__"
    user = Path(AppDirs(appname="numba", appauthor=False).user_cache_dir) / "fastrnn"
    return [own, user] if user.is_absolute() else [own]  # relative: there is no home directory


class Usage(NamedTuple):
    """What is in one of the `directories`."""

    usable: int  # kernels of this version, for this processor
    others: int
    size: int  # bytes, of all of them
    writable: bool


def usage(directory: Path) -> Usage:
    """The kernels in a directory, and whether more can be written to it. Nothing is made."""
    stamp, usable, sizes = _stamp(cpu_target.target_context.codegen()), 0, []
    for path in directory.glob(f"*{SUFFIX}") if os.access(directory, os.R_OK | os.X_OK) else ():
        try:
            sizes.append(path.stat().st_size)
        except OSError:  # another process has just removed it
            continue
        usable += path.name.startswith(stamp)
    there = directory
    while not os.path.lexists(there) and there != there.parent:
        there = there.parent
    writable = there.is_dir() and os.access(there, os.W_OK | os.X_OK)
    return Usage(usable, len(sizes) - usable, sum(sizes), writable)


class KernelCache(NullCache):
    """What Numba asks for one function's compiled code, and gives it to."""

    def __init__(self, name: str) -> None:
        self.name = name

    def load_overload(self, sig: Any, target_context: Any) -> Any:
        """The compiled function for a signature, or None."""
        name = self._file(sig, target_context.codegen())
        for directory in directories():
            payload = _read(directory / name)
            if payload is not None:
                rtsys.initialize(target_context)  # what kernels allocate with
                return CompileResult._rebuild(target_context, *payload)
        return None

    def save_overload(self, sig: Any, data: Any) -> None:
        """Keep a compiled function where there is a place for it; say so once where there is none."""
        content = dumps(data._reduce())
        content = hashlib.sha256(content).digest() + content
        name, errors = self._file(sig, data.codegen), []
        for directory in directories():
            try:
                _write(directory, name, content)
            except OSError as error:
                errors.append(f"{directory}: {error.strerror or error}")
            else:
                return
        _say_once("; ".join(errors))

    def _file(self, sig: Any, codegen: Any) -> str:
        """The name of the file: the stamp, the function, and a digest of its arguments' types."""
        arguments, _ = sigutils.normalize_signature(sig)
        return f"{_stamp(codegen)}-{self.name}-{_short(', '.join(map(str, arguments)))}{SUFFIX}"


def _stamp(codegen: Any) -> str:
    """What all kernels of this version for this processor have in common."""
    return _short(repr((sources(), numba.__version__, llvmlite.__version__, sys.version, codegen.magic_tuple())))


def _short(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:24]


def _read(path: Path) -> Any:
    """What `CompileResult._reduce` gave, or None if the file is not there or is not whole."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    digest, rest = content[:_DIGEST_BYTES], content[_DIGEST_BYTES:]
    return pickle.loads(rest) if hashlib.sha256(rest).digest() == digest else None


def _write(directory: Path, name: str, content: bytes) -> None:
    """Put a file there, whole or not at all, whoever else is writing the same; sweep what nobody has used for long."""
    directory.mkdir(parents=True, exist_ok=True)
    temporary = directory / f"{name}.{uuid.uuid4().hex[:8]}"
    try:
        temporary.write_bytes(content)
        os.replace(temporary, directory / name)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    before = time.time() - KEPT_DAYS * 86400
    for path in directory.glob(f"*{SUFFIX}*"):
        try:
            if path.name.partition("-")[0] != name.partition("-")[0] and path.stat().st_mtime < before:
                path.unlink()
        except OSError:  # another process was faster, or it belongs to somebody else
            continue


_said: list[str] = []


def _say_once(why: str) -> None:
    if not _said:
        _said.append(why)
        warnings.warn(
            f"compiled kernels are not kept on disk, so every process compiles anew ({why}); "
            "set NUMBA_CACHE_DIR to a writable directory to keep them",
            RuntimeWarning,
            stacklevel=2,
        )
