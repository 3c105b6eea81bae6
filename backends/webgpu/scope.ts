/** The state of writing one kernel as WGSL: names, constants, lines so far, and the functions and features in use. */
import type { KernelFunction, KMemory, KType, KValue } from '../../compiler/kernel/types.js';
import { f32ToF16 } from '../../compiler/numeric.js';
import { Names } from '../common/names.js';
import { Lines } from '../common/structured.js';
import { Guards } from './guards.js';
import { type MemoryView, memoryViews } from './views.js';
import { f32Bits, isVector, type LibraryFunction, libraryName, libraryText, literal, typeName } from './wgsl.js';

export class Scope {
  readonly kernel: KernelFunction;
  readonly lines = new Lines();
  readonly names: Names<string>;
  readonly constants = new Map<KValue, number | bigint>();
  readonly guards = new Guards(this.constants);
  readonly views: ReadonlyMap<KMemory, MemoryView>;
  /** Functions of wgsl.ts in use, by name. */
  readonly library = new Map<string, string>();
  usesF16 = false;
  /** Constants whose name is their literal. */
  readonly #inline = new Set<KValue>();
  #temporaries = 0;

  constructor(kernel: KernelFunction) {
    this.kernel = kernel;
    this.names = new Names(kernel);
    this.views = memoryViews(kernel);
  }

  line(text: string): void {
    this.lines.add(text);
  }

  /** A name that no value has. */
  temporary(): string {
    return `k${this.#temporaries++}`;
  }

  view(memory: KMemory): MemoryView {
    return this.views.get(memory) ?? { width: 1, atomic: false, exchanged: false };
  }

  type(type: KType): string {
    if (type.scalar === 'f16') this.usesF16 = true;
    return typeName(type);
  }

  /** The name of a function of wgsl.ts, which the module then contains. */
  readonly use = (fn: LibraryFunction, type: KType): string => {
    const name = libraryName(fn, type);
    if (!this.library.has(name)) {
      this.library.set(name, ''); // its place; functions it asks for follow
      this.library.set(name, libraryText(fn, type, this.use));
    }
    return name;
  };

  /** The expression for a value: its name, or its literal. */
  value(value: KValue): string {
    return this.names.value(value);
  }

  /** As `value`, but never a constant expression: WGSL refuses constant expressions that overflow. */
  runtime(value: KValue): string {
    const text = this.value(value);
    if (!this.#inline.has(value)) return text;
    const name = this.temporary();
    this.lines.add(`let ${name} = ${text};`);
    return name;
  }

  /** A value that compilers cannot trace back to how it was computed: see guards.ts. */
  hidden(value: KValue): string {
    return `${this.use('hide', value.type)}(${this.value(value)})`;
  }

  define(result: KValue, text: string): void {
    const name = `v${result.id}`;
    this.names.setValue(result, name);
    this.lines.add(`let ${name}: ${this.type(result.type)} = ${text};`);
  }

  constant(result: KValue, value: number | bigint): void {
    const { scalar, lanes } = result.type;
    this.constants.set(result, value);
    const type = this.type(result.type);
    const text = literal(scalar, value);
    if (text !== undefined) {
      this.#inline.add(result);
      this.names.setValue(result, lanes === 1 ? text : `${type}(${text})`);
      return;
    }
    // NaN, infinities, −0 and subnormals: from bits that are no constant expression.
    const name = `v${result.id}`;
    this.names.setValue(result, name);
    const number = Number(value);
    if (scalar === 'f16') {
      this.lines.add(`let ${name}_bits = ${f32ToF16(number)}u;`);
      this.lines.add(
        `let ${name} = ${lanes === 1 ? '' : `${type}(`}bitcast<vec2<f16>>(${name}_bits).x${lanes === 1 ? '' : ')'};`,
      );
    } else {
      this.lines.add(`let ${name}_bits = ${f32Bits(number)}u;`);
      this.lines.add(
        `let ${name} = ${lanes === 1 ? '' : `${type}(`}bitcast<f32>(${name}_bits)${lanes === 1 ? '' : ')'};`,
      );
    }
  }

  /** Operands of which at least one is no constant expression; a zero divisor in dead code must not be one either. */
  operands(a: KValue, b: KValue, divides = false): readonly [string, string] {
    const bConstant = this.constants.get(b);
    const left = bConstant === undefined ? this.value(a) : this.runtime(a);
    const right = divides && bConstant !== undefined && Number(bConstant) === 0 ? this.runtime(b) : this.value(b);
    return [left, right];
  }

  one(type: KType): string {
    const one = literal(type.scalar, 1) as string;
    return isVector(type) ? `${this.type(type)}(${one})` : one;
  }

  /** `result` is `a` under another name, and as constant as that. */
  same(result: KValue, a: KValue): void {
    this.names.setValue(result, this.value(a));
    const constant = this.constants.get(a);
    if (constant !== undefined) this.constants.set(result, constant);
    if (this.#inline.has(a)) this.#inline.add(result);
  }
}
