/** Pooling: maxima, means and p-norms of windows, whole-image forms and unpooling. */
import {
  add,
  binary,
  binaryC,
  cast,
  div,
  full,
  mean,
  mul,
  reduce,
  reshape,
  scalar,
  scatterElements,
  sub,
  unary,
  wide,
} from '../../../graph/compose/index.js';
import { addDims, type Dim, isConcrete, productOf } from '../../../graph/dims.js';
import type { Value, Window } from '../../../graph/types.js';
import { sizeOf } from '../../../tensor.js';
import type { Conversion, ConvertContext } from '../context.js';
import { ceilWindow, overAll, spatial, windowOf } from './windows.js';

interface Pool {
  readonly dims: readonly Dim[];
  readonly kernel: readonly number[];
  readonly window: Window;
}

function poolOf(c: ConvertContext, x = c.input(0)): Pool {
  const dims = spatialDims(c, x);
  const kernel = c.ints('kernel_shape') ?? c.fail('kernel_shape is missing');
  if (kernel.length !== dims.length) c.fail('wrong length of kernel_shape', String(dims.length), String(kernel.length));
  return { dims, kernel, window: ceilWindow(c, windowOf(c, dims, kernel), dims, kernel) };
}

const spatialDims = (c: ConvertContext, { type: { shape } } = c.input(0)): readonly Dim[] =>
  shape.length >= 3 ? shape.slice(2) : c.fail('wrong rank', '[N, C, …spatial]', `${shape.length} axes`);

const spatialAxes = (c: ConvertContext): readonly number[] => spatialDims(c).map((_, i) => i + 2);

const windowSum = (c: ConvertContext, x: Value, { window, kernel }: Pool): Value =>
  c.op('reduce_window', [x], { fn: 'sum', ...overAll(window, kernel) });

function maxPool(c: ConvertContext): readonly (Value | undefined)[] {
  const { dims, kernel, window } = poolOf(c);
  const all = overAll(window, kernel);
  const values = c.op('reduce_window', [c.input(0)], { fn: 'max', ...all });
  if (!c.wants(1)) return [values];
  const flat = c.op('window_argmax', [c.input(0)], all);
  return [values, c.flag('storage_order') ? columnMajor(c, flat, dims) : flat];
}

/** Row-major flat indices as indices whose spatial part counts the first axis fastest. */
function columnMajor(c: ConvertContext, flat: Value, dims: readonly Dim[]): Value {
  const sizes = c.concreteDims(dims);
  const i64 = (value: number) => scalar(c.b, value, 'i64');
  let rest = binary(c.b, 'rem', flat, i64(sizeOf(sizes)));
  let result = sub(c.b, flat, rest);
  for (let axis = sizes.length - 1; axis >= 0; axis--) {
    const place = binary(c.b, 'rem', rest, i64(sizes[axis]));
    result = add(c.b, result, mul(c.b, place, i64(sizeOf(sizes.slice(0, axis)))));
    rest = div(c.b, rest, i64(sizes[axis]));
  }
  return result;
}

/** Means of windows over `of` [N, C, …spatial]. */
export function averagePool(c: ConvertContext, of = c.input(0)): Value {
  const pool = poolOf(c, of);
  const { dims, kernel, window } = pool;
  const explicit = windowOf(c, dims, kernel);
  return wide(c.b, of, (x) => {
    const sum = windowSum(c, x, pool);
    const included = c.flag('count_include_pad');
    const positive = (pads: readonly Dim[]) => pads.some((p) => typeof p !== 'number' || p > 0);
    // High pads beyond the explicit ones come from ceil_mode and never count.
    const beyond = window.padHigh.some((p, i) => p !== explicit.padHigh[i] && Number(p) > Number(explicit.padHigh[i]));
    if (included ? !beyond : !positive(window.padLow) && !positive(window.padHigh)) {
      return binaryC(c.b, 'div', sum, sizeOf(kernel));
    }
    const counted = included ? dims.map((d, i) => addDims(addDims(d, explicit.padLow[i]), explicit.padHigh[i])) : dims;
    const places: Window = !included
      ? window
      : {
          ...window,
          padLow: dims.map(() => 0),
          padHigh: window.padHigh.map((p, i) => Number(p) - Number(explicit.padHigh[i])),
        };
    const ones = full(c.b, 1, x.type.dtype, [1, 1, ...counted]);
    const count = windowSum(c, ones, { ...pool, window: places });
    const known = isConcrete(count.type.shape) ? c.b.tensorOf(count) : undefined;
    return div(c.b, sum, known === undefined ? count : c.b.constant(known));
  });
}

