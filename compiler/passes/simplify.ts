/** Local simplifications: ops that change nothing, and movement that merges with its neighbour. */
import { shapeEquals } from '../graph/dims.js';
import { firstElement } from '../graph/ops/reference/data.js';
import type { Graph, Node, OpKind, Value } from '../graph/types.js';
import { sizeOf } from '../tensor.js';
import { type RewriteContext, rewrite } from './rewrite.js';

export function simplify(graph: Graph): Graph {
  return rewrite(graph, (node, inputs, context) => {
    const rule = rules[node.op];
    return rule?.(node as never, inputs, context);
  });
}

type Rule<K extends OpKind> = (
  node: Extract<Node, { op: K }>,
  inputs: readonly Value[],
  context: RewriteContext,
) => readonly Value[] | undefined;

const sameType = (a: Value, b: Value): boolean =>
  a.type.dtype === b.type.dtype && shapeEquals(a.type.shape, b.type.shape);
/** The input if the node does not even change the type; then it changes nothing. */
const ifSameType = (node: Node, [x]: readonly Value[]) =>
  node.inputs.length === 1 && sameType(x, node.outputs[0]) ? [x] : undefined;

const isSplat = (value: Value, wanted: number, { constant, producer }: RewriteContext): boolean => {
  const from = producer(value);
  if (from && (from.op === 'broadcast' || from.op === 'reshape'))
    return isSplat(from.inputs[0], wanted, { constant, producer } as RewriteContext);
  const data = constant(value);
  return data !== undefined && sizeOf(data.shape) === 1 && Number(firstElement(data.load())) === wanted;
};

/** x op neutral = x. */
const neutralRight =
  (neutral: number) =>
  (_: Node, [x, y]: readonly Value[], context: RewriteContext) =>
    isSplat(y, neutral, context) ? [x] : undefined;
const neutral =
  (value: number) =>
  (_: Node, [x, y]: readonly Value[], context: RewriteContext) =>
    isSplat(y, value, context) ? [x] : isSplat(x, value, context) ? [y] : undefined;

const rules: { readonly [K in OpKind]?: Rule<K> } = {
  reshape: (node, inputs, context) => {
    const [x] = inputs;
    const from = context.producer(x);
    if (sameType(x, node.outputs[0])) return [x];
    if (from?.op === 'reshape') return context.b.op('reshape', [from.inputs[0]], node.attrs, [node.outputs[0].name]);
    return undefined;
  },
  broadcast: ifSameType,
  cast: ifSameType,
  concat: ifSameType,
  transpose: (node, [x], context) => {
    const { permutation } = node.attrs;
    if (permutation.every((from, i) => from === i)) return [x];
    const from = context.producer(x);
    if (from?.op !== 'transpose') return undefined;
    const merged = permutation.map((i) => from.attrs.permutation[i]);
    if (merged.every((at, i) => at === i)) return [from.inputs[0]];
    return context.b.op('transpose', [from.inputs[0]], { permutation: merged }, [node.outputs[0].name]);
  },
  slice: (node, [x]) =>
    shapeEquals(x.type.shape, node.outputs[0].type.shape) && node.attrs.steps.every((step) => step === 1)
      ? [x]
      : undefined,
  pad: (node, [x]) => (shapeEquals(x.type.shape, node.outputs[0].type.shape) ? [x] : undefined),
  add: neutral(0),
  sub: neutralRight(0),
  mul: neutral(1),
  div: neutralRight(1),
  pow: (node, [x, y], context) => {
    if (!sameType(x, node.outputs[0])) return undefined;
    if (isSplat(y, 1, context)) return [x];
    const { b } = context;
    const names = [node.outputs[0].name];
    if (isSplat(y, 2, context)) return b.op('mul', [x, x], {}, names);
    // Two roundings show in the types of 16 bits.
    const isWide = x.type.dtype === 'f32' || x.type.dtype === 'f64';
    if (isWide && isSplat(y, 3, context)) return b.op('mul', [b.op('mul', [x, x], {})[0], x], {}, names);
    return undefined;
  },
  /** The extreme of a wide window is the extreme of its rows' extremes: dim by dim it takes fewer comparisons. */
  reduce_window: (node, [x], { b }) => {
    const { fn, window, strides, padLow, padHigh, dilations } = node.attrs;
    const wide = window.flatMap((extent, d) => (extent > 1 ? [d] : []));
    const together = wide.reduce((product, d) => product * window[d], 1);
    const apart = wide.reduce((sum, d) => sum + window[d], 0);
    if ((fn !== 'max' && fn !== 'min') || wide.length < 2 || together < 2 * apart) return undefined;
    return wide.reduce<readonly Value[]>(
      ([value], at) => {
        // Dims without a window may have strides and padding too: they go with the first.
        const of = <T>(values: readonly T[], none: T): T[] =>
          values.map((one, d) => (d === at || (at === wide[0] && window[d] === 1) ? one : none));
        const attrs = {
          fn,
          window: of(window, 1),
          strides: of(strides, 1),
          padLow: of(padLow, 0),
          padHigh: of(padHigh, 0),
          dilations: of(dilations, 1),
        };
        return b.op('reduce_window', [value], attrs);
      },
      [x],
    );
  },
  /** Zero padding of spatial dims belongs to the convolution. */
  conv: (node, [x, w], context) => {
    const pad = context.producer(x);
    if (pad?.op !== 'pad' || pad.attrs.mode !== 'constant' || context.uses(node.inputs[0]) > 1) return undefined;
    const { low, high } = pad.attrs;
    if ([low[0], low[1], high[0], high[1]].some((p) => p !== 0) || !isSplat(pad.inputs[1], 0, context))
      return undefined;
    if (node.attrs.inputDilation.some((step) => step !== 1)) return undefined;
    const grown = (own: readonly unknown[], more: readonly unknown[]) =>
      own.map((p, d) => Number(p) + Number(more[d + 2]));
    const attrs = { ...node.attrs, padLow: grown(node.attrs.padLow, low), padHigh: grown(node.attrs.padHigh, high) };
    return context.b.op('conv', [pad.inputs[0], w], attrs, [node.outputs[0].name]);
  },
};
