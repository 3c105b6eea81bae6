/** What the renderer asks of a kernel before it writes C for it. */
import { rangeOf } from '../../compiler/kernel/builder.js';
import {
  isFloatScalar,
  type KBlock,
  type KernelFunction,
  type KInst,
  type KValue,
  type Range,
  scalarBits,
} from '../../compiler/kernel/types.js';
import { blocksOf } from '../../compiler/kernel/walk.js';

/** True if the exact result of the operation lies in the type for all operands in their ranges. */
export function staysInside(fn: 'add' | 'sub' | 'mul', a: KValue, b: KValue, result: KValue): boolean {
  const [x, y] = [rangeOf(a), rangeOf(b)];
  if (x === undefined || y === undefined) return false;
  const exact: Range =
    fn === 'add'
      ? { min: x.min + y.min, max: x.max + y.max }
      : fn === 'sub'
        ? { min: x.min - y.max, max: x.max - y.min }
        : {
            min: Math.min(x.min * y.min, x.min * y.max, x.max * y.min, x.max * y.max),
            max: Math.max(x.min * y.min, x.min * y.max, x.max * y.min, x.max * y.max),
          };
  const limit = Math.min(2 ** (scalarBits[result.type.scalar] - 1), Number.MAX_SAFE_INTEGER);
  return exact.min >= -limit && exact.max < limit;
}

/** How often the loop runs, if known and sensible; else 8. */
export function unrollCount(inst: Extract<KInst, { op: 'for' }>): number {
  const [lower, upper] = [rangeOf(inst.lower), rangeOf(inst.upper)];
  if (lower === undefined || upper === undefined) return 8;
  const count = Math.ceil((upper.max - lower.min) / inst.step);
  return count >= 1 && count <= 256 ? count : 8;
}

/** Float constants, splatted ones included. */
export function collectFloatConstants(kernel: KernelFunction): ReadonlyMap<KValue, number> {
  const constants = new Map<KValue, number>();
  const visit = (block: KBlock): void => {
    for (const inst of block.instructions) {
      if (inst.op === 'const' && isFloatScalar(inst.result.type.scalar)) constants.set(inst.result, Number(inst.value));
      const value = inst.op === 'splat' ? constants.get(inst.a) : undefined;
      if (inst.op === 'splat' && value !== undefined) constants.set(inst.result, value);
      blocksOf(inst).forEach(visit);
    }
  };
  for (const { body } of [...kernel.helpers, kernel]) visit(body);
  return constants;
}

/**
 * 128 bits as hexadecimal, for names that must differ where texts differ by accident, not by malice: the cache has
 * SHA-256 keys of its own. Four lanes of multiply-xorshift with the finisher of MurmurHash3.
 */
export function contentHash(text: string): string {
  const lanes = [0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344].map((seed, lane) => {
    const multiplier = [0x9e3779b1, 0x85ebca77, 0xc2b2ae3d, 0x27d4eb2f][lane];
    let hash = seed ^ text.length;
    for (let i = 0; i < text.length; i++) {
      hash = Math.imul(hash ^ text.charCodeAt(i), multiplier);
      hash ^= hash >>> 15;
    }
    hash = Math.imul(hash ^ (hash >>> 16), 0x85ebca6b);
    hash = Math.imul(hash ^ (hash >>> 13), 0xc2b2ae35);
    return (hash ^ (hash >>> 16)) >>> 0;
  });
  return lanes.map((lane) => lane.toString(16).padStart(8, '0')).join('');
}
