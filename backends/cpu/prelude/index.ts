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
import { type Lanes, scalarBits } from '../../../compiler/kernel/types.js';
import { type CScalar, cScalar, type MaskBits, signedOf } from './types.js';

const header = `#include <stdbool.h>
#include <stdint.h>
#define TUTTI_INLINE static inline __attribute__((always_inline, unused))
#ifdef __has_builtin
#define TUTTI_HAS(x) __has_builtin(x)
#else
#define TUTTI_HAS(x) 0
#endif`;

/** Collects definitions in order of need. What gives the C name of a definition has seen to it that it is there. */
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
}
