/** Signals, tensor copies and products of warpgroups in Kernel IR: meaning, text, rules, and what waits for ever. */
import { describe, expect, test } from 'vitest';
import { KernelBuilder } from '../../compiler/kernel/builder.js';
import { swizzleBlock, swizzled } from '../../compiler/kernel/bulk.js';
import type { KTensorMap } from '../../compiler/kernel/engines.js';
import { interpret } from '../../compiler/kernel/interpreter.js';
import { legalize } from '../../compiler/kernel/legalize.js';
import { expandMath } from '../../compiler/kernel/math.js';
import { parse } from '../../compiler/kernel/parse.js';
import { print } from '../../compiler/kernel/print.js';
import { simplify } from '../../compiler/kernel/simplify.js';
import type { Target } from '../../compiler/kernel/target.js';
import type { KernelFunction, KValue, ScalarType } from '../../compiler/kernel/types.js';
import { verify } from '../../compiler/kernel/verify.js';
import { bf16ToF32, f16ToF32, f32ToBf16, f32ToF16 } from '../../compiler/numeric.js';
import { hopperTarget, matrixTarget } from '../support/tiles.js';

interface Options {
  readonly scalar?: 'f16' | 'bf16';
  /** Extents of the tensors: rows and k of a, columns of b. */
  readonly rows?: number;
  readonly columns?: number;
  readonly steps?: number;
  /** Where the first box begins. */
  readonly at?: readonly [number, number];
  /** Left out, to see what becomes of it. */
  readonly without?: 'wait for full' | 'wait for products' | 'expected bytes' | 'last arrival';
  /** Products of rows of `b` that lie along the rows (n is innermost in memory). */
  readonly alongRow?: boolean;
}

/** One warpgroup copies a box of a and one of b, multiplies 64×32 += 64×64 · 64×32 and stores the sums. */
function product(options: Options = {}): KernelFunction {
  const { scalar = 'f16', rows = 70, columns = 40, steps = 72, at = [0, 0], without, alongRow = false } = options;
  const b = new KernelBuilder();
  const n = 32;
  const strideB = alongRow ? 64 : 80;
  const left = b.buffer('a', scalar, rows * 80, 'read');
  const right = b.buffer('b', scalar, (alongRow ? steps : columns) * strideB, 'read');
  const out = b.buffer('out', 'f32', 64 * n, 'write');
  const box = { name: 'box_a', buffer: left, offset: 0, dims: [steps, rows], strides: [80], box: [64, 64] };
  const mapA = b.tensorMap(box);
  const dims = alongRow ? [columns, steps] : [steps, columns];
  const mapB = b.tensorMap({
    name: 'box_b',
    buffer: right,
    offset: 0,
    dims,
    strides: [strideB],
    box: [64, alongRow ? 64 : n],
  });
  const [stageA, stageB] = ['own_a', 'own_b'].map((name) => b.array(name, 'shared', scalar, 8 * swizzleBlock));
  const full = b.signal('full', 2);
  const sum = b.tile({ name: 'sum', role: 'accumulator', m: 64, n, k: 16, scalar: 'f32', subgroups: 4 });
  const local = b.builtin('local_id', 0, 128);
  const one = b.constant(1);
  const isFirst = b.compare('eq', local, b.constant(0));
  b.if(isFirst, () => b.engine({ op: 'signal_init', signal: full, index: one, arrivals: 1 }));
  b.barrier();
  b.if(isFirst, () => {
    const bytes = 2 * 64 * (64 + (alongRow ? 64 : n));
    if (without === 'expected bytes') b.engine({ op: 'signal_arrive', signal: full, index: one });
    else if (without !== 'last arrival') b.engine({ op: 'signal_expect', signal: full, index: one, bytes });
    const copy = (map: KTensorMap, memory: typeof stageA, from: readonly KValue[]): void =>
      b.engine({ op: 'tensor_copy', map, at: from, memory, index: b.constant(0), signal: full, signalIndex: one });
    copy(mapA, stageA, [b.constant(at[0]), b.constant(at[1])]);
    copy(mapB, stageB, [b.constant(alongRow ? 0 : at[0]), b.constant(alongRow ? at[0] : 0)]);
  });
  if (without !== 'wait for full') b.engine({ op: 'signal_wait', signal: full, index: one, parity: b.constant(0) });
  b.engine({ op: 'tile_fill', tile: sum, value: b.constant(0, 'f32') });
  b.engine({ op: 'group_fence' });
  for (let k = 0; k < 64; k += 16) {
    b.engine({
      op: 'group_multiply',
      scalar,
      accumulator: sum,
      a: { memory: stageA, index: b.constant(k), along: 'k', panel: swizzleBlock },
      b: {
        memory: stageB,
        index: b.constant(alongRow ? 64 * k : k),
        along: alongRow ? 'row' : 'k',
        panel: 8 * swizzleBlock,
      },
    });
  }
  b.engine({ op: 'group_commit' });
  if (without !== 'wait for products') b.engine({ op: 'group_wait', pending: 0 });
  for (const from of [0, 16]) {
    const index = b.constant(from);
    const columnsOf = { from, count: 16 };
    b.engine({
      op: 'tile_store',
      tile: sum,
      memory: out,
      index,
      stride: n,
      layout: 'row',
      aligned: true,
      columns: columnsOf,
    });
  }
  return b.finish({ name: 'product', grid: [1, 1, 1], workgroup: [128, 1, 1], subgroupSize: 32 });
}

