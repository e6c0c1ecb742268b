"""An LSTM in half a minute: whole sequences, ragged batches, and a step of training."""

import numpy as np

import fastrnn
from fastrnn import nn

random = np.random.default_rng(0)
lstm = fastrnn.LSTM(80, 32, bidirectional=True)  # input_size, hidden_size
print(lstm.summary())

# Whole sequences: x is (T, B, input_size), y is (T, B, 2 * hidden_size), the state after the last step is (h, c).
x = random.standard_normal((20, 4, 80), dtype=np.float32)
y, (h, c) = lstm(x)
print("outputs", y.shape, "state", h.shape, c.shape)

# A ragged batch: the rows in any order, each as long as it is. Padding costs nothing and changes nothing.
lengths = np.array([7, 20, 3, 12])
y, (h, c) = lstm(x, lengths=lengths)
print("row 2 alone gives the same bits:", np.array_equal(y[:3, 2], lstm(x[:3, 2])[0]))

# Training: record the forward pass, go back through it, let the optimiser take a step.
head = nn.Linear(64, 5)
optimizer = nn.Adam([lstm, head], learning_rate=1e-3)
targets = random.integers(0, 5, (20, 4))
mask = np.arange(20)[:, None] < lengths  # no loss in the padding
for step in range(20):
    y, state, lstm_tape = lstm.record(x, lengths=lengths)
    logits, head_tape = head.record(y)
    loss, dlogits = nn.softmax_cross_entropy(logits, targets, mask=mask)
    head_grads = head.backward(head_tape, dlogits)
    lstm_grads = lstm.backward(lstm_tape, head_grads.x)
    grads, norm = nn.clip_by_global_norm([lstm_grads, head_grads], 1.0)
    optimizer.step(grads)
    if step % 5 == 0:
        print(f"step {step}: loss {loss:.4f}, norm of the gradients {norm:.3f}")
print(f"loss at last: {loss:.4f}")
