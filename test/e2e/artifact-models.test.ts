// Every real model goes into an artifact and comes out the same: text, weights, inputs and outputs.
import { createHash } from 'node:crypto';
import { readdirSync } from 'node:fs';
import { describe, expect, it, type TestContext } from 'vitest';
import { readArtifact, writeArtifact } from '../../compiler/artifact/index.js';
import { storedBytes } from '../../compiler/artifact/safetensors.js';
import { printGraph } from '../../compiler/graph/print.js';
import type { Graph } from '../../compiler/graph/types.js';
import { compile, Model, TuttiError } from '../../index.js';
import { createHasher } from '../../runtime/node.js';
import { dataPath, modelsData } from '../support/data.js';

/** The graph as text, its weights named by what is in them. */
const contents = (graph: Graph) => {
  const weights: string[] = [];
  const text = printGraph(graph, {
    keyOf(data) {
      weights.push(createHash('sha256').update(storedBytes(data.load())).digest('hex'));
      return `weight ${weights.length}`;
    },
  });
  return { text, weights: weights.join('\n') };
};

/** Models that the importer refuses (its own tests say which) have nothing to store. */
async function load(path: string, context: TestContext): Promise<Model> {
  try {
    return await compile(path);
  } catch (error) {
    if (error instanceof TuttiError) return context.skip(error.message);
    throw error;
  }
}

const names = modelsData.missing === undefined ? readdirSync(modelsData.path, { withFileTypes: true }) : [];

describe.skipIf(modelsData.missing)('artifacts of real models', () => {
  for (const { name } of names.filter((entry) => entry.isDirectory())) {
    it(name, async (context) => {
      const model = await load(dataPath(context, modelsData, name, 'model.onnx'), context);
      const { graph: given, numerics, shapes } = model;
      const bytes = Buffer.concat([...writeArtifact({ graph: given, numerics, shapes, dims: {} }, createHasher)]);
      const { graph } = readArtifact(bytes, createHasher);
      expect(contents(graph)).toEqual(contents(given));
      const loaded = new Model(graph);
      expect([loaded.inputs, loaded.outputs]).toEqual([model.inputs, model.outputs]);
    });
  }
});
