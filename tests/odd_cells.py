"""Cells that are no use but to be tested: together they have every operation and every shape that a graph can take."""

from __future__ import annotations

from typing import Any

from fastrnn import exp, hard_sigmoid, maximum, minimum, relu, sigmoid, softplus, softsign, tanh


def every_operation(x: Any, h: Any, s: Any, R: Any) -> Any:
    """exp, softplus, maximum, minimum, hard_sigmoid, softsign, relu, division, abs, minus, constants on either side."""
    a = softsign(x.a + R.a(h))
    k = hard_sigmoid(2.5 * x.k + R.k(h))
    e = exp(-abs(x.e + 0.5 * h))
    d = softplus(x.d - s) / (1.5 + e)
    s = minimum(maximum(k * s + e * d, -0.4), 0.9 + a * a)
    return tanh(s) - relu(a - 0.1) * 2 + (1 - k) / 3, s


def two_levels(x: Any, h: Any, R: Any) -> Any:
    """A product of a product of a product: three stages in a step."""
    r = sigmoid(x.r + R.r(h))
    n = tanh(x.n + R.n(r * h))
    m = tanh(x.m + R.m(n - h))
    return (1 - r) * m + r * h


def output_only(x: Any, y: Any, h: Any, R: Any) -> Any:
    """The output is a state that nothing reads."""
    h = tanh(x.h + R.h(h))
    return h * sigmoid(x.o), h


def delayed(x: Any, h: Any, before: Any, R: Any) -> Any:
    """One state is another's value of the step before, as it is."""
    return tanh(x.h + R.h(before) - 0.5 * h), h


def vectors(x: Any, h: Any, c: Any, R: Any, p: Any, b: Any) -> Any:
    """Vectors that are read twice, multiply one another and stand alone; a product of the second state."""
    i = sigmoid(x.i + R.i(c) + p.i * c + p.j * h)
    c = (1 - i) * c + i * tanh(x.g + R.g(h) * (1 + p.i) + b.g * p.j)
    return tanh(c + b.k), c


def shared_product(x: Any, h: Any, R: Any) -> Any:
    """A gate without an input, whose product is read twice; an input that is read twice; products of sums."""
    u = R.u(h)
    n = tanh(x.n + R.n(h + 0.25 * u))
    return sigmoid(x.z + u) * n + x.n * tanh(u)


def feed_forward(x: Any, h: Any) -> Any:
    """Nothing recurs."""
    return tanh(x.a) * x.b


def accumulator(x: Any, h: Any) -> Any:
    """A sum, without a single nonlinear operation."""
    return h + x.a


def twice_the_same(x: Any, h: Any, c: Any, R: Any) -> Any:
    """Both new states are the same value."""
    n = tanh(x.n + R.n(h) - 0.3 * c)
    return n, n


def projected_inside(x: Any, c: Any, r: Any, R: Any, P: Any) -> Any:
    """What is projected recurs, and the output is not."""
    c = sigmoid(x.f + R.f(r)) * c + tanh(x.g + R.g(r))
    return c, P(tanh(c)) - 0.5 * r


def three_states(x: Any, a: Any, s: Any, m: Any, R: Any) -> Any:
    """A product to each of three states, in a ring."""
    return tanh(x.a + R.a(m)), tanh(R.b(a) * 0.5 + s), sigmoid(R.d(s) + x.d)


def six_gates(x: Any, h: Any, c: Any, R: Any) -> Any:
    """More gates than a block of the input products can have."""
    i, f, o = sigmoid(x.i + R.i(h)), sigmoid(x.f + R.f(h)), sigmoid(x.o + R.o(h))
    c = f * c + i * tanh(x.g + R.g(h)) * sigmoid(x.k + R.k(h))
    return o * tanh(c - 0.5 * (x.m + R.m(h))), c


CELLS = (every_operation, two_levels, output_only, delayed, vectors, shared_product, feed_forward, accumulator,
         twice_the_same, projected_inside, three_states, six_gates)  # fmt: skip
