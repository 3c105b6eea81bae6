/**
 * Convolutions with channels last: vectors of output channels, one input element for all of them.
 *
 * A task copies the rows that it needs with zeros around them (`copy.ts`), then goes through tiles of `columns`
 * neighbouring outputs × `vectors` vectors of channels; their sums stay in registers over all taps and channels. A
 * step multiplies a vector of weights, which come one after the other, by elements at fixed distances.
 */
import type { NodeOf } from '../../../graph/types.js';
import type { Target } from '../../../kernel/target.js';
import type { KArray, KBuffer, KValue, Lanes } from '../../../kernel/types.js';
import { Affine, delinearize } from '../../affine.js';
import type { Group } from '../../group.js';
import type { LoweredKernel } from '../../lowered.js';
import { Lowering } from '../../lowering.js';
import { range } from '../../tensors.js';
import { multiplyAdd } from '../contraction.js';
import { lanesFor } from '../tiling.js';
import { type CopyShape, copyLength, ImageCopy, spacedPitch } from './copy.js';
import { type ImageGeometry, imageGeometryOf, readsChannelsLast, spanOf } from './geometry.js';
import { overChannels, type Position, piecesOf, storeChannels } from './results.js';
import { weightsByTap } from './weights.js';

interface Plan {
  readonly lanes: Lanes;
  /** Outputs of a row in a register tile, and vectors of channels of each. */
  readonly columns: number;
  readonly vectors: number;
  readonly copy: CopyShape;
  /** Tiles of channels that a task does with its copy. */
  readonly blockM: number;
}

/** Cycles that a task and a tile cost beyond their multiply-adds. */
const taskOverhead = 300;
const tileOverhead = 30;
const finishVector = 3;
/** Cycles to copy a vector, or an element that comes from an image with its channels first. */
const copyVector = 3;
const turnElement = 2;
/** Share of a task for which one thread still works at the end and others have nothing left. */
const imbalance = 0.1;

function tileOf({ w, outputs }: ImageGeometry, target: Target, lanes: Lanes): { columns: number; vectors: number } {
  const waste = (extent: number, tile: number) => (Math.ceil(extent / tile) * tile) / extent;
  let best = { columns: 1, vectors: 1, score: Number.POSITIVE_INFINITY };
  for (const vectors of [1, 2, 3, 4, 6, 8]) {
    for (let columns = 1; columns <= Math.min(16, w.output); columns++) {
      if (columns * vectors + vectors + 1 > target.vectorRegisters - 1) continue;
      const steps = columns * vectors;
      const loads = 1 + (0.25 * columns + vectors) / steps;
      const score =
        waste(w.output, columns) *
        waste(outputs, lanes * vectors) *
        loads *
        Math.max(1, (columns + vectors) / steps, 8 / steps);
      if (score < best.score - 1e-9) best = { columns, vectors, score };
    }
  }
  return best;
}

function planOf(geometry: ImageGeometry, target: Target, isLast: boolean): Plan {
  const { images, channels, outputs, h, w } = geometry;
  const lanes = lanesFor({ accumulator: 'f32' }, target);
  const { columns, vectors } = tileOf(geometry, target, lanes);
  const pitch = spacedPitch(channels, w.stride, target, lanes);
  const tilesM = Math.ceil(outputs / (lanes * vectors));
  const room = Math.min(target.limits.sharedBytes * 0.85, (target.caches[1]?.bytes ?? 512 << 10) * 0.6) / 4;
  const element = isLast ? copyVector / lanes : turnElement;
  let best: Plan & { cycles: number } = {
    lanes,
    columns,
    vectors,
    copy: { rows: 1, channels, pitch },
    blockM: tilesM,
    cycles: Number.POSITIVE_INFINITY,
  };
  for (let shares = 1; shares <= h.output; shares++) {
    const rows = Math.ceil(h.output / shares);
    const copy: CopyShape = { rows, channels, pitch };
    if (rows > 1 && copyLength(geometry, copy) > room) continue;
    for (let parts = 1; parts <= Math.min(tilesM, 16); parts++) {
      const blockM = Math.ceil(tilesM / parts);
      const tiles = rows * Math.ceil(w.output / columns) * blockM;
      const tile =
        columns * vectors * (h.kernel * w.kernel * channels + finishVector) + tileOverhead * h.kernel * w.kernel;
      const task =
        tiles * tile + spanOf(h, rows) * Math.min(w.input, spanOf(w, w.output)) * channels * element + taskOverhead;
      const tasks = images * Math.ceil(h.output / rows) * Math.ceil(tilesM / blockM);
      const cycles = task * (Math.ceil(tasks / target.parallelism) + imbalance);
      if (cycles < best.cycles) best = { lanes, columns, vectors, copy, blockM, cycles };
    }
    if (rows === 1) break;
  }
  return best;
}

/** The kernel, or undefined where not even one row fits. */
export function lowerDense(group: Group, target: Target): LoweredKernel | undefined {
  const node = group.anchor as NodeOf<'conv'>;
  const geometry = imageGeometryOf(node);
  const plan = planOf(geometry, target, readsChannelsLast(node, group.nodes));
  if (copyLength(geometry, plan.copy) * 4 > target.limits.sharedBytes * 0.9) return undefined;
  return new DenseConvolution(group, target, node, geometry, plan).lower();
}

/** A register tile: channels from `tile` on, outputs from `column` on, of a row of the task's copy. */
interface Tile {
  readonly image: Affine;
  readonly row: Affine;
  /** Row within the copy. */
  readonly line: Affine;
  readonly column: Affine;
  readonly tile: Affine;
}

