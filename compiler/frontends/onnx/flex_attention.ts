/** FlexAttention (ai.onnx.preview): attention whose scores and probabilities go through graphs of the model. */
import type { DType } from '../../dtype.js';
import { isGraph } from '../../graph/attributes.js';
import { binaryC, cast, reshape, softmax } from '../../graph/compose/index.js';
import type { HostBuilder } from '../../graph/host_values.js';
import type { Value } from '../../graph/types.js';
import { isList, type Mapped } from '../../passes/mapped.js';
import type { Resolved, SourceContext } from '../../passes/source.js';
import { bodyOf, checkBody, invalid, tensorAt } from './bodies.js';
import { ConvertContext } from './context.js';
import { dtypeOf } from './tensors.js';

/** A product over the last axis of x [B, H, …] and `axis` of y [B, H, …], head by head. */
const product = (b: HostBuilder, x: Value, y: Value, axis: number): Value =>
  b.op('dot', [x, y], {
    lhsBatch: [0, 1],
    rhsBatch: [0, 1],
    lhsContract: [x.type.shape.length - 1],
    rhsContract: [axis],
    dtype: x.type.dtype,
  })[0];

/** Inputs: Q [B, Hq, L, E], K [B, H, S, E], V [B, H, S, D]; several query heads in a row may share those of K and V. */
export function flexAttention(c: SourceContext): Resolved {
  const { node } = c;
  const { name, domain, opset, attrs } = node.attrs;
  const given = c.inputs.map((_, i) => tensorAt(c, i));
  const operator = { op: name, domain, opset, attrs, wanted: [true], source: node.source };
  const source = new ConvertContext(c.b, operator, given);
  const [batch, queries, rows, width] = source.concreteDims(source.ranked(0, 4));
  const [, heads, columns] = source.concreteDims(source.ranked(1, 4), 1);
  source.ranked(2, 4);
  if (heads < 1 || queries % heads !== 0)
    source.fail('query heads are no multiple of the heads of keys', `a multiple of ${heads}`, String(queries));
  const precision = source.hasAttr('softmax_precision')
    ? dtypeOf(source.int('softmax_precision'), node.source.node)
    : wideOf(source.dtype(0));
  const wide = wideOf(source.dtype(0));
  c.b.source = node.source;
  const grouped = reshape(c.b, cast(c.b, given[0], wide), [batch, heads, queries / heads, rows, width]);
  const raw = product(c.b, grouped, cast(c.b, given[1], wide), 3);
  const scale = source.hasAttr('scale') ? source.float('scale') : 1 / Math.sqrt(width);
  const scores = reshape(c.b, binaryC(c.b, 'mul', raw, scale), [batch, queries, rows, columns]);
  return modified(c, 'score_mod', cast(c.b, scores, precision), [given[2], ...c.captured], afterScores);
}

const wideOf = (dtype: DType): DType => (dtype === 'f64' ? 'f64' : 'f32');

type Next = (c: SourceContext, value: Value, saved: readonly Mapped[]) => Resolved;

/** What a graph of the node makes of a value, if it has such a graph. `saved` are V and what the graphs capture. */
function modified(c: SourceContext, graph: string, value: Value, saved: readonly Mapped[], next: Next): Resolved {
  if (!isGraph(c.node.attrs.attrs[graph])) return next(c, value, saved);
  const body = bodyOf(c.node, graph);
  checkBody(c.node, body, saved.length, 1);
  const { dtype, shape } = value.type;
  const [, ...captured] = saved;
  return {
    body,
    inputs: [value, ...captured],
    saved,
    then(context, [result], kept) {
      if (result === null || isList(result)) return invalid(c.node, `${graph} must give a tensor`);
      const { type } = result as Value;
      if (type.dtype !== dtype || String(type.shape) !== String(shape)) {
        const print = (t: typeof type): string => `${t.dtype}[${t.shape.join(', ')}]`;
        invalid(c.node, `${graph} changes the type`, print({ dtype, shape }), print(type));
      }
      return next(
        context,
        result as Value,
        kept.map((value) => context.use(value)),
      );
    },
  };
}

const afterScores: Next = (c, scores, saved) => modified(c, 'prob_mod', softmax(c.b, scores, [-1]), saved, weighted);

const weighted: Next = (c, probabilities, [given]) => {
  const values = given as Value;
  const [batch, heads, columns, width] = values.type.shape.map(Number);
  const [, queries, rows] = probabilities.type.shape.map(Number);
  const wide = wideOf(probabilities.type.dtype);
  const grouped = reshape(c.b, cast(c.b, probabilities, wide), [batch, heads, queries / heads, rows, columns]);
  const result = product(c.b, grouped, cast(c.b, values, wide), 2);
  return [cast(c.b, reshape(c.b, result, [batch, queries, rows, width]), values.type.dtype)];
};
