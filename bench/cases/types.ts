/** One kernel's worth of work, as a graph for runtimes and as data for peers that take no graphs. */
import { ModelBuilder } from '../../compiler/builder/index.js';
import type { DType } from '../../compiler/dtype.js';
import type { Graph } from '../../compiler/graph/types.js';

/** What libraries and hand-written kernels are told; bench/nvidia/peer.py reads the same. */
export type Spec =
  | {
      readonly op: 'gemm';
      readonly batch: number;
      readonly m: number;
      readonly n: number;
      readonly k: number;
      readonly dtype: DType;
      /** B is stored [n, k]. */
      readonly transposed: boolean;
    }
  | {
      readonly op: 'conv';
      /** [N, C, …spatial]. */
      readonly input: readonly number[];
      /** [O, C/groups, …kernel], [C, O/groups, …kernel] if transposed. */
      readonly weight: readonly number[];
      readonly stride: number;
      readonly padding: number;
      readonly dilation: number;
      readonly groups: number;
      readonly transposed: boolean;
      readonly dtype: DType;
    }
  | {
      readonly op: 'rows';
      readonly kind: RowsKind;
      readonly rows: number;
      readonly columns: number;
      readonly dtype: DType;
    }
  | { readonly op: 'map'; readonly kind: MapKind; readonly shape: readonly number[]; readonly dtype: DType }
  | {
      readonly op: 'attention';
      readonly batch: number;
      readonly heads: number;
      readonly queries: number;
      readonly keys: number;
      readonly width: number;
      readonly causal: boolean;
      readonly dtype: DType;
    }
  | { readonly op: 'model'; readonly model: string; readonly dtype: DType };

export type RowsKind =
  | 'softmax'
  | 'logsoftmax'
  | 'layernorm'
  | 'rmsnorm'
  | 'sum'
  | 'max'
  | 'argmax'
  | 'cumsum'
  | 'columnsum';
export type MapKind = 'saxpy' | 'gelu' | 'chain' | 'bias' | 'transpose' | 'concat' | 'widen';

/** What a peer has to know to say whether it has such work. */
export interface Work {
  readonly name: string;
  readonly spec: Spec;
  /** As in `Case`. */
  readonly cold: boolean;
}

export interface Case extends Work {
  /** Inputs are taken in turn from more memory than caches hold: work that is bound by memory. */
  readonly cold: boolean;
  graph(): Graph;
}

/** A graph of one output `y`. */
export function graphOf(name: string, body: (g: ModelBuilder) => ReturnType<ModelBuilder['add']>): Graph {
  const g = new ModelBuilder(name);
  g.output('y', body(g));
  return g.build();
}

/** What shapes make sense: a device that takes a second for a large product learns nothing from it. */
export interface Scale {
  readonly quick: boolean;
  /** Accelerators take larger shapes and types of 16 bits. */
  readonly gpu: boolean;
  /** A GPU API in software: seconds for what a GPU does in microseconds. */
  readonly software: boolean;
}
