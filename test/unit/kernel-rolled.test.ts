/** Rolled formulas give the bits of the straight ones, and keep kernels small where f64 is software. */
import { describe, expect, test } from 'vitest';
import { KernelBuilder } from '../../compiler/kernel/builder.js';
import { interpret } from '../../compiler/kernel/interpreter.js';
import { rolled } from '../../compiler/kernel/legalize/rolled.js';
import { legalize } from '../../compiler/kernel/legalize.js';
import { binaryMath, mathBinary, mathUnary, unaryMath } from '../../compiler/kernel/math.js';
import type { Target } from '../../compiler/kernel/target.js';
import {
  type HelperFunction,
  type KBlock,
  type KernelFunction,
  ktype,
  type MathBinaryFn,
  type MathFn,
} from '../../compiler/kernel/types.js';
import { verify } from '../../compiler/kernel/verify.js';
import { visitInstructions } from '../../compiler/kernel/walk.js';

const unary = Object.keys(unaryMath) as MathFn[];
const binary = Object.keys(binaryMath) as MathBinaryFn[];

/** z[i] = fn(x[i], y[i]) in f64 by the formula. */
function formula(fn: MathFn | MathBinaryFn, length: number): KernelFunction {
  const b = new KernelBuilder();
  const [x, y] = ['x', 'y'].map((name) => b.buffer(name, 'f64', length, 'read'));
  const z = b.buffer('z', 'f64', length, 'write');
  const i = b.builtin('workgroup_id', 0, length);
  const [p, q] = [b.load(x, i), b.load(y, i)];
  const value = fn === 'pow' || fn === 'atan2' ? mathBinary(b, fn, p, q) : mathUnary(b, fn, p);
  b.store(z, i, value);
  return b.finish({ name: fn, grid: [length, 1, 1], workgroup: [1, 1, 1] });
}

/** The kernel with its one helper rolled. */
function roll(kernel: KernelFunction): KernelFunction {
  const [helper] = kernel.helpers;
  const replacement = rolled(helper);
  expect(replacement).not.toBe(helper);
  const b = new KernelBuilder();
  const buffers = kernel.params.map((param) => {
    if (param.kind !== 'buffer') throw new Error('buffers only');
    return b.buffer(param.name, param.scalar, param.length, param.access);
  });
  const i = b.builtin('workgroup_id', 0, kernel.grid[0]);
  const args = replacement.params.map((_, at) => b.load(buffers[at], i));
  b.store(buffers[2], i, b.emit({ op: 'call', callee: replacement, args }, ktype('f64')));
  const outer = b.finish({ name: kernel.name, grid: kernel.grid, workgroup: kernel.workgroup });
  return { ...outer, helpers: [replacement] };
}

const special = [0, -0, 1, -1, 0.5, 2, 1e-310, -1e300, 1e300, 710, -745, Infinity, -Infinity, Number.NaN];
const spread = Array.from({ length: 150 }, (_, i) => (i % 2 ? -1 : 1) * 1.31 ** (i - 60) * (1 + (i % 7) / 9));
const xs = Float64Array.from([...special.flatMap((x) => special.map(() => x)), ...spread]);
const ys = Float64Array.from([...special.flatMap(() => special), ...spread.toReversed()]);

describe('a rolled formula', () => {
  test.each([...unary, ...binary])('of %s gives the same bits', (fn) => {
    const straight = formula(fn, xs.length);
    const [expected, found] = [new Float64Array(xs.length), new Float64Array(xs.length)];
    interpret(straight, [xs, ys, expected]);
    interpret(roll(straight), [xs, ys, found]);
    expect([...found]).toEqual([...expected]);
  });

  test('functions it has no use for stay as they are', () => {
    const helper = (build: (b: KernelBuilder) => void): HelperFunction => {
      const b = new KernelBuilder();
      build(b);
      return b.finish({ name: 't', grid: [1, 1, 1], workgroup: [1, 1, 1] }).helpers[0];
    };
    const short = helper((b) => b.call('short', [b.constant(1, 'f64')], ktype('f64'), ([x]) => b.mul(x, x)));
    const branching = helper((b) =>
      b.call('branching', [b.constant(1, 'f64')], ktype('f64'), ([x]) => {
        const [sum] = b.for(0, 50, 1, [x], (_, [s]) => [b.add(s, x)]);
        return sum;
      }),
    );
    const single = helper((b) => mathUnary(b, 'exp', b.constant(1, 'f32')));
    for (const fn of [short, branching, single]) expect(rolled(fn)).toBe(fn);
  });
});

const minimum: Target = {
  backend: 'webgpu',
  arch: 'test',
  style: 'simt',
  limits: {
    workgroupInvocations: 256,
    workgroupSize: [256, 256, 64],
    workgroupCount: [65535, 65535, 65535],
    sharedBytes: 16384,
    storageBuffers: 8,
    storageBindingBytes: 2 ** 27,
    bufferBytes: 2 ** 28,
    storageAlignment: 256,
    scalarBytes: 128,
  },
  features: new Set(),
  arithmetic: new Set(['bool', 'i32', 'u32', 'f32']),
  storage: new Set(['i32', 'u32', 'f32']),
  vectorLanes: 4,
  vectorRegisters: 0,
  subgroup: { min: 1, max: 1 },
  caches: [],
  parallelism: 1,
  rates: { copyGBs: 1, gflops: 1, dispatchMicroseconds: 1 },
};

/** Instructions once every call is inlined, as shader compilers do. */
function inlinedSize(kernel: KernelFunction): number {
  const sizes = new Map<HelperFunction, number>();
  const sizeOf = (block: KBlock): number => {
    let count = 0;
    visitInstructions(block, (inst) => {
      count += inst.op === 'call' ? (sizes.get(inst.callee) as number) : 1;
    });
    return count;
  };
  for (const helper of kernel.helpers) sizes.set(helper, sizeOf(helper.body));
  return sizeOf(kernel.body);
}

test.each([...unary, ...binary])('%s of a software f64 stays below 4,000 instructions', (fn) => {
  const legal = legalize(formula(fn, 8), minimum);
  verify(legal, { stage: 'legal', target: minimum });
  // Straight, exp took 8,800 and pow 47,000.
  expect(inlinedSize(legal)).toBeLessThan(4000);
});
