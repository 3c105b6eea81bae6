/**
 * Kernel IR's arithmetic on one lane as PTX instructions. Every rounding is spelled out; nothing is contracted but
 * what the kernel marks `fast`.
 *
 * Where PTX differs from the IR, code is added: NaN in min and max before sm_80 and for f64, f16 division and square
 * root (through f32, whose precision makes the second rounding innocent), wrapping of integers below 32 bits.
 */
import {
  type BinaryFn,
  type ByteType,
  type CompareFn,
  type ExactUnaryFn,
  isFloatScalar,
  isSignedScalar,
  type Range,
  type ScalarType,
  scalarBits,
} from '../../compiler/kernel/types.js';
import { f32ToF16 } from '../../compiler/numeric.js';
import {
  bitsType,
  type FunctionText,
  f32Literal,
  f64Literal,
  integerLiteral,
  integerOf,
  opType,
  type Reg,
  rawBits,
  widthOf,
} from './ptx.js';

/** A register with what is known of its value. */
export interface Operand {
  readonly reg: Reg;
  readonly range?: Range;
}

const nonNegative = ({ range }: Operand): boolean => range !== undefined && range.min >= 0;
const roundings: Partial<Record<ExactUnaryFn, string>> = { floor: 'rmi', ceil: 'rpi', round: 'rni', trunc: 'rzi' };
const nanBits = { f16: '0x7e00', f32: '0x7fc00000', f64: '0x7ff8000000000000' } as const;
type NativeFloat = keyof typeof nanBits;
const isNativeFloat = (scalar: ScalarType): scalar is NativeFloat => scalar in nanBits;

export class Arithmetic {
  readonly #f: FunctionText;
  /** Compute capability × 10. */
  readonly #sm: number;

  constructor(text: FunctionText, sm: number) {
    this.#f = text;
    this.#sm = sm;
  }

  constant(scalar: ScalarType, value: number | bigint): Reg {
    switch (scalar) {
      case 'bool':
        return this.#f.value(1, 'setp.ne.u32', Number(value) === 0 ? '0' : '1', '0');
      case 'f16':
        return this.#f.value(16, 'mov.b16', `0x${f32ToF16(Number(value)).toString(16)}`);
      case 'bf16':
        throw new Error('bf16 reached the PTX renderer: the legaliser computes it in f32');
      case 'f32':
        return f32Literal(Number(value));
      case 'f64':
        return f64Literal(Number(value));
      default:
        return integerLiteral(scalar, value);
    }
  }

  // Operations ------------------------------------------------------------------------------------------------------

  unary(fn: ExactUnaryFn, scalar: ScalarType, a: Operand): Reg {
    const f = this.#f;
    if (scalar === 'bool') {
      if (fn !== 'not') throw meaningless(fn, scalar);
      return f.value(1, 'not.pred', a.reg);
    }
    if (isFloatScalar(scalar)) return this.#floatUnary(fn, scalar, a.reg);
    const width = widthOf(scalar);
    const bits = scalarBits[scalar];
    switch (fn) {
      case 'neg':
        return this.#wrapped(scalar, f.value(width, `neg.s${width}`, a.reg));
      case 'abs': {
        if (!isSignedScalar(scalar) || nonNegative(a)) return a.reg;
        // Of the lowest value too: it stays what it is.
        const negated = f.value(width, `neg.s${width}`, a.reg);
        return this.#wrapped(scalar, f.value(width, `max.s${width}`, a.reg, negated));
      }
      case 'not': {
        const flipped = f.value(width, `not.b${width}`, a.reg);
        return isSignedScalar(scalar) ? flipped : this.#wrapped(scalar, flipped);
      }
      case 'popcount':
      case 'clz': {
        const op = fn === 'clz' ? 'clz' : 'popc';
        if (width === 64) return f.value(64, 'cvt.u64.u32', f.value(32, `${op}.b64`, a.reg));
        const unsigned = bits < 32 && isSignedScalar(scalar) && !nonNegative(a) ? this.#masked(bits, a.reg) : a.reg;
        const count = f.value(32, `${op}.b32`, unsigned);
        return fn === 'clz' && bits < 32 ? f.value(32, 'sub.s32', count, String(32 - bits)) : count;
      }
      case 'floor':
      case 'ceil':
      case 'round':
      case 'trunc':
      case 'sqrt':
        throw meaningless(fn, scalar);
      default:
        return fn satisfies never;
    }
  }

