/**
 * Inputs that are sequences or optionals: which tensors they are made of in a run. Each tensor in one counts as an
 * input of its own, named `<input>.<place>`.
 */
import { TuttiError } from '../error.js';
import type { Graph, Value } from '../graph/types.js';
import { leavesOf, type Tree } from './mapped.js';

/** Number of tensors in each input that is a container; null for an optional without content. */
export type Lengths = Readonly<Record<string, number | null>>;

/** Names of the tensors in an input, as the input holds them. @throws TuttiError E_INPUT if its length is not given */
export function namesIn({ name, type }: Value, lengths: Lengths): Tree<string> {
  const { container } = type;
  if (container === undefined) return name;
  const length = lengths[name];
  const all = (count: number): readonly string[] => Array.from({ length: count }, (_, i) => `${name}.${i}`);
  if (length === undefined) {
    throw new TuttiError('E_INPUT', `it is not known what the ${container.replace('_', ' ')} input ${name} holds`, {
      subject: name,
      expected: container === 'sequence' ? 'its tensors' : 'its content, or null for none',
    });
  }
  if (length === null && container === 'sequence') {
    throw new TuttiError('E_INPUT', 'a sequence cannot be absent', {
      subject: name,
      expected: 'a list',
      found: 'null',
    });
  }
  if (length === null) return null;
  if (container !== 'optional') return all(length);
  if (length === 1) return `${name}.0`;
  throw new TuttiError('E_INPUT', 'an optional tensor holds one tensor or none', {
    subject: name,
    found: String(length),
  });
}

/** Tensors by name, those in containers under names of their own, and how many there are in each container. */
export interface FlatInputs<T> {
  readonly tensors: Readonly<Record<string, T>>;
  readonly lengths: Lengths;
}

/** The tensors in what is given for the inputs of a graph, by the names that `namesIn` gives them. */
export function flattenInputs<T>(
  graph: Pick<Graph, 'inputs'>,
  given: Readonly<Record<string, Tree<T>>>,
): FlatInputs<T> {
  const tensors: Record<string, T> = {};
  const lengths: Record<string, number | null> = {};
  for (const { name, type } of graph.inputs) {
    const tree = given[name];
    if (tree === undefined) continue;
    const leaves = leavesOf(tree);
    if (type.container === undefined) [tensors[name]] = leaves;
    else {
      lengths[name] = tree === null ? null : leaves.length;
      leaves.forEach((leaf, i) => {
        tensors[`${name}.${i}`] = leaf;
      });
    }
  }
  return { tensors, lengths };
}
