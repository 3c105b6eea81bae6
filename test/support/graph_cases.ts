// Random well-formed nodes of every op with inputs that fit, for properties of the graph IR.
import fc from 'fast-check';
import { type DType, dtypes, isFloat, isInt } from '../../compiler/dtype.js';
import { GraphBuilder } from '../../compiler/graph/builder.js';
import { cast } from '../../compiler/graph/ops/reference/elementwise.js';
import {
  binaryOps,
  type Graph,
  type OpAttrs,
  type OpKind,
  type ResizeAttrs,
  unaryOps,
  type Window,
} from '../../compiler/graph/types.js';
import { type HostTensor, sizeOf } from '../../compiler/tensor.js';
import { scanCase } from './scan_cases.js';

export interface NodeCase<K extends OpKind = OpKind> {
  readonly kind: K;
  readonly attrs: OpAttrs[K];
  readonly inputs: readonly HostTensor[];
}

/** Choices, from fast-check (which shrinks them) or any other source of numbers. */
export interface Chooser {
  int(min: number, max: number): number;
}

export const chooserOf = (g: fc.GeneratorValue): Chooser => ({ int: (min, max) => g(fc.integer, { min, max }) });

const one = <T>(c: Chooser, list: readonly T[]): T => list[c.int(0, list.length - 1)];
const flag = (c: Chooser): boolean => c.int(0, 1) === 1;
const list = <T>(length: number, make: (i: number) => T): T[] => Array.from({ length }, (_, i) => make(i));
const shapeOf = (c: Chooser, rank = c.int(0, 4), least = 0): number[] => list(rank, () => c.int(least, 4));
const subset = (c: Chooser, rank: number): number[] => list(rank, (i) => i).filter(() => flag(c));

/** Nobody computes on the types of blocks and their scales: without NaN or zero, results say little. */
const floats = dtypes.filter((d) => isFloat(d) && d !== 'f4e2m1' && d !== 'f8e8m0');
export const numericTypes = [...floats, ...dtypes.filter(isInt)];
const ints = dtypes.filter(isInt);

/** Small values of a type: integers from -3 to 3 as far as it has them, halves for floats. */
export function tensor(c: Chooser, dtype: DType, shape: readonly number[]): HostTensor {
  if (dtype === 'string') return { dtype, shape, data: list(sizeOf(shape), () => one(c, ['', 'a', 'ab', 'ß'])) };
  const data = Float64Array.from(list(sizeOf(shape), () => c.int(-6, 6) / (isFloat(dtype) ? 2 : 1)));
  return cast({ dtype: 'f64', shape, data }, dtype, { saturate: true });
}

const indices = (c: Chooser, shape: readonly number[], low = -3, high = 3): HostTensor => {
  const values = list(sizeOf(shape), () => c.int(low, high));
  return flag(c)
    ? { dtype: 'i32', shape, data: Int32Array.from(values) }
    : { dtype: 'i64', shape, data: BigInt64Array.from(values, BigInt) };
};

function windowOf(c: Chooser, rank: number): Window {
  return {
    strides: list(rank, () => c.int(1, 3)),
    padLow: list(rank, () => c.int(0, 2)),
    padHigh: list(rank, () => c.int(0, 2)),
    dilations: list(rank, () => c.int(1, 2)),
  };
}

type Makers = { readonly [K in Exclude<OpKind, 'source_op'>]: (c: Chooser) => Omit<NodeCase<K>, 'kind'> };

const typesOf: Partial<Record<OpKind, readonly DType[]>> = {
  neg: numericTypes,
  abs: numericTypes,
  sign: numericTypes,
  not: [...ints, 'bool'],
  and: [...ints, 'bool'],
  or: [...ints, 'bool'],
  xor: [...ints, 'bool'],
  shl: ints,
  shr: ints,
  atan2: floats,
  eq: dtypes,
  ne: dtypes,
};

