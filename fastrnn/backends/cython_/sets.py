"""The instruction sets that the extension is built for, and the fingerprints of the sources that it is built from."""

from __future__ import annotations

import os
import zlib
from typing import NamedTuple

import fastrnn
from fastrnn.backends.tiled.sources import SHARED
from fastrnn.backends.tiled.target import Target


class InstructionSet(NamedTuple):
    """An instruction set: its vectors, what compilers need for it, and which processors have it.

    ``asked`` is what `processor_has` of the extension is asked for; 0: every processor of the kind has it.
    """

    name: str
    target: Target
    machines: tuple[str, ...]  # () for all that have no set of their own
    gcc: tuple[str, ...] = ()
    msvc: tuple[str, ...] = ()
    asked: int = 0


X86, ARM = ("x86_64", "amd64"), ("aarch64", "arm64")
AVX2 = ("-mavx2", "-mfma")
AVX512 = ("-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", *AVX2)
# The best first.
SETS = {
    found.name: found
    for found in (
        InstructionSet("avx512", Target(64, 32, True), X86, AVX512, ("/arch:AVX512",), 2),
        InstructionSet("avx2", Target(32, 16, True), X86, AVX2, ("/arch:AVX2",), 1),
        InstructionSet("neon", Target(16, 32, True), ARM),
        InstructionSet("baseline", Target(16, 16, False), (), ("-falign-loops=32",)),  # 33 KB less than 64
    )
}  # fmt: skip


def sets_of(platform: str) -> list[str]:
    """The sets that a platform, as `sysconfig.get_platform` names it, may have, the best first.

    NEON is the baseline where it is.
    """
    machine = platform.rpartition("-")[2].lower()
    if machine in ARM:
        return ["neon"]
    return [name for name, found in SETS.items() if not found.machines or machine in found.machines]


# Everything that decides what the extension computes, or how it is called.
_TILED = (
    *("arithmetic", "box", "chains", "emitter", "frame", "loops", "native", "outer", "program", "sources", "stage"),
    *("tail", "target", "tile"),
)
_OWN = ("c_text", "generate", "sets")
_EXTENSION = (
    *("scan.pyx", "teams.pxi", "host.pxi", "gradients.pxi", "steps.pxi", "rows.pxi", "copies.pxi"),
    *("machine.h", "tables.h", "vector.h"),
)


def fingerprints(extension: str | os.PathLike[str]) -> dict[str, str]:
    """A check sum of each source that is there, by its name; an installed package has none of the extension's own.

    It tells an edited file from the one that the extension was built from; `hashlib` would take longer to import than
    all the rest.
    """
    above = os.path.dirname(os.path.dirname(fastrnn.__file__))
    names = [f"fastrnn/{name}.py" for name in SHARED]
    names += [f"fastrnn/backends/tiled/{name}.py" for name in _TILED]
    names += [f"fastrnn/backends/cython_/{name}.py" for name in _OWN]
    sources = {name: os.path.join(above, name) for name in names}
    sources |= {f"fastrnn_ext/{name}": os.path.join(extension, name) for name in _EXTENSION}
    return {name: _sum(path) for name, path in sources.items() if os.path.exists(path)}


def _sum(path: str) -> str:
    with open(path, "rb") as file:
        content = file.read()
    return f"{len(content)}-{zlib.crc32(content):08x}-{zlib.adler32(content):08x}"
