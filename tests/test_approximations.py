"""The elementary functions of the kernels, evaluated with NumPy against references of higher precision."""

from decimal import Decimal, localcontext

import numpy as np
import pytest

from fastrnn import approximations


class NumpyOps:
    """The operations that ``approximations`` asks for, on arrays of one float type."""

    def __init__(self, bits, fused=True):
        self.bits, self.fused = bits, fused
        self.float = {32: np.float32, 64: np.float64}[bits]
        self.int = {32: np.int32, 64: np.int64}[bits]
        self.mantissa, self.bias = {32: (23, 127), 64: (52, 1023)}[bits]

    def const(self, v):
        assert float(self.float(v)) == v, f"{v} is not exact"
        return self.float(v)

    def fma(self, a, b, c):
        plain = np.asarray(a * b + c)
        if not self.fused:
            return plain
        if self.bits == 32:  # the product is exact, and rounding the sum twice is almost always rounding once
            return np.asarray(np.multiply(a, b, dtype=np.float64) + c, np.float32)
        total, lost = _sum(a * b, c)
        exact = total + (lost + _rest_of_product(a, b))
        return np.where(np.isfinite(exact), exact, plain)

    def add(self, a, b):
        return a + b

    def sub(self, a, b):
        return a - b

    def mul(self, a, b):
        return a * b

    def div(self, a, b):
        return a / b

    def neg(self, a):
        return -a

    def abs(self, a):
        return np.abs(a)

    def min(self, a, b):
        return np.where(a < b, a, b)

    def max(self, a, b):
        return np.where(a > b, a, b)

    def select_gt(self, a, b, u, v):
        return np.where(a > b, u, v)

    def scale2(self, a, n):
        field = np.where(np.isnan(n), 0, n).astype(self.int) + self.int(self.bias)
        return a * (field << self.int(self.mantissa)).view(self.float)


def _rest_of_product(a, b):
    """What rounding takes from a * b: the product of the factors' halves."""
    a_high, b_high = (v * 134217729.0 - (v * 134217729.0 - v) for v in (a, b))
    a_low, b_low = a - a_high, b - b_high
    return ((a_high * b_high - a * b) + a_high * b_low + a_low * b_high) + a_low * b_low


def _sum(a, b):
    """a + b and what rounding takes from it."""
    total = a + b
    other = total - a
    return total, (a - (total - other)) + (b - other)


FUNCTIONS = ("tanh", "sigmoid", "exp", "softplus")
TYPES = {32: np.float32, 64: np.float64}
SPAN = {32: 87.3, 64: 708.3}  # exp is normal from -SPAN to SPAN


def evaluate(name, x, bits, fused=True):
    with np.errstate(all="ignore"):
        return getattr(approximations, name)(NumpyOps(bits, fused), np.asarray(x, TYPES[bits]))


def reference_32(name, x):
    """In float64, which is exact enough for float32."""
    x = x.astype(np.float64)
    e = np.exp(-np.abs(x))
    return {
        "tanh": lambda: np.tanh(x),
        "sigmoid": lambda: np.where(x < 0, e, 1.0) / (1 + e),
        "exp": lambda: np.exp(x),
        "softplus": lambda: np.maximum(x, 0) + np.log1p(e),
    }[name]()


def relative_error_64(name, x, y):
    """The largest one, against a reference of 40 digits more than cancel."""
    largest = Decimal(0)
    with localcontext() as context:
        context.prec = 60
        for argument, value in zip(map(Decimal, x.tolist()), map(Decimal, y.tolist()), strict=True):
            e = (-2 * abs(argument)).exp() if name == "tanh" else (-abs(argument)).exp()
            if name == "tanh":
                true = ((1 - e) / (1 + e)).copy_sign(argument)
            elif name == "sigmoid":
                true = (e if argument < 0 else 1) / (1 + e)
            elif name == "exp":
                true = argument.exp()
            elif argument < -60:  # the logarithm of 1 + e would lose the digits of e
                true = e - e * e / 2
            else:
                true = max(argument, Decimal(0)) + (1 + e).ln()
            largest = max(largest, abs(value - true) / abs(true))
    return float(largest)


def arguments(bits, count, span=None):
    """Of every magnitude at which something happens, both signs."""
    rng = np.random.default_rng(0)
    span = span or SPAN[bits]
    small = np.exp(rng.uniform(-15, 2.3, count)) * rng.choice([-1, 1], count)
    return np.concatenate([rng.uniform(-10, 10, count), rng.uniform(-span, span, count), small]).astype(TYPES[bits])


ABSOLUTE_32 = {"tanh": 1.42e-7, "sigmoid": 9.3e-8}
RELATIVE_32 = {"tanh": 3.02e-7, "sigmoid": 1.4e-6, "exp": 7.8e-8, "softplus": 2.0e-7}
RELATIVE_64 = {"tanh": 3.8e-16, "sigmoid": 2.6e-16, "exp": 1.5e-16, "softplus": 3.9e-16}


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_error_float32(name, fused):
    x = arguments(32, 300_000)
    true = reference_32(name, x)
    away = np.abs(evaluate(name, x, 32, fused) - true)
    factor = 1.0 if fused else 3.0 if name == "sigmoid" else 1.35
    assert (away / np.abs(true)).max() <= factor * RELATIVE_32[name]
    assert away.max() <= min(factor, 1.35) * ABSOLUTE_32.get(name, np.inf)


