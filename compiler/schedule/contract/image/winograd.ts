/**
 * 3×3 convolutions with channels last by minimal filtering, F(4×4, 3×3) of Lavin & Gray, "Fast algorithms for
 * convolutional neural networks" (2016): 36 products for 16 outputs instead of 144.
 *
 * Inputs of 6×6 and weights are transformed, Bᵀ·d·B and G·g·Gᵀ; at each of the 36 places a matrix product sums over
 * channels; Aᵀ·s·A gives 4×4 outputs. A task copies its rows with zeros around them, transforms the tiles of inputs in
 * them, and for one of its tiles of output channels after the other multiplies and transforms back. Weights were
 * transformed when they were uploaded. The error is some ten times that of the direct sum; it stays below 1e-4 of the
 * largest sum's magnitude.
 */
import type { NodeOf } from '../../../graph/types.js';
import type { Target } from '../../../kernel/target.js';
import type { KArray, KBuffer, KValue, Lanes } from '../../../kernel/types.js';
import { sizeOf } from '../../../tensor.js';
import { Affine, delinearize } from '../../affine.js';
import type { Group } from '../../group.js';
import type { LoweredKernel } from '../../lowered.js';
import { Lowering } from '../../lowering.js';
import { range } from '../../tensors.js';
import { multiplyAdd } from '../contraction.js';
import { lanesFor } from '../tiling.js';
import { type CopyShape, copyLength, ImageCopy, spacedPitch } from './copy.js';
import { type ImageGeometry, imageGeometryOf, readsChannelsLast, writesChannelsLast } from './geometry.js';
import { inputMatrix, made, outputMatrix, places, read, transformedWeights } from './minimal_filter.js';
import { overChannels, piecesOf, SummedRows, storeChannels } from './results.js';

/** Transformed weights are four times as large: not where they are large already, or used for few tiles. */
const mostWeights = 1 << 18;
const fewestTiles = 16;
const fewestChannels = 32;
const mostWaste = 1.35;
/** Share of a task for which one thread still works at the end and others have nothing left. */
const imbalance = 0.1;
/** Cycles to copy and transform a vector of a tile's inputs, and to transform and store one of its outputs. */
const inputVector = 350;
const outputVector = 200;
/** Cycles to read a weight from memory, and where all of them stay in a cache that other layers use, too. */
const weightElement = { memory: 1, cache: 0.15 };
const cacheShare = 0.25;
/** What multiply-adds cost more where inputs and sums fill more than a share of the second-level cache. */
const crowded = 1.15;
const easyShare = 0.6;
/** Cycles that a task costs beyond. */
const taskOverhead = 300;

const tilesOf = ({ sides: [h, w] }: ImageGeometry): readonly [number, number] => [
  Math.ceil(h.output / made),
  Math.ceil(w.output / made),
];

/** Whether minimal filtering is worth its transforms. Strict sums, which a target without `fma` stands for, are none. */
export function filtersMinimally(node: NodeOf<'conv'>, target: Target): boolean {
  if (!target.features.has('fma')) return false;
  const geometry = imageGeometryOf(node);
  const { sides, groups, channels, outputs } = geometry;
  const [h, w] = sides;
  if (
    groups !== 1 ||
    sides.length !== 2 ||
    sides.some((side) => side.kernel !== 3 || side.stride !== 1 || side.dilation !== 1)
  )
    return false;
  const [down, across] = tilesOf(geometry);
  const waste = (down * across * made * made) / (h.output * w.output);
  return (
    Math.min(channels, outputs) >= fewestChannels &&
    channels * outputs <= mostWeights &&
    down * across >= fewestTiles &&
    waste <= mostWaste
  );
}

interface Plan {
  readonly lanes: Lanes;
  /** Vectors of output channels of a register tile, and tiles of the image in it. */
  readonly vectors: number;
  readonly rows: number;
  /** Rows of tiles of a task, and tiles of output channels. */
  readonly down: number;
  readonly blockM: number;
  /** Elements from the inputs of one tile to those of the next. */
  readonly pitch: number;
  readonly copy: CopyShape;
}

/** The image with whole tiles: what lies beyond its end is zero. */
function paddedGeometry(geometry: ImageGeometry): ImageGeometry {
  const [down, across] = tilesOf(geometry);
  const [h, w] = geometry.sides;
  return {
    ...geometry,
    sides: [
      { ...h, output: down * made },
      { ...w, output: across * made },
    ],
  };
}

