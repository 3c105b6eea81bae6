/** The mathematical functions against wider references: errors in ulp over samples and special values. */
import { describe, expect, it } from 'vitest';
import { KernelBuilder } from '../../compiler/kernel/builder.js';
import { interpret } from '../../compiler/kernel/interpreter.js';
import { type Dialect, ieeeFused, portable } from '../../compiler/kernel/math/calc.js';
import { binaryMath, expandMath, unaryMath } from '../../compiler/kernel/math.js';
import type { KernelFunction, KInst, MathBinaryFn, MathFn } from '../../compiler/kernel/types.js';
import { erf as referenceErf, pow as referencePow } from '../../compiler/numeric.js';

type Float = 'f32' | 'f64';

const references: Record<MathFn, (x: number) => number> = {
  exp: Math.exp,
  exp2: (x) => 2 ** x,
  log: Math.log,
  log2: Math.log2,
  sin: Math.sin,
  cos: Math.cos,
  tan: Math.tan,
  asin: Math.asin,
  acos: Math.acos,
  atan: Math.atan,
  sinh: Math.sinh,
  cosh: Math.cosh,
  asinh: Math.asinh,
  acosh: Math.acosh,
  atanh: Math.atanh,
  tanh: Math.tanh,
  erf: referenceErf,
};
const binaryReferences: Record<MathBinaryFn, (x: number, y: number) => number> = {
  pow: referencePow,
  atan2: Math.atan2,
};

/** Where most of the interesting values of a function lie. */
const intervals: Record<MathFn, readonly [number, number][]> = {
  exp: [
    [-1, 1],
    [-104, 89],
    [-746, 710],
  ],
  exp2: [
    [-1, 1],
    [-150, 128],
    [-1075, 1024],
  ],
  log: [
    [0.5, 2],
    [0, 100],
  ],
  log2: [
    [0.5, 2],
    [0, 100],
  ],
  sin: [
    [-7, 7],
    [-1e5, 1e5],
  ],
  cos: [
    [-7, 7],
    [-1e5, 1e5],
  ],
  tan: [
    [-7, 7],
    [-1e5, 1e5],
  ],
  asin: [
    [-1, 1],
    [0.4, 0.6],
  ],
  acos: [
    [-1, 1],
    [0.9, 1],
  ],
  atan: [[-4, 4]],
  sinh: [
    [-2, 2],
    [-90, 90],
    [-711, 711],
  ],
  cosh: [
    [-2, 2],
    [-90, 90],
    [-711, 711],
  ],
  asinh: [
    [-2, 2],
    [-1e4, 1e4],
  ],
  acosh: [
    [1, 3],
    [1, 1.001],
    [1, 1e4],
  ],
  atanh: [
    [-1, 1],
    [-0.1, 0.1],
  ],
  tanh: [
    [-1, 1],
    [-20, 20],
  ],
  erf: [
    [-1.1, 1.1],
    [-6, 6],
  ],
};

const specials = [
  0,
  -0,
  1,
  -1,
  2,
  -2,
  0.5,
  -0.5,
  3,
  -3,
  1.5,
  -1.5,
  10,
  1e-3,
  Infinity,
  -Infinity,
  NaN,
  2 ** 24,
  2 ** 53,
  -(2 ** 24) - 2,
  Math.PI,
  Math.PI / 2,
  Math.PI / 4,
  1e22,
  16367173 * 2 ** 72,
  6381956970095103 * 2 ** 797,
  3.4028234663852886e38,
  1.1754943508222875e-38,
  2 ** -149,
  -(2 ** -149),
  2 ** -1074,
  Number.MAX_VALUE,
  2.2250738585072014e-308,
  88.7228,
  709.78,
];

/** A small deterministic generator (mulberry32). */
function generator(seed: number): () => number {
  let state = seed;
  return () => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), 1 | state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return (t ^ (t >>> 14)) >>> 0;
  };
}

