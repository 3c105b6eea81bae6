/** OpenBLAS where its headers and library are installed. */
import { threads } from '../../runtime/environment.js';
import type { Work } from '../cases/types.js';
import { compiled, LineProcess } from './process.js';
import type { KernelPeer, KernelSubject } from './types.js';

let program: Promise<LineProcess> | undefined;
let config = '';

/** Debian keeps the header in a folder of its own unless an alternative is set. */
const places = ['-I/usr/include/openblas', '-I/usr/include/x86_64-linux-gnu/openblas-pthread', '-lopenblas'];

async function start(): Promise<LineProcess> {
  const path = await compiled('openblas.c', places).catch((cause: unknown) => {
    throw new Error('OpenBLAS is not installed (cblas.h or -lopenblas was not found)', { cause });
  });
  const count = threads();
  const child = new LineProcess(path, count === undefined ? [] : [String(count)]);
  config = await child.read();
  return child;
}

export const openblas: KernelPeer = {
  name: 'openblas',
  /** Only products of f32 matrices, one at a time. */
  takes: ({ spec }) => spec.op === 'gemm' && spec.dtype === 'f32' && spec.batch === 1,
  async open({ spec }: Work): Promise<KernelSubject> {
    if (spec.op !== 'gemm') throw new Error('no matrix product');
    program ??= start();
    const child = await program;
    const block = async (count: number): Promise<number[]> => {
      const answer = await child.ask(`${spec.m} ${spec.n} ${spec.k} ${spec.transposed ? 1 : 0} ${count}`);
      return answer.trim().split(' ').map(Number);
    };
    return {
      name: 'openblas',
      version: config.split(' ')[1] ?? 'unknown',
      run: () => block(1),
      block,
      release: async () => {},
    };
  },
  async close() {
    if (program !== undefined) (await program.catch(() => undefined))?.close();
    program = undefined;
  },
};
