/**
 * Matrix products on a CPU: register tiles over panels (Goto & van de Geijn 2008, "Anatomy of high-performance matrix
 * multiplication").
 *
 * A task owns a block of m × n and keeps tileM × tileN accumulators in vector registers while it walks along k. The
 * rhs comes as panels of `tileN` columns: packed when a constant was uploaded, packed by the task for each block of k
 * (transposes and casts happen there), or straight from memory where its rows are contiguous and too few rows of the
 * lhs use them to pay for a copy. Constant lhs operands were packed when they were uploaded, others are packed by the
 * task. The epilogue works on finished tiles in scratch memory.
 */
import type { Target } from '../../kernel/target.js';
import { type KArray, type KValue, type Lanes, scalarBits } from '../../kernel/types.js';
import { Affine, delinearize } from '../affine.js';
import type { Group } from '../group.js';
import type { DerivedConstant, LoweredKernel } from '../lowered.js';
import { Lowering } from '../lowering.js';
import { range, scalarOf, shapeOf } from '../tensors.js';
import { type Contraction, contractionOf, multiplyAdd, transposed } from './contraction.js';
import { packedLhs, packedRhs, stridesOf } from './packing.js';
import { finish } from './registers.js';
import { lanesFor } from './tiling.js';

interface Tiling {
  readonly lanes: Lanes;
  /** Rows of a register tile. */
  readonly tileM: number;
  /** Vectors of a register tile's row. */
  readonly vectors: number;
  readonly tileN: number;
  /** Steps of k that are packed at a time. */
  readonly blockK: number;
  /** Tiles of n and of m in a task's block. */
  readonly blockN: number;
  readonly blockM: number;
}

export function lowerPacked(group: Group, target: Target): LoweredKernel {
  return new PackedContraction(group, target, oriented(contractionOf(group), target)).lower();
}

/** Vector lanes run along n: the problem is turned round where n is too short for them. */
function oriented(contraction: Contraction, target: Target): Contraction {
  const { m, n } = contraction;
  return n < lanesFor(contraction, target) && m > n ? transposed(contraction) : contraction;
}

/** True if columns reach the registers without being packed by the task: then few rows are enough. */
export function streams(group: Group, target: Target): boolean {
  const contraction = oriented(contractionOf(group), target);
  if (contraction.n < lanesFor(contraction, target)) return false;
  return packedRhs(group, contraction, 1) !== undefined || isContiguous(group, contraction);
}

/** Multiply-adds of a task: enough to make up for its hand-over to another thread. */
const taskWork = 1 << 16;

function chooseTiling({ batch, m, n, k, accumulator }: Contraction, target: Target): Tiling {
  const lanes = lanesFor({ accumulator }, target);
  const waste = (extent: number, tile: number) => (Math.ceil(extent / tile) * tile) / extent;
  let best = { tileM: 1, vectors: 1, score: Number.POSITIVE_INFINITY };
  for (const vectors of [1, 2, 3, 4, 6, 8]) {
    for (let tileM = 1; tileM <= 16; tileM++) {
      const registers = tileM * vectors + (tileM === 1 ? 1 : vectors) + 1;
      if (registers > target.vectorRegisters - 1 || (tileM > m && tileM > 1)) continue;
      // Loads a step of k against multiply-adds; two loads issue beside two multiply-adds.
      const balance = Math.max(1, (tileM + vectors) / (tileM * vectors));
      const latency = Math.max(1, 8 / (tileM * vectors));
      const overhead = 1 + (0.5 * (tileM + vectors)) / (tileM * vectors);
      const score = waste(m, tileM) * waste(n, lanes * vectors) * balance * latency * overhead;
      if (score < best.score - 1e-9) best = { tileM, vectors, score };
    }
  }
  const { tileM, vectors } = best;
  const tileN = lanes * vectors;
  const bytes = scalarBits[accumulator] / 8;
  const tilesM = Math.ceil(m / tileM);
  const tilesN = Math.ceil(n / tileN);
  // Half of the second-level cache for the rhs panels.
  const cache = Math.min(target.limits.sharedBytes / 2, (target.caches[1]?.bytes ?? 512 << 10) / 2);
  const blockK = Math.min(k, Math.max(64, Math.min(1024, Math.floor(cache / bytes / tileN))));
  let blockN = Math.max(1, Math.min(tilesN, Math.floor(cache / bytes / (blockK * tileN))));
  let blockM = tilesM;
  // Partial sums of several blocks of k wait in scratch memory.
  const partial = () => (blockK < k ? blockM * tileM * blockN * tileN * bytes : tileM * tileN * bytes);
  while (blockM > 1 && partial() > target.limits.sharedBytes / 8) blockM = Math.ceil(blockM / 2);
  const worthwhile = Math.max(1, Math.floor((batch * m * n * k) / taskWork));
  const wanted = Math.min(target.parallelism * 4, worthwhile);
  const least = Math.min(target.parallelism, worthwhile);
  const tasks = () => batch * Math.ceil(tilesM / blockM) * Math.ceil(tilesN / blockN);
  while (tasks() < wanted && blockN > 2) blockN = Math.ceil(blockN / 2);
  while (tasks() < wanted && blockM > 2) blockM = Math.ceil(blockM / 2);
  while (tasks() < least && blockN > 1) blockN = Math.ceil(blockN / 2);
  while (tasks() < least && blockM > 1) blockM = Math.ceil(blockM / 2);
  return { lanes, tileM, vectors, tileN, blockK, blockN, blockM };
}

