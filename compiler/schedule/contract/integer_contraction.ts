/**
 * Products of bytes on GPUs: a contraction of words.
 *
 * Four steps of k are one word of either operand, and a multiply-add of words is a `dot4` (see `integers.ts`); the forms
 * of GPUs tile it like any other contraction. Steps of a word are neighbours along k, and under a convolution's kernel
 * four channels of one tap. Where there are no four, the constant operand has zeros, or both do.
 *
 * What zero points add to the sums, −β Σ a for rows and −α Σ b for columns, is added to finished tiles: constants are
 * summed when they are uploaded, operands in memory by a kernel of their own.
 */
import type { Value } from '../../graph/types.js';
import type { Target } from '../../kernel/target.js';
import type { ByteType, KBuffer, KValue, Lanes } from '../../kernel/types.js';
import { ktype } from '../../kernel/types.js';
import { sizeOf } from '../../tensor.js';
import { Affine, delinearize } from '../affine.js';
import type { Group } from '../group.js';
import type { Binding, DerivedConstant, LoweredKernel, Temporary } from '../lowered.js';
import { Lowering } from '../lowering.js';
import { range, shapeOf } from '../tensors.js';
import type { Contraction, Operand, Place, StoredPlace } from './contraction.js';
import { trimmed } from './copy.js';
import { addBytes, flipWord, joinBytes, packedSums, packedWords } from './integer_words.js';
import { type ByteProduct, type ByteSide, byteProduct, paddingOf, seeThrough } from './integers.js';
import { type Reading, type Strides, stridesOf } from './packing.js';
import { limited } from './sharing.js';
import { vector } from './tiling.js';

/** What each row of an operand adds to its sums: [batch][row] of i32. */
interface Share {
  readonly memory: DerivedConstant | Temporary;
  readonly length: number;
  /** Of operands in memory: sum · factor + constant. */
  readonly factor: number;
  readonly constant: number;
}

export interface WordSide {
  readonly type: ByteType;
  readonly share?: Share;
}

export interface WordProduct {
  readonly lhs: WordSide;
  readonly rhs: WordSide;
  readonly bytes: ByteProduct;
  /** What is read as words, in the kernels' memory too. */
  readonly sources: ReadonlySet<Value>;
}

/** How steps of k are words: `quads` of channels for each of `taps`. */
interface Steps {
  readonly k: number;
  readonly taps: number;
  readonly channels: number;
  readonly quads: number;
}

/** The contraction in words, or undefined where its operands are no bytes, or too few to share words. */
export function wordContraction(group: Group, target: Target, contraction: Contraction): Contraction | undefined {
  const { k, node, extents } = contraction;
  // Slices of k have shares of their own in what zero points add; their sums are not packed that way yet.
  if (group.slices) return undefined;
  // Between the elements of a dilated input there is nothing to multiply, not even a zero point.
  if (node.op === 'conv' && node.attrs.inputDilation.some((step) => step > 1)) return undefined;
  const bytes = byteProduct(group, target, contraction);
  if (!bytes) return undefined;
  const [, ...kernel] = node.op === 'conv' ? extents : [];
  const taps = kernel.reduce((product, extent) => product * extent, 1);
  const channels = k / taps;
  const quads = Math.ceil(channels / 4);
  if (channels < 2) return undefined;
  const steps: Steps = { k, taps, channels, quads };
  const { lhs, rhs } = bytes;
  const rows = new Map([lhs, rhs].flatMap((side) => entryOf(side, rowsOfWords(group, side, steps))));
  const words: WordProduct = {
    lhs: { type: lhs.type, share: shareOf(lhs, rhs, k, (k * lhs.zero * rhs.zero) | 0) },
    rhs: { type: rhs.type, share: shareOf(rhs, lhs, k, 0) },
    bytes,
    sources: new Set([...rows.values()].map(({ source }) => source)),
  };
  const buffers = group.reads.length + group.writes.length;
  const more = [words.lhs.share, words.rhs.share].filter((share) => share !== undefined).length;
  // One more where columns are copied.
  if (buffers + more + 1 > target.limits.storageBuffers) return undefined;
  return {
    ...contraction,
    k: quads * taps,
    extents: [quads, ...kernel],
    accumulator: 'i32',
    scalar: 'u32',
    words,
    lhs: wordOperand(group, lhs, rhs, steps, rows.get(lhs)),
    rhs: wordOperand(group, rhs, lhs, steps, rows.get(rhs)),
  };
}

