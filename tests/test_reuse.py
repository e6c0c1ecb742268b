"""Large buffers that are used again: whose they are, how many are kept, and that no two arrays ever share one."""

from __future__ import annotations

import gc
import os
import platform
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from cases import assert_same_bits
from sharing import share_everything

import fastrnn
from fastrnn import reuse, stack

SIZE = 1 << 20
BYTES = np.dtype(np.uint8)


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    reuse._idle.clear()
    yield
    reuse._idle.clear()


def buffer(size: int) -> reuse.Array:
    return reuse.empty((size,), BYTES)


def place(array: reuse.Array) -> int:
    return int(array.__array_interface__["data"][0])


def test_a_buffer_comes_back_when_its_last_view_is_gone() -> None:
    first = buffer(SIZE)
    where, view = place(first), first[100:].view(np.float32)[:10]
    del first
    assert place(buffer(SIZE)) != where  # the view still stands on it
    del view
    again = buffer(SIZE - 100)
    assert place(again) == where
    assert again.shape == (SIZE - 100,)
    assert place(buffer(SIZE)) != where


def test_a_much_larger_buffer_is_not_taken() -> None:
    large = buffer(2 * SIZE)
    where = place(large)
    del large
    assert place(buffer(SIZE)) != where
    assert place(buffer(2 * SIZE)) == where


def test_small_ones_are_not_kept_and_large_ones_up_to_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    del_soon = buffer(reuse.LEAST - 1)
    del del_soon
    assert not reuse._idle
    monkeypatch.setattr(reuse, "MOST", 4 * SIZE)
    held = [buffer(SIZE + 1000 * k) for k in range(6)]
    while held:
        held.pop()
    kept = [memory.size for memory in reuse._idle.values()]
    assert kept == [SIZE + 1000 * k for k in (2, 1, 0)]  # the last ones to come back
    huge = buffer(5 * SIZE)
    del huge
    assert [memory.size for memory in reuse._idle.values()] == kept  # it would have driven out all of these


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("shape", [(3, 4), (40, 1, 1000), (300, 200), (1 << 17,), (0, 1 << 20), ()])
def test_arrays_are_like_new_ones(shape: tuple[int, ...], dtype: Any) -> None:
    like = np.empty(shape, dtype)
    for made in (reuse.empty(shape, like.dtype), reuse.zeros(shape, like.dtype)):
        assert type(made) is np.ndarray
        assert (made.shape, made.strides, made.dtype) == (like.shape, like.strides, like.dtype)
        assert made.flags.carray
        made.fill(np.nan)
        assert made.nbytes < reuse.LEAST or place(made) % 64 == 0
        del made
    assert not reuse.zeros(shape, like.dtype).any()  # of memory that has just been written to


