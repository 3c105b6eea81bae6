/**
 * Elements of what nodes compute, one rule an op: views change the index, elementwise ops combine the elements of their
 * operands.
 *
 * Floats of 16 bits are computed in f32 and rounded where memory, or an op for which the rounding decides, needs them
 * (`Lowering.unrounded`): chains within a kernel round once. A value that several kernels read is in memory, and what is
 * computed is computed by one kernel, so all who read a value see the same number.
 */
import { type DType, isHalf } from '../dtype.js';
import { definitionOf } from '../graph/ops/index.js';
import type { Node, NodeOf, OpKind, Value } from '../graph/types.js';
import type { KValue, Lanes } from '../kernel/types.js';
import { Affine, delinearize, linearize } from './affine.js';
import { inside } from './inside.js';
import type { Lowering } from './lowering.js';
import { type Index, range, scalarOf, shapeOf } from './tensors.js';

type ScalarRule = NonNullable<ReturnType<typeof definitionOf<OpKind>>['scalar']>;

/** How elements of operands are asked for: `Lowering.value` or `Lowering.unrounded`. */
type Read = (value: Value, index: Index, lanes: Lanes) => KValue;

/**
 * The element of `output`, which `node` computes, at `index`. What ops only move is as `read` gives it; floats of 16 bits
 * that they compute are f32 if they are `computedWide`.
 */
export function elementOf(l: Lowering, node: Node, output: Value, index: Index, lanes: Lanes, read: Read): KValue {
  const { b } = l;
  const [x, y] = node.inputs;
  switch (node.op) {
    case 'reshape':
      return read(x, delinearize(linearize(index, shapeOf(output)), shapeOf(x)), lanes);
    case 'transpose': {
      const source: Affine[] = [];
      node.attrs.permutation.forEach((from, i) => {
        source[from] = index[i];
      });
      return read(x, source, lanes);
    }
    case 'broadcast': {
      const offset = index.length - shapeOf(x).length;
      return read(
        x,
        shapeOf(x).map((dim, d) => (dim === 1 ? Affine.constant(0) : index[d + offset])),
        lanes,
      );
    }
    case 'slice': {
      const { starts, steps } = node.attrs;
      return read(
        x,
        index.map((i, d) => i.scale(steps[d]).add(Number(starts[d]))),
        lanes,
      );
    }
    case 'pad':
      return padded(l, node, index, lanes, read);
    case 'concat':
      return l.perLane(index, lanes, (i) => concatenated(l, node, i, read));
    case 'iota': {
      const at = index[node.attrs.axis];
      const coefficient = at.laneCoefficient();
      const scalar = scalarOf(output);
      if (lanes === 1 || coefficient === 0) return b.convert(at.atLane(0).emit(b), scalar);
      return b.convert(l.indexVector(at, lanes), scalar);
    }
    case 'gather': {
      const { axis } = node.attrs;
      const extra = shapeOf(y).length;
      return l.perLane(index, lanes, (i) => {
        const at = l.dataIndex(l.value(y, i.slice(axis, axis + extra), 1), shapeOf(x)[axis]);
        return read(x, [...i.slice(0, axis), at, ...i.slice(axis + extra)], 1);
      });
    }
    case 'gather_elements': {
      const { axis } = node.attrs;
      return l.perLane(index, lanes, (i) => {
        const at = l.dataIndex(l.value(y, i, 1), shapeOf(x)[axis]);
        return read(
          x,
          i.map((j, d) => (d === axis ? at : j)),
          1,
        );
      });
    }
    case 'gather_nd': {
      const { batchDims } = node.attrs;
      const outer = shapeOf(y).length - 1;
      const depth = shapeOf(y)[outer];
      return l.perLane(index, lanes, (i) => {
        const ats = range(depth).map((k) =>
          l.dataIndex(l.value(y, [...i.slice(0, outer), Affine.constant(k)], 1), shapeOf(x)[batchDims + k]),
        );
        return read(x, [...i.slice(0, batchDims), ...ats, ...i.slice(outer)], 1);
      });
    }
    default: {
      const scalar = definitionOf(node.op).scalar;
      if (!scalar) throw new Error(`${node.op} cannot be lowered inside a ${l.group.family} kernel`);
      return elementwise(l, node, output, index, lanes, scalar as ScalarRule, read);
    }
  }
}

