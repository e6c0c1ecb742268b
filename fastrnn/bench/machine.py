"""What this machine can do: multiply-adds, reads by footprint, activations, and handing over from thread to thread."""

from __future__ import annotations

import math
import statistics
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from fastrnn.backends import found_by_loading

if TYPE_CHECKING:
    from fastrnn.bench.kernels import Kernel, Reader

LINE = 64
FOOTPRINTS = tuple(1 << k for k in range(14, 28))  # bytes: 16 KiB to 128 MiB
_QUICK_FOOTPRINTS = tuple(1 << k for k in range(14, 27, 2))
# Lanes, independent sums and regions of the loops that read. None is the fastest everywhere: a Zen 5 reads its second
# cache with 134 GB/s from one region of eight vectors at a time, with 250 from two of four, and where the first cache
# ends with twice as much from eight of two. The last loop is for narrower vectors.
READERS = ((16, 8, 1), (16, 4, 2), (16, 2, 8), (8, 4, 2))


@dataclass(frozen=True)
class Limits:
    """What some threads together can do.

    Attributes
    ----------
    threads : int
    peak : float
        float32 operations a second, a multiply-add counting as two. In float64 half of it.
    bandwidth : tuple of (int, float)
        Bytes read over and over, by all threads together, and bytes a second at that footprint.
    activation : float
        Seconds of one float32 tanh in a loop that does nothing else.
    """

    threads: int
    peak: float
    bandwidth: tuple[tuple[int, float], ...]
    activation: float

    def bytes_per_second(self, footprint: float) -> float:
        """The bandwidth at a footprint, linear between the measured ones in the footprint's logarithm."""
        sizes = [math.log(size) for size, _ in self.bandwidth]
        rates = [rate for _, rate in self.bandwidth]
        return float(np.interp(math.log(max(footprint, 1.0)), sizes, rates))

    def better(self, other: Limits) -> Limits:
        """The better of two measurements, figure by figure: what disturbs can only make them worse."""
        rates = dict(self.bandwidth)
        rates.update({size: max(rate, rates.get(size, 0.0)) for size, rate in other.bandwidth})
        return Limits(
            self.threads,
            max(self.peak, other.peak),
            tuple(sorted(rates.items())),
            min(self.activation, other.activation),
        )

    def to_json(self) -> dict[str, Any]:
        """As a dictionary of plain values."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Limits:
        """The reverse of `to_json`."""
        return cls(**{**data, "bandwidth": tuple((int(size), float(rate)) for size, rate in data["bandwidth"])})


def unavailable() -> str | None:
    """Why the machine cannot be measured here, or None if it can: Numba's backend needs the same."""
    return found_by_loading("numba").reason or None


def measure(threads: int, quick: bool = False, on_progress: Callable[[], None] = lambda: None) -> Limits:
    """Measure what ``threads`` threads together can do; some seconds, less with ``quick``.

    Raises
    ------
    ImportError, NotImplementedError
        Without Numba, or where it does not compile; `unavailable` tells it beforehand.
    """
    from fastrnn.bench import kernels

    repeats, seconds = (6, 0.01) if quick else (10, 0.03)
    peak = 0.0
    for lanes, accumulators in ((16, 24), (16, 12), (8, 12), (4, 12)):
        fused = kernels.multiply_add(lanes, accumulators)
        took = _best([fused] * threads, repeats, seconds)
        peak = max(peak, 2 * lanes * accumulators * threads / took)
        on_progress()
    tanh = kernels.activations(16, 4)
    activation = _best([tanh] * threads, repeats, seconds) / (16 * 4 * threads)
    on_progress()
    rates = []
    readers = [kernels.read(*shape) for shape in READERS]
    for footprint in _QUICK_FOOTPRINTS if quick else FOOTPRINTS:
        found = (_bandwidth(read, footprint, threads, repeats // 2, seconds / 2) for read in readers)
        rates.append((footprint, max(found)))
        on_progress()
    return Limits(threads, peak, tuple(rates), activation)


def steps(quick: bool = False) -> int:
    """How often `measure` reports progress."""
    return 5 + len(_QUICK_FOOTPRINTS if quick else FOOTPRINTS)


def handover(chunks: int = 20, rounds: int = 400) -> float | None:
    """Seconds from one thread's write to another's read of it, or None if the other thread did not run.

    It depends on where the two threads happen to be, and with it the times of everything that two threads do in turns.
    The median of some chunks, each of some rounds there and back.
    """
    from fastrnn.bench import kernels

    play = _cached(kernels.volley)
    memory = np.zeros(2 * LINE // 8, np.int64)
    seconds = []
    with ThreadPoolExecutor(1) as pool:  # at whose end the partner is through, or has given up
        pool.submit(_on, play, memory, 1, 0, chunks * rounds)
        for _ in range(chunks):
            begin = time.perf_counter()
            if _on(play, memory, 0, 1, rounds) < rounds:
                break
            seconds.append((time.perf_counter() - begin) / (2 * rounds))
    return statistics.median(seconds[1:]) if len(seconds) > 1 else None


_kept: dict[Any, Any] = {}


def _cached(make: Callable[[], Any]) -> Any:
    if make not in _kept:
        _kept[make] = make()
    return _kept[make]


def _aligned(array: np.ndarray[Any, Any]) -> int:
    """The first address in it that begins a cache line."""
    return -(-int(array.ctypes.data) // LINE) * LINE


def _bandwidth(reader: Reader, footprint: int, threads: int, repeats: int, seconds: float) -> float:
    """Bytes a second: each thread reads its share of the footprint over and over."""
    share = max(1024, footprint // threads)
    arrays = [np.ones(share // 4 + LINE, np.float32) for _ in range(threads)]
    blocks = share // (reader.block * reader.regions)
    loops = [partial(_on, reader.kernel, array, blocks) for array in arrays]
    return threads * blocks * reader.regions * reader.block / _best(loops, repeats, seconds)


def _on(kernel: Kernel, array: np.ndarray[Any, Any], *arguments: int) -> Any:
    """A kernel that is told an address: the array stays for as long as it is at work, whoever else has let go of it."""
    return kernel(_aligned(array), *arguments)


def _best(loops: Sequence[Callable[[int], Any]], repeats: int, seconds: float) -> float:
    """The least seconds of a round when all loops run at once, each in a thread of its own."""
    count = 1
    while True:
        begin = time.perf_counter()
        loops[0](count)
        took = time.perf_counter() - begin
        if took > seconds / 4:
            break
        count *= 2 if took < seconds / 64 else 4
    count = max(1, round(count * seconds / took))
    return min(_together(loops, count) for _ in range(repeats)) / count


def _together(loops: Sequence[Callable[[int], Any]], count: int) -> float:
    if len(loops) == 1:
        begin = time.perf_counter()
        loops[0](count)
        return time.perf_counter() - begin
    gate = threading.Barrier(len(loops))

    def run(loop: Callable[[int], Any]) -> tuple[float, float]:
        gate.wait()
        begin = time.perf_counter()
        loop(count)
        return begin, time.perf_counter()

    with ThreadPoolExecutor(len(loops)) as pool:  # an interrupt leaves it, too, only when all are through
        try:
            spans = [future.result() for future in [pool.submit(run, loop) for loop in loops]]
        except BaseException:
            gate.abort()  # who waits for one that was never started would wait for ever
            raise
    return max(end for _, end in spans) - min(begin for begin, _ in spans)
