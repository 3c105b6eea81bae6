/**
 * Rewrites a kernel, instruction by instruction, into one that a target can hold. Each value is represented by legal
 * values; how, depends on its type (and for 64-bit integers on its range):
 *
 * - native types: vectors of at most the target's lanes ("chunks");
 * - i8 i16 (u8 u16): chunks of i32 (u32) that hold the sign- (zero-) extended value;
 * - f16 bf16: chunks of f32 that hold a value of the half type;
 * - i64 u64 whose range lies in i32: chunks of i32 ("narrowed");
 * - other i64 u64, and f64: one u32x2 a lane, low word first.
 */
import { TuttiError } from '../../error.js';
import { bitsOfF64 } from '../../numeric.js';
import { KernelBuilder, rangeOf } from '../builder.js';
import { mathBinary, mathUnary } from '../math.js';
import type { Target } from '../target.js';
import {
  type BinaryFn,
  type CompareFn,
  type ExactUnaryFn,
  type HelperFunction,
  isMathFn,
  isSignedScalar,
  type KArray,
  type KBlock,
  type KBuffer,
  type KernelFunction,
  type KInst,
  type KMemory,
  type KScalar,
  type KType,
  type KValue,
  ktype,
  type Lanes,
  type MathBinaryFn,
  type MathFn,
  type Range,
  type ScalarType,
  scalarBits,
} from '../types.js';
import { visitInstructions } from '../walk.js';
import { type Half, halfBits, halfValue, oddSumF32 } from './float16.js';
import * as f64 from './float64.js';
import * as int64 from './int64.js';
import { rolled } from './rolled.js';
import { chunk, isNative, PackedMemory, type Storage, storageLength, storageOf } from './storage.js';
import { type Pair, pairType, Words } from './words.js';

/** Legal values that together represent one value of the kernel. */
interface Rep {
  readonly kind: 'chunks' | 'pairs';
  readonly type: KType;
  readonly parts: readonly KValue[];
}

type Inst<Op extends KInst['op']> = Extract<KInst, { readonly op: Op }>;

const i32Range: Range = { min: -(2 ** 31), max: 2 ** 31 - 1 };
const within = (range: Range | undefined, limits: Range): boolean =>
  range !== undefined && range.min >= limits.min && range.max <= limits.max;
const isHalf = (scalar: ScalarType): scalar is Half => scalar === 'f16' || scalar === 'bf16';
const isNarrow = (scalar: ScalarType): boolean =>
  scalar === 'i8' || scalar === 'u8' || scalar === 'i16' || scalar === 'u16';
const smallRange = (scalar: ScalarType): Range => {
  const bits = scalarBits[scalar];
  return isSignedScalar(scalar)
    ? { min: -(2 ** (bits - 1)), max: 2 ** (bits - 1) - 1 }
    : { min: 0, max: 2 ** bits - 1 };
};

export class Lowerer {
  readonly b = new KernelBuilder();
  readonly #w = new Words(this.b);
  readonly #values = new Map<KValue, Rep>();
  readonly #memories = new Map<KMemory, { readonly legal: KMemory; readonly storage: Storage }>();
  readonly #packed: PackedMemory;
  /** The bits that a rounded half value was made from, or a loaded one's. */
  readonly #halfBits = new Map<KValue, KValue>();
  /** Vectors built here from scalars, to take lanes from without an instruction. */
  readonly #built = new Map<KValue, readonly KValue[]>();
  /** What is known of values beyond what the verifier can derive: never claimed, only used here. */
  readonly #known = new Map<KValue, Range>();
  /** Set once a condition compares pairs of words: what it implies can no longer be seen. */
  #opaque = false;
  readonly #mathHelpers = new Map<string, HelperFunction>();

