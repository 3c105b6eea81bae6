/** Matrix tiles and asynchronous copies as the interpreter runs them: see `../engines.ts` for what they mean. */
import { bf16ToF32, f16ToF32, f32ToBf16, f32ToF16, roundBf16, roundF16 } from '../../numeric.js';
import { type BulkInst, isBulkInst } from '../bulk.js';
import {
  type AsyncInst,
  type EngineInst,
  type FragmentInst,
  fragmentElements,
  fragmentPlace,
  fragmentRows,
  type KTile,
  subgroupsOf,
  type TileInst,
  tileColumns,
  tileRows,
} from '../engines.js';
import { isBig, normalizers } from '../semantics.js';
import type { KMemory, KValue } from '../types.js';
import { atOnce, Bulk, type Waiting, wholeGroups } from './bulk.js';
import { type Frame, linearIdSlot } from './frame.js';
import { type Memory, type MemoryView, outOfBounds, poison } from './memory.js';

/** A copy that has begun: what it will write when its invocation waits for it. */
interface PendingCopy {
  readonly target: Memory;
  readonly at: number;
  readonly data: readonly (number | bigint)[];
}

/** The copies of one invocation: closed groups, oldest first, and the open one. */
interface Queue {
  closed: PendingCopy[][];
  open: PendingCopy[];
}

/** State of the tiles and copies of the workgroup that runs. */
export class Engines {
  readonly #frame: Frame;
  readonly #memories: ReadonlyMap<KMemory, Memory>;
  readonly #checkBounds: boolean;
  /** Elements in row-major order, by subgroup. */
  readonly #tiles = new Map<KTile, readonly Float64Array[]>();
  readonly #queues = new Map<number, Queue>();
  readonly bulk: Bulk;

