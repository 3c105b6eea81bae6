/** Results of the channels-last forms: vectors of neighbouring channels of one position. */
import type { KValue, Lanes } from '../../../kernel/types.js';
import { Affine } from '../../affine.js';
import { type Group, resultIndex } from '../../group.js';
import type { Lowering } from '../../lowering.js';
import { scalarOf } from '../../tensors.js';

export interface Position {
  readonly image: Affine;
  readonly row: Affine;
  readonly column: Affine;
}

/** Epilogue and store of channels `channel` …. */
export function storeChannels(
  lowering: Lowering,
  group: Group,
  { image, row, column }: Position,
  channel: Affine,
  sum: KValue,
  lanes: Lanes,
): void {
  const node = group.anchor;
  if (!node) throw new Error('a convolution has an anchor');
  const [result] = node.outputs;
  const [output] = group.writes;
  lowering.define(result, () => lowering.b.convert(sum, scalarOf(result, node)));
  const index = resultIndex(group, [image, channel.add(Affine.lane(lanes)), row, column]);
  lowering.store(output, index, lowering.value(output, index, lanes), lanes);
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
