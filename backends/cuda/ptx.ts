/**
 * The text of one PTX function, instruction by instruction: registers, labels and literals.
 *
 * Registers are untyped words of 16, 32 and 64 bits (`%h %r %d`) and predicates (`%p`); instructions give the bits
 * their meaning, so that a bitcast costs nothing. Integers of 8 and 16 bits live sign- or zero-extended in 32.
 * Integer, f32 and f64 constants are literals (`7`, `0f3F800000`, `0d…`); PTX has none of f16 and of predicates.
 */
import { type ScalarType, scalarBits } from '../../compiler/kernel/types.js';

/** Bits of a register; 1 is a predicate. */
export type Width = 1 | 16 | 32 | 64;
/** A register, or a literal. */
export type Reg = string;

const prefixes: Readonly<Record<Width, string>> = { 1: '%p', 16: '%h', 32: '%r', 64: '%d' };
const declarations: Readonly<Record<Width, string>> = { 1: '.pred', 16: '.b16', 32: '.b32', 64: '.b64' };

export function widthOf(scalar: ScalarType): Width {
  if (scalar === 'bool') return 1;
  if (scalar === 'f16' || scalar === 'bf16') return 16;
  return scalarBits[scalar] === 64 ? 64 : 32;
}

/** How an instruction names a register of any type: `b32`, `pred`. */
export const bitsType = (width: Width): string => (width === 1 ? 'pred' : `b${width}`);

/** Arithmetic type of an instruction on values of `scalar`: `s32` for i8, i16 and i32, `f16`, `u64`. */
export function opType(scalar: ScalarType): string {
  switch (scalar) {
    case 'i8':
    case 'i16':
    case 'i32':
      return 's32';
    case 'u8':
    case 'u16':
    case 'u32':
      return 'u32';
    case 'i64':
      return 's64';
    case 'u64':
    case 'f16':
    case 'f32':
    case 'f64':
      return scalar;
    case 'bool':
    case 'bf16':
      throw new Error(`no PTX arithmetic on ${scalar}`);
    default:
      return scalar satisfies never;
  }
}

export const isLiteral = (reg: Reg): boolean => reg[0] !== '%';
/** The integer that a register is known to be. Not for literals of floats. */
export const integerOf = (reg: Reg): bigint | undefined => (isLiteral(reg) ? BigInt(reg) : undefined);
/** A literal for instructions that move bits: floats become integers. */
export const rawBits = (reg: Reg): Reg => (/^0[fd]/.test(reg) ? `0x${reg.slice(2)}` : reg);

const scratch = new DataView(new ArrayBuffer(8));

export function f32Literal(value: number): Reg {
  scratch.setFloat32(0, value);
  return `0f${scratch.getUint32(0).toString(16).toUpperCase().padStart(8, '0')}`;
}

export function f64Literal(value: number): Reg {
  scratch.setFloat64(0, value);
  return `0d${scratch.getBigUint64(0).toString(16).toUpperCase().padStart(16, '0')}`;
}

export function integerLiteral(scalar: ScalarType, value: number | bigint): Reg {
  const bits = scalarBits[scalar];
  const wide = BigInt(value);
  return String(scalar.startsWith('u') ? BigInt.asUintN(bits, wide) : BigInt.asIntN(bits, wide));
}

export class FunctionText {
  /** What runs before the first line, whoever asks for it first. */
  readonly prologue: string[] = [];
  readonly #lines: string[] = [];
  readonly #counts: Record<Width, number> = { 1: 0, 16: 0, 32: 0, 64: 0 };
  #labels = 0;

  reg(width: Width): Reg {
    return prefixes[width] + this.#counts[width]++;
  }

  label(): string {
    return `$L${this.#labels++}`;
  }

  line(text: string): void {
    this.#lines.push(text);
  }

  place(label: string): void {
    this.#lines.push(`${label}:`);
  }

  /** The new register of `width` bits that `op` gives. */
  value(width: Width, op: string, ...operands: readonly Reg[]): Reg {
    const result = this.reg(width);
    this.#lines.push(`${op} ${result}, ${operands.join(', ')};`);
    return result;
  }

  /** Same, at the start of the function. */
  early(width: Width, op: string, ...operands: readonly Reg[]): Reg {
    const result = this.reg(width);
    this.prologue.push(`${op} ${result}, ${operands.join(', ')};`);
    return result;
  }

  move(width: Width, to: Reg, from: Reg): void {
    if (to !== from) this.#lines.push(`mov.${bitsType(width)} ${to}, ${rawBits(from)};`);
  }

  /**
   * Moves that happen at once: no source is overwritten before it is read. `[width, to, from]` each; the targets are
   * distinct registers.
   */
  moveAll(moves: readonly (readonly [Width, Reg, Reg])[]): void {
    const pending = moves.filter(([, to, from]) => to !== from).map(([width, to, from]) => ({ width, to, from }));
    while (pending.length > 0) {
      const free = pending.findIndex(({ to }) => pending.every(({ from }) => from !== to));
      if (free >= 0) {
        const [{ width, to, from }] = pending.splice(free, 1);
        this.move(width, to, from);
        continue;
      }
      // Cycles only: set one target's old value aside, so that it may be written.
      const { width, to } = pending[0];
      const old = this.reg(width);
      this.move(width, old, to);
      for (const move of pending) if (move.from === to) move.from = old;
    }
  }

  /** Between the braces of the function. */
  body(): readonly string[] {
    const registers = ([1, 16, 32, 64] as const)
      .filter((width) => this.#counts[width] > 0)
      .map((width) => `.reg ${declarations[width]} ${prefixes[width]}<${this.#counts[width]}>;`);
    return [...registers, ...this.prologue, ...this.#lines];
  }
}
