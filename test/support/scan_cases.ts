/**
 * Random loops: bodies of elementwise ops, views, reductions, products and loops, over values that stay small whole
 * numbers, so that any order of operations gives the same bits.
 */
import { GraphBuilder } from '../../compiler/graph/builder.js';
import {
  add,
  binary,
  broadcastTo,
  cast,
  clamp,
  concat,
  mul,
  reduce,
  reshape,
  reverse,
  scalar,
  slice1,
  stack,
  sub,
  transpose,
  unary,
} from '../../compiler/graph/compose/index.js';
import { scan } from '../../compiler/graph/scan.js';
import type { Graph, OpAttrs, Value } from '../../compiler/graph/types.js';
import { type HostTensor, sizeOf } from '../../compiler/tensor.js';
import type { Chooser } from './graph_cases.js';

/** Extents that all values of a case share: matrices are [n, n], cubes [inner, n, n]. */
interface Sizes {
  readonly n: number;
  readonly inner: number;
}

interface Pools {
  readonly matrices: Value[];
  readonly cubes: Value[];
}

const list = <T>(length: number, make: (i: number) => T): T[] => Array.from({ length }, (_, i) => make(i));
const pick = <T>(c: Chooser, from: readonly T[]): T => from[c.int(0, from.length - 1)];
const flag = (c: Chooser): boolean => c.int(0, 1) === 1;

/** A loop of `trips` iterations around a random body with up to `depth` loops within one another. */
export function scanCase(
  c: Chooser,
  { trips = c.int(0, 4), depth = 2 }: { readonly trips?: number; readonly depth?: number } = {},
): { attrs: OpAttrs['scan']; inputs: HostTensor[] } {
  const sizes: Sizes = { n: c.int(1, 3), inner: c.int(1, 3) };
  const matrix = [sizes.n, sizes.n];
  const cube = [sizes.inner, ...matrix];
  const tensor = (shape: readonly number[]): HostTensor => ({
    dtype: 'f32',
    shape,
    data: Float32Array.from(list(sizeOf(shape), () => c.int(-3, 3))),
  });
  const carried = list(c.int(0, 3), () => matrix);
  const scanned = list(c.int(0, 2), () => (flag(c) ? matrix : cube));
  const captured = list(c.int(1, 2), () => (flag(c) ? matrix : cube));
  const iteration = flag(c);
  const b = new GraphBuilder('body');
  const pools: Pools = { matrices: [], cubes: [] };
  const note = (value: Value): void => void (value.type.shape.length === 2 ? pools.matrices : pools.cubes).push(value);
  if (iteration) note(broadcastTo(b, cast(b, b.input('t', 'i64', []), 'f32'), matrix));
  for (const [kind, shapes] of Object.entries({ h: carried, x: scanned, w: captured }))
    shapes.forEach((shape, i) => {
      note(b.input(`${kind}${i}`, 'f32', shape));
    });
  if (pools.matrices.length === 0) note(b.constant(tensor(matrix), 'start'));
  fill(c, b, pools, sizes, depth);
  for (let i = 0; i < carried.length; i++) b.output(`next${i}`, pick(c, pools.matrices));
  const stacked = list(c.int(carried.length === 0 ? 1 : 0, 2), (i) => {
    b.output(`slice${i}`, pick(c, flag(c) && pools.cubes.length > 0 ? pools.cubes : pools.matrices));
    return flag(c);
  });
  return {
    attrs: {
      body: b.finish(),
      trips,
      carried: carried.length,
      iteration,
      scanned: scanned.map(() => flag(c)),
      stacked,
    },
    inputs: [...carried.map(tensor), ...scanned.map((shape) => tensor([trips, ...shape])), ...captured.map(tensor)],
  };
}

/** Adds random ops. */
function fill(c: Chooser, b: GraphBuilder, pools: Pools, sizes: Sizes, depth: number): void {
  const count = c.int(0, 5);
  for (let i = 0; i < count; i++) {
    const cube = c.int(0, 4) === 0;
    if (depth > 1 && c.int(0, 3) === 0) nested(c, b, pools, sizes, depth);
    else if (cube)
      pools.cubes.push(
        stack(
          b,
          list(sizes.inner, () => pick(c, pools.matrices)),
          0,
        ),
      );
    else pools.matrices.push(clamp(b, step(c, b, pools, sizes), -8, 8));
  }
}

