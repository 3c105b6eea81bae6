/**
 * Constants on a device, shared between the specialisations of a session: what has the same bytes is uploaded once and
 * lies there until the last executable that reads it is gone.
 *
 * Plans for other shapes bring the same weights as other objects (packed or folded anew), so beyond identity it is
 * content that counts: digests are taken only when something of equal size is there already, which spares models of
 * one shape.
 */
import type { BufferRange, Device, DeviceBuffer } from '../backends/backend.js';
import { type CreateHasher, createSha256 } from '../compiler/artifact/sha256.js';
import { TuttiError } from '../compiler/error.js';
import type { ConstantData } from '../compiler/graph/types.js';
import type { Location, PlannedConstant, Program } from '../compiler/plan.js';
import { Pace } from './pace.js';
import { digestOf, uploadConstants } from './upload.js';

/** A buffer filled in one go with the constants that one plan brought. */
interface Chunk {
  readonly buffer: DeviceBuffer;
  readonly residents: Resident[];
  references: number;
}

interface Resident {
  readonly chunk: Chunk;
  readonly data: ConstantData;
  readonly offset: number;
  readonly bytes: number;
  /** Of the content, once it was asked for. */
  digest?: string;
}

/** A new buffer, to be filled. */
interface Layout {
  readonly bytes: number;
  readonly entries: readonly { readonly constant: PlannedConstant; readonly offset: number }[];
}

/** Kernels may read whole words: each constant is padded to this. */
const padding = 16;

export class ConstantStore {
  readonly #device: Device;
  readonly #createHasher: CreateHasher;
  readonly #chunks = new Set<Chunk>();
  readonly #byIdentity = new Map<ConstantData, Resident>();
  readonly #bySize = new Map<number, Set<Resident>>();

  constructor(device: Device, createHasher: CreateHasher = createSha256) {
    this.#device = device;
    this.#createHasher = createHasher;
  }

  get bytes(): number {
    let total = 0;
    for (const { buffer } of this.#chunks) total += buffer.bytes;
    return total;
  }

  /** Finds which of the plan's constants are there, and keeps those. Nothing is allocated yet. */
  async claim(plan: Program): Promise<ConstantClaim> {
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
      const places = new Map<ConstantData, BufferRange>();
      const pace = new Pace();
      // What one plan holds apart stays apart: a kernel may bind both, and bindings must not overlap.
      const taken = new Set<Resident>();
      const place = (data: ConstantData, bytes: number, resident: Resident): void => {
        taken.add(resident);
        places.set(data, range(resident.chunk.buffer, resident.offset, bytes));
      };
      for (const { data, location } of plan.constants) {
        const known = this.#byIdentity.get(data);
        if (known === undefined || places.has(data)) continue;
        hold(known.chunk);
        place(data, location.bytes, known);
      }
      for (const { data, location } of plan.constants) {
        if (places.has(data)) continue;
        const equal = await this.#findEqual(data, location.bytes, pace, taken, hold);
        if (equal !== undefined) place(data, location.bytes, equal);
      }
      const layouts = this.#layOut(plan, places);
      const upload = async (): Promise<ConstantRanges> => {
        // All allocations come first: running out of memory must not cost an upload.
        const fresh = layouts.map((layout) => {
          const chunk: Chunk = { buffer: this.#device.allocate(layout.bytes), residents: [], references: 0 };
          this.#chunks.add(chunk);
          hold(chunk);
          return { chunk, layout };
        });
        for (const { chunk, layout } of fresh) {
          const place = ({ constant: { name, data, location }, offset }: Layout['entries'][number]) => ({
            name,
            data,
            to: range(chunk.buffer, offset, location.bytes),
          });
          await uploadConstants(this.#device.queue, layout.entries.map(place));
          for (const { constant, offset } of layout.entries) {
            this.#register({ chunk, data: constant.data, offset, bytes: constant.location.bytes });
            places.set(constant.data, range(chunk.buffer, offset, constant.location.bytes));
          }
        }
        return new ConstantRanges(plan.constants, places);
      };
      return { missingBytes: layouts.reduce((total, { bytes }) => total + bytes, 0), upload, release };
    } catch (error) {
      release();
      throw error;
    }
  }

  /** Holds the chunk before it returns. */
  async #findEqual(
    data: ConstantData,
    bytes: number,
    pace: Pace,
    taken: ReadonlySet<Resident>,
    hold: (chunk: Chunk) => void,
  ): Promise<Resident | undefined> {
    const candidates = this.#bySize.get(bytes);
    if (candidates === undefined || candidates.size === 0 || bytes === 0) return undefined;
    const wanted = this.#digest(data);
    for (const resident of [...candidates]) {
      if (taken.has(resident)) continue;
      await pace.breathe();
      resident.digest ??= this.#digest(resident.data);
      // It may have been given up while others had their turn.
      if (resident.digest !== wanted || !candidates.has(resident)) continue;
      hold(resident.chunk);
      return resident;
    }
    return undefined;
  }

  #digest(data: ConstantData): string {
    return digestOf(data, this.#createHasher);
  }

  #register(resident: Resident): void {
    resident.chunk.residents.push(resident);
    // Another executable may have brought the same constant meanwhile: the first stays the shared one.
    if (!this.#byIdentity.has(resident.data)) this.#byIdentity.set(resident.data, resident);
    const same = this.#bySize.get(resident.bytes);
    if (same) same.add(resident);
    else this.#bySize.set(resident.bytes, new Set([resident]));
  }

  #drop(chunk: Chunk): void {
    for (const resident of chunk.residents) {
      if (this.#byIdentity.get(resident.data) === resident) this.#byIdentity.delete(resident.data);
      this.#bySize.get(resident.bytes)?.delete(resident);
    }
    this.#chunks.delete(chunk);
    chunk.buffer.free();
  }

  /** One buffer for each of the plan's constant pools, with those that have no place yet, each once. */
  #layOut(plan: Program, places: ReadonlyMap<ConstantData, BufferRange>): readonly Layout[] {
    const alignment = Math.max(padding, this.#device.target.limits.storageAlignment);
    const layouts = new Map<number, { bytes: number; entries: Layout['entries'][number][] }>();
    const seen = new Set<ConstantData>();
    for (const constant of plan.constants) {
      const { data, location } = constant;
      if (places.has(data) || seen.has(data) || location.bytes === 0) continue;
      seen.add(data);
      const layout = layouts.get(location.pool) ?? { bytes: 0, entries: [] };
      layouts.set(location.pool, layout);
      const offset = alignUp(layout.bytes, alignment);
      layout.entries.push({ constant, offset });
      layout.bytes = offset + alignUp(location.bytes, padding);
    }
    return [...layouts.values()];
  }
}

/** The right of an executable to its constants. */
export interface ConstantClaim {
  /** What `upload` will allocate. */
  readonly missingBytes: number;
  /** Once. @throws TuttiError E_OUT_OF_MEMORY, E_EXTERNAL_DATA, E_ARTIFACT */
  upload(): Promise<ConstantRanges>;
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
