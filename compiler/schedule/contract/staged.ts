/**
 * Convolution on a CPU without im2col: register tiles read a zero-padded copy of the input.
 *
 * A task copies the rows it needs into scratch memory, with zeros for the padding and one pitch P for all rows. With
 * output position (h, w) numbered h·P + w, the input of a kernel tap lies at that number plus a constant, so that
 * tiles of `vectors` vectors run across row ends without any index arithmetic; the P − width numbers between two rows
 * are computed and dropped. `geometry.ts` says what strides and dilations do.
 */
import type { Target } from '../../kernel/target.js';
import { type KArray, type KValue, type Lanes, scalarBits } from '../../kernel/types.js';
import { Affine, delinearize } from '../affine.js';
import type { Group } from '../group.js';
import type { DerivedConstant, LoweredKernel } from '../lowered.js';
import { Lowering } from '../lowering.js';
import { type Index, range } from '../tensors.js';
import { lowerBands } from './bands.js';
import { type Contraction, contractionOf, multiplyAdd } from './contraction.js';
import { finish } from './finish.js';
import { countOf, type Dim, type Geometry, geometryOf, progressions, type Tap } from './geometry.js';
import { packedLhs } from './packing.js';
import { overStrip } from './strips.js';
import { lanesFor } from './tiling.js';

interface Plan {
  readonly lanes: Lanes;
  readonly tileM: number;
  readonly vectors: number;
  /** Output rows of a task, and the row pitch of its copy. */
  readonly rows: number;
  readonly pitch: number;
  readonly margin: number;
  /** Numbers of a task: rows·pitch, as whole tiles. */
  readonly extent: number;
  /** Elements of one plane, planes of a channel. */
  readonly plane: number;
  readonly stagedRows: number;
  /** Tiles of m, and batches, that a task does. */
  readonly blockM: number;
  readonly blockBatch: number;
}

function planOf(
  contraction: Contraction,
  { h, w }: Geometry,
  target: Target,
  hasPackedWeights: boolean,
): Plan | undefined {
  const { m, batch, k, accumulator } = contraction;
  const lanes = lanesFor(contraction, target);
  const channels = k / (h.kernel * w.kernel);
  const bytes = scalarBits[accumulator] / 8;
  const margin = Math.max(0, -w.minShift);
  const pitch = Math.max(
    w.extent,
    margin + Math.max(...w.phases.map((phase) => countOf(w, phase))),
    w.extent + w.maxShift,
  );
  const halo = h.maxShift - h.minShift;
  const planes = h.phases.length * w.phases.length;
  const numbers = (rows: number) => (rows - 1) * pitch + w.extent;
  const planeOf = (rows: number) => (rows + halo) * pitch;

  const choose = (rows: number) => {
    let best = { tileM: 1, vectors: 1, score: Number.POSITIVE_INFINITY };
    for (const vectors of [1, 2, 3, 4, 6, 8]) {
      for (let tileM = 1; tileM <= 16 && tileM <= m; tileM++) {
        if (tileM * vectors + vectors + 1 > target.vectorRegisters) continue;
        const waste =
          ((Math.ceil(m / tileM) * tileM) / m) *
          ((Math.ceil(numbers(rows) / (lanes * vectors)) * lanes * vectors) / (rows * w.extent));
        // Vector loads of the copy cross cache lines: they count twice.
        const loads = (tileM + 2 * vectors) / (tileM * vectors);
        const score = waste * Math.max(1, loads) * Math.max(1, 8 / (tileM * vectors)) * (1 + 0.3 * loads);
        if (score < best.score - 1e-9) best = { tileM, vectors, score };
      }
    }
    return best;
  };
  const scratch = Math.min(target.limits.sharedBytes * 0.9, (target.caches[1]?.bytes ?? 512 << 10) * 0.7) / bytes;
  const sizeOf = (rows: number) => {
    const { tileM, vectors } = choose(rows);
    const extent = Math.ceil(numbers(rows) / (lanes * vectors)) * lanes * vectors;
    return {
      tileM,
      vectors,
      extent,
      total: channels * planes * planeOf(rows) + tileM * extent + (hasPackedWeights ? 0 : k * tileM),
    };
  };
  let rows = h.extent;
  while (rows > 1 && sizeOf(rows).total > scratch) rows = Math.ceil(rows / 2);
  if (sizeOf(rows).total > scratch) return undefined;
  // Multiply-adds that make up for handing out a task.
  const worth = 100_000;
  const work = (r: number) => Math.ceil((r * w.extent) / lanes) * m * k;
  const wanted = target.parallelism * 4;
  let blockBatch = 1;
  while (batch / (2 * blockBatch) >= wanted && work(rows) * blockBatch < worth) blockBatch *= 2;
  // Equal shares.
  blockBatch = Math.ceil(batch / Math.ceil(batch / blockBatch));
  const tasks = (r: number) => Math.ceil(batch / blockBatch) * Math.ceil(h.extent / r);
  while (tasks(rows) < wanted && rows > 4 * (halo + 1) && work(rows) > 2 * worth) rows = Math.ceil(rows / 2);
  const { tileM, vectors, extent } = sizeOf(rows);
  const tilesM = Math.ceil(m / tileM);
  let blockM = tilesM;
  while (blockM > 1 && tasks(rows) * Math.ceil(tilesM / blockM) < wanted && (work(rows) * blockM) / tilesM > 2 * worth)
    blockM = Math.ceil(blockM / 2);
  const reach = halo * pitch + margin + w.maxShift + extent;
  return {
    lanes,
    tileM,
    vectors,
    rows,
    pitch,
    margin,
    extent,
    blockM,
    blockBatch,
    stagedRows: rows + halo,
    // The last tile of the last plane reads past its rows.
    plane: Math.max(planeOf(rows), planes * channels === 1 ? reach : 0),
  };
}

