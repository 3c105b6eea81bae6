/**
 * Convolutions with few outputs a group (depthwise above all) on GPUs that run on a CPU: each invocation computes lines ×
 * columns of one plane of the output and reads every element of the input under them once, straight from the tensor.
 * Nothing is copied first; what lies outside is selected away, by whole aligned vectors where rows consist of such.
 */
import type { Target } from '../../kernel/target.js';
import type { KValue, Lanes } from '../../kernel/types.js';
import { Affine, delinearize } from '../affine.js';
import type { Group } from '../group.js';
import type { LoweredKernel } from '../lowered.js';
import { Lowering } from '../lowering.js';
import { range, scalarOf } from '../tensors.js';
import { type Contraction, multiplyAdd } from './contraction.js';
import { trimmed } from './copy.js';
import { finish } from './finish.js';
import { type Dim, type Geometry, geometryOf } from './geometry.js';
import { packedLhs } from './packing.js';
import { limited, sharedPieces, sharingOf } from './sharing.js';
import { vector } from './tiling.js';

export interface WindowsPlan {
  readonly contraction: Contraction;
  readonly geometry: Geometry;
  readonly lines: number;
  readonly columns: number;
  /** Invocations of a workgroup on tiles of one plane, and on planes. */
  readonly along: number;
  readonly across: number;
  /** Multiply-add slots used per useful multiply-add. */
  readonly cost: number;
}

/** Outputs of a group that an invocation keeps at once, all of them: beyond, columns are worth a copy. */
const mostRows = 4;
/** Multiply-adds of a tile that may be written out. */
const mostCode = 320;
/** Invocations of a workgroup: a subgroup of the widest such device. */
const workgroup = 8;
/** In multiply-adds, as measured on lavapipe: a vector loaded or stored, a single element. */
const costs = { vector: 40, element: 18 };

/** Positions in the input that tap `k` of output 0 reads, by k. */
const offsetsOf = ({ classes: [taps], stride }: Dim): readonly number[] =>
  taps.map(({ shift, phase }) => shift * stride + phase);

/** Elements of the input under `count` consecutive outputs: first and last position, relative to the first output's. */
function extentOf(dim: Dim, count: number): { readonly first: number; readonly last: number } {
  const offsets = offsetsOf(dim);
  return { first: Math.min(...offsets), last: Math.max(...offsets) + (count - 1) * dim.stride };
}

/** Whether rows of the input are read in aligned vectors. */
const readsVectors = ({ w }: Geometry, columns: number): boolean =>
  w.input % vector === 0 && (columns * w.stride) % vector === 0;

/** Vectors or elements of one row of the input that a tile reads, as positions relative to its first column's. */
function piecesOf(geometry: Geometry, columns: number): readonly number[] {
  const { first, last } = extentOf(geometry.w, columns);
  if (!readsVectors(geometry, columns)) return range(last - first + 1).map((i) => first + i);
  const start = Math.floor(first / vector);
  return range(Math.floor(last / vector) - start + 1).map((i) => (start + i) * vector);
}

/** The form, or undefined where it does not suit. */
export function planWindows(group: Group, target: Target, contraction: Contraction): WindowsPlan | undefined {
  const { batch, m, k, rhs, accumulator } = contraction;
  const geometry = geometryOf(group);
  if (target.style !== 'software-gpu' || !geometry || m > mostRows || !group.reads.includes(rhs.value))
    return undefined;
  const { h, w } = geometry;
  if (h.inputDilation * w.inputDilation > 1) return undefined;
  const channels = k / (h.kernel * w.kernel);
  const outputs = batch * h.output * w.output;
  let best: WindowsPlan | undefined;
  for (const lines of [1, 2, 3, 4, 7, 8]) {
    for (const columns of [4, 7, 8, 14, 16]) {
      const work = m * lines * columns * h.kernel * w.kernel;
      if (work > mostCode || (lines > h.output && lines > 1)) continue;
      const pieces = piecesOf(geometry, columns).length;
      const vectors = readsVectors(geometry, columns);
      const { first, last } = extentOf(h, lines);
      const tiles = Math.ceil(h.output / lines) * Math.ceil(w.output / columns);
      let along = Math.min(workgroup, target.limits.workgroupInvocations);
      while (along > 1 && along / 2 >= tiles) along /= 2;
      const sharing = sharingOf(target, along, accumulator);
      const loads = (last - first + 1) * pieces * (vectors ? costs.vector : costs.element);
      const factors = Math.ceil((m * h.kernel * w.kernel) / sharing) * costs.element;
      const stores = m * lines * columns * (w.output % vector === 0 ? costs.vector / vector : costs.element);
      const invocations = batch * Math.ceil(tiles / along) * along;
      const idle = Math.max(1, (target.parallelism * 16) / invocations);
      const slots = invocations * (channels * (loads + factors + work) + stores) * idle ** 0.5;
      const cost = slots / (outputs * m * k);
      if (!best || cost < best.cost)
        best = { contraction, geometry, lines, columns, along, across: workgroup / along, cost };
    }
  }
  return best;
}

