/** Losses of classifiers, as they stand in exported training graphs. */
import {
  binaryC,
  cast,
  div,
  full,
  gather,
  mul,
  reshape,
  scalar,
  select3,
  unary,
  unsqueeze,
} from '../../../graph/compose/index.js';
import type { Value } from '../../../graph/types.js';
import type { Conversion, ConvertContext } from '../context.js';

/** -weight[target] · x[target], over axis 1; targets equal to ignore_index do not count. */
function logLikelihood(c: ConvertContext, logs: Value): Value {
  const target = cast(c.b, c.input(1), 'i64');
  const { dtype } = logs.type;
  const ignored = c.hasAttr('ignore_index') ? binaryC(c.b, 'eq', target, c.int('ignore_index')) : undefined;
  const zero = scalar(c.b, 0, dtype);
  const index = ignored === undefined ? target : select3(c.b, ignored, scalar(c.b, 0, 'i64'), target);
  const picked = c.op('gather_elements', [logs, unsqueeze(c.b, index, [1])], { axis: 1 });
  const loss = unary(c.b, 'neg', reshape(c.b, picked, target.type.shape));
  const given = c.has(2) ? gather(c.b, c.input(2), index, 0) : undefined;
  const weight = ignored === undefined ? given : select3(c.b, ignored, zero, given ?? scalar(c.b, 1, dtype));
  const weighted = weight === undefined ? loss : mul(c.b, loss, weight);
  const axes = loss.type.shape.map((_, i) => i);
  const total = (x: Value): Value => c.op('reduce', [x], { fn: 'sum', axes, keep: false });
  const reduction = c.choice('reduction', ['none', 'sum', 'mean'] as const, 'mean');
  if (reduction === 'none') return weighted;
  if (reduction === 'sum') return total(weighted);
  return div(c.b, total(weighted), total(weight ?? full(c.b, 1, dtype, loss.type.shape)));
}

export const losses: readonly Conversion[] = [
  { op: 'NegativeLogLikelihoodLoss', since: 12, convert: (c) => logLikelihood(c, c.input(0)) },
  {
    op: 'SoftmaxCrossEntropyLoss',
    since: 12,
    convert(c) {
      const logs = c.op('softmax', [c.input(0)], { axes: [1], log: true });
      return [logLikelihood(c, logs), logs];
    },
  },
];
