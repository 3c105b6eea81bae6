/** Random models whose operators stand in the bodies of Loop, Scan and If. */
import type { MessageInit } from '../../../compiler/frontends/onnx/proto.js';
import { value } from '../onnx_model.js';
import { gemm, matrixProduct } from './contractions.js';
import { type Draft, flag, type Made, one } from './draft.js';
import { moved } from './movement.js';
import { normalisation, softmax } from './rows.js';

const bodies = [gemm, matrixProduct, softmax, normalisation, (d: Draft): Made => moved(d, softmax(d))] as const;

const graphOf = (
  nodes: MessageInit<'NodeProto'>[],
  inputs: MessageInit<'ValueInfoProto'>[],
  outputs: readonly Made[],
) => ({
  name: 'body',
  node: nodes,
  input: inputs,
  output: outputs.map(({ name, dtype }) => value(name, dtype)),
});

/** A value of the outer graph, counted or changed by each trip of a Loop; what the body sees is the outer graph's. */
export function inLoop(d: Draft): Made {
  const { c } = d;
  const x = one(c, bodies)(d);
  const trips = c.int(0, 4);
  const from = d.nodes;
  const carried: Made = { name: `carried_${x.name}`, dtype: x.dtype, shape: x.shape };
  const changed = d.map(flag(c) ? 'Add' : 'Mul', carried, {}, d.numbers(x.dtype, [], [0.5]));
  const mixed = flag(c) ? d.map('Sub', x, {}, changed) : changed;
  const kept = d.op('Identity', [{ name: 'on', dtype: 'bool', shape: [] }], [], {}, 'bool');
  const stacked = flag(c) ? d.map('Neg', mixed) : undefined;
  const nodes = d.take(from);
  const inputs = [value('trip', 'i64', []), value('on', 'bool', []), value(carried.name, x.dtype)];
  const body = graphOf(nodes, inputs, [kept, mixed, ...(stacked ? [stacked] : [])]);
  const limit = d.constant({ dtype: 'i64', shape: [], data: BigInt64Array.of(BigInt(trips)) });
  const [last, stack] = d.several('Loop', [limit, undefined, x], { body }, [
    { dtype: x.dtype, shape: x.shape },
    ...(stacked ? [{ dtype: x.dtype, shape: [trips, ...x.shape] }] : []),
  ]);
  if (stack) d.output(stack);
  return last;
}

/** Either of two bodies, by a condition that is an input. */
export function inBranch(d: Draft): Made {
  const { c } = d;
  const x = one(c, bodies)(d);
  const condition = d.data('bool', [], { as: flag(c) ? 'input' : 'constant' });
  const branch = (): ReturnType<typeof graphOf> => {
    const from = d.nodes;
    const y = flag(c) ? d.map('Abs', d.map('Add', x, {}, d.numbers(x.dtype, [], [1]))) : d.map('Neg', x);
    return graphOf(d.take(from), [], [y]);
  };
  const attrs = { then_branch: branch(), else_branch: branch() };
  return d.op('If', [condition], x.shape, attrs, x.dtype);
}
