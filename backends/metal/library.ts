/**
 * Functions in MSL that give Kernel IR ops their exact meaning where the language's own do not: NaN in min and max,
 * saturating conversions, one rounding from 64-bit integers, SIMD-group reductions in a fixed order.
 */
import { isFloatScalar, isSignedScalar, type KType, type ScalarType, scalarBits } from '../../compiler/kernel/types.js';
import { literal, perLane, typeName, withScalar, wrappingType } from './msl.js';
import { simdWidth } from './target.js';

/**
 * `min max` on floats; `to` saturates floats into the integer type; `to_float` takes 64-bit integers; `shuffle…` moves
 * types that SIMD-group functions do not take; `add_all …` reduce over a whole SIMD-group, `add_active …` over the lanes
 * that are active; `exchange_if_equal` and `exchange_if_equal_shared` are the strong compare-exchange that MSL lacks.
 */
export type LibraryFunction =
  | 'min'
  | 'max'
  | 'to'
  | 'to_float'
  | 'shuffle'
  | 'shuffle_xor'
  | 'shuffle_down'
  | 'broadcast_first'
  | 'add_all'
  | 'min_all'
  | 'max_all'
  | 'add_active'
  | 'min_active'
  | 'max_active'
  | 'exchange_if_equal_device'
  | 'exchange_if_equal_threadgroup';

/** Asks for a function; gives its name. `type` is that of the result, for `to_float` that of the operand. */
export type Use = (fn: LibraryFunction, type: KType) => string;

export const libraryName = (fn: LibraryFunction, type: KType): string => `tutti_${fn}_${typeName(type)}`;

const scalarOf = ({ scalar }: KType): KType => ({ scalar, lanes: 1 });

/** `condition ? a : b`, lane by lane if the condition is a vector. The operands are names or literals. */
export function choose(type: KType, conditionLanes: number, condition: string, a: string, b: string): string {
  if (conditionLanes === 1) return `${condition} ? ${a} : ${b}`;
  if (type.scalar === 'bool') return `(${condition} & ${a}) | (!${condition} & ${b})`;
  // `select` is not defined for vectors of 64-bit integers.
  if (scalarBits[type.scalar] === 64) return perLane(type, (c) => `(${condition})${c} ? ${a}${c} : ${b}${c}`);
  return `select(${b}, ${a}, ${condition})`;
}

export function libraryText(fn: LibraryFunction, type: KType, use: Use): string {
  const name = libraryName(fn, type);
  const t = typeName(type);
  switch (fn) {
    case 'min':
    case 'max':
      return minMaxText(name, fn, type);
    case 'to':
      return saturateText(name, type);
    case 'to_float':
      return toFloatText(name, type, use);
    case 'shuffle':
    case 'shuffle_xor':
    case 'shuffle_down':
      return `static inline ${t} ${name}(${t} a, ushort lane) { return ${moved(type, (a) => `simd_${fn}(${a}, lane)`)}; }`;
    case 'broadcast_first':
      return `static inline ${t} ${name}(${t} a) { return ${moved(type, (a) => `simd_broadcast_first(${a})`)}; }`;
    case 'add_all':
    case 'min_all':
    case 'max_all': {
      // A butterfly: the same order on every device.
      const shuffled = shuffle('shuffle_xor', type, 'a', 'distance', use);
      return `static inline ${t} ${name}(${t} a) {
  for (ushort distance = 1; distance < ${simdWidth}; distance *= 2) {
    const ${t} other = ${shuffled};
    a = ${combined(fn, type, 'a', 'other', use)};
  }
  return a;
}`;
    }
    case 'add_active':
    case 'min_active':
    case 'max_active': {
      const from = shuffle('shuffle', type, 'a', 'ushort(ctz(left))', use);
      return `static inline ${t} ${name}(${t} a) {
  uint left = uint(ulong(simd_vote::vote_t(simd_active_threads_mask())));
  ${t} total = ${from};
  for (left &= left - 1; left != 0; left &= left - 1) {
    const ${t} other = ${from};
    total = ${combined(fn, type, 'total', 'other', use)};
  }
  return total;
}`;
    }
    case 'exchange_if_equal_device':
    case 'exchange_if_equal_threadgroup': {
      const space = fn === 'exchange_if_equal_device' ? 'device' : 'threadgroup';
      // MSL has only the weak form, which may fail for no reason: again until it fails for one.
      return `static inline ${t} ${name}(${space} atomic_${t}* place, ${t} expected, ${t} value) {
  ${t} seen = expected;
  while (!atomic_compare_exchange_weak_explicit(place, &seen, value, memory_order_relaxed, memory_order_relaxed)) {
    if (seen != expected) break;
  }
  return seen;
}`;
    }
    default:
      return fn satisfies never;
  }
}

