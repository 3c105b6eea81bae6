/**
 * Elements of what nodes compute, one rule an op: views change the index, elementwise ops combine the elements of their
 * operands.
 */
import { definitionOf } from '../graph/ops/index.js';
import type { Node, NodeOf, OpKind, Value } from '../graph/types.js';
import type { KValue, Lanes } from '../kernel/types.js';
import { Affine, delinearize, linearize } from './affine.js';
import { inside } from './inside.js';
import type { Lowering } from './lowering.js';
import { type Index, range, scalarOf, shapeOf } from './tensors.js';

type ScalarRule = NonNullable<ReturnType<typeof definitionOf<OpKind>>['scalar']>;

/** The element of `output`, which `node` computes, at `index`: as `Lowering.value`. */
export function elementOf(l: Lowering, node: Node, output: Value, index: Index, lanes: Lanes): KValue {
  const { b } = l;
  const [x, y] = node.inputs;
  switch (node.op) {
    case 'reshape':
      return l.value(x, delinearize(linearize(index, shapeOf(output)), shapeOf(x)), lanes);
    case 'transpose': {
      const source: Affine[] = [];
      node.attrs.permutation.forEach((from, i) => {
        source[from] = index[i];
      });
      return l.value(x, source, lanes);
    }
    case 'broadcast': {
      const offset = index.length - shapeOf(x).length;
      return l.value(
        x,
        shapeOf(x).map((dim, d) => (dim === 1 ? Affine.constant(0) : index[d + offset])),
        lanes,
      );
    }
    case 'slice': {
      const { starts, steps } = node.attrs;
      return l.value(
        x,
        index.map((i, d) => i.scale(steps[d]).add(Number(starts[d]))),
        lanes,
      );
    }
    case 'pad':
      return padded(l, node, index, lanes);
    case 'concat':
      return l.perLane(index, lanes, (i) => concatenated(l, node, i));
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
        return l.value(x, [...i.slice(0, axis), at, ...i.slice(axis + extra)], 1);
      });
    }
    case 'gather_elements': {
      const { axis } = node.attrs;
      return l.perLane(index, lanes, (i) => {
        const at = l.dataIndex(l.value(y, i, 1), shapeOf(x)[axis]);
        return l.value(
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
        return l.value(x, [...i.slice(0, batchDims), ...ats, ...i.slice(outer)], 1);
      });
    }
    default: {
      const scalar = definitionOf(node.op).scalar;
      if (!scalar) throw new Error(`${node.op} cannot be lowered inside a ${l.group.family} kernel`);
      return elementwise(l, node, output, index, lanes, scalar as ScalarRule);
    }
  }
}

function elementwise(l: Lowering, node: Node, output: Value, index: Index, lanes: Lanes, rule: ScalarRule): KValue {
  const args = node.inputs.map((input) => l.value(input, index, lanes));
  const wide = args.some((arg) => arg.type.lanes > 1) ? lanes : 1;
  return rule(
    l.b,
    args.map((arg) => l.widen(arg, wide)),
    {
      attrs: node.attrs as never,
      inputs: node.inputs.map((input) => input.type.dtype),
      output: output.type.dtype,
    },
  );
}

function padded(l: Lowering, node: NodeOf<'pad'>, index: Index, lanes: Lanes): KValue {
  const [x, fill] = node.inputs;
  const { low, mode } = node.attrs;
  const extents = shapeOf(x);
  const shifted = index.map((i, d) => i.sub(Number(low[d])));
  if (mode === 'constant') {
    const otherwise = () =>
      l.value(
        fill,
        shapeOf(fill).map(() => Affine.constant(0)),
        1,
      );
    return inside(l, shifted, extents, lanes, (i, width) => l.value(x, i, width), otherwise);
  }
  const inBox = (i: Affine, d: number) => i.range.min >= 0 && i.range.max < extents[d];
  const element = (at: Index, width: Lanes) =>
    l.value(
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

function concatenated(l: Lowering, node: NodeOf<'concat'>, index: Index): KValue {
  const { b } = l;
  const { axis } = node.attrs;
  const pick = (from: number, start: number): KValue => {
    const input = node.inputs[from];
    const extent = shapeOf(input)[axis];
    const here = (): KValue => {
      const local = index[axis].sub(start);
      const inRange = local.range.min >= 0 && local.range.max < extent;
      const at = inRange ? local : Affine.of(b.clamp(local.emit(b), 0, Math.max(0, extent - 1)), b);
      return l.value(
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
