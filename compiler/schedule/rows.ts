/**
 * The rows family: reductions, softmax and normalisation. A *row* is what is reduced together: all elements that
 * differ only in the reduced axes. Each op is a short program of passes over a row (`Row.reduce`, `Row.each`);
 * the schedule decides who runs a row:
 *
 * - `along`: one invocation or task, vector lanes along the row (rows contiguous in memory)
 * - `across`: one invocation or task for several neighbouring rows, one a lane (rows strided in memory)
 * - `together`: the invocations of a workgroup share a row and combine through shared memory (few long rows)
 */
import type { Node, NodeOf } from '../graph/types.js';
import type { Target } from '../kernel/target.js';
import type { KernelFunction, KValue, Lanes, ScalarType } from '../kernel/types.js';
import { sizeOf } from '../tensor.js';
import { Affine, delinearize } from './affine.js';
import { type Group, resultIndex } from './group.js';
import { Lowering } from './lowering.js';
import { lowerMap } from './map.js';
import { accumulatorOf, collapse, combine, identity, isNan } from './reduce.js';
import { type Index, scalarOf, shapeOf } from './tensors.js';

type Fn = 'sum' | 'prod' | 'max' | 'min' | 'and' | 'or';
type Element = (index: Index, lanes: Lanes) => KValue;

/** One row (or a vector of rows): what the op programs are written in. */
interface Row {
  /** Lanes of a reduction's result: 1, or the number of rows that run as lanes. */
  readonly lanes: Lanes;
  /** Index into the tensor without the reduced axes. */
  readonly index: Index;
  /** Combines `element` over the row, in `scalar`. */
  reduce(fn: Fn, scalar: ScalarType, element: Element): KValue;
  /** Runs `visit` for all elements of the row. */
  each(visit: (index: Index, lanes: Lanes) => void): void;
  /** Runs `body` once a row. */
  once(body: () => void): void;
}

interface Space {
  readonly shape: readonly number[];
  readonly axes: readonly number[];
  readonly rowDims: readonly number[];
  readonly rowShape: readonly number[];
  readonly axesShape: readonly number[];
  readonly rows: number;
  readonly length: number;
  /** The reduced axes are the innermost dims. */
  readonly contiguous: boolean;
}

export function lowerRows(group: Group, target: Target): KernelFunction {
  const anchor = group.anchor as Node;
  switch (anchor.op) {
    case 'reduce':
      return lowerProgram(group, target, anchor.attrs.axes, (lowering, row) =>
        reduceProgram(group, lowering, row, anchor),
      );
    case 'softmax':
      return lowerProgram(group, target, anchor.attrs.axes, (lowering, row) =>
        softmaxProgram(group, lowering, row, anchor),
      );
    case 'normalize':
      return lowerProgram(group, target, anchor.attrs.axes, (lowering, row) =>
        normalizeProgram(group, lowering, row, anchor),
      );
    case 'arg_reduce':
      return lowerMap(group, target, (lowering) => defineArgReduce(lowering, anchor));
    case 'cumulative':
      return lowerProgram(group, target, [anchor.attrs.axis], (lowering, row) =>
        cumulativeProgram(group, lowering, row, anchor),
      );
    default:
      throw new Error(`${anchor.op} is not a row op`);
  }
}

// --- op programs ---------------------------------------------------------------------------------------------------

function reduceProgram(group: Group, lowering: Lowering, row: Row, node: NodeOf<'reduce'>): void {
  const { b } = lowering;
  const [x] = node.inputs;
  const [y] = node.outputs;
  const { fn, axes, keep } = node.attrs;
  const scalar = scalarOf(x, node);
  const accumulator = fn === 'sum' || fn === 'prod' ? accumulatorOf(scalar) : scalar;
  const total = row.reduce(fn, accumulator, (index, lanes) => b.convert(lowering.value(x, index, lanes), accumulator));
  lowering.define(y, () => b.convert(total, scalarOf(y, node)));
  row.once(() => storeRow(group, lowering, row, keep ? withKept(row.index, axes, shapeOf(x).length) : row.index));
}

