/** What every form of a contraction does with finished sums: the result, its epilogue, and the store. */
import type { KValue, Lanes } from '../../kernel/types.js';
import type { Affine } from '../affine.js';
import { type Group, resultIndex } from '../group.js';
import type { Lowering } from '../lowering.js';
import type { Contraction } from './contraction.js';

/** Nodes of epilogues that may be written out for every vector of a tile. */
export const unrolledStores = 64;

/** Epilogue and store of one finished vector of sums. */
export function finish(
  lowering: Lowering,
  group: Group,
  contraction: Contraction,
  place: { batch: Affine; m: Affine; n: Affine },
  sum: KValue,
  lanes: Lanes,
): void {
  const [result] = contraction.node.outputs;
  const [output] = group.writes;
  lowering.define(result, () => sum);
  const index = resultIndex(group, contraction.result(place));
  lowering.store(output, index, lowering.value(output, index, lanes), lanes);
}
