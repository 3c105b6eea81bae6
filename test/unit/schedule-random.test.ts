// Every op with random attributes, shapes and types: what the scheduler makes of it equals the reference evaluation,
// on a target of each style and after legalisation to the minimum specification of a GPU.
import fc from 'fast-check';
import { describe, test } from 'vitest';
import { compareTensors } from '../../compiler/compare.js';
import { isFloat, isMiniFloat } from '../../compiler/dtype.js';
import { TuttiError } from '../../compiler/error.js';
import { evaluateGraph } from '../../compiler/graph/evaluate.js';
import { definitionOf } from '../../compiler/graph/ops/index.js';
import { cast } from '../../compiler/graph/ops/reference/elementwise.js';
import type { Graph } from '../../compiler/graph/types.js';
import { legalize } from '../../compiler/kernel/legalize.js';
import type { Target } from '../../compiler/kernel/target.js';
import { verify } from '../../compiler/kernel/verify.js';
import { decompose } from '../../compiler/passes/decompose.js';
import { widen } from '../../compiler/passes/widen.js';
import type { HostTensor } from '../../compiler/tensor.js';
import { sizeOf } from '../../compiler/tensor.js';
import { caseKinds, chooserOf, graphOf, inputsOf, type NodeCase, randomCase } from '../support/graph_cases.js';
import { runGroups } from '../support/run_groups.js';
import { minimumTarget, testTargets } from '../support/targets.js';

const runs = 60;
const targets: readonly (readonly [string, Target])[] = [...Object.entries(testTargets), ['minimum', minimumTarget]];

function tolerance({ dtype }: HostTensor): { rtol: number; atol: number } {
  if (dtype === 'f16') return { rtol: 4e-3, atol: 2e-3 };
  if (dtype === 'bf16') return { rtol: 3e-2, atol: 2e-2 };
  // One step of the format: kernels round f32, the reference f64. The types of blocks are only moved.
  if (dtype.startsWith('f8e4m3')) return { rtol: 0.13, atol: 2 ** -9 };
  if (dtype.startsWith('f8e5m2')) return { rtol: 0.26, atol: 2 ** -16 };
  if (isMiniFloat(dtype)) return { rtol: 0, atol: 0 };
  return dtype === 'f64' ? { rtol: 1e-9, atol: 1e-9 } : { rtol: 1e-4, atol: 1e-5 };
}

/** Kernels know no strings; empty tensors need none. */
function isComputed(graph: Graph): boolean {
  const values = [...graph.inputs, ...graph.nodes.flatMap((node) => node.outputs)];
  return values.every(({ type }) => type.dtype !== 'string' && sizeOf(type.shape as readonly number[]) > 0);
}

/** Small floats by their values, which are compared exactly otherwise. */
const comparable = (x: HostTensor): HostTensor => (isMiniFloat(x.dtype) ? cast(x, 'f32', { saturate: false }) : x);

function check(graph: Graph, inputs: ReadonlyMap<string, HostTensor>, target: Target): void {
  const expected = evaluateGraph(graph, inputs);
  const legal = (kernel: Parameters<typeof legalize>[0]) => {
    const result = legalize(kernel, target);
    verify(result, { stage: 'legal', target });
    return result;
  };
  const { outputs } = runGroups(widen(decompose(graph)), target, Object.fromEntries(inputs), legal);
  for (const [name, tensor] of expected) {
    const actual = comparable(outputs.get(name) as HostTensor);
    const { ok, reason } = compareTensors(actual, comparable(tensor), tolerance(tensor));
    if (!ok) throw new Error(`${name} ${tensor.dtype}[${tensor.shape.join(', ')}]: ${reason}`);
  }
}

const describeCase = ({ kind, attrs, inputs }: NodeCase): string =>
  `${kind} ${JSON.stringify(attrs)} of ${inputs.map((x) => `${x.dtype}[${x.shape.join(', ')}] ${x.data}`).join('; ')}`;

for (const [style, target] of targets) {
  describe(style, () => {
    for (const kind of caseKinds) {
      const { family } = definitionOf(kind);
      // Loops are planned as a whole: scan.test.ts.
      if (family === 'host' || family === 'loop') continue;
      test(kind, () => {
        fc.assert(
          fc.property(fc.gen(), (g) => {
            const node = randomCase(chooserOf(g), kind);
            const graph = graphOf(node);
            if (!isComputed(graph)) return;
            // Interpolated integers are truncated: a rounding error in f32 is a step.
            if (kind === 'resize' && !isFloat(node.inputs[0].dtype)) return;
            // Transcendental functions of large arguments and NaN from overflow are the business of math.test.ts.
            if (kind === 'pow' && isFloat(node.inputs[0].dtype)) return;
            try {
              check(graph, inputsOf(node), target);
            } catch (error) {
              if (error instanceof TuttiError && error.code === 'E_UNSUPPORTED') return;
              throw new Error(`${describeCase(node)}: ${(error as Error).message}`, { cause: error });
            }
          }),
          { numRuns: runs },
        );
      });
    }
  });
}
