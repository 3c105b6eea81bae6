/** Conversions between types, with one rounding each, and bit casts, as C. */
import { isSignedScalar, type Lanes, type ScalarType, scalarBits } from '../../compiler/kernel/types.js';
import { paren } from '../common/c_family.js';
import * as maths from './prelude/arithmetic.js';
import * as halves from './prelude/halves.js';
import { type CInteger, type CScalar, cScalar, heldAs, isHalf, type MaskBits, storedAs } from './prelude/types.js';
import * as vectors from './prelude/vectors.js';
import type { Inst, Scope } from './scope.js';

export function convert(scope: Scope, inst: Inst<'convert'>): void {
  const { lanes } = inst.result.type;
  const [from, to] = [inst.a.type.scalar, inst.result.type.scalar];
  const a = scope.c(inst.a);
  if (from === to) {
    scope.names.setValue(inst.result, scope.ref(inst.a));
    return;
  }
  if (to === 'bool') {
    scope.let(inst.result, `${a} != 0`, scalarBits[heldAs(from as Exclude<ScalarType, 'bool'>)] as MaskBits);
    return;
  }
  const held = heldAs(to);
  const type = scope.prelude.type(held, lanes);
  if (from === 'bool') {
    if (lanes === 1) scope.let(inst.result, `(${type})${a}`);
    else {
      const mask = scope.as(inst.a, scalarBits[held] as MaskBits);
      if (held === 'f32' || held === 'f64')
        scope.let(inst.result, `(${type})(${mask} & ${held === 'f32' ? '0x3f800000' : '0x3ff0000000000000'})`);
      else scope.let(inst.result, `(${type})(${mask} & 1)`);
    }
    return;
  }
  scope.let(inst.result, numericConvert(scope, a, from, to, lanes));
}

const isWord = (scalar: CScalar): scalar is 'i32' | 'u32' => scalar === 'i32' || scalar === 'u32';
const isNarrow = (scalar: CScalar): scalar is CInteger => scalarBits[scalar] <= 16;

/** The integers that are to be made of narrow ones on the way to `to`. */
function growsTo(from: CScalar, to: CScalar): CInteger | undefined {
  const bits = scalarBits[from];
  if (bits > 16 || scalarBits[to] <= bits || from === 'f32') return undefined;
  return to === 'f32' ? (isSignedScalar(from) ? 'i32' : 'u32') : scalarBits[to] === 32 ? (to as CInteger) : undefined;
}

function numericConvert(
  scope: Scope,
  a: string,
  from: Exclude<ScalarType, 'bool'>,
  to: Exclude<ScalarType, 'bool'>,
  lanes: Lanes,
): string {
  const [source, target] = [heldAs(from), heldAs(to)];
  const cast = (text: string, type: typeof target): string => {
    if (lanes === 1) return `(${cScalar(type)})${paren(text)}`;
    if (isWord(source) && isNarrow(type)) return `${vectors.shrink(scope.prelude, source, type, lanes)}(${text})`;
    // Integers grow first: compilers know instructions for that, and for floats from words.
    const grown = growsTo(source, type);
    const wide =
      grown === undefined ? text : `${vectors.grow(scope.prelude, source as CInteger, grown, lanes)}(${text})`;
    return grown === type ? wide : `__builtin_convertvector(${wide}, ${scope.prelude.type(type, lanes)})`;
  };
  if (source === 'f32' || source === 'f64') {
    if (target !== 'f32' && target !== 'f64') return `${maths.saturate(scope.prelude, source, target, lanes)}(${a})`;
    if (!isHalf(to)) return source === target ? a : cast(a, target);
    if (source === 'f32') return scope.rounded(a, to, lanes);
    const callee = halves.roundDouble(scope.prelude, to);
    return `${lanes === 1 ? callee : vectors.lanewise(scope.prelude, callee, 'f32', ['f64'], lanes)}(${a})`;
  }
  if (!isHalf(to)) return cast(a, target);
  if (scalarBits[from] <= 16) return scope.rounded(cast(a, 'f32'), to, lanes);
  // One rounding in all: to double without loss of what decides, then to the half.
  let wide = scalarBits[from] === 32 ? cast(a, 'f64') : '';
  if (source === 'i64' || source === 'u64') {
    const sticky = halves.stickyDouble(scope.prelude, source);
    wide = `${lanes === 1 ? sticky : vectors.lanewise(scope.prelude, sticky, 'f64', [source], lanes)}(${a})`;
  }
  const callee = halves.roundDouble(scope.prelude, to);
  return `${lanes === 1 ? callee : vectors.lanewise(scope.prelude, callee, 'f32', ['f64'], lanes)}(${wide})`;
}

export function bitcast(scope: Scope, inst: Inst<'bitcast'>): void {
  const [from, to] = [inst.a.type, inst.result.type];
  if (from.scalar === 'bool' || to.scalar === 'bool') throw scope.unexpected('bitcast of bool');
  let text = scope.c(inst.a);
  if (isHalf(from.scalar)) text = `${halves.pack(scope.prelude, from.scalar, from.lanes)}(${text})`;
  const [source, target] = [storedAs(from.scalar), storedAs(to.scalar)];
  if (source !== target || from.lanes !== to.lanes)
    text = `${vectors.bitcast(scope.prelude, source, from.lanes, target, to.lanes)}(${text})`;
  if (isHalf(to.scalar)) text = `${halves.unpack(scope.prelude, to.scalar, to.lanes)}(${text})`;
  scope.let(inst.result, text);
}
