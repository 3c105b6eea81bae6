/** Seeded random data: one seed gives one tensor on any machine. */
import type { DType } from '../compiler/dtype.js';
import { type HostTensor, sizeOf } from '../compiler/tensor.js';
import { Tensor } from '../runtime/tensor.js';

/** FNV-1a over the UTF-8 bytes: a seed from a name. */
export function hash(text: string): number {
  let h = 0x811c9dc5;
  for (const byte of new TextEncoder().encode(text)) h = Math.imul(h ^ byte, 0x01000193);
  return h >>> 0;
}

/** Uniform in [0, 1), by mulberry32. */
export function uniform(seed: number): () => number {
  let a = seed | 0;
  return () => {
    a = (a + 0x6d2b79f5) | 0;
    let t = Math.imul(a ^ (a >>> 15), a | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Normal with mean 0, by Box and Muller's transform. Zeros would flatter devices whose clocks depend on power. */
export function normal(count: number, seed: number, deviation = 1): Float32Array {
  const next = uniform(seed);
  const values = new Float32Array(count + (count % 2));
  for (let i = 0; i < count; i += 2) {
    const radius = deviation * Math.sqrt(-2 * Math.log(1 - next()));
    const angle = 2 * Math.PI * next();
    values[i] = radius * Math.cos(angle);
    values[i + 1] = radius * Math.sin(angle);
  }
  return values.subarray(0, count);
}

export const normalHost = (shape: readonly number[], seed: number, deviation = 1): HostTensor => ({
  dtype: 'f32',
  shape,
  data: normal(sizeOf(shape), seed, deviation),
});

const types = { f32: 'float32', f16: 'float16', bf16: 'bfloat16', i8: 'int8', i32: 'int32', i64: 'int64' } as const;
export type BenchDType = keyof typeof types & DType;

/** Floats are normal; integers are spread over what they hold, but at most -100 to 100, of one sign if `below` says. */
export function randomInput(dtype: BenchDType, shape: readonly number[], seed: number, below?: number): Tensor {
  const count = sizeOf(shape);
  if (dtype === 'f32') return new Tensor('float32', normal(count, seed), shape);
  if (dtype === 'f16' || dtype === 'bf16') return Tensor.from([...normal(count, seed)], shape, types[dtype]);
  const next = uniform(seed);
  const sample = (): number => (below === undefined ? Math.floor(201 * next()) - 100 : Math.floor(below * next()));
  if (dtype === 'i64')
    return new Tensor(
      'int64',
      BigInt64Array.from({ length: count }, () => BigInt(sample())),
      shape,
    );
  if (dtype === 'i8') return new Tensor('int8', Int8Array.from({ length: count }, sample), shape);
  return new Tensor('int32', Int32Array.from({ length: count }, sample), shape);
}
