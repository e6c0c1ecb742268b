"""Build the extension with AddressSanitizer and UndefinedBehaviorSanitizer, and run its tests: `make sanitize`.

The build goes to a directory of its own (the argument). First a write past the end of an array has to be caught:
otherwise the sanitizers are not at work, and all that follows would pass for nothing.

Beside instruction sets it takes two other forms of the baseline: ``vectors``, in the compiler's own vector types, as on
processors for which there are no intrinsics here, and ``loops``, for compilers without such types. All have to give the
same bits. That is all that is asked of the loops, built without sanitizers and without optimising: a compiler takes
minutes for either.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).parents[1]
FLAGS = "-O1 -g1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined"
FILES = (
    *("oracle_match", "gradients", "stream", "threads", "same_bits", "tapes", "denormals", "layers", "checkpoints"),
    *("packing", "products"),
)
FORMS = {
    "vectors": f"{FLAGS} -DFASTRNN_NO_INTRINSICS",
    "loops": "-O0 -DFASTRNN_NO_INTRINSICS -DFASTRNN_NO_VECTORS",
}
CALLS = ("tests/random_calls.py", "cython", "0", "60")
PAST_THE_END = (
    "import numpy as np, fastrnn_ext._scan as scan; print(scan.__file__, flush=True); x = np.zeros(3);"
    "frame = np.zeros(100, np.int64); scan.point(frame, frame.size + 1, x, 0, x)"
)


def build(folder: Path, isas: Sequence[str], flags: str) -> None:
    """The package with an extension for some instruction sets."""
    variables = {"FASTRNN_BUILD": "required", "FASTRNN_BUILD_FLAGS": flags, "FASTRNN_BUILD_ISA": ",".join(isas)}
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


def tests_pass(folder: Path, isa: str) -> bool:
    """Run the tests with one instruction set."""
    files = [str(path) for path in sorted((ROOT / "tests").glob("test_*.py")) if path.stem[5:] in FILES]
    options = ["-q", "-n", "auto", "-p", "no:cacheprovider", "-k", "cython"]
    command = [str(Path(sys.executable).parent / "pytest"), *options, *files]
    return subprocess.run(command, cwd=ROOT, env=sanitized(folder, isa)).returncode == 0


def digests(folder: Path, isa: str) -> str:
    """Of random calls."""
    command = [sys.executable, *CALLS]
    done = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT, env=sanitized(folder, isa))
    return done.stdout


def main() -> int:
    """Build, and run the tests with each instruction set."""
    folder = Path(sys.argv[1]).absolute()
    names = sys.argv[2].split(",")
    runs = [(folder, name) for name in names if name not in FORMS]
    if runs:
        build(folder, [name for _, name in runs], FLAGS)
    for form in [name for name in names if name in FORMS]:
        runs.append((folder / form, "baseline"))
        build(folder / form, ["baseline"], FORMS[form])
    passed = True
    for where, isa in [run for run in runs if run[0].name != "loops"]:
        check_that_it_bites(where, isa)
        print(f"sanitizers, {isa}, {where}", flush=True)
        passed &= tests_pass(where, isa)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        of_baseline = set(pool.map(lambda run: digests(*run), [run for run in runs if run[1] == "baseline"]))
    if len(of_baseline) > 1:
        print("the forms of the baseline give different bits")
    return 0 if passed and len(of_baseline) <= 1 else 1


if __name__ == "__main__":
    sys.exit(main())
