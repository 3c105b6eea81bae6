/**
 * Builds Kernel IR. Every method returns the value of an instruction; equal pure instructions in scope are shared
 * (hash-consing), constants fold, integer identities apply, and integer results carry their interval.
 */
import type { EngineInst, KSignal, KTensorMap, KTile } from './engines.js';
import { decideCompare, foldInteger } from './folding.js';
import { binaryInterval, fitted } from './intervals.js';
import {
  type AtomicFn,
  type BinaryFn,
  type Builtin,
  type ByteType,
  type Carried,
  type CompareFn,
  type HelperFunction,
  isFloatScalar,
  isIntScalar,
  type KArray,
  type KBlock,
  type KBuffer,
  type KernelFunction,
  type KInst,
  type KMemory,
  type KParam,
  type KScalar,
  type KType,
  type KValue,
  ktype,
  type Lanes,
  type MathBinaryFn,
  type Range,
  type ScalarType,
  type SubgroupFn,
  sameType,
  scalarBits,
  type UnaryFn,
} from './types.js';
import { type PureBody, ValueTable } from './value_table.js';

const intRanges: Partial<Record<ScalarType, Range>> = {
  i8: { min: -128, max: 127 },
  u8: { min: 0, max: 255 },
  i16: { min: -32768, max: 32767 },
  u16: { min: 0, max: 65535 },
  i32: { min: -2147483648, max: 2147483647 },
  u32: { min: 0, max: 4294967295 },
};

/** The interval of an integer value: what is known, else its type's; undefined for 64-bit values nothing is known of. */
export const rangeOf = (value: KValue): Range | undefined => value.range ?? intRanges[value.type.scalar];

export class KernelBuilder {
  readonly #params: KParam[] = [];
  readonly #arrays: KArray[] = [];
  readonly #tiles: KTile[] = [];
  readonly #signals: KSignal[] = [];
  readonly #maps: KTensorMap[] = [];
  readonly #helpers = new Map<string, HelperFunction>();
  /** Instructions of the open blocks, innermost last. */
  #blocks: KInst[][] = [[]];
  #table = new ValueTable();
  readonly #constants = new Map<KValue, number | bigint>();
  #nextId = 0;

  // --- parameters and arrays -------------------------------------------------------------------------------------

  buffer(name: string, scalar: ScalarType, length: number, access: KBuffer['access']): KBuffer {
    const buffer: KBuffer = { kind: 'buffer', name, scalar, length, access };
    this.#params.push(buffer);
    return buffer;
  }

  /** `range`: what dispatches promise to pass. */
  scalar(name: string, scalar: KScalar['scalar'], range?: Range): KValue {
    const param: KScalar = range ? { kind: 'scalar', name, scalar, range } : { kind: 'scalar', name, scalar };
    this.declareScalar(param);
    return this.emit({ op: 'scalar', param }, ktype(scalar), range);
  }

  /** Declares the scalar parameter of a kernel that is being rebuilt; its `scalar` instructions name this object. */
  declareScalar(param: KScalar): void {
    this.#params.push(param);
  }

  array(name: string, space: KArray['space'], scalar: ScalarType, length: number): KArray {
    const array: KArray = { kind: 'array', name, space, scalar, length };
    this.#arrays.push(array);
    return array;
  }

  /** A matrix of every subgroup. */
  tile(description: Omit<KTile, 'kind'>): KTile {
    const tile: KTile = { ...description, kind: 'tile' };
    this.#tiles.push(tile);
    return tile;
  }

  signal(name: string, count: number): KSignal {
    const signal: KSignal = { kind: 'signal', name, count };
    this.#signals.push(signal);
    return signal;
  }

  tensorMap(description: Omit<KTensorMap, 'kind'>): KTensorMap {
    const map: KTensorMap = { ...description, kind: 'tensor_map' };
    this.#maps.push(map);
    return map;
  }

  // --- constants -------------------------------------------------------------------------------------------------

