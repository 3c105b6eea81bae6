/** Rendered PTX: accepted by ptxas for every op and type, for what the scheduler makes and for real models. */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import type { KernelCode } from '../../backends/backend.js';
import { cudaBackend } from '../../backends/cuda/index.js';
import { FunctionText } from '../../backends/cuda/ptx.js';
import { archFor, archs, ptxVersionOf } from '../../backends/cuda/target.js';
import { plan } from '../../compiler/compile.js';
import { importOnnx } from '../../compiler/frontends/onnx/index.js';
import { definitionOf } from '../../compiler/graph/ops/index.js';
import { KernelBuilder } from '../../compiler/kernel/builder.js';
import { legalize } from '../../compiler/kernel/legalize.js';
import { expandMath } from '../../compiler/kernel/math.js';
import type { Target } from '../../compiler/kernel/target.js';
import {
  type BinaryFn,
  isFloatScalar,
  isIntScalar,
  type KernelFunction,
  type KValue,
  ktype,
  type Lanes,
  type ScalarType,
  scalarBits,
  type UnaryFn,
} from '../../compiler/kernel/types.js';
import { decompose } from '../../compiler/passes/decompose.js';
import { lowerGroup } from '../../compiler/schedule/family.js';
import { fuse } from '../../compiler/schedule/fuse.js';
import { sizeOf } from '../../compiler/tensor.js';
import { dataPath, modelsData } from '../support/data.js';
import { type Chooser, caseKinds, graphOf, randomCase } from '../support/graph_cases.js';
import { everyOp as everyOpOfTheIr } from '../support/kernels.js';
import { assemble, ptxasKnows, ptxasMissing } from '../support/ptxas.js';

if (ptxasMissing !== undefined) console.warn(ptxasMissing);

const targetOf = (arch: string): Target => cudaBackend.target(arch) as Target;
const architectures = ['sm_75', 'sm_80', 'sm_90a', 'sm_100'].filter(
  (arch) => ptxasMissing !== undefined || ptxasKnows(arch),
);
const natives = ['i8', 'u8', 'i16', 'u16', 'i32', 'u32', 'i64', 'u64', 'f16', 'f32', 'f64'] as const;

