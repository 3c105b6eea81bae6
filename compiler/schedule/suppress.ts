/**
 * Greedy suppression of boxes: a workgroup for each batch and class. One pass over the boxes that are left finds the
 * best one and, at the same time, drops those that overlap the one chosen before; which are left is a bit each, in
 * shared memory. As many passes as boxes are wanted, without sorting, and without a step on the host.
 */
import { TuttiError } from '../error.js';
import { describe } from '../graph/builder.js';
import type { NodeOf } from '../graph/types.js';
import type { Target } from '../kernel/target.js';
import type { KernelFunction, KValue } from '../kernel/types.js';
import { Affine, delinearize } from './affine.js';
import type { Group } from './group.js';
import { Lowering } from './lowering.js';
import { type Index, shapeOf } from './tensors.js';

/** The best box so far and its score; the number of boxes stands for none. */
type Best = readonly [score: KValue, box: KValue];

export function lowerSuppress(group: Group, target: Target, node: NodeOf<'suppress'>): KernelFunction {
  const [boxes, scores, overlap, least] = node.inputs;
  const [selected] = node.outputs;
  const [batches, classes, limit] = shapeOf(selected);
  const count = shapeOf(scores)[2];
  const { perWord, words, workgroup } = shareOf(target, node, count);
  const lowering = new Lowering(group, target);
  const { b } = lowering;
  const local = Affine.of(b.builtin('local_id', 0, workgroup), b);
  const left = b.array('left', 'shared', 'u32', words);
  const bestScores = b.array('scores', 'shared', 'f32', workgroup);
  const bestBoxes = b.array('boxes', 'shared', 'i32', workgroup);
  const none: Best = [b.constant(-Infinity, 'f32'), b.constant(count)];

  const better = (p: Best, q: Best): Best => {
    const earlier = b.and(b.compare('eq', p[0], q[0]), b.compare('lt', p[1], q[1]));
    const first = b.or(b.compare('gt', p[0], q[0]), earlier);
    return [b.select(first, p[0], q[0]), b.select(first, p[1], q[1])];
  };

  /** Visits the invocation's own words: `body` gets a word's place and the best so far. */
  const own = (body: (word: Affine, best: Best) => readonly KValue[]): Best => {
    const result = lowering.for(0, Math.ceil(words / workgroup), 1, none, (i, best) => {
      const word = i.scale(workgroup).add(local);
      if (word.range.max < words) return body(word, best as unknown as Best);
      const value = word.emit(b);
      return lowering.if(
        b.compare('lt', value, b.constant(words)),
        () => body(Affine.of(b.assume(value, 0, words - 1), b), best as unknown as Best),
        () => best,
      );
    });
    return result as unknown as Best;
  };

  /** Sets a word's bits: those of boxes for which `stays` holds. Returns the best of them and of those before. */
  const sift = (row: Index, word: Affine, best: Best, stays: (box: Affine, bit: KValue) => KValue): Best => {
    const one = b.constant(1, 'u32');
    const [bits, score, box] = lowering.for(0, perWord, 1, [b.constant(0, 'u32'), ...best], (i, carried) => {
      const place = word.scale(perWord).add(i);
      const inside = place.range.max < count ? place : Affine.of(b.clamp(place.emit(b), 0, count - 1), b);
      const exists = b.compare('lt', place.emit(b), b.constant(count));
      const bit = b.binary('shl', one, b.convert(i.emit(b), 'u32'));
      const remains = b.and(exists, stays(inside, bit));
      const value = lowering.value(scores, [...row, inside], 1);
      const next = better([value, inside.emit(b)], [carried[1], carried[2]]);
      return [
        b.select(remains, b.binary('or', carried[0], bit), carried[0]),
        b.select(remains, next[0], carried[1]),
        b.select(remains, next[1], carried[2]),
      ];
    });
    b.store(left, word.emit(b), bits);
    return [score, box];
  };

  /** The best of all invocations. */
  const agreed = (best: Best): Best => {
    if (workgroup === 1) return best;
    const at = local.emit(b);
    b.store(bestScores, at, best[0]);
    b.store(bestBoxes, at, best[1]);
    const load = (place: KValue): Best => [b.load(bestScores, place), b.load(bestBoxes, place)];
    for (let width = workgroup / 2; width >= 1; width /= 2) {
      b.barrier();
      lowering.if(b.compare('lt', at, b.constant(width)), () => {
        const low = b.assume(at, 0, width - 1);
        const [score, box] = better(load(low), load(b.addc(low, width)));
        b.store(bestScores, low, score);
        b.store(bestBoxes, low, box);
      });
    }
    b.barrier();
    const result = load(b.constant(0));
    b.barrier(); // the next round writes the arrays again
    return result;
  };

  const corner = (batch: Affine, box: Affine, i: number): KValue =>
    lowering.value(boxes, [batch, box, Affine.constant(i)], 1);
  const limitOf = (value: typeof overlap): KValue => lowering.value(value, [], 1);

  /** Intersection over union above the limit. */
  const overlapping = (batch: Affine, p: Affine, q: Affine): KValue => {
    const zero = b.constant(0, 'f32');
    const [a, c] = [p, q].map((box) => [0, 1, 2, 3].map((i) => corner(batch, box, i)));
    const side = (axis: number) => b.sub(b.min(a[axis + 2], c[axis + 2]), b.max(a[axis], c[axis]));
    const area = (box: readonly KValue[]) => b.mul(b.sub(box[2], box[0]), b.sub(box[3], box[1]));
    const [width, height] = [side(0), side(1)];
    const shared = b.mul(width, height);
    const [first, second] = [area(a), area(c)];
    const union = b.sub(b.add(first, second), shared);
    const positive = [width, height, shared, first, second, union]
      .map((value) => b.compare('gt', value, zero))
      .reduce((all, one) => b.and(all, one));
    const safe = b.select(positive, union, b.constant(1, 'f32'));
    return b.and(positive, b.compare('gt', b.div(shared, safe), limitOf(overlap)));
  };

  const grid = lowering.workgroups(batches * classes, (flat) => {
    const row = delinearize(flat, [batches, classes]);
    const first = own((word, best) =>
      sift(row, word, best, (box) => b.compare('gt', lowering.value(scores, [...row, box], 1), limitOf(least))),
    );
    lowering.for(0, limit, 1, first, (slot, candidates) => {
      const [, winner] = agreed(candidates as unknown as Best);
      const found = b.compare('lt', winner, b.constant(count));
      lowering.if(b.compare('eq', local.emit(b), b.constant(0)), () => {
        const box = b.select(found, winner, b.constant(-1));
        lowering.store(selected, [...row, slot], b.convert(box, 'i64'), 1);
      });
      // Where nothing is left nothing is to be done.
      return lowering.if(
        found,
        () => {
          const chosen = Affine.of(b.clamp(winner, 0, count - 1), b);
          return own((word, best) => {
            const bits = b.load(left, word.emit(b));
            return lowering.if(
              b.compare('ne', bits, b.constant(0, 'u32')),
              () =>
                sift(row, word, best, (box, bit) => {
                  const had = b.compare('ne', b.and(bits, bit), b.constant(0, 'u32'));
                  const itself = b.compare('eq', box.emit(b), winner);
                  const gone = b.or(itself, overlapping(row[0], box, chosen));
                  return b.and(had, b.unary('not', gone));
                }),
              () => best,
            );
          });
        },
        () => none,
      );
    });
  });
  return lowering.finish(grid, [workgroup, 1, 1]);
}

/** How the boxes of a row are dealt out: bits of a word of the mask are looked at by one invocation. */
function shareOf(
  target: Target,
  node: NodeOf<'suppress'>,
  count: number,
): { readonly perWord: number; readonly words: number; readonly workgroup: number } {
  const cpu = target.style === 'cpu';
  const widest = cpu ? 1 : Math.min(target.style === 'simt' ? 256 : 64, target.limits.workgroupInvocations);
  // Few boxes a word keep more invocations busy.
  for (const perWord of cpu ? [32] : [4, 8, 16, 32]) {
    const words = Math.max(1, Math.ceil(count / perWord));
    let workgroup = 1;
    while (workgroup * 2 <= widest && workgroup < words) workgroup *= 2;
    if (4 * words + 8 * workgroup <= target.limits.sharedBytes) return { perWord, words, workgroup };
  }
  throw new TuttiError('E_UNSUPPORTED', 'too many boxes to suppress for the shared memory of the device', {
    subject: describe(node.source),
    expected: `at most ${Math.floor((target.limits.sharedBytes - 8 * widest) / 4) * 32}`,
    found: String(count),
    remedy: 'Keep the boxes of the best scores with TopK first',
  });
}
