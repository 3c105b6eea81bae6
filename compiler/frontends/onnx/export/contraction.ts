/** Contractions as MatMul where they are one, else as Einsum. */
import { type Convert, cast, dtypeIn, type Names, shapeIn } from './convert.js';

const letters = 'abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ';

export const dot: Convert<'dot'> = (c, node, [x, y]) => {
  const { lhsBatch, rhsBatch, lhsContract, rhsContract, dtype } = node.attrs;
  const [left, right] = [shapeIn(node, 0).length, shapeIn(node, 1).length];
  const inputs = [cast(c, x, dtypeIn(node), dtype), cast(c, y, dtypeIn(node, 1), dtype)];
  const n = lhsBatch.length;
  const inOrder = [lhsBatch, rhsBatch].every((axes) => axes.every((axis, i) => axis === i));
  const matrices = left === n + 2 && right === n + 2 && lhsContract.length === 1;
  if (inOrder && matrices && lhsContract[0] === n + 1 && rhsContract[0] === n) return c.one('MatMul', inputs);
  if (left + right > letters.length) return c.unsupported(`a contraction over ${left + right} axes`);
  const lhs = Array.from({ length: left }, (_, i) => letters[i]);
  const rhs = Array.from({ length: right }, (_, i) => letters[left + i]);
  for (const [own, other] of [
    [lhsBatch, rhsBatch],
    [lhsContract, rhsContract],
  ]) {
    own.forEach((axis, i) => {
      rhs[other[i]] = lhs[axis];
    });
  }
  const free = (labels: Names, ...bound: readonly number[]) => labels.filter((_, i) => !bound.includes(i));
  const out = [
    ...lhsBatch.map((axis) => lhs[axis]),
    ...free(lhs, ...lhsBatch, ...lhsContract),
    ...free(rhs, ...rhsBatch, ...rhsContract),
  ];
  return c.one('Einsum', inputs, { equation: `${lhs.join('')},${rhs.join('')}->${out.join('')}` });
};
