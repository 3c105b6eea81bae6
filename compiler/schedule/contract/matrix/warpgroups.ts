/**
 * Contraction by warpgroups: one of them only brings boxes of both operands to a ring in shared memory, the others
 * multiply them where they lie, 64 rows each, and write results. Signals hand the ring's places back and forth: `full`
 * when a stage's bytes have come, `empty` when all subgroups are done with it.
 *
 * A workgroup works on one block after another (as many workgroups as the device runs at once), and the first stages of
 * the next block are on their way while results are written. Zeros beyond the operands' ends come with the boxes.
 */
import { swizzleRow, warpgroup } from '../../../kernel/bulk.js';
import type { KSignal, KTensorMap, KTile } from '../../../kernel/engines.js';
import type { Target } from '../../../kernel/target.js';
import { type KArray, type KBuffer, scalarBits } from '../../../kernel/types.js';
import { Affine, delinearize } from '../../affine.js';
import type { Group } from '../../group.js';
import type { LoweredKernel } from '../../lowered.js';
import { Lowering } from '../../lowering.js';
import { range } from '../../tensors.js';
import type { Contraction } from '../contraction.js';
import { trimmed } from '../copy.js';
import type { Schedule } from '../index.js';
import { type Boxes, boxesOf } from './boxes.js';
import type { Product, Side } from './operands.js';
import { choose, pickUp } from './results.js';

interface Shape {
  /** Warpgroups that multiply, 64 rows each. */
  readonly consumers: 1 | 2;
  readonly blockN: number;
  /** Multiply-adds for each one of the target's rate for f32: estimates from published kernels. */
  readonly speed: number;
}

const shapes: readonly Shape[] = [
  { consumers: 2, blockN: 256, speed: 11 },
  { consumers: 2, blockN: 128, speed: 9 },
  { consumers: 1, blockN: 256, speed: 8 },
  { consumers: 1, blockN: 128, speed: 6 },
  { consumers: 1, blockN: 64, speed: 4 },
];

/** Rows of a warpgroup's product, and its steps of k. */
const groupRows = 64;
const groupSteps = 16;
/** Steps of k of a stage: rows of 128 bytes. */
const blockK = swizzleRow;
const [leastStages, mostStages] = [3, 6];
/** Columns of sums that leave at a time, and elements from row to row of them. */
const chunk = 64;
const pitch = chunk + 4;
/** Registers of an invocation: with three warpgroups each starts with 168. */
const registers = { producer: 40, consumer: 232 };

export function warpgroupSchedules(
  group: Group,
  target: Target,
  contraction: Contraction,
  product: Product,
): Schedule[] {
  const { unit } = product;
  if (!target.features.has('warpgroups') || (unit.a !== 'f16' && unit.a !== 'bf16')) return [];
  const [lhs, rhs] = [boxesOf(product.lhs, contraction.k), boxesOf(product.rhs, contraction.k)];
  if (!lhs || !rhs) return [];
  const { batch, m, n, k } = contraction;
  return shapes.flatMap((shape): Schedule[] => {
    const { consumers, blockN } = shape;
    const blockM = consumers * groupRows;
    const stageBytes = 2 * blockK * (blockM + blockN);
    // Some bytes are left for signals and alignment.
    const room = target.limits.sharedBytes - consumers * groupRows * pitch * 4 - 1024;
    const stages = Math.min(mostStages, Math.floor(room / stageBytes));
    const invocations = (1 + consumers) * warpgroup * target.subgroup.max;
    if (stages < leastStages || invocations > target.limits.workgroupInvocations) return [];
    const [rows, columns] = [Math.ceil(m / blockM), Math.ceil(n / blockN)];
    const waste = (rows * blockM * columns * blockN * Math.ceil(k / blockK) * blockK) / (m * n * k);
    const tiles = batch * rows * columns;
    const waves = (Math.ceil(tiles / target.parallelism) * target.parallelism) / tiles;
    const rate = target.rates.gflops * 1e3 * shape.speed;
    const plan: Plan = { ...shape, blockM, stages, product, boxes: { lhs, rhs } };
    return [
      {
        name: `warpgroups ${unit.a} ${blockM}×${blockN}×${blockK}`,
        cost: ((2 * batch * m * n * k) / rate) * waste * waves,
        workgroups: tiles,
        lower: () => [new Warpgroups(group, target, contraction, plan).lower()],
      },
    ];
  });
}

