"""Fits the coefficients of ``fastrnn.approximations``, prints them and measures the errors of the functions.

    python tests/fit_activations.py

Needs mpmath. The fits are minimax, by the exchange algorithm with 40 digits; the system of an exchange is solved by
Newton's method, so that the coefficients may enter in any way. What is printed replaces the constants of the module.
"""

import pathlib
import pprint
import sys

import mpmath as mp
import numpy as np

sys.path[:0] = [str(pathlib.Path(__file__).parents[1]), str(pathlib.Path(__file__).parent)]

from test_approximations import NumpyOps  # noqa: E402

from fastrnn import approximations  # noqa: E402

mp.mp.dps = 40


def horner(coefficients, x):
    total = mp.mpf(0)
    for c in reversed(coefficients):
        total = total * x + c
    return total


def extrema(low, high, count):
    """Where a Chebyshev polynomial alternates."""
    return [(low + high) / 2 - (high - low) / 2 * mp.cos(mp.pi * i / (count - 1)) for i in range(count)]


def around_zero(high, count):
    """The same, from -high to high without 0, for errors that vanish there."""
    points = extrema(-high, high, count + count % 2)
    return points if count % 2 == 0 else points[: count // 2] + points[count // 2 + 1 :]


def linear_start(value, equation, points):
    """Coefficients t with sum(t * a) = b at as many points as coefficients; equation(x, value(x)) is (a, b)."""
    rows = [equation(x, value(x)) for x in points]
    return list(mp.lu_solve(mp.matrix([a for a, _ in rows]), mp.matrix([b for _, b in rows])))


def minimax(error, start, low, high, reference=None):
    """Coefficients that minimise the largest abs(error(coefficients, x)), and that error."""
    count, theta = len(start), [mp.mpf(t) for t in start]
    reference = reference or extrema(mp.mpf(low), mp.mpf(high), count + 3)[1:-1]
    grid = extrema(mp.mpf(low), mp.mpf(high), 800)
    for _ in range(30):
        level = mp.mpf(0)
        for _ in range(30):
            now = [error(theta, x) for x in reference]
            system, right = mp.matrix(count + 1, count + 1), mp.matrix(count + 1, 1)
            for j in range(count):
                step = mp.mpf(10) ** -18 * max(abs(theta[j]), mp.mpf(10) ** -12)
                moved = [t + step * (i == j) for i, t in enumerate(theta)]
                for i, x in enumerate(reference):
                    system[i, j] = (error(moved, x) - now[i]) / step
            for i in range(count + 1):
                system[i, count] = -((-1) ** i)
                right[i] = (-1) ** i * level - now[i]
            change = mp.lu_solve(system, right)
            theta, level = [t + change[j] for j, t in enumerate(theta)], level + change[count]
            if all(abs(change[j]) <= abs(theta[j]) * mp.mpf(10) ** -14 for j in range(count)):
                break
        runs = []  # the largest error of every run of one sign
        for x in grid:
            value = error(theta, x)
            if runs and (runs[-1][1] > 0) == (value > 0):
                runs[-1] = max(runs[-1], (x, value), key=lambda run: abs(run[1]))
            else:
                runs.append((x, value))
        largest = max(abs(value) for _, value in runs)
        if len(runs) <= count or largest < abs(level) * mp.mpf("1.001"):
            break
        while len(runs) > count + 1:
            i = min(range(len(runs)), key=lambda i: abs(runs[i][1]))
            if len(runs) == count + 2 or i in (0, len(runs) - 1):
                runs.pop(0 if abs(runs[0][1]) < abs(runs[-1][1]) else -1)
            else:  # without it, its neighbours are one run
                runs[i - 1 : i + 2] = [max(runs[i - 1], runs[i + 1], key=lambda run: abs(run[1]))]
        reference = [x for x, _ in runs]
    return theta, largest


def fit_tanh(limit=9):
    """tanh(x) = n d / ((d - n/2)**2 + n d), n = x P(x**2), d = Q(x**2), both 1 at 0: 2 n/2 d / ((n/2)**2 + d**2)."""

    def error(t, x):
        n, d = x * horner([1, *t[:2]], x * x), horner([1, *t[2:]], x * x)
        true = mp.tanh(x)
        return (n * d / (n * n / 4 + d * d) - true) / min(1, 2 * true) if x else mp.mpf(0)

    def equation(x, y):  # x P = y Q
        return [x**3, x**5, -y * x**2, -y * x**4, -y * x**6], y - x

    points = extrema(mp.mpf(0), mp.mpf(limit), 7)[1:-1]
    theta, largest = minimax(error, linear_start(lambda x: 2 * mp.tanh(x / 2), equation, points), 0, limit)
    return [1, *theta[:2]], [1, *theta[2:]], largest


def fit_power(degree):
    """2**f = 1 + f R(f) on |f| <= 1/2 and a little more, relative error."""
    high = mp.mpf("0.5002")
    start = [mp.ln2 ** (i + 1) / mp.factorial(i + 1) for i in range(degree)]
    reference = around_zero(high, degree + 1)

    def error(t, f):  # the sign, because f R(f) alternates once less than R
        return mp.sign(f) * (horner([1, *t], f) / mp.mpf(2) ** f - 1)

    return minimax(error, start, -high, high, reference)


def fit_exp(degree):
    """exp(r) = 1 + r + r**2 S(r) on |r| <= log(2)/2 and a little more, relative error."""
    high = mp.log(2) / 2 * mp.mpf("1.0005")
    reference = around_zero(high, degree + 2)
    start = [1 / mp.factorial(i + 2) for i in range(degree + 1)]
    return minimax(lambda t, r: (1 + r + r * r * horner(t, r)) / mp.exp(r) - 1, start, -high, high, reference)


def fit_log(n, m):
    """log(1 + e) = e + e**2 P(e) / Q(e) on [0, 1], relative error."""

    def error(t, x):
        return (x + x * x * horner(t[: n + 1], x) / horner([1, *t[n + 1 :]], x)) / mp.log1p(x) - 1 if x else mp.mpf(0)

    def equation(x, y):
        return [x**i for i in range(n + 1)] + [-y * x**i for i in range(1, m + 1)], y

    points = extrema(mp.mpf(0), mp.mpf(1), n + m + 3)[1:-1]
    theta, largest = minimax(error, linear_start(lambda x: (mp.log1p(x) - x) / x**2, equation, points), 0, 1)
    return theta[: n + 1], [1, *theta[n + 1 :]], largest


def rounded(values, bits):
    kind = {32: np.float32, 64: np.float64}[bits]
    return tuple(float(kind(mp.nstr(mp.mpf(v), 30))) for v in values)


def exponential(bits, s):
    lowest, highest, largest, mantissa, high_bits = {
        32: (-88.0, 89.0, 127.0, 23, 16),
        64: (-709.0, 710.0, 1023.0, 52, 42),
    }[bits]
    high = mp.floor(mp.ln2 * 2**high_bits) / mp.mpf(2) ** high_bits
    numbers = rounded((1 / mp.ln2, high, mp.ln2 - high), bits)
    return approximations.Exponential(lowest, highest, largest, 1.5 * 2.0**mantissa, *numbers, rounded(s, bits))


def polish(name, starts, record, x, reference, cost, rounds=12, steps=2000, seed=0):
    """Annealing among neighbouring float32 coefficients, from the best of several arrays of them.

    Every trial is the function itself, on a pool of points to which every round adds those with the largest errors.
    """
    rng = np.random.default_rng(seed)
    function, ops = getattr(approximations, name.lower().removesuffix("_32")), NumpyOps(32)
    ends = np.array([-np.inf, np.inf], np.float32)

    def judge(flat, where):
        """The cost, and the error everywhere."""
        setattr(approximations, name, record([float(c) for c in flat]))
        away = np.abs(function(ops, x[where]) - reference[where])
        return cost(away, reference[where], function(ops, ends)), away

    pool = rng.choice(len(x), 8000)
    best = (np.inf, None)
    candidate = min((start.astype(np.float32) for start in starts), key=lambda flat: judge(flat, pool)[0])
    for last in [*[False] * rounds, True]:
        total, away = judge(candidate, slice(None))
        if total < best[0]:
            best = (total, candidate)
        if last:
            break
        worst = [np.argpartition(e, -1500)[-1500:] for e in (away, away / reference)]
        pool = np.union1d(pool, np.concatenate(worst))
        now = local = (judge(best[1], pool)[0], best[1])
        for step in range(steps):
            trial = now[1].copy()
            for i in rng.integers(0, len(trial), rng.integers(1, 4)):
                trial[i : i + 1].view(np.int32)[0] += np.int32(np.clip(np.round(rng.standard_cauchy() * 1.5), -60, 60))
            value = judge(trial, pool)[0]
            if value <= now[0] or rng.random() < np.exp((now[0] - value) / (2e-9 * (1 - step / steps))):
                now = (value, trial)
                local = min(local, now, key=lambda trial: trial[0])
        candidate = local[1]
    judge(best[1], pool)


def polish_tanh(seed):
    p, q, largest = fit_tanh()
    print(f"tanh 32: fit {mp.nstr(largest, 3)}")
    rng = np.random.default_rng(seed)
    x = np.concatenate([rng.uniform(0, 9, 1_500_000), np.exp(rng.uniform(-7, 1, 1_500_000))]).astype(np.float32)
    starts = [np.array([*p, *q], float) * 2.0**scale for scale in rng.random(64)]

    def cost(away, reference, ends):
        return max(away.max(), 0.45 * (away / reference).max()) + 1e-8 * (ends[1] != 1)

    def record(flat):
        return approximations.Tanh(9.0, tuple(flat[: len(p)]), tuple(flat[len(p) :]))

    polish("TANH_32", starts, record, x, np.tanh(x.astype(float)), cost, seed=seed)


def polish_sigmoid(seed):
    p, largest = fit_power(5)
    print(f"power 32: fit {mp.nstr(largest, 3)}")
    rng = np.random.default_rng(seed)
    x = np.concatenate([rng.uniform(-18, 18, 500_000), rng.uniform(-2, 5, 1_500_000)]).astype(np.float32)
    log2e = rounded([1 / mp.ln2], 32)[0]

    def record(flat):
        return approximations.Sigmoid(-89.0, 88.0, 12582912.0, log2e, (1.0, *flat))

    def cost(away, reference, ends):
        return away.max()

    polish("SIGMOID_32", [np.array(p, float)], record, x, 1 / (1 + np.exp(-x.astype(float))), cost, rounds=6, seed=seed)


def fit_all():
    polish_tanh(seed=2)
    polish_sigmoid(seed=0)
    for bits, degree, n, m in ((32, 4, 2, 2), (64, 9, 5, 6)):
        s, exp_error = fit_exp(degree)
        p, q, log_error = fit_log(n, m)
        print(f"exp {bits}: fit {mp.nstr(exp_error, 3)}; log {bits}: fit {mp.nstr(log_error, 3)}")
        setattr(approximations, f"EXP_{bits}", exponential(bits, s))
        setattr(approximations, f"LOG_{bits}", approximations.Logarithm(rounded(p, bits), rounded(q, bits)))


def measure(bits, count=1_000_000):
    """Largest errors over random arguments."""
    ops, rng = NumpyOps(bits), np.random.default_rng(2)
    kind, wide = (np.float32, np.float64) if bits == 32 else (np.float64, np.longdouble)
    span = 87.3 if bits == 32 else 708.0
    x = np.concatenate([rng.uniform(-10, 10, count), rng.uniform(-span, span, count)])
    x = np.concatenate([x, rng.choice([-1, 1], count) * np.exp(rng.uniform(-12, 2, count))]).astype(kind)
    w = x.astype(wide)
    references = {
        "tanh": np.tanh(w),
        "sigmoid": 1 / (1 + np.exp(-w)),
        "exp": np.exp(w),
        "softplus": np.maximum(w, 0) + np.log1p(np.exp(-np.abs(w))),
    }
    for name, true in references.items():
        with np.errstate(all="ignore"):
            away = np.abs(getattr(approximations, name)(ops, x).astype(wide) - true)
        relative = (away / np.abs(true)).astype(float)
        print(f"{name} {bits}: relative {relative.max():.3e} at {x[relative.argmax()]:.6g}", end="")
        print("" if name == "exp" else f", absolute {away[np.abs(x) < 30].max():.3e}")


if __name__ == "__main__":
    fit_all()
    for name in ("TANH_32", "SIGMOID_32", "EXP_32", "EXP_64", "LOG_32", "LOG_64"):
        print(f"{name} = ", end="")
        pprint.pprint(getattr(approximations, name), width=110)
    for bits in (32, 64):
        measure(bits)
