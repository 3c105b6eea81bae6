// Semantics of single PTX instructions on the virtual CUDA device, against definitions of the PTX ISA written here
// with bigint and Number arithmetic. Every snippet is one that ptxas accepts (where it is installed).
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import {
  buildVirtualCuda,
  evaluate,
  type Operands,
  PtxFolder,
  virtualCudaMissing,
  type Width,
} from '../support/virtual_cuda.js';

const folder = new PtxFolder();
beforeAll(() => buildVirtualCuda(), 900_000);
afterAll(() => folder.remove());

const edge32 = [
  0n,
  1n,
  2n,
  3n,
  31n,
  32n,
  0x7fffn,
  0x8000n,
  0xffffn,
  0x10000n,
  0x12345678n,
  0x7fffffffn,
  0x80000000n,
  0x80000001n,
  0xfffffffen,
  0xffffffffn,
];
const edge16 = [0n, 1n, 2n, 15n, 16n, 0x7fn, 0x80n, 0xffn, 0x1234n, 0x7fffn, 0x8000n, 0x8001n, 0xfffen, 0xffffn];
const edge64 = [
  0n,
  1n,
  3n,
  63n,
  64n,
  0x7fffffffn,
  0x80000000n,
  0xffffffffn,
  0x100000000n,
  0x123456789abcdefn,
  0x7fffffffffffffffn,
  0x8000000000000000n,
  0xfffffffffffffffen,
  0xffffffffffffffffn,
];
const edges = (width: Width) => (width === 16 ? edge16 : width === 32 ? edge32 : edge64);

const S = (width: number, x: bigint) => BigInt.asIntN(width, x);
const U = (width: number, x: bigint) => BigInt.asUintN(width, x);

/** All pairs of edge values, in chunks of a block. */
function pairs(width: Width, second: readonly bigint[] = edges(width)): { a: bigint[]; b: bigint[] } {
  const a: bigint[] = [];
  const b: bigint[] = [];
  for (const x of edges(width))
    for (const y of second) {
      a.push(x);
      b.push(y);
    }
  return { a, b };
}

const float = new Float32Array(1);
const floatBits = new Uint32Array(float.buffer);
const double = new Float64Array(1);
const doubleBits = new BigUint64Array(double.buffer);
const f32 = (x: number) => {
  float[0] = x;
  return BigInt(floatBits[0] ?? 0);
};
const fromF32 = (bits: bigint) => {
  floatBits[0] = Number(bits);
  return float[0] ?? 0;
};
const f64 = (x: number) => {
  double[0] = x;
  return doubleBits[0] ?? 0n;
};
const nan32 = 0x7fffffffn;
const canonical = (bits: bigint) => (Number.isNaN(fromF32(bits)) ? nan32 : bits);

const floats = [
  0,
  -0,
  1,
  -1,
  1.5,
  2.5,
  -2.5,
  3.0000002,
  1e-40,
  -1e-40,
  1.1754944e-38,
  3.4028235e38,
  -3.4028235e38,
  Infinity,
  -Infinity,
  Number.NaN,
  0.1,
  16777217,
  2147483648,
  -2147483904,
  4294967296,
  65504,
  65520,
  1e-8,
];

const binary = (
  name: string,
  width: Width,
  meaning: (a: bigint, b: bigint) => bigint,
  second?: readonly bigint[],
  secondWidth: Width = width,
  out: Width = width,
) =>
  it(name, () => {
    const { a, b } = pairs(width, second);
    const got = evaluate(folder, {
      code: `${name} %d, %a, %b;`,
      inputs: [
        { width, values: a },
        { width: secondWidth, values: b },
      ],
      output: out,
    }).first;
    expect(got).toEqual(a.map((x, i) => U(out, meaning(x, b[i] ?? 0n))));
  });

