/**
 * Contraction on a GPU in registers: each invocation keeps a tile of rows × columns of sums, as scalars, and walks along
 * k with aligned vector loads on both sides. Invocations of a workgroup take the same rows and neighbouring columns. On
 * devices that are executed by a CPU this is the fastest form — barriers cost more there than caches save — and a
 * subgroup reads the rows' factors together; on others it is for few rows, and invocations may share k among them.
 */
import type { Target } from '../../kernel/target.js';
import type { KBuffer, KValue, Lanes } from '../../kernel/types.js';
import { Affine, delinearize, linearize } from '../affine.js';
import { type Group, resultIndex } from '../group.js';
import type { Binding, DerivedConstant, LoweredKernel } from '../lowered.js';
import type { Lowering } from '../lowering.js';
import { range } from '../tensors.js';
import { type Contraction, multiplyAdd, type Operand } from './contraction.js';
import { type Copy, copyPlanes, copyRows, type PlanesCopy, trimmed } from './copy.js';
import { type Dim, type Geometry, progressions, type Tap } from './geometry.js';
import { loweringOf, Shares } from './integer_contraction.js';
import { packedLhs, packedRhs, type Reading, readingOf } from './packing.js';
import type { RegisterPlan, Space, Tile } from './register_plan.js';
import { limited, sharedPieces, sharingOf } from './sharing.js';
import { vector } from './tiling.js';

/** Where columns come from. */
type Source =
  | { readonly kind: 'planes'; readonly geometry: Geometry; readonly copy: PlanesCopy }
  /** [batch][k][pitch], aligned: a copy, or a constant in that form. */
  | { readonly kind: 'rows'; readonly copy: Copy }
  | { readonly kind: 'constant'; readonly pitch: number; readonly data: DerivedConstant }
  | { readonly kind: 'operand'; readonly reading: Reading };

/** Taps of a row of a kernel that are spelled out; more of them make code that takes long to compile. */
const unrolledTaps = 16;

/** Rows of a contraction from which on columns, which are read by several row tiles, are worth a copy. */
const leastCopied = 8;

/** Whether another kernel copies the columns first, unless they are a constant that can be packed. */
export const copies = ({ contraction, geometry, reading }: RegisterPlan): boolean =>
  geometry !== undefined || (reading === 'element' && contraction.m >= leastCopied);

export function lowerRegisters(group: Group, target: Target, plan: RegisterPlan): readonly LoweredKernel[] {
  const { contraction, geometry, reading, space, tile } = plan;
  const lower = (source: Source) => new RegisterTiles(group, target, contraction, space, tile, source).lower();
  if (geometry) {
    const copy = copyPlanes(group, target, contraction, geometry, Math.ceil(space.width / tile.columns) * tile.columns);
    return [copy.kernel, lower({ kind: 'planes', geometry, copy })];
  }
  const pitch = Math.ceil(contraction.n / vector) * vector;
  const data =
    reading === 'along-row' || contraction.lhs.value === contraction.rhs.value
      ? undefined
      : packedRhs(group, contraction, pitch);
  if (data) return [lower({ kind: 'constant', pitch, data })];
  if (copies(plan)) {
    const copy = copyRows(group, target, contraction);
    return [copy.kernel, lower({ kind: 'rows', copy })];
  }
  return [lower({ kind: 'operand', reading })];
}

class RegisterTiles {
  readonly #group: Group;
  readonly #contraction: Contraction;
  readonly #space: Space;
  readonly #tile: Tile;
  readonly #source: Source;
  readonly #packed: DerivedConstant | undefined;
  readonly #lhsReading: Reading;
  readonly #lowering: Lowering;
  readonly #copied: KBuffer | undefined;
  /** Invocations that read factors for each other; 1 where each reads its own. */
  readonly #sharing: number;
  readonly #shares: Shares;
  readonly #isSoftware: boolean;

