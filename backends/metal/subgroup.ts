/**
 * Subgroup operations as SIMD-group functions.
 *
 * Integer reductions are Metal's own, over the active lanes. Float ones are done by shuffles, so that their order is
 * known and NaN is kept: a butterfly where whole SIMD-groups take part, elsewhere a walk over the active lanes.
 */
import { isFloatScalar, isSignedScalar, scalarBits } from '../../compiler/kernel/types.js';
import { movesAsIs, shuffle } from './library.js';
import { typeName, withScalar } from './msl.js';
import type { Inst, Scope } from './scope.js';

const reductions = { add: 'simd_sum', min: 'simd_min', max: 'simd_max' } as const;

/** `full`: every lane of every SIMD-group is there and takes part. */
export function subgroup(scope: Scope, { fn, a, delta, result: { type } }: Inst<'subgroup'>, full: boolean): string {
  const text = scope.value(a);
  switch (fn) {
    case 'shuffle_xor':
    case 'shuffle_down':
      return shuffle(fn, type, text, `ushort(${delta})`, scope.use);
    case 'broadcast':
      return shuffle('shuffle', type, text, `ushort(${delta})`, scope.use);
    case 'broadcast_first':
      return `${movesAsIs(type) ? 'simd_broadcast_first' : scope.use(fn, type)}(${text})`;
    case 'add':
    case 'min':
    case 'max': {
      if (type.scalar === 'bool') throw scope.unexpected(`subgroup ${fn} on bool`);
      if (isFloatScalar(type.scalar) || scalarBits[type.scalar] === 64) {
        return `${scope.use(`${fn}_${full ? 'all' : 'active'}`, type)}(${text})`;
      }
      // Sums wrap only in unsigned types.
      const signed = fn !== 'add' && isSignedScalar(type.scalar);
      const word = typeName(withScalar(type, signed ? 'i32' : 'u32'));
      return `${typeName(type)}(${reductions[fn]}(${word}(${text})))`;
    }
    default:
      return fn satisfies never;
  }
}