  constant(value: number | bigint | boolean, scalar: ScalarType = 'i32', lanes: Lanes = 1): KValue {
    const number = typeof value === 'boolean' ? Number(value) : value;
    const numeric = Number(number);
    const range = isIntScalar(scalar) && Number.isSafeInteger(numeric) ? { min: numeric, max: numeric } : undefined;
    const result = this.emit({ op: 'const', value: number }, ktype(scalar, lanes), range);
    this.#constants.set(result, number);
    return result;
  }

  /** The constant that `value` is known to be, or undefined. */
  constantOf(value: KValue): number | bigint | undefined {
    return this.#constants.get(value);
  }

  // --- invocation ------------------------------------------------------------------------------------------------

  /** `extent` is the grid's or workgroup's size in that dimension. */
  builtin(builtin: Builtin, dim: 0 | 1 | 2, extent: number): KValue {
    if (extent === 1) return this.constant(0);
    return this.emit({ op: 'builtin', builtin, dim }, ktype('i32'), { min: 0, max: extent - 1 });
  }

  // --- arithmetic ------------------------------------------------------------------------------------------------

  unary(fn: UnaryFn, a: KValue, fast?: boolean): KValue {
    const constant = this.constantOf(a);
    if (fn === 'neg' && isIntScalar(a.type.scalar)) {
      if (constant !== undefined && typeof constant === 'number') return this.#wrapped(-constant, a.type);
      const range = rangeOf(a);
      return this.emit(
        { op: 'unary', fn, a },
        a.type,
        range && fitted({ min: -range.max, max: -range.min }, a.type.scalar),
      );
    }
    if (fn === 'not' && a.type.scalar === 'bool' && constant !== undefined) {
      return this.constant(!constant, 'bool', a.type.lanes);
    }
    if (fn === 'popcount' || fn === 'clz') {
      return this.emit({ op: 'unary', fn, a }, a.type, { min: 0, max: scalarBits[a.type.scalar] });
    }
    if (fn === 'abs' && a.range && a.range.min >= 0) return a;
    return this.emit(fast ? { op: 'unary', fn, a, fast } : { op: 'unary', fn, a }, a.type);
  }

  binary(fn: BinaryFn | MathBinaryFn, a: KValue, b: KValue, fast?: boolean): KValue {
    if (!sameType(a.type, b.type)) throw new Error(`${fn} of ${show(a.type)} and ${show(b.type)}`);
    if (isIntScalar(a.type.scalar)) return this.#integerBinary(fn as BinaryFn, a, b);
    if (a.type.scalar === 'bool') {
      const folded = this.#boolBinary(fn, a, b);
      if (folded) return folded;
    }
    return this.emit(fast ? { op: 'binary', fn, a, b, fast } : { op: 'binary', fn, a, b }, a.type);
  }

  add(a: KValue, b: KValue): KValue {
    return this.binary('add', a, b);
  }
  sub(a: KValue, b: KValue): KValue {
    return this.binary('sub', a, b);
  }
  mul(a: KValue, b: KValue): KValue {
    return this.binary('mul', a, b);
  }
  div(a: KValue, b: KValue): KValue {
    return this.binary('div', a, b);
  }
  rem(a: KValue, b: KValue): KValue {
    return this.binary('rem', a, b);
  }
  min(a: KValue, b: KValue): KValue {
    return this.binary('min', a, b);
  }
  max(a: KValue, b: KValue): KValue {
    return this.binary('max', a, b);
  }
  and(a: KValue, b: KValue): KValue {
    return this.binary('and', a, b);
  }
  or(a: KValue, b: KValue): KValue {
    return this.binary('or', a, b);
  }
  fma(a: KValue, b: KValue, c: KValue): KValue {
    return this.emit({ op: 'fma', a, b, c }, a.type);
  }

  /** c + Σ of the products of four bytes of `a` and `b` (u32), in i32; `left` and `right` say which are signed. */
  dot4(a: KValue, b: KValue, c: KValue, left: ByteType, right: ByteType): KValue {
    return this.emit({ op: 'dot4', a, b, c, left, right }, c.type);
  }