function shareOf(side: ByteSide, other: ByteSide, k: number, constant: number): Share | undefined {
  if (other.zero === 0) return undefined;
  const length = side.batches * side.rows;
  const memory: Share['memory'] =
    side.from.kind === 'constant'
      ? packedSums(side, side.from, k, -other.zero, constant)
      : { kind: 'temporary', name: `${side.operand.value.name}.sums`, bytes: 4 * length };
  return { memory, length, factor: -other.zero, constant };
}

/** A lowering in which the operands' elements are their bytes as stored. */
export function loweringOf(
  group: Group,
  target: Target,
  { words }: Contraction,
  derived?: ReadonlyMap<number, DerivedConstant>,
): Lowering {
  const lowering = new Lowering(group, target, derived, words?.sources);
  if (words) seeThrough(lowering, words.bytes);
  return lowering;
}

// --- operands ----------------------------------------------------------------------------------------------------------

/** An operand whose rows are words in memory: `source` has word k of a row at their sum. */
interface WordRows extends Strides {
  readonly source: Value;
}

const entryOf = <K, V>(key: K, value: V | undefined): [K, V][] => (value === undefined ? [] : [[key, value]]);

/** Rows of words where the operand is alone in reading its memory, or undefined. */
function rowsOfWords(group: Group, side: ByteSide, { k, taps }: Steps): WordRows | undefined {
  const strides = bytesInMemory(group, side, k);
  if (!strides || side.from.kind !== 'memory' || taps > 1 || group.loop) return undefined;
  const { source } = side.from.narrow;
  const readers = group.nodes.flatMap(({ inputs }) => inputs.filter((input) => input === source)).length;
  const inWords = (value: number) => value / 4;
  const { batch, row, offset } = strides;
  const isWhole = [batch, row, offset, k, sizeOf(shapeOf(source))].every((value) => value % 4 === 0);
  if (strides.k !== 1 || readers !== 1 || !isWhole) return undefined;
  return { source, batch: inWords(batch), row: inWords(row), offset: inWords(offset), k: 1 };
}

function wordOperand(group: Group, side: ByteSide, other: ByteSide, steps: Steps, rows: WordRows | undefined): Operand {
  const { operand, from } = side;
  const { taps, channels, quads } = steps;
  const { point } = operand;
  if (from.kind === 'constant') {
    const order = (word: number) => {
      const [quad, tap] = [Math.floor(word / taps), word % taps];
      return range(Math.min(4, channels - 4 * quad)).map((i) => (4 * quad + i) * taps + tap);
    };
    const unread = (): never => {
      throw new Error(`${operand.value.name} is read in packed form`);
    };
    return {
      ...{ value: operand.value, index: operand.index, padded: false, reading: 'element' },
      ...{ element: unread, stored: unread },
      packed: (width) => packedWords(side, from, width, quads * taps, order),
    };
  }
  const reader = new WordReader(side, other, steps);
  if (rows) return operandOfRows(side, rows, quads);
  const element: Operand['element'] = (lowering, batch, row, word, lanes) =>
    word.mentionsLane()
      ? lowering.b.build(range(lanes).map((lane) => reader.word(lowering, { batch, row, k: word.atLane(lane) }, 1)))
      : reader.word(lowering, { batch, row, k: word }, lanes);
  return {
    value: operand.value,
    index: operand.index,
    padded: operand.padded,
    reading: wordsReading(group, side, steps),
    element,
    stored: (lowering, { batch, row, k: word }, lanes) => element(lowering, batch, row, word, lanes),
    ...(point && {
      point: (lowering, image, channel, position) => {
        const first = channel.div(quads).scale(channels);
        return reader.join(lowering, channel.mod(quads), 1, (own) =>
          point(lowering, image, first.add(own), position, paddingOf(lowering.b, side)),
        );
      },
    }),
  };
}