const arrayOf = (type: Float, length: number) => (type === 'f32' ? new Float32Array(length) : new Float64Array(length));

function samples(type: Float, spans: readonly [number, number][], count: number, seed: number) {
  const next = generator(seed);
  const out = arrayOf(type, count);
  const words = new Uint32Array(out.buffer);
  for (let i = 0; i < words.length; i++) words[i] = next();
  for (let i = 0; i < count; i++) {
    const span = spans[i % (spans.length + 1)];
    if (span) out[i] = span[0] + ((span[1] - span[0]) * (next() + next() / 2 ** 32)) / 2 ** 32;
  }
  specials.forEach((value, i) => void (out[i] = value));
  return out;
}

/** The distance of `actual` from `exact` in units of the last place of the exact value. */
function ulps(type: Float, actual: number, exact: number): number {
  const rounded = type === 'f32' ? Math.fround(exact) : exact;
  if (Object.is(actual, rounded)) {
    if (!Number.isFinite(exact)) return 0;
  } else if (Number.isNaN(actual) || Number.isNaN(rounded)) return Infinity;
  const [digits, least, limit] = type === 'f32' ? [23, -149, 2 ** 128] : [52, -1074, Number.MAX_VALUE];
  if (exact === 0 && actual === 0) return Object.is(actual, exact) ? 0 : Infinity;
  const cut = (x: number) => Math.max(-limit, Math.min(limit, x));
  const size = Math.min(Math.abs(exact), limit * (1 - 2 ** -30));
  const exponent = size === 0 ? least : Math.max(Math.floor(Math.log2(size)) - digits, least);
  return Math.abs(cut(actual) - cut(exact)) / 2 ** exponent;
}

function unaryKernel(
  fn: MathFn,
  type: Float,
  count: number,
  lanes: 1 | 4 = 1,
  dialect: Dialect = portable,
): KernelFunction {
  const b = new KernelBuilder();
  const x = b.buffer('x', type, count, 'read');
  const y = b.buffer('y', type, count, 'write');
  b.for(0, count / lanes, 1, [], (i) => {
    const index = b.mulc(i, lanes);
    b.store(y, index, b.unary(fn, b.load(x, index, lanes, true)), true);
  });
  return expandMath(b.finish({ name: fn, grid: [1, 1, 1], workgroup: [1, 1, 1] }), dialect);
}

function binaryKernel(fn: MathBinaryFn, type: Float, count: number, dialect: Dialect): KernelFunction {
  const b = new KernelBuilder();
  const x = b.buffer('x', type, count, 'read');
  const y = b.buffer('y', type, count, 'read');
  const z = b.buffer('z', type, count, 'write');
  b.for(0, count, 1, [], (i) => b.store(z, i, b.binary(fn, b.load(x, i), b.load(y, i))));
  return expandMath(b.finish({ name: fn, grid: [1, 1, 1], workgroup: [1, 1, 1] }), dialect);
}

const table: string[] = [];
const COUNT = Number(process.env.TUTTI_MATH_SAMPLES ?? 20_000);

/** JavaScript's own functions are off by up to an ulp in f64, the interpreter's series for erf by more. */
const slack = (type: Float, fn: string): number => (type === 'f32' ? 0 : fn === 'erf' ? 16 : 1);

const forms: readonly [Float, string, Dialect][] = [
  ['f32', 'portable', portable],
  ['f64', 'portable', portable],
  ['f32', 'fused', ieeeFused],
  ['f64', 'fused', ieeeFused],
];

