/**
 * Which cooperative matrices of a device become matrix units of its target.
 *
 * Native code lists what VK_KHR_cooperative_matrix reports among a device's features, as
 * `cooperativeMatrix:16x16x32:i8:i8:i32`: the extents m×n×k and the types of a, b and the sums, of products of one
 * subgroup without saturation. Nothing tells who holds which element, so the target has no `fragments`. None of this has
 * run on real hardware yet; speeds are estimates.
 */
import type { MatrixUnit, TileScalar } from '../../compiler/kernel/engines.js';
import type { Target } from '../../compiler/kernel/target.js';
import type { DeviceInfo } from '../backend.js';

const matrixFeature = 'cooperativeMatrix:';
export const isMatrixFeature = (feature: string): boolean => feature.startsWith(matrixFeature);

/** A unit, and how its driver counts sums of bytes: as signed integers where there is a choice. */
export interface Matrix {
  readonly unit: MatrixUnit;
  readonly hasUnsignedSums: boolean;
}

/** Multiply-adds for each one of f32: what is usual for operands of 16 and of 8 bits. */
const speeds: Partial<Record<TileScalar, number>> = { f16: 4, bf16: 4, i8: 8, u8: 8 };

/**
 * A driver may run subgroups of several widths; kernels take the widest. Those that go below 32 compile matrices at the
 * one width of their units (8 or 16), and do not say which that is.
 */
const leastOfVarying = 32;

/** One unit for each triple of types, the one that is nearest to 16×16 and then deepest up to 32 bytes of k. */
export function matricesOf({ features, limits, software }: DeviceInfo): readonly Matrix[] {
  const has = new Set(features);
  const usual = limits.subgroupSize ?? 1;
  const [min, max] = [limits.minSubgroupSize ?? usual, limits.maxSubgroupSize ?? usual];
  // Software devices multiply matrices element by element: other forms are faster there.
  if (software || !has.has('vulkanMemoryModel') || !has.has('subgroups')) return [];
  if (min !== max && (min < leastOfVarying || !has.has('subgroupSizeControl'))) return [];
  const best = new Map<string, Matrix>();
  for (const feature of features) {
    const found = isMatrixFeature(feature) ? parsed(feature.slice(matrixFeature.length)) : undefined;
    if (!found || !isUsable(found.unit, has)) continue;
    const { a, b, accumulator } = found.unit;
    const key = `${a} ${b} ${accumulator}`;
    const other = best.get(key);
    if (!other || rank(found) < rank(other)) best.set(key, found);
  }
  return [...best.values()];
}

const types: ReadonlySet<string> = new Set(['f16', 'bf16', 'f32', 'i8', 'u8', 'i32', 'u32']);

function parsed(text: string): Matrix | undefined {
  const [extents, a, b, sums] = text.split(':');
  const [m, n, k] = extents.split('x').map(Number);
  if (![a, b, sums].every((type) => types.has(type)) || ![m, n, k].every((x) => Number.isSafeInteger(x) && x > 0))
    return undefined;
  const accumulator = (sums === 'u32' ? 'i32' : sums) as TileScalar;
  const unit = { m, n, k, a: a as TileScalar, b: b as TileScalar, accumulator, speed: speeds[a as TileScalar] ?? 1 };
  return { unit, hasUnsignedSums: sums === 'u32' };
}

/** Whether the forms have a use for a unit, and the device the types that its memory and its sums need. */
function isUsable({ m, n, k, a, b, accumulator }: MatrixUnit, has: ReadonlySet<string>): boolean {
  if (![m, n, k].every((extent) => extent % 8 === 0)) return false;
  switch (a) {
    case 'f16':
      return b === a && accumulator === 'f32' && has.has('shaderFloat16') && has.has('storageBuffer16BitAccess');
    case 'bf16':
      return (
        b === a &&
        accumulator === 'f32' &&
        has.has('shaderBFloat16CooperativeMatrix') &&
        has.has('shaderInt16') &&
        has.has('storageBuffer16BitAccess')
      );
    case 'f32':
      return b === a && accumulator === 'f32';
    case 'i8':
    case 'u8':
      return (
        (b === 'i8' || b === 'u8') &&
        accumulator === 'i32' &&
        has.has('shaderInt8') &&
        has.has('storageBuffer8BitAccess')
      );
    default:
      return false;
  }
}

/** Less is better: squares of 16, then much of k for one load of the sums, then signed sums. */
function rank({ unit: { m, n, k, a }, hasUnsignedSums }: Matrix): number {
  const bytes = k * (a === 'f32' ? 4 : a === 'f16' || a === 'bf16' ? 2 : 1);
  const shape = Math.abs(Math.log2(m / 16)) + Math.abs(Math.log2(n / 16));
  const depth = Math.abs(Math.log2(bytes / 32));
  return 100 * shape + 2 * depth + (hasUnsignedSums ? 1 : 0);
}

const separator = '+tiles:';

/** What the target's `arch` says of matrices: all that code depends on. */
export function archOfMatrices(matrices: readonly Matrix[]): string {
  const names = matrices.map(({ unit: { m, n, k, a, b, accumulator }, hasUnsignedSums }) =>
    [`${m}x${n}x${k}`, a, b, hasUnsignedSums ? 'u32' : accumulator].join(':'),
  );
  return names.length === 0 ? '' : separator + names.join(',');
}

/** Whether the driver has the sums of products of these types as unsigned integers only. */
export function hasUnsignedSums({ arch }: Target, a: TileScalar, b: TileScalar): boolean {
  const [, tiles = ''] = arch.split(separator);
  return tiles.split(',').some((name) => name.endsWith(`:${a}:${b}:u32`));
}

/** The device without the matrices of some units' types. */
export function withoutMatrices(info: DeviceInfo, units: readonly MatrixUnit[]): DeviceInfo {
  const isGone = (feature: string): boolean => {
    const unit = isMatrixFeature(feature) ? parsed(feature.slice(matrixFeature.length))?.unit : undefined;
    return units.some(({ a, b, accumulator }) => unit?.a === a && unit.b === b && unit.accumulator === accumulator);
  };
  return { ...info, features: info.features.filter((feature) => !isGone(feature)) };
}