  constructor(group: Group, target: Target, contraction: Contraction, space: Space, tile: Tile, source: Source) {
    this.#group = group;
    this.#contraction = contraction;
    this.#space = space;
    this.#tile = tile;
    this.#source = source;
    const { lhs, lhsBatches, m, k, accumulator, scalar } = contraction;
    this.#isSoftware = target.style === 'software-gpu';
    this.#sharing = sharingOf(target, tile.along, accumulator);
    this.#packed = packedLhs(group, contraction, tile.rows);
    this.#lhsReading = this.#packed ? 'along-row' : readingOf(group, lhs, lhsBatches, m, k);
    const derived = new Map<number, DerivedConstant>();
    if (this.#packed) derived.set(lhs.value.id, this.#packed);
    if (source.kind === 'constant') derived.set(contraction.rhs.value.id, source.data);
    this.#lowering = loweringOf(group, target, contraction, derived);
    this.#copied =
      source.kind === 'operand'
        ? undefined
        : source.kind === 'constant'
          ? this.#lowering.buffer(contraction.rhs.value)
          : this.#lowering.b.buffer('copy', scalar, source.copy.length, 'read');
    this.#shares = new Shares(this.#lowering, contraction);
  }

  lower(): LoweredKernel {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { batch, m } = this.#contraction;
    const { lines, width, classes } = this.#space;
    const { rows, columns, along, across, slices } = this.#tile;
    const segments = Math.ceil(width / columns);
    const tilesM = Math.ceil(m / rows);
    const tilesN = lines * segments;
    const local = Affine.of(b.builtin('local_id', 0, along * across * slices), b);
    const [slice, localM, localN] = delinearize(local, [slices, across, along]);
    const counts = [classes, batch, Math.ceil(tilesM / across), Math.ceil(tilesN / along)];
    const grid = lowering.workgroups(
      counts.reduce((p, c) => p * c, 1),
      (index) => {
        const [classAt, batchAt, groupM, groupN] = delinearize(index, counts);
        const tile = (tileM: Affine, tileN: Affine, store: (body: () => void) => void): void => {
          const [line, segment] = delinearize(tileN, [lines, segments]);
          const first = segment.scale(columns);
          const byClass = (at: number): void => {
            const here = () => {
              const own = this.#sums(batchAt, tileM, line, first, at, slice);
              this.#together(own, slice, localM.scale(along).add(localN), (sums) =>
                store(() => this.#finish(batchAt, tileM, line, first, at, sums)),
              );
            };
            if (at === classes - 1) here();
            else lowering.if(b.compare('eq', classAt.emit(b), b.constant(at)), here, () => byClass(at + 1));
          };
          byClass(0);
        };
        const tileM = groupM.scale(across).add(localM);
        const tileN = groupN.scale(along).add(localN);
        // Invocations without a tile of their own work for the others: what they compute is not stored.
        const extra = (body: () => void) => lowering.guarded(tileN, tilesN, body);
        const within = (at: Affine, extent: number) => limited(lowering, at, extent - 1);
        if (slices > 1) {
          tile(within(tileM, tilesM), within(tileN, tilesN), (body) =>
            lowering.guarded(tileM, tilesM, () => extra(body)),
          );
        } else {
          lowering.guarded(tileM, tilesM, (row) => {
            if (this.#sharing > 1) tile(row, within(tileN, tilesN), extra);
            else lowering.guarded(tileN, tilesN, (column) => tile(row, column, (body) => body()));
          });
        }
      },
    );
    const sharing = this.#sharing > 1 ? this.#sharing : undefined;
    const kernel = lowering.finish(grid, [along * across * slices, 1, 1], sharing);
    const bindings: Binding[] = [...lowering.bindings];
    if (this.#source.kind === 'planes' || this.#source.kind === 'rows') bindings.push(this.#source.copy.memory);
    return trimmed(kernel, [...bindings, ...this.#shares.bindings]);
  }

  // --- sums --------------------------------------------------------------------------------------------------------

  /** The sums of all slices of a tile; `body` is for those invocations that have them. */
  #together(own: readonly KValue[], slice: Affine, place: Affine, body: (sums: readonly KValue[]) => void): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { along, across, slices } = this.#tile;
    if (slices === 1) {
      body(own);
      return;
    }
    const places = along * across;
    const at = (from: Affine, i: number) => from.scale(own.length).add(i).scale(places).add(place).emit(b);
    const array = b.array('slices', 'shared', this.#contraction.accumulator, slices * own.length * places);
    for (const [i, sum] of own.entries()) b.store(array, at(slice, i), sum);
    b.barrier();
    lowering.if(b.compare('eq', slice.emit(b), b.constant(0)), () => {
      const others = range(slices - 1).map((s) => Affine.constant(s + 1));
      body(own.map((sum, i) => others.reduce((now, other) => b.add(now, b.load(array, at(other, i))), sum)));
    });
  }

  #sums(batch: Affine, tileM: Affine, line: Affine, first: Affine, classAt: number, slice: Affine): readonly KValue[] {
    const { accumulator, k } = this.#contraction;
    const { rows, columns } = this.#tile;
    const { b } = this.#lowering;
    const zero = b.constant(accumulator === 'i64' || accumulator === 'u64' ? 0n : 0, accumulator);
    const zeros = range(rows * columns).map(() => zero);
    if (k === 0) return zeros;
    const source = this.#source;
    switch (source.kind) {
      case 'planes':
        return this.#planes(source.geometry, source.copy, batch, tileM, line, first, classAt, zeros);
      case 'rows':
      case 'constant': {
        const { pitch } = source.kind === 'rows' ? source.copy : source;
        return this.#overK(
          [k],
          zeros,
          (step, count) => this.#copiedRows(pitch, batch, first, step, count),
          batch,
          tileM,
          slice,
        );
      }
      case 'operand': {
        const { rhs, n } = this.#contraction;
        const extents = source.reading === 'element' ? this.#contraction.extents : [k];
        const columnsAt = (step: Affine, count: number) =>
          this.#read(rhs, source.reading, batch, first, n, columns, step, count);
        return this.#overK(extents, zeros, columnsAt, batch, tileM, slice);
      }
      default:
        return source satisfies never;
    }
  }

  /** Several steps of k, sum by sum: each is fetched and put back once, where there are more of them than registers. */
  #multiply(
    factors: readonly (readonly KValue[])[],
    values: readonly (readonly KValue[])[],
    carried: readonly KValue[],
  ): readonly KValue[] {
    const { columns } = this.#tile;
    const { words } = this.#contraction;
    return carried.map((sum, i) =>
      factors.reduce(
        (now, row, u) => multiplyAdd(this.#lowering, row[Math.floor(i / columns)], values[u][i % columns], now, words),
        sum,
      ),
    );
  }

  /** Loops over k, four steps at a time where they can be read together. */
  #overK(
    extents: readonly number[],
    initial: readonly KValue[],
    columnsAt: (step: Affine, count: number) => KValue[][],
    batch: Affine,
    tileM: Affine,
    slice: Affine,
  ): readonly KValue[] {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { slices } = this.#tile;
    const nest = (d: number, at: readonly Affine[], carried: readonly KValue[]): readonly KValue[] => {
      if (d < extents.length - 1)
        return lowering.for(0, extents[d], 1, carried, (i, inner) => nest(d + 1, [...at, i], inner));
      const extent = extents[d];
      const steps = (from: Affine, count: number, sums: readonly KValue[]): readonly KValue[] => {
        const step = linearize([...at, from], extents);
        const factors = this.#factors(batch, tileM, step, count);
        const values = columnsAt(step, count);
        return this.#multiply(factors, values, sums);
      };
      const whole = Math.floor(extent / vector);
      const start = slices > 1 ? slice.emit(b) : 0;
      const sums = lowering.for(start, whole, slices, carried, (i, inner) => steps(i.scale(vector), vector, inner));
      if (extent % vector === 0) return sums;
      const rest = () => steps(Affine.constant(whole * vector), extent % vector, sums);
      if (slices === 1) return rest();
      return lowering.if(b.compare('eq', slice.emit(b), b.constant(0)), rest, () => sums);
    };
    return nest(0, [], initial);
  }

  /** `count` steps of k from `step`: [count][rows] factors of the lhs. */
  #factors(batch: Affine, tileM: Affine, step: Affine, count: number): KValue[][] {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { lhs, m, k, lhsBatch } = this.#contraction;
    const { rows } = this.#tile;
    const steps = (element: (u: number, r: number) => KValue): KValue[][] =>
      range(count).map((u) => range(rows).map((r) => element(u, r)));
    if (this.#packed) {
      const buffer = lowering.buffer(lhs.value);
      if (!buffer) throw new Error('the packed lhs is not bound');
      const from = lhsBatch(batch)
        .scale(Math.ceil(m / rows))
        .add(tileM)
        .scale(k)
        .add(step)
        .scale(rows);
      const fits = (width: number) => (count * rows) % width === 0 && from.divisor() % width === 0;
      const width = ([4, 2, 1] as const).find(fits) as Lanes;
      const pieces = this.#pieces((count * rows) / width, width, (piece) =>
        b.load(buffer, from.add(piece.scale(width)).emit(b), width, true),
      );
      return steps((u, r) => pieces(Math.floor((u * rows + r) / width), (u * rows + r) % width));
    }
    const first = tileM.scale(rows);
    if (this.#lhsReading === 'along-k' && count === vector) {
      const pieces = this.#pieces(rows, vector, (r) => {
        const row = limited(this.#lowering, first.add(r), m - 1);
        return operandVector(lowering, lhs, batch, row, step.add(Affine.lane(vector)));
      });
      return steps((u, r) => pieces(r, u));
    }
    if (this.#lhsReading === 'along-row' && rows % vector === 0) {
      const across = rows / vector;
      const pieces = this.#pieces(count * across, vector, (piece) => {
        const [u, i] = delinearize(piece, [count, across]);
        const row = limited(this.#lowering, first.div(vector).add(i), m / vector - 1).scale(vector);
        return operandVector(lowering, lhs, batch, row.add(Affine.lane(vector)), step.add(u));
      });
      return steps((u, r) => pieces(u * across + Math.floor(r / vector), r % vector));
    }
    const pieces = this.#pieces(count * rows, 1, (piece) => {
      const [u, r] = delinearize(piece, [count, rows]);
      return lhs.element(lowering, batch, limited(this.#lowering, first.add(r), m - 1), step.add(u), 1);
    });
    return steps((u, r) => pieces(u * rows + r, 0));
  }

  #pieces(count: number, lanes: Lanes, load: (piece: Affine) => KValue): (piece: number, lane: number) => KValue {
    return sharedPieces(this.#lowering, this.#sharing, count, lanes, load);
  }

  /** [count][extent] elements of an operand from `first` row and `step` of k; rows beyond the end repeat others. */
  #read(
    operand: Operand,
    reading: Reading,
    batch: Affine,
    first: Affine,
    total: number,
    extent: number,
    step: Affine,
    count: number,
  ): KValue[][] {
    const lowering = this.#lowering;
    const { b } = lowering;
    const lanes = (value: KValue) => range(vector).map((lane) => b.extract(value, lane));
    if (reading === 'along-k' && count === vector) {
      const byRow = range(extent).map((r) =>
        lanes(
          operandVector(
            lowering,
            operand,
            batch,
            limited(this.#lowering, first.add(r), total - 1),
            step.add(Affine.lane(vector)),
          ),
        ),
      );
      return range(count).map((u) => byRow.map((row) => row[u]));
    }
    if (reading === 'along-row' && extent % vector === 0) {
      const firsts = range(extent / vector).map((i) =>
        limited(this.#lowering, first.add(i * vector).div(vector), total / vector - 1).scale(vector),
      );
      return range(count).map((u) =>
        firsts.flatMap((at) =>
          lanes(operandVector(lowering, operand, batch, at.add(Affine.lane(vector)), step.add(u))),
        ),
      );
    }
    const places = range(extent).map((r) => limited(this.#lowering, first.add(r), total - 1));
    return range(count).map((u) => places.map((at) => operand.element(lowering, batch, at, step.add(u), 1)));
  }

  #copiedRows(pitch: number, batch: Affine, first: Affine, step: Affine, count: number): KValue[][] {
    const { b } = this.#lowering;
    const { k, rhsBatch } = this.#contraction;
    const last = pitch / vector - 1;
    const columns = range(this.#tile.columns / vector).map((i) =>
      limited(this.#lowering, first.add(i * vector).div(vector), last).scale(vector),
    );
    return range(count).map((u) =>
      columns.flatMap((column) => {
        const loaded = b.load(
          this.#copied as KBuffer,
          rhsBatch(batch).scale(k).add(step).add(u).scale(pitch).add(column).emit(b),
          vector,
          true,
        );
        return range(vector).map((lane) => b.extract(loaded, lane));
      }),
    );
  }

  /** Sums over channels and taps; a row of the kernel shares its aligned loads. */
  #planes(
    { h, w }: Geometry,
    copy: PlanesCopy,
    batch: Affine,
    tileM: Affine,
    line: Affine,
    first: Affine,
    classAt: number,
    zeros: readonly KValue[],
  ): readonly KValue[] {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { k } = this.#contraction;
    const { columns } = this.#tile;
    const [tapsH, tapsW] = [h.classes[Math.floor(classAt / w.inputDilation)], w.classes[classAt % w.inputDilation]];
    const channels = k / (h.kernel * w.kernel);
    const groups = this.#contraction.lhsBatches;
    const [image, groupAt] = delinearize(batch, [this.#contraction.batch / groups, groups]);
    const { rows, pitch, phasesH, phasesW } = copy;
    const rowOf = (
      channel: Affine,
      at: { k: Affine; phase: number; shift: Affine },
      carried: readonly KValue[],
    ): readonly KValue[] => {
      const plane = linearize(
        [image, groupAt.scale(channels).add(channel), Affine.constant(phasesH.indexOf(at.phase))],
        [this.#contraction.batch / groups, groups * channels, phasesH.length],
      ).scale(phasesW.length);
      const element = ({ phase, shift }: Tap, column: number, moved: Affine): KValue => {
        const offset = shift - w.minShift + column;
        const aligned = Math.floor(offset / vector) * vector;
        const row = plane.add(phasesW.indexOf(phase)).scale(rows).add(line).add(at.shift.sub(h.minShift));
        const from = row.scale(pitch).add(first).add(aligned).add(moved);
        return b.extract(b.load(this.#copied as KBuffer, from.emit(b), vector, true), offset - aligned);
      };
      const row = channel.scale(h.kernel).add(at.k).scale(w.kernel);
      const columnsOf = (tap: Tap, moved: Affine) => range(columns).map((column) => element(tap, column, moved));
      const zero = Affine.constant(0);
      if (tapsW.length <= unrolledTaps) {
        const isWhole = tapsW.length === w.kernel;
        const all = isWhole ? this.#factors(batch, tileM, row, w.kernel) : [];
        const factors = tapsW.map((tap) => all[tap.k] ?? this.#factors(batch, tileM, row.add(tap.k), 1)[0]);
        return this.#multiply(
          factors,
          tapsW.map((tap) => columnsOf(tap, zero)),
          carried,
        );
      }
      /** One tap, `moved` columns (a multiple of the vector) and `further` steps of k on. */
      const multiplyTap = (now: readonly KValue[], tap: Tap, moved: Affine, further: Affine): readonly KValue[] =>
        this.#multiply(this.#factors(batch, tileM, row.add(tap.k).add(further), 1), [columnsOf(tap, moved)], now);
      // Long kernels loop, a vector of taps at a time so that loads stay aligned.
      return progressions(tapsW).reduce((sums, [start, count, stepK, stepShift]) => {
        const tap = (i: number): Tap => ({ ...start, k: start.k + i * stepK, shift: start.shift + i * stepShift });
        const whole = stepShift === 1 ? Math.floor(count / vector) : 0;
        const looped = lowering.for(0, whole, 1, sums, (i, inner) =>
          range(vector).reduce((now, j) => multiplyTap(now, tap(j), i.scale(vector), i.scale(vector * stepK)), inner),
        );
        return range(count - whole * vector).reduce(
          (now, j) => multiplyTap(now, tap(whole * vector + j), zero, zero),
          looped,
        );
      }, carried);
    };
    return lowering.for(0, channels, 1, zeros, (channel, carried) =>
      progressions(tapsH).reduce(
        (now, [{ k: k0, phase, shift }, count, stepK, stepShift]) =>
          lowering.for(0, count, 1, now, (i, inner) =>
            rowOf(channel, { k: i.scale(stepK).add(k0), phase, shift: i.scale(stepShift).add(shift) }, inner),
          ),
        carried,
      ),
    );
  }

  // --- results -----------------------------------------------------------------------------------------------------

  /** Epilogue and stores of a tile. */
  #finish(batch: Affine, tileM: Affine, line: Affine, first: Affine, classAt: number, sums: readonly KValue[]): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { m, accumulator } = this.#contraction;
    const { rows, columns } = this.#tile;
    const source = this.#source;
    const { h, w }: { h?: Dim; w?: Dim } = source.kind === 'planes' ? source.geometry : {};
    const [classH, classW] = w ? [Math.floor(classAt / w.inputDilation), classAt % w.inputDilation] : [0, 0];
    const extentOf = (dim: Dim, residue: number) => Math.max(0, Math.ceil((dim.output - residue) / dim.inputDilation));
    const [height, width] = h && w ? [extentOf(h, classH), extentOf(w, classW)] : [1, this.#space.width];
    if (height === 0 || width === 0) return;
    const lanes: Lanes = width % vector === 0 && (w?.inputDilation ?? 1) === 1 ? vector : 1;
    const place = (lineAt: Affine, column: Affine): Affine => {
      const across = column.scale(lanes).add(Affine.lane(lanes));
      return h && w
        ? lineAt.scale(h.inputDilation).add(classH).scale(w.output).add(across.scale(w.inputDilation)).add(classW)
        : across;
    };
    const store = (r: Affine, c: Affine, sum: () => KValue): void =>
      lowering.guarded(tileM.scale(rows).add(r), m, (row) =>
        lowering.guarded(first.div(lanes).add(c), width / lanes, (column) =>
          lowering.guarded(line, height, (lineAt) => {
            const at = { batch, m: row, n: place(lineAt, column) };
            finish(lowering, this.#group, this.#contraction, at, this.#shares.added(at, sum(), lanes), lanes);
          }),
        ),
      );
    const [downs, rights] = [rows, columns / lanes];
    const own = this.#group.nodes.length - 1;
    if (downs * rights * (own + 1) <= (this.#isSoftware ? softwareUnrolledStores : unrolledStores)) {
      for (const r of range(downs)) {
        for (const c of range(rights)) {
          store(Affine.constant(r), Affine.constant(c), () =>
            b.build(range(lanes).map((lane) => sums[r * columns + c * lanes + lane])),
          );
        }
      }
      return;
    }
    // Through an array, so that the code of the epilogue is there once.
    const array = b.array(`tile${classAt}`, 'private', accumulator, rows * columns);
    for (const i of range((rows * columns) / vector))
      b.store(array, b.constant(i * vector), b.build(sums.slice(i * vector, (i + 1) * vector)), true);
    lowering.for(0, downs, 1, [], (r) =>
      lowering.for(0, rights, 1, [], (c) =>
        store(r, c, () => b.load(array, r.scale(columns).add(c.scale(lanes)).emit(b), lanes, true)),
      ),
    );
  }
}

/** A vector of an operand, where the lane is in `row` or in `k`. */
const operandVector = (lowering: Lowering, operand: Operand, batch: Affine, row: Affine, k: Affine): KValue =>
  lowering.widen(operand.element(lowering, batch, row, k, vector), vector);

/** Nodes of epilogues that may be written out for every vector of a tile. */
export const unrolledStores = 64;
/** lavapipe unrolls loops over arrays by itself, and then takes longer. */
const softwareUnrolledStores = 256;

/** Epilogue and store of one finished vector of sums. */
export function finish(
  lowering: Lowering,
  group: Group,
  contraction: Contraction,
  place: { batch: Affine; m: Affine; n: Affine },
  sum: KValue,
  lanes: Lanes,
): void {
  const [result] = contraction.node.outputs;
  const [output] = group.writes;
  lowering.define(result, () => sum);
  const index = resultIndex(group, contraction.result(place));
  lowering.store(output, index, lowering.value(output, index, lanes), lanes);
}