  /** Integer helpers with a constant second operand of `a`'s type. */
  addc(a: KValue, c: number): KValue {
    return this.add(a, this.constant(c, a.type.scalar, a.type.lanes));
  }
  mulc(a: KValue, c: number): KValue {
    return this.mul(a, this.constant(c, a.type.scalar, a.type.lanes));
  }
  divc(a: KValue, c: number): KValue {
    return this.div(a, this.constant(c, a.type.scalar, a.type.lanes));
  }
  remc(a: KValue, c: number): KValue {
    return this.rem(a, this.constant(c, a.type.scalar, a.type.lanes));
  }

  compare(fn: CompareFn, a: KValue, b: KValue): KValue {
    if (!sameType(a.type, b.type)) throw new Error(`${fn} of ${show(a.type)} and ${show(b.type)}`);
    const type = ktype('bool', a.type.lanes);
    if (isIntScalar(a.type.scalar)) {
      const decided = decideCompare(fn, rangeOf(a), rangeOf(b));
      if (decided !== undefined) return this.constant(decided, 'bool', a.type.lanes);
    }
    return this.emit({ op: 'compare', fn, a, b }, type);
  }

  select(condition: KValue, a: KValue, b: KValue): KValue {
    const known = this.constantOf(condition);
    if (known !== undefined) return known ? a : b;
    if (a === b) return a;
    const ra = rangeOf(a);
    const rb = rangeOf(b);
    const range = ra && rb && { min: Math.min(ra.min, rb.min), max: Math.max(ra.max, rb.max) };
    return this.emit({ op: 'select', condition, a, b }, a.type, range);
  }

  convert(a: KValue, scalar: ScalarType): KValue {
    if (a.type.scalar === scalar) return a;
    const constant = this.constantOf(a);
    if (constant !== undefined && isIntScalar(a.type.scalar) && isIntScalar(scalar) && typeof constant === 'number') {
      const range = intRanges[scalar];
      if (!range || (constant >= range.min && constant <= range.max)) {
        return this.constant(scalarBits[scalar] === 64 ? BigInt(constant) : constant, scalar, a.type.lanes);
      }
    }
    if (constant !== undefined && a.type.scalar !== 'bool' && (scalar === 'f32' || scalar === 'f64')) {
      const value = scalar === 'f32' ? Math.fround(Number(constant)) : Number(constant);
      if (value === Number(constant)) return this.constant(value, scalar, a.type.lanes);
    }
    const type = ktype(scalar, a.type.lanes);
    let range: Range | undefined;
    if (isIntScalar(scalar) && a.type.scalar === 'bool') range = { min: 0, max: 1 };
    else if (isIntScalar(scalar) && isIntScalar(a.type.scalar)) {
      const known = rangeOf(a);
      range = known && fitted(known, type.scalar);
    }
    return this.emit({ op: 'convert', a }, type, range);
  }

  bitcast(a: KValue, type: KType): KValue {
    return sameType(a.type, type) ? a : this.emit({ op: 'bitcast', a }, type);
  }
  splat(a: KValue, lanes: Lanes): KValue {
    if (lanes === 1) return a;
    const constant = this.constantOf(a);
    if (constant !== undefined) return this.constant(constant, a.type.scalar, lanes);
    return this.emit({ op: 'splat', a }, ktype(a.type.scalar, lanes), a.range);
  }
  extract(a: KValue, lane: number): KValue {
    return a.type.lanes === 1 ? a : this.emit({ op: 'extract', a, lane }, ktype(a.type.scalar), a.range);
  }
  build(elements: readonly KValue[]): KValue {
    const [first] = elements;
    if (elements.length === 1) return first;
    return this.emit({ op: 'build', elements }, ktype(first.type.scalar, elements.length as Lanes));
  }

  /** States that `a` lies in [min, max]; an enclosing condition must imply it. */
  assume(a: KValue, min: number, max: number): KValue {
    const range = rangeOf(a);
    if (range && range.min >= min && range.max <= max) return a;
    const tight = range ? { min: Math.max(min, range.min), max: Math.min(max, range.max) } : { min, max };
    return this.emit({ op: 'assume', a }, a.type, tight);
  }