  #floatUnary(fn: ExactUnaryFn, scalar: ScalarType, a: Reg): Reg {
    const f = this.#f;
    const type = opType(scalar);
    const width = widthOf(scalar);
    switch (fn) {
      case 'neg':
        return scalar === 'f16' ? f.value(16, 'xor.b16', a, '0x8000') : f.value(width, `neg.${type}`, a);
      case 'abs':
        return scalar === 'f16' ? f.value(16, 'and.b16', a, '0x7fff') : f.value(width, `abs.${type}`, a);
      case 'sqrt':
        if (scalar !== 'f16') return f.value(width, `sqrt.rn.${type}`, a);
        return this.#fromF32(f.value(32, 'sqrt.rn.f32', this.#toF32(a)));
      case 'floor':
      case 'ceil':
      case 'round':
      case 'trunc':
        return f.value(width, `cvt.${roundings[fn]}.${type}.${type}`, a);
      case 'not':
      case 'popcount':
      case 'clz':
        throw meaningless(fn, scalar);
      default:
        return fn satisfies never;
    }
  }

  /** Not the remainder of floats: that is a helper. */
  binary(fn: BinaryFn, scalar: ScalarType, a: Operand, b: Operand, fast: boolean): Reg {
    const f = this.#f;
    if (scalar === 'bool') {
      if (fn !== 'and' && fn !== 'or' && fn !== 'xor') throw meaningless(fn, scalar);
      return f.value(1, `${fn}.pred`, a.reg, b.reg);
    }
    if (isNativeFloat(scalar)) return this.#floatBinary(fn, scalar, a.reg, b.reg, fast);
    const width = widthOf(scalar);
    const type = opType(scalar);
    switch (fn) {
      case 'add':
      case 'sub':
        return this.#wrapped(scalar, f.value(width, `${fn}.${type}`, a.reg, b.reg));
      case 'mul':
        return this.#wrapped(scalar, f.value(width, `mul.lo.${type}`, a.reg, b.reg));
      case 'div':
      case 'rem': {
        const unsigned = nonNegative(a) && nonNegative(b);
        return f.value(width, `${fn}.${unsigned ? `u${width}` : type}`, a.reg, b.reg);
      }
      case 'min':
      case 'max':
        return f.value(width, `${fn}.${type}`, a.reg, b.reg);
      case 'and':
      case 'or':
      case 'xor':
        return f.value(width, `${fn}.b${width}`, a.reg, b.reg);
      case 'shl':
        return this.#wrapped(scalar, f.value(width, `shl.b${width}`, a.reg, this.#shiftAmount(width, b.reg)));
      case 'shr':
        return f.value(width, `shr.${type}`, a.reg, this.#shiftAmount(width, b.reg));
      case 'mulhi':
        if (width !== 32 || scalarBits[scalar] !== 32) throw meaningless(fn, scalar);
        return f.value(32, `mul.hi.${type}`, a.reg, b.reg);
      default:
        return fn satisfies never;
    }
  }

  /** Shift amounts have 32 bits whatever is shifted. */
  #shiftAmount(width: number, reg: Reg): Reg {
    return width === 64 && integerOf(reg) === undefined ? this.#f.value(32, 'cvt.u32.u64', reg) : reg;
  }

  #floatBinary(fn: BinaryFn, scalar: NativeFloat, a: Reg, b: Reg, fast: boolean): Reg {
    const f = this.#f;
    const width = widthOf(scalar);
    switch (fn) {
      case 'add':
      case 'sub':
      case 'mul':
        // Without a rounding mode PTX rounds to nearest as well, but may fuse a product with its sum.
        return f.value(width, `${fn}${fast ? '' : '.rn'}.${scalar}`, a, b);
      case 'div':
        if (scalar !== 'f16') return f.value(width, `div.rn.${scalar}`, a, b);
        return this.#fromF32(f.value(32, 'div.rn.f32', this.#toF32(a), this.#toF32(b)));
      case 'min':
      case 'max':
        return this.#extreme(fn, scalar, a, b);
      case 'rem':
      case 'and':
      case 'or':
      case 'xor':
      case 'shl':
      case 'shr':
      case 'mulhi':
        throw meaningless(fn, scalar);
      default:
        return fn satisfies never;
    }
  }

  /** NaN if either is NaN; -0 is less than +0. */
  #extreme(fn: 'min' | 'max', scalar: NativeFloat, a: Reg, b: Reg): Reg {
    const f = this.#f;
    const width = widthOf(scalar);
    if (scalar !== 'f64' && this.#sm >= 80) return f.value(width, `${fn}.NaN.${scalar}`, a, b);
    if (scalar === 'f16') return this.#fromF32(this.#extreme(fn, 'f32', this.#toF32(a), this.#toF32(b)));
    const number = f.value(width, `${fn}.${scalar}`, a, b);
    const nan = f.value(1, `setp.nan.${scalar}`, a, b);
    return f.value(width, `selp.b${width}`, nanBits[scalar], number, nan);
  }

  fma(scalar: ScalarType, a: Reg, b: Reg, c: Reg): Reg {
    return this.#f.value(widthOf(scalar), `fma.rn.${opType(scalar)}`, a, b, c);
  }

  /** c + the products of the bytes of two words. */
  dot4(left: ByteType, right: ByteType, a: Reg, b: Reg, c: Reg): Reg {
    const word = (type: ByteType) => (type === 'i8' ? 's32' : 'u32');
    return this.#f.value(32, `dp4a.${word(left)}.${word(right)}`, a, b, c);
  }

  /** `scalar` is the type of the operands. */
  compare(fn: CompareFn, scalar: ScalarType, a: Reg, b: Reg): Reg {
    const f = this.#f;
    if (scalar === 'bool') {
      const differ = f.value(1, 'xor.pred', a, b);
      if (fn === 'ne') return differ;
      if (fn === 'eq') return f.value(1, 'not.pred', differ);
      throw meaningless(fn, scalar);
    }
    // `ne` of floats is true with NaN.
    return f.value(1, `setp.${fn === 'ne' && isFloatScalar(scalar) ? 'neu' : fn}.${opType(scalar)}`, a, b);
  }

  select(scalar: ScalarType, condition: Reg, a: Reg, b: Reg): Reg {
    const f = this.#f;
    if (a === b) return a;
    if (scalar !== 'bool') {
      const width = widthOf(scalar);
      return f.value(width, `selp.${bitsType(width)}`, rawBits(a), rawBits(b), condition);
    }
    const first = f.value(1, 'and.pred', condition, a);
    const second = f.value(1, 'and.pred', f.value(1, 'not.pred', condition), b);
    return f.value(1, 'or.pred', first, second);
  }

  // Conversions -----------------------------------------------------------------------------------------------------

  convert(from: ScalarType, to: ScalarType, a: Operand): Reg {
    const f = this.#f;
    const { reg } = a;
    if (from === to) return reg;
    if (from === 'bf16' || to === 'bf16') throw new Error('bf16 reached the PTX renderer');
    if (to === 'bool') {
      const op = isFloatScalar(from) ? 'setp.neu' : 'setp.ne';
      return f.value(1, `${op}.${opType(from)}`, reg, this.#zero(from));
    }
    const width = widthOf(to);
    if (from === 'bool') return f.value(width, `selp.b${width}`, this.#oneBits(to), this.#zeroBits(to), reg);
    const [fromFloat, toFloat] = [isFloatScalar(from), isFloatScalar(to)];
    if (fromFloat && toFloat) {
      const narrows = scalarBits[to] < scalarBits[from];
      return f.value(width, `cvt.${narrows ? 'rn.' : ''}${to}.${from}`, reg);
    }
    if (toFloat) return f.value(width, `cvt.rn.${to}.${opType(from)}`, reg);
    return fromFloat ? this.#floatToInteger(from, to, reg) : this.#integerToInteger(from, to, a);
  }

  #integerToInteger(from: ScalarType, to: ScalarType, { reg, range }: Operand): Reg {
    const f = this.#f;
    const literal = integerOf(reg);
    if (literal !== undefined) return integerLiteral(to, literal);
    const [fromWidth, toWidth] = [widthOf(from), widthOf(to)];
    if (toWidth === 64) {
      if (fromWidth === 64) return reg;
      return f.value(64, isSignedScalar(from) ? 'cvt.s64.s32' : 'cvt.u64.u32', reg);
    }
    const word = fromWidth === 64 ? f.value(32, 'cvt.u32.u64', reg) : reg;
    return holds(to, range) || includes(to, from) ? word : this.#wrapped(to, word);
  }

  /** Truncates and saturates; NaN gives 0. */
  #floatToInteger(from: ScalarType, to: ScalarType, reg: Reg): Reg {
    const f = this.#f;
    const signed = isSignedScalar(to);
    const bits = scalarBits[to];
    const width = widthOf(to);
    // The instruction saturates at the bounds of its own type.
    const whole = f.value(width, `cvt.rzi.${signed ? 's' : 'u'}${width}.${from}`, reg);
    if (width === 64 || from === 'f64') {
      // Only between f16 or f32 and 32 bits does the instruction turn NaN to 0.
      const nan = f.value(1, `setp.nan.${from}`, reg, reg);
      const number = f.value(width, `selp.b${width}`, '0', whole, nan);
      return bits < 32 ? this.#clamped(to, number) : number;
    }
    return bits < 32 ? this.#clamped(to, whole) : whole;
  }

  #clamped(to: ScalarType, word: Reg): Reg {
    const f = this.#f;
    const bits = scalarBits[to];
    if (!isSignedScalar(to)) return f.value(32, 'min.u32', word, String(2 ** bits - 1));
    const low = f.value(32, 'max.s32', word, String(-(2 ** (bits - 1))));
    return f.value(32, 'min.s32', low, String(2 ** (bits - 1) - 1));
  }

  #zero(scalar: ScalarType): Reg {
    if (scalar === 'f16') return this.constant('f16', 0);
    return scalar === 'f32' ? f32Literal(0) : scalar === 'f64' ? f64Literal(0) : '0';
  }
  #zeroBits(to: ScalarType): Reg {
    return to === 'f16' ? this.#f.value(16, 'mov.b16', '0') : '0';
  }
  #oneBits(to: ScalarType): Reg {
    if (to === 'f16') return this.constant('f16', 1);
    return to === 'f32' ? rawBits(f32Literal(1)) : to === 'f64' ? rawBits(f64Literal(1)) : '1';
  }

  #toF32(half: Reg): Reg {
    return this.#f.value(32, 'cvt.f32.f16', half);
  }
  #fromF32(word: Reg): Reg {
    return this.#f.value(16, 'cvt.rn.f16.f32', word);
  }

  // Bits ------------------------------------------------------------------------------------------------------------

  /** A word brought back into an integer type of fewer than 32 bits; wider ones wrap by themselves. */
  #wrapped(scalar: ScalarType, reg: Reg): Reg {
    const bits = scalarBits[scalar];
    if (bits >= 32) return reg;
    return isSignedScalar(scalar) ? this.#f.value(32, `cvt.s32.s${bits}`, reg) : this.#masked(bits, reg);
  }
  #masked(bits: number, reg: Reg): Reg {
    return this.#f.value(32, 'and.b32', reg, String(2 ** bits - 1));
  }

  /** The bits of a value as an unsigned integer: 32-bit word for what is smaller. */
  toBits(scalar: ScalarType, reg: Reg): Reg {
    const bits = scalarBits[scalar];
    if (bits >= 32) return rawBits(reg);
    if (widthOf(scalar) === 16) return this.#f.value(32, 'cvt.u32.u16', reg);
    if (!isSignedScalar(scalar)) return reg;
    const literal = integerOf(reg);
    return literal === undefined ? this.#masked(bits, reg) : String(BigInt.asUintN(bits, literal));
  }

  /** The value whose bits are the low ones of `reg`. */
  fromBits(scalar: ScalarType, reg: Reg): Reg {
    if (widthOf(scalar) === 16) return this.#f.value(16, 'cvt.u16.u32', reg);
    const literal = integerOf(reg);
    if (literal === undefined) return this.#wrapped(scalar, reg);
    if (scalar === 'f32') return `0f${BigInt.asUintN(32, literal).toString(16).padStart(8, '0')}`;
    if (scalar === 'f64') return `0d${BigInt.asUintN(64, literal).toString(16).padStart(16, '0')}`;
    return integerLiteral(scalar, literal);
  }

  /** Lanes of `from` as lanes of `to` over the same bits, lowest first. */
  bitcast(from: ScalarType, to: ScalarType, lanes: readonly Reg[]): readonly Reg[] {
    if (from === to) return lanes;
    const f = this.#f;
    const [fromBits, toBits] = [scalarBits[from], scalarBits[to]];
    const parts = lanes.map((lane) => this.toBits(from, lane));
    if (fromBits === toBits) return parts.map((part) => this.fromBits(to, part));
    if (fromBits > toBits) {
      return parts.flatMap((part) =>
        Array.from({ length: fromBits / toBits }, (_, i) => this.fromBits(to, this.#piece(part, fromBits, toBits, i))),
      );
    }
    const count = toBits / fromBits;
    return Array.from({ length: parts.length / count }, (_, i) => {
      const group = parts.slice(i * count, (i + 1) * count);
      const perWord = Math.min(count, 32 / fromBits);
      const words: Reg[] = [];
      for (let at = 0; at < count; at += perWord) {
        words.push(
          group
            .slice(at, at + perWord)
            .map((part, k) => (k === 0 ? part : f.value(32, 'shl.b32', part, String(k * fromBits))))
            .reduce((x, y) => f.value(32, 'or.b32', x, y)),
        );
      }
      return this.fromBits(to, toBits === 64 ? f.value(64, 'mov.b64', `{${words.join(', ')}}`) : words[0]);
    });
  }

  /** Piece `i` of `bits` bits of an integer, other bits above it; 64-bit integers give words. */
  #piece(reg: Reg, fromBits: number, bits: number, i: number): Reg {
    const f = this.#f;
    const shift = i * bits;
    let word = reg;
    if (fromBits === 64) {
      const shifted = shift < 32 ? reg : f.value(64, 'shr.u64', reg, '32');
      word = f.value(32, 'cvt.u32.u64', shifted);
    }
    return shift % 32 === 0 ? word : f.value(32, 'shr.u32', word, String(shift % 32));
  }
}

/** Whether every value in `range` is one of the type. */
function holds(scalar: ScalarType, range: Range | undefined): boolean {
  if (!range) return false;
  const bits = scalarBits[scalar];
  const [min, max] = isSignedScalar(scalar) ? [-(2 ** (bits - 1)), 2 ** (bits - 1) - 1] : [0, 2 ** bits - 1];
  return range.min >= min && range.max <= max;
}

/** Whether every value of `from` is one of `to`. */
function includes(to: ScalarType, from: ScalarType): boolean {
  const [toBits, fromBits] = [scalarBits[to], scalarBits[from]];
  if (isSignedScalar(to) === isSignedScalar(from)) return toBits >= fromBits;
  return isSignedScalar(to) && toBits > fromBits;
}

const meaningless = (fn: string, scalar: ScalarType): Error => new Error(`${fn} of ${scalar}`);