function softmaxProgram(group: Group, lowering: Lowering, row: Row, node: NodeOf<'softmax'>): void {
  const { b } = lowering;
  const [x] = node.inputs;
  const [y] = node.outputs;
  const scalar = scalarOf(x, node);
  const wide = accumulatorOf(scalar);
  const element: Element = (index, lanes) => b.convert(lowering.value(x, index, lanes), wide);
  const shifted: Element = (index, lanes) => both(lowering, 'sub', element(index, lanes), largest);
  const largest = row.reduce('max', wide, element);
  const total = row.reduce('sum', wide, (index, lanes) => b.unary('exp', shifted(index, lanes)));
  const logTotal = node.attrs.log ? b.unary('log', total) : undefined;
  lowering.define(y, (index, lanes) => {
    const value = logTotal
      ? both(lowering, 'sub', shifted(index, lanes), logTotal)
      : both(lowering, 'div', b.unary('exp', shifted(index, lanes)), total);
    return b.convert(value, scalar);
  });
  storeElements(group, lowering, row);
}

function normalizeProgram(group: Group, lowering: Lowering, row: Row, node: NodeOf<'normalize'>): void {
  const { b } = lowering;
  const [x] = node.inputs;
  const [y, meanOut, deviationOut] = node.outputs;
  const { axes, epsilon, center } = node.attrs;
  const scalar = scalarOf(x, node);
  const wide = accumulatorOf(scalar);
  const count = axes.reduce((n, axis) => n * shapeOf(x)[axis], 1);
  const scale = (v: KValue) => b.div(v, b.constant(count, wide, v.type.lanes));
  const element: Element = (index, lanes) => b.convert(lowering.value(x, index, lanes), wide);
  const mean = center ? scale(row.reduce('sum', wide, element)) : undefined;
  const centered: Element = (index, lanes) =>
    mean ? both(lowering, 'sub', element(index, lanes), mean) : element(index, lanes);
  const variance = scale(
    row.reduce('sum', wide, (index, lanes) => {
      const d = centered(index, lanes);
      return b.mul(d, d);
    }),
  );
  const one = b.constant(1, wide, variance.type.lanes);
  const inverse = b.div(one, b.unary('sqrt', b.add(variance, b.constant(epsilon, wide, variance.type.lanes))));
  lowering.define(y, (index, lanes) => b.convert(both(lowering, 'mul', centered(index, lanes), inverse), scalar));
  storeElements(group, lowering, row);
  row.once(() => {
    const at = withKept(row.index, axes, shapeOf(x).length);
    for (const [value, result] of [
      [meanOut, mean],
      [deviationOut, inverse],
    ] as const) {
      if (value && result && group.writes.includes(value))
        lowering.store(value, at, b.convert(result, scalarOf(value)), row.lanes);
    }
  });
}

function cumulativeProgram(group: Group, lowering: Lowering, row: Row, node: NodeOf<'cumulative'>): void {
  const { b } = lowering;
  const [x] = node.inputs;
  const { fn, axis, exclusive, reverse } = node.attrs;
  const scalar = scalarOf(x, node);
  const accumulator = fn === 'sum' || fn === 'prod' ? accumulatorOf(scalar) : scalar;
  const extent = shapeOf(x)[axis];
  const initial = b.constant(identity(fn, scalar), accumulator, row.lanes);
  lowering.for(0, extent, 1, [initial], (i, [running]) => {
    const at = reverse ? i.scale(-1).add(extent - 1) : i;
    const index = [...row.index.slice(0, axis), at, ...row.index.slice(axis)];
    const element = lowering.widen(b.convert(lowering.value(x, index, row.lanes), accumulator), row.lanes);
    const next = combine(b, fn, running, element);
    const result = b.convert(exclusive ? running : next, scalar);
    lowering.define(node.outputs[0], () => result);
    storeRow(group, lowering, row, index);
    return [next];
  });
}