  /** min(max(a, low), high) on integers. */
  clamp(a: KValue, low: number, high: number): KValue {
    const { scalar, lanes } = a.type;
    return this.min(this.max(a, this.constant(low, scalar, lanes)), this.constant(high, scalar, lanes));
  }

  // --- memory ----------------------------------------------------------------------------------------------------

  load(memory: KMemory, index: KValue, lanes: Lanes = 1, aligned = false): KValue {
    const type = ktype(memory.scalar, lanes);
    const body = { op: 'load', memory, index, aligned: aligned || lanes === 1 } as const;
    // Only memory that nobody writes in this kernel may be read once for two uses.
    if (memory.kind === 'buffer' && memory.access === 'read') return this.emit(body, type);
    return this.#append(body, type);
  }

  store(memory: KMemory, index: KValue, value: KValue, aligned = false): void {
    if (value.type.scalar !== memory.scalar) {
      throw new Error(`store of ${show(value.type)} into ${memory.name}: ${memory.scalar}`);
    }
    this.#current.push({ op: 'store', memory, index, value, aligned: aligned || value.type.lanes === 1 });
  }

  atomic(fn: AtomicFn, memory: KMemory, index: KValue, value: KValue): KValue {
    return this.#append({ op: 'atomic', fn, memory, index, value }, value.type);
  }
  compareExchange(memory: KMemory, index: KValue, expected: KValue, value: KValue): KValue {
    return this.#append({ op: 'atomic_compare_exchange', memory, index, expected, value }, value.type);
  }
  barrier(): void {
    this.#current.push({ op: 'barrier' });
  }
  /** Matrix tiles and asynchronous copies (`engines.ts`): ops without a result. */
  engine(inst: EngineInst): void {
    this.#current.push(inst);
  }
  subgroup(fn: SubgroupFn, a: KValue, delta = 0): KValue {
    // A sum leaves the interval, and a shuffle may read a lane that does not exist.
    const keepsRange = fn === 'min' || fn === 'max' || fn === 'broadcast_first';
    return this.#append({ op: 'subgroup', fn, a, delta }, a.type, keepsRange ? a.range : undefined);
  }

  // --- control ---------------------------------------------------------------------------------------------------

