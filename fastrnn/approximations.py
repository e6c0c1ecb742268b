"""Elementary functions as short sequences of IEEE operations.

Every function is written once against a small interface ``ops``; whatever implements that interface (vector IR, C text,
NumPy arrays) evaluates the same recipe. ``ops.bits`` is 32 or 64, the float type, and the methods are:

* ``const(v)``: the Python float ``v``. All constants below are exact in their type.
* ``fma(a, b, c)``: a * b + c rounded once. ``add``, ``sub``, ``mul``, ``div``: rounded to nearest even.
* ``neg(a)``, ``abs(a)``: change the sign bit only.
* ``min(a, b)``: ``a < b ? a : b``. ``max(a, b)``: ``a > b ? a : b``. With ordered comparisons, so that the result is
  ``b`` if either is NaN, as minps and maxps do. The data is always the *second* operand and the bound the first.
* ``select_gt(a, b, u, v)``: ``a > b ? u : v``, ordered: ``v`` if either of a, b is NaN.
* ``scale2(a, n)``: a * 2**n for an integral float n in -126..127 (-1022..1023), as the product of a and the float with
  the exponent field n + 127 (n + 1023) and no mantissa. The n next to these, whose fields are 0 and all ones, are used
  too: they multiply by 0 and by inf. If n is NaN any factor will do.

Nothing may be reassociated or contracted. Where there is no fused multiply-add, ``fma`` may round twice: the special
values and bounds below hold and the errors grow by a third, those of small float32 sigmoids threefold. A NaN argument
gives NaN. Results below the smallest normal number may be flushed to zero.

Errors are those of the rounded evaluation: over all floats for float32, over three million for float64. The fits are
minimax (exchange algorithm in high precision, see ``tests/fit_activations.py``); of the float32 tanh and sigmoid the
rounded coefficients were then moved among neighbouring floats to lower the largest error. Instructions are counted with
negation folded into multiply-adds and three for scale2 (add, shift, multiply), two if the first operand is 1.
"""

from typing import Any, NamedTuple


class Tanh(NamedTuple):
    limit: float
    p: tuple[float, ...]
    q: tuple[float, ...]


class Sigmoid(NamedTuple):
    lowest: float  # exp(-x) is inf here and 0 at the highest, as it is computed
    highest: float
    round: float
    log2e: float
    p: tuple[float, ...]


class Exponential(NamedTuple):
    lowest: float  # 2**n is 0 here and inf at the highest, as scale2 has it: arguments beyond are clamped to these
    highest: float
    largest: float  # the largest n with a finite 2**n
    round: float  # adding and subtracting this rounds to an integer
    log2e: float
    ln2_high: float  # so few bits that n * ln2_high is exact
    ln2_low: float
    s: tuple[float, ...]


class Logarithm(NamedTuple):
    p: tuple[float, ...]
    q: tuple[float, ...]


# fmt: off
TANH_32 = Tanh(
    limit=9.0,
    p=(1.8354716300964355, 0.05463697388768196, 0.00020945565483998507),
    q=(1.8354716300964355, 0.2075929045677185, 0.002213326981291175, 2.2509420887217857e-06),
)
SIGMOID_32 = Sigmoid(
    lowest=-89.0, highest=88.0, round=12582912.0, log2e=1.4426950216293335,
    p=(1.0, 0.6931470036506653, 0.2402222901582718, 0.05550717934966087, 0.009671596810221672, 0.0013264997396618128),
)
EXP_32 = Exponential(
    lowest=-88.0, highest=89.0, largest=127.0, round=12582912.0,
    log2e=1.4426950216293335, ln2_high=0.693145751953125, ln2_low=1.428606765330187e-06,
    s=(0.4999999403953552, 0.1666652113199234, 0.04166838899254799, 0.00836874544620514, 0.0013814541744068265),
)
EXP_64 = Exponential(
    lowest=-709.0, highest=710.0, largest=1023.0, round=6755399441055744.0,
    log2e=1.4426950408889634, ln2_high=0.6931471805598903, ln2_low=5.497923018708371e-14,
    s=(0.5000000000000011, 0.1666666666666641, 0.04166666666652973, 0.008333333333495016,
       0.0013888888943759566, 0.00019841269505721043, 2.4801492949525558e-05, 2.7557586837710745e-06,
       2.7630306391825423e-07, 2.5000010305493333e-08),
)
LOG_32 = Logarithm(
    p=(-0.4999975860118866, -0.2809087336063385, -0.0024244929663836956),
    q=(1.0, 1.2283903360366821, 0.3243994414806366),
)
LOG_64 = Logarithm(
    p=(-0.49999999999999806, -1.1433599923014401, -0.9234949471652046, -0.3150873243179799,
       -0.04224138645717139, -0.0015564251181211081),
    q=(1.0, 2.953386651269179, 3.3159143285220734, 1.7640908751443356, 0.4506075213195713,
       0.04909021319527882, 0.0015794440582270028),
)
# fmt: on


