"""What a second thread does for short calls: steps, whole calls and training steps by one thread and by two.

python benchmarks/second_thread.py [SECONDS] [BACKEND]

One and two threads take turns, SECONDS for each size (default 1). The size for which two are worst comes first. A
second thread must make nothing slower: the status is 1 if two take more than a tenth longer somewhere, by the medians.
Last comes how long a word takes from one processor to the other: where a host has just put them far apart (some 170 ns
in place of 40), calls are shared that are not worth it until the library has measured that, too.
"""

from __future__ import annotations

import statistics
import sys
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

import fastrnn
from fastrnn.bench.machine import handover

TURN = 0.01  # seconds
LIMIT = 1.1
SIZES = (  # kinds of call, and for each cell, steps, rows and units
    ("step", [("LSTM", 1, b, h) for b, h in ((1, 64), (1, 128), (1, 256), (4, 64), (16, 32), (16, 128))]),
    ("step", [("GRU", 1, 1, 96), ("GRU", 1, 1, 128), ("RNN", 1, 1, 192), ("RNN", 1, 8, 128), ("RNN", 1, 16, 64)]),
    ("call", [("LSTM", t, 1, 128) for t in (1, 2, 4, 8, 16, 64)]),
    ("call", [("LSTM", t, 1, 64) for t in (8, 32, 128)]),
    (
        "call",
        [("LSTM", 1, 64, 64), ("LSTM", 4, 4, 64), ("LSTM", 4, 16, 64), ("LSTM", 64, 16, 64), ("LSTM", 64, 16, 128)],
    ),
    ("call", [("GRU", 4, 1, 128), ("GRU", 64, 1, 128), ("RNN", 8, 1, 192), ("RNN", 4, 16, 64), ("RNN", 64, 16, 96)]),
    ("call", [("LSTM", 20, 4, 32), ("LSTM", 20, 8, 32), ("RNN", 64, 8, 32), ("LSTM", 32, 4, 128), ("GRU", 32, 6, 64)]),
    ("training", [("LSTM", t, 1, 128) for t in (2, 8, 32)]),
    ("training", [("LSTM", t, 16, 32) for t in (8, 32)]),
    ("training", [("LSTM", 8, 16, 64), ("GRU", 8, 4, 64), ("RNN", 16, 16, 64), ("LSTM", 10, 32, 96)]),
)


class Result(NamedTuple):
    """Medians, in seconds."""

    label: str
    one: float
    two: float

    @property
    def ratio(self) -> float:
        return self.two / self.one


def call_of(kind: str, layer: fastrnn.Recurrent, steps: int, batch: int) -> Callable[[], object]:
    """What is timed."""
    x = np.random.default_rng(0).standard_normal((steps, batch, layer.input_size)).astype(np.float32)
    if kind == "step":
        step, given = layer.stream(batch).step, np.ascontiguousarray(x[0])
        y = np.empty_like(given)
        return lambda: step(given, out=y)
    if kind == "call":
        return lambda: layer(x)

    def train() -> object:
        y, _, tape = layer.record(x)
        return layer.backward(tape, y)

    return train


def turn(call: Callable[[], object], threads: int, count: int) -> float:
    """Seconds of a call by so many threads, once these are awake."""
    fastrnn.set_num_threads(threads)
    for _ in range(max(3, count // 3)):
        call()
    begin = time.perf_counter()
    for _ in range(count):
        call()
    return (time.perf_counter() - begin) / count


def measure(kind: str, cell: str, steps: int, batch: int, units: int, seconds: float, backend: str | None) -> Result:
    """Both numbers of threads in turns."""
    call = call_of(kind, getattr(fastrnn, cell)(units, units, backend=backend), steps, batch)
    count = max(1, round(TURN / turn(call, 1, 3)))
    times: dict[int, list[float]] = {1: [], 2: []}
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        for threads, found in times.items():
            found.append(turn(call, threads, count))
    label = f"{kind:8} {cell:4} {'' if kind == 'step' else f'T{steps} '}B{batch} H{units}"
    return Result(label, *[statistics.median(found) for found in times.values()])


def main(seconds: float, backend: str | None) -> int:
    """Measure all, and print a table."""
    found, words = [], [handover()]
    for kind, sizes in SIZES:
        found += [measure(kind, *size, seconds, backend) for size in sizes]
        words.append(handover())
    found.sort(key=lambda result: -result.ratio)
    print(f"{'':30}{'1 thread':>12}{'2 threads':>12}{'2 / 1':>8}")
    for result in found:
        print(f"{result.label:30}{result.one * 1e6:9.1f} us{result.two * 1e6:9.1f} us{result.ratio:8.2f}")
    print("a word:", ", ".join(f"{seconds * 1e9:.0f} ns" for seconds in words if seconds is not None))
    return int(found[0].ratio > LIMIT)


if __name__ == "__main__":
    arguments = sys.argv[1:]
    sys.exit(main(float(arguments[0]) if arguments else 1.0, arguments[1] if len(arguments) > 1 else None))
