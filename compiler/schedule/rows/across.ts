/**
 * Rows on CPUs that lie side by side: vectors of neighbouring rows, one a lane. What is left at the end is done by a
 * vector that overlaps the one before, in the same task.
 */
import type { ReduceFn } from '../../graph/types.js';
import type { Target } from '../../kernel/target.js';
import type { KernelFunction, KValue, Lanes, ScalarType } from '../../kernel/types.js';
import { sizeOf } from '../../tensor.js';
import { Affine, delinearize } from '../affine.js';
import type { Lowering } from '../lowering.js';
import { combine, identity } from '../reduce.js';
import { lastTask, shareOf, taskCount, widestWithin } from '../shares.js';
import { type Index, range } from '../tensors.js';
import { type Element, elementIndex, type Program, type Row, type Space } from './row.js';
import { stagesOf } from './stage.js';

/** Neighbouring vectors that are reduced at once: whole stretches of memory in turn, not a line here and there. */
const mostColumns = 8;

/** How rows are taken together: `outer` times `inner` neighbours, in vectors. */
interface Neighbours {
  readonly outer: number;
  readonly inner: number;
  readonly lanes: Lanes;
}

/** Neighbours are the rows of the dims after the axes; of all dims where there are none such. */
function neighboursOf(space: Space, target: Target, flat: boolean): Neighbours {
  const last = space.axes.at(-1) ?? -1;
  const after = space.rowDims.filter((d) => d > last && space.shape[d] !== 1);
  const dims = after.length > 0 ? after : space.rowDims;
  const shapes = dims.map((d) => space.shape[d]);
  const inner = flat ? sizeOf(shapes) : (shapes.at(-1) ?? 1);
  return { outer: space.rows / inner, inner, lanes: widestWithin(Math.min(target.vectorLanes, inner)) };
}

/** Dims are gone through as one where that takes no divisions. */
function bestOf(
  space: Space,
  target: Target,
  lower: (neighbours: Neighbours) => { readonly lowering: Lowering; readonly kernel: KernelFunction },
): KernelFunction {
  const whole = lower(neighboursOf(space, target, true));
  const isDivided = whole.lowering.addresses.some((address) => address.laneCoefficient() === undefined);
  return isDivided ? lower(neighboursOf(space, target, false)).kernel : whole.kernel;
}

export function lowerAcross(start: () => Lowering, target: Target, space: Space, program: Program): KernelFunction {
  return bestOf(space, target, (neighbours) => {
    const lowering = start();
    const { lanes } = neighbours;
    const stage = stagesOf(lowering, target, space, lanes);
    const kernel = overBlocks(lowering, target, space, neighbours, 1, (indices) =>
      program(lowering, { ...acrossRow(lowering, space, indices[0], lanes), stage }),
    );
    return { lowering, kernel };
  });
}

/**
 * A reduction of several neighbouring vectors at once. `finish` gets the vectors in turn.
 */
export function lowerColumns(
  start: () => Lowering,
  target: Target,
  space: Space,
  reduction: { readonly fn: ReduceFn; readonly scalar: ScalarType; readonly element: (lowering: Lowering) => Element },
  finish: (lowering: Lowering, index: Index, lanes: Lanes, total: KValue) => void,
): KernelFunction {
  const { fn, scalar } = reduction;
  return bestOf(space, target, (neighbours) => {
    const lowering = start();
    const { b } = lowering;
    const { lanes } = neighbours;
    const element = reduction.element(lowering);
    const blocks = space.rows / lanes / (target.parallelism * 2);
    const columns = Math.max(1, Math.min(mostColumns, Math.floor(blocks)));
    const kernel = overBlocks(lowering, target, space, neighbours, columns, (indices) => {
      const neutral = b.constant(identity(fn, scalar), scalar, lanes);
      const totals = lowering.for(
        0,
        space.length,
        1,
        indices.map(() => neutral),
        (place, carried) =>
          carried.map((total, j) => {
            const value = element(elementIndex(space, indices[j], place), lanes);
            return combine(b, fn, total, lowering.widen(value, lanes));
          }),
      );
      indices.forEach((index, j) => {
        finish(lowering, index, lanes, totals[j]);
      });
    });
    return { lowering, kernel };
  });
}

/** `body` for up to `columns` neighbouring vectors of rows at a time, shared out to tasks. */
function overBlocks(
  lowering: Lowering,
  target: Target,
  space: Space,
  { outer, inner, lanes }: Neighbours,
  columns: number,
  body: (indices: readonly Index[]) => void,
): KernelFunction {
  const { b } = lowering;
  const lane = Affine.lane(lanes);
  const vectors = Math.floor(inner / lanes);
  const blocks = Math.floor(vectors / columns);
  const tail = inner - vectors * lanes;
  const indexOf = (row: Affine, first: Affine): Index =>
    delinearize(row.scale(inner).add(first).add(lane), space.rowShape);
  const block = (row: Affine, start: Affine, count: number) =>
    body(range(count).map((j) => indexOf(row, start.add(j).scale(lanes))));
  /** Vectors that fill no block, and the last one. */
  const rest = (row: Affine): void => {
    const left = vectors - blocks * columns;
    if (left > 0) block(row, Affine.constant(blocks * columns), left);
    if (tail > 0) body([indexOf(row, Affine.constant(inner - lanes))]);
  };
  const hasRest = vectors > blocks * columns || tail > 0;
  const elements = space.rows * space.length;
  const byRow = taskCount(target, outer, elements);
  const byBlock = taskCount(target, blocks, elements);
  const sweep = (row: Affine, from: Affine, to: Affine): void =>
    void lowering.for(from.emit(b), to.emit(b), 1, [], (i) => block(row, i.scale(columns), columns));
  const tasks = Math.max(byRow, byBlock);
  const grid = lowering.workgroups(tasks, (task) => {
    if (byRow >= byBlock) {
      const [from, to] = shareOf(lowering, task, tasks, outer);
      lowering.for(from.emit(b), to.emit(b), 1, [], (row) => {
        sweep(row, Affine.constant(0), Affine.constant(blocks));
        rest(row);
      });
      return;
    }
    const last = b.constant(lastTask(tasks, blocks));
    const [from, to] = shareOf(lowering, task, tasks, blocks);
    lowering.for(0, outer, 1, [], (row) => {
      sweep(row, from, to);
      if (hasRest) lowering.if(b.compare('eq', task.emit(b), last), () => rest(row));
    });
  });
  return lowering.finish(grid, [1, 1, 1]);
}

function acrossRow(lowering: Lowering, space: Space, index: Index, lanes: Lanes): Row {
  const { b } = lowering;
  return {
    lanes,
    index,
    reduce(fn, scalar, value) {
      const [total] = lowering.for(
        0,
        space.length,
        1,
        [b.constant(identity(fn, scalar), scalar, lanes)],
        (i, [running]) => [combine(b, fn, running, lowering.widen(value(elementIndex(space, index, i), lanes), lanes))],
      );
      return total;
    },
    each: (visit) => void lowering.for(0, space.length, 1, [], (i) => visit(elementIndex(space, index, i), lanes)),
    once: (body) => body(),
  };
}
