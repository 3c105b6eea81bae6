/** What a stage is: a concrete graph, what it takes and gives, and how it goes on. */
import type { ConstantData, Graph, TensorType, Value } from '../graph/types.js';
import type { HostTensor } from '../tensor.js';
import type { Bindings } from './bindings.js';
import type { Tree } from './mapped.js';

/** A tensor of a run, whatever stage makes it. Identity counts. */
export type Held =
  /** An input of the model. */
  | { readonly kind: 'input'; readonly name: string; readonly type: TensorType }
  /** Made by a stage; lies on the device. */
  | { readonly kind: 'result'; readonly name: string; readonly type: TensorType }
  /**
   * Known to the host. `fed` ones enter stages as inputs, so that stages which differ in them alone are one program; the
   * others are constants.
   */
  | { readonly kind: 'host'; readonly name: string; readonly data: ConstantData; readonly fed: boolean };

/** A value of the stage at hand, or a tensor that it may take in. */
export type Leaf = Value | Held;
export const isHeld = (leaf: Leaf): leaf is Held => 'kind' in leaf;

export interface StageOutput {
  readonly name: string;
  readonly held: Tree<Held>;
}

export interface Stage {
  /** Concrete, without source ops. */
  readonly graph: Graph;
  /** What each input of the graph is. */
  readonly inputs: readonly Held[];
  /** What each output of the graph makes. Where there are none, there is nothing to run. */
  readonly outputs: readonly Held[];
  /** Names of the model's inputs at whose data was looked: the stage holds for these data alone. */
  readonly looked: ReadonlySet<string>;
  readonly next: StageEnd;
}

export type StageEnd =
  | { readonly kind: 'done'; readonly outputs: readonly StageOutput[] }
  | {
      readonly kind: 'cut';
      /** What the host has to read; none where a long loop is merely cut into pieces. */
      readonly demanded: readonly Held[];
      /** The source node that asks, and for what. */
      readonly source: string;
      readonly what: string;
      /** What later stages may use; nothing else needs to be kept. */
      readonly live: ReadonlySet<Held>;
      /** The next stage, given the data of `demanded` in order. `values` as in `Bindings`. */
      resume(answers: readonly HostTensor[], values?: Bindings['values']): Stage;
    };