/** Every op that a type has, on values of `lanes`. */
function everyOp(scalar: ScalarType, lanes: Lanes): KernelFunction {
  const b = new KernelBuilder();
  const x = b.buffer('x', scalar, 64, 'read');
  const y = b.buffer('y', scalar, 64, 'read');
  const out = b.buffer('out', scalar, 8192, 'readwrite');
  const words = b.buffer('words', 'u32', 8192, 'readwrite');
  const index = b.mulc(b.builtin('local_id', 0, 8), lanes);
  const [p, q] = [b.load(x, index, lanes, true), b.load(y, index, lanes, false)];
  let slot = 0;
  const keep = (value: KValue): void => b.store(out, b.addc(index, 64 * slot++), value, slot % 2 === 0);
  const float = isFloatScalar(scalar);
  const unary: UnaryFn[] = float
    ? ['neg', 'abs', 'floor', 'ceil', 'round', 'trunc', 'sqrt']
    : ['neg', 'abs', 'not', 'popcount', 'clz'];
  const binary: BinaryFn[] = float
    ? ['add', 'sub', 'mul', 'div', 'rem', 'min', 'max']
    : ['add', 'sub', 'mul', 'div', 'rem', 'min', 'max', 'and', 'or', 'xor', 'shl', 'shr'];
  if (scalar === 'i32' || scalar === 'u32') binary.push('mulhi');
  const two = b.constant(isIntScalar(scalar) && scalarBits[scalar] === 64 ? 2n : 2, scalar, lanes);
  for (const fn of unary) for (const operand of [p, two]) keep(b.unary(fn, operand));
  for (const fn of binary) {
    keep(b.binary(fn, p, q));
    keep(b.binary(fn, p, two));
    if (fn !== 'shl' && fn !== 'shr') keep(b.binary(fn, two, q));
  }
  if (float) {
    keep(b.fma(p, q, p));
    keep(b.fma(two, q, two));
    for (const special of [Number.NaN, Number.POSITIVE_INFINITY, -0])
      keep(b.add(p, b.constant(special, scalar, lanes)));
    keep(b.binary('add', b.binary('mul', p, q, true), p, true));
  }
  let flag = b.compare('eq', p, q);
  for (const fn of ['ne', 'lt', 'le', 'gt', 'ge'] as const) flag = b.binary('xor', flag, b.compare(fn, p, q));
  flag = b.select(b.compare('lt', p, two), flag, b.constant(true, 'bool', lanes));
  keep(b.select(flag, p, q));
  keep(b.select(b.extract(flag, 0), p, two));
  for (const other of natives) {
    keep(b.convert(b.convert(p, other), scalar));
    keep(b.convert(b.constant(other === 'i64' || other === 'u64' ? 1n : 1, other, lanes), scalar));
    const count = (scalarBits[scalar] * lanes) / scalarBits[other];
    if (count === 1 || count === 2 || count === 4) {
      for (const value of [p, two]) {
        const cast = b.bitcast(value, ktype(other, count));
        const moved = isFloatScalar(other) ? cast : b.unary('not', cast);
        keep(b.bitcast(moved, ktype(scalar, lanes)));
      }
    }
  }
  keep(b.convert(b.convert(p, 'bool'), scalar));
  b.store(words, index, b.convert(flag, 'u32'), true);
  if (lanes > 1) keep(b.build(Array.from({ length: lanes }, (_, lane) => b.extract(p, lanes - 1 - lane))));
  keep(b.splat(b.extract(q, 0), lanes));
  const tile = b.array('tile', 'shared', scalar, 8 * lanes);
  const own = b.array('own', 'private', scalar, 8 * lanes);
  for (const memory of [tile, own]) {
    b.store(memory, index, p, true);
    b.barrier();
    keep(b.load(memory, index, lanes, true));
  }
  return b.finish({ name: `every_${scalar}_${lanes}`, grid: [1, 1, 1], workgroup: [8, 1, 1] });
}

function subgroups(scalar: ScalarType, lanes: Lanes): KernelFunction {
  const b = new KernelBuilder();
  const x = b.buffer('x', scalar, 512, 'readwrite');
  const lane = b.builtin('subgroup_lane', 0, 32);
  const index = b.mulc(b.add(lane, b.builtin('subgroup_size', 0, 33)), lanes);
  const value = b.load(x, index, lanes);
  for (const fn of ['add', 'min', 'max', 'broadcast_first', 'shuffle_xor', 'shuffle_down'] as const) {
    const whole = b.subgroup(fn, value, 3);
    b.store(x, index, whole);
    b.if(b.compare('lt', lane, b.constant(11)), () => {
      b.store(x, index, b.subgroup(fn, b.max(whole, value), 1));
    });
  }
  return b.finish({ name: `subgroup_${scalar}_${lanes}`, grid: [1, 1, 1], workgroup: [64, 1, 1], subgroupSize: 32 });
}

