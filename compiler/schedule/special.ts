/**
 * The special family: sorting and scattering. Both are written so that every output element is computed by one
 * invocation alone, in a fixed order: no atomics, the same result on every device.
 */
import type { Node, NodeOf, ScatterFn } from '../graph/types.js';
import type { KernelBuilder } from '../kernel/builder.js';
import type { Target } from '../kernel/target.js';
import type { KernelFunction, KValue, Lanes } from '../kernel/types.js';
import { sizeOf } from '../tensor.js';
import { Affine, delinearize } from './affine.js';
import { bindingsOf, type Group } from './group.js';
import type { LoweredKernel } from './lowered.js';
import { Lowering } from './lowering.js';
import { lowerMap } from './map.js';
import { collapse, isNan } from './reduce.js';
import { widestWithin } from './shares.js';
import { lowerSuppress } from './suppress.js';
import { type Index, scalarOf, shapeOf } from './tensors.js';

export function lowerSpecial(group: Group, target: Target): readonly LoweredKernel[] {
  const anchor = group.anchor as Node;
  const bindings = bindingsOf(group);
  switch (anchor.op) {
    case 'top_k':
      return [{ kernel: lowerTopK(group, target, anchor), bindings }];
    case 'scatter_elements':
      return [{ kernel: lowerMap(group, target, (l) => defineScatterElements(l, anchor)), bindings }];
    case 'scatter_nd':
      return [{ kernel: lowerMap(group, target, (l) => defineScatterNd(l, anchor)), bindings }];
    case 'suppress':
      return [{ kernel: lowerSuppress(group, target, anchor), bindings }];
    default:
      throw new Error(`${anchor.op} has no special lowering`);
  }
}

// --- scatter -------------------------------------------------------------------------------------------------------

function combineUpdate(b: KernelBuilder, fn: ScatterFn, current: KValue, update: KValue): KValue {
  switch (fn) {
    case 'set':
      return update;
    case 'add':
      return current.type.scalar === 'bool' ? b.or(current, update) : b.add(current, update);
    case 'mul':
      return current.type.scalar === 'bool' ? b.and(current, update) : b.mul(current, update);
    case 'max':
    case 'min':
      if (current.type.scalar === 'bool') return fn === 'max' ? b.or(current, update) : b.and(current, update);
      return b.binary(fn, current, update);
    default:
      return fn satisfies never;
  }
}

function defineScatterElements(lowering: Lowering, node: NodeOf<'scatter_elements'>): void {
  const { b } = lowering;
  const [x, indices, updates] = node.inputs;
  const { axis, fn } = node.attrs;
  const shape = shapeOf(updates);
  lowering.define(node.outputs[0], (index, lanes) =>
    lowering.perLane(index, lanes, (at) => {
      const initial = lowering.value(x, at, 1);
      // Rows of updates are shorter than rows of x where their shape is smaller.
      let covered = b.constant(true, 'bool');
      const inside = at.map((i, d) => {
        if (d === axis || i.range.max < shape[d]) return i;
        const value = i.emit(b);
        covered = b.and(covered, b.compare('lt', value, b.constant(shape[d])));
        return Affine.of(b.clamp(value, 0, shape[d] - 1), b);
      });
      const goal = at[axis].emit(b);
      const [result] = lowering.for(0, shape[axis], 1, [initial], (u, [current]) => {
        const from = inside.map((i, d) => (d === axis ? u : i));
        const to = lowering.wrappedIndex(lowering.value(indices, from, 1), shapeOf(x)[axis]);
        const hit = b.and(covered, b.compare('eq', to, goal));
        return lowering.if(
          hit,
          () => [combineUpdate(b, fn, current, lowering.value(updates, from, 1))],
          () => [current],
        );
      });
      return result;
    }),
  );
}

function defineScatterNd(lowering: Lowering, node: NodeOf<'scatter_nd'>): void {
  const { b } = lowering;
  const [x, indices, updates] = node.inputs;
  const { fn } = node.attrs;
  const outer = shapeOf(indices).slice(0, -1);
  const depth = shapeOf(indices).at(-1) as number;
  lowering.define(node.outputs[0], (index, lanes) =>
    lowering.perLane(index, lanes, (at) => {
      const initial = lowering.value(x, at, 1);
      const goals = at.slice(0, depth).map((i) => i.emit(b));
      const [result] = lowering.for(0, sizeOf(outer), 1, [initial], (q, [current]) => {
        const place = delinearize(q, outer);
        const hit = goals.reduce(
          (all, goal, k) => {
            const to = lowering.wrappedIndex(lowering.value(indices, [...place, Affine.constant(k)], 1), shapeOf(x)[k]);
            return b.and(all, b.compare('eq', to, goal));
          },
          b.constant(true, 'bool'),
        );
        const update = () => combineUpdate(b, fn, current, lowering.value(updates, [...place, ...at.slice(depth)], 1));
        return lowering.if(
          hit,
          () => [update()],
          () => [current],
        );
      });
      return result;
    }),
  );
}