function step(c: Chooser, b: GraphBuilder, { matrices, cubes }: Pools, { n, inner }: Sizes): Value {
  const [x, y] = [pick(c, matrices), pick(c, matrices)];
  switch (c.int(0, 10)) {
    case 0:
      return add(b, x, y);
    case 1:
      return sub(b, x, y);
    case 2:
      return mul(b, x, y);
    case 3:
      return binary(b, 'max', x, y);
    case 4:
      return transpose(b, x, [1, 0]);
    case 5:
      return reverse(b, x, c.int(0, 1));
    case 6:
      return broadcastTo(b, reduce(b, 'sum', x, [1], true), [n, n]);
    case 7:
      return concat(b, [slice1(b, x, 0, n - 1, 1), slice1(b, y, 0, 0, n - 1)], 0);
    case 8:
      return b.op('dot', [x, y], { lhsBatch: [], rhsBatch: [], lhsContract: [1], rhsContract: [0], dtype: 'f32' })[0];
    case 9:
      return cubes.length === 0
        ? unary(b, 'neg', x)
        : reshape(b, slice1(b, pick(c, cubes), 0, c.int(0, inner - 1), 1), [n, n]);
    default:
      return b.op('cumulative', [x], { fn: 'sum', axis: c.int(0, 1), exclusive: flag(c), reverse: flag(c) })[0];
  }
}

/** A loop over the planes of cubes. */
function nested(c: Chooser, b: GraphBuilder, pools: Pools, sizes: Sizes, depth: number): void {
  const matrix = [sizes.n, sizes.n];
  const carried = list(c.int(0, 2), () => pick(c, pools.matrices));
  const scanned = list(pools.cubes.length === 0 ? 0 : c.int(0, 2), () => ({
    array: pick(c, pools.cubes),
    reverse: flag(c),
  }));
  const captured = list(c.int(1, 2), () => pick(c, pools.matrices));
  const body = new GraphBuilder('inner');
  const iteration = flag(c);
  const own: Pools = { matrices: [], cubes: [] };
  if (iteration) own.matrices.push(broadcastTo(body, cast(body, body.input('t', 'i64', []), 'f32'), matrix));
  for (const [kind, values] of Object.entries({ h: carried, x: scanned, w: captured }))
    values.forEach((_, i) => {
      own.matrices.push(body.input(`${kind}${i}`, 'f32', matrix));
    });
  fill(c, body, own, sizes, depth - 1);
  for (let i = 0; i < carried.length; i++) body.output(`next${i}`, pick(c, own.matrices));
  const stacked = list(c.int(carried.length === 0 ? 1 : 0, 2), (i) => {
    body.output(`slice${i}`, pick(c, own.matrices));
    return { reverse: flag(c) };
  });
  const results = scan(b, { body: body.finish(), trips: sizes.inner, iteration, carried, scanned, captured, stacked });
  pools.matrices.push(...results.carried);
  pools.cubes.push(...results.stacked);
}

/** The graph of one loop with each input and output of its own. */
export function loopGraph({ attrs, inputs }: ReturnType<typeof scanCase>): {
  graph: Graph;
  given: Record<string, HostTensor>;
} {
  const b = new GraphBuilder('loop');
  const values = inputs.map(({ dtype, shape }, i) => b.input(`in${i}`, dtype, shape));
  const results = b.op('scan', values, attrs);
  results.forEach((value, i) => {
    b.output(`out${i}`, value);
  });
  return { graph: b.finish(), given: Object.fromEntries(inputs.map((tensor, i) => [`in${i}`, tensor])) };
}

/** s ← 1 - s + x_t in one kernel an iteration: a long list of dispatches, and what is left in the end. */
export function accumulation(trips: number): {
  graph: Graph;
  inputs: Record<string, HostTensor>;
  last: number;
} {
  const step = new GraphBuilder('step');
  const [s, x] = [step.input('s', 'f32', [4]), step.input('x', 'f32', [4])];
  step.output('s', add(step, sub(step, scalar(step, 1, 'f32'), s), x));
  const b = new GraphBuilder('accumulation');
  const parts = {
    body: step.finish(),
    trips,
    iteration: false,
    carried: [b.input('first', 'f32', [4])],
    scanned: [{ array: b.input('xs', 'f32', [trips, 4]), reverse: false }],
    captured: [],
    stacked: [],
  };
  b.output('last', scan(b, parts).carried[0]);
  const xs = Float32Array.from({ length: 4 * trips }, (_, i) => Math.floor(i / 4) % 5);
  let last = 0;
  for (let t = 0; t < trips; t++) last = 1 - last + xs[4 * t];
  const inputs = {
    first: { dtype: 'f32', shape: [4], data: new Float32Array(4) },
    xs: { dtype: 'f32', shape: [trips, 4], data: xs },
  } as const;
  return { graph: b.finish(), inputs, last };
}
