/**
 * What sessions need to know of models that were read before, on disk, by where they lie: a model whose program is stored
 * is not read again. Node only. An entry holds only as long as the system says the same of the model's files.
 */
import { createHash, randomBytes } from 'node:crypto';
import { mkdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { type Dim, SymDim } from '../compiler/graph/dims.js';
import type { Value } from '../compiler/graph/types.js';
import { canonical } from './canonical.js';
import { log } from './environment.js';
import type { FileStamp, GraphSignature, ModelFile, StatedOptions } from './session_model.js';

/** A model but for its graph. */
export interface ModelDescription {
  readonly signature: GraphSignature;
  readonly nodes: number;
  readonly weightsBytes: number;
  readonly waits: boolean;
  readonly digest: string;
  readonly stated: StatedOptions;
}

type StoredDim = number | { readonly terms: SymDim['terms']; readonly constant: number };
type StoredValue = Omit<Value, 'type'> & {
  readonly type: Omit<Value['type'], 'shape'> & { shape: readonly StoredDim[] };
};
interface Stored extends Omit<ModelDescription, 'signature'> {
  readonly version: string;
  readonly stamps: readonly FileStamp[];
  readonly signature: {
    readonly name: string;
    readonly inputs: readonly StoredValue[];
    readonly outputs: readonly { readonly name: string; readonly value: StoredValue }[];
    readonly dims: readonly (readonly [string, { readonly min: number; readonly max: number }])[];
  };
}

/** Coarsest clocks of file systems, in milliseconds: those that count seconds, and others. */
const [coarse, fine] = [2000, 50];

/** To be taken before the file is read. Of a file that is not there it says so. */
export function stampOf(path: string): FileStamp {
  const info = statSync(path, { bigint: true, throwIfNoEntry: false });
  if (info === undefined) return { path: resolve(path), state: 'absent', settled: false };
  const { dev, ino, size, mtimeNs, ctimeNs } = info;
  const changed = ctimeNs > mtimeNs ? ctimeNs : mtimeNs;
  const tick = changed % 1_000_000_000n === 0n ? coarse : fine;
  return {
    path: resolve(path),
    state: [dev, ino, size, mtimeNs, ctimeNs].join(':'),
    settled: Date.now() - Number(changed / 1_000_000n) > tick,
  };
}

export class Descriptions {
  readonly #folder: string;
  readonly #version: string;

  /** @param version Of the compiler: signatures are its work. */
  constructor(folder: string, version: string) {
    this.#folder = folder;
    this.#version = version;
  }

  #path(model: string, { numerics, shapes, dims }: StatedOptions): string {
    const text = canonical([resolve(model), { numerics, shapes, dims }]);
    return join(this.#folder, `${createHash('sha256').update(text).digest('hex')}.model`);
  }

  /** @param asked What the caller says about the model now. */
  find(model: string, asked: StatedOptions): ModelDescription | undefined {
    try {
      const { version, stamps, signature, ...rest } = JSON.parse(
        readFileSync(this.#path(model, asked), 'utf8'),
      ) as Stored;
      if (version !== this.#version || stamps.length === 0) return undefined;
      if (stamps.some(({ path, state }) => stampOf(path).state !== state)) return undefined;
      const { name, inputs, outputs, dims } = signature;
      return {
        ...rest,
        signature: {
          name,
          inputs: inputs.map(restore),
          outputs: outputs.map((output) => ({ name: output.name, value: restore(output.value) })),
          dims: new Map(dims),
        },
      };
    } catch {
      return undefined;
    }
  }

  /** Nothing is noted of files that were changed just before they were read: they may have been changed again since. */
  store(file: ModelFile, { signature, ...rest }: ModelDescription): void {
    if (!file.stamps.every(({ settled }) => settled)) return;
    const { name, inputs, outputs, dims } = signature;
    const stored: Stored = {
      version: this.#version,
      stamps: file.stamps,
      signature: {
        name,
        inputs: inputs.map(flat),
        outputs: outputs.map((output) => ({ name: output.name, value: flat(output.value) })),
        dims: [...dims],
      },
      ...rest,
    };
    const path = this.#path(file.path, file.asked);
    const temporary = `${path}.${process.pid}.${randomBytes(6).toString('hex')}.tmp`;
    try {
      mkdirSync(this.#folder, { recursive: true });
      writeFileSync(temporary, JSON.stringify(stored));
      renameSync(temporary, path);
    } catch (error) {
      rmSync(temporary, { force: true });
      log('info', () => `the description of ${file.path} was not stored: ${error}`);
    }
  }
}

const flatDim = (dim: Dim): StoredDim => (typeof dim === 'number' ? dim : { terms: dim.terms, constant: dim.constant });
const flat = ({ type, ...rest }: Value): StoredValue => ({
  ...rest,
  type: { ...type, shape: type.shape.map(flatDim) },
});

const restore = ({ type, ...rest }: StoredValue): Value => ({
  ...rest,
  type: { ...type, shape: type.shape.map(restoreDim) },
});
function restoreDim(dim: StoredDim): Dim {
  if (typeof dim === 'number') return dim;
  const terms = dim.terms.map(({ coefficient, atoms }) => ({
    coefficient,
    atoms: atoms.map((atom) =>
      atom.fn === 'name'
        ? atom
        : { fn: atom.fn, a: restoreDim(atom.a as StoredDim), b: restoreDim(atom.b as StoredDim) },
    ),
  }));
  return new SymDim(terms, dim.constant);
}
