/** f16 and bf16 as C: their bits, and the one rounding of an operation. */
import type { Lanes } from '../../../compiler/kernel/types.js';
import type { Prelude } from './index.js';
import { cScalar } from './types.js';
import * as vectors from './vectors.js';

/** float → the 16 bits of f16 or bf16, to nearest even. */
export function pack(prelude: Prelude, scalar: 'f16' | 'bf16', lanes: Lanes): string {
  return prelude.define(`pack_${scalar}x${lanes}`, () => {
    const name = `tutti_pack_${scalar}x${lanes}`;
    const [f, u, h] = [prelude.type('f32', lanes), prelude.type('u32', lanes), prelude.type('u16', lanes)];
    const bits = vectors.bitcast(prelude, 'f32', lanes, 'u32', lanes);
    const narrow = (expr: string) => (lanes === 1 ? `(uint16_t)(${expr})` : `__builtin_convertvector(${expr}, ${h})`);
    const select = vectors.choose(prelude, 'u32', lanes);
    if (scalar === 'bf16') {
      return `TUTTI_INLINE ${h} ${name}(${f} x) {
  const ${u} u = ${bits}(x), r = u + 0x7fffu + (u >> 16 & 1u);
  return ${narrow(`${select('(u & 0x7fffffffu) > 0x7f800000u', 'u | 0x400000u', 'r')} >> 16`)};
}`;
    }
    const float = vectors.bitcast(prelude, 'u32', lanes, 'f32', lanes);
    return `TUTTI_INLINE ${h} ${name}(${f} x) {
${hardwarePack(lanes, h)}  const ${u} u = ${bits}(x), a = u & 0x7fffffffu;
  const ${u} normal = (a + 0xfffu + (a >> 13 & 1u) - 0x38000000u) >> 13;
  const ${u} small = ${bits}(${float}(a) + 0.5f) - 0x3f000000u; /* the unit of 0.5f is that of f16's subnormals */
  const ${u} large = ${select('a > 0x7f800000u', vectors.splatText(prelude, 'u32', lanes, '0x7e00u'), vectors.splatText(prelude, 'u32', lanes, '0x7c00u'))};
  const ${u} finite = ${select('a < 0x38800000u', 'small', 'normal')};
  return ${narrow(`u >> 16 & 0x8000u | ${select('a >= 0x47800000u', 'large', 'finite')}`)};
}`;
  });
}

export function unpack(prelude: Prelude, scalar: 'f16' | 'bf16', lanes: Lanes): string {
  return prelude.define(`unpack_${scalar}x${lanes}`, () => {
    const name = `tutti_unpack_${scalar}x${lanes}`;
    const [f, u, h] = [prelude.type('f32', lanes), prelude.type('u32', lanes), prelude.type('u16', lanes)];
    const [bits, float] = [
      vectors.bitcast(prelude, 'f32', lanes, 'u32', lanes),
      vectors.bitcast(prelude, 'u32', lanes, 'f32', lanes),
    ];
    const widen = lanes === 1 ? '(uint32_t)h' : `__builtin_convertvector(h, ${u})`;
    if (scalar === 'bf16') return `TUTTI_INLINE ${f} ${name}(${h} h) { return ${float}(${widen} << 16); }`;
    const select = vectors.choose(prelude, 'u32', lanes);
    return `TUTTI_INLINE ${f} ${name}(${h} h) {
${hardwareUnpack(lanes)}  const ${u} w = ${widen}, finite = ${bits}(${float}((w & 0x7fffu) << 13) * 0x1p112f);
  return ${float}((w & 0x8000u) << 16 | ${select('(w & 0x7c00u) == 0x7c00u', 'finite | 0x7f800000u', 'finite')});
}`;
  });
}

/** Rounds a float to the nearest value of the half-precision type. */
export function round(prelude: Prelude, scalar: 'f16' | 'bf16', lanes: Lanes): string {
  return prelude.define(`round_${scalar}x${lanes}`, () => {
    const f = prelude.type('f32', lanes);
    return `TUTTI_INLINE ${f} tutti_round_${scalar}x${lanes}(${f} x) { return ${unpack(prelude, scalar, lanes)}(${pack(prelude, scalar, lanes)}(x)); }`;
  });
}

