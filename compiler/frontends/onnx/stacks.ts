/**
 * What a loop stacks, while it is under way. Iterations that are stages of their own put slices together as they go,
 * sixteen at a time: the end of a long loop is then no program of thousands of inputs, one for each length.
 */
import { concat, stack, unsqueeze } from '../../graph/compose/index.js';
import type { Value } from '../../graph/types.js';
import { leavesOf } from '../../passes/mapped.js';
import type { Saved, SourceContext } from '../../passes/source.js';

const fanIn = 16;

/** Slices in each part of a stack; single slices are parts of 1 and have no axis for it yet. */
export type Parts = readonly number[];

export interface Grown {
  readonly parts: Parts;
  /** One entry a stack. */
  readonly stacks: readonly Saved[];
}

/** Adds a slice to each stack. */
export function append(c: SourceContext, before: Grown, slices: readonly Value[], merge: boolean): Grown {
  const parts = [...before.parts, 1];
  const stacks = before.stacks.map((saved, i): Saved[] => [...leavesOf(saved), slices[i]]);
  while (merge && parts.length >= fanIn && parts.slice(-fanIn).every((size) => size === parts[parts.length - 1])) {
    const size = parts[parts.length - 1];
    parts.splice(-fanIn, fanIn, size * fanIn);
    for (const list of stacks) {
      const last = c.use(list.splice(-fanIn) as Saved) as readonly Value[];
      list.push(size === 1 ? stack(c.b, last, 0) : concat(c.b, last, 0));
    }
  }
  return { parts, stacks: stacks as readonly Saved[] };
}

/** The stacks, slices along a new first axis. There must be one slice at least. */
export const finish = (c: SourceContext, { parts, stacks }: Grown): readonly Value[] =>
  stacks.map((saved) => {
    const values = c.use(saved) as readonly Value[];
    return concat(
      c.b,
      values.map((value, i) => (parts[i] === 1 ? unsqueeze(c.b, value, [0]) : value)),
      0,
    );
  });