/** Where the columns of a register tile come from. */
type RhsSource =
  | { readonly kind: 'constant' }
  | { readonly kind: 'memory' }
  | { readonly kind: 'panel'; readonly panel: KArray };

/** True if `tileN` neighbouring columns of the rhs are neighbours in memory that needs no conversion. */
function isContiguous(group: Group, { rhs, rhsBatches, n, k, accumulator }: Contraction): boolean {
  if (!group.reads.includes(rhs.value) || scalarOf(rhs.value) !== accumulator) return false;
  return stridesOf(rhs, { batches: rhsBatches, rows: n, k, width: 1 })?.row === 1;
}

class PackedContraction {
  readonly #group: Group;
  readonly #contraction: Contraction;
  readonly #tiling: Tiling;
  readonly #lowering: Lowering;
  readonly #lhs: DerivedConstant | undefined;
  readonly #rhs: RhsSource;
  readonly #sums: KArray;
  readonly #rows: KArray | undefined;

  constructor(group: Group, target: Target, contraction: Contraction) {
    this.#group = group;
    this.#contraction = contraction;
    const { lhs, rhs, accumulator, m, n } = contraction;
    const tiling = chooseTiling(contraction, target);
    this.#tiling = tiling;
    const { tileM, tileN, blockK, blockN, blockM, lanes } = tiling;
    this.#lhs = packedLhs(group, contraction, tileM);
    const columns = this.#lhs && lhs.value === rhs.value ? undefined : packedRhs(group, contraction, tileN);
    const derived = new Map<number, DerivedConstant>();
    if (this.#lhs) derived.set(lhs.value.id, this.#lhs);
    if (columns) derived.set(rhs.value.id, columns);
    this.#lowering = new Lowering(group, target, derived);
    const { b } = this.#lowering;
    const severalBlocks = blockK < contraction.k;
    this.#rhs = columns
      ? { kind: 'constant' }
      : n >= lanes && Math.ceil(m / tileM) <= 2 && isContiguous(group, contraction)
        ? { kind: 'memory' }
        : { kind: 'panel', panel: b.array('panel', 'shared', accumulator, blockN * blockK * tileN) };
    this.#sums = b.array(
      'sums',
      'shared',
      accumulator,
      severalBlocks ? blockM * blockN * tileM * tileN : tileM * tileN,
    );
    this.#rows = this.#lhs ? undefined : b.array('rows', 'shared', accumulator, blockK * tileM);
  }

