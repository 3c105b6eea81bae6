/** One case of ONNX's backend tests: a folder with model.onnx and test_data_set_N/{input,output}_K.pb. */
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { basename, join, resolve } from 'node:path';
import { compareTensors, numbersOf, type Tolerance } from '../../compiler/compare.js';
import type { DType } from '../../compiler/dtype.js';
import { TuttiError } from '../../compiler/error.js';
import { decode } from '../../compiler/frontends/onnx/index.js';
import type { GraphProto } from '../../compiler/frontends/onnx/proto.js';
import { readValue } from '../../compiler/frontends/onnx/values.js';
import { isList, leavesOf, mapLeaves, type Tree } from '../../compiler/passes/mapped.js';
import type { HostTensor } from '../../compiler/tensor.js';
import type { Numerics, Value } from '../../runtime/api.js';
import { compile } from '../../runtime/model.js';
import { Session } from '../../runtime/session.js';
import { Tensor } from '../../runtime/tensor.js';

export interface CaseJob {
  readonly name: string;
  /** Last part of the folder that it was found under. */
  readonly suite: string;
  readonly folder: string;
}

export interface CaseOptions {
  readonly numerics?: Numerics;
  readonly rtol?: number;
  readonly atol?: number;
  /** Compare max|d| with this share of max|ref| instead of element by element. */
  readonly scaled?: number;
}

export interface CaseResult {
  readonly name: string;
  readonly status: 'passed' | 'failed' | 'unsupported';
  readonly reason?: string;
  readonly maxAbsDiff?: number;
  readonly ms: number;
  /** Operators of the model; for the summary. */
  readonly ops?: readonly string[];
  /** Element types of the inputs and expected outputs. */
  readonly dtypes?: readonly DType[];
  /** Nodes that ran on the host for lack of a kernel. */
  readonly hostNodes?: number;
  /** Code of the TuttiError, if that was the end of it. */
  readonly code?: string;
}

/** Every folder below `root` (or `root` itself) that holds a case, named by its path from there. */
export function findCases(root: string): CaseJob[] {
  const suite = basename(resolve(root));
  const found: CaseJob[] = [];
  const visit = (folder: string, name: string): void => {
    const entries = readdirSync(folder, { withFileTypes: true });
    const folders = entries.filter((entry) => entry.isDirectory());
    const isCase = entries.some((entry) => entry.name === 'model.onnx');
    if (isCase && folders.some((entry) => entry.name.startsWith('test_data_set_'))) {
      found.push({ name: name === '' ? suite : name, suite, folder });
      return;
    }
    for (const entry of folders) visit(join(folder, entry.name), name === '' ? entry.name : `${name}/${entry.name}`);
  };
  visit(root, '');
  return found.sort((a, b) => (a.name < b.name ? -1 : 1));
}

/** Tolerances by element type; whole numbers, bools, strings and 8-bit floats are compared exactly. */
function defaultTolerance(dtype: DType): Tolerance {
  if (dtype === 'f16' || dtype === 'bf16') return { rtol: 1e-2, atol: 1e-3 };
  if (dtype === 'f64') return { rtol: 1e-7, atol: 1e-9 };
  return { rtol: 1e-3, atol: 1e-5 };
}

/** What README.json beside the model recommends: tolerances, or for quantised models the angle and the best class. */
interface Recommended {
  readonly rtol?: number;
  readonly atol?: number;
  readonly cosineMin?: number;
  readonly top1?: boolean;
}

function recommended(folder: string): Recommended {
  const path = join(folder, 'README.json');
  if (!existsSync(path)) return {};
  try {
    const {
      rtol,
      atol,
      cosine_min: cosineMin,
      top1,
    } = JSON.parse(readFileSync(path, 'utf8')).recommended_tolerance ?? {};
    return { rtol, atol, cosineMin, top1: top1 === 'equal' };
  } catch {
    return {};
  }
}

