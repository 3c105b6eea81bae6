/** Ops of detectors: greedy suppression of overlapping boxes. */
import type { OpDefinition } from '../definition.js';
import { agree, checkDType, checkInteger, checkLength, define } from './common.js';
import * as reference from './reference/detection.js';

const suppress = define<'suppress'>({
  kind: 'suppress',
  summary:
    'Of boxes [B, n, 4] (low x, low y, high x, high y) by scores [B, C, n], the greatest first: up to `limit` whose ' +
    'score exceeds a threshold and whose overlap with those before does not exceed another; i64 [B, C, limit], -1 at the end',
  arity: 4,
  family: 'special',
  infer(context) {
    const {
      attrs: { limit },
      inputs: [boxes, scores, overlap, least],
    } = context;
    for (const [i, type] of context.inputs.entries()) {
      checkDType(context, type.dtype, 'float', `input ${i} of suppress`);
      if (type.dtype !== 'f32') context.fail(`wrong element type of input ${i} of suppress`, 'f32', type.dtype);
    }
    checkLength(context, boxes.shape, 3, 'dims of the boxes');
    checkLength(context, scores.shape, 3, 'dims of the scores');
    checkLength(context, overlap.shape, 0, 'dims of the greatest overlap');
    checkLength(context, least.shape, 0, 'dims of the least score');
    checkInteger(context, limit, 0, 'limit');
    agree(context, boxes.shape[2], 4, 'coordinates of a box');
    const batch = agree(context, boxes.shape[0], scores.shape[0], 'batches of boxes and scores');
    const count = agree(context, boxes.shape[1], scores.shape[2], 'numbers of boxes and scores');
    if (typeof count === 'number' && limit > count) {
      context.fail('limit of suppress exceeds the number of boxes', `at most ${count}`, String(limit));
    }
    return [{ dtype: 'i64', shape: [batch, scores.shape[1], limit] }];
  },
  evaluate: ({ inputs: [boxes, scores, overlap, least], outputs: [{ shape }] }) => [
    reference.suppress(boxes, scores, overlap, least, shape),
  ],
});

export const detection = { suppress } satisfies { readonly [K in 'suppress']: OpDefinition<K> };
