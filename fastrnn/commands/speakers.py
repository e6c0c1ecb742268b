"""What the demo trains: a bidirectional LSTM that reads an utterance, and a linear head that names its speaker."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastrnn
from fastrnn import nn
from fastrnn.commands.vowels import IntArray, Utterances

SPEAKERS = 9
BATCH_SIZE = 30
LEARNING_RATE = 0.01  # at first; it falls in a straight line, to 0 after the last epoch
MAX_NORM = 1.0


class SpeakerModel:
    """The model, its optimiser, and the order in which it sees the utterances.

    Each direction's final state is what it has understood of the utterance; both side by side are what the head reads.

    Parameters
    ----------
    input_size, hidden_size : int
        I, and H of each direction.
    seed : int
        Where the parameters and the order of the utterances come from.
    backend : str or None
        As for `fastrnn.LSTM`.
    """

    def __init__(self, input_size: int, hidden_size: int, seed: int, backend: str | None = None) -> None:
        self.lstm = fastrnn.LSTM(input_size, hidden_size, bidirectional=True, seed=seed, backend=backend)
        self.head = nn.Linear(2 * hidden_size, SPEAKERS, seed=seed)
        self.optimizer = nn.Adam([self.lstm, self.head], LEARNING_RATE)
        self._random = np.random.default_rng(seed)

    @property
    def num_parameters(self) -> int:
        """How many numbers are learnt."""
        return self.lstm.num_parameters + self.head.num_parameters

    def predict(self, utterances: Utterances) -> IntArray:
        """Who speaks in each of the utterances, (B,)."""
        _, (h, _) = self.lstm(utterances.x, lengths=utterances.lengths)
        speakers: IntArray = self.head(_side_by_side(h)).argmax(axis=1)
        return speakers

    def gradients(self, batch: Utterances) -> tuple[float, int, list[Any]]:
        """The loss of a batch, how many speakers were right, and the gradients of both layers."""
        _, (h, c), lstm_tape = self.lstm.record(batch.x, lengths=batch.lengths)
        logits, head_tape = self.head.record(_side_by_side(h))
        loss, dlogits = nn.softmax_cross_entropy(logits, batch.labels)
        head_grads = self.head.backward(head_tape, dlogits)
        dh = np.stack(np.split(head_grads.x, 2, axis=1))
        lstm_grads = self.lstm.backward(lstm_tape, dstate=(dh, np.zeros_like(c)))
        return loss, int(np.sum(logits.argmax(axis=1) == batch.labels)), [lstm_grads, head_grads]

    def train_epoch(self, training: Utterances) -> tuple[float, float]:
        """Learn from every utterance once, in ragged batches; the mean loss and the accuracy on the way."""
        order = self._random.permutation(len(training))
        losses, right = 0.0, 0
        for start in range(0, len(order), BATCH_SIZE):
            batch = training.take(order[start : start + BATCH_SIZE])
            loss, correct, grads = self.gradients(batch)
            grads, _ = nn.clip_by_global_norm(grads, MAX_NORM)
            self.optimizer.step(grads)
            losses += loss * len(batch)
            right += correct
        return losses / len(training), right / len(training)


def _side_by_side(h: NDArray[Any]) -> NDArray[Any]:
    """The final states of both directions, (2, B, H) to (B, 2*H)."""
    return np.concatenate((h[0], h[1]), axis=1)
