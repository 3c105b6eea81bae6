/**
 * Convolutions with channels last: vectors of output channels, one input element for all of them.
 *
 * A task copies the box of the image that it needs with zeros around it (`copy.ts`), then goes through tiles of
 * `columns` neighbouring outputs × `vectors` vectors of channels; their sums stay in registers over all taps and
 * channels. A step multiplies a vector of weights, which come one after the other, by elements at fixed distances.
 */
import type { NodeOf } from '../../../graph/types.js';
import type { Target } from '../../../kernel/target.js';
import type { KBuffer, KValue, Lanes } from '../../../kernel/types.js';
import { sizeOf } from '../../../tensor.js';
import { Affine, delinearize } from '../../affine.js';
import type { Group } from '../../group.js';
import type { LoweredKernel } from '../../lowered.js';
import { Lowering } from '../../lowering.js';
import { range } from '../../tensors.js';
import { multiplyAdd } from '../contraction.js';
import { lanesFor } from '../tiling.js';
import { boxesOf, firstOf, overBox } from './boxes.js';
import { type CopyShape, copyLength, ImageCopy, spacedPitch, spansOf } from './copy.js';
import { type ImageGeometry, imageGeometryOf, readsChannelsLast, rowOf, tapsOf } from './geometry.js';
import { SummedRows } from './results.js';
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

function tileOf(geometry: ImageGeometry, target: Target, lanes: Lanes): { columns: number; vectors: number } {
  const { outputs } = geometry;
  const width = rowOf(geometry).output;
  const waste = (extent: number, tile: number) => (Math.ceil(extent / tile) * tile) / extent;
  let best = { columns: 1, vectors: 1, score: Number.POSITIVE_INFINITY };
  for (const vectors of [1, 2, 3, 4, 6, 8]) {
    for (let columns = 1; columns <= Math.min(16, width); columns++) {
      if (columns * vectors + vectors + 1 > target.vectorRegisters - 1) continue;
      const steps = columns * vectors;
      const loads = 1 + (0.25 * columns + vectors) / steps;
      const score =
        waste(width, columns) *
        waste(outputs, lanes * vectors) *
        loads *
        Math.max(1, (columns + vectors) / steps, 8 / steps);
      if (score < best.score - 1e-9) best = { columns, vectors, score };
    }
  }
  return best;
}

function planOf(geometry: ImageGeometry, target: Target, isLast: boolean): Plan {
  const { images, channels, outputs, sides } = geometry;
  const lanes = lanesFor({ accumulator: 'f32' }, target);
  const { columns, vectors } = tileOf(geometry, target, lanes);
  const pitch = spacedPitch(channels, rowOf(geometry).stride, target, lanes);
  const tilesM = Math.ceil(outputs / (lanes * vectors));
  const room = Math.min(target.limits.sharedBytes * 0.85, (target.caches[1]?.bytes ?? 512 << 10) * 0.6) / 4;
  const element = isLast ? copyVector / lanes : turnElement;
  const taps = tapsOf(geometry);
  const tile = columns * vectors * (taps * channels + finishVector) + tileOverhead * taps;
  let best: (Plan & { cycles: number }) | undefined;
  for (const box of boxesOf(geometry, columns, (box) => copyLength(geometry, { box, channels, pitch }) <= room)) {
    const copy: CopyShape = { box, channels, pitch };
    const boxes = sides.reduce((all, { output }, d) => all * Math.ceil(output / box[d]), images);
    const lines = sizeOf(box.slice(0, -1)) * Math.ceil(box[box.length - 1] / columns);
    // Padding is cleared rather than copied.
    const copied = spansOf(geometry, box).reduce((all, span, d) => all * Math.min(span, sides[d].input), channels);
    for (let parts = 1; parts <= Math.min(tilesM, 16); parts++) {
      const blockM = Math.ceil(tilesM / parts);
      const task = lines * blockM * tile + copied * element + taskOverhead;
      const tasks = boxes * Math.ceil(tilesM / blockM);
      const cycles = task * (Math.ceil(tasks / target.parallelism) + imbalance);
      if (!best || cycles < best.cycles) best = { lanes, columns, vectors, copy, blockM, cycles };
    }
  }
  if (!best) throw new Error('there is a smallest box');
  return best;
}

