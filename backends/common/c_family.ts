/** What languages with C's arithmetic, loops and comparisons (C, MSL) need to know of a kernel to be written well. */
import { rangeOf } from '../../compiler/kernel/builder.js';
import {
  isFloatScalar,
  type KBlock,
  type KernelFunction,
  type KInst,
  type KValue,
  type Range,
  type ScalarType,
  scalarBits,
} from '../../compiler/kernel/types.js';
import { blocksOf } from '../../compiler/kernel/walk.js';

type Inst<Op extends KInst['op']> = Extract<KInst, { op: Op }>;

/** In brackets, unless it is one word. */
export const paren = (text: string): string => (/^\w+$/.test(text) ? text : `(${text})`);

// --- integers --------------------------------------------------------------------------------------------------------

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

/** A decimal literal; the most negative value has none: its magnitude is out of range. */
export const signedLiteral = (value: bigint, suffix: string): string =>
  value >= 0n ? `${value}${suffix}` : `(-${-value - 1n}${suffix} - 1)`;

// --- loops -----------------------------------------------------------------------------------------------------------

/** How often the loop runs, if known and sensible; else 8. */
export function unrollCount(inst: Inst<'for'>): number {
  const [lower, upper] = [rangeOf(inst.lower), rangeOf(inst.upper)];
  if (lower === undefined || upper === undefined) return 8;
  const count = Math.ceil((upper.max - lower.min) / inst.step);
  return count >= 1 && count <= 256 ? count : 8;
}

/** The opening line of a loop, with a counter that is wide enough to pass the bound. `type` names the integer types. */
export function forHeader(
  { index, upper: bound, step }: Inst<'for'>,
  counter: string,
  lower: string,
  upper: string,
  type: (scalar: ScalarType) => string,
): string {
  const last = rangeOf(bound)?.max;
  const { scalar } = index.type;
  if (last !== undefined && last + step <= 2 ** 31 - 1 && scalarBits[scalar] <= 32) {
    const i32 = type('i32');
    return `for (${i32} ${counter} = (${i32})${lower}; ${counter} < (${i32})${upper}; ${counter} += ${step}) {`;
  }
  if (scalarBits[scalar] < 64) {
    const i64 = type('i64');
    return `for (${i64} ${counter} = ${lower}; ${counter} < (${i64})${upper}; ${counter} += ${step}) {`;
  }
  // Steps that would pass the bound end the loop before they can overflow.
  const u64 = type('u64');
  return `for (${type(scalar)} ${counter} = ${lower}, more = 1; more && ${counter} < ${upper}; more = (${u64})${upper} - (${u64})${counter} > ${step}u, ${counter} = more ? ${counter} + ${step} : ${counter}) {`;
}

// --- floats ----------------------------------------------------------------------------------------------------------

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

/** The lesser or greater is `constant` where `value comparison constant`, else `value`. */
export interface OneSided {
  readonly value: KValue;
  readonly constant: KValue;
  readonly comparison: '<' | '<=' | '>' | '>=';
}

/** Against a constant one comparison is enough: it sends NaN to the operand, and zeros to the right sign. */
export function oneSidedMinMax(
  constants: ReadonlyMap<KValue, number>,
  fn: 'min' | 'max',
  a: KValue,
  b: KValue,
): OneSided | undefined {
  const [value, constant] = constants.has(a) ? [b, a] : [a, b];
  const known = constants.get(constant);
  const winsTies = fn === 'max' ? Object.is(known, 0) : Object.is(known, -0);
  // Against a zero that loses to the other zero, compilers have been seen to lose the sign (clang 14).
  if (known === undefined || Number.isNaN(known) || (known === 0 && !winsTies)) return undefined;
  return { value, constant, comparison: fn === 'max' ? (winsTies ? '<=' : '<') : winsTies ? '>=' : '>' };
}

/**
 * Operands of the fused a·b + c that a `fast` sum may be: one of its operands is a `fast` product (of `products`) that
 * has no other use. `text` is a value's expression; signs are part of the results.
 */
export function contractedOperands(
  { fn, a, b, fast }: Inst<'binary'>,
  uses: ReadonlyMap<KValue, number>,
  products: ReadonlyMap<KValue, Inst<'binary'>>,
  text: (value: KValue) => string,
): readonly [a: string, b: string, c: string] | undefined {
  if (!fast || (fn !== 'add' && fn !== 'sub')) return undefined;
  const single = (value: KValue) => (uses.get(value) === 1 ? products.get(value) : undefined);
  const signed = (value: KValue): string => (fn === 'sub' ? `-${paren(text(value))}` : text(value));
  const right = single(b);
  if (right) return [signed(right.a), text(right.b), text(a)];
  const left = single(a);
  return left && [text(left.a), text(left.b), signed(b)];
}
