/**
 * The C that rendered kernels lean on: vector types and the operations that C has no operator for.
 *
 * Every definition is emitted only where a kernel uses it and stands in an `#ifndef` guard, so that the texts of
 * several kernels can be joined into one translation unit.
 *
 * How Kernel IR values live in C: integers, f32 and f64 as themselves; f16 and bf16 as the `float` of equal value,
 * rounded after every operation (exact for + - * / sqrt because 24 >= 2 * 11 + 2, with detours through double where a
 * result may be a bf16 subnormal); a bool as `bool`; a vector of bools as a mask, -1 or 0 in signed integers as
 * wide as the values it came from.
 */
import {
  type ByteType,
  type CompareFn,
  isFloatScalar,
  isSignedScalar,
  type Lanes,
  type ScalarType,
  scalarBits,
} from '../../compiler/kernel/types.js';
import * as hardware from './hardware.js';

/** Types that C values have: what is left of the scalar types when f16 and bf16 are held as f32. */
export type CScalar = Exclude<ScalarType, 'f16' | 'bf16' | 'bool'>;
export type CInteger = Exclude<CScalar, 'f32' | 'f64'>;
export type MaskBits = 8 | 16 | 32 | 64;

const cScalars: Readonly<Record<CScalar, string>> = {
  i8: 'int8_t',
  u8: 'uint8_t',
  i16: 'int16_t',
  u16: 'uint16_t',
  i32: 'int32_t',
  u32: 'uint32_t',
  i64: 'int64_t',
  u64: 'uint64_t',
  f32: 'float',
  f64: 'double',
};

export const isHalf = (scalar: ScalarType): scalar is 'f16' | 'bf16' => scalar === 'f16' || scalar === 'bf16';
/** The type that holds a value of `scalar` in a register. */
export const heldAs = (scalar: Exclude<ScalarType, 'bool'>): CScalar => (isHalf(scalar) ? 'f32' : scalar);
/** The type of an element in memory. */
export const storedAs = (scalar: ScalarType): CScalar => (scalar === 'bool' ? 'u8' : isHalf(scalar) ? 'u16' : scalar);
export const cScalar = (scalar: CScalar): string => cScalars[scalar];
export const unsignedOf = (scalar: CScalar): CScalar => `u${scalarBits[scalar]}` as CScalar;
export const signedOf = (bits: number): CScalar => `i${bits}` as CScalar;

const header = `#include <stdbool.h>
#include <stdint.h>
#define TUTTI_INLINE static inline __attribute__((always_inline, unused))
#ifdef __has_builtin
#define TUTTI_HAS(x) __has_builtin(x)
#else
#define TUTTI_HAS(x) 0
#endif`;

/** vpdpbusd: unsigned bytes by signed ones, under the names of GCC and of clang. */
function dot4Intel(lanes: Lanes, sums: string, first: string, second: string): string {
  const bits = 32 * lanes;
  if (bits < 128) return '';
  const macro =
    bits === 512
      ? 'defined(__AVX512VNNI__)'
      : '(defined(__AVX512VNNI__) && defined(__AVX512VL__) || defined(__AVXVNNI__))';
  return [`__builtin_ia32_vpdpbusd_v${lanes}si`, `__builtin_ia32_vpdpbusd${bits}`]
    .map(
      (builtin) =>
        `#elif ${macro} && TUTTI_HAS(${builtin})\n  return (${sums})${builtin}(c, (${sums})${first}, (${sums})${second});\n`,
    )
    .join('');
}

/** Collects definitions in order of need. Each method returns the C name of what it defined. */
export class Prelude {
  readonly #definitions = new Map<string, string>([['header', header]]);