const codecs = { f16: [f32ToF16, f16ToF32], bf16: [f32ToBf16, bf16ToF32] } as const;
const element = (seed: number, i: number): number => ((i * 37 + seed) % 11) - 5;

function run(kernel: KernelFunction, scalar: 'f16' | 'bf16' = 'f16') {
  const [encode] = codecs[scalar];
  const [a, b] = kernel.params.map((param, seed) =>
    Uint16Array.from({ length: param.kind === 'buffer' ? param.length : 0 }, (_, i) => encode(element(seed, i))),
  );
  const out = new Float32Array(64 * 32);
  interpret(kernel, [a, b, out], [], { checkRaces: true });
  return out;
}

/** The same by the definition, zeros outside of the tensors. */
function expected({ rows = 70, columns = 40, steps = 72, at = [0, 0], alongRow = false }: Options): Float32Array {
  const strideB = alongRow ? 64 : 80;
  return Float32Array.from({ length: 64 * 32 }, (_, i) => {
    const [row, column] = [Math.floor(i / 32) + at[1], i % 32];
    let sum = 0;
    for (let step = at[0]; step < at[0] + 64; step++) {
      if (step < 0 || step >= steps || row >= rows || column >= columns) continue;
      sum += element(0, row * 80 + step) * element(1, alongRow ? step * strideB + column : column * 80 + step);
    }
    return sum;
  });
}

const cases: readonly Options[] = [
  {},
  { scalar: 'bf16' },
  { rows: 33, columns: 17, steps: 24 },
  { at: [16, 40] },
  { alongRow: true },
  { alongRow: true, columns: 40, steps: 40, scalar: 'bf16', at: [8, 0] },
];

test('units of 16 bytes change places within 1024', () => {
  const places = Array.from({ length: swizzleBlock }, (_, i) => swizzled(i));
  expect(new Set(places).size).toBe(swizzleBlock);
  expect(Math.max(...places)).toBe(swizzleBlock - 1);
  expect([swizzled(0), swizzled(7), swizzled(64), swizzled(71), swizzled(64 * 7 + 8)]).toEqual([
    0,
    7,
    72,
    79,
    64 * 7 + 48,
  ]);
});

describe('a product of boxes', () => {
  for (const options of cases) {
    test(JSON.stringify(options), () => {
      const kernel = product(options);
      verify(kernel, { stage: 'scheduled', target: hopperTarget });
      expect(run(kernel, options.scalar)).toEqual(expected(options));
    });
  }
  test('that is not waited for is not stored', () => {
    expect(() => run(product({ without: 'wait for products' }))).toThrow(/before products are waited for/);
  });
  test('of boxes that are not waited for is of undefined elements', () => {
    const out = run(product({ without: 'wait for full' }));
    expect(out.every(Number.isNaN)).toBe(true);
  });
  test('whose arrival never comes waits for ever, which is found', () => {
    expect(() => run(product({ without: 'last arrival' }))).toThrow(/wait for signals that never come/);
  });
});