function defineArgReduce(lowering: Lowering, node: NodeOf<'arg_reduce'>): void {
  const { b } = lowering;
  const [x] = node.inputs;
  const { fn, axis, keep, last } = node.attrs;
  const scalar = scalarOf(x, node);
  lowering.define(node.outputs[0], (index, lanes) => {
    const wide = index.some((i) => i.mentionsLane()) ? lanes : 1;
    const at = (i: Affine): Index =>
      keep ? index.map((j, d) => (d === axis ? i : j)) : [...index.slice(0, axis), i, ...index.slice(axis)];
    const element = (i: Affine) => lowering.widen(lowering.value(x, at(i), wide), wide);
    const compared = scalar === 'bool' ? (v: KValue) => b.convert(v, 'i32') : (v: KValue) => v;
    const relation = fn === 'max' ? (last ? 'ge' : 'gt') : last ? 'le' : 'lt';
    const first = compared(element(Affine.constant(0)));
    const [, best] = lowering.for(
      1,
      shapeOf(x)[axis],
      1,
      [first, b.constant(0, 'i32', wide)],
      (i, [value, position]) => {
        const candidate = compared(element(i));
        // The first NaN is the extreme (`last`: the last one).
        const firstNan = last ? isNan(b, candidate) : b.and(isNan(b, candidate), b.unary('not', isNan(b, value)));
        const better = b.or(firstNan, b.compare(relation, candidate, value));
        return [b.select(better, candidate, value), b.select(better, b.splat(i.emit(b), wide), position)];
      },
    );
    return b.convert(best, 'i64');
  });
}

/** Two operands, one of which may be a row's scalar or per-lane value. */
function both(lowering: Lowering, fn: 'sub' | 'mul' | 'div', x: KValue, y: KValue): KValue {
  const lanes = Math.max(x.type.lanes, y.type.lanes) as Lanes;
  return lowering.b.binary(fn, lowering.widen(x, lanes), lowering.widen(y, lanes));
}

function withKept(index: Index, axes: readonly number[], rank: number): Index {
  let next = 0;
  return Array.from({ length: rank }, (_, d) => (axes.includes(d) ? Affine.constant(0) : index[next++]));
}

/** Stores the group's result for every element of the row. */
function storeElements(group: Group, lowering: Lowering, row: Row): void {
  const [output] = group.writes;
  row.each((index, lanes) => {
    const place = resultIndex(group, index);
    lowering.store(output, place, lowering.value(output, place, lanes), lanes);
  });
}

/** Stores the group's one result of the row, or of a place in it. */
function storeRow(group: Group, lowering: Lowering, row: Row, index: Index): void {
  const [output] = group.writes;
  const place = resultIndex(group, index);
  lowering.store(output, place, lowering.value(output, place, row.lanes), row.lanes);
}

// --- schedules -----------------------------------------------------------------------------------------------------

type Program = (lowering: Lowering, row: Row) => void;

function lowerProgram(group: Group, target: Target, axes: readonly number[], program: Program): KernelFunction {
  const space = spaceOf(shapeOf((group.anchor as Node).inputs[0]), axes);
  const serial = (group.anchor as Node).op === 'cumulative';
  const lowering = new Lowering(group, target);
  if (target.style === 'cpu') {
    const across = serial || !space.contiguous;
    return lowerTasks(lowering, target, space, program, across);
  }
  // Where a CPU executes the GPU's code, barriers cost more than the idle invocations that they save.
  const together =
    !serial &&
    target.limits.workgroupInvocations >= 16 &&
    (target.style === 'simt'
      ? space.length >= 64 && space.rows < target.parallelism * 2048
      : space.length >= 1024 && space.rows < target.parallelism * 2);
  return together
    ? lowerTogether(lowering, target, space, program)
    : lowerInvocations(lowering, target, space, program, serial);
}

