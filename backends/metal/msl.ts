/** Names and literals of MSL types (Metal Shading Language Specification, "Data Types"). */
import {
  isFloatScalar,
  isSignedScalar,
  type KMemory,
  type KType,
  type ScalarType,
  scalarBits,
} from '../../compiler/kernel/types.js';
import { roundF16 } from '../../compiler/numeric.js';
import { signedLiteral } from '../common/c_family.js';

const scalarNames: Partial<Record<ScalarType, string>> = {
  bool: 'bool',
  i8: 'char',
  u8: 'uchar',
  i16: 'short',
  u16: 'ushort',
  i32: 'int',
  u32: 'uint',
  i64: 'long',
  u64: 'ulong',
  f16: 'half',
  f32: 'float',
};

export const components = ['x', 'y', 'z', 'w'] as const;

/** `float`, `float4`. */
export function typeName({ scalar, lanes }: KType): string {
  const name = scalarNames[scalar];
  if (name === undefined) throw new Error(`MSL values have no type ${scalar}; the legaliser must remove it`);
  if (lanes > 4) throw new Error(`MSL has no vectors of ${lanes} lanes; the legaliser must split them`);
  return lanes === 1 ? name : `${name}${lanes}`;
}

/** The type with the same lanes and another scalar. */
export const withScalar = ({ lanes }: KType, scalar: ScalarType): KType => ({ scalar, lanes });

/** The type of an element in memory. */
export const storedAs = (scalar: ScalarType): ScalarType => (scalar === 'bool' ? 'u8' : scalar);

export const addressSpace = (memory: KMemory): 'device' | 'threadgroup' | 'thread' =>
  memory.kind === 'buffer' ? 'device' : memory.space === 'shared' ? 'threadgroup' : 'thread';

/** The unsigned type whose arithmetic wraps: C++ computes scalars narrower than int in int. */
export const wrappingType = ({ scalar, lanes }: KType): KType => ({
  scalar: `u${lanes === 1 ? Math.max(32, scalarBits[scalar]) : scalarBits[scalar]}` as ScalarType,
  lanes,
});

/** `text` for each lane, as one value. */
export const perLane = (type: KType, text: (component: string) => string): string =>
  type.lanes === 1
    ? text('')
    : `${typeName(type)}(${components
        .slice(0, type.lanes)
        .map((component) => text(`.${component}`))
        .join(', ')})`;

/** An expression of exactly the value, brought into the type; the same in every lane. */
export function literal(type: KType, value: number | bigint): string {
  const text = scalarLiteral(type.scalar, value);
  return type.lanes === 1 ? text : `${typeName(type)}(${text})`;
}

function scalarLiteral(scalar: ScalarType, value: number | bigint): string {
  if (scalar === 'bool') return Number(value) !== 0 ? 'true' : 'false';
  if (isFloatScalar(scalar)) return floatLiteral(scalar, Number(value));
  const bits = scalarBits[scalar];
  const long = bits === 64 ? 'l' : '';
  const text = isSignedScalar(scalar)
    ? signedLiteral(BigInt.asIntN(bits, BigInt(value)), long)
    : `${BigInt.asUintN(bits, BigInt(value))}u${long}`;
  // Narrower types have no literals of their own, and overloads go by type.
  return bits < 32 ? `${typeName({ scalar, lanes: 1 })}(${text})` : text;
}

const bits = new DataView(new ArrayBuffer(4));

function floatLiteral(scalar: ScalarType, value: number): string {
  if (scalar === 'f16') return `half(${floatLiteral('f32', roundF16(value))})`;
  const float = Math.fround(value);
  if (float !== 0 && !(Math.abs(float) >= 2 ** -126 && Number.isFinite(float))) {
    bits.setFloat32(0, float);
    return `as_type<float>(0x${bits.getUint32(0).toString(16).padStart(8, '0')}u)`;
  }
  // The shortest decimal of the double is exact enough: it names this float and no other.
  const text = String(Math.abs(float));
  const number = `${/[.e]/.test(text) ? text : `${text}.0`}f`;
  return float < 0 || Object.is(float, -0) ? `(-${number})` : number;
}
