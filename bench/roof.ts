/**
 * The most that a device can do, measured where the benchmark runs: multiply-adds and copies. Where possible by code
 * that is not ours, for a roof of our own making flatters us.
 */
import { execFile } from 'node:child_process';
import { cpus } from 'node:os';
import { promisify } from 'node:util';
import { note } from '../cli/output.js';
import { probeDevice } from '../cli/probe.js';
import type { DeviceHandle } from '../runtime/device.js';
import { threads } from '../runtime/environment.js';
import { compiled } from './peers/process.js';
import { torchRoof } from './peers/torch.js';
import type { Roof } from './record.js';

export async function measureRoof({ device }: DeviceHandle): Promise<Roof> {
  const { backend, id, virtual } = device.info;
  try {
    if (backend === 'cpu') return await programRoof(device.target.vectorLanes);
    if (backend === 'cuda' && !virtual) return { source: 'libraries', ...(await torchRoof()) };
  } catch (error) {
    note(`roof by our own kernels, for ${error instanceof Error ? error.message.split('\n')[0] : error}`);
  }
  const { copyGBs, mulGFLOPs } = await probeDevice(id);
  return { source: 'own kernels', copyGBs, gflops: mulGFLOPs };
}

async function programRoof(lanes: number): Promise<Roof> {
  const native = process.arch === 'arm64' ? '-mcpu=native' : '-march=native';
  const path = await compiled('roof.c', [native, '-ffp-contract=fast', `-DLANES=${lanes}`]);
  const { stdout } = await promisify(execFile)(path, [String(threads() ?? cpus().length)]);
  const { gflops, copyGBs } = JSON.parse(stdout) as { gflops: number; copyGBs: number };
  return { source: 'program', copyGBs, gflops: { f32: gflops } };
}

/** Least milliseconds for so much work. Types whose rate was not measured count as f32. */
export function leastTime(
  { copyGBs, gflops }: Roof,
  { flops, bytes }: { readonly flops: number; readonly bytes: number },
  dtype: string,
): { readonly ms: number; readonly limit: 'arithmetic' | 'memory' } {
  const arithmetic = flops / ((gflops[dtype] ?? gflops.f32) * 1e6);
  const memory = bytes / (copyGBs * 1e6);
  return arithmetic > memory ? { ms: arithmetic, limit: 'arithmetic' } : { ms: memory, limit: 'memory' };
}
