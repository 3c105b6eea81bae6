/**
 * What a value of a source graph becomes when the graph is specialised: a tensor, a sequence of tensors, or an optional
 * without content. Sequences and optionals exist at this level only; the ops of the Graph IR see tensors.
 */
import type { Value } from '../graph/types.js';

export type Tree<T> = T | readonly T[] | null;
export type Mapped = Tree<Value>;

export const isList = <T>(tree: Tree<T>): tree is readonly T[] => Array.isArray(tree);

export function mapLeaves<T, U>(tree: Tree<T>, map: (leaf: T) => U): Tree<U> {
  if (tree === null) return null;
  return isList(tree) ? tree.map(map) : map(tree as T);
}

export const leavesOf = <T>(tree: Tree<T>): readonly T[] => (tree === null ? [] : isList(tree) ? tree : [tree as T]);
