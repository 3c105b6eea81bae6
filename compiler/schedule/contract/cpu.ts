/**
 * Contraction on a CPU: register tiles over packed panels (Goto & van de Geijn 2008, "Anatomy of high-performance
 * matrix multiplication").
 *
 * A task owns a block of m × n. For each block of k it packs the rhs into panels of `tileN` columns in its scratch
 * memory (im2col, transposes and casts happen there), then for every tile of `tileM` rows keeps tileM × tileN
 * accumulators in vector registers while it walks along k. Constant lhs operands were packed when they were uploaded,
 * others are packed by the task. The epilogue works on finished tiles in scratch memory.
 */
import type { Target } from '../../kernel/target.js';
import { type KArray, type KValue, type Lanes, scalarBits } from '../../kernel/types.js';
import { Affine, delinearize } from '../affine.js';
import type { DerivedConstant, LoweredKernel } from '../lowered.js';
import type { Group } from '../group.js';
import { Lowering, range, scalarOf, shapeOf } from '../lowering.js';
import { type Contraction, contractionOf, multiplyAdd, transposed } from './contraction.js';
import { packConstant, packedLength, type PackedShape, stridesOf } from './packing.js';
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
  const plain = contractionOf(group);
  // Vector lanes run along n: turn the problem round where n is too short for them.
  const lanes = lanesFor(plain, target);
  const contraction = plain.n < lanes && plain.m > plain.n ? transposed(plain) : plain;
  return new PackedContraction(group, target, contraction).lower();
}

