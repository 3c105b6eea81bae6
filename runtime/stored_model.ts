/** Models for sessions: by what is stored of them where that is enough, else by reading them. */
import { TuttiError } from '../compiler/error.js';
import type { Graph } from '../compiler/graph/types.js';
import type { CompileOptions, ModelSource } from './api.js';
import type { ModelDescription } from './descriptions.js';
import { isNode } from './environment.js';
import { type ModelOrigin, SessionModel, type StatedOptions } from './session_model.js';

/**
 * As `compile`, but a file whose content is known is not read before its graph is needed.
 * @throws TuttiError as `compile`; for a file that is known, what reading it throws comes from `load`
 */
export async function openModel(source: ModelSource, options: CompileOptions = {}): Promise<SessionModel> {
  if (isNode() && options.dump === undefined && (typeof source === 'string' || source instanceof URL)) {
    const { descriptions, pathOf } = await import('./node.js');
    const path = pathOf(source);
    const description = descriptions().find(path, options);
    if (description !== undefined) return new StoredModel(path, options, description);
  }
  const { compile } = await import('./model.js');
  return compile(source, options);
}

class StoredModel extends SessionModel {
  readonly #path: string;
  readonly #asked: StatedOptions;
  readonly #description: ModelDescription;
  #graph: Promise<Graph> | undefined;

  constructor(path: string, asked: StatedOptions, description: ModelDescription, now = description.stated) {
    super(description.signature, now);
    this.#path = path;
    this.#asked = asked;
    this.#description = description;
  }

  get nodes(): number {
    return this.#description.nodes;
  }

  get weightsBytes(): number {
    return this.#description.weightsBytes;
  }

  get waits(): boolean {
    return this.#description.waits;
  }

  get origin(): ModelOrigin {
    return { digest: () => this.#description.digest };
  }

  /** @throws TuttiError also E_IO, if the file is no longer what it was: programs of two models must not mix */
  load(): Promise<Graph> {
    this.#graph ??= this.#read();
    return this.#graph;
  }

  async #read(): Promise<Graph> {
    const { compile } = await import('./model.js');
    const { graph, origin } = await compile(this.#path, this.#asked);
    if (origin?.digest() === this.#description.digest) return graph;
    throw new TuttiError('E_IO', 'the file was changed while the model was in use', {
      subject: this.#path,
      remedy: 'Create the session anew.',
    });
  }

  override with(options: StatedOptions): StoredModel {
    return new StoredModel(this.#path, this.#asked, this.#description, this.merged(options));
  }
}
