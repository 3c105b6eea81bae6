/** An ONNX model under construction from random choices: it knows the shapes of what it has made, and makes the feeds. */
import { type DType, isFloat } from '../../../compiler/dtype.js';
import type { MessageInit } from '../../../compiler/frontends/onnx/proto.js';
import { cast } from '../../../compiler/graph/ops/reference/elementwise.js';
import { type HostTensor, sizeOf } from '../../../compiler/tensor.js';
import type { Chooser } from '../graph_cases.js';
import { model, node, value } from '../onnx_model.js';

/** A size, or the name of one that differs from run to run. */
export type Extent = number | string;

export interface Made {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly Extent[];
}

export interface DataOptions {
  /** A constant, an input, or one of both by chance. */
  readonly as?: 'constant' | 'input';
  /** Whole multiples of `step` from `low` to `high` steps; by default from -6 to 6, halves of floats. */
  readonly low?: number;
  readonly high?: number;
  readonly step?: number;
}

export interface RandomModel {
  readonly bytes: Uint8Array;
  /** Inputs by name, one record a run: shapes differ where the model has names for dims. */
  readonly feeds: readonly Readonly<Record<string, HostTensor>>[];
  /** Nodes, inputs and constants in lines, for messages. */
  readonly text: string;
  /** Some tensor has no elements in some run. */
  readonly hasEmpty: boolean;
}

type Attrs = NonNullable<Parameters<typeof node>[1]>;

export const one = <T>(c: Chooser, list: readonly T[]): T => list[c.int(0, list.length - 1)];
export const flag = (c: Chooser): boolean => c.int(0, 1) === 1;
/** True once in `n` times. */
export const rarely = (c: Chooser, n: number): boolean => c.int(0, n - 1) === n - 1;
export const list = <T>(length: number, make: (i: number) => T): T[] => Array.from({ length }, (_, i) => make(i));
export const big = (values: readonly number[]): bigint[] => values.map(BigInt);
export const product = (values: readonly number[]): number => values.reduce((all, each) => all * each, 1);

export class Draft {
  readonly c: Chooser;
  readonly runs: number;
  readonly #dims = new Map<string, readonly number[]>();
  readonly #nodes: MessageInit<'NodeProto'>[] = [];
  readonly #constants: Record<string, HostTensor> = {};
  readonly #inputs: (Made & { readonly options: DataOptions })[] = [];
  readonly #outputs = new Map<string, Made>();
  readonly #lines: string[] = [];
  #count = 0;
  #hasEmpty = false;
  #state: number;

  constructor(c: Chooser, seed: number, runs = 1) {
    this.c = c;
    this.#state = seed;
    this.runs = runs;
  }