describe.skipIf(virtualCudaMissing !== undefined)('integers', () => {
  for (const width of [16, 32, 64] as const) {
    binary(`add.u${width}`, width, (a, b) => a + b);
    binary(`sub.s${width}`, width, (a, b) => a - b);
    binary(`mul.lo.s${width}`, width, (a, b) => a * b);
    binary(`mul.hi.u${width}`, width, (a, b) => (a * b) >> BigInt(width));
    binary(`mul.hi.s${width}`, width, (a, b) => (S(width, a) * S(width, b)) >> BigInt(width));
    binary(`min.s${width}`, width, (a, b) => (S(width, a) < S(width, b) ? a : b));
    binary(`max.u${width}`, width, (a, b) => (a > b ? a : b));
    const divisors = edges(width).filter((x) => x !== 0n);
    binary(`div.u${width}`, width, (a, b) => a / b, divisors);
    binary(`rem.u${width}`, width, (a, b) => a % b, divisors);
    // Towards zero; the most negative by -1 wraps.
    binary(`div.s${width}`, width, (a, b) => S(width, a) / S(width, b), divisors);
    binary(`rem.s${width}`, width, (a, b) => S(width, a) % S(width, b), divisors);
    const amounts = [0n, 1n, 7n, 15n, 16n, 17n, 31n, 32n, 33n, 63n, 64n, 65n, 255n, 256n, 0xffffffffn];
    const clamp = (n: bigint) => (n > BigInt(width) ? BigInt(width) : n);
    binary(`shl.b${width}`, width, (a, n) => a << clamp(n), amounts, 32);
    binary(`shr.u${width}`, width, (a, n) => a >> clamp(n), amounts, 32);
    binary(`shr.s${width}`, width, (a, n) => S(width, a) >> clamp(n), amounts, 32);
  }
  binary('mul.wide.u16', 16, (a, b) => a * b, edge16, 16, 32);
  binary('mul.wide.s32', 32, (a, b) => S(32, a) * S(32, b), edge32, 32, 64);
  const clampS32 = (x: bigint) => (x > 0x7fffffffn ? 0x7fffffffn : x < -0x80000000n ? -0x80000000n : x);
  binary('add.sat.s32', 32, (a, b) => clampS32(S(32, a) + S(32, b)));
  binary('sub.sat.s32', 32, (a, b) => clampS32(S(32, a) - S(32, b)));
  const s24 = (x: bigint) => S(24, U(24, x));
  binary('mul24.lo.s32', 32, (a, b) => s24(a) * s24(b));
  binary('mul24.hi.u32', 32, (a, b) => (U(24, a) * U(24, b)) >> 16n);

  const unary = (name: string, width: Width, out: Width, meaning: (a: bigint) => bigint) =>
    it(name, () => {
      const values = edges(width);
      const got = evaluate(folder, { code: `${name} %d, %a;`, inputs: [{ width, values }], output: out }).first;
      expect(got).toEqual(values.map((x) => U(out, meaning(x))));
    });
  const bits = (width: number, x: bigint) => x.toString(2).padStart(width, '0');
  for (const width of [32, 64] as const) {
    unary(`popc.b${width}`, width, 32, (x) => BigInt([...bits(width, x)].filter((c) => c === '1').length));
    unary(`clz.b${width}`, width, 32, (x) => BigInt(`${bits(width, x)}1`.indexOf('1')));
    unary(`brev.b${width}`, width, width, (x) => BigInt(`0b${[...bits(width, x)].reverse().join('')}`));
    unary(`abs.s${width}`, width, width, (x) => (S(width, x) < 0n ? -S(width, x) : x));
    unary(`neg.s${width}`, width, width, (x) => -x);
    unary(`not.b${width}`, width, width, (x) => ~x);
    unary(`bfind.u${width}`, width, 32, (x) => (x === 0n ? -1n : BigInt(x.toString(2).length - 1)));
    unary(`bfind.s${width}`, width, 32, (x) => {
      const v = S(width, x) < 0n ? U(width, ~x) : x;
      return v === 0n ? -1n : BigInt(v.toString(2).length - 1);
    });
    unary(`bfind.shiftamt.u${width}`, width, 32, (x) => (x === 0n ? -1n : BigInt(width - x.toString(2).length)));
  }

  it('bfe and bfi over positions and lengths beyond the width', () => {
    const values: bigint[] = [];
    const fields: bigint[] = [];
    for (const x of [0x12345678n, 0xf0f0f0f0n, 0x80000001n])
      for (const [position, length] of [
        [0, 0],
        [0, 8],
        [4, 12],
        [24, 8],
        [28, 8],
        [31, 1],
        [32, 4],
        [40, 200],
        [0, 32],
        [5, 255],
        [255, 255],
      ] as const) {
        values.push(x);
        fields.push(BigInt(position | (length << 8)));
      }
    const inputs: Operands[] = [
      { width: 32, values },
      { width: 32, values: fields },
    ];
    const unpack = 'and.b32 %r0, %b, 255; shr.u32 %r1, %b, 8;';
    const bit = (x: bigint, i: number) => (x >> BigInt(i)) & 1n;
    const bfe = (x: bigint, position: number, length: number, signed: boolean) => {
      const sign = signed && length > 0 ? bit(x, Math.min(position + length - 1, 31)) : 0n;
      let d = 0n;
      for (let i = 0; i < 32; i++) d |= (i < length && position + i <= 31 ? bit(x, position + i) : sign) << BigInt(i);
      return d;
    };
    const bfi = (x: bigint, y: bigint, position: number, length: number) => {
      let d = y;
      for (let i = 0; i < length && position + i <= 31; i++)
        d = (d & ~(1n << BigInt(position + i))) | (bit(x, i) << BigInt(position + i));
      return d;
    };
    const each = (f: (x: bigint, position: number, length: number) => bigint) =>
      values.map((x, i) => f(x, Number((fields[i] ?? 0n) & 255n), Number((fields[i] ?? 0n) >> 8n)));
    expect(evaluate(folder, { code: `${unpack} bfe.u32 %d, %a, %r0, %r1;`, inputs, output: 32 }).first).toEqual(
      each((x, p, n) => bfe(x, p, n, false)),
    );
    expect(evaluate(folder, { code: `${unpack} bfe.s32 %d, %a, %r0, %r1;`, inputs, output: 32 }).first).toEqual(
      each((x, p, n) => bfe(x, p, n, true)),
    );
    expect(
      evaluate(folder, { code: `${unpack} bfi.b32 %d, 0xa5a5a5a5, %a, %r0, %r1;`, inputs, output: 32 }).first,
    ).toEqual(each((x, p, n) => bfi(0xa5a5a5a5n, x, p, n)));
  });

  it('shf, prmt, lop3, dp4a, sad', () => {
    const { a, b } = pairs(32);
    const inputs: Operands[] = [
      { width: 32, values: a },
      { width: 32, values: b },
    ];
    const of = (code: string, f: (x: bigint, y: bigint) => bigint) =>
      expect(evaluate(folder, { code, inputs, output: 32 }).first, code).toEqual(
        a.map((x, i) => U(32, f(x, b[i] ?? 0n))),
      );
    for (const n of [0n, 5n, 31n, 32n, 40n]) {
      const both = (x: bigint, y: bigint) => (y << 32n) | x;
      const clamped = n > 32n ? 32n : n;
      of(`shf.l.clamp.b32 %d, %a, %b, ${n};`, (x, y) => (both(x, y) << clamped) >> 32n);
      of(`shf.r.clamp.b32 %d, %a, %b, ${n};`, (x, y) => both(x, y) >> clamped);
      of(`shf.l.wrap.b32 %d, %a, %b, ${n};`, (x, y) => (both(x, y) << (n & 31n)) >> 32n);
      of(`shf.r.wrap.b32 %d, %a, %b, ${n};`, (x, y) => both(x, y) >> (n & 31n));
    }
    const byte = (x: bigint, i: bigint) => (x >> (8n * i)) & 255n;
    const prmt = (x: bigint, y: bigint, s: bigint) => {
      let d = 0n;
      for (let i = 0n; i < 4n; i++) {
        const nibble = (s >> (4n * i)) & 15n;
        const v = byte((y << 32n) | x, nibble & 7n);
        d |= (nibble & 8n ? (v & 128n ? 255n : 0n) : v) << (8n * i);
      }
      return d;
    };
    for (const s of [0x3210n, 0x7654n, 0x0123n, 0xba98n, 0xfc30n])
      of(`prmt.b32 %d, %a, %b, ${s};`, (x, y) => prmt(x, y, s));
    of('prmt.b32.f4e %d, %a, %b, 3;', (x, y) => prmt(x, y, 0x6543n));
    of('prmt.b32.ecl %d, %a, %b, 2;', (x, y) => prmt(x, y, 0x3222n));
    of('lop3.b32 %d, %a, %b, 0x0ff0f00f, 0x96;', (x, y) => x ^ y ^ 0x0ff0f00fn);
    of('lop3.b32 %d, %a, %b, 0x0ff0f00f, 0xca;', (x, y) => (x & y) | (~x & 0x0ff0f00fn));
    const s8 = (x: bigint, i: bigint) => S(8, byte(x, i));
    const sum = (f: (i: bigint) => bigint) => f(0n) + f(1n) + f(2n) + f(3n);
    of('dp4a.s32.s32 %d, %a, %b, 7;', (x, y) => 7n + sum((i) => s8(x, i) * s8(y, i)));
    of('dp4a.u32.s32 %d, %a, %b, 7;', (x, y) => 7n + sum((i) => byte(x, i) * s8(y, i)));
    of('sad.s32 %d, %a, %b, 5;', (x, y) => 5n + (S(32, x) < S(32, y) ? S(32, y) - S(32, x) : S(32, x) - S(32, y)));
    of('mad.lo.s32 %d, %a, %b, 9;', (x, y) => x * y + 9n);
    of('mad.hi.s32 %d, %a, %b, 9;', (x, y) => ((S(32, x) * S(32, y)) >> 32n) + 9n);
  });

  it('128-bit additions through the carry flag', () => {
    const { a, b } = pairs(64);
    const got = evaluate(folder, {
      code: 'add.cc.u64 %d, %a, %b; addc.u64 %e, %a, 0;',
      inputs: [
        { width: 64, values: a },
        { width: 64, values: b },
      ],
      output: 64,
      second: 64,
    });
    expect(got.second).toEqual(a.map((x, i) => U(64, x + ((x + (b[i] ?? 0n)) >> 64n))));
    const less = evaluate(folder, {
      code: 'sub.cc.u32 %d, %a, %b; subc.u32 %e, 0, 0;',
      inputs: [
        { width: 32, values: pairs(32).a },
        { width: 32, values: pairs(32).b },
      ],
      output: 32,
      second: 32,
    });
    expect(less.second).toEqual(pairs(32).a.map((x, i) => (x < (pairs(32).b[i] ?? 0n) ? 0xffffffffn : 0n)));
  });
});