function operandOfRows(side: ByteSide, { source, ...strides }: WordRows, words: number): Operand {
  const { operand } = side;
  const element: Operand['element'] = (lowering, batch, row, word, lanes) => {
    const { b } = lowering;
    const buffer = lowering.buffer(source);
    if (!buffer) throw new Error(`${source.name} is not bound`);
    const first = side.batchOf(batch).scale(strides.batch).add(strides.offset);
    const at = first.add(row.scale(strides.row)).add(word);
    const load = (address: Affine, width: Lanes): KValue =>
      b.load(buffer, address.emit(b), width, width > 1 && address.divisor() % width === 0);
    const loaded =
      lanes === 1 || at.laneCoefficient() === 1
        ? load(at.atLane(0), lanes)
        : b.build(range(lanes).map((lane) => load(at.atLane(lane), 1)));
    return flipWord(b, loaded, side);
  };
  const aligned = [words, strides.batch, strides.row, strides.offset].every((value) => value % vector === 0);
  return {
    ...{ value: operand.value, index: operand.index, padded: false, element },
    reading: aligned ? 'along-k' : 'element',
    stored: (lowering, { batch, row, k: word }, lanes) => element(lowering, batch, row, word, lanes),
  };
}

/** Words of an operand in memory whose bytes lie anywhere. */
class WordReader {
  constructor(
    readonly side: ByteSide,
    readonly other: ByteSide,
    readonly steps: Steps,
  ) {}

  /** A word, or one of each of the rows that `row`'s lanes are. */
  word(lowering: Lowering, { batch, row, k }: StoredPlace, lanes: Lanes): KValue {
    const { b } = lowering;
    const { taps, quads, channels } = this.steps;
    const { operand } = this.side;
    const padding = paddingOf(b, this.side);
    const [quad, tap] = delinearize(k, [quads, taps]);
    if (lanes === 1 && taps === 1 && quad.range.max < Math.floor(channels / 4)) {
      const place = { batch, row, k: quad.scale(4).add(Affine.lane(4)) };
      const bytes = lowering.widen(operand.stored(lowering, place, 4, padding), 4);
      return flipWord(b, b.bitcast(bytes, ktype('u32')), this.side);
    }
    return this.join(lowering, quad, lanes, (channel) =>
      lowering.widen(operand.stored(lowering, { batch, row, k: channel.scale(taps).add(tap) }, lanes, padding), lanes),
    );
  }

  /** Words of the channels in `quad`; of those that there are not, zeros. */
  join(lowering: Lowering, quad: Affine, lanes: Lanes, byte: (channel: Affine) => KValue): KValue {
    const { b } = lowering;
    const { channels } = this.steps;
    const first = quad.scale(4);
    const whole = Math.floor(channels / 4);
    const count = quad.isConstant ? Math.min(4, channels - first.constant) : 4;
    const bytes = range(count).map((i) => byte(limited(lowering, first.add(i), channels - 1)));
    const word = joinBytes(lowering, bytes, this.side);
    // Constants have zeros there already.
    const masks = this.other.from.kind === 'memory' || this.other.zero !== 0;
    if (!masks || quad.range.max < whole) return word;
    const rest = b.constant(2 ** (8 * (channels % 4)) - 1, 'u32');
    const all = b.constant(0xffffffff, 'u32');
    const mask = quad.isConstant ? rest : b.select(b.compare('lt', quad.emit(b), b.constant(whole)), all, rest);
    return b.and(word, lowering.widen(mask, lanes));
  }
}

/** How four words along k, or words of four rows, are read in vectors of bytes. */
function wordsReading(group: Group, side: ByteSide, { k, taps }: Steps): Reading {
  const strides = bytesInMemory(group, side, k);
  if (!strides) return 'element';
  const aligned = (to: number, ...values: number[]) => values.every((value) => value % to === 0);
  const { batch, row, offset } = strides;
  if (strides.k === 1 && taps === 1 && aligned(4 * vector, offset, batch, row, k)) return 'along-k';
  if (row === 1 && aligned(vector, offset, batch, strides.k, side.rows)) return 'along-row';
  return 'element';
}

/** Where the bytes of an operand lie in the tensor that is behind it, if that is so simple. */
function bytesInMemory(group: Group, { operand, batches, rows, from }: ByteSide, k: number): Strides | undefined {
  if (from.kind !== 'memory' || from.narrow.top !== operand.value || !group.reads.includes(from.narrow.source))
    return undefined;
  return stridesOf(operand, { batches, rows, k, width: 1 });
}