  constructor(frame: Frame, memories: ReadonlyMap<KMemory, Memory>, checkBounds: boolean) {
    this.#frame = frame;
    this.#memories = memories;
    this.#checkBounds = checkBounds;
    const { tiles, workgroup, subgroupSize = 1 } = frame.kernel;
    const subgroups = Math.ceil((workgroup[0] * workgroup[1] * workgroup[2]) / subgroupSize);
    for (const tile of tiles) {
      const length = tileRows(tile) * tileColumns(tile);
      const count = Math.ceil(subgroups / (tile.subgroups ?? 1));
      this.#tiles.set(
        tile,
        Array.from({ length: count }, () => new Float64Array(length)),
      );
    }
    this.bulk = new Bulk({
      frame,
      checkBounds,
      memory: (memory) => this.#memory(memory),
      index: (value) => this.#index(value),
      instances: (tile) => this.#instances(tile),
      fail: (message) => this.#fail(message),
    });
  }

  /** A workgroup begins: contents are undefined, nothing is under way. */
  begin(): void {
    for (const instances of this.#tiles.values()) for (const elements of instances) elements.fill(Number.NaN);
    this.#queues.clear();
    this.bulk.begin();
  }

  op(inst: EngineInst): Waiting {
    if (isBulkInst(inst)) return this.bulk.op(inst);
    return atOnce(this.#plain(inst));
  }

  #plain(inst: Exclude<EngineInst, BulkInst>): (active: readonly number[]) => void {
    switch (inst.op) {
      case 'tile_fill':
      case 'tile_load':
      case 'tile_store':
      case 'tile_multiply':
      case 'tile_unpack':
      case 'tile_pack':
      case 'subgroup_barrier':
        return this.#collective(inst);
      case 'async_copy':
        return this.#copy(inst);
      case 'async_commit':
        return (active) => {
          for (const base of active) {
            const queue = this.#queue(base);
            queue.closed.push(queue.open);
            queue.open = [];
          }
        };
      case 'async_wait':
        return (active) => {
          for (const base of active) this.#wait(base, inst.pending);
        };
      default:
        return inst satisfies never;
    }
  }

  #fail(message: string): never {
    throw new Error(`kernel ${this.#frame.kernel.name}: ${message}`);
  }

  // --- Tiles ---

  /** Runs the op once for each whole subgroup (or warpgroup) among the active invocations. */
  #collective(inst: TileInst | FragmentInst): (active: readonly number[]) => void {
    const { f } = this.#frame.registers;
    const subgroupSize = this.#frame.kernel.subgroupSize ?? this.#fail('tiles without subgroupSize');
    const size = subgroupSize * subgroupsOf(inst);
    const run = this.#tileOp(inst);
    const host = { frame: this.#frame, fail: (message: string): never => this.#fail(message) };
    return (active) => {
      for (const members of wholeGroups(host, inst.op, active, size)) {
        const group = f[members[0] + linearIdSlot] / size;
        if (subgroupsOf(inst) > 1 && this.bulk.isBusy(group)) this.#fail(`${inst.op} before products are waited for`);
        run(members, group);
      }
    };
  }

  #tileOp(inst: TileInst | FragmentInst): (members: readonly number[], subgroup: number) => void {
    switch (inst.op) {
      case 'tile_fill': {
        const tiles = this.#instances(inst.tile);
        const { f } = this.#frame.registers;
        const value = this.#frame.slot(inst.value);
        return (members, subgroup) => {
          const filled = f[members[0] + value];
          if (members.some((base) => !Object.is(f[base + value], filled))) this.#fail('tile_fill with several values');
          tiles[subgroup].fill(filled);
        };
      }
      case 'tile_load': {
        const tiles = this.#instances(inst.tile);
        const { view } = this.#memory(inst.memory);
        const read = elementReader(inst.tile, view);
        return this.#moves(inst, 'read', (subgroup, element, at) => {
          tiles[subgroup][element] = read(at);
        });
      }
      case 'tile_store': {
        const tiles = this.#instances(inst.tile);
        const { view } = this.#memory(inst.memory);
        const write = elementWriter(inst.tile, view);
        return this.#moves(inst, 'write', (subgroup, element, at) => write(at, tiles[subgroup][element]));
      }
      case 'tile_unpack':
      case 'tile_pack':
        return this.#fragments(inst);
      case 'tile_multiply': {
        const [sums, left, right] = [inst.accumulator, inst.a, inst.b].map((tile) => this.#instances(tile));
        const { m, n, k, scalar } = inst.accumulator;
        const round = accumulatorRounding(scalar);
        return (_, subgroup) => {
          const [sum, a, b] = [sums[subgroup], left[subgroup], right[subgroup]];
          for (let row = 0; row < m; row++) {
            for (let column = 0; column < n; column++) {
              let total = 0;
              for (let step = 0; step < k; step++) total += a[row * k + step] * b[step * n + column];
              sum[row * n + column] = round(sum[row * n + column] + total);
            }
          }
        };
      }
      case 'subgroup_barrier':
        return () => {
          // Orders more than it should, the accesses of all subgroups.
          this.#frame.epoch++;
        };
      default:
        return inst satisfies never;
    }
  }

  /** Between a tile and what each invocation holds of it. */
  #fragments(inst: FragmentInst): (members: readonly number[], subgroup: number) => void {
    const { op, tile, from } = inst;
    const tiles = this.#instances(tile);
    const { view, stride } = this.#memory(inst.memory);
    const elements = view as Float32Array;
    const columns = tileColumns(tile);
    const count = fragmentElements(tile);
    const round = tile.scalar === 'f16' ? roundF16 : tile.scalar === 'bf16' ? roundBf16 : (x: number) => x;
    const { f } = this.#frame.registers;
    return (members, subgroup) => {
      members.forEach((base, i) => {
        const first = f[base + linearIdSlot] * stride + from;
        const rows = Math.floor(i / 32) * fragmentRows;
        for (let element = 0; element < count; element++) {
          const { row, column } = fragmentPlace(element, i % 32);
          const at = (rows + row) * columns + column;
          if (op === 'tile_unpack') elements[first + element] = tiles[subgroup][at];
          else tiles[subgroup][at] = round(elements[first + element]);
        }
      });
    };
  }

  /** A load or store: `move` gets an element's number in the tile and in the memory. */
  #moves(
    inst: TileInst & { op: 'tile_load' | 'tile_store' },
    kind: 'read' | 'write',
    move: (subgroup: number, element: number, at: number) => void,
  ): (members: readonly number[], subgroup: number) => void {
    const { tile, stride, layout, aligned } = inst;
    const { memory, view, races } = this.#memory(inst.memory);
    const whole = tileColumns(tile);
    const some = inst.op === 'tile_store' ? inst.columns : undefined;
    const [rows, columns, skipped] = [tileRows(tile), some?.count ?? whole, some?.from ?? 0];
    const [down, across] = layout === 'row' ? [stride, 1] : [1, stride];
    const last = (rows - 1) * down + (columns - 1) * across;
    const multiple = 16 / view.BYTES_PER_ELEMENT;
    const index = this.#index(inst.index);
    return (members, subgroup) => {
      const first = index(members[0]);
      if (members.some((base) => index(base) !== first)) this.#fail(`${inst.op} with several indices`);
      if (this.#checkBounds && (first < 0 || first + last >= memory.length))
        outOfBounds(this.#frame, inst.op, memory, first, last + 1, members[0]);
      if (this.#checkBounds && aligned && (first % multiple !== 0 || stride % multiple !== 0))
        this.#fail(`${inst.op} of ${memory.name}[${first}] is not aligned to 16 bytes`);
      const invocation = this.#frame.registers.f[members[0] + linearIdSlot];
      for (let row = 0; row < rows; row++) {
        for (let column = 0; column < columns; column++) {
          const at = first + row * down + column * across;
          races?.access(kind, at, invocation, this.#frame.epoch);
          move(subgroup, row * whole + skipped + column, at);
        }
      }
    };
  }

  #instances(tile: KTile): readonly Float64Array[] {
    return this.#tiles.get(tile) ?? this.#fail(`tile ${tile.name} is not declared`);
  }

  #memory(memory: KMemory): Memory {
    return this.#memories.get(memory) ?? this.#fail(`memory ${memory.name} is not declared`);
  }

  #index(value: KValue): (base: number) => number {
    const slot = this.#frame.slot(value);
    const { f, i } = this.#frame.registers;
    return isBig(value.type.scalar) ? (base) => Number(i[base + slot]) : (base) => f[base + slot];
  }

  // --- Asynchronous copies ---

  #queue(base: number): Queue {
    let queue = this.#queues.get(base);
    if (queue === undefined) this.#queues.set(base, (queue = { closed: [], open: [] }));
    return queue;
  }

  #copy(inst: AsyncInst & { op: 'async_copy' }): (active: readonly number[]) => void {
    const { elements } = inst;
    const [target, source] = [this.#memory(inst.memory), this.#memory(inst.source)];
    const [index, from] = [this.#index(inst.index), this.#index(inst.from)];
    const condition = inst.condition && this.#frame.slot(inst.condition);
    const { f } = this.#frame.registers;
    const check = (memory: Memory, at: number, base: number): void => {
      if (!this.#checkBounds) return;
      if (at < 0 || at + elements > memory.memory.length)
        outOfBounds(this.#frame, inst.op, memory.memory, at, elements, base);
      if (at % elements !== 0) this.#fail(`async_copy of ${memory.memory.name}[${at}] is not aligned`);
    };
    const zero = target.view instanceof BigInt64Array || target.view instanceof BigUint64Array ? 0n : 0;
    return (active) => {
      for (const base of active) {
        const [to, at] = [index(base), from(base)];
        check(target, to, base);
        check(source, at, base);
        const wanted = condition === undefined || f[base + condition] !== 0;
        const data = Array.from({ length: elements }, (_, i) => (wanted ? source.view[at + i] : zero));
        this.#queue(base).open.push({ target, at: to, data });
        this.#touch(target, to, elements, base);
        poison(target.view.subarray(to, to + elements));
      }
    };
  }

  #wait(base: number, pending: number): void {
    const queue = this.#queue(base);
    for (const group of queue.closed.splice(0, Math.max(0, queue.closed.length - pending))) {
      for (const { target, at, data } of group) {
        this.#touch(target, at, data.length, base);
        (target.view as { set(values: readonly (number | bigint)[], at: number): void }).set(data, at);
      }
    }
  }

  #touch({ races }: Memory, at: number, count: number, base: number): void {
    const invocation = this.#frame.registers.f[base + linearIdSlot];
    for (let i = 0; i < count; i++) races?.access('write', at + i, invocation, this.#frame.epoch);
  }
}

// Elements ------------------------------------------------------------------------------------------------------------

const float = new Float32Array(1);
const bits = new Uint32Array(float.buffer);

/** An f32 with 10 bits of fraction: to nearest, ties away from zero. */
function roundTf32(x: number): number {
  if (!Number.isFinite(x)) return x;
  float[0] = x;
  bits[0] = ((bits[0] + 0x1000) & 0xffffe000) >>> 0;
  return float[0];
}

function accumulatorRounding(scalar: KTile['scalar']): (x: number) => number {
  switch (scalar) {
    case 'i32':
    case 'f16':
    case 'f32':
      return normalizers[scalar];
    default:
      throw new Error(`accumulator of ${scalar}`);
  }
}

/** Reads an element of the memory, which may hold the bits as unsigned integers. */
function elementReader({ scalar }: KTile, view: MemoryView): (at: number) => number {
  const elements = view as Exclude<MemoryView, BigInt64Array | BigUint64Array>;
  switch (scalar) {
    case 'f16':
      return (at) => f16ToF32(elements[at]);
    case 'bf16':
      return (at) => bf16ToF32(elements[at]);
    case 'tf32':
      return (at) => roundTf32(elements[at]);
    case 'i8':
      return (at) => (elements[at] << 24) >> 24;
    case 'f32':
    case 'u8':
    case 'i32':
      return (at) => elements[at];
    default:
      return scalar satisfies never;
  }
}

function elementWriter({ scalar }: KTile, view: MemoryView): (at: number, value: number) => void {
  const elements = view as Exclude<MemoryView, BigInt64Array | BigUint64Array>;
  const encode = scalar === 'f16' ? f32ToF16 : scalar === 'bf16' ? f32ToBf16 : (x: number) => x;
  return (at, value) => {
    elements[at] = encode(value);
  };
}
