/** The state of writing one kernel as MSL: names, lines so far, and the functions of library.ts in use. */
import type { KernelFunction, KInst, KMemory, KType, KValue } from '../../compiler/kernel/types.js';
import { collectFloatConstants } from '../common/c_family.js';
import { Names, unexpected } from '../common/names.js';
import { Lines } from '../common/structured.js';
import { type Accesses, countUses, Survey } from '../common/survey.js';
import { type LibraryFunction, libraryName, libraryText } from './library.js';
import { literal, typeName, wrappingType } from './msl.js';

export type Inst<Op extends KInst['op']> = Extract<KInst, { op: Op }>;

/** The name of the exact remainder of two f32, which the renderer defines where it is used. */
export const fmodName = 'tutti_fmod';

export class Scope {
  readonly kernel: KernelFunction;
  readonly lines = new Lines();
  readonly names: Names<string>;
  readonly uses: ReadonlyMap<KValue, number>;
  readonly floatConstants: ReadonlyMap<KValue, number>;
  readonly accesses: ReadonlyMap<KMemory, Accesses>;
  /** Products that may be contracted into a sum. */
  readonly fastProducts = new Map<KValue, Inst<'binary'>>();
  /** Functions of library.ts in use, by name, each behind those it calls. */
  readonly library = new Map<string, string>();
  usesFmod = false;
  readonly #constants = new Map<KValue, number | bigint>();

  constructor(kernel: KernelFunction) {
    this.kernel = kernel;
    this.names = new Names(kernel);
    this.uses = countUses(kernel);
    this.floatConstants = collectFloatConstants(kernel);
    this.accesses = Survey.of(kernel).accesses;
  }

  line(text: string): void {
    this.lines.add(text);
  }

  /** The name of a function of library.ts, which the source then contains. */
  readonly use = (fn: LibraryFunction, type: KType): string => {
    const name = libraryName(fn, type);
    if (!this.library.has(name)) this.library.set(name, libraryText(fn, type, this.use));
    return name;
  };

  /** The name of a value, or its literal. */
  value(value: KValue): string {
    return this.names.value(value);
  }

  define(result: KValue, text: string): void {
    const name = `v${result.id}`;
    this.lines.add(`const ${typeName(result.type)} ${name} = ${text};`);
    this.names.setValue(result, name);
  }

  /** The value in the type whose arithmetic wraps. */
  wrapping(value: KValue): string {
    const type = wrappingType(value.type);
    const constant = this.#constants.get(value);
    return constant === undefined ? `${typeName(type)}(${this.value(value)})` : literal(type, constant);
  }

  constant(result: KValue, value: number | bigint): void {
    this.#constants.set(result, value);
    this.names.setValue(result, literal(result.type, value));
  }

  unexpected(what: string): Error {
    return unexpected(this.kernel, 'metal', what);
  }
}