  constructor(
    readonly kernel: KernelFunction,
    readonly target: Target,
  ) {
    const single = [...kernel.grid, ...kernel.workgroup].every((extent) => extent === 1);
    this.#packed = new PackedMemory(
      this.b,
      target.vectorLanes,
      (memory) => single || (memory.kind === 'array' && memory.space === 'private'),
    );
  }

  run(): KernelFunction {
    const { kernel } = this;
    const mergedWrites = this.#findMergedWrites();
    for (const param of kernel.params) {
      if (param.kind === 'scalar') this.b.scalar(param.name, param.scalar);
      else this.#declareBuffer(param, mergedWrites.has(param));
    }
    for (const array of kernel.arrays) this.#declareArray(array);
    this.#instructions(kernel.body);
    return this.b.finish({
      name: kernel.name,
      sources: kernel.sources,
      grid: kernel.grid,
      workgroup: kernel.workgroup,
      ...(kernel.subgroupSize === undefined ? {} : { subgroupSize: kernel.subgroupSize }),
    });
  }

  // --- memory ------------------------------------------------------------------------------------------------------

  /** Buffers that are stored to in parts of words: those words are read too. */
  #findMergedWrites(): ReadonlySet<KMemory> {
    const found = new Set<KMemory>();
    visitInstructions(this.kernel.body, (inst) => {
      if (inst.op !== 'store') return;
      const { perWord } = storageOf(inst.memory.scalar, this.target);
      if (perWord > 1 && !(inst.aligned && inst.value.type.lanes >= perWord)) found.add(inst.memory);
    });
    return found;
  }

  #declareBuffer(buffer: KBuffer, merged: boolean): void {
    const storage = storageOf(buffer.scalar, this.target);
    const access = merged && buffer.access === 'write' ? 'readwrite' : buffer.access;
    const legal = this.b.buffer(buffer.name, storage.scalar, storageLength(buffer.length, storage), access);
    this.#memories.set(buffer, { legal, storage });
  }

  #declareArray(array: KArray): void {
    const storage = storageOf(array.scalar, this.target);
    const legal = this.b.array(array.name, array.space, storage.scalar, storageLength(array.length, storage));
    this.#memories.set(array, { legal, storage });
  }

  #memory(memory: KMemory): { readonly legal: KMemory; readonly storage: Storage } {
    const known = this.#memories.get(memory);
    if (!known) throw new Error(`kernel ${this.kernel.name}: ${memory.name} is not declared`);
    return known;
  }

  #load(inst: Inst<'load'>): Rep {
    const { legal, storage } = this.#memory(inst.memory);
    const { type } = inst.result;
    const index = this.#index(inst.index);
    const { b } = this;
    if (storage.perWord === 0.5) {
      const parts: KValue[] = [];
      for (let i = 0; i < type.lanes; i++) parts.push(this.#loadPair(legal, b.addc(index, i)));
      return this.#native(type.scalar) ? this.#fromPairs(type, parts) : { kind: 'pairs', type, parts };
    }
    if (storage.perWord === 1) {
      const width = this.#width(type.lanes);
      const parts: KValue[] = [];
      for (let i = 0; i < type.lanes; i += width) parts.push(b.load(legal, b.addc(index, i), width, inst.aligned));
      if (storage.scalar === type.scalar) {
        const held = this.#chunkScalar(type.scalar) as ScalarType;
        return this.#chunks(
          type,
          parts.map((part) => b.convert(part, held)),
        );
      }
      return this.#chunks(
        type,
        parts.map((part) => this.#fromBits(type.scalar, b.convert(part, 'u32'))),
      );
    }
    const bits = 32 / storage.perWord;
    const parts = this.#packed.load(legal, bits, index, type.lanes, inst.aligned);
    return this.#chunks(
      type,
      parts.map((part) => this.#fromBits(type.scalar, part)),
    );
  }

  #loadPair(memory: KMemory, index: KValue): KValue {
    const word = this.b.mulc(index, 2);
    if (this.target.vectorLanes >= 2) return this.b.load(memory, word, 2, true);
    return this.#w.pack({ lo: this.b.load(memory, word), hi: this.b.load(memory, this.b.addc(word, 1)) });
  }

  #store(inst: Inst<'store'>): void {
    const { legal, storage } = this.#memory(inst.memory);
    const { type } = inst.value;
    const index = this.#index(inst.index);
    const { b } = this;
    const rep = this.#get(inst.value);
    if (storage.perWord === 0.5) {
      this.#pairs(rep).forEach((pair, i) => {
        const word = b.mulc(b.addc(index, i), 2);
        if (this.target.vectorLanes >= 2) b.store(legal, word, pair, true);
        else {
          const { lo, hi } = this.#w.unpack(pair);
          b.store(legal, word, lo);
          b.store(legal, b.addc(word, 1), hi);
        }
      });
      return;
    }
    const parts = this.#whole(rep).parts;
    if (storage.scalar === type.scalar) {
      parts.forEach((part, i) => {
        b.store(legal, b.addc(index, i * part.type.lanes), b.convert(part, storage.scalar), inst.aligned);
      });
      return;
    }
    const bits = parts.map((part) => this.#toBits(type.scalar, part));
    if (storage.perWord === 1) {
      bits.forEach((part, i) => {
        b.store(legal, b.addc(index, i * part.type.lanes), b.convert(part, storage.scalar), inst.aligned);
      });
      return;
    }
    const elements = bits.flatMap((part) => this.#elements(part));
    this.#packed.store(legal, 32 / storage.perWord, index, elements, inst.aligned);
  }

  #atomicMemory(memory: KMemory): KMemory {
    const { legal, storage } = this.#memory(memory);
    if (storage.scalar === memory.scalar) return legal;
    throw new TuttiError('E_UNSUPPORTED', `atomic operation on ${memory.scalar} elements of ${memory.name}`, {
      subject: this.kernel.sources[0] ?? this.kernel.name,
      expected: 'i32 or u32 elements on this device',
      found: memory.scalar,
      remedy: 'Use another device, or an element type of 32 bits',
    });
  }

  /** Indices are 32-bit: those in 64-bit types are of memory that is there, so their low word says all. */
  #index(value: KValue): KValue {
    const rep = this.#get(value);
    if (rep.kind === 'pairs') return this.#w.signed(this.#w.unpack(rep.parts[0]).lo);
    return rep.parts[0];
  }

  // --- representations ---------------------------------------------------------------------------------------------

  #native(scalar: ScalarType): boolean {
    return isNative(scalar, this.target);
  }
  #width(lanes: number): Lanes {
    return Math.min(lanes, this.target.vectorLanes) as Lanes;
  }
  /** The scalar of a value's chunks; undefined where it is kept as pairs unless narrowed. */
  #chunkScalar(scalar: ScalarType): ScalarType | undefined {
    if (this.#native(scalar)) return scalar;
    if (isHalf(scalar)) return 'f32';
    if (isNarrow(scalar)) return isSignedScalar(scalar) ? 'i32' : 'u32';
    return undefined;
  }
  #chunks(type: KType, parts: readonly KValue[]): Rep {
    return { kind: 'chunks', type, parts };
  }
  /** Whether a 64-bit integer of that range is computed in i32. */
  #narrowed(type: KType, range: Range | undefined): boolean {
    return int64.isWideInteger(type.scalar) && !this.#native(type.scalar) && within(range, i32Range);
  }

  #get(value: KValue): Rep {
    const rep = this.#values.get(value);
    if (!rep) throw new Error(`kernel ${this.kernel.name}: value %${value.id} is used before its definition`);
    return rep;
  }
  /** The one scalar bool of a condition. */
  #single(value: KValue): KValue {
    return this.#get(value).parts[0];
  }

  /** The lanes of a chunk. */
  #elements(part: KValue): readonly KValue[] {
    if (part.type.lanes === 1) return [part];
    const known = this.#built.get(part);
    if (known) return known;
    return Array.from({ length: part.type.lanes }, (_, i) => this.b.extract(part, i));
  }
  #lane(rep: Rep, lane: number): KValue {
    if (rep.kind === 'pairs') return rep.parts[lane];
    const width = rep.parts[0].type.lanes;
    const part = rep.parts[Math.floor(lane / width)];
    return width === 1 ? part : (this.#built.get(part)?.[lane % width] ?? this.b.extract(part, lane % width));
  }
  #lanes(rep: Rep): KValue[] {
    return Array.from({ length: rep.type.lanes }, (_, i) => this.#lane(rep, i));
  }
  /** Scalars as chunks. Lanes taken from one chunk in order give it back. */
  #gather(type: KType, elements: readonly KValue[]): Rep {
    const width = this.#width(type.lanes);
    const parts = chunk(this.b, elements, width);
    if (width > 1) parts.forEach((part, i) => void this.#built.set(part, elements.slice(i * width, (i + 1) * width)));
    return this.#chunks(type, parts);
  }

  /** A 64-bit integer or f64 as pairs, whatever it is kept as. */
  #pairs(rep: Rep): readonly KValue[] {
    if (rep.kind === 'pairs') return rep.parts;
    const { scalar } = rep.type;
    if (scalar === 'f64') return this.#lanes(rep).map((lane) => this.b.bitcast(lane, pairType));
    return this.#lanes(rep).map((lane) => {
      if (int64.isWideInteger(lane.type.scalar)) {
        const high = this.b.binary('shr', lane, this.b.constant(32n, lane.type.scalar));
        return this.#w.pack({ lo: this.b.convert(lane, 'u32'), hi: this.b.convert(high, 'u32') });
      }
      return this.#w.pack(this.#extend(lane));
    });
  }
  #wide(rep: Rep): Pair[] {
    return this.#pairs(rep).map((pair) => this.#w.unpack(pair));
  }
  /** An i32 or u32 as 64 bits. */
  #extend(lane: KValue): Pair {
    const lo = this.#w.unsigned(lane);
    const range = this.#rangeOf(lane);
    if (lane.type.scalar === 'u32' || (range && range.min >= 0)) return { lo, hi: this.#w.c(0) };
    return { lo, hi: this.#w.signFill(lo) };
  }
  /** Pairs as the chunks of a native 64-bit type. */
  #fromPairs(type: KType, pairs: readonly KValue[]): Rep {
    const { b } = this;
    const lanes = pairs.map((pair) => {
      if (type.scalar === 'f64') return b.bitcast(pair, ktype('f64'));
      const { lo, hi } = this.#w.unpack(pair);
      const high = b.binary('shl', b.convert(hi, type.scalar), b.constant(32n, type.scalar));
      return b.or(high, b.convert(lo, type.scalar));
    });
    return this.#gather(type, lanes);
  }
  /** The result of an operation on pairs: kept so, as native, or narrowed. */
  #fromWide(type: KType, pairs: readonly Pair[], range?: Range): Rep {
    if (this.#narrowed(type, range)) {
      return this.#gather(
        type,
        pairs.map((pair) => this.#clamped(this.#w.signed(pair.lo), range)),
      );
    }
    const parts = pairs.map((pair) => this.#w.pack(pair));
    return this.#native(type.scalar) ? this.#fromPairs(type, parts) : { kind: 'pairs', type, parts };
  }
  /** The canonical form at merges: a soft 64-bit integer is widened there unless `narrow` says otherwise. */
  #whole(rep: Rep, narrow?: Range): Rep {
    if (this.#chunkScalar(rep.type.scalar) !== undefined) return rep;
    if (narrow) return this.#lowWords(rep, narrow);
    return { kind: 'pairs', type: rep.type, parts: this.#pairs(rep) };
  }
  /** The low words of a soft 64-bit integer as i32. */
  #lowWords(rep: Rep, range?: Range): Rep {
    if (rep.kind === 'chunks') return rep;
    const words = rep.parts.map((pair) => this.#w.signed(this.#w.unpack(pair).lo));
    return this.#gather(
      rep.type,
      words.map((word) => this.#clamped(word, range)),
    );
  }
  #rangeOf(value: KValue): Range | undefined {
    const [own, known] = [rangeOf(value), this.#known.get(value)];
    if (!own || !known) return own ?? known;
    return { min: Math.max(own.min, known.min), max: Math.min(own.max, known.max) };
  }
  /** Notes that `value` lies in `range`. */
  #within(value: KValue, range: Range | undefined): KValue {
    if (range && !within(rangeOf(value), range)) this.#known.set(value, range);
    return value;
  }
  /** The same where the range must be seen to hold, for it may be that of an index: clamping costs little. */
  #clamped(value: KValue, range: Range | undefined): KValue {
    return range && !within(rangeOf(value), range) ? this.b.clamp(value, range.min, range.max) : value;
  }

  /** An i32 or u32 computed for a narrow type, wrapped into it unless its range says that it is there already. */
  #wrap(scalar: ScalarType, value: KValue): KValue {
    const limits = smallRange(scalar);
    if (within(this.#rangeOf(value), limits)) return value;
    const { b } = this;
    const { lanes } = value.type;
    if (!isSignedScalar(scalar)) return b.and(value, b.constant(limits.max, 'u32', lanes));
    const shift = b.constant(32 - scalarBits[scalar], 'i32', lanes);
    return b.binary('shr', b.binary('shl', value, shift), shift);
  }
  /** An f32 rounded to the half type. */
  #round(half: Half, value: KValue): KValue {
    const bits = halfBits(this.b, half, value);
    const rounded = halfValue(this.b, half, bits);
    this.#halfBits.set(rounded, bits);
    return rounded;
  }
  #finish(type: KType, value: KValue): KValue {
    if (this.#native(type.scalar)) return value;
    return isHalf(type.scalar) ? this.#round(type.scalar, value) : this.#wrap(type.scalar, value);
  }

  /** An element's bits, zero-extended in u32, from a chunk of at most 32 bits a lane. */
  #toBits(scalar: ScalarType, value: KValue): KValue {
    const { b } = this;
    const { lanes } = value.type;
    if (scalar === 'bool') return b.convert(value, 'u32');
    if (isHalf(scalar)) {
      const wide = value.type.scalar === 'f32' ? value : b.convert(value, 'f32');
      return this.#halfBits.get(wide) ?? halfBits(b, scalar, wide);
    }
    if (scalarBits[scalar] === 32) return this.#w.unsigned(value);
    const word = b.convert(value, 'u32');
    return isSignedScalar(scalar) ? b.and(word, b.constant(2 ** scalarBits[scalar] - 1, 'u32', lanes)) : word;
  }
  #fromBits(scalar: ScalarType, bits: KValue): KValue {
    const { b } = this;
    const { lanes } = bits.type;
    if (scalar === 'bool') return b.compare('ne', bits, b.constant(0, 'u32', lanes));
    if (isHalf(scalar)) {
      const value = halfValue(b, scalar, bits);
      if (this.#native(scalar)) return b.convert(value, scalar);
      this.#halfBits.set(value, bits);
      return value;
    }
    if (scalarBits[scalar] === 32) return b.bitcast(bits, ktype(scalar, lanes));
    if (this.#native(scalar)) return b.convert(bits, scalar);
    if (!isSignedScalar(scalar)) return this.#within(bits, smallRange(scalar));
    return this.#wrap(scalar, b.bitcast(bits, ktype('i32', lanes)));
  }

  // --- blocks ------------------------------------------------------------------------------------------------------

  #instructions(block: KBlock): void {
    for (const inst of block.instructions) this.#instruction(inst);
  }

  /** What a value of that type becomes at a merge, from legal values. */
  #define(value: KValue, parts: readonly KValue[], narrow = false): void {
    const { type } = value;
    const scalar = this.#chunkScalar(type.scalar);
    if (scalar === undefined && !narrow) this.#values.set(value, { kind: 'pairs', type, parts });
    else {
      const limits = isNarrow(type.scalar) && !this.#native(type.scalar) ? smallRange(type.scalar) : undefined;
      this.#values.set(
        value,
        this.#chunks(
          type,
          parts.map((part) => this.#within(part, value.range ?? limits)),
        ),
      );
    }
  }
  /** Hands out consecutive legal values to the values they stand for. */
  #distribute(
    values: readonly KValue[],
    shapes: readonly Rep[],
    parts: readonly KValue[],
    narrow: readonly boolean[],
  ): void {
    let at = 0;
    values.forEach((value, i) => {
      const count = shapes[i].parts.length;
      this.#define(value, parts.slice(at, at + count), narrow[i]);
      at += count;
    });
  }

  #for(inst: Inst<'for'>): void {
    const { b } = this;
    const initials = inst.carried.map(({ initial }) => this.#whole(this.#get(initial)));
    const narrow = initials.map(() => false);
    const initial = initials.flatMap(({ parts }) => parts);
    const body = (inner: readonly KValue[]): readonly KValue[] => {
      this.#distribute(
        inst.carried.map((c) => c.inner),
        initials,
        inner,
        narrow,
      );
      this.#instructions(inst.body);
      return inst.body.yields.flatMap((value) => this.#whole(this.#get(value)).parts);
    };
    const [lower, upper] = [this.#get(inst.lower), this.#get(inst.upper)];
    let results: readonly KValue[];
    if (lower.kind === 'pairs' || upper.kind === 'pairs') {
      results = this.#wideFor(inst, lower, upper, initial, body);
    } else {
      results = b.for(
        lower.parts[0],
        upper.parts[0],
        inst.step,
        initial,
        (index, inner) => {
          this.#values.set(inst.index, this.#chunks(inst.index.type, [this.#within(index, inst.index.range)]));
          return body(inner);
        },
        inst.unroll ? { unroll: true } : {},
      );
    }
    this.#distribute(
      inst.carried.map((c) => c.result),
      initials,
      results,
      narrow,
    );
  }

  /** A loop whose index needs 64 soft bits: tested before it is entered, then at the end of each turn. */
  #wideFor(
    inst: Inst<'for'>,
    lower: Rep,
    upper: Rep,
    initial: readonly KValue[],
    body: (inner: readonly KValue[]) => readonly KValue[],
  ): readonly KValue[] {
    const { b } = this;
    const w = this.#w;
    const less = (x: Pair, y: Pair) => (inst.index.type.scalar === 'i64' ? w.signedLt64(x, y) : w.lt64(x, y));
    const [first] = this.#wide(lower);
    const [end] = this.#wide(upper);
    const step = w.constant64(BigInt(inst.step));
    const zero = initial;
    return b.if(
      less(first, end),
      () => {
        const out = b.loop([first.lo, first.hi, ...initial], ([lo, hi, ...inner]) => {
          this.#values.set(inst.index, { kind: 'pairs', type: inst.index.type, parts: [w.pack({ lo, hi })] });
          const yields = body(inner);
          const next = w.add64({ lo, hi }, step);
          // A step past the type's end wraps below the index itself.
          const more = b.and(less(next, end), less({ lo, hi }, next));
          return { condition: more, next: [next.lo, next.hi, ...yields] };
        });
        return out.slice(2);
      },
      () => zero,
    );
  }

  #loop(inst: Inst<'loop'>): void {
    const initials = inst.carried.map(({ initial }) => this.#whole(this.#get(initial)));
    const narrow = initials.map(() => false);
    const results = this.b.loop(
      initials.flatMap(({ parts }) => parts),
      (inner) => {
        this.#distribute(
          inst.carried.map((c) => c.inner),
          initials,
          inner,
          narrow,
        );
        this.#instructions(inst.body);
        const next = inst.body.yields.flatMap((value) => this.#whole(this.#get(value)).parts);
        return { condition: this.#single(inst.condition), next };
      },
    );
    this.#distribute(
      inst.carried.map((c) => c.result),
      initials,
      results,
      narrow,
    );
  }

  #if(inst: Inst<'if'>): void {
    const narrow = inst.results.map((result) => this.#narrowed(result.type, result.range));
    let shapes: readonly Rep[] = [];
    const arm = (block: KBlock) => (): readonly KValue[] => {
      this.#instructions(block);
      shapes = block.yields.map((value, i) =>
        this.#whole(this.#get(value), narrow[i] ? inst.results[i].range : undefined),
      );
      return shapes.flatMap(({ parts }) => parts);
    };
    const results = this.b.if(this.#single(inst.condition), arm(inst.then), arm(inst.else));
    this.#distribute(inst.results, shapes, results, narrow);
  }

  /** A call whose result is one legal value stays a call; others are inlined. */
  #call(inst: Inst<'call'>): Rep {
    const { callee } = inst;
    const args = inst.args.map((arg) => this.#whole(this.#get(arg)));
    return this.#invoke(callee, args);
  }

  #invoke(callee: HelperFunction, args: readonly Rep[]): Rep {
    const type = callee.result;
    const narrow = args.map(() => false);
    const scalar = this.#chunkScalar(type.scalar);
    const single = scalar === undefined ? type.lanes === 1 : type.lanes <= this.target.vectorLanes;
    const body = (params: readonly KValue[]): Rep => {
      this.#distribute(callee.params, args, params, narrow);
      this.#instructions(callee.body);
      return this.#whole(this.#get(callee.body.yields[0]));
    };
    const parts = args.flatMap((arg) => arg.parts);
    if (!single) return body(parts);
    const legal = scalar === undefined ? pairType : ktype(scalar, type.lanes);
    const result = this.b.call(callee.name, parts, legal, (params) => body(params).parts[0]);
    return { kind: scalar === undefined ? 'pairs' : 'chunks', type, parts: [result] };
  }

  // --- instructions ------------------------------------------------------------------------------------------------

  #instruction(inst: KInst): void {
    switch (inst.op) {
      case 'store':
        this.#store(inst);
        return;
      case 'barrier':
        this.b.barrier();
        return;
      case 'for':
        this.#for(inst);
        return;
      case 'loop':
        this.#loop(inst);
        return;
      case 'if':
        this.#if(inst);
        return;
      default: {
        const rep = this.#result(inst);
        const { range } = inst.result;
        if (range && rep.kind === 'chunks') {
          this.#values.set(inst.result, { ...rep, parts: rep.parts.map((part) => this.#within(part, range)) });
        } else this.#values.set(inst.result, rep);
      }
    }
  }

  #result(inst: Exclude<KInst, { readonly op: 'store' | 'barrier' | 'for' | 'loop' | 'if' }>): Rep {
    const { b } = this;
    const { type } = inst.result;
    switch (inst.op) {
      case 'const':
        return this.#constant(type, inst.value, inst.result.range);
      case 'scalar':
        return this.#chunks(type, [b.emit({ op: 'scalar', param: inst.param as KScalar }, type, inst.result.range)]);
      case 'builtin':
        return this.#chunks(type, [
          b.emit({ op: 'builtin', builtin: inst.builtin, dim: inst.dim }, type, inst.result.range),
        ]);
      case 'unary':
        if (isMathFn(inst.fn)) return this.#math(inst.fn, [this.#get(inst.a)]);
        return this.#unary(inst.fn as ExactUnaryFn, this.#get(inst.a), inst.result, inst.fast);
      case 'binary':
        if (isMathFn(inst.fn)) return this.#math(inst.fn, [this.#get(inst.a), this.#get(inst.b)]);
        return this.#binary(inst.fn as BinaryFn, this.#get(inst.a), this.#get(inst.b), inst.result, inst.fast);
      case 'fma':
        return this.#fma(this.#get(inst.a), this.#get(inst.b), this.#get(inst.c));
      case 'compare':
        return this.#compare(inst.fn, this.#get(inst.a), this.#get(inst.b), type);
      case 'select':
        return this.#select(this.#get(inst.condition), this.#get(inst.a), this.#get(inst.b), inst.result);
      case 'convert':
        return this.#convert(this.#get(inst.a), type, inst.result.range);
      case 'bitcast':
        return this.#bitcast(this.#get(inst.a), type);
      case 'splat':
        return this.#splat(this.#get(inst.a), type);
      case 'extract': {
        const a = this.#get(inst.a);
        return { kind: a.kind, type, parts: [this.#lane(a, inst.lane)] };
      }
      case 'build':
        return this.#build(
          type,
          inst.elements.map((element) => this.#get(element)),
        );
      case 'assume': {
        const a = this.#get(inst.a);
        const { range } = inst.result;
        if (a.kind === 'pairs') return this.#narrowed(type, range) ? this.#lowWords(a, range) : a;
        if (!range) return a;
        const assume = (part: KValue) =>
          this.#opaque && scalarBits[part.type.scalar] === 32
            ? this.#clamped(part, range)
            : b.assume(part, range.min, range.max);
        return this.#chunks(type, a.parts.map(assume));
      }
      case 'load':
        return this.#load(inst);
      case 'atomic': {
        const memory = this.#atomicMemory(inst.memory);
        return this.#chunks(type, [b.atomic(inst.fn, memory, this.#index(inst.index), this.#single(inst.value))]);
      }
      case 'atomic_compare_exchange': {
        const memory = this.#atomicMemory(inst.memory);
        const [expected, value] = [this.#single(inst.expected), this.#single(inst.value)];
        return this.#chunks(type, [b.compareExchange(memory, this.#index(inst.index), expected, value)]);
      }
      case 'subgroup':
        return this.#subgroup(inst);
      case 'call':
        return this.#call(inst);
      default:
        return inst satisfies never;
    }
  }

  #constant(type: KType, value: number | bigint, range: Range | undefined): Rep {
    const { b } = this;
    const { scalar, lanes } = type;
    const legal = this.#chunkScalar(scalar) ?? (this.#narrowed(type, range) ? 'i32' : undefined);
    if (legal === undefined) {
      const pair = this.#w.pack(this.#w.constant64(scalar === 'f64' ? bitsOfF64(Number(value)) : BigInt(value)));
      return { kind: 'pairs', type, parts: Array.from({ length: lanes }, () => pair) };
    }
    const width = this.#width(lanes);
    const part = b.constant(int64.isWideInteger(legal) ? BigInt(value) : Number(value), legal, width);
    return this.#chunks(
      type,
      Array.from({ length: lanes / width }, () => part),
    );
  }

  #splat(a: Rep, type: KType): Rep {
    if (a.kind === 'pairs') return { kind: 'pairs', type, parts: Array.from({ length: type.lanes }, () => a.parts[0]) };
    const width = this.#width(type.lanes);
    const part = this.b.splat(a.parts[0], width);
    if (width > 1)
      this.#built.set(
        part,
        Array.from({ length: width }, () => a.parts[0]),
      );
    return this.#chunks(
      type,
      Array.from({ length: type.lanes / width }, () => part),
    );
  }

  #build(type: KType, elements: readonly Rep[]): Rep {
    if (elements.every(({ kind }) => kind === 'chunks'))
      return this.#gather(
        type,
        elements.map(({ parts }) => parts[0]),
      );
    return { kind: 'pairs', type, parts: elements.flatMap((element) => this.#pairs(element)) };
  }

  #subgroup(inst: Inst<'subgroup'>): Rep {
    const { b } = this;
    const a = this.#get(inst.a);
    const { type } = inst.result;
    const moves = inst.fn !== 'add' && inst.fn !== 'min' && inst.fn !== 'max';
    if (moves) return { ...a, parts: a.parts.map((part) => this.#subgroupPart(inst, part)) };
    if (a.kind === 'chunks' && this.#native(type.scalar)) {
      return this.#chunks(
        type,
        a.parts.map((part) => b.subgroup(inst.fn, part, inst.delta)),
      );
    }
    if (a.kind === 'chunks' && isNarrow(type.scalar)) {
      return this.#chunks(
        type,
        a.parts.map((part) => this.#wrap(type.scalar, b.subgroup(inst.fn, part, inst.delta))),
      );
    }
    throw new TuttiError('E_UNSUPPORTED', `subgroup ${inst.fn} of ${type.scalar} values`, {
      subject: this.kernel.sources[0] ?? this.kernel.name,
      expected: 'a type that the device computes with',
      found: type.scalar,
      remedy: 'Use another device',
    });
  }
  #subgroupPart(inst: Inst<'subgroup'>, part: KValue): KValue {
    if (part.type.lanes === 1) return this.b.subgroup(inst.fn, part, inst.delta);
    const moved = this.#elements(part).map((lane) => this.b.subgroup(inst.fn, lane, inst.delta));
    return this.b.build(moved);
  }

  #math(fn: MathFn | MathBinaryFn, args: readonly Rep[]): Rep {
    const { type } = args[0];
    const { scalar } = type;
    // The formulas for f64 compute with i64 too: without both they are lowered in their turn.
    if (scalar === 'f64' && !(this.#native('f64') && this.#native('i64'))) {
      const parts = args[0].parts.flatMap((_, i) => {
        const operands = args.map((arg): Rep => {
          const part = arg.parts[i];
          return { kind: arg.kind, type: ktype('f64', arg.kind === 'pairs' ? 1 : part.type.lanes), parts: [part] };
        });
        return this.#invoke(this.#softMath(fn, operands[0].type.lanes), operands).parts;
      });
      return { kind: args[0].kind, type, parts };
    }
    const parts = args[0].parts.map((_, i) => {
      const [x, y] = args.map((arg) => arg.parts[i]);
      const binary = fn === 'pow' || fn === 'atan2';
      return this.#finish(type, binary ? mathBinary(this.b, fn, x, y) : mathUnary(this.b, fn, x));
    });
    return this.#chunks(type, parts);
  }

  /** The f64 formula of a function for so many lanes. */
  #softMath(fn: MathFn | MathBinaryFn, lanes: Lanes): HelperFunction {
    const key = `${fn}x${lanes}`;
    let helper = this.#mathHelpers.get(key);
    if (!helper) {
      const scratch = new KernelBuilder();
      const x = scratch.constant(0, 'f64', lanes);
      if (fn === 'pow' || fn === 'atan2') mathBinary(scratch, fn, x, x);
      else mathUnary(scratch, fn, x);
      const { helpers } = scratch.finish({ name: fn, grid: [1, 1, 1], workgroup: [1, 1, 1] });
      const formula = helpers[helpers.length - 1];
      helper = this.#native('f64') ? formula : rolled(formula);
      this.#mathHelpers.set(key, helper);
    }
    return helper;
  }

  // --- arithmetic --------------------------------------------------------------------------------------------------

  #map(a: Rep, fn: (part: KValue) => KValue): Rep {
    return this.#chunks(
      a.type,
      a.parts.map((part) => this.#finish(a.type, fn(part))),
    );
  }

  #unary(fn: ExactUnaryFn, a: Rep, result: KValue, fast?: boolean): Rep {
    const { b } = this;
    const { type } = a;
    const { scalar } = type;
    if (scalar === 'f64' && a.kind === 'pairs') {
      return this.#fromWide(
        type,
        this.#wide(a).map((x) => this.#softUnary(fn, x)),
      );
    }
    if (int64.isWideInteger(scalar) && !this.#native(scalar)) return this.#wideUnary(fn, a, result);
    if (isNarrow(scalar) && !this.#native(scalar) && (fn === 'popcount' || fn === 'clz')) {
      const bits = scalarBits[scalar];
      return this.#chunks(
        type,
        a.parts.map((part) => {
          const { lanes } = part.type;
          const word = b.and(part, b.constant(2 ** bits - 1, part.type.scalar, lanes));
          const count = b.unary(fn, word);
          return fn === 'clz' ? b.sub(count, b.constant(32 - bits, part.type.scalar, lanes)) : count;
        }),
      );
    }
    // Negation and absolute value of a half are exact: no rounding.
    if (isHalf(scalar) && fn !== 'sqrt')
      return this.#chunks(
        type,
        a.parts.map((part) => b.unary(fn, part, fast)),
      );
    return this.#map(a, (part) => b.unary(fn, part, fast));
  }

  #softUnary(fn: ExactUnaryFn, x: Pair): Pair {
    const w = this.#w;
    switch (fn) {
      case 'neg':
        return f64.neg(w, x);
      case 'abs':
        return f64.abs(w, x);
      case 'sqrt':
        return f64.sqrt(w, x);
      case 'floor':
      case 'ceil':
      case 'round':
      case 'trunc':
        return f64.toIntegral(w, fn, x);
      case 'not':
      case 'popcount':
      case 'clz':
        throw new Error(`kernel ${this.kernel.name}: ${fn} of f64`);
      default:
        return fn satisfies never;
    }
  }

  #wideUnary(fn: ExactUnaryFn, a: Rep, result: KValue): Rep {
    const { b } = this;
    const w = this.#w;
    const { type } = a;
    if (fn === 'floor' || fn === 'ceil' || fn === 'round' || fn === 'trunc') return a;
    if (this.#narrowed(type, result.range) && (fn === 'neg' || fn === 'not' || (fn === 'abs' && a.kind === 'chunks'))) {
      return this.#chunks(
        type,
        this.#lowWords(a).parts.map((part) => this.#clamped(b.unary(fn, part), result.range)),
      );
    }
    const out = this.#wide(a).map((x): Pair => {
      switch (fn) {
        case 'neg':
          return w.neg64(x);
        case 'not':
          return w.not64(x);
        case 'abs':
          return type.scalar === 'i64' ? int64.abs64(w, x) : x;
        case 'clz':
          return { lo: w.clz64(x), hi: w.c(0) };
        case 'popcount':
          return { lo: w.add(b.unary('popcount', x.lo), b.unary('popcount', x.hi)), hi: w.c(0) };
        case 'sqrt':
          throw new Error(`kernel ${this.kernel.name}: sqrt of ${type.scalar}`);
        default:
          return fn satisfies never;
      }
    });
    return this.#fromWide(type, out, result.range);
  }

  #binary(fn: BinaryFn, x: Rep, y: Rep, result: KValue, fast?: boolean): Rep {
    const { b } = this;
    const { type } = x;
    const { scalar } = type;
    if (x.kind === 'pairs' && scalar === 'f64') {
      const ys = this.#wide(y);
      return this.#fromWide(
        type,
        this.#wide(x).map((p, i) => this.#softBinary(fn, p, ys[i])),
      );
    }
    if (int64.isWideInteger(scalar) && !this.#native(scalar)) return this.#wideBinary(fn, scalar, x, y, result);
    const parts = x.parts.map((part, i) => b.binary(fn, part, y.parts[i], fast));
    // These pick or cut: what comes out is in the type already.
    const exact = fn === 'min' || fn === 'max' || fn === 'rem' || (fn === 'shr' && isNarrow(scalar));
    const bitwise = fn === 'and' || fn === 'or' || fn === 'xor';
    if (exact || bitwise) {
      const limits = isNarrow(scalar) && !this.#native(scalar) ? smallRange(scalar) : undefined;
      return this.#chunks(
        type,
        parts.map((part) => this.#within(part, limits)),
      );
    }
    return this.#chunks(
      type,
      parts.map((part) => this.#finish(type, part)),
    );
  }

  #softBinary(fn: BinaryFn, x: Pair, y: Pair): Pair {
    const w = this.#w;
    switch (fn) {
      case 'add':
        return f64.add(w, x, y);
      case 'sub':
        return f64.sub(w, x, y);
      case 'mul':
        return f64.mul(w, x, y);
      case 'div':
        return f64.div(w, x, y);
      case 'rem':
        return f64.rem(w, x, y);
      case 'min':
      case 'max':
        return f64.minimum(w, fn, x, y);
      case 'and':
      case 'or':
      case 'xor':
      case 'shl':
      case 'shr':
      case 'mulhi':
        throw new Error(`kernel ${this.kernel.name}: ${fn} of f64`);
      default:
        return fn satisfies never;
    }
  }

  #wideBinary(fn: BinaryFn, scalar: int64.Wide, x: Rep, y: Rep, result: KValue): Rep {
    const { b } = this;
    const w = this.#w;
    const { type } = x;
    if (this.#narrowed(type, result.range)) {
      // The low words of these depend on low words only.
      const modular = fn === 'add' || fn === 'sub' || fn === 'mul' || fn === 'and' || fn === 'or' || fn === 'xor';
      const shiftsLow = fn === 'shl' && y.kind === 'chunks' && within(rangeOf(y.parts[0]), { min: 0, max: 31 });
      const narrow = x.kind === 'chunks' && y.kind === 'chunks';
      const shiftsRight = fn === 'shr' && narrow && within(rangeOf(y.parts[0]), { min: 0, max: 31 });
      const ordered = narrow && (fn === 'div' || fn === 'rem' || fn === 'min' || fn === 'max');
      if (modular || shiftsLow || shiftsRight || ordered) {
        const [xs, ys] = [this.#lowWords(x).parts, this.#lowWords(y).parts];
        const parts = xs.map((part, i) => b.binary(fn, part, ys[i]));
        return this.#chunks(type, narrow ? parts : parts.map((part) => this.#clamped(part, result.range)));
      }
    }
    const ys = this.#wide(y);
    const out = this.#wide(x).map((p, i): Pair => {
      const q = ys[i];
      switch (fn) {
        case 'add':
          return w.add64(p, q);
        case 'sub':
          return w.sub64(p, q);
        case 'mul':
          return w.mul64(p, q);
        case 'div':
        case 'rem':
          return int64.divide64(w, scalar, fn, p, q);
        case 'and':
          return w.and64(p, q);
        case 'or':
          return w.or64(p, q);
        case 'xor':
          return w.xor64(p, q);
        case 'shl':
          return w.shl64(p, q.lo);
        case 'shr':
          return w.shr64(p, q.lo, scalar === 'i64' ? w.signFill(p.hi) : w.c(0));
        case 'min':
        case 'max': {
          const less = scalar === 'i64' ? w.signedLt64(p, q) : w.lt64(p, q);
          return fn === 'min' ? w.select64(less, p, q) : w.select64(less, q, p);
        }
        case 'mulhi':
          throw new Error(`kernel ${this.kernel.name}: mulhi of ${scalar}`);
        default:
          return fn satisfies never;
      }
    });
    return this.#fromWide(type, out, result.range);
  }

  #fma(x: Rep, y: Rep, z: Rep): Rep {
    const { b } = this;
    const { type } = x;
    if (x.kind === 'pairs') {
      const [ys, zs] = [this.#wide(y), this.#wide(z)];
      return this.#fromWide(
        type,
        this.#wide(x).map((p, i) => f64.fma(this.#w, p, ys[i], zs[i])),
      );
    }
    if (!isHalf(type.scalar) || this.#native(type.scalar)) {
      return this.#chunks(
        type,
        x.parts.map((part, i) => b.fma(part, y.parts[i], z.parts[i])),
      );
    }
    if (type.scalar === 'f16') {
      // The product is exact in f32; the sum is rounded once, by way of round to odd.
      const parts = x.parts.map((part, i) => oddSumF32(b, b.mul(part, y.parts[i]), z.parts[i]));
      return this.#chunks(
        type,
        parts.map((part) => this.#round('f16', part)),
      );
    }
    // A product of bf16 may leave f32's range: it is exact in f64.
    const w = this.#w;
    const [ys, zs] = [this.#lanes(y), this.#lanes(z)];
    const lanes = this.#lanes(x).map((lane, i) => {
      const product = f64.mul(w, f64.fromF32(w, lane), f64.fromF32(w, ys[i]));
      return this.#round('bf16', f64.toF32(w, f64.oddSum(w, product, f64.fromF32(w, zs[i])), 'odd'));
    });
    return this.#gather(type, lanes);
  }

  #compare(fn: CompareFn, x: Rep, y: Rep, type: KType): Rep {
    const { b } = this;
    const w = this.#w;
    if (x.kind === 'chunks' && y.kind === 'chunks') {
      return this.#chunks(
        type,
        x.parts.map((part, i) => b.compare(fn, part, y.parts[i])),
      );
    }
    const { scalar } = x.type;
    if (scalar !== 'f64') this.#opaque = true;
    const [xs, ys] = [this.#wide(x), this.#wide(y)];
    const lanes = xs.map((p, i) => {
      const q = ys[i];
      if (scalar === 'f64') return f64.compare(w, fn, p, q);
      const less = (u: Pair, v: Pair) => (scalar === 'i64' ? w.signedLt64(u, v) : w.lt64(u, v));
      switch (fn) {
        case 'eq':
          return w.eq64(p, q);
        case 'ne':
          return w.no(w.eq64(p, q));
        case 'lt':
          return less(p, q);
        case 'gt':
          return less(q, p);
        case 'le':
          return w.no(less(q, p));
        case 'ge':
          return w.no(less(p, q));
        default:
          return fn satisfies never;
      }
    });
    return this.#gather(type, lanes);
  }

  #select(condition: Rep, x: Rep, y: Rep, result: KValue): Rep {
    const { type } = x;
    if (x.kind === 'chunks' && y.kind === 'chunks') {
      return this.#chunks(
        type,
        x.parts.map((part, i) => this.#selectPart(condition, i, part, y.parts[i])),
      );
    }
    const conditions = condition.type.lanes === 1 ? undefined : this.#lanes(condition);
    const ys = this.#wide(y);
    const out = this.#wide(x).map((p, i) => this.#w.select64(conditions?.[i] ?? condition.parts[0], p, ys[i]));
    return this.#fromWide(type, out, result.range);
  }
  #selectPart(condition: Rep, i: number, a: KValue, c: KValue): KValue {
    return this.b.select(condition.parts[condition.type.lanes === 1 ? 0 : i], a, c);
  }

  // --- conversion --------------------------------------------------------------------------------------------------

  #convert(a: Rep, type: KType, range: Range | undefined): Rep {
    const from = a.type.scalar;
    const to = type.scalar;
    if (from === to) return { ...a, type };
    const target = this.#chunkScalar(to);
    if (a.kind === 'chunks' && target !== undefined && !(int64.isWideInteger(from) && !this.#native(from))) {
      return this.#convertChunks(a, type, target, range);
    }
    if (a.kind === 'chunks' && int64.isWideInteger(from) && !this.#native(from)) {
      // Narrowed: an i32 by another name.
      const narrow: Rep = { ...a, type: ktype('i32', type.lanes) };
      if (to === 'i32') return { ...narrow, type };
      if (int64.isWideInteger(to) && !this.#native(to) && (to === 'i64' || this.#nonNegative(a))) return { ...a, type };
      return this.#convert(narrow, type, range);
    }
    if (target === undefined && int64.isWideInteger(to)) return this.#toSoftInteger(a, type, range);
    if (target === undefined) return this.#toSoftDouble(a, type);
    return this.#fromSoft(a, type, target, range);
  }
  #nonNegative(a: Rep): boolean {
    return a.parts.every((part) => (this.#rangeOf(part)?.min ?? -1) >= 0);
  }

  /** Between types that are both kept in chunks. */
  #convertChunks(a: Rep, type: KType, target: ScalarType, range: Range | undefined): Rep {
    const { b } = this;
    const from = a.type.scalar;
    const to = type.scalar;
    const double = from === 'f64' || from === 'i64' || from === 'u64';
    if (isHalf(to) && !this.#native(to) && double) return this.#fromSoft(a, type, target, range);
    return this.#chunks(
      type,
      a.parts.map((part) => {
        const held = part.type.scalar;
        if (isHalf(to) && !this.#native(to)) {
          if (held === 'f32' || held === 'bool' || isHalf(held)) {
            const value = b.convert(part, 'f32');
            return from === 'bool' ? value : this.#round(to, value);
          }
          return this.#round(to, b.convert(to === 'bf16' ? this.#stickyInteger(part) : part, 'f32'));
        }
        if (!isNarrow(to) || this.#native(to)) return this.#within(b.convert(part, target), range);
        if (held === 'f32' || held === 'f16' || held === 'f64') {
          const { min, max } = smallRange(to);
          const word = b.clamp(b.convert(part, 'i32'), min, max);
          return b.convert(word, target);
        }
        const known = this.#rangeOf(part);
        const limits = smallRange(to);
        const word = b.convert(part, target);
        return within(known, limits) ? this.#within(word, known) : this.#wrap(to, word);
      }),
    );
  }

  /** A 32-bit integer with the bits that bf16 has no room for gathered into one, so that it converts to f32 exactly. */
  #stickyInteger(part: KValue): KValue {
    const { b } = this;
    const known = this.#rangeOf(part);
    if (known && known.min > -(2 ** 24) && known.max < 2 ** 24) return part;
    const { lanes } = part.type;
    const held = part.type.scalar === 'u32' || part.type.scalar === 'i32' ? part : b.convert(part, 'i32');
    const signed = held.type.scalar === 'i32';
    const c = (value: number) => b.constant(value, 'u32', lanes);
    const bits = this.#w.unsigned(held);
    const negative = signed ? b.compare('lt', held, b.constant(0, 'i32', lanes)) : undefined;
    const magnitude = negative ? b.select(negative, b.unary('neg', bits), bits) : bits;
    const large = b.compare('ge', magnitude, c(2 ** 24));
    const lost = b.compare('ne', b.and(magnitude, c(0xff)), c(0));
    const jammed = b.or(b.and(magnitude, c(0xffffff00)), b.select(lost, c(0x100), c(0)));
    const out = b.select(large, jammed, magnitude);
    if (!negative) return out;
    const value = b.convert(out, 'f32');
    // The magnitude may be 2^31, which i32 has no room for: the sign goes on as a float.
    return b.select(negative, b.unary('neg', value), value);
  }

  #toSoftInteger(a: Rep, type: KType, range: Range | undefined): Rep {
    const w = this.#w;
    const from = a.type.scalar;
    const scalar = type.scalar as int64.Wide;
    if (from === 'f64')
      return this.#fromWide(
        type,
        this.#wide(a).map((x) => f64.toWide(w, scalar, x)),
        range,
      );
    if (a.kind === 'pairs') {
      return this.#narrowed(type, range) ? { ...this.#lowWords(a, range), type } : { ...a, type };
    }
    if (from === 'i64' || from === 'u64') return this.#fromWide(type, this.#wide(a), range);
    const lanes = this.#lanes(a);
    if (from === 'f32' || isHalf(from)) {
      return this.#fromWide(
        type,
        lanes.map((x) => int64.fromF32(w, scalar, this.b.convert(x, 'f32'))),
        range,
      );
    }
    const words = lanes.map((x) =>
      x.type.scalar === 'i32' || x.type.scalar === 'u32'
        ? x
        : this.b.convert(x, from !== 'bool' && isSignedScalar(from) ? 'i32' : 'u32'),
    );
    return this.#fromWide(
      type,
      words.map((x) => this.#extend(x)),
      range,
    );
  }

  #toSoftDouble(a: Rep, type: KType): Rep {
    const w = this.#w;
    const from = a.type.scalar;
    if (from === 'i64' || from === 'u64') {
      return this.#fromWide(
        type,
        this.#wide(a).map((x) => f64.fromInteger(w, from, x)),
      );
    }
    const lanes = this.#lanes(a);
    if (from === 'f32' || isHalf(from)) {
      return this.#fromWide(
        type,
        lanes.map((x) => f64.fromF32(w, this.b.convert(x, 'f32'))),
      );
    }
    const signed = from !== 'bool' && isSignedScalar(from);
    const words = lanes.map((x) =>
      x.type.scalar === 'i32' || x.type.scalar === 'u32' ? x : this.b.convert(x, signed ? 'i32' : 'u32'),
    );
    return this.#fromWide(
      type,
      words.map((x) => f64.fromInteger(w, signed ? 'i32' : 'u32', this.#extend(x))),
    );
  }

  /** From a 64-bit type (soft, or native where the result must be rounded once) to one kept in chunks. */
  #fromSoft(a: Rep, type: KType, target: ScalarType, range: Range | undefined): Rep {
    const { b } = this;
    const w = this.#w;
    const from = a.type.scalar as int64.Wide | 'f64';
    const to = type.scalar;
    const lanes = this.#wide(a).map((x): KValue => {
      if (to === 'bool') return from === 'f64' ? f64.isNonZero(w, x) : w.no(w.isZero64(x));
      if (to === 'f32') return from === 'f64' ? f64.toF32(w, x, 'even') : int64.toF32(w, from, x, 'even');
      if (isHalf(to)) {
        const odd = from === 'f64' ? f64.toF32(w, x, 'odd') : int64.toF32(w, from, x, 'odd');
        return this.#native(to) ? b.convert(odd, to) : this.#round(to, odd);
      }
      if (to === 'f64') return b.bitcast(w.pack(f64.fromInteger(w, from as int64.Wide, x)), ktype('f64'));
      if (to === 'i64' || to === 'u64') {
        // Native here, so the source is a soft f64 or the other signedness.
        const whole = from === 'f64' ? f64.toWide(w, to, x) : x;
        return this.#fromPairs(ktype(to), [w.pack(whole)]).parts[0];
      }
      if (from === 'f64') {
        if (to === 'i32' || to === 'u32') {
          const word = f64.toWord(w, to, x);
          return to === 'i32' ? w.signed(word) : word;
        }
        const { min, max } = smallRange(to);
        return b.convert(b.clamp(w.signed(f64.toWord(w, 'i32', x)), min, max), target);
      }
      const word = isSignedScalar(to) ? w.signed(x.lo) : x.lo;
      if (to === 'i32' || to === 'u32') return word;
      return this.#native(to) ? b.convert(word, to) : this.#wrap(to, word);
    });
    return this.#gather(
      type,
      lanes.map((lane) => this.#clamped(lane, scalarBits[to] === 32 ? range : undefined)),
    );
  }

  // --- bitcast -----------------------------------------------------------------------------------------------------

  #bitcast(a: Rep, type: KType): Rep {
    const { b } = this;
    const from = a.type.scalar;
    const to = type.scalar;
    const [fromBits, toBits] = [scalarBits[from], scalarBits[to]];
    const soft = (scalar: ScalarType) => !this.#native(scalar);
    if (fromBits === toBits) {
      if (fromBits === 64) {
        if (!soft(from) && !soft(to))
          return this.#chunks(
            type,
            a.parts.map((p) => b.bitcast(p, ktype(to, p.type.lanes))),
          );
        return this.#fromWide(type, this.#wide(a));
      }
      const direct = !soft(from) && !soft(to);
      return this.#chunks(
        type,
        a.parts.map((part) =>
          direct ? b.bitcast(part, ktype(to, part.type.lanes)) : this.#fromBits(to, this.#toBits(from, part)),
        ),
      );
    }
    const whole = a.parts.length === 1 && type.lanes <= this.target.vectorLanes;
    if (whole && !soft(from) && !soft(to)) return this.#chunks(type, [b.bitcast(a.parts[0], type)]);
    return this.#regroup(a, type);
  }

  /** Between element sizes: all the bits as words, then cut anew. */
  #regroup(a: Rep, type: KType): Rep {
    const w = this.#w;
    const fromBits = scalarBits[a.type.scalar];
    const toBits = scalarBits[type.scalar];
    let fields: { bits: number; value: KValue }[];
    if (fromBits === 64) {
      fields = this.#wide(a).flatMap(({ lo, hi }) => [
        { bits: 32, value: lo },
        { bits: 32, value: hi },
      ]);
    } else {
      fields = this.#lanes(a).map((lane) => ({ bits: fromBits, value: this.#toBits(a.type.scalar, lane) }));
    }
    const size = Math.min(toBits, 32);
    const cut: KValue[] = [];
    let pending: KValue | undefined;
    let filled = 0;
    for (const { bits, value } of fields) {
      if (bits > size) {
        for (let at = 0; at < bits; at += size) cut.push(w.and(w.shr(value, at), 2 ** size - 1));
        continue;
      }
      pending = pending ? w.or(pending, w.shl(value, filled)) : value;
      filled += bits;
      if (filled === size) {
        cut.push(pending);
        [pending, filled] = [undefined, 0];
      }
    }
    if (toBits === 64) {
      const pairs = Array.from({ length: type.lanes }, (_, i) => ({ lo: cut[2 * i], hi: cut[2 * i + 1] }));
      return this.#fromWide(type, pairs);
    }
    return this.#gather(
      type,
      cut.map((bits) => this.#fromBits(type.scalar, bits)),
    );
  }
}