/** MSL's own drop NaN. Equal operands can differ as zeros of two signs: the bits decide. */
function minMaxText(name: string, fn: 'min' | 'max', type: KType): string {
  const t = typeName(type);
  const bits = typeName(withScalar(type, `u${scalarBits[type.scalar]}` as ScalarType));
  const pick = (condition: string, a: string, b: string): string => choose(type, type.lanes, condition, a, b);
  const [first, second] = fn === 'min' ? ['a < b', 'b < a'] : ['b < a', 'a < b'];
  const operator = fn === 'min' ? '|' : '&';
  const equal = `as_type<${t}>(${bits}(as_type<${bits}>(a) ${operator} as_type<${bits}>(b)))`;
  const lines = [
    // A NaN's bits, or-ed with others, are those of a NaN; and-ed they need not be.
    `  ${t} result = ${fn === 'min' ? equal : pick('a == b', equal, '(a + b)')};`,
    `  result = ${pick(second, 'b', 'result')};`,
    `  return ${pick(first, 'a', 'result')};`,
  ];
  return `static inline ${t} ${name}(${t} a, ${t} b) {\n${lines.join('\n')}\n}`;
}

function saturateText(name: string, type: KType): string {
  const t = typeName(type);
  const float = withScalar(type, 'f32');
  const f = typeName(float);
  const signed = isSignedScalar(type.scalar);
  const size = BigInt(scalarBits[type.scalar]);
  const [least, most] = signed ? [-(1n << (size - 1n)), (1n << (size - 1n)) - 1n] : [0n, (1n << size) - 1n];
  const [low, high] = [literal(float, Number(least)), literal(float, Number(most + 1n))];
  const pick = (of: KType, condition: string, a: string, b: string): string => choose(of, of.lanes, condition, a, b);
  const inside = type.lanes === 1 ? `a > ${low} && a < ${high}` : `(a > ${low}) & (a < ${high})`;
  const lines = [
    // Outside the range a conversion is undefined; NaN compares false and becomes 0.
    `  const ${f} safe = ${pick(float, inside, 'a', literal(float, 0))};`,
    `  ${t} result = ${t}(safe);`,
    ...(signed ? [`  result = ${pick(type, `a <= ${low}`, literal(type, least), 'result')};`] : []),
    `  return ${pick(type, `a >= ${high}`, literal(type, most), 'result')};`,
  ];
  return `static inline ${t} ${name}(${f} a) {\n${lines.join('\n')}\n}`;
}

/** The 32 highest bits, the last of them set if any below is, round as the whole does. */
function toFloatText(name: string, type: KType, use: Use): string {
  const t = typeName(type);
  const f = typeName(withScalar(type, 'f32'));
  if (type.lanes > 1) {
    const one = use('to_float', scalarOf(type));
    const lanes = perLane(withScalar(type, 'f32'), (c) => `${one}(a${c})`);
    return `static inline ${f} ${name}(${t} a) { return ${lanes}; }`;
  }
  if (type.scalar === 'i64') {
    const magnitude = use('to_float', { scalar: 'u64', lanes: 1 });
    return `static inline float ${name}(long a) { return a < 0 ? -${magnitude}(0ul - ulong(a)) : ${magnitude}(ulong(a)); }`;
  }
  return `static inline float ${name}(ulong a) {
  const uint high = uint(a >> 32);
  if (high == 0u) return float(uint(a));
  const uint shift = clz(high);
  const ulong normal = a << shift;
  const uint top = uint(normal >> 32) | (uint(normal) != 0u ? 1u : 0u);
  return float(top) * as_type<float>((159u - shift) << 23);
}`;
}

// --- SIMD-groups -----------------------------------------------------------------------------------------------------

/** SIMD-group functions take vectors of numbers of up to 32 bits: 64-bit ones go as two words, bools as one. */
function moved(type: KType, move: (a: string) => string): string {
  const { scalar, lanes } = type;
  const t = typeName(type);
  if (scalar === 'bool') {
    const u = typeName(withScalar(type, 'u32'));
    return `${move(choose(withScalar(type, 'u32'), lanes, 'a', `${u}(1u)`, `${u}(0u)`))} != ${u}(0u)`;
  }
  if (scalarBits[scalar] < 64) return move('a');
  if (lanes === 4)
    return perLane(type, (c) => `as_type<${typeName(scalarOf(type))}>(${move(`as_type<uint2>(a${c})`)})`);
  return `as_type<${t}>(${move(`as_type<uint${2 * lanes}>(a)`)})`;
}

/** Whether SIMD-group functions take values of the type as they are. */
export const movesAsIs = ({ scalar }: KType): boolean => scalar !== 'bool' && scalarBits[scalar] < 64;

type Shuffle = 'shuffle' | 'shuffle_xor' | 'shuffle_down';
export const shuffle = (fn: Shuffle, type: KType, a: string, lane: string, use: Use): string =>
  `${movesAsIs(type) ? `simd_${fn}` : use(fn, type)}(${a}, ${lane})`;

function combined(fn: LibraryFunction, type: KType, a: string, b: string, use: Use): string {
  const t = typeName(type);
  if (fn.startsWith('add')) {
    if (isFloatScalar(type.scalar)) return `${a} + ${b}`;
    const wide = typeName(wrappingType(type));
    return `${t}(${wide}(${a}) + ${wide}(${b}))`;
  }
  const least = fn.startsWith('min');
  if (isFloatScalar(type.scalar)) return `${use(least ? 'min' : 'max', type)}(${a}, ${b})`;
  return choose(type, type.lanes, least ? `${b} < ${a}` : `${a} < ${b}`, b, a);
}