@pytest.mark.parametrize(("low", "bound"), [(-1, 2e-7), (-5, 3e-7), (-20, 5e-7)])
def test_relative_error_of_sigmoid_float32(low, bound):
    x = np.linspace(low, 20, 500_000, dtype=np.float32)
    true = reference_32("sigmoid", x)
    assert (np.abs(evaluate("sigmoid", x, 32) - true) / true).max() <= bound


@pytest.mark.parametrize("fused", [True, False])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_error_float64(name, fused):
    x = arguments(64, 1000)
    factor = 1.0 if fused else 1.35
    assert relative_error_64(name, x, evaluate(name, x, 64, fused)) <= factor * RELATIVE_64[name]


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("fused", [True, False])
class TestSpecialValues:
    def test_nan(self, bits, fused):
        whole = {32: np.uint32, 64: np.uint64}[bits]
        quiet = np.array([np.nan, -np.nan], TYPES[bits])
        payloads = (quiet[:1].view(whole)[0] | np.arange(1, 1024, dtype=whole)).view(TYPES[bits])
        for name in FUNCTIONS:
            assert np.isnan(evaluate(name, np.concatenate([quiet, payloads]), bits, fused)).all(), name

    def test_infinities_and_huge(self, bits, fused):
        largest = np.finfo(TYPES[bits]).max
        for x in (1000.0, 1e30, largest, np.inf):
            expected = {"tanh": (1, -1), "sigmoid": (1, 0), "exp": (np.inf, 0), "softplus": (x, 0)}
            for name, values in expected.items():
                assert evaluate(name, [x, -x], bits, fused).tolist() == [float(TYPES[bits](v)) for v in values], name

    def test_zeros(self, bits, fused):
        zeros = [0.0, -0.0]
        assert evaluate("tanh", zeros, bits, fused).tolist() == [0, 0]
        assert evaluate("sigmoid", zeros, bits, fused).tolist() == [0.5, 0.5]
        assert evaluate("exp", zeros, bits, fused).tolist() == [1, 1]
        assert np.ptp(evaluate("softplus", zeros, bits, fused)) == 0

    def test_subnormal_and_tiny(self, bits, fused):
        info = np.finfo(TYPES[bits])
        x = np.array([info.smallest_subnormal, info.tiny / 8, info.tiny, info.tiny * 8], TYPES[bits])
        x = np.concatenate([x, -x])
        y = evaluate("tanh", x, bits, fused)
        assert (np.abs(y - x) <= np.maximum(4 * info.eps * np.abs(x), info.smallest_subnormal)).all()
        assert (evaluate("sigmoid", x, bits, fused) == 0.5).all()
        assert (evaluate("exp", x, bits, fused) == 1).all()

    def test_bounds_and_symmetry(self, bits, fused):
        x = arguments(bits, 200_000, span=1000)
        y = evaluate("tanh", x, bits, fused)
        assert np.abs(y).max() == 1
        assert np.array_equal(evaluate("tanh", -x, bits, fused), -y)
        saturated = np.linspace(9 if bits == 32 else 20, 30, 100_000)
        assert (evaluate("tanh", saturated, bits, fused) == 1).all()
        y = evaluate("sigmoid", x, bits, fused)
        assert y.min() == 0
        assert y.max() == 1
        assert evaluate("exp", x, bits, fused).min() == 0
        assert evaluate("softplus", x, bits, fused).min() == 0

    def test_ends_of_exp(self, bits, fused):
        info = np.finfo(TYPES[bits])
        high, low = TYPES[bits](np.log(np.longdouble(info.max))), TYPES[bits](np.log(np.longdouble(info.tiny)))
        ulp = np.spacing(high)
        near = evaluate("exp", high + ulp * np.arange(-50, 51), bits, fused)
        assert np.isfinite(near[:50]).all()
        assert np.isinf(near[52:]).all()
        assert (np.diff(near[:50]) > 0).all()
        assert (evaluate("exp", np.linspace(low - 40, low - 0.4, 10_000), bits, fused) == 0).all()
        assert (evaluate("exp", np.linspace(low + 1e-3, low + 1, 10_000), bits, fused) >= info.tiny).all()
        assert (evaluate("sigmoid", np.linspace(low - 1000, low - 1.1, 10_000), bits, fused) == 0).all()


def test_constants_are_exact():
    """Whatever the type of a recipe, its constants are numbers of that type."""
    for bits, names in ((32, ("TANH_32", "SIGMOID_32", "EXP_32", "LOG_32")), (64, ("EXP_64", "LOG_64"))):
        for name in names:
            for field in getattr(approximations, name):
                for value in field if isinstance(field, tuple) else (field,):
                    assert float(TYPES[bits](value)) == value, name