function controlAndMemory(): KernelFunction {
  const b = new KernelBuilder();
  const x = b.buffer('x', 'f32', 256, 'read');
  const out = b.buffer('out', 'i32', 256, 'readwrite');
  const [limit, bias, scale] = [b.scalar('limit', 'u32'), b.scalar('bias', 'i32'), b.scalar('scale', 'f32')];
  const tile = b.array('tile', 'shared', 'f32', 128);
  const wide = b.array('wide', 'shared', 'f32', 64);
  const flags = b.array('flags', 'private', 'bool', 4);
  const lane = b.builtin('local_id', 0, 32);
  const rows = b.builtin('local_id', 1, 2);
  const group = b.builtin('workgroup_id', 2, 3);
  b.store(wide, b.mulc(b.remc(lane, 16), 4), b.load(x, b.mulc(lane, 4), 4, true), true);
  b.store(tile, b.add(lane, rows), b.mul(b.load(x, lane), scale));
  b.barrier();
  b.store(flags, b.constant(1), b.compare('gt', b.load(tile, rows), b.constant(0, 'f32')));
  const [sum, swapped] = b.for(0, b.convert(limit, 'i32'), 3, [b.constant(0), lane], (i, [s, t]) => {
    const [chosen] = b.if(
      b.load(flags, b.constant(1)),
      () => [b.add(s, i)],
      () => b.for(i, 7, 1, [s], (j, [u]) => [b.add(u, j)]),
    );
    b.if(b.compare('eq', chosen, bias), () => {
      b.atomic('max', out, b.constant(3), chosen);
    });
    return [t, chosen];
  });
  const [done, odd] = b.loop([sum, b.compare('eq', swapped, sum)], ([v, flag]) => {
    const next = b.binary('shr', v, b.constant(1));
    return { condition: flag, next: [next, b.compare('gt', next, group)] };
  });
  const helper = b.call(
    'twice',
    [done, odd],
    ktype('i32'),
    ([p, flag]) =>
      b.if(
        b.or(flag, b.compare('lt', p, b.constant(9))),
        () => [b.mulc(p, 2)],
        () => [p],
      )[0],
  );
  const [unrolled] = b.for(0, 4, 1, [helper], (i, [v]) => [b.add(v, b.mul(i, v))], { unroll: true });
  b.compareExchange(out, lane, unrolled, helper);
  for (const fn of ['add', 'min', 'max', 'and', 'or', 'xor', 'exchange'] as const) b.atomic(fn, out, rows, unrolled);
  return b.finish({ name: 'control', grid: [1, 1, 3], workgroup: [32, 2, 1] });
}

/** Every mathematical function, on scalars and vectors, so often that helpers become functions. */
function mathematics(scalar: 'f16' | 'f32' | 'f64'): KernelFunction {
  const b = new KernelBuilder();
  const x = b.buffer('x', scalar, 4096, 'readwrite');
  const i = b.mulc(b.builtin('local_id', 0, 32), 4);
  const unary = [
    'exp',
    'exp2',
    'log',
    'log2',
    'sin',
    'cos',
    'tan',
    'asin',
    'acos',
    'atan',
    'sinh',
    'cosh',
    'tanh',
    'erf',
  ];
  for (const lanes of [1, 4] as const) {
    let value = b.load(x, i, lanes, true);
    for (const fn of unary) value = b.unary(fn as UnaryFn, b.unary(fn as UnaryFn, value));
    value = b.binary('pow', b.binary('atan2', value, b.binary('rem', value, b.unary('neg', value))), value);
    for (let again = 0; again < 40; again++) value = b.unary('log', b.binary('rem', value, b.unary('exp', value)));
    b.store(x, i, value, true);
  }
  return b.finish({ name: `math_${scalar}`, grid: [1, 1, 1], workgroup: [32, 1, 1] });
}

/** Numbers from a seed, the same on every run. */
function seeded(seed: number): Chooser {
  let state = seed >>> 0 || 1;
  return {
    int(min, max) {
      state ^= state << 13;
      state ^= state >>> 17;
      state ^= state << 5;
      return min + ((state >>> 0) % (max - min + 1));
    },
  };
}

const render = (kernel: KernelFunction, target: Target): KernelCode =>
  cudaBackend.render(legalize(expandMath(kernel), target), target);
const sourceLines = (code: KernelCode): string[] => (code.text ?? '').split('\n');
const count = (code: KernelCode, pattern: RegExp): number =>
  sourceLines(code).filter((line) => pattern.test(line)).length;

