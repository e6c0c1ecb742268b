"""Enough to learn with: dense and embedding layers, losses, optimisers and clipping, in NumPy alone.

Everything here follows the manners of the recurrent layers. A call gives the output; ``record`` gives the output and a
tape; ``backward`` takes the tape and the gradient of the output and gives the gradients of the input and of every
parameter. Losses return their value and their gradient together.

Examples
--------
A classifier of whole sequences::

    lstm = fastrnn.LSTM(80, 12)
    head = nn.Linear(12, 5)
    optimizer = nn.Adam([lstm, head], learning_rate=1e-3)

    for x, targets in batches:
        y, state, lstm_tape = lstm.record(x)                       # (T, B, 12)
        logits, head_tape = head.record(y)                         # (T, B, 5)
        loss, dlogits = nn.softmax_cross_entropy(logits, targets)  # targets (T, B)
        head_grads = head.backward(head_tape, dlogits)
        lstm_grads = lstm.backward(lstm_tape, head_grads.x)
        grads, norm = nn.clip_by_global_norm([lstm_grads, head_grads], 1.0)
        optimizer.step(grads)
"""

from .embedding import Embedding, EmbeddingTape
from .linear import Linear, LinearTape
from .losses import mean_squared_error, softmax_cross_entropy
from .module import Gradients, Module
from .optimizers import SGD, Adam, Optimizer, clip_by_global_norm

__all__ = [
    "SGD",
    "Adam",
    "Embedding",
    "EmbeddingTape",
    "Gradients",
    "Linear",
    "LinearTape",
    "Module",
    "Optimizer",
    "clip_by_global_norm",
    "mean_squared_error",
    "softmax_cross_entropy",
]
