/**
 * Kernel IR's scalar and vector arithmetic as SPIR-V instructions.
 *
 * Integers of either sign are SPIR-V's unsigned types (the instruction carries the sign), so i32 ↔ u32 costs nothing.
 * Where SPIR-V leaves a result undefined that Kernel IR defines (conversions out of range, NaN in min/max, the sign of
 * remainders), code is added; where it only bounds the error (division 2.5 ULP, sqrt via 1/inversesqrt) we take what the
 * device gives.
 */

import {
  type BinaryFn,
  type ByteType,
  type CompareFn,
  type ExactUnaryFn,
  isFloatScalar,
  isSignedScalar,
  type KType,
  ktype,
  type Range,
  type ScalarType,
  scalarBits,
} from '../../compiler/kernel/types.js';
import { f32ToF16 } from '../../compiler/numeric.js';
import { type Assembler, type Id, Op } from './spirv.js';

/** An operand: its id and what is known of it. */
export interface Operand {
  readonly id: Id;
  readonly range?: Range;
  readonly constant?: number | bigint;
}

/** Which SPIR-V capabilities beyond Shader the device has. */
export interface ScalarSupport {
  readonly arithmetic: ReadonlySet<ScalarType>;
}

const floatScratch = new Float32Array(1);
const floatBits = new Uint32Array(floatScratch.buffer);
const doubleScratch = new Float64Array(1);
const doubleBits = new Uint32Array(doubleScratch.buffer);

const integerOps: Partial<Record<BinaryFn, readonly [signed: number, unsigned: number]>> = {
  add: [Op.IAdd, Op.IAdd],
  sub: [Op.ISub, Op.ISub],
  mul: [Op.IMul, Op.IMul],
  and: [Op.BitwiseAnd, Op.BitwiseAnd],
  or: [Op.BitwiseOr, Op.BitwiseOr],
  xor: [Op.BitwiseXor, Op.BitwiseXor],
  shl: [Op.ShiftLeftLogical, Op.ShiftLeftLogical],
  shr: [Op.ShiftRightArithmetic, Op.ShiftRightLogical],
};
const boolOps: Partial<Record<BinaryFn, number>> = {
  and: Op.LogicalAnd,
  or: Op.LogicalOr,
  xor: Op.LogicalNotEqual,
};
const floatOps: Partial<Record<BinaryFn, number>> = { add: Op.FAdd, sub: Op.FSub, mul: Op.FMul, div: Op.FDiv };

const compareOps: Readonly<Record<CompareFn, readonly [float: number, signed: number, unsigned: number]>> = {
  eq: [Op.FOrdEqual, Op.IEqual, Op.IEqual],
  ne: [Op.FUnordNotEqual, Op.INotEqual, Op.INotEqual],
  lt: [Op.FOrdLessThan, Op.SLessThan, Op.ULessThan],
  le: [Op.FOrdLessThanEqual, Op.SLessThanEqual, Op.ULessThanEqual],
  gt: [Op.FOrdGreaterThan, Op.SGreaterThan, Op.UGreaterThan],
  ge: [Op.FOrdGreaterThanEqual, Op.SGreaterThanEqual, Op.UGreaterThanEqual],
};

const nonNegative = (operand: Operand): boolean => operand.range !== undefined && operand.range.min >= 0;

/** Four bytes in each word: the packed vector format of dot products. */
const packed4x8 = 0;

export class Arithmetic {
  readonly #asm: Assembler;
  readonly #support: ScalarSupport;
  /** Ids of types, by scalar and then lanes: every instruction asks. */
  readonly #types = new Map<ScalarType, Id[]>();
  /** Float widths that the module computes with: what float controls must name. */
  readonly floatWidths = new Set<number>();

  constructor(asm: Assembler, support: ScalarSupport) {
    this.#asm = asm;
    this.#support = support;
  }

  // Types and constants ---------------------------------------------------------------------------------------------

