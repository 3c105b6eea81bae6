/** What a group computes, without names and data: groups of one structure differ in those alone. */
import type { Node, Value } from '../graph/types.js';
import type { Group } from './group.js';

export interface Structure {
  readonly text: string;
  /** The group's values in the order in which the text counts them: those at one place correspond. */
  readonly values: readonly Value[];
}

export function structureOf(group: Group): Structure {
  const values = new Map<number, Value>();
  const places = new Map<number, number>();
  const number = (value: Value): string => {
    let place = places.get(value.id);
    if (place === undefined) {
      place = places.size;
      places.set(value.id, place);
      values.set(place, value);
    }
    return `%${place}`;
  };
  const typed = (value: Value): string => `${number(value)} ${value.type.dtype}[${value.type.shape.join()}]`;
  const kindOf = ({ id }: Value): string =>
    group.scalars.has(id) ? 'scalar' : group.constants.has(id) ? 'constant' : 'memory';
  const operand = (value: Value): string => (places.has(value.id) ? number(value) : `${typed(value)} ${kindOf(value)}`);
  const lines = group.nodes.map((node) => {
    const results = node.outputs.map(typed).join();
    const mark = node === group.anchor ? '=*' : '=';
    return `${results} ${mark} ${node.op} ${attributesOf(node)} ${node.inputs.map(operand).join()}`;
  });
  const place = (value: Value): string =>
    `${operand(value)}${group.loop?.homes.has(value.id) ? ' slice' : ''}${group.loop?.numbers.has(value.id) ? ' number' : ''}`;
  const borders = [group.reads, group.writes, group.sides].map((list) => list.map(place).join());
  return { text: [group.family, ...lines, ...borders].join('\n'), values: [...values.values()] };
}

/** Dims and big integers as they print. */
const attributesOf = (node: Node): string =>
  JSON.stringify(node.attrs, (_, value: unknown) =>
    typeof value === 'bigint' || (typeof value === 'object' && value !== null && 'terms' in value)
      ? String(value)
      : value,
  );