/** @param isLast Whether the result has its channels last */
function planOf(geometry: ImageGeometry, target: Target, isLast: boolean): Plan | undefined {
  const { channels, outputs } = geometry;
  const lanes = lanesFor({ accumulator: 'f32' }, target);
  const vectors = Math.min(2, Math.ceil(outputs / lanes));
  const [tilesDown, across] = tilesOf(geometry);
  const pitch = spacedPitch(channels, 1, target, lanes);
  const room = Math.min(target.limits.sharedBytes * 0.85, target.caches[1]?.bytes ?? 512 << 10) / 4;
  const copyOf = (down: number): CopyShape => ({ box: [down * made, across * made], channels, pitch: channels });
  const padded = paddedGeometry(geometry);
  const elements = (down: number) =>
    copyLength(padded, copyOf(down)) +
    places * down * across * (pitch + vectors * lanes) +
    (isLast ? 0 : (made + 1) * (across * made + lanes) * vectors * lanes);
  const fitting = range(tilesDown)
    .map((i) => i + 1)
    .filter((down) => down === 1 || elements(down) <= room);
  if (elements(1) * 4 > target.limits.sharedBytes * 0.9) return undefined;
  const shape = { lanes, vectors, tilesM: Math.ceil(outputs / (lanes * vectors)) };
  const isCrowded = (down: number) => elements(down) > easyShare * room;
  const { down, blockM } = sharedOut(geometry, target, shape, fitting, isCrowded);
  const most = Math.floor((target.vectorRegisters - 2 - vectors) / vectors);
  const tiles = down * across;
  const rows = Math.ceil(tiles / Math.ceil(tiles / Math.min(most, 16, tiles)));
  return { lanes, vectors, rows, down, blockM, pitch, copy: copyOf(down) };
}

/** Rows of tiles, of those that `fit`, and tiles of channels of a task: what takes the shortest time. */
function sharedOut(
  geometry: ImageGeometry,
  target: Target,
  { lanes, vectors, tilesM }: { lanes: Lanes; vectors: number; tilesM: number },
  fitting: readonly number[],
  isCrowded: (down: number) => boolean,
): { readonly down: number; readonly blockM: number } {
  const { images, channels } = geometry;
  const [tilesDown, across] = tilesOf(geometry);
  const weightBytes = places * channels * tilesM * lanes * vectors * 4;
  const isCached = weightBytes <= (target.caches.at(-1)?.bytes ?? 0) * cacheShare;
  const weight = isCached ? weightElement.cache : weightElement.memory;
  let best = { down: 1, blockM: tilesM, cycles: Number.POSITIVE_INFINITY };
  for (const down of fitting) {
    const tiles = down * across;
    // Each vector of weights is read once and multiplied by every tile.
    const step = tiles * (isCrowded(down) ? crowded : 1) + lanes * weight;
    const tileM = vectors * (places * channels * step + tiles * outputVector);
    for (let parts = 1; parts <= Math.min(tilesM, 16); parts++) {
      const blockM = Math.ceil(tilesM / parts);
      const task = tiles * Math.ceil(channels / lanes) * inputVector + blockM * tileM + taskOverhead;
      const tasks = images * Math.ceil(tilesDown / down) * Math.ceil(tilesM / blockM);
      const cycles = task * (Math.ceil(tasks / target.parallelism) + imbalance);
      if (cycles < best.cycles) best = { down, blockM, cycles };
    }
  }
  return best;
}

/** The kernel, or undefined where not even one row of tiles fits. */
export function lowerWinograd(group: Group, target: Target): LoweredKernel | undefined {
  const node = group.anchor as NodeOf<'conv'>;
  const geometry = imageGeometryOf(node);
  const plan = planOf(geometry, target, writesChannelsLast(group));
  return plan && new WinogradConvolution(group, target, node, geometry, plan).lower();
}

class WinogradConvolution {
  readonly #group: Group;
  readonly #geometry: ImageGeometry;
  readonly #plan: Plan;
  readonly #lowering: Lowering;
  readonly #copy: ImageCopy;
  /** Transformed inputs [place][tile][channel], sums [place][tile][output], and one tile half way. */
  readonly #inputs: KArray;
  readonly #sums: KArray;
  readonly #half: KArray;
  /** Rows of outputs of a row of tiles, where the result has its channels first. */
  readonly #results: SummedRows | undefined;
  readonly #weights: KBuffer;

