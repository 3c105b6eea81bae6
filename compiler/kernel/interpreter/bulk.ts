/**
 * Signals, tensor copies and products of warpgroups as the interpreter runs them: see `../bulk.ts` for what they mean.
 *
 * Copies land when someone waits for their signal, products are computed when they are waited for: whoever is too
 * early reads undefined elements. An invocation that must wait lets the others run; see `control.ts`.
 */

import { bf16ToF32, f16ToF32 } from '../../numeric.js';
import {
  type BulkInst,
  boxElements,
  type GroupOperand,
  isTile,
  type KSignal,
  type KTensorMap,
  swizzled,
  swizzleRow,
  warpgroup,
} from '../bulk.js';
import type { KTile } from '../engines.js';
import type { KMemory, KValue } from '../types.js';
import { type Frame, linearIdSlot } from './frame.js';
import { type Memory, outOfBounds, poison } from './memory.js';

/** Runs for a set of invocations; what it returns is to be iterated over, and yields while the set cannot go on. */
export type Waiting = (active: readonly number[]) => Iterable<void>;

/** Code that never waits. */
export const atOnce =
  (run: (active: readonly number[]) => void): Waiting =>
  (active) => {
    run(active);
    return [];
  };

interface Barrier {
  arrivals: number;
  pending: number;
  /** Bytes that are still expected; negative while more have come than were announced. */
  bytes: number;
  phase: number;
}

interface PendingCopy {
  readonly barrier: Barrier;
  readonly bytes: number;
  readonly land: () => void;
}

/** Products of one warpgroup: closed groups, oldest first, and the open one. */
interface Products {
  closed: (() => void)[][];
  open: (() => void)[];
}

/** What the ops need of the rest of the interpreter. */
export interface BulkHost {
  readonly frame: Frame;
  readonly checkBounds: boolean;
  memory(memory: KMemory): Memory;
  index(value: KValue): (base: number) => number;
  /** Row-major elements of a warpgroup's tile, by warpgroup. */
  instances(tile: KTile): readonly Float64Array[];
  fail(message: string): never;
}

export class Bulk {
  readonly #host: BulkHost;
  readonly #signals = new Map<KSignal, (Barrier | undefined)[]>();
  readonly #products = new Map<number, Products>();
  #copies: PendingCopy[] = [];
  /** Grows with every arrival and every copy: if it stands still, nobody will be let go. */
  progress = 0;

  constructor(host: BulkHost) {
    this.#host = host;
  }

