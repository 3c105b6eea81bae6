/** Rows on GPUs: one invocation a row, or a workgroup that shares a row and combines through shared memory. */
import type { Target } from '../../kernel/target.js';
import type { KernelFunction, KValue, Lanes, ScalarType } from '../../kernel/types.js';
import { Affine, delinearize } from '../affine.js';
import type { Lowering } from '../lowering.js';
import { collapse, combine, identity } from '../reduce.js';
import type { Index } from '../tensors.js';
import { elementIndex, type Program, type Row, type Space } from './row.js';

/** A row run by one invocation, `step` lanes along the row, which divide it. */
function serialRow(lowering: Lowering, space: Space, index: Index, step: Lanes): Row {
  const { b } = lowering;
  const vectors = space.length / step;
  const element = (i: Affine) => elementIndex(space, index, i.scale(step).add(Affine.lane(step)));
  return {
    lanes: 1,
    index,
    reduce(fn, scalar, value) {
      const [total] = lowering.for(0, vectors, 1, [b.constant(identity(fn, scalar), scalar, step)], (i, [running]) => [
        combine(b, fn, running, lowering.widen(value(element(i), step), step)),
      ]);
      return step === 1 ? total : collapse(b, fn, total);
    },
    each: (visit) => void lowering.for(0, vectors, 1, [], (i) => visit(element(i), step)),
    once: (body) => body(),
  };
}

/** GPU: one invocation a row. */
export function lowerInvocations(
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
      program(lowering, serialRow(lowering, space, delinearize(row, space.rowShape), step));
    });
  });
  return lowering.finish(grid, [workgroup, 1, 1]);
}

/** GPU: one workgroup a row. */
export function lowerTogether(lowering: Lowering, target: Target, space: Space, program: Program): KernelFunction {
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
