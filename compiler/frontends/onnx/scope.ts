/** Where the nodes of a model are converted, and what names mean there. */
import { TuttiError } from '../../error.js';
import type { HostBuilder } from '../../graph/host_values.js';
import type { Value } from '../../graph/types.js';
import { isStandardDomain, supportedOpsets } from './convert.js';
import type { AttributeProto, ModelProto } from './proto.js';

/** Names of values, nested as subgraphs are. */
export class Scope {
  readonly #values = new Map<string, Value>();
  readonly #parent?: Scope;

  constructor(parent?: Scope) {
    this.#parent = parent;
  }

  get(name: string): Value | undefined {
    return this.#values.get(name) ?? this.#parent?.get(name);
  }

  hasOwn(name: string): boolean {
    return this.#values.has(name);
  }

  set(name: string, value: Value): void {
    this.#values.set(name, value);
  }
}

/** Where nodes are converted: a graph, a subgraph or the body of a function. */
export interface Frame {
  /** Of the graph; bodies of operators are graphs of their own. */
  readonly b: HostBuilder;
  readonly scope: Scope;
  /** Versions by domain. */
  readonly opsets: ReadonlyMap<string, number>;
  /** Put before node names: the nodes that lead here. */
  readonly prefix: string;
  /** Attributes of the function's caller. */
  readonly attributes?: ReadonlyMap<string, AttributeProto>;
  readonly depth: number;
}

/** Versions by domain. @throws TuttiError E_UNSUPPORTED for an opset of ai.onnx that is newer than we know */
export function opsetsOf(
  imports: ModelProto['opsetImport'],
  owner: string,
  optional = false,
): ReadonlyMap<string, number> {
  const opsets = new Map<string, number>();
  for (const { domain = '', version = 0n } of imports)
    opsets.set(isStandardDomain(domain) ? '' : domain, Number(version));
  const own = opsets.get('');
  if (own === undefined) {
    if (optional || opsets.size > 0) return opsets;
    throw new TuttiError('E_MODEL_FORMAT', `${owner} imports no opset`, {
      remedy: 'The file may be truncated or of another format',
    });
  }
  if (own < 1 || own > supportedOpsets.max) {
    throw new TuttiError('E_UNSUPPORTED', `opset ${own} of ${owner} is not supported`, {
      expected: `${supportedOpsets.min} to ${supportedOpsets.max}`,
      found: String(own),
      remedy: 'Convert the model to a supported opset, for instance with onnx.version_converter',
    });
  }
  return opsets;
}
