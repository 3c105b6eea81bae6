/**
 * One view of dot and conv: out[batch, m, n] = Σ_k lhs[batch, m, k] · rhs[batch, k, n].
 *
 * Schedules tile (m, n, k) and ask here for operand elements at flat coordinates; what im2col, transposes, padding or
 * strides mean is index arithmetic that simplifies against the tile's loop variables.
 */
import type { Node, NodeOf, Value } from '../../graph/types.js';
import { isFloatScalar, type KValue, type Lanes, type ScalarType } from '../../kernel/types.js';
import { sizeOf } from '../../tensor.js';
import { type Affine, delinearize, linearize } from '../affine.js';
import type { Group } from '../group.js';
import { inside } from '../inside.js';
import type { DerivedConstant } from '../lowered.js';
import type { Lowering } from '../lowering.js';
import { accumulatorOf } from '../reduce.js';
import { type Index, scalarOf, shapeOf } from '../tensors.js';
import type { WordProduct } from './integer_contraction.js';
import type { Reading } from './packing.js';
import { sliced } from './slices.js';

/** Flat coordinates; at most one of m, n, k may mention the lane. */
export interface Place {
  readonly batch: Affine;
  readonly m: Affine;
  readonly n: Affine;
  readonly k: Affine;
}

export interface Contraction {
  readonly node: Node;
  readonly batch: number;
  readonly m: number;
  readonly n: number;
  readonly k: number;
  /** Extents of the contracted dims, outermost first: k is their product. */
  readonly extents: readonly number[];
  /** Type of the accumulators. */
  readonly accumulator: ScalarType;
  /** Type that elements are multiplied in: the accumulators', but for words of bytes. */
  readonly scalar: ScalarType;
  /** Set where elements are words of four bytes. */
  readonly words?: WordProduct;
  readonly lhs: Operand;
  readonly rhs: Operand;
  /** Batches that the lhs differs in (weights of a convolution differ by group, not by image), and which one it is. */
  readonly lhsBatches: number;
  lhsBatch(batch: Affine): Affine;
  readonly rhsBatches: number;
  rhsBatch(batch: Affine): Affine;
  /** Index into the node's output. */
  result(place: Omit<Place, 'k'>): Index;
  /** The other way round. */
  place(result: Index): Omit<Place, 'k'>;
}

export interface Operand {
  readonly value: Value;
  /** Index into `value` of the element at flat (batch, row, k), row being m or n; undefined entries do not occur. */
  index(batch: Affine, row: Affine, k: Affine): Index;
  /** Where the element may lie outside of the tensor (padding) or between its elements (input dilation): zero there. */
  readonly padded: boolean;
  /** The index of a padded operand may be negative or lie between elements: `element` takes care of it. */
  element(lowering: Lowering, batch: Affine, row: Affine, k: Affine, lanes: Lanes): KValue;
  /** The same before it is converted to the accumulators' type; `padding` is what lies outside, by default zero. */
  stored(lowering: Lowering, place: StoredPlace, lanes: Lanes, padding?: KValue): KValue;
  /** Of a convolution's input: the element at a position that may lie outside, by its channel over all groups. */
  point?(lowering: Lowering, image: Affine, channel: Affine, position: Index, padding?: KValue): KValue;
  /** How vectors are read where that is not for the strides of `value` to say. */
  readonly reading?: Reading;
  /** Of a constant that is bound in packed form only: see `packing.ts`. */
  packed?(width: number): DerivedConstant;
}

/** Flat coordinates of an operand's element. */
export interface StoredPlace {
  readonly batch: Affine;
  readonly row: Affine;
  readonly k: Affine;
}

export function contractionOf(group: Group): Contraction {
  const whole = wholeContraction(group);
  return group.slices ? sliced(whole, group.slices) : whole;
}

function wholeContraction(group: Group): Contraction {
  const node = group.anchor as Node;
  if (node.op === 'dot') return dotContraction(node, group);
  if (node.op === 'conv') return convContraction(node);
  throw new Error(`${node.op} is not a contraction`);
}

/** Integer operands accumulate in the result's type, floats in f32 or wider. */
function accumulatorFor(node: NodeOf<'dot'> | NodeOf<'conv'>): ScalarType {
  const scalar = scalarOf(node.outputs[0], node);
  return isFloatScalar(scalar) ? accumulatorOf(scalar) : scalar;
}

function operand(value: Value, index: Operand['index'], accumulator: ScalarType): Operand {
  return {
    value,
    index,
    padded: false,
    element: (lowering, batch, row, k, lanes) =>
      lowering.b.convert(lowering.value(value, index(batch, row, k), lanes), accumulator),
    stored: (lowering, { batch, row, k }, lanes) => lowering.value(value, index(batch, row, k), lanes),
  };
}

