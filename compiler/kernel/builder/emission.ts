/**
 * Where the instructions of a kernel under construction go: the open blocks, the values in scope, which equal pure
 * instructions share (hash-consing), and which of them are constants.
 */
import {
  isIntScalar,
  type KBlock,
  type KInst,
  type KType,
  type KValue,
  ktype,
  type Lanes,
  type Range,
  type ScalarType,
} from '../types.js';
import { type PureBody, ValueTable } from '../value_table.js';

export class Emission {
  /** Instructions of the open blocks, innermost last. */
  #blocks: KInst[][] = [[]];
  #table = new ValueTable();
  readonly #constants = new Map<KValue, number | bigint>();
  #nextId = 0;

  constant(value: number | bigint | boolean, scalar: ScalarType = 'i32', lanes: Lanes = 1): KValue {
    const number = typeof value === 'boolean' ? Number(value) : value;
    const numeric = Number(number);
    const range = isIntScalar(scalar) && Number.isSafeInteger(numeric) ? { min: numeric, max: numeric } : undefined;
    const result = this.emit({ op: 'const', value: number }, ktype(scalar, lanes), range);
    this.#constants.set(result, number);
    return result;
  }

  zero(scalar: ScalarType, lanes: Lanes = 1): KValue {
    return this.constant(scalar === 'i64' || scalar === 'u64' ? 0n : 0, scalar, lanes);
  }

  /** The constant that `value` is known to be, or undefined. */
  constantOf(value: KValue): number | bigint | undefined {
    return this.#constants.get(value);
  }

  /** Appends a pure instruction, or returns the value of an equal one in scope. */
  emit(body: PureBody, type: KType, range?: Range): KValue {
    const slot = this.#table.slot(body, type, range);
    const known = slot.table.get(slot.key);
    if (known) return known;
    const value = this.append(body, type, range);
    this.#table.enter(slot, value);
    return value;
  }

  protected get current(): KInst[] {
    return this.#blocks[this.#blocks.length - 1];
  }

  protected append(body: PureBody, type: KType, range?: Range): KValue {
    const result = this.value(type, range);
    this.current.push({ ...body, result } as KInst);
    return result;
  }

  protected value(type: KType, range?: Range): KValue {
    const id = this.#nextId++;
    return range && isIntScalar(type.scalar) ? { id, type, range } : { id, type };
  }

  protected block(build: () => readonly KValue[]): KBlock {
    const instructions: KInst[] = [];
    this.#blocks.push(instructions);
    this.#table.open();
    try {
      return { instructions, yields: build() };
    } finally {
      this.#table.close();
      this.#blocks.pop();
    }
  }

  /** The body of a helper function: blocks and values of its own. */
  protected apart<T>(build: () => T): { readonly instructions: readonly KInst[]; readonly built: T } {
    const [blocks, table] = [this.#blocks, this.#table];
    const instructions: KInst[] = [];
    this.#blocks = [instructions];
    this.#table = new ValueTable();
    try {
      return { instructions, built: build() };
    } finally {
      [this.#blocks, this.#table] = [blocks, table];
    }
  }
}
