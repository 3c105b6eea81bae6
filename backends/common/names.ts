/**
 * What the parts of a kernel are called in its generated code, by object.
 *
 * `Value` is what a renderer knows of a value (a C expression, a SPIR-V id); memory, helpers, scalar parameters and
 * matrix tiles may be named in ways of their own. Asking for what was never named is a bug of whoever made the kernel.
 */
import type { KTile } from '../../compiler/kernel/engines.js';
import type { HelperFunction, KernelFunction, KMemory, KScalar, KValue } from '../../compiler/kernel/types.js';
import type { Frame } from './frame.js';

export class Names<Value, Memory = string, Helper = string, Scalar = string, Tile = string> {
  readonly #kernel: KernelFunction;
  readonly #values = new Map<KValue, Value>();
  readonly #memories = new Map<KMemory, Memory>();
  readonly #helpers = new Map<HelperFunction, Helper>();
  readonly #scalars = new Map<KScalar, Scalar>();
  readonly #tiles = new Map<KTile, Tile>();

  constructor(kernel: KernelFunction) {
    this.#kernel = kernel;
  }

  setValue(value: KValue, name: Value): void {
    this.#values.set(value, name);
  }
  setMemory(memory: KMemory, name: Memory): void {
    this.#memories.set(memory, name);
  }
  setHelper(helper: HelperFunction, name: Helper): void {
    this.#helpers.set(helper, name);
  }
  setScalar(scalar: KScalar, name: Scalar): void {
    this.#scalars.set(scalar, name);
  }
  setTile(tile: KTile, name: Tile): void {
    this.#tiles.set(tile, name);
  }

  value(value: KValue): Value {
    return this.#values.get(value) ?? this.#missing(`value %${value.id} is used before it is defined`);
  }
  memory(memory: KMemory): Memory {
    return this.#memories.get(memory) ?? this.#missing(`${memory.name} is not a parameter or array of the kernel`);
  }
  helper(helper: HelperFunction): Helper {
    return this.#helpers.get(helper) ?? this.#missing(`helper ${helper.name} is called before it is defined`);
  }
  scalar(scalar: KScalar): Scalar {
    return this.#scalars.get(scalar) ?? this.#missing(`scalar ${scalar.name} is not a parameter of the kernel`);
  }
  tile(tile: KTile): Tile {
    return this.#tiles.get(tile) ?? this.#missing(`${tile.name} is not a tile of the kernel`);
  }

  #missing(what: string): never {
    throw new Error(`kernel ${this.#kernel.name}: ${what}`);
  }
}

/** Names the parts of a kernel where scalars are members of a struct `scalars`. */
export function nameParts<Value>(names: Names<Value>, { arrays, helpers, tiles }: KernelFunction, frame: Frame): void {
  for (const [i, buffer] of frame.buffers.entries()) names.setMemory(buffer, `b${i}`);
  for (const [i, scalar] of frame.scalars.entries()) names.setScalar(scalar, `scalars.s${i}`);
  for (const [i, array] of arrays.entries()) names.setMemory(array, `${array.space}${i}`);
  // Not f: f32 is a type in WGSL.
  for (const [i, helper] of helpers.entries()) names.setHelper(helper, `helper${i}`);
  for (const [i, tile] of tiles.entries()) names.setTile(tile, `tile${i}`);
}

/** The error for what must not reach the renderer of `backend`. */
export const unexpected = (kernel: KernelFunction, backend: string, what: string): Error =>
  new Error(`kernel ${kernel.name}: the ${backend} renderer was given ${what}`);

/** The error for functions that `expandMath` should have replaced. */
export const unexpanded = (kernel: KernelFunction, backend: string, fn: string): Error =>
  unexpected(kernel, backend, `${fn}: expandMath comes before rendering`);
