/**
 * The executables of a session, one for each tuple of input shapes: built when first asked for, bounded in number, the
 * least recently used given up first, but never while it runs.
 */
import type { Executable } from './executable.js';

interface Entry {
  readonly key: string;
  readonly executable: Promise<Executable>;
  /** Set once the promise is fulfilled. */
  ready?: Executable;
  users: number;
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
  async lease(key: string, build: () => Promise<Executable>): Promise<Lease> {
    let entry = this.#entries.get(key);
    if (entry === undefined) entry = this.#start(key, build);
    else {
      this.#entries.delete(key);
      this.#entries.set(key, entry);
    }
    const leased = entry;
    leased.users++;
    let released = false;
    const release = (): void => {
      if (released) return;
      released = true;
      leased.users--;
      if (leased.retired !== undefined && leased.users === 0) this.#dispose(leased, leased.retired);
      else this.#shrink();
    };
    this.#shrink();
    try {
      return { executable: await leased.executable, release };
    } catch (error) {
      release();
      throw error;
    }
  }

  #start(key: string, build: () => Promise<Executable>): Entry {
    const entry: Entry = { key, executable: build(), users: 0 };
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
