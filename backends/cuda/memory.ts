/**
 * Buffers and arrays: addresses, loads, stores and atomics.
 *
 * Indices stay 32-bit as long as they can; one widening multiplication makes the 64-bit address of a global element.
 * Constants that were added to an index become the offset of the access, so that neighbours share their address.
 * Private arrays whose indices are all known are registers.
 */
import { rangeOf } from '../../compiler/kernel/builder.js';
import type { KSignal } from '../../compiler/kernel/engines.js';
import {
  type AtomicFn,
  isSignedScalar,
  type KArray,
  type KBuffer,
  type KInst,
  type KMemory,
  type KValue,
  type ScalarType,
  scalarBits,
} from '../../compiler/kernel/types.js';
import type { Module } from './module.js';
import { type FunctionText, integerOf, opType, type Reg, rawBits, widthOf } from './ptx.js';
import { arrayAlignment, arrayBytes, blockName, memoryScalar, type SharedLayout } from './shared.js';
import type { Survey } from './survey.js';

type Inst<Op extends KInst['op']> = Extract<KInst, { op: Op }>;

/** Bytes that one access may have. */
const widestAccess = 16;
/** Offsets of accesses beyond this are added beforehand; PTX has 32 bits, the machine 24. */
const largestOffset = 2 ** 22;

/** Type of a load or store: its width, and how it extends. */
function accessType(scalar: ScalarType): string {
  const bits = scalarBits[scalar];
  return widthOf(scalar) === 32 && bits < 32 ? `${isSignedScalar(scalar) ? 's' : 'u'}${bits}` : `b${bits}`;
}

export interface TilePlace {
  /** State space, and how it is cached: `shared`, `global.nc`. */
  readonly space: string;
  /** Address of a byte of the tile. */
  at(bytes: number): string;
}

export interface Address {
  readonly reg: Reg;
  readonly offset: number;
}

export class MemoryAccess {
  readonly #f: FunctionText;
  readonly #survey: Survey;
  readonly #regOf: (value: KValue) => Reg;
  readonly #buffers: ReadonlyMap<KBuffer, number>;
  readonly #arrays: ReadonlyMap<KArray, number>;
  readonly #signals: ReadonlyMap<KSignal, number>;
  readonly #shared: SharedLayout;
  readonly #entry: string;
  readonly #bases = new Map<KMemory | KSignal, Reg>();
  readonly #registers = new Map<KArray, readonly Reg[]>();
  /** Addresses computed so far, by memory and index register: one map for each block that is open. */
  readonly #scopes: Map<string, Reg>[] = [new Map()];