/** f32 values next to x, to check a rounding mode by the definition: the neighbour on the right side of the exact value. */
function roundExact(
  exact: { readonly numerator: bigint; readonly denominator: bigint },
  mode: 'rn' | 'rz' | 'rm' | 'rp',
): bigint {
  const negative = exact.numerator < 0n !== exact.denominator < 0n && exact.numerator !== 0n;
  let n = exact.numerator < 0n ? -exact.numerator : exact.numerator;
  let d = exact.denominator < 0n ? -exact.denominator : exact.denominator;
  if (n === 0n) return mode === 'rm' ? 0x80000000n : 0n;
  // magnitude = n / d; find e with 2^23 <= n/d * 2^-e < 2^24, at least the subnormals' exponent
  let e = n.toString(2).length - d.toString(2).length - 24;
  if (e < -149) e = -149;
  const scaled = () => (e >= 0 ? [n, d << BigInt(e)] : [n << BigInt(-e), d]) as [bigint, bigint];
  let [sn, sd] = scaled();
  while (sn / sd >= 1n << 24n) {
    e++;
    [sn, sd] = scaled();
  }
  let q = sn / sd;
  const r = sn % sd;
  const up =
    mode === 'rn'
      ? 2n * r > sd || (2n * r === sd && (q & 1n) === 1n)
      : mode === 'rp'
        ? !negative && r > 0n
        : mode === 'rm'
          ? negative && r > 0n
          : false;
  if (up) q++;
  if (q === 1n << 24n) {
    q >>= 1n;
    e++;
  }
  n = q;
  d = 1n;
  const sign = negative ? 0x80000000n : 0n;
  const field = q >= 1n << 23n ? BigInt(e + 150) : 0n;
  if (field >= 255n) {
    const toLargest = mode === 'rz' || (mode === 'rm' && !negative) || (mode === 'rp' && negative);
    return sign | (toLargest ? 0x7f7fffffn : 0x7f800000n);
  }
  return sign | (field << 23n) | (q & 0x7fffffn);
}

/** An f32 as an integer times 2^-149. */
const fixed = (bits: bigint) => {
  const exponent = Number((bits >> 23n) & 255n);
  const fraction = bits & 0x7fffffn;
  const magnitude = exponent === 0 ? fraction : (fraction | 0x800000n) << BigInt(exponent - 1);
  return bits >> 31n ? -magnitude : magnitude;
};

