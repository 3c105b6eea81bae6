/**
 * Packed operands: [batch][tile][k][width], rows of a tile side by side, so that a register tile reads `width`
 * consecutive elements a step of k. Constants are packed once, when they are uploaded; rows beyond the operand's end
 * are zeros.
 */
import type { DType } from '../../dtype.js';
import type { ConstantData, Value } from '../../graph/types.js';
import { KernelBuilder } from '../../kernel/builder.js';
import type { ScalarType } from '../../kernel/types.js';
import { dataArrays, emptyTensor, type NumericData, sizeOf } from '../../tensor.js';
import { Affine, linearize } from '../affine.js';
import type { Group } from '../group.js';
import type { DerivedConstant } from '../lowered.js';
import { scalarOf, shapeOf } from '../tensors.js';
import type { Contraction, Operand } from './contraction.js';
import { vector } from './tiling.js';

export interface PackedShape {
  readonly batches: number;
  readonly rows: number;
  readonly k: number;
  readonly width: number;
}

export interface Strides {
  readonly batch: number;
  readonly row: number;
  readonly k: number;
  readonly offset: number;
}

/** Element address = offset + batch·a + row·b + k·c, if the operand is that simple. */
export function stridesOf(operand: Operand, { batches, rows, k }: PackedShape): Strides | undefined {
  if (operand.padded) return undefined;
  const b = new KernelBuilder();
  // In a scratch builder the workgroup's coordinates serve as three independent variables.
  const variable = (dim: 0 | 1 | 2, extent: number) => Affine.of(b.builtin('workgroup_id', dim, extent), b);
  const [batchAt, rowAt, kAt] = [variable(0, batches), variable(1, rows), variable(2, k)];
  const address = linearize(operand.index(batchAt, rowAt, kAt), shapeOf(operand.value));
  const coefficient = (variableAt: Affine): number | undefined => {
    if (variableAt.isConstant) return 0;
    const [{ atom }] = variableAt.terms;
    return address.terms.find((term) => term.atom.key === atom.key)?.coefficient ?? 0;
  };
  if (address.terms.some(({ atom }) => atom.kind !== 'value')) return undefined;
  return {
    batch: coefficient(batchAt) as number,
    row: coefficient(rowAt) as number,
    k: coefficient(kAt) as number,
    offset: address.constant,
  };
}

export const packedLength = ({ batches, rows, k, width }: PackedShape): number =>
  batches * Math.ceil(rows / width) * k * width;

/** The packed form of a constant operand. Data is read when the result is. */
export function packConstant(value: Value, data: ConstantData, shape: PackedShape, strides: Strides): DerivedConstant {
  const packed = [packedLength(shape)];
  const layout = new Layout(shape, strides, sizeOf(data.shape));
  const whole = { start: 0, length: packed[0] };
  return {
    kind: 'constant',
    name: `${value.name}.packed${shape.width}`,
    data: {
      dtype: data.dtype,
      shape: packed,
      load() {
        const result = emptyTensor(data.dtype, packed);
        const entries = result.data as Float32Array;
        const packer = new Packer(data, layout);
        for (const { start, length } of layout.reach === 'steps' ? stepwise(layout, partEntries) : [whole])
          packer.fill(start, entries.subarray(start, start + length));
        return result;
      },
      ...inParts(() => new Packer(data, layout), packed[0], layout),
    },
    derivation: { value, of: (other, content) => packConstant(other, content, shape, strides) },
  };
}

/** The lhs as a packed constant, if it is one that only the anchor reads, in the accumulators' type. */
export function packedLhs(group: Group, contraction: Contraction, width: number): DerivedConstant | undefined {
  const { lhs, accumulator, lhsBatches, m, k } = contraction;
  return packedOperand(group, lhs, accumulator, { batches: lhsBatches, rows: m, k, width });
}

/** The same for the rhs. */
export function packedRhs(group: Group, contraction: Contraction, width: number): DerivedConstant | undefined {
  const { rhs, accumulator, rhsBatches, n, k } = contraction;
  return packedOperand(group, rhs, accumulator, { batches: rhsBatches, rows: n, k, width });
}

function packedOperand(
  group: Group,
  operand: Operand,
  accumulator: ScalarType,
  shape: PackedShape,
): DerivedConstant | undefined {
  const { value } = operand;
  if (operand.packed) return operand.packed(shape.width);
  const own = group.constants.get(value.id);
  if (!own || scalarOf(value) !== accumulator || !group.reads.includes(value)) return undefined;
  if (group.nodes.some((node) => node !== group.anchor && node.inputs.includes(value))) return undefined;
  const strides = stridesOf(operand, shape);
  return strides && packConstant(value, own, shape, strides);
}

/** How four steps of k, or four rows, of an operand are read: aligned vectors where its memory allows. */
export type Reading = 'along-k' | 'along-row' | 'element';

/** How an operand's memory can be read in vectors. */
export function readingOf(group: Group, operand: Operand, batches: number, rows: number, k: number): Reading {
  if (operand.reading) return operand.reading;
  const strides = group.reads.includes(operand.value) ? stridesOf(operand, { batches, rows, k, width: 1 }) : undefined;
  if (!strides) return 'element';
  const aligned = (...values: number[]) => values.every((value) => value % vector === 0);
  if (strides.k === 1 && aligned(strides.offset, strides.batch, strides.row, k)) return 'along-k';
  if (strides.row === 1 && aligned(strides.offset, strides.batch, strides.k, rows)) return 'along-row';
  return 'element';
}

/** Entries that are packed at once where nobody says how many. */
const partEntries = 1 << 20;
/** Sources are read in parts that are not larger than so many times what is wanted of them. */
const worthwhile = 4;

