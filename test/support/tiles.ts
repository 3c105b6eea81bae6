/** Targets with matrix units, a kernel around one product of tiles and its data, for tests of tiles and their renderers. */
import { KernelBuilder } from '../../compiler/kernel/builder.js';
import type { KTile, MatrixUnit, TileLayout, TileScalar } from '../../compiler/kernel/engines.js';
import { legalize } from '../../compiler/kernel/legalize.js';
import type { Target } from '../../compiler/kernel/target.js';
import {
  type KernelFunction,
  type KMemory,
  type KValue,
  type ScalarType,
  scalarBits,
} from '../../compiler/kernel/types.js';
import { verify } from '../../compiler/kernel/verify.js';
import { f32ToBf16, f32ToF16 } from '../../compiler/numeric.js';
import type { Run } from './kernel_runs.js';
import { testTargets } from './targets.js';

const unit = (m: number, n: number, k: number, a: TileScalar, accumulator: TileScalar, b = a): MatrixUnit => ({
  m,
  n,
  k,
  a,
  b,
  accumulator,
  speed: 8,
});

/** A real GPU with matrix units of the usual shapes. */
export const matrixTarget: Target = {
  ...testTargets.simt,
  features: new Set(['fma', 'subgroups', 'fragments', 'fast_exp2', 'async_copy']),
  limits: { ...testTargets.simt.limits, sharedBytes: 48 << 10 },
  parallelism: 1,
  matrixUnits: [
    unit(16, 16, 16, 'f16', 'f32'),
    unit(16, 16, 16, 'bf16', 'f32'),
    unit(16, 16, 8, 'tf32', 'f32'),
    unit(16, 16, 32, 'i8', 'i32'),
    unit(16, 16, 32, 'u8', 'i32'),
    unit(16, 16, 32, 'u8', 'i32', 'i8'),
    unit(16, 16, 32, 'i8', 'i32', 'u8'),
  ],
};

/** The same with warpgroups, and shared memory for their rings. */
export const hopperTarget: Target = {
  ...matrixTarget,
  features: new Set(['fma', 'subgroups', 'fragments', 'fast_exp2', 'async_copy', 'warpgroups']),
  limits: {
    ...matrixTarget.limits,
    sharedBytes: 227 << 10,
    workgroupInvocations: 1024,
    workgroupSize: [1024, 1024, 64],
  },
  parallelism: 2,
};

/** The same with small square units of floats, as simdgroup_matrix has them. */
export const squareTarget: Target = {
  ...matrixTarget,
  limits: { ...matrixTarget.limits, sharedBytes: 32 << 10 },
  features: new Set(['fma', 'subgroups']),
  matrixUnits: [unit(8, 8, 8, 'f16', 'f32'), unit(8, 8, 8, 'bf16', 'f32'), unit(8, 8, 8, 'f32', 'f32')],
};

const memoryScalar = (scalar: TileScalar): ScalarType => (scalar === 'tf32' ? 'f32' : scalar);

interface ProductOptions {
  readonly layoutA?: TileLayout;
  readonly layoutB?: TileLayout;
  readonly layoutC?: TileLayout;
  readonly subgroups?: number;
  /** Invocations of one. */
  readonly width?: number;
  /** Elements between the rows (columns) of each matrix; 16 keeps every type aligned. */
  readonly padding?: number;
  /** Where the tiles are loaded from and stored to. */
  readonly space?: 'buffer' | 'shared';
}