  begin(): void {
    for (const signal of this.#host.frame.kernel.signals)
      this.#signals.set(signal, new Array<Barrier | undefined>(signal.count).fill(undefined));
    this.#products.clear();
    this.#copies = [];
  }

  op(inst: BulkInst): Waiting {
    const each = (run: (base: number) => void): Waiting =>
      atOnce((active) => {
        for (const base of active) run(base);
      });
    switch (inst.op) {
      case 'signal_init': {
        const index = this.#host.index(inst.index);
        const { arrivals } = inst;
        return each((base) => {
          const barriers = this.#signals.get(inst.signal) as (Barrier | undefined)[];
          barriers[index(base)] = { arrivals, pending: arrivals, bytes: 0, phase: 0 };
        });
      }
      case 'signal_expect':
      case 'signal_arrive': {
        const barrier = this.#barrierOf(inst.signal, inst.index);
        const bytes = inst.op === 'signal_expect' ? inst.bytes : 0;
        return each((base) => this.#arrive(inst.signal, barrier(base), bytes));
      }
      case 'signal_wait':
        return this.#wait(inst);
      case 'tensor_copy':
        return each(this.#copy(inst));
      case 'group_multiply': {
        const run = this.#multiply(inst);
        return this.#groups(inst, (members, products, group) => void products.open.push(run(members[0], group)));
      }
      case 'group_commit':
        return this.#groups(inst, (_, products) => {
          products.closed.push(products.open);
          products.open = [];
        });
      case 'group_wait':
        return this.#groups(inst, (_, { closed }) => {
          for (const group of closed.splice(0, Math.max(0, closed.length - inst.pending)))
            for (const product of group) product();
        });
      case 'group_fence':
      case 'registers':
        return this.#groups(inst, () => undefined);
      default:
        return inst satisfies never;
    }
  }

  /** Products that were begun and not waited for use the tile. */
  isBusy(group: number): boolean {
    const products = this.#products.get(group);
    return products !== undefined && (products.open.length > 0 || products.closed.some((one) => one.length > 0));
  }

  // --- Signals ---

  #barrierOf(signal: KSignal, index: KValue): (base: number) => Barrier {
    const host = this.#host;
    const at = host.index(index);
    return (base) => {
      const i = at(base);
      if (i < 0 || i >= signal.count) host.fail(`signal ${signal.name}[${i}] of ${signal.count}`);
      return this.#signals.get(signal)?.[i] ?? host.fail(`signal ${signal.name}[${i}] was not initialised`);
    };
  }

  #arrive(signal: KSignal, barrier: Barrier, bytes: number): void {
    if (barrier.pending === 0) this.#host.fail(`more than ${barrier.arrivals} arrivals at ${signal.name}`);
    barrier.pending--;
    barrier.bytes += bytes;
    this.#advance(barrier);
  }

  #advance(barrier: Barrier): void {
    this.progress++;
    if (barrier.pending !== 0 || barrier.bytes !== 0) return;
    barrier.phase++;
    barrier.pending = barrier.arrivals;
  }

  #wait(inst: BulkInst & { op: 'signal_wait' }): Waiting {
    const barrierOf = this.#barrierOf(inst.signal, inst.index);
    const parityOf = this.#host.index(inst.parity);
    const self = this;
    return function* (active) {
      const waits = active.map((base) => ({ barrier: barrierOf(base), parity: parityOf(base) }));
      const isOver = ({ barrier, parity }: (typeof waits)[number]): boolean => barrier.phase % 2 !== parity;
      for (;;) {
        if (waits.every(isOver)) break;
        self.#land(new Set(waits.map(({ barrier }) => barrier)));
        if (waits.every(isOver)) break;
        yield;
      }
      // What was done before the arrivals is ordered before what comes now.
      self.#host.frame.epoch++;
    };
  }

  /** Copies that were begun for these barriers come to their end. */
  #land(barriers: ReadonlySet<Barrier>): void {
    const due = this.#copies.filter(({ barrier }) => barriers.has(barrier));
    this.#copies = this.#copies.filter(({ barrier }) => !barriers.has(barrier));
    for (const { barrier, bytes, land } of due) {
      land();
      barrier.bytes -= bytes;
      this.#advance(barrier);
    }
  }

  // --- Copies ---

  #copy(inst: BulkInst & { op: 'tensor_copy' }): (base: number) => void {
    const host = this.#host;
    const { map } = inst;
    const [target, source] = [host.memory(inst.memory), host.memory(map.buffer)];
    const index = host.index(inst.index);
    const coordinates = inst.at.map((value) => host.index(value));
    const barrier = this.#barrierOf(inst.signal, inst.signalIndex);
    const count = boxElements(map);
    const bytes = count * target.view.BYTES_PER_ELEMENT;
    const boundary = 1024 / target.view.BYTES_PER_ELEMENT;
    const from = target.view as Uint16Array;
    return (base) => {
      const first = index(base);
      if (host.checkBounds && (first < 0 || first + count > target.memory.length))
        outOfBounds(host.frame, inst.op, target.memory, first, count, base);
      if (host.checkBounds && first % boundary !== 0) host.fail(`tensor_copy to ${target.memory.name}[${first}]`);
      const start = coordinates.map((at) => at(base));
      const touch = (): void => {
        const invocation = host.frame.registers.f[base + linearIdSlot];
        for (let i = 0; i < count; i++) target.races?.access('write', first + i, invocation, host.frame.epoch);
      };
      touch();
      poison(from.subarray(first, first + count));
      const land = (): void => {
        touch();
        forEachInBox(map, start, (element, at) => {
          from[swizzled(first + element)] = at === undefined ? 0 : (source.view as Uint16Array)[at];
        });
      };
      this.#copies.push({ barrier: barrier(base), bytes, land });
      this.progress++;
    };
  }

  // --- Products ---

  #groups(inst: BulkInst, run: (members: readonly number[], products: Products, group: number) => void): Waiting {
    const host = this.#host;
    const size = warpgroup * (host.frame.kernel.subgroupSize ?? host.fail('warpgroups without subgroupSize'));
    return atOnce((active) => {
      for (const members of wholeGroups(host, inst.op, active, size)) {
        const group = host.frame.registers.f[members[0] + linearIdSlot] / size;
        let products = this.#products.get(group);
        if (!products) this.#products.set(group, (products = { closed: [], open: [] }));
        run(members, products, group);
      }
    });
  }

  /** What a product will do when it is waited for. */
  #multiply(inst: BulkInst & { op: 'group_multiply' }): (base: number, group: number) => () => void {
    const host = this.#host;
    const { m, n, k, scalar } = inst.accumulator;
    const sums = host.instances(inst.accumulator);
    const decode = inst.scalar === 'bf16' ? bf16ToF32 : f16ToF32;
    const operand = (from: GroupOperand) => ({ ...from, ...host.memory(from.memory), at: host.index(from.index) });
    const b = operand(inst.b);
    const [tile, a] = isTile(inst.a) ? [host.instances(inst.a), undefined] : [undefined, operand(inst.a)];
    const gather = (from: typeof b, first: number, rows: number, base: number): Float64Array => {
      const { along, panel, view, memory, races } = from;
      const invocation = host.frame.registers.f[base + linearIdSlot];
      const elements = new Float64Array(rows * k);
      for (let row = 0; row < rows; row++) {
        for (let step = 0; step < k; step++) {
          const place =
            along === 'k'
              ? first + row * swizzleRow + step
              : first + Math.floor(row / swizzleRow) * panel + step * swizzleRow + (row % swizzleRow);
          if (place < 0 || place >= memory.length) outOfBounds(host.frame, inst.op, memory, place, 1, base);
          races?.access('read', place, invocation, host.frame.epoch);
          elements[row * k + step] = decode((view as Uint16Array)[swizzled(place)]);
        }
      }
      return elements;
    };
    if (scalar !== 'f32') host.fail(`accumulator of ${scalar}`);
    return (base, group) => {
      const [firstA, firstB, sum] = [a?.at(base) ?? 0, b.at(base), sums[group]];
      return () => {
        const factors = a ? gather(a, firstA, m, base) : (tile as readonly Float64Array[])[group];
        const right = gather(b, firstB, n, base);
        for (let row = 0; row < m; row++) {
          for (let column = 0; column < n; column++) {
            let total = 0;
            for (let step = 0; step < k; step++) total += factors[row * k + step] * right[column * k + step];
            sum[row * n + column] = Math.fround(sum[row * n + column] + total);
          }
        }
      };
    };
  }
}