describe.skipIf(virtualCudaMissing !== undefined)('f32', () => {
  const finite = floats.filter((x) => Number.isFinite(x)).map(f32);
  const random = Array.from({ length: 40 }, (_, i) => ((BigInt(i) * 0x9e3779b97f4a7c15n) >> 13n) & 0xffffffffn).filter(
    (x) => ((x >> 23n) & 255n) !== 255n,
  );
  const values = [...finite, ...random].slice(0, 30);
  const a = values.flatMap((x) => values.map(() => x));
  const b = values.flatMap(() => values);
  const one = 1n << 149n;
  for (const mode of ['rn', 'rz', 'rm', 'rp'] as const) {
    const check = (
      code: string,
      exact: (x: bigint, y: bigint) => { numerator: bigint; denominator: bigint } | undefined,
    ) => {
      const got = evaluate(folder, {
        code,
        inputs: [
          { width: 32, values: a },
          { width: 32, values: b },
        ],
        output: 32,
      }).first;
      let checked = 0;
      got.forEach((bits, i) => {
        const e = exact(a[i] ?? 0n, b[i] ?? 0n);
        if (e === undefined || e.numerator === 0n) return; // the sign of a zero has its own test
        checked++;
        const expected = roundExact(e, mode);
        if (bits !== expected)
          throw new Error(
            `${code} of ${a[i]?.toString(16)}, ${b[i]?.toString(16)}: ${bits.toString(16)}, exactly ${expected.toString(16)}`,
          );
      });
      expect(checked).toBeGreaterThan(500);
    };
    it(`add, sub, mul, fma, div .${mode} are correctly rounded`, () => {
      check(`add.${mode}.f32 %d, %a, %b;`, (x, y) => ({ numerator: fixed(x) + fixed(y), denominator: one }));
      check(`sub.${mode}.f32 %d, %a, %b;`, (x, y) => ({ numerator: fixed(x) - fixed(y), denominator: one }));
      check(`mul.${mode}.f32 %d, %a, %b;`, (x, y) => ({ numerator: fixed(x) * fixed(y), denominator: one * one }));
      check(`fma.${mode}.f32 %d, %a, %b, 0f3f800001;`, (x, y) => ({
        numerator: fixed(x) * fixed(y) + fixed(0x3f800001n) * one,
        denominator: one * one,
      }));
      check(`div.${mode}.f32 %d, %a, %b;`, (x, y) =>
        fixed(y) === 0n ? undefined : { numerator: fixed(x), denominator: fixed(y) },
      );
    });
  }

  it('min and max: NaN is missing data, -0 is below +0; .NaN spreads it', () => {
    const all = floats.map(f32);
    const x = all.flatMap((v) => all.map(() => v));
    const y = all.flatMap(() => all);
    const inputs: Operands[] = [
      { width: 32, values: x },
      { width: 32, values: y },
    ];
    const order = (bits: bigint) => (bits >> 31n ? -1n - (bits & 0x7fffffffn) : bits);
    const expected = (least: boolean, spread: boolean) =>
      x.map((p, i) => {
        const q = y[i] ?? 0n;
        const np = Number.isNaN(fromF32(p));
        const nq = Number.isNaN(fromF32(q));
        if ((np && nq) || ((np || nq) && spread)) return nan32;
        if (np) return q;
        if (nq) return p;
        return order(p) < order(q) === least ? p : q;
      });
    expect(evaluate(folder, { code: 'min.f32 %d, %a, %b;', inputs, output: 32 }).first).toEqual(expected(true, false));
    expect(evaluate(folder, { code: 'max.f32 %d, %a, %b;', inputs, output: 32 }).first).toEqual(expected(false, false));
    expect(evaluate(folder, { code: 'max.NaN.f32 %d, %a, %b;', inputs, output: 32 }).first).toEqual(
      expected(false, true),
    );
  });

  it('setp: ordered and unordered comparisons', () => {
    const all = floats.map(f32);
    const x = all.flatMap((v) => all.map(() => v));
    const y = all.flatMap(() => all);
    const inputs: Operands[] = [
      { width: 32, values: x },
      { width: 32, values: y },
    ];
    const table: Record<string, (p: number, q: number) => boolean> = {
      eq: (p, q) => p === q,
      ne: (p, q) => p < q || p > q,
      lt: (p, q) => p < q,
      le: (p, q) => p <= q,
      gt: (p, q) => p > q,
      ge: (p, q) => p >= q,
      equ: (p, q) => !(p < q || p > q),
      neu: (p, q) => p !== q,
      ltu: (p, q) => !(p >= q),
      leu: (p, q) => !(p > q),
      gtu: (p, q) => !(p <= q),
      geu: (p, q) => !(p < q),
      num: (p, q) => !Number.isNaN(p) && !Number.isNaN(q),
      nan: (p, q) => Number.isNaN(p) || Number.isNaN(q),
    };
    for (const [name, meaning] of Object.entries(table)) {
      const got = evaluate(folder, {
        code: `setp.${name}.f32 %p|%q, %a, %b; selp.b32 %d, 1, 0, %p; selp.b32 %e, 1, 0, %q;`,
        inputs,
        output: 32,
        second: 32,
      });
      const expected = x.map((p, i) => BigInt(meaning(fromF32(p), fromF32(y[i] ?? 0n))));
      expect(got.first, name).toEqual(expected);
      expect(got.second, name).toEqual(expected.map((v) => 1n - v));
    }
  });

  it('.ftz flushes inputs and results, .sat clamps and turns NaN to +0', () => {
    const values = floats.map(f32);
    const inputs: Operands[] = [{ width: 32, values }];
    const flush = (bits: bigint) => (((bits >> 23n) & 255n) === 0n ? bits & 0x80000000n : bits);
    expect(evaluate(folder, { code: 'mul.rn.ftz.f32 %d, %a, 0f3f000000;', inputs, output: 32 }).first).toEqual(
      values.map((v) => canonical(flush(f32(Math.fround(fromF32(flush(v)) * 0.5))))),
    );
    expect(evaluate(folder, { code: 'add.sat.f32 %d, %a, 0f00000000;', inputs, output: 32 }).first).toEqual(
      values.map((v) => {
        const f = fromF32(v);
        return Number.isNaN(f) ? 0n : f32(Math.min(Math.max(f, 0), 1) + 0);
      }),
    );
  });

  it('exact zeros have the sign that the rounding mode says', () => {
    const inputs: Operands[] = [{ width: 32, values: [f32(1.5)] }];
    for (const [mode, sign] of [
      ['rn', 0n],
      ['rz', 0n],
      ['rp', 0n],
      ['rm', 0x80000000n],
    ] as const)
      expect(evaluate(folder, { code: `sub.${mode}.f32 %d, %a, %a;`, inputs, output: 32 }).first).toEqual([sign]);
  });

  it('approximate functions stay in their bounds', () => {
    const values = Array.from({ length: 256 }, (_, i) => Math.fround(-8 + i / 16 + 0.01));
    const positive = values.map((x) => Math.fround(Math.abs(x) + 0.01));
    const near = (
      code: string,
      of: readonly number[],
      f: (x: number) => number,
      relative: number,
      absolute: number,
    ) => {
      const got = evaluate(folder, { code, inputs: [{ width: 32, values: of.map(f32) }], output: 32 }).first;
      of.forEach((x, i) => {
        const y = fromF32(got[i] ?? 0n);
        expect(Math.abs(y - f(x)), `${code} of ${x}`).toBeLessThanOrEqual(relative * Math.abs(f(x)) + absolute);
      });
    };
    near(
      'sin.approx.f32 %d, %a;',
      values.filter((x) => Math.abs(x) < Math.PI),
      Math.sin,
      0,
      2 ** -20.5,
    );
    near(
      'cos.approx.f32 %d, %a;',
      values.filter((x) => Math.abs(x) < Math.PI),
      Math.cos,
      0,
      2 ** -20.5,
    );
    near('ex2.approx.f32 %d, %a;', values, (x) => 2 ** x, 2 ** -22, 0);
    near('lg2.approx.f32 %d, %a;', positive, Math.log2, 0, 2 ** -22);
    near('rsqrt.approx.f32 %d, %a;', positive, (x) => 1 / Math.sqrt(x), 2 ** -22.4, 0);
    near('rcp.approx.f32 %d, %a;', values, (x) => 1 / x, 2 ** -23, 0);
    near('tanh.approx.f32 %d, %a;', values, Math.tanh, 2 ** -11, 0);
    near('sqrt.rn.f32 %d, %a;', positive, (x) => Math.fround(Math.sqrt(x)), 0, 0);
  });
});

