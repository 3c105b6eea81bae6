/** What a converter of an ONNX operator sees: its attributes, its inputs and what is known of their content. */
import { numbersOf } from '../../compare.js';
import type { DType } from '../../dtype.js';
import { TuttiError } from '../../error.js';
import { describe } from '../../graph/builder.js';
import { type Dim, dimEquals, isConcrete, isSymbolic } from '../../graph/dims.js';
import { type HostBuilder, NotConstant } from '../../graph/host_values.js';
import type { OpAttrs, OpKind, SourceAttr, SourceRef, Value } from '../../graph/types.js';
import type { HostTensor } from '../../tensor.js';

/** An operator with its attributes, apart from the protobuf. */
export interface SourceOperator {
  readonly op: string;
  readonly domain: string;
  readonly opset: number;
  readonly attrs: Readonly<Record<string, SourceAttr>>;
  /** Which outputs somebody named; unnamed ones need not be made. */
  readonly wanted: readonly boolean[];
  readonly source: SourceRef;
}

type Result = Value | readonly (Value | undefined)[];

/** How one operator becomes graph ops, from opset `since` until the next entry for it. */
export interface Conversion {
  /** Without it: ai.onnx. */
  readonly domain?: string;
  readonly op: string;
  readonly since: number;
  convert(c: ConvertContext): Result;
}

export class ConvertContext {
  readonly b: HostBuilder;
  readonly operator: SourceOperator;
  /** Absent optional inputs are undefined. */
  readonly inputs: readonly (Value | undefined)[];

  readonly #feed: ((data: HostTensor) => Value) | undefined;

  /** @param feed Takes what the host computes from data that may differ from run to run. */
  constructor(
    b: HostBuilder,
    operator: SourceOperator,
    inputs: readonly (Value | undefined)[],
    feed?: (data: HostTensor) => Value,
  ) {
    this.b = b;
    this.operator = operator;
    this.inputs = inputs;
    this.#feed = feed;
  }

  /** A result that was computed on the host. Strings stay there. */
  computed(data: HostTensor): Value {
    return this.#feed === undefined || data.dtype === 'string' ? this.b.constant(data) : this.#feed(data);
  }

  get opset(): number {
    return this.operator.opset;
  }

  // --- inputs ---

  has(i: number): boolean {
    return this.inputs[i] !== undefined;
  }

  input(i: number): Value {
    return this.inputs[i] ?? this.fail(`input ${i} is missing`);
  }

  dtype(i: number): DType {
    return this.input(i).type.dtype;
  }

  shape(i: number): readonly Dim[] {
    return this.input(i).type.shape;
  }

  rank(i: number): number {
    return this.shape(i).length;
  }

  /** Checks the number of axes of an input, and returns its shape. */
  ranked(i: number, least: number, most = least): readonly Dim[] {
    const shape = this.shape(i);
    if (shape.length >= least && shape.length <= most) return shape;
    const expected =
      most === least ? `${least} axes` : most === Infinity ? `${least} axes or more` : `${least} to ${most} axes`;
    return this.fail(`wrong rank of input ${i}`, expected, `[${shape.join(', ')}]`);
  }

  /** Data of an input, or undefined if it does not follow from constants. */
  known(i: number): HostTensor | undefined {
    return this.b.tensorOf(this.input(i));
  }

  /** Data of an input. Throws NotConstant if it is not known (yet): the operator then waits for specialisation. */
  constant(i: number): HostTensor {
    return this.known(i) ?? this.notConstant(i);
  }

  /** Elements of an integer input as dims, symbolic where need be. */
  dims(i: number): readonly Dim[] {
    const content = this.b.contentOf(this.input(i));
    if (content !== undefined) return content;
    const tensor = this.b.tensorOf(this.input(i));
    return tensor === undefined ? this.notConstant(i) : [...numbersOf(tensor)];
  }

  /** The only element of an integer input, symbolic where need be. */
  dim(i: number): Dim {
    const content = this.dims(i);
    return content.length === 1
      ? content[0]
      : this.fail(`input ${i} must have one element`, '1', String(content.length));
  }

  /** Elements of a numeric input as numbers. */
  numbers(i: number): readonly number[] {
    const content = this.b.contentOf(this.input(i));
    if (content !== undefined) return isConcrete(content) ? content : this.notConstant(i);
    return [...numbersOf(this.constant(i))];
  }

  /** The only element of an input. */
  number(i: number): number {
    const values = this.numbers(i);
    return values.length === 1 ? values[0] : this.fail(`input ${i} must have one element`, '1', String(values.length));
  }

  /**
   * Elements of a value made here that decides about shapes: a count. Where it depends on data a device computes it
   * first, and the conversion is run again with the answer; `key` tells apart what one operator asks for.
   */
  demand(value: Value, key: string): readonly number[] {
    return [...numbersOf(this.b.read(value, key))];
  }

  /** Dims of an input as numbers; waits for specialisation if some are symbolic. */
  concreteShape(i: number): readonly number[] {
    return this.concreteDims(this.shape(i), i);
  }

