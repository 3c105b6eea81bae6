/**
 * Small floats and packed integers are types of storage: kernels move their elements and convert them, and compute on
 * nothing so small. What computes on them gets casts around it: floats in f32, integers in a byte, the result rounded
 * or wrapped once, as in a type of their own.
 *
 * A loop holds slices of arrays in place, and a slice may start within a byte: at its border packed types are widened.
 */
import { type DType, type IntDType, integerRange, isInt, isMiniFloat, isPacked, isSigned } from '../dtype.js';
import { GraphBuilder } from '../graph/builder.js';
import { cast, clamp } from '../graph/compose/index.js';
import type { Graph, Node, NodeOf, OpKind, Value } from '../graph/types.js';
import { keep, rewrite } from './rewrite.js';

export const widen = (graph: Graph): Graph =>
  rewrite(graph, (node, inputs, { b }) => {
    if (node.op === 'scan') return widenLoop(b, node, inputs);
    const isSmall = ({ type }: Value) => wideOf(type.dtype) !== type.dtype;
    if (moves(node) || !(node.inputs.some(isSmall) || node.outputs.some(isSmall))) return undefined;
    return widenNode(b, node, inputs);
  });

/** The type in which elements are computed. */
function wideOf(dtype: DType): DType {
  if (isMiniFloat(dtype)) return 'f32';
  return isPacked(dtype) ? (isSigned(dtype) ? 'i8' : 'u8') : dtype;
}

/** Whether only places and types of elements change. */
function moves(node: Node): boolean {
  switch (node.op) {
    case 'reshape':
    case 'transpose':
    case 'broadcast':
    case 'slice':
    case 'pad':
    case 'concat':
    case 'gather':
    case 'gather_elements':
    case 'gather_nd':
    case 'select':
    case 'cast':
    case 'bitcast':
    case 'shape_of':
    case 'source_op':
      return true;
    case 'scatter_elements':
    case 'scatter_nd':
      return node.attrs.fn === 'set';
    default:
      return false;
  }
}

function widenNode(b: GraphBuilder, node: Node, inputs: readonly Value[]): readonly Value[] {
  // Each once: what takes a value twice is known by that.
  const wide = new Map([...new Set(inputs)].map((input) => [input, cast(b, input, wideOf(input.type.dtype))]));
  const operands = inputs.map((input) => wide.get(input) as Value);
  const results = b.op<OpKind>(node.op, operands, wideAttrs(node));
  return node.outputs.map(({ type: { dtype } }, i) => {
    const isCut = isInt(dtype) && isPacked(dtype) && selects(node);
    return cast(b, isCut ? clampTo(b, results[i], dtype) : results[i], dtype, false);
  });
}

/** Attributes that name a type or are values of one. */
function wideAttrs(node: Node): Node['attrs'] {
  switch (node.op) {
    case 'dot':
    case 'conv':
    case 'iota':
      return { ...node.attrs, dtype: wideOf(node.attrs.dtype) } as Node['attrs'];
    case 'clamp': {
      const { dtype } = node.inputs[0].type;
      if (!isInt(dtype)) return node.attrs;
      // Bounds are cut to the range of the type.
      const [least, most] = integerRange(dtype).map(Number);
      const cut = (bound: number | null) => (bound === null ? null : Math.min(Math.max(bound, least), most));
      return { min: cut(node.attrs.min), max: cut(node.attrs.max) };
    }
    default:
      return node.attrs;
  }
}

/** Where nothing is there to choose from, the result is the extreme of the type. */
const selects = ({ op, attrs }: Node): boolean =>
  (op === 'reduce' || op === 'cumulative' || op === 'reduce_window') &&
  ((attrs as { readonly fn: string }).fn === 'max' || (attrs as { readonly fn: string }).fn === 'min');

const clampTo = (b: GraphBuilder, value: Value, dtype: IntDType): Value => {
  const [least, most] = integerRange(dtype).map(Number);
  return clamp(b, value, least, most);
};

// --- loops ---------------------------------------------------------------------------------------------------------

/** What a loop holds in place: carried values, scanned and stacked arrays, but not what it captures. */
function widenLoop(b: GraphBuilder, node: NodeOf<'scan'>, inputs: readonly Value[]): readonly Value[] | undefined {
  const { body, carried, scanned, iteration } = node.attrs;
  const placed = carried + scanned.length;
  const isPlacedPacked = ({ type }: Value, i: number) => i < placed && isPacked(type.dtype);
  if (!(node.inputs.some(isPlacedPacked) || node.outputs.some(({ type }) => isPacked(type.dtype)))) return undefined;
  const operands = inputs.map((input, i) => (i < placed ? cast(b, input, borderOf(input.type.dtype)) : input));
  const wideBody = widenBorder(body, placed + (iteration ? 1 : 0));
  const results = b.op('scan', operands, { ...node.attrs, body: wideBody });
  return node.outputs.map(({ type: { dtype } }, i) => cast(b, results[i], dtype, false));
}

/** Floats of a byte are whole bytes: their codes are held as they are. */
const borderOf = (dtype: DType): DType => (isPacked(dtype) ? wideOf(dtype) : dtype);

/** The body with its first inputs and its outputs wide, where they were packed. */
function widenBorder(body: Graph, placed: number): Graph {
  const b = new GraphBuilder(body.name);
  const mapped = new Map<number, Value>();
  body.inputs.forEach(({ id, name, type: { dtype, shape } }, i) => {
    mapped.set(id, cast(b, b.input(name, i < placed ? borderOf(dtype) : dtype, shape), dtype, false));
  });
  for (const [id, data] of body.constants) mapped.set(id, b.constant(data));
  const mappedOf = ({ id }: Value): Value => mapped.get(id) as Value;
  for (const node of body.nodes) {
    b.source = node.source;
    const outputs = keep(b, node, node.inputs.map(mappedOf));
    node.outputs.forEach(({ id }, i) => {
      mapped.set(id, outputs[i]);
    });
  }
  for (const { name, value } of body.outputs) b.output(name, cast(b, mappedOf(value), borderOf(value.type.dtype)));
  return b.finish();
}
