/** How a frontend converts its operators once shapes are known, control flow included. */
import type { HostBuilder } from '../graph/host_values.js';
import type { Graph, NodeOf, TensorType, Value } from '../graph/types.js';
import type { HostTensor } from '../tensor.js';
import type { Mapped, Tree } from './mapped.js';
import type { Leaf } from './stage.js';

export interface SourceContext {
  readonly b: HostBuilder;
  readonly node: NodeOf<'source_op'>;
  /** Inputs of the source operator, in place; absent optional ones are undefined. Dims are numbers. */
  readonly inputs: readonly (Mapped | undefined)[];
  /** What the bodies of the operator take besides their formal inputs. */
  readonly captured: readonly Mapped[];
  /** Number of the stage that is being built; it grows when data had to be waited for. */
  readonly stage: number;
  /**
   * Data of the host's own (the number of an iteration) as an input of the stage, so that stages that differ in it
   * alone are one program. It may be looked at like a constant where that cannot be helped.
   */
  feed(data: HostTensor): Value;
  use(saved: Saved): Mapped;
  /**
   * A body by itself, its inputs of the types given (constants are built in); undefined where it needs the data of one.
   * Inputs for the types are in their order, outputs in that of the body.
   */
  concrete(body: Graph, inputs: readonly (Mapped | TensorType)[]): Graph | undefined;
}

/**
 * A mapped value that may come from an earlier stage. It can be passed on as it is, lists of such can be put together,
 * and `SourceContext.use` makes it a value of this stage: only what is used becomes an input of it.
 */
export type Saved = Tree<Leaf>;

/** A body is to be inlined next; what becomes of its results is up to `then`. */
export interface BodyCall {
  readonly body: Graph;
  /** For all inputs of the body: formal ones, then captured ones. */
  readonly inputs: readonly Saved[];
  /** What `then` needs besides the results. It must not hold on to values itself: a new stage may have begun. */
  readonly saved: readonly Saved[];
  /** It is one iteration of several: a long loop may go on in another stage. */
  readonly repeated?: boolean;
  then(context: SourceContext, results: readonly Mapped[], saved: readonly Saved[]): Resolved;
}
/** The outputs of the source operator, or a body to inline on the way to them. */
export type Resolved = readonly Mapped[] | BodyCall;
export const isCall = (resolved: Resolved): resolved is BodyCall => !Array.isArray(resolved);

/** Converts a source operator whose shapes are known. Throws NotConstant if content is needed that depends on data. */
export type SourceResolver = (context: SourceContext) => Resolved;
/** By domain of the source operator (ONNX's own is ''). */
export type SourceResolvers = ReadonlyMap<string, SourceResolver>;
