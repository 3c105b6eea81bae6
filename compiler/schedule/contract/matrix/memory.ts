/**
 * Where the elements of an operand lie in memory, for those who move them without computing anything: rows and steps of k
 * at fixed distances, batches in parts (the heads and the sequences of attention) each at a fixed distance too.
 */
import type { Value } from '../../../graph/types.js';
import type { Target } from '../../../kernel/target.js';
import { sizeOf } from '../../../tensor.js';
import { Affine } from '../../affine.js';
import { type Group, isView } from '../../group.js';
import type { DerivedConstant } from '../../lowered.js';
import { Lowering } from '../../lowering.js';
import { shapeOf } from '../../tensors.js';
import type { Contraction, Operand } from '../contraction.js';
import type { Narrow } from '../narrow.js';

/** Element (batch, row, k) is at offset + Σ part.stride · part.of(batch) + row · rowStride + k · kStride. */
export interface Memory {
  readonly binding:
    | { readonly kind: 'value'; readonly value: Value }
    | { readonly kind: 'derived'; readonly constant: DerivedConstant };
  readonly length: number;
  readonly offset: number;
  readonly parts: readonly BatchPart[];
  readonly rowStride: number;
  readonly kStride: number;
}

export interface BatchPart {
  readonly stride: number;
  /** Values below this one. */
  readonly extent: number;
  of(batch: Affine): Affine;
}

/** Address of an element; `batch` is one of the operand's own. */
export function addressIn(
  { offset, parts, rowStride, kStride }: Memory,
  { batch, row, k }: { readonly batch: Affine; readonly row: Affine; readonly k: Affine },
): Affine {
  const start = parts.reduce((sum, part) => sum.add(part.of(batch).scale(part.stride)), Affine.constant(offset));
  return start.add(row.scale(rowStride)).add(k.scale(kStride));
}

/**
 * The memory of an operand, seen through views and through the widening of bytes; undefined if its elements are
 * computed, padded or not at regular places.
 */
export function memoryOf(
  group: Group,
  target: Target,
  { k }: Contraction,
  operand: Operand,
  batches: number,
  rows: number,
  narrow?: Narrow,
): Memory | undefined {
  const value = sourceOf(group, operand.value, narrow);
  // A slice of a stacked array moves with the loop's iteration.
  if (!value || operand.padded || group.loop?.homes.has(value.id)) return undefined;
  const lowering = new Lowering(group, target);
  const { b } = lowering;
  if (narrow && narrow.source !== narrow.top) lowering.see(narrow.top, narrow.source);
  // The workgroup's coordinates serve as three independent variables.
  const variable = (dim: 0 | 1 | 2, extent: number) => Affine.of(b.builtin('workgroup_id', dim, extent), b);
  const [batchAt, rowAt, kAt] = [variable(0, batches), variable(1, rows), variable(2, k)];
  lowering.value(operand.value, operand.index(batchAt, rowAt, kAt), 1);
  const [address] = lowering.addresses;
  if (!address) return undefined;
  const [rowKey, kKey, batchKey] = [rowAt, kAt, batchAt].map((of) => (of.isConstant ? '' : of.terms[0].atom.key));
  const strideOf = (key: string): number => address.terms.find(({ atom }) => atom.key === key)?.coefficient ?? 0;
  const parts: BatchPart[] = [];
  for (const { atom, coefficient } of address.terms) {
    if (atom.key === rowKey || atom.key === kKey) continue;
    const part = new Affine([{ atom, coefficient: 1 }], 0);
    if (!mentionsOnly(part, batchKey)) return undefined;
    parts.push({ stride: coefficient, extent: atom.range.max + 1, of: (batch) => replaced(part, batchKey, batch) });
  }
  return {
    binding: { kind: 'value', value },
    length: sizeOf(shapeOf(value)),
    offset: address.constant,
    parts,
    rowStride: strideOf(rowKey),
    kStride: strideOf(kKey),
  };
}

/** The value in memory whose elements are those of `value`, perhaps in other places. */
function sourceOf(group: Group, value: Value, narrow: Narrow | undefined): Value | undefined {
  if (narrow && value === narrow.top && value !== narrow.source) return sourceOf(group, narrow.source, undefined);
  if (group.reads.includes(value)) return value;
  const producer = group.nodes.find((node) => node.outputs[0] === value);
  return producer && isView(producer.op) && producer.op !== 'iota'
    ? sourceOf(group, producer.inputs[0], narrow)
    : undefined;
}

function mentionsOnly(expression: Affine, key: string): boolean {
  return expression.terms.every(({ atom }) => {
    if (atom.kind === 'value') return atom.key === key;
    return atom.kind !== 'lane' && mentionsOnly(atom.a, key);
  });
}

/** The expression with `by` for the variable of that key. */
function replaced(expression: Affine, key: string, by: Affine): Affine {
  return expression.terms.reduce((total, { atom, coefficient }) => {
    if (atom.kind === 'value' || atom.kind === 'lane')
      return total.add(atom.key === key ? by.scale(coefficient) : new Affine([{ atom, coefficient }], 0));
    const inner = replaced(atom.a, key, by);
    return total.add((atom.kind === 'div' ? inner.div(atom.c) : inner.mod(atom.c)).scale(coefficient));
  }, Affine.constant(expression.constant));
}