describe.skipIf(virtualCudaMissing !== undefined)('conversions', () => {
  const values = [...floats, 0.5, -0.5, 254.5, 255.5, -129, 127.9, 32767.5, 9.3e18, -9.3e18, 1.9e19].map(Math.fround);
  const inputs: Operands[] = [{ width: 32, values: values.map(f32) }];
  const clampTo = (x: number, width: number, signed: boolean) => {
    if (Number.isNaN(x)) return 0n;
    const least = signed ? -(1n << BigInt(width - 1)) : 0n;
    const most = signed ? (1n << BigInt(width - 1)) - 1n : (1n << BigInt(width)) - 1n;
    if (x === Infinity) return most;
    if (x === -Infinity) return least;
    const v = BigInt(x);
    return v < least ? least : v > most ? most : v;
  };
  const even = (x: number) => {
    const f = Math.floor(x);
    const d = x - f;
    return d > 0.5 || (d === 0.5 && f % 2 !== 0) ? f + 1 : f;
  };
  const roundings = { rni: even, rzi: Math.trunc, rmi: Math.floor, rpi: Math.ceil };
  for (const [mode, round] of Object.entries(roundings))
    for (const [type, width, signed] of [
      ['s32', 32, true],
      ['u32', 32, false],
      ['s64', 64, true],
      ['u64', 64, false],
    ] as const)
      it(`cvt.${mode}.${type}.f32 clamps; NaN is 0`, () => {
        const got = evaluate(folder, { code: `cvt.${mode}.${type}.f32 %d, %a;`, inputs, output: width }).first;
        expect(got).toEqual(values.map((x) => U(width, clampTo(Number.isFinite(x) ? round(x) : x, width, signed))));
      });

  it('narrow integers: sign and zero extension, truncation, saturation', () => {
    const ints: Operands[] = [{ width: 32, values: edge32 }];
    const of = (code: string, f: (x: bigint) => bigint) =>
      expect(evaluate(folder, { code, inputs: ints, output: 32 }).first, code).toEqual(edge32.map((x) => U(32, f(x))));
    of('cvt.s32.s8 %d, %a;', (x) => S(8, x));
    of('cvt.u32.u8 %d, %a;', (x) => U(8, x));
    of('cvt.s8.s32 %d, %a;', (x) => S(8, x));
    of('cvt.sat.s8.s32 %d, %a;', (x) => (S(32, x) > 127n ? 127n : S(32, x) < -128n ? -128n : S(32, x)));
    of('cvt.sat.u8.s32 %d, %a;', (x) => (S(32, x) < 0n ? 0n : S(32, x) > 255n ? 255n : x));
    of('cvt.sat.s16.u32 %d, %a;', (x) => (x > 32767n ? 32767n : x));
    const wide = evaluate(folder, { code: 'cvt.s64.s32 %d, %a;', inputs: ints, output: 64 }).first;
    expect(wide).toEqual(edge32.map((x) => U(64, S(32, x))));
  });

  it('integers to f32 in each rounding mode', () => {
    const ints: Operands[] = [{ width: 64, values: edge64 }];
    for (const mode of ['rn', 'rz', 'rm', 'rp'] as const) {
      const got = evaluate(folder, { code: `cvt.${mode}.f32.s64 %d, %a;`, inputs: ints, output: 32 }).first;
      expect(got).toEqual(
        edge64.map((x) => (x === 0n ? 0n : roundExact({ numerator: S(64, x), denominator: 1n }, mode))),
      );
    }
  });

  it('f32 to f16, bf16 and tf32 and back', () => {
    const half = (x: number) => {
      if (Number.isNaN(x)) return 0x7fffn;
      const sign = Object.is(x, -0) || x < 0 ? 0x8000n : 0n;
      const m = Math.abs(x);
      if (m >= 65520) return sign | 0x7c00n;
      const e = Math.max(-14, Math.floor(Math.log2(m || 1e-30)));
      const scaled = even(m / 2 ** (e - 10));
      return sign | (scaled >= 1024 ? BigInt((e + 15) * 1024 + scaled - 1024) : BigInt(scaled));
    };
    const exact = values.filter((x) => Math.abs(x) < 1e30 || !Number.isFinite(x));
    const of: Operands[] = [{ width: 32, values: exact.map(f32) }];
    expect(evaluate(folder, { code: 'cvt.rn.f16.f32 %d, %a;', inputs: of, output: 16 }).first).toEqual(exact.map(half));
    const bf = evaluate(folder, { code: 'cvt.rn.bf16.f32 %d, %a;', inputs, output: 16 }).first;
    expect(bf).toEqual(
      values.map((x) => {
        if (Number.isNaN(x)) return 0x7fffn;
        const bits = f32(x);
        const rounded = bits + 0x7fffn + ((bits >> 16n) & 1n);
        return rounded >> 16n;
      }),
    );
    // Ties away from zero, the low thirteen bits are gone.
    const tf = evaluate(folder, {
      code: 'cvt.rna.tf32.f32 %d, %a;',
      inputs: [{ width: 32, values: [0x3f801000n, 0x3f800fffn, 0xbf801000n, 0x3f803000n] }],
      output: 32,
    }).first;
    expect(tf.map((x) => x & 0xffffe000n)).toEqual([0x3f802000n, 0x3f800000n, 0xbf802000n, 0x3f804000n]);
    const all = Array.from({ length: 1024 }, (_, i) => BigInt(i * 64 + 7));
    const back = evaluate(folder, {
      code: 'cvt.f32.f16 %f0, %a; cvt.rn.f16.f32 %d, %f0;',
      inputs: [{ width: 16, values: all }],
      output: 16,
    }).first;
    expect(back).toEqual(all.map((x) => ((x & 0x7fffn) > 0x7c00n ? 0x7fffn : x)));
    const pair = evaluate(folder, {
      code: 'cvt.rn.f16x2.f32 %d, %a, 0f40000000;',
      inputs: [{ width: 32, values: [f32(1), f32(-1)] }],
      output: 32,
    }).first;
    expect(pair).toEqual([0x3c004000n, 0xbc004000n]);
    const fp8 = evaluate(folder, {
      code: 'cvt.rn.satfinite.e4m3x2.f32 %d, %a, 0f3f800000;',
      inputs: [{ width: 32, values: [1, 448, 1000, -1e9, 0.001953125, 0.0009765625, Number.NaN].map(f32) }],
      output: 16,
    }).first;
    expect(fp8).toEqual([0x3838n, 0x7e38n, 0x7e38n, 0xfe38n, 0x0138n, 0x0038n, 0x7f38n]);
  });

  it('f64 to f32 in each mode', () => {
    const doubles = [1 / 3, -1 / 3, 1e-50, -1e-50, 1e300, 0.1];
    const of: Operands[] = [{ width: 64, values: doubles.map(f64) }];
    const rn = evaluate(folder, { code: 'cvt.rn.f32.f64 %d, %a;', inputs: of, output: 32 }).first;
    expect(rn).toEqual(doubles.map((x) => f32(Math.fround(x))));
    const up = evaluate(folder, { code: 'cvt.rp.f32.f64 %d, %a;', inputs: of, output: 32 }).first;
    expect(up).toEqual([0x3eaaaaabn, 0xbeaaaaaan, 1n, 0x80000000n, 0x7f800000n, 0x3dcccccdn]);
    const sum = evaluate(folder, {
      code: 'add.rm.f64 %d, %a, 0d3C00000000000000;',
      inputs: [{ width: 64, values: [f64(1), f64(-1)] }],
      output: 64,
    }).first;
    expect(sum).toEqual([f64(1), f64(-1) - 0n]);
  });
});

