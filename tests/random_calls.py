"""Random calls of layers, and the digests of all that they give: the same wherever the same operations are done.

As a program, ``random_calls.py backend first last cells``, it prints the digest of each call of ``range(first, last)``,
so that one process computes with other instructions than another (``FASTRNN_ISA``, ``NUMBA_CPU_NAME``).
"""

from __future__ import annotations

import hashlib
import sys
from typing import Any

import numpy as np
from cases import CELLS, DTYPES
from conformance import Arrays, as_tuple, draw_parameters

import fastrnn
from fastrnn import cells


def make(backend: str, rng: np.random.Generator, names: tuple[str, ...]) -> fastrnn.Recurrent:
    """A layer of any of some cells and of any shape."""
    name = names[rng.integers(len(names))]
    hidden = int(rng.integers(1, 72))
    projected = int(rng.integers(1, hidden + 1)) if name == "lstm_projected" else 0
    layer = fastrnn.Recurrent(
        getattr(cells, name), int(rng.integers(1, 40)), hidden, num_layers=int(rng.integers(1, 3)),
        bidirectional=bool(rng.integers(2)), bias=bool(rng.integers(2)), proj_size=projected,
        dtype=DTYPES[rng.integers(2)], backend=backend,
    )  # fmt: skip
    shapes = {name: value.shape for name, value in layer.parameters.items()}
    layer.set_parameters(draw_parameters(shapes, int(rng.integers(1 << 30))))
    return layer


def call(backend: str, seed: int, names: tuple[str, ...] = CELLS) -> Arrays:
    """All results of one layer: plain, recorded and backward, ragged or not, by one thread or more, and streamed."""
    rng = np.random.default_rng(seed)
    layer = make(backend, rng, names)
    steps, batch = int(rng.integers(1, 12)), int(rng.integers(1, 30))
    steps = steps if rng.integers(8) else 80
    x = rng.normal(size=(steps, batch, layer.input_size))
    lengths = rng.integers(0, steps + 1, batch) if rng.integers(2) else None
    fastrnn.set_num_threads(int(rng.integers(1, 4)))
    y, final = layer(x, lengths=lengths)
    state = tuple(rng.normal(size=s.shape) for s in as_tuple(final))
    state = state if len(state) > 1 else state[0]
    found: dict[str, Any] = {"plain y": y, "plain state": final}
    found["y"], found["state"], tape = layer.record(x, state, lengths)
    back = layer.backward(tape, rng.normal(size=y.shape), state)
    found |= {"dx": back.x, "dstate": back.state, **back.parameters}
    if not layer.bidirectional:
        stream = layer.stream(batch)
        found |= {"step": stream.step(x[0]), "chunk": stream.chunk(x[1:]), "stream": stream.state}
    fastrnn.set_num_threads(1)
    return {f"{name} {k}": value for name, values in found.items() for k, value in enumerate(as_tuple(values))}


def digest(values: Arrays) -> str:
    """Of names, shapes and bits."""
    found = hashlib.sha256()
    for name, value in values.items():
        found.update(f"{name} {value.dtype} {value.shape}".encode() + np.ascontiguousarray(value).tobytes())
    return found.hexdigest()[:16]


if __name__ == "__main__":
    chosen, first, last, *names = sys.argv[1:]
    for seed in range(int(first), int(last)):
        print(digest(call(chosen, seed, tuple(names) or CELLS)))
