/**
 * Contractions of 8-bit integers on the lanes of a CPU or GPU: what `dot4` is given.
 *
 * Four neighbours along k are the bytes of a word. Operands are the integers behind casts and zero points
 * (`narrow.ts`); those whose signedness the target's instruction does not take have their top bit flipped where they are
 * packed, which moves their zero point by 128. Zero points leave the products:
 *
 *   Σ (a − α)(b − β) = Σ a·b − β Σ a − α Σ b + k·α·β
 *
 * so that a row's and a column's share are added to its sums from the start. All of it is exact modulo 2^32.
 */
import type { ConstantData } from '../../graph/types.js';
import type { KernelBuilder } from '../../kernel/builder.js';
import { byteMix, type Target } from '../../kernel/target.js';
import type { ByteType, KValue } from '../../kernel/types.js';
import type { Affine } from '../affine.js';
import type { Group } from '../group.js';
import type { Lowering } from '../lowering.js';
import type { Contraction, Operand } from './contraction.js';
import { integersOf, type Narrow, narrowOperand } from './narrow.js';
import { type Strides, stridesOf } from './packing.js';

/** One operand: rows (m or n) of k bytes. */
export interface ByteSide {
  readonly operand: Operand;
  readonly batches: number;
  readonly rows: number;
  batchOf(batch: Affine): Affine;
  /** As it is stored. */
  readonly stored: ByteType;
  /** As it is multiplied: with the top bit of each byte flipped if this is not the stored type. */
  readonly type: ByteType;
  /** Zero point of the bytes as multiplied. */
  readonly zero: number;
  readonly from:
    | { readonly kind: 'memory'; readonly narrow: Narrow }
    /** Of each row; `offset` is added to an element to make it the stored byte. */
    | { readonly kind: 'constant'; readonly data: ConstantData; readonly strides: Strides; readonly offset: number };
}

export interface ByteProduct {
  readonly contraction: Contraction;
  readonly lhs: ByteSide;
  readonly rhs: ByteSide;
}

/** Sums that wrap are wrong where the result is not an i32 itself. */
const largestSum = 2 ** 31;
const largestByte = 255;

/** The product in bytes, or undefined where the operands are none or the target has no `dot4`. */
export function byteProduct(group: Group, target: Target, contraction: Contraction): ByteProduct | undefined {
  const { accumulator, k, lhs, rhs, lhsBatches, rhsBatches, m, n } = contraction;
  const { byteDots } = target;
  if (!byteDots || k === 0 || (accumulator !== 'f32' && accumulator !== 'i32')) return undefined;
  if (accumulator === 'f32' && k * largestByte * largestByte >= largestSum) return undefined;
  // Constants last: they are read to see whether they are integers.
  const sides = [
    { operand: lhs, batches: lhsBatches, rows: m, batchOf: contraction.lhsBatch },
    { operand: rhs, batches: rhsBatches, rows: n, batchOf: contraction.rhsBatch },
  ];
  const isConstant = ({ operand }: (typeof sides)[0]) => group.constants.has(operand.value.id);
  if (sides.some((side) => !isConstant(side) && !sideOf(group, k, side))) return undefined;
  const [left, right] = sides.map((side) => sideOf(group, k, side));
  if (!left || !right) return undefined;
  let best: (ByteProduct & { readonly effort: number }) | undefined;
  for (const a of [left, flipped(left)]) {
    for (const b of [right, flipped(right)]) {
      if (!byteDots.has(byteMix(a.type, b.type))) continue;
      const effort = effortOf(a, b) + effortOf(b, a);
      if (!best || effort < best.effort) best = { contraction, lhs: a, rhs: b, effort };
    }
  }
  return best;
}

/** What the kernel does at run time because of how a side is held. */
function effortOf(side: ByteSide, other: ByteSide): number {
  if (side.from.kind === 'constant') return 0;
  // Its bytes are flipped; its sums are needed for the other side's zero point.
  return (side.type === side.stored ? 0 : 1) + (other.zero === 0 ? 0 : 4);
}

function sideOf(
  group: Group,
  k: number,
  common: Pick<ByteSide, 'operand' | 'batches' | 'rows' | 'batchOf'>,
): ByteSide | undefined {
  const { operand, batches, rows } = common;
  const data = group.constants.get(operand.value.id);
  if (data && group.reads.includes(operand.value)) {
    const strides = isReadOnce(group, operand) ? stridesOf(operand, { batches, rows, k, width: 1 }) : undefined;
    const integers = strides && integersOf(data);
    if (!integers) return undefined;
    const { scalar, zero } = integers;
    return { ...common, stored: scalar, type: scalar, zero, from: { kind: 'constant', data, strides, offset: zero } };
  }
  const narrow = narrowOperand(group, operand.value);
  if (!narrow) return undefined;
  const { scalar, zero } = narrow;
  return { ...common, stored: scalar, type: scalar, zero, from: { kind: 'memory', narrow } };
}

/** The packed form of a constant takes its place: nothing else may read it. */
const isReadOnce = ({ nodes, anchor }: Group, { value }: Operand): boolean =>
  nodes.every((node) => node === anchor || !node.inputs.includes(value)) &&
  anchor?.inputs.filter((input) => input === value).length === 1;

const flipped = (side: ByteSide): ByteSide => ({
  ...side,
  type: side.type === 'i8' ? 'u8' : 'i8',
  zero: side.zero + (side.type === 'i8' ? 128 : -128),
});

/** From now on elements of the sides that are in memory are their bytes as stored. */
export function seeThrough(lowering: Lowering, { lhs, rhs }: ByteProduct): void {
  for (const { from } of [lhs, rhs]) {
    if (from.kind !== 'memory' || from.narrow.top === from.narrow.source) continue;
    const { top, source } = from.narrow;
    lowering.see(top, source);
  }
}

/** The byte, as stored, that counts as nothing: what surrounds an image. */
export const paddingOf = (b: KernelBuilder, { stored, type, zero }: ByteSide): KValue =>
  b.constant(stored === type ? zero : zero + (stored === 'i8' ? -128 : 128), stored);