describe.skipIf(virtualCudaMissing !== undefined)('f16 and bf16 arithmetic', () => {
  it('fma rounds once', () => {
    // 1.0009765625^2 + 2^-24: between two f16 values, the tie is broken by the addend
    const got = evaluate(folder, {
      code: 'fma.rn.f16 %d, %a, %a, %b;',
      inputs: [
        { width: 16, values: [0x3c01n, 0x3c01n, 0x4200n] },
        { width: 16, values: [0x0001n, 0x8001n, 0x3c00n] },
      ],
      output: 16,
    }).first;
    expect(got).toEqual([0x3c02n, 0x3c02n, 0x4900n]);
    const relu = evaluate(folder, {
      code: 'fma.rn.relu.f16 %d, %a, %a, %b;',
      inputs: [
        { width: 16, values: [0x3c00n, 0x7e00n] },
        { width: 16, values: [0xc500n, 0x3c00n] },
      ],
      output: 16,
    }).first;
    expect(relu).toEqual([0n, 0x7fffn]);
  });
  it('packed operations act on both halves', () => {
    const inputs: Operands[] = [
      { width: 32, values: [0x3c004000n] },
      { width: 32, values: [0x40003c00n] },
    ];
    expect(evaluate(folder, { code: 'add.rn.f16x2 %d, %a, %b;', inputs, output: 32 }).first).toEqual([0x42004200n]);
    expect(evaluate(folder, { code: 'min.f16x2 %d, %a, %b;', inputs, output: 32 }).first).toEqual([0x3c003c00n]);
    expect(
      evaluate(folder, {
        code: 'fma.rn.bf16x2 %d, %a, %b, %a;',
        inputs: [
          { width: 32, values: [0x3f804000n] },
          { width: 32, values: [0x40003f80n] },
        ],
        output: 32,
      }).first,
    ).toEqual([0x40404080n]);
    expect(evaluate(folder, { code: 'neg.f16x2 %d, %a;', inputs, output: 32 }).first).toEqual([0xbc00c000n]);
  });
});