describe.each(architectures)('PTX for %s', (arch) => {
  const target = targetOf(arch);

  it('is assembled', (context) => {
    if (ptxasMissing !== undefined) context.skip(ptxasMissing);
  });

  it('takes every op on every type', async () => {
    const kernels = natives.flatMap((scalar) => ([1, 2, 4] as const).map((lanes) => everyOp(scalar, lanes)));
    const codes = kernels.map((kernel) => cudaBackend.render(kernel, target));
    expect(codes[0]).toMatchObject({ bindings: ['read', 'read', 'readwrite', 'readwrite'], scalarBytes: 0 });
    expect(await assemble(codes, arch)).toEqual([]);
  });

  it('takes subgroup operations on every type', async () => {
    const kernels = natives.flatMap((scalar) => ([1, 4] as const).map((lanes) => subgroups(scalar, lanes)));
    const codes = [...kernels, everyOpOfTheIr()].map((kernel) => render(kernel, target));
    expect(await assemble(codes, arch)).toEqual([]);
  });

  it('takes control flow, memory, scalars and functions', async () => {
    const codes = [controlAndMemory(), ...(['f16', 'f32', 'f64'] as const).map(mathematics)].map((kernel) =>
      render(kernel, target),
    );
    expect(codes[0]).toMatchObject({ scalarBytes: 12, sharedBytes: 4 * (128 + 64), workgroup: [32, 2, 1] });
    expect(codes[2].text).toMatch(/call\.uni/);
    expect(await assemble(codes, arch)).toEqual([]);
  });

  it('takes what the scheduler makes of random nodes of every op', async () => {
    const codes: KernelCode[] = [];
    for (const kind of caseKinds) {
      if (definitionOf(kind).family === 'host') continue;
      for (let seed = 1; seed <= 6; seed++) {
        const graph = graphOf(randomCase(seeded(seed * 7919), kind));
        const values = [...graph.inputs, ...graph.nodes.flatMap((node) => node.outputs)];
        const computed = values.every(
          ({ type }) =>
            !['string', 'f8e4m3', 'f8e5m2', 'i4', 'u4'].includes(type.dtype) && sizeOf(type.shape as number[]) > 0,
        );
        if (!computed) continue;
        for (const group of fuse(decompose(graph), target)) {
          for (const { kernel } of lowerGroup(group, target)) codes.push(render(kernel, target));
        }
      }
    }
    expect(codes.length).toBeGreaterThan(100);
    expect(await assemble(codes, arch)).toEqual([]);
  });

  const models: Readonly<Record<string, Readonly<Record<string, number>>>> = {
    'mnist-cnn8': {},
    'bert-toy': { batch: 1, max_seq_len_in_batch: 12 },
    'mobilenetv2-int8-qdq': { batch: 1 },
    'transformer-encoder-tiny': { batch: 2, tokens: 9 },
  };
  for (const [name, dims] of Object.entries(models)) {
    it.skipIf(modelsData.missing)(`takes the kernels of ${name}`, async (context) => {
      const graph = importOnnx(readFileSync(dataPath(context, modelsData, name, 'model.onnx')));
      const { kernels } = plan(graph, target, { dims });
      expect(kernels.length).toBeGreaterThan(0);
      const codes = kernels.map((kernel) => cudaBackend.render(kernel, target));
      expect(await assemble(codes, arch)).toEqual([]);
    });
  }
});