  text(): string {
    const guarded = ([name, body]: [string, string]) =>
      `#ifndef TUTTI_${name}\n#define TUTTI_${name}\n${body}\n#endif\n`;
    return [...this.#definitions].map(guarded).join('');
  }

  define(name: string, body: () => string): string {
    if (!this.#definitions.has(name)) {
      const text = body();
      this.#definitions.set(name, text);
    }
    return `tutti_${name}`;
  }

  // --- types -----------------------------------------------------------------------------------------------------

  type(scalar: CScalar, lanes: Lanes): string {
    if (lanes === 1) return cScalar(scalar);
    const name = `${scalar}x${lanes}`;
    const bytes = (scalarBits[scalar] / 8) * lanes;
    return this.define(name, () => `typedef ${cScalar(scalar)} tutti_${name} __attribute__((vector_size(${bytes})));`);
  }

  /** The vector type as it lies in memory: arrays start on 64 bytes, unaligned accesses on a multiple of an element. */
  memoryType(scalar: CScalar, lanes: Lanes, aligned: boolean): string {
    const vector = this.type(scalar, lanes);
    const element = scalarBits[scalar] / 8;
    const alignment = aligned ? Math.min(64, element * lanes) : element;
    const name = `${scalar}x${lanes}_a${alignment}`;
    return this.define(
      name,
      () => `typedef ${vector} tutti_${name} __attribute__((aligned(${alignment}), may_alias));`,
    );
  }

  maskType(bits: MaskBits, lanes: Lanes): string {
    return this.type(signedOf(bits), lanes);
  }

  // --- lanes -----------------------------------------------------------------------------------------------------

  splat(scalar: CScalar, lanes: Lanes): string {
    const type = this.type(scalar, lanes);
    return this.define(
      `splat_${scalar}x${lanes}`,
      () =>
        `TUTTI_INLINE ${type} tutti_splat_${scalar}x${lanes}(${cScalar(scalar)} a) { return (${type}){${each(lanes, () => 'a')}}; }`,
    );
  }

  /** `callee` applied lane by lane, for what has no vector form. */
  lanewise(callee: string, result: CScalar, operands: readonly CScalar[], lanes: Lanes): string {
    const name = `${callee.replace(/^(tutti|__builtin)_/, '')}_x${lanes}`;
    const type = this.type(result, lanes);
    const params = operands.map((scalar, i) => `${this.type(scalar, lanes)} a${i}`);
    return this.define(
      name,
      () =>
        `TUTTI_INLINE ${type} tutti_${name}(${params.join(', ')}) { return (${type}){${each(
          lanes,
          (lane) => `${callee}(${operands.map((_, i) => `a${i}[${lane}]`).join(', ')})`,
        )}}; }`,
    );
  }

  /** Lanes of a and b, those of b counted on from those of a. */
  shuffle(scalar: CScalar, from: Lanes, to: Lanes, picked: readonly number[]): string {
    const [source, target] = [this.type(scalar, from), this.type(scalar, to)];
    const name = `shuffle_${scalar}x${from}_${picked.join('_')}`;
    const element = (at: number) => (at < from ? `a[${at}]` : `b[${at - from}]`);
    return this.define(
      name,
      () =>
        `TUTTI_INLINE ${target} tutti_${name}(${source} a, ${source} b) {
#if TUTTI_HAS(__builtin_shufflevector)
  return __builtin_shufflevector(a, b, ${picked.join(', ')});
#else
  return (${target}){${picked.map(element).join(', ')}};
#endif
}`,
    );
  }

  /** m ? a : b for masks as wide as the values. C has no vector conditional; compilers make this a blend. */
  select(scalar: CScalar, lanes: Lanes): string {
    const type = this.type(scalar, lanes);
    const mask = this.maskType(scalarBits[scalar] as MaskBits, lanes);
    return this.define(
      `select_${scalar}x${lanes}`,
      () =>
        `TUTTI_INLINE ${type} tutti_select_${scalar}x${lanes}(${mask} m, ${type} a, ${type} b) { return (${type})((${mask})a & m | (${mask})b & ~m); }`,
    );
  }

  /** The low 8 or 16 bits of lanes of 32, likewise. */
  shrink(from: CInteger, to: CInteger, lanes: Lanes): string {
    const [source, target] = [this.type(from, lanes), this.type(to, lanes)];
    const name = `shrink_${from}_${to}_x${lanes}`;
    const builtin = `__builtin_ia32_pmovd${scalarBits[to] === 8 ? 'b' : 'w'}512_mask`;
    const none = `(${scalarBits[to] === 8 ? 'char' : 'short'} __attribute__((vector_size(${(scalarBits[to] / 8) * lanes})))){0}`;
    const special = `#if defined(__AVX512F__) && TUTTI_HAS(${builtin})
  return (${target})${builtin}((int __attribute__((vector_size(64))))a, ${none}, -1);
#else
`;
    return this.define(
      name,
      () => `TUTTI_INLINE ${target} tutti_${name}(${source} a) {
${lanes === 16 ? special : ''}  return __builtin_convertvector(a, ${target});
${lanes === 16 ? '#endif\n' : ''}}`,
    );
  }

  /** Integers of 8 or 16 bits in lanes of 32, which GCC does element by element unless it is told the instruction. */
  grow(from: CInteger, to: CInteger, lanes: Lanes): string {
    const [source, target] = [this.type(from, lanes), this.type(to, lanes)];
    const bits = scalarBits[from];
    const name = `grow_${from}_${to}_x${lanes}`;
    return this.define(name, () => {
      const builtin = `__builtin_ia32_pmov${isSignedScalar(from) ? 's' : 'z'}x${bits === 8 ? 'b' : 'w'}d${lanes === 16 ? '512_mask' : 32 * lanes}`;
      const element = bits === 8 ? 'char' : 'short';
      const bytes = (bits / 8) * lanes;
      const whole = `${element} __attribute__((vector_size(${Math.max(16, bytes)})))`;
      const padded =
        bytes >= 16
          ? `(${whole})a`
          : `(${whole})(long long __attribute__((vector_size(16)))){(long long)((union { ${source} from; uint${8 * bytes}_t to; }){.from = a}).to, 0}`;
      const rest = lanes === 16 ? ', (int __attribute__((vector_size(64)))){0}, -1' : '';
      const macro = { 16: '__AVX512F__', 8: '__AVX2__', 4: '__SSE4_1__' }[lanes as number];
      const special =
        macro === undefined
          ? ''
          : `#if defined(${macro}) && TUTTI_HAS(${builtin})\n  return (${target})${builtin}(${padded}${rest});\n#else\n`;
      return `TUTTI_INLINE ${target} tutti_${name}(${source} a) {
${special}  return __builtin_convertvector(a, ${target});
${special === '' ? '' : '#endif\n'}}`;
    });
  }

  /** x fn y ? a : b, all of the same number of bits. */
  where(fn: CompareFn, compared: CScalar, result: CScalar, lanes: Lanes): string {
    const [operand, type] = [this.type(compared, lanes), this.type(result, lanes)];
    const select = this.select(result, lanes);
    const name = `where_${fn}_${compared}_${result}x${lanes}`;
    return this.define(name, () => {
      const body = hardware.preferring(
        hardware.where(fn, compared, result, lanes, type),
        `return ${select}(x ${comparison[fn]} y, a, b);`,
      );
      return `TUTTI_INLINE ${type} tutti_${name}(${operand} x, ${operand} y, ${type} a, ${type} b) { ${body} }`;
    });
  }

  /** a if it is beyond b, else b, also where either is NaN or both are zero. */
  beyond(fn: 'min' | 'max', scalar: CScalar, lanes: Lanes): string {
    const type = this.type(scalar, lanes);
    const choose = this.#choose(scalar, lanes);
    return this.define(`beyond_${fn}_${scalar}x${lanes}`, () => {
      const body = hardware.preferring(
        hardware.beyond(fn, scalar, lanes),
        `return ${choose(fn === 'min' ? 'a < b' : 'a > b', 'a', 'b')};`,
      );
      return `TUTTI_INLINE ${type} tutti_beyond_${fn}_${scalar}x${lanes}(${type} a, ${type} b) { ${body} }`;
    });
  }

  bitcast(from: CScalar, fromLanes: Lanes, to: CScalar, toLanes: Lanes): string {
    const [source, target] = [this.type(from, fromLanes), this.type(to, toLanes)];
    const name = `bits_${from}x${fromLanes}_${to}x${toLanes}`;
    return this.define(
      name,
      () =>
        `TUTTI_INLINE ${target} tutti_${name}(${source} a) { return ((union { ${source} from; ${target} to; }){.from = a}).to; }`,
    );
  }

  // --- half-precision types ----------------------------------------------------------------------------------------

  /** float → the 16 bits of f16 or bf16, to nearest even. */
  pack(scalar: 'f16' | 'bf16', lanes: Lanes): string {
    return this.define(`pack_${scalar}x${lanes}`, () => {
      const name = `tutti_pack_${scalar}x${lanes}`;
      const [f, u, h] = [this.type('f32', lanes), this.type('u32', lanes), this.type('u16', lanes)];
      const bits = this.bitcast('f32', lanes, 'u32', lanes);
      const narrow = (expr: string) => (lanes === 1 ? `(uint16_t)(${expr})` : `__builtin_convertvector(${expr}, ${h})`);
      const select = this.#choose('u32', lanes);
      if (scalar === 'bf16') {
        return `TUTTI_INLINE ${h} ${name}(${f} x) {
  const ${u} u = ${bits}(x), r = u + 0x7fffu + (u >> 16 & 1u);
  return ${narrow(`${select('(u & 0x7fffffffu) > 0x7f800000u', 'u | 0x400000u', 'r')} >> 16`)};
}`;
      }
      const float = this.bitcast('u32', lanes, 'f32', lanes);
      return `TUTTI_INLINE ${h} ${name}(${f} x) {
${hardwarePack(lanes, h)}  const ${u} u = ${bits}(x), a = u & 0x7fffffffu;
  const ${u} normal = (a + 0xfffu + (a >> 13 & 1u) - 0x38000000u) >> 13;
  const ${u} small = ${bits}(${float}(a) + 0.5f) - 0x3f000000u; /* the unit of 0.5f is that of f16's subnormals */
  const ${u} large = ${select('a > 0x7f800000u', splatText(this, 'u32', lanes, '0x7e00u'), splatText(this, 'u32', lanes, '0x7c00u'))};
  const ${u} finite = ${select('a < 0x38800000u', 'small', 'normal')};
  return ${narrow(`u >> 16 & 0x8000u | ${select('a >= 0x47800000u', 'large', 'finite')}`)};
}`;
    });
  }

  unpack(scalar: 'f16' | 'bf16', lanes: Lanes): string {
    return this.define(`unpack_${scalar}x${lanes}`, () => {
      const name = `tutti_unpack_${scalar}x${lanes}`;
      const [f, u, h] = [this.type('f32', lanes), this.type('u32', lanes), this.type('u16', lanes)];
      const [bits, float] = [this.bitcast('f32', lanes, 'u32', lanes), this.bitcast('u32', lanes, 'f32', lanes)];
      const widen = lanes === 1 ? '(uint32_t)h' : `__builtin_convertvector(h, ${u})`;
      if (scalar === 'bf16') return `TUTTI_INLINE ${f} ${name}(${h} h) { return ${float}(${widen} << 16); }`;
      const select = this.#choose('u32', lanes);
      return `TUTTI_INLINE ${f} ${name}(${h} h) {
${hardwareUnpack(lanes)}  const ${u} w = ${widen}, finite = ${bits}(${float}((w & 0x7fffu) << 13) * 0x1p112f);
  return ${float}((w & 0x8000u) << 16 | ${select('(w & 0x7c00u) == 0x7c00u', 'finite | 0x7f800000u', 'finite')});
}`;
    });
  }

  /** Rounds a float to the nearest value of the half-precision type. */
  round(scalar: 'f16' | 'bf16', lanes: Lanes): string {
    return this.define(`round_${scalar}x${lanes}`, () => {
      const f = this.type('f32', lanes);
      return `TUTTI_INLINE ${f} tutti_round_${scalar}x${lanes}(${f} x) { return ${this.unpack(scalar, lanes)}(${this.pack(scalar, lanes)}(x)); }`;
    });
  }

  /** double → f16 or bf16 with one rounding: first to an odd float, which no tie of the narrower type can be. */
  roundDouble(scalar: 'f16' | 'bf16'): string {
    const bits = this.bitcast('f32', 1, 'u32', 1);
    const float = this.bitcast('u32', 1, 'f32', 1);
    const odd = this.define(
      'odd_f32',
      () =>
        `TUTTI_INLINE float tutti_odd_f32(double x) {
  const float f = (float)x;
  const uint32_t u = ${bits}(f), away = __builtin_fabs((double)f) > __builtin_fabs(x);
  return f == x || x != x ? f : ${float}((u - away) | 1u);
}`,
    );
    const round = this.round(scalar, 1);
    return this.define(
      `round_double_${scalar}`,
      () => `TUTTI_INLINE float tutti_round_double_${scalar}(double x) { return ${round}(${odd}(x)); }`,
    );
  }

  /** An operation on two halves through double, where float would round twice. */
  halfThroughDouble(scalar: 'f16' | 'bf16', name: string, operator: string): string {
    const round = this.roundDouble(scalar);
    return this.define(
      `${name}_${scalar}`,
      () =>
        `TUTTI_INLINE float tutti_${name}_${scalar}(float a, float b) { return ${round}((double)a ${operator} b); }`,
    );
  }

  /** a * b is exact in double; the sum is rounded to odd by its exact error, so that the last rounding is the only one. */
  halfFma(scalar: 'f16' | 'bf16'): string {
    const bits = this.bitcast('f64', 1, 'u64', 1);
    const double = this.bitcast('u64', 1, 'f64', 1);
    const round = this.roundDouble(scalar);
    return this.define(
      `fma_${scalar}`,
      () =>
        `TUTTI_INLINE float tutti_fma_${scalar}(float a, float b, float c) {
  const double p = (double)a * b, s = p + c, t = s - p, e = (p - (s - t)) + (c - t);
  const uint64_t u = ${bits}(s);
  const bool inexact = (e > 0 || e < 0) && !(u & 1);
  return ${round}(inexact ? ${double}((e > 0) == (s > 0) ? u + 1 : u - 1) : s);
}`,
    );
  }

  /** 64-bit integer → double that rounds to the right half: bits beyond 53 are folded into the lowest that stays. */
  stickyDouble(scalar: 'i64' | 'u64'): string {
    const type = cScalar(scalar);
    const magnitude = scalar === 'i64' ? 'a < 0 ? 0u - (uint64_t)a : (uint64_t)a' : 'a';
    const signed = scalar === 'i64' ? 'a < 0 ? -d : d' : 'd';
    return this.define(
      `sticky_${scalar}`,
      () =>
        `TUTTI_INLINE double tutti_sticky_${scalar}(${type} a) {
  const uint64_t m = ${magnitude};
  const double d = (double)(m >> 53 ? (m & ~(uint64_t)0x7ff) | (uint64_t)((m & 0x7ff) != 0) << 11 : m);
  return ${signed};
}`,
    );
  }

  // --- arithmetic ------------------------------------------------------------------------------------------------

  /** NaN if either is NaN; of zeros, -0 is the smaller. */
  minMax(fn: 'min' | 'max', scalar: CScalar, lanes: Lanes): string {
    return this.define(`${fn}_${scalar}x${lanes}`, () => {
      const type = this.type(scalar, lanes);
      const less = fn === 'min' ? 'a < b' : 'a > b';
      const head = `TUTTI_INLINE ${type} tutti_${fn}_${scalar}x${lanes}(${type} a, ${type} b)`;
      if (!isFloatScalar(scalar)) return `${head} { return ${this.#choose(scalar, lanes)(less, 'a', 'b')}; }`;
      const integer = signedOf(scalarBits[scalar]);
      const bits = this.bitcast(scalar, lanes, integer, lanes);
      const float = this.bitcast(integer, lanes, scalar, lanes);
      const choose = this.#choose(scalar, lanes);
      const merged = `${float}(${bits}(a) ${fn === 'min' ? '|' : '&'} ${bits}(b))`;
      const chosen = choose(
        'a == b',
        merged,
        choose(lanes === 1 ? `${less} || a != a` : `(${less}) | (a != a)`, 'a', 'b'),
      );
      return `${head} { ${hardware.preferring(hardware.minMax(fn, scalar, lanes), `return ${chosen};`)} }`;
    });
  }

  fma(scalar: 'f32' | 'f64', lanes: Lanes): string {
    const scalarName = scalar === 'f32' ? '__builtin_fmaf' : '__builtin_fma';
    if (lanes === 1) return scalarName;
    const suffix = scalar === 'f32' ? 'ps' : 'pd';
    const bytes = (scalarBits[scalar] / 8) * lanes;
    const hardware: Partial<Record<number, readonly [string, string]>> = {
      64: [`__builtin_ia32_vfmadd${suffix}512_mask`, 'a, b, c, -1, 4'],
      32: [`__builtin_ia32_vfmadd${suffix}256`, 'a, b, c'],
      16: [`__builtin_ia32_vfmadd${suffix}`, 'a, b, c'],
    };
    return this.#vectorBuiltin(
      'fma',
      scalar,
      lanes,
      ['a', 'b', 'c'],
      scalarName,
      hardware[bytes],
      bytes === 64 ? '__AVX512F__' : '__FMA__',
    );
  }

