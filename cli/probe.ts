/** Measures what a device really does: memory traffic, multiply-adds, and how it rounds. */
import type { BufferRange, Device } from '../backends/backend.js';
import { plan } from '../compiler/compile.js';
import { GraphBuilder } from '../compiler/graph/builder.js';
import { binary, binaryC, unary } from '../compiler/graph/compose/index.js';
import type { Graph } from '../compiler/graph/types.js';
import type { Location } from '../compiler/plan.js';
import { commandsOf } from '../runtime/commands.js';
import { type DeviceHandle, openDevice } from '../runtime/device.js';
import { Session } from '../runtime/session.js';
import { Tensor } from '../runtime/tensor.js';

export interface Probe {
  /** Bytes read and written by an elementwise kernel over arrays larger than caches, per nanosecond. */
  readonly copyGBs: number;
  /** Of a square matrix product by element type, 2 operations a multiply-add, in units of 1e9 a second. */
  readonly mulGFLOPs: Readonly<Record<string, number>>;
  readonly numerics: Readonly<Record<string, boolean | number>>;
}

/** @throws TuttiError E_DEVICE_UNKNOWN, E_DEVICE */
export async function probeDevice(id: string): Promise<Probe> {
  const handle = await openDevice(id);
  try {
    const copyGBs = await measureCopy(handle);
    const mulGFLOPs = { f32: await measureProduct(handle) };
    return { copyGBs, mulGFLOPs, numerics: await numericsOf(handle) };
  } finally {
    await handle.release();
  }
}

/** What one repetition is long enough for a clock and a driver's overhead. */
const enoughMs = 100;

/** Grows the problem until one run is long enough; the best of three runs then. */
async function rate(
  handle: DeviceHandle,
  sizes: readonly number[],
  graphOf: (size: number) => Graph,
  amountOf: (size: number) => number,
): Promise<number> {
  let best = 0;
  for (const size of sizes) {
    const work = await prepare(handle, graphOf(size));
    try {
      await work.run(); // warm
      const times: number[] = [];
      for (let i = 0; i < 3; i++) times.push(await work.run());
      const ms = Math.min(...times);
      best = Math.max(best, amountOf(size) / (ms * 1e6));
      if (ms > enoughMs) break;
    } finally {
      work.release();
    }
  }
  return best;
}

const measureCopy = (handle: DeviceHandle): Promise<number> =>
  rate(handle, [2 ** 22, 2 ** 24, 2 ** 25], copyGraph, (count) => 8 * count);

function copyGraph(count: number): Graph {
  const b = new GraphBuilder('copy');
  b.output('y', binaryC(b, 'add', b.input('x', 'f32', [count]), 1));
  return b.finish();
}

const measureProduct = (handle: DeviceHandle): Promise<number> =>
  rate(handle, [256, 512, 1024, 2048], productGraph, (n) => 2 * n ** 3);

function productGraph(n: number): Graph {
  const b = new GraphBuilder('product');
  const [x, y] = [b.input('x', 'f32', [n, n]), b.input('y', 'f32', [n, n])];
  const attrs = { lhsBatch: [], rhsBatch: [], lhsContract: [1], rhsContract: [0], dtype: 'f32' } as const;
  b.output('z', b.op('dot', [x, y], attrs)[0]);
  return b.finish();
}

/** A graph on the device without its inputs and outputs crossing to the host: what is timed is the device's work. */
async function prepare(
  { backend, device }: DeviceHandle,
  graph: Graph,
): Promise<{ run(): Promise<number>; release(): void }> {
  const planned = plan(graph, device.target);
  const kernels = await device.loadKernels(planned.kernels.map((kernel) => backend.render(kernel, planned.target)));
  const buffers = planned.pools.map(({ bytes }) => device.allocate(Math.max(16, bytes)));
  const range = ({ pool, offset, bytes }: Location): BufferRange => ({ buffer: buffers[pool], offset, bytes });
  const list = await device.record(commandsOf(planned, kernels, range));
  return {
    run: () => timed(device, list),
    release() {
      list.release();
      for (const buffer of buffers) buffer.free();
      for (const kernel of kernels) kernel.release();
    },
  };
}

async function timed(device: Device, list: Awaited<ReturnType<Device['record']>>): Promise<number> {
  const start = performance.now();
  await device.queue.submit({ list });
  return performance.now() - start;
}

/** Facts that decide whether two devices can agree to the last bit. */
async function numericsOf(handle: DeviceHandle): Promise<Probe['numerics']> {
  const count = 4096;
  const b = new GraphBuilder('numerics');
  const [x, y] = [b.input('x', 'f32', [count]), b.input('y', 'f32', [count])];
  const tiny = b.input('tiny', 'f32', [1]);
  b.output('quotient', binary(b, 'div', x, y));
  b.output('root', unary(b, 'sqrt', x));
  b.output('exponential', unary(b, 'exp', y));
  b.output('half', binaryC(b, 'mul', tiny, 0.5));
  b.output('maximum', binaryC(b, 'max', b.input('nan', 'f32', [1]), 0));
  const session = await Session.create(b.finish(), { device: handle });
  try {
    const xs = Float32Array.from({ length: count }, (_, i) => 1 + (i * 7919) / 4096);
    const ys = Float32Array.from({ length: count }, (_, i) => 0.25 + (i % 977) / 101);
    const results = await session.run({
      x: Tensor.from(xs),
      y: Tensor.from(ys),
      tiny: Tensor.from(Float32Array.of(2 ** -126)),
      nan: Tensor.from(Float32Array.of(Number.NaN)),
    });
    const data = (name: string): Float32Array => results[name].data as Float32Array;
    return {
      divisionUlp: worstUlp(data('quotient'), (i) => xs[i] / ys[i]),
      sqrtUlp: worstUlp(data('root'), (i) => Math.sqrt(xs[i])),
      expUlp: worstUlp(data('exponential'), (i) => Math.exp(ys[i])),
      subnormals: data('half')[0] === 2 ** -127,
      maxKeepsNaN: Number.isNaN(data('maximum')[0]),
    };
  } finally {
    await session.close();
  }
}

/** Largest distance from the exact value in units of the last place of f32, to a tenth. */
function worstUlp(values: Float32Array, exact: (i: number) => number): number {
  let worst = 0;
  values.forEach((value, i) => {
    const truth = exact(i);
    const ulp = 2 ** (Math.floor(Math.log2(Math.abs(truth))) - 23);
    worst = Math.max(worst, Math.abs(value - truth) / ulp);
  });
  return Math.ceil(worst * 10) / 10;
}
