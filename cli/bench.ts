/** `tutti bench`: latency of a model on a device, what share of the device's roof that is, and a peer beside it. */
import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';
import type { Command } from 'commander';
import { packageRoot } from '../backends/native.js';
import { Session } from '../runtime/session.js';
import { feedsOf } from './feeds.js';
import { measure, type Schedule, type Timing } from './measure.js';
import { collect, type ModelFlags, modelFlags, openFor, positive, tuningFlag } from './options.js';
import { formatBytes, formatMs, formatNumber, print, printJson, table } from './output.js';
import { openPeer, type Peer } from './peers.js';
import { probeDevice } from './probe.js';
import type { Verb } from './verb.js';

interface Flags extends ModelFlags {
  readonly device?: string;
  readonly input?: readonly string[];
  readonly peer?: string;
  readonly tuning?: string;
  readonly warmup: number;
  readonly iterations: number;
  readonly duration: number;
  readonly limit?: number;
  readonly json?: boolean;
}

export interface BenchResult {
  readonly model: string;
  readonly device: string;
  readonly numerics: string;
  readonly warmup: number;
  readonly iterations: number;
  readonly ours: Timing;
  readonly peer?: Timing & { readonly name: string; readonly version: string };
  /** peer ÷ ours: above 1 is faster than the peer. */
  readonly ratio?: number;
  /** `percent`: the time that the device's measured rates allow at best, of the median. */
  readonly roof: { readonly flops: number; readonly bytes: number; readonly percent: number };
  readonly compileMs: number;
  readonly kernels: number;
  readonly dispatches: number;
  readonly arenaBytes: number;
  readonly peakRssBytes: number;
}

const help = `
The model is a file, a folder that holds model.onnx (its test_data_set_0 then gives the inputs) or the name of such a
folder in TUTTI_MODELS. Inputs that are not given are random.

Examples:
  $ tutti bench model.onnx --device cpu --peer onnxruntime
  $ tutti bench model.onnx --dim batch=8 --iterations 200 --json`;

export const benchVerb: Verb = (program, wrap) => {
  const command: Command = program
    .command('bench')
    .description('measure latency, beside a peer if wanted')
    .argument('<model>', '.onnx or .tutti file, a folder with model.onnx, or its name in TUTTI_MODELS')
    .option('-d, --device <id>', 'device id, backend or auto')
    .option('-i, --input <name=value>', 'an input, as for run (repeatable; default: random)', collect)
    .option('--peer <name>', 'measure onnxruntime in the same process, in turns (A B B A)')
    .option('--warmup <n>', 'runs before measuring', positive('--warmup'), 5)
    .option('--iterations <n>', 'measured runs, at least', positive('--iterations'), 30)
    .option('--duration <seconds>', 'measuring time, at least', positive('--duration', false), 2)
    .option('--limit <seconds>', 'end after so long with fewer runs (default: never)', positive('--limit', false));
  tuningFlag(modelFlags(command))
    .option('--json', 'print one JSON document')
    .addHelpText('after', help)
    .action(wrap((path: string, flags: Flags) => bench(path, flags)));
};

async function bench(path: string, flags: Flags): Promise<undefined> {
  const result = await benchModel(path, flags);
  if (flags.json) printJson(result);
  else printResult(result);
}

/** Where models lie that are called by their name: TUTTI_MODELS, or where the tests look for them. */
const modelsFolder = (): string => resolve(packageRoot() ?? '.', process.env.TUTTI_MODELS || '../shared/models');

const standard = { warmup: 5, iterations: 30, duration: 2 } as const;

