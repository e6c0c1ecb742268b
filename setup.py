"""The build; everything but what needs code stands in pyproject.toml.

The extension is optional: without it fastrnn runs on Numba or on NumPy, and `fastrnn.backends` says why.
"""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

ROOT = Path(__file__).parent
SOURCES = ROOT / "fastrnn_ext"
REASON = "not_built.txt"  # beside the extension, if there is none: why not
LISTED = "FASTRNN_BUILD_ISA"  # instruction sets to build for, separated by commas; all that the platform may have
EXTRA = "FASTRNN_BUILD_FLAGS"  # further options of compiler and linker, such as a sanitizer's
# What is fused, and in which order things are added, is in the text: the compiler must not change it.
GCC = [
    "-std=c11", "-O2", "-ffp-contract=off", "-fno-math-errno", "-fno-strict-aliasing", "-fvisibility=hidden",
    "-ffunction-sections", "-g0", "-fno-asynchronous-unwind-tables",  # nothing unwinds through C; they take 160 KB
    "-falign-loops=64",  # up to a tenth where two hardware threads share a core (LSTM, one row, weights from L2)
]  # fmt: skip
MSVC = ["/std:c11", "/O2", "/fp:precise", "/GL-"]  # code is made for one instruction set each, not when linking


class Build(build_ext):
    """Prints the kernels, compiles them for each instruction set, several at a time, and links them with the scan."""

    def run(self) -> None:
        """Build, or say why not: an installation without the extension works."""
        (extension,) = self.extensions
        folder = Path(self.get_ext_fullpath(extension.name)).parent
        folder.mkdir(parents=True, exist_ok=True)
        if self._universal() and not os.environ.get("ARCHFLAGS"):
            os.environ["ARCHFLAGS"] = f"-arch {platform.machine()}"
        try:
            super().run()
            (folder / REASON).unlink(missing_ok=True)
        except Exception as error:
            if os.environ.get("FASTRNN_BUILD") == "required":
                raise
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
            (folder / REASON).write_text(f"it could not be compiled at installation ({reason})\n", encoding="utf-8")
            print(f"fastrnn_ext is not built: {reason}", file=sys.stderr)

    def get_outputs(self) -> list[str]:
        """What is there."""
        (extension,) = self.extensions
        path = Path(self.get_ext_fullpath(extension.name))
        return [str(found) for found in (path, path.parent / REASON) if found.exists()]

    def build_extension(self, extension: Extension) -> None:
        """Print, compile, link."""
        sys.path.insert(0, str(ROOT))
        from fastrnn.backends.cython_ import generate, sets

        folder = self._folder()
        asked = os.environ.get(LISTED)
        names = [name.strip() for name in asked.split(",")] if asked else sets.sets_of(self._platform())
        unknown = [name for name in names if name not in sets.SETS]
        if unknown:
            raise ValueError(f"{LISTED}: expected some of {', '.join(sets.SETS)}, got {', '.join(unknown)}")
        kernels = generate.write(folder, names)
        microsoft = self.compiler.compiler_type == "msvc"
        if microsoft and not self.compiler.initialized:
            self.compiler.initialize()  # or each of the threads below would
        common = [*(MSVC if microsoft else GCC), *os.environ.get(EXTRA, "").split()]
        jobs = [(path, [*common, *(sets.SETS[unit.isa].msvc if microsoft else sets.SETS[unit.isa].gcc)])
                for unit, path in kernels]  # fmt: skip
        jobs += [(folder / "units.c", common), (self._translate(folder, sets.fingerprints(SOURCES)), common)]
        with ThreadPoolExecutor(
            max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 2)
        ) as pool:
            objects = [found for each in pool.map(lambda job: self._compile(folder, *job), jobs) for found in each]
        path = self.get_ext_fullpath(extension.name)
        link = [] if microsoft or sys.platform == "darwin" else ["-Wl,--gc-sections", "-Wl,-s"]
        self.compiler.link_shared_object(
            objects, path, extra_postargs=[*link, *os.environ.get(EXTRA, "").split()],
            export_symbols=self.get_export_symbols(extension) if microsoft else None, target_lang="c",
        )  # fmt: skip

    def _universal(self) -> bool:
        """Whether Python is for both kinds of Macs: it has files compiled for both, which no instruction set suits."""
        return str(self.plat_name).endswith("-universal2")

    def _platform(self) -> str:
        """What is built for, which need not be where."""
        return os.environ["ARCHFLAGS"].split()[-1] if self._universal() else self.plat_name

    def _folder(self) -> Path:
        """Where generated files and objects go: a folder for each compiler and its options, whose objects stay good.

        Editable installations keep theirs, since they are made often.
        """
        options = repr([os.environ.get(name) for name in ("CC", "CFLAGS", "ARCHFLAGS", EXTRA)])
        key = hashlib.sha256(options.encode()).hexdigest()[:8]
        if getattr(self, "editable_mode", False):
            return ROOT.absolute() / "build" / f"editable-{sys.implementation.cache_tag}-{key}"
        return Path(self.build_temp).absolute() / f"fastrnn_ext-{key}"

    def _compile(self, folder: Path, path: Path, options: list[str]) -> list[str]:
        """Compile one file, unless it has been since it and the headers were written."""
        import numpy as np

        objects, sources = str(folder / "objects"), [str(path)]
        found = self.compiler.object_filenames(sources, output_dir=objects)
        parts = [path, folder / "fields.h", Path(__file__), *SOURCES.glob("*.h")]
        ages = [Path(name).stat().st_mtime for name in found if Path(name).exists()]
        if not self.force and len(ages) == len(found) and min(ages) > max(part.stat().st_mtime for part in parts):
            return found
        include = [str(folder), str(SOURCES), np.get_include(), *self.include_dirs]
        macros = [("NPY_NO_DEPRECATED_API", "NPY_1_7_API_VERSION")]
        return self.compiler.compile(sources, objects, include_dirs=include, extra_postargs=options, macros=macros)

    def _translate(self, folder: Path, fingerprints: dict[str, str]) -> Path:
        """Cython's C of the scan."""
        (folder / "sources.pxi").write_text(f"SOURCES = {fingerprints!r}\n", encoding="utf-8")
        path = folder / "scan.c"
        command = [sys.executable, "-m", "cython", "-3", "-I", str(folder), "--module-name", "fastrnn_ext._scan"]
        subprocess.run([*command, "-o", str(path), str(SOURCES / "scan.pyx")], check=True)
        return path


setup(ext_modules=[Extension("fastrnn_ext._scan", ["fastrnn_ext/scan.pyx"])], cmdclass={"build_ext": Build})