describe('text and passes', () => {
  const kernels = cases.map(product);
  test('print and parse', () => {
    for (const kernel of kernels) {
      const text = print(kernel);
      expect(print(parse(text))).toBe(text);
      verify(parse(text), { stage: 'scheduled', target: hopperTarget });
    }
  });
  test('simplify and expandMath keep them, and simplify drops what is not used', () => {
    for (const kernel of kernels) {
      expect(print(expandMath(simplify(kernel)))).toBe(print(simplify(kernel)));
      expect(simplify(kernel)).toMatchObject({ signals: kernel.signals, maps: kernel.maps, tiles: kernel.tiles });
    }
    const b = new KernelBuilder();
    const buffer = b.buffer('in', 'f16', 64, 'read');
    b.tensorMap({ name: 'map', buffer, offset: 0, dims: [64], strides: [], box: [64] });
    b.signal('signal', 1);
    expect(simplify(b.finish({ name: 'empty', grid: [1, 1, 1], workgroup: [1, 1, 1] }))).toMatchObject({
      signals: [],
      maps: [],
    });
  });
  test('bf16 stays as it is stored', () => {
    const words = new Set<ScalarType>(['bool', 'u16', 'i32', 'u32', 'f32']);
    const target: Target = { ...hopperTarget, arithmetic: new Set(['bool', 'i32', 'u32', 'f32']), storage: words };
    const legal = legalize(product({ scalar: 'bf16' }), target);
    verify(legal, { stage: 'legal', target });
    expect(legal.maps[0].buffer).toBe(legal.params[0]);
    expect(legal.params[0]).toMatchObject({ scalar: 'u16' });
    expect(run(legal, 'bf16')).toEqual(expected({ scalar: 'bf16' }));
  });
});

describe('rules', () => {
  const broken = (change: (text: string) => string, reason: RegExp, target = hopperTarget): void => {
    const text = print(product());
    const changed = change(text);
    expect(changed).not.toBe(text);
    expect(() => verify(parse(changed), { stage: 'scheduled', target })).toThrow(reason);
  };
  test('only targets with warpgroups have them', () => {
    expect(() => verify(product(), { stage: 'scheduled', target: matrixTarget })).toThrow(/no warpgroups/);
  });
  test('maps describe tensors that are there, in steps of 16 bytes', () => {
    broken((text) => text.replace('dims (72, 70)', 'dims (72, 71)'), /ends beyond/);
    broken((text) => text.replace('strides (80)', 'strides (81)'), /multiple of 16 bytes/);
    broken((text) => text.replace('box (64, 64)', 'box (32, 64)'), /a box of/);
    broken((text) => text.replace('box (64, 64)', 'box (64, 257)'), /a box of/);
    broken((text) => text.replace('@a f16 5600 read', '@a f16 5600 readwrite'), /is written/);
  });
  test('boxes and operands lie within their arrays, where the swizzle begins', () => {
    broken(
      (text) => text.replace('array @own_a shared f16 4096', 'array @own_a shared f16 3584'),
      /not proven in bounds/,
    );
    broken((text) => text.replace('array @own_a shared f16 4096', 'array @own_a shared f16 4095'), /elements|bounds/);
    broken((text) => text.replaceAll('signal @full 2', 'signal @full 1'), /not proven in bounds/);
  });
  test('accumulators are those of a warpgroup, of some columns', () => {
    broken((text) => text.replace(' subgroups 4', ''), /no accumulator of a warpgroup|one subgroup/);
    broken((text) => text.replace('columns 0, 16', 'columns 0, 40'), /columns 0 and 40/);
    broken((text) => text.replace('columns 0, 16', 'columns 4, 16'), /columns 4/);
  });
  test('control flow is uniform in a warpgroup', () => {
    const isFirst = /(%\d+): bool/.exec(print(product()))?.[1];
    broken((text) => text.replace('group_fence', `if ${isFirst} {\n group_fence\n }`), /not uniform in a warpgroup/);
    broken((text) => text.replace('workgroup 128, 1, 1', 'workgroup 96, 1, 1'), /whole|range/);
  });
});
