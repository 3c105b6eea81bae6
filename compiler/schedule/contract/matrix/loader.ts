/**
 * One side of a product on its way to shared memory, a stage at a time: asynchronous copies where its memory is regular
 * and aligned, else through registers, where index maps, casts and padding happen.
 *
 * In shared memory, lines are padded by 16 bytes, so that the eight rows of a fragment lie in different banks.
 */
import type { KArray, KBuffer, KValue, Lanes } from '../../../kernel/types.js';
import { Affine, delinearize } from '../../affine.js';
import type { Lowering } from '../../lowering.js';
import { range } from '../../tensors.js';
import type { StoredPlace } from '../contraction.js';
import { vector } from '../tiling.js';
import { type Along, bytesOf, type MatrixBlock, slotOf } from './blocks.js';
import { addressIn, type Memory } from './memory.js';
import type { Side } from './operands.js';

/** How a side's elements get to shared memory. */
export type Route =
  | { readonly kind: 'copy'; readonly along: Along; readonly elements: number; readonly memory: Memory }
  /** Vectors of `lanes` elements along `along`. */
  | { readonly kind: 'vectors'; readonly along: Along; readonly lanes: Lanes }
  /** Vectors along the rows, turned into vectors along k. */
  | { readonly kind: 'turned' };

export const alongOf = (route: Route): Along => (route.kind === 'turned' ? 'k' : route.along);

/** The best route for a side. */
export function routeOf(side: Side, k: number, asynchronous: boolean): Route {
  const { memory, rows } = side;
  const bytes = bytesOf(side);
  if (!memory) return bytes === 1 ? { kind: 'turned' } : { kind: 'vectors', along: 'row', lanes: vector };
  const { offset, parts, rowStride, kStride } = memory;
  const along: Along = kStride === 1 || rowStride !== 1 ? 'k' : 'row';
  const next = along === 'k' ? kStride : rowStride;
  const others = along === 'k' ? [rowStride, k] : [kStride, rows];
  const all = [offset, ...parts.map(({ stride }) => stride), ...others];
  const aligned = (elements: number): boolean => next === 1 && all.every((value) => value % elements === 0);
  const copied = [16, 8, 4].map((size) => size / bytes).find((elements) => elements >= 1 && aligned(elements));
  if (asynchronous && copied !== undefined && (along === 'k' || bytes > 1)) {
    // Rows of length 1 have no stride to go by, but are aligned all the same.
    return { kind: 'copy', along, elements: copied, memory };
  }
  if (along === 'row' && bytes === 1) return { kind: 'turned' };
  return { kind: 'vectors', along, lanes: aligned(vector) ? vector : 1 };
}

/** What a workgroup stages of one side: its rows from `first` on, of one batch. */
export interface Staged {
  readonly batch: Affine;
  readonly first: Affine;
}

export interface LoaderOptions {
  readonly lowering: Lowering;
  readonly side: Side;
  readonly route: Route;
  readonly array: KArray;
  /** The buffer of a side that is copied or read from a copy. */
  readonly buffer?: KBuffer;
  readonly block: MatrixBlock;
  /** Rows that the workgroup takes. */
  readonly extent: number;
  readonly k: number;
  /** Number of the invocation, below `invocations`. */
  readonly local: Affine;
  readonly invocations: number;
}

export class Loader {
  readonly #o: LoaderOptions;
  readonly #slot: { readonly size: number; readonly pitch: number };

  constructor(options: LoaderOptions) {
    this.#o = options;
    this.#slot = slotOf(options.side, alongOf(options.route), options.extent, options.block.blockK);
  }

