/** Order of a graph's nodes: as given where that is valid, else sorted so that values come before their uses. */
import { TuttiError } from '../../error.js';
import type { GraphProto, NodeProto } from './proto.js';

export const nodeName = (node: NodeProto, index: number): string => node.name || `${node.opType ?? 'node'}_${index}`;

export interface PlacedNode {
  readonly node: NodeProto;
  readonly name: string;
}

const subgraphs = (node: NodeProto): GraphProto[] =>
  node.attribute.flatMap(({ g, graphs }) => (g === undefined ? [...graphs] : [g, ...graphs]));

/** Those of nodes in order that the outputs need: what is wrong with the others does not matter. */
export function liveNodes(ordered: readonly PlacedNode[], outputs: Iterable<string>): readonly PlacedNode[] {
  const needed = new Set(outputs);
  const live: PlacedNode[] = [];
  for (let i = ordered.length - 1; i >= 0; i--) {
    const { node } = ordered[i];
    if (!node.output.some((name) => name !== '' && needed.has(name))) continue;
    live.push(ordered[i]);
    for (const input of node.input) needed.add(input);
    for (const graph of subgraphs(node)) for (const name of freeNames(graph)) needed.add(name);
  }
  return live.reverse();
}

/** Names that a graph uses without defining them: values of enclosing graphs. The decoder bounds the nesting. */
export function freeNames(graph: GraphProto): Set<string> {
  const own = new Set([
    ...graph.input.map(({ name }) => name ?? ''),
    ...graph.initializer.map(({ name }) => name ?? ''),
    ...graph.node.flatMap(({ output }) => output),
  ]);
  const free = new Set<string>();
  const use = (name: string): void => {
    if (!own.has(name)) free.add(name);
  };
  for (const node of graph.node) {
    for (const input of node.input) use(input);
    for (const inner of subgraphs(node)) for (const name of freeNames(inner)) use(name);
  }
  for (const { name } of graph.output) use(name ?? '');
  return free;
}

/**
 * Exporters have written models that define constants twice. As ONNX Runtime has it, a later Constant node replaces an
 * earlier one of the same name, everywhere; any other name that is defined twice is ambiguous and stays an error.
 */
function withoutReplaced(nodes: readonly PlacedNode[]): readonly PlacedNode[] {
  const isConstant = ({ opType, domain, output }: NodeProto): boolean =>
    opType === 'Constant' && (domain ?? '') === '' && output.length === 1;
  const last = new Map<string, PlacedNode>();
  for (const placed of nodes) if (isConstant(placed.node)) last.set(placed.node.output[0], placed);
  return nodes.filter((placed) => !isConstant(placed.node) || last.get(placed.node.output[0]) === placed);
}

/**
 * Sorts nodes topologically and stably. `known` names exist before the first node, `taken` ones may not be defined again.
 * @throws TuttiError E_MODEL_INVALID for names defined twice, uses of undefined names and cycles
 */
export function orderNodes(
  nodes: readonly NodeProto[],
  known: (name: string) => boolean,
  taken: (name: string) => boolean,
): readonly PlacedNode[] {
  const placed = withoutReplaced(nodes.map((node, i): PlacedNode => ({ node, name: nodeName(node, i) })));
  const producer = new Map<string, number>();
  placed.forEach(({ node, name }, i) => {
    for (const output of node.output) {
      if (output === '') continue;
      if (producer.has(output) || taken(output)) {
        throw new TuttiError('E_MODEL_INVALID', `value ${output} is defined twice`, { subject: name });
      }
      producer.set(output, i);
    }
  });
  const waiting = placed.map(({ node, name }) => {
    const uses = new Set<number>();
    for (const input of node.input) {
      const from = producer.get(input);
      if (from !== undefined) uses.add(from);
      else if (input !== '' && !known(input)) {
        throw new TuttiError('E_MODEL_INVALID', `input ${input} is not defined`, {
          subject: name,
          remedy: 'Each input must be a graph input, an initialiser or the output of a node',
        });
      }
    }
    for (const graph of subgraphs(node)) {
      for (const name of freeNames(graph)) {
        const from = producer.get(name);
        if (from !== undefined) uses.add(from);
      }
    }
    return uses;
  });
  if (waiting.every((uses, i) => [...uses].every((from) => from < i))) return placed;
  const users = placed.map((): number[] => []);
  waiting.forEach((uses, i) => {
    for (const from of uses) users[from].push(i);
  });
  const open = waiting.map((uses) => uses.size);
  const ready = open.flatMap((count, i) => (count === 0 ? [i] : [])).reverse();
  const order: PlacedNode[] = [];
  for (let i = ready.pop(); i !== undefined; i = ready.pop()) {
    order.push(placed[i]);
    for (const user of users[i]) if (--open[user] === 0) ready.push(user);
  }
  if (order.length < placed.length) {
    const stuck = placed.filter((_, i) => open[i] > 0).map(({ name }) => name);
    throw new TuttiError('E_MODEL_INVALID', 'the graph has a cycle', {
      subject: stuck[0],
      found: `nodes that wait for each other: ${stuck.slice(0, 8).join(', ')}${stuck.length > 8 ? ', …' : ''}`,
    });
  }
  return order;
}
