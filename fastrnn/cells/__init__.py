"""The cells that ship: one file a family, each with its equations as in the paper."""

from fastrnn.cells.gru import gru, gru_reset_before
from fastrnn.cells.ligru import ligru
from fastrnn.cells.lstm import lstm, lstm_coupled, lstm_peephole, lstm_projected
from fastrnn.cells.mingru import mingru
from fastrnn.cells.rnn import rnn_relu, rnn_tanh

__all__ = ["gru", "gru_reset_before", "ligru", "lstm", "lstm_coupled", "lstm_peephole", "lstm_projected", "mingru",
           "rnn_relu", "rnn_tanh"]  # fmt: skip
