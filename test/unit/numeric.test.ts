/** Number formats: bits, rounding, fused multiply-add and erf against independent references. */
import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import {
  bf16ToF32,
  bigintToOddF64,
  erf,
  f16ToF32,
  f32ToBf16,
  f32ToF16,
  fmaBf16,
  fmaF16,
  fmaF32,
  fmaF64,
  pow,
  roundBf16,
  roundF16,
  roundTiesToEven,
} from '../../compiler/numeric.js';

const inf = Number.POSITIVE_INFINITY;

/** All finite values of a format, ascending, from its decoder. */
function finite(bits: number, decode: (bits: number) => number): { readonly bits: number; readonly value: number }[] {
  return Array.from({ length: 2 ** bits }, (_, b) => ({ bits: b, value: decode(b) }))
    .filter(({ bits: b, value }) => Number.isFinite(value) && b !== 2 ** (bits - 1))
    .sort((x, y) => x.value - y.value);
}

describe.each([
  { name: 'f16', bits: 16, decode: f16ToF32, encode: f32ToF16, max: 65504, min: 2 ** -24 },
  { name: 'bf16', bits: 16, decode: bf16ToF32, encode: f32ToBf16, max: (2 - 2 ** -7) * 2 ** 127, min: 2 ** -133 },
])('$name', ({ bits, decode, encode, max, min }) => {
  const all = finite(bits, decode);

  test('every value keeps its bits; the largest and smallest are right', () => {
    for (const { bits: b, value } of all) expect(encode(value)).toBe(b);
    expect(all[all.length - 1].value).toBe(max);
    expect(all.find(({ value }) => value > 0)?.value).toBe(min);
    expect(encode(-0)).toBe(2 ** (bits - 1));
    expect(decode(encode(Number.NaN))).toBeNaN();
  });

  test('between two values it rounds to the nearer one, in the middle to the even one', () => {
    for (let i = 0; i + 1 < all.length; i++) {
      const [a, b] = [all[i], all[i + 1]];
      const middle = (a.value + b.value) / 2;
      const even = a.bits % 2 === 0 ? a : b;
      // Around zero the result keeps the sign of what was rounded: compare values, not bits.
      const delta = (b.value - a.value) * 2 ** -30;
      if (decode(encode(middle)) !== even.value)
        expect.fail(`${middle} gives ${decode(encode(middle))}, not ${even.value}`);
      if (decode(encode(middle - delta)) !== a.value) expect.fail(`below ${middle}`);
      if (decode(encode(middle + delta)) !== b.value) expect.fail(`above ${middle}`);
    }
  });
});

test('overflow', () => {
  expect([roundF16(65519.999), roundF16(65520), roundF16(-1e300)]).toEqual([65504, inf, -inf]);
  expect([roundBf16(3.3961775e38), roundBf16(3.4e38), roundBf16(-inf)]).toEqual([3.3895313892515355e38, inf, -inf]);
  expect([f32ToF16(inf), f32ToF16(-1e9), f32ToF16(65519)]).toEqual([0x7c00, 0xfc00, 0x7bff]);
});

test('round to an integer, ties to even, the sign of zero kept', () => {
  const cases = [
    [0.5, 0],
    [1.5, 2],
    [2.5, 2],
    [-0.5, -0],
    [-0.2, -0],
    [-1.5, -2],
    [0.49999999999999994, 0],
    [4503599627370495.5, 4503599627370496],
    [2251799813685249.5, 2251799813685250],
    [-2251799813685248.5, -2251799813685248],
    [1e300, 1e300],
    [-0, -0],
    [inf, inf],
  ];
  for (const [x, expected] of cases) expect(roundTiesToEven(x)).toBe(expected);
  expect(roundTiesToEven(Number.NaN)).toBeNaN();
});

/** A double as an exact rational: integer · 2^exponent. */
function exact(x: number): readonly [bigint, number] {
  if (x === 0) return [0n, 0];
  let exponent = 0;
  let y = x;
  while (!Number.isInteger(y)) {
    y *= 2 ** 40;
    exponent -= 40;
  }
  return [BigInt(y), exponent];
}

