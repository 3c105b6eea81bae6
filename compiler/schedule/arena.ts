/**
 * Places tensors with known lifetimes in as little memory as it can: offline dynamic storage allocation.
 *
 * The problem is NP-hard (Garey & Johnson SR2); greedy best fit over a good order comes close to the lower bound, the
 * largest sum of bytes alive at one step. Several orders are tried and the smallest result is kept; while that is far
 * from the bound, in each of them the tensor that sticks out highest is moved to the front and all are placed again.
 */
import { TuttiError } from '../error.js';

export interface ArenaTensor {
  readonly bytes: number;
  /** Steps in which the memory must hold the tensor, both inclusive: the one that writes it … the last that reads it. */
  readonly first: number;
  readonly last: number;
}

export interface ArenaOffset {
  readonly pool: number;
  readonly offset: number;
}

export interface ArenaPlan {
  /** One entry a tensor, in order. Tensors without bytes lie at 0. */
  readonly offsets: readonly ArenaOffset[];
  /** Bytes of each pool, padded to a multiple of 16. Empty if no tensor has bytes. */
  readonly pools: readonly number[];
  /** Largest sum of (padded) bytes alive at one step: no arena can be smaller. */
  readonly lowerBound: number;
}

interface Item extends ArenaTensor {
  readonly index: number;
  /** `bytes` padded to the alignment, so that every range ends where the next may begin. */
  readonly size: number;
}

interface Placed {
  readonly item: Item;
  readonly offset: number;
}

interface Attempt {
  readonly pools: readonly (readonly Placed[])[];
  readonly bytes: number;
}

/** Beyond this many tensors one order must do. */
const manyTensors = 4000;
const improvementRounds = 24;
const goodEnough = 1.02;

/**
 * @param alignment Bytes that every offset is a multiple of.
 * @param maxPoolBytes Largest buffer of the device; more memory goes to further pools.
 * @throws TuttiError E_OUT_OF_MEMORY if one tensor alone is larger than a pool may be.
 */
export function planArena(tensors: readonly ArenaTensor[], alignment: number, maxPoolBytes: number): ArenaPlan {
  const items = tensors.flatMap((tensor, index): Item[] => {
    if (tensor.bytes === 0) return [];
    if (tensor.last < tensor.first) throw new Error(`tensor ${index} dies at ${tensor.last} before ${tensor.first}`);
    if (tensor.bytes > maxPoolBytes) {
      throw new TuttiError('E_OUT_OF_MEMORY', 'a tensor is larger than the largest buffer of the device', {
        expected: `at most ${maxPoolBytes} bytes`,
        found: `${tensor.bytes} bytes`,
        remedy: 'Use smaller shapes or another device.',
      });
    }
    return [{ ...tensor, index, size: alignUp(tensor.bytes, alignment) }];
  });
  const lowerBound = largestLiveBytes(items);
  const best = items.length === 0 ? { pools: [], bytes: 0 } : search(items, maxPoolBytes, lowerBound);
  const offsets = tensors.map((): ArenaOffset => ({ pool: 0, offset: 0 }));
  for (const [pool, placed] of best.pools.entries()) {
    for (const { item, offset } of placed) offsets[item.index] = { pool, offset };
  }
  return { offsets, pools: best.pools.map(poolBytes), lowerBound };
}

/** Largest sum of sizes alive at one step. */
function largestLiveBytes(items: readonly Item[]): number {
  const events = items.flatMap(({ size, first, last }) => [
    { step: first, change: size },
    { step: last + 1, change: -size },
  ]);
  events.sort((a, b) => a.step - b.step || a.change - b.change);
  let live = 0;
  let most = 0;
  for (const { change } of events) {
    live += change;
    most = Math.max(most, live);
  }
  return most;
}

/** Orders worth trying, by what they put first. */
const orders: readonly ((a: Item, b: Item) => number)[] = [
  // Large ones, which are the hardest to fit; of equal ones those that are alive longer.
  (a, b) => b.size - a.size || span(b) - span(a) || a.first - b.first,
  // In the order of execution: best for chains, whose tensors leave their place to the next.
  (a, b) => a.first - b.first || b.size - a.size,
  // Those that block most bytes × steps.
  (a, b) => b.size * span(b) - a.size * span(a) || a.first - b.first,
  // Long-lived ones at the bottom, so that they do not split the rest.
  (a, b) => span(b) - span(a) || b.size - a.size || a.first - b.first,
  // Backwards.
  (a, b) => b.last - a.last || b.size - a.size,
];
const span = ({ first, last }: Item): number => last - first + 1;

