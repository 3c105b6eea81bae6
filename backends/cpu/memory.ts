/** Loads, stores and atomics as C: vectors through types of the right alignment, halves and masks as they are stored. */
import { isFloatScalar, type KMemory } from '../../compiler/kernel/types.js';
import * as maths from './prelude/arithmetic.js';
import * as atomics from './prelude/atomics.js';
import * as halves from './prelude/halves.js';
import { isHalf, storedAs } from './prelude/types.js';
import type { Inst, Scope } from './scope.js';

/**
 * Buffers may be memory of the host, which starts anywhere on an element. The instructions are as fast as those that
 * insist, where the address is aligned after all.
 */
const isAligned = ({ memory, aligned }: Inst<'load'> | Inst<'store'>): boolean => aligned && memory.kind !== 'buffer';

export function load(scope: Scope, inst: Inst<'load'>): void {
  const { scalar, lanes } = inst.result.type;
  const stored = storedAs(scalar);
  const [memory, index] = [scope.memory(inst.memory), scope.c(inst.index)];
  if (lanes === 1) {
    const element = `${memory}[${index}]`;
    if (scalar === 'bool') scope.let(inst.result, `${element} != 0`);
    else scope.let(inst.result, isHalf(scalar) ? `${halves.unpack(scope.prelude, scalar, 1)}(${element})` : element);
    return;
  }
  const vector = `*(const ${scope.prelude.memoryType(stored, lanes, isAligned(inst))} *)(${memory} + ${index})`;
  if (scalar === 'bool') scope.let(inst.result, `${vector} != 0`, 8);
  else scope.let(inst.result, isHalf(scalar) ? `${halves.unpack(scope.prelude, scalar, lanes)}(${vector})` : vector);
}

export function store(scope: Scope, inst: Inst<'store'>): void {
  const { scalar, lanes } = inst.value.type;
  const stored = storedAs(scalar);
  const [memory, index] = [scope.memory(inst.memory), scope.c(inst.index)];
  let value = scope.c(inst.value);
  if (isHalf(scalar)) value = `${halves.pack(scope.prelude, scalar, lanes)}(${value})`;
  if (scalar === 'bool' && lanes > 1) value = `(${scope.prelude.type('u8', lanes)})(${scope.as(inst.value, 8)} & 1)`;
  if (lanes === 1) scope.line(`${memory}[${index}] = ${value};`);
  else scope.line(`*(${scope.prelude.memoryType(stored, lanes, isAligned(inst))} *)(${memory} + ${index}) = ${value};`);
}

function atomicScalar(scope: Scope, memory: KMemory): 'i32' | 'u32' | 'i64' | 'u64' | 'f32' | 'f64' {
  const { scalar } = memory;
  if (
    scalar === 'i32' ||
    scalar === 'u32' ||
    scalar === 'i64' ||
    scalar === 'u64' ||
    scalar === 'f32' ||
    scalar === 'f64'
  )
    return scalar;
  throw scope.unexpected(`atomic on ${scalar}`);
}

export function atomic(scope: Scope, inst: Inst<'atomic'>): void {
  const scalar = atomicScalar(scope, inst.memory);
  const place = `${scope.memory(inst.memory)} + ${scope.c(inst.index)}`;
  const value = scope.c(inst.value);
  const { fn } = inst;
  if (isFloatScalar(scalar) || fn === 'min' || fn === 'max') {
    if (fn === 'and' || fn === 'or' || fn === 'xor') throw scope.unexpected(`atomic ${fn} on ${scalar}`);
    const next =
      fn === 'add' ? 'old + a' : fn === 'exchange' ? 'a' : `${maths.minMax(scope.prelude, fn, scalar, 1)}(old, a)`;
    scope.let(inst.result, `${atomics.atomic(scope.prelude, fn, scalar, next)}(${place}, ${value})`);
    return;
  }
  const builtin = fn === 'exchange' ? '__atomic_exchange_n' : `__atomic_fetch_${fn}`;
  scope.let(inst.result, `${builtin}(${place}, ${value}, __ATOMIC_RELAXED)`);
}

/** Returns the old value; GCC's builtin through a helper of the prelude. */
export function compareExchange(scope: Scope, inst: Inst<'atomic_compare_exchange'>): void {
  const exchange = atomics.compareExchange(scope.prelude, atomicScalar(scope, inst.memory));
  const place = `${scope.memory(inst.memory)} + ${scope.c(inst.index)}`;
  scope.let(inst.result, `${exchange}(${place}, ${scope.c(inst.expected)}, ${scope.c(inst.value)})`);
}
