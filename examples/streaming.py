"""A live stream: one frame at a time, the state kept between the calls, and the same bits as the whole sequence.

(With the numpy backend not quite the same bits: there BLAS adds up in another order for another shape.)
"""

import time

import numpy as np

import fastrnn

FRAMES = 200
random = np.random.default_rng(0)
signal = random.standard_normal((FRAMES, 80), dtype=np.float32)  # what a microphone would give, frame by frame
lstm = fastrnn.LSTM(80, 64, num_layers=2)

stream = lstm.stream()
frame_out = np.empty(64, np.float32)  # written by every step: a step allocates nothing
outputs, microseconds = [], []
for frame in signal:
    begin = time.perf_counter()
    stream.step(frame, out=frame_out)
    microseconds.append(1e6 * (time.perf_counter() - begin))
    outputs.append(frame_out.copy())

whole, state = lstm(signal)
print("step by step is the whole sequence, bit for bit:", np.array_equal(np.stack(outputs), whole))
print("and so is the state:", all(np.array_equal(a[:, 0], b) for a, b in zip(stream.state, state, strict=True)))
print(f"a step takes {np.median(microseconds):.1f} microseconds")

# Frames that come in blocks are a chunk; chunks and steps can be mixed.
stream.reset()
parts = [stream.chunk(signal[:150]), stream.step(signal[150])[None], stream.chunk(signal[151:])]
print("in chunks as well:", np.array_equal(np.concatenate(parts), whole))
