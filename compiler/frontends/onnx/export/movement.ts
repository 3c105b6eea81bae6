/** Movement of data and indexing as ONNX operators. */
import { addDims, type Dim, mulDims } from '../../../graph/dims.js';
import type { ExportContext } from './context.js';
import { big, type Conversions, cast, scalar } from './convert.js';

/** Before the first element, whatever the size. */
const lowest = -(2n ** 63n);

export const movement: Conversions<
  | 'reshape'
  | 'transpose'
  | 'broadcast'
  | 'slice'
  | 'pad'
  | 'concat'
  | 'iota'
  | 'gather'
  | 'gather_elements'
  | 'gather_nd'
  | 'scatter_elements'
  | 'scatter_nd'
> = {
  reshape: (c, { attrs: { shape } }, [x]) =>
    c.one('Reshape', [x, c.dims(shape)], {
      allowzero: shape.some((dim) => dim === 0 || typeof dim !== 'number') ? 1n : undefined,
    }),
  transpose: (c, { attrs: { permutation } }, inputs) => c.one('Transpose', inputs, { perm: big(permutation) }),
  broadcast: (c, { attrs: { shape } }, [x]) => c.one('Expand', [x, c.dims(shape)]),
  slice: (c, node, [x]) => {
    const { starts, sizes, steps } = node.attrs;
    // The end of a walk down to the first element lies before it: only the lowest number says so.
    const ends = starts.map((start, i) => (sizes[i] === 0 ? start : addDims(start, mulDims(sizes[i], steps[i]))));
    const end = ends.length === 0 ? c.ints([]) : mixedEnds(c, ends);
    return c.one('Slice', [x, c.dims(starts), end, c.ints(starts.map((_, i) => i)), c.ints(steps)]);
  },
  pad: (c, { attrs: { low, high, mode } }, inputs) =>
    c.one('Pad', [inputs[0], c.dims([...low, ...high]), ...inputs.slice(1)], { mode }),
  concat: (c, { attrs: { axis } }, inputs) => c.one('Concat', inputs, { axis: BigInt(axis) }),

  iota: (c, { attrs: { dtype, shape, axis } }) => {
    const limit = c.one('Reshape', [c.dims([shape[axis]]), c.ints([])]);
    const count = c.one('Range', [scalar(c, 0, 'i64'), limit, scalar(c, 1, 'i64')]);
    const placed = c.one('Reshape', [count, c.dims(shape.map((dim, i) => (i === axis ? dim : 1)))], { allowzero: 1n });
    return cast(c, c.one('Expand', [placed, c.dims(shape)]), 'i64', dtype);
  },
  gather: (c, { attrs: { axis } }, inputs) => c.one('Gather', inputs, { axis: BigInt(axis) }),
  gather_elements: (c, { attrs: { axis } }, inputs) => c.one('GatherElements', inputs, { axis: BigInt(axis) }),
  gather_nd: (c, { attrs: { batchDims } }, [x, indices]) =>
    c.one('GatherND', [x, indices], { batch_dims: BigInt(batchDims) }),
  scatter_elements: (c, { attrs: { axis, fn } }, inputs) =>
    c.one('ScatterElements', inputs, { axis: BigInt(axis), reduction: fn === 'set' ? 'none' : fn }),
  scatter_nd: (c, { attrs: { fn } }, inputs) => c.one('ScatterND', inputs, { reduction: fn === 'set' ? 'none' : fn }),
};

/** Ends of a slice, of which some may be symbolic; a negative one is before the first element. */
function mixedEnds(c: ExportContext, ends: readonly Dim[]): string {
  const place = (end: number): number | bigint => (end < 0 ? lowest : end);
  const known = ends.filter((end) => typeof end === 'number');
  if (known.length === ends.length) return c.ints(known.map(place));
  const parts = ends.map((end) => (typeof end === 'number' ? c.ints([place(end)]) : c.dims([end])));
  return parts.length === 1 ? parts[0] : c.one('Concat', parts, { axis: 0n });
}
