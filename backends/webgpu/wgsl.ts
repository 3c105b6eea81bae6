/** Names and literals of WGSL types, and the library of WGSL functions that give Kernel IR ops their exact meaning. */

import type { KType, Lanes, ScalarType } from '../../compiler/kernel/types.js';
import { roundF16 } from '../../compiler/numeric.js';

const scalarNames: Partial<Record<ScalarType, string>> = {
  bool: 'bool',
  i32: 'i32',
  u32: 'u32',
  f32: 'f32',
  f16: 'f16',
};

export function scalarName(scalar: ScalarType): string {
  const name = scalarNames[scalar];
  if (name === undefined) throw new Error(`WGSL has no type ${scalar}; the legaliser must remove it`);
  return name;
}

export const isVector = (type: KType): boolean => type.lanes > 1;

/** `f32`, `vec4<f32>`. */
export function typeName({ scalar, lanes }: KType): string {
  if (lanes === 1) return scalarName(scalar);
  if (lanes > 4) throw new Error(`WGSL has no vectors of ${lanes} lanes; the legaliser must split them`);
  return `vec${lanes}<${scalarName(scalar)}>`;
}

/** The type with the same lanes and another scalar. */
export const withScalar = (type: KType, scalar: ScalarType): KType => ({ scalar, lanes: type.lanes });

export const components = ['x', 'y', 'z', 'w'] as const;

const bits = new DataView(new ArrayBuffer(8));

/** Bits of the f32 nearest to `value`. */
export function f32Bits(value: number): number {
  bits.setFloat32(0, value);
  return bits.getUint32(0);
}

/**
 * A literal of a scalar type, or undefined if no constant expression can hold the value (NaN, Inf, subnormals): then
 * `runtimeBits` gives the bits to cast at run time.
 */
export function literal(scalar: ScalarType, value: number | bigint): string | undefined {
  switch (scalar) {
    case 'bool':
      return Number(value) !== 0 ? 'true' : 'false';
    case 'i32': {
      const wrapped = Number(BigInt.asIntN(32, BigInt(value)));
      // The magnitude of a negative literal is a literal of its own, and 2147483648i does not exist.
      return wrapped < 0 ? `i32(${wrapped})` : `${wrapped}i`;
    }
    case 'u32':
      return `${BigInt.asUintN(32, BigInt(value))}u`;
    case 'f32':
      return floatLiteral(Math.fround(Number(value)), 'f', 2 ** -126);
    case 'f16':
      return floatLiteral(roundF16(Number(value)), 'h', 2 ** -14);
    default:
      throw new Error(`WGSL has no type ${scalar}; the legaliser must remove it`);
  }
}

function floatLiteral(value: number, suffix: 'f' | 'h', smallestNormal: number): string | undefined {
  if (!Number.isFinite(value) || Object.is(value, -0)) return undefined;
  if (value !== 0 && Math.abs(value) < smallestNormal) return undefined;
  // The shortest decimal of the double is exact enough: it names this f32 or f16 and no other.
  const text = String(Math.abs(value));
  const number = /[.e]/.test(text) ? `${text}${suffix}` : `${text}.0${suffix}`;
  return value < 0 ? `(-${number})` : number;
}

/** A function of the library, by name and type; `text` may ask for others through `use`. */
export type LibraryFunction =
  | 'is_nan'
  | 'min'
  | 'max'
  | 'fmod'
  | 'to_i32'
  | 'to_u32'
  | 'mulhi'
  | 'round_f16'
  | 'f16_bits'
  | 'fma'
  | 'hide'
  | 'u32_to_f32';

type Use = (fn: LibraryFunction, type: KType) => string;

export const libraryName = (fn: LibraryFunction, { scalar, lanes }: KType): string =>
  `lib_${fn}_${scalar}${lanes === 1 ? '' : `x${lanes}`}`;

const scalarOf = (type: KType): KType => ({ scalar: type.scalar, lanes: 1 as Lanes });
const splat = (type: KType, text: string): string => (type.lanes === 1 ? text : `${typeName(type)}(${text})`);

/** Applies a scalar function to each lane. */
const perLane = (type: KType, fn: string, args: readonly string[]): string =>
  `${typeName(type)}(${components
    .slice(0, type.lanes)
    .map((c) => `${fn}(${args.map((arg) => `${arg}.${c}`).join(', ')})`)
    .join(', ')})`;

