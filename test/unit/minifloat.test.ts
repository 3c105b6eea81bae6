/** Float formats of at most a byte: every code against formulas of its own, rounding by brute force, ONNX's tables. */
import fc from 'fast-check';
import { describe, expect, it, test } from 'vitest';
import { bitsOf, dtypes, isMiniFloat, type MiniFloatDType } from '../../compiler/dtype.js';
import { decodeMiniFloat, encodeMiniFloat, type ScaleRounding } from '../../compiler/minifloat.js';

const [inf, nan] = [Number.POSITIVE_INFINITY, Number.NaN];
const formats = dtypes.filter(isMiniFloat);
const signed = formats.filter((dtype) => dtype !== 'f8e8m0');
const codes = (dtype: MiniFloatDType): number[] => Array.from({ length: 2 ** bitsOf(dtype) }, (_, code) => code);

/** The value by the letter of each format's specification, with no word shared with the code under test. */
const specified: Readonly<Record<MiniFloatDType, (code: number) => number>> = {
  f8e4m3: (code) => ((code & 0x7f) === 0x7f ? nan : fields(code, 4, 3, 7)),
  f8e5m2: (code) => {
    if ((code & 0x7f) > 0x7c) return nan;
    return (code & 0x7f) === 0x7c ? (code & 0x80 ? -inf : inf) : fields(code, 5, 2, 15);
  },
  f8e4m3fnuz: (code) => (code === 0x80 ? nan : fields(code, 4, 3, 8)),
  f8e5m2fnuz: (code) => (code === 0x80 ? nan : fields(code, 5, 2, 16)),
  f8e8m0: (code) => (code === 255 ? nan : 2 ** (code - 127)),
  f4e2m1: (code) => (code & 8 ? -1 : 1) * [0, 0.5, 1, 1.5, 2, 3, 4, 6][code & 7],
};

/** (-1)^S · 2^(E-bias) · 1.M, or (-1)^S · 2^(1-bias) · 0.M where E is 0, from the code's binary digits. */
function fields(code: number, exponentBits: number, mantissaBits: number, bias: number): number {
  const digits = code.toString(2).padStart(1 + exponentBits + mantissaBits, '0');
  const exponent = Number.parseInt(digits.slice(1, 1 + exponentBits), 2);
  const fraction = Number.parseInt(digits.slice(1 + exponentBits), 2) / 2 ** mantissaBits;
  const magnitude = exponent === 0 ? fraction * 2 ** (1 - bias) : (1 + fraction) * 2 ** (exponent - bias);
  return digits[0] === '1' ? -magnitude : magnitude;
}

describe.each(formats)('%s', (dtype) => {
  it('decodes every code as its specification says', () => {
    for (const code of codes(dtype)) {
      if (!Object.is(decodeMiniFloat(dtype, code), specified[dtype](code)))
        expect.fail(`${code}: ${decodeMiniFloat(dtype, code)}, specified ${specified[dtype](code)}`);
    }
  });

  it.each([true, false])('encodes every value back to its code, saturating or not (%s)', (saturate) => {
    for (const code of codes(dtype)) {
      const value = decodeMiniFloat(dtype, code);
      const back = encodeMiniFloat(dtype, value, { saturate });
      if (Number.isFinite(value)) expect(back).toBe(code);
      else if (Number.isNaN(value)) expect(decodeMiniFloat(dtype, back)).toBeNaN();
      else if (!saturate) expect(back).toBe(code);
    }
  });
});

describe.each(signed)('rounding to %s', (dtype) => {
  const all = codes(dtype)
    .map((code) => ({ code, value: specified[dtype](code) }))
    .filter(({ code, value }) => Number.isFinite(value) && !(code !== 0 && value === 0))
    .sort((a, b) => a.value - b.value);
  const most = all[all.length - 1].value;

  /** The nearest value, of two the one with an even code. */
  const nearest = (x: number): number => {
    let best = all[0];
    for (const candidate of all) {
      const closer = Math.abs(candidate.value - x) - Math.abs(best.value - x);
      if (closer < 0 || (closer === 0 && candidate.code % 2 === 0)) best = candidate;
    }
    return best.value;
  };

  it('is to the nearest value, ties to the even code', () => {
    for (let i = 0; i + 1 < all.length; i++) {
      const [low, high] = [all[i].value, all[i + 1].value];
      for (const part of [2 ** -40, 0.25, 0.5 - 2 ** -40, 0.5, 0.5 + 2 ** -40, 0.75, 1 - 2 ** -40]) {
        const x = low + (high - low) * part;
        const found = decodeMiniFloat(dtype, encodeMiniFloat(dtype, x, { saturate: true }));
        if (found !== nearest(x)) expect.fail(`${x} gives ${found}, nearest is ${nearest(x)}`);
      }
    }
  });

  it('property: the same for any double in range', () => {
    fc.assert(
      fc.property(fc.double({ min: -most, max: most, noNaN: true }), (x) => {
        const found = decodeMiniFloat(dtype, encodeMiniFloat(dtype, x, { saturate: fc.sample(fc.boolean(), 1)[0] }));
        // Numbers compare, not signs of zero.
        expect(found + 0).toBe(nearest(x) + 0);
      }),
    );
  });
});