/** Whole groups of `size` invocations among the active ones; it is an error if one is there in part only. */
export function* wholeGroups(
  host: Pick<BulkHost, 'frame' | 'fail'>,
  op: string,
  active: readonly number[],
  size: number,
): Generator<readonly number[]> {
  const { f } = host.frame.registers;
  for (let at = 0; at < active.length; at += size) {
    const members = active.slice(at, at + size);
    const first = f[members[0] + linearIdSlot];
    const whole = members.length === size && first % size === 0;
    if (!whole || members.some((base, i) => f[base + linearIdSlot] !== first + i))
      host.fail(`${op} is not reached by a whole group of ${size} invocations`);
    yield members;
  }
}

/** Elements of a box in order, with where each lies in the buffer; undefined outside of the tensor. */
function forEachInBox(
  { dims, strides, box, offset }: KTensorMap,
  start: readonly number[],
  visit: (element: number, at: number | undefined) => void,
): void {
  const count = box.reduce((product, extent) => product * extent, 1);
  for (let element = 0; element < count; element++) {
    let [rest, at, inside] = [element, offset, true];
    for (let d = 0; d < dims.length; d++) {
      const coordinate = start[d] + (rest % box[d]);
      rest = Math.floor(rest / box[d]);
      inside &&= coordinate >= 0 && coordinate < dims[d];
      at += coordinate * (d === 0 ? 1 : strides[d - 1]);
    }
    visit(element, inside ? at : undefined);
  }
}
