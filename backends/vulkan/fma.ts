/**
 * Fused multiply-add as a Kernel IR helper, for drivers whose Fma rounds twice (lavapipe and SwiftShader do; Vulkan
 * lets them).
 *
 * Where a type of more than twice the digits exists, the product is exact in it, and a sum rounded to odd may be
 * rounded again without harm (S. Boldo and G. Melquiond, "Emulation of a FMA and correctly rounded sums: proved
 * algorithms using rounding to odd", 2008, theorem 1 for the second rounding, section 4 for the other case: the product and its error
 * are added with the error's part rounded to odd). The second form needs the error to be representable: products below the type's
 * smallest normal number times 2^digits, or that overflow, round twice.
 */
import { KernelBuilder } from '../../compiler/kernel/builder.js';
import { type HelperFunction, type KType, type KValue, ktype, type ScalarType } from '../../compiler/kernel/types.js';

const uintOf = { f16: 'u16', f32: 'u32', f64: 'u64' } as const;
type Float = keyof typeof uintOf;

/** `type` is that of the operands; `arithmetic` the types that the device computes with. */
export function fmaHelper(type: KType, arithmetic: ReadonlySet<ScalarType>): HelperFunction {
  const scalar = type.scalar as Float;
  const b = new KernelBuilder();
  const zero = b.constant(0, scalar, type.lanes);
  const wide: Float | undefined =
    scalar === 'f16' ? 'f32' : scalar === 'f32' && arithmetic.has('f64') && arithmetic.has('u64') ? 'f64' : undefined;
  b.call(`fma_${scalar}_x${type.lanes}`, [zero, zero, zero], type, ([x, y, z]) => {
    if (wide !== undefined) {
      const [p, q, r] = [x, y, z].map((value) => b.convert(value, wide));
      return b.convert(sumToOdd(b, wide, b.mul(p, q), r), scalar);
    }
    const product = b.mul(x, y);
    const error = productError(b, scalar, x, y, product);
    const [low, lowRest] = twoSum(b, z, error);
    const [high, highRest] = twoSum(b, product, low);
    const fused = b.add(high, sumToOdd(b, scalar, lowRest, highRest));
    const plain = b.add(product, z);
    // Without an error the sum rounds once. Infinities and NaN make NaNs on the long way: the sum is what counts.
    const exact = b.compare('eq', error, b.constant(0, scalar, type.lanes));
    const finite = b.compare('eq', b.sub(fused, fused), b.constant(0, scalar, type.lanes));
    return b.select(b.or(exact, b.unary('not', finite)), plain, fused);
  });
  return b.finish({ name: 'fma', grid: [1, 1, 1], workgroup: [1, 1, 1] }).helpers[0];
}

/** Knuth's exact sum: the rounded sum and what rounding left out. */
function twoSum(b: KernelBuilder, x: KValue, y: KValue): readonly [KValue, KValue] {
  const sum = b.add(x, y);
  const yPart = b.sub(sum, x);
  const xPart = b.sub(sum, yPart);
  return [sum, b.add(b.sub(x, xPart), b.sub(y, yPart))];
}

/** x + y, rounded to odd: if inexact and the last bit is 0, one step towards the exact sum. */
function sumToOdd(b: KernelBuilder, scalar: Float, x: KValue, y: KValue): KValue {
  const { lanes } = x.type;
  const uint = uintOf[scalar];
  const int = (value: number): KValue => b.constant(scalar === 'f64' ? BigInt(value) : value, uint, lanes);
  const zero = b.constant(0, scalar, lanes);
  const [sum, rest] = twoSum(b, x, y);
  const bits = b.bitcast(sum, ktype(uint, lanes));
  const even = b.compare('eq', b.and(bits, int(1)), int(0));
  const up = b.compare('gt', rest, zero);
  const down = b.compare('lt', rest, zero);
  const away = b.compare('eq', b.convert(up, 'u32'), b.convert(b.compare('gt', sum, zero), 'u32'));
  const stepped = b.select(away, b.add(bits, int(1)), b.sub(bits, int(1)));
  return b.bitcast(b.select(b.and(b.or(up, down), even), stepped, bits), ktype(scalar, lanes));
}

/** x·y − product, exactly (Dekker 1971), from halves whose products are exact. */
function productError(b: KernelBuilder, scalar: Float, x: KValue, y: KValue, product: KValue): KValue {
  const [xHigh, yHigh] = [x, y].map((value) => (scalar === 'f32' ? maskedHalf(b, value) : veltkampHalf(b, value)));
  const [xLow, yLow] = [b.sub(x, xHigh), b.sub(y, yHigh)];
  const first = b.sub(b.mul(xHigh, yHigh), product);
  return b.add(b.add(b.add(first, b.mul(xHigh, yLow)), b.mul(xLow, yHigh)), b.mul(xLow, yLow));
}

/** The upper 12 of 24 digits: the rest has 12 too, so all four products are exact, and nothing overflows. */
function maskedHalf(b: KernelBuilder, value: KValue): KValue {
  const bits = b.bitcast(value, ktype('u32', value.type.lanes));
  return b.bitcast(b.and(bits, b.constant(0xfffff000, 'u32', value.type.lanes)), value.type);
}

/** Of 53 digits, truncation would leave 27, whose square is not exact; rounding leaves 26 and a sign. */
function veltkampHalf(b: KernelBuilder, value: KValue): KValue {
  const scaled = b.mul(value, b.constant(2 ** 27 + 1, 'f64', value.type.lanes));
  return b.sub(scaled, b.sub(scaled, value));
}