class DenseConvolution {
  readonly #group: Group;
  readonly #geometry: ImageGeometry;
  readonly #plan: Plan;
  readonly #lowering: Lowering;
  readonly #copy: ImageCopy;
  readonly #sums: KArray;
  readonly #weights: KBuffer;

  constructor(group: Group, target: Target, node: NodeOf<'conv'>, geometry: ImageGeometry, plan: Plan) {
    this.#group = group;
    this.#geometry = geometry;
    this.#plan = plan;
    const [image, weights] = node.inputs;
    const { lanes, columns, vectors } = plan;
    const packed = weightsByTap(group, node, lanes * vectors);
    this.#lowering = new Lowering(group, target, new Map([[weights.id, packed]]));
    const isLast = readsChannelsLast(node, group.nodes);
    this.#copy = new ImageCopy(this.#lowering, image, geometry, plan.copy, lanes, isLast);
    this.#sums = this.#lowering.b.array('sums', 'shared', 'f32', columns * vectors * lanes);
    this.#weights = this.#lowering.buffer(weights) as KBuffer;
  }

  get #tilesM(): number {
    const { lanes, vectors } = this.#plan;
    return Math.ceil(this.#geometry.outputs / (lanes * vectors));
  }

  lower(): LoweredKernel {
    const lowering = this.#lowering;
    const { images, h, w } = this.#geometry;
    const { copy, blockM, columns } = this.#plan;
    const counts = [images, Math.ceil(h.output / copy.rows), Math.ceil(this.#tilesM / blockM)];
    const grid = lowering.workgroups(counts[0] * counts[1] * counts[2], (task) => {
      const [image, rowBlock, tileBlock] = delinearize(task, counts);
      const firstRow = rowBlock.scale(copy.rows);
      this.#copy.fill(image, firstRow, Affine.constant(0));
      lowering.for(0, blockM, 1, [], (i) =>
        lowering.guarded(tileBlock.scale(blockM).add(i), this.#tilesM, (tile) =>
          lowering.for(0, copy.rows, 1, [], (line) =>
            lowering.guarded(firstRow.add(line), h.output, (row) =>
              lowering.for(0, Math.ceil(w.output / columns), 1, [], (at) => {
                this.#tile({ image, row, line, column: this.#firstColumn(at), tile });
              }),
            ),
          ),
        ),
      );
    });
    return { kernel: lowering.finish(grid, [1, 1, 1]), bindings: lowering.bindings };
  }

  /** The last tile of a row moves back to where it is whole; what it computes again it stores again. */
  #firstColumn(at: Affine): Affine {
    const { b } = this.#lowering;
    const { columns } = this.#plan;
    const first = at.scale(columns);
    const last = this.#geometry.w.output - columns;
    return first.range.max <= last ? first : Affine.of(b.min(first.emit(b), b.constant(last)), b);
  }

  #tile(tile: Tile): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { lanes, columns, vectors } = this.#plan;
    const sums = this.#multiply(tile);
    sums.forEach((sum, i) => {
      b.store(this.#sums, b.constant(i * lanes), sum, true);
    });
    lowering.for(0, columns, 1, [], (c) => {
      const position = { image: tile.image, row: tile.row, column: tile.column.add(c) };
      this.#store(position, tile.tile, c.scale(vectors * lanes));
    });
  }

  /** Sums of a tile, position by position, vector by vector. */
  #multiply({ line, column, tile }: Tile): readonly KValue[] {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { h, w, channels } = this.#geometry;
    const { lanes, columns, vectors, copy } = this.#plan;
    const { pitch } = copy;
    const { rowPitch, array } = this.#copy;
    const origin = line.scale(h.stride * rowPitch).add(column.scale(w.stride * pitch));
    const zeros = range(columns * vectors).map(() => b.constant(0, 'f32', lanes));
    const step = (tap: Affine, from: Affine, channel: Affine, carried: readonly KValue[]): KValue[] => {
      const weight = tap
        .scale(this.#tilesM)
        .add(tile)
        .scale(channels)
        .add(channel)
        .scale(lanes * vectors);
      const loaded = range(vectors).map((v) => b.load(this.#weights, weight.add(v * lanes).emit(b), lanes, true));
      return range(columns).flatMap((c) => {
        const element = b.load(
          array,
          from
            .add(channel)
            .add(c * w.stride * pitch)
            .emit(b),
        );
        return loaded.map((vector, v) => multiplyAdd(lowering, element, vector, carried[c * vectors + v]));
      });
    };
    return lowering.for(0, h.kernel, 1, zeros, (kh, outer) =>
      lowering.for(0, w.kernel, 1, outer, (kw, inner) => {
        const from = origin.add(kh.scale(h.dilation * rowPitch)).add(kw.scale(w.dilation * pitch));
        const tap = kh.scale(w.kernel).add(kw);
        return lowering.for(0, channels, 1, inner, (channel, carried) => step(tap, from, channel, carried));
      }),
    );
  }

  /** Stores all channels of one position of a tile; those of the last tile may be fewer. */
  #store(position: Position, tile: Affine, from: Affine): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { lanes, vectors } = this.#plan;
    const wide = lanes * vectors;
    overChannels(lowering, tile, this.#geometry.outputs, wide, (at, count) => {
      for (const { first, width } of piecesOf(count, lanes)) {
        const sum = b.load(this.#sums, from.add(first).emit(b), width, width === lanes);
        storeChannels(lowering, this.#group, position, at.scale(wide).add(first), sum, width);
      }
    });
  }
}
