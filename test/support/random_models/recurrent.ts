/** Random recurrent layers: directions, lengths, initial states, layouts. */
import { type Draft, type Extent, flag, type Made, one, rarely } from './draft.js';

const gates = { LSTM: 4, GRU: 3, RNN: 1 } as const;

export function recurrent(d: Draft): Made {
  const { c } = d;
  const op = one(c, ['LSTM', 'GRU', 'RNN'] as const);
  const direction = one(c, ['forward', 'reverse', 'bidirectional']);
  const directions = direction === 'bidirectional' ? 2 : 1;
  const [steps, batch] = [d.vary(c.int(1, 6)), d.vary(c.int(1, 3))];
  const [width, hidden] = [one(c, [3, 1, 4, 8, 17]), one(c, [2, 1, 4, 5, 8, 16])];
  const rows = gates[op] * hidden;
  const small = { step: 0.125 };
  const x = d.data('f32', [steps, batch, width], { as: 'input', ...small });
  const [w, r] = [d.data('f32', [directions, rows, width], small), d.data('f32', [directions, rows, hidden], small)];
  const bias = flag(c) ? d.data('f32', [directions, 2 * rows], small) : undefined;
  // Lengths of none, some or all of the steps there are.
  const most = d.size(steps);
  const lengths =
    rarely(c, 3) && typeof steps === 'number' ? d.data('i32', [batch], { as: 'input', low: 1, high: most }) : undefined;
  const states: Extent[] = [directions, batch, hidden];
  const initial = (): Made | undefined => (rarely(c, 3) ? d.data('f32', states, small) : undefined);
  const [h, cell] = [initial(), op === 'LSTM' ? initial() : undefined];
  const peepholes = op === 'LSTM' && rarely(c, 3) ? d.data('f32', [directions, 3 * hidden], small) : undefined;
  const attrs = {
    hidden_size: BigInt(hidden),
    direction,
    ...(op === 'GRU' ? { linear_before_reset: flag(c) ? 1n : 0n } : {}),
    // Whether the cell of an LSTM is clipped before its activation is read in two ways.
    ...(rarely(c, 4) && op !== 'LSTM' ? { clip: 0.5 } : {}),
  };
  const [y, last] = d.several(op, [x, w, r, bias, lengths, h, cell, peepholes], attrs, [
    { dtype: 'f32', shape: [steps, directions, batch, hidden] },
    { dtype: 'f32', shape: states },
  ]);
  if (flag(c)) return y;
  d.output(y);
  return last;
}
