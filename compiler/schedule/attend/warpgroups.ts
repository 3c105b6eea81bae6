/**
 * Attention by warpgroups (Shah et al. 2024, "FlashAttention-3"): one of them only brings boxes of keys and values to
 * rings in shared memory, two others own 64 queries each. Scores and results stay in registers; weights are the left
 * operand of the second product from there. While one warpgroup is at its softmax, the other one multiplies.
 */
import { type GroupOperand, swizzleRow, warpgroup } from '../../kernel/bulk.js';
import type { KSignal, KTensorMap, KTile } from '../../kernel/engines.js';
import type { Target } from '../../kernel/target.js';
import { type KArray, type KBuffer, type KValue, scalarBits } from '../../kernel/types.js';
import { Affine, delinearize } from '../affine.js';
import { trimmed } from '../contract/copy.js';
import { type Boxes, boxesOf } from '../contract/matrix/boxes.js';
import { productOf, type Side } from '../contract/matrix/operands.js';
import type { Group } from '../group.js';
import type { LoweredKernel } from '../lowered.js';
import { Lowering } from '../lowering.js';
import { range } from '../tensors.js';
import { type Attention, keepsRows, rowsFor } from './attention.js';
import { type Band, bandOf } from './band.js';
import { type FragmentRows, rowStateStart, scaleRows, softmaxStep, storeRows } from './fragments.js';

/** Queries of a warpgroup, and the steps of a product. */
const groupRows = 64;
const groupSteps = 16;
const consumers = 2;
const blockRows = consumers * groupRows;
/** Blocks of keys, and of values, on their way or in use. */
const stages = 2;
/** Registers of an invocation: with three warpgroups each starts with 168. */
const registers = { producer: 24, consumer: 240 };
/** Heads that registers have room for. */
const mostWidth = 128;

export interface GroupPlan {
  readonly scalar: 'f16' | 'bf16';
  readonly sides: { readonly queries: Side; readonly keys: Side; readonly values: Side };
  readonly boxes: { readonly queries: Boxes; readonly keys: Boxes; readonly values: Boxes };
  /** Panels of 64 steps of the depth, and of 64 columns of values. */
  readonly deep: number;
  readonly wide: number;
  readonly blockKeys: number;
}

/** How warpgroups compute an attention; undefined where they cannot: other types, irregular memory, wide heads. */
export function planWarpgroups(group: Group, target: Target, attention: Attention): GroupPlan | undefined {
  if (!target.features.has('warpgroups') || !target.features.has('fragments')) return undefined;
  if (attention.accumulator !== 'f32' || !keepsRows(attention)) return undefined;
  const [scores, product] = [productOf(group, target, attention.scores), productOf(group, target, attention.product)];
  if (!scores || !product || scores.unit !== product.unit) return undefined;
  const { a: scalar } = scores.unit;
  if (scalar !== 'f16' && scalar !== 'bf16') return undefined;
  if (Math.max(attention.depth, attention.width) > mostWidth) return undefined;
  const [queries, keys] = [boxesOf(scores.lhs, attention.depth), boxesOf(scores.rhs, attention.depth)];
  const values = boxesOf(product.rhs, attention.keys);
  if (queries?.along !== 'k' || keys?.along !== 'k' || values?.along !== 'row') return undefined;
  const [deep, wide] = [attention.depth, attention.width].map((extent) => Math.ceil(extent / swizzleRow));
  const blockKeys = attention.keys <= 64 ? 64 : 128;
  const bytes = 2 * swizzleRow * (deep * blockRows + stages * blockKeys * (deep + wide));
  const invocations = (1 + consumers) * warpgroup * target.subgroup.max;
  if (bytes + 1024 > target.limits.sharedBytes || invocations > target.limits.workgroupInvocations) return undefined;
  const sides = { queries: scores.lhs, keys: scores.rhs, values: product.rhs };
  return { scalar, sides, boxes: { queries, keys, values }, deep, wide, blockKeys };
}

export function lowerWarpgroups(group: Group, target: Target, attention: Attention, plan: GroupPlan): LoweredKernel {
  return new WarpgroupAttention(group, target, attention, plan).lower();
}

/** Boxes of one operand in shared memory: panels of 64 elements of a row, each `extent` rows long. */
interface Panels {
  readonly array: KArray;
  readonly map: KTensorMap;
  readonly boxes: Boxes;
  readonly side: Side;
  readonly count: number;
  readonly extent: number;
  readonly full: KSignal;
  readonly empty: KSignal | undefined;
}

