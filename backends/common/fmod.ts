/**
 * C's fmod as a Kernel IR helper, exact for every operand: what devices offer as a remainder is x - y·trunc(x/y), which
 * loses all digits once the quotient exceeds the mantissa; long division on the integer mantissas does not.
 */
import { KernelBuilder } from '../../compiler/kernel/builder.js';
import { type HelperFunction, type KValue, ktype } from '../../compiler/kernel/types.js';

interface Format {
  readonly uint: 'u32' | 'u64';
  readonly mantissa: number;
  readonly exponent: number;
  readonly nan: number | bigint;
}

const formats: Readonly<Record<'f32' | 'f64', Format>> = {
  f32: { uint: 'u32', mantissa: 23, exponent: 8, nan: 0x7fc00000 },
  f64: { uint: 'u64', mantissa: 52, exponent: 11, nan: 0x7ff8000000000000n },
};

export function fmodHelper(scalar: 'f32' | 'f64'): HelperFunction {
  const { uint, mantissa, exponent, nan } = formats[scalar];
  const b = new KernelBuilder();
  const int = (value: bigint | number): KValue => b.constant(uint === 'u64' ? BigInt(value) : Number(value), uint);
  const float = ktype(scalar);
  const bits = ktype(uint);
  const signMask = 1n << BigInt(mantissa + exponent);
  const hidden = 1n << BigInt(mantissa);
  const infinity = ((1n << BigInt(exponent)) - 1n) << BigInt(mantissa);

  /** Mantissa with the hidden bit and exponent of at least 1, so that the value is m·2^(e - bias - mantissa). */
  const split = (a: KValue): readonly [KValue, KValue] => {
    const e = b.binary('shr', a, int(mantissa));
    const normal = b.compare('ne', e, int(0));
    const m = b.select(normal, b.or(b.and(a, int(hidden - 1n)), int(hidden)), a);
    return [m, b.select(normal, e, int(1))];
  };

  const operands = [b.constant(0, scalar), b.constant(1, scalar)];
  b.call(`fmod_${scalar}`, operands, float, ([x, y]) => {
    const xBits = b.bitcast(x, bits);
    const sign = b.and(xBits, int(signMask));
    const ax = b.and(xBits, int(signMask - 1n));
    const ay = b.and(b.bitcast(y, bits), int(signMask - 1n));
    const invalid = b.or(
      b.or(b.compare('ge', ax, int(infinity)), b.compare('gt', ay, int(infinity))),
      b.compare('eq', ay, int(0)),
    );
    const smaller = b.compare('lt', ax, ay);
    const [result] = b.if(
      b.or(invalid, smaller),
      () => [b.select(invalid, int(nan), xBits)],
      () => {
        const [mx, ex] = split(ax);
        const [my, ey] = split(ay);
        const [rest] = b.loop([b.rem(mx, my), b.sub(ex, ey)], ([m, left]) => {
          const step = b.min(left, int(exponent)); // m < 2^(mantissa+1): shifting by `exponent` bits keeps it in the word
          const next = b.sub(left, step);
          return { condition: b.compare('gt', next, int(0)), next: [b.rem(b.binary('shl', m, step), my), next] };
        });
        const shift = b.sub(b.unary('clz', rest), int(exponent));
        const normal = b.compare('gt', ey, shift);
        const safeShift = b.min(shift, int(mantissa)); // of 0, whose result is not used
        const e = b.select(normal, b.sub(ey, safeShift), int(0));
        const packed = b.or(
          b.binary('shl', e, int(mantissa)),
          b.and(b.binary('shl', rest, safeShift), int(hidden - 1n)),
        );
        const subnormal = b.binary('shl', rest, b.min(b.sub(ey, int(1)), int(mantissa)));
        const magnitude = b.select(b.compare('eq', rest, int(0)), int(0), b.select(normal, packed, subnormal));
        return [b.or(sign, magnitude)];
      },
    );
    return b.bitcast(result, float);
  });
  return b.finish({ name: 'fmod', grid: [1, 1, 1], workgroup: [1, 1, 1] }).helpers[0];
}
