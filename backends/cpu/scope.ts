/** The state of writing one kernel as C: what its values are called, the lines so far and the prelude they need. */
import type { KernelFunction, KInst, KMemory, KType, KValue, Lanes, ScalarType } from '../../compiler/kernel/types.js';
import type { Target } from '../backend.js';
import { collectFloatConstants } from '../common/c_family.js';
import { Names, unexpected } from '../common/names.js';
import { Lines } from '../common/structured.js';
import { countUses } from '../common/survey.js';
import * as halves from './prelude/halves.js';
import { Prelude } from './prelude/index.js';
import { heldAs, isHalf, type MaskBits, signedOf } from './prelude/types.js';
import * as vectors from './prelude/vectors.js';

export type Inst<Op extends KInst['op']> = Extract<KInst, { op: Op }>;

/** C for a value. Vectors of bools are masks of `maskBits`. */
export interface Ref {
  readonly c: string;
  readonly maskBits: MaskBits;
}

export class Scope {
  readonly kernel: KernelFunction;
  readonly target: Target;
  readonly prelude = new Prelude();
  readonly lines = new Lines();
  readonly names: Names<Ref>;
  readonly uses: ReadonlyMap<KValue, number>;
  readonly floatConstants: ReadonlyMap<KValue, number>;
  /** Products that may be contracted into a sum. */
  readonly fastProducts = new Map<KValue, Inst<'binary'>>();
  /** Comparisons of vectors: a choice by one may be one step with it. */
  readonly comparisons = new Map<KValue, Inst<'compare'>>();
  /** Lanes of vectors: what is put together from them may be a shuffle. */
  readonly extracts = new Map<KValue, Inst<'extract'>>();

  constructor(kernel: KernelFunction, target: Target) {
    this.kernel = kernel;
    this.target = target;
    this.names = new Names(kernel);
    this.uses = countUses(kernel);
    this.floatConstants = collectFloatConstants(kernel);
  }

  line(text: string): void {
    this.lines.add(text);
  }

  /** Declares `value` as a C constant. */
  let(value: KValue, c: string, maskBits: MaskBits = 32): void {
    const name = `v${value.id}`;
    this.lines.add(`const ${this.type(value.type, maskBits)} ${name} = ${c};`);
    this.names.setValue(value, { c: name, maskBits });
  }

  /** Gives `value` an existing expression. */
  alias(value: KValue, c: string, maskBits: MaskBits = 32): void {
    this.names.setValue(value, { c, maskBits });
  }

  type(type: KType, maskBits: MaskBits = 32): string {
    if (type.scalar !== 'bool') return this.prelude.type(heldAs(type.scalar), type.lanes);
    return type.lanes === 1 ? 'bool' : this.prelude.type(signedOf(maskBits), type.lanes);
  }

  ref(value: KValue): Ref {
    return this.names.value(value);
  }

  c(value: KValue): string {
    return this.ref(value).c;
  }

  /** The value with masks of the given width. */
  as(value: KValue, maskBits: MaskBits): string {
    const ref = this.ref(value);
    if (value.type.scalar !== 'bool' || value.type.lanes === 1 || ref.maskBits === maskBits) return ref.c;
    return `__builtin_convertvector(${ref.c}, ${this.prelude.maskType(maskBits, value.type.lanes)})`;
  }

  splat(text: string, type: KType, maskBits: MaskBits): string {
    if (type.scalar === 'bool')
      return `${vectors.splat(this.prelude, signedOf(maskBits), type.lanes)}(-(int32_t)${text})`;
    return `${vectors.splat(this.prelude, heldAs(type.scalar), type.lanes)}(${text})`;
  }

  rounded(text: string, scalar: ScalarType, lanes: Lanes): string {
    return isHalf(scalar) ? `${halves.round(this.prelude, scalar, lanes)}(${text})` : text;
  }

  memory(memory: KMemory): string {
    return this.names.memory(memory);
  }

  unexpected(what: string): Error {
    return unexpected(this.kernel, 'cpu', what);
  }
}
