/** What the programs of row ops are written in, and the shape of the space they run over. */
import type { ReduceFn } from '../../graph/types.js';
import type { KValue, Lanes, ScalarType } from '../../kernel/types.js';
import { sizeOf } from '../../tensor.js';
import { type Affine, delinearize } from '../affine.js';
import type { Lowering } from '../lowering.js';
import type { Index } from '../tensors.js';

export type Element = (index: Index, lanes: Lanes) => KValue;

/** One row (or a vector of rows). */
export interface Row {
  /** Lanes of a reduction's result: 1, or the number of rows that run as lanes. */
  readonly lanes: Lanes;
  /** Index into the tensor without the reduced axes. */
  readonly index: Index;
  /** Combines `element` over the row, in `scalar`. */
  reduce(fn: ReduceFn, scalar: ScalarType, element: Element): KValue;
  /** Runs `visit` for all elements of the row; at the end of a row some may be visited again. */
  each(visit: (index: Index, lanes: Lanes) => void): void;
  /** Runs `body` once a row. */
  once(body: () => void): void;
  /** Memory for a value of every element, where the row fits: `each` and `reduce` may pass it on. */
  stage?(scalar: ScalarType): Stage | undefined;
}

export interface Stage {
  keep(index: Index, value: KValue): void;
  readonly kept: Element;
}

export type Program = (lowering: Lowering, row: Row) => void;

export interface Space {
  readonly shape: readonly number[];
  readonly axes: readonly number[];
  readonly rowDims: readonly number[];
  readonly rowShape: readonly number[];
  readonly axesShape: readonly number[];
  readonly rows: number;
  readonly length: number;
  /** The reduced axes are the innermost dims. */
  readonly contiguous: boolean;
  /** Elements of a row that lie side by side: those of the innermost dims that are reduced. */
  readonly run: number;
}

export function spaceOf(shape: readonly number[], axes: readonly number[]): Space {
  const sorted = [...axes].sort((a, c) => a - c);
  const rowDims = shape.map((_, d) => d).filter((d) => !sorted.includes(d));
  const axesShape = sorted.map((d) => shape[d]);
  const rowShape = rowDims.map((d) => shape[d]);
  const firstAxis = sorted[0] ?? shape.length;
  const lastRowDim = rowDims.findLast((d) => shape[d] !== 1) ?? -1;
  return {
    shape,
    axes: sorted,
    rowDims,
    rowShape,
    axesShape,
    rows: sizeOf(rowShape),
    length: sizeOf(axesShape),
    contiguous: rowDims.every((d) => d < firstAxis || shape[d] === 1),
    run: sizeOf(sorted.filter((d) => d > lastRowDim).map((d) => shape[d])),
  };
}

/** Index of an element from its row and its place in the row. */
export function elementIndex(space: Space, rowIndex: Index, place: Affine): Index {
  const inner = delinearize(place, space.axesShape);
  const index: Affine[] = new Array<Affine>(space.shape.length);
  space.rowDims.forEach((d, i) => {
    index[d] = rowIndex[i];
  });
  space.axes.forEach((d, i) => {
    index[d] = inner[i];
  });
  return index;
}
