/**
 * Attention on the matrix units of subgroups (Dao 2023, "FlashAttention-2"): a subgroup owns 16 queries. Scores stay in
 * the accumulators in which they are computed, become weights there, and go on as the left operand of the second product
 * without leaving registers. Blocks of keys and values pass through a ring of two places in shared memory.
 */
import type { KTile } from '../../kernel/engines.js';
import type { Target } from '../../kernel/target.js';
import { type KArray, type KValue, scalarBits } from '../../kernel/types.js';
import { Affine, delinearize } from '../affine.js';
import { trimmed } from '../contract/copy.js';
import { type MatrixBlock, slotOf } from '../contract/matrix/blocks.js';
import { alongOf, Loader, type Route, routeOf, type Staged } from '../contract/matrix/loader.js';
import { type Product, productOf, type Side } from '../contract/matrix/operands.js';
import type { Group } from '../group.js';
import type { LoweredKernel } from '../lowered.js';
import { Lowering } from '../lowering.js';
import { range } from '../tensors.js';
import { type Attention, keepsRows, rowsFor } from './attention.js';
import { type Band, bandOf } from './band.js';
import { type FragmentRows, rowStateStart, scaleRows, softmaxStep, storeRows } from './fragments.js';

/** Queries of a subgroup, and what tiles of products are multiples of. */
const unitRows = 16;
const subgroups = 4;
/** Columns of values, and steps of the depth, that registers and shared memory have room for. */
const mostWidth = 256;

const rounded = (extent: number): number => Math.ceil(extent / unitRows) * unitRows;

interface Plan {
  readonly scores: Product;
  readonly product: Product;
  readonly routes: { readonly queries: Route; readonly keys: Route; readonly values: Route };
  /** Keys of a block. */
  readonly blockKeys: number;
  readonly blocks: { readonly scores: MatrixBlock; readonly values: MatrixBlock };
  readonly depth: number;
  readonly width: number;
}

/** How the target's matrix units compute an attention; undefined where none does as exactly as it must be. */
export function planTiles(group: Group, target: Target, attention: Attention): Plan | undefined {
  const asynchronous = target.features.has('async_copy');
  if (!keepsRows(attention)) return undefined;
  if (!target.features.has('fragments') || target.subgroup.max !== 32 || attention.accumulator !== 'f32')
    return undefined;
  const [scores, product] = [productOf(group, target, attention.scores), productOf(group, target, attention.product)];
  if (!scores || !product || scores.unit !== product.unit) return undefined;
  const { unit } = scores;
  const small = unit.a === 'f16' || unit.a === 'bf16';
  if (!small || unit.m !== unitRows || unit.n !== unitRows || unit.k !== unitRows) return undefined;
  const [depth, width] = [rounded(attention.depth), rounded(attention.width)];
  if (Math.max(depth, width) > mostWidth) return undefined;
  const routes = {
    queries: routeOf(scores.lhs, attention.depth, asynchronous),
    keys: routeOf(scores.rhs, attention.depth, asynchronous),
    values: routeOf(product.rhs, attention.keys, asynchronous),
  };
  for (const blockKeys of Math.max(depth, width) > 128 ? [32] : [64, 32]) {
    const base = { blockM: subgroups * unitRows, down: subgroups, across: 1, stages: 2, asynchronous };
    const blocks = {
      scores: { ...base, blockN: blockKeys, blockK: depth },
      values: { ...base, blockN: width, blockK: blockKeys },
    };
    const bytes = (side: Side, route: Route, extent: number, blockK: number): number =>
      (slotOf(side, alongOf(route), extent, blockK).size * scalarBits[side.scalar]) / 8;
    const shared =
      bytes(scores.lhs, routes.queries, base.blockM, depth) +
      2 * bytes(scores.rhs, routes.keys, blockKeys, depth) +
      2 * bytes(product.rhs, routes.values, width, blockKeys);
    if (shared <= target.limits.sharedBytes) return { scores, product, routes, blockKeys, blocks, depth, width };
  }
  return undefined;
}

export function lowerTiles(group: Group, target: Target, attention: Attention, plan: Plan): LoweredKernel {
  return new TiledAttention(group, target, attention, plan).lower();
}

class TiledAttention {
  readonly #group: Group;
  readonly #attention: Attention;
  readonly #plan: Plan;
  readonly #lowering: Lowering;
  readonly #inner: number;
  readonly #band: Band;
  readonly #local: Affine;
  readonly #queries: Loader;
  readonly #keys: Loader;
  readonly #values: Loader;
  readonly #query: KTile;
  readonly #key: KTile;
  readonly #weight: KTile;
  readonly #value: KTile;
  readonly #scores: readonly KTile[];
  readonly #results: readonly KTile[];
  /** What an invocation holds of the scores and of the results. */
  readonly #held: KArray;
  readonly #sums: KArray;

