/** The names that the text of a kernel may contain, as lists that the type checker keeps complete. */
import type {
  AtomicFn,
  BinaryFn,
  Builtin,
  ByteType,
  CompareFn,
  KArray,
  KBuffer,
  KScalar,
  MathBinaryFn,
  SubgroupFn,
  UnaryFn,
} from './types.js';

/** A list of every name of `T`; one that lacks a name does not type-check. */
export const allNames =
  <T extends string>() =>
  <const L extends readonly T[]>(list: L & ([T] extends [L[number]] ? unknown : 'a name is missing')): readonly T[] =>
    list;

// biome-ignore format: one line a family
export const unaryFns = allNames<UnaryFn>()([
  'neg', 'abs', 'not', 'floor', 'ceil', 'round', 'trunc', 'sqrt', 'popcount', 'clz',
  'exp', 'exp2', 'log', 'log2', 'sin', 'cos', 'tan', 'asin', 'acos', 'atan',
  'sinh', 'cosh', 'asinh', 'acosh', 'atanh', 'tanh', 'erf',
]);
// biome-ignore format: one line a family
export const binaryFns = allNames<BinaryFn | MathBinaryFn>()([
  'add', 'sub', 'mul', 'div', 'rem', 'min', 'max', 'and', 'or', 'xor', 'shl', 'shr', 'mulhi',
  'pow', 'atan2',
]);
export const compareFns = allNames<CompareFn>()(['eq', 'ne', 'lt', 'le', 'gt', 'ge']);
export const atomicFns = allNames<AtomicFn>()(['add', 'min', 'max', 'and', 'or', 'xor', 'exchange']);
export const subgroupFns = allNames<SubgroupFn>()([
  'add',
  'min',
  'max',
  'broadcast',
  'broadcast_first',
  'shuffle_xor',
  'shuffle_down',
]);
export const builtins = allNames<Builtin>()(['workgroup_id', 'local_id', 'subgroup_lane', 'subgroup_size']);
export const accesses = allNames<KBuffer['access']>()(['read', 'write', 'readwrite']);
export const spaces = allNames<KArray['space']>()(['shared', 'private']);
export const byteTypes = allNames<ByteType>()(['i8', 'u8']);
export const paramScalars = allNames<KScalar['scalar']>()(['u32', 'i32', 'f32']);