export function lowerWindows(group: Group, target: Target, plan: WindowsPlan): LoweredKernel {
  return new Windows(group, target, plan).lower();
}

class Windows {
  readonly #group: Group;
  readonly #plan: WindowsPlan;
  readonly #lowering: Lowering;
  readonly #sharing: number;
  readonly #isPacked: boolean;

  constructor(group: Group, target: Target, plan: WindowsPlan) {
    const { contraction, along } = plan;
    this.#group = group;
    this.#plan = plan;
    this.#sharing = sharingOf(target, along, contraction.accumulator);
    const packed = packedLhs(group, contraction, contraction.m);
    this.#isPacked = packed !== undefined;
    this.#lowering = new Lowering(group, target, new Map(packed ? [[contraction.lhs.value.id, packed]] : []));
  }

  lower(): LoweredKernel {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { contraction, geometry, lines, columns, along, across } = this.#plan;
    const { h, w } = geometry;
    const shape = [Math.ceil(h.output / lines), Math.ceil(w.output / columns)];
    const tiles = shape[0] * shape[1];
    const [plane, own] = delinearize(Affine.of(b.builtin('local_id', 0, along * across), b), [across, along]);
    const counts = [Math.ceil(contraction.batch / across), Math.ceil(tiles / along)];
    const grid = lowering.workgroups(counts[0] * counts[1], (index) => {
      const [planes, group] = delinearize(index, counts);
      lowering.guarded(planes.scale(across).add(plane), contraction.batch, (batch) => {
        const tile = group.scale(along).add(own);
        const [line, column] = delinearize(limited(lowering, tile, tiles - 1), shape);
        const [top, left] = [line.scale(lines), column.scale(columns)];
        const sums = this.#sums(batch, top, left);
        // Invocations without a tile of their own read factors for the others.
        lowering.guarded(tile, tiles, () => this.#store(batch, top, left, sums));
      });
    });
    const sharing = this.#sharing > 1 ? this.#sharing : undefined;
    return trimmed(lowering.finish(grid, [along * across, 1, 1], sharing), lowering.bindings);
  }

  /** [m][lines][columns] */
  #sums(batch: Affine, top: Affine, left: Affine): readonly KValue[] {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { contraction, geometry, lines, columns } = this.#plan;
    const { m, k, accumulator } = contraction;
    const { h, w } = geometry;
    const channels = k / (h.kernel * w.kernel);
    const zero = b.zero(accumulator);
    const [offsetsH, offsetsW] = [offsetsOf(h), offsetsOf(w)];
    const { first, last } = extentOf(h, lines);
    const pieces = this.#pieces(left);
    return lowering.for(
      0,
      channels,
      1,
      range(m * lines * columns).map(() => zero),
      (channel, carried) => {
        const factors = this.#factors(batch, channel);
        const sums = [...carried];
        for (let at = first; at <= last; at++) {
          const taps = range(lines).flatMap((line) =>
            range(h.kernel).flatMap((r) => (line * h.stride + offsetsH[r] === at ? [{ line, r }] : [])),
          );
          if (taps.length === 0) continue;
          const row = this.#row(batch, channel, top.scale(h.stride).add(at), pieces);
          for (const { line, r } of taps) {
            for (const row0 of range(m)) {
              for (const column of range(columns)) {
                const sum = (row0 * lines + line) * columns + column;
                sums[sum] = range(w.kernel).reduce(
                  (now, s) =>
                    multiplyAdd(
                      lowering,
                      factors((r * w.kernel + s) * m + row0),
                      row(column * w.stride + offsetsW[s]),
                      now,
                    ),
                  sums[sum],
                );
              }
            }
          }
        }
        return sums;
      },
    );
  }

