"""Kernels that find no memory: the call raises, and the next one computes. Each test has a process of its own."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from cases import compiled
from sharing import CODE

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="what another C library keeps is not known")

RIGHT = "no memory for what a kernel needs True True"  # raised, floating-point mode as it was, the same values after it
ways = pytest.mark.parametrize("way", ["whole", "pieces"])

# All memory is taken but for some blocks, which are enough for Python and NumPy but none for a kernel, and but for what
# `fastrnn.reuse` has from calls before.
BEGIN = """
import ctypes, resource, sys
import numpy as np
import fastrnn
from fastrnn.backends.tiled import crew, whole

backend, way = sys.argv[1:]
if way == "pieces":  # which Python makes ready
    whole.PASSES = 1 << 60
library = ctypes.CDLL(None)
library.malloc.restype, library.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]

def limit(size):
    resource.setrlimit(resource.RLIMIT_AS, (size, resource.RLIM_INFINITY))

def take_all(block_size):
    spare = sorted(library.malloc(block_size) for _ in range(100))
    limit(int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize())
    size = 1 << 24
    while size > block_size // 20:
        while library.malloc(size):
            pass
        size //= 2
    for block in spare[::2]:  # so that none becomes one with another
        library.free(block)

def numbers(*shape):
    return np.random.default_rng(5).normal(size=shape).astype(np.float32)

narrow = fastrnn.RNN(2, 3, backend=backend)

def back(steps, rows):
    tape, dy = narrow.record(numbers(steps, rows, 2))[2], numbers(steps, rows, 3)
    return lambda: narrow.backward(tape, dy).parameters["weight_ih_l0"]

def denormals_live():
    return bool(np.all(np.full(64, 1e-38, np.float32) * np.float32(0.125)))
"""

# The forward scan needs 100 KB, the one back as much, and the weights' gradients 8 or more, of however few rows.
ALONE = """
wide, x = fastrnn.LSTM(1, 64, backend=backend), numbers(2, 40, 1)
for call, block_size in (
    (lambda: wide(x, sequence=False)[1][0], 20_000), (back(10, 800), 70_000), (back(2, 3), 6_000)
):
    before, found = call(), "nothing"
    take_all(block_size)
    try:
        call()
    except MemoryError as error:
        found = str(error)
    limit(resource.RLIM_INFINITY)
    print(found, denormals_live(), np.array_equal(call(), before))
"""

# Each member needs 24 bytes for each row; in pieces 16 more are needed once. There are enough for one of two.
TEAM = f"""{CODE}
worth.ROWS_APART = 1 << 60
fastrnn.set_num_threads(2)
call, found, members = back(1, 40_000), "nothing", []

def learn(*given, right=crew.Crew.learn):
    members.append(right(*given))
    return members[-1]

crew.Crew.learn = learn
while 2 not in members:  # then what a team needs besides is there
    before = call()
room = library.malloc(40_000 * (36 if way == "whole" else 52))
take_all(20_000)
library.free(room)
for _ in range(10_000):  # one thread alone, as long as the other one is not awake, has enough
    try:
        call()
    except MemoryError as error:
        found = str(error)
        break
limit(resource.RLIM_INFINITY)
print(found, denormals_live(), np.array_equal(call(), before))
"""


def run(code: str, backend: str, way: str) -> list[str]:
    """The lines that the code prints, if it ends by itself."""
    settings = {"MALLOC_ARENA_MAX": "1"}  # no memory of its own for a worker
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + code, backend, way], capture_output=True, text=True, cwd=Path(__file__).parent,
        env=os.environ | settings, timeout=240,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@compiled
@ways
def test_alone(backend: str, way: str) -> None:
    """There, back, and the products of the weights' gradients."""
    assert run(ALONE, backend, way) == [RIGHT] * 3


@compiled
@ways
def test_one_of_a_team(backend: str, way: str) -> None:
    """The other one does not wait for it."""
    assert run(TEAM, backend, way) == [RIGHT]