  scalarType(scalar: ScalarType): Id {
    const asm = this.#asm;
    switch (scalar) {
      case 'bool':
        return asm.typeBool();
      case 'i8':
      case 'u8':
        if (this.#support.arithmetic.has(scalar)) asm.capability('Int8');
        return asm.typeUint(8);
      case 'i16':
      case 'u16':
        if (this.#support.arithmetic.has(scalar)) asm.capability('Int16');
        return asm.typeUint(16);
      case 'i32':
      case 'u32':
        return asm.typeUint(32);
      case 'i64':
      case 'u64':
        asm.capability('Int64');
        return asm.typeUint(64);
      case 'f16':
        if (this.#support.arithmetic.has(scalar)) {
          asm.capability('Float16');
          this.floatWidths.add(16);
        }
        return asm.typeFloat(16);
      case 'f32':
        this.floatWidths.add(32);
        return asm.typeFloat(32);
      case 'f64':
        asm.capability('Float64');
        this.floatWidths.add(64);
        return asm.typeFloat(64);
      case 'bf16':
        throw new Error('bf16 reached the SPIR-V renderer: the legaliser packs it into integers');
      default:
        return scalar satisfies never;
    }
  }

  type(type: KType): Id {
    const known = this.#types.get(type.scalar)?.[type.lanes];
    if (known !== undefined) return known;
    if (type.lanes > 4) throw new Error(`a value of ${type.lanes} lanes reached the SPIR-V renderer; 4 is the most`);
    const id = this.#asm.typeVector(this.scalarType(type.scalar), type.lanes);
    let lanes = this.#types.get(type.scalar);
    if (!lanes) this.#types.set(type.scalar, (lanes = []));
    lanes[type.lanes] = id;
    return id;
  }

  constant(type: KType, value: number | bigint): Id {
    const scalar = this.#scalarConstant(type.scalar, value);
    return type.lanes === 1 ? scalar : this.#asm.composite(this.type(type), new Array<Id>(type.lanes).fill(scalar));
  }

  #scalarConstant(scalar: ScalarType, value: number | bigint): Id {
    const asm = this.#asm;
    if (scalar === 'bool') return asm.bool(Number(value) !== 0);
    const id = this.scalarType(scalar);
    switch (scalar) {
      case 'f16':
        return asm.constant(id, [f32ToF16(Number(value))]);
      case 'f32':
        floatScratch[0] = Number(value);
        return asm.constant(id, [floatBits[0]]);
      case 'f64':
        doubleScratch[0] = Number(value);
        return asm.constant(id, [doubleBits[0], doubleBits[1]]);
      default: {
        const bits = BigInt.asUintN(scalarBits[scalar], BigInt(value));
        const low = Number(bits & 0xffffffffn);
        return asm.constant(id, scalarBits[scalar] === 64 ? [low, Number(bits >> 32n)] : [low]);
      }
    }
  }

  splat(type: KType, scalar: Id): Id {
    if (type.lanes === 1) return scalar;
    return this.#asm.value(Op.CompositeConstruct, this.type(type), new Array<Id>(type.lanes).fill(scalar));
  }

  /** Float results that no one may contract or reassociate. */
  #exact(op: number, type: Id, operands: readonly Id[], fast: boolean | undefined): Id {
    const id = this.#asm.value(op, type, operands);
    if (!fast) this.#asm.decorate(id, 'NoContraction');
    return id;
  }

  // Operations ------------------------------------------------------------------------------------------------------

