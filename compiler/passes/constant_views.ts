/** Parts of what a view makes of a constant: read in the constant, which need not be loaded for it. */
import { bytesOf, isPacked } from '../dtype.js';
import type { ConstantData, Node } from '../graph/types.js';
import { sizeOf } from '../tensor.js';

/** Bytes that lie side by side: below this, reading them one by one costs more than loading all. */
const shortestRun = 2048;

/** How to read parts of a view of `source`; undefined if it must be loaded. */
export function partsOfView(node: Node, source: ConstantData): ConstantData['readPart'] {
  if (source.readPart === undefined || isPacked(source.dtype)) return undefined;
  if (node.op === 'reshape') return source.readPart;
  if (node.op !== 'slice' || node.attrs.steps.some((step) => step !== 1)) return undefined;
  const { shape } = source;
  const starts = node.attrs.starts as readonly number[];
  const sizes = node.attrs.sizes as readonly number[];
  // Beyond this axis everything is taken: each of its ranges is one run.
  let axis = shape.length - 1;
  while (axis > 0 && sizes[axis] === shape[axis]) axis--;
  const inner = sizeOf(shape.slice(axis + 1));
  const run = (sizes[axis] ?? 1) * inner;
  if (bytesOf(source.dtype, run) < shortestRun) return undefined;
  /** Where run `index` begins in the source. */
  const beginOf = (index: number): number => {
    let begin = (starts[axis] ?? 0) * inner;
    let stride = inner * (shape[axis] ?? 1);
    let rest = index;
    for (let d = axis - 1; d >= 0; d--) {
      begin += (starts[d] + (rest % sizes[d])) * stride;
      rest = Math.floor(rest / sizes[d]);
      stride *= shape[d];
    }
    return begin;
  };
  return (start, into) => {
    for (let at = 0; at < into.length; ) {
      const index = Math.floor((start + at) / run);
      const within = start + at - index * run;
      const length = Math.min(run - within, into.length - at);
      source.readPart?.(beginOf(index) + within, into.subarray(at, at + length));
      at += length;
    }
  };
}