function elementwise(
  l: Lowering,
  node: Node,
  output: Value,
  index: Index,
  lanes: Lanes,
  rule: ScalarRule,
  read: Read,
): KValue {
  const isWide = computedWide(l, node);
  const ask = node.op === 'select' ? read : isWide ? l.unrounded : l.value;
  const args = node.inputs.map((input) => ask(input, index, lanes));
  const wide = args.some((arg) => arg.type.lanes > 1) ? lanes : 1;
  const typeOf = ({ type: { dtype } }: Value): DType => (isWide && isHalf(dtype) ? 'f32' : dtype);
  return rule(
    l.b,
    args.map((arg) => l.widen(arg, wide)),
    {
      attrs: node.attrs as never,
      inputs: node.inputs.map(typeOf),
      output: node.op === 'cast' ? output.type.dtype : typeOf(output),
    },
  );
}

/**
 * Whether the op takes floats of 16 bits unrounded. Not those whose result jumps, where a rounding decides (comparisons,
 * floor, conversions to integers), nor casts to what is as short: their purpose is the rounding. With `strict` none does.
 */
export function computedWide({ target }: Lowering, node: Node): boolean {
  if (target.roundsEachOp || !node.inputs.some(({ type }) => isHalf(type.dtype))) return false;
  if (node.op === 'cast') return node.attrs.dtype === 'f32' || node.attrs.dtype === 'f64';
  return smooth.has(node.op);
}

const smooth: ReadonlySet<OpKind> = new Set<OpKind>([
  ...(['neg', 'abs', 'exp', 'exp2', 'log', 'log2', 'sqrt', 'rsqrt', 'recip', 'erf'] as const),
  ...(['sin', 'cos', 'tan', 'asin', 'acos', 'atan', 'sinh', 'cosh', 'tanh', 'asinh', 'acosh', 'atanh'] as const),
  ...(['add', 'sub', 'mul', 'div', 'pow', 'max', 'min', 'atan2', 'clamp'] as const),
]);

function padded(l: Lowering, node: NodeOf<'pad'>, index: Index, lanes: Lanes, read: Read): KValue {
  const [x, fill] = node.inputs;
  const { low, mode } = node.attrs;
  const extents = shapeOf(x);
  const shifted = index.map((i, d) => i.sub(Number(low[d])));
  if (mode === 'constant') {
    const otherwise = () =>
      read(
        fill,
        shapeOf(fill).map(() => Affine.constant(0)),
        1,
      );
    return inside(l, shifted, extents, lanes, (i, width) => read(x, i, width), otherwise);
  }
  const inBox = (i: Affine, d: number) => i.range.min >= 0 && i.range.max < extents[d];
  const element = (at: Index, width: Lanes) =>
    read(
      x,
      at.map((i, d) => (inBox(i, d) ? i : folded(l, i, extents[d], mode))),
      width,
    );
  if (shifted.some((i, d) => i.mentionsLane() && !inBox(i, d))) return l.perLane(shifted, lanes, (i) => element(i, 1));
  return element(shifted, lanes);
}

/** An index outside of [0, extent) brought back as the padding mode says. */
function folded(l: Lowering, index: Affine, extent: number, mode: 'edge' | 'reflect' | 'wrap'): Affine {
  const { b } = l;
  const value = index.emit(b);
  if (mode === 'edge') return Affine.of(b.clamp(value, 0, extent - 1), b);
  const period = mode === 'wrap' ? extent : Math.max(1, 2 * (extent - 1));
  const shift = Math.ceil(Math.max(0, -index.range.min) / period) * period;
  const turned = b.remc(b.addc(value, shift), period);
  if (mode === 'wrap') return Affine.of(turned, b);
  return Affine.of(b.clamp(b.min(turned, b.sub(b.constant(period), turned)), 0, extent - 1), b);
}

function concatenated(l: Lowering, node: NodeOf<'concat'>, index: Index, read: Read): KValue {
  const { b } = l;
  const { axis } = node.attrs;
  const pick = (from: number, start: number): KValue => {
    const input = node.inputs[from];
    const extent = shapeOf(input)[axis];
    const here = (): KValue => {
      const local = index[axis].sub(start);
      const inRange = local.range.min >= 0 && local.range.max < extent;
      const at = inRange ? local : Affine.of(b.clamp(local.emit(b), 0, Math.max(0, extent - 1)), b);
      return read(
        input,
        index.map((i, d) => (d === axis ? at : i)),
        1,
      );
    };
    if (from === node.inputs.length - 1) return here();
    if (extent === 0) return pick(from + 1, start);
    const first = b.compare('lt', index[axis].emit(b), b.constant(start + extent));
    return l.if(
      first,
      () => [here()],
      () => [pick(from + 1, start + extent)],
    )[0];
  };
  return pick(0, 0);
}
