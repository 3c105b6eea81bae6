/** Boxes of outputs: what a task computes of an image. */
import { Affine } from '../../affine.js';
import type { Lowering } from '../../lowering.js';
import { range } from '../../tensors.js';
import { type ImageGeometry, rowOf } from './geometry.js';

/** Equal shares of an extent: as one, as two, … as many. */
function sharesOf(extent: number): readonly number[] {
  return [...new Set(range(extent).map((i) => Math.ceil(extent / (i + 1))))];
}

/**
 * Boxes that fit, and the smallest one in any case. Rows are whole where they fit; parts of rows are whole tiles of
 * `columns`, and so long that the last one has such a tile too.
 */
export function boxesOf(
  geometry: ImageGeometry,
  columns: number,
  fits: (box: readonly number[]) => boolean,
): readonly (readonly number[])[] {
  const { sides } = geometry;
  const width = rowOf(geometry).output;
  const hasTile = (part: number) => width % part === 0 || width % part >= columns;
  const parts = sharesOf(Math.ceil(width / columns))
    .map((tiles) => Math.min(width, tiles * columns))
    .filter(hasTile);
  const one = sides.slice(1).map(() => 1);
  const rows = sides.length > 1 && fits([...one, width]) ? [width] : parts;
  let boxes: readonly (readonly number[])[] = rows.map((part) => [part]);
  for (const { output } of sides.slice(0, -1).reverse())
    boxes = sharesOf(output).flatMap((count) => boxes.map((box) => [count, ...box]));
  const smallest = [...one, Math.min(...rows)];
  const fitting = boxes.filter(fits);
  return fitting.length > 0 ? fitting : [smallest];
}

/** First output of each side of a box. */
export const firstOf = (box: readonly number[], index: readonly Affine[]): readonly Affine[] =>
  index.map((i, d) => i.scale(box[d]));

/**
 * Runs `body` for every `columns` neighbouring outputs of a box, with where they lie in the result and in the box. The
 * last ones of a row overlap their neighbours in the same box: what is computed again is stored again.
 */
export function overBox(
  lowering: Lowering,
  { sides }: ImageGeometry,
  box: readonly number[],
  columns: number,
  first: readonly Affine[],
  body: (at: readonly Affine[], inBox: readonly Affine[]) => void,
): void {
  const { b } = lowering;
  const side = (at: readonly Affine[], inBox: readonly Affine[]): void => {
    const d = at.length;
    const { output } = sides[d];
    if (d < sides.length - 1) {
      lowering.for(0, box[d], 1, [], (i) =>
        lowering.guarded(first[d].add(i), output, (position) => side([...at, position], [...inBox, i])),
      );
      return;
    }
    lowering.for(0, Math.ceil(box[d] / columns), 1, [], (i) =>
      lowering.guarded(first[d].add(i.scale(columns)), output, (start) => {
        const position = movedBack(lowering, start, output - columns);
        const column = position.sub(first[d]);
        const isInside = column.range.min >= 0 && column.range.max <= box[d] - columns;
        // Parts of rows have a whole tile, which an interval cannot express.
        const inside = isInside ? column : Affine.of(b.clamp(column.emit(b), 0, box[d] - columns), b);
        body([...at, position], [...inBox, inside]);
      }),
    );
  };
  side([], []);
}

/** `last` where the index is beyond it. */
export function movedBack(lowering: Lowering, index: Affine, last: number): Affine {
  const { b } = lowering;
  return index.range.max <= last ? index : Affine.of(b.min(index.emit(b), b.constant(last)), b);
}
