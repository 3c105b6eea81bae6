/** The table of all ops. */
import type { OpDefinition } from '../definition.js';
import type { OpKind } from '../types.js';
import { composites } from './composites.js';
import { contraction } from './contraction.js';
import { detection } from './detection.js';
import { elementwise } from './elementwise.js';
import { host } from './host.js';
import { indexing } from './indexing.js';
import { movement } from './movement.js';
import { random } from './random.js';
import { reduction } from './reduction.js';
import { loops } from './scan.js';
import { window } from './window.js';

const definitions = {
  ...elementwise,
  ...movement,
  ...indexing,
  ...reduction,
  ...contraction,
  ...window,
  ...detection,
  ...random,
  ...composites,
  ...loops,
  ...host,
} satisfies { readonly [K in OpKind]: OpDefinition<K> };

export const opKinds = Object.keys(definitions) as readonly OpKind[];

export const isOpKind = (text: string): text is OpKind => Object.hasOwn(definitions, text);

export const definitionOf = <K extends OpKind>(kind: K): OpDefinition<K> =>
  definitions[kind] as unknown as OpDefinition<K>;