// --- zero points -------------------------------------------------------------------------------------------------------

/** Kernels that sum the rows of operands in memory. */
export function sumKernels(group: Group, target: Target, contraction: Contraction): readonly LoweredKernel[] {
  const { words } = contraction;
  if (!words) return [];
  return (['lhs', 'rhs'] as const).flatMap((which) => {
    const { share } = words[which];
    return share && 'bytes' in share.memory ? [sumKernel(group, target, contraction, which, share, share.memory)] : [];
  });
}

function sumKernel(
  group: Group,
  target: Target,
  contraction: Contraction,
  which: 'lhs' | 'rhs',
  { length, factor, constant }: Share,
  memory: Temporary,
): LoweredKernel {
  const { bytes } = contraction.words as WordProduct;
  const [side, other] = which === 'lhs' ? [bytes.lhs, bytes.rhs] : [bytes.rhs, bytes.lhs];
  const lowering = loweringOf(group, target, contraction);
  const { b } = lowering;
  const buffer = b.buffer('sums', 'i32', length, 'write');
  const workgroup = Math.min(64, target.limits.workgroupInvocations);
  const local = Affine.of(b.builtin('local_id', 0, workgroup), b);
  const grid = lowering.workgroups(Math.ceil(length / workgroup), (at) => {
    lowering.guarded(at.scale(workgroup).add(local), length, (flat) => {
      const [batch, row] = delinearize(flat, [side.batches, side.rows]);
      const [sum] = lowering.for(0, contraction.k, 1, [b.constant(0, 'i32')], (word, [carried]) => [
        addBytes(lowering, contraction[which].element(lowering, batch, row, word, 1), carried, side, other),
      ]);
      b.store(buffer, flat.emit(b), b.addc(b.mulc(sum, factor), constant));
    });
  });
  const kernel = lowering.finish(grid, [workgroup, 1, 1]);
  return trimmed({ ...kernel, name: `${kernel.name}_sums` }, [...lowering.bindings, memory]);
}

/** The shares of a contraction's rows and columns, bound to one of its kernels. */
export class Shares {
  readonly bindings: readonly Binding[];
  readonly #lowering: Lowering;
  readonly #contraction: Contraction;
  readonly #buffers: { readonly lhs?: KBuffer; readonly rhs?: KBuffer };

  /** Declares their buffers: after all others. */
  constructor(lowering: Lowering, contraction: Contraction) {
    const { words } = contraction;
    const [lhs, rhs] = [words?.lhs.share, words?.rhs.share];
    const buffer = (name: string, share: Share | undefined) =>
      share && lowering.b.buffer(name, 'i32', share.length, 'read');
    this.#lowering = lowering;
    this.#contraction = contraction;
    this.#buffers = { lhs: buffer('rows', lhs), rhs: buffer('columns', rhs) };
    this.bindings = [lhs, rhs].flatMap((share) => (share ? [share.memory] : []));
  }

  /** Finished sums at a place, whose lanes are in n. */
  added({ batch, m, n }: Omit<Place, 'k'>, sum: KValue, lanes: Lanes): KValue {
    const { b } = this.#lowering;
    const { lhs, rhs } = this.#buffers;
    const { m: rows, n: columns, lhsBatch, rhsBatch } = this.#contraction;
    const row = lhs && b.load(lhs, lhsBatch(batch).scale(rows).add(m).emit(b));
    const first = rhs && rhsBatch(batch).scale(columns).add(n.atLane(0));
    const isRow = n.laneCoefficient() === 1;
    const column =
      rhs &&
      first &&
      (lanes === 1 || isRow
        ? b.load(rhs, first.emit(b), lanes, lanes > 1 && first.divisor() % lanes === 0)
        : b.build(range(lanes).map((lane) => b.load(rhs, rhsBatch(batch).scale(columns).add(n.atLane(lane)).emit(b)))));
    return [row, column].reduce<KValue>(
      (now, share) => (share ? b.add(now, this.#lowering.widen(share, lanes)) : now),
      sum,
    );
  }
}
