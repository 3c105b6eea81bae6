/**
 * A zero-padded copy of some rows of an image with its channels last: [row][column][channel]. With it an output's
 * inputs lie at a fixed distance from each other, whatever padding, strides and dilations are.
 */

import type { Value } from '../../../graph/types.js';
import type { Target } from '../../../kernel/target.js';
import type { KArray, Lanes } from '../../../kernel/types.js';
import { Affine } from '../../affine.js';
import type { Lowering } from '../../lowering.js';
import { overStrip } from '../strips.js';
import type { ImageGeometry } from './geometry.js';
import { spanOf } from './geometry.js';

export interface CopyShape {
  /** Output rows that a copy serves. */
  readonly rows: number;
  /** Channels of the copy, and how far columns are from each other. */
  readonly channels: number;
  readonly pitch: number;
}

/** Elements of a copy. */
export const copyLength = ({ h, w }: ImageGeometry, { rows, pitch }: CopyShape): number =>
  spanOf(h, rows) * spanOf(w, w.output) * pitch;

/** Ways of the first-level cache: those of most processors. */
const ways = 8;

/** Elements from one column to the next, so that every `stride`-th of them do not share lines of the first-level cache. */
export function spacedPitch(channels: number, stride: number, target: Target, lanes: Lanes): number {
  const period = (target.caches[0]?.bytes ?? 32 << 10) / ways / 4;
  return (channels * stride) % (period / 4) === 0 ? channels + lanes : channels;
}

export class ImageCopy {
  readonly array: KArray;
  readonly #lowering: Lowering;
  readonly #image: Value;
  readonly #geometry: ImageGeometry;
  readonly #shape: CopyShape;
  readonly #lanes: Lanes;
  readonly #isLast: boolean;

  constructor(
    lowering: Lowering,
    image: Value,
    geometry: ImageGeometry,
    shape: CopyShape,
    lanes: Lanes,
    isLast: boolean,
  ) {
    this.#lowering = lowering;
    this.#image = image;
    this.#geometry = geometry;
    this.#shape = shape;
    this.#lanes = lanes;
    this.#isLast = isLast;
    const length = Math.ceil(copyLength(geometry, shape) / lanes) * lanes + lanes;
    this.array = lowering.b.array('copy', 'shared', 'f32', length);
  }

  /** Elements from one row to the next. */
  get rowPitch(): number {
    return spanOf(this.#geometry.w, this.#geometry.w.output) * this.#shape.pitch;
  }

  /** Copies what output rows `firstRow` … of an image need of channels `firstChannel` …. */
  fill(image: Affine, firstRow: Affine, firstChannel: Affine): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { h, w } = this.#geometry;
    lowering.for(0, spanOf(h, this.#shape.rows), 1, [], (row) => {
      const at = row.scale(this.rowPitch);
      const source = firstRow.scale(h.stride).add(row).sub(h.padLow);
      const copy = (inside: Affine): void => this.#copyRow(image, inside, firstChannel, at);
      if (source.range.min >= 0 && source.range.max < h.input) {
        copy(source);
        return;
      }
      const value = source.emit(b);
      const exists = b.and(b.compare('ge', value, b.constant(0)), b.compare('lt', value, b.constant(h.input)));
      lowering.if(
        exists,
        () => copy(Affine.of(b.assume(value, 0, h.input - 1), b)),
        () => this.#clear(at, spanOf(w, w.output) * this.#shape.pitch),
      );
    });
  }

  #clear(from: Affine, count: number): void {
    const { b } = this.#lowering;
    overStrip(this.#lowering, count, this.#lanes, (at, width) =>
      b.store(this.array, from.add(at).emit(b), b.constant(0, 'f32', width)),
    );
  }

  #copyRow(image: Affine, row: Affine, firstChannel: Affine, at: Affine): void {
    const { pitch } = this.#shape;
    const { w } = this.#geometry;
    const span = spanOf(w, w.output);
    // Columns of the image that the copy has, and zeros around them.
    const from = Math.max(0, -w.padLow);
    const left = Math.max(0, w.padLow);
    const count = Math.max(0, Math.min(w.input - from, span - left));
    this.#clear(at, Math.min(left, span) * pitch);
    this.#copyColumns(image, row, firstChannel, at.add(left * pitch), from, count);
    this.#clear(at.add((left + count) * pitch), Math.max(0, span - left - count) * pitch);
  }

  #copyColumns(image: Affine, row: Affine, firstChannel: Affine, at: Affine, from: number, count: number): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { channels, pitch } = this.#shape;
    const element = (channel: Affine, column: Affine, width: Lanes) =>
      lowering.widen(lowering.value(this.#image, [image, firstChannel.add(channel), row, column], width), width);
    if (this.#isLast) {
      lowering.for(0, count, 1, [], (column) =>
        overStrip(lowering, channels, this.#lanes, (channel, width) => {
          const to = at.add(column.scale(pitch)).add(channel);
          b.store(this.array, to.emit(b), element(channel.add(Affine.lane(width)), column.add(from), width));
        }),
      );
      return;
    }
    lowering.for(0, channels, 1, [], (channel) => {
      lowering.for(0, count, 1, [], (column) => {
        b.store(this.array, at.add(column.scale(pitch)).add(channel).emit(b), element(channel, column.add(from), 1));
      });
    });
  }
}
