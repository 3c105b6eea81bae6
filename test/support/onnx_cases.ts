// Cases in the layout of the ONNX backend tests (model.onnx, test_data_set_N/input_K.pb, output_K.pb), and a runner
// that needs no device: import, specialise, evaluate on the host, compare.
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { compareTensors, type Tolerance } from '../../compiler/compare.js';
import { TuttiError } from '../../compiler/error.js';
import { decode, importOnnx, tensorOf } from '../../compiler/frontends/onnx/index.js';
import { resolvers } from '../../compiler/frontends/resolvers.js';
import { evaluateGraph } from '../../compiler/graph/evaluate.js';
import type { Graph } from '../../compiler/graph/types.js';
import { evaluateStages } from '../../compiler/passes/evaluate_stages.js';
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

function readTensors(folder: string, kind: 'input' | 'output'): HostTensor[] {
  const tensors: HostTensor[] = [];
  for (let k = 0; existsSync(join(folder, `${kind}_${k}.pb`)); k++)
    tensors.push(readTensor(join(folder, `${kind}_${k}.pb`)));
  return tensors;
}

/** The graph for the shapes of these inputs, and for their data where operators take parameters from them. */
export function bind(graph: Graph, inputs: readonly HostTensor[]): Graph {
  const named = graph.inputs.slice(0, inputs.length).map(({ name }, i) => [name, inputs[i]] as const);
  const shapes = Object.fromEntries(named.map(([name, { shape }]) => [name, shape]));
  return specialise(graph, { shapes, values: Object.fromEntries(named) }, resolvers);
}

const toleranceOf = ({ dtype }: HostTensor): Tolerance =>
  dtype === 'f16' || dtype === 'bf16' ? { rtol: 1e-2, atol: 1e-3 } : { rtol: 1e-3, atol: 1e-5 };

/** Runs all data sets of a case, in stages; or as the one graph that `prepare` makes of it. */
export function runCase(folder: string, name: string, prepare?: typeof bind): Outcome {
  let ops: readonly string[] = [];
  try {
    const bytes = readFileSync(join(folder, name, 'model.onnx'));
    ops = [...new Set(decode('ModelProto', bytes).graph?.node.map((node) => node.opType ?? '') ?? [])];
    const graph = importOnnx(bytes, {});
    for (const set of readdirSync(join(folder, name)).filter((entry) => entry.startsWith('test_data_set'))) {
      const inputs = readTensors(join(folder, name, set), 'input');
      const expected = readTensors(join(folder, name, set), 'output');
      const named = Object.fromEntries(graph.inputs.map((input, i) => [input.name, inputs[i]]));
      const results = prepare
        ? evaluateGraph(prepare(graph, inputs), named)
        : evaluateStages(graph, named, resolvers).outputs;
      for (const [k, tensor] of expected.entries()) {
        const actual = results.get(graph.outputs[k].name) as HostTensor;
        const { ok, reason } = compareTensors(actual, tensor, toleranceOf(tensor));
        if (!ok) return { name, verdict: 'failed', reason: `${set} output ${k}: ${reason}`, ops };
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