/** The kernel, or undefined where not even the smallest box fits. */
export function lowerDense(group: Group, target: Target): LoweredKernel | undefined {
  const node = group.anchor as NodeOf<'conv'>;
  const geometry = imageGeometryOf(node);
  const plan = planOf(geometry, target, readsChannelsLast(node, group.nodes));
  if (copyLength(geometry, plan.copy) * 4 > target.limits.sharedBytes * 0.9) return undefined;
  return new DenseConvolution(group, target, node, geometry, plan).lower();
}

/** A register tile: channels from `tile` on, outputs from a position on. */
interface Tile {
  readonly image: Affine;
  readonly tile: Affine;
  /** Of the first output in the result, and in the task's box. */
  readonly at: readonly Affine[];
  readonly inBox: readonly Affine[];
}

class DenseConvolution {
  readonly #geometry: ImageGeometry;
  readonly #plan: Plan;
  readonly #lowering: Lowering;
  readonly #copy: ImageCopy;
  readonly #sums: SummedRows;
  readonly #weights: KBuffer;

  constructor(group: Group, target: Target, node: NodeOf<'conv'>, geometry: ImageGeometry, plan: Plan) {
    this.#geometry = geometry;
    this.#plan = plan;
    const [image, weights] = node.inputs;
    const { lanes, columns, vectors } = plan;
    const wide = lanes * vectors;
    const packed = weightsByTap(group, node, wide);
    this.#lowering = new Lowering(group, target, new Map([[weights.id, packed]]));
    const isLast = readsChannelsLast(node, group.nodes);
    this.#copy = new ImageCopy(this.#lowering, image, geometry, plan.copy, lanes, isLast);
    this.#sums = new SummedRows(this.#lowering, group, { columns, wide, outputs: geometry.outputs, lanes });
    this.#weights = this.#lowering.buffer(weights) as KBuffer;
  }

  get #tilesM(): number {
    const { lanes, vectors } = this.#plan;
    return Math.ceil(this.#geometry.outputs / (lanes * vectors));
  }

  lower(): LoweredKernel {
    const lowering = this.#lowering;
    const { images, sides } = this.#geometry;
    const { copy, blockM, columns } = this.#plan;
    const { box } = copy;
    const boxes = sides.map(({ output }, d) => Math.ceil(output / box[d]));
    const counts = [images, ...boxes, Math.ceil(this.#tilesM / blockM)];
    const grid = lowering.workgroups(sizeOf(counts), (task) => {
      const [image, ...rest] = delinearize(task, counts);
      const tileBlock = rest.pop() as Affine;
      const first = firstOf(box, rest);
      this.#copy.fill(image, first, Affine.constant(0));
      lowering.for(0, blockM, 1, [], (i) =>
        lowering.guarded(tileBlock.scale(blockM).add(i), this.#tilesM, (tile) =>
          overBox(lowering, this.#geometry, box, columns, first, (at, inBox) => this.#tile({ image, tile, at, inBox })),
        ),
      );
    });
    return { kernel: lowering.finish(grid, [1, 1, 1]), bindings: lowering.bindings };
  }

  #tile(tile: Tile): void {
    const { lanes, vectors } = this.#plan;
    const row = Affine.constant(0);
    this.#multiply(tile).forEach((sum, i) => {
      const [column, channel] = [Math.floor(i / vectors), (i % vectors) * lanes].map(Affine.constant);
      this.#sums.keep(row, column, channel, sum);
    });
    this.#sums.store(tile, tile.tile, row);
  }

  /** Sums of a tile, position by position, vector by vector. */
  #multiply({ inBox, tile }: Tile): readonly KValue[] {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { sides, channels } = this.#geometry;
    const { lanes, columns, vectors } = this.#plan;
    const { array, pitches } = this.#copy;
    const last = sides.length - 1;
    const between = sides[last].stride * pitches[last];
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
            .add(c * between)
            .emit(b),
        );
        return loaded.map((vector, v) => multiplyAdd(lowering, element, vector, carried[c * vectors + v]));
      });
    };
    /** Taps of side `d` and those inside it. */
    const taps = (d: number, tap: Affine, from: Affine, carried: readonly KValue[]): readonly KValue[] =>
      d === sides.length
        ? lowering.for(0, channels, 1, carried, (channel, inner) => step(tap, from, channel, inner))
        : lowering.for(0, sides[d].kernel, 1, carried, (k, inner) =>
            taps(d + 1, tap.scale(sides[d].kernel).add(k), from.add(k.scale(sides[d].dilation * pitches[d])), inner),
          );
    return taps(0, Affine.constant(0), this.#copy.originOf(inBox), zeros);
  }
}