/** The text of a library function; WGSL lets functions be declared in any order. */
export function libraryText(fn: LibraryFunction, type: KType, use: Use): string {
  const name = libraryName(fn, type);
  const t = typeName(type);
  switch (fn) {
    case 'is_nan': {
      // Comparisons with NaN may be optimised on the assumption that there is none; bits may not.
      const wide = type.scalar === 'f32' ? 'a' : `${typeName(withScalar(type, 'f32'))}(a)`;
      const u = withScalar(type, 'u32');
      const magnitude = `(bitcast<${typeName(u)}>(${wide}) & ${splat(u, '0x7fffffffu')})`;
      return `fn ${name}(a: ${t}) -> ${typeName(withScalar(type, 'bool'))} { return ${magnitude} > ${splat(u, '0x7f800000u')}; }`;
    }
    case 'min':
    case 'max': {
      const nan = use('is_nan', type);
      return `fn ${name}(a: ${t}, b: ${t}) -> ${t} { return select(select(${fn}(a, b), b, ${nan}(b)), a, ${nan}(a)); }`;
    }
    case 'to_i32':
    case 'to_u32': {
      const signed = fn === 'to_i32';
      const result = withScalar(type, signed ? 'i32' : 'u32');
      const float = withScalar(type, 'f32');
      const wide = type.scalar === 'f32' ? 'a' : `${typeName(float)}(a)`;
      const [low, high, lowInt, highInt, zero] = signed
        ? ['-2147483648.0f', '2147483648.0f', 'i32(-2147483648)', '2147483647i', '0i']
        : ['0.0f', '4294967296.0f', '0u', '4294967295u', '0u'];
      const clampHigh = `select(${typeName(result)}(x), ${splat(result, highInt)}, x >= ${splat(float, high)})`;
      const clampLow = `select(${clampHigh}, ${splat(result, lowInt)}, x <= ${splat(float, low)})`;
      return [
        `fn ${name}(a: ${t}) -> ${typeName(result)} {`,
        `  let x = ${wide};`,
        `  return select(${clampLow}, ${splat(result, zero)}, ${use('is_nan', float)}(x));`,
        '}',
      ].join('\n');
    }
    case 'mulhi': {
      if (type.scalar === 'i32') {
        const u = withScalar(type, 'u32');
        const unsigned = use('mulhi', u);
        const high = `bitcast<${t}>(${unsigned}(bitcast<${typeName(u)}>(a), bitcast<${typeName(u)}>(b)))`;
        return `fn ${name}(a: ${t}, b: ${t}) -> ${t} { return ${high} - ((a >> ${splat(u, '31u')}) & b) - ((b >> ${splat(u, '31u')}) & a); }`;
      }
      const sixteen = splat(type, '16u');
      const mask = splat(type, '0xffffu');
      return [
        `fn ${name}(a: ${t}, b: ${t}) -> ${t} {`,
        `  let al = a & ${mask}; let ah = a >> ${sixteen}; let bl = b & ${mask}; let bh = b >> ${sixteen};`,
        `  let middle = ah * bl + ((al * bl) >> ${sixteen});`,
        `  let low = al * bh + (middle & ${mask});`,
        `  return ah * bh + (middle >> ${sixteen}) + (low >> ${sixteen});`,
        '}',
      ].join('\n');
    }
    case 'fmod':
      if (type.lanes > 1) {
        return `fn ${name}(a: ${t}, b: ${t}) -> ${t} { return ${perLane(type, use('fmod', scalarOf(type)), ['a', 'b'])}; }`;
      }
      if (type.scalar === 'f16') {
        // fmod of two f16 is an f16, so going through f32 is exact.
        return `fn ${name}(a: f16, b: f16) -> f16 { return f16(${use('fmod', { scalar: 'f32', lanes: 1 })}(f32(a), f32(b))); }`;
      }
      return fmodText(name);
    case 'round_f16':
      if (type.lanes > 1) {
        return `fn ${name}(a: ${t}) -> ${typeName(withScalar(type, 'f16'))} { return ${perLane(
          withScalar(type, 'f16'),
          use('round_f16', scalarOf(type)),
          ['a'],
        )}; }`;
      }
      return `fn ${name}(a: f32) -> f16 { return bitcast<vec2<f16>>(${use('f16_bits', type)}(a)).x; }`;
    case 'f16_bits':
      return f16BitsText(name);
    case 'fma':
      if (type.lanes > 1) {
        const text = perLane(type, use('fma', scalarOf(type)), ['a', 'b', 'c']);
        return `fn ${name}(a: ${t}, b: ${t}, c: ${t}) -> ${t} { return ${text}; }`;
      }
      if (type.scalar === 'f16') {
        const f32: KType = { scalar: 'f32', lanes: 1 };
        return fmaF16Text(name, use('round_f16', f32), use('hide', f32));
      }
      return fmaText(name, use('mulhi', { scalar: 'u32', lanes: 1 }));
    case 'hide': {
      if (type.scalar === 'f16') {
        if (type.lanes > 1) {
          return `fn ${name}(a: ${t}) -> ${t} { return ${perLane(type, use('hide', scalarOf(type)), ['a'])}; }`;
        }
        return `fn ${name}(a: f16) -> f16 { return bitcast<vec2<f16>>(bitcast<u32>(vec2<f16>(a, a)) ^ zero_bits).x; }`;
      }
      const u = withScalar(type, 'u32');
      return `fn ${name}(a: ${t}) -> ${t} { return bitcast<${t}>(bitcast<${typeName(u)}>(a) ^ ${splat(u, 'zero_bits')}); }`;
    }
    case 'u32_to_f32': {
      // Two exact halves and one rounding sum.
      const f = withScalar(type, 'f32');
      const half = (text: string): string => `${typeName(f)}(${text})`;
      const sum = `${half(`a >> ${splat(type, '16u')}`)} * ${splat(f, '65536.0f')} + ${half(`a & ${splat(type, '0xffffu')}`)}`;
      return `fn ${name}(a: ${t}) -> ${typeName(f)} { return ${sum}; }`;
    }
    default:
      return fn satisfies never;
  }
}

