/**
 * Results of the channels-last forms. Sums come as vectors of neighbouring channels of one position; they are stored as
 * they are where the result has its channels last too, and turned round in scratch memory, a row at a time, where not.
 */
import type { KArray, KValue, Lanes } from '../../../kernel/types.js';
import { Affine } from '../../affine.js';
import { type Group, resultIndex } from '../../group.js';
import type { Lowering } from '../../lowering.js';
import { transposed } from '../../shuffle.js';
import { range } from '../../tensors.js';
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
  lowering.define(result, () => sum);
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

/** What rows of sums are made of. */
export interface RowsShape {
  /** One if none are given. */
  readonly rows?: number;
  /** Outputs of a row, and how many there is room for if not for just as many. */
  readonly columns: number;
  readonly room?: number;
  /** Channels of a tile, whole vectors; channels of the result. */
  readonly wide: number;
  readonly outputs: number;
  readonly lanes: Lanes;
}

/** Sums of neighbouring outputs in rows, for one tile of the output channels. */
export class SummedRows {
  /** [row][output][channel of the tile] */
  readonly #sums: KArray;
  /** [channel of the tile][output] of one row. */
  readonly #turned: KArray | undefined;
  readonly #lowering: Lowering;
  readonly #group: Group;
  readonly #shape: RowsShape;
  /** Of the squares that are turned, and outputs that a row has room for: whole squares. */
  readonly #side: Lanes;
  readonly #pitch: number;

  constructor(lowering: Lowering, group: Group, shape: RowsShape) {
    const { rows = 1, columns, room = columns, wide, lanes } = shape;
    this.#lowering = lowering;
    this.#group = group;
    this.#shape = shape;
    this.#side = ([1, 2, 4, 8, 16] as const).find((side) => side === lanes || side >= room) as Lanes;
    this.#pitch = Math.ceil(room / this.#side) * this.#side;
    this.#sums = lowering.b.array('row', 'shared', 'f32', rows * this.#pitch * wide);
    this.#turned = writesChannelsLast(group)
      ? undefined
      : lowering.b.array('turned', 'shared', 'f32', wide * this.#pitch);
  }

  #at(row: Affine, column: Affine, channel: Affine): KValue {
    return row.scale(this.#pitch).add(column).scale(this.#shape.wide).add(channel).emit(this.#lowering.b);
  }

  /** Keeps a whole vector of channels of an output. */
  keep(row: Affine, column: Affine, channel: Affine, sum: KValue): void {
    this.#lowering.b.store(this.#sums, this.#at(row, column, channel), sum, true);
  }

  /** Stores a row as the outputs from a position on. */
  store({ image, at }: Position, tile: Affine, row: Affine): void {
    const lowering = this.#lowering;
    const { columns, wide, outputs } = this.#shape;
    const [outer, first] = [at.slice(0, -1), at[at.length - 1]];
    const place = (column: Affine): Position => ({ image, at: [...outer, first.add(column)] });
    overChannels(lowering, tile, outputs, wide, (tileAt, count) => {
      const channel = tileAt.scale(wide);
      if (this.#turned) this.#storeTurned(this.#turned, row, place, channel, count);
      else lowering.for(0, columns, 1, [], (c) => this.#storePosition(place(c), row, c, channel, count));
    });
  }

  #storePosition(position: Position, row: Affine, column: Affine, channel: Affine, count: number): void {
    const lowering = this.#lowering;
    const { lanes } = this.#shape;
    for (const { first, width } of piecesOf(count, lanes)) {
      const at = this.#at(row, column, Affine.constant(first));
      const sum = lowering.b.load(this.#sums, at, width, width === lanes);
      storeChannels(lowering, this.#group, position, channel.add(first), sum, width);
    }
  }

  #storeTurned(turned: KArray, row: Affine, place: (column: Affine) => Position, channel: Affine, count: number): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { columns, lanes } = this.#shape;
    const [side, pitch] = [this.#side, this.#pitch];
    lowering.for(0, pitch / side, 1, [], (block) =>
      lowering.for(0, Math.ceil(count / side), 1, [], (v) => {
        const [column, from] = [block.scale(side), v.scale(side)];
        const loaded = range(side).map((i) => b.load(this.#sums, this.#at(row, column.add(i), from), side));
        transposed(b, loaded).forEach((vector, j) => {
          b.store(turned, from.add(j).scale(pitch).add(column).emit(b), vector);
        });
      }),
    );
    lowering.for(0, count, 1, [], (r) =>
      overStrip(lowering, columns, lanes, (column, width) => {
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