  unary(fn: ExactUnaryFn, type: KType, a: Operand, fast?: boolean): Id {
    const asm = this.#asm;
    const id = this.type(type);
    if (type.scalar === 'bool') {
      if (fn !== 'not') throw new Error(`${fn} of bool`);
      return asm.value(Op.LogicalNot, id, [a.id]);
    }
    if (isFloatScalar(type.scalar)) {
      switch (fn) {
        case 'neg':
          return this.#exact(Op.FNegate, id, [a.id], fast);
        case 'abs':
          return asm.glsl('FAbs', id, [a.id]);
        case 'floor':
          return asm.glsl('Floor', id, [a.id]);
        case 'ceil':
          return asm.glsl('Ceil', id, [a.id]);
        case 'round':
          return asm.glsl('RoundEven', id, [a.id]);
        case 'trunc':
          return asm.glsl('Trunc', id, [a.id]);
        case 'sqrt':
          return asm.glsl('Sqrt', id, [a.id]);
        case 'not':
        case 'popcount':
        case 'clz':
          throw new Error(`${fn} of ${type.scalar}`);
        default:
          return fn satisfies never;
      }
    }
    switch (fn) {
      case 'neg':
        return asm.value(Op.SNegate, id, [a.id]);
      case 'abs':
        return isSignedScalar(type.scalar) ? this.#absolute(type, a.id) : a.id;
      case 'not':
        return asm.value(Op.Not, id, [a.id]);
      case 'popcount':
        return this.#countBits(type, a.id, (wide, x) => asm.value(Op.BitCount, wide, [x]), 'sum');
      case 'clz':
        return this.#countBits(type, a.id, (wide, x) => this.#leadingZeros(wide, x, type.lanes), 'leading');
      case 'floor':
      case 'ceil':
      case 'round':
      case 'trunc':
      case 'sqrt':
        throw new Error(`${fn} of ${type.scalar}`);
      default:
        return fn satisfies never;
    }
  }

