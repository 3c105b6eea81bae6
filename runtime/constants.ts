/**
 * Constants on a device, shared between the specialisations of a session: each `ConstantData` is uploaded once and lies
 * there until the last executable that reads it is gone.
 */
import type { BufferRange, Device, DeviceBuffer, HostWrite } from '../backends/backend.js';
import { TuttiError } from '../compiler/error.js';
import type { ConstantData } from '../compiler/graph/types.js';
import type { Location, Plan, PlannedConstant } from '../compiler/plan.js';
import { bytesOfTensor } from '../compiler/tensor.js';

/** A buffer filled in one go with the constants that one plan brought. */
interface Chunk {
  readonly buffer: DeviceBuffer;
  readonly data: readonly ConstantData[];
  references: number;
}

interface Resident {
  readonly chunk: Chunk;
  readonly offset: number;
}

/** Bytes handed to the device in one submission: bounds what is held in flight. */
const uploadBytes = 64 << 20;
/** Kernels may read whole words: each constant is padded to this. */
const padding = 16;

export class ConstantStore {
  readonly #device: Device;
  readonly #resident = new Map<ConstantData, Resident>();
  readonly #chunks = new Set<Chunk>();

  constructor(device: Device) {
    this.#device = device;
  }

  get bytes(): number {
    let total = 0;
    for (const { buffer } of this.#chunks) total += buffer.bytes;
    return total;
  }

  /** Bytes that `acquire` would allocate for the plan. */
  missingBytes(plan: Plan): number {
    return this.#layouts(plan).reduce((total, { bytes }) => total + bytes, 0);
  }

  /** Uploads what is not there yet. @throws TuttiError E_OUT_OF_MEMORY, E_EXTERNAL_DATA, E_ARTIFACT */
  async acquire(plan: Plan): Promise<ConstantSet> {
    const held = new Set<Chunk>();
    const hold = (chunk: Chunk): void => {
      if (held.has(chunk)) return;
      held.add(chunk);
      chunk.references++;
    };
    const release = (): void => {
      for (const chunk of held) {
        if (--chunk.references === 0) this.#drop(chunk);
      }
      held.clear();
    };
    try {
      for (const { data } of plan.constants) {
        const resident = this.#resident.get(data);
        if (resident) hold(resident.chunk);
      }
      // All allocations come first: running out of memory must not cost an upload.
      const fresh = this.#layouts(plan).map((layout) => {
        const buffer = this.#device.allocate(layout.bytes);
        const chunk: Chunk = { buffer, data: layout.entries.map(({ constant }) => constant.data), references: 0 };
        hold(chunk);
        this.#chunks.add(chunk);
        return { chunk, layout };
      });
      const places = new Map<ConstantData, BufferRange>();
      for (const { data, location } of plan.constants) {
        const resident = this.#resident.get(data);
        if (resident) places.set(data, range(resident.chunk.buffer, resident.offset, location.bytes));
      }
      for (const { chunk, layout } of fresh) {
        await this.#upload(chunk, layout);
        for (const { constant, offset } of layout.entries) {
          places.set(constant.data, range(chunk.buffer, offset, constant.location.bytes));
          // Another executable may have brought the same constant meanwhile: the first stays the shared one.
          if (!this.#resident.has(constant.data)) this.#resident.set(constant.data, { chunk, offset });
        }
      }
      return { ranges: new ConstantRanges(plan.constants, places), release };
    } catch (error) {
      release();
      throw error;
    }
  }

  #drop(chunk: Chunk): void {
    for (const data of chunk.data) {
      if (this.#resident.get(data)?.chunk === chunk) this.#resident.delete(data);
    }
    this.#chunks.delete(chunk);
    chunk.buffer.free();
  }

