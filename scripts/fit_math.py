"""Derives the polynomial coefficients of compiler/kernel/math/formats.ts (run: python3 scripts/fit_math.py, needs mpmath).

Each polynomial is a least-squares fit on Chebyshev points of the error weighted as it enters the result, which is
within a small factor of the minimax error. Coefficients are rounded to the target format one by one, lowest first,
and the rest is fitted again, so that the rounding of one is made up for by the next.
"""
from mpmath import mp, mpf
import mpmath as m
import struct

mp.prec = 220


def to_f32(x):
    return mpf(struct.unpack('f', struct.pack('f', float(x)))[0])


def to_f64(x):
    return mpf(float(x))


def solve(g, w, a, b, first, n, fixed):
    """Weighted least squares for coefficients first..n-1, those below being fixed."""
    points = 4 * n + 8
    xs = [(a + b) / 2 + (b - a) / 2 * m.cos(m.pi * (2 * i + 1) / (2 * points)) for i in range(points)]
    k = n - first
    half = max(abs(a), abs(b))
    A = m.matrix(points, k)
    y = m.matrix(points, 1)
    for i, x in enumerate(xs):
        wi = w(x)
        y[i] = (g(x) - sum(c * x ** j for j, c in enumerate(fixed))) * wi
        for j in range(k):
            A[i, j] = wi * (x / half) ** (first + j)
    c = m.lu_solve(A.T * A, A.T * y)
    return [c[j] / half ** (first + j) for j in range(k)]


def fit(g, w, a, b, n, rounding):
    a, b = mpf(a), mpf(b)
    fixed = []
    for i in range(n):
        fixed.append(rounding(solve(g, w, a, b, i, n, fixed)[0]))
    worst = max(abs((g(x) - sum(c * x ** j for j, c in enumerate(fixed))) * w(x))
                for x in [a + (b - a) * mpf(2 * i + 1) / 400 for i in range(200)])
    return fixed, worst


def series(f, z, terms=60):
    return sum(f(k) * z ** k for k in range(terms))


LN2H = m.log(2) / 2
expq = lambda r: series(lambda k: 1 / m.factorial(k + 2), r)
logq = lambda z: series(lambda k: mpf(2) / (2 * k + 3), z)                       # log((1+s)/(1-s)) = 2s + s z logq(z)
sinq = lambda z: series(lambda k: (-1) ** (k + 1) / m.factorial(2 * k + 3), z)
cosq = lambda z: series(lambda k: (-1) ** k / m.factorial(2 * k + 4), z)
sinhq = lambda z: series(lambda k: 1 / m.factorial(2 * k + 3), z)


def odd(f):
    """(f(x) - x) / x^3 as a function of z = x^2."""
    def q(z):
        x = m.sqrt(z)
        return (f(x) - x) / x ** 3
    return q


tanq, asinq, atanq, tanhq = odd(m.tan), odd(m.asin), odd(m.atan), odd(m.tanh)
erfp = lambda z: m.erf(m.sqrt(z)) / m.sqrt(z) - 1
one = lambda x: mpf(1)
QP = m.pi / 4 * mpf('1.0001')

# name, function, weight of its error in the relative error of the result, interval, terms in f32 and f64 (0: unused)
TINY = mpf('1e-12')
tasks = [
    ('exp', expq, lambda r: r * r, -LN2H * mpf('1.0005'), LN2H * mpf('1.0005'), 5, 11),
    ('log', logq, lambda z: z / 2, TINY, mpf('0.02945'), 4, 7),
    ('logTail', lambda z: series(lambda k: mpf(2) / (2 * k + 5), z), lambda z: z * z / 2, TINY, mpf('0.02945'), 0, 8),
    ('sin', sinq, lambda z: z, TINY, QP * QP, 4, 7),
    ('cos', cosq, lambda z: z * z, TINY, QP * QP, 3, 6),
    ('tan', tanq, lambda z: z, TINY, QP * QP, 7, 15),
    ('asin', asinq, lambda z: z, TINY, mpf('0.25'), 6, 13),
    ('atan', atanq, lambda z: z, TINY, mpf('0.4376') ** 2, 5, 12),
    ('sinh', sinhq, lambda z: z, TINY, mpf(1), 4, 7),
    ('tanh', tanhq, lambda z: z, TINY, mpf('0.6') ** 2, 6, 12),
    ('erf', erfp, one, TINY, mpf(1), 7, 12),
]
for index, (name, rounding, limit, terms) in enumerate((('f32', to_f32, 4, 7), ('f64', to_f64, 6, 19))):
    print(name)
    erfc = ('erfc', lambda u: -m.log(m.erfc(1 + u)), lambda u: m.erfc(1 + u), mpf(0), mpf(limit - 1), terms, terms)
    for task, g, w, a, b, *counts in tasks + [erfc]:
        if counts[index]:
            c, error = fit(g, w, a, b, counts[index], rounding)
            print(f'  {task}: [{", ".join(repr(float(x)) for x in c)}], error 2^{m.nstr(m.log(error, 2), 4)}')