  /** SAbs wants 32 bits in some drivers; max(a, -a) is the same and wraps MIN to itself. */
  #absolute(type: KType, a: Id): Id {
    const id = this.type(type);
    const negated = this.#asm.value(Op.SNegate, id, [a]);
    const negative = this.compare('lt', type, { id: a }, { id: this.constant(type, 0) });
    return this.#asm.value(Op.Select, id, [negative, negated, a]);
  }

  /** 31 - index of the highest set bit, which is -1 for 0. */
  #leadingZeros(wide: Id, x: Id, lanes: KType['lanes']): Id {
    const top = this.#asm.glsl('FindUMsb', wide, [x]);
    return this.#asm.value(Op.ISub, wide, [this.constant(ktype('u32', lanes), 31), top]);
  }

  /** BitCount and FindUMsb take 32 bits only: other widths are extended, or counted by halves. */
  #countBits(type: KType, a: Id, count: (wide: Id, x: Id) => Id, rule: 'sum' | 'leading'): Id {
    const asm = this.#asm;
    const bits = scalarBits[type.scalar];
    const u32 = ktype('u32', type.lanes);
    const wide = this.type(u32);
    if (bits === 32) return count(wide, a);
    const unsigned = ktype(`u${bits}` as ScalarType, type.lanes);
    if (bits < 32) {
      const counted = count(wide, asm.value(Op.UConvert, wide, [a]));
      const extra = this.constant(u32, 32 - bits);
      return this.convert(u32, type, { id: rule === 'sum' ? counted : asm.value(Op.ISub, wide, [counted, extra]) });
    }
    const shift = this.constant(unsigned, 32);
    const low = count(wide, asm.value(Op.UConvert, wide, [a]));
    const highBits = asm.value(Op.UConvert, wide, [asm.value(Op.ShiftRightLogical, this.type(type), [a, shift])]);
    const high = count(wide, highBits);
    const both = asm.value(Op.IAdd, wide, [low, high]);
    if (rule === 'sum') return this.convert(u32, type, { id: both });
    const empty = this.compare('eq', u32, { id: highBits }, { id: this.constant(u32, 0) });
    return this.convert(u32, type, { id: asm.value(Op.Select, wide, [empty, both, high]) });
  }

  /** Every function but the float remainder, which needs a loop: see `fmod.ts`. */
  binary(fn: BinaryFn, type: KType, a: Operand, b: Operand, fast?: boolean): Id {
    const { scalar } = type;
    const asm = this.#asm;
    const id = this.type(type);
    if (scalar === 'bool') {
      const op = boolOps[fn];
      if (op === undefined) throw new Error(`${fn} of bool`);
      return asm.value(op, id, [a.id, b.id]);
    }
    if (isFloatScalar(scalar)) {
      if (fn === 'min' || fn === 'max') return this.#floatExtreme(fn, type, a, b);
      const op = floatOps[fn];
      if (op === undefined) throw new Error(`${fn} of ${scalar}`);
      return this.#exact(op, id, [a.id, b.id], fast);
    }
    const signed = isSignedScalar(scalar);
    switch (fn) {
      case 'div':
      case 'rem':
        return this.#integerDivision(fn, type, a, b);
      case 'min':
      case 'max': {
        const first = this.compare(fn === 'min' ? 'lt' : 'gt', type, a, b);
        if (scalarBits[scalar] !== 32) return asm.value(Op.Select, id, [first, a.id, b.id]);
        return asm.glsl(signed ? (fn === 'min' ? 'SMin' : 'SMax') : fn === 'min' ? 'UMin' : 'UMax', id, [a.id, b.id]);
      }
      case 'mulhi': {
        const pair = asm.value(signed ? Op.SMulExtended : Op.UMulExtended, asm.typePair(id), [a.id, b.id]);
        return asm.value(Op.CompositeExtract, id, [pair, 1]);
      }
      default: {
        const ops = integerOps[fn];
        if (ops === undefined) throw new Error(`${fn} of ${scalar}`);
        return asm.value(ops[signed ? 0 : 1], id, [a.id, b.id]);
      }
    }
  }

  #integerDivision(fn: 'div' | 'rem', type: KType, a: Operand, b: Operand): Id {
    const asm = this.#asm;
    const id = this.type(type);
    const unsigned = !isSignedScalar(type.scalar) || (nonNegative(a) && nonNegative(b));
    if (unsigned) {
      const divisor = b.constant === undefined ? 0n : BigInt(b.constant);
      if (divisor > 0n && (divisor & (divisor - 1n)) === 0n) {
        if (fn === 'rem') return asm.value(Op.BitwiseAnd, id, [a.id, this.constant(type, divisor - 1n)]);
        const shift = divisor.toString(2).length - 1;
        return asm.value(Op.ShiftRightLogical, id, [a.id, this.constant(type, shift)]);
      }
      return asm.value(fn === 'div' ? Op.UDiv : Op.UMod, id, [a.id, b.id]);
    }
    const quotient = asm.value(Op.SDiv, id, [a.id, b.id]);
    if (fn === 'div') return quotient;
    // Vulkan leaves OpSRem of negative operands undefined.
    return asm.value(Op.ISub, id, [a.id, asm.value(Op.IMul, id, [quotient, b.id])]);
  }

  /** NaN if either is NaN. One compare where an operand is a known number: the unordered one keeps the other's NaN. */
  #floatExtreme(fn: 'min' | 'max', type: KType, a: Operand, b: Operand): Id {
    const asm = this.#asm;
    const id = this.type(type);
    const bool = this.type(ktype('bool', type.lanes));
    const isNumber = (x: Operand): boolean => x.constant !== undefined && !Number.isNaN(Number(x.constant));
    if (isNumber(a) || isNumber(b)) {
      const [x, c] = isNumber(b) ? [a, b] : [b, a];
      const first = asm.value(fn === 'min' ? Op.FUnordLessThan : Op.FUnordGreaterThan, bool, [x.id, c.id]);
      return asm.value(Op.Select, id, [first, x.id, c.id]);
    }
    const ordered = asm.value(fn === 'min' ? Op.FOrdLessThan : Op.FOrdGreaterThan, bool, [a.id, b.id]);
    const nan = asm.value(Op.FUnordNotEqual, bool, [a.id, a.id]);
    return asm.value(Op.Select, id, [asm.value(Op.LogicalOr, bool, [ordered, nan]), a.id, b.id]);
  }

  /** c + the products of the bytes of two words; what is added wraps, so nothing may saturate. */
  dot4(type: KType, left: ByteType, right: ByteType, a: Id, b: Id, c: Id): Id {
    const asm = this.#asm;
    asm.extension('SPV_KHR_integer_dot_product');
    asm.capability('DotProduct');
    asm.capability('DotProductInput4x8BitPacked');
    const op = left !== right ? Op.SUDot : left === 'i8' ? Op.SDot : Op.UDot;
    // The signed one comes first.
    const words = left === 'u8' && right === 'i8' ? [b, a] : [a, b];
    const one = this.type(ktype(type.scalar));
    const dot = (lane?: number): Id => {
      const parts = lane === undefined ? words : words.map((word) => asm.value(Op.CompositeExtract, one, [word, lane]));
      return asm.value(op, one, [...parts, packed4x8]);
    };
    const products =
      type.lanes === 1
        ? dot()
        : asm.value(
            Op.CompositeConstruct,
            this.type(type),
            Array.from({ length: type.lanes }, (_, lane) => dot(lane)),
          );
    return asm.value(Op.IAdd, this.type(type), [c, products]);
  }

  fma(type: KType, a: Id, b: Id, c: Id): Id {
    return this.#asm.glsl('Fma', this.type(type), [a, b, c]);
  }

  /** `type` is that of the operands. */
  compare(fn: CompareFn, type: KType, a: Operand, b: Operand): Id {
    const asm = this.#asm;
    const bool = this.type(ktype('bool', type.lanes));
    if (type.scalar === 'bool') {
      if (fn === 'eq') return asm.value(Op.LogicalEqual, bool, [a.id, b.id]);
      if (fn === 'ne') return asm.value(Op.LogicalNotEqual, bool, [a.id, b.id]);
      const u32 = ktype('u32', type.lanes);
      return this.compare(fn, u32, { id: this.convert(type, u32, a) }, { id: this.convert(type, u32, b) });
    }
    const [float, signed, unsigned] = compareOps[fn];
    const op = isFloatScalar(type.scalar) ? float : isSignedScalar(type.scalar) ? signed : unsigned;
    return asm.value(op, bool, [a.id, b.id]);
  }

  /** `condition` has `conditionLanes` lanes: those of `type`, or one for all. */
  select(type: KType, condition: Id, conditionLanes: number, a: Id, b: Id): Id {
    const wide = conditionLanes === type.lanes ? condition : this.splat(ktype('bool', type.lanes), condition);
    return this.#asm.value(Op.Select, this.type(type), [wide, a, b]);
  }

  // Conversions -----------------------------------------------------------------------------------------------------

  convert(from: KType, to: KType, a: Operand): Id {
    const asm = this.#asm;
    const { lanes } = from;
    const id = this.type(to);
    if (from.scalar === to.scalar) return a.id;
    if (to.scalar === 'bool') return this.compare('ne', from, a, { id: this.constant(from, 0) });
    if (from.scalar === 'bool') {
      return asm.value(Op.Select, id, [a.id, this.constant(to, 1), this.constant(to, 0)]);
    }
    const [fromFloat, toFloat] = [isFloatScalar(from.scalar), isFloatScalar(to.scalar)];
    const [fromBits, toBits] = [scalarBits[from.scalar], scalarBits[to.scalar]];
    if (fromFloat && toFloat) return asm.value(Op.FConvert, id, [a.id]);
    if (!fromFloat && !toFloat) {
      if (fromBits === toBits) return a.id;
      const extend = toBits > fromBits && isSignedScalar(from.scalar) && !nonNegative(a);
      return asm.value(extend ? Op.SConvert : Op.UConvert, id, [a.id]);
    }
    if (toFloat) {
      const signed = isSignedScalar(from.scalar);
      if (fromBits < 32) {
        const wide = ktype(signed ? 'i32' : 'u32', lanes);
        return this.convert(wide, to, { id: this.convert(from, wide, a) });
      }
      // Through f32: what that rounds is beyond f16's range, so the second rounding alone counts.
      if (to.scalar === 'f16') {
        const f32 = ktype('f32', lanes);
        return this.convert(f32, to, { id: this.convert(from, f32, a) });
      }
      if (from.scalar === 'u32' && to.scalar === 'f32') return this.#u32ToF32(lanes, a);
      return asm.value(signed ? Op.ConvertSToF : Op.ConvertUToF, id, [a.id]);
    }
    if (from.scalar === 'f16') {
      const f32 = ktype('f32', lanes);
      return this.convert(f32, to, { id: this.convert(from, f32, a) });
    }
    return this.#floatToInt(from, to, a.id);
  }

  /** By halves, which are exact, so that the one addition rounds: SwiftShader rounds ConvertUToF wrongly from 2^31 on. */
  #u32ToF32(lanes: KType['lanes'], a: Operand): Id {
    const asm = this.#asm;
    const u32 = ktype('u32', lanes);
    const f32 = ktype('f32', lanes);
    const float = this.type(f32);
    if (a.range && a.range.max < 2 ** 31) return asm.value(Op.ConvertSToF, float, [a.id]);
    const word = this.type(u32);
    const half = (op: number, operand: number): Id =>
      asm.value(Op.ConvertSToF, float, [asm.value(op, word, [a.id, this.constant(u32, operand)])]);
    const high = this.#exact(Op.FMul, float, [half(Op.ShiftRightLogical, 16), this.constant(f32, 65536)], false);
    return this.#exact(Op.FAdd, float, [high, half(Op.BitwiseAnd, 0xffff)], false);
  }

  /** Truncates and saturates; NaN gives 0. The instruction itself only ever sees values in range. */
  #floatToInt(from: KType, to: KType, a: Id): Id {
    const asm = this.#asm;
    const signed = isSignedScalar(to.scalar);
    const bits = BigInt(scalarBits[to.scalar]);
    const [min, max] = signed ? [-(1n << (bits - 1n)), (1n << (bits - 1n)) - 1n] : [0n, (1n << bits) - 1n];
    const wide = ktype(bits > 32n ? to.scalar : signed ? 'i32' : 'u32', from.lanes);
    const bool = this.type(ktype('bool', from.lanes));
    const float = this.type(from);
    // Bounds that the float type has exactly: powers of two.
    const upper = this.constant(from, Number(max + 1n));
    const lower = this.constant(from, Number(min));
    const below = asm.value(Op.FOrdLessThan, bool, [a, lower]);
    const above = asm.value(Op.FOrdGreaterThanEqual, bool, [a, upper]);
    const inside = asm.value(Op.LogicalAnd, bool, [
      asm.value(Op.FOrdGreaterThanEqual, bool, [a, lower]),
      asm.value(Op.FOrdLessThan, bool, [a, upper]),
    ]);
    const safe = asm.value(Op.Select, float, [inside, a, this.constant(from, 0)]);
    const wideId = this.type(wide);
    let result = asm.value(signed ? Op.ConvertFToS : Op.ConvertFToU, wideId, [safe]);
    result = asm.value(Op.Select, wideId, [above, this.constant(wide, max), result]);
    if (signed) result = asm.value(Op.Select, wideId, [below, this.constant(wide, min), result]);
    return this.convert(wide, to, { id: result });
  }

  bitcast(from: KType, to: KType, a: Id): Id {
    const id = this.type(to);
    return this.type(from) === id ? a : this.#asm.value(Op.Bitcast, id, [a]);
  }
}
