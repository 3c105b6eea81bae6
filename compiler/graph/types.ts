/** Graph IR: what a model means. SSA over tensors; nodes in topological order; shapes may be symbolic. */
import type { DType } from '../dtype.js';
import type { ScaleRounding } from '../minifloat.js';
import type { HostTensor, NumericData } from '../tensor.js';
import type { Dim, DimBounds } from './dims.js';

export type { DimBounds };

/** What holds tensors in a source model; the Graph IR's own ops see the tensors in it. */
export const containers = ['sequence', 'optional', 'optional_sequence'] as const;
export type Container = (typeof containers)[number];

export interface TensorType {
  readonly dtype: DType;
  readonly shape: readonly Dim[];
  /** Inputs that are not one tensor but hold some of this element type; `unknown` is set too. */
  readonly container?: Container;
  /** Set on results of `source_op`: neither rank nor dtype can be relied on before the graph is specialised. */
  readonly unknown?: true;
}

/** Where a thing comes from, for errors and reports. */
export interface SourceRef {
  /** Name of the node in the source model (`Conv_23`), or what we made up for it. */
  readonly node: string;
  /** Source operator (`Conv`), if any. */
  readonly op?: string;
}

export interface Value {
  readonly id: number;
  /** Name in the source model (`features.3`) or made up; unique within a graph. */
  readonly name: string;
  readonly type: TensorType;
}

/** Elementwise, one operand. */
export const unaryOps = [
  'neg',
  'abs',
  'sign',
  'exp',
  'exp2',
  'log',
  'log2',
  'sqrt',
  'rsqrt',
  'recip',
  'sin',
  'cos',
  'tan',
  'asin',
  'acos',
  'atan',
  'sinh',
  'cosh',
  'asinh',
  'acosh',
  'atanh',
  'tanh',
  'erf',
  'floor',
  'ceil',
  'round',
  'trunc',
  'not',
  'is_nan',
  'is_inf',
] as const;
/** Elementwise, two operands of one type and one shape (broadcasts are explicit). */
export const binaryOps = [
  'add',
  'sub',
  'mul',
  'div',
  'rem',
  'pow',
  'max',
  'min',
  'atan2',
  'and',
  'or',
  'xor',
  'shl',
  'shr',
  'eq',
  'ne',
  'lt',
  'le',
  'gt',
  'ge',
] as const;
export type UnaryOp = (typeof unaryOps)[number];
export type BinaryOp = (typeof binaryOps)[number];
export type ReduceFn = 'sum' | 'prod' | 'max' | 'min' | 'and' | 'or';
export type ScatterFn = 'set' | 'add' | 'mul' | 'min' | 'max';
type None = Record<never, never>;

export interface Window {
  /** One entry a spatial dim. */
  readonly strides: readonly number[];
  readonly padLow: readonly Dim[];
  readonly padHigh: readonly Dim[];
  readonly dilations: readonly number[];
}

export interface ResizeAttrs {
  readonly mode: 'nearest' | 'linear' | 'cubic';
  /** Output shape, all dims. */
  readonly shape: readonly Dim[];
  /** Scale per dim as given or output/input. */
  readonly scales: readonly (number | null)[];
  readonly coordinates:
    | 'half_pixel'
    | 'half_pixel_symmetric'
    | 'pytorch_half_pixel'
    | 'align_corners'
    | 'asymmetric'
    | 'tf_crop_and_resize'
    | 'tf_half_pixel_for_nn';
  readonly nearest: 'round_prefer_floor' | 'round_prefer_ceil' | 'floor' | 'ceil';
  readonly cubicA: number;
  readonly excludeOutside: boolean;
  readonly antialias: boolean;
  /** tf_crop_and_resize: starts then ends per dim, in [0, 1]. */
  readonly roi: readonly number[] | null;
  readonly extrapolation: number;
}

/** Attributes of a source operator that waits for its shapes, in a form that prints. */
export type SourceAttr =
  | number
  | bigint
  | string
  | readonly number[]
  | readonly bigint[]
  | readonly string[]
  | HostTensor
  | Graph;

