/** Operators whose places come from data or counting: gathers, scatters, ranges, constants. */

import { isFloat } from '../../../dtype.js';
import {
  add,
  binary,
  binaryC,
  broadcastTo,
  cast,
  gather,
  gatherElements,
  gatherNd,
  iota,
  mul,
  reshape,
  scalar,
  scatterElements,
  scatterNd,
  select3,
  slice1,
  tensor,
  unsqueeze,
} from '../../../graph/compose/index.js';
import { ceilDivDims, type Dim, maxDims, productOf, subDims } from '../../../graph/dims.js';
import type { ScatterFn, Value } from '../../../graph/types.js';
import { type HostTensor, sizeOf } from '../../../tensor.js';
import type { Conversion, ConvertContext } from '../context.js';
import { dtypeOf } from '../tensors.js';

function scatterFn(c: ConvertContext): ScatterFn {
  const fn = c.choice('reduction', ['none', 'add', 'mul', 'min', 'max'], 'none');
  return fn === 'none' ? 'set' : fn;
}

const scatterAxis = (c: ConvertContext): Value =>
  scatterElements(c.b, c.input(0), c.input(1), c.input(2), c.axis(c.int('axis', 0), c.rank(0)), scatterFn(c));

/** `on` where the index along the new axis is the given one, else `off`; negative indices count from the depth. */
function oneHot(c: ConvertContext): Value {
  const depth = c.dims(1);
  if (depth.length !== 1) c.fail('depth must have one element', '1', String(depth.length));
  const rank = c.rank(0) + 1;
  const axis = c.axis(c.int('axis', -1), rank);
  const given = cast(c.b, c.input(0), 'i64');
  const wrapped = select3(c.b, binaryC(c.b, 'lt', given, 0), add(c.b, given, depthValue(c, depth[0])), given);
  const places = iota(
    c.b,
    'i64',
    Array.from({ length: rank }, (_, i) => (i === axis ? depth[0] : 1)),
    axis,
  );
  const hit = binary(c.b, 'eq', unsqueeze(c.b, wrapped, [axis]), places);
  const value = (i: number) => reshape(c.b, slice1(c.b, c.input(2), 0, i, 1), []);
  return select3(c.b, hit, value(1), value(0));
}

const depthValue = (c: ConvertContext, depth: Dim): Value =>
  typeof depth === 'number' ? scalar(c.b, depth, 'i64') : reshape(c.b, cast(c.b, c.input(1), 'i64'), []);

function range(c: ConvertContext): Value {
  const dtype = c.dtype(0);
  const scalarOf = (i: number) => reshape(c.b, c.input(i), []);
  const [start, limit, delta] = isFloat(dtype)
    ? [c.number(0), c.number(1), c.number(2)]
    : [c.dim(0), c.dim(1), c.number(2)];
  if (delta === 0) c.fail('a delta of 0');
  let size: Dim;
  if (typeof start === 'number' && typeof limit === 'number') size = Math.max(0, Math.ceil((limit - start) / delta));
  else {
    const distance = delta > 0 ? subDims(limit, start) : subDims(start, limit);
    const count = ceilDivDims(distance, Math.abs(delta));
    size = c.b.boundsOf(count).min >= 0 ? count : maxDims(count, 0);
  }
  const steps = iota(c.b, dtype, [size]);
  const scaled = delta === 1 ? steps : mul(c.b, steps, scalarOf(2));
  return start === 0 ? scaled : add(c.b, scaled, scalarOf(0));
}

function constant(c: ConvertContext): Value {
  const { attrs } = c.operator;
  const data = c.tensor('value') ?? c.tensor('sparse_value');
  if (data !== undefined) return c.b.constant(data);
  if (attrs.value_float !== undefined) return scalar(c.b, c.float('value_float'), 'f32');
  if (attrs.value_int !== undefined) return scalar(c.b, BigInt(c.int('value_int')), 'i64');
  if (attrs.value_floats !== undefined) return tensor(c.b, 'f32', c.floats('value_floats') ?? []);
  if (attrs.value_ints !== undefined) {
    const list = attrs.value_ints as readonly bigint[];
    return c.b.constant({ dtype: 'i64', shape: [list.length], data: BigInt64Array.from(list, BigInt) });
  }
  if (attrs.value_string !== undefined) return scalar(c.b, c.string('value_string'), 'string');
  const strings = c.strings('value_strings');
  if (strings !== undefined) return c.b.constant({ dtype: 'string', shape: [strings.length], data: strings });
  return c.fail('a constant without a value');
}

function constantOfShape(c: ConvertContext): Value {
  const value: HostTensor = c.tensor('value') ?? { dtype: 'f32', shape: [1], data: new Float32Array(1) };
  if (sizeOf(value.shape) !== 1) c.fail('the value must have one element', '1', String(sizeOf(value.shape)));
  return broadcastTo(c.b, c.b.constant({ ...value, shape: [] }), c.dims(0));
}

function shapeOf(c: ConvertContext): Value {
  const rank = c.rank(0);
  const place = (at: number) => Math.min(rank, Math.max(0, at < 0 ? at + rank : at));
  const start = place(c.int('start', 0));
  return c.op('shape_of', [c.input(0)], { start, end: Math.max(start, place(c.int('end', rank))) });
}

function sizeOfInput(c: ConvertContext): Value {
  const count = productOf(c.shape(0));
  if (typeof count === 'number') return scalar(c.b, count, 'i64');
  const shape = c.op('shape_of', [c.input(0)], { start: 0, end: c.rank(0) });
  return c.op('reduce', [shape], { fn: 'prod', axes: [0], keep: false });
}

function eyeLike(c: ConvertContext): Value {
  const dtype = c.hasAttr('dtype') ? dtypeOf(c.int('dtype'), c.operator.source.node) : c.dtype(0);
  const [h, w] = c.rank(0) === 2 ? c.shape(0) : c.fail('wrong rank', '2 axes', String(c.rank(0)));
  const row = iota(c.b, 'i64', [h, 1], 0);
  const column = iota(c.b, 'i64', [1, w], 1);
  return cast(c.b, binary(c.b, 'eq', column, binaryC(c.b, 'add', row, c.int('k', 0))), dtype);
}

export const indexing: readonly Conversion[] = [
  { op: 'Gather', since: 1, convert: (c) => gather(c.b, c.input(0), c.input(1), c.axis(c.int('axis', 0), c.rank(0))) },
  {
    op: 'GatherElements',
    since: 11,
    convert: (c) => gatherElements(c.b, c.input(0), c.input(1), c.axis(c.int('axis', 0), c.rank(0))),
  },
  { op: 'GatherND', since: 11, convert: (c) => gatherNd(c.b, c.input(0), c.input(1), c.int('batch_dims', 0)) },
  { op: 'Scatter', since: 9, convert: scatterAxis },
  { op: 'ScatterElements', since: 11, convert: scatterAxis },
  { op: 'ScatterND', since: 11, convert: (c) => scatterNd(c.b, c.input(0), c.input(1), c.input(2), scatterFn(c)) },
  { op: 'OneHot', since: 9, convert: oneHot },
  { op: 'Range', since: 11, convert: range },
  { op: 'Constant', since: 1, convert: constant },
  { op: 'ConstantOfShape', since: 9, convert: constantOfShape },
  { op: 'Shape', since: 1, convert: shapeOf },
  { op: 'Size', since: 1, convert: sizeOfInput },
  { op: 'EyeLike', since: 9, convert: eyeLike },
];