const panelSize = ({ extent }: Panels): number => extent * swizzleRow;

class WarpgroupAttention {
  readonly #group: Group;
  readonly #attention: Attention;
  readonly #plan: GroupPlan;
  readonly #lowering: Lowering;
  readonly #inner: number;
  readonly #band: Band;
  readonly #local: Affine;
  readonly #queries: Panels;
  readonly #keys: Panels;
  readonly #values: Panels;
  readonly #scores: KTile;
  readonly #results: KTile;
  readonly #weights: readonly KTile[];
  /** What an invocation holds of scores and of results. */
  readonly #held: KArray;
  readonly #sums: KArray;
  readonly #subgroup: number;

  constructor(group: Group, target: Target, attention: Attention, plan: GroupPlan) {
    this.#group = group;
    this.#attention = attention;
    this.#plan = plan;
    this.#subgroup = target.subgroup.max;
    this.#lowering = new Lowering(group, target);
    const { b } = this.#lowering;
    this.#inner = rowsFor(attention, groupRows);
    this.#band = bandOf(this.#lowering, attention, this.#inner);
    this.#local = Affine.of(b.builtin('local_id', 0, this.#invocations), b);
    const { sides, boxes, deep, wide, blockKeys, scalar } = plan;
    const panels = (name: keyof GroupPlan['sides'], count: number, extent: number, places: number): Panels => {
      const [side, box] = [sides[name], boxes[name]];
      const array = b.array(name, 'shared', side.scalar, places * count * extent * swizzleRow);
      const buffer = this.#lowering.buffer(box.value) as KBuffer;
      const shape = [swizzleRow, extent, ...box.parts.map(() => 1)];
      const map = b.tensorMap({ ...box.map, name: `${name}_map`, buffer, box: shape });
      const full = b.signal(`${name}_full`, places);
      const empty = places > 1 ? b.signal(`${name}_empty`, places) : undefined;
      return { array, map, boxes: box, side, count, extent, full, empty };
    };
    this.#queries = panels('queries', deep, blockRows, 1);
    this.#keys = panels('keys', deep, blockKeys, stages);
    this.#values = panels('values', wide, blockKeys, stages);
    const tile = (name: string, role: KTile['role'], n: number, of: KTile['scalar']): KTile =>
      b.tile({ name, role, m: groupRows, n, k: groupSteps, scalar: of, subgroups: warpgroup });
    this.#scores = tile('scores', 'accumulator', blockKeys, 'f32');
    this.#results = tile('results', 'accumulator', wide * swizzleRow, 'f32');
    this.#weights = range(blockKeys / groupSteps).map((i) => tile(`weights${i}`, 'a', wide * swizzleRow, scalar));
    this.#held = b.array('held', 'private', 'f32', blockKeys / 2);
    this.#sums = b.array('sums', 'private', 'f32', (wide * swizzleRow) / 2);
  }