/** Every op and its attributes. Meaning, shape rule and reference of each are in `ops/`. */
export interface OpAttrs extends Record<UnaryOp | BinaryOp, None> {
  /** (condition bool, a, b) of one shape. */
  select: None;
  /** Missing bounds are null. NaN stays NaN. */
  clamp: { readonly min: number | null; readonly max: number | null };
  /** `rounding` is for f8e8m0 alone, and `up` where it is left out. */
  cast: { readonly dtype: DType; readonly saturate: boolean; readonly rounding?: ScaleRounding };
  bitcast: { readonly dtype: DType };

  reshape: { readonly shape: readonly Dim[] };
  transpose: { readonly permutation: readonly number[] };
  /** Input dims are aligned at the right; each is 1 or equal to the output's. */
  broadcast: { readonly shape: readonly Dim[] };
  /** out[i] = in[start + i·step]; steps may be negative. All dims are given. */
  slice: { readonly starts: readonly Dim[]; readonly sizes: readonly Dim[]; readonly steps: readonly number[] };
  /** (x, value scalar; value only for mode constant). Pads are ≥ 0. */
  pad: {
    readonly low: readonly Dim[];
    readonly high: readonly Dim[];
    readonly mode: 'constant' | 'edge' | 'reflect' | 'wrap';
  };
  concat: { readonly axis: number };

  /** 0, 1, 2 … along `axis`. */
  iota: { readonly dtype: DType; readonly shape: readonly Dim[]; readonly axis: number };
  /** (x, indices i32|i64): out = x[…, indices, …]; negative indices count from the end; out of range is clamped. */
  gather: { readonly axis: number };
  /** (x, indices): out[i…] = x[i… with i[axis] = indices[i…]]. */
  gather_elements: { readonly axis: number };
  /** (x, indices […, k]): ONNX GatherND. */
  gather_nd: { readonly batchDims: number };
  /** (x, indices, updates): ONNX ScatterElements. */
  scatter_elements: { readonly axis: number; readonly fn: ScatterFn };
  /** (x, indices, updates): ONNX ScatterND. */
  scatter_nd: { readonly fn: ScatterFn };

  /** Reduced axes stay as 1 if `keep`. `and`/`or` on bool. */
  reduce: { readonly fn: ReduceFn; readonly axes: readonly number[]; readonly keep: boolean };
  /** i64 index of the extreme, the first one or the `last`. */
  arg_reduce: { readonly fn: 'max' | 'min'; readonly axis: number; readonly keep: boolean; readonly last: boolean };
  cumulative: {
    readonly fn: 'sum' | 'prod' | 'max' | 'min';
    readonly axis: number;
    readonly exclusive: boolean;
    readonly reverse: boolean;
  };
  /** Outputs values and i64 indices. Stable: equal values keep the order of their indices. */
  top_k: { readonly k: Dim; readonly axis: number; readonly largest: boolean };

  /**
   * (lhs, rhs) → batch dims, then lhs free dims, then rhs free dims. Integer inputs may be narrow; the result is of
   * `dtype` and accumulated in at least f32 or i32.
   */
  dot: {
    readonly lhsBatch: readonly number[];
    readonly rhsBatch: readonly number[];
    readonly lhsContract: readonly number[];
    readonly rhsContract: readonly number[];
    readonly dtype: DType;
  };
  /**
   * (x [N, C, …spatial], w [O, C/groups, …kernel]) → [N, O, …]. `inputDilation` inserts step-1 zeros between input
   * elements (transposed convolution = input dilation with a flipped kernel). Pads may be negative.
   */
  conv: Window & { readonly groups: number; readonly inputDilation: readonly number[]; readonly dtype: DType };
  /** Windows over all dims of x; padding does not take part. */
  reduce_window: Window & { readonly fn: 'sum' | 'max' | 'min' | 'prod'; readonly window: readonly number[] };
  /** i64 row-major flat index into x of the window's first maximum (all dims windows). */
  window_argmax: Window & { readonly window: readonly number[] };