def tanh(ops: Any, x: Any) -> Any:
    """float32: with n = x P(x**2) / 2 and d = Q(x**2) such that n / d is near tanh(x / 2),

        tanh(x) = 2 n d / (n**2 + d**2) = 2 n d / ((d - |n|)**2 + 2 |n d|) for |x| <= 9, where it becomes 1.

    Halving the argument halves the degrees, and where tanh is flat, errors of n and d cancel. Here P is twice as large.
    Absolute error 1.41e-7, relative 3.01e-7 at any x; odd, never beyond 1, exactly +-1 from 9 to inf. 15 instructions.
    tanh(x) = x P(x**2) / Q(x**2) with degrees 4 and 4 would be 13, but rounding makes its absolute error 2.3e-7.

    float64: m / (m + 2), m = expm1(2 |x|) = 2**n (r + r**2 S(r)) + (2**n - 1) with the reduction of exp, and 2 |x|
    clamped to 40, where the quotient is 1. Relative error 3.7e-16; odd but for the sign of zero. 27 instructions.
    """
    return _tanh_32(ops, x) if ops.bits == 32 else _tanh_64(ops, x)


def _tanh_32(ops: Any, x: Any) -> Any:
    k = TANH_32
    x = ops.max(ops.const(-k.limit), ops.min(ops.const(k.limit), x))
    square = ops.mul(x, x)
    n = ops.mul(x, _polynomial(ops, k.p, square))
    d = _polynomial(ops, k.q, square)
    product = ops.mul(n, d)
    gap = ops.fma(ops.const(-0.5), ops.abs(n), d)
    return ops.div(product, ops.fma(gap, gap, ops.abs(product)))


def _tanh_64(ops: Any, x: Any) -> Any:
    magnitude = ops.abs(x)
    n, r = _reduce(ops, ops.min(ops.const(40.0), ops.add(magnitude, magnitude)))
    s = _polynomial(ops, EXP_64.s, r)
    power = ops.scale2(ops.const(1.0), n)
    m = ops.fma(power, ops.fma(ops.mul(r, r), s, r), ops.sub(power, ops.const(1.0)))
    return ops.div(ops.select_gt(ops.const(0.0), x, ops.neg(m), m), ops.add(m, ops.const(2.0)))


def sigmoid(ops: Any, x: Any) -> Any:
    """1 / (1 + exp(-x)), clamped to where the exponential is 0 or inf, so exactly 0 and 1 at either end.

    float32: exp(-x) = 2**n p(f), -x log2(e) = n + f, p of degree 5. 14 instructions.
    Absolute error 9.3e-8; relative 2e-7 for x >= -1, 3e-7 for x >= -5, 5e-7 for x >= -20, 1.4e-6 for x >= -87.
    float64: with the reduction and polynomial of exp. Relative error 2.6e-16 while it is normal. 22 instructions.
    """
    return _sigmoid_32(ops, x) if ops.bits == 32 else _sigmoid_64(ops, x)