/** The index with another place along one axis. */
const replaced = (index: Index, axis: number, place: Affine): Index => index.map((i, d) => (d === axis ? place : i));

// --- top-k ---------------------------------------------------------------------------------------------------------

/**
 * Rank by counting: an element's rank is how many elements of its row come before it; ranks below k are written.
 * O(n²) per row, but without exchanges, so every invocation works alone, and vectors of CPUs count many at once.
 */
function lowerTopK(group: Group, target: Target, node: NodeOf<'top_k'>): KernelFunction {
  const [x] = node.inputs;
  const [values, indices] = node.outputs;
  const { axis, largest } = node.attrs;
  const k = Number(node.attrs.k);
  const shape = shapeOf(x);
  const total = sizeOf(shape);
  const workgroup = target.style === 'cpu' ? 1 : Math.min(64, target.limits.workgroupInvocations);
  const perTask = target.style === 'cpu' ? Math.max(1, Math.ceil(total / (target.parallelism * 4))) : 1;
  const lanes = target.style === 'cpu' ? widestWithin(Math.min(target.vectorLanes, shape[axis])) : 1;
  const lowering = new Lowering(group, target);
  const { b } = lowering;
  /** NaN counts as larger than all numbers. */
  const before = (other: KValue, otherAt: KValue, own: KValue, ownAt: KValue): KValue => {
    const [p, q] = largest ? [other, own] : [own, other];
    const greater = b.or(b.compare('gt', p, q), b.and(isNan(b, p), b.unary('not', isNan(b, q))));
    const equal = b.or(b.compare('eq', other, own), b.and(isNan(b, other), isNan(b, own)));
    return b.or(greater, b.and(equal, b.compare('lt', otherAt, ownAt)));
  };
  const comparable = (v: KValue) => (scalarOf(x, node) === 'bool' ? b.convert(v, 'i32') : v);
  const rankOne = (flat: Affine): void => {
    const index = delinearize(flat, shape);
    const own = lowering.value(x, index, 1);
    const ownAt = index[axis].emit(b);
    const precedes = (j: Affine, lanes: Lanes): KValue => {
      const other = lowering.widen(lowering.value(x, replaced(index, axis, j), lanes), lanes);
      const [mine, at] = [comparable(own), ownAt].map((v) => b.splat(v, lanes));
      return b.convert(before(comparable(other), lowering.indexVector(j, lanes), mine, at), 'i32');
    };
    const vectors = Math.floor(shape[axis] / lanes);
    const [counts] = lowering.for(0, vectors, 1, [b.constant(0, 'i32', lanes)], (j, [count]) => [
      b.add(count, precedes(j.scale(lanes).add(Affine.lane(lanes)), lanes)),
    ]);
    let rank = collapse(b, 'sum', counts);
    if (vectors * lanes < shape[axis]) {
      [rank] = lowering.for(vectors * lanes, shape[axis], 1, [rank], (j, [count]) => [b.add(count, precedes(j, 1))]);
    }
    lowering.if(b.and(b.compare('ge', rank, b.constant(0)), b.compare('lt', rank, b.constant(k))), () => {
      const place = replaced(index, axis, Affine.of(b.assume(rank, 0, k - 1), b));
      if (group.writes.includes(values)) lowering.store(values, place, own, 1);
      if (group.writes.includes(indices)) lowering.store(indices, place, b.convert(ownAt, 'i64'), 1);
    });
  };
  const local = Affine.of(b.builtin('local_id', 0, workgroup), b);
  const grid = lowering.workgroups(Math.ceil(total / (workgroup * perTask)), (task) => {
    if (perTask === 1) {
      lowering.guarded(task.scale(workgroup).add(local), total, rankOne);
      return;
    }
    const end = b.min(task.add(1).scale(perTask).emit(b), b.constant(total));
    lowering.for(task.scale(perTask).emit(b), end, 1, [], (flat) => rankOne(flat));
  });
  return lowering.finish(grid, [workgroup, 1, 1]);
}
