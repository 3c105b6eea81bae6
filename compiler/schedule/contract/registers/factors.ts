/** The lhs of a register tile: factors of its rows, read as the operand or its packed form allows. */
import type { KValue, Lanes } from '../../../kernel/types.js';
import { Affine, delinearize } from '../../affine.js';
import { range } from '../../tensors.js';
import type { Reading } from '../packing.js';
import { limited, sharedPieces } from '../sharing.js';
import { vector } from '../tiling.js';
import { operandVector } from './columns.js';
import type { Form, Place } from './form.js';

export interface FactorsOptions {
  /** The lhs is a constant [batch][row tile][k][rows]. */
  readonly packed: boolean;
  readonly reading: Reading;
  /** Invocations that read factors for each other; 1 where each reads its own. */
  readonly sharing: number;
}

export class Factors {
  readonly #form: Form;
  readonly #packed: boolean;
  readonly #reading: Reading;
  readonly #sharing: number;

  constructor(form: Form, { packed, reading, sharing }: FactorsOptions) {
    this.#form = form;
    this.#packed = packed;
    this.#reading = reading;
    this.#sharing = sharing;
  }

  /** `count` steps of k from `step`: [count][rows] factors of the lhs. */
  of({ batch, tileM }: Place, step: Affine, count: number): KValue[][] {
    const { lowering } = this.#form;
    const { b } = lowering;
    const { lhs, m, k, lhsBatch } = this.#form.contraction;
    const { rows } = this.#form.tile;
    const steps = (element: (u: number, r: number) => KValue): KValue[][] =>
      range(count).map((u) => range(rows).map((r) => element(u, r)));
    if (this.#packed) {
      const buffer = lowering.buffer(lhs.value);
      if (!buffer) throw new Error('the packed lhs is not bound');
      const from = lhsBatch(batch)
        .scale(Math.ceil(m / rows))
        .add(tileM)
        .scale(k)
        .add(step)
        .scale(rows);
      const fits = (width: number) => (count * rows) % width === 0 && from.divisor() % width === 0;
      const width = ([4, 2, 1] as const).find(fits) as Lanes;
      const pieces = this.#pieces((count * rows) / width, width, (piece) =>
        b.load(buffer, from.add(piece.scale(width)).emit(b), width, true),
      );
      return steps((u, r) => pieces(Math.floor((u * rows + r) / width), (u * rows + r) % width));
    }
    const first = tileM.scale(rows);
    if (this.#reading === 'along-k' && count === vector) {
      const pieces = this.#pieces(rows, vector, (r) => {
        const row = limited(lowering, first.add(r), m - 1);
        return operandVector(lowering, lhs, batch, row, step.add(Affine.lane(vector)));
      });
      return steps((u, r) => pieces(r, u));
    }
    if (this.#reading === 'along-row' && rows % vector === 0) {
      const across = rows / vector;
      const pieces = this.#pieces(count * across, vector, (piece) => {
        const [u, i] = delinearize(piece, [count, across]);
        const row = limited(lowering, first.div(vector).add(i), m / vector - 1).scale(vector);
        return operandVector(lowering, lhs, batch, row.add(Affine.lane(vector)), step.add(u));
      });
      return steps((u, r) => pieces(u * across + Math.floor(r / vector), r % vector));
    }
    const pieces = this.#pieces(count * rows, 1, (piece) => {
      const [u, r] = delinearize(piece, [count, rows]);
      return lhs.element(lowering, batch, limited(lowering, first.add(r), m - 1), step.add(u), 1);
    });
    return steps((u, r) => pieces(u * rows + r, 0));
  }

  #pieces(count: number, lanes: Lanes, load: (piece: Affine) => KValue): (piece: number, lane: number) => KValue {
    return sharedPieces(this.#form.lowering, this.#sharing, count, lanes, load);
  }
}