/** The kernels, or undefined where this form does not apply (three spatial dims, rows that do not fit the cache). */
export function lowerStaged(group: Group, target: Target): readonly LoweredKernel[] | undefined {
  const geometry = geometryOf(group);
  if (!geometry || geometry.h.phases.length === 0 || geometry.w.phases.length === 0) return undefined;
  const contraction = contractionOf(group);
  if (contraction.k === 0 || contraction.n === 0 || contraction.m === 0 || contraction.batch === 0) return undefined;
  const isConstant = packedLhs(group, contraction, 1) !== undefined;
  const plan = planOf(contraction, geometry, target, isConstant);
  return plan && [new StagedConvolution(group, target, contraction, geometry, plan).lower()];
}

/** Multiply-adds that a loop body may have before rows of the kernel become a loop. */
const unrollLimit = 640;

class StagedConvolution {
  readonly #group: Group;
  readonly #contraction: Contraction;
  readonly #geometry: Geometry;
  readonly #plan: Plan;
  readonly #lowering: Lowering;
  readonly #packed: DerivedConstant | undefined;
  readonly #copy: KArray;
  readonly #sums: KArray;
  readonly #weights: KArray | undefined;
  readonly #channels: number;

  constructor(group: Group, target: Target, contraction: Contraction, geometry: Geometry, plan: Plan) {
    this.#group = group;
    this.#contraction = contraction;
    this.#geometry = geometry;
    this.#plan = plan;
    this.#packed = packedLhs(group, contraction, plan.tileM);
    this.#lowering = new Lowering(
      group,
      target,
      new Map(this.#packed ? [[contraction.lhs.value.id, this.#packed] as const] : []),
    );
    const { b } = this.#lowering;
    const { accumulator, k } = contraction;
    const { h, w } = geometry;
    this.#channels = k / (h.kernel * w.kernel);
    const { extent, lanes, tileM } = plan;
    const base = (this.#channels * h.phases.length * w.phases.length - 1) * plan.plane;
    const reach = (h.maxShift - h.minShift) * plan.pitch + plan.margin + w.maxShift + extent;
    const length = base + Math.max(reach, plan.plane);
    this.#copy = b.array('copy', 'shared', accumulator, Math.ceil(length / lanes) * lanes);
    this.#sums = b.array('sums', 'shared', accumulator, tileM * extent);
    this.#weights = this.#packed ? undefined : b.array('weights', 'shared', accumulator, k * tileM);
  }

  lower(): LoweredKernel {
    const { h, w } = this.#geometry;
    return lowerBands(this.#lowering, this.#contraction, h.extent, this.#plan, {
      clear: () => this.#clear(),
      stage: (batch, firstRow) => this.#stage(batch, firstRow),
      tile: (batch, tile, firstRow) => {
        if (!this.#packed) this.#packWeights(batch, tile);
        for (const classH of range(h.inputDilation)) {
          for (const classW of range(w.inputDilation)) {
            this.#multiply(batch, tile, classH, classW);
            this.#finish(batch, tile, firstRow, classH, classW);
          }
        }
      },
    });
  }

  #zero(lanes: Lanes): KValue {
    const { accumulator } = this.#contraction;
    return this.#lowering.b.zero(accumulator, lanes);
  }

