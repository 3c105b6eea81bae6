/** Buffers and arrays in the element types that the target stores, and what reads and writes them. */
import { TuttiError } from '../../error.js';
import { type EngineInst, engineMemories, type KSignal, type KTensorMap, type KTile, mapEngine } from '../engines.js';
import type { KArray, KBuffer, KMemory, KValue, ScalarType } from '../types.js';
import { visitInstructions } from '../walk.js';
import type { Inst, Rep, Representations } from './representation.js';
import { PackedMemory, type Storage, storageLength, storageOf } from './storage.js';

export class LegalMemory {
  readonly #r: Representations;
  readonly #memories = new Map<KMemory, { readonly legal: KMemory; readonly storage: Storage }>();
  /** Tiles, signals and tensor maps. */
  readonly #engines = new Map<KTile | KSignal | KTensorMap, KTile | KSignal | KTensorMap>();
  readonly #packed: PackedMemory;

  constructor(r: Representations) {
    this.#r = r;
    const single = [...r.kernel.grid, ...r.kernel.workgroup].every((extent) => extent === 1);
    this.#packed = new PackedMemory(
      r.b,
      r.target.vectorLanes,
      (memory) => single || (memory.kind === 'array' && memory.space === 'private'),
    );
  }

  /** Declares the parameters and arrays of the kernel, in order. */
  declare(): void {
    const r = this.#r;
    const mergedWrites = this.#findMergedWrites();
    for (const param of r.kernel.params) {
      if (param.kind === 'scalar') r.b.declareScalar(param);
      else this.#declareBuffer(param, mergedWrites.has(param));
    }
    for (const array of r.kernel.arrays) this.#declareArray(array);
    for (const tile of r.kernel.tiles) this.#engines.set(tile, r.b.tile(tile));
    for (const signal of r.kernel.signals) this.#engines.set(signal, r.b.signal(signal.name, signal.count));
    for (const map of r.kernel.maps)
      this.#engines.set(map, r.b.tensorMap({ ...map, buffer: this.#memory(map.buffer).legal as KBuffer }));
  }

  /** Buffers that are stored to in parts of words: those words are read too. */
  #findMergedWrites(): ReadonlySet<KMemory> {
    const found = new Set<KMemory>();
    visitInstructions(this.#r.kernel.body, (inst) => {
      if (inst.op !== 'store') return;
      const { perWord } = storageOf(inst.memory.scalar, this.#r.target);
      if (perWord > 1 && !(inst.aligned && inst.value.type.lanes >= perWord)) found.add(inst.memory);
    });
    return found;
  }

  #declareBuffer(buffer: KBuffer, merged: boolean): void {
    const storage = storageOf(buffer.scalar, this.#r.target);
    const access = merged && buffer.access === 'write' ? 'readwrite' : buffer.access;
    const legal = this.#r.b.buffer(buffer.name, storage.scalar, storageLength(buffer.length, storage), access);
    this.#memories.set(buffer, { legal, storage });
  }

  #declareArray(array: KArray): void {
    const storage = storageOf(array.scalar, this.#r.target);
    const legal = this.#r.b.array(array.name, array.space, storage.scalar, storageLength(array.length, storage));
    this.#memories.set(array, { legal, storage });
  }

  #memory(memory: KMemory): { readonly legal: KMemory; readonly storage: Storage } {
    const known = this.#memories.get(memory);
    if (!known) throw new Error(`kernel ${this.#r.kernel.name}: ${memory.name} is not declared`);
    return known;
  }

  load(inst: Inst<'load'>): Rep {
    const { legal, storage } = this.#memory(inst.memory);
    const { type } = inst.result;
    const index = this.index(inst.index);
    const { b } = this.#r;
    if (storage.perWord === 0.5) {
      const parts: KValue[] = [];
      for (let i = 0; i < type.lanes; i++) parts.push(this.#loadPair(legal, b.addc(index, i)));
      return this.#r.native(type.scalar) ? this.#r.fromPairs(type, parts) : { kind: 'pairs', type, parts };
    }
    if (storage.perWord === 1) {
      const width = this.#r.width(type.lanes);
      const parts: KValue[] = [];
      for (let i = 0; i < type.lanes; i += width) parts.push(b.load(legal, b.addc(index, i), width, inst.aligned));
      if (storage.scalar === type.scalar) {
        const held = this.#r.chunkScalar(type.scalar) as ScalarType;
        return this.#r.chunks(
          type,
          parts.map((part) => b.convert(part, held)),
        );
      }
      return this.#r.chunks(
        type,
        parts.map((part) => this.#r.fromBits(type.scalar, b.convert(part, 'u32'))),
      );
    }
    const bits = 32 / storage.perWord;
    const parts = this.#packed.load(legal, bits, index, type.lanes, inst.aligned);
    return this.#r.chunks(
      type,
      parts.map((part) => this.#r.fromBits(type.scalar, part)),
    );
  }

  #loadPair(memory: KMemory, index: KValue): KValue {
    const word = this.#r.b.mulc(index, 2);
    if (this.#r.target.vectorLanes >= 2) return this.#r.b.load(memory, word, 2, true);
    return this.#r.w.pack({ lo: this.#r.b.load(memory, word), hi: this.#r.b.load(memory, this.#r.b.addc(word, 1)) });
  }

  store(inst: Inst<'store'>): void {
    const { legal, storage } = this.#memory(inst.memory);
    const { type } = inst.value;
    const index = this.index(inst.index);
    const { b } = this.#r;
    const rep = this.#r.get(inst.value);
    if (storage.perWord === 0.5) {
      this.#r.pairs(rep).forEach((pair, i) => {
        const word = b.mulc(b.addc(index, i), 2);
        if (this.#r.target.vectorLanes >= 2) b.store(legal, word, pair, true);
        else {
          const { lo, hi } = this.#r.w.unpack(pair);
          b.store(legal, word, lo);
          b.store(legal, b.addc(word, 1), hi);
        }
      });
      return;
    }
    const parts = this.#r.whole(rep).parts;
    if (storage.scalar === type.scalar) {
      parts.forEach((part, i) => {
        b.store(legal, b.addc(index, i * part.type.lanes), b.convert(part, storage.scalar), inst.aligned);
      });
      return;
    }
    const bits = parts.map((part) => this.#r.toBits(type.scalar, part));
    if (storage.perWord === 1) {
      bits.forEach((part, i) => {
        b.store(legal, b.addc(index, i * part.type.lanes), b.convert(part, storage.scalar), inst.aligned);
      });
      return;
    }
    const elements = bits.flatMap((part) => this.#r.elements(part));
    this.#packed.store(legal, 32 / storage.perWord, index, elements, inst.aligned);
  }

  /**
   * Tiles and asynchronous copies move elements as they are stored, whatever values of their type are computed in: the
   * memory keeps one element in one.
   */
  engine(inst: EngineInst): void {
    for (const memory of engineMemories(inst)) {
      if (this.#memory(memory).storage.perWord === 1) continue;
      const { kernel, target } = this.#r;
      throw new Error(`kernel ${kernel.name}: ${inst.op} on ${memory.scalar}, which ${target.backend} packs`);
    }
    const same = <T extends KTile | KSignal | KTensorMap>(from: T): T => this.#engines.get(from) as T;
    const [use, memory] = [(value: KValue) => this.index(value), (from: KMemory) => this.#memory(from).legal];
    this.#r.b.engine(mapEngine(inst, { use, memory, tile: same, signal: same, map: same }));
  }

  atomicMemory(memory: KMemory): KMemory {
    const { legal, storage } = this.#memory(memory);
    if (storage.scalar === memory.scalar) return legal;
    throw new TuttiError('E_UNSUPPORTED', `atomic operation on ${memory.scalar} elements of ${memory.name}`, {
      subject: this.#r.kernel.sources[0] ?? this.#r.kernel.name,
      expected: 'i32 or u32 elements on this device',
      found: memory.scalar,
      remedy: 'Use another device, or an element type of 32 bits',
    });
  }

  /** Indices are 32-bit: those in 64-bit types are of memory that is there, so their low word says all. */
  index(value: KValue): KValue {
    const rep = this.#r.get(value);
    if (rep.kind === 'pairs') return this.#r.w.signed(this.#r.w.unpack(rep.parts[0]).lo);
    return rep.parts[0];
  }
}