const unaryMakers = Object.fromEntries(
  unaryOps.map((kind) => [
    kind,
    (c: Chooser) => ({ attrs: {}, inputs: [tensor(c, one(c, typesOf[kind] ?? floats), shapeOf(c))] }),
  ]),
) as unknown as Pick<Makers, (typeof unaryOps)[number]>;
const binaryMakers = Object.fromEntries(
  binaryOps.map((kind) => [
    kind,
    (c: Chooser) => {
      const [dtype, shape] = [one(c, typesOf[kind] ?? numericTypes), shapeOf(c)];
      return { attrs: {}, inputs: [tensor(c, dtype, shape), tensor(c, dtype, shape)] };
    },
  ]),
) as unknown as Pick<Makers, (typeof binaryOps)[number]>;

const makers: Makers = {
  ...unaryMakers,
  ...binaryMakers,
  select(c) {
    const [dtype, shape] = [one(c, dtypes), shapeOf(c)];
    return { attrs: {}, inputs: [tensor(c, 'bool', shape), tensor(c, dtype, shape), tensor(c, dtype, shape)] };
  },
  clamp: (c) => ({
    attrs: { min: flag(c) ? c.int(-4, 4) : null, max: flag(c) ? c.int(-4, 4) + 0.5 : null },
    inputs: [tensor(c, one(c, numericTypes), shapeOf(c))],
  }),
  cast: (c) => ({
    attrs: {
      dtype: one(
        c,
        dtypes.filter((d) => d !== 'string'),
      ),
      saturate: flag(c),
    },
    inputs: [
      tensor(
        c,
        one(
          c,
          dtypes.filter((d) => d !== 'string'),
        ),
        shapeOf(c),
      ),
    ],
  }),
  bitcast(c) {
    const [from, to] = one(c, [
      ['f32', 'i32'],
      ['u16', 'bf16'],
      ['f64', 'u64'],
      ['i4', 'u4'],
      ['u8', 'f8e5m2'],
    ] as const);
    return { attrs: { dtype: to }, inputs: [tensor(c, from, shapeOf(c))] };
  },
  reshape(c) {
    const shape = shapeOf(c);
    const joined = c.int(0, shape.length);
    return {
      attrs: { shape: [sizeOf(shape.slice(0, joined)), 1, ...shape.slice(joined)] },
      inputs: [tensor(c, one(c, dtypes), shape)],
    };
  },
  transpose(c) {
    const shape = shapeOf(c);
    const left = list(shape.length, (i) => i);
    return {
      attrs: { permutation: list(shape.length, () => left.splice(c.int(0, left.length - 1), 1)[0]) },
      inputs: [tensor(c, one(c, dtypes), shape)],
    };
  },
  broadcast(c) {
    const shape = shapeOf(c);
    const from = shape.slice(c.int(0, shape.length)).map((dim) => (flag(c) ? dim : 1));
    return { attrs: { shape }, inputs: [tensor(c, one(c, dtypes), from)] };
  },
  slice(c) {
    const shape = shapeOf(c, undefined, 1);
    const starts = shape.map((dim) => c.int(0, dim - 1));
    const steps = shape.map(() => one(c, [-2, -1, 1, 2]));
    const sizes = shape.map((dim, i) => {
      const room = steps[i] > 0 ? dim - 1 - starts[i] : starts[i];
      return c.int(0, Math.floor(room / Math.abs(steps[i])) + 1);
    });
    return { attrs: { starts, sizes, steps }, inputs: [tensor(c, one(c, dtypes), shape)] };
  },
  pad(c) {
    const mode = one(c, ['constant', 'edge', 'reflect', 'wrap'] as const);
    const shape = shapeOf(c, undefined, mode === 'constant' ? 0 : 1);
    const dtype = one(c, dtypes);
    const attrs = { low: shape.map(() => c.int(0, 3)), high: shape.map(() => c.int(0, 3)), mode };
    return { attrs, inputs: [tensor(c, dtype, shape), ...(mode === 'constant' ? [tensor(c, dtype, [])] : [])] };
  },
  concat(c) {
    const shape = shapeOf(c, c.int(1, 3));
    const [axis, dtype] = [c.int(0, shape.length - 1), one(c, dtypes)];
    const part = () =>
      tensor(
        c,
        dtype,
        shape.map((dim, i) => (i === axis ? c.int(0, 3) : dim)),
      );
    return { attrs: { axis }, inputs: list(c.int(1, 3), part) };
  },
  iota(c) {
    const shape = shapeOf(c, c.int(1, 3));
    return { attrs: { dtype: one(c, numericTypes), shape, axis: c.int(0, shape.length - 1) }, inputs: [] };
  },
  gather(c) {
    const shape = shapeOf(c, c.int(1, 3));
    const axis = c.int(0, shape.length - 1);
    return { attrs: { axis }, inputs: [tensor(c, one(c, dtypes), shape), indices(c, shapeOf(c, c.int(0, 2)), -9, 9)] };
  },
  gather_elements(c) {
    const shape = shapeOf(c, c.int(1, 3));
    const axis = c.int(0, shape.length - 1);
    const at = shape.map((dim, i) => (i === axis ? c.int(0, 4) : c.int(0, dim)));
    return { attrs: { axis }, inputs: [tensor(c, one(c, dtypes), shape), indices(c, at)] };
  },
  gather_nd(c) {
    const shape = shapeOf(c, c.int(1, 4));
    const batchDims = c.int(0, shape.length - 1);
    const at = [...shape.slice(0, batchDims), ...shapeOf(c, c.int(0, 2)), c.int(1, shape.length - batchDims)];
    return { attrs: { batchDims }, inputs: [tensor(c, one(c, dtypes), shape), indices(c, at)] };
  },
  scatter_elements(c) {
    const shape = shapeOf(c, c.int(1, 3));
    const axis = c.int(0, shape.length - 1);
    const at = shape.map((dim, i) => (i === axis ? c.int(0, 4) : c.int(0, dim)));
    const fn = one(c, ['set', 'add', 'mul', 'min', 'max'] as const);
    const dtype = one(c, fn === 'set' ? dtypes : numericTypes);
    return { attrs: { axis, fn }, inputs: [tensor(c, dtype, shape), indices(c, at), tensor(c, dtype, at)] };
  },
  scatter_nd(c) {
    const shape = shapeOf(c, c.int(1, 3));
    const length = c.int(1, shape.length);
    const places = shapeOf(c, c.int(0, 2));
    const fn = one(c, ['set', 'add', 'mul', 'min', 'max'] as const);
    const dtype = one(c, fn === 'set' ? dtypes : numericTypes);
    const updates = [...places, ...shape.slice(length)];
    return {
      attrs: { fn },
      inputs: [tensor(c, dtype, shape), indices(c, [...places, length]), tensor(c, dtype, updates)],
    };
  },
  reduce(c) {
    const fn = one(c, ['sum', 'prod', 'max', 'min', 'and', 'or'] as const);
    const shape = shapeOf(c);
    const dtype = fn === 'and' || fn === 'or' ? 'bool' : one(c, numericTypes);
    return { attrs: { fn, axes: subset(c, shape.length), keep: flag(c) }, inputs: [tensor(c, dtype, shape)] };
  },
  arg_reduce(c) {
    const shape = shapeOf(c, c.int(1, 3), 1);
    const attrs = {
      fn: one(c, ['max', 'min'] as const),
      axis: c.int(0, shape.length - 1),
      keep: flag(c),
      last: flag(c),
    };
    return { attrs, inputs: [tensor(c, one(c, numericTypes), shape)] };
  },
  cumulative(c) {
    const shape = shapeOf(c, c.int(1, 3));
    const fn = one(c, ['sum', 'prod', 'max', 'min'] as const);
    const attrs = { fn, axis: c.int(0, shape.length - 1), exclusive: flag(c), reverse: flag(c) };
    return { attrs, inputs: [tensor(c, one(c, numericTypes), shape)] };
  },
  top_k(c) {
    const shape = shapeOf(c, c.int(1, 3));
    const axis = c.int(0, shape.length - 1);
    return {
      attrs: { k: c.int(0, shape[axis]), axis, largest: flag(c) },
      inputs: [tensor(c, one(c, numericTypes), shape)],
    };
  },
  suppress(c) {
    const [batch, classes, count] = [c.int(0, 2), c.int(1, 3), c.int(1, 9)];
    const f32 = (shape: readonly number[], make: () => number): HostTensor => ({
      dtype: 'f32',
      shape,
      data: Float32Array.from(list(sizeOf(shape), make)),
    });
    // Corners on a coarse grid, so that boxes overlap and scores tie; some boxes are empty.
    const boxes = f32([batch, count, 4], () => 0);
    for (let at = 0; at < sizeOf(boxes.shape); at++) {
      const low = at % 4 < 2 ? 0 : Number(boxes.data[at - 2]);
      (boxes.data as Float32Array)[at] = low + c.int(at % 4 < 2 ? -2 : 0, 4) / 2;
    }
    const scores = f32([batch, classes, count], () => c.int(0, 6) / 4);
    const [overlap, least] = [f32([], () => c.int(0, 8) / 8), f32([], () => c.int(-1, 3) / 4)];
    return { attrs: { limit: c.int(0, count) }, inputs: [boxes, scores, overlap, least] };
  },
  random_bits: (c) => ({
    attrs: { shape: shapeOf(c), key: [c.int(0, 2 ** 31 - 1), c.int(0, 2 ** 31 - 1)] },
    inputs: [],
  }),
  scan: (c) => scanCase(c),
  dot(c) {
    const float = flag(c);
    const type = () => one(c, float ? floats : ints);
    const [batch, contract] = [shapeOf(c, c.int(0, 2)), shapeOf(c, c.int(0, 2))];
    /** Batch, contracting and free axes in a random order. */
    const operand = () => {
      const axes = [
        ...batch.map((dim, i) => ({ dim, role: `b${i}` })),
        ...contract.map((dim, i) => ({ dim, role: `k${i}` })),
        ...shapeOf(c, c.int(0, 2)).map((dim) => ({ dim, role: '' })),
      ];
      const mixed = list(axes.length, () => axes.splice(c.int(0, axes.length - 1), 1)[0]);
      const find = (letter: string, count: number) =>
        list(count, (i) => mixed.findIndex(({ role }) => role === `${letter}${i}`));
      return {
        shape: mixed.map(({ dim }) => dim),
        batch: find('b', batch.length),
        contract: find('k', contract.length),
      };
    };
    const [lhs, rhs] = [operand(), operand()];
    const dtype = one(c, float ? (['f32', 'f64', 'f16'] as const) : (['i32', 'i64', 'f32', 'u8'] as const));
    return {
      attrs: { lhsBatch: lhs.batch, rhsBatch: rhs.batch, lhsContract: lhs.contract, rhsContract: rhs.contract, dtype },
      inputs: [tensor(c, type(), lhs.shape), tensor(c, type(), rhs.shape)],
    };
  },
  conv(c) {
    const float = flag(c);
    const type = () => one(c, float ? floats : ints);
    const [rank, groups, perGroup] = [c.int(1, 3), c.int(1, 2), c.int(1, 2)];
    const x = [c.int(0, 2), groups * perGroup, ...shapeOf(c, rank, 1)];
    const w = [groups * c.int(1, 2), perGroup, ...list(rank, () => c.int(1, 3))];
    return {
      attrs: {
        strides: list(rank, () => c.int(1, 3)),
        padLow: list(rank, () => c.int(-1, 2)),
        padHigh: list(rank, () => c.int(-1, 2)),
        dilations: list(rank, () => c.int(1, 2)),
        groups,
        inputDilation: list(rank, () => c.int(1, 2)),
        dtype: one(c, float ? (['f32', 'f64', 'f16'] as const) : (['i32', 'i64', 'f32'] as const)),
      },
      inputs: [tensor(c, type(), x), tensor(c, type(), w)],
    };
  },
  reduce_window(c) {
    const shape = shapeOf(c, c.int(0, 3));
    const window = shape.map(() => c.int(1, 3));
    const fn = one(c, ['sum', 'max', 'min', 'prod'] as const);
    return { attrs: { ...windowOf(c, shape.length), fn, window }, inputs: [tensor(c, one(c, numericTypes), shape)] };
  },
  window_argmax(c) {
    const shape = shapeOf(c, c.int(0, 3));
    const window = shape.map(() => c.int(1, 3));
    return { attrs: { ...windowOf(c, shape.length), window }, inputs: [tensor(c, one(c, numericTypes), shape)] };
  },
  softmax(c) {
    const shape = shapeOf(c);
    return { attrs: { axes: subset(c, shape.length), log: flag(c) }, inputs: [tensor(c, one(c, floats), shape)] };
  },
  normalize(c) {
    const shape = shapeOf(c);
    const attrs = { axes: subset(c, shape.length), epsilon: one(c, [1e-5, 0.5]), center: flag(c), statistics: flag(c) };
    return { attrs, inputs: [tensor(c, one(c, floats), shape)] };
  },
  resize(c) {
    const shape = shapeOf(c, c.int(1, 3), 1);
    const mode = one(c, ['nearest', 'linear', 'cubic'] as const);
    const scales = shape.map(() => (flag(c) ? null : one(c, [0.3, 0.5, 0.8, 1, 1.5, 2.6, 3])));
    const attrs: ResizeAttrs = {
      mode,
      shape: shape.map((dim, i) =>
        Math.max(1, scales[i] === null ? c.int(1, 7) : Math.floor(dim * (scales[i] as number))),
      ),
      scales,
      coordinates: one(c, [
        'half_pixel',
        'half_pixel_symmetric',
        'pytorch_half_pixel',
        'align_corners',
        'asymmetric',
        'tf_crop_and_resize',
        'tf_half_pixel_for_nn',
      ] as const),
      nearest: one(c, ['round_prefer_floor', 'round_prefer_ceil', 'floor', 'ceil'] as const),
      cubicA: one(c, [-0.75, -0.5]),
      excludeOutside: flag(c),
      antialias: flag(c),
      roi: [...shape.map(() => one(c, [0, 0.2, -0.3])), ...shape.map(() => one(c, [1, 0.7, 1.4]))],
      extrapolation: one(c, [0, 7.5]),
    };
    return {
      attrs,
      inputs: [tensor(c, mode === 'nearest' ? one(c, numericTypes) : one(c, ['f64', 'f32', 'f16', 'i32']), shape)],
    };
  },
  shape_of(c) {
    const shape = shapeOf(c);
    const start = c.int(0, shape.length);
    return { attrs: { start, end: c.int(start, shape.length) }, inputs: [tensor(c, one(c, dtypes), shape)] };
  },
};

export const caseKinds = Object.keys(makers) as (keyof Makers)[];

/** A node of an op with inputs. */
export const randomCase = (c: Chooser, kind: keyof Makers): NodeCase => ({ kind, ...makers[kind](c) }) as NodeCase;

/** The graph that computes a case from inputs `x0`, `x1`, …; outputs `y0`, …. */
export function graphOf({ kind, attrs, inputs }: NodeCase): Graph {
  const b = new GraphBuilder(kind);
  const values = inputs.map(({ dtype, shape }, i) => b.input(`x${i}`, dtype, shape));
  b.op(kind, values, attrs).forEach((value, i) => {
    b.output(`y${i}`, value);
  });
  return b.finish();
}

export const inputsOf = ({ inputs }: NodeCase): Map<string, HostTensor> => new Map(inputs.map((x, i) => [`x${i}`, x]));
