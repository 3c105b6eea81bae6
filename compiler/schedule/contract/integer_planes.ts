/**
 * Convolutions of bytes on a CPU without im2col: register tiles of `dot4` over planes of words (see `integers.ts`).
 *
 * A task lays the input rows that it needs into scratch memory as words, padding included, with one pitch P for all
 * rows. Output position (h, w) is number h·P + w; the word under a tap lies at that number plus a constant, so that
 * tiles run across row ends (as in `staged.ts`). The bytes of a word are four channels, and kernel rows are taps; or, where
 * channels are few, four rows under the kernel, so that a depthwise 3×3 takes three products.
 */
import type { Target } from '../../kernel/target.js';
import { type KArray, type KValue, ktype, type Lanes } from '../../kernel/types.js';
import { Affine, delinearize } from '../affine.js';
import type { Group } from '../group.js';
import type { LoweredKernel } from '../lowered.js';
import { Lowering } from '../lowering.js';
import { type Index, range } from '../tensors.js';
import { lowerBands } from './bands.js';
import { finish } from './finish.js';
import { countOf, type Geometry, geometryOf, progressions, type Tap } from './geometry.js';
import { type Plan, planOf } from './integer_planes_plan.js';
import { flipWord, joinBytes, loadWords, type Order, type PackedWords, packWords } from './integer_words.js';
import { type ByteProduct, paddingOf, seeThrough } from './integers.js';
import { requantise } from './requantise.js';
import { overStrip } from './strips.js';

/** The kernel, or undefined where this form does not apply. */
export function lowerIntegerPlanes(group: Group, target: Target, product: ByteProduct): LoweredKernel | undefined {
  const geometry = geometryOf(group);
  const { contraction, lhs } = product;
  const { batch, m, n } = contraction;
  if (!geometry || batch * m * n === 0 || lhs.from.kind !== 'constant' || lhs.zero !== 0) return undefined;
  if ([geometry.h, geometry.w].some(({ inputDilation, phases }) => inputDilation > 1 || phases.length === 0))
    return undefined;
  const plan = planOf(contraction, geometry, target);
  return plan && new IntegerPlanes(group, target, product, geometry, plan).lower();
}

/** Products that a loop body may have before rows of the kernel become a loop. */
const unrollLimit = 640;

class IntegerPlanes {
  readonly #group: Group;
  readonly #product: ByteProduct;
  readonly #geometry: Geometry;
  readonly #plan: Plan;
  readonly #lowering: Lowering;
  readonly #weights: PackedWords;
  readonly #copy: KArray;
  readonly #sums: KArray;
  readonly #channels: number;
  /** Kernel rows that are taps: all of them, or none but the first where rows are the bytes of a word. */
  readonly #tapRows: number;

  constructor(group: Group, target: Target, product: ByteProduct, geometry: Geometry, plan: Plan) {
    const { contraction, lhs, rhs } = product;
    const { h, w } = geometry;
    this.#group = group;
    this.#product = product;
    this.#geometry = geometry;
    this.#plan = plan;
    this.#channels = contraction.k / (h.kernel * w.kernel);
    this.#tapRows = plan.bytes === 'channels' ? h.kernel : 1;
    const words = plan.units * this.#tapRows * w.kernel;
    this.#weights = packWords(lhs, rhs, contraction.k, plan.tileM, words, this.#order()) as PackedWords;
    this.#lowering = new Lowering(group, target, new Map([[lhs.operand.value.id, this.#weights.constant]]));
    seeThrough(this.#lowering, product);
    requantise(this.#lowering, group, target);
    const { b } = this.#lowering;
    this.#copy = b.array('copy', 'shared', 'u32', plan.length);
    this.#sums = b.array('sums', 'shared', 'i32', plan.tileM * plan.extent);
  }

  /** k of the bytes of each word: words go by unit, kernel row, kernel column. */
  #order(): Order {
    const { h, w } = this.#geometry;
    const fours = Math.ceil(h.kernel / 4);
    return (word) => {
      const column = word % w.kernel;
      const rest = Math.floor(word / w.kernel);
      const of = (channel: number, row: number) => (channel * h.kernel + row) * w.kernel + column;
      if (this.#plan.bytes === 'channels') {
        const quad = Math.floor(rest / h.kernel);
        return this.#inUnit(quad).map((channel) => of(channel, rest % h.kernel));
      }
      return this.#inUnit(rest % fours).map((row) => of(Math.floor(rest / fours), row));
    };
  }

  /** Channels, or kernel rows, that are the bytes of words number `quad` of them. */
  #inUnit(quad: number): readonly number[] {
    const count = this.#plan.bytes === 'channels' ? this.#channels : this.#geometry.h.kernel;
    return range(Math.min(4, count - 4 * quad)).map((i) => 4 * quad + i);
  }