/** Where entries come from. */
class Layout {
  /**
   * Which part of the source to read for some steps of a tile: that of the tile, that of all tiles, which share it, or
   * all of it.
   */
  readonly reach: 'tile' | 'steps' | 'all';

  constructor(
    readonly shape: PackedShape,
    readonly strides: Strides,
    /** Entries of the source. */
    readonly length: number,
  ) {
    const { rows, k, width } = shape;
    const dense = (count: number, steps: number): boolean => this.#extent(count, steps) <= worthwhile * count * steps;
    this.reach = dense(Math.min(width, rows), k) ? 'tile' : dense(rows, Math.min(k, 16)) ? 'steps' : 'all';
  }

  get tiles(): number {
    return Math.ceil(this.shape.rows / this.shape.width);
  }

  #extent(rows: number, steps: number): number {
    return (rows - 1) * Math.abs(this.strides.row) + (steps - 1) * Math.abs(this.strides.k) + 1;
  }

  /** Entry of the source at which a row of a batch begins. */
  begin(batch: number, row: number): number {
    return this.strides.offset + batch * this.strides.batch + row * this.strides.row;
  }

  /** Range of the source with these rows and steps. @throws RangeError */
  range(batch: number, row: number, rows: number, step: number, steps: number): readonly [low: number, high: number] {
    const { row: rowStride, k } = this.strides;
    const begin = this.begin(batch, row) + step * k;
    const low = begin + Math.min(0, (rows - 1) * rowStride) + Math.min(0, (steps - 1) * k);
    const high = low + this.#extent(rows, steps);
    if (low < 0 || high > this.length) throw new RangeError('packing reads beyond the constant');
    return [low, high];
  }
}

/** Reading in parts, which come in order: what the packer holds of the source goes with the last one. */
function inParts(create: () => Packer, length: number, layout: Layout): Pick<ConstantData, 'readPart' | 'parts'> {
  let packer: Packer | undefined;
  let left = length;
  const readPart = (start: number, into: NumericData): void => {
    packer ??= create();
    packer.fill(start, into as Float32Array);
    left -= into.length;
    if (left <= 0) {
      packer = undefined;
      left = length;
    }
  };
  return layout.reach === 'steps' ? { readPart, parts: (entries) => stepwise(layout, entries) } : { readPart };
}

/** Some steps of all tiles after each other. */
function* stepwise({ shape, tiles }: Layout, entries: number): Generator<{ start: number; length: number }> {
  const { batches, k, width } = shape;
  const steps = Math.max(1, Math.floor(entries / (tiles * width)));
  for (let batch = 0; batch < batches; batch++) {
    for (let step = 0; step < k; step += steps) {
      const length = Math.min(steps, k - step) * width;
      for (let tile = 0; tile < tiles; tile++) yield { start: ((batch * tiles + tile) * k + step) * width, length };
    }
  }
}

/** Puts any entries of a packed operand in their places. Arrays of other types are treated alike. */
class Packer {
  readonly #source: ConstantData;
  readonly #layout: Layout;
  /** What was last read of the source, and where it begins. */
  #held: Float32Array = new Float32Array();
  #heldFrom = 0;
  #memory: Float32Array | undefined;

  constructor(source: ConstantData, layout: Layout) {
    this.#source = source;
    this.#layout = layout;
  }

  fill(start: number, into: Float32Array): void {
    const { k, width } = this.#layout.shape;
    const end = start + into.length;
    for (let at = start; at < end; ) {
      const tile = Math.floor(at / (k * width));
      const stop = Math.min(end, (tile + 1) * k * width);
      this.#tile(tile, at - tile * k * width, into.subarray(at - start, stop - start));
      at = stop;
    }
  }

  /** Entries of one tile, from the given one on. */
  #tile(index: number, from: number, into: Float32Array): void {
    const { shape, strides, tiles } = this.#layout;
    const { rows, width } = shape;
    const batch = Math.floor(index / tiles);
    const first = (index % tiles) * width;
    const count = Math.min(width, rows - first);
    const step = Math.floor(from / width);
    this.#hold(batch, first, count, step, Math.ceil((from + into.length) / width) - step);
    const source = this.#held;
    let begin = this.#layout.begin(batch, first) + step * strides.k - this.#heldFrom;
    for (let at = step * width - from; at < into.length; at += width, begin += strides.k) {
      const stop = Math.min(width, into.length - at);
      const copied = Math.min(count, stop);
      for (let row = Math.max(0, -at); row < copied; row++) into[at + row] = source[begin + row * strides.row];
      if (copied < stop) into.fill(0, Math.max(0, at + copied), at + stop);
    }
  }

  #hold(batch: number, row: number, rows: number, step: number, steps: number): void {
    const { reach, shape } = this.#layout;
    // In any case, for it checks.
    const own = this.#layout.range(batch, row, rows, step, steps);
    if (own[0] >= this.#heldFrom && own[1] <= this.#heldFrom + this.#held.length) return;
    const { readPart } = this.#source;
    if (readPart === undefined || reach === 'all') {
      this.#held = this.#source.load().data as Float32Array;
      this.#heldFrom = 0;
      return;
    }
    const [low, high] = reach === 'tile' ? own : this.#layout.range(batch, 0, shape.rows, step, steps);
    const array = dataArrays[this.#source.dtype as Exclude<DType, 'string'>];
    if (this.#memory === undefined || this.#memory.length < high - low)
      this.#memory = new array(high - low) as Float32Array;
    this.#held = this.#memory.subarray(0, high - low);
    this.#heldFrom = low;
    readPart(low, this.#held);
  }
}
