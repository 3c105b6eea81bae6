/** C literals that read back as exactly the constant meant. */

import type { ScalarType } from '../../compiler/kernel/types.js';
import { roundBf16, roundF16 } from '../../compiler/numeric.js';
import { signedLiteral } from '../common/c_family.js';

/** A C expression of the type that holds `scalar` in a register; `value` is brought into the type first. */
export function cLiteral(value: number | bigint, scalar: ScalarType): string {
  switch (scalar) {
    case 'bool':
      return Number(value) !== 0 ? '1' : '0';
    case 'i8':
    case 'i16':
    case 'i32':
      return signedLiteral(BigInt.asIntN(Number(scalar.slice(1)), BigInt(value)), '');
    case 'u8':
    case 'u16':
      return String(BigInt.asUintN(Number(scalar.slice(1)), BigInt(value)));
    case 'u32':
      return `${BigInt.asUintN(32, BigInt(value))}u`;
    case 'i64':
      return `(int64_t)${signedLiteral(BigInt.asIntN(64, BigInt(value)), 'll')}`;
    case 'u64':
      return `(uint64_t)${BigInt.asUintN(64, BigInt(value))}ull`;
    case 'f16':
      return floatLiteral(roundF16(Number(value)), 'f');
    case 'bf16':
      return floatLiteral(roundBf16(Number(value)), 'f');
    case 'f32':
      return floatLiteral(Math.fround(Number(value)), 'f');
    case 'f64':
      return floatLiteral(Number(value), '');
    default:
      return scalar satisfies never;
  }
}

/** Hexadecimal, as C17 6.4.4.2 has it: every finite value is exact. */
function floatLiteral(value: number, suffix: '' | 'f'): string {
  if (Number.isNaN(value)) return `__builtin_nan${suffix}("")`;
  const negative = value < 0 || Object.is(value, -0);
  const magnitude = Math.abs(value);
  const text =
    magnitude === Number.POSITIVE_INFINITY ? `__builtin_inf${suffix}()` : `${hexadecimal(magnitude)}${suffix}`;
  return negative ? `(-${text})` : text;
}

function hexadecimal(magnitude: number): string {
  if (magnitude === 0) return '0x0p+0';
  const view = new DataView(new ArrayBuffer(8));
  view.setFloat64(0, magnitude);
  const bits = view.getBigUint64(0);
  const field = Number(bits >> 52n);
  const fraction = (bits & 0xfffffffffffffn).toString(16).padStart(13, '0').replace(/0+$/, '');
  const exponent = field === 0 ? -1022 : field - 1023;
  return `0x${field === 0 ? 0 : 1}${fraction ? `.${fraction}` : ''}p${exponent < 0 ? '' : '+'}${exponent}`;
}
