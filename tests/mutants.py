"""Deliberately wrong cells and backends, for `test_mutants`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from fastrnn import sigmoid, tanh
from fastrnn.backends.contract import Backend, Rows, each

# --- wrong cells ------------------------------------------------------------------------------------------------------


def lstm_gates_swapped(x, h, c, R):
    i = sigmoid(x.i + R.i(h))
    f = sigmoid(x.f + R.f(h))
    g = tanh(x.g + R.g(h))
    o = sigmoid(x.o + R.o(h))
    c = i * c + f * g
    return o * tanh(c), c


def lstm_old_cell_state(x, h, c, R):
    i = sigmoid(x.i + R.i(h))
    f = sigmoid(x.f + R.f(h))
    g = tanh(x.g + R.g(h))
    o = sigmoid(x.o + R.o(h))
    return o * tanh(c), f * c + i * g


def lstm_without_a_recurrent_term(x, h, c, R):
    i = sigmoid(x.i + R.i(h))
    f = sigmoid(x.f)
    g = tanh(x.g + R.g(h))
    o = sigmoid(x.o + R.o(h))
    c = f * c + i * g
    return o * tanh(c), c


def gru_update_turned_round(x, h, R, b):
    r = sigmoid(x.r + R.r(h))
    z = sigmoid(x.z + R.z(h))
    n = tanh(x.n + r * (R.n(h) + b.n))
    return z * n + (1 - z) * h


def gru_bias_outside_the_reset(x, h, R, b):
    r = sigmoid(x.r + R.r(h))
    z = sigmoid(x.z + R.z(h))
    n = tanh(x.n + r * R.n(h) + b.n)
    return (1 - z) * n + z * h


def peephole_of_the_old_state(x, h, c, R, p):
    i = sigmoid(x.i + R.i(h) + p.i * c)
    f = sigmoid(x.f + R.f(h) + p.f * c)
    g = tanh(x.g + R.g(h))
    o = sigmoid(x.o + R.o(h) + p.o * c)
    c = f * c + i * g
    return o * tanh(c), c


# --- wrong backends ---------------------------------------------------------------------------------------------------


class Mutant:
    """A backend that does as another one does, but for what a subclass overrides."""

    def __init__(self, real: Backend) -> None:
        self.real, self.name, self.same_bits = real, real.name, real.same_bits

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def scan(self, pack, rows, x, y, state, final, at, reverse, threads, tape=None):  # type: ignore[no-untyped-def]
        self.run([self.forward(pack, rows, x, y, each(state, at), each(final, at), reverse, tape)], rows, threads)

    def gradients(self, tape, dy, state, dx, at, into, threads):  # type: ignore[no-untyped-def]
        ends = each(state, at)
        part = self.backward(tape, dy, ends, dx, ends, self.sums(tape.pack, into, tape.rows.total))
        self.run([part], tape.rows, threads)


class StatesSwapped(Mutant):
    """h0 and c0 the other way round."""

    def forward(self, pack, rows, x, y, state, final, reverse, tape=None):  # type: ignore[no-untyped-def]
        return self.real.forward(pack, rows, x, y, state and state[::-1], final, reverse, tape)


class StateForgotten(Mutant):
    """Every scan starts from zero."""

    def forward(self, pack, rows, x, y, state, final, reverse, tape=None):  # type: ignore[no-untyped-def]
        return self.real.forward(pack, rows, x, y, None, final, reverse, tape)


class LengthsIgnored(Mutant):
    """Padding is taken for data, forward and backward."""

    def tape(self, pack, rows, x, reverse):  # type: ignore[no-untyped-def]
        return self.real.tape(pack, Rows.of(rows.steps, rows.batch), x, reverse)

    def forward(self, pack, rows, x, y, state, final, reverse, tape=None):  # type: ignore[no-untyped-def]
        return self.real.forward(pack, Rows.of(rows.steps, rows.batch), x, y, state, final, reverse, tape)


class ReverseFromTheEnd(Mutant):
    """In reverse a row begins at T - 1 and not at its own end."""

    def forward(self, pack, rows, x, y, state, final, reverse, tape=None):  # type: ignore[no-untyped-def]
        if reverse:
            x, y = np.ascontiguousarray(x[::-1]), y[::-1]
        return self.real.forward(pack, rows, x, y, state, final, False, tape)


class Inexact(Mutant):
    """Outputs off by three in a hundred thousand."""

    def forward(self, pack, rows, x, y, state, final, reverse, tape=None):  # type: ignore[no-untyped-def]
        run = self.real.forward(pack, rows, x, y, state, final, reverse, tape)

        def wrong(low: int, high: int) -> None:
            run(low, high)
            y[:] *= y.dtype.type(1.0 + 3e-5)

        return wrong


class WeightsDropped(Mutant):
    """The last gate has no recurrent product."""

    def packer(self, plan, names, sizes, dtype):  # type: ignore[no-untyped-def]
        made = self.real.packer(plan, names, sizes, dtype)

        def wrong(parameters):  # type: ignore[no-untyped-def]
            changed = [np.array(value) for value in parameters]
            changed[names.index("weight_hh")][-sizes.hidden_size :] = 0
            return made(tuple(changed))

        return wrong


class OutputGradientForgotten(Mutant):
    """Only the final states' gradients go back."""

    def backward(self, tape, dy, dfinal, dx, dstate, sums):  # type: ignore[no-untyped-def]
        return self.real.backward(tape, np.zeros_like(dy), dfinal, dx, dstate, sums)


class StateGradientForgotten(Mutant):
    """Only the outputs' gradients go back."""

    def backward(self, tape, dy, dfinal, dx, dstate, sums):  # type: ignore[no-untyped-def]
        return self.real.backward(tape, dy, tuple(np.zeros_like(d) for d in dfinal), dx, dstate, sums)


def gradient_changed(**changes: Callable[[np.ndarray], Any]) -> type[Mutant]:
    """A backend that changes some parameters' gradients when they are done."""

    class Changed(Mutant):
        def backward(self, tape, dy, dfinal, dx, dstate, sums):  # type: ignore[no-untyped-def]
            run = self.real.backward(tape, dy, dfinal, dx, dstate, sums)

            def changed(low: int, high: int) -> None:
                run(low, high)
                for name, function in changes.items():
                    sums.into[name][...] = function(sums.into[name])

            return changed

    return Changed


class LastBit(Mutant):
    """Outputs of a batch of several rows end in another bit."""

    def forward(self, pack, rows, x, y, state, final, reverse, tape=None):  # type: ignore[no-untyped-def]
        run = self.real.forward(pack, rows, x, y, state, final, reverse, tape)

        def wrong(low: int, high: int) -> None:
            run(low, high)
            if rows.batch > 1:
                y[...] = np.nextafter(y, y.dtype.type(9.0))

        return wrong


class Leaky(Mutant):
    """A row's outputs have something of all rows."""

    def forward(self, pack, rows, x, y, state, final, reverse, tape=None):  # type: ignore[no-untyped-def]
        run = self.real.forward(pack, rows, x, y, state, final, reverse, tape)

        def wrong(low: int, high: int) -> None:
            run(low, high)
            y[...] += x.sum() * 0

        return wrong
