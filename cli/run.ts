/** `tutti run`: one inference, on one device or on several that are compared. */
import { createHash } from 'node:crypto';
import type { Command } from 'commander';
import { compareTensors, numbersOf, type Tolerance } from '../compiler/compare.js';
import { type DType, isFloat } from '../compiler/dtype.js';
import { TuttiError } from '../compiler/error.js';
import { bytesOfTensor, type HostTensor } from '../compiler/tensor.js';
import type { PlanReport, RunProfile, SessionReport } from '../runtime/api.js';
import { Session } from '../runtime/session.js';
import type { SessionModel } from '../runtime/session_model.js';
import type { Tensor } from '../runtime/tensor.js';
import { checkWritable } from './files.js';
import {
  collect,
  type ModelFlags,
  modelFlags,
  openFor,
  positive,
  selectDevices,
  tolerance,
  tuningFlag,
} from './options.js';
import { describeError, formatBytes, formatMs, formatNumber, note, print, printJson, table } from './output.js';
import { median } from './statistics.js';
import { type TraceDevice, writeTrace } from './trace.js';
import {
  checkOutputs,
  elementsOf,
  type OutputSpec,
  parseExpected,
  parseInputs,
  parseOutputs,
  readExpected,
  readInput,
  shapeText,
  writeTensor,
} from './values.js';
import type { Verb } from './verb.js';

interface Flags extends ModelFlags {
  readonly device?: readonly string[];
  readonly input?: readonly string[];
  readonly output?: readonly string[];
  readonly expect?: readonly string[];
  readonly rtol?: number;
  readonly atol?: number;
  readonly strictDevice?: boolean;
  readonly tuning?: string;
  readonly profile?: string;
  readonly repeat?: number;
  readonly json?: boolean;
  readonly debug?: boolean;
}

interface OutputResult {
  readonly name: string;
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly sha256?: string;
  readonly path?: string;
  readonly maxAbsDiff?: number | null;
  readonly maxRelDiff?: number | null;
  readonly ok?: boolean;
  readonly reason?: string;
  readonly data?: readonly (number | string)[];
}

/** What became of one device. */
interface DeviceResult {
  readonly model: string;
  readonly device: string;
  readonly numerics: string;
  readonly firstRunMs: number;
  /** From the start of the process to the first result on the first device. */
  readonly sinceStartMs?: number;
  /** What of that went where: reading the model, and the stages of `SpecialisationReport.times` over all that was compiled. */
  readonly timesMs: Readonly<Record<string, number>>;
  readonly medianMs?: number;
  readonly kernels: number;
  readonly dispatches: number;
  readonly arenaBytes: number;
  /** Where data decided how to go on: how often, and what the host read for it. */
  readonly stages?: SessionReport['stages'];
  /** Of the process so far, the model's weights and the runtime included. */
  readonly peakRssBytes: number;
  readonly outputs: readonly OutputResult[];
}
interface DeviceFailure {
  readonly device: string;
  readonly error: { readonly code?: string; readonly message: string };
}

const help = `
Inputs:   name=@x.npy  name=@x.pb  name=@x.png  name=@x.png:nchw,0..1  name=random:SEED  name=zeros  name=1,2,3
          The name may be left out where the model has one input; inputs that are not given are an error.
Outputs:  name=@y.npy  name=@y.pb  name=@y.png  name=-   (- prints the values)
Pictures: layout nchw, nhwc, chw, hwc or hw; range 0..1 (default for floats), 0..255, -1..1; bgr for that order.

Examples:
  $ tutti run resnet.onnx --input data=@cat.png:nchw,0..1 --output logits=@logits.npy
  $ tutti run model.onnx --device all --input x=random:7 --rtol 1e-3 --atol 1e-4
  $ tutti run model.onnx --input x=@x.npy --expect y=@y.npy
  $ tutti run model.onnx --input x=zeros --dim batch=1 --profile trace.json   (open in chrome://tracing or Perfetto)`;

