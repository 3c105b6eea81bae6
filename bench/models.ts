/** The models that suites run: reference models of the test data, light topologies and transformers with seeded weights. */
import { copyFileSync, existsSync, mkdirSync, readdirSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { writeOutput } from '../cli/files.js';
import { exportOnnx } from '../compiler/frontends/onnx/index.js';
import { lightModelBytes, lightModels } from './light.js';
import { networks } from './networks.js';
import { root, scratchFolder } from './record.js';

/** Reference models: TUTTI_MODELS, or where the tests look for them. */
export const modelsFolder = resolve(root, process.env.TUTTI_MODELS || '../shared/models');
/** ONNX's test data: TUTTI_ONNX_DATA, or where the tests look for it. */
const onnxFolder = resolve(root, process.env.TUTTI_ONNX_DATA || '../shared/onnx');

export interface BenchModel {
  readonly name: string;
  /** Makes the file unless it is there. @returns a folder with model.onnx, perhaps with inputs */
  folder(): string;
}

/** Which weights and shapes made files are of: files of other versions are made again. */
const version = 1;

function made(name: string, write: (folder: string) => void): BenchModel {
  return {
    name,
    folder() {
      const folder = join(scratchFolder, `models-${version}`, name);
      if (!existsSync(join(folder, 'model.onnx'))) {
        mkdirSync(folder, { recursive: true });
        write(folder);
      }
      return folder;
    },
  };
}

const light = (name: (typeof lightModels)[number]): BenchModel =>
  made(name, (folder) => {
    mkdirSync(join(folder, 'test_data_set_0'), { recursive: true });
    copyFileSync(join(onnxFolder, 'light-rand', 'input_0.pb'), join(folder, 'test_data_set_0', 'input_0.pb'));
    writeOutput(join(folder, 'model.onnx'), lightModelBytes(onnxFolder, name).bytes);
  });

/** Those whose data is here. In quick runs only small ones. */
export function benchModels(quick: boolean): readonly BenchModel[] {
  const reference = existsSync(modelsFolder)
    ? readdirSync(modelsFolder)
        .filter((name) => existsSync(join(modelsFolder, name, 'model.onnx')))
        .sort()
        .map((name): BenchModel => ({ name, folder: () => join(modelsFolder, name) }))
    : [];
  const lights = existsSync(join(onnxFolder, 'light')) ? lightModels.map(light) : [];
  const built = networks(quick).map(({ name, graph }) =>
    made(name, (folder) => writeOutput(join(folder, 'model.onnx'), exportOnnx(graph()))),
  );
  if (!quick) return [...reference, ...lights, ...built];
  const small = ['mnist-cnn8', 'dtln-1', 'bert-toy'];
  return [...reference.filter(({ name }) => small.includes(name)), ...lights.slice(0, 1), ...built];
}

/** @throws if there is no such model */
export function modelNamed(name: string): BenchModel {
  const model = benchModels(false).find((candidate) => candidate.name === name);
  if (model === undefined) throw new Error(`${name} is not here; set TUTTI_MODELS and TUTTI_ONNX_DATA`);
  return model;
}