def test_no_two_threads_get_the_same() -> None:
    failures: list[str] = []

    def work(number: int) -> None:
        for turn in range(300):
            mine = [buffer(SIZE // 8 + k).view() for k in range(3)]
            for k, array in enumerate(mine):
                array[:64] = number * 3 + k
            for k, array in enumerate(mine):
                if not (array[:64] == number * 3 + k).all():
                    failures.append(f"thread {number}, turn {turn}")
            del mine, array

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert reuse._idle


def test_training_in_a_loop_takes_no_fresh_buffers(backend: str) -> None:
    layer = fastrnn.LSTM(32, 64, num_layers=2, bidirectional=True, backend=backend)
    x = np.ones((40, 16, 32), np.float32)
    seen: list[set[int]] = []
    for _ in range(4):
        y, _, tape = layer.record(x)
        layer.backward(tape, y)
        del y, tape
        seen.append(set(reuse._idle))
    assert seen[-1] == seen[1] != set()


def test_a_tape_keeps_its_buffers(backend: str, rng: np.random.Generator) -> None:
    """Other calls, recorded and dropped meanwhile, write to other memory."""
    layer = fastrnn.GRU(32, 64, num_layers=2, backend=backend)
    x, other = (rng.normal(size=(40, 16, 32)).astype(np.float32) for _ in "ab")
    y, _, tape = layer.record(x)
    expected = layer.backward(tape, y)
    for _ in range(3):
        y_other, _, other_tape = layer.record(other)
        layer.backward(other_tape, y_other)
        del other_tape
    found = layer.backward(tape, y)
    assert_same_bits(found.x, expected.x, "dx")
    for name, value in expected.parameters.items():
        assert_same_bits(found.parameters[name], value, name)


@pytest.mark.parametrize("lengths", [None, [40, 3, 0, 17], [3, 0, 25, 17], [9, 9, 9, 9], [0, 0, 0, 0]], ids=str)
@pytest.mark.parametrize("rows_apart", [None, 1, 99], ids=["one thread", "rows apart", "a team"])
@pytest.mark.parametrize("options", [{"num_layers": 2}, {"bidirectional": True, "batch_first": True}], ids=str)
def test_what_is_not_cleared_is_written(
    backend: str, options: dict[str, Any], rows_apart: int | None, lengths: list[int] | None,
    rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Fresh memory may hold anything: here NaN. Past a row's end y and the gradient of x are zero."""
    layer = fastrnn.GRU(5, 7, backend=backend, **options)
    x, real = rng.normal(size=(4, 40, 5) if layer.batch_first else (40, 4, 5)).astype(np.float32), np.empty
    monkeypatch.setattr(stack, "CHUNK_BYTES", 7 * 4 * 7 * 4)  # seven steps go through all layers at once

    def poisoned(*given: Any, **named: Any) -> np.ndarray:
        made = real(*given, **named)
        if made.dtype.kind == "f":
            made.fill(np.nan)
        return made

    def arrays() -> list[np.ndarray]:
        found = [layer(x, lengths=lengths)[0]]
        for every in (None, 7):
            y, _, tape = layer.record(x, lengths=lengths, checkpoint_every=every)
            found += [y, layer.backward(tape, np.ones_like(y)).x]
        return found

    with fastrnn.threads(2 if rows_apart else 1), share_everything(rows_apart):
        arrays()  # compiles: Numba would not know another `empty`, and not forget it
        monkeypatch.setattr(np, "empty", poisoned)
        found = arrays()
    for array in found:
        assert np.isfinite(array).all()
        for row, length in enumerate(lengths or ()):
            assert not (array[row, length:] if layer.batch_first else array[length:, row]).any()


def test_an_output_is_its_owners(backend: str, rng: np.random.Generator, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as a view of it is held; then the next output stands there, zero where nothing is written."""
    monkeypatch.setattr(reuse, "LEAST", 1)
    layer = fastrnn.GRU(5, 7, num_layers=2, backend=backend)
    x = rng.normal(size=(6, 4, 5)).astype(np.float32)
    y, _ = layer(x)
    part, kept, where = y[2:, 1], y[2:, 1].copy(), place(y)
    del y
    for _ in range(3):
        other, _ = layer(np.full_like(x, np.nan))
        assert place(other) != where
        del other
    np.testing.assert_array_equal(part, kept)
    del part
    lengths = [6, 2, 0, 5]
    ragged, _ = layer(x, lengths=lengths)
    for row, length in enumerate(lengths):
        assert np.isfinite(ragged[:length, row]).all()
        assert not ragged[length:, row].any()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="is about the GNU C library")
def test_small_arrays_are_not_given_back_to_the_system() -> None:
    """Several that are free at once, none of them large: their pages are there the next time."""
    program = """
import resource, numpy as np, fastrnn

def several():
    return [np.full(50_000, 1, np.uint8) for _ in range(30)]

def faults():
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt

for _ in range(3):
    several()
before = faults()
for _ in range(100):
    several()
print(faults() - before)
"""
    told = ("MALLOC_", "GLIBC_TUNABLES", "LD_PRELOAD")  # with these it does not learn
    own = {name: value for name, value in os.environ.items() if not name.startswith(told)}
    shown = subprocess.run([sys.executable, "-c", program], env=own, capture_output=True, text=True, check=True)
    assert int(shown.stdout) < 1000  # 1.5 MB are 366 pages, a hundred times


def test_no_memory_is_no_loan(monkeypatch: pytest.MonkeyPatch) -> None:
    """What was never lent does not come back."""
    seen: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", seen.append)
    with pytest.raises((MemoryError, ValueError)):
        reuse.Loan(1 << 62)
    reuse.Loan.__new__(reuse.Loan)  # all there is of it where Ctrl-C comes at the begin of `__init__`
    assert not seen


def test_buffers_that_the_collector_brings_back_while_one_is_looked_for() -> None:
    """It runs after so many new objects that may be part of a cycle: at each of those that are made on the way."""
    before = gc.get_threshold()
    pairs = [(index, index) for index in range(5000)]  # so that Python has no old ones left to use again
    try:
        for more in range(40):
            gc.collect()
            gc.set_threshold(0)
            kept = [buffer(SIZE) for _ in range(8)]
            cycles: list[Any] = [[buffer(2 * SIZE)] for _ in range(8)]
            for cycle in cycles:
                cycle.append(cycle)
            del kept, cycles, cycle
            pairs += [(index, more) for index in range(100)]
            gc.set_threshold(gc.get_count()[0] + more)
            assert len(buffer(4 * SIZE)) == 4 * SIZE  # none that is kept is as large
    finally:
        gc.set_threshold(*before)