export const runVerb: Verb = (program, wrap) => {
  const command: Command = program
    .command('run')
    .description('run a model once and say what came out')
    .argument('<model>', '.onnx or .tutti file')
    .option('-d, --device <id>', 'device id, backend, auto or all (repeatable: outputs are compared)', collect)
    .option('-i, --input <name=value>', 'an input (repeatable)', collect)
    .option('-o, --output <name=@file>', 'where an output goes (repeatable)', collect)
    .option('--expect <name=@file>', 'compare an output with a file; exit code 1 if it differs (repeatable)', collect)
    .option('--rtol <number>', 'relative tolerance of comparisons (default: 1e-3, f16 1e-2)', tolerance('--rtol'))
    .option('--atol <number>', 'absolute tolerance of comparisons (default: 1e-4, f16 1e-3)', tolerance('--atol'));
  tuningFlag(modelFlags(command))
    .option('--strict-device', 'fail if anything would run elsewhere than on the device')
    .option('--profile <trace.json>', 'write a Chrome trace of the stages and kernels')
    .option('--repeat <n>', 'run n times more and report the median', positive('--repeat'))
    .option('--json', 'print one JSON document')
    .addHelpText('after', help)
    .action(wrap((path: string, flags: Flags) => run(path, flags)));
};

async function run(path: string, flags: Flags): Promise<number> {
  const selected = await selectDevices(flags.device);
  const opening = performance.now();
  const model = await openFor(path, flags);
  const modelMs = performance.now() - opening;
  const inputs = parseInputs(flags.input ?? [], model.inputs);
  const outputs = parseOutputs(flags.output ?? [], model.outputs);
  const expectations = parseExpected(flags.expect ?? [], model.outputs);
  checkOutputs(outputs.values());
  const tracePath = flags.profile === undefined ? undefined : checkWritable(flags.profile);
  const feeds: Record<string, Tensor> = {};
  for (const info of model.inputs) {
    const spec = inputs.get(info.name);
    if (spec === undefined) {
      throw new TuttiError('E_INPUT', 'input is missing', {
        subject: info.name,
        expected: `${info.type} of ${shapeText(info)}`,
        remedy: `Give --input ${info.name}=@file.npy, or ${info.name}=random:1 to try.`,
      });
    }
    feeds[info.name] = await readInput(spec, info);
  }
  const expected = new Map<string, HostTensor>();
  for (const info of model.outputs) {
    const spec = expectations.get(info.name);
    if (spec !== undefined) expected.set(info.name, await readExpected(spec, info));
  }

  const results: (DeviceResult | DeviceFailure)[] = [];
  const traces: TraceDevice[] = [];
  let reference: ReadonlyMap<string, HostTensor> | undefined;
  for (const device of selected) {
    try {
      const done = await runOn(device, model, feeds, flags, tracePath !== undefined);
      const first = reference === undefined;
      // The others are compared with the first device, where no expectation is given.
      const against = expected.size > 0 ? expected : reference;
      const described = done.outputs.map(([name, tensor]): OutputResult => {
        const spec = first ? outputs.get(name) : undefined;
        const truth = against?.get(name);
        return {
          ...describeOutput(name, tensor, spec),
          ...(truth === undefined ? {} : compare(tensor, truth, flags)),
        };
      });
      if (first) {
        reference = new Map(done.outputs);
        for (const [name, tensor] of done.outputs) {
          const spec = outputs.get(name);
          if (spec?.kind === 'file') await writeTensor(spec, name, tensor);
        }
      }
      const { timesMs, sinceStartMs, ...facts } = done.facts;
      const since = first ? { sinceStartMs } : {};
      results.push({ model: path, ...facts, ...since, timesMs: { model: modelMs, ...timesMs }, outputs: described });
      traces.push(done.trace);
    } catch (error) {
      if (selected.length === 1 || !(error instanceof TuttiError)) throw error;
      results.push({ device: device ?? 'auto', error: { code: error.code, message: error.message } });
      if (flags.debug) note(describeError(error, true));
    }
  }
  if (tracePath !== undefined) writeTrace(tracePath, traces);
  report(results, outputs, flags);
  const bad = results.some((result) => 'error' in result || result.outputs.some(({ ok }) => ok === false));
  return bad ? 1 : 0;
}

