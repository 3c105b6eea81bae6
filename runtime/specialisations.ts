/**
 * The executables of a session, one for each tuple of input shapes: built when first asked for, bounded in number, the
 * least recently used given up first, but never while it runs.
 */
import type { Executable } from './executable.js';
import type { Pending } from './steps.js';

interface Entry {
  readonly key: string;
  readonly executable: Promise<Executable>;
  /** Set once the promise is fulfilled. */
  ready?: Executable;
  users: number;
  /** Who has asked before it was ready: others come after them. */
  waiting: number;
  /** Set when it is given up: called when it is gone. */
  retired?: () => void;
}

/** The right to use an executable until `release`. */
export interface Lease {
  readonly executable: Executable;
  release(): void;
}

export class Specialisations {
  readonly #capacity: number;
  /** In order of use: Map keeps insertion order. */
  readonly #entries = new Map<string, Entry>();
  /** Those given up and not yet gone. */
  readonly #retiring = new Set<Promise<void>>();
  readonly #failures: unknown[] = [];

  constructor(capacity: number) {
    this.#capacity = capacity;
  }

  /** Those that are ready, least recently used first. */
  get ready(): readonly Executable[] {
    return [...this.#entries.values()].flatMap(({ ready }) => (ready === undefined ? [] : [ready]));
  }

  has(key: string): boolean {
    return this.#entries.has(key);
  }

  /** Joins a build that is under way. A failed build is forgotten. */
  lease(key: string, build: () => Promise<Executable>): Pending<Lease> {
    const entry = this.#entries.get(key) ?? this.#start(key, build);
    const { ready, waiting } = entry;
    return ready === undefined || waiting > 0 ? this.#leaseLater(entry) : this.#lease(entry, ready);
  }

  /** Undefined if there is none, or it is still being built. */
  leaseReady(key: string): Lease | undefined {
    const entry = this.#entries.get(key);
    return entry?.ready && this.#lease(entry, entry.ready);
  }

  async #leaseLater(entry: Entry): Promise<Lease> {
    const waited = this.#use(entry);
    entry.waiting++;
    try {
      return this.#lease(entry, await entry.executable);
    } finally {
      entry.waiting--;
      waited();
    }
  }

  #lease(entry: Entry, executable: Executable): Lease {
    return { executable, release: this.#use(entry) };
  }

  /** Keeps the entry until what it returns is called. */
  #use(entry: Entry): () => void {
    if (this.#entries.delete(entry.key)) this.#entries.set(entry.key, entry);
    entry.users++;
    let released = false;
    this.#shrink();
    return () => {
      if (released) return;
      released = true;
      entry.users--;
      if (entry.retired !== undefined && entry.users === 0) this.#dispose(entry, entry.retired);
      else this.#shrink();
    };
  }

  #start(key: string, build: () => Promise<Executable>): Entry {
    const entry: Entry = { key, executable: build(), users: 0, waiting: 0 };
    this.#entries.set(key, entry);
    entry.executable.then(
      (executable) => {
        entry.ready = executable;
      },
      () => {
        if (this.#entries.get(key) === entry) this.#entries.delete(key);
      },
    );
    return entry;
  }

  #shrink(): void {
    for (const entry of this.#entries.values()) {
      if (this.#entries.size <= this.#capacity) return;
      if (entry.users === 0) this.#retire(entry);
    }
  }

  /** Gives up all that are idle; resolves when their memory is free. True if there were any. */
  async evictIdle(): Promise<boolean> {
    const idle = [...this.#entries.values()].filter(({ users }) => users === 0);
    for (const entry of idle) this.#retire(entry);
    await Promise.all(this.#retiring);
    return idle.length > 0;
  }

  /**
   * Gives up all, those in use when their last user is done; resolves when nothing is left. Rejects, then too, if
   * anything could not be given back.
   */
  async close(): Promise<void> {
    for (const entry of [...this.#entries.values()]) this.#retire(entry);
    while (this.#retiring.size > 0) await Promise.all(this.#retiring);
    if (this.#failures.length > 0) throw this.#failures[0];
  }

  #retire(entry: Entry): void {
    this.#entries.delete(entry.key);
    const gone = new Promise<void>((resolve) => {
      entry.retired = resolve;
      if (entry.users === 0) this.#dispose(entry, resolve);
    });
    this.#retiring.add(gone);
    gone.then(() => this.#retiring.delete(gone));
  }

  #dispose(entry: Entry, done: () => void): void {
    entry.executable
      .then(
        (executable) => executable.dispose(),
        // A build that failed left nothing.
        () => undefined,
      )
      .catch((error: unknown) => this.#failures.push(error))
      .finally(done);
  }
}