/** Long division of the significands, one bit a step: exact for every quotient, subnormals included. */
const fmodText = (name: string): string => `fn ${name}(a: f32, b: f32) -> f32 {
  let sign = bitcast<u32>(a) & 0x80000000u;
  var x = bitcast<u32>(a) & 0x7fffffffu;
  var y = bitcast<u32>(b) & 0x7fffffffu;
  if (x >= 0x7f800000u || y > 0x7f800000u || y == 0u) {
    let quiet = 0x7fc00000u;
    return bitcast<f32>(quiet);
  }
  if (x < y) { return a; }
  var ex = i32(x >> 23u);
  var ey = i32(y >> 23u);
  if (ex == 0) {
    let shift = countLeadingZeros(x) - 8u;
    x = x << shift;
    ex = 1 - i32(shift);
  } else {
    x = (x & 0x7fffffu) | 0x800000u;
  }
  if (ey == 0) {
    let shift = countLeadingZeros(y) - 8u;
    y = y << shift;
    ey = 1 - i32(shift);
  } else {
    y = (y & 0x7fffffu) | 0x800000u;
  }
  loop {
    if (x >= y) { x = x - y; }
    if (ex <= ey || x == 0u) { break; }
    x = x << 1u;
    ex = ex - 1;
  }
  if (x == 0u) { return bitcast<f32>(sign); }
  let up = countLeadingZeros(x) - 8u;
  x = x << up;
  ex = ey - i32(up);
  if (ex > 0) {
    x = (x & 0x7fffffu) | (u32(ex) << 23u);
  } else {
    x = x >> u32(1 - ex);
  }
  return bitcast<f32>(sign | x);
}`;

/** WGSL leaves the rounding of f32 → f16 and its overflow open: round the bits to even, then convert an exact value. */
const f16BitsText = (name: string): string => `fn ${name}(a: f32) -> u32 {
  let sign = (bitcast<u32>(a) >> 16u) & 0x8000u;
  let x = bitcast<u32>(a) & 0x7fffffffu;
  var h: u32;
  if (x > 0x7f800000u) {
    h = 0x7e00u;
  } else if (x >= 0x477ff000u) {
    h = 0x7c00u;
  } else if (x >= 0x38800000u) {
    h = (x - 0x38000000u + 0xfffu + ((x >> 13u) & 1u)) >> 13u;
  } else if (x >= 0x33000000u) {
    let significand = (x & 0x7fffffu) | 0x800000u;
    let shift = 126u - (x >> 23u);
    let half = 1u << (shift - 1u);
    h = (significand + half - 1u + ((significand >> shift) & 1u)) >> shift;
  } else {
    h = 0u;
  }
  return sign | h;
}`;

/**
 * WGSL's own `fma` may round twice. The product and the addend as 64-bit integers at a common exponent (bits shifted out
 * are kept as one sticky bit), then one rounding to even; subnormals included.
 */