  /** An extent that differs between runs, if there are several: the first time `size`. */
  vary(size: number): Extent {
    if (this.runs === 1 || rarely(this.c, 3)) return size;
    const name = `d${this.#dims.size}`;
    this.#dims.set(
      name,
      list(this.runs, (run) => (run === 0 ? size : Math.max(1, size + this.c.int(-2, 2)))),
    );
    return name;
  }

  size(extent: Extent, run = 0): number {
    return typeof extent === 'number' ? extent : (this.#dims.get(extent)?.[run] ?? 0);
  }

  sizes(shape: readonly Extent[], run = 0): number[] {
    return shape.map((extent) => this.size(extent, run));
  }

  /** Greatest number of elements over the runs. */
  elements(shape: readonly Extent[]): number {
    return Math.max(...list(this.runs, (run) => product(this.sizes(shape, run))));
  }

  isFixed(shape: readonly Extent[]): boolean {
    return shape.every((extent) => typeof extent === 'number');
  }

  /** Numbers of a type: few bits each, so that sums of products of them are exact. */
  data(dtype: DType, shape: readonly Extent[], options: DataOptions = {}): Made {
    const fixed = this.isFixed(shape);
    const isConstant = fixed && (options.as ?? (flag(this.c) ? 'constant' : 'input')) === 'constant';
    const name = `${isConstant ? 'c' : 'x'}${this.#count++}`;
    const made: Made = { name, dtype, shape };
    if (isConstant) this.#constants[name] = this.#tensor(made, options, 0);
    else this.#inputs.push({ ...made, options });
    this.#lines.push(`${isConstant ? 'constant' : 'input'} ${name}: ${dtype}[${shape.join(', ')}]`);
    return made;
  }

  constant(tensor: HostTensor): Made {
    const name = `c${this.#count++}`;
    this.#constants[name] = tensor;
    const shown = sizeOf(tensor.shape) <= 12 ? ` = ${tensor.data}` : '';
    this.#lines.push(`constant ${name}: ${tensor.dtype}[${tensor.shape.join(', ')}]${shown}`);
    return { name, dtype: tensor.dtype, shape: tensor.shape };
  }

  numbers(dtype: DType, shape: readonly number[], values: readonly number[]): Made {
    return this.constant(cast({ dtype: 'f64', shape, data: Float64Array.from(values) }, dtype, { saturate: true }));
  }

  integers(values: readonly number[]): Made {
    return this.constant({ dtype: 'i64', shape: [values.length], data: BigInt64Array.from(values, BigInt) });
  }

  /** A node with several results; inputs may be absent. */
  several(
    op: string,
    inputs: readonly (Made | undefined)[],
    attrs: Attrs,
    results: readonly Omit<Made, 'name'>[],
    domain = '',
  ): Made[] {
    const made = results.map((result): Made => ({ ...result, name: `v${this.#count++}` }));
    const shapes = [...made, ...inputs].flatMap((each) => (each ? [each.shape] : []));
    this.#hasEmpty ||= shapes.some((shape) => list(this.runs, (run) => product(this.sizes(shape, run))).includes(0));
    const names = inputs.map((input) => input?.name ?? '');
    while (names.at(-1) === '') names.pop();
    const line = `${made.map(({ name }) => name).join(', ')} = ${op}(${names.join(', ')})`;
    this.#nodes.push(node(line, attrs, { domain }));
    const shown = JSON.stringify(attrs, (key, entry: unknown) =>
      key === 'graph' || (typeof entry === 'object' && entry !== null && 'node' in entry)
        ? '(graph)'
        : typeof entry === 'bigint'
          ? Number(entry)
          : entry,
    );
    const types = made.map(({ dtype, shape }) => `${dtype}[${shape.join(', ')}]`);
    this.#lines.push(`${line} ${shown} : ${types.join(', ')}`);
    return made;
  }

  op(
    op: string,
    inputs: readonly (Made | undefined)[],
    shape: readonly Extent[],
    attrs: Attrs = {},
    dtype?: DType,
  ): Made {
    return this.several(op, inputs, attrs, [{ shape, dtype: dtype ?? inputs[0]?.dtype ?? 'f32' }])[0];
  }

  /** A node of com.microsoft. */
  contributed(op: string, inputs: readonly (Made | undefined)[], shape: readonly Extent[], attrs: Attrs): Made {
    return this.several(op, inputs, attrs, [{ shape, dtype: 'f32' }], 'com.microsoft')[0];
  }

  /** An elementwise node of one operand. */
  map(op: string, x: Made, attrs: Attrs = {}, ...more: readonly Made[]): Made {
    return this.op(op, [x, ...more], x.shape, attrs);
  }

  output(x: Made): void {
    this.#outputs.set(x.name, x);
  }

  /** Where the values stand that have been made, for subgraphs. */
  take(from: number): MessageInit<'NodeProto'>[] {
    return this.#nodes.splice(from);
  }

  get nodes(): number {
    return this.#nodes.length;
  }

  finish(opset: number): RandomModel {
    for (const { name } of this.#outputs.values()) this.#lines.push(`output ${name}`);
    return {
      bytes: model({
        opset,
        nodes: this.#nodes,
        initializers: this.#constants,
        inputs: this.#inputs.map(({ name, dtype, shape }) => value(name, dtype, shape)),
        outputs: [...this.#outputs.values()].map(({ name, dtype }) => value(name, dtype)),
        domains: ['com.microsoft'],
      }),
      feeds: list(this.runs, (run) =>
        Object.fromEntries(this.#inputs.map((input) => [input.name, this.#tensor(input, input.options, run)])),
      ),
      hasEmpty: this.#hasEmpty,
      text: [...[...this.#dims].map(([name, sizes]) => `${name} = ${sizes.join(', ')}`), ...this.#lines].join('\n'),
    };
  }

  #tensor({ dtype, shape }: Made, { low = -6, high = 6, step }: DataOptions, run: number): HostTensor {
    const dims = this.sizes(shape, run);
    const by = step ?? (isFloat(dtype) ? 0.5 : 1);
    const unsigned = dtype === 'bool' || dtype.startsWith('u');
    const least = unsigned ? Math.max(0, low) : low;
    const data = Float64Array.from({ length: sizeOf(dims) }, () => {
      this.#state = (Math.imul(this.#state, 1664525) + 1013904223) >>> 0;
      return (((this.#state >>> 16) % (high - least + 1)) + least) * by;
    });
    if (dtype === 'bool') return { dtype, shape: dims, data: Uint8Array.from(data, (v) => (v > 2 ? 1 : 0)) };
    return cast({ dtype: 'f64', shape: dims, data }, dtype, { saturate: true });
  }
}