  lower(): LoweredKernel {
    return lowerBands(this.#lowering, this.#product.contraction, this.#geometry.h.extent, this.#plan, {
      clear: () => this.#clear(),
      stage: (batch, firstRow) => this.#stage(batch, firstRow),
      tile: (batch, tile, firstRow) => {
        this.#multiply(batch, tile);
        this.#finish(batch, tile, firstRow);
      },
    });
  }

  #padding(): KValue {
    return paddingOf(this.#lowering.b, this.#product.rhs);
  }

  /** A word of padding in every lane. */
  #empty(lanes: Lanes): KValue {
    const { b } = this.#lowering;
    const { rhs } = this.#product;
    const byte = Number(b.constantOf(this.#padding())) & 255;
    return flipWord(b, b.constant((byte * 0x01010101) >>> 0, 'u32', lanes), rhs);
  }

  /** What the copy does not write is padding. */
  #clear(): void {
    const { b } = this.#lowering;
    const { lanes, pitch, length, plane } = this.#plan;
    const { w } = this.#geometry;
    const isCovered = w.phases.every((phase) => countOf(w, phase) === pitch) && length <= plane;
    if (isCovered && this.#plan.bytes === 'rows') return;
    const empty = this.#empty(lanes);
    this.#lowering.for(0, length / lanes, 1, [], (i) => {
      b.store(this.#copy, i.scale(lanes).emit(b), empty, true);
    });
  }

  /** Lays the input rows under output rows `firstRow` … of one batch into the planes. */
  #stage(batch: Affine, firstRow: Affine): void {
    const { contraction } = this.#product;
    const groups = contraction.lhsBatches;
    const [image, groupAt] = delinearize(batch, [contraction.batch / groups, groups]);
    const channelAt = (channel: Affine) => groupAt.scale(this.#channels).add(channel);
    const element = (channel: Affine, row: Affine, column: Affine): Index => [
      image,
      channelAt(channel),
      ...this.#geometry.spatial(row, column),
    ];
    if (this.#plan.bytes === 'channels') this.#stageChannels(element, firstRow);
    else this.#stageRows(element, firstRow);
  }

  #stageChannels(element: (channel: Affine, row: Affine, column: Affine) => Index, firstRow: Affine): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { h } = this.#geometry;
    const { stagedRows, rows, blockBatch } = this.#plan;
    const stage = (quad: Affine, members: readonly number[]) =>
      h.phases.forEach((phase, ph) => {
        const count = countOf(h, phase);
        if (count === 0) return;
        lowering.for(0, stagedRows, 1, [], (row) => {
          const source = firstRow.add(row).add(h.minShift);
          const planes = quad.scale(h.phases.length).add(ph);
          const copy = (inside: Affine): void =>
            this.#words(planes, row, (column, lanes) =>
              members.map((member) =>
                this.#byte(element(quad.scale(4).add(member), inside.scale(h.stride).add(phase), column), lanes),
              ),
            );
          const clear = (): void => this.#words(planes, row, () => [], true);
          if (source.range.min >= 0 && source.range.max < count) {
            copy(source);
            return;
          }
          const value = source.emit(b);
          const inside = b.and(b.compare('ge', value, b.constant(0)), b.compare('lt', value, b.constant(count)));
          // Each task clears its copy once: only a second batch can find other rows where its padding should be.
          const stale = blockBatch > 1 && rows < h.extent;
          lowering.if(inside, () => copy(Affine.of(b.assume(value, 0, count - 1), b)), stale ? clear : undefined);
        });
      });
    const whole = Math.floor(this.#channels / 4);
    lowering.for(0, whole, 1, [], (quad) => stage(quad, range(4)));
    if (this.#channels % 4 !== 0) stage(Affine.constant(whole), range(this.#channels % 4));
  }

  #stageRows(element: (channel: Affine, row: Affine, column: Affine) => Index, firstRow: Affine): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { h } = this.#geometry;
    const { stagedRows } = this.#plan;
    const fours = Math.ceil(h.kernel / 4);
    const [taps] = h.classes;
    lowering.for(0, this.#channels, 1, [], (channel) =>
      range(fours).forEach((four) => {
        const own = this.#inUnit(four).map((row) => taps[row]);
        lowering.for(0, stagedRows, 1, [], (row) => {
          const planes = channel.scale(fours).add(four);
          const sources = own.map(({ shift, phase }) => firstRow.add(row).add(shift).scale(h.stride).add(phase));
          const copy = (at: readonly Affine[], valid: readonly (KValue | undefined)[]): void =>
            this.#words(planes, row, (column, lanes) =>
              at.map((source, i) => {
                const byte = this.#byte(element(channel, source, column), lanes);
                const condition = valid[i];
                return condition
                  ? b.select(lowering.widen(condition, lanes), byte, b.splat(this.#padding(), lanes))
                  : byte;
              }),
            );
          const last = h.input - 1;
          const isOpen = ({ range: { min, max } }: Affine) => min < 0 || max > last;
          if (!sources.some(isOpen)) {
            copy(sources, []);
            return;
          }
          const values = sources.map((source) => source.emit(b));
          const [first, final] = [values[0], values[values.length - 1]];
          const whole = b.and(b.compare('ge', first, b.constant(0)), b.compare('le', final, b.constant(last)));
          lowering.if(
            whole,
            () =>
              copy(
                values.map((value) => Affine.of(b.assume(value, 0, last), b)),
                [],
              ),
            () =>
              copy(
                values.map((value) => Affine.of(b.clamp(value, 0, last), b)),
                values.map((value) =>
                  b.and(b.compare('ge', value, b.constant(0)), b.compare('le', value, b.constant(last))),
                ),
              ),
          );
        });
      }),
    );
  }

  #byte(index: Index, lanes: Lanes): KValue {
    const { operand } = this.#product.rhs;
    return this.#lowering.widen(this.#lowering.value(operand.value, index, lanes), lanes);
  }

  /** Writes a row of the planes of all column phases; `bytes` gives those of the words at input column(s). */
  #words(
    planes: Affine,
    row: Affine,
    bytes: (column: Affine, lanes: Lanes) => readonly KValue[],
    isEmpty = false,
  ): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { w } = this.#geometry;
    const { plane, pitch, margin } = this.#plan;
    w.phases.forEach((phase, pw) => {
      const to = planes.scale(w.phases.length).add(pw).scale(plane).add(row.scale(pitch)).add(margin);
      overStrip(lowering, countOf(w, phase), this.#plan.lanes, (first, lanes) => {
        const column = first.add(Affine.lane(lanes)).scale(w.stride).add(phase);
        const word = isEmpty ? this.#empty(lanes) : joinBytes(lowering, bytes(column, lanes), this.#product.rhs);
        b.store(this.#copy, to.add(first).emit(b), word);
      });
    });
  }

  /** All numbers of one row tile, into `sums`: [tileM][extent]. */
  #multiply(batch: Affine, tile: Affine): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { h, w } = this.#geometry;
    const { lhs, rhs } = this.#product;
    const { lanes, tileM, vectors, extent, plane, pitch, margin, units, bytes } = this.#plan;
    const buffer = lowering.buffer(lhs.operand.value);
    if (!buffer) throw new Error('the packed weights are not bound');
    const { words, tiles } = this.#weights;
    const base = lhs
      .batchOf(batch)
      .scale(tiles)
      .add(tile)
      .scale((words + 1) * tileM);
    const weight = (line: Affine, r: number) => {
      const word = loadWords(lowering, buffer, base.add(line.scale(tileM)).add(r), 1, false);
      return b.splat(word, lanes);
    };
    const [tapsH, tapsW] = [bytes === 'channels' ? h.classes[0] : [undefined], w.classes[0]];
    const phasesH = bytes === 'channels' ? h.phases.length : 1;
    type Place = { readonly k: Affine; readonly phase: number; readonly shift: Affine };
    lowering.for(0, extent / (lanes * vectors), 1, [], (column) => {
      const first = column.scale(lanes * vectors);
      const tap = (unit: Affine, at: Place | undefined, tapW: Tap, carried: readonly KValue[]): readonly KValue[] => {
        const phaseH = at ? h.phases.indexOf(at.phase) : 0;
        const planeAt = unit
          .scale(phasesH)
          .add(phaseH)
          .scale(w.phases.length)
          .add(w.phases.indexOf(tapW.phase))
          .scale(plane);
        const down = at ? at.shift.sub(h.minShift).scale(pitch) : Affine.constant(0);
        const from = planeAt
          .add(down)
          .add(tapW.shift + margin)
          .add(first);
        const line = unit
          .scale(this.#tapRows)
          .add(at ? at.k : Affine.constant(0))
          .scale(w.kernel)
          .add(tapW.k + 1);
        const columns = range(vectors).map((v) => loadWords(lowering, this.#copy, from.add(v * lanes), lanes, false));
        return range(tileM).flatMap((r) => {
          const factor = weight(line, r);
          return columns.map((value, v) => b.dot4(value, factor, carried[r * vectors + v], rhs.type, lhs.type));
        });
      };
      const rowOf = (unit: Affine, at: Place | undefined, now: readonly KValue[]) =>
        tapsW.reduce((inner, tapW) => tap(unit, at, tapW, inner), now);
      const fixed = ({ k, phase, shift }: Tap): Place => ({
        k: Affine.constant(k),
        phase,
        shift: Affine.constant(shift),
      });
      const initial = range(tileM).flatMap((r) => {
        const share =
          rhs.zero === 0 ? b.constant(0, 'i32', lanes) : b.bitcast(weight(Affine.constant(0), r), ktype('i32', lanes));
        return range(vectors).map(() => share);
      });
      const isSmall = tapsH.length * tapsW.length * tileM * vectors <= unrollLimit;
      const sums = lowering.for(0, units, 1, initial, (unit, carried) => {
        if (bytes === 'rows') return rowOf(unit, undefined, carried);
        const taps = tapsH as readonly Tap[];
        if (isSmall) return taps.reduce((now, at) => rowOf(unit, fixed(at), now), carried);
        return progressions(taps).reduce(
          (now, [start, count, stepK, stepShift]) =>
            lowering.for(0, count, 1, now, (i, inner) =>
              rowOf(
                unit,
                { k: i.scale(stepK).add(start.k), phase: start.phase, shift: i.scale(stepShift).add(start.shift) },
                inner,
              ),
            ),
          carried,
        );
      });
      sums.forEach((sum, i) => {
        const [r, v] = [Math.floor(i / vectors), i % vectors];
        b.store(this.#sums, first.add(r * extent + v * lanes).emit(b), sum, true);
      });
    });
  }

  /** Epilogue and stores of a row tile. */
  #finish(batch: Affine, tile: Affine, firstRow: Affine): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { contraction } = this.#product;
    const { h, w } = this.#geometry;
    const { rows, tileM, extent, pitch } = this.#plan;
    lowering.for(0, tileM, 1, [], (r) =>
      lowering.guarded(tile.scale(tileM).add(r), contraction.m, (row) => {
        const store = (n: Affine, from: Affine, lanes: Lanes): void => {
          const sum = b.load(this.#sums, r.scale(extent).add(from).emit(b), lanes);
          finish(lowering, this.#group, contraction, { batch, m: row, n: n.add(Affine.lane(lanes)) }, sum, lanes);
        };
        lowering.for(0, rows, 1, [], (line) =>
          lowering.guarded(firstRow.add(line), h.output, (lineAt) => {
            overStrip(lowering, w.output, this.#plan.lanes, (column, lanes) =>
              store(lineAt.scale(w.output).add(column), line.scale(pitch).add(column), lanes),
            );
          }),
        );
      }),
    );
  }
}
