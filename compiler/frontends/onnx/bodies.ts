/** What the operators with bodies share: their graphs, their inputs and how they complain. */
import { TuttiError } from '../../error.js';
import { isGraph } from '../../graph/attributes.js';
import { describe } from '../../graph/builder.js';
import type { Graph, NodeOf, Value } from '../../graph/types.js';
import { isList } from '../../passes/mapped.js';
import type { SourceContext } from '../../passes/source.js';

type SourceNode = NodeOf<'source_op'>;

/** @throws TuttiError E_MODEL_INVALID */
export function bodyOf(node: SourceNode, name: string): Graph {
  const body = node.attrs.attrs[name];
  return isGraph(body) ? body : invalid(node, `attribute ${name} is missing or no graph`);
}

export function invalid(node: SourceNode, message: string, expected?: string, found?: string): never {
  throw new TuttiError('E_MODEL_INVALID', message, { subject: describe(node.source), expected, found });
}

/** Checks the number of inputs of a body against what it will be given. */
export function checkBody(node: SourceNode, body: Graph, given: number, results?: number): void {
  if (body.inputs.length !== given) {
    invalid(node, 'the body takes another number of inputs', `${given}`, `${body.inputs.length}`);
  }
  if (results !== undefined && body.outputs.length !== results) {
    invalid(node, 'the body gives another number of results', `${results}`, `${body.outputs.length}`);
  }
}

/** Input `i` as a tensor. */
export function tensorAt({ inputs, node }: SourceContext, i: number): Value {
  const mapped = inputs[i];
  if (mapped === undefined || mapped === null || isList(mapped)) return invalid(node, `input ${i} must be a tensor`);
  return mapped as Value;
}
