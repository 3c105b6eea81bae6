/**
 * Rows on CPUs whose elements lie side by side: vectors along the row, several accumulators at once, because one would
 * wait for itself; the last vector of a run overlaps the one before.
 */
import type { Target } from '../../kernel/target.js';
import type { KernelFunction, KValue, Lanes } from '../../kernel/types.js';
import { Affine, delinearize } from '../affine.js';
import type { Lowering } from '../lowering.js';
import { collapse, combine, identity } from '../reduce.js';
import { shareOf, taskCount, widestWithin } from '../shares.js';
import { type Index, range } from '../tensors.js';
import { elementIndex, type Program, type Row, type Space } from './row.js';
import { stagesOf } from './stage.js';

/** As many as an addition takes cycles. */
const accumulators = 4;
/** Nodes of a group above which its arithmetic fills the pipeline without that. */
const fewNodes = 12;

export function lowerAlong(lowering: Lowering, target: Target, space: Space, program: Program): KernelFunction {
  const lanes = widestWithin(Math.min(target.vectorLanes, space.run));
  const tasks = taskCount(target, space.rows, space.rows * space.length);
  const stage = stagesOf(lowering, target, space, 1);
  const grid = lowering.workgroups(tasks, (task) => {
    const [from, to] = shareOf(lowering, task, tasks, space.rows);
    lowering.for(from.emit(lowering.b), to.emit(lowering.b), 1, [], (row) => {
      program(lowering, { ...alongRow(lowering, space, delinearize(row, space.rowShape), lanes), stage });
    });
  });
  return lowering.finish(grid, [1, 1, 1]);
}

/** A row of several runs, which are gone through one after another. */
function alongRow(lowering: Lowering, space: Space, index: Index, lanes: Lanes): Row {
  const { b } = lowering;
  const { run } = space;
  const runs = space.length / run;
  const vectors = Math.floor(run / lanes);
  const tail = run - vectors * lanes;
  const lane = Affine.lane(lanes);
  const perStep = lowering.group.nodes.length > fewNodes ? 1 : Math.min(accumulators, vectors);
  const steps = Math.floor(vectors / perStep);
  /** `body` for each run, with its first place. */
  const overRuns = (
    initial: readonly KValue[],
    body: (start: Affine, carried: readonly KValue[]) => readonly KValue[],
  ): readonly KValue[] =>
    runs === 1 ? body(Affine.constant(0), initial) : lowering.for(0, runs, 1, initial, (r, c) => body(r.scale(run), c));
  return {
    lanes: 1,
    index,
    reduce(fn, scalar, value) {
      const neutral = b.constant(identity(fn, scalar), scalar, lanes);
      const vector = (place: Affine): KValue =>
        lowering.widen(value(elementIndex(space, index, place.add(lane)), lanes), lanes);
      const totals = overRuns(
        range(perStep).map(() => neutral),
        (start, initial) => {
          const at = (vectorIndex: Affine) => vector(start.add(vectorIndex.scale(lanes)));
          const running = [
            ...lowering.for(0, steps, 1, initial, (i, carried) =>
              carried.map((total, j) => combine(b, fn, total, at(i.scale(perStep).add(j)))),
            ),
          ];
          for (let rest = steps * perStep; rest < vectors; rest++) {
            const j = rest % perStep;
            running[j] = combine(b, fn, running[j], at(Affine.constant(rest)));
          }
          if (tail > 0) {
            const last = vector(start.add(run - lanes));
            const fresh = isIdempotent(fn) ? last : b.select(lastLanes(lowering, tail, lanes), last, neutral);
            running[0] = combine(b, fn, running[0], fresh);
          }
          return running;
        },
      );
      return collapse(
        b,
        fn,
        totals.reduce((x, y) => combine(b, fn, x, y)),
      );
    },
    each(visit) {
      const at = (place: Affine) => visit(elementIndex(space, index, place.add(lane)), lanes);
      overRuns([], (start) => {
        lowering.for(0, vectors, 1, [], (i) => at(start.add(i.scale(lanes))));
        if (tail > 0) at(start.add(run - lanes));
        return [];
      });
    },
    once: (body) => body(),
  };
}

/** Whether an element may be combined twice. */
const isIdempotent = (fn: Parameters<Row['reduce']>[0]): boolean => fn !== 'sum' && fn !== 'prod';

/** True in the last `count` lanes. */
const lastLanes = ({ b }: Lowering, count: number, lanes: Lanes): KValue =>
  b.build(range(lanes).map((lane) => b.constant(lane >= lanes - count, 'bool')));
