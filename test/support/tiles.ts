/** Targets with matrix units, a kernel around one product of tiles and its data, for tests of tiles and their renderers. */
import { KernelBuilder } from '../../compiler/kernel/builder.js';
import type { MatrixUnit, TileLayout, TileScalar } from '../../compiler/kernel/engines.js';
import type { Target } from '../../compiler/kernel/target.js';
import type { ScalarType } from '../../compiler/kernel/types.js';
import { f32ToBf16, f32ToF16 } from '../../compiler/numeric.js';
import { testTargets } from './targets.js';

const unit = (m: number, n: number, k: number, a: TileScalar, accumulator: TileScalar, b = a): MatrixUnit => ({
  m,
  n,
  k,
  a,
  b,
  accumulator,
});

/** A real GPU with matrix units of the usual shapes. */
export const matrixTarget: Target = {
  ...testTargets.simt,
  features: new Set(['fma', 'subgroups', 'async_copy']),
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
  readonly subgroups?: number;
}

/** out = a·b + c for one tile a subgroup: subgroup s takes rows s·m of `a` and `c`. Rows of memory are padded by 8. */
export function product(unit: MatrixUnit, { layoutA = 'row', layoutB = 'row', subgroups = 1 }: ProductOptions = {}) {
  const { m, n, k } = unit;
  const b = new KernelBuilder();
  const strideA = (layoutA === 'row' ? k : m * subgroups) + 8;
  const strideB = (layoutB === 'row' ? n : k) + 8;
  const strideC = n + 8;
  const lengthA = (layoutA === 'row' ? m * subgroups : k) * strideA;
  const lengthB = (layoutB === 'row' ? k : n) * strideB;
  const left = b.buffer('a', memoryScalar(unit.a), lengthA, 'read');
  const right = b.buffer('b', memoryScalar(unit.b), lengthB, 'read');
  const initial = b.buffer('c', memoryScalar(unit.accumulator), m * subgroups * strideC, 'read');
  const out = b.buffer('out', memoryScalar(unit.accumulator), m * subgroups * strideC, 'write');
  const [ta, tb, tc] = (['a', 'b', 'accumulator'] as const).map((role) =>
    b.tile({ name: `t${role}`, role, m, n, k, scalar: unit[role] }),
  );
  const zero = b.constant(0);
  const subgroup = b.divc(b.builtin('local_id', 0, 32 * subgroups), 32);
  const row = b.mulc(subgroup, m);
  b.engine({
    op: 'tile_load',
    tile: ta,
    memory: left,
    index: layoutA === 'row' ? b.mulc(row, strideA) : row,
    stride: strideA,
    layout: layoutA,
    aligned: false,
  });
  b.engine({ op: 'tile_load', tile: tb, memory: right, index: zero, stride: strideB, layout: layoutB, aligned: false });
  b.engine({
    op: 'tile_load',
    tile: tc,
    memory: initial,
    index: b.mulc(row, strideC),
    stride: strideC,
    layout: 'row',
    aligned: false,
  });
  b.engine({ op: 'tile_multiply', accumulator: tc, a: ta, b: tb });
  b.engine({
    op: 'tile_store',
    tile: tc,
    memory: out,
    index: b.mulc(row, strideC),
    stride: strideC,
    layout: 'row',
    aligned: false,
  });
  const kernel = b.finish({ name: 'product', grid: [1, 1, 1], workgroup: [32 * subgroups, 1, 1], subgroupSize: 32 });
  return { kernel, strideA, strideB, strideC, lengthA, lengthB };
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
