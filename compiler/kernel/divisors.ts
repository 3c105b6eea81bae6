/** By which powers of two integer values are divisible, for what promises alignment. */
import { isIntScalar, type KInst, type KValue } from './types.js';
import type { Definition } from './walk.js';

/** Nothing larger is asked for: elements of 1024 bytes, where boxes of tensors begin. */
const largest = 1024;
/** Longer chains of definitions are not followed. */
const maxDepth = 400;

export class Divisors {
  readonly #definitions: ReadonlyMap<KValue, Definition>;
  readonly #known = new Map<KValue, number>();

  constructor(definitions: ReadonlyMap<KValue, Definition>) {
    this.#definitions = definitions;
  }

  /** A power of two up to 1024 that divides whatever `value` may be. */
  of(value: KValue): number {
    return this.#divisor(value, 0);
  }

  #divisor(value: KValue, depth: number): number {
    let divisor = this.#known.get(value);
    if (divisor === undefined) {
      divisor = depth > maxDepth ? 1 : Math.min(largest, this.#derive(value, depth + 1));
      this.#known.set(value, divisor);
    }
    return divisor;
  }

  #derive(value: KValue, depth: number): number {
    const definition = this.#definitions.get(value);
    if (definition === undefined) return 1;
    const { inst, role, position } = definition;
    const of = (operand: KValue): number => this.#divisor(operand, depth);
    if (role === 'index') return inst.op === 'for' ? Math.min(of(inst.lower), powerOfTwoIn(inst.step)) : 1;
    if (role === 'inner') return 1;
    switch (inst.op) {
      case 'const':
        return powerOfTwoIn(Number(inst.value));
      case 'binary':
        return this.#binary(inst, of);
      case 'select':
        return Math.min(of(inst.a), of(inst.b));
      case 'assume':
      case 'splat':
      case 'extract':
        return of(inst.a);
      case 'convert':
        return isIntScalar(inst.a.type.scalar) ? of(inst.a) : 1;
      case 'if':
        return Math.min(of(inst.then.yields[position]), of(inst.else.yields[position]));
      default:
        return 1;
    }
  }

  #binary(inst: KInst & { op: 'binary' }, of: (value: KValue) => number): number {
    switch (inst.fn) {
      case 'add':
      case 'sub':
      case 'rem':
      case 'min':
      case 'max':
      case 'or':
      case 'xor':
        return Math.min(of(inst.a), of(inst.b));
      case 'and':
        return Math.max(of(inst.a), of(inst.b));
      case 'mul':
        return of(inst.a) * of(inst.b);
      case 'shl': {
        const amount = this.#definitions.get(inst.b)?.inst;
        return amount?.op === 'const' ? of(inst.a) * 2 ** Number(amount.value) : of(inst.a);
      }
      default:
        return 1;
    }
  }
}

/** The largest power of two up to 1024 that divides `x`. */
function powerOfTwoIn(x: number): number {
  let power = 1;
  while (power < largest && x % (power * 2) === 0) power *= 2;
  return power;
}