  lower(): LoweredKernel {
    const { batch, m, n } = this.#contraction;
    const { tileM, tileN, blockN, blockM } = this.#tiling;
    const blocksM = Math.ceil(Math.ceil(m / tileM) / blockM);
    const blocksN = Math.ceil(Math.ceil(n / tileN) / blockN);
    const grid = this.#lowering.workgroups(batch * blocksM * blocksN, (task) => {
      const [batchAt, columnBlock, rowBlock] = delinearize(task, [batch, blocksN, blocksM]);
      this.#task(batchAt, rowBlock.scale(blockM), columnBlock.scale(blockN));
    });
    const kernel = this.#lowering.finish(grid, [1, 1, 1]);
    return { kernel, bindings: this.#lowering.bindings };
  }

  /** `rowTile` and `columnTile`: first tiles of the block. */
  #task(batch: Affine, rowTile: Affine, columnTile: Affine): void {
    const { m, n, k } = this.#contraction;
    const { tileM, tileN, blockN, blockM, blockK } = this.#tiling;
    const lowering = this.#lowering;
    const blocks = Math.ceil(k / blockK);
    const overTiles = (count: number, first: Affine, total: number, body: (tile: Affine, at: Affine) => void) => {
      lowering.for(0, count, 1, [], (i) => lowering.guarded(first.add(i), total, (tile) => body(tile, i)));
    };
    const tilesN = Math.ceil(n / tileN);
    const tilesM = Math.ceil(m / tileM);
    for (const block of blocks === 1 ? [Affine.constant(0)] : [undefined]) {
      const run = (at: Affine): void => {
        const firstK = at.scale(blockK);
        // The last block may be short: its length is exact when there is one block, else bounded.
        const length = blocks === 1 ? Affine.constant(k) : this.#blockLength(firstK);
        const { panel } = this.#rhs.kind === 'panel' ? this.#rhs : {};
        if (panel)
          overTiles(blockN, columnTile, tilesN, (tile, i) => this.#packPanel(panel, batch, tile, i, firstK, length));
        overTiles(blockM, rowTile, tilesM, (row, mi) => {
          if (!this.#lhs) this.#packRows(batch, row, firstK, length);
          overTiles(blockN, columnTile, tilesN, (column, ni) => {
            const slot =
              blocks === 1
                ? Affine.constant(0)
                : mi
                    .scale(blockN)
                    .add(ni)
                    .scale(tileM * tileN);
            this.#tile(batch, row, column, ni, firstK, length, slot, blocks > 1);
            if (blocks === 1) this.#finish(batch, row, column, slot);
          });
        });
      };
      if (block) run(block);
      else {
        const zero = this.#splat(0, this.#tiling.lanes);
        lowering.for(0, this.#sums.length / this.#tiling.lanes, 1, [], (i) => {
          lowering.b.store(this.#sums, i.scale(this.#tiling.lanes).emit(lowering.b), zero, true);
        });
        lowering.for(0, blocks, 1, [], (at) => run(at));
        overTiles(blockM, rowTile, tilesM, (row, mi) => {
          overTiles(blockN, columnTile, tilesN, (column, ni) => {
            this.#finish(
              batch,
              row,
              column,
              mi
                .scale(blockN)
                .add(ni)
                .scale(tileM * tileN),
            );
          });
        });
      }
    }
  }

  #blockLength(firstK: Affine): Affine {
    const { b } = this.#lowering;
    const { blockK } = this.#tiling;
    const left = b.sub(b.constant(this.#contraction.k), firstK.emit(b));
    return Affine.of(b.clamp(left, 1, blockK), b);
  }

  #splat(value: number, lanes: Lanes): KValue {
    const { accumulator } = this.#contraction;
    return this.#lowering.b.constant(
      accumulator === 'i64' || accumulator === 'u64' ? BigInt(value) : value,
      accumulator,
      lanes,
    );
  }

  /** Steps of k of a block, as an index in [0, k) and its place in the block. */
  #overK(firstK: Affine, length: Affine, body: (k: Affine, at: Affine) => void): void {
    const { b } = this.#lowering;
    const { k } = this.#contraction;
    this.#lowering.for(0, length.emit(b), 1, [], (at) => {
      const absolute = firstK.add(at);
      // Implied by the block's length, which an interval cannot express.
      body(absolute.range.max < k ? absolute : Affine.of(b.clamp(absolute.emit(b), 0, k - 1), b), at);
    });
  }

  /** Column that a vector of the panel starts with: the last vector of a row overlaps the one before. */
  #firstColumn(first: Affine, width: Lanes): Affine {
    const { b } = this.#lowering;
    const { n } = this.#contraction;
    return first.range.max + width <= n ? first : Affine.of(b.min(first.emit(b), b.constant(n - width)), b);
  }

  /** Packs `tileN` columns of the rhs: [k][tileN] at slot `i` of the panel. */
  #packPanel(panel: KArray, batch: Affine, tile: Affine, i: Affine, firstK: Affine, length: Affine): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { rhs, n } = this.#contraction;
    const { tileN, blockK, lanes } = this.#tiling;
    const width = this.#packWidth();
    const base = i.scale(blockK * tileN);
    lowering.for(0, tileN / width, 1, [], (part) => {
      const first = tile.scale(tileN).add(part.scale(width));
      const at = (step: Affine) => base.add(step.scale(tileN)).add(part.scale(width)).emit(b);
      if (n >= lanes) {
        // A vector as a whole moves back to where it fits, its parts with it.
        const vector = tile.scale(tileN).add(part.div(lanes / width).scale(lanes));
        const column = this.#firstColumn(vector, lanes).add(part.mod(lanes / width).scale(width));
        this.#overK(firstK, length, (k, step) => {
          const element = rhs.element(lowering, batch, column.add(Affine.lane(width)), k, width);
          b.store(panel, at(step), lowering.widen(element, width), true);
        });
        return;
      }
      const value = first.emit(b);
      // Columns beyond the end repeat the last one.
      const columns = range(width).map((lane) => Affine.of(b.min(b.addc(value, lane), b.constant(n - 1)), b));
      this.#overK(firstK, length, (k, step) => {
        b.store(panel, at(step), b.build(columns.map((column) => rhs.element(lowering, batch, column, k, 1))), true);
      });
    });
  }

  /** Lanes that one load of the rhs can fill: rows of an image that are no multiple of a vector are read in pieces. */
  #packWidth(): Lanes {
    const { node } = this.#contraction;
    const { lanes } = this.#tiling;
    if (node.op !== 'conv') return lanes;
    const extent = shapeOf(node.outputs[0]).at(-1) as number;
    const { attrs } = node;
    const pointwise =
      shapeOf(node.inputs[1])
        .slice(2)
        .every((e) => e === 1) &&
      [...attrs.strides, ...attrs.inputDilation].every((s) => s === 1) &&
      [...attrs.padLow, ...attrs.padHigh].every((p) => p === 0);
    if (pointwise) return lanes;
    return ([16, 8, 4, 2] as const).find((width) => width <= lanes && extent % width === 0) ?? 1;
  }

  /** Packs `tileM` rows of the lhs: [k][tileM]. */
  #packRows(batch: Affine, row: Affine, firstK: Affine, length: Affine): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { lhs, m } = this.#contraction;
    const { tileM } = this.#tiling;
    lowering.for(0, tileM, 1, [], (r) => {
      const at = row.scale(tileM).add(r);
      const clamped = at.range.max < m ? at : Affine.of(b.clamp(at.emit(b), 0, m - 1), b);
      this.#overK(firstK, length, (k, step) => {
        const element = lhs.element(lowering, batch, clamped, k, 1);
        b.store(this.#rows as KArray, step.scale(tileM).add(r).emit(b), element);
      });
    });
  }

  /** Multiplies one tile and leaves its sums in scratch memory at `slot`: [tileM][tileN]. */
  #tile(
    batch: Affine,
    row: Affine,
    column: Affine,
    panel: Affine,
    firstK: Affine,
    length: Affine,
    slot: Affine,
    accumulate: boolean,
  ): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { lanes, tileM, tileN, vectors } = this.#tiling;
    const place = (r: number, v: number) => slot.add(r * tileN + v * lanes).emit(b);
    const initial = range(tileM * vectors).map((i) =>
      accumulate ? b.load(this.#sums, place(Math.floor(i / vectors), i % vectors), lanes, true) : this.#splat(0, lanes),
    );
    const columns = this.#columns(batch, column, panel, firstK);
    const sums = lowering.for(0, length.emit(b), 1, initial, (step, carried) => {
      const loaded = columns(step);
      return range(tileM).flatMap((r) => {
        const factor = this.#factor(batch, row, firstK, step, r);
        return loaded.map((value, v) => multiplyAdd(lowering, factor, value, carried[r * vectors + v]));
      });
    });
    sums.forEach((sum, i) => {
      b.store(this.#sums, place(Math.floor(i / vectors), i % vectors), sum, true);
    });
  }

  /** k of a step of a block. */
  #absolute(firstK: Affine, step: Affine): Affine {
    const { b } = this.#lowering;
    const { k } = this.#contraction;
    const absolute = firstK.add(step);
    return absolute.range.max < k ? absolute : Affine.of(b.clamp(absolute.emit(b), 0, k - 1), b);
  }

  /** The rhs vectors of a tile at a step of k. */
  #columns(batch: Affine, column: Affine, panel: Affine, firstK: Affine): (step: Affine) => KValue[] {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { rhs, n, k, rhsBatch } = this.#contraction;
    const { lanes, tileN, vectors, blockK } = this.#tiling;
    const source = this.#rhs;
    switch (source.kind) {
      case 'panel':
        return (step) =>
          range(vectors).map((v) =>
            b.load(
              source.panel,
              panel
                .scale(blockK * tileN)
                .add(step.scale(tileN))
                .add(v * lanes)
                .emit(b),
              lanes,
              true,
            ),
          );
      case 'constant': {
        const tile = rhsBatch(batch)
          .scale(Math.ceil(n / tileN))
          .add(column);
        const buffer = lowering.buffer(rhs.value);
        if (!buffer) throw new Error('the packed rhs is not bound');
        return (step) =>
          range(vectors).map((v) =>
            b.load(
              buffer,
              tile
                .scale(k)
                .add(this.#absolute(firstK, step))
                .scale(tileN)
                .add(v * lanes)
                .emit(b),
              lanes,
              true,
            ),
          );
      }
      case 'memory': {
        const firsts = range(vectors).map((v) => this.#firstColumn(column.scale(tileN).add(v * lanes), lanes));
        return (step) =>
          firsts.map((first) =>
            lowering.widen(
              rhs.element(lowering, batch, first.add(Affine.lane(lanes)), this.#absolute(firstK, step), lanes),
              lanes,
            ),
          );
      }
      default:
        return source satisfies never;
    }
  }

  #factor(batch: Affine, row: Affine, firstK: Affine, step: Affine, r: number): KValue {
    const { b } = this.#lowering;
    const { tileM } = this.#tiling;
    if (!this.#lhs) return b.load(this.#rows as KArray, step.scale(tileM).add(r).emit(b));
    const { lhs, k, m } = this.#contraction;
    const tile = this.#contraction
      .lhsBatch(batch)
      .scale(Math.ceil(m / tileM))
      .add(row);
    const buffer = this.#lowering.buffer(lhs.value);
    if (!buffer) throw new Error('the packed lhs is not bound');
    return b.load(buffer, tile.scale(k).add(this.#absolute(firstK, step)).scale(tileM).add(r).emit(b));
  }

  /** Epilogue and stores of one finished tile. */
  #finish(batch: Affine, row: Affine, column: Affine, slot: Affine): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { m, n } = this.#contraction;
    const { lanes, tileM, tileN, vectors } = this.#tiling;
    const store = (rowAt: Affine, columnAt: Affine, sum: KValue, width: Lanes): void =>
      finish(
        lowering,
        this.#group,
        this.#contraction,
        { batch, m: rowAt, n: columnAt.add(Affine.lane(width)) },
        sum,
        width,
      );
    const { kind } = this.#rhs;
    // Constant panels are padded with zeros, others overlap at the end of a row.
    const overlaps = kind !== 'constant' && n >= lanes;
    const owned = this.#tiling.blockN * tileN >= n || n % tileN === 0 || n % tileN > lanes;
    lowering.for(0, tileM, 1, [], (r) =>
      lowering.guarded(row.scale(tileM).add(r), m, (rowAt) => {
        lowering.for(0, vectors, 1, [], (v) => {
          const from = slot.add(r.scale(tileN)).add(v.scale(lanes));
          const first = column.scale(tileN).add(v.scale(lanes));
          const whole = (at: Affine) => store(rowAt, at, b.load(this.#sums, from.emit(b), lanes, true), lanes);
          if (first.range.max + lanes <= n) {
            whole(first);
            return;
          }
          const value = first.emit(b);
          if (overlaps && owned) {
            // The overlapping vector belongs to this task as well: it stores the same values again.
            lowering.if(b.compare('lt', value, b.constant(n)), () => whole(this.#firstColumn(first, lanes)));
            return;
          }
          const byLane = () => {
            const moved = overlaps
              ? Affine.of(b.clamp(b.sub(value, b.constant(n - lanes)), 0, lanes - 1), b)
              : Affine.constant(0);
            lowering.for(0, lanes, 1, [], (lane) =>
              lowering.guarded(first.add(lane), n, (at) => {
                const source = from.emit(b);
                const place = b.min(lane.add(moved).emit(b), b.constant(lanes - 1));
                store(rowAt, at, b.load(this.#sums, b.add(source, place)), 1);
              }),
            );
          };
          if (n < lanes) byLane();
          else
            lowering.if(
              b.compare('le', value, b.constant(n - lanes)),
              () => whole(Affine.of(b.assume(value, 0, n - lanes), b)),
              byLane,
            );
        });
      }),
    );
  }
}