  /** floor, ceil, trunc, round (ties to even) and sqrt. */
  unary(fn: 'floor' | 'ceil' | 'trunc' | 'round' | 'sqrt', scalar: 'f32' | 'f64', lanes: Lanes): string {
    const scalarName = `__builtin_${fn === 'round' ? 'rint' : fn}${scalar === 'f32' ? 'f' : ''}`;
    if (lanes === 1) return scalarName;
    const suffix = scalar === 'f32' ? 'ps' : 'pd';
    const bytes = (scalarBits[scalar] / 8) * lanes;
    const mode = { round: 0, floor: 1, ceil: 2, trunc: 3, sqrt: 0 }[fn];
    const wide: Partial<Record<number, readonly [string, string]>> =
      fn === 'sqrt'
        ? { 64: [`__builtin_ia32_sqrt${suffix}512_mask`, 'a, a, -1, 4'], 32: [`__builtin_ia32_sqrt${suffix}256`, 'a'] }
        : {
            64: [`__builtin_ia32_rndscale${suffix}_mask`, `a, ${mode}, a, -1, 4`],
            32: [`__builtin_ia32_round${suffix}256`, `a, ${mode}`],
          };
    return this.#vectorBuiltin(
      fn === 'round' ? 'roundeven' : fn,
      scalar,
      lanes,
      ['a'],
      scalarName,
      wide[bytes],
      bytes === 64 ? '__AVX512F__' : '__AVX__',
    );
  }

  /** Compilers turn the lane-by-lane form into one instruction, but slowly: name the instruction where it is known. */
  #vectorBuiltin(
    fn: string,
    scalar: 'f32' | 'f64',
    lanes: Lanes,
    params: readonly string[],
    scalarName: string,
    hardware: readonly [string, string] | undefined,
    macro: string,
  ): string {
    return this.define(`${fn}_${scalar}x${lanes}`, () => {
      const type = this.type(scalar, lanes);
      const list = params.join(', ');
      const special = hardware
        ? `#elif defined(${macro}) && TUTTI_HAS(${hardware[0]})\n  return (${type})${hardware[0]}(${hardware[1]});\n`
        : '';
      return `TUTTI_INLINE ${type} tutti_${fn}_${scalar}x${lanes}(${params.map((p) => `${type} ${p}`).join(', ')}) {
#if TUTTI_HAS(__builtin_elementwise_${fn})
  return __builtin_elementwise_${fn}(${list});
${special}#else
  return (${type}){${each(lanes, (lane) => `${scalarName}(${params.map((p) => `${p}[${lane}]`).join(', ')})`)}};
#endif
}`;
    });
  }

  /** c + the products of the four bytes in each 32-bit lane of a and b. */
  dot4(left: ByteType, right: ByteType, lanes: Lanes): string {
    const name = `dot4_${left}_${right}_x${lanes}`;
    return this.define(name, () => {
      const [words, sums] = [this.type('u32', lanes), this.type('i32', lanes)];
      // Whichever operand is unsigned comes first.
      const [first, second] = left === 'i8' && right === 'u8' ? ['b', 'a'] : ['a', 'b'];
      const byte = (operand: string, type: ByteType, at: number, lane: string) =>
        `(int32_t)(${cScalar(type)})(${operand}${lane} >> ${8 * at})`;
      const lane = (at: string) =>
        [
          `(uint32_t)c${at}`,
          ...[0, 1, 2, 3].map((i) => `(uint32_t)(${byte('a', left, i, at)} * ${byte('b', right, i, at)})`),
        ].join(' + ');
      const plain =
        lanes === 1 ? `(int32_t)(${lane('')})` : `(${sums}){${each(lanes, (i) => `(int32_t)(${lane(`[${i}]`)})`)}}`;
      const signed = this.#dot4Arm(left, right, lanes, first, second);
      const mixed = left === right ? '' : dot4Intel(lanes, sums, first, second);
      return `${signed.header}TUTTI_INLINE ${sums} tutti_${name}(${words} a, ${words} b, ${sums} c) {
#if 0
${mixed}${signed.body}#else
  return ${plain};
#endif
}`;
    });
  }

  #dot4Arm(left: ByteType, right: ByteType, lanes: Lanes, first: string, second: string) {
    if (lanes !== 4) return { header: '', body: '' };
    const [fn, macro, x, y] =
      left !== right
        ? ['vusdotq_s32', '__ARM_FEATURE_MATMUL_INT8', 'uint8x16_t', 'int8x16_t']
        : left === 'i8'
          ? ['vdotq_s32', '__ARM_FEATURE_DOTPROD', 'int8x16_t', 'int8x16_t']
          : ['vdotq_u32', '__ARM_FEATURE_DOTPROD', 'uint8x16_t', 'uint8x16_t'];
    const sums = fn === 'vdotq_u32' ? 'uint32x4_t' : 'int32x4_t';
    return {
      header: `#ifdef ${macro}
#include <arm_neon.h>
#endif
`,
      body: `#elif defined(${macro})
  return (${this.type('i32', 4)})${fn}((${sums})c, (${x})${first}, (${y})${second});
`,
    };
  }

  /** popcount and clz (of 0: the width), of a scalar; the result has the operand's type. */
  bitCount(fn: 'popcount' | 'clz', scalar: CScalar): string {
    const bits = scalarBits[scalar];
    const [wide, suffix] = bits === 64 ? [64, 'll'] : [32, ''];
    const value = `(uint${wide}_t)(${cScalar(unsignedOf(scalar))})a`;
    const count =
      fn === 'popcount'
        ? `__builtin_popcount${suffix}(${value})`
        : `a == 0 ? ${bits} : __builtin_clz${suffix}(${value}) - ${wide - bits}`;
    const type = cScalar(scalar);
    return this.define(
      `${fn}_${scalar}`,
      () => `TUTTI_INLINE ${type} tutti_${fn}_${scalar}(${type} a) { return (${type})(${count}); }`,
    );
  }

  mulHigh(scalar: CScalar): string {
    const type = cScalar(scalar);
    const bits = scalarBits[scalar];
    const wide =
      bits === 64
        ? `${isSignedScalar(scalar) ? '' : 'unsigned '}__int128`
        : cScalar(`${scalar[0]}${bits * 2}` as CScalar);
    return this.define(
      `mulhi_${scalar}`,
      () =>
        `TUTTI_INLINE ${type} tutti_mulhi_${scalar}(${type} a, ${type} b) { return (${type})((${wide})a * (${wide})b >> ${bits}); }`,
    );
  }

  /** float → integer: truncates, saturates, NaN gives 0. */
  saturate(from: 'f32' | 'f64', to: CScalar, lanes: Lanes): string {
    return this.define(`saturate_${from}_${to}x${lanes}`, () => {
      const bits = scalarBits[to];
      const signed = isSignedScalar(to);
      const suffix = from === 'f32' ? 'f' : '';
      const high = `0x1p${signed ? bits - 1 : bits}${suffix}`;
      const low = signed ? `-0x1p${bits - 1}${suffix}` : `0.0${suffix}`;
      const [min, max] = [integerLimit(to, 'min'), integerLimit(to, 'max')];
      const [source, target] = [this.type(from, lanes), this.type(to, lanes)];
      const head = `TUTTI_INLINE ${target} tutti_saturate_${from}_${to}x${lanes}(${source} a)`;
      if (lanes === 1) {
        return `${head} { return a >= ${high} ? ${max} : a > ${low} ? (${target})a : a <= ${low} ? ${min} : 0; }`;
      }
      const mask = this.maskType(scalarBits[from] as MaskBits, lanes);
      const toMask = this.maskType(bits as MaskBits, lanes);
      // Narrow integers by way of i32: no machine converts to them directly.
      const through = this.type(bits < 32 ? 'i32' : to, lanes);
      const converted =
        bits < 32
          ? `__builtin_convertvector(__builtin_convertvector(inside, ${through}), ${target})`
          : `__builtin_convertvector(inside, ${through})`;
      const portable = `const ${source} inside = (${source})((${mask})a & (a > ${low}) & (a < ${high}));
  const ${toMask} over = __builtin_convertvector(a >= ${high}, ${toMask}), under = __builtin_convertvector(a <= ${low}, ${toMask});
  return ${converted} | (${target})over & ${max} | (${target})under & ${min};`;
      const special = hardware.saturate(from, to, lanes);
      if (special) [this.splat('f32', lanes), this.splat('i32', lanes)];
      return `${head} { ${hardware.preferring(special, portable)} }`;
    });
  }

  // --- atomics ---------------------------------------------------------------------------------------------------

  /** Read-modify-write by compare-and-swap on the element's bits; `next` is C over `old` and `a`. */
  atomic(fn: string, scalar: CScalar, next: string): string {
    const type = cScalar(scalar);
    const word = unsignedOf(scalar);
    const [toWord, fromWord] = [this.bitcast(scalar, 1, word, 1), this.bitcast(word, 1, scalar, 1)];
    return this.define(
      `atomic_${fn}_${scalar}`,
      () =>
        `TUTTI_INLINE ${type} tutti_atomic_${fn}_${scalar}(${type} *p, ${type} a) {
  ${cScalar(word)} *w = (${cScalar(word)} *)p, seen = __atomic_load_n(w, __ATOMIC_RELAXED);
  for (;;) {
    const ${type} old = ${fromWord}(seen);
    if (__atomic_compare_exchange_n(w, &seen, ${toWord}(${next}), false, __ATOMIC_RELAXED, __ATOMIC_RELAXED)) return old;
  }
}`,
    );
  }

  compareExchange(scalar: CScalar): string {
    const type = cScalar(scalar);
    const word = unsignedOf(scalar);
    const [toWord, fromWord] = [this.bitcast(scalar, 1, word, 1), this.bitcast(word, 1, scalar, 1)];
    return this.define(
      `atomic_compare_exchange_${scalar}`,
      () =>
        `TUTTI_INLINE ${type} tutti_atomic_compare_exchange_${scalar}(${type} *p, ${type} expected, ${type} a) {
  ${cScalar(word)} seen = ${toWord}(expected);
  __atomic_compare_exchange_n((${cScalar(word)} *)p, &seen, ${toWord}(a), false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  return ${fromWord}(seen);
}`,
    );
  }

  /** Text of a choice by a comparison of `scalar`-wide operands. */
  #choose(scalar: CScalar, lanes: Lanes): (condition: string, a: string, b: string) => string {
    if (lanes === 1) return (condition, a, b) => `(${condition} ? ${a} : ${b})`;
    const select = this.select(scalar, lanes);
    return (condition, a, b) => `${select}(${condition}, ${a}, ${b})`;
  }
}

/** C's operators of comparison. */
export const comparison: Readonly<Record<CompareFn, string>> = {
  eq: '==',
  ne: '!=',
  lt: '<',
  le: '<=',
  gt: '>',
  ge: '>=',
};

const each = (lanes: number, text: (lane: number) => string): string =>
  Array.from({ length: lanes }, (_, lane) => text(lane)).join(', ');

const splatText = (prelude: Prelude, scalar: CScalar, lanes: Lanes, text: string): string =>
  lanes === 1 ? text : `${prelude.splat(scalar, lanes)}(${text})`;

/** The least or greatest value of an integer type, as a C expression of that type or one that converts to it. */
export function integerLimit(scalar: CScalar, which: 'min' | 'max'): string {
  const bits = scalarBits[scalar];
  const signed = isSignedScalar(scalar);
  const name = `${signed ? '' : 'U'}INT${bits}_${which.toUpperCase()}`;
  return which === 'min' && !signed ? '0' : name;
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
