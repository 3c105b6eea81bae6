/** Other runtimes to compare with. They are no dependencies of ours: whoever wants to compare installs them. */
import { createRequire } from 'node:module';
import type { DType } from '../compiler/dtype.js';
import { TuttiError } from '../compiler/error.js';
import { threads } from '../runtime/environment.js';
import type { Tensor } from '../runtime/tensor.js';
import type { Subject } from './measure.js';

export interface Peer extends Subject {
  readonly version: string;
  release(): Promise<void>;
}

/** Peers, and the execution provider each stands for. */
const providers = { onnxruntime: 'cpu', 'onnxruntime-webgpu': 'webgpu' } as const;

export const peerNames = Object.keys(providers) as readonly (keyof typeof providers)[];

type PeerFeeds = Readonly<Record<string, Tensor>>;

/**
 * As many threads as we use, all graph optimisations. Several sets of inputs are taken in turn, run by run.
 * @param source path or bytes of a .onnx file
 * @throws TuttiError E_USAGE, E_UNSUPPORTED
 */
export async function openPeer(
  name: string,
  source: string | Uint8Array,
  feeds: PeerFeeds | readonly PeerFeeds[],
): Promise<Peer> {
  const known = peerNames.find((candidate) => candidate === name);
  if (known === undefined) {
    throw new TuttiError('E_USAGE', 'no such peer', { subject: '--peer', expected: peerNames.join(', '), found: name });
  }
  const ort = await loadOnnxRuntime();
  const count = threads();
  try {
    const options = {
      ...(count === undefined ? {} : { intraOpNumThreads: count }),
      graphOptimizationLevel: 'all',
      executionProviders: [providers[known]],
    } as const;
    const session = await (typeof source === 'string'
      ? ort.InferenceSession.create(source, options)
      : ort.InferenceSession.create(source, options));
    const sets = (Array.isArray(feeds) ? (feeds as readonly PeerFeeds[]) : [feeds as PeerFeeds]).map((set) =>
      Object.fromEntries(
        Object.entries(set).map(([input, tensor]) => [
          input,
          new ort.Tensor(typeOf(tensor.dtype), tensor.data as Float32Array, [...tensor.dims]),
        ]),
      ),
    );
    let next = 0;
    return {
      name,
      version: versionOf('onnxruntime-node'),
      run: () => session.run(sets[next++ % sets.length]),
      release: () => session.release(),
    };
  } catch (cause) {
    throw new TuttiError('E_UNSUPPORTED', `${name} cannot run this model`, { found: (cause as Error).message, cause });
  }
}

async function loadOnnxRuntime(): Promise<typeof import('onnxruntime-node')> {
  try {
    return await import('onnxruntime-node');
  } catch (cause) {
    throw new TuttiError('E_UNSUPPORTED', 'onnxruntime is not here', {
      found: (cause as Error).message.split('\n')[0],
      remedy: 'npm install onnxruntime-node',
      cause,
    });
  }
}

/** As its package says, or `unknown`. */
export function versionOf(name: string): string {
  try {
    return createRequire(import.meta.url)(`${name}/package.json`).version;
  } catch {
    return 'unknown';
  }
}

const types: Partial<
  Record<
    DType,
    | 'float32'
    | 'float64'
    | 'float16'
    | 'int64'
    | 'int32'
    | 'int16'
    | 'int8'
    | 'uint64'
    | 'uint32'
    | 'uint16'
    | 'uint8'
    | 'bool'
  >
> = {
  f32: 'float32',
  f64: 'float64',
  f16: 'float16',
  i64: 'int64',
  i32: 'int32',
  i16: 'int16',
  i8: 'int8',
  u64: 'uint64',
  u32: 'uint32',
  u16: 'uint16',
  u8: 'uint8',
  bool: 'bool',
};

function typeOf(dtype: DType): 'float32' {
  const type = types[dtype];
  if (type === undefined) throw new Error(`it takes no tensors of ${dtype}`);
  // The constructor's overloads want a literal; the data is of the type that goes with it.
  return type as 'float32';
}