  constructor(
    text: FunctionText,
    { kernel, survey, shared, entry }: Pick<Module, 'kernel' | 'survey' | 'shared' | 'entry'>,
    regOf: (value: KValue) => Reg,
  ) {
    this.#f = text;
    this.#survey = survey;
    this.#shared = shared;
    this.#entry = entry;
    this.#regOf = regOf;
    const buffers = kernel.params.filter((param) => param.kind === 'buffer');
    this.#buffers = new Map(buffers.map((buffer, i) => [buffer, i]));
    this.#arrays = new Map(kernel.arrays.map((array, i) => [array, i]));
    this.#signals = new Map(kernel.signals.map((signal, i) => [signal, i]));
    for (const array of survey.registerArrays) {
      const width = widthOf(array.scalar);
      this.#registers.set(
        array,
        Array.from({ length: array.length }, () => text.reg(width)),
      );
    }
  }

  /** Declarations of the arrays and signals that are variables. */
  declarations(): readonly string[] {
    const variables = this.#shared.isDynamic ? [] : [...this.#signals];
    return [
      ...[...this.#arrays]
        .filter(([array]) => !this.#registers.has(array) && !(array.space === 'shared' && this.#shared.isDynamic))
        .map(
          ([array, i]) =>
            `.${array.space === 'shared' ? 'shared' : 'local'} .align ${arrayAlignment} .b8 a${i}[${arrayBytes(array)}];`,
        ),
      ...variables.map(([{ count }, i]) => `.shared .align ${arrayAlignment} .b64 s${i}[${count}];`),
    ];
  }

  /** Addresses computed from here on hold until `leave`. */
  enter(): void {
    this.#scopes.push(new Map());
  }
  leave(): void {
    this.#scopes.pop();
  }

  load(inst: Inst<'load'>): readonly Reg[] {
    const f = this.#f;
    const { memory, aligned } = inst;
    const { lanes } = inst.result.type;
    const elements = this.#elements(memory, inst.index, lanes);
    const width = widthOf(memory.scalar);
    if (elements) {
      // Copies, since a later store changes the register.
      return elements.map((element) => {
        const copy = f.reg(width);
        f.move(width, copy, element);
        return copy;
      });
    }
    const scalar = memoryScalar(memory);
    const bytes = scalarBits[scalar] / 8;
    const { reg, offset } = this.#address(memory, inst.index, lanes);
    const cached = memory.kind === 'buffer' && memory.access === 'read' ? '.nc' : '';
    const op = `ld.${spaceOf(memory)}${cached}`;
    const step = aligned ? Math.min(lanes, widestAccess / bytes) : 1;
    const results: Reg[] = [];
    for (let at = 0; at < lanes; at += step) {
      const place = `[${reg}${offsetText(offset + at * bytes)}]`;
      const part = Array.from({ length: step }, () => f.reg(widthOf(scalar)));
      if (step === 1) f.line(`${op}.${accessType(scalar)} ${part[0]}, ${place};`);
      else f.line(`${op}.v${step}.${accessType(scalar)} {${part.join(', ')}}, ${place};`);
      results.push(...part);
    }
    return memory.scalar === 'bool' ? results.map((byte) => f.value(1, 'setp.ne.u32', byte, '0')) : results;
  }

  store(inst: Inst<'store'>, values: readonly Reg[]): void {
    const f = this.#f;
    const { memory, aligned } = inst;
    const lanes = values.length;
    const elements = this.#elements(memory, inst.index, lanes);
    if (elements) {
      f.moveAll(elements.map((element, i) => [widthOf(memory.scalar), element, values[i]]));
      return;
    }
    const scalar = memoryScalar(memory);
    const bytes = scalarBits[scalar] / 8;
    const { reg, offset } = this.#address(memory, inst.index, lanes);
    const stored =
      memory.scalar === 'bool' ? values.map((value) => f.value(32, 'selp.b32', '1', '0', value)) : values.map(rawBits);
    const type = `b${scalarBits[scalar]}`;
    const step = aligned ? Math.min(lanes, widestAccess / bytes) : 1;
    for (let at = 0; at < lanes; at += step) {
      const place = `[${reg}${offsetText(offset + at * bytes)}]`;
      const part = stored.slice(at, at + step);
      if (step === 1) f.line(`st.${spaceOf(memory)}.${type} ${place}, ${part[0]};`);
      else f.line(`st.${spaceOf(memory)}.v${step}.${type} ${place}, {${part.join(', ')}};`);
    }
  }

  /** The old value. */
  atomic(inst: Inst<'atomic'>, value: Reg): Reg {
    const type = atomicType(inst.fn, inst.memory.scalar);
    const fn = inst.fn === 'exchange' ? 'exch' : inst.fn;
    return this.#f.value(32, `atom.${spaceOf(inst.memory)}.${fn}.${type}`, this.place(inst.memory, inst.index), value);
  }

  compareExchange(inst: Inst<'atomic_compare_exchange'>, expected: Reg, value: Reg): Reg {
    const op = `atom.${spaceOf(inst.memory)}.cas.b32`;
    return this.#f.value(32, op, this.place(inst.memory, inst.index), expected, value);
  }

  /** Where a tile begins for this lane: its first element and the lane's offset in bytes; `at` adds constants. */
  tilePlace(memory: KMemory, index: KValue, lane: Reg): TilePlace {
    const space = spaceOf(memory);
    const { reg, offset } = this.#address(memory, index, 1);
    const width = addressWidth(memory);
    const wide = (): Reg => (width === 64 ? this.#f.value(64, 'cvt.u64.u32', lane) : lane);
    const address = this.cached(`${reg} + ${lane}`, () => this.#f.value(width, `add.s${width}`, reg, wide()));
    const cached = memory.kind === 'buffer' && memory.access === 'read' ? '.nc' : '';
    return { space: `${space}${cached}`, at: (bytes) => `${address}${offsetText(offset + bytes)}` };
  }

  /** Where an element lies: a register, and an offset in bytes. */
  address(memory: KMemory, index: KValue): Address {
    return this.#address(memory, index, 1);
  }

  /** A register computed from addresses, once for as long as they hold. */
  cached(key: string, make: () => Reg): Reg {
    let reg = this.#known(key);
    if (reg === undefined) this.#scopes[this.#scopes.length - 1].set(key, (reg = make()));
    return reg;
  }

  signalBase(signal: KSignal): Reg {
    return this.#sharedBase(signal, `s${this.#signals.get(signal)}`);
  }

  place(memory: KMemory, index: KValue): string {
    const { reg, offset } = this.#address(memory, index, 1);
    return `[${reg}${offsetText(offset)}]`;
  }

  /** The registers of an array that is not memory. */
  #elements(memory: KMemory, index: KValue, lanes: number): readonly Reg[] | undefined {
    const registers = memory.kind === 'array' ? this.#registers.get(memory) : undefined;
    if (!registers) return undefined;
    const at = integerOf(this.#regOf(index));
    if (at === undefined) throw new Error(`array ${memory.name} is kept in registers, but an index is not known`);
    const first = Number(at);
    if (first < 0 || first + lanes > registers.length) throw new Error(`element ${first} of array ${memory.name}`);
    return registers.slice(first, first + lanes);
  }

  /** Elements of a private array, which must be one that is kept in registers. */
  registersOf(array: KArray): readonly Reg[] {
    const registers = this.#registers.get(array);
    if (!registers) throw new Error(`array ${array.name} is not kept in registers`);
    return registers;
  }

  // Addresses -------------------------------------------------------------------------------------------------------

  #address(memory: KMemory, index: KValue, lanes: number): Address {
    const bytes = scalarBits[memoryScalar(memory)] / 8;
    const base = this.#base(memory);
    const { value, constant } = this.#split(index, memory.kind === 'buffer');
    let offset = constant * bytes;
    let reg = value === undefined ? base : this.#element(memory, base, value, bytes);
    if (Math.abs(offset) + lanes * bytes > largestOffset) {
      reg = this.#f.value(addressWidth(memory), `add.s${addressWidth(memory)}`, reg, String(offset));
      offset = 0;
    }
    return { reg, offset };
  }

  /**
   * The index as a value and a constant added to it, where the sum is exact. `signed`: the value may be negative, as
   * addresses are wide enough for it.
   */
  #split(index: KValue, signed: boolean): { readonly value?: KValue; readonly constant: number } {
    const known = integerOf(this.#regOf(index));
    if (known !== undefined) return { constant: Number(known) };
    const definition = this.#survey.definitions.get(index);
    if (definition?.op === 'assume') return this.#split(definition.a, signed);
    if (definition?.op === 'binary' && (definition.fn === 'add' || definition.fn === 'sub')) {
      const { fn, a, b } = definition;
      const right = integerOf(this.#regOf(b));
      const left = fn === 'add' ? integerOf(this.#regOf(a)) : undefined;
      const [term, added] = right !== undefined ? [a, right] : [b, left];
      if (added !== undefined) {
        const constant = fn === 'add' ? Number(added) : -Number(added);
        const range = rangeOf(term);
        const exact = range !== undefined && this.#within(index, range.min + constant, range.max + constant);
        if (exact && (signed || range.min >= 0)) {
          const inner = this.#split(term, signed);
          return { ...inner, constant: inner.constant + constant };
        }
      }
    }
    return { value: index, constant: 0 };
  }

  /** Whether all of an interval lies in the type of `value`, so that a sum in it does not wrap. */
  #within(value: KValue, min: number, max: number): boolean {
    const bits = scalarBits[value.type.scalar];
    const signed = isSignedScalar(value.type.scalar);
    return signed ? min >= -(2 ** (bits - 1)) && max < 2 ** (bits - 1) : min >= 0 && max < 2 ** bits;
  }

  #element(memory: KMemory, base: Reg, index: KValue, bytes: number): Reg {
    const f = this.#f;
    const reg = this.#regOf(index);
    const key = `${base} ${reg}`;
    const known = this.#known(key);
    if (known !== undefined) return known;
    const { scalar } = index.type;
    let address: Reg;
    if (addressWidth(memory) === 32) {
      const word = widthOf(scalar) === 64 ? f.value(32, 'cvt.u32.u64', reg) : reg;
      address = f.value(32, 'mad.lo.u32', word, String(bytes), base);
    } else {
      address = f.value(64, 'add.s64', base, this.#wide(scalar, reg, bytes));
    }
    this.#scopes[this.#scopes.length - 1].set(key, address);
    return address;
  }

  #known(key: string): Reg | undefined {
    for (const scope of this.#scopes) {
      const known = scope.get(key);
      if (known !== undefined) return known;
    }
    return undefined;
  }

  /** index × bytes in 64 bits. */
  #wide(scalar: ScalarType, reg: Reg, bytes: number): Reg {
    const f = this.#f;
    const signed = isSignedScalar(scalar);
    if (widthOf(scalar) === 64) return bytes === 1 ? reg : f.value(64, 'mul.lo.s64', reg, String(bytes));
    if (bytes === 1) return f.value(64, signed ? 'cvt.s64.s32' : 'cvt.u64.u32', reg);
    return f.value(64, `mul.wide.${signed ? 's' : 'u'}32`, reg, String(bytes));
  }

  /** Of an array or a signal: a variable, or a place in the kernel's block. */
  #sharedBase(what: KArray | KSignal, variable: string): Reg {
    let base = this.#bases.get(what);
    if (base === undefined) {
      const place = this.#shared.isDynamic ? `${blockName(this.#entry)}+${this.#shared.offsetOf(what)}` : variable;
      this.#bases.set(what, (base = this.#f.early(32, 'mov.u32', place)));
    }
    return base;
  }

  #base(memory: KMemory): Reg {
    let base = this.#bases.get(memory);
    if (base !== undefined) return base;
    const f = this.#f;
    if (memory.kind === 'buffer') {
      const number = this.#buffers.get(memory);
      if (number === undefined) throw new Error(`${memory.name} is not a parameter`);
      base = f.early(64, 'cvta.to.global.u64', f.early(64, 'ld.param.u64', `[b${number}]`));
    } else {
      const number = this.#arrays.get(memory);
      if (number === undefined) throw new Error(`${memory.name} is not an array of the kernel`);
      if (memory.space === 'shared') return this.#sharedBase(memory, `a${number}`);
      base = f.early(64, 'mov.u64', `a${number}`);
    }
    this.#bases.set(memory, base);
    return base;
  }
}

const spaceOf = (memory: KMemory): 'global' | 'shared' | 'local' =>
  memory.kind === 'buffer' ? 'global' : memory.space === 'shared' ? 'shared' : 'local';

/** Shared memory is small: its addresses have 32 bits. */
const addressWidth = (memory: KMemory): 32 | 64 => (spaceOf(memory) === 'shared' ? 32 : 64);

const offsetText = (offset: number): string => (offset === 0 ? '' : `+${offset}`);

function atomicType(fn: AtomicFn, scalar: ScalarType): string {
  if (scalar !== 'i32' && scalar !== 'u32') throw new Error(`atomic on ${scalar}`);
  return fn === 'add' || fn === 'min' || fn === 'max' ? opType(scalar) : 'b32';
}