  /** (boxes [B, n, 4], scores [B, C, n], greatest overlap, least score): indices of the boxes kept, [B, C, limit]. */
  suppress: { readonly limit: number };
  /** Random u32: the first word of Philox4x32-10 of the key at the element's row-major index. */
  random_bits: { readonly shape: readonly Dim[]; readonly key: readonly number[] };

  /** exp(x - max) / sum over `axes`; `log`: its logarithm. */
  softmax: { readonly axes: readonly number[]; readonly log: boolean };
  /**
   * (x - mean)·rsqrt(var + epsilon) over `axes`; `center: false` leaves the mean out (RMS norm). Computed in f32 or
   * wider. Outputs: the result, and if `statistics`, mean and reciprocal deviation (reduced dims kept as 1).
   */
  normalize: {
    readonly axes: readonly number[];
    readonly epsilon: number;
    readonly center: boolean;
    readonly statistics: boolean;
  };
  resize: ResizeAttrs;

  /**
   * Runs `body` `trips` times. Inputs: `carried` initial values, arrays of which iteration t takes slice t along the
   * first axis (or slice trips-1-t where `scanned[i]`), then values that all iterations see. Body inputs: the
   * iteration number (i64 scalar, if `iteration`), carried values, slices, the values all see. Body outputs: the next
   * carried values, then slices of stacked results. Outputs: the last carried values, then the stacks [trips, …]
   * (slice t from the last place on where `stacked[i]`). The body is concrete; it sees nothing but its inputs.
   */
  scan: {
    readonly body: Graph;
    readonly trips: number;
    readonly carried: number;
    readonly iteration: boolean;
    /** One entry a scanned array: whether it is walked from its end. */
    readonly scanned: readonly boolean[];
    /** One entry a stack: whether it is filled from its end. */
    readonly stacked: readonly boolean[];
  };

  /** i64 vector of x's dims [start, end). */
  shape_of: { readonly start: number; readonly end: number };
  /** A source operator that cannot be converted before its shapes or parameter tensors are known. */
  source_op: {
    readonly domain: string;
    readonly name: string;
    readonly opset: number;
    readonly attrs: Readonly<Record<string, SourceAttr>>;
    /** Which inputs of the source operator are present (absent optional ones leave holes). */
    readonly present: readonly boolean[];
  };
}
export type OpKind = keyof OpAttrs;

export interface NodeOf<K extends OpKind> {
  readonly op: K;
  readonly attrs: OpAttrs[K];
  readonly inputs: readonly Value[];
  readonly outputs: readonly Value[];
  readonly source: SourceRef;
}
/** A discriminated union over `op`. */
export type Node = { [K in OpKind]: NodeOf<K> }[OpKind];

/** Data of a constant, read when first asked for. */
export interface ConstantData {
  readonly dtype: DType;
  readonly shape: readonly number[];
  /** @throws TuttiError E_EXTERNAL_DATA, E_ARTIFACT or E_IO if it cannot be read. */
  load(): HostTensor;
  /**
   * Fills `into`, an array as `load` would give, with the entries from `start` on. Set where that is possible without
   * holding all of them: what is large is read so, piece by piece. @throws as `load`
   */
  readPart?(start: number, into: NumericData): void;
  /** How it was folded, for schedules that would rather have what it was folded from: weights of few bits. */
  readonly origin?: { readonly node: Node; readonly inputs: readonly ConstantData[] };
  /** The order in which parts of about so many entries are best read, if that is not from the start to the end. */
  parts?(entries: number): Iterable<{ readonly start: number; readonly length: number }>;
}

export interface GraphOutput {
  readonly name: string;
  readonly value: Value;
}

export interface Graph {
  readonly name: string;
  readonly inputs: readonly Value[];
  readonly outputs: readonly GraphOutput[];
  readonly nodes: readonly Node[];
  /** By value id; constants are values that no node produces. */
  readonly constants: ReadonlyMap<number, ConstantData>;
  /** Named dims that occur in the inputs' shapes. */
  readonly dims: ReadonlyMap<string, DimBounds>;
}
