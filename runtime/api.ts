/**
 * The public face of the runtime as types: what the entry points take and return.
 *
 * ```ts
 * const model = await compile('model.onnx', { numerics: 'precise' });          // runtime/model.ts
 * await using session = await Session.create(model, { device: 'auto' });       // runtime/session.ts
 * const { logits } = await session.run({ image: Tensor.from(pixels, [1, 3, 224, 224]) }, { signal });
 * ```
 */
import type { BackendName, DeviceInfo } from '../backends/backend.js';
import type { Numerics } from '../compiler/compile.js';
import type { DType } from '../compiler/dtype.js';
import type { Container, DimBounds, Graph } from '../compiler/graph/types.js';
import type { PlanReport } from '../compiler/plan.js';
import type { Tensor, TensorData, TensorType } from './tensor.js';

export type { BackendName, DeviceInfo, DType, Graph, Numerics, PlanReport, TensorData, TensorType };

// --- devices: `devices(options?) => Promise<DeviceList>` ---------------------------------------------------------------

export interface DevicesOptions {
  /** Backends to ask; default: all. */
  readonly backends?: readonly BackendName[];
}

export interface DeviceList {
  /** Best first, as `auto` ranks them: GPUs, then the CPU, then GPU APIs executed on a CPU. */
  readonly devices: readonly DeviceInfo[];
  readonly missing: readonly { readonly backend: BackendName; readonly reason: string }[];
}

// --- models: `compile(source, options?) => Promise<Model>` -------------------------------------------------------------

/**
 * Path (or file: URL) of a .onnx or .tutti file — in a browser its address —, the bytes of one, a `File` or other Blob
 * that holds one, or a graph.
 */
export type ModelSource = string | URL | Uint8Array | ArrayBuffer | Blob | Graph;

export interface CompileOptions {
  /** Default `precise`. */
  readonly numerics?: Numerics;
  /** Concrete shapes of inputs; they bind the named dims that occur in them. */
  readonly shapes?: Readonly<Record<string, readonly number[]>>;
  /** Concrete sizes of named dims. */
  readonly dims?: Readonly<Record<string, number>>;
  /** Called with the printed IR after each pass and stage. */
  readonly dump?: (stage: string, text: () => string) => void;
}

/** An input or output of a model. */
export interface ValueInfo {
  readonly name: string;
  /** The name that tensors have: `float32`. */
  readonly type: TensorType;
  /** The compiler's name of the same type: `f32`. */
  readonly dtype: DType;
  /** Numbers, and for dims that are not known yet their name or expression: `[1, 3, 'height', '2*width']`. */
  readonly shape: readonly (number | string)[];
  /** True where dtype and shape only follow from the shapes or values of the inputs. */
  readonly unknown?: boolean;
  /** Where an input is not one tensor: what holds tensors of this type. */
  readonly container?: Container;
}

export interface ModelInfo {
  readonly name: string;
  readonly inputs: readonly ValueInfo[];
  readonly outputs: readonly ValueInfo[];
  /** Named dims of the inputs that have no size yet. */
  readonly dims: ReadonlyMap<string, DimBounds>;
  readonly nodes: number;
  /** Bytes of all constants of the model. */
  readonly weightsBytes: number;
}

// --- sessions: `Session.create(model | source, options?) => Promise<Session>` ------------------------------------------

export interface SessionOptions {
  /**
   * Device id, backend name (its first device) or `auto` (the best there is); or a device that stays the caller's: a
   * handle of `openDevice` or a WebGPU `GPUDevice`. Default: TUTTI_DEVICE, else `auto`.
   */
  readonly device?: string | object;
  readonly numerics?: Numerics;
  readonly shapes?: Readonly<Record<string, readonly number[]>>;
  readonly dims?: Readonly<Record<string, number>>;
  /** Number of shape specialisations kept on the device; the least recently used goes first. Default 8. */
  readonly cacheSize?: number;
  /**
   * Tuning file whose measured forms of kernels are preferred (`tutti tune`), false for none. Default: the one in the
   * cache's folder, if there is any. Where there are no files there is none.
   */
  readonly tuning?: string | false;
  readonly dump?: (stage: string, text: () => string) => void;
}

/** What inputs and outputs are: a tensor, a sequence of tensors, an optional that holds either or null. */
export type Value = Tensor | readonly Tensor[] | null;

/** Typed arrays take the shape of their input where that is static (or has one unknown dim). */
export type Feeds = Readonly<Record<string, Value | TensorData>>;

export type OutputPlace = 'cpu' | 'device';

/** What `session.bind` fixes. */
export interface BindingOptions {
  /** All inputs. What is on the host is copied to the device once: change it there with `Binding.write`. */
  readonly inputs: Readonly<Record<string, Tensor | TensorData>>;
  /** Tensors that outputs are written to, or places, as in `RunOptions`. Default: all in the host's memory. */
  readonly outputs?: Readonly<Record<string, Tensor | OutputPlace>>;
}

export interface RunOptions {
  /** Aborting rejects at once with the signal's reason if it is an Error of the caller's, else with E_ABORTED. */
  readonly signal?: AbortSignal;
  /**
   * Names of the outputs wanted, or where each wanted one is to be: in the host's memory (`cpu`), on the device, where it
   * can be an input of the next run, or in a tensor of the caller's, which is overwritten and comes back as the result. A
   * place alone holds for all outputs. Default: all, in new memory of the host.
   *
   * A tensor has the type and dims of the output, otherwise the run fails with an E_INPUT that names the output; sequences,
   * optionals and strings are not written to tensors. It lies on the host or on the session's device, and may be an input of
   * the same run, too: a state is then updated. What it holds while the run is under way, or after it has failed, is not
   * defined; memory of the host is not touched any more once the promise has settled.
   */
  readonly outputs?: readonly string[] | OutputPlace | Readonly<Record<string, OutputPlace | Tensor>>;
  /** Receives the time of each dispatch, where the device can tell. */
  readonly profile?: (profile: RunProfile) => void;
}

export interface RunProfile {
  readonly dispatches: readonly {
    readonly kernel: string;
    readonly sources: readonly string[];
    /** Undefined if the device has no timestamps. */
    readonly microseconds?: number;
  }[];
}

export interface SpecialisationReport {
  /** Shape of each input. */
  readonly shapes: Readonly<Record<string, readonly number[]>>;
  readonly plan: PlanReport;
  /**
   * Milliseconds: plan, render (or cache, where the program was stored), claim (constants that are there), load (the
   * device's compiler), hostCompiler (how much of that a compiler of the host ran), upload, record, total.
   */
  readonly times: Readonly<Record<string, number>>;
}

export interface SessionReport {
  readonly model: string;
  readonly device: DeviceInfo;
  readonly numerics: Numerics;
  /** Least recently used first. */
  readonly specialisations: readonly SpecialisationReport[];
  /**
   * A run is one stage unless data decides shapes or branches: then it is one more for each time that the host has to
   * read something. Stages that were run, those that are planned now, and tensors that the host has read in between.
   */
  readonly stages: { readonly run: number; readonly planned: number; readonly valuesRead: number };
}

export interface SessionMemory {
  /** Bytes of weights and other constants on the device. */
  readonly constantBytes: number;
  /** Bytes of inputs, intermediates and outputs of all specialisations. */
  readonly arenaBytes: number;
  /** Bytes of tensors that stay on the device, between stages and for callers, and of memory kept for such. */
  readonly residentBytes: number;
  /** Of the whole device, all sessions together. */
  readonly deviceBytes: number;
  readonly deviceTotalBytes: number;
}