def _sigmoid_32(ops: Any, x: Any) -> Any:
    k = SIGMOID_32
    x = ops.max(ops.const(k.lowest), ops.min(ops.const(k.highest), x))
    n = ops.sub(ops.fma(x, ops.const(-k.log2e), ops.const(k.round)), ops.const(k.round))
    f = ops.fma(x, ops.const(-k.log2e), ops.neg(n))
    one = ops.const(1.0)
    return ops.div(one, ops.fma(_polynomial(ops, k.p, f), ops.scale2(one, n), one))


def _sigmoid_64(ops: Any, x: Any) -> Any:
    k = EXP_64
    x = ops.max(ops.const(-k.highest), ops.min(ops.const(-k.lowest), x))
    n, r = _reduce(ops, ops.neg(x))
    one = ops.const(1.0)
    return ops.div(one, ops.fma(_exp_of_rest(ops, r), ops.scale2(one, n), one))


def exp(ops: Any, x: Any) -> Any:
    """2**n (1 + r + r**2 S(r)), x = n log(2) + r with log(2) in two parts, S of degree 4 (float32) or 9 (float64).

    Relative error 7.8e-8 (float32), 1.5e-16 (float64). inf where it overflows, exactly 0 below -87.69 and -708.75.
    18 and 23 instructions, three of them because the largest n has no finite 2**n.
    """
    k = _exponential(ops)
    n, r = _reduce(ops, ops.max(ops.const(k.lowest), ops.min(ops.const(k.highest), x)))
    p = _exp_of_rest(ops, r)
    finite = ops.min(ops.const(k.largest), n)
    return ops.scale2(ops.fma(p, ops.sub(n, finite), p), finite)


def softplus(ops: Any, x: Any) -> Any:
    """log(1 + exp(x)) = max(x, 0) + log1p(e), e = exp(-|x|), log1p(e) = e + e**2 P(e) / Q(e) on [0, 1].

    Degrees 2 and 2 for float32, 5 and 6 for float64. Relative error 2.0e-7 (float32), 3.9e-16 (float64) where exp(x) is
    normal; exactly 0 below -87.69 and -708.75, inf at inf. 25 and 37 instructions.
    """
    n, r = _reduce(ops, ops.max(ops.const(_exponential(ops).lowest), ops.neg(ops.abs(x))))
    e = ops.scale2(_exp_of_rest(ops, r), n)
    k = LOG_32 if ops.bits == 32 else LOG_64
    correction = ops.div(ops.mul(e, _polynomial(ops, k.p, e)), _polynomial(ops, k.q, e))
    return ops.add(ops.max(ops.const(0.0), x), ops.fma(e, correction, e))


def _exponential(ops: Any) -> Exponential:
    return EXP_32 if ops.bits == 32 else EXP_64


def _reduce(ops: Any, x: Any) -> tuple[Any, Any]:
    """(n, r) with x = n * log(2) + r, n integral, abs(r) <= log(2) / 2 but for rounding. Four operations."""
    k = _exponential(ops)
    n = ops.sub(ops.fma(x, ops.const(k.log2e), ops.const(k.round)), ops.const(k.round))
    r = ops.fma(n, ops.const(-k.ln2_high), x)
    return n, ops.fma(n, ops.const(-k.ln2_low), r)


def _exp_of_rest(ops: Any, r: Any) -> Any:
    """1 + r + r**2 S(r), near exp(r) for abs(r) <= log(2) / 2."""
    one = ops.const(1.0)
    return ops.fma(ops.fma(_polynomial(ops, _exponential(ops).s, r), r, one), r, one)


def _polynomial(ops: Any, coefficients: tuple[float, ...], x: Any) -> Any:
    """coefficients[0] + coefficients[1] * x + ... by Horner's rule: a multiply-add for each but the last."""
    *lower, total = (ops.const(c) for c in coefficients)
    for c in reversed(lower):
        total = ops.fma(total, x, c)
    return total