function chooseTiling({ batch, m, n, k, accumulator }: Contraction, target: Target): Tiling {
  const lanes = lanesFor({ accumulator }, target);
  const waste = (extent: number, tile: number) => (Math.ceil(extent / tile) * tile) / extent;
  let best = { tileM: 1, vectors: 1, score: Number.POSITIVE_INFINITY };
  for (const vectors of [1, 2, 3, 4]) {
    for (let tileM = 1; tileM <= 16; tileM++) {
      const registers = tileM * vectors + vectors + 1;
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
  const wanted = target.parallelism * 4;
  const tasks = () => batch * Math.ceil(tilesM / blockM) * Math.ceil(tilesN / blockN);
  while (tasks() < wanted && blockN > 2) blockN = Math.ceil(blockN / 2);
  while (tasks() < wanted && blockM > 2) blockM = Math.ceil(blockM / 2);
  while (tasks() < target.parallelism && blockN > 1) blockN = Math.ceil(blockN / 2);
  while (tasks() < target.parallelism && blockM > 1) blockM = Math.ceil(blockM / 2);
  return { lanes, tileM, vectors, tileN, blockK, blockN, blockM };
}

class PackedContraction {
  readonly #group: Group;
  readonly #contraction: Contraction;
  readonly #tiling: Tiling;
  readonly #lowering: Lowering;
  readonly #packed: DerivedConstant | undefined;
  readonly #lhsShape: PackedShape;
  readonly #panel: KArray;
  readonly #sums: KArray;
  readonly #rows: KArray | undefined;

  constructor(group: Group, target: Target, contraction: Contraction) {
    this.#group = group;
    this.#contraction = contraction;
    const { lhs, accumulator } = contraction;
    const tiling = chooseTiling(contraction, target);
    this.#tiling = tiling;
    this.#lhsShape = { batches: contraction.lhsBatches, rows: contraction.m, k: contraction.k, width: tiling.tileM };
    const data = group.constants.get(lhs.value.id);
    const isOwn = group.reads.includes(lhs.value) && scalarOf(lhs.value) === accumulator
      && group.nodes.every((node) => node === group.anchor || !node.inputs.includes(lhs.value));
    const strides = data && isOwn ? stridesOf(lhs, this.#lhsShape) : undefined;
    this.#packed = data && strides ? packConstant(lhs.value, data, this.#lhsShape, strides) : undefined;
    const derived = new Map(this.#packed ? [[lhs.value.id, this.#packed] as const] : []);
    this.#lowering = new Lowering(group, target, derived);
    const { b } = this.#lowering;
    const { tileM, tileN, blockK, blockN, blockM } = tiling;
    const severalBlocks = blockK < contraction.k;
    this.#panel = b.array('panel', 'shared', accumulator, blockN * blockK * tileN);
    this.#sums = b.array('sums', 'shared', accumulator, severalBlocks ? blockM * blockN * tileM * tileN : tileM * tileN);
    this.#rows = this.#packed ? undefined : b.array('rows', 'shared', accumulator, blockK * tileM);
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
        overTiles(blockN, columnTile, tilesN, (tile, i) => this.#packPanel(batch, tile, i, firstK, length));
        overTiles(blockM, rowTile, tilesM, (row, mi) => {
          if (!this.#packed) this.#packRows(batch, row, firstK, length);
          overTiles(blockN, columnTile, tilesN, (column, ni) => {
            const slot = blocks === 1 ? Affine.constant(0) : mi.scale(blockN).add(ni).scale(tileM * tileN);
            this.#tile(batch, row, ni, firstK, length, slot, blocks > 1);
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
            this.#finish(batch, row, column, mi.scale(blockN).add(ni).scale(tileM * tileN));
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
    return this.#lowering.b.constant(accumulator === 'i64' || accumulator === 'u64' ? BigInt(value) : value, accumulator, lanes);
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

  /** Packs `tileN` columns of the rhs: [k][tileN] at slot `i` of the panel. */
  #packPanel(batch: Affine, tile: Affine, i: Affine, firstK: Affine, length: Affine): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { rhs, n } = this.#contraction;
    const { tileN, blockK } = this.#tiling;
    const width = this.#packWidth();
    const base = i.scale(blockK * tileN);
    lowering.for(0, tileN / width, 1, [], (part) => {
      const first = tile.scale(tileN).add(part.scale(width));
      const at = (step: Affine) => base.add(step.scale(tileN)).add(part.scale(width)).emit(b);
      const whole = (column: Affine): void => this.#overK(firstK, length, (k, step) => {
        const element = rhs.element(lowering, batch, column.add(Affine.lane(width)), k, width);
        b.store(this.#panel, at(step), lowering.widen(element, width), true);
      });
      if (first.range.max + width <= n) {
        whole(first);
        return;
      }
      const value = first.emit(b);
      lowering.if(b.compare('le', value, b.constant(n - width)), () => whole(Affine.of(b.assume(value, 0, n - width), b)), () => {
        // Columns beyond the end are zeros.
        this.#overK(firstK, length, (k, step) => {
          const lanes = range(width).map((lane) => {
            const column = b.addc(value, lane);
            const clamped = Affine.of(b.clamp(column, 0, n - 1), b);
            const element = rhs.element(lowering, batch, clamped, k, 1);
            return b.select(b.compare('lt', column, b.constant(n)), element, this.#splat(0, 1));
          });
          b.store(this.#panel, at(step), b.build(lanes), true);
        });
      });
    });
  }

  /** Lanes that one load of the rhs can fill: rows of an image that are no multiple of a vector are read in pieces. */
  #packWidth(): Lanes {
    const { rhs, node } = this.#contraction;
    const { lanes } = this.#tiling;
    if (!rhs.padded) return lanes;
    const extent = shapeOf(node.outputs[0]).at(-1) as number;
    const attrs = node.op === 'conv' ? node.attrs : undefined;
    const pointwise = attrs && shapeOf(node.inputs[1]).slice(2).every((e) => e === 1)
      && [...attrs.strides, ...attrs.inputDilation].every((s) => s === 1) && [...attrs.padLow, ...attrs.padHigh].every((p) => p === 0);
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
  #tile(batch: Affine, row: Affine, panel: Affine, firstK: Affine, length: Affine, slot: Affine, accumulate: boolean): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { lanes, tileM, tileN, vectors, blockK } = this.#tiling;
    const place = (r: number, v: number) => slot.add(r * tileN + v * lanes).emit(b);
    const initial = range(tileM * vectors).map((i) =>
      accumulate ? b.load(this.#sums, place(Math.floor(i / vectors), i % vectors), lanes, true) : this.#splat(0, lanes));
    const sums = lowering.for(0, length.emit(b), 1, initial, (step, carried) => {
      const columns = range(vectors).map((v) =>
        b.load(this.#panel, panel.scale(blockK * tileN).add(step.scale(tileN)).add(v * lanes).emit(b), lanes, true));
      return range(tileM).flatMap((r) => {
        const factor = this.#lhs(batch, row, firstK, step, r);
        return columns.map((column, v) => multiplyAdd(lowering, factor, column, carried[r * vectors + v]));
      });
    });
    sums.forEach((sum, i) => {
      b.store(this.#sums, place(Math.floor(i / vectors), i % vectors), sum, true);
    });
  }

  #lhs(batch: Affine, row: Affine, firstK: Affine, step: Affine, r: number): KValue {
    const { b } = this.#lowering;
    const { tileM } = this.#tiling;
    if (!this.#packed) return b.load(this.#rows as KArray, step.scale(tileM).add(r).emit(b));
    const { lhs, k, m } = this.#contraction;
    const tiles = Math.ceil(m / tileM);
    const absolute = firstK.add(step);
    const inside = absolute.range.max < k ? absolute : Affine.of(b.clamp(absolute.emit(b), 0, k - 1), b);
    const tile = this.#contraction.lhsBatch(batch).scale(tiles).add(row);
    const buffer = this.#lowering.buffer(lhs.value);
    if (!buffer || buffer.length !== packedLength(this.#lhsShape)) throw new Error('the packed lhs is not bound');
    return b.load(buffer, tile.scale(k).add(inside).scale(tileM).add(r).emit(b));
  }

  /** Epilogue and stores of one finished tile. */
  #finish(batch: Affine, row: Affine, column: Affine, slot: Affine): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { m, n } = this.#contraction;
    const { lanes, tileM, tileN, vectors } = this.#tiling;
    const store = (rowAt: Affine, columnAt: Affine, sum: KValue, width: Lanes): void =>
      finish(lowering, this.#group, this.#contraction, { batch, m: rowAt, n: columnAt.add(Affine.lane(width)) }, sum, width);
    lowering.for(0, tileM, 1, [], (r) => lowering.guarded(row.scale(tileM).add(r), m, (rowAt) => {
      lowering.for(0, vectors, 1, [], (v) => {
        const from = slot.add(r.scale(tileN)).add(v.scale(lanes));
        const first = column.scale(tileN).add(v.scale(lanes));
        const whole = (at: Affine) => store(rowAt, at, b.load(this.#sums, from.emit(b), lanes, true), lanes);
        if (first.range.max + lanes <= n) {
          whole(first);
          return;
        }
        const value = first.emit(b);
        const byLane = () => {
          lowering.for(0, lanes, 1, [], (lane) => lowering.guarded(first.add(lane), n, (at) => {
            store(rowAt, at, b.load(this.#sums, from.add(lane).emit(b)), 1);
          }));
        };
        if (n < lanes) byLane();
        else lowering.if(b.compare('le', value, b.constant(n - lanes)), () => whole(Affine.of(b.assume(value, 0, n - lanes), b)), byLane);
      });
    }));
  }
}

