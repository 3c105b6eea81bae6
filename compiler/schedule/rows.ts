/**
 * The rows family: reductions, softmax and normalisation. A *row* is what is reduced together: all elements that
 * differ only in the reduced axes. Each op is a short program of passes over a row (`Row.reduce`, `Row.each`);
 * the schedule decides who runs a row:
 *
 * - `along`: one invocation or task, vector lanes along the row (rows contiguous in memory)
 * - `across`: one task for several neighbouring rows, one a lane (rows strided in memory)
 * - `together`: the invocations of a workgroup share a row and combine through shared memory (few long rows)
 */
import type { Node, NodeOf } from '../graph/types.js';
import type { Target } from '../kernel/target.js';
import type { KernelFunction, KValue, Lanes, ScalarType } from '../kernel/types.js';
import { Affine } from './affine.js';
import { type Group, resultIndex } from './group.js';
import { Lowering } from './lowering.js';
import { lowerMap } from './map.js';
import { accumulatorOf, combine, identity, isNan } from './reduce.js';
import { lowerAcross, lowerColumns } from './rows/across.js';
import { lowerAlong } from './rows/along.js';
import { lowerInvocations, lowerTogether } from './rows/invocations.js';
import { type Element, type Program, type Row, type Space, spaceOf } from './rows/row.js';
import { lowerScan } from './rows/scan.js';
import { type Index, scalarOf, shapeOf } from './tensors.js';

export function lowerRows(group: Group, target: Target): KernelFunction {
  const anchor = group.anchor as Node;
  switch (anchor.op) {
    case 'reduce':
      return lowerReduce(group, target, anchor);
    case 'softmax':
      return lowerProgram(group, target, anchor.attrs.axes, (lowering, row) =>
        softmaxProgram(group, lowering, row, anchor),
      );
    case 'normalize':
      return lowerProgram(group, target, anchor.attrs.axes, (lowering, row) =>
        normalizeProgram(group, lowering, row, anchor),
      );
    case 'arg_reduce':
      return lowerArgReduce(group, target, anchor);
    case 'cumulative':
      return lowerCumulative(group, target, anchor);
    default:
      throw new Error(`${anchor.op} is not a row op`);
  }
}

// --- schedules -----------------------------------------------------------------------------------------------------

function lowerProgram(group: Group, target: Target, axes: readonly number[], program: Program): KernelFunction {
  const space = spaceOf(shapeOf((group.anchor as Node).inputs[0]), axes);
  if (target.style === 'cpu') {
    return isAlong(space)
      ? lowerAlong(new Lowering(group, target), target, space, program)
      : lowerAcross(() => new Lowering(group, target), target, space, program);
  }
  const lowering = new Lowering(group, target);
  // Where a CPU executes the GPU's code, barriers cost more than the idle invocations that they save.
  const together =
    target.limits.workgroupInvocations >= 16 &&
    (target.style === 'simt'
      ? space.length >= 64 && space.rows < target.parallelism * 2048
      : space.length >= 1024 && space.rows < target.parallelism * 2);
  return together
    ? lowerTogether(lowering, target, space, program)
    : lowerInvocations(lowering, target, space, program, false);
}

/** Of shorter runs than this, neighbouring rows fill vectors better. */
const shortRun = 4;
const isAlong = ({ run, rows }: Space): boolean => run > shortRun || (run > 1 && rows <= shortRun);

// --- op programs ---------------------------------------------------------------------------------------------------

function lowerReduce(group: Group, target: Target, node: NodeOf<'reduce'>): KernelFunction {
  const [x] = node.inputs;
  const [y] = node.outputs;
  const { fn, axes, keep } = node.attrs;
  const scalar = accumulatorOf(scalarOf(x, node));
  const elementIn =
    (lowering: Lowering): Element =>
    (index, lanes) =>
      lowering.unrounded(x, index, lanes);
  const finish = (lowering: Lowering, index: Index, lanes: Lanes, total: KValue): void => {
    lowering.define(y, () => total);
    storeRow(group, lowering, lanes, keep ? withKept(index, axes, shapeOf(x).length) : index);
  };
  const space = spaceOf(shapeOf(x), axes);
  if (target.style === 'cpu' && !isAlong(space)) {
    const reduction = { fn, scalar, element: elementIn };
    return lowerColumns(() => new Lowering(group, target), target, space, reduction, finish);
  }
  return lowerProgram(group, target, axes, (lowering, row) => {
    const total = row.reduce(fn, scalar, elementIn(lowering));
    row.once(() => finish(lowering, row.index, row.lanes, total));
  });
}

function softmaxProgram(group: Group, lowering: Lowering, row: Row, node: NodeOf<'softmax'>): void {
  const { b } = lowering;
  const [x] = node.inputs;
  const [y] = node.outputs;
  const wide = accumulatorOf(scalarOf(x, node));
  const element: Element = (index, lanes) => lowering.unrounded(x, index, lanes);
  const shifted: Element = (index, lanes) => both(lowering, 'sub', element(index, lanes), largest);
  const largest = row.reduce('max', wide, element);
  const power: Element = (index, lanes) => b.unary('exp', shifted(index, lanes));
  const stage = node.attrs.log ? undefined : row.stage?.(wide);
  const total = row.reduce('sum', wide, (index, lanes) => {
    const value = power(index, lanes);
    stage?.keep(index, lowering.widen(value, lanes));
    return value;
  });
  const last = node.attrs.log ? b.unary('log', total) : b.div(b.constant(1, wide, row.lanes), total);
  lowering.define(y, (index, lanes) => {
    return node.attrs.log
      ? both(lowering, 'sub', shifted(index, lanes), last)
      : both(lowering, 'mul', (stage?.kept ?? power)(index, lanes), last);
  });
  storeElements(group, lowering, row);
}