/** Values of the inputs that are not initialised, or of the outputs, in order. */
function readValues(folder: string, kind: 'input' | 'output', graph: GraphProto | undefined): Tree<HostTensor>[] {
  const initialised = new Set(graph?.initializer.map(({ name }) => name));
  const types = (graph?.[kind] ?? []).filter(({ name }) => kind === 'output' || !initialised.has(name));
  const values: Tree<HostTensor>[] = [];
  for (let k = 0; ; k++) {
    const path = join(folder, `${kind}_${k}.pb`);
    if (!existsSync(path)) return values;
    values.push(readValue(types[k]?.type, readFileSync(path), `${kind}_${k}.pb`));
  }
}

function operatorsOf(graph: GraphProto | undefined): readonly string[] {
  const names = graph?.node.map(({ opType = '', domain = '' }) =>
    domain === '' || domain === 'ai.onnx' ? opType : `${domain}.${opType}`,
  );
  return [...new Set(names ?? [])].sort();
}

/** Runs all data sets of a case. Never rejects: whatever happens is the case's result. */
export async function runCase(job: CaseJob, device: string | object, options: CaseOptions): Promise<CaseResult> {
  const start = performance.now();
  let ops: readonly string[] = [];
  const dtypes = new Set<DType>();
  const done = (status: CaseResult['status'], more: Partial<CaseResult> = {}): CaseResult => ({
    name: job.name,
    status,
    ...more,
    ms: Math.round((performance.now() - start) * 10) / 10,
    ops,
    dtypes: [...dtypes].sort(),
  });
  try {
    const path = join(job.folder, 'model.onnx');
    const { graph } = decode('ModelProto', readFileSync(path));
    ops = operatorsOf(graph);
    const { maxAbsDiff, hostNodes, reason } = await runDataSets(job.folder, graph, device, options, dtypes);
    const measured = { hostNodes, ...(Number.isFinite(maxAbsDiff) ? { maxAbsDiff } : {}) };
    return reason === undefined ? done('passed', measured) : done('failed', { ...measured, reason });
  } catch (error) {
    const message = error instanceof Error ? error.message : String(error);
    if (!(error instanceof TuttiError)) {
      const place =
        error instanceof Error
          ? (error.stack
              ?.split('\n')[1]
              ?.trim()
              .replace(/\(?file:.*\/dist\//, '(') ?? '')
          : '';
      return done('failed', { reason: `internal error: ${message} ${place}`.trim() });
    }
    return done(error.code === 'E_UNSUPPORTED' ? 'unsupported' : 'failed', { reason: message, code: error.code });
  }
}

async function runDataSets(
  folder: string,
  graph: GraphProto | undefined,
  device: string | object,
  options: CaseOptions,
  dtypes: Set<DType>,
): Promise<{ maxAbsDiff: number; hostNodes: number; reason?: string }> {
  const sets = readdirSync(folder)
    .filter((entry) => entry.startsWith('test_data_set_'))
    .sort()
    .map((name) => ({
      name,
      inputs: readValues(join(folder, name), 'input', graph),
      expected: readValues(join(folder, name), 'output', graph),
    }));
  for (const { inputs, expected } of sets) {
    for (const { dtype } of [...inputs, ...expected].flatMap(leavesOf)) dtypes.add(dtype);
  }
  const model = await compile(
    join(folder, 'model.onnx'),
    options.numerics === undefined ? {} : { numerics: options.numerics },
  );
  const session = await Session.create(model, { device });
  const advice = recommended(folder);
  let maxAbsDiff = 0;
  let hostNodes = 0;
  try {
    for (const { name: set, inputs, expected } of sets) {
      const feeds = Object.fromEntries(
        session.inputs.flatMap(({ name }, k) =>
          inputs[k] === undefined ? [] : [[name, mapLeaves(inputs[k], Tensor.fromHost)]],
        ),
      );
      const results = await session.run<Value>(feeds);
      const placement = session.report().specialisations.flatMap(({ plan }) => plan.placement);
      hostNodes = placement
        .filter(({ family }) => family === 'host')
        .reduce((sum, { sources }) => sum + sources.length, 0);
      for (const [k, value] of expected.entries()) {
        const name = session.outputs[k]?.name;
        if (name === undefined) return { maxAbsDiff, hostNodes, reason: `${set}: the model has no output ${k}` };
        const actual = mapLeaves(results[name], (tensor) => tensor.toHost());
        const { difference, reason } = judgeAll(actual, value, options, advice);
        maxAbsDiff = Math.max(maxAbsDiff, difference);
        if (reason !== undefined) return { maxAbsDiff, hostNodes, reason: `${set}, output ${name}: ${reason}` };
      }
    }
    return { maxAbsDiff, hostNodes };
  } finally {
    await session.close();
  }
}

/** Tensor by tensor: the largest difference, and the first reason to refuse. */
function judgeAll(
  actual: Tree<HostTensor>,
  expected: Tree<HostTensor>,
  options: CaseOptions,
  advice: Recommended,
): { readonly difference: number; readonly reason?: string } {
  const kind = (tree: Tree<HostTensor>): string =>
    tree === null ? 'nothing' : isList(tree) ? `a sequence of ${tree.length}` : 'a tensor';
  const wrong = { difference: Number.POSITIVE_INFINITY, reason: `${kind(actual)}, ${kind(expected)} expected` };
  if (kind(actual) !== kind(expected)) return wrong;
  const others = leavesOf(actual);
  const verdicts = leavesOf(expected).map((tensor, i) => judge(others[i], tensor, options, advice));
  const difference = verdicts.reduce((most, verdict) => Math.max(most, verdict.difference), 0);
  const reason = verdicts.find((verdict) => verdict.reason !== undefined)?.reason;
  return { difference, ...(reason === undefined ? {} : { reason }) };
}

function judge(
  actual: HostTensor,
  expected: HostTensor,
  options: CaseOptions,
  advice: Recommended,
): { readonly difference: number; readonly reason?: string } {
  const standard = defaultTolerance(expected.dtype);
  const { ok, reason, maxDifference, maxExpected } = compareTensors(actual, expected, {
    rtol: options.rtol ?? advice.rtol ?? standard.rtol,
    atol: options.atol ?? advice.atol ?? standard.atol,
  });
  const verdict = (reason?: string) => ({ difference: maxDifference, ...(reason === undefined ? {} : { reason }) });
  // Without a finite difference, types, shapes or the places of NaN and infinities do not match.
  if (ok || !Number.isFinite(maxDifference)) return verdict(reason);
  if (advice.cosineMin !== undefined) {
    const cosine = cosineOf(actual, expected);
    if (cosine < advice.cosineMin) return verdict(`cosine ${cosine.toFixed(6)}, at least ${advice.cosineMin} expected`);
    const [best, right] = [argMax(actual), argMax(expected)];
    if (advice.top1 && best !== right) return verdict(`best is element ${best}, ${right} expected`);
    return verdict();
  }
  if (options.scaled !== undefined) {
    const share = maxDifference / maxExpected;
    if (share <= options.scaled) return verdict();
    return verdict(`max|d| / max|ref| is ${share.toExponential(2)}, at most ${options.scaled} expected`);
  }
  return verdict(reason);
}

function cosineOf(a: HostTensor, b: HostTensor): number {
  const [x, y] = [numbersOf(a), numbersOf(b)];
  let [xy, xx, yy] = [0, 0, 0];
  for (let i = 0; i < x.length; i++) [xy, xx, yy] = [xy + x[i] * y[i], xx + x[i] * x[i], yy + y[i] * y[i]];
  return xx === 0 && yy === 0 ? 1 : xy / Math.sqrt(xx * yy);
}

function argMax(tensor: HostTensor): number {
  const values = numbersOf(tensor);
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i] > values[best]) best = i;
  return best;
}