describe('PTX renderer', () => {
  const target = targetOf('sm_80');
  const simple = (build: (b: KernelBuilder, index: KValue) => void): KernelCode => {
    const b = new KernelBuilder();
    build(b, b.builtin('local_id', 0, 8));
    return cudaBackend.render(b.finish({ name: 'simple', grid: [1, 1, 1], workgroup: [8, 1, 1] }), target);
  };

  it('makes one access of an aligned vector, and offsets of constants', () => {
    const code = simple((b, i) => {
      const x = b.buffer('x', 'f32', 1024, 'read');
      const out = b.buffer('out', 'f32', 1024, 'write');
      const at = b.mulc(i, 4);
      const [p, q] = [b.load(x, b.addc(at, 32), 4, true), b.load(x, b.addc(at, 64), 4, true)];
      b.store(out, at, b.add(p, q), true);
    });
    expect(count(code, /^ld\.global\.nc\.v4\.b32 .*\+128\];$/)).toBe(1);
    expect(count(code, /^ld\.global\.nc\.v4\.b32 .*\+256\];$/)).toBe(1);
    expect(count(code, /^st\.global\.v4\.b32 /)).toBe(1);
    expect(count(code, /^mul\.wide/)).toBe(1 + 1); // one address in each buffer
  });

  it('reads past the cache for others only what nobody writes', () => {
    const code = simple((b, i) => {
      const x = b.buffer('x', 'f32', 8, 'readwrite');
      b.store(x, i, b.load(x, b.remc(b.addc(i, 1), 8)));
    });
    expect(count(code, /ld\.global\.b32/)).toBe(1);
  });

  it('spells out every rounding, and contracts only what is fast', () => {
    const render = (fast: boolean): string =>
      simple((b, i) => {
        const x = b.buffer('x', 'f32', 8, 'readwrite');
        const v = b.load(x, i);
        b.store(x, i, b.binary('add', b.binary('mul', v, v, fast), v, fast));
      }).text ?? '';
    expect(render(false)).toMatch(/mul\.rn\.f32 [\s\S]*add\.rn\.f32 /);
    expect(render(true)).toMatch(/mul\.f32 [\s\S]*add\.f32 /);
    for (const scalar of ['f16', 'f32', 'f64'] as const) {
      const { text = '' } = cudaBackend.render(everyOp(scalar, 1), target);
      const unrounded = text.match(/^(add|sub|mul|div|sqrt|fma)\.(f16|f32|f64).*$/gm) ?? [];
      expect(unrounded).toHaveLength(2); // the two that are marked fast
      expect(text).not.toMatch(/ftz|approx/);
    }
  });

  it('unrolls loops and keeps arrays with known indices in registers', () => {
    const code = simple((b, i) => {
      const x = b.buffer('x', 'f32', 64, 'readwrite');
      const own = b.array('own', 'private', 'f32', 8);
      const all = { unroll: true };
      b.for(0, 8, 1, [], (k) => void b.store(own, k, b.load(x, b.add(b.mulc(i, 8), k))), all);
      const [sum] = b.for(
        0,
        8,
        1,
        [b.constant(0, 'f32')],
        (k, [s]) => [b.add(s, b.load(own, b.sub(b.constant(7), k)))],
        all,
      );
      b.store(x, i, sum);
    });
    expect(code.text).not.toContain('.local');
    expect(count(code, /bra/)).toBe(0);
    expect(count(code, /ld\.global/)).toBe(8);
  });

  it('copies all carried values at once', () => {
    const f = new FunctionText();
    f.moveAll([
      [32, '%r10', '%r11'],
      [32, '%r11', '%r10'],
      [32, '%r12', '%r11'],
      [32, '%r13', '%r13'],
      [64, '%d1', '5'],
    ]);
    const registers = new Map([
      ['%r10', 'a'],
      ['%r11', 'b'],
      ['%r12', 'c'],
      ['%r13', 'd'],
    ]);
    for (const line of f.body()) {
      const [, to, from] = line.match(/^mov\.\w+ (\S+), (\S+);$/) ?? [];
      if (to !== undefined) registers.set(to, registers.get(from) ?? from);
    }
    expect(['%r10', '%r11', '%r12', '%r13', '%d1'].map((reg) => registers.get(reg))).toEqual(['b', 'a', 'b', 'd', '5']);
  });

  it('keeps the end of a loop whose next index would not be in the type', () => {
    const code = simple((b, i) => {
      const x = b.buffer('x', 'u32', 8, 'readwrite');
      const limit = b.scalar('limit', 'u32');
      const [sum] = b.for(b.constant(0, 'u32'), limit, 7, [b.load(x, i)], (k, [s]) => [b.add(s, k)]);
      b.store(x, i, sum);
    });
    expect(code.text).toMatch(/sub\.u32 (%r\d+), .*\nsetp\.gt\.u32 %p\d+, \1, 7;\nadd\.u32/);
  });

  it('refuses what it cannot mean', () => {
    expect(() =>
      simple((b, i) => {
        const x = b.buffer('x', 'f32', 8, 'readwrite');
        b.store(x, i, b.unary('tanh', b.load(x, i)));
      }),
    ).toThrow(/tanh.*expandMath/);
    const b = new KernelBuilder();
    b.store(b.buffer('x', 'u32', 8, 'write'), b.constant(0), b.constant(0, 'u32'));
    const kernel = b.finish({ name: 'narrow', grid: [1, 1, 1], workgroup: [8, 1, 1], subgroupSize: 8 });
    expect(() => cudaBackend.render(kernel, target)).toThrow(expect.objectContaining({ code: 'E_KERNEL' }));
  });

  it('renders a large register tile in a few milliseconds', () => {
    const kernel = (): KernelFunction => {
      const b = new KernelBuilder();
      const x = b.buffer('x', 'f32', 1 << 20, 'read');
      const out = b.buffer('out', 'f32', 1 << 20, 'write');
      const lane = b.mulc(b.builtin('local_id', 0, 8), 8);
      const sums = b.for(0, 1024, 4, new Array(64).fill(b.constant(0, 'f32')), (k, carried) => {
        const acc = [...carried];
        for (let u = 0; u < 4; u++) {
          const a = Array.from({ length: 8 }, (_, r) => b.load(x, b.add(b.mulc(k, 8), b.constant(8 * u + r))));
          const c = Array.from({ length: 8 }, (_, r) => b.load(x, b.add(b.mulc(b.addc(k, u), 64), b.addc(lane, r))));
          for (let r = 0; r < 64; r++) acc[r] = b.add(acc[r], b.mul(a[r >> 3], c[r & 7]));
        }
        return acc;
      });
      for (const [r, sum] of sums.entries()) b.store(out, b.addc(lane, 64 * r), sum);
      return b.finish({ name: 'tile', grid: [1, 1, 1], workgroup: [8, 1, 1] });
    };
    const times: number[] = [];
    for (let round = 0; round < 10; round++) {
      const built = kernel();
      const at = performance.now();
      cudaBackend.render(built, target);
      times.push(performance.now() - at);
    }
    // The best of ten: warm, and on a machine that does other things too.
    expect(Math.min(...times)).toBeLessThan(10);
  });
});

