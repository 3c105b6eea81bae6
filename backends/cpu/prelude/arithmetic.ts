/** Arithmetic that C has no operator for. */
import { isFloatScalar, isSignedScalar, type Lanes, scalarBits } from '../../../compiler/kernel/types.js';
import * as hardware from '../hardware.js';
import type { Prelude } from './index.js';
import { type CScalar, cScalar, type MaskBits, signedOf, unsignedOf } from './types.js';
import * as vectors from './vectors.js';

/** NaN if either is NaN; of zeros, -0 is the smaller. */
export function minMax(prelude: Prelude, fn: 'min' | 'max', scalar: CScalar, lanes: Lanes): string {
  return prelude.define(`${fn}_${scalar}x${lanes}`, () => {
    const type = prelude.type(scalar, lanes);
    const less = fn === 'min' ? 'a < b' : 'a > b';
    const head = `TUTTI_INLINE ${type} tutti_${fn}_${scalar}x${lanes}(${type} a, ${type} b)`;
    if (!isFloatScalar(scalar)) return `${head} { return ${vectors.choose(prelude, scalar, lanes)(less, 'a', 'b')}; }`;
    const integer = signedOf(scalarBits[scalar]);
    const bits = vectors.bitcast(prelude, scalar, lanes, integer, lanes);
    const float = vectors.bitcast(prelude, integer, lanes, scalar, lanes);
    const choose = vectors.choose(prelude, scalar, lanes);
    const merged = `${float}(${bits}(a) ${fn === 'min' ? '|' : '&'} ${bits}(b))`;
    const chosen = choose(
      'a == b',
      merged,
      choose(lanes === 1 ? `${less} || a != a` : `(${less}) | (a != a)`, 'a', 'b'),
    );
    return `${head} { ${hardware.preferring(hardware.minMax(fn, scalar, lanes), `return ${chosen};`)} }`;
  });
}

