/**
 * Rewrites a kernel, instruction by instruction, into one that a target can hold: blocks, control flow, calls and what
 * only rearranges values. See `representation.ts` for how values are held.
 */
import { TuttiError } from '../../error.js';
import { bitsOfF64 } from '../../numeric.js';
import { KernelBuilder } from '../builder.js';
import { type EngineInst, isEngineInst } from '../engines.js';
import { dialectOf, mathBinary, mathUnary } from '../math.js';
import type { Target } from '../target.js';
import { isInstruction } from '../target.js';
import {
  type BinaryFn,
  type ExactUnaryFn,
  type HelperFunction,
  isMathFn,
  type KBlock,
  type KernelFunction,
  type KInst,
  type KScalar,
  type KType,
  type KValue,
  ktype,
  type Lanes,
  type MathBinaryFn,
  type MathFn,
  type Range,
  scalarBits,
} from '../types.js';
import * as arithmetic from './arithmetic.js';
import * as conversion from './conversion.js';
import * as int64 from './int64.js';
import { LegalMemory } from './memory.js';
import { type Inst, isNarrow, type Rep, Representations, smallRange } from './representation.js';
import { rolled } from './rolled.js';
import { type Pair, pairType } from './words.js';

export class Lowerer {
  readonly #r: Representations;
  readonly #memory: LegalMemory;
  readonly #mathHelpers = new Map<string, HelperFunction>();
  readonly #rolled = new Map<HelperFunction, HelperFunction>();

  constructor(kernel: KernelFunction, target: Target) {
    this.#r = new Representations(kernel, target);
    this.#memory = new LegalMemory(this.#r);
  }

