/** Loads, stores and atomics as MSL: vectors through pointers to vectors where they are aligned, else to packed ones. */
import {
  type AtomicFn,
  type KArray,
  type KMemory,
  type KType,
  type KValue,
  scalarBits,
} from '../../compiler/kernel/types.js';
import { addressSpace, literal, perLane, storedAs, typeName } from './msl.js';
import type { Inst, Scope } from './scope.js';

const atomicFunctions: Readonly<Record<AtomicFn, string>> = {
  add: 'atomic_fetch_add_explicit',
  min: 'atomic_fetch_min_explicit',
  max: 'atomic_fetch_max_explicit',
  and: 'atomic_fetch_and_explicit',
  or: 'atomic_fetch_or_explicit',
  xor: 'atomic_fetch_xor_explicit',
  exchange: 'atomic_exchange_explicit',
};

/** Alignment of arrays in bytes: that of their widest vectors, and at least what Metal rounds lengths to. */
export const alignmentOf = ({ scalar }: KArray): number => Math.max(16, (4 * scalarBits[scalar]) / 8);

/** The lvalue of `type` (as stored) at an element. */
function place(scope: Scope, memory: KMemory, index: KValue, type: KType, aligned: boolean, constant: boolean): string {
  const [name, at] = [scope.names.memory(memory), scope.value(index)];
  if (type.lanes === 1) return `${name}[${at}]`;
  const vector = `${aligned ? '' : 'packed_'}${typeName(type)}`;
  return `*(${addressSpace(memory)} ${constant ? 'const ' : ''}${vector}*)(${name} + ${at})`;
}

/** Memory that some access changes atomically is accessed atomically by all: other accesses may see stale copies. */
const isAtomic = (scope: Scope, memory: KMemory): boolean => scope.accesses.get(memory)?.atomic ?? false;

const atomicPlace = (scope: Scope, memory: KMemory, index: string): string =>
  `(${addressSpace(memory)} ${atomicType(scope, memory)}*)(${scope.names.memory(memory)} + ${index})`;

function atomicType(scope: Scope, { scalar }: KMemory): string {
  if (scalar !== 'i32' && scalar !== 'u32') throw scope.unexpected(`atomic on ${scalar}`);
  return `atomic_${typeName({ scalar, lanes: 1 })}`;
}

const ahead = (scope: Scope, index: KValue, by: number): string => `${scope.value(index)}${by === 0 ? '' : ` + ${by}`}`;
const lanesOf = ({ lanes }: KType): readonly number[] => Array.from({ length: lanes }, (_, lane) => lane);

export function load(scope: Scope, { memory, index, result: { type }, aligned }: Inst<'load'>): string {
  if (isAtomic(scope, memory)) {
    const one = (lane: number): string =>
      `atomic_load_explicit(${atomicPlace(scope, memory, ahead(scope, index, lane))}, memory_order_relaxed)`;
    return type.lanes === 1 ? one(0) : `${typeName(type)}(${lanesOf(type).map(one).join(', ')})`;
  }
  const stored: KType = { scalar: storedAs(type.scalar), lanes: type.lanes };
  const element = place(scope, memory, index, stored, aligned, true);
  const value = type.lanes === 1 || aligned ? element : `${typeName(stored)}(${element})`;
  return type.scalar === 'bool' ? `${value} != ${literal(stored, 0)}` : value;
}

export function store(scope: Scope, { memory, index, value, aligned }: Inst<'store'>): void {
  const { type } = value;
  const text = scope.value(value);
  if (isAtomic(scope, memory)) {
    for (const lane of lanesOf(type)) {
      const element = type.lanes === 1 ? text : `${text}[${lane}]`;
      const to = atomicPlace(scope, memory, ahead(scope, index, lane));
      scope.line(`atomic_store_explicit(${to}, ${element}, memory_order_relaxed);`);
    }
    return;
  }
  const stored: KType = { scalar: storedAs(type.scalar), lanes: type.lanes };
  const element = place(scope, memory, index, stored, aligned, false);
  const bytes = (c: string): string => `uchar(${text}${c} ? 1 : 0)`;
  scope.line(`${element} = ${type.scalar === 'bool' ? perLane(stored, bytes) : text};`);
}

/** The old value. */
export function atomic(scope: Scope, { fn, memory, index, value }: Inst<'atomic'>): string {
  const at = atomicPlace(scope, memory, scope.value(index));
  return `${atomicFunctions[fn]}(${at}, ${scope.value(value)}, memory_order_relaxed)`;
}

export function compareExchange(scope: Scope, inst: Inst<'atomic_compare_exchange'>): string {
  const { memory, index, expected, value, result } = inst;
  const space = addressSpace(memory);
  if (space === 'thread') throw scope.unexpected('an atomic on private memory');
  const at = atomicPlace(scope, memory, scope.value(index));
  const exchange = scope.use(`exchange_if_equal_${space}`, result.type);
  return `${exchange}(${at}, ${scope.value(expected)}, ${scope.value(value)})`;
}
