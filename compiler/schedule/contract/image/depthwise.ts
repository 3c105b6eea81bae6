/**
 * Convolutions of every channel by itself, with channels last: vectors of channels, a few neighbouring outputs at a
 * time, which share what they read of a zero-padded copy of a box of the image (`copy.ts`).
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
import { firstOf, overBox } from './boxes.js';
import { type CopyShape, copyLength, ImageCopy } from './copy.js';
import { type ImageGeometry, imageGeometryOf, readsChannelsLast, rowOf } from './geometry.js';
import { type Position, piecesOf, storeChannels } from './results.js';
import { weightsByTap } from './weights.js';

interface Plan {
  readonly lanes: Lanes;
  /** Outputs of a row that are computed together. */
  readonly columns: number;
  readonly copy: CopyShape;
}

/** Elements of results of a task that make up for its hand-over. */
const taskElements = 16_384;
/** Vectors of channels that a task does at most, where they can be shared out evenly. */
const mostVectors = 4;

function planOf(geometry: ImageGeometry, target: Target): Plan {
  const { images, groups, sides } = geometry;
  const width = rowOf(geometry).output;
  const lanes = ([16, 8, 4, 2, 1] as const).find(
    (count) => count <= lanesFor({ accumulator: 'f32' }, target) && count <= groups,
  ) as Lanes;
  const columns = ([6, 5, 4, 3, 2, 1] as const).find((count) => count <= width && width % count === 0) as number;
  const channels = evenShare(groups, lanes);
  const blocks = groups / channels;
  const room = Math.min(target.limits.sharedBytes * 0.85, (target.caches[1]?.bytes ?? 512 << 10) * 0.4) / 4;
  const wanted = target.parallelism * 4;
  const tasksOf = (box: readonly number[]): number =>
    sides.reduce((all, { output }, d) => all * Math.ceil(output / box[d]), images * blocks);
  const box = sides.map(({ output }) => output);
  const tooLarge = () => copyLength(geometry, { box, channels, pitch: channels }) > room;
  const tooFew = () => tasksOf(box) < wanted && sizeOf(box) * channels > 2 * taskElements;
  // Halves of the outermost side that can be cut; of a row, in whole tiles, where nothing else is left.
  sides.forEach((_, d) => {
    const isRow = d === sides.length - 1;
    const tile = isRow ? columns : 1;
    const tooMuch = () => tooLarge() || ((!isRow || d === 0) && tooFew());
    while (box[d] > tile && tooMuch()) box[d] = Math.ceil(box[d] / 2 / tile) * tile;
  });
  return { lanes, columns, copy: { box, channels, pitch: channels } };
}

/** Channels of a task: a divisor of all of them, best one of whole vectors. */
function evenShare(groups: number, lanes: Lanes): number {
  const shares = range(groups / lanes)
    .map((i) => groups / (i + 1))
    .filter((share) => Number.isInteger(share) && share <= mostVectors * lanes);
  return shares.find((share) => share % lanes === 0) ?? shares[0] ?? groups;
}

/** The kernel, or undefined where not even the smallest box fits. */
export function lowerDepthwise(group: Group, target: Target): LoweredKernel | undefined {
  const node = group.anchor as NodeOf<'conv'>;
  const geometry = imageGeometryOf(node);
  const plan = planOf(geometry, target);
  if (copyLength(geometry, plan.copy) * 4 > target.limits.sharedBytes * 0.9) return undefined;
  return new DepthwiseConvolution(group, target, node, geometry, plan).lower();
}

class DepthwiseConvolution {
  readonly #group: Group;
  readonly #geometry: ImageGeometry;
  readonly #plan: Plan;
  readonly #lowering: Lowering;
  readonly #copy: ImageCopy;
  readonly #weights: KBuffer;

  constructor(group: Group, target: Target, node: NodeOf<'conv'>, geometry: ImageGeometry, plan: Plan) {
    this.#group = group;
    this.#geometry = geometry;
    this.#plan = plan;
    const [image, weights] = node.inputs;
    // One tile of all channels: [tap][channel].
    const packed = weightsByTap(group, node, geometry.groups);
    this.#lowering = new Lowering(group, target, new Map([[weights.id, packed]]));
    const isLast = readsChannelsLast(node, group.nodes);
    this.#copy = new ImageCopy(this.#lowering, image, geometry, plan.copy, plan.lanes, isLast);
    this.#weights = this.#lowering.buffer(weights) as KBuffer;
  }

  lower(): LoweredKernel {
    const lowering = this.#lowering;
    const { images, groups, sides } = this.#geometry;
    const { copy, columns, lanes } = this.#plan;
    const { box } = copy;
    const counts = [images, groups / copy.channels, ...sides.map(({ output }, d) => Math.ceil(output / box[d]))];
    const grid = lowering.workgroups(sizeOf(counts), (task) => {
      const [image, block, ...index] = delinearize(task, counts);
      const channel = block.scale(copy.channels);
      const first = firstOf(box, index);
      this.#copy.fill(image, first, channel);
      overBox(lowering, this.#geometry, box, columns, first, (at, inBox) => {
        const whole = Math.floor(copy.channels / lanes);
        const outputs = (from: Affine, width: Lanes): void =>
          this.#outputs({ image, at }, this.#copy.originOf(inBox), channel, from, width);
        lowering.for(0, whole, 1, [], (v) => outputs(v.scale(lanes), lanes));
        for (const { first: from, width } of piecesOf(copy.channels - whole * lanes, lanes))
          outputs(Affine.constant(whole * lanes + from), width);
      });
    });
    return { kernel: lowering.finish(grid, [1, 1, 1]), bindings: lowering.bindings };
  }

  /** Neighbouring outputs from a position on, channels `channel + from` …; their inputs begin at `origin`. */
  #outputs({ image, at }: Position, origin: Affine, channel: Affine, from: Affine, width: Lanes): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { groups, sides } = this.#geometry;
    const { columns, copy } = this.#plan;
    const { array, pitches } = this.#copy;
    const row = rowOf(this.#geometry);
    const zeros = range(columns).map(() => b.constant(0, 'f32', width));
    /** Taps of one row of the kernel, which share what they read. */
    const rowTaps = (tapRow: Affine, start: Affine, carried: readonly KValue[]): readonly KValue[] => {
      const known = new Map<number, KValue>();
      const element = (position: number): KValue => {
        const loaded = known.get(position) ?? b.load(array, start.add(position * copy.pitch).emit(b), width);
        known.set(position, loaded);
        return loaded;
      };
      return range(row.kernel).reduce<readonly KValue[]>((now, k) => {
        const tap = tapRow.scale(row.kernel).add(k).scale(groups).add(channel).add(from);
        const weight = b.load(this.#weights, tap.emit(b), width);
        return now.map((sum, c) => multiplyAdd(lowering, element(c * row.stride + k * row.dilation), weight, sum));
      }, carried);
    };
    const taps = (d: number, tap: Affine, start: Affine, carried: readonly KValue[]): readonly KValue[] =>
      d === sides.length - 1
        ? rowTaps(tap, start, carried)
        : lowering.for(0, sides[d].kernel, 1, carried, (k, inner) =>
            taps(d + 1, tap.scale(sides[d].kernel).add(k), start.add(k.scale(sides[d].dilation * pitches[d])), inner),
          );
    const last = at.length - 1;
    taps(0, Affine.constant(0), origin.add(from), zeros).forEach((sum, c) => {
      const position = at.map((index, d) => (d === last ? index.add(c) : index));
      storeChannels(lowering, this.#group, { image, at: position }, channel.add(from), sum, width);
    });
  }
}