  /** Zeros everywhere: what the copy does not write is padding. */
  #clear(): void {
    const { b } = this.#lowering;
    const { lanes } = this.#plan;
    const zero = this.#zero(lanes);
    this.#lowering.for(0, this.#copy.length / lanes, 1, [], (i) => {
      b.store(this.#copy, i.scale(lanes).emit(b), zero, true);
    });
  }

  /** Copies the input rows under output rows `firstRow` … of one batch. */
  #stage(batch: Affine, firstRow: Affine): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { rhs, accumulator } = this.#contraction;
    const { h, w, spatial } = this.#geometry;
    const { plane, pitch, margin, stagedRows, rows } = this.#plan;
    const groups = this.#contraction.lhsBatches;
    const [image, groupAt] = delinearize(batch, [this.#contraction.batch / groups, groups]);
    lowering.for(0, this.#channels, 1, [], (channel) => {
      const at = (row: Affine, column: Affine): Index => [
        image,
        groupAt.scale(this.#channels).add(channel),
        ...spatial(row, column),
      ];
      h.phases.forEach((phaseH, ph) => {
        const rowsOf = countOf(h, phaseH);
        lowering.for(0, stagedRows, 1, [], (row) => {
          const source = firstRow.add(row).add(h.minShift);
          const planeAt = channel.scale(h.phases.length).add(ph).scale(w.phases.length);
          const to = (pw: number) => planeAt.add(pw).scale(plane).add(row.scale(pitch)).add(margin);
          const copy = (inside: Affine): void =>
            w.phases.forEach((phaseW, pw) => {
              overStrip(lowering, countOf(w, phaseW), this.#plan.lanes, (column, width) => {
                const index = at(
                  inside.scale(h.stride).add(phaseH),
                  column.add(Affine.lane(width)).scale(w.stride).add(phaseW),
                );
                const element = b.convert(lowering.value(rhs.value, index, width), accumulator);
                b.store(this.#copy, to(pw).add(column).emit(b), lowering.widen(element, width));
              });
            });
          const clear = (): void =>
            w.phases.forEach((phaseW, pw) => {
              overStrip(lowering, countOf(w, phaseW), this.#plan.lanes, (column, width) =>
                b.store(this.#copy, to(pw).add(column).emit(b), this.#zero(width)),
              );
            });
          if (rowsOf === 0) return;
          if (source.range.min >= 0 && source.range.max < rowsOf) {
            copy(source);
            return;
          }
          const value = source.emit(b);
          const inside = b.and(b.compare('ge', value, b.constant(0)), b.compare('lt', value, b.constant(rowsOf)));
          // Each task clears its copy once: only a second batch can find other rows where its zeros should be.
          const stale = this.#plan.blockBatch > 1 && rows < h.extent;
          lowering.if(inside, () => copy(Affine.of(b.assume(value, 0, rowsOf - 1), b)), stale ? clear : undefined);
        });
      });
    });
  }

  /** Weights that are no constants: [k][tileM]. */
  #packWeights(batch: Affine, tile: Affine): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { lhs, m, k } = this.#contraction;
    const { h, w } = this.#geometry;
    const { tileM } = this.#plan;
    const taps = h.kernel * w.kernel;
    lowering.for(0, tileM, 1, [], (r) => {
      const at = tile.scale(tileM).add(r);
      const row = at.range.max < m ? at : Affine.of(b.clamp(at.emit(b), 0, m - 1), b);
      lowering.for(0, k / taps, 1, [], (channel) =>
        lowering.for(0, taps, 1, [], (tap) => {
          const step = channel.scale(taps).add(tap);
          b.store(
            this.#weights as KArray,
            step.scale(tileM).add(r).emit(b),
            lhs.element(lowering, batch, row, step, 1),
          );
        }),
      );
    });
  }

  #weight(batch: Affine, tile: Affine, step: Affine, r: number): KValue {
    const { b } = this.#lowering;
    const { lhs, m, k } = this.#contraction;
    const { tileM } = this.#plan;
    if (!this.#packed) return b.load(this.#weights as KArray, step.scale(tileM).add(r).emit(b));
    const buffer = this.#lowering.buffer(lhs.value);
    if (!buffer) throw new Error('the packed weights are not bound');
    const tiles = Math.ceil(m / tileM);
    return b.load(
      buffer,
      this.#contraction.lhsBatch(batch).scale(tiles).add(tile).scale(k).add(step).scale(tileM).add(r).emit(b),
    );
  }

  /** All numbers of one row tile of one class, into `sums`: [tileM][extent]. */
  #multiply(batch: Affine, tile: Affine, classH: number, classW: number): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { h, w } = this.#geometry;
    const { lanes, tileM, vectors, extent, plane, pitch, margin } = this.#plan;
    const [tapsH, tapsW] = [h.classes[classH], w.classes[classW]];
    const planesOf = h.phases.length * w.phases.length;
    lowering.for(0, extent / (lanes * vectors), 1, [], (column) => {
      const first = column.scale(lanes * vectors);
      const tap = (
        channel: Affine,
        at: { k: Affine; phase: number; shift: Affine },
        tapW: { k: Affine; phase: number; shift: Affine },
        carried: readonly KValue[],
      ): readonly KValue[] => {
        const planeAt = channel
          .scale(planesOf)
          .add(h.phases.indexOf(at.phase) * w.phases.length + w.phases.indexOf(tapW.phase))
          .scale(plane);
        const from = planeAt.add(at.shift.sub(h.minShift).scale(pitch)).add(tapW.shift).add(margin).add(first);
        const step = channel.scale(h.kernel).add(at.k).scale(w.kernel).add(tapW.k);
        const columns = range(vectors).map((v) => b.load(this.#copy, from.add(v * lanes).emit(b), lanes));
        return range(tileM).flatMap((r) => {
          const factor = this.#weight(batch, tile, step, r);
          return columns.map((value, v) => multiplyAdd(lowering, factor, value, carried[r * vectors + v]));
        });
      };
      const zeros = range(tileM * vectors).map(() => this.#zero(lanes));
      const isSmall = tapsH.length * tapsW.length * tileM * vectors <= unrollLimit;
      const rowIsSmall = tapsW.length * tileM * vectors <= unrollLimit;
      const sums = lowering.for(0, this.#channels, 1, zeros, (channel, carried) => {
        const whole = (at: { k: Affine; phase: number; shift: Affine }, now: readonly KValue[]) =>
          overTaps(lowering, tapsW, rowIsSmall, now, (tapW, inner) => tap(channel, at, tapW, inner));
        return overTaps(lowering, tapsH, isSmall, carried, whole);
      });
      sums.forEach((sum, i) => {
        const [r, v] = [Math.floor(i / vectors), i % vectors];
        b.store(this.#sums, first.add(r * extent + v * lanes).emit(b), sum, true);
      });
    });
  }

  /** Epilogue and stores of a row tile of one class. */
  #finish(batch: Affine, tile: Affine, firstRow: Affine, classH: number, classW: number): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { m } = this.#contraction;
    const { h, w } = this.#geometry;
    const { rows, tileM, extent, pitch } = this.#plan;
    const extentOf = (dim: Dim, residue: number) => Math.max(0, Math.ceil((dim.output - residue) / dim.inputDilation));
    const [height, width] = [extentOf(h, classH), extentOf(w, classW)];
    if (height === 0 || width === 0) return;
    const store = (row: Affine, line: Affine, column: Affine, from: Affine, lanes: Lanes): void => {
      const n = line
        .scale(h.inputDilation)
        .add(classH)
        .scale(w.output)
        .add(column.add(Affine.lane(lanes)).scale(w.inputDilation))
        .add(classW);
      finish(
        lowering,
        this.#group,
        this.#contraction,
        { batch, m: row, n },
        b.load(this.#sums, from.emit(b), lanes),
        lanes,
      );
    };
    lowering.for(0, tileM, 1, [], (r) =>
      lowering.guarded(tile.scale(tileM).add(r), m, (row) => {
        lowering.for(0, rows, 1, [], (line) =>
          lowering.guarded(firstRow.add(line), height, (lineAt) => {
            overStrip(lowering, width, this.#plan.lanes, (column, lanes) =>
              store(row, lineAt, column, r.scale(extent).add(line.scale(pitch)).add(column), lanes),
            );
          }),
        );
      }),
    );
  }
}

/** Every tap in turn: written out, or as loops over progressions. */
function overTaps(
  lowering: Lowering,
  taps: readonly Tap[],
  unrolled: boolean,
  initial: readonly KValue[],
  body: (tap: { k: Affine; phase: number; shift: Affine }, carried: readonly KValue[]) => readonly KValue[],
): readonly KValue[] {
  const { constant } = Affine;
  if (unrolled)
    return taps.reduce(
      (now, { k, phase, shift }) => body({ k: constant(k), phase, shift: constant(shift) }, now),
      initial,
    );
  return progressions(taps).reduce(
    (now, [{ k, phase, shift }, count, stepK, stepShift]) =>
      lowering.for(0, count, 1, now, (i, inner) =>
        body({ k: i.scale(stepK).add(k), phase, shift: i.scale(stepShift).add(shift) }, inner),
      ),
    initial,
  );
}
