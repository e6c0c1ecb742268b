"""Build the extension with AddressSanitizer and UndefinedBehaviorSanitizer, and run its tests: `make sanitize`.

The build goes to a directory of its own (the argument). First a write past the end of an array has to be caught:
otherwise the sanitizers are not at work, and all that follows would pass for nothing.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
FLAGS = "-O1 -g1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined"
FILES = ("oracle_match", "gradients", "stream", "threads", "same_bits", "tapes", "denormals", "layers", "checkpoints")
PAST_THE_END = (
    "import numpy as np, fastrnn_ext._scan as scan; print(scan.__file__, flush=True); x = np.zeros(3);"
    "frame = np.zeros(100, np.int64); scan.point(frame, frame.size + 1, x, 0, x)"
)


def build(folder: Path, isas: str) -> None:
    """The package with an extension for some instruction sets."""
    variables = {"FASTRNN_BUILD": "required", "FASTRNN_BUILD_FLAGS": FLAGS, "FASTRNN_BUILD_ISA": isas}
    folders = ["--build-base", str(folder), "--build-lib", str(folder / "lib")]
    command = [sys.executable, "setup.py", "-q", "build", *folders]
    subprocess.run(command, check=True, cwd=ROOT, env={**os.environ, **variables})


def sanitized(folder: Path, isa: str) -> dict[str, str]:
    """The environment in which that package is used, and Python runs with the sanitizers' allocator."""
    found = subprocess.run(["gcc", "-print-file-name=libasan.so"], check=True, capture_output=True, text=True)
    options = {"ASAN_OPTIONS": "detect_leaks=0", "UBSAN_OPTIONS": "print_stacktrace=1", "FASTRNN_ISA": isa}
    return {**os.environ, **options, "LD_PRELOAD": found.stdout.strip(), "PYTHONPATH": str(folder / "lib")}


def check_that_it_bites(folder: Path, isa: str) -> None:
    """A write past the end of an array ends the process, within the extension that was built here."""
    done = subprocess.run(
        [sys.executable, "-c", PAST_THE_END], capture_output=True, text=True, cwd=folder, env=sanitized(folder, isa)
    )
    if not done.stdout.startswith(str(folder / "lib")) or "AddressSanitizer: heap-buffer-overflow" not in done.stderr:
        raise SystemExit(f"the sanitizers are not at work: {done.stdout}{done.stderr}")


def main() -> int:
    """Build, and run the tests with each instruction set."""
    folder = Path(sys.argv[1]).absolute()
    isas = sys.argv[2]
    build(folder, isas)
    code = 0
    for isa in isas.split(","):
        check_that_it_bites(folder, isa)
        print(f"sanitizers, {isa}", flush=True)
        files = [str(path) for path in sorted((ROOT / "tests").glob("test_*.py")) if path.stem[5:] in FILES]
        command = [str(Path(sys.executable).parent / "pytest"), "-q", "-p", "no:cacheprovider", "-k", "cython", *files]
        code |= subprocess.run(command, cwd=ROOT, env=sanitized(folder, isa)).returncode
    return code


if __name__ == "__main__":
    sys.exit(main())
