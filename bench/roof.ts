/**
 * The most that a device can do, measured where the benchmark runs: multiply-adds and copies. Where possible by code
 * that is not ours, for a roof of our own making flatters us. On a CPU it is measured again beside each kernel, in turns
 * with it: what a core gives varies with its clock and with its neighbours, within a minute by more than what is at stake.
 */
import { cpus } from 'node:os';
import type { Subject } from '../cli/measure.js';
import { note } from '../cli/output.js';
import { probeDevice } from '../cli/probe.js';
import type { DeviceHandle } from '../runtime/device.js';
import { threads } from '../runtime/environment.js';
import { compiled, LineProcess } from './peers/process.js';
import { torchRoof } from './peers/torch.js';
import type { Limit, Roof } from './record.js';

export interface Work {
  /** 2 a multiply-add. */
  readonly flops: number;
  /** Read and written. */
  readonly bytes: number;
}

export interface MeasuredRoof {
  readonly rates: Roof;
  /** So much arithmetic, or so many bytes copied, as fast as this machine does them; only where a program measures. */
  subject?(limit: Limit, work: Work): Subject;
  close(): void;
}

export async function measureRoof({ device }: DeviceHandle): Promise<MeasuredRoof> {
  const { backend, id, virtual } = device.info;
  try {
    if (backend === 'cpu') return await programRoof(device.target.vectorLanes);
    if (backend === 'cuda' && !virtual) return fixed({ source: 'libraries', ...(await torchRoof()) });
  } catch (error) {
    note(`roof by our own kernels, for ${error instanceof Error ? error.message.split('\n')[0] : error}`);
  }
  const { copyGBs, mulGFLOPs } = await probeDevice(id);
  return fixed({ source: 'own kernels', copyGBs, gflops: mulGFLOPs });
}

const fixed = (rates: Roof): MeasuredRoof => ({ rates, close() {} });

async function programRoof(lanes: number): Promise<MeasuredRoof> {
  const native = process.arch === 'arm64' ? '-mcpu=native' : '-march=native';
  const path = await compiled('roof.c', [native, '-ffp-contract=fast', `-DLANES=${lanes}`]);
  const program = new LineProcess(path, [String(threads() ?? cpus().length)]);
  const { gflops, copyGBs } = JSON.parse(await program.read()) as { gflops: number; copyGBs: number };
  return {
    rates: { source: 'program', copyGBs, gflops: { f32: gflops } },
    subject(limit, { flops, bytes }) {
      const task = limit === 'arithmetic' ? `multiply ${flops}` : `copy ${bytes}`;
      const block = async (count: number) => (await program.ask(`${task} ${count}`)).split(' ').map(Number);
      return { name: 'roof', run: () => block(1), block };
    },
    close: () => program.close(),
  };
}

/** Least milliseconds for so much work. Types whose rate was not measured count as f32. */
export function leastTime(
  { copyGBs, gflops }: Roof,
  { flops, bytes }: Work,
  dtype: string,
): { readonly ms: number; readonly limit: Limit } {
  const arithmetic = flops / ((gflops[dtype] ?? gflops.f32) * 1e6);
  const memory = bytes / (copyGBs * 1e6);
  return arithmetic > memory ? { ms: arithmetic, limit: 'arithmetic' } : { ms: memory, limit: 'memory' };
}