  get #groupSize(): number {
    return warpgroup * this.#subgroup;
  }

  get #invocations(): number {
    return (1 + consumers) * this.#groupSize;
  }

  lower(): LoweredKernel {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { batch, rows } = this.#attention;
    const inner = this.#inner;
    const first = b.compare('eq', this.#local.emit(b), b.constant(0));
    lowering.if(first, () => this.#initialise());
    b.barrier();
    const blocks = Math.ceil(inner / blockRows);
    const counts = [batch, rows / inner, blocks];
    const role = this.#local.div(this.#groupSize).emit(b);
    const grid = lowering.workgroups(counts[0] * counts[1] * counts[2], (at) => {
      const [batchAt, outer, block] = delinearize(at, counts);
      const turned = this.#band.high === undefined ? block : block.scale(-1).add(blocks - 1);
      const work = { batch: batchAt, outer: outer.scale(inner), first: turned.scale(blockRows) };
      lowering.if(
        b.compare('eq', role, b.constant(0)),
        () => {
          b.engine({ op: 'registers', change: 'shrink', count: registers.producer });
          lowering.if(first, () => this.#produce(work));
        },
        () => {
          b.engine({ op: 'registers', change: 'grow', count: registers.consumer });
          this.#consume(work, Affine.of(b.assume(role, 1, consumers), b).sub(1));
        },
      );
    });
    const kernel = lowering.finish(grid, [this.#invocations, 1, 1], this.#subgroup);
    return trimmed(kernel, lowering.bindings);
  }

  #initialise(): void {
    const { b } = this.#lowering;
    for (const { full, empty } of [this.#queries, this.#keys, this.#values]) {
      for (const i of range(full.count)) {
        const index = b.constant(i);
        b.engine({ op: 'signal_init', signal: full, index, arrivals: 1 });
        if (empty) b.engine({ op: 'signal_init', signal: empty, index, arrivals: consumers * warpgroup });
      }
    }
  }

  // --- Blocks of keys ---

  /** Runs `body` for the blocks of keys that the queries see, numbered from 0. */
  #eachBlock(
    first: Affine,
    initial: readonly KValue[],
    body: (block: Affine, ordinal: Affine, carried: readonly KValue[]) => readonly KValue[] | void,
  ): readonly KValue[] {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { keys } = this.#attention;
    const { blockKeys } = this.#plan;
    const { low, high } = this.#band.blocks(lowering, first, blockRows, blockKeys, keys);
    const last = Math.ceil(keys / blockKeys) - 1;
    const value = (bound: KValue | number): KValue => (typeof bound === 'number' ? b.constant(bound) : bound);
    const start = typeof low === 'number' ? Affine.constant(low) : Affine.of(low, b);
    return lowering.for(0, b.sub(value(high), value(low)), 1, initial, (ordinal, carried) => {
      const at = start.add(ordinal);
      return body(at.range.max <= last ? at : Affine.of(b.clamp(at.emit(b), 0, last), b), ordinal, carried);
    });
  }

  /** The place of a block in its ring, and the parity of its signals' phases there. */
  #slot(ordinal: Affine): { readonly slot: Affine; readonly parity: Affine } {
    return { slot: ordinal.mod(stages), parity: ordinal.div(stages).mod(2) };
  }

  // --- Producer ---

  #produce({ batch, outer, first }: Work): void {
    const { b } = this.#lowering;
    const zero = Affine.constant(0);
    this.#copy(this.#queries, zero, batch, outer.add(first));
    this.#eachBlock(first, [], (block, ordinal) => {
      const { slot, parity } = this.#slot(ordinal);
      for (const panels of [this.#keys, this.#values]) {
        const index = slot.emit(b);
        // The first time round nobody has used the place yet: the phase before the first counts as over.
        const before = Affine.constant(1).sub(parity).emit(b);
        b.engine({ op: 'signal_wait', signal: panels.empty as KSignal, index, parity: before });
        this.#copy(panels, slot, batch, block.scale(this.#plan.blockKeys));
      }
    });
  }

  /** Brings `extent` rows (keys of the values) from `from` on to a place, panel by panel. */
  #copy(panels: Panels, slot: Affine, batch: Affine, from: Affine): void {
    const { b } = this.#lowering;
    const { array, map, boxes, side, count, full } = panels;
    const signalIndex = slot.emit(b);
    const bytes = (count * panelSize(panels) * scalarBits[array.scalar]) / 8;
    b.engine({ op: 'signal_expect', signal: full, index: signalIndex, bytes });
    for (const panel of range(count)) {
      const at = [
        Affine.constant(panel * swizzleRow),
        from,
        ...boxes.parts.map((part) => part.of(side.batchOf(batch))),
      ];
      const index = slot.scale(count).add(panel).scale(panelSize(panels)).emit(b);
      const coordinates = at.map((coordinate) => coordinate.emit(b));
      b.engine({ op: 'tensor_copy', map, at: coordinates, memory: array, index, signal: full, signalIndex });
    }
  }

  // --- Consumers ---

  #consume({ batch, outer, first }: Work, own: Affine): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { blockKeys } = this.#plan;
    const within = this.#local.div(this.#subgroup).mod(warpgroup);
    const rows: FragmentRows = {
      ...{ l: lowering, attention: this.#attention, lane: this.#local.mod(this.#subgroup) },
      ...{ batch, outer, inner: this.#inner },
      first: first.add(own.scale(groupRows)).add(within.scale(groupRows / warpgroup)),
    };
    b.engine({ op: 'tile_fill', tile: this.#results, value: b.constant(0, 'f32') });
    b.engine({ op: 'signal_wait', signal: this.#queries.full, index: b.constant(0), parity: b.constant(0) });
    const state = this.#eachBlock(first, rowStateStart(lowering), (block, ordinal, before) => {
      const { slot, parity } = this.#slot(ordinal);
      this.#await(this.#keys, slot, parity);
      this.#multiplyScores(slot, own);
      this.#release(this.#keys, slot);
      const { shrink, next } = softmaxStep(rows, this.#held, block.scale(blockKeys), blockKeys, before);
      this.#scaleResults(shrink);
      this.#await(this.#values, slot, parity);
      this.#multiplyValues(slot);
      this.#release(this.#values, slot);
      return next;
    });
    b.engine({ op: 'tile_unpack', tile: this.#results, memory: this.#sums, from: 0 });
    storeRows(rows, this.#group, this.#sums, this.#plan.wide * swizzleRow, state);
  }

  #await({ full }: Panels, slot: Affine, parity: Affine): void {
    const { b } = this.#lowering;
    b.engine({ op: 'signal_wait', signal: full, index: slot.emit(b), parity: parity.emit(b) });
  }

  /** One arrival of each subgroup. */
  #release({ empty }: Panels, slot: Affine): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const lane = this.#local.mod(this.#subgroup).emit(b);
    lowering.if(b.compare('eq', lane, b.constant(0)), () =>
      b.engine({ op: 'signal_arrive', signal: empty as KSignal, index: slot.emit(b) }),
    );
  }

  #finished(): void {
    const { b } = this.#lowering;
    b.engine({ op: 'group_commit' });
    b.engine({ op: 'group_wait', pending: 0 });
  }

  #multiplyScores(slot: Affine, own: Affine): void {
    const { b } = this.#lowering;
    const { deep, scalar } = this.#plan;
    b.engine({ op: 'tile_fill', tile: this.#scores, value: b.constant(0, 'f32') });
    b.engine({ op: 'group_fence' });
    for (let d = 0; d < deep * swizzleRow; d += groupSteps) {
      const a = this.#alongDepth(this.#queries, Affine.constant(0), own.scale(groupRows), d);
      const right = this.#alongDepth(this.#keys, slot, Affine.constant(0), d);
      b.engine({ op: 'group_multiply', scalar, accumulator: this.#scores, a, b: right });
    }
    this.#finished();
    b.engine({ op: 'tile_unpack', tile: this.#scores, memory: this.#held, from: 0 });
  }

  /** Rows from `row` on, steps of the depth from `d` on. */
  #alongDepth(panels: Panels, slot: Affine, row: Affine, d: number): GroupOperand {
    const { b } = this.#lowering;
    const panel = slot
      .scale(panels.count)
      .add(Math.floor(d / swizzleRow))
      .scale(panelSize(panels));
    const index = panel
      .add(row.scale(swizzleRow))
      .add(d % swizzleRow)
      .emit(b);
    return { memory: panels.array, index, along: 'k', panel: panelSize(panels) };
  }

  #scaleResults(shrink: readonly KValue[]): void {
    const { b } = this.#lowering;
    b.engine({ op: 'tile_unpack', tile: this.#results, memory: this.#sums, from: 0 });
    scaleRows(this.#lowering, this.#sums, this.#plan.wide * swizzleRow, shrink);
    b.engine({ op: 'tile_pack', tile: this.#results, memory: this.#sums, from: 0 });
  }

  #multiplyValues(slot: Affine): void {
    const { b } = this.#lowering;
    const { scalar } = this.#plan;
    this.#weights.forEach((tile, i) => {
      b.engine({ op: 'tile_pack', tile, memory: this.#held, from: (i * groupSteps) / 2 });
    });
    b.engine({ op: 'group_fence' });
    this.#weights.forEach((a, i) => {
      const start = slot.scale(this.#values.count).scale(panelSize(this.#values));
      const index = start.add(i * groupSteps * swizzleRow).emit(b);
      const right: GroupOperand = { memory: this.#values.array, index, along: 'row', panel: panelSize(this.#values) };
      b.engine({ op: 'group_multiply', scalar, accumulator: this.#results, a, b: right });
    });
    this.#finished();
  }
}

/** A block of queries. */
interface Work {
  readonly batch: Affine;
  readonly outer: Affine;
  readonly first: Affine;
}
