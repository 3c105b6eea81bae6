/**
 * Partial results of attention over ranges of keys, and the kernel that joins them: each range has its largest logit,
 * its sum of weights and its weighted sums; weights of a range shrink by e^(its largest logit - the largest of all).
 */
import type { KernelBuilder } from '../../kernel/builder.js';
import type { Target } from '../../kernel/target.js';
import { type KBuffer, type KernelFunction, type KValue, type Lanes, scalarBits } from '../../kernel/types.js';
import { Affine, delinearize } from '../affine.js';
import { multiplyAdd } from '../contract/contraction.js';
import { trimmed } from '../contract/copy.js';
import type { Group } from '../group.js';
import type { Binding, LoweredKernel, Temporary } from '../lowered.js';
import { Lowering } from '../lowering.js';
import { type Attention, storeResult } from './attention.js';
import { larger, smallest } from './softmax.js';

export interface PartialPlace {
  readonly batch: Affine;
  readonly split: Affine;
  readonly row: Affine;
}

export interface Partials {
  readonly splits: number;
  /** The two buffers as parameters of a kernel, after its others. */
  declare(b: KernelBuilder, access: 'read' | 'write'): { readonly sums: KBuffer; readonly state: KBuffer };
  /** Address of a weighted sum. */
  sumAt(batch: Affine, split: Affine, row: Affine, w: Affine): Affine;
  /** Address of the largest logit; the sum of weights follows. */
  stateAt(place: PartialPlace): Affine;
  storeState(l: Lowering, state: KBuffer, place: PartialPlace, largest: KValue, total: KValue): void;
  /** The kernel with the buffers that it uses. */
  trimmed(kernel: KernelFunction, bindings: readonly Binding[]): LoweredKernel;
}

export function partialsOf({ batch, rows, width, accumulator, pattern }: Attention, splits: number): Partials {
  const bytes = scalarBits[accumulator] / 8;
  const states = batch * splits * rows;
  const { name } = pattern.product.outputs[0];
  const temporary = (what: string, length: number): Temporary => ({
    kind: 'temporary',
    name: `${name}.${what}`,
    bytes: length * bytes,
  });
  const [sums, state] = [temporary('sums', states * width), temporary('state', 2 * states)];
  const flat = ({ batch, split, row }: PartialPlace): Affine => batch.scale(splits).add(split).scale(rows).add(row);
  const stateAt = (place: PartialPlace): Affine => flat(place).scale(2);
  return {
    splits,
    declare: (b, access) => ({
      sums: b.buffer('partial_sums', accumulator, states * width, access),
      state: b.buffer('partial_state', accumulator, 2 * states, access),
    }),
    sumAt: (batch, split, row, w) => flat({ batch, split, row }).scale(width).add(w),
    stateAt,
    storeState({ b }, buffer, place, largest, total) {
      const at = stateAt(place).emit(b);
      b.store(buffer, at, largest);
      b.store(buffer, b.addc(at, 1), total);
    },
    trimmed: (kernel, bindings) => trimmed(kernel, [...bindings, sums, state]),
  };
}

/** The kernel of whole results, or of parts of them: `body` is for one batch and one range of keys. */
export function lowerRanges(
  lowering: Lowering,
  batch: number,
  partials: Partials | undefined,
  invocations: number,
  body: (batch: Affine, split: Affine) => void,
): LoweredKernel {
  const shares = [batch, partials?.splits ?? 1];
  const grid = lowering.workgroups(shares[0] * shares[1], (at) => {
    const [batchAt, split] = delinearize(at, shares);
    body(batchAt, split);
  });
  const kernel = lowering.finish(grid, [invocations, 1, 1]);
  return partials
    ? partials.trimmed({ ...kernel, name: `${kernel.name}_part` }, lowering.bindings)
    : { kernel, bindings: lowering.bindings };
}

/** One vector of a row of the result an invocation. */
export function lowerJoin(group: Group, target: Target, attention: Attention, partials: Partials): LoweredKernel {
  const lowering = new Lowering(group, target);
  const { b } = lowering;
  const buffers = partials.declare(b, 'read');
  const { batch, rows, width, accumulator } = attention;
  const wide: Lanes = ([16, 8, 4, 2] as const).find((lanes) => lanes <= target.vectorLanes && width % lanes === 0) ?? 1;
  const shape = [batch, rows, width / wide];
  const total = batch * rows * (width / wide);
  const workgroup = target.style === 'cpu' ? 1 : Math.min(64, target.limits.workgroupInvocations);
  const share = target.style === 'cpu' ? Math.max(1, Math.ceil(total / (2 * target.parallelism))) : 1;
  const element = (flat: Affine): void => {
    const [batchAt, row, column] = delinearize(flat, shape);
    const first = column.scale(wide);
    const stateOf = (split: Affine, which: 0 | 1): KValue =>
      b.load(buffers.state, partials.stateAt({ batch: batchAt, split, row }).add(which).emit(b));
    const [largest] = lowering.for(
      0,
      partials.splits,
      1,
      [b.constant(smallest(accumulator), accumulator)],
      (split, [most]) => [larger(b, most, stateOf(split, 0))],
    );
    const begin = [b.constant(0, accumulator), b.constant(0, accumulator, wide)];
    const [weights, sums] = lowering.for(0, partials.splits, 1, begin, (split, [weight, sum]) => {
      const factor = b.unary('exp', b.sub(stateOf(split, 0), largest));
      const at = partials.sumAt(batchAt, split, row, first).emit(b);
      const part = b.load(buffers.sums, at, wide, width % wide === 0);
      return [multiplyAdd(lowering, factor, stateOf(split, 1), weight), multiplyAdd(lowering, factor, part, sum)];
    });
    const place = { batch: batchAt, row, w: first.add(Affine.lane(wide)) };
    storeResult(lowering, group, attention, place, b.div(sums, b.splat(weights, wide)));
  };
  const local = Affine.of(b.builtin('local_id', 0, workgroup), b);
  const grid = lowering.workgroups(Math.ceil(total / (workgroup * share)), (at) => {
    if (share === 1) return lowering.guarded(at.scale(workgroup).add(local), total, element);
    lowering.for(0, share, 1, [], (i) => lowering.guarded(at.scale(share).add(i), total, element));
  });
  const kernel = lowering.finish(grid, [workgroup, 1, 1]);
  return partials.trimmed({ ...kernel, name: `${kernel.name}_join` }, lowering.bindings);
}
