"""Cells of your own: write the equations, and the engine runs, differentiates and trains them.

A cell is a function of the input's products ``x``, its states, and the recurrent products ``R``. Each attribute is a
gate: ``x.z`` is ``W_z x_t + b_z``, ``R.z(h)`` is ``R_z h``. It returns the new value of each state, in order.
"""

import numpy as np

import fastrnn
from fastrnn import nn, relu, sigmoid


def min_gru(x, h):
    """Were RNNs all we needed? (arXiv:2410.01201): gates of the input alone, no recurrent product at all."""
    z = sigmoid(x.z)
    return (1 - z) * h + z * x.n


def light_gru(x, h, R):
    """Light gated recurrent units (arXiv:1803.10225): no reset gate, and a ReLU."""
    z = sigmoid(x.z + R.z(h))
    n = relu(x.n + R.n(h))
    return z * h + (1 - z) * n


def train_one_step(layer: fastrnn.Recurrent, x: np.ndarray, lengths: np.ndarray, wanted: np.ndarray) -> None:
    """One step of Adam towards the wanted final states; the loss goes down."""
    optimizer = nn.Adam([layer], learning_rate=1e-2)
    _, h, tape = layer.record(x, lengths=lengths)
    before, dh = nn.mean_squared_error(h, wanted)
    grads = layer.backward(tape, dstate=dh)
    optimizer.step([grads])
    after, _ = nn.mean_squared_error(layer(x, lengths=lengths)[1], wanted)
    print(f"{layer.cell.name}: gates {' '.join(layer.cell.gates)}, {layer.num_parameters} parameters")
    print(f"  parameters {', '.join(f'{name} {value.shape}' for name, value in layer.parameters.items())}")
    print(f"  loss {before:.4f} before a step, {after:.4f} after it")


random = np.random.default_rng(0)
x = random.standard_normal((12, 6, 10), dtype=np.float32)  # (T, B, input_size)
lengths = np.array([12, 3, 8, 8, 1, 5])
wanted = random.uniform(-1, 1, (1, 6, 16))
for cell in (min_gru, light_gru):
    train_one_step(fastrnn.Recurrent(cell, 10, 16), x, lengths, wanted)