/** One model on one device. @throws TuttiError as loading and running a model do */
export async function benchModel(given: string, options: Partial<Flags>): Promise<BenchResult> {
  const flags: Flags = { ...standard, ...options };
  const folder = [given, join(modelsFolder(), given)].find((candidate) => existsSync(join(candidate, 'model.onnx')));
  const path = folder === undefined ? given : join(folder, 'model.onnx');
  const start = performance.now();
  const loaded = await openFor(path, flags);
  const feeds = await feedsOf(loaded, flags.input ?? [], folder);
  // Known shapes let the session compile at once.
  const model = loaded.with({
    shapes: Object.fromEntries(Object.entries(feeds).map(([name, { dims }]) => [name, dims])),
  });
  const session = await Session.create(model, { device: flags.device, tuning: flags.tuning });
  let peer: Peer | undefined;
  try {
    await session.run(feeds);
    const compileMs = performance.now() - start;
    if (flags.peer !== undefined) peer = await openPeer(flags.peer, path, feeds);
    const { warmup, iterations, duration, limit = Number.POSITIVE_INFINITY } = flags;
    const schedule: Schedule = { warmup, iterations, duration: duration * 1000, limit: limit * 1000 };
    const ours = { name: 'tutti', run: () => session.run(feeds) };
    const [mine, theirs] = await measure(peer === undefined ? [ours] : [ours, peer], schedule);
    const { plan } = session.report().specialisations.at(-1) ?? {};
    if (plan === undefined) throw new Error('the session has run, but reports nothing');
    const peakRssBytes = process.resourceUsage().maxRSS * 1024;
    return {
      model: given,
      device: session.device.id,
      numerics: session.numerics,
      warmup: flags.warmup,
      iterations: mine.samples,
      ours: mine,
      ...(peer === undefined
        ? {}
        : { peer: { name: peer.name, version: peer.version, ...theirs }, ratio: theirs.medianMs / mine.medianMs }),
      roof: {
        flops: plan.flops,
        bytes: plan.bytesMoved,
        percent: (100 * (await bestMs(session.device.id, plan.flops, plan.bytesMoved))) / mine.medianMs,
      },
      compileMs,
      kernels: plan.kernels,
      dispatches: plan.dispatches,
      arenaBytes: plan.arenaBytes,
      peakRssBytes,
    };
  } finally {
    await peer?.release();
    await session.close();
  }
}

/** Time that the device needs at its measured rates, whichever of arithmetic and memory is slower. */
async function bestMs(device: string, flops: number, bytes: number): Promise<number> {
  const { copyGBs, mulGFLOPs } = await probeDevice(device);
  return Math.max(flops / (mulGFLOPs.f32 * 1e6), bytes / (copyGBs * 1e6));
}

function printResult({
  model,
  device,
  numerics,
  ours,
  peer,
  ratio,
  roof,
  compileMs,
  kernels,
  arenaBytes,
  peakRssBytes,
}: BenchResult): void {
  print(`${model} on ${device} (${numerics})`);
  const row = (name: string, { medianMs, p10Ms, p90Ms, samples }: Timing): string[] => [
    name,
    formatMs(medianMs),
    formatMs(p10Ms),
    formatMs(p90Ms),
    String(samples),
  ];
  const rows = [row('tutti', ours), ...(peer === undefined ? [] : [row(`${peer.name} ${peer.version}`, peer)])];
  print(table(['', 'MEDIAN', 'P10', 'P90', 'RUNS'], rows, ['left', 'right', 'right', 'right', 'right']));
  if (peer !== undefined && ratio !== undefined) {
    print(
      ratio >= 1
        ? `${formatNumber(ratio)} times as fast as ${peer.name}`
        : `${formatNumber(1 / ratio)} times slower than ${peer.name} (ratio ${formatNumber(ratio)})`,
    );
  }
  print(
    `${formatNumber(roof.flops / 1e9)} GFLOP, ${formatBytes(roof.bytes)} moved: ${roof.percent.toFixed(1)} % of the roof; ` +
      `${kernels} kernels, ${formatBytes(arenaBytes)} arena, compiled in ${formatMs(compileMs)}, peak RSS ${formatBytes(peakRssBytes)}`,
  );
}
