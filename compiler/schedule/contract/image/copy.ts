/**
 * A zero-padded copy of a box of an image with its channels last: […spatial][channel]. With it an output's inputs lie
 * at a fixed distance from each other, whatever padding, strides and dilations are.
 */

import type { Value } from '../../../graph/types.js';
import type { Target } from '../../../kernel/target.js';
import type { KArray, KValue, Lanes } from '../../../kernel/types.js';
import { sizeOf } from '../../../tensor.js';
import { Affine } from '../../affine.js';
import type { Lowering } from '../../lowering.js';
import { transposed } from '../../shuffle.js';
import { range } from '../../tensors.js';
import { overStrip } from '../strips.js';
import { movedBack } from './boxes.js';
import type { ImageGeometry } from './geometry.js';
import { spanOf } from './geometry.js';

export interface CopyShape {
  /** Outputs that a copy serves, of each side. */
  readonly box: readonly number[];
  /** Channels of the copy, and how far columns are from each other. */
  readonly channels: number;
  readonly pitch: number;
}

/** Inputs under a box of outputs, of each side. */
export const spansOf = ({ sides }: ImageGeometry, box: readonly number[]): readonly number[] =>
  sides.map((side, d) => spanOf(side, box[d]));

/** Elements of a copy. */
export const copyLength = (geometry: ImageGeometry, { box, pitch }: CopyShape): number =>
  sizeOf(spansOf(geometry, box)) * pitch;

/** Ways of the first-level cache: those of most processors. */
const ways = 8;

/** Elements from one column to the next, so that every `stride`-th of them do not share lines of the first-level cache. */
export function spacedPitch(channels: number, stride: number, target: Target, lanes: Lanes): number {
  const period = (target.caches[0]?.bytes ?? 32 << 10) / ways / 4;
  return (channels * stride) % (period / 4) === 0 ? channels + lanes : channels;
}

/** Known when the kernel is made, or when it runs. */
type Bound = number | KValue;