/** The tables of ONNX's Cast: what x becomes, with and without saturation. */
test.each<[MiniFloatDType, number, saturating: number, other: number]>([
  ['f8e4m3', 0, 0, 0],
  ['f8e4m3', -0, 0x80, 0x80],
  ['f8e4m3', nan, 0x7f, 0x7f],
  ['f8e4m3', inf, 0x7e, 0x7f],
  ['f8e4m3', -inf, 0xfe, 0xff],
  ['f8e4m3', 464, 0x7e, 0x7e],
  ['f8e4m3', 464.1, 0x7e, 0x7f],
  ['f8e4m3', -1e30, 0xfe, 0xff],
  ['f8e5m2', -0, 0x80, 0x80],
  ['f8e5m2', nan, 0x7f, 0x7f],
  ['f8e5m2', inf, 0x7b, 0x7c],
  ['f8e5m2', -inf, 0xfb, 0xfc],
  ['f8e5m2', 61439, 0x7b, 0x7b],
  ['f8e5m2', 61440, 0x7b, 0x7c],
  ['f8e5m2', -1e30, 0xfb, 0xfc],
  ['f8e4m3fnuz', -0, 0, 0],
  ['f8e4m3fnuz', -1e-9, 0, 0],
  ['f8e4m3fnuz', nan, 0x80, 0x80],
  ['f8e4m3fnuz', inf, 0x7f, 0x80],
  ['f8e4m3fnuz', -inf, 0xff, 0x80],
  ['f8e4m3fnuz', 247.9, 0x7f, 0x7f],
  ['f8e4m3fnuz', 248, 0x7f, 0x80],
  ['f8e5m2fnuz', -0, 0, 0],
  ['f8e5m2fnuz', nan, 0x80, 0x80],
  ['f8e5m2fnuz', inf, 0x7f, 0x80],
  ['f8e5m2fnuz', -inf, 0xff, 0x80],
  ['f8e5m2fnuz', 1e6, 0x7f, 0x80],
  ['f4e2m1', -0, 8, 8],
  ['f4e2m1', nan, 8, 8],
  ['f4e2m1', inf, 7, 7],
  ['f4e2m1', -inf, 15, 15],
  ['f4e2m1', 1e300, 7, 7],
  ['f4e2m1', 0.25, 0, 0],
  ['f4e2m1', 5, 6, 6],
])('%s of %s', (dtype, x, saturating, other) => {
  expect(encodeMiniFloat(dtype, x, { saturate: true })).toBe(saturating);
  expect(encodeMiniFloat(dtype, x, { saturate: false })).toBe(other);
});

describe('scales of blocks (f8e8m0)', () => {
  const encode = (x: number, rounding: ScaleRounding, saturate = true) =>
    encodeMiniFloat('f8e8m0', x, { saturate, rounding });

  it('rounds powers of two up, down and to the nearest, ties up', () => {
    for (let exponent = -127; exponent < 127; exponent++) {
      const low = 2 ** exponent;
      const code = exponent + 127;
      for (const [x, up, nearest] of [
        [low, code, code],
        [low * (1 + 2 ** -50), code + 1, code],
        [low * 1.4999, code + 1, code],
        [low * 1.5, code + 1, code + 1],
        [low * 1.9999, code + 1, code + 1],
      ]) {
        expect([encode(x, 'up'), encode(x, 'nearest'), encode(x, 'down')]).toEqual([up, nearest, code]);
      }
    }
  });

  it('what lies outside of the format saturates or is NaN', () => {
    const below = [0, -0, 2 ** -128, 2 ** -1074, -1, -1e300, -inf];
    const above = [inf, 2 ** 128, 1.5 * 2 ** 127, 1e300];
    expect(below.map((x) => encode(x, 'up'))).toEqual(below.map(() => 0));
    expect(above.map((x) => encode(x, 'up'))).toEqual(above.map(() => 254));
    expect([...below, ...above].map((x) => encode(x, 'nearest', false))).toEqual([...below, ...above].map(() => 255));
    expect([true, false].map((saturate) => encode(nan, 'up', saturate))).toEqual([255, 255]);
    expect(encode(1.4 * 2 ** 127, 'nearest', false)).toBe(254);
  });

  it('rounds up unless it is said', () => {
    expect(encodeMiniFloat('f8e8m0', 1.1, { saturate: true })).toBe(128);
  });
});
