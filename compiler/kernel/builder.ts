/**
 * Builds Kernel IR: parameters, memory, control and helper functions; `builder/` has arithmetic, and where instructions
 * go. Every method returns the value of an instruction; equal pure instructions in scope are shared (hash-consing),
 * constants fold, integer identities apply, and integer results carry their interval.
 */
import { ArithmeticBuilder } from './builder/arithmetic.js';
import type { EngineInst, KSignal, KTensorMap, KTile } from './engines.js';
import { join, rangeOf } from './intervals.js';
import { printType } from './text.js';
import {
  type AtomicFn,
  type Builtin,
  type Carried,
  type HelperFunction,
  type KArray,
  type KBuffer,
  type KernelFunction,
  type KMemory,
  type KParam,
  type KScalar,
  type KType,
  type KValue,
  ktype,
  type Lanes,
  type Range,
  type ScalarType,
  type SubgroupFn,
  sameType,
} from './types.js';

export { rangeOf };

export class KernelBuilder extends ArithmeticBuilder {
  readonly #params: KParam[] = [];
  readonly #arrays: KArray[] = [];
  readonly #tiles: KTile[] = [];
  readonly #signals: KSignal[] = [];
  readonly #maps: KTensorMap[] = [];
  readonly #helpers = new Map<string, HelperFunction>();

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

  // --- invocation ------------------------------------------------------------------------------------------------

  /** `extent` is the grid's or workgroup's size in that dimension. */
  builtin(builtin: Builtin, dim: 0 | 1 | 2, extent: number): KValue {
    if (extent === 1) return this.constant(0);
    return this.emit({ op: 'builtin', builtin, dim }, ktype('i32'), { min: 0, max: extent - 1 });
  }

  // --- memory ----------------------------------------------------------------------------------------------------

  load(memory: KMemory, index: KValue, lanes: Lanes = 1, aligned = false): KValue {
    const type = ktype(memory.scalar, lanes);
    const body = { op: 'load', memory, index, aligned: aligned || lanes === 1 } as const;
    // Only memory that nobody writes in this kernel may be read once for two uses.
    if (memory.kind === 'buffer' && memory.access === 'read') return this.emit(body, type);
    return this.append(body, type);
  }

  store(memory: KMemory, index: KValue, value: KValue, aligned = false): void {
    if (value.type.scalar !== memory.scalar) {
      throw new Error(`store of ${printType(value.type)} into ${memory.name}: ${memory.scalar}`);
    }
    this.current.push({ op: 'store', memory, index, value, aligned: aligned || value.type.lanes === 1 });
  }

  atomic(fn: AtomicFn, memory: KMemory, index: KValue, value: KValue): KValue {
    return this.append({ op: 'atomic', fn, memory, index, value }, value.type);
  }
  compareExchange(memory: KMemory, index: KValue, expected: KValue, value: KValue): KValue {
    return this.append({ op: 'atomic_compare_exchange', memory, index, expected, value }, value.type);
  }
  barrier(): void {
    this.current.push({ op: 'barrier' });
  }
  /** Matrix tiles and asynchronous copies (`engines.ts`): ops without a result. */
  engine(inst: EngineInst): void {
    this.current.push(inst);
  }
  subgroup(fn: SubgroupFn, a: KValue, delta = 0): KValue {
    // A sum leaves the interval, and a shuffle may read a lane that does not exist.
    const keepsRange = fn === 'min' || fn === 'max' || fn === 'broadcast_first';
    return this.append({ op: 'subgroup', fn, a, delta }, a.type, keepsRange ? a.range : undefined);
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
    if (!sameType(low.type, high.type)) throw new Error(`for from ${printType(low.type)} to ${printType(high.type)}`);
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
    const index = this.value(low.type, lowRange && last !== undefined ? { min: lowRange.min, max: last } : undefined);
    const inner = initial.map((value) => this.value(value.type));
    const block = this.block(() => body(index, inner) ?? []);
    if (block.yields.length !== initial.length) throw new Error('a loop must yield as many values as it carries');
    const carried = this.#carried(initial, inner);
    this.current.push({
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
    const inner = initial.map((value) => this.value(value.type));
    let condition: KValue | undefined;
    const block = this.block(() => {
      const out = body(inner);
      condition = out.condition;
      return out.next;
    });
    const carried = this.#carried(initial, inner);
    this.current.push({ op: 'loop', carried, body: block, condition: condition as KValue });
    return carried.map((c) => c.result);
  }

  if(
    condition: KValue,
    then: () => readonly KValue[] | void,
    otherwise: () => readonly KValue[] | void = () => undefined,
  ): readonly KValue[] {
    const known = this.constantOf(condition);
    if (known !== undefined) return (known ? then() : otherwise()) ?? [];
    const thenBlock = this.block(() => then() ?? []);
    const elseBlock = this.block(() => otherwise() ?? []);
    if (thenBlock.yields.length !== elseBlock.yields.length) throw new Error('both arms of an if must yield alike');
    const results = thenBlock.yields.map((value, i) =>
      this.value(value.type, join(rangeOf(value), rangeOf(elseBlock.yields[i]))),
    );
    this.current.push({ op: 'if', condition, then: thenBlock, else: elseBlock, results });
    return results;
  }

  #carried(initial: readonly KValue[], inner: readonly KValue[]): Carried[] {
    return initial.map((value, i) => ({ initial: value, inner: inner[i], result: this.value(value.type) }));
  }

  // --- helper functions ------------------------------------------------------------------------------------------

  /** Calls the helper `name`, defining it with `body` on first use. Names identify bodies within a kernel. */
  call(name: string, args: readonly KValue[], result: KType, body: (params: readonly KValue[]) => KValue): KValue {
    let callee = this.#helpers.get(name);
    if (!callee) {
      const params = args.map((arg) => this.value(arg.type));
      const { instructions, built } = this.apart(() => body(params));
      callee = { name, params, result, body: { instructions, yields: [built] } };
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
      body: { instructions: this.current, yields: [] },
      ...(options.subgroupSize === undefined ? {} : { subgroupSize: options.subgroupSize }),
    };
  }
}