  /** Element of the stage in shared memory. */
  at(slot: Affine, row: Affine, k: Affine): Affine {
    const { size, pitch } = this.#slot;
    const [line, column] = alongOf(this.#o.route) === 'k' ? [row, k] : [k, row];
    return slot.scale(size).add(line.scale(pitch)).add(column);
  }

  get array(): KArray {
    return this.#o.array;
  }

  get pitch(): number {
    return this.#slot.pitch;
  }

  get isAsynchronous(): boolean {
    return this.#o.route.kind === 'copy';
  }

  /** Begins the copies of a stage. */
  copy(staged: Staged, stage: Affine, slot: Affine): void {
    const { route, lowering, side, array, buffer, extent, block } = this.#o;
    if (route.kind !== 'copy' || !buffer) throw new Error('this side is not copied');
    const { b } = lowering;
    const { elements, along, memory } = route;
    const shape = along === 'k' ? [extent, block.blockK / elements] : [block.blockK, extent / elements];
    this.#deal(shape[0] * shape[1], (piece, guard) => {
      const [line, group] = delinearize(piece, shape);
      const within = group.scale(elements);
      const [row, step] = along === 'k' ? [line, within] : [within, line];
      const place = this.#place(staged, stage, row, step, along, elements);
      const from = addressIn(memory, { ...place, batch: side.batchOf(place.batch) });
      const copy = {
        op: 'async_copy',
        memory: array,
        index: this.at(slot, row, step).emit(b),
        source: buffer,
        from: from.emit(b),
        elements,
        ...(place.exists ? { condition: place.exists } : {}),
      } as const;
      guard(() => b.engine(copy));
    });
  }

  /** Elements of a stage, in registers. */
  load(staged: Staged, stage: Affine): KValue[] {
    const { route, lowering } = this.#o;
    const { b } = lowering;
    switch (route.kind) {
      case 'copy':
        throw new Error('this side is copied');
      case 'vectors': {
        const { along, lanes } = route;
        return this.#pieces(along, lanes, (row, step) => {
          const place = this.#place(staged, stage, row, step, along, this.#whole(along, lanes) ? lanes : 1);
          return [this.#vector(place, along, lanes)];
        });
      }
      case 'turned':
        return this.#turned((row, step) => {
          const lines = range(vector).map((i) => {
            const place = this.#place(staged, stage, row, step.add(i), 'row', this.#whole('row', vector) ? vector : 1);
            return this.#vector(place, 'row', vector);
          });
          return range(vector).map((lane) => b.build(lines.map((line) => b.extract(line, lane))));
        });
      default:
        return route satisfies never;
    }
  }

  /** Puts what `load` gave down. */
  store(values: readonly KValue[], slot: Affine): void {
    const { route, array, lowering } = this.#o;
    const { b } = lowering;
    let next = 0;
    const put = (row: Affine, step: Affine, guard: (then: () => void) => void, count: number): void => {
      const own = values.slice(next, (next += count));
      guard(() => {
        own.forEach((value, i) => {
          const index = this.at(slot, count > 1 ? row.add(i) : row, step).emit(b);
          b.store(array, index, value, value.type.lanes > 1);
        });
      });
    };
    if (route.kind === 'turned')
      this.#turned((row, step, guard) => {
        put(row, step, guard, vector);
        return [];
      });
    else if (route.kind === 'vectors')
      this.#pieces(route.along, route.lanes, (row, step, guard) => {
        put(row, step, guard, 1);
        return [];
      });
  }

  // --- Pieces ---

  #pieces<T>(
    along: Along,
    lanes: number,
    body: (row: Affine, step: Affine, guard: (then: () => void) => void) => T[],
  ): T[] {
    const { extent, block } = this.#o;
    // Neighbouring invocations take neighbouring memory.
    const shape = along === 'k' ? [extent, block.blockK / lanes] : [block.blockK, extent / lanes];
    return this.#deal(shape[0] * shape[1], (piece, guard) => {
      const [line, group] = delinearize(piece, shape);
      const within = group.scale(lanes);
      return along === 'k' ? body(line, within, guard) : body(within, line, guard);
    }).flat();
  }

  #turned<T>(body: (row: Affine, step: Affine, guard: (then: () => void) => void) => T[]): T[] {
    const { extent, block } = this.#o;
    const shape = [block.blockK / vector, extent / vector];
    return this.#deal(shape[0] * shape[1], (piece, guard) => {
      const [step, row] = delinearize(piece, shape);
      return body(row.scale(vector), step.scale(vector), guard);
    }).flat();
  }

  /** `count` pieces dealt out to the invocations; `guard` runs its argument only for pieces that exist. */
  #deal<T>(count: number, body: (piece: Affine, guard: (then: () => void) => void) => T): T[] {
    const { local, invocations, lowering } = this.#o;
    const { b } = lowering;
    return range(Math.ceil(count / invocations)).map((i) => {
      const piece = local.add(i * invocations);
      if (piece.range.max < count) return body(piece, (then) => then());
      const value = piece.emit(b);
      const guard = (then: () => void) => void lowering.if(b.compare('lt', value, b.constant(count)), then);
      return body(Affine.of(b.min(value, b.constant(count - 1)), b), guard);
    });
  }

  // --- Elements ---

  /** Whether vectors along the axis are whole: either all of their elements exist or none. */
  #whole(along: Along, lanes: number): boolean {
    const { side, k } = this.#o;
    return (along === 'k' ? k : side.rows) % lanes === 0;
  }

  /** Where a piece lies in the operand, limited to what exists, and whether all of its k exist (else it is zero). */
  #place(
    { batch, first }: Staged,
    stage: Affine,
    row: Affine,
    step: Affine,
    along: Along,
    lanes: number,
  ): StoredPlace & { readonly exists: KValue | undefined } {
    const { lowering, side, k, block } = this.#o;
    const { b } = lowering;
    const limited = (at: Affine, total: number, width: number): Affine => {
      if (at.range.max + width <= total) return at;
      const last = b.constant(Math.floor(total / width) - 1);
      return Affine.of(b.min(at.div(width).emit(b), last), b).scale(width);
    };
    const at = stage.scale(block.blockK).add(step);
    const [rowWidth, stepWidth] = along === 'k' ? [1, lanes] : [lanes, 1];
    const exists = at.range.max + stepWidth <= k ? undefined : b.compare('le', at.emit(b), b.constant(k - stepWidth));
    return { batch, row: limited(first.add(row), side.rows, rowWidth), k: limited(at, k, stepWidth), exists };
  }

  /** `lanes` elements from a place on, zero where k does not exist. */
  #vector(place: StoredPlace & { readonly exists: KValue | undefined }, along: Along, lanes: Lanes): KValue {
    const { lowering, side, k } = this.#o;
    const { b } = lowering;
    const zero = (width: Lanes): KValue => b.constant(0, side.scalar, width);
    if (lanes === 1 || this.#whole(along, lanes)) {
      const lane = Affine.lane(lanes);
      const shifted = along === 'k' ? { ...place, k: place.k.add(lane) } : { ...place, row: place.row.add(lane) };
      const value = lowering.widen(this.#stored(shifted, lanes), lanes);
      return place.exists ? b.select(lowering.widen(place.exists, lanes), value, zero(lanes)) : value;
    }
    const [from, total] = along === 'k' ? [place.k, k] : [place.row, side.rows];
    const elements = range(lanes).map((lane) => {
      const at = from.add(lane);
      const inside = at.range.max < total ? at : Affine.of(b.min(at.emit(b), b.constant(total - 1)), b);
      const value = this.#stored(along === 'k' ? { ...place, k: inside } : { ...place, row: inside }, 1);
      const reached = along === 'k' && at !== inside ? b.compare('lt', at.emit(b), b.constant(total)) : undefined;
      const exists = place.exists && reached ? b.and(place.exists, reached) : (place.exists ?? reached);
      return exists ? b.select(exists, value, zero(1)) : value;
    });
    return b.build(elements);
  }

  #stored(place: StoredPlace, lanes: Lanes): KValue {
    const { lowering, side, buffer } = this.#o;
    const { b } = lowering;
    if (buffer && side.memory?.binding.kind === 'derived') {
      const at = addressIn(side.memory, { ...place, batch: side.batchOf(place.batch) });
      const base = at.atLane(0);
      return b.load(buffer, base.emit(b), lanes, lanes > 1 && base.divisor() % lanes === 0);
    }
    const padding = side.narrow ? b.constant(side.narrow.zero, side.narrow.scalar) : undefined;
    return side.operand.stored(lowering, place, lanes, padding);
  }
}
