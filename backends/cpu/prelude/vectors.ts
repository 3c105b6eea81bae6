/** Vectors as C: lanes spread, moved, chosen and seen as other types. */
import { type CompareFn, isSignedScalar, type Lanes, scalarBits } from '../../../compiler/kernel/types.js';
import { compareOperators } from '../../common/operators.js';
import * as hardware from '../hardware.js';
import type { Prelude } from './index.js';
import { type CInteger, type CScalar, cScalar, type MaskBits } from './types.js';

export const each = (lanes: number, text: (lane: number) => string): string =>
  Array.from({ length: lanes }, (_, lane) => text(lane)).join(', ');

export const splatText = (prelude: Prelude, scalar: CScalar, lanes: Lanes, text: string): string =>
  lanes === 1 ? text : `${splat(prelude, scalar, lanes)}(${text})`;

export function splat(prelude: Prelude, scalar: CScalar, lanes: Lanes): string {
  const type = prelude.type(scalar, lanes);
  return prelude.define(
    `splat_${scalar}x${lanes}`,
    () =>
      `TUTTI_INLINE ${type} tutti_splat_${scalar}x${lanes}(${cScalar(scalar)} a) { return (${type}){${each(lanes, () => 'a')}}; }`,
  );
}

/** `callee` applied lane by lane, for what has no vector form. */
export function lanewise(
  prelude: Prelude,
  callee: string,
  result: CScalar,
  operands: readonly CScalar[],
  lanes: Lanes,
): string {
  const name = `${callee.replace(/^(tutti|__builtin)_/, '')}_x${lanes}`;
  const type = prelude.type(result, lanes);
  const params = operands.map((scalar, i) => `${prelude.type(scalar, lanes)} a${i}`);
  return prelude.define(
    name,
    () =>
      `TUTTI_INLINE ${type} tutti_${name}(${params.join(', ')}) { return (${type}){${each(
        lanes,
        (lane) => `${callee}(${operands.map((_, i) => `a${i}[${lane}]`).join(', ')})`,
      )}}; }`,
  );
}

/** Lanes of a and b, those of b counted on from those of a. */
export function shuffle(prelude: Prelude, scalar: CScalar, from: Lanes, to: Lanes, picked: readonly number[]): string {
  const [source, target] = [prelude.type(scalar, from), prelude.type(scalar, to)];
  const name = `shuffle_${scalar}x${from}_${picked.join('_')}`;
  const element = (at: number) => (at < from ? `a[${at}]` : `b[${at - from}]`);
  return prelude.define(
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
export function select(prelude: Prelude, scalar: CScalar, lanes: Lanes): string {
  const type = prelude.type(scalar, lanes);
  const mask = prelude.maskType(scalarBits[scalar] as MaskBits, lanes);
  return prelude.define(
    `select_${scalar}x${lanes}`,
    () =>
      `TUTTI_INLINE ${type} tutti_select_${scalar}x${lanes}(${mask} m, ${type} a, ${type} b) { return (${type})((${mask})a & m | (${mask})b & ~m); }`,
  );
}

/** The low 8 or 16 bits of lanes of 32, likewise. */
export function shrink(prelude: Prelude, from: CInteger, to: CInteger, lanes: Lanes): string {
  const [source, target] = [prelude.type(from, lanes), prelude.type(to, lanes)];
  const name = `shrink_${from}_${to}_x${lanes}`;
  const builtin = `__builtin_ia32_pmovd${scalarBits[to] === 8 ? 'b' : 'w'}512_mask`;
  const none = `(${scalarBits[to] === 8 ? 'char' : 'short'} __attribute__((vector_size(${(scalarBits[to] / 8) * lanes})))){0}`;
  const special = `#if defined(__AVX512F__) && TUTTI_HAS(${builtin})
  return (${target})${builtin}((int __attribute__((vector_size(64))))a, ${none}, -1);
#else
`;
  return prelude.define(
    name,
    () => `TUTTI_INLINE ${target} tutti_${name}(${source} a) {
${lanes === 16 ? special : ''}  return __builtin_convertvector(a, ${target});
${lanes === 16 ? '#endif\n' : ''}}`,
  );
}

/** Integers of 8 or 16 bits in lanes of 32, which GCC does element by element unless it is told the instruction. */
export function grow(prelude: Prelude, from: CInteger, to: CInteger, lanes: Lanes): string {
  const [source, target] = [prelude.type(from, lanes), prelude.type(to, lanes)];
  const bits = scalarBits[from];
  const name = `grow_${from}_${to}_x${lanes}`;
  return prelude.define(name, () => {
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
export function where(prelude: Prelude, fn: CompareFn, compared: CScalar, result: CScalar, lanes: Lanes): string {
  const [operand, type] = [prelude.type(compared, lanes), prelude.type(result, lanes)];
  const blend = select(prelude, result, lanes);
  const name = `where_${fn}_${compared}_${result}x${lanes}`;
  return prelude.define(name, () => {
    const body = hardware.preferring(
      hardware.where(fn, compared, result, lanes, type),
      `return ${blend}(x ${compareOperators[fn]} y, a, b);`,
    );
    return `TUTTI_INLINE ${type} tutti_${name}(${operand} x, ${operand} y, ${type} a, ${type} b) { ${body} }`;
  });
}

/** a if it is beyond b, else b, also where either is NaN or both are zero. */
export function beyond(prelude: Prelude, fn: 'min' | 'max', scalar: CScalar, lanes: Lanes): string {
  const type = prelude.type(scalar, lanes);
  const chosen = choose(prelude, scalar, lanes);
  return prelude.define(`beyond_${fn}_${scalar}x${lanes}`, () => {
    const body = hardware.preferring(
      hardware.beyond(fn, scalar, lanes),
      `return ${chosen(fn === 'min' ? 'a < b' : 'a > b', 'a', 'b')};`,
    );
    return `TUTTI_INLINE ${type} tutti_beyond_${fn}_${scalar}x${lanes}(${type} a, ${type} b) { ${body} }`;
  });
}

export function bitcast(prelude: Prelude, from: CScalar, fromLanes: Lanes, to: CScalar, toLanes: Lanes): string {
  const [source, target] = [prelude.type(from, fromLanes), prelude.type(to, toLanes)];
  const name = `bits_${from}x${fromLanes}_${to}x${toLanes}`;
  return prelude.define(
    name,
    () =>
      `TUTTI_INLINE ${target} tutti_${name}(${source} a) { return ((union { ${source} from; ${target} to; }){.from = a}).to; }`,
  );
}

/** Text of a choice by a comparison of `scalar`-wide operands. */
export function choose(
  prelude: Prelude,
  scalar: CScalar,
  lanes: Lanes,
): (condition: string, a: string, b: string) => string {
  if (lanes === 1) return (condition, a, b) => `(${condition} ? ${a} : ${b})`;
  const blend = select(prelude, scalar, lanes);
  return (condition, a, b) => `${blend}(${condition}, ${a}, ${b})`;
}