describe('targets', () => {
  it('takes the best architecture that device and driver know', () => {
    const name = (sm: number, cuda: number): string | undefined => archFor(sm, cuda)?.name;
    expect(name(75, 12040)).toBe('sm_75');
    expect(name(86, 12040)).toBe('sm_86');
    expect(name(90, 12040)).toBe('sm_90a');
    expect(name(90, 11080)).toBe('sm_90');
    expect(name(89, 11070)).toBe('sm_87');
    expect(name(100, 12040)).toBe('sm_90');
    expect(name(120, 12080)).toBe('sm_120');
    expect(name(70, 12040)).toBeUndefined();
    expect(name(75, 9000)).toBeUndefined();
    expect(ptxVersionOf(12065)).toEqual([8, 5]);
  });

  it('describes each architecture by its name', () => {
    for (const { name } of archs) {
      const target = targetOf(name);
      expect(target).toMatchObject({ backend: 'cuda', arch: name, style: 'simt', subgroup: { min: 32, max: 32 } });
      expect(target.arithmetic.has('bf16')).toBe(false);
    }
    expect(cudaBackend.target('sm_13')).toBeUndefined();
    expect(cudaBackend.target('spirv')).toBeUndefined();
  });

  it('describes a device by what it reports', () => {
    const described = cudaBackend.describe({
      id: 'cuda:GPU-0',
      backend: 'cuda',
      name: 'x',
      driver: 'y',
      virtual: false,
      software: false,
      memoryBytes: 2 ** 33,
      features: [],
      limits: {
        computeCapability: 80,
        cudaVersion: 12040,
        multiprocessors: 108,
        clockKHz: 1_410_000,
        memoryClockKHz: 1_215_000,
        memoryBusBits: 5120,
      },
    });
    expect(described).toMatchObject({ arch: 'sm_80', parallelism: 108 });
    expect(described.rates.copyGBs).toBeCloseTo(1555.2, 1);
    expect(described.rates.gflops).toBeCloseTo(19_492, -2);
  });
});