/** Reference: a·b + c exactly, then the nearest of the candidates around it. */
function isNearest(a: number, b: number, c: number, result: number, round: (x: number) => number): boolean {
  const [x, ex] = exact(a);
  const [y, ey] = exact(b);
  const [z, ez] = exact(c);
  const low = Math.min(ex + ey, ez, -2200);
  const at = (v: bigint, e: number) => v << BigInt(e - low);
  const truth = at(x * y, ex + ey) + at(z, ez);
  const distance = (v: number): bigint => {
    const [n, e] = exact(v);
    const d = at(n, e) - truth;
    return d < 0n ? -d : d;
  };
  const mine = distance(result);
  const step = Math.max(Math.abs(result) * 2 ** -9, Number.MIN_VALUE);
  // Any other value of the format must be no nearer: search outward for the neighbours.
  for (const sign of [-1, 1]) {
    for (let s = step; s >= Number.MIN_VALUE; s /= 2) {
      const other = round(result + sign * s);
      if (other !== result && Number.isFinite(other) && distance(other) < mine) return false;
    }
  }
  return true;
}

describe('fused multiply-add', () => {
  test('cases where two roundings go wrong', () => {
    // 1 + 2^-24 is a tie in f32 that goes down; the tiny third part must break it.
    expect(fmaF32(2 ** -30, 2 ** -30, 1 + 2 ** -23)).toBe(Math.fround(1 + 2 ** -23));
    const a = Math.fround(1 + 2 ** -12);
    expect(fmaF32(a, a, 2 ** -60)).toBe(Math.fround(1 + 2 ** -11 + 2 ** -23));
    expect(fmaF32(a, a, -(2 ** -60))).toBe(Math.fround(1 + 2 ** -11));
    expect(fmaF32(a, a, 0)).toBe(Math.fround(1 + 2 ** -11));
    const x = 1 + 2 ** -30;
    expect(fmaF64(x, x, -1 - 2 ** -29)).toBe(2 ** -60);
    expect(x * x - 1 - 2 ** -29).not.toBe(2 ** -60);
    expect(fmaF16(65504, 1, 16)).toBe(inf);
    expect(fmaF16(65504, 1, 15.9921875)).toBe(65504);
  });

  test('special values', () => {
    for (const fma of [fmaF16, fmaBf16, fmaF32, fmaF64]) {
      expect(fma(inf, 0, 1)).toBeNaN();
      expect(fma(inf, 1, -inf)).toBeNaN();
      expect(fma(Number.NaN, 1, 1)).toBeNaN();
      expect(fma(1, 1, Number.NaN)).toBeNaN();
      expect(fma(inf, -1, 5)).toBe(-inf);
      expect(fma(2, 3, -inf)).toBe(-inf);
      expect(fma(-0, 1, -0)).toBe(-0);
      expect(fma(-0, 1, 0)).toBe(0);
      expect(fma(1, 1, -1)).toBe(0);
      expect(fma(0, 5, -0)).toBe(0);
      expect(fma(3, 4, 5)).toBe(17);
    }
    expect(fmaF64(1e200, 1e200, -1e300)).toBe(inf);
    expect(fmaF64(1e200, 1e200, -inf)).toBe(-inf);
    expect(fmaF64(5e-324, 0.5, 0)).toBe(0);
    expect(fmaF64(-5e-324, 0.5, 0)).toBe(-0);
    expect(fmaF64(5e-324, 0.75, 5e-324)).toBe(1e-323);
    expect(fmaF64(1.7976931348623157e308, 2, -1.7976931348623157e308)).toBe(1.7976931348623157e308);
  });

  const magnitude = (low: number, high: number) =>
    fc
      .tuple(fc.integer({ min: -(2 ** 30), max: 2 ** 30 }), fc.integer({ min: low, max: high }))
      .map(([m, e]) => m * 2 ** e);

  test.each([
    ['f32', fmaF32, Math.fround, -80, 20],
    ['f16', fmaF16, roundF16, -50, -24],
    ['bf16', fmaBf16, roundBf16, -80, 20],
    ['f64', fmaF64, (x: number) => x, -200, 200],
  ] as const)('%s is the nearest value to the exact result', (_, fma, round, low, high) => {
    fc.assert(
      fc.property(magnitude(low, high), magnitude(low, high), magnitude(low, high), fc.boolean(), (p, q, r, cancel) => {
        const [a, b] = [round(p), round(q)];
        const c = cancel ? round(-a * b) : round(r);
        const result = fma(a, b, c);
        return !Number.isFinite(result) || isNearest(a, b, c, result, round);
      }),
      { numRuns: 300 },
    );
  });
});