const fmaText = (name: string, mulhi: string): string => `fn ${name}_significand(x: u32) -> vec2<u32> {
  let m = x & 0x7fffffu;
  let e = (x >> 23u) & 0xffu;
  if (e != 0u) { return vec2<u32>(m | 0x800000u, e + 32u); }
  let shift = countLeadingZeros(m) - 8u;
  return vec2<u32>(m << shift, 33u - shift);
}
fn ${name}_shift(x: vec2<u32>, by: u32) -> vec2<u32> {
  if (by == 0u) { return x; }
  if (by >= 64u) { return vec2<u32>(0u, select(0u, 1u, (x.x | x.y) != 0u)); }
  if (by >= 32u) {
    let n = by - 32u;
    let lost = x.y | select(0u, x.x << ((32u - n) & 31u), n != 0u);
    return vec2<u32>(0u, (x.x >> n) | select(0u, 1u, lost != 0u));
  }
  let lost = x.y << (32u - by);
  return vec2<u32>(x.x >> by, (x.x << (32u - by)) | (x.y >> by) | select(0u, 1u, lost != 0u));
}
fn ${name}(a: f32, b: f32, c: f32) -> f32 {
  let x = bitcast<u32>(a);
  let y = bitcast<u32>(b);
  let z = bitcast<u32>(c);
  let special = 0x7f800000u;
  if ((x & special) == special || (y & special) == special) { return a * b + c; }
  if ((z & special) == special) { return c; }
  let sign_p = (x ^ y) & 0x80000000u;
  let sign_c = z & 0x80000000u;
  let zero_p = (x << 1u) == 0u || (y << 1u) == 0u;
  let zero_c = (z << 1u) == 0u;
  if (zero_p) { return bitcast<f32>(select(z, sign_p & sign_c, zero_c)); }
  let p = ${name}_significand(x);
  let q = ${name}_significand(y);
  let low = p.x * q.x;
  var product = vec2<u32>((${mulhi}(p.x, q.x) << 14u) | (low >> 18u), low << 14u);
  // Bit 0 counts 2^(exponent - 182), here and for the addend.
  var exponent = i32(p.y) + i32(q.y) - 32 - 127 - 23 - 14;
  var sum = product;
  var sign = sign_p;
  if (!zero_c) {
    let r = ${name}_significand(z);
    var addend = vec2<u32>(r.x << 6u, 0u);
    let exponent_c = i32(r.y) - 38;
    if (exponent >= exponent_c) {
      addend = ${name}_shift(addend, u32(exponent - exponent_c));
    } else {
      product = ${name}_shift(product, u32(exponent_c - exponent));
      exponent = exponent_c;
    }
    if (sign_p == sign_c) {
      let lo = product.y + addend.y;
      sum = vec2<u32>(product.x + addend.x + select(0u, 1u, lo < product.y), lo);
    } else {
      let less = product.x < addend.x || (product.x == addend.x && product.y < addend.y);
      let large = select(product, addend, less);
      let small = select(addend, product, less);
      sign = select(sign_p, sign_c, less);
      sum = vec2<u32>(large.x - small.x - select(0u, 1u, large.y < small.y), large.y - small.y);
      if ((sum.x | sum.y) == 0u) { return 0.0f; }
    }
  }
  // The leading one to bit 63.
  if (sum.x == 0u) {
    sum = vec2<u32>(sum.y, 0u);
    exponent = exponent - 32;
  }
  let up = countLeadingZeros(sum.x);
  if (up != 0u) { sum = vec2<u32>((sum.x << up) | (sum.y >> (32u - up)), sum.y << up); }
  var biased = exponent - i32(up) + 8;
  if (biased >= 255) { return bitcast<f32>(sign | special); }
  if (biased < 1) {
    sum = ${name}_shift(sum, u32(1 - biased));
    biased = 1;
  }
  let rest = sum.x & 0xffu;
  let odd = (sum.x >> 8u) & 1u;
  let up_one = rest > 0x80u || (rest == 0x80u && (sum.y != 0u || odd == 1u));
  return bitcast<f32>(sign | ((u32(biased - 1) << 23u) + (sum.x >> 8u) + select(0u, 1u, up_one)));
}`;

/** The product of two f16 is exact in f32; the sum is rounded to odd there, so that rounding it to f16 is the only rounding. */
const fmaF16Text = (name: string, round: string, hide: string): string => `fn ${name}(a: f16, b: f16, c: f16) -> f16 {
  let p = f32(a) * f32(b);
  let d = f32(c);
  let s = ${hide}(p + d);
  let back = ${hide}(s - p);
  let error = (p - ${hide}(s - back)) + (d - back);
  var bits = bitcast<u32>(s);
  if ((error > 0.0f || error < 0.0f) && (bits & 1u) == 0u) {
    bits = select(bits - 1u, bits + 1u, (error > 0.0f) == (s > 0.0f));
  }
  return ${round}(bitcast<f32>(bits));
}`;