  run(): KernelFunction {
    const { kernel } = this.#r;
    this.#memory.declare();
    this.#instructions(kernel.body);
    return this.#r.b.finish({
      name: kernel.name,
      sources: kernel.sources,
      grid: kernel.grid,
      workgroup: kernel.workgroup,
      ...(kernel.subgroupSize === undefined ? {} : { subgroupSize: kernel.subgroupSize }),
    });
  }

  // --- blocks ------------------------------------------------------------------------------------------------------

  #instructions(block: KBlock): void {
    for (const inst of block.instructions) this.#instruction(inst);
  }

  /** What a value of that type becomes at a merge, from legal values. */
  #define(value: KValue, parts: readonly KValue[], narrow = false): void {
    const { type } = value;
    const scalar = this.#r.chunkScalar(type.scalar);
    if (scalar === undefined && !narrow) this.#r.values.set(value, { kind: 'pairs', type, parts });
    else {
      const limits = isNarrow(type.scalar) && !this.#r.native(type.scalar) ? smallRange(type.scalar) : undefined;
      this.#r.values.set(
        value,
        this.#r.chunks(
          type,
          parts.map((part) => this.#r.within(part, value.range ?? limits)),
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
    const { b } = this.#r;
    const initials = inst.carried.map(({ initial }) => this.#r.whole(this.#r.get(initial)));
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
      return inst.body.yields.flatMap((value) => this.#r.whole(this.#r.get(value)).parts);
    };
    const [lower, upper] = [this.#r.get(inst.lower), this.#r.get(inst.upper)];
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
          this.#r.values.set(inst.index, this.#r.chunks(inst.index.type, [this.#r.within(index, inst.index.range)]));
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
    const { b } = this.#r;
    const w = this.#r.w;
    const less = (x: Pair, y: Pair) => (inst.index.type.scalar === 'i64' ? w.signedLt64(x, y) : w.lt64(x, y));
    const [first] = this.#r.wide(lower);
    const [end] = this.#r.wide(upper);
    const step = w.constant64(BigInt(inst.step));
    const zero = initial;
    return b.if(
      less(first, end),
      () => {
        const out = b.loop([first.lo, first.hi, ...initial], ([lo, hi, ...inner]) => {
          this.#r.values.set(inst.index, { kind: 'pairs', type: inst.index.type, parts: [w.pack({ lo, hi })] });
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
    const initials = inst.carried.map(({ initial }) => this.#r.whole(this.#r.get(initial)));
    const narrow = initials.map(() => false);
    const results = this.#r.b.loop(
      initials.flatMap(({ parts }) => parts),
      (inner) => {
        this.#distribute(
          inst.carried.map((c) => c.inner),
          initials,
          inner,
          narrow,
        );
        this.#instructions(inst.body);
        const next = inst.body.yields.flatMap((value) => this.#r.whole(this.#r.get(value)).parts);
        return { condition: this.#r.single(inst.condition), next };
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
    const narrow = inst.results.map((result) => this.#r.narrowed(result.type, result.range));
    let shapes: readonly Rep[] = [];
    const arm = (block: KBlock) => (): readonly KValue[] => {
      this.#instructions(block);
      shapes = block.yields.map((value, i) =>
        this.#r.whole(this.#r.get(value), narrow[i] ? inst.results[i].range : undefined),
      );
      return shapes.flatMap(({ parts }) => parts);
    };
    const results = this.#r.b.if(this.#r.single(inst.condition), arm(inst.then), arm(inst.else));
    this.#distribute(inst.results, shapes, results, narrow);
  }

  /** A call whose result is one legal value stays a call; others are inlined. */
  #call(inst: Inst<'call'>): Rep {
    const { callee } = inst;
    const args = inst.args.map((arg) => this.#r.whole(this.#r.get(arg)));
    return this.#invoke(callee, args);
  }

  /** Where f64 is software, long straight functions become loops. */
  #shortened(helper: HelperFunction): HelperFunction {
    if (this.#r.native('f64')) return helper;
    let short = this.#rolled.get(helper);
    if (!short) this.#rolled.set(helper, (short = rolled(helper)));
    return short;
  }

  #invoke(straight: HelperFunction, args: readonly Rep[]): Rep {
    const callee = this.#shortened(straight);
    const type = callee.result;
    const narrow = args.map(() => false);
    const scalar = this.#r.chunkScalar(type.scalar);
    const single = scalar === undefined ? type.lanes === 1 : type.lanes <= this.#r.target.vectorLanes;
    const body = (params: readonly KValue[]): Rep => {
      this.#distribute(callee.params, args, params, narrow);
      this.#instructions(callee.body);
      return this.#r.whole(this.#r.get(callee.body.yields[0]));
    };
    const parts = args.flatMap((arg) => arg.parts);
    if (!single) return body(parts);
    const legal = scalar === undefined ? pairType : ktype(scalar, type.lanes);
    const result = this.#r.b.call(callee.name, parts, legal, (params) => body(params).parts[0]);
    return { kind: scalar === undefined ? 'pairs' : 'chunks', type, parts: [result] };
  }

  // --- instructions ------------------------------------------------------------------------------------------------

  #instruction(inst: KInst): void {
    if (isEngineInst(inst)) {
      this.#memory.engine(inst);
      return;
    }
    switch (inst.op) {
      case 'store':
        this.#memory.store(inst);
        return;
      case 'barrier':
        this.#r.b.barrier();
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
          this.#r.values.set(inst.result, { ...rep, parts: rep.parts.map((part) => this.#r.within(part, range)) });
        } else this.#r.values.set(inst.result, rep);
      }
    }
  }

  #result(inst: Exclude<KInst, { readonly op: 'store' | 'barrier' | 'for' | 'loop' | 'if' } | EngineInst>): Rep {
    const { b } = this.#r;
    const { type } = inst.result;
    switch (inst.op) {
      case 'const':
        return this.#constant(type, inst.value, inst.result.range);
      case 'scalar':
        return this.#r.chunks(type, [b.emit({ op: 'scalar', param: inst.param as KScalar }, type, inst.result.range)]);
      case 'builtin':
        return this.#r.chunks(type, [
          b.emit({ op: 'builtin', builtin: inst.builtin, dim: inst.dim }, type, inst.result.range),
        ]);
      case 'unary':
        if (isInstruction(inst, this.#r.target)) {
          const parts = this.#r.get(inst.a).parts.map((part) => b.unary(inst.fn, part, true));
          return this.#r.chunks(type, parts);
        }
        if (isMathFn(inst.fn)) return this.#math(inst.fn, [this.#r.get(inst.a)]);
        return arithmetic.unary(this.#r, inst.fn as ExactUnaryFn, this.#r.get(inst.a), inst.result, inst.fast);
      case 'binary':
        if (isMathFn(inst.fn)) return this.#math(inst.fn, [this.#r.get(inst.a), this.#r.get(inst.b)]);
        return arithmetic.binary(
          this.#r,
          inst.fn as BinaryFn,
          this.#r.get(inst.a),
          this.#r.get(inst.b),
          inst.result,
          inst.fast,
        );
      case 'fma':
        return arithmetic.fma(this.#r, this.#r.get(inst.a), this.#r.get(inst.b), this.#r.get(inst.c));
      case 'dot4':
        return arithmetic.dot4(this.#r, inst, this.#r.get(inst.a), this.#r.get(inst.b), this.#r.get(inst.c));
      case 'compare':
        return arithmetic.compare(this.#r, inst.fn, this.#r.get(inst.a), this.#r.get(inst.b), type);
      case 'select':
        return arithmetic.select(
          this.#r,
          this.#r.get(inst.condition),
          this.#r.get(inst.a),
          this.#r.get(inst.b),
          inst.result,
        );
      case 'convert':
        return conversion.convert(this.#r, this.#r.get(inst.a), type, inst.result.range);
      case 'bitcast':
        return conversion.bitcast(this.#r, this.#r.get(inst.a), type);
      case 'splat':
        return this.#splat(this.#r.get(inst.a), type);
      case 'extract': {
        const a = this.#r.get(inst.a);
        return { kind: a.kind, type, parts: [this.#r.lane(a, inst.lane)] };
      }
      case 'build':
        return this.#build(
          type,
          inst.elements.map((element) => this.#r.get(element)),
        );
      case 'assume': {
        const a = this.#r.get(inst.a);
        const { range } = inst.result;
        if (a.kind === 'pairs') return this.#r.narrowed(type, range) ? this.#r.lowWords(a, range) : a;
        if (!range) return a;
        const assume = (part: KValue) =>
          this.#r.opaque && scalarBits[part.type.scalar] === 32
            ? this.#r.clamped(part, range)
            : b.assume(part, range.min, range.max);
        return this.#r.chunks(type, a.parts.map(assume));
      }
      case 'load':
        return this.#memory.load(inst);
      case 'atomic': {
        const memory = this.#memory.atomicMemory(inst.memory);
        return this.#r.chunks(type, [
          b.atomic(inst.fn, memory, this.#memory.index(inst.index), this.#r.single(inst.value)),
        ]);
      }
      case 'atomic_compare_exchange': {
        const memory = this.#memory.atomicMemory(inst.memory);
        const [expected, value] = [this.#r.single(inst.expected), this.#r.single(inst.value)];
        return this.#r.chunks(type, [b.compareExchange(memory, this.#memory.index(inst.index), expected, value)]);
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
    const { b } = this.#r;
    const { scalar, lanes } = type;
    const legal = this.#r.chunkScalar(scalar) ?? (this.#r.narrowed(type, range) ? 'i32' : undefined);
    if (legal === undefined) {
      const pair = this.#r.w.pack(this.#r.w.constant64(scalar === 'f64' ? bitsOfF64(Number(value)) : BigInt(value)));
      return { kind: 'pairs', type, parts: Array.from({ length: lanes }, () => pair) };
    }
    const width = this.#r.width(lanes);
    const part = b.constant(int64.isWideInteger(legal) ? BigInt(value) : Number(value), legal, width);
    return this.#r.chunks(
      type,
      Array.from({ length: lanes / width }, () => part),
    );
  }

  #splat(a: Rep, type: KType): Rep {
    if (a.kind === 'pairs') return { kind: 'pairs', type, parts: Array.from({ length: type.lanes }, () => a.parts[0]) };
    const width = this.#r.width(type.lanes);
    const part = this.#r.b.splat(a.parts[0], width);
    if (width > 1)
      this.#r.built.set(
        part,
        Array.from({ length: width }, () => a.parts[0]),
      );
    return this.#r.chunks(
      type,
      Array.from({ length: type.lanes / width }, () => part),
    );
  }

  #build(type: KType, elements: readonly Rep[]): Rep {
    if (elements.every(({ kind }) => kind === 'chunks'))
      return this.#r.gather(
        type,
        elements.map(({ parts }) => parts[0]),
      );
    return { kind: 'pairs', type, parts: elements.flatMap((element) => this.#r.pairs(element)) };
  }

  #subgroup(inst: Inst<'subgroup'>): Rep {
    const { b } = this.#r;
    const a = this.#r.get(inst.a);
    const { type } = inst.result;
    const moves = inst.fn !== 'add' && inst.fn !== 'min' && inst.fn !== 'max';
    if (moves) return { ...a, parts: a.parts.map((part) => this.#subgroupPart(inst, part)) };
    if (a.kind === 'chunks' && this.#r.native(type.scalar)) {
      return this.#r.chunks(
        type,
        a.parts.map((part) => b.subgroup(inst.fn, part, inst.delta)),
      );
    }
    if (a.kind === 'chunks' && isNarrow(type.scalar)) {
      return this.#r.chunks(
        type,
        a.parts.map((part) => this.#r.wrap(type.scalar, b.subgroup(inst.fn, part, inst.delta))),
      );
    }
    throw new TuttiError('E_UNSUPPORTED', `subgroup ${inst.fn} of ${type.scalar} values`, {
      subject: this.#r.kernel.sources[0] ?? this.#r.kernel.name,
      expected: 'a type that the device computes with',
      found: type.scalar,
      remedy: 'Use another device',
    });
  }
  #subgroupPart(inst: Inst<'subgroup'>, part: KValue): KValue {
    if (part.type.lanes === 1) return this.#r.b.subgroup(inst.fn, part, inst.delta);
    const moved = this.#r.elements(part).map((lane) => this.#r.b.subgroup(inst.fn, lane, inst.delta));
    return this.#r.b.build(moved);
  }

  #math(fn: MathFn | MathBinaryFn, args: readonly Rep[]): Rep {
    const { type } = args[0];
    const { scalar } = type;
    // The formulas for f64 compute with i64 too: without both they are lowered in their turn.
    if (scalar === 'f64' && !(this.#r.native('f64') && this.#r.native('i64'))) {
      const parts = args[0].parts.flatMap((_, i) => {
        const operands = args.map((arg): Rep => {
          const part = arg.parts[i];
          return { kind: arg.kind, type: ktype('f64', arg.kind === 'pairs' ? 1 : part.type.lanes), parts: [part] };
        });
        return this.#invoke(this.#softMath(fn, operands[0].type.lanes), operands).parts;
      });
      return { kind: args[0].kind, type, parts };
    }
    const dialect = dialectOf(this.#r.target);
    const parts = args[0].parts.map((_, i) => {
      const [x, y] = args.map((arg) => arg.parts[i]);
      const binary = fn === 'pow' || fn === 'atan2';
      const { b } = this.#r;
      return this.#r.finish(type, binary ? mathBinary(b, fn, x, y, dialect) : mathUnary(b, fn, x, dialect));
    });
    return this.#r.chunks(type, parts);
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
      helper = helpers[helpers.length - 1];
      this.#mathHelpers.set(key, helper);
    }
    return helper;
  }
}