function spaceOf(shape: readonly number[], axes: readonly number[]): Space {
  const sorted = [...axes].sort((a, c) => a - c);
  const rowDims = shape.map((_, d) => d).filter((d) => !sorted.includes(d));
  const axesShape = sorted.map((d) => shape[d]);
  const rowShape = rowDims.map((d) => shape[d]);
  const firstAxis = sorted[0] ?? shape.length;
  return {
    shape,
    axes: sorted,
    rowDims,
    rowShape,
    axesShape,
    rows: sizeOf(rowShape),
    length: sizeOf(axesShape),
    contiguous: rowDims.every((d) => d < firstAxis || shape[d] === 1),
  };
}

/** Index of an element from its row and its place in the row. */
function elementIndex(space: Space, rowIndex: Index, place: Affine): Index {
  const inner = delinearize(place, space.axesShape);
  const index: Affine[] = new Array<Affine>(space.shape.length);
  space.rowDims.forEach((d, i) => {
    index[d] = rowIndex[i];
  });
  space.axes.forEach((d, i) => {
    index[d] = inner[i];
  });
  return index;
}

/** A row (or `rowLanes` rows) run by one invocation, `step` lanes along the row. */
function serialRow(lowering: Lowering, space: Space, index: Index, rowLanes: Lanes, step: Lanes): Row {
  const { b } = lowering;
  const vectors = Math.floor(space.length / step);
  const element = (place: Affine) => elementIndex(space, index, place);
  return {
    lanes: rowLanes,
    index,
    reduce(fn, scalar, value) {
      const neutral = identity(fn, scalar);
      const width = Math.max(rowLanes, step) as Lanes;
      let [total] = lowering.for(0, vectors, 1, [b.constant(neutral, scalar, width)], (i, [running]) => [
        combine(
          b,
          fn,
          running,
          lowering.widen(value(element(i.scale(step).add(step > 1 ? Affine.lane(step) : 0)), width), width),
        ),
      ]);
      if (step === 1) return total;
      total = collapse(b, fn, total);
      if (vectors * step < space.length) {
        [total] = lowering.for(vectors * step, space.length, 1, [total], (i, [running]) => [
          combine(b, fn, running, value(element(i), 1)),
        ]);
      }
      return total;
    },
    each(visit) {
      const width = Math.max(rowLanes, step) as Lanes;
      lowering.for(0, vectors, 1, [], (i) =>
        visit(element(i.scale(step).add(step > 1 ? Affine.lane(step) : 0)), width),
      );
      if (vectors * step < space.length) lowering.for(vectors * step, space.length, 1, [], (i) => visit(element(i), 1));
    },
    once: (body) => body(),
  };
}

/** CPU: tasks take shares of the rows. */
function lowerTasks(
  lowering: Lowering,
  target: Target,
  space: Space,
  program: Program,
  across: boolean,
): KernelFunction {
  const { b } = lowering;
  const widest = target.vectorLanes;
  const step: Lanes = across
    ? 1
    : (([16, 8, 4, 2] as const).find((lanes) => lanes <= widest && lanes <= space.length) ?? 1);
  const innermost = space.rowShape.at(-1) ?? 1;
  const rowLanes: Lanes = across
    ? (([16, 8, 4, 2] as const).find((lanes) => lanes <= widest && innermost % lanes === 0) ?? 1)
    : 1;
  const units = space.rows / rowLanes;
  const work = space.rows * space.length;
  const tasks = Math.max(1, Math.min(units, target.parallelism * 4, Math.floor(work / 4096)));
  const share = Math.ceil(units / tasks);
  const grid = lowering.workgroups(tasks, (task) => {
    const limit = (a: Affine) => b.min(a.emit(b), b.constant(units));
    lowering.for(limit(task.scale(share)), limit(task.add(1).scale(share)), 1, [], (unit) => {
      const index = delinearize(unit.scale(rowLanes).add(Affine.lane(rowLanes)), space.rowShape);
      program(lowering, serialRow(lowering, space, index, rowLanes, step));
    });
  });
  return lowering.finish(grid, [1, 1, 1]);
}

