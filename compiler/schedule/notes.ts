/** What the placement report says about types that a device, or kernels at all, do not have. */
import { type DType, isMiniFloat, isPacked, perByte } from '../dtype.js';
import type { Target } from '../kernel/target.js';
import type { KernelFunction, ScalarType } from '../kernel/types.js';
import { resultsOf, visitKernel } from '../kernel/walk.js';
import type { Group } from './group.js';

const substitutes: Readonly<Record<ScalarType, string>> = {
  bool: 'bool',
  i8: 'i32',
  u8: 'u32',
  i16: 'i32',
  u16: 'u32',
  i32: 'i32',
  u32: 'u32',
  i64: 'pairs of u32, or i32 where the range is proven',
  u64: 'pairs of u32',
  f16: 'f32, rounded after each operation',
  bf16: 'f32, rounded after each operation',
  f32: 'f32',
  f64: 'pairs of u32 (software floating point)',
};

/** One sentence for each type that is emulated or packed. */
export function typeNotes(kernel: KernelFunction, target: Target): readonly string[] {
  const computed = new Set<ScalarType>();
  visitKernel(kernel, (inst) => {
    for (const { type } of resultsOf(inst)) computed.add(type.scalar);
  });
  const notes = [...computed]
    .filter((type) => !target.arithmetic.has(type))
    .map((type) => `${type} computed as ${substitutes[type]}`);
  const stored = new Set(kernel.params.flatMap((param) => (param.kind === 'buffer' ? [param.scalar] : [])));
  for (const type of stored) if (!target.storage.has(type)) notes.push(`${type} packed in words of memory`);
  return notes;
}

/** The same for elements of at most a byte, which kernels hold as integers. */
export function elementNotes({ nodes }: Group): readonly string[] {
  const types = new Set(nodes.flatMap(({ inputs, outputs }) => [...inputs, ...outputs]).map(({ type }) => type.dtype));
  return [...types].flatMap((dtype) => {
    const parts = smallNotes(dtype);
    return parts.length > 0 ? [`${dtype} ${parts.join(', ')}`] : [];
  });
}

const smallNotes = (dtype: DType): readonly string[] => [
  ...(isMiniFloat(dtype) ? ['held by its code, computed as f32'] : []),
  ...(isPacked(dtype) ? [`${perByte(dtype)} to a byte`] : []),
];