describe.each(forms)('%s, %s', (type, form, dialect) => {
  it.each(Object.keys(references) as MathFn[])('%s stays within its bound', (fn) => {
    const x = samples(type, intervals[fn], COUNT, 1);
    const y = arrayOf(type, COUNT);
    interpret(unaryKernel(fn, type, COUNT, 1, dialect), [x, y]);
    let worst = 0;
    let at = 0;
    for (let i = 0; i < COUNT; i++) {
      const error = ulps(type, y[i], references[fn](x[i]));
      if (error > worst) [worst, at] = [error, i];
    }
    table.push(`${type} ${form} ${fn} ${worst.toFixed(3)} at ${x[at]}: ${y[at]} for ${references[fn](x[at])}`);
    expect(worst, `${fn}(${x[at]}) = ${y[at]}, not ${references[fn](x[at])}`).toBeLessThanOrEqual(
      unaryMath[fn][type] + slack(type, fn),
    );
  });

  it.each(Object.keys(binaryReferences) as MathBinaryFn[])('%s stays within its bound', (fn) => {
    const pairs = specials.length ** 2;
    const count = COUNT + pairs;
    const x = samples(
      type,
      fn === 'pow'
        ? [
            [0, 3],
            [0.9, 1.1],
            [0, 1e4],
          ]
        : [[-2, 2]],
      count,
      2,
    );
    const y = samples(
      type,
      fn === 'pow'
        ? [
            [-30, 30],
            [-900, 900],
            [-8, 8],
          ]
        : [[-2, 2]],
      count,
      3,
    );
    specials.forEach((u, i) => {
      specials.forEach((v, j) => {
        x[COUNT + i * specials.length + j] = u;
        y[COUNT + i * specials.length + j] = v;
      });
    });
    for (let i = 200; i < 400; i++) [x[i], y[i]] = [(i - 300) / 4, i % 9];
    const z = arrayOf(type, count);
    interpret(binaryKernel(fn, type, count, dialect), [x, y, z]);
    let worst = 0;
    let at = 0;
    for (let i = 0; i < count; i++) {
      const error = ulps(type, z[i], binaryReferences[fn](x[i], y[i]));
      if (error > worst) [worst, at] = [error, i];
    }
    const exact = binaryReferences[fn](x[at], y[at]);
    table.push(`${type} ${form} ${fn} ${worst.toFixed(3)} at ${x[at]}, ${y[at]}: ${z[at]} for ${exact}`);
    expect(worst, `${fn}(${x[at]}, ${y[at]}) = ${z[at]}, not ${exact}`).toBeLessThanOrEqual(
      binaryMath[fn][type] + slack(type, fn),
    );
  });
});

describe('expandMath', () => {
  it('returns a kernel without mathematical functions as it is', () => {
    const b = new KernelBuilder();
    const x = b.buffer('x', 'f32', 4, 'readwrite');
    b.store(x, b.constant(0), b.mul(b.load(x, b.constant(0)), b.constant(2, 'f32')));
    const kernel = b.finish({ name: 'none', grid: [1, 1, 1], workgroup: [1, 1, 1] });
    expect(expandMath(kernel)).toBe(kernel);
  });

  it('computes vectors lane by lane like scalars', () => {
    const x = samples('f32', intervals.exp, 400, 4);
    const [one, four] = [new Float32Array(400), new Float32Array(400)];
    interpret(unaryKernel('exp', 'f32', 400), [x, one]);
    interpret(unaryKernel('exp', 'f32', 400, 4), [x, four]);
    expect(new Uint32Array(four.buffer)).toEqual(new Uint32Array(one.buffer));
  });

  it('leaves helpers without control flow', () => {
    const flows = new Set<KInst['op']>(['for', 'loop', 'if', 'load', 'store', 'barrier']);
    for (const fn of Object.keys(references) as MathFn[]) {
      for (const helper of unaryKernel(fn, 'f32', 4).helpers) {
        expect(
          helper.body.instructions.filter((inst) => flows.has(inst.op)),
          fn,
        ).toEqual([]);
      }
    }
  });
});

it('prints the worst errors', () => {
  if (process.env.TUTTI_MATH_TABLE) console.log(table.join('\n'));
  expect(table.length).toBe(forms.length * (Object.keys(references).length + Object.keys(binaryReferences).length));
});