/** double → f16 or bf16 with one rounding: first to an odd float, which no tie of the narrower type can be. */
export function roundDouble(prelude: Prelude, scalar: 'f16' | 'bf16'): string {
  const bits = vectors.bitcast(prelude, 'f32', 1, 'u32', 1);
  const float = vectors.bitcast(prelude, 'u32', 1, 'f32', 1);
  const odd = prelude.define(
    'odd_f32',
    () =>
      `TUTTI_INLINE float tutti_odd_f32(double x) {
  const float f = (float)x;
  const uint32_t u = ${bits}(f), away = __builtin_fabs((double)f) > __builtin_fabs(x);
  return f == x || x != x ? f : ${float}((u - away) | 1u);
}`,
  );
  const nearest = round(prelude, scalar, 1);
  return prelude.define(
    `round_double_${scalar}`,
    () => `TUTTI_INLINE float tutti_round_double_${scalar}(double x) { return ${nearest}(${odd}(x)); }`,
  );
}

/** An operation on two halves through double, where float would round twice. */
export function halfThroughDouble(prelude: Prelude, scalar: 'f16' | 'bf16', name: string, operator: string): string {
  const nearest = roundDouble(prelude, scalar);
  return prelude.define(
    `${name}_${scalar}`,
    () =>
      `TUTTI_INLINE float tutti_${name}_${scalar}(float a, float b) { return ${nearest}((double)a ${operator} b); }`,
  );
}

/** a * b is exact in double; the sum is rounded to odd by its exact error, so that the last rounding is the only one. */
export function halfFma(prelude: Prelude, scalar: 'f16' | 'bf16'): string {
  const bits = vectors.bitcast(prelude, 'f64', 1, 'u64', 1);
  const double = vectors.bitcast(prelude, 'u64', 1, 'f64', 1);
  const nearest = roundDouble(prelude, scalar);
  return prelude.define(
    `fma_${scalar}`,
    () =>
      `TUTTI_INLINE float tutti_fma_${scalar}(float a, float b, float c) {
  const double p = (double)a * b, s = p + c, t = s - p, e = (p - (s - t)) + (c - t);
  const uint64_t u = ${bits}(s);
  const bool inexact = (e > 0 || e < 0) && !(u & 1);
  return ${nearest}(inexact ? ${double}((e > 0) == (s > 0) ? u + 1 : u - 1) : s);
}`,
  );
}

/** 64-bit integer → double that rounds to the right half: bits beyond 53 are folded into the lowest that stays. */
export function stickyDouble(prelude: Prelude, scalar: 'i64' | 'u64'): string {
  const type = cScalar(scalar);
  const magnitude = scalar === 'i64' ? 'a < 0 ? 0u - (uint64_t)a : (uint64_t)a' : 'a';
  const signed = scalar === 'i64' ? 'a < 0 ? -d : d' : 'd';
  return prelude.define(
    `sticky_${scalar}`,
    () =>
      `TUTTI_INLINE double tutti_sticky_${scalar}(${type} a) {
  const uint64_t m = ${magnitude};
  const double d = (double)(m >> 53 ? (m & ~(uint64_t)0x7ff) | (uint64_t)((m & 0x7ff) != 0) << 11 : m);
  return ${signed};
}`,
  );
}

function hardwarePack(lanes: Lanes, half: string): string {
  if (lanes === 16) {
    return `#if defined(__AVX512F__) && TUTTI_HAS(__builtin_ia32_vcvtps2ph512_mask)
  return (${half})__builtin_ia32_vcvtps2ph512_mask(x, 0, (short __attribute__((vector_size(32)))){0}, -1);
#endif\n`;
  }
  if (lanes !== 8) return '';
  return `#if defined(__F16C__) && TUTTI_HAS(__builtin_ia32_vcvtps2ph256)
  return (${half})__builtin_ia32_vcvtps2ph256(x, 0);
#endif\n`;
}

function hardwareUnpack(lanes: Lanes): string {
  if (lanes === 16) {
    return `#if defined(__AVX512F__) && TUTTI_HAS(__builtin_ia32_vcvtph2ps512_mask)
  return __builtin_ia32_vcvtph2ps512_mask((short __attribute__((vector_size(32))))h, (float __attribute__((vector_size(64)))){0}, -1, 4);
#endif\n`;
  }
  if (lanes !== 8) return '';
  return `#if defined(__F16C__) && TUTTI_HAS(__builtin_ia32_vcvtph2ps256)
  return __builtin_ia32_vcvtph2ps256((short __attribute__((vector_size(16))))h);
#endif
`;
}