function normalizeProgram(group: Group, lowering: Lowering, row: Row, node: NodeOf<'normalize'>): void {
  const { b } = lowering;
  const [x] = node.inputs;
  const [y, meanOut, deviationOut] = node.outputs;
  const { axes, epsilon, center } = node.attrs;
  const wide = accumulatorOf(scalarOf(x, node));
  const count = axes.reduce((n, axis) => n * shapeOf(x)[axis], 1);
  const scale = (v: KValue) => b.div(v, b.constant(count, wide, v.type.lanes));
  const element: Element = (index, lanes) => lowering.unrounded(x, index, lanes);
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
  lowering.define(y, (index, lanes) => both(lowering, 'mul', centered(index, lanes), inverse));
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

function lowerCumulative(group: Group, target: Target, node: NodeOf<'cumulative'>): KernelFunction {
  const [x] = node.inputs;
  const { fn, axis, exclusive, reverse } = node.attrs;
  const accumulator = accumulatorOf(scalarOf(x, node));
  const space = spaceOf(shapeOf(x), [axis]);
  const start = () => new Lowering(group, target);
  const elementIn =
    (lowering: Lowering): Element =>
    (index, lanes) =>
      lowering.widen(lowering.unrounded(x, index, lanes), lanes);
  const storeIn =
    (lowering: Lowering) =>
    (index: Index, lanes: Lanes, value: KValue): void => {
      lowering.define(node.outputs[0], () => value);
      storeRow(group, lowering, lanes, index);
    };
  const program: Program = (lowering, row) => {
    const { b } = lowering;
    const initial = b.constant(identity(fn, accumulator), accumulator, row.lanes);
    lowering.for(0, space.length, 1, [initial], (i, [running]) => {
      const at = reverse ? i.scale(-1).add(space.length - 1) : i;
      const index = [...row.index.slice(0, axis), at, ...row.index.slice(axis)];
      const next = combine(b, fn, running, elementIn(lowering)(index, row.lanes));
      storeIn(lowering)(index, row.lanes, exclusive ? running : next);
      return [next];
    });
  };
  if (target.style !== 'cpu') return lowerInvocations(start(), target, space, program, true);
  if (!isAlong(space)) return lowerAcross(start, target, space, program);
  const lowering = start();
  const scan = { fn, scalar: accumulator, exclusive, reverse };
  return lowerScan(lowering, target, space, { ...scan, element: elementIn(lowering), store: storeIn(lowering) });
}

/** Along a row: the extreme first, then the place of the first (or last) one that equals it. */
function lowerArgReduce(group: Group, target: Target, node: NodeOf<'arg_reduce'>): KernelFunction {
  const [x] = node.inputs;
  const { fn, axis, keep, last } = node.attrs;
  const space = spaceOf(shapeOf(x), [axis]);
  if (target.style !== 'cpu' || !isAlong(space)) {
    return lowerMap(group, target, (lowering) => defineArgReduce(lowering, node));
  }
  return lowerProgram(group, target, [axis], (lowering, row) => {
    const { b } = lowering;
    const element = comparable(lowering, node);
    const extreme = row.reduce(fn, comparedAs(node), element);
    const nowhere = last ? -1 : space.length;
    const place = row.reduce(last ? 'max' : 'min', 'i32', (index, lanes) => {
      const value = lowering.widen(element(index, lanes), lanes);
      const hit = b.or(b.compare('eq', value, b.splat(extreme, lanes)), isNan(b, value));
      return b.select(hit, lowering.indexVector(index[axis], lanes), b.constant(nowhere, 'i32', lanes));
    });
    row.once(() => {
      lowering.define(node.outputs[0], () => b.convert(place, 'i64'));
      storeRow(group, lowering, 1, keep ? withKept(row.index, [axis], shapeOf(x).length) : row.index);
    });
  });
}

/** What elements are compared as. */
const comparedAs = (node: NodeOf<'arg_reduce'>): ScalarType => {
  const scalar = scalarOf(node.inputs[0], node);
  return scalar === 'bool' ? 'i32' : scalar;
};

const comparable =
  (lowering: Lowering, node: NodeOf<'arg_reduce'>): Element =>
  (index, lanes) =>
    lowering.b.convert(lowering.value(node.inputs[0], index, lanes), comparedAs(node));

function defineArgReduce(lowering: Lowering, node: NodeOf<'arg_reduce'>): void {
  const { b } = lowering;
  const [x] = node.inputs;
  const { fn, axis, keep, last } = node.attrs;
  lowering.define(node.outputs[0], (index, lanes) => {
    const wide = index.some((i) => i.mentionsLane()) ? lanes : 1;
    const at = (i: Affine): Index =>
      keep ? index.map((j, d) => (d === axis ? i : j)) : [...index.slice(0, axis), i, ...index.slice(axis)];
    const element = (i: Affine) => lowering.widen(comparable(lowering, node)(at(i), wide), wide);
    const relation = fn === 'max' ? (last ? 'ge' : 'gt') : last ? 'le' : 'lt';
    const first = element(Affine.constant(0));
    const [, best] = lowering.for(
      1,
      shapeOf(x)[axis],
      1,
      [first, b.constant(0, 'i32', wide)],
      (i, [value, position]) => {
        const candidate = element(i);
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

/** Stores the group's one result of the row (or of `lanes` rows), or of a place in it. */
function storeRow(group: Group, lowering: Lowering, lanes: Lanes, index: Index): void {
  const [output] = group.writes;
  const place = resultIndex(group, index);
  lowering.store(output, place, lowering.value(output, place, lanes), lanes);
}