export function fma(prelude: Prelude, scalar: 'f32' | 'f64', lanes: Lanes): string {
  const scalarName = scalar === 'f32' ? '__builtin_fmaf' : '__builtin_fma';
  if (lanes === 1) return scalarName;
  const suffix = scalar === 'f32' ? 'ps' : 'pd';
  const bytes = (scalarBits[scalar] / 8) * lanes;
  const hardware: Partial<Record<number, readonly [string, string]>> = {
    64: [`__builtin_ia32_vfmadd${suffix}512_mask`, 'a, b, c, -1, 4'],
    32: [`__builtin_ia32_vfmadd${suffix}256`, 'a, b, c'],
    16: [`__builtin_ia32_vfmadd${suffix}`, 'a, b, c'],
  };
  return vectorBuiltin(
    prelude,
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
export function unary(
  prelude: Prelude,
  fn: 'floor' | 'ceil' | 'trunc' | 'round' | 'sqrt',
  scalar: 'f32' | 'f64',
  lanes: Lanes,
): string {
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
  return vectorBuiltin(
    prelude,
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
function vectorBuiltin(
  prelude: Prelude,
  fn: string,
  scalar: 'f32' | 'f64',
  lanes: Lanes,
  params: readonly string[],
  scalarName: string,
  hardware: readonly [string, string] | undefined,
  macro: string,
): string {
  return prelude.define(`${fn}_${scalar}x${lanes}`, () => {
    const type = prelude.type(scalar, lanes);
    const list = params.join(', ');
    const special = hardware
      ? `#elif defined(${macro}) && TUTTI_HAS(${hardware[0]})\n  return (${type})${hardware[0]}(${hardware[1]});\n`
      : '';
    return `TUTTI_INLINE ${type} tutti_${fn}_${scalar}x${lanes}(${params.map((p) => `${type} ${p}`).join(', ')}) {
#if TUTTI_HAS(__builtin_elementwise_${fn})
  return __builtin_elementwise_${fn}(${list});
${special}#else
  return (${type}){${vectors.each(lanes, (lane) => `${scalarName}(${params.map((p) => `${p}[${lane}]`).join(', ')})`)}};
#endif
}`;
  });
}

/** popcount and clz (of 0: the width), of a scalar; the result has the operand's type. */
export function bitCount(prelude: Prelude, fn: 'popcount' | 'clz', scalar: CScalar): string {
  const bits = scalarBits[scalar];
  const [wide, suffix] = bits === 64 ? [64, 'll'] : [32, ''];
  const value = `(uint${wide}_t)(${cScalar(unsignedOf(scalar))})a`;
  const count =
    fn === 'popcount'
      ? `__builtin_popcount${suffix}(${value})`
      : `a == 0 ? ${bits} : __builtin_clz${suffix}(${value}) - ${wide - bits}`;
  const type = cScalar(scalar);
  return prelude.define(
    `${fn}_${scalar}`,
    () => `TUTTI_INLINE ${type} tutti_${fn}_${scalar}(${type} a) { return (${type})(${count}); }`,
  );
}

export function mulHigh(prelude: Prelude, scalar: CScalar): string {
  const type = cScalar(scalar);
  const bits = scalarBits[scalar];
  const wide =
    bits === 64
      ? `${isSignedScalar(scalar) ? '' : 'unsigned '}__int128`
      : cScalar(`${scalar[0]}${bits * 2}` as CScalar);
  return prelude.define(
    `mulhi_${scalar}`,
    () =>
      `TUTTI_INLINE ${type} tutti_mulhi_${scalar}(${type} a, ${type} b) { return (${type})((${wide})a * (${wide})b >> ${bits}); }`,
  );
}

/** float → integer: truncates, saturates, NaN gives 0. */
export function saturate(prelude: Prelude, from: 'f32' | 'f64', to: CScalar, lanes: Lanes): string {
  return prelude.define(`saturate_${from}_${to}x${lanes}`, () => {
    const bits = scalarBits[to];
    const signed = isSignedScalar(to);
    const suffix = from === 'f32' ? 'f' : '';
    const high = `0x1p${signed ? bits - 1 : bits}${suffix}`;
    const low = signed ? `-0x1p${bits - 1}${suffix}` : `0.0${suffix}`;
    const [min, max] = [integerLimit(to, 'min'), integerLimit(to, 'max')];
    const [source, target] = [prelude.type(from, lanes), prelude.type(to, lanes)];
    const head = `TUTTI_INLINE ${target} tutti_saturate_${from}_${to}x${lanes}(${source} a)`;
    if (lanes === 1) {
      return `${head} { return a >= ${high} ? ${max} : a > ${low} ? (${target})a : a <= ${low} ? ${min} : 0; }`;
    }
    const mask = prelude.maskType(scalarBits[from] as MaskBits, lanes);
    const toMask = prelude.maskType(bits as MaskBits, lanes);
    // Narrow integers by way of i32: no machine converts to them directly.
    const through = prelude.type(bits < 32 ? 'i32' : to, lanes);
    const converted =
      bits < 32
        ? `__builtin_convertvector(__builtin_convertvector(inside, ${through}), ${target})`
        : `__builtin_convertvector(inside, ${through})`;
    const portable = `const ${source} inside = (${source})((${mask})a & (a > ${low}) & (a < ${high}));
  const ${toMask} over = __builtin_convertvector(a >= ${high}, ${toMask}), under = __builtin_convertvector(a <= ${low}, ${toMask});
  return ${converted} | (${target})over & ${max} | (${target})under & ${min};`;
    const special = hardware.saturate(from, to, lanes);
    if (special) [vectors.splat(prelude, 'f32', lanes), vectors.splat(prelude, 'i32', lanes)];
    return `${head} { ${hardware.preferring(special, portable)} }`;
  });
}

/** The least or greatest value of an integer type, as a C expression of that type or one that converts to it. */
export function integerLimit(scalar: CScalar, which: 'min' | 'max'): string {
  const bits = scalarBits[scalar];
  const signed = isSignedScalar(scalar);
  const name = `${signed ? '' : 'U'}INT${bits}_${which.toUpperCase()}`;
  return which === 'min' && !signed ? '0' : name;
}