  constructor(group: Group, target: Target, attention: Attention, plan: Plan) {
    this.#group = group;
    this.#attention = attention;
    this.#plan = plan;
    this.#lowering = new Lowering(group, target);
    const { b } = this.#lowering;
    this.#inner = rowsFor(attention, unitRows);
    this.#band = bandOf(this.#lowering, attention, this.#inner);
    this.#local = Affine.of(b.builtin('local_id', 0, this.#invocations), b);
    const { scores, product, routes, blocks, blockKeys, width } = plan;
    const loader = (
      name: string,
      side: Side,
      route: Route,
      block: MatrixBlock,
      extent: number,
      k: number,
      slots: number,
    ) => {
      const { size } = slotOf(side, alongOf(route), extent, block.blockK);
      const array = b.array(name, 'shared', side.scalar, size * slots);
      const buffer =
        side.memory?.binding.kind === 'value' ? this.#lowering.buffer(side.memory.binding.value) : undefined;
      return new Loader({
        ...{ lowering: this.#lowering, side, route, array, block, extent, k },
        ...{ local: this.#local, invocations: this.#invocations },
        ...(buffer ? { buffer } : {}),
      });
    };
    const blockRows = subgroups * unitRows;
    this.#queries = loader('queries', scores.lhs, routes.queries, blocks.scores, blockRows, attention.depth, 1);
    this.#keys = loader('keys', scores.rhs, routes.keys, blocks.scores, blockKeys, attention.depth, 2);
    this.#values = loader('values', product.rhs, routes.values, blocks.values, width, attention.keys, 2);
    const { unit } = scores;
    const tile = (name: string, role: KTile['role']): KTile =>
      b.tile({ name, role, m: unit.m, n: unit.n, k: unit.k, scalar: unit[role] });
    this.#query = tile('query', 'a');
    this.#key = tile('key', 'b');
    this.#weight = tile('weight', 'a');
    this.#value = tile('value', 'b');
    this.#scores = range(blockKeys / unitRows).map((i) => tile(`score${i}`, 'accumulator'));
    this.#results = range(width / unitRows).map((i) => tile(`result${i}`, 'accumulator'));
    this.#held = b.array('held', 'private', 'f32', blockKeys / 2);
    this.#sums = b.array('sums', 'private', 'f32', width / 2);
  }

  get #invocations(): number {
    return subgroups * 32;
  }

  lower(): LoweredKernel {
    const { batch, rows } = this.#attention;
    const inner = this.#inner;
    const blockRows = subgroups * unitRows;
    const blocks = Math.ceil(inner / blockRows);
    const lowering = this.#lowering;
    const counts = [batch, rows / inner, blocks];
    const grid = lowering.workgroups(batch * (rows / inner) * blocks, (at) => {
      const [batchAt, outer, block] = delinearize(at, counts);
      const turned = this.#band.high === undefined ? block : block.scale(-1).add(blocks - 1);
      this.#workgroup(batchAt, outer.scale(inner), turned.scale(blockRows));
    });
    const kernel = lowering.finish(grid, [this.#invocations, 1, 1], 32);
    return trimmed(kernel, lowering.bindings);
  }

  #workgroup(batch: Affine, outer: Affine, first: Affine): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { blockKeys } = this.#plan;
    const { keys } = this.#attention;
    const rows: FragmentRows = {
      ...{ l: lowering, attention: this.#attention, lane: this.#local.mod(32), batch, outer, inner: this.#inner },
      first: first.add(this.#local.div(32).scale(unitRows)),
    };
    const { low, high } = this.#band.blocks(lowering, first, subgroups * unitRows, blockKeys, keys);
    const start = typeof low === 'number' ? Affine.constant(low) : Affine.of(low, b);
    const loaders = [this.#keys, this.#values];
    const copied = loaders.filter((loader) => loader.isAsynchronous);
    const carried = loaders.filter((loader) => !loader.isAsynchronous);
    const staged = (loader: Loader, block: Affine): [Staged, Affine] =>
      loader === this.#keys
        ? [{ batch, first: block.scale(blockKeys) }, Affine.constant(0)]
        : [{ batch, first: Affine.constant(0) }, block];
    const zero = Affine.constant(0);
    const queries: Staged = { batch, first: outer.add(first) };
    if (this.#queries.isAsynchronous) this.#queries.copy(queries, zero, zero);
    else this.#queries.store(this.#queries.load(queries, zero), zero);
    for (const loader of copied) loader.copy(...staged(loader, start), start.mod(2));
    if (copied.length > 0 || this.#queries.isAsynchronous) b.engine({ op: 'async_commit' });
    for (const loader of carried) loader.store(loader.load(...staged(loader, start)), start.mod(2));
    for (const tile of this.#results) b.engine({ op: 'tile_fill', tile, value: b.constant(0, 'f32') });
    const waits = copied.length > 0 || this.#queries.isAsynchronous;
    const state = lowering.for(low, high, 1, rowStateStart(lowering), (block, before) => {
      if (waits) b.engine({ op: 'async_wait', pending: 0 });
      // After it this block is seen by all, and all are done with the one whose place is filled next.
      b.barrier();
      const next = this.#limitedBlock(block.add(1));
      for (const loader of copied) loader.copy(...staged(loader, next), block.add(1).mod(2));
      if (copied.length > 0) b.engine({ op: 'async_commit' });
      const values = carried.map((loader) => loader.load(...staged(loader, next)));
      const slot = block.mod(2);
      this.#multiplyScores(slot);
      const { shrink, next: after } = softmaxStep(rows, this.#held, block.scale(blockKeys), blockKeys, before);
      this.#scaleResults(shrink);
      this.#multiplyValues(slot);
      carried.forEach((loader, i) => void loader.store(values[i], block.add(1).mod(2)));
      return after;
    });
    // Copies of a block behind the last one may still be on their way.
    if (copied.length > 0) b.engine({ op: 'async_wait', pending: 0 });
    this.#results.forEach((tile, i) => {
      b.engine({ op: 'tile_unpack', tile, memory: this.#sums, from: (i * unitRows) / 2 });
    });
    storeRows(rows, this.#group, this.#sums, this.#plan.width, state);
  }

  /** The block after the last one is that one again. */
  #limitedBlock(block: Affine): Affine {
    const { b } = this.#lowering;
    const last = Math.ceil(this.#attention.keys / this.#plan.blockKeys) - 1;
    return block.range.max <= last ? block : Affine.of(b.min(block.emit(b), b.constant(last)), b);
  }

  #load(tile: KTile, loader: Loader, route: Route, slot: Affine, row: Affine, step: number): void {
    const { b } = this.#lowering;
    const layout = (alongOf(route) === 'k') === (tile.role === 'a') ? 'row' : 'column';
    const index = loader.at(slot, row, Affine.constant(step)).emit(b);
    b.engine({ op: 'tile_load', tile, memory: loader.array, index, stride: loader.pitch, layout, aligned: true });
  }

  #multiplyScores(slot: Affine): void {
    const { b } = this.#lowering;
    const { depth, routes } = this.#plan;
    const own = this.#local.div(32).scale(unitRows);
    for (const tile of this.#scores) b.engine({ op: 'tile_fill', tile, value: b.constant(0, 'f32') });
    for (let step = 0; step < depth; step += unitRows) {
      this.#load(this.#query, this.#queries, routes.queries, Affine.constant(0), own, step);
      this.#scores.forEach((accumulator, j) => {
        this.#load(this.#key, this.#keys, routes.keys, slot, Affine.constant(j * unitRows), step);
        b.engine({ op: 'tile_multiply', accumulator, a: this.#query, b: this.#key });
      });
    }
    this.#scores.forEach((tile, j) => {
      b.engine({ op: 'tile_unpack', tile, memory: this.#held, from: (j * unitRows) / 2 });
    });
  }

  #scaleResults(shrink: readonly KValue[]): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const move = (op: 'tile_unpack' | 'tile_pack'): void =>
      this.#results.forEach((tile, i) => {
        b.engine({ op, tile, memory: this.#sums, from: (i * unitRows) / 2 });
      });
    move('tile_unpack');
    scaleRows(lowering, this.#sums, this.#plan.width, shrink);
    move('tile_pack');
  }

  #multiplyValues(slot: Affine): void {
    const { b } = this.#lowering;
    const { blockKeys, routes } = this.#plan;
    for (let step = 0; step < blockKeys; step += unitRows) {
      b.engine({ op: 'tile_pack', tile: this.#weight, memory: this.#held, from: step / 2 });
      this.#results.forEach((accumulator, j) => {
        this.#load(this.#value, this.#values, routes.values, slot, Affine.constant(j * unitRows), step);
        b.engine({ op: 'tile_multiply', accumulator, a: this.#weight, b: this.#value });
      });
    }
  }
}