  /** Factors of a channel, [kernel h][kernel w][m]. */
  #factors(batch: Affine, channel: Affine): (at: number) => KValue {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { contraction, geometry } = this.#plan;
    const { lhs, lhsBatch, m, k } = contraction;
    const taps = geometry.h.kernel * geometry.w.kernel;
    const from = channel.scale(taps);
    const buffer = lowering.buffer(lhs.value);
    const read = (at: Affine): KValue => {
      if (this.#isPacked && buffer) {
        return b.load(buffer, lhsBatch(batch).scale(k).add(from).scale(m).add(at).emit(b));
      }
      const [tap, row] = delinearize(at, [taps, m]);
      return lhs.element(lowering, batch, row, from.add(tap), 1);
    };
    const piece = sharedPieces(lowering, this.#sharing, taps * m, 1, read);
    return (at) => piece(at, 0);
  }

  /** Where the pieces of a row lie, limited to the row, and which of them exist. */
  #pieces(left: Affine): readonly Piece[] {
    const { geometry, columns } = this.#plan;
    const { input, stride } = geometry.w;
    const width = readsVectors(geometry, columns) ? vector : 1;
    return piecesOf(geometry, columns).map((offset) => {
      const at = left.scale(stride).add(offset);
      const { index, exists } = this.#inside(at.div(width), input / width);
      return { offset, width, column: index.scale(width), exists };
    });
  }

  /** The elements of a row of the input that the tile reads, by position relative to its first column's. */
  #row(batch: Affine, channel: Affine, at: Affine, pieces: readonly Piece[]): (position: number) => KValue {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { contraction, geometry } = this.#plan;
    const { accumulator, rhs, lhsBatches: groups } = contraction;
    const channels = contraction.k / (geometry.h.kernel * geometry.w.kernel);
    const [image, group] = delinearize(batch, [contraction.batch / groups, groups]);
    const { index: line, exists } = this.#inside(at, geometry.h.input);
    const scalar = scalarOf(rhs.value);
    const outside = b.zero(scalar);
    const elements = new Map<number, KValue>();
    for (const piece of pieces) {
      const lanes = piece.width as Lanes;
      const index = geometry.spatial(line, piece.column.add(Affine.lane(lanes)));
      const value = lowering.value(rhs.value, [image, group.scale(channels).add(channel), ...index], lanes);
      const wide = lowering.widen(value, lanes);
      const valid = exists && piece.exists ? b.and(exists, piece.exists) : (exists ?? piece.exists);
      const masked = valid ? b.select(lowering.widen(valid, lanes), wide, lowering.widen(outside, lanes)) : wide;
      const converted = b.convert(masked, accumulator);
      for (const lane of range(lanes))
        elements.set(piece.offset + lane, lanes === 1 ? converted : b.extract(converted, lane));
    }
    return (position) => {
      const element = elements.get(position);
      if (!element) throw new Error(`no element ${position} under the tile`);
      return element;
    };
  }

  /** An index limited to [0, extent), and whether it lay there; undefined if it always does. */
  #inside(at: Affine, extent: number): { readonly index: Affine; readonly exists: KValue | undefined } {
    const { b } = this.#lowering;
    const [below, above] = [at.range.min < 0, at.range.max >= extent];
    if (!below && !above) return { index: at, exists: undefined };
    const value = at.emit(b);
    const notBelow = below ? b.compare('ge', value, b.constant(0)) : undefined;
    const notAbove = above ? b.compare('lt', value, b.constant(extent)) : undefined;
    const exists = notBelow && notAbove ? b.and(notBelow, notAbove) : (notBelow ?? notAbove);
    return { index: Affine.of(b.clamp(value, 0, extent - 1), b), exists };
  }

  #store(batch: Affine, top: Affine, left: Affine, sums: readonly KValue[]): void {
    const lowering = this.#lowering;
    const { b } = lowering;
    const { contraction, geometry, lines, columns } = this.#plan;
    const [height, width] = [geometry.h.output, geometry.w.output];
    const lanes: Lanes = width % vector === 0 && columns % vector === 0 ? vector : 1;
    for (const row of range(contraction.m)) {
      for (const line of range(lines)) {
        lowering.guarded(top.add(line), height, (y) => {
          for (const piece of range(columns / lanes)) {
            lowering.guarded(left.div(lanes).add(piece), width / lanes, (x) => {
              const n = y.scale(width).add(x.scale(lanes)).add(Affine.lane(lanes));
              const from = (row * lines + line) * columns + piece * lanes;
              const sum = b.build(sums.slice(from, from + lanes));
              finish(lowering, this.#group, contraction, { batch, m: Affine.constant(row), n }, sum, lanes);
            });
          }
        });
      }
    }
  }
}

/** Vectors or elements of a row of the input. */
interface Piece {
  /** Relative to the first column's. */
  readonly offset: number;
  readonly width: number;
  readonly column: Affine;
  readonly exists: KValue | undefined;
}
