/** From sums in shared memory to results: the invocations of a subgroup pick up vectors, any epilogue follows. */
import type { KArray, KBuffer, KValue, Lanes } from '../../../kernel/types.js';
import { Affine, delinearize } from '../../affine.js';
import type { Group } from '../../group.js';
import type { Lowering } from '../../lowering.js';
import type { Contraction, Place } from '../contraction.js';
import { finish } from '../finish.js';
import { vector } from '../tiling.js';
import type { Product } from './operands.js';

export interface ResultContext {
  readonly lowering: Lowering;
  readonly group: Group;
  readonly contraction: Contraction;
  readonly product: Product;
  /** The buffer of the product's correction. */
  readonly correction?: KBuffer;
  readonly subgroup: number;
  /** Number of the invocation within its subgroup. */
  readonly lane: Affine;
}

/** Sums of rows × width, from element `base` of `memory` on, for the results from row and column on. */
export interface SumBlock {
  readonly memory: KArray;
  readonly base: Affine;
  readonly pitch: number;
  readonly rows: number;
  readonly width: number;
  readonly batch: Affine;
  readonly row: Affine;
  readonly column: Affine;
}

/** Lanes of the vectors in which results are written. */
export const resultLanes = ({ n }: Contraction): Lanes => (n % vector === 0 ? vector : 1);

/** Writes the results that exist of a block that one subgroup put down. */
export function pickUp(context: ResultContext, block: SumBlock): void {
  const { lowering, group, contraction, subgroup, lane } = context;
  const { b } = lowering;
  const { m, n } = contraction;
  const { memory, base, pitch, rows, width, batch } = block;
  const lanes = resultLanes(contraction);
  const perRow = width / lanes;
  lowering.for(0, Math.ceil((rows * perRow) / subgroup), 1, [], (trip) => {
    lowering.guarded(trip.scale(subgroup).add(lane), rows * perRow, (piece) => {
      const [r, c] = delinearize(piece, [rows, perRow]);
      lowering.guarded(block.row.add(r), m, (row) =>
        lowering.guarded(block.column.div(lanes).add(c), n / lanes, (column) => {
          const place = { batch, m: row, n: column.scale(lanes).add(Affine.lane(lanes)) };
          const sum = b.load(memory, base.add(r.scale(pitch)).add(c.scale(lanes)).emit(b), lanes, true);
          finish(lowering, group, contraction, place, corrected(context, sum, place, lanes), lanes);
        }),
      );
    });
  });
}

/** Sums of integers without what their zero points contributed. */
function corrected(
  { lowering, product, correction }: ResultContext,
  sum: KValue,
  { batch, m, n }: Omit<Place, 'k'>,
  lanes: Lanes,
): KValue {
  if (!product.correction || !correction) return sum;
  const { b } = lowering;
  const { along } = product.correction;
  const side = along === 'm' ? product.lhs : product.rhs;
  const at = side.batchOf(batch).scale(side.rows);
  if (along === 'm') return b.add(sum, lowering.widen(b.load(correction, at.add(m).emit(b)), lanes));
  const base = at.add(n.atLane(0));
  return b.add(sum, b.load(correction, base.emit(b), lanes, lanes > 1 && base.divisor() % lanes === 0));
}

/** Runs `put` for the one of `count` parts that `pass` counts: parts have tiles or columns of their own. */
export function choose(lowering: Lowering, pass: Affine, count: number, put: (part: number) => void): void {
  const { b } = lowering;
  const among = (from: number): void => {
    if (from === count - 1) {
      put(from);
      return;
    }
    const here = (): void => put(from);
    lowering.if(b.compare('eq', pass.emit(b), b.constant(from)), here, () => among(from + 1));
  };
  among(0);
}