/** out = a·b + c for one tile a subgroup: subgroup s takes rows s·m of `a` and `c`. Rows of memory are padded. */
export function product(
  unit: MatrixUnit,
  {
    layoutA = 'row',
    layoutB = 'row',
    layoutC = 'row',
    subgroups = 1,
    width = 32,
    padding = 16,
    space = 'buffer',
  }: ProductOptions = {},
) {
  const { m, n, k } = unit;
  const b = new KernelBuilder();
  const local = b.builtin('local_id', 0, width * subgroups);
  const aligned = padding % 16 === 0;
  /** A padded matrix; the memory that tiles use, and how to bring a shared one there or back. */
  const matrix = (name: string, scalar: TileScalar, rows: number, columns: number, layout: TileLayout, out = false) => {
    const stride = (layout === 'row' ? columns : rows) + padding;
    const length = (layout === 'row' ? rows : columns) * stride;
    const buffer = b.buffer(name, memoryScalar(scalar), length, out ? 'readwrite' : 'read');
    const memory = space === 'shared' ? b.array(`own_${name}`, 'shared', buffer.scalar, length) : buffer;
    const move = (from: KMemory, to: KMemory) =>
      b.for(0, Math.ceil(length / (width * subgroups)), 1, [], (i) => {
        const at = b.min(b.add(b.mulc(i, width * subgroups), local), b.constant(length - 1));
        b.if(b.compare('eq', at, b.add(b.mulc(i, width * subgroups), local)), () => {
          b.store(to, at, b.load(from, at));
        });
      });
    return { memory, buffer, stride, length, layout, move };
  };
  const left = matrix('a', unit.a, m * subgroups, k, layoutA);
  const right = matrix('b', unit.b, k, n, layoutB);
  const initial = matrix('c', unit.accumulator, m * subgroups, n, layoutC);
  const out = matrix('out', unit.accumulator, m * subgroups, n, layoutC, true);
  if (space === 'shared') {
    for (const { buffer, memory, move } of [left, right, initial, out]) move(buffer, memory);
    b.barrier();
  }
  const [ta, tb, tc] = (['a', 'b', 'accumulator'] as const).map((role) =>
    b.tile({ name: `t${role}`, role, m, n, k, scalar: unit[role] }),
  );
  const row = b.mulc(b.divc(local, width), m);
  const from = ({ layout, stride }: typeof left) => (layout === 'row' ? b.mulc(row, stride) : row);
  const move = (op: 'tile_load' | 'tile_store', tile: KTile, of: typeof left, index: KValue) => {
    // Columns of less than 16 bytes put the second subgroup's where nothing is aligned.
    const whole = of.layout === 'row' || (m * scalarBits[of.memory.scalar]) % 128 === 0;
    b.engine({ op, tile, memory: of.memory, index, stride: of.stride, layout: of.layout, aligned: aligned && whole });
  };
  move('tile_load', ta, left, from(left));
  move('tile_load', tb, right, b.constant(0));
  move('tile_load', tc, initial, from(initial));
  b.engine({ op: 'tile_multiply', accumulator: tc, a: ta, b: tb });
  move('tile_store', tc, out, from(out));
  if (space === 'shared') {
    b.barrier();
    out.move(out.memory, out.buffer);
  }
  const kernel = b.finish({
    name: 'product',
    grid: [1, 1, 1],
    workgroup: [width * subgroups, 1, 1],
    subgroupSize: width,
  });
  const [strideA, strideB, strideC] = [left.stride, right.stride, initial.stride];
  return { kernel, strideA, strideB, strideC, lengthA: left.length, lengthB: right.length, lengthC: initial.length };
}

export const encoded = (scalar: TileScalar, values: readonly number[]): ArrayBufferView => {
  switch (scalar) {
    case 'f16':
      return Uint16Array.from(values, f32ToF16);
    case 'bf16':
      return Uint16Array.from(values, f32ToBf16);
    case 'tf32':
    case 'f32':
      return Float32Array.from(values);
    case 'i8':
      return Int8Array.from(values);
    case 'u8':
      return Uint8Array.from(values);
    case 'i32':
      return Int32Array.from(values);
    default:
      return scalar satisfies never;
  }
};

/**
 * 512 halves through shared memory in two stages, of which the second is on its way during the first; invocations read
 * what their neighbours copied. `wait`: groups that may be pending when the first stage is read (1 is right).
 */
export function stagedCopies(wait = 1): KernelFunction {
  const b = new KernelBuilder();
  const source = b.buffer('source', 'f16', 32 * 8 * 2, 'read');
  const out = b.buffer('out', 'f16', 32 * 8 * 2, 'write');
  const stage = b.array('stage', 'shared', 'f16', 2 * 32 * 8);
  const local = b.builtin('local_id', 0, 32);
  const at = b.mulc(local, 8);
  const copy = (half: number, condition?: KValue): void => {
    const index = b.addc(at, half * 256);
    b.engine({
      op: 'async_copy',
      memory: stage,
      index,
      source,
      from: index,
      elements: 8,
      ...(condition ? { condition } : {}),
    });
    b.engine({ op: 'async_commit' });
  };
  copy(0);
  copy(1, b.compare('lt', at, b.constant(80)));
  for (const half of [0, 1]) {
    b.engine({ op: 'async_wait', pending: half === 0 ? wait : 0 });
    b.barrier();
    // Neighbours' elements: what the barrier is for.
    const neighbour = b.min(b.binary('xor', local, b.constant(1)), b.constant(31));
    const values = b.load(stage, b.addc(b.mulc(neighbour, 8), half * 256), 8, true);
    b.store(out, b.addc(at, half * 256), values, true);
  }
  return b.finish({ name: 'staged', grid: [1, 1, 1], workgroup: [32, 1, 1], subgroupSize: 32 });
}

