/** What all suites are given: a device, its roof, how long to measure, and whom to compare with. */

import type { Schedule } from '../cli/measure.js';
import { note } from '../cli/output.js';
import { type DeviceHandle, openDevice } from '../runtime/device.js';
import type { Case, Scale } from './cases/types.js';
import { onnxruntime } from './peers/onnxruntime.js';
import { openblas } from './peers/openblas.js';
import { torchPeers } from './peers/torch.js';
import type { KernelPeer } from './peers/types.js';
import type { Roof } from './record.js';
import { type MeasuredRoof, measureRoof } from './roof.js';
import * as timing from './timing.js';

export interface Context {
  readonly handle: DeviceHandle;
  readonly roof: MeasuredRoof;
  readonly scale: Scale;
  readonly schedule: Schedule;
  readonly peers: readonly KernelPeer[];
  /** Cases and models whose name contains one of these; all if there are none. */
  readonly wanted: readonly string[];
}

export const isWanted = ({ wanted }: Pick<Context, 'wanted'>, name: string): boolean =>
  wanted.length === 0 || wanted.some((part) => name.includes(part));

export async function openContext(
  device: string,
  options: { readonly quick: boolean; readonly peers: boolean; readonly wanted: readonly string[] },
): Promise<Context> {
  const handle = await openDevice(device);
  const { info } = handle.device;
  note(`${info.id}: ${info.name}, ${info.driver}`);
  const roof = await measureRoof(handle);
  note(`roof by ${roof.rates.source}: ${roof.rates.copyGBs.toFixed(1)} GB/s, ${describeRates(roof.rates)}`);
  return {
    handle,
    roof,
    scale: {
      quick: options.quick,
      gpu: info.backend !== 'cpu' && !info.software && !info.virtual,
      software: info.software,
    },
    schedule: options.quick ? timing.quick : info.software ? timing.software : timing.full,
    peers: options.peers ? peersOf(handle) : [],
    wanted: options.wanted,
  };
}

export async function closeContext({ handle, roof }: Context): Promise<void> {
  roof.close();
  await handle.release();
}

const describeRates = ({ gflops }: Roof): string =>
  Object.entries(gflops)
    .map(([dtype, rate]) => `${rate.toFixed(0)} GFLOP/s in ${dtype}`)
    .join(', ');

/** Those that run on the same hardware. */
function peersOf({ device: { info } }: DeviceHandle): readonly KernelPeer[] {
  if (info.backend === 'cpu') return [onnxruntime('onnxruntime'), openblas];
  if (info.virtual) return [];
  const nvidia = /nvidia/i.test(`${info.name} ${info.driver}`);
  if (nvidia) return torchPeers;
  return [onnxruntime('onnxruntime-webgpu')];
}

export const casesOf = (context: Context, cases: readonly Case[]): readonly Case[] =>
  cases.filter(({ name }) => isWanted(context, name));
