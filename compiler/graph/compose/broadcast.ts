/** Numpy's broadcasting. */
import type { GraphBuilder } from '../builder.js';
import { type Dim, printShape, shapeEquals } from '../dims.js';
import type { Value } from '../types.js';
import { fail, one } from './append.js';

/** Numpy's broadcasting of two shapes; of two unequal expressions the first is taken. @throws TuttiError E_SHAPE */
export function broadcastShapes(b: GraphBuilder, x: readonly Dim[], y: readonly Dim[]): Dim[] {
  const rank = Math.max(x.length, y.length);
  return Array.from({ length: rank }, (_, i) => {
    const p = x[i - rank + x.length] ?? 1;
    const q = y[i - rank + y.length] ?? 1;
    if (p === 1) return q;
    if (q === 1) return p;
    if (typeof p === 'number' && typeof q === 'number' && p !== q) {
      fail(b, 'shapes do not broadcast together', printShape(x), printShape(y));
    }
    return typeof q === 'number' ? q : p;
  });
}

/** Repeats axes of size 1 and adds axes in front. */
export function broadcastTo(b: GraphBuilder, x: Value, shape: readonly Dim[]): Value {
  return shapeEquals(x.type.shape, shape) ? x : one(b, 'broadcast', [x], { shape });
}

/** Brings values to their common broadcast shape. */
export function broadcastAll(b: GraphBuilder, ...values: readonly Value[]): Value[] {
  const shape = values.map((value) => value.type.shape).reduce((p, q) => broadcastShapes(b, p, q));
  return values.map((value) => broadcastTo(b, value, shape));
}