/** out = round(c)·b + 2·c of squares of 16 for two subgroups: c is taken apart, and put together as two tiles. */
export function recombined(scalar: 'f16' | 'bf16'): KernelFunction {
  const b = new KernelBuilder();
  const [c, right] = [b.buffer('c', 'f32', 512, 'read'), b.buffer('b', scalar, 256, 'read')];
  const out = b.buffer('out', 'f32', 512, 'write');
  const held = b.array('held', 'private', 'f32', 8 + 8);
  const tile = (role: KTile['role'], of: TileScalar): KTile =>
    b.tile({ name: `t${role}`, role, m: 16, n: 16, k: 16, scalar: of });
  const [sum, left, factor] = [tile('accumulator', 'f32'), tile('a', scalar), tile('b', scalar)];
  const index = b.mulc(b.divc(b.builtin('local_id', 0, 64), 32), 256);
  const place = { stride: 16, layout: 'row', aligned: true } as const;
  b.engine({ op: 'tile_load', tile: sum, memory: c, index, ...place });
  b.engine({ op: 'tile_load', tile: factor, memory: right, index: b.constant(0), ...place });
  b.engine({ op: 'tile_unpack', tile: sum, memory: held, from: 8 });
  for (let i = 0; i < 8; i++) {
    const value = b.load(held, b.constant(8 + i));
    b.store(held, b.constant(i), b.add(value, value));
  }
  b.engine({ op: 'tile_pack', tile: sum, memory: held, from: 0 });
  b.engine({ op: 'tile_pack', tile: left, memory: held, from: 8 });
  b.engine({ op: 'tile_multiply', accumulator: sum, a: left, b: factor });
  b.engine({ op: 'tile_store', tile: sum, memory: out, index, ...place });
  return b.finish({ name: 'recombined', grid: [1, 1, 1], workgroup: [64, 1, 1], subgroupSize: 32 });
}

const layouts = ['row', 'column'] as const;
const name = ({ a, b, accumulator }: MatrixUnit): string => `${a}×${b}→${accumulator}`;

/** Bytes of small integers in the type, so that sums are exact in any order. */
function values(scalar: MatrixUnit['a'], length: number, seed: number): Uint8Array {
  const low = scalar === 'u8' ? 0 : -5;
  const view = encoded(
    scalar,
    Array.from({ length }, (_, i) => low + (((i + seed) * 37) % 11)),
  );
  return new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
}

/** Every unit of the target in every layout, from both memories, legal for it; aligned and, by default, not. */
export function tileRuns(target: Target, paddings: readonly number[] = [16, 3]): Run[] {
  const found: Run[] = [];
  for (const unit of target.matrixUnits ?? []) {
    for (const layoutA of layouts) {
      for (const layoutB of layouts) {
        for (const space of ['buffer', 'shared'] as const) {
          for (const padding of paddings) {
            const layoutC = layoutA === layoutB ? 'row' : 'column';
            const width = target.subgroup.max;
            const made = product(unit, { layoutA, layoutB, layoutC, space, padding, subgroups: 2, width });
            const kernel = legalize(made.kernel, target);
            verify(kernel, { stage: 'legal', target });
            found.push({
              what: `${name(unit)}, a ${layoutA}, b ${layoutB}, ${space}, padded by ${padding}`,
              kernel,
              inputs: [
                values(unit.a, made.lengthA, 1),
                values(unit.b, made.lengthB, 2),
                values(unit.accumulator, made.lengthC, 3),
              ],
            });
          }
        }
      }
    }
  }
  if (target.features.has('fragments')) {
    for (const { a } of target.matrixUnits ?? []) {
      if (a !== 'f16' && a !== 'bf16') continue;
      const kernel = legalize(recombined(a), target);
      verify(kernel, { stage: 'legal', target });
      found.push({ what: `tiles of ${a} taken apart`, kernel, inputs: [values('f32', 512, 4), values(a, 256, 5)] });
    }
  }
  if (target.features.has('async_copy')) {
    const kernel = legalize(stagedCopies(), target);
    found.push({ what: 'asynchronous copies', kernel, inputs: [values('f16', 512, 1)] });
  }
  return found;
}