interface Done {
  readonly facts: Omit<DeviceResult, 'model' | 'outputs'>;
  readonly outputs: readonly (readonly [string, HostTensor])[];
  readonly trace: TraceDevice;
}

async function runOn(
  device: string | undefined,
  model: SessionModel,
  feeds: Readonly<Record<string, Tensor>>,
  flags: Flags,
  traced: boolean,
): Promise<Done> {
  const start = performance.now();
  const shapes = Object.fromEntries(Object.entries(feeds).map(([name, { dims }]) => [name, dims]));
  const session = await Session.create(model, { device, tuning: flags.tuning });
  try {
    const results = await session.run(feeds);
    const sinceStartMs = performance.now();
    const firstRunMs = sinceStartMs - start;
    const sessionReport = session.report();
    const plans = sessionReport.specialisations.map(({ plan }) => plan);
    const total = (of: (plan: PlanReport) => number): number => plans.reduce((sum, plan) => sum + of(plan), 0);
    if (flags.strictDevice) {
      checkPlacement(
        plans.flatMap(({ placement }) => placement),
        session.device.id,
      );
    }
    const times: number[] = [];
    for (let i = 0; i < (flags.repeat ?? 0); i++) {
      const begin = performance.now();
      await session.run(feeds);
      times.push(performance.now() - begin);
    }
    let profile: RunProfile | undefined;
    if (traced) {
      await session.run(feeds, {
        profile: (measured) => {
          profile = measured;
        },
      });
    }
    return {
      facts: {
        device: session.device.id,
        numerics: session.numerics,
        firstRunMs,
        sinceStartMs,
        timesMs: sumOf(sessionReport.specialisations.map((one) => one.times)),
        ...(times.length > 0 ? { medianMs: median(times) } : {}),
        kernels: total(({ kernels }) => kernels),
        dispatches: total(({ dispatches }) => dispatches),
        arenaBytes: total(({ arenaBytes }) => arenaBytes),
        ...(sessionReport.stages.run > 1 ? { stages: sessionReport.stages } : {}),
        peakRssBytes: process.resourceUsage().maxRSS * 1024,
      },
      outputs: model.outputs.map(({ name }) => [name, results[name].toHost()] as const),
      trace: { device: session.device.id, times: sessionReport.specialisations.at(-1)?.times ?? {}, shapes, profile },
    };
  } finally {
    await session.close();
  }
}

/** Entry by entry. */
function sumOf(records: readonly Readonly<Record<string, number>>[]): Record<string, number> {
  const sums: Record<string, number> = {};
  for (const record of records) {
    for (const [name, value] of Object.entries(record)) sums[name] = (sums[name] ?? 0) + value;
  }
  return sums;
}

type Placement = PlanReport['placement'];

/** @throws TuttiError E_UNSUPPORTED naming what does not run on the device */
function checkPlacement(placement: Placement, device: string): void {
  const elsewhere = placement.filter(({ family }) => family === 'host');
  if (elsewhere.length === 0) return;
  throw new TuttiError('E_UNSUPPORTED', 'not all of the model runs on the device', {
    subject: '--strict-device',
    expected: `all on ${device}`,
    found: `on the host: ${elsewhere.flatMap(({ sources }) => sources).join(', ')}`,
  });
}

function describeOutput(name: string, tensor: HostTensor, spec: OutputSpec | undefined): OutputResult {
  const { dtype, shape } = tensor;
  const bytes = dtype === 'string' ? JSON.stringify(tensor.data) : bytesOfTensor(tensor);
  return {
    name,
    dtype,
    shape,
    sha256: createHash('sha256').update(bytes).digest('hex'),
    ...(spec?.kind === 'file' ? { path: spec.path } : {}),
    ...(spec?.kind === 'print' ? { data: elementsOf(tensor) } : {}),
  };
}

function toleranceOf(dtype: DType, { rtol, atol }: Flags): Tolerance {
  const half = dtype === 'f16' || dtype === 'bf16';
  return { rtol: rtol ?? (half ? 1e-2 : 1e-3), atol: atol ?? (half ? 1e-3 : 1e-4) };
}

