/**
 * Hash-consing: finds the value of an equal pure instruction that is in scope.
 *
 * One table serves all open scopes, for a key that an outer scope knows is never entered again by an inner one: closing
 * a scope removes what it entered. Instructions of one or two operands, most of a kernel, are found by number.
 */
import type { KInst, KType, KValue, Range } from './types.js';

type PureInst = Extract<KInst, { result: KValue }>;
type WithoutResult<T> = T extends unknown ? Omit<T, 'result'> : never;
/** An instruction before it has a result. */
export type PureBody = WithoutResult<PureInst>;

type Key = number | string;

/** Where the value of an instruction is, or would be. */
export interface Slot {
  readonly table: Map<Key, KValue>;
  readonly key: Key;
}

/** More than the values of a kernel, and its square is an exact double. */
const maxId = 2 ** 26;

export class ValueTable {
  readonly #byFunction = new Map<string, Map<Key, KValue>>();
  readonly #others = new Map<Key, KValue>();
  readonly #scopes: Slot[][] = [[]];

  open(): void {
    this.#scopes.push([]);
  }

  /** Forgets what was entered since `open`. */
  close(): void {
    for (const { table, key } of this.#scopes.pop() ?? []) table.delete(key);
  }

  enter(slot: Slot, value: KValue): void {
    slot.table.set(slot.key, value);
    this.#scopes[this.#scopes.length - 1].push(slot);
  }

  /** Equal slots mean equal values: operands by id, memory by name, everything else literally. */
  slot(body: PureBody, type: KType, range?: Range): Slot {
    switch (body.op) {
      // The operands' type and the function's name, of which no two ops have the same, say all.
      case 'binary':
      case 'compare': {
        const fast = body.op === 'binary' && body.fast;
        return { table: this.#of(fast ? `fast ${body.fn}` : body.fn), key: body.a.id * maxId + body.b.id };
      }
      case 'unary':
        return { table: this.#of(body.fast ? `fast ${body.fn}` : body.fn), key: body.a.id };
      default:
        return { table: this.#others, key: keyOf(body, type, range) };
    }
  }

  #of(name: string): Map<Key, KValue> {
    let table = this.#byFunction.get(name);
    if (!table) this.#byFunction.set(name, (table = new Map()));
    return table;
  }
}

function keyOf(body: Exclude<PureBody, { op: 'unary' | 'binary' | 'compare' }>, type: KType, range?: Range): string {
  const head = `${body.op}:${type.scalar}${type.lanes}`;
  switch (body.op) {
    case 'const':
      return `${head}|${Object.is(body.value, -0) ? '-0' : body.value}`;
    case 'load':
      return `${head}|${body.memory.name}|${body.index.id}|${body.aligned}`;
    case 'fma':
      return `${head}|${body.a.id}|${body.b.id}|${body.c.id}`;
    case 'dot4':
      return `${head}|${body.left}${body.right}|${body.a.id}|${body.b.id}|${body.c.id}`;
    case 'select':
      return `${head}|${body.condition.id}|${body.a.id}|${body.b.id}`;
    case 'convert':
    case 'bitcast':
    case 'splat':
      return `${head}|${body.a.id}`;
    case 'extract':
      return `${head}|${body.a.id}|${body.lane}`;
    case 'build':
      return `${head}|${body.elements.map(({ id }) => id).join(',')}`;
    case 'call':
      return `${head}|${body.callee.name}|${body.args.map(({ id }) => id).join(',')}`;
    case 'scalar':
      return `${head}|${body.param.name}`;
    // What is known of an assumption or a builtin is not in its operands.
    case 'builtin':
      return `${head}|${body.builtin}|${body.dim}|${claim(range)}`;
    case 'assume':
      return `${head}|${body.a.id}|${claim(range)}`;
    case 'atomic':
    case 'atomic_compare_exchange':
    case 'subgroup':
      throw new Error(`${body.op} is never shared`);
    default:
      return body satisfies never;
  }
}

const claim = (range: Range | undefined): string => (range ? `${range.min}..${range.max}` : '');
