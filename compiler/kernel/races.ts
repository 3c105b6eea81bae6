/** Finds invocations that touch one element of a memory without a barrier between, at least one of them writing. */
import type { KMemory } from './types.js';

const nobody = -1;
const several = -2;
const atomically = -3;

export type AccessKind = 'read' | 'write' | 'atomic';

/**
 * Shadow of one memory. Epochs count barriers and workgroups over the whole grid, so two accesses are ordered if they
 * come from one invocation or from different epochs of one workgroup. Workgroups are never ordered with each other.
 */
export class RaceDetector {
  readonly #kernel: string;
  readonly #memory: KMemory;
  readonly #isGlobal: boolean;
  /** Last writer (or `atomically`) and its epoch. */
  readonly #writer: Int32Array;
  readonly #writeEpoch: Int32Array;
  /** Last reader (or `several`) and its epoch, and the epoch of the first read at all. */
  readonly #reader: Int32Array;
  readonly #readEpoch: Int32Array;
  readonly #firstRead: Int32Array;
  #workgroupStart = 0;

  constructor(kernel: string, memory: KMemory) {
    this.#kernel = kernel;
    this.#memory = memory;
    this.#isGlobal = memory.kind === 'buffer';
    this.#writer = new Int32Array(memory.length).fill(nobody);
    this.#writeEpoch = new Int32Array(memory.length);
    this.#reader = new Int32Array(memory.length).fill(nobody);
    this.#readEpoch = new Int32Array(memory.length);
    this.#firstRead = new Int32Array(memory.length);
  }

  beginWorkgroup(epoch: number): void {
    this.#workgroupStart = epoch;
  }

  /** Notes an access to element `at` by an invocation (its linear id in the workgroup); throws on a race. */
  access(kind: AccessKind, at: number, invocation: number, epoch: number): void {
    const writer = this.#writer[at];
    if (writer !== nobody && this.#concurrent(this.#writeEpoch[at], writer, invocation, epoch)) {
      if (kind !== 'atomic' || writer !== atomically) this.#fail(at, writer === atomically ? 'atomic' : 'write', kind);
    }
    if (kind === 'read') {
      const sameEpoch = this.#reader[at] !== nobody && this.#readEpoch[at] === epoch;
      if (this.#reader[at] === nobody) this.#firstRead[at] = epoch;
      this.#reader[at] = sameEpoch && this.#reader[at] !== invocation ? several : invocation;
      this.#readEpoch[at] = epoch;
      return;
    }
    if (this.#reader[at] !== nobody) {
      const early = this.#isGlobal && this.#firstRead[at] < this.#workgroupStart;
      if (early || this.#concurrent(this.#readEpoch[at], this.#reader[at], invocation, epoch))
        this.#fail(at, 'read', kind);
    }
    this.#writer[at] = kind === 'atomic' ? atomically : invocation;
    this.#writeEpoch[at] = epoch;
  }

  #concurrent(thenEpoch: number, then: number, now: number, nowEpoch: number): boolean {
    if (thenEpoch < this.#workgroupStart) return this.#isGlobal;
    return thenEpoch === nowEpoch && then !== now;
  }

  #fail(at: number, first: AccessKind, second: AccessKind): never {
    throw new Error(
      `kernel ${this.#kernel}: race on ${this.#memory.name}[${at}]: ${first} and ${second} by different invocations without a barrier between`,
    );
  }
}
