/**
 * Results of the channels-last forms. Sums come as vectors of neighbouring channels of one position; they are stored as
 * they are where the result has its channels last too, and turned round in scratch memory, a row at a time, where not.
 */
import type { KArray, KValue, Lanes } from '../../../kernel/types.js';
import { Affine } from '../../affine.js';
import { type Group, resultIndex } from '../../group.js';
import type { Lowering } from '../../lowering.js';
import { transposed } from '../../shuffle.js';
import { range, scalarOf } from '../../tensors.js';
import { overStrip } from '../strips.js';
import { writesChannelsLast } from './geometry.js';

export interface Position {
  readonly image: Affine;
  /** Index of the output in each side. */
  readonly at: readonly Affine[];
}

/** Epilogue and store of a vector of sums, along channels or along a row. */
function storeVector(
  lowering: Lowering,
  group: Group,
  { image, at }: Position,
  channel: Affine,
  sum: KValue,
  lanes: Lanes,
): void {
  const node = group.anchor;
  if (!node) throw new Error('a convolution has an anchor');
  const [result] = node.outputs;
  const [output] = group.writes;
  lowering.define(result, () => lowering.b.convert(sum, scalarOf(result, node)));
  const index = resultIndex(group, [image, channel, ...at]);
  lowering.store(output, index, lowering.value(output, index, lanes), lanes);
}

/** Epilogue and store of channels `channel` …. */
export function storeChannels(
  lowering: Lowering,
  group: Group,
  position: Position,
  channel: Affine,
  sum: KValue,
  lanes: Lanes,
): void {
  storeVector(lowering, group, position, channel.add(Affine.lane(lanes)), sum, lanes);
}

/** Sums of neighbouring outputs of a row, for one tile of the output channels. */
export class SummedRow {
  /** [output][channel of the tile] */
  readonly array: KArray;
  /** [channel of the tile][output] */
  readonly #turned: KArray | undefined;
  readonly #lowering: Lowering;
  readonly #group: Group;
  readonly #columns: number;
  readonly #wide: number;
  readonly #outputs: number;
  readonly #lanes: Lanes;
  /** Of the squares that are turned. */
  readonly #side: Lanes;

  /** @param wide Channels of a tile, whole vectors @param outputs All channels */
  constructor(
    lowering: Lowering,
    group: Group,
    { columns, wide, outputs, lanes }: { columns: number; wide: number; outputs: number; lanes: Lanes },
  ) {
    this.#lowering = lowering;
    this.#group = group;
    this.#columns = columns;
    this.#wide = wide;
    this.#outputs = outputs;
    this.#lanes = lanes;
    this.#side = ([1, 2, 4, 8, 16] as const).find((side) => side === lanes || side >= columns) as Lanes;
    this.array = lowering.b.array('sums', 'shared', 'f32', this.#pitch * wide);
    this.#turned = writesChannelsLast(group)
      ? undefined
      : lowering.b.array('turned', 'shared', 'f32', wide * this.#pitch);
  }

  /** Whole squares. */
  get #pitch(): number {
    return Math.ceil(this.#columns / this.#side) * this.#side;
  }

  /** Stores the sums; those of the last tile may be fewer than a tile. */
  store({ image, at }: Position, tile: Affine): void {
    const lowering = this.#lowering;
    const wide = this.#wide;
    const [outer, first] = [at.slice(0, -1), at[at.length - 1]];
    const place = (column: Affine): Position => ({ image, at: [...outer, first.add(column)] });
    overChannels(lowering, tile, this.#outputs, wide, (tileAt, count) => {
      const channel = tileAt.scale(wide);
      if (this.#turned) this.#storeTurned(this.#turned, place, channel, count);
      else
        lowering.for(0, this.#columns, 1, [], (c) => this.#storePosition(place(c), c.scale(wide), channel, count));
    });
  }

  #storePosition(position: Position, from: Affine, channel: Affine, count: number): void {
    const lowering = this.#lowering;
    for (const { first, width } of piecesOf(count, this.#lanes)) {
      const sum = lowering.b.load(this.array, from.add(first).emit(lowering.b), width, width === this.#lanes);
      storeChannels(lowering, this.#group, position, channel.add(first), sum, width);
    }
  }

  #storeTurned(turned: KArray, place: (column: Affine) => Position, channel: Affine, count: number): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const [side, pitch, wide] = [this.#side, this.#pitch, this.#wide];
    lowering.for(0, pitch / side, 1, [], (block) =>
      lowering.for(0, Math.ceil(count / side), 1, [], (v) => {
        const [column, row] = [block.scale(side), v.scale(side)];
        const loaded = range(side).map((i) => b.load(this.array, column.add(i).scale(wide).add(row).emit(b), side));
        transposed(b, loaded).forEach((vector, j) => {
          b.store(turned, row.add(j).scale(pitch).add(column).emit(b), vector);
        });
      }),
    );
    lowering.for(0, count, 1, [], (r) =>
      overStrip(lowering, this.#columns, this.#lanes, (column, width) => {
        const sum = b.load(turned, r.scale(pitch).add(column).emit(b), width);
        const position = place(column.add(Affine.lane(width)));
        storeVector(lowering, this.#group, position, channel.add(r), sum, width);
      }),
    );
  }
}

/**
 * Runs `body` for a tile of `wide` of the output channels with how many of them there are: the last tile may have fewer.
 */
export function overChannels(
  lowering: Lowering,
  tile: Affine,
  outputs: number,
  wide: number,
  body: (tile: Affine, count: number) => void,
): void {
  const { b } = lowering;
  const last = Math.ceil(outputs / wide) - 1;
  const rest = outputs - last * wide;
  if (rest === wide) body(tile, wide);
  else if (last === 0) body(tile, rest);
  else
    lowering.if(
      b.compare('lt', tile.emit(b), b.constant(last)),
      () => body(Affine.of(b.assume(tile.emit(b), 0, last - 1), b), wide),
      () => body(Affine.constant(last), rest),
    );
}

/** 12 = 8 + 4: the vectors that the last channels of a tile are stored in. */
export function piecesOf(count: number, lanes: Lanes): readonly { readonly first: number; readonly width: Lanes }[] {
  const pieces: { first: number; width: Lanes }[] = [];
  for (let first = 0; first < count; ) {
    const width = ([16, 8, 4, 2, 1] as const).find((l) => l <= lanes && l <= count - first) as Lanes;
    pieces.push({ first, width });
    first += width;
  }
  return pieces;
}
