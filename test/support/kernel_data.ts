/** Contents of buffers for kernels of every element type: values where operations go wrong, and how results compare. */
import { isFloatScalar, isSignedScalar, type ScalarType, scalarBits } from '../../compiler/kernel/types.js';
import { f16ToF32, f32ToF16 } from '../../compiler/numeric.js';
import type { Chooser } from './graph_cases.js';

/** Element types of numbers, bf16 apart: no device computes in it. */
export const numberTypes = ['i8', 'u8', 'i16', 'u16', 'i32', 'u32', 'i64', 'u64', 'f16', 'f32', 'f64'] as const;
export type NumberType = (typeof numberTypes)[number];

/** Elements of the buffers that `data` fills, unless told otherwise: enough for all pairs of special values. */
export const elements = 2048;

/** Numbers from a seed, the same on every run. */
export function seeded(seed: number): Chooser {
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

export const floatSpecials = [
  0,
  -0,
  1,
  -1,
  0.5,
  -0.5,
  1.5,
  2.5,
  -2.5,
  3.5,
  0.1,
  7,
  100.25,
  127.5,
  128,
  -128.5,
  255,
  256,
  32767.5,
  65504,
  65519,
  65520,
  1e5,
  8388607.5,
  16777217,
  2147483520,
  2147483648,
  -2147483648,
  -2147483904,
  4294967040,
  4294967296,
  9.2e18,
  1.8e19,
  1.9e19,
  -9.3e18,
  1e-3,
  6e-5,
  6e-8,
  1.1754944e-38,
  1e-45,
  3e38,
  1e308,
  5e-324,
  Number.NaN,
  Number.POSITIVE_INFINITY,
  Number.NEGATIVE_INFINITY,
];

export function integerSpecials(scalar: ScalarType): bigint[] {
  const bits = BigInt(scalarBits[scalar]);
  const [min, max] = isSignedScalar(scalar)
    ? [-(1n << (bits - 1n)), (1n << (bits - 1n)) - 1n]
    : [0n, (1n << bits) - 1n];
  return [0n, 1n, 2n, 3n, 5n, 7n, 10n, 100n, max, max - 1n, min, min + 1n, -1n, -2n, -7n, max / 2n, max / 3n];
}

function put(view: DataView, scalar: NumberType, i: number, value: number | bigint): void {
  const bytes = scalarBits[scalar] / 8;
  if (scalar === 'f32') view.setFloat32(4 * i, Number(value), true);
  else if (scalar === 'f64') view.setFloat64(8 * i, Number(value), true);
  else if (scalar === 'f16') view.setUint16(2 * i, f32ToF16(Number(value)), true);
  else {
    const wide = BigInt.asUintN(64, BigInt(value));
    for (let k = 0; k < bytes; k++) view.setUint8(i * bytes + k, Number((wide >> BigInt(8 * k)) & 255n));
  }
}

/** The bytes of values, wrapped or rounded into the type. */
export function encode(scalar: NumberType, list: readonly (number | bigint)[]): Uint8Array {
  const bytes = new Uint8Array((list.length * scalarBits[scalar]) / 8);
  const view = new DataView(bytes.buffer);
  for (const [i, value] of list.entries()) put(view, scalar, i, value);
  return bytes;
}

/** Specials in an order that makes all pairs of two operands meet, then random bits and random magnitudes. */
export function data(scalar: NumberType, seed: number, length = elements): Uint8Array {
  const random = seeded(seed * 2654435761);
  const bytes = Uint8Array.from({ length: (length * scalarBits[scalar]) / 8 }, () => random.int(0, 255));
  const view = new DataView(bytes.buffer);
  const specials = isFloatScalar(scalar) ? floatSpecials : integerSpecials(scalar);
  const paired = Math.min(length - 256, specials.length ** 2);
  for (let i = 0; i < length; i++) {
    if (i < paired) put(view, scalar, i, specials[(seed % 2 ? i : Math.floor(i / specials.length)) % specials.length]);
    else if (isFloatScalar(scalar) && i % 2)
      put(view, scalar, i, (random.int(-1000, 1000) / 64) * 2 ** random.int(-12, 12));
  }
  return bytes;
}

/** The same with every element changed so that the op's promises hold. */
export function mapped(scalar: NumberType, bytes: Uint8Array, change: (value: bigint) => bigint): Uint8Array {
  const width = scalarBits[scalar] / 8;
  const out = bytes.slice();
  const view = new DataView(out.buffer);
  for (let i = 0; i < bytes.length / width; i++) {
    let raw = 0n;
    for (let k = 0; k < width; k++) raw |= BigInt(out[i * width + k]) << BigInt(8 * k);
    const bits = 8 * width;
    put(view, scalar, i, change(isSignedScalar(scalar) ? BigInt.asIntN(bits, raw) : raw));
  }
  return out;
}

// --- comparison ------------------------------------------------------------------------------------------------------

const isNaNBits: Partial<Record<ScalarType, (bits: bigint) => boolean>> = {
  f16: (bits) => (bits & 0x7fffn) > 0x7c00n,
  bf16: (bits) => (bits & 0x7fffn) > 0x7f80n,
  f32: (bits) => (bits & 0x7fffffffn) > 0x7f800000n,
  f64: (bits) => (bits & 0x7fffffffffffffffn) > 0x7ff0000000000000n,
};

/** What a device may do other than the interpreter. */
export interface Tolerance {
  /** Units in the last place that a float may be off. */
  readonly ulps?: number;
  /** Zeros of either sign are alike. */
  readonly looseZero?: boolean;
  /** Subnormal f32 may be zero, as results and on the way to them. */
  readonly flush?: boolean;
}

/** The elements that differ; NaNs are alike whatever their bits. */
export function differences(
  scalar: ScalarType,
  expected: Uint8Array,
  found: Uint8Array,
  tolerance: Tolerance = {},
): string[] {
  const width = scalarBits[scalar] / 8;
  const bitsAt = (bytes: Uint8Array, i: number): bigint => {
    let raw = 0n;
    for (let k = width - 1; k >= 0; k--) raw = (raw << 8n) | BigInt(bytes[i * width + k]);
    return raw;
  };
  const wrong: string[] = [];
  for (let i = 0; i < Math.floor(expected.length / width); i++) {
    const [e, f] = [bitsAt(expected, i), bitsAt(found, i)];
    const nan = isNaNBits[scalar];
    if (e === f || (nan?.(e) && nan(f)) || tolerated(scalar, e, f, tolerance)) continue;
    wrong.push(`[${i}] ${f.toString(16)}, not ${e.toString(16)}`);
  }
  return wrong;
}

const fractionBits: Partial<Record<ScalarType, number>> = { f16: 10, f32: 23, f64: 52 };

function tolerated(
  scalar: ScalarType,
  expected: bigint,
  found: bigint,
  { ulps, looseZero, flush }: Tolerance,
): boolean {
  const fraction = fractionBits[scalar];
  if (fraction === undefined) return false;
  const [e, f] = [floatOfBits(scalar, expected), floatOfBits(scalar, found)];
  if (e === f) return looseZero === true;
  if (flush && scalar === 'f32' && Math.abs(e - f) < 2 ** -126) return true;
  return ulps !== undefined && Math.abs(e - f) <= ulps * 2 ** (Math.floor(Math.log2(Math.abs(e))) - fraction);
}

function floatOfBits(scalar: ScalarType, bits: bigint): number {
  const view = new DataView(new ArrayBuffer(8));
  view.setBigUint64(0, bits, true);
  if (scalar === 'f16') return f16ToF32(view.getUint16(0, true));
  return scalar === 'f32' ? view.getFloat32(0, true) : view.getFloat64(0, true);
}
