/** Loads, stores and atomics as WGSL, through the view that the kernel's accesses allow. */
import type { AtomicFn, KInst, KMemory, KType, KValue } from '../../compiler/kernel/types.js';
import type { Scope } from './scope.js';
import { components } from './wgsl.js';

const atomicFunctions: Readonly<Record<AtomicFn, string>> = {
  add: 'atomicAdd',
  min: 'atomicMin',
  max: 'atomicMax',
  and: 'atomicAnd',
  or: 'atomicOr',
  xor: 'atomicXor',
  exchange: 'atomicExchange',
};

/** The element of an array of single elements. */
const place = (scope: Scope, memory: KMemory, at: KValue): string =>
  `${scope.names.memory(memory)}[${elementIndex(scope, memory, at)}]`;

/** An atomic function on one element; returns the expression of its old value. */
export function atomic(scope: Scope, inst: Extract<KInst, { op: 'atomic' }>): string {
  return `${atomicFunctions[inst.fn]}(&${place(scope, inst.memory, inst.index)}, ${scope.value(inst.value)})`;
}

/** An index into an array whose elements are `width` lanes wide, `ahead` elements further. */
function elementIndex(scope: Scope, memory: KMemory, index: KValue, ahead = 0): string {
  const { width } = scope.view(memory);
  const constant = scope.constants.get(index);
  if (constant !== undefined) {
    const element = Math.floor((Number(constant) + ahead) / width);
    // Out of bounds in dead code: an error of the whole module if it were a constant.
    if (Number(constant) < 0 || (element + 1) * width > memory.length) return scope.runtime(index);
    return String(element);
  }
  const text = ahead === 0 ? scope.value(index) : `${scope.value(index)} + ${ahead}`;
  if (width === 1) return text;
  const shift = width === 4 ? '2u' : '1u';
  return ahead === 0 ? `${text} >> ${shift}` : `(${text}) >> ${shift}`;
}

export function load(scope: Scope, memory: KMemory, index: KValue, type: KType): string {
  const name = scope.names.memory(memory);
  const { width, atomic } = scope.view(memory);
  if (width > 1 && type.lanes === width) return `${name}[${elementIndex(scope, memory, index)}]`;
  if (width > 1) {
    const vector = `${name}[${elementIndex(scope, memory, index)}]`;
    const constant = scope.constants.get(index);
    const lane = constant === undefined ? undefined : Number(constant) % width;
    if (type.lanes === 1) {
      return lane === undefined ? `${vector}[${scope.value(index)} & ${width - 1}]` : `${vector}.${components[lane]}`;
    }
    if (lane !== undefined) return `${vector}.${lane === 0 ? 'xy' : 'zw'}`;
    const whole = scope.temporary();
    scope.line(`let ${whole} = ${vector};`);
    return `select(${whole}.xy, ${whole}.zw, (${scope.value(index)} & 2) != 0)`;
  }
  const one = (ahead: number): string => {
    const place = `${name}[${elementIndex(scope, memory, index, ahead)}]`;
    return atomic ? `atomicLoad(&${place})` : place;
  };
  if (type.lanes === 1) return one(0);
  return `${scope.type(type)}(${components
    .slice(0, type.lanes)
    .map((_, i) => one(i))
    .join(', ')})`;
}

export function store(scope: Scope, memory: KMemory, index: KValue, value: KValue): void {
  const name = scope.names.memory(memory);
  const { width, atomic } = scope.view(memory);
  const { lanes } = value.type;
  if (lanes === width && !atomic) {
    scope.line(`${name}[${elementIndex(scope, memory, index)}] = ${scope.value(value)};`);
    return;
  }
  const text = lanes === 1 ? scope.value(value) : scope.runtime(value);
  for (let lane = 0; lane < lanes; lane++) {
    const element = lanes === 1 ? text : `${text}.${components[lane]}`;
    const place = `${name}[${elementIndex(scope, memory, index, lane)}]`;
    scope.line(atomic ? `atomicStore(&${place}, ${element});` : `${place} = ${element};`);
  }
}

/** WGSL has only the weak form, which may fail for no reason: again until it fails for one. */
export function compareExchange(scope: Scope, inst: Extract<KInst, { op: 'atomic_compare_exchange' }>): void {
  const at = place(scope, inst.memory, inst.index);
  const old = scope.temporary();
  const expected = scope.value(inst.expected);
  scope.line(`var ${old}: ${scope.type(inst.result.type)};`);
  scope.line('loop {');
  scope.line(`  let attempt = atomicCompareExchangeWeak(&${at}, ${expected}, ${scope.value(inst.value)});`);
  scope.line(`  ${old} = attempt.old_value;`);
  scope.line(`  if (attempt.exchanged || attempt.old_value != ${expected}) { break; }`);
  scope.line('}');
  scope.define(inst.result, old);
}
