/**
 * Heads that share keys and values without the graph saying so: models repeat keys along heads before they multiply, and
 * views make that free, but each head would read them again. Where addresses do not depend on which head of a group it
 * is, the heads of a group become rows.
 */
import type { Target } from '../../kernel/target.js';
import { Affine } from '../affine.js';
import type { Group } from '../group.js';
import { Lowering } from '../lowering.js';
import { range } from '../tensors.js';
import { type Attention, keyAt, valueAt } from './attention.js';
import { mentions } from './pattern.js';

/** The attention with as many heads as share keys taken together, while there are at most `mostRows` rows. */
export function regrouped(group: Group, target: Target, attention: Attention, mostRows: number): Attention {
  const { batch, rows } = attention;
  const most = Math.min(batch, Math.floor(mostRows / rows));
  const sizes = range(most + 1).filter((size) => size > 1 && batch % size === 0);
  const size = sizes.reverse().find((candidate) => sharesKeys(group, target, attention, candidate));
  if (size === undefined) return attention;
  return {
    ...attention,
    batch: batch / size,
    rows: rows * size,
    placeOf: (at, row) => attention.placeOf(at.scale(size).add(row.div(rows)), row.mod(rows)),
  };
}

/** Whether batches of one `size`-th part each read the same keys and values. */
function sharesKeys(group: Group, target: Target, attention: Attention, size: number): boolean {
  const lowering = new Lowering(group, target);
  const { b } = lowering;
  const head = b.builtin('workgroup_id', 0, size);
  const shared = Affine.of(b.builtin('workgroup_id', 1, attention.batch / size), b);
  const batch = shared.scale(size).add(Affine.of(head, b));
  const key = Affine.of(b.builtin('workgroup_id', 2, attention.keys), b);
  keyAt(lowering, attention, batch, key, Affine.constant(0), 1);
  valueAt(lowering, attention, batch, key, Affine.constant(0), 1);
  return lowering.addresses.length > 0 && !lowering.addresses.some((address) => mentions(address, head));
}