interface Plan extends Shape {
  readonly blockM: number;
  readonly stages: number;
  readonly product: Product;
  readonly boxes: { readonly lhs: Boxes; readonly rhs: Boxes };
}

/** One operand's part of the ring. */
interface Ring {
  readonly array: KArray;
  readonly boxes: Boxes;
  readonly map: KTensorMap;
  readonly side: Side;
  /** Rows of a stage. */
  readonly extent: number;
}

/** One block of the result, and how many stages came before it in this workgroup. */
interface Work {
  readonly batch: Affine;
  readonly row: Affine;
  readonly column: Affine;
  readonly before: Affine;
}

class Warpgroups {
  readonly #group: Group;
  readonly #target: Target;
  readonly #contraction: Contraction;
  readonly #plan: Plan;
  readonly #lowering: Lowering;
  readonly #left: Ring;
  readonly #right: Ring;
  readonly #sums: KArray;
  readonly #full: KSignal;
  readonly #empty: KSignal;
  readonly #accumulator: KTile;
  readonly #local: Affine;

  constructor(group: Group, target: Target, contraction: Contraction, plan: Plan) {
    this.#group = group;
    this.#target = target;
    this.#contraction = contraction;
    this.#plan = plan;
    this.#lowering = new Lowering(group, target);
    const { b } = this.#lowering;
    const { product, stages, blockM, blockN, consumers } = plan;
    const ring = (name: string, side: Side, boxes: Boxes, extent: number): Ring => {
      const array = b.array(name, 'shared', side.scalar, stages * extent * blockK);
      const buffer = this.#lowering.buffer(boxes.value) as KBuffer;
      const box = [swizzleRow, boxes.along === 'k' ? extent : blockK, ...boxes.parts.map(() => 1)];
      return { array, boxes, side, extent, map: b.tensorMap({ ...boxes.map, name: `${name}_map`, buffer, box }) };
    };
    this.#left = ring('left', product.lhs, plan.boxes.lhs, blockM);
    this.#right = ring('right', product.rhs, plan.boxes.rhs, blockN);
    this.#sums = b.array('sums', 'shared', 'f32', consumers * groupRows * pitch);
    this.#full = b.signal('full', stages);
    this.#empty = b.signal('empty', stages);
    this.#accumulator = b.tile({
      ...{ name: 'sum', role: 'accumulator', scalar: 'f32', subgroups: warpgroup },
      ...{ m: groupRows, n: blockN, k: groupSteps },
    });
    this.#local = Affine.of(b.builtin('local_id', 0, this.#invocations), b);
  }

  get #groupSize(): number {
    return warpgroup * this.#target.subgroup.max;
  }

  get #invocations(): number {
    return (1 + this.#plan.consumers) * this.#groupSize;
  }

  get #steps(): number {
    return Math.ceil(this.#contraction.k / blockK);
  }

  lower(): LoweredKernel {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { consumers, stages } = this.#plan;
    const first = b.compare('eq', this.#local.emit(b), b.constant(0));
    lowering.if(first, () => {
      for (const i of range(stages)) {
        const index = b.constant(i);
        b.engine({ op: 'signal_init', signal: this.#full, index, arrivals: 1 });
        b.engine({ op: 'signal_init', signal: this.#empty, index, arrivals: consumers * warpgroup });
      }
    });
    b.barrier();
    const role = this.#local.div(this.#groupSize).emit(b);
    lowering.if(
      b.compare('eq', role, b.constant(0)),
      () => {
        // With one consumer there are registers enough for both.
        if (consumers > 1) b.engine({ op: 'registers', change: 'shrink', count: registers.producer });
        lowering.if(first, () => this.#eachBlock((work) => this.#produce(work)));
      },
      () => {
        if (consumers > 1) b.engine({ op: 'registers', change: 'grow', count: registers.consumer });
        const own = Affine.of(b.assume(role, 1, consumers), b).sub(1);
        this.#eachBlock((work) => {
          this.#multiply(work, own);
          this.#finish(work, own);
        });
      },
    );
    const grid = [this.#workgroups, 1, 1] as const;
    const kernel = lowering.finish(grid, [this.#invocations, 1, 1], this.#target.subgroup.max);
    return trimmed(kernel, lowering.bindings);
  }

  // --- Blocks ---

  get #counts(): readonly number[] {
    const { batch, m, n } = this.#contraction;
    const { blockM, blockN } = this.#plan;
    return [batch, Math.ceil(n / blockN), Math.ceil(m / blockM)];
  }

  get #blocks(): number {
    return this.#counts.reduce((product, count) => product * count, 1);
  }

  get #workgroups(): number {
    return Math.min(this.#blocks, this.#target.parallelism);
  }

  /** Runs `body` for the blocks of this workgroup: its own number, and every so many further. */
  #eachBlock(body: (work: Work) => void): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const workgroup = b.builtin('workgroup_id', 0, this.#workgroups);
    const left = b.sub(b.constant(this.#blocks - 1), workgroup);
    const count = b.addc(b.divc(left, this.#workgroups), 1);
    lowering.for(0, count, 1, [], (ordinal) => {
      const number = ordinal.scale(this.#workgroups).add(Affine.of(workgroup, b));
      lowering.guarded(number, this.#blocks, (block) => {
        const [batch, column, row] = delinearize(block, this.#counts);
        const { blockM, blockN } = this.#plan;
        const before = ordinal.scale(this.#steps);
        body({ batch, row: row.scale(blockM), column: column.scale(blockN), before });
      });
    });
  }

  /** The place of a stage in the ring, and the parity of its signals' phases there. */
  #slot(count: Affine): { readonly slot: Affine; readonly parity: Affine } {
    const { stages } = this.#plan;
    return { slot: count.mod(stages), parity: count.div(stages).mod(2) };
  }

  // --- Producer ---

  #produce({ batch, row, column, before }: Work): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    lowering.for(0, this.#steps, 1, [], (step) => {
      const { slot, parity } = this.#slot(before.add(step));
      const index = slot.emit(b);
      // The first time round nobody has used the place yet: the phase before the first counts as over.
      b.engine({ op: 'signal_wait', signal: this.#empty, index, parity: Affine.constant(1).sub(parity).emit(b) });
      const bytes = [this.#left, this.#right].reduce(
        (sum, { array, extent }) => sum + (extent * blockK * scalarBits[array.scalar]) / 8,
        0,
      );
      b.engine({ op: 'signal_expect', signal: this.#full, index, bytes });
      this.#copy(this.#left, slot, batch, row, step);
      this.#copy(this.#right, slot, batch, column, step);
    });
  }

  #copy(ring: Ring, slot: Affine, batch: Affine, first: Affine, step: Affine): void {
    const { b } = this.#lowering;
    const { array, boxes, map, side, extent } = ring;
    const k = step.scale(blockK);
    const panels = boxes.along === 'k' ? 1 : extent / swizzleRow;
    for (const panel of range(panels)) {
      const row = first.add(panel * swizzleRow);
      const matrix = boxes.along === 'k' ? [k, row] : [row, k];
      const at = [...matrix, ...boxes.parts.map((part) => part.of(side.batchOf(batch)))];
      const index = slot.scale(extent * blockK).add(panel * swizzleRow * blockK);
      b.engine({
        op: 'tensor_copy',
        map,
        at: at.map((coordinate) => coordinate.emit(b)),
        memory: array,
        index: index.emit(b),
        signal: this.#full,
        signalIndex: slot.emit(b),
      });
    }
  }

  // --- Consumers ---

  #multiply({ before }: Work, own: Affine): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const scalar = this.#plan.product.unit.a as 'f16' | 'bf16';
    const accumulator = this.#accumulator;
    b.engine({ op: 'tile_fill', tile: accumulator, value: b.constant(0, 'f32') });
    lowering.for(0, this.#steps, 1, [], (step) => {
      const count = before.add(step);
      const { slot, parity } = this.#slot(count);
      b.engine({ op: 'signal_wait', signal: this.#full, index: slot.emit(b), parity: parity.emit(b) });
      b.engine({ op: 'group_fence' });
      for (let at = 0; at < blockK; at += groupSteps) {
        const left = this.#operand(this.#left, slot, own.scale(groupRows), at);
        const right = this.#operand(this.#right, slot, Affine.constant(0), at);
        b.engine({ op: 'group_multiply', scalar, accumulator, a: left, b: right });
      }
      b.engine({ op: 'group_commit' });
      // The stage before is done with; this one goes on while the next is waited for.
      b.engine({ op: 'group_wait', pending: 1 });
      lowering.if(b.compare('gt', step.emit(b), b.constant(0)), () =>
        this.#release(this.#slot(count.add(this.#plan.stages - 1)).slot),
      );
    });
    b.engine({ op: 'group_wait', pending: 0 });
    this.#release(this.#slot(before.add(this.#steps - 1)).slot);
  }

  /** Rows from `row` on (a multiple of 64) and steps of k from `at` on of a stage. */
  #operand({ array, boxes, extent }: Ring, slot: Affine, row: Affine, at: number) {
    const { b } = this.#lowering;
    const start = slot.scale(extent * blockK).add(row.scale(blockK));
    const index = start.add(boxes.along === 'k' ? at : at * swizzleRow).emit(b);
    return { memory: array, index, along: boxes.along, panel: swizzleRow * blockK };
  }

  /** One arrival of each subgroup. */
  #release(slot: Affine): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const lane = this.#local.mod(this.#target.subgroup.max).emit(b);
    lowering.if(b.compare('eq', lane, b.constant(0)), () =>
      b.engine({ op: 'signal_arrive', signal: this.#empty, index: slot.emit(b) }),
    );
  }

  /** Some columns at a time: the warpgroup puts them down, each subgroup picks up its own rows. */
  #finish({ batch, row, column }: Work, own: Affine): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { product, blockN } = this.#plan;
    const subgroup = this.#target.subgroup.max;
    const rows = groupRows / warpgroup;
    const within = this.#local.div(subgroup).mod(warpgroup);
    const base = own.scale(groupRows * pitch);
    const context = {
      ...{ lowering, group: this.#group, contraction: this.#contraction, product, subgroup },
      lane: this.#local.mod(subgroup),
    };
    lowering.for(0, blockN / chunk, 1, [], (pass) => {
      choose(lowering, pass, blockN / chunk, (part) => {
        b.engine({
          op: 'tile_store',
          tile: this.#accumulator,
          memory: this.#sums,
          index: base.emit(b),
          stride: pitch,
          layout: 'row',
          aligned: true,
          columns: { from: part * chunk, count: chunk },
        });
      });
      b.engine({ op: 'subgroup_barrier' });
      pickUp(context, {
        ...{ memory: this.#sums, pitch, rows, width: chunk, batch },
        base: base.add(within.scale(rows * pitch)),
        row: row.add(own.scale(groupRows)).add(within.scale(rows)),
        column: column.add(pass.scale(chunk)),
      });
      b.engine({ op: 'subgroup_barrier' });
    });
  }
}