  constructor(group: Group, target: Target, node: NodeOf<'conv'>, geometry: ImageGeometry, plan: Plan) {
    this.#group = group;
    this.#geometry = geometry;
    this.#plan = plan;
    const [image, weights] = node.inputs;
    const { lanes, vectors, pitch, copy } = plan;
    const packed = transformedWeights(group, node, lanes * vectors);
    this.#lowering = new Lowering(group, target, new Map([[weights.id, packed]]));
    const { b } = this.#lowering;
    const isLast = readsChannelsLast(node, group.nodes);
    this.#copy = new ImageCopy(this.#lowering, image, paddedGeometry(geometry), copy, lanes, isLast);
    this.#inputs = b.array('inputs', 'shared', 'f32', places * this.#tiles * pitch);
    this.#sums = b.array('sums', 'shared', 'f32', places * this.#tiles * vectors * lanes);
    this.#half = b.array('half', 'shared', 'f32', places * lanes);
    const [{ output: columns }] = geometry.sides.slice(1);
    const shape = { rows: made, columns, wide: vectors * lanes, outputs: geometry.outputs, lanes };
    this.#results = writesChannelsLast(group)
      ? undefined
      : new SummedRows(this.#lowering, group, { ...shape, room: tilesOf(geometry)[1] * made });
    this.#weights = this.#lowering.buffer(weights) as KBuffer;
  }

  /** Tiles of a task. */
  get #tiles(): number {
    return this.#plan.down * tilesOf(this.#geometry)[1];
  }

  get #tilesM(): number {
    const { lanes, vectors } = this.#plan;
    return Math.ceil(this.#geometry.outputs / (lanes * vectors));
  }