/** GPU: one invocation a row. */
function lowerInvocations(
  lowering: Lowering,
  target: Target,
  space: Space,
  program: Program,
  serial: boolean,
): KernelFunction {
  const workgroup = Math.min(64, target.limits.workgroupInvocations);
  const step: Lanes = !serial && space.contiguous && space.length % 4 === 0 && target.vectorLanes >= 4 ? 4 : 1;
  const local = Affine.of(lowering.b.builtin('local_id', 0, workgroup), lowering.b);
  const grid = lowering.workgroups(Math.ceil(space.rows / workgroup), (group) => {
    lowering.guarded(group.scale(workgroup).add(local), space.rows, (row) => {
      program(lowering, serialRow(lowering, space, delinearize(row, space.rowShape), 1, step));
    });
  });
  return lowering.finish(grid, [workgroup, 1, 1]);
}

/** GPU: one workgroup a row. */
function lowerTogether(lowering: Lowering, target: Target, space: Space, program: Program): KernelFunction {
  const { b } = lowering;
  const widest = Math.min(target.style === 'simt' ? 256 : 64, target.limits.workgroupInvocations);
  let workgroup = 16;
  while (workgroup * 2 <= widest && workgroup < space.length) workgroup *= 2;
  const step: Lanes = space.contiguous && space.length % 4 === 0 && target.vectorLanes >= 4 ? 4 : 1;
  const vectors = space.length / step;
  const local = Affine.of(b.builtin('local_id', 0, workgroup), b);
  const shared = new Map<ScalarType, ReturnType<typeof b.array>>();
  const sharedOf = (scalar: ScalarType) => {
    const known =
      shared.get(scalar) ?? b.array(`partial_${scalar}`, 'shared', scalar === 'bool' ? 'u32' : scalar, workgroup);
    shared.set(scalar, known);
    return known;
  };
  const grid = lowering.workgroups(space.rows, (group) => {
    const index = delinearize(group, space.rowShape);
    /** Strides over the row, a workgroup at a time; the last stride may be cut short. */
    const stride = (
      initial: readonly KValue[],
      body: (place: Affine, carried: readonly KValue[]) => readonly KValue[] | void,
    ) =>
      lowering.for(0, Math.ceil(vectors / workgroup), 1, initial, (i, carried) => {
        const at = i.scale(workgroup).add(local);
        if (at.range.max < vectors) return body(at.scale(step), carried);
        const value = at.emit(b);
        return lowering.if(
          b.compare('lt', value, b.constant(vectors)),
          () => body(Affine.of(b.assume(value, 0, vectors - 1), b).scale(step), carried),
          () => carried,
        );
      });
    const row: Row = {
      lanes: 1,
      index,
      reduce(fn, scalar, value) {
        const [partial] = stride([b.constant(identity(fn, scalar), scalar, step)], (place, [running]) => [
          combine(
            b,
            fn,
            running,
            lowering.widen(value(elementIndex(space, index, place.add(Affine.lane(step))), step), step),
          ),
        ]);
        const memory = sharedOf(scalar);
        const put = (at: Affine, v: KValue) => b.store(memory, at.emit(b), scalar === 'bool' ? b.convert(v, 'u32') : v);
        const get = (at: Affine) => {
          const v = b.load(memory, at.emit(b));
          return scalar === 'bool' ? b.compare('ne', v, b.constant(0, 'u32')) : v;
        };
        put(local, step === 1 ? partial : collapse(b, fn, partial));
        for (let width = workgroup / 2; width >= 1; width /= 2) {
          b.barrier();
          const value = local.emit(b);
          lowering.if(b.compare('lt', value, b.constant(width)), () => {
            const low = Affine.of(b.assume(value, 0, width - 1), b);
            put(low, combine(b, fn, get(low), get(low.add(width))));
          });
        }
        b.barrier();
        const total = get(Affine.constant(0));
        b.barrier(); // the next reduction writes the array again
        return total;
      },
      each(visit) {
        stride([], (place) => visit(elementIndex(space, index, place.add(Affine.lane(step))), step));
      },
      once(body) {
        lowering.if(b.compare('eq', local.emit(b), b.constant(0)), () => body());
      },
    };
    program(lowering, row);
  });
  return lowering.finish(grid, [workgroup, 1, 1]);
}