export class ImageCopy {
  readonly array: KArray;
  /** Elements from one position of a side to the next. */
  readonly pitches: readonly number[];
  readonly #lowering: Lowering;
  readonly #image: Value;
  readonly #geometry: ImageGeometry;
  readonly #shape: CopyShape;
  readonly #lanes: Lanes;
  readonly #isLast: boolean;
  readonly #spans: readonly number[];

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
    this.#spans = spansOf(geometry, shape.box);
    this.pitches = this.#spans.map((_, d) => sizeOf(this.#spans.slice(d + 1)) * shape.pitch);
    const length = Math.ceil(copyLength(geometry, shape) / lanes) * lanes + lanes;
    this.array = lowering.b.array('copy', 'shared', 'f32', length);
  }

  /** Where the inputs of an output begin; `at` counts outputs of each side from the first one of the box. */
  originOf(at: readonly Affine[]): Affine {
    const { sides } = this.#geometry;
    return at.reduce((sum, output, d) => sum.add(output.scale(sides[d].stride * this.pitches[d])), Affine.constant(0));
  }

  /** Copies what the box of outputs `first` … of an image needs of channels `firstChannel` …. */
  fill(image: Affine, first: readonly Affine[], firstChannel: Affine): void {
    this.#fillSide([image, firstChannel], first, Affine.constant(0));
  }

  /** @param source Image, first channel, and positions of the sides so far */
  #fillSide(source: readonly Affine[], first: readonly Affine[], at: Affine): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const d = source.length - 2;
    if (d === first.length - 1) {
      this.#copyRow(source, first[d], at);
      return;
    }
    const side = this.#geometry.sides[d];
    lowering.for(0, this.#spans[d], 1, [], (i) => {
      const to = at.add(i.scale(this.pitches[d]));
      const position = first[d].scale(side.stride).add(i).sub(side.padLow);
      const copy = (inside: Affine): void => this.#fillSide([...source, inside], first, to);
      if (position.range.min >= 0 && position.range.max < side.input) {
        copy(position);
        return;
      }
      const value = position.emit(b);
      const exists = b.and(b.compare('ge', value, b.constant(0)), b.compare('lt', value, b.constant(side.input)));
      lowering.if(
        exists,
        () => copy(Affine.of(b.assume(value, 0, side.input - 1), b)),
        () => this.#clear(to, this.pitches[d]),
      );
    });
  }

  #clear(from: Affine, count: number): void {
    const { b } = this.#lowering;
    overStrip(this.#lowering, count, this.#lanes, (at, width) =>
      b.store(this.array, from.add(at).emit(b), b.constant(0, 'f32', width)),
    );
  }

  /** Columns that the image has, and zeros around them. */
  #copyRow(source: readonly Affine[], first: Affine, at: Affine): void {
    const { b } = this.#lowering;
    const d = this.#spans.length - 1;
    const { stride, padLow, input } = this.#geometry.sides[d];
    const span = this.#spans[d];
    const start = first.scale(stride).sub(padLow);
    const limited = (position: Affine): Bound => {
      if (position.range.min >= span) return span;
      if (position.range.max <= 0) return 0;
      return position.isConstant ? position.constant : b.clamp(position.emit(b), 0, span);
    };
    const [left, right] = [limited(start.scale(-1)), limited(start.scale(-1).add(input))];
    this.#clearColumns(at, 0, left);
    this.#copyColumns(source, start, at, left, right);
    this.#clearColumns(at, right, span);
  }

  #clearColumns(at: Affine, from: Bound, to: Bound): void {
    const { pitch } = this.#shape;
    if (typeof from === 'number' && typeof to === 'number') this.#clear(at.add(from * pitch), (to - from) * pitch);
    else this.#lowering.for(from, to, 1, [], (column) => this.#clear(at.add(column.scale(pitch)), pitch));
  }

  /** Columns [from, to) of a row whose column 0 is `start` in the image. */
  #copyColumns(source: readonly Affine[], start: Affine, at: Affine, from: Bound, to: Bound): void {
    const lowering = this.#lowering;
    const { channels } = this.#shape;
    if (this.#isLast) {
      lowering.for(from, to, 1, [], (column) =>
        overStrip(lowering, channels, this.#lanes, (channel, width) => {
          const element = this.#element(source, channel.add(Affine.lane(width)), start, column, width, 1);
          this.#store(at, column, channel, element);
        }),
      );
      return;
    }
    const one = (): void => {
      lowering.for(0, channels, 1, [], (channel) => {
        lowering.for(from, to, 1, [], (column) =>
          this.#store(at, column, channel, this.#element(source, channel, start, column, 1, 1)),
        );
      });
    };
    const side = this.#squareOf(from, to);
    if (side === undefined) {
      one();
      return;
    }
    const { b } = lowering;
    const value = (bound: Bound): KValue => (typeof bound === 'number' ? b.constant(bound) : bound);
    const count = b.sub(value(to), value(from));
    const squares = (): void => {
      lowering.for(0, b.divc(b.addc(count, side - 1), side), 1, [], (i) => {
        // The last ones overlap their neighbours.
        const first = b.min(b.add(i.scale(side).emit(b), value(from)), b.addc(value(to), -side));
        const column = Affine.of(b.clamp(first, 0, this.#span - side), b);
        lowering.for(0, Math.ceil(channels / side), 1, [], (j) =>
          this.#turn(source, movedBack(lowering, j.scale(side), channels - side), start, column, at, side),
        );
      });
    };
    if (typeof from === 'number' && typeof to === 'number') squares();
    else lowering.if(b.compare('ge', count, b.constant(side)), squares, one);
  }

  get #span(): number {
    return this.#spans[this.#spans.length - 1];
  }

  /** Squares of channels × columns that are turned in registers; not where code computes the image's elements. */
  #squareOf(from: Bound, to: Bound): Lanes | undefined {
    if (!this.#lowering.group.reads.includes(this.#image)) return undefined;
    const columns = typeof from === 'number' && typeof to === 'number' ? to - from : this.#span;
    const most = Math.min(this.#lanes, columns, this.#shape.channels);
    return ([16, 8, 4] as const).find((side) => side <= most);
  }

  #turn(source: readonly Affine[], channel: Affine, start: Affine, column: Affine, at: Affine, side: Lanes): void {
    const rows = range(side).map((i) => this.#element(source, channel.add(i), start, column, side, side));
    transposed(this.#lowering.b, rows).forEach((vector, i) => {
      this.#store(at, column.add(i), channel, vector);
    });
  }

  #store(at: Affine, column: Affine, channel: Affine, element: KValue): void {
    const { b } = this.#lowering;
    b.store(this.array, at.add(column.scale(this.#shape.pitch)).add(channel).emit(b), element);
  }

  /** `width` elements, of neighbouring channels or of `columns` of a row. */
  #element(
    [image, firstChannel, ...outer]: readonly Affine[],
    channel: Affine,
    start: Affine,
    column: Affine,
    width: Lanes,
    columns: number,
  ): KValue {
    const lowering = this.#lowering;
    const { b } = lowering;
    const last = this.#geometry.sides[this.#spans.length - 1].input - columns;
    const position = start.add(column);
    const isInside = position.range.min >= 0 && position.range.max <= last;
    // Implied by the bounds of the loop, which an interval cannot express.
    const inside = isInside ? position : Affine.of(b.clamp(position.emit(b), 0, last), b);
    const along = columns > 1 ? inside.add(Affine.lane(width)) : inside;
    const index = [image, firstChannel.add(channel), ...outer, along];
    return lowering.widen(lowering.value(this.#image, index, width), width);
  }
}
