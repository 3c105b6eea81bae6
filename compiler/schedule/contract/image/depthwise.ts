/**
 * Convolutions of every channel by itself, with channels last: vectors of channels, a few neighbouring outputs at a
 * time, which share what they read of a zero-padded copy of some rows (`copy.ts`).
 */
import type { NodeOf } from '../../../graph/types.js';
import type { Target } from '../../../kernel/target.js';
import type { KBuffer, KValue, Lanes } from '../../../kernel/types.js';
import { Affine, delinearize } from '../../affine.js';
import type { Group } from '../../group.js';
import type { LoweredKernel } from '../../lowered.js';
import { Lowering } from '../../lowering.js';
import { range } from '../../tensors.js';
import { multiplyAdd } from '../contraction.js';
import { lanesFor } from '../tiling.js';
import { type CopyShape, copyLength, ImageCopy } from './copy.js';
import { type ImageGeometry, imageGeometryOf, readsChannelsLast } from './geometry.js';
import { piecesOf, storeChannels } from './results.js';
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
  const { images, groups, h, w } = geometry;
  const lanes = ([16, 8, 4, 2, 1] as const).find(
    (width) => width <= lanesFor({ accumulator: 'f32' }, target) && width <= groups,
  ) as Lanes;
  const columns = ([6, 5, 4, 3, 2, 1] as const).find((count) => count <= w.output && w.output % count === 0) as number;
  const channels = evenShare(groups, lanes);
  const blocks = groups / channels;
  const room = Math.min(target.limits.sharedBytes * 0.85, (target.caches[1]?.bytes ?? 512 << 10) * 0.4) / 4;
  const wanted = target.parallelism * 4;
  let rows = h.output;
  const tooLarge = () => copyLength(geometry, { rows, channels, pitch: channels }) > room;
  const tooFew = () =>
    images * blocks * Math.ceil(h.output / rows) < wanted && rows * w.output * channels > 2 * taskElements;
  while (rows > 1 && (tooLarge() || tooFew())) rows = Math.ceil(rows / 2);
  return { lanes, columns, copy: { rows, channels, pitch: channels } };
}

/** Channels of a task: a divisor of all of them, best one of whole vectors. */
function evenShare(groups: number, lanes: Lanes): number {
  const shares = range(groups / lanes)
    .map((i) => groups / (i + 1))
    .filter((share) => Number.isInteger(share) && share <= mostVectors * lanes);
  return shares.find((share) => share % lanes === 0) ?? shares[0] ?? groups;
}

/** The kernel, or undefined where not even one row fits. */
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
    const { images, groups, h, w } = this.#geometry;
    const { copy, columns, lanes } = this.#plan;
    const counts = [images, groups / copy.channels, Math.ceil(h.output / copy.rows)];
    const grid = lowering.workgroups(counts[0] * counts[1] * counts[2], (task) => {
      const [image, block, rowBlock] = delinearize(task, counts);
      const channel = block.scale(copy.channels);
      const firstRow = rowBlock.scale(copy.rows);
      this.#copy.fill(image, firstRow, channel);
      lowering.for(0, copy.rows, 1, [], (line) =>
        lowering.guarded(firstRow.add(line), h.output, (row) =>
          lowering.for(0, w.output / columns, 1, [], (at) => {
            const whole = Math.floor(copy.channels / lanes);
            const outputs = (from: Affine, width: Lanes): void =>
              this.#outputs(image, row, line, at.scale(columns), channel, from, width);
            lowering.for(0, whole, 1, [], (v) => outputs(v.scale(lanes), lanes));
            for (const { first, width } of piecesOf(copy.channels - whole * lanes, lanes))
              outputs(Affine.constant(whole * lanes + first), width);
          }),
        ),
      );
    });
    return { kernel: lowering.finish(grid, [1, 1, 1]), bindings: lowering.bindings };
  }

  /** Outputs `column` … of channels `channel + from` …. */
  #outputs(
    image: Affine,
    row: Affine,
    line: Affine,
    column: Affine,
    channel: Affine,
    from: Affine,
    width: Lanes,
  ): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { groups, h, w } = this.#geometry;
    const { columns, copy } = this.#plan;
    const { array, rowPitch } = this.#copy;
    const origin = line
      .scale(h.stride * rowPitch)
      .add(column.scale(w.stride * copy.pitch))
      .add(from);
    const zeros = range(columns).map(() => b.constant(0, 'f32', width));
    const sums = lowering.for(0, h.kernel, 1, zeros, (kh, carried) => {
      const start = origin.add(kh.scale(h.dilation * rowPitch));
      const known = new Map<number, KValue>();
      const element = (at: number): KValue => {
        const loaded = known.get(at) ?? b.load(array, start.add(at * copy.pitch).emit(b), width);
        known.set(at, loaded);
        return loaded;
      };
      return range(w.kernel).reduce<readonly KValue[]>((now, kw) => {
        const tap = kh.scale(w.kernel).add(kw).scale(groups).add(channel).add(from);
        const weight = b.load(this.#weights, tap.emit(b), width);
        return now.map((sum, c) => multiplyAdd(lowering, element(c * w.stride + kw * w.dilation), weight, sum));
      }, carried);
    });
    sums.forEach((sum, c) => {
      storeChannels(lowering, this.#group, { image, row, column: column.add(c) }, channel.add(from), sum, width);
    });
  }
}
