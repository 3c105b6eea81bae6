/** Ops that never become kernels: shapes as values, and source operators that wait for them. */
import { TuttiError } from '../../error.js';
import type { OpDefinition } from '../definition.js';
import type { OpKind } from '../types.js';
import { checkInteger, define } from './common.js';

const shapeOf = define<'shape_of'>({
  kind: 'shape_of',
  summary: 'i64 vector of the dims [start, end) of x',
  arity: 1,
  family: 'host',
  infer(context) {
    const {
      attrs: { start, end },
      inputs: [x],
    } = context;
    checkInteger(context, start, 0, 'start');
    checkInteger(context, end, start, 'end');
    if (end > x.shape.length)
      context.fail('end of shape_of exceeds the rank', `at most ${x.shape.length}`, String(end));
    return [{ dtype: 'i64', shape: [end - start] }];
  },
  evaluate({ attrs: { start, end }, inputs: [x] }) {
    return [{ dtype: 'i64', shape: [end - start], data: BigInt64Array.from(x.shape.slice(start, end), BigInt) }];
  },
});

const sourceOp = define<'source_op'>({
  kind: 'source_op',
  summary: 'A source operator that cannot be converted before its shapes or parameter tensors are known',
  arity: [0, Infinity],
  family: 'host',
  infer(context) {
    return context.fail(`result types of ${context.attrs.name} are not known before the graph is specialised`);
  },
  evaluate({ attrs, source }) {
    throw new TuttiError('E_SHAPE', `${attrs.name} waits for shapes or parameter tensors`, {
      subject: source.node,
      remedy: 'Give the shapes of the model inputs so that the graph can be specialised.',
    });
  },
});

export const host = { shape_of: shapeOf, source_op: sourceOp } satisfies {
  readonly [K in ('shape_of' | 'source_op') & OpKind]: OpDefinition<K>;
};
