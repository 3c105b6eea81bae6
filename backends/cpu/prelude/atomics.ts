/** Atomic operations that C's compilers have no builtin for. */
import type { Prelude } from './index.js';
import { type CScalar, cScalar, unsignedOf } from './types.js';
import * as vectors from './vectors.js';

/** Read-modify-write by compare-and-swap on the element's bits; `next` is C over `old` and `a`. */
export function atomic(prelude: Prelude, fn: string, scalar: CScalar, next: string): string {
  const type = cScalar(scalar);
  const word = unsignedOf(scalar);
  const [toWord, fromWord] = [
    vectors.bitcast(prelude, scalar, 1, word, 1),
    vectors.bitcast(prelude, word, 1, scalar, 1),
  ];
  return prelude.define(
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

export function compareExchange(prelude: Prelude, scalar: CScalar): string {
  const type = cScalar(scalar);
  const word = unsignedOf(scalar);
  const [toWord, fromWord] = [
    vectors.bitcast(prelude, scalar, 1, word, 1),
    vectors.bitcast(prelude, word, 1, scalar, 1),
  ];
  return prelude.define(
    `atomic_compare_exchange_${scalar}`,
    () =>
      `TUTTI_INLINE ${type} tutti_atomic_compare_exchange_${scalar}(${type} *p, ${type} expected, ${type} a) {
  ${cScalar(word)} seen = ${toWord}(expected);
  __atomic_compare_exchange_n((${cScalar(word)} *)p, &seen, ${toWord}(a), false, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
  return ${fromWord}(seen);
}`,
  );
}
