/**
 * What an NVIDIA machine compares with: bench/nvidia/peer.py runs cuBLASLt, PyTorch eager and compiled, SDPA, and
 * plain CUDA kernels, and is asked line by line in JSON.
 */
import { join } from 'node:path';
import type { Work } from '../cases/types.js';
import { root } from '../record.js';
import { LineProcess } from './process.js';
import type { KernelPeer } from './types.js';

interface Opened {
  readonly implementations: readonly string[];
  readonly versions: Readonly<Record<string, string>>;
  readonly skipped: Readonly<Record<string, string>>;
}

type Answer<T> = T | { readonly error: string };

let program: Promise<LineProcess> | undefined;

async function ask<T>(question: Readonly<Record<string, unknown>>): Promise<T> {
  program ??= (async () => {
    const child = new LineProcess(process.env.PYTHON || 'python3', [join(root, 'bench', 'nvidia', 'peer.py')]);
    await child.read();
    return child;
  })();
  const answer = JSON.parse(await (await program).ask(JSON.stringify(question))) as Answer<T>;
  if (typeof answer === 'object' && answer !== null && 'error' in answer) throw new Error(answer.error);
  return answer as T;
}

/** Rates of the card by its own libraries. */
export const torchRoof = (): Promise<{ copyGBs: number; gflops: Readonly<Record<string, number>> }> =>
  ask({ do: 'roof' });

const implementations = {
  'torch eager': ['conv', 'rows', 'map', 'attention', 'model'],
  'torch.compile': ['conv', 'rows', 'map', 'attention', 'model'],
  cublaslt: ['gemm'],
  sdpa: ['attention'],
  'plain cuda': ['gemm', 'rows', 'map'],
} as const satisfies Readonly<Record<string, readonly Work['spec']['op'][]>>;

export const torchPeers: readonly KernelPeer[] = Object.entries(implementations).map(([name, ops]) => ({
  name,
  takes: ({ spec }) => (ops as readonly string[]).includes(spec.op),
  async open({ spec, cold }) {
    const { implementations, versions, skipped } = await ask<Opened>({ do: 'open', spec, cold, name });
    if (!implementations.includes(name)) throw new Error(skipped[name] ?? 'it has no such kernel');
    const block = (count: number): Promise<readonly number[]> => ask({ do: 'run', name, count });
    return {
      name,
      version: versions[name] ?? 'unknown',
      run: () => block(1),
      block,
      release: async () => void (await ask({ do: 'release' })),
    };
  },
  async close() {
    if (program !== undefined) (await program.catch(() => undefined))?.close();
    program = undefined;
  },
}));