/** Every order is tried as it is, then with what sticks out highest first, again and again. */
function search(items: readonly Item[], maxPoolBytes: number, lowerBound: number): Attempt {
  const enough = lowerBound * goodEnough;
  const few = items.length <= manyTensors;
  const rounds = few ? Math.min(improvementRounds, Math.floor(manyTensors / (items.length + 1))) : 0;
  let best: Attempt = { pools: [], bytes: Number.POSITIVE_INFINITY };
  const starts = (few ? orders : orders.slice(0, 1)).map((compare) =>
    [...items].sort((a, b) => compare(a, b) || a.index - b.index),
  );
  const attempts = starts.map((order) => ({ order, latest: place(order, maxPoolBytes) }));
  for (const { latest } of attempts) if (latest.bytes < best.bytes) best = latest;
  // Side by side: an order that is bad as it is may soon be the best.
  for (let round = 0; round < rounds && best.bytes > enough; round++) {
    for (const attempt of attempts) {
      const highest = highestOf(attempt.latest);
      if (attempt.order[0] === highest) continue;
      attempt.order = [highest, ...attempt.order.filter((item) => item !== highest)];
      attempt.latest = place(attempt.order, maxPoolBytes);
      if (attempt.latest.bytes < best.bytes) best = attempt.latest;
      if (best.bytes <= enough) break;
    }
  }
  return best;
}

/** The tensor that ends last in the last pool: what the size of the arena hangs on. */
function highestOf({ pools }: Attempt): Item {
  const placed = pools[pools.length - 1];
  return placed.reduce((top, next) => (next.offset + next.item.size > top.offset + top.item.size ? next : top)).item;
}

function place(order: readonly Item[], maxPoolBytes: number): Attempt {
  const clock = clockOf(order);
  const pools: Pool[] = [];
  for (const item of order) {
    let offset: number | undefined;
    let pool = pools.find((candidate) => {
      offset = bestFit(candidate.neighbours(item), item, maxPoolBytes);
      return offset !== undefined;
    });
    if (pool === undefined) pools.push((pool = new Pool(clock)));
    pool.add({ item, offset: offset ?? 0 });
  }
  const placed = pools.map((pool) => pool.placed);
  return { pools: placed, bytes: placed.reduce((total, entries) => total + poolBytes(entries), 0) };
}

/** Cuts the steps into stretches, so that a tensor is only compared with those alive about the same time. */
interface Clock {
  readonly start: number;
  readonly stretch: number;
}

function clockOf(items: readonly Item[]): Clock {
  const start = items.reduce((least, { first }) => Math.min(least, first), Number.POSITIVE_INFINITY);
  const end = items.reduce((most, { last }) => Math.max(most, last), Number.NEGATIVE_INFINITY);
  return { start, stretch: Math.max(1, Math.ceil((end - start + 1) / 256)) };
}

class Pool {
  readonly placed: Placed[] = [];
  readonly #stretches = new Map<number, Placed[]>();
  readonly #clock: Clock;

  constructor(clock: Clock) {
    this.#clock = clock;
  }

  add(entry: Placed): void {
    this.placed.push(entry);
    for (let at = this.#index(entry.item.first); at <= this.#index(entry.item.last); at++) {
      const stretch = this.#stretches.get(at);
      if (stretch) stretch.push(entry);
      else this.#stretches.set(at, [entry]);
    }
  }

  /** What is alive together with the item, by offset. */
  neighbours({ first, last }: Item): readonly Placed[] {
    const found = new Set<Placed>();
    for (let at = this.#index(first); at <= this.#index(last); at++) {
      for (const entry of this.#stretches.get(at) ?? []) {
        if (entry.item.first <= last && first <= entry.item.last) found.add(entry);
      }
    }
    return [...found].sort((a, b) => a.offset - b.offset);
  }

  #index(step: number): number {
    return Math.floor((step - this.#clock.start) / this.#clock.stretch);
  }
}

/** Offset of the smallest gap between neighbours (by offset) that holds the item, or above all of them. */
function bestFit(neighbours: readonly Placed[], item: Item, maxPoolBytes: number): number | undefined {
  let end = 0;
  let best: number | undefined;
  let bestGap = Number.POSITIVE_INFINITY;
  for (const { item: other, offset } of neighbours) {
    const gap = offset - end;
    if (gap >= item.size && gap < bestGap) [best, bestGap] = [end, gap];
    end = Math.max(end, offset + other.size);
  }
  if (best !== undefined) return best;
  return end + item.bytes <= maxPoolBytes ? end : undefined;
}

const poolBytes = (placed: readonly Placed[]): number =>
  alignUp(
    placed.reduce((end, { item, offset }) => Math.max(end, offset + item.bytes), 0),
    16,
  );

const alignUp = (bytes: number, alignment: number): number => Math.ceil(bytes / alignment) * alignment;
