/** How each graph op is written in ONNX operators. */
import type { OpKind } from '../../../graph/types.js';
import { normalize, resize, softmax } from './composites.js';
import { dot } from './contraction.js';
import type { Conversions } from './convert.js';
import { elementwise } from './elementwise.js';
import { movement } from './movement.js';
import { reductions } from './reduction.js';
import { scan } from './scan.js';
import { conv, reduceWindow, windowArgmax } from './windows.js';

export const conversions: Conversions<OpKind> = {
  ...elementwise,
  ...movement,
  ...reductions,
  dot,
  conv,
  reduce_window: reduceWindow,
  window_argmax: windowArgmax,

  suppress: (c) => c.unsupported('suppression of boxes in batches'),
  random_bits: (c) => c.unsupported('random bits'),
  softmax,
  normalize,
  resize,
  scan,
  shape_of: (c, { attrs: { start, end } }, inputs) =>
    c.one('Shape', inputs, { start: BigInt(start), end: BigInt(end) }),
  source_op: (c, { attrs: { name } }) => c.unsupported(`${name} waits for its shapes; specialise the graph first`),
};