test('64-bit integers to small floats round once', () => {
  // 2^53 + 1 + … lies just above a tie of f32: through a double it would go down.
  const x = (1n << 60n) + (1n << 36n) + 1n;
  expect(Math.fround(bigintToOddF64(x))).toBe(2 ** 60 + 2 ** 37);
  expect(Math.fround(Number(x))).toBe(2 ** 60);
  expect(bigintToOddF64(-x)).toBe(-bigintToOddF64(x));
  expect(bigintToOddF64(9007199254740992n)).toBe(9007199254740992);
});

test('erf to a few ulp', () => {
  // Abramowitz & Stegun, table 7.1, and erfc at larger arguments.
  const table = [
    [0.1, 0.1124629160182849],
    [0.5, 0.5204998778130465],
    [1, 0.8427007929497149],
    [1.5, 0.9661051464753108],
    [2, 0.9953222650189527],
    [2.4, 0.9993114861033549],
    [2.6, 0.9997639655834707],
    [3, 0.9999779095030014],
    [4, 0.9999999845827421],
    [1e-10, 1.1283791670955126e-10],
  ];
  for (const [x, expected] of table) {
    expect(Math.abs(erf(x) / expected - 1)).toBeLessThan(4e-16 * 4);
    expect(erf(-x)).toBe(-erf(x));
  }
  expect([erf(0), erf(-0), erf(inf), erf(-7)]).toEqual([0, -0, 1, -1]);
  expect(erf(Number.NaN)).toBeNaN();
});

test('pow follows C where JavaScript does not', () => {
  expect([pow(1, Number.NaN), pow(1, inf), pow(-1, -inf), pow(2, 0.5), pow(-8, 3), pow(0, -1)]).toEqual([
    1,
    1,
    1,
    Math.SQRT2,
    -512,
    inf,
  ]);
  expect(pow(-8, 1 / 3)).toBeNaN();
});

describe('erf', () => {
  /** erf by its Maclaurin series in fixed point of 400 bits: the reference of the test. */
  function exactErf(x: number): { readonly value: bigint; readonly scale: number } {
    const bits = 400n;
    const one = 1n << bits;
    const fixed = (y: number): bigint => (BigInt(Math.round(y * 2 ** 60)) * one) >> 60n;
    // x is a multiple of 2^-60 in these tests.
    const z = fixed(x);
    const square = (z * z) >> bits;
    let power = z;
    let sum = z;
    for (let n = 1n; power !== 0n && power !== -1n; n++) {
      power = -((power * square) >> bits) / n;
      sum += power / (2n * n + 1n);
    }
    // √π as the root of π, π by Machin's formula.
    const arctan = (inverse: bigint): bigint => {
      let term = one / inverse;
      let total = term;
      for (let n = 1n; term !== 0n; n++) {
        term = -term / (inverse * inverse);
        total += term / (2n * n + 1n);
      }
      return total;
    };
    const pi = 4n * (4n * arctan(5n) - arctan(239n));
    let root = one * 2n;
    for (let i = 0; i < 20; i++) root = (root + (pi * one) / root) >> 1n;
    return { value: (2n * sum * one) / root, scale: 400 };
  }

  test('is within 2 ulp everywhere', () => {
    let worst = 0;
    for (let i = 1; i <= 600; i++) {
      // The middle of the range, where the series cancels most, and a spread from 2^-8 to 6.
      const x = i % 2 ? 2.2 + (i / 600) * 0.4 : Math.fround(2 ** -8 * 1.0105 ** (i * 1.15));
      if (x >= 6) continue;
      const { value, scale } = exactErf(x);
      const found = erf(x);
      const ulp = 2 ** (Math.floor(Math.log2(found)) - 52);
      const difference = BigInt(Math.round(found * 2 ** 62)) * (1n << BigInt(scale - 62)) - value;
      worst = Math.max(worst, Math.abs(Number(difference >> BigInt(scale - 120)) / 2 ** 120) / ulp);
    }
    expect(worst).toBeLessThan(2);
    expect(worst).toBeGreaterThan(0);
  });

  test('is odd, keeps zeros and NaN, and reaches one', () => {
    for (const x of [1e-310, 1e-20, 0.3, 1.7, 2.49999, 2.5, 4, 7]) expect(erf(-x)).toBe(-erf(x));
    expect(erf(-0)).toBe(-0);
    expect(erf(Number.NaN)).toBeNaN();
    expect(erf(Number.NEGATIVE_INFINITY)).toBe(-1);
    expect(erf(1e-20)).toBe(1e-20 * 1.1283791670955126);
  });
});