  /** One buffer for each of the plan's constant pools, with those that are not resident, each once. */
  #layouts(plan: Plan): Layout[] {
    const alignment = Math.max(padding, this.#device.target.limits.storageAlignment);
    const layouts = new Map<number, { bytes: number; entries: Layout['entries'][number][] }>();
    const seen = new Set<ConstantData>();
    for (const constant of plan.constants) {
      const { data, location } = constant;
      if (this.#resident.has(data) || seen.has(data) || location.bytes === 0) continue;
      seen.add(data);
      const layout = layouts.get(location.pool) ?? { bytes: 0, entries: [] };
      layouts.set(location.pool, layout);
      const offset = alignUp(layout.bytes, alignment);
      layout.entries.push({ constant, offset });
      layout.bytes = offset + alignUp(location.bytes, padding);
    }
    return [...layouts.values()];
  }

  async #upload(chunk: Chunk, layout: Layout): Promise<void> {
    let writes: HostWrite[] = [];
    let pending = 0;
    const flush = async (): Promise<void> => {
      if (writes.length > 0) await this.#device.queue.submit({ writes });
      writes = [];
      pending = 0;
    };
    for (const { constant, offset } of layout.entries) {
      const bytes = bytesOfTensor(constant.data.load());
      if (bytes.byteLength !== constant.location.bytes) {
        throw new Error(`constant ${constant.name}: ${bytes.byteLength} bytes, planned ${constant.location.bytes}`);
      }
      for (let at = 0; at < bytes.byteLength; at += uploadBytes) {
        const part = bytes.subarray(at, at + uploadBytes);
        writes.push({ to: range(chunk.buffer, offset + at, part.byteLength), data: part });
        pending += part.byteLength;
        if (pending >= uploadBytes) await flush();
      }
    }
    await flush();
  }
}

interface Layout {
  readonly bytes: number;
  readonly entries: readonly { readonly constant: PlannedConstant; readonly offset: number }[];
}

export interface ConstantSet {
  readonly ranges: ConstantRanges;
  release(): void;
}

/** Finds where a location of a constants pool really lies. */
export class ConstantRanges {
  /** By pool, sorted by offset. */
  readonly #pools = new Map<number, { readonly location: Location; readonly range: BufferRange }[]>();

  constructor(constants: readonly PlannedConstant[], places: ReadonlyMap<ConstantData, BufferRange>) {
    for (const { data, location } of constants) {
      const place = places.get(data);
      if (place === undefined) continue;
      const pool = this.#pools.get(location.pool) ?? [];
      this.#pools.set(location.pool, pool);
      pool.push({ location, range: place });
    }
    for (const pool of this.#pools.values()) pool.sort((a, b) => a.location.offset - b.location.offset);
  }

  find({ pool, offset, bytes }: Location): BufferRange {
    const entries = this.#pools.get(pool) ?? [];
    let [low, high] = [0, entries.length];
    while (low < high) {
      const middle = (low + high) >> 1;
      if (entries[middle].location.offset <= offset) low = middle + 1;
      else high = middle;
    }
    const entry = entries[low - 1];
    const within = entry === undefined ? 0 : offset - entry.location.offset;
    if (entry === undefined || within + bytes > alignUp(entry.location.bytes, padding)) {
      throw new Error(`no constant at [${offset}, ${offset + bytes}) of pool ${pool}`);
    }
    return range(entry.range.buffer, entry.range.offset + within, bytes);
  }
}

/** The error of a plan that cannot fit. */
export const outOfMemory = (subject: string, required: number, available: number): TuttiError =>
  new TuttiError('E_OUT_OF_MEMORY', 'not enough device memory', {
    subject,
    expected: `${required} bytes free`,
    found: `${available} bytes free`,
    remedy: 'Use smaller shapes, close other sessions or choose a device with more memory.',
  });

const range = (buffer: DeviceBuffer, offset: number, bytes: number): BufferRange => ({ buffer, offset, bytes });
const alignUp = (bytes: number, alignment: number): number => Math.ceil(bytes / alignment) * alignment;