describe.skipIf(virtualCudaMissing !== undefined)('warps', () => {
  const lane = Array.from({ length: 32 }, (_, i) => i);
  const inputs: Operands[] = [{ width: 32, values: lane.map((l) => BigInt(100 + l)) }];
  it('shfl: up, down, bfly, idx, segments and the out-of-range predicate', () => {
    const cases: [string, (l: number) => [number, boolean]][] = [
      ['shfl.sync.up.b32 %d|%p, %a, 3, 0, 0xffffffff;', (l) => (l - 3 >= 0 ? [l - 3, true] : [l, false])],
      ['shfl.sync.down.b32 %d|%p, %a, 5, 31, 0xffffffff;', (l) => (l + 5 <= 31 ? [l + 5, true] : [l, false])],
      ['shfl.sync.bfly.b32 %d|%p, %a, 6, 31, 0xffffffff;', (l) => [l ^ 6, true]],
      ['shfl.sync.idx.b32 %d|%p, %a, 9, 31, 0xffffffff;', () => [9, true]],
      // Segments of eight: c = segment mask 0b11000 << 8 | 7 … clamp 31 - 7
      ['shfl.sync.down.b32 %d|%p, %a, 2, 0x181f, 0xffffffff;', (l) => ((l & 7) + 2 <= 7 ? [l + 2, true] : [l, false])],
      ['shfl.sync.idx.b32 %d|%p, %a, 3, 0x181f, 0xffffffff;', (l) => [(l & 24) + 3, true]],
    ];
    for (const [code, f] of cases) {
      const got = evaluate(folder, { code: `${code} selp.b32 %e, 1, 0, %p;`, inputs, output: 32, second: 32 });
      expect(got.first, code).toEqual(lane.map((l) => BigInt(100 + f(l)[0])));
      expect(got.second, code).toEqual(lane.map((l) => BigInt(f(l)[1])));
    }
  });
  it('vote, match, redux, elect, activemask', () => {
    const run = (code: string) => evaluate(folder, { code, inputs, output: 32 }).first;
    const odd = 'and.b32 %r0, %a, 1; setp.eq.u32 %p, %r0, 1;';
    expect(run(`${odd} vote.sync.ballot.b32 %d, %p, 0xffffffff;`)).toEqual(lane.map(() => 0xaaaaaaaan));
    expect(run(`${odd} vote.sync.any.pred %q, %p, 0xffffffff; selp.b32 %d, 1, 0, %q;`)).toEqual(lane.map(() => 1n));
    expect(run(`${odd} vote.sync.all.pred %q, %p, 0xffffffff; selp.b32 %d, 1, 0, %q;`)).toEqual(lane.map(() => 0n));
    expect(run('and.b32 %r0, %a, 3; match.any.sync.b32 %d, %r0, 0xffffffff;')).toEqual(
      lane.map((l) => BigInt(lane.filter((k) => ((100 + k) & 3) === ((100 + l) & 3)).reduce((m, k) => m + 2 ** k, 0))),
    );
    expect(run('redux.sync.add.s32 %d, %a, 0xffffffff;')).toEqual(
      lane.map(() => BigInt(lane.reduce((s, l) => s + 100 + l, 0))),
    );
    expect(run('redux.sync.max.u32 %d, %a, 0xffffffff;')).toEqual(lane.map(() => 131n));
    expect(run('elect.sync %r0|%p, 0xffffffff; selp.b32 %d, 1, 0, %p;').filter((x) => x === 1n)).toHaveLength(1);
    // Only the odd lanes are at the instruction.
    expect(run(`${odd} mov.b32 %d, 0; @!%p bra SKIP; activemask.b32 %d; SKIP:`)).toEqual(
      lane.map((l) => (l % 2 ? 0xaaaaaaaan : 0n)),
    );
  });
  it('divergence: nested branches and loops of different length meet again', () => {
    // Collatz steps of 100 + lane: every lane leaves the loop at another iteration, odd and even take other branches.
    const code = `
      mov.b32 %r0, %a; mov.b32 %d, 0;
      LOOP: setp.le.u32 %p, %r0, 1; @%p bra END;
      and.b32 %r1, %r0, 1; setp.eq.u32 %q, %r1, 0; @%q bra EVEN;
      mad.lo.u32 %r0, %r0, 3, 1; bra NEXT;
      EVEN: shr.u32 %r0, %r0, 1;
      NEXT: add.u32 %d, %d, 1; bra LOOP;
      END: activemask.b32 %e;`;
    const steps = (n: number) => {
      let count = 0;
      for (let x = n; x > 1; count++) x = x % 2 ? 3 * x + 1 : x / 2;
      return BigInt(count);
    };
    const got = evaluate(folder, { code, inputs, output: 32, second: 32 });
    expect(got.first).toEqual(lane.map((l) => steps(100 + l)));
    expect(got.second).toEqual(lane.map(() => 0xffffffffn));
  });
  it('lanes of one warp can wait for each other', () => {
    // Lane 0 spins on a flag that lane 5 sets on the other side of the branch.
    const code = `
      .shared .align 4 .b32 flag; mov.b32 %d, 0;
      setp.eq.u32 %p, %t, 0; @%p st.shared.b32 [flag], 0; bar.sync 0;
      @!%p bra OTHERS;
      SPIN: ld.volatile.shared.b32 %d, [flag]; setp.eq.u32 %q, %d, 0; @%q bra SPIN; bra JOIN;
      OTHERS: setp.eq.u32 %q, %t, 5; @%q st.volatile.shared.b32 [flag], 77;
      JOIN:`;
    expect(evaluate(folder, { code, inputs, output: 32 }).first[0]).toBe(77n);
  });
});

