// Cases in the layout of the ONNX backend tests (model.onnx, test_data_set_N/input_K.pb, output_K.pb), and a runner
// that needs no device: import, specialise, evaluate on the host, compare.
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { compareTensors, type Tolerance } from '../../compiler/compare.js';
import { TuttiError } from '../../compiler/error.js';
import { decode, importOnnx, tensorOf } from '../../compiler/frontends/onnx/index.js';
import type { ValueInfoProto } from '../../compiler/frontends/onnx/proto.js';
import { readValue } from '../../compiler/frontends/onnx/values.js';
import { resolvers } from '../../compiler/frontends/resolvers.js';
import { evaluateGraph } from '../../compiler/graph/evaluate.js';
import type { Graph } from '../../compiler/graph/types.js';
import { evaluateStages } from '../../compiler/passes/evaluate_stages.js';
import { isList, leavesOf, type Tree } from '../../compiler/passes/mapped.js';
import { specialise } from '../../compiler/passes/specialise.js';
import type { HostTensor } from '../../compiler/tensor.js';

export type Verdict = 'passed' | 'failed' | 'unsupported' | 'crashed';
export interface Outcome {
  readonly name: string;
  readonly verdict: Verdict;
  readonly reason?: string;
  readonly ops: readonly string[];
}

/** Folders that hold a model. */
export const caseNames = (root: string): string[] =>
  readdirSync(root)
    .filter((name) => existsSync(join(root, name, 'model.onnx')))
    .sort();

export const readTensor = (path: string): HostTensor => tensorOf(decode('TensorProto', readFileSync(path)), path);

function readValues(folder: string, kind: 'input' | 'output', types: readonly ValueInfoProto[]): Tree<HostTensor>[] {
  const values: Tree<HostTensor>[] = [];
  for (let k = 0; ; k++) {
    const path = join(folder, `${kind}_${k}.pb`);
    if (!existsSync(path)) return values;
    values.push(readValue(types[k]?.type, readFileSync(path), path));
  }
}

/** The graph for the shapes of these inputs, and for their data where operators take parameters from them. */
export function bind(graph: Graph, inputs: readonly HostTensor[]): Graph {
  const named = graph.inputs.slice(0, inputs.length).map(({ name }, i) => [name, inputs[i]] as const);
  const shapes = Object.fromEntries(named.map(([name, { shape }]) => [name, shape]));
  return specialise(graph, { shapes, values: Object.fromEntries(named) }, resolvers);
}

const toleranceOf = ({ dtype }: HostTensor): Tolerance =>
  dtype === 'f16' || dtype === 'bf16' ? { rtol: 1e-2, atol: 1e-3 } : { rtol: 1e-3, atol: 1e-5 };

function difference(actual: Tree<HostTensor> | undefined, expected: Tree<HostTensor>): string | undefined {
  if (actual === undefined) return 'missing';
  const [some, others] = [leavesOf(actual), leavesOf(expected)];
  if ((actual === null) !== (expected === null) || isList(actual) !== isList(expected)) return 'of another kind';
  if (some.length !== others.length) return `${some.length} tensors, ${others.length} expected`;
  for (const [i, tensor] of others.entries()) {
    const { ok, reason } = compareTensors(some[i], tensor, toleranceOf(tensor));
    if (!ok) return reason;
  }
  return undefined;
}

/** Whether all inputs and outputs of a model are tensors. */
export function takesTensors(folder: string, name: string): boolean {
  const graph = decode('ModelProto', readFileSync(join(folder, name, 'model.onnx'))).graph;
  return [...(graph?.input ?? []), ...(graph?.output ?? [])].every(({ type }) => type?.tensorType !== undefined);
}

/** Runs all data sets of a case, in stages; or as the one graph that `prepare` makes of it. */
export function runCase(folder: string, name: string, prepare?: typeof bind): Outcome {
  let ops: readonly string[] = [];
  try {
    const bytes = readFileSync(join(folder, name, 'model.onnx'));
    const proto = decode('ModelProto', bytes).graph;
    ops = [...new Set(proto?.node.map((node) => node.opType ?? '') ?? [])];
    const graph = importOnnx(bytes, {});
    const initialised = new Set(proto?.initializer.map(({ name }) => name));
    const inputTypes = proto?.input.filter(({ name }) => !initialised.has(name)) ?? [];
    for (const set of readdirSync(join(folder, name)).filter((entry) => entry.startsWith('test_data_set'))) {
      const inputs = readValues(join(folder, name, set), 'input', inputTypes);
      const expected = readValues(join(folder, name, set), 'output', proto?.output ?? []);
      const named = Object.fromEntries(graph.inputs.map((input, i) => [input.name, inputs[i]]));
      const results = prepare
        ? evaluateGraph(prepare(graph, inputs as HostTensor[]), named as Record<string, HostTensor>)
        : evaluateStages(graph, named, resolvers).outputs;
      for (const [k, value] of expected.entries()) {
        const reason = difference(results.get(graph.outputs[k].name), value);
        if (reason) return { name, verdict: 'failed', reason: `${set} output ${k}: ${reason}`, ops };
      }
    }
    return { name, verdict: 'passed', ops };
  } catch (error) {
    if (error instanceof TuttiError && error.code === 'E_UNSUPPORTED') {
      return { name, verdict: 'unsupported', reason: error.message, ops };
    }
    const verdict = error instanceof TuttiError ? 'failed' : 'crashed';
    return {
      name,
      verdict,
      reason: error instanceof Error ? (verdict === 'crashed' ? error.stack : error.message) : String(error),
      ops,
    };
  }
}