function compare(actual: HostTensor, expected: HostTensor, flags: Flags): Partial<OutputResult> {
  const { ok, reason, maxDifference } = compareTensors(actual, expected, toleranceOf(expected.dtype, flags));
  const finite = (value: number): number | null => (Number.isFinite(value) ? value : null);
  return {
    maxAbsDiff: finite(maxDifference),
    maxRelDiff: finite(maxRelative(actual, expected)),
    ok,
    ...(reason === undefined ? {} : { reason }),
  };
}

/** Largest |actual - expected| / |expected| where both are finite and the latter is not 0. */
function maxRelative(actual: HostTensor, expected: HostTensor): number {
  if (!isFloat(expected.dtype) || actual.dtype !== expected.dtype) return 0;
  const [a, e] = [numbersOf(actual), numbersOf(expected)];
  if (a.length !== e.length) return Number.POSITIVE_INFINITY;
  let worst = 0;
  for (let i = 0; i < e.length; i++) {
    const ratio = Math.abs((a[i] - e[i]) / e[i]);
    if (Number.isFinite(ratio) && ratio > worst) worst = ratio;
  }
  return worst;
}

function report(
  results: readonly (DeviceResult | DeviceFailure)[],
  outputs: ReadonlyMap<string, OutputSpec>,
  flags: Flags,
): void {
  if (flags.json) {
    const first = results.find((result): result is DeviceResult => !('error' in result));
    printJson({ ...(first ?? {}), ...(results.length > 1 ? { devices: results } : {}) });
    return;
  }
  for (const result of results) {
    if ('error' in result) {
      print(`${result.device}: failed: ${result.error.code}: ${result.error.message}`);
      continue;
    }
    const { device, numerics, firstRunMs, timesMs, medianMs, kernels, arenaBytes } = result;
    const repeated = medianMs === undefined ? '' : `, median ${formatMs(medianMs)}`;
    print(
      `${device}: first run ${formatMs(firstRunMs)} (${whereItWent(timesMs)})${repeated}, ${kernels} kernels, ` +
        `${formatBytes(arenaBytes)} arena, ${numerics}`,
    );
    const compared = result.outputs.some(({ ok }) => ok !== undefined);
    print(
      table(
        ['  OUTPUT', 'TYPE', 'SHAPE', ...(compared ? ['MAX |d|', 'MAX |d/e|', 'SAME'] : ['SHA-256']), 'FILE'],
        result.outputs.map(({ name, dtype, shape, sha256, path, maxAbsDiff, maxRelDiff, ok }) => [
          `  ${name}`,
          dtype,
          `[${shape.join(', ')}]`,
          ...(compared
            ? [differenceText(maxAbsDiff), differenceText(maxRelDiff), ok === undefined ? '' : ok ? 'yes' : 'NO']
            : [sha256?.slice(0, 16) ?? '']),
          path ?? '',
        ]),
      ),
    );
    for (const { name, reason, data } of result.outputs) {
      if (reason !== undefined) print(`  ${name}: ${reason}`);
      if (outputs.get(name)?.kind === 'print' && data !== undefined) {
        print(
          `  ${name} = ${data.map((value) => (typeof value === 'number' ? formatNumber(value) : value)).join(' ')}`,
        );
      }
    }
  }
}

/** What compiling took, in words. */
function whereItWent({ plan, render, cache, hostCompiler }: Readonly<Record<string, number>>): string {
  const parts = [
    cache === undefined ? undefined : `stored program read in ${formatMs(cache)}`,
    plan === undefined ? undefined : `planning ${formatMs(plan)}, rendering ${formatMs(render)}`,
    hostCompiler === undefined ? undefined : `host compiler ${formatMs(hostCompiler)}`,
  ];
  return parts.filter((part) => part !== undefined).join(', ') || 'with compiling';
}

const differenceText = (value: number | null | undefined): string =>
  value === undefined ? '' : value === null ? 'inf' : formatNumber(value);
