/**
 * What it takes to define an op. One entry a op, in `ops/`; nothing about an op lives elsewhere, except how a whole
 * family of ops is scheduled (`compiler/schedule`).
 */
import type { DType } from '../dtype.js';
import type { KernelBuilder } from '../kernel/builder.js';
import type { KValue } from '../kernel/types.js';
import type { HostTensor } from '../tensor.js';
import type { GraphBuilder } from './builder.js';
import type { Graph, NodeOf, OpAttrs, OpKind, SourceRef, TensorType, Value } from './types.js';

/**
 * How kernels come about:
 * - `map`: each output element from input elements at computed places
 * - `rows`: reductions over axes
 * - `contract`: dot and conv
 * - `attend`: softmax of a product, times values (found by fusion; no op is of this family by itself)
 * - `window`: small reductions per output element (pooling)
 * - `special`: an algorithm of its own (sort, scatter)
 * - `loop`: a body of kernels of its own, run several times
 * - `host`: on the host, at compile time or between kernels
 */
export type FamilyName = 'map' | 'rows' | 'contract' | 'attend' | 'window' | 'special' | 'loop' | 'host';

export interface InferContext<K extends OpKind> {
  readonly attrs: OpAttrs[K];
  readonly inputs: readonly TensorType[];
  readonly source: SourceRef;
  /** Throws TuttiError E_SHAPE naming the source node. */
  fail(message: string, expected?: string, found?: string, remedy?: string): never;
}

export interface EvaluateContext<K extends OpKind> {
  readonly attrs: OpAttrs[K];
  readonly inputs: readonly HostTensor[];
  /** Concrete. */
  readonly outputs: readonly { readonly dtype: DType; readonly shape: readonly number[] }[];
  readonly source: SourceRef;
  /** Runs a body; inputs and outputs in its order. */
  run(body: Graph, inputs: readonly HostTensor[]): HostTensor[];
}

export interface ScalarContext<K extends OpKind> {
  readonly attrs: OpAttrs[K];
  /** Element types of the graph values; a KValue of dtype bool is of KIR type bool. */
  readonly inputs: readonly DType[];
  readonly output: DType;
}

/**
 * Cotangents of a node's inputs from those of its outputs (null: nothing depends on that output), in terms of other ops.
 * Null for inputs that the result does not depend on smoothly, and for those that are no floats. Shapes are concrete.
 */
export type Gradient<K extends OpKind> = (
  b: GraphBuilder,
  node: NodeOf<K>,
  cotangents: readonly (Value | null)[],
) => readonly (Value | null)[];

export interface OpDefinition<K extends OpKind> {
  readonly kind: K;
  /** One sentence: what it computes. Goes into the docs. */
  readonly summary: string;
  /** Number of inputs, or least and most. */
  readonly arity: number | readonly [least: number, most: number];
  infer(context: InferContext<K>): TensorType[];
  /** Slow and exact: float math in f64, then rounded to the output's type. */
  evaluate(context: EvaluateContext<K>): HostTensor[];
  readonly family: FamilyName;
  /** Elementwise ops only: the op on one element (or on vectors of them). */
  scalar?(b: KernelBuilder, args: readonly KValue[], context: ScalarContext<K>): KValue;
  /** The op in terms of others; shapes are concrete. Ops with it need no lowering of their own. */
  decompose?(b: GraphBuilder, node: NodeOf<K>): readonly Value[];
  /** Without it the decomposition is differentiated, if there is one. */
  readonly gradient?: Gradient<K>;
}