describe.skipIf(virtualCudaMissing !== undefined)('memory', () => {
  const inputs: Operands[] = [{ width: 32, values: Array.from({ length: 64 }, (_, i) => BigInt(i)) }];
  it('generic addresses, vectors, local memory, byte stores', () => {
    const code = `
      .shared .align 16 .b8 tile[1024]; .local .align 8 .b8 own[16];
      mov.u32 %r0, tile; shl.b32 %r1, %t, 4; add.u32 %r0, %r0, %r1;
      add.u32 %r2, %a, 1; add.u32 %r3, %a, 2; add.u32 %r4, %a, 3;
      st.shared.v4.b32 [%r0], {%a, %r2, %r3, %r4};
      bar.sync 0;
      cvt.u64.u32 %rd0, %r0; cvta.shared.u64 %rd1, %rd0;
      ld.v2.u32 {%r5, %r6}, [%rd1+8];
      mov.u64 %rd2, own; cvta.local.u64 %rd3, %rd2; st.b32 [%rd3+4], %r6; st.local.b8 [own+5], 255;
      ld.local.u32 %d, [own+4]; ld.local.s8 %e, [own+5];
      isspacep.shared %p, %rd1; isspacep.local %q, %rd3; and.pred %p, %p, %q; @!%p mov.b32 %d, 0;`;
    const got = evaluate(folder, { code, inputs, output: 32, second: 32 });
    expect(got.first).toEqual(Array.from({ length: 64 }, (_, i) => BigInt((i + 3) | 0xff00)));
    expect(got.second).toEqual(Array.from({ length: 64 }, () => 0xffffffffn));
  });
  it('vectors of narrow elements from registers and constants', () => {
    const code = `
      .shared .align 16 .b8 tile[256]; mov.u32 %r0, tile; shl.b32 %r1, %t, 2; add.u32 %r0, %r0, %r1;
      st.shared.v4.b8 [%r0], {%a, 0, 255, %t}; ld.shared.b32 %d, [%r0];`;
    const got = evaluate(folder, { code, inputs, output: 32 });
    expect(got.first).toEqual(Array.from({ length: 64 }, (_, i) => BigInt(i + 0xff0000 + i * 2 ** 24)));
  });
  it('atomics: the sum and the order of old values', () => {
    const code = `
      .shared .align 8 .b32 sum; .shared .align 4 .f32 fsum; .shared .align 4 .b32 wrap;
      setp.eq.u32 %p, %t, 0; @%p st.shared.b32 [sum], 0; @%p st.shared.b32 [fsum], 0; @%p st.shared.b32 [wrap], 0; bar.sync 0;
      atom.shared.add.u32 %r0, [sum], %a;
      red.shared.add.f32 [fsum], 0f3f800000;
      atom.shared.inc.u32 %r1, [wrap], 9;
      bar.sync 0; ld.shared.b32 %d, [sum]; ld.shared.f32 %f0, [fsum]; cvt.rzi.u32.f32 %r2, %f0; ld.shared.b32 %e, [wrap]; mad.lo.u32 %e, %r2, 100, %e;`;
    const got = evaluate(folder, { code, inputs, output: 32, second: 32 });
    expect(new Set(got.first)).toEqual(new Set([2016n]));
    expect(new Set(got.second)).toEqual(new Set([6404n]));
  });
  it('functions: parameters, results, a loop inside', () => {
    const code = `
      { .param .b32 x; .param .b32 r; st.param.b32 [x], %a; call.uni (r), triangle, (x); ld.param.b32 %d, [r]; }`;
    const module = (text: string) =>
      text.replace(
        '.visible .entry',
        `
      .func (.param .b32 out) triangle (.param .b32 n) {
        .reg .b32 %n, %s; .reg .pred %go;
        ld.param.b32 %n, [n]; mov.b32 %s, 0;
        L: setp.eq.u32 %go, %n, 0; @%go bra D; add.u32 %s, %s, %n; sub.u32 %n, %n, 1; bra L;
        D: st.param.b32 [out], %s; ret;
      }
      .visible .entry`,
      );
    const got = evaluate(
      { write: (text: string, options: object) => folder.write(module(text), options) } as PtxFolder,
      { code, inputs, output: 32 },
    );
    expect(got.first).toEqual(Array.from({ length: 64 }, (_, i) => BigInt((i * (i + 1)) / 2)));
  });
});