  concreteDims(dims: readonly Dim[], i = 0): readonly number[] {
    return isConcrete(dims) ? dims : this.notConstant(i);
  }

  concreteDim(dim: Dim, i = 0): number {
    return isSymbolic(dim) ? this.notConstant(i) : dim;
  }

  /** Leaves the conversion until more is known. */
  notConstant(i: number): never {
    throw new NotConstant(this.input(i), i);
  }

  // --- attributes ---

  hasAttr(name: string): boolean {
    return this.operator.attrs[name] !== undefined;
  }

  int(name: string, standard?: number): number {
    const value = this.operator.attrs[name];
    if (value === undefined) return standard ?? this.fail(`attribute ${name} is missing`);
    if (typeof value === 'bigint') return Number(value);
    return typeof value === 'number' && Number.isInteger(value) ? value : this.fail(`attribute ${name} is no integer`);
  }

  flag(name: string, standard = false): boolean {
    return this.int(name, standard ? 1 : 0) !== 0;
  }

  float(name: string, standard?: number): number {
    const value = this.operator.attrs[name];
    if (value === undefined) return standard ?? this.fail(`attribute ${name} is missing`);
    if (typeof value === 'bigint') return Number(value);
    return typeof value === 'number' ? value : this.fail(`attribute ${name} is no number`);
  }

  string(name: string, standard?: string): string {
    const value = this.operator.attrs[name];
    if (value === undefined) return standard ?? this.fail(`attribute ${name} is missing`);
    return typeof value === 'string' ? value : this.fail(`attribute ${name} is no string`);
  }

  /** A string attribute out of a list. */
  choice<T extends string>(name: string, choices: readonly T[], standard: T): T {
    const value = this.string(name, standard);
    const found = choices.find((choice) => choice === value);
    return found ?? this.fail(`invalid attribute ${name}`, `one of ${choices.join(', ')}`, JSON.stringify(value));
  }

  ints(name: string): readonly number[] | undefined {
    const value = this.operator.attrs[name];
    if (value === undefined) return undefined;
    if (!Array.isArray(value)) return this.fail(`attribute ${name} is no list of integers`);
    return value.map((element: unknown) =>
      typeof element === 'bigint' || typeof element === 'number'
        ? Number(element)
        : this.fail(`attribute ${name} is no list of integers`),
    );
  }

  floats(name: string): readonly number[] | undefined {
    return this.ints(name);
  }

  strings(name: string): readonly string[] | undefined {
    const value = this.operator.attrs[name];
    if (value === undefined) return undefined;
    if (!Array.isArray(value) || !value.every((element): element is string => typeof element === 'string')) {
      return this.fail(`attribute ${name} is no list of strings`);
    }
    return value;
  }

  tensor(name: string): HostTensor | undefined {
    const value = this.operator.attrs[name];
    if (value === undefined) return undefined;
    return typeof value === 'object' && 'dtype' in value ? value : this.fail(`attribute ${name} is no tensor`);
  }

  // --- building ---

  /**
   * Waits for specialisation where numpy's broadcasting of the inputs is undecided: two different symbolic dims may be
   * equal, or either of them 1.
   */
  decideBroadcast(...shapes: readonly (readonly Dim[])[]): void {
    const rank = Math.max(0, ...shapes.map((shape) => shape.length));
    for (let axis = 1; axis <= rank; axis++) {
      const dims = shapes.flatMap((shape) => (axis <= shape.length ? [shape[shape.length - axis]] : []));
      const symbolic = dims.filter(isSymbolic);
      if (symbolic.some((dim) => !dimEquals(dim, symbolic[0]))) {
        this.notConstant(this.inputs.findIndex((input) => input?.type.shape.some(isSymbolic)));
      }
    }
  }

  /** Whether somebody uses output `i`. */
  wants(i: number): boolean {
    return this.operator.wanted[i] ?? false;
  }

  /** Adds a graph op and returns its first output. */
  op<K extends OpKind>(kind: K, inputs: readonly Value[], attrs: OpAttrs[K]): Value {
    return this.b.op(kind, inputs, attrs)[0];
  }

  /** `axis` in [0, rank), given in [-rank, rank). */
  axis(axis: number, rank: number): number {
    if (!Number.isInteger(axis) || axis < -rank || axis >= rank) {
      return this.fail('axis out of range', `-${rank} to ${rank - 1}`, String(axis));
    }
    return axis < 0 ? axis + rank : axis;
  }

  axes(axes: readonly number[], rank: number): readonly number[] {
    const all = axes.map((axis) => this.axis(axis, rank));
    if (new Set(all).size !== all.length) this.fail('axes repeat', 'distinct axes', `[${axes.join(', ')}]`);
    return all;
  }

  fail(message: string, expected?: string, found?: string, remedy?: string): never {
    throw new TuttiError('E_MODEL_INVALID', message, {
      subject: describe(this.operator.source),
      expected,
      found,
      remedy,
    });
  }

  unsupported(reason: string, remedy?: string): never {
    throw new TuttiError('E_UNSUPPORTED', reason, { subject: describe(this.operator.source), remedy });
  }
}
