/**
 * Which form of a group is taken: the first of those that are legal, by estimated cost unless somebody knows better.
 * Forms were measured for groups of a signature: everything that decides how fast a kernel is, and nothing else.
 */
import { createSha256, sha256 } from '../artifact/sha256.js';
import type { Node, Value } from '../graph/types.js';
import type { Schedule } from './contract/index.js';
import type { Group } from './group.js';

/** Puts the forms of a group in order, best first. What is left out is not taken. */
export type Prefer = (group: Group, forms: readonly Schedule[]) => readonly Schedule[];

/** Names of measured forms come first, by signature; what is not among the legal forms changes nothing. */
export const preferring =
  (chosen: ReadonlyMap<string, string>): Prefer =>
  (group, forms) => {
    const name = chosen.size === 0 ? undefined : chosen.get(signatureOf(group));
    const measured = forms.find((form) => form.name === name);
    return measured === undefined ? forms : [measured, ...forms.filter((form) => form !== measured)];
  };

/** Equal for groups that compute the same on tensors of the same types, whatever their names and data. */
export function signatureOf(group: Group): string {
  const numbers = new Map<number, number>();
  const number = ({ id }: Value): string => {
    const known = numbers.get(id) ?? numbers.size;
    numbers.set(id, known);
    return `%${known}`;
  };
  const typed = (value: Value): string => `${number(value)} ${value.type.dtype}[${value.type.shape.join()}]`;
  const kindOf = (value: Value): string =>
    group.scalars.has(value.id) ? 'scalar' : group.constants.has(value.id) ? 'constant' : 'memory';
  const operand = (value: Value): string =>
    numbers.has(value.id) ? number(value) : `${typed(value)} ${kindOf(value)}`;
  const lines = group.nodes.map((node) =>
    [
      node.outputs.map(typed).join(),
      node === group.anchor ? `=* ${node.op}` : `= ${node.op}`,
      attributesOf(node),
      node.inputs.map(operand).join(),
    ].join(' '),
  );
  const homes = [...group.reads, ...group.writes].map((value) => (group.loop?.homes.has(value.id) ? 'slice' : ''));
  const text = [group.family, ...lines, group.writes.map(number).join(), homes.join()].join('\n');
  return sha256(new TextEncoder().encode(text), createSha256).slice(0, 32);
}

/** Dims and big integers as they print. */
const attributesOf = (node: Node): string =>
  JSON.stringify(node.attrs, (_, value: unknown) =>
    typeof value === 'bigint' || (typeof value === 'object' && value !== null && 'terms' in value)
      ? String(value)
      : value,
  );