/** (Σ |x|^p)^(1/p). */
const norm = (c: ConvertContext, x: Value, total: (x: Value) => Value): Value => {
  const p = c.operator.attrs.p === undefined ? 2 : c.float('p');
  return wide(c.b, x, (v) => {
    const size = unary(c.b, 'abs', v);
    if (p === 1) return total(size);
    if (p === 2) return unary(c.b, 'sqrt', total(mul(c.b, v, v)));
    return binaryC(c.b, 'pow', total(binaryC(c.b, 'pow', size, p)), 1 / p);
  });
};

/** Values go to the flat places that MaxPool reported; all else is 0. */
function maxUnpool(c: ConvertContext): Value {
  const x = c.input(0);
  const dims = c.concreteDims(spatialDims(c));
  const kernel = spatial(c, 'kernel_shape', dims.length, 1);
  const strides = spatial(c, 'strides', dims.length, 1);
  const pads = spatial(c, 'pads', 2 * dims.length, 0);
  const pooled = dims.map((d, i) => (d - 1) * strides[i] + kernel[i] - pads[i] - pads[dims.length + i]);
  const leading = c.concreteDims(c.shape(0).slice(0, 2));
  const standard = [...leading, ...pooled];
  const shape = c.has(2) ? c.numbers(2) : standard;
  const [from, flat] = [sizeOf(standard), sizeOf(shape)];
  let indices = reshape(c.b, cast(c.b, c.input(1), 'i64'), [productOf(c.shape(1))]);
  if (from !== flat) {
    // Indices count in the tensor as it was before pooling: the same coordinates in the larger output.
    const i64 = (value: number) => scalar(c.b, value, 'i64');
    let rest = indices;
    let moved: Value | undefined;
    for (let axis = standard.length - 1, stride = 1; axis >= 0; stride *= shape[axis--]) {
      const part = mul(c.b, binary(c.b, 'rem', rest, i64(standard[axis])), i64(stride));
      moved = moved === undefined ? part : add(c.b, moved, part);
      rest = div(c.b, rest, i64(standard[axis]));
    }
    indices = moved ?? indices;
  }
  const updates = reshape(c.b, x, [productOf(c.shape(0))]);
  return reshape(c.b, scatterElements(c.b, full(c.b, 0, x.type.dtype, [flat]), indices, updates, 0), shape);
}

export const pooling: readonly Conversion[] = [
  { op: 'MaxPool', since: 1, convert: maxPool },
  { op: 'AveragePool', since: 1, convert: (c) => averagePool(c) },
  {
    op: 'LpPool',
    since: 1,
    convert(c) {
      const pool = poolOf(c);
      return norm(c, c.input(0), (v) => windowSum(c, v, pool));
    },
  },
  { op: 'GlobalAveragePool', since: 1, convert: (c) => mean(c.b, c.input(0), spatialAxes(c), true) },
  { op: 'GlobalMaxPool', since: 1, convert: (c) => reduce(c.b, 'max', c.input(0), spatialAxes(c), true) },
  {
    op: 'GlobalLpPool',
    since: 1,
    convert: (c) => norm(c, c.input(0), (v) => reduce(c.b, 'sum', v, spatialAxes(c), true)),
  },
  { op: 'MaxUnpool', since: 9, convert: maxUnpool },
];
