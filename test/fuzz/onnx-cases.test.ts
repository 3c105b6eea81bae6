// The ONNX node cases with their numbers replaced by extreme ones: shapes, attributes, parameters. The frontend answers
// with a graph or a TuttiError, soon.
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { TuttiError } from '../../compiler/error.js';
import { decode, encode, importOnnx, resolveOnnx } from '../../compiler/frontends/onnx/index.js';
import type { AttributeProto, GraphProto, TensorProto } from '../../compiler/frontends/onnx/proto.js';
import { specialise } from '../../compiler/passes/specialise.js';
import type { HostTensor } from '../../compiler/tensor.js';
import { onnxData } from '../support/data.js';
import { caseNames, readTensor } from '../support/onnx_cases.js';

const extremes = [
  0n,
  1n,
  -1n,
  2n,
  3n,
  -2n,
  7n,
  100n,
  -100n,
  65_536n,
  2n ** 31n - 1n,
  -(2n ** 31n),
  2n ** 40n,
  2n ** 63n - 1n,
  -(2n ** 63n),
];

/** A source of choices. */
type Random = (below: number) => number;
const extreme = (random: Random): bigint => extremes[random(extremes.length)];

function mutateAttribute(attribute: AttributeProto, random: Random): AttributeProto {
  if (attribute.i !== undefined) return { ...attribute, i: extreme(random) };
  if (attribute.f !== undefined)
    return { ...attribute, f: [0, -1, 1e30, Number.NaN, Number.POSITIVE_INFINITY][random(5)] };
  if (attribute.s !== undefined) return { ...attribute, s: new Uint8Array(random(4)).fill(65) };
  if (attribute.ints.length > 0) {
    const at = random(attribute.ints.length + 1);
    if (at === attribute.ints.length)
      return { ...attribute, ints: attribute.ints.slice(random(attribute.ints.length)) };
    return { ...attribute, ints: attribute.ints.with(at, extreme(random)) };
  }
  return attribute;
}

function mutateGraph(graph: GraphProto, random: Random): GraphProto {
  const node = graph.node[random(graph.node.length)];
  const replace = (next: Partial<typeof node>): GraphProto => ({
    ...graph,
    node: graph.node.map((other) => (other === node ? { ...node, ...next } : other)),
  });
  switch (random(6)) {
    case 0:
      if (node.attribute.length === 0) return graph;
      return replace({
        attribute: node.attribute.map((a, i) => (i === random(node.attribute.length) ? mutateAttribute(a, random) : a)),
      });
    case 1:
      return replace({ attribute: node.attribute.slice(1) });
    case 2:
      return replace({ input: node.input.slice(0, random(node.input.length + 1)) });
    case 3:
      return replace({ input: node.input.map(() => node.input[random(node.input.length)]) });
    case 4: {
      const input = graph.input[random(Math.max(1, graph.input.length))];
      const type = input?.type?.tensorType;
      const dim = type?.shape?.dim ?? [];
      if (dim.length === 0) return graph;
      const at = random(dim.length + 1);
      const shape = {
        dim: at === dim.length ? dim.slice(1) : dim.map((d, i) => (i === at ? { dimValue: extreme(random) } : d)),
      };
      const changed = { ...input, type: { ...input.type, tensorType: { ...type, shape } } };
      return { ...graph, input: graph.input.map((other) => (other === input ? changed : other)) };
    }
    default: {
      const tensor: TensorProto | undefined = graph.initializer[random(Math.max(1, graph.initializer.length))];
      if (tensor === undefined || tensor.dataType !== 7 || tensor.rawData === undefined) return graph;
      const raw = new BigInt64Array(tensor.rawData.slice().buffer);
      if (raw.length > 0) raw[random(raw.length)] = extreme(random);
      const changed = { ...tensor, rawData: new Uint8Array(raw.buffer) };
      return { ...graph, initializer: graph.initializer.map((other) => (other === tensor ? changed : other)) };
    }
  }
}

function attempt(bytes: Uint8Array, inputs: readonly HostTensor[]): void {
  try {
    const graph = importOnnx(bytes);
    const values = Object.fromEntries(graph.inputs.slice(0, inputs.length).map(({ name }, i) => [name, inputs[i]]));
    specialise(
      graph,
      { dims: Object.fromEntries([...graph.dims.keys()].map((name) => [name, 3])), values },
      new Map([['', resolveOnnx]]),
    );
  } catch (error) {
    if (!(error instanceof TuttiError)) throw error;
  }
}

describe.skipIf(onnxData.missing)('ONNX node cases with extreme numbers', () => {
  const root = join(onnxData.path, 'node');
  const names = onnxData.missing ? [''] : caseNames(root);

  it('give a graph or a TuttiError within two seconds', { timeout: 600_000 }, () => {
    const choices = fc.array(fc.nat(1_000_000), { minLength: 40, maxLength: 40 });
    fc.assert(
      fc.property(fc.constantFrom(...names), choices, fc.integer({ min: 1, max: 3 }), (name, list, count) => {
        const model = decode('ModelProto', readFileSync(join(root, name, 'model.onnx')));
        if (model.graph === undefined || model.graph.node.length === 0) return;
        let next = 0;
        const random: Random = (below) => list[next++ % list.length] % below;
        let graph = model.graph;
        for (let i = 0; i < count; i++) graph = mutateGraph(graph, random);
        const inputs: HostTensor[] = [];
        for (let k = 0; existsSync(join(root, name, 'test_data_set_0', `input_${k}.pb`)); k++) {
          try {
            const tensor = readTensor(join(root, name, 'test_data_set_0', `input_${k}.pb`));
            // Parameters that come as inputs: axes, sizes, pads.
            if (tensor.data instanceof BigInt64Array && tensor.data.length > 0 && random(2) === 0) {
              tensor.data[random(tensor.data.length)] = extreme(random);
            }
            inputs.push(tensor);
          } catch {
            break;
          }
        }
        const start = performance.now();
        attempt(encode('ModelProto', { ...model, graph }), inputs);
        expect(performance.now() - start).toBeLessThan(2000);
      }),
      // Shrinking what is slow is slower still.
      { numRuns: Number(process.env.TUTTI_FUZZ_RUNS ?? 1500), endOnFailure: true },
    );
  });
});