function dotContraction(node: NodeOf<'dot'>, group: Group): Contraction {
  const [lhs, rhs] = node.inputs;
  const { lhsBatch, rhsBatch, lhsContract, rhsContract } = node.attrs;
  const free = (shape: readonly number[], used: readonly number[]) =>
    shape.map((_, d) => d).filter((d) => !used.includes(d));
  const lhsFree = free(shapeOf(lhs), [...lhsBatch, ...lhsContract]);
  const rhsFree = free(shapeOf(rhs), [...rhsBatch, ...rhsContract]);
  const pick = (value: Value, dims: readonly number[]) => dims.map((d) => shapeOf(value)[d]);
  const batchShape = pick(lhs, lhsBatch);
  const contractShape = pick(lhs, lhsContract);
  const accumulator = accumulatorFor(node);
  const side = (
    result: Value,
    batchDims: readonly number[],
    freeDims: readonly number[],
    contractDims: readonly number[],
  ) => {
    const { value, dims } = beforeTransposes(result, group);
    return operand(
      value,
      (batch, row, k) => {
        const index: Affine[] = new Array<Affine>(shapeOf(value).length);
        const place = (to: readonly number[], shape: readonly number[], flat: Affine) =>
          delinearize(flat, shape).forEach((i, at) => {
            index[dims[to[at]]] = i;
          });
        place(batchDims, batchShape, batch);
        place(freeDims, pick(result, freeDims), row);
        place(contractDims, contractShape, k);
        return index;
      },
      accumulator,
    );
  };
  const [batches, m, n] = [batchShape, pick(lhs, lhsFree), pick(rhs, rhsFree)].map(sizeOf);
  return {
    node,
    batch: batches,
    m,
    n,
    k: sizeOf(contractShape),
    extents: contractShape,
    accumulator,
    scalar: accumulator,
    lhsBatches: batches,
    lhsBatch: (batch) => batch,
    rhsBatches: batches,
    rhsBatch: (batch) => batch,
    lhs: side(lhs, lhsBatch, lhsFree, lhsContract),
    rhs: side(rhs, rhsBatch, rhsFree, rhsContract),
    result: ({ batch, m, n }) => [
      ...delinearize(batch, batchShape),
      ...delinearize(m, pick(lhs, lhsFree)),
      ...delinearize(n, pick(rhs, rhsFree)),
    ],
    place(index) {
      const [batch, row, column] = delinearize(linearize(index, shapeOf(node.outputs[0])), [batches, m, n]);
      return { batch, m: row, n: column };
    },
  };
}

/** What a chain of transposes of the group starts from, and which of its dims each dim of `value` is. */
function beforeTransposes(value: Value, group: Group): { value: Value; dims: readonly number[] } {
  const producer = group.nodes.find((node) => node.outputs[0] === value);
  if (producer?.op !== 'transpose') return { value, dims: shapeOf(value).map((_, d) => d) };
  const { permutation } = producer.attrs;
  const before = beforeTransposes(producer.inputs[0], group);
  return { value: before.value, dims: permutation.map((d) => before.dims[d]) };
}