  /** Carries `initial` through `for (index = lower; index < upper; index += step)`; returns the final values. */
  for(
    lower: KValue | number,
    upper: KValue | number,
    step: number,
    initial: readonly KValue[],
    body: (index: KValue, carried: readonly KValue[]) => readonly KValue[] | void,
    options: { unroll?: boolean } = {},
  ): readonly KValue[] {
    // A number counts in the type of the other bound.
    const { scalar } = [lower, upper].find((bound) => typeof bound !== 'number')?.type ?? ktype('i32');
    const low = typeof lower === 'number' ? this.constant(lower, scalar) : lower;
    const high = typeof upper === 'number' ? this.constant(upper, scalar) : upper;
    if (!sameType(low.type, high.type)) throw new Error(`for from ${show(low.type)} to ${show(high.type)}`);
    const lowRange = rangeOf(low);
    const highRange = rangeOf(high);
    if (lowRange && highRange) {
      if (lowRange.min >= highRange.max) return initial;
      const once = lowRange.min === lowRange.max && highRange.max - lowRange.min <= step;
      if (once && highRange.min > lowRange.max) return body(low, initial) ?? initial;
    }
    const exact = lowRange && highRange && lowRange.min === lowRange.max && highRange.min === highRange.max;
    const last = exact
      ? lowRange.min + Math.floor((highRange.max - 1 - lowRange.min) / step) * step
      : highRange && highRange.max - 1;
    const index = this.#value(low.type, lowRange && last !== undefined ? { min: lowRange.min, max: last } : undefined);
    const inner = initial.map((value) => this.#value(value.type));
    const block = this.#block(() => body(index, inner) ?? []);
    if (block.yields.length !== initial.length) throw new Error('a loop must yield as many values as it carries');
    const carried: Carried[] = initial.map((value, i) => ({
      initial: value,
      inner: inner[i],
      result: this.#value(value.type),
    }));
    this.#current.push({
      op: 'for',
      index,
      lower: low,
      upper: high,
      step,
      carried,
      body: block,
      ...(options.unroll ? { unroll: true } : {}),
    });
    return carried.map((c) => c.result);
  }

  /** Runs the body, again while the condition it returns is true. */
  loop(
    initial: readonly KValue[],
    body: (carried: readonly KValue[]) => { condition: KValue; next: readonly KValue[] },
  ): readonly KValue[] {
    const inner = initial.map((value) => this.#value(value.type));
    let condition: KValue | undefined;
    const block = this.#block(() => {
      const out = body(inner);
      condition = out.condition;
      return out.next;
    });
    const carried: Carried[] = initial.map((value, i) => ({
      initial: value,
      inner: inner[i],
      result: this.#value(value.type),
    }));
    this.#current.push({ op: 'loop', carried, body: block, condition: condition as KValue });
    return carried.map((c) => c.result);
  }

  if(
    condition: KValue,
    then: () => readonly KValue[] | void,
    otherwise: () => readonly KValue[] | void = () => undefined,
  ): readonly KValue[] {
    const known = this.constantOf(condition);
    if (known !== undefined) return (known ? then() : otherwise()) ?? [];
    const thenBlock = this.#block(() => then() ?? []);
    const elseBlock = this.#block(() => otherwise() ?? []);
    if (thenBlock.yields.length !== elseBlock.yields.length) throw new Error('both arms of an if must yield alike');
    const results = thenBlock.yields.map((value, i) => {
      const [a, b] = [rangeOf(value), rangeOf(elseBlock.yields[i])];
      return this.#value(value.type, a && b && { min: Math.min(a.min, b.min), max: Math.max(a.max, b.max) });
    });
    this.#current.push({ op: 'if', condition, then: thenBlock, else: elseBlock, results });
    return results;
  }

  // --- helper functions ------------------------------------------------------------------------------------------

  /** Calls the helper `name`, defining it with `body` on first use. Names identify bodies within a kernel. */
  call(name: string, args: readonly KValue[], result: KType, body: (params: readonly KValue[]) => KValue): KValue {
    let callee = this.#helpers.get(name);
    if (!callee) {
      const [blocks, table] = [this.#blocks, this.#table];
      const instructions: KInst[] = [];
      this.#blocks = [instructions];
      this.#table = new ValueTable();
      const params = args.map((arg) => this.#value(arg.type));
      const value = body(params);
      [this.#blocks, this.#table] = [blocks, table];
      callee = { name, params, result, body: { instructions, yields: [value] } };
      this.#helpers.set(name, callee);
    }
    return this.emit({ op: 'call', callee, args }, result);
  }

  // --- finish ----------------------------------------------------------------------------------------------------

  finish(options: {
    name: string;
    sources?: readonly string[];
    grid: readonly [number, number, number];
    workgroup: readonly [number, number, number];
    subgroupSize?: number;
  }): KernelFunction {
    return {
      name: options.name,
      sources: options.sources ?? [],
      grid: options.grid,
      workgroup: options.workgroup,
      params: this.#params,
      arrays: this.#arrays,
      tiles: this.#tiles,
      signals: this.#signals,
      maps: this.#maps,
      helpers: [...this.#helpers.values()],
      body: { instructions: this.#blocks[0], yields: [] },
      ...(options.subgroupSize === undefined ? {} : { subgroupSize: options.subgroupSize }),
    };
  }

  // --- internals -------------------------------------------------------------------------------------------------

  /** Appends a pure instruction, or returns the value of an equal one in scope. */
  emit(body: PureBody, type: KType, range?: Range): KValue {
    const slot = this.#table.slot(body, type, range);
    const known = slot.table.get(slot.key);
    if (known) return known;
    const value = this.#append(body, type, range);
    this.#table.enter(slot, value);
    return value;
  }

  get #current(): KInst[] {
    return this.#blocks[this.#blocks.length - 1];
  }

  #append(body: PureBody, type: KType, range?: Range): KValue {
    const result = this.#value(type, range);
    this.#current.push({ ...body, result } as KInst);
    return result;
  }

  #value(type: KType, range?: Range): KValue {
    const id = this.#nextId++;
    return range && isIntScalar(type.scalar) ? { id, type, range } : { id, type };
  }

  #block(build: () => readonly KValue[]): KBlock {
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

  #wrapped(value: number, type: KType): KValue {
    const bits = scalarBits[type.scalar];
    if (bits === 64) {
      const wide = BigInt(value);
      return this.constant(
        type.scalar === 'i64' ? BigInt.asIntN(64, wide) : BigInt.asUintN(64, wide),
        type.scalar,
        type.lanes,
      );
    }
    const signed = type.scalar.startsWith('i');
    const wrapped = signed ? BigInt.asIntN(bits, BigInt(value)) : BigInt.asUintN(bits, BigInt(value));
    return this.constant(Number(wrapped), type.scalar, type.lanes);
  }

  #boolBinary(fn: string, a: KValue, b: KValue): KValue | undefined {
    const [x, y] = [this.constantOf(a), this.constantOf(b)];
    if (fn === 'and') {
      if (x !== undefined) return x ? b : a;
      if (y !== undefined) return y ? a : b;
      if (a === b) return a;
    }
    if (fn === 'or') {
      if (x !== undefined) return x ? a : b;
      if (y !== undefined) return y ? b : a;
      if (a === b) return a;
    }
    return undefined;
  }

  #integerBinary(fn: BinaryFn, a: KValue, b: KValue): KValue {
    const { type } = a;
    const x = this.constantOf(a);
    const y = this.constantOf(b);
    if (typeof x === 'number' && typeof y === 'number') {
      const folded = foldInteger(fn, x, y);
      if (folded !== undefined && Number.isSafeInteger(folded)) return this.#wrapped(folded, type);
    }
    const zero = (c: number | bigint | undefined) => c !== undefined && Number(c) === 0;
    const one = (c: number | bigint | undefined) => c !== undefined && Number(c) === 1;
    const [ra, rb] = [rangeOf(a), rangeOf(b)];
    switch (fn) {
      case 'add':
        if (zero(y)) return a;
        if (zero(x)) return b;
        break;
      case 'sub':
        if (zero(y)) return a;
        if (a === b) return this.#wrapped(0, type);
        break;
      case 'mul':
        if (one(y) || zero(x)) return a;
        if (one(x) || zero(y)) return b;
        break;
      case 'div':
        if (one(y)) return a;
        if (ra && rb && ra.min >= 0 && ra.max < rb.min) return this.#wrapped(0, type);
        break;
      case 'rem':
        if (one(y)) return this.#wrapped(0, type);
        if (ra && rb && ra.min >= 0 && ra.max < rb.min) return a;
        break;
      case 'min':
        if (ra && rb && ra.max <= rb.min) return a;
        if (ra && rb && rb.max <= ra.min) return b;
        break;
      case 'max':
        if (ra && rb && ra.min >= rb.max) return a;
        if (ra && rb && rb.min >= ra.max) return b;
        break;
      case 'shl':
      case 'shr':
        if (zero(y)) return a;
        break;
      case 'and':
        if (zero(x) || zero(y)) return this.#wrapped(0, type);
        break;
      case 'or':
      case 'xor':
        if (zero(y)) return a;
        if (zero(x)) return b;
        break;
      case 'mulhi':
        break;
      default:
        fn satisfies never;
    }
    return this.emit({ op: 'binary', fn, a, b }, type, binaryInterval(fn, ra, rb, type.scalar));
  }
}

const show = (type: KType): string => (type.lanes === 1 ? type.scalar : `${type.scalar}x${type.lanes}`);

export { isFloatScalar, isIntScalar };