  lower(): LoweredKernel {
    const lowering = this.#lowering;
    const { down, blockM } = this.#plan;
    const [tilesDown] = tilesOf(this.#geometry);
    const counts = [this.#geometry.images, Math.ceil(tilesDown / down), Math.ceil(this.#tilesM / blockM)];
    const grid = lowering.workgroups(sizeOf(counts), (task) => {
      const [image, block, tileBlock] = delinearize(task, counts);
      const firstRow = block.scale(down * made);
      this.#copy.fill(image, [firstRow, Affine.constant(0)], Affine.constant(0));
      this.#transformInputs();
      lowering.for(0, blockM, 1, [], (i) =>
        lowering.guarded(tileBlock.scale(blockM).add(i), this.#tilesM, (tileM) => {
          this.#multiply(tileM);
          this.#transformSums(image, firstRow, tileM);
        }),
      );
    });
    return { kernel: lowering.finish(grid, [1, 1, 1]), bindings: lowering.bindings };
  }

  /** Σ coefficient·value, from the fewest operations. */
  #combine(row: readonly number[], values: readonly KValue[]): KValue {
    const { b } = this.#lowering;
    const { lanes } = values[0].type;
    return row.reduce<KValue | undefined>((sum, coefficient, i) => {
      if (coefficient === 0) return sum;
      if (sum === undefined)
        return coefficient === 1 ? values[i] : b.mul(values[i], b.constant(coefficient, 'f32', lanes));
      if (coefficient === 1) return b.add(sum, values[i]);
      if (coefficient === -1) return b.sub(sum, values[i]);
      return multiplyAdd(this.#lowering, b.constant(coefficient, 'f32', lanes), values[i], sum);
    }, undefined) as KValue;
  }

  #transformInputs(): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { channels } = this.#geometry;
    const { lanes, pitch, copy, down } = this.#plan;
    const [, across] = tilesOf(this.#geometry);
    const {
      array,
      pitches: [rowPitch],
    } = this.#copy;
    const channelBlock = (channel: Affine, width: Lanes, line: Affine, column: Affine): void => {
      const origin = line
        .scale(made * rowPitch)
        .add(column.scale(made * copy.pitch))
        .add(channel);
      lowering.for(0, read, 1, [], (j) => {
        const loaded = range(read).map((i) =>
          b.load(
            array,
            origin
              .add(i * rowPitch)
              .add(j.scale(copy.pitch))
              .emit(b),
            width,
          ),
        );
        inputMatrix.forEach((row, i) => {
          b.store(
            this.#half,
            j
              .add(i * read)
              .scale(lanes)
              .emit(b),
            this.#combine(row, loaded),
          );
        });
      });
      const tile = line.scale(across).add(column);
      lowering.for(0, read, 1, [], (i) => {
        const loaded = range(read).map((j) => b.load(this.#half, i.scale(read).add(j).scale(lanes).emit(b), width));
        inputMatrix.forEach((row, j) => {
          const place = i.scale(read).add(j).scale(this.#tiles).add(tile).scale(pitch);
          b.store(this.#inputs, place.add(channel).emit(b), this.#combine(row, loaded));
        });
      });
    };
    lowering.for(0, down, 1, [], (line) =>
      lowering.for(0, across, 1, [], (column) => {
        const whole = Math.floor(channels / lanes);
        lowering.for(0, whole, 1, [], (v) => channelBlock(v.scale(lanes), lanes, line, column));
        for (const { first, width } of piecesOf(channels - whole * lanes, lanes))
          channelBlock(Affine.constant(whole * lanes + first), width, line, column);
      }),
    );
  }

  /** At every place, the products of all tiles with one tile of output channels. */
  #multiply(tileM: Affine): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { channels } = this.#geometry;
    const { lanes, vectors, rows, pitch } = this.#plan;
    const wide = lanes * vectors;
    lowering.for(0, places, 1, [], (place) =>
      lowering.for(0, Math.ceil(this.#tiles / rows), 1, [], (block) => {
        const first = block.scale(rows);
        const last = this.#tiles - rows;
        // The last block moves back to where it is whole.
        const tile = first.range.max <= last ? first : Affine.of(b.min(first.emit(b), b.constant(last)), b);
        const zeros = range(rows * vectors).map(() => b.constant(0, 'f32', lanes));
        const row = place.scale(this.#tiles).add(tile);
        const weights = place.scale(this.#tilesM).add(tileM).scale(channels);
        const sums = lowering.for(0, channels, 1, zeros, (channel, carried) => {
          const weight = weights.add(channel).scale(wide);
          const loaded = range(vectors).map((v) => b.load(this.#weights, weight.add(v * lanes).emit(b), lanes, true));
          return range(rows).flatMap((r) => {
            const element = b.load(this.#inputs, row.add(r).scale(pitch).add(channel).emit(b));
            return loaded.map((vector, v) => multiplyAdd(lowering, element, vector, carried[r * vectors + v]));
          });
        });
        sums.forEach((sum, i) => {
          const at = row
            .add(Math.floor(i / vectors))
            .scale(wide)
            .add((i % vectors) * lanes);
          b.store(this.#sums, at.emit(b), sum, true);
        });
      }),
    );
  }

  #transformSums(image: Affine, firstRow: Affine, tileM: Affine): void {
    const lowering = this.#lowering;
    const [h, w] = this.#geometry.sides;
    const { lanes, vectors, down } = this.#plan;
    const [, across] = tilesOf(this.#geometry);
    const wide = lanes * vectors;
    const results = this.#results;
    lowering.for(0, down, 1, [], (line) => {
      const rowOf = (i: Affine) => firstRow.add(line.scale(made)).add(i);
      if (results) {
        lowering.for(0, across, 1, [], (column) =>
          lowering.for(0, vectors, 1, [], (v) =>
            this.#tile(line.scale(across).add(column), v.scale(lanes), lanes, (i, j, sum) =>
              results.keep(i, column.scale(made).add(j), v.scale(lanes), sum),
            ),
          ),
        );
        lowering.for(0, made, 1, [], (i) =>
          lowering.guarded(rowOf(i), h.output, (row) =>
            results.store({ image, at: [row, Affine.constant(0)] }, tileM, i),
          ),
        );
        return;
      }
      overChannels(lowering, tileM, this.#geometry.outputs, wide, (at, count) =>
        lowering.for(0, across, 1, [], (column) => {
          for (const { first, width } of piecesOf(count, lanes)) {
            this.#tile(line.scale(across).add(column), Affine.constant(first), width, (i, j, sum) =>
              lowering.guarded(rowOf(i), h.output, (row) =>
                lowering.guarded(column.scale(made).add(j), w.output, (place) => {
                  const channel = at.scale(wide).add(first);
                  storeChannels(lowering, this.#group, { image, at: [row, place] }, channel, sum, width);
                }),
              ),
            );
          }
        }),
      );
    });
  }

  /** Outputs of one tile, row by row, of the `width` channels from `first` of the tile of channels on. */
  #tile(tile: Affine, first: Affine, width: Lanes, put: (i: Affine, j: number, sum: KValue) => void): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { lanes, vectors } = this.#plan;
    lowering.for(0, read, 1, [], (j) => {
      const loaded = range(read).map((i) => {
        const place = j
          .add(i * read)
          .scale(this.#tiles)
          .add(tile);
        return b.load(
          this.#sums,
          place
            .scale(lanes * vectors)
            .add(first)
            .emit(b),
          width,
        );
      });
      outputMatrix.forEach((row, i) => {
        b.store(
          this.#half,
          j
            .add(i * read)
            .scale(lanes)
            .emit(b),
          this.#combine(row, loaded),
        );
      });
    });
    lowering.for(0, made, 1, [], (i) => {
      const loaded = range(read).map((j) => b.load(this.#half, i.scale(read).add(j).scale(lanes).emit(b), width));
      for (const [j, coefficients] of outputMatrix.entries()) put(i, j, this.#combine(coefficients, loaded));
    });
  }
}