/** Implicit GEMM: m runs over a group's output channels, n over output positions, k over (channel, kernel position). */
function convContraction(node: NodeOf<'conv'>): Contraction {
  const [x, w] = node.inputs;
  const [images, channels, ...extents] = shapeOf(x);
  const [outputs, perGroup, ...kernel] = shapeOf(w);
  const [, , ...positions] = shapeOf(node.outputs[0]);
  const { groups, strides, padLow, dilations, inputDilation } = node.attrs;
  const m = outputs / groups;
  const accumulator = accumulatorFor(node);
  const split = (batch: Affine): [image: Affine, group: Affine] => {
    const [image, group] = delinearize(batch, [images, groups]);
    return [image, group];
  };
  const weights = operand(
    w,
    (batch, row, k) => {
      const [, group] = split(batch);
      return [group.scale(m).add(row), ...delinearize(k, [perGroup, ...kernel])];
    },
    accumulator,
  );
  /** Spatial index in the input, dilated by zeros; may be negative or beyond. */
  const inputIndex = (batch: Affine, row: Affine, k: Affine): Index => {
    const [image, group] = split(batch);
    const [channel, ...offset] = delinearize(k, [perGroup, ...kernel]);
    const position = delinearize(row, positions);
    return [
      image,
      group.scale(channels / groups).add(channel),
      ...position.map((p, d) => p.scale(strides[d]).add(offset[d].scale(dilations[d])).sub(Number(padLow[d]))),
    ];
  };
  const bounds = [images, channels, ...extents.map((extent, d) => (extent - 1) * inputDilation[d] + 1)];
  const dilated = inputDilation.some((step) => step !== 1);
  const padded =
    dilated ||
    positions.some((position, d) => {
      const first = -Number(padLow[d]);
      return first < 0 || first + (position - 1) * strides[d] + (kernel[d] - 1) * dilations[d] >= extents[d];
    });
  const input: Operand = {
    value: x,
    index: inputIndex,
    padded,
    element: (lowering, batch, row, k, lanes) =>
      lowering.b.convert(input.stored(lowering, { batch, row, k }, lanes), accumulator),
    stored(lowering, { batch, row, k }, lanes, padding) {
      const { b } = lowering;
      const at = inputIndex(batch, row, k);
      const scalar = scalarOf(x, node);
      const outside = () => padding ?? b.zero(scalar);
      const read = (index: Index, width: Lanes) => lowering.value(x, index, width);
      return dilated
        ? undilated(lowering, at, bounds, inputDilation, lanes, read, outside)
        : inside(lowering, at, bounds, lanes, read, outside);
    },
    point(lowering, image, channel, position, padding) {
      const scalar = scalarOf(x, node);
      const outside = () => padding ?? lowering.b.zero(scalar);
      const read = (index: Index) => lowering.value(x, index, 1);
      return inside(lowering, [image, channel, ...position], shapeOf(x), 1, read, outside);
    },
  };
  return {
    node,
    batch: images * groups,
    m,
    n: sizeOf(positions),
    k: perGroup * sizeOf(kernel),
    extents: [perGroup, ...kernel],
    accumulator,
    scalar: accumulator,
    lhs: weights,
    rhs: input,
    lhsBatches: groups,
    lhsBatch: (batch) => split(batch)[1],
    rhsBatches: images * groups,
    rhsBatch: (batch) => batch,
    result: ({ batch, m: row, n }) => {
      const [image, group] = split(batch);
      return [image, group.scale(m).add(row), ...delinearize(n, positions)];
    },
    place([image, channel, ...position]) {
      const [group, row] = delinearize(channel, [groups, m]);
      return { batch: image.scale(groups).add(group), m: row, n: linearize(position, positions) };
    },
  };
}

/** Reads an input with zeros between its elements: only multiples of the dilation exist. */
function undilated(
  lowering: Lowering,
  at: Index,
  bounds: readonly number[],
  dilation: readonly number[],
  lanes: Lanes,
  read: (index: Index, lanes: Lanes) => KValue,
  zero: () => KValue,
): KValue {
  const { b } = lowering;
  const one = (index: Index): KValue => {
    let exists = b.constant(true, 'bool');
    const source = index.map((i, d) => {
      const step = d < 2 ? 1 : dilation[d - 2];
      if (step === 1) return i;
      // Shifted by whole steps so that no dividend is negative.
      const shift = Math.ceil(Math.max(0, -i.range.min) / step);
      const shifted = i.add(shift * step);
      const remainder = shifted.mod(step);
      if (!remainder.isConstant) exists = b.and(exists, b.compare('eq', remainder.emit(b), b.constant(0)));
      else if (remainder.constant !== 0) exists = b.constant(false, 'bool');
      return shifted.div(step).sub(shift);
    });
    const extents = bounds.map((bound, d) => (d < 2 ? bound : (bound - 1) / dilation[d - 2] + 1));
    const value = inside(lowering, source, extents, 1, read, zero);
    return b.select(exists, value, zero());
  };
  return lowering.perLane(at, lanes, one);
}

/** The same contraction with lhs and rhs, m and n exchanged. */
export const transposed = (contraction: Contraction): Contraction => ({
  ...contraction,
  m: contraction.n,
  n: contraction.m,
  lhs: contraction.rhs,
  rhs: contraction.lhs,
  lhsBatches: contraction.rhsBatches,
  lhsBatch: contraction.rhsBatch,
  rhsBatches: contraction.lhsBatches,
  rhsBatch: contraction.lhsBatch,
  result: ({ batch, m, n }) => contraction.result({ batch, m: n, n: m }),
  ...(contraction.words && { words: { ...contraction.words, lhs: contraction.words.rhs, rhs: contraction.words.lhs } }),
  place(index) {
    const { batch, m, n } = contraction.place(index);
    return { batch, m: n, n: m };
  },
});

/** acc + x·y: fused where the target does that as fast. Of words, x is the lhs'. */
export function multiplyAdd(lowering: Lowering, x: KValue, y: KValue, sum: KValue, words?: WordProduct): KValue {
  const { b } = lowering;
  const lanes = sum.type.lanes;
  const [p, q] = [lowering.widen(x, lanes), lowering.widen(y, lanes)];
  if (words) return b.dot4(p, q, sum, words.lhs.type, words.rhs.type);
  if (isFloatScalar(sum.type.scalar) && lowering.target.features.has('fma')) return b.fma(p, q, sum);
  return b.add(sum, b.mul(p, q));
}
