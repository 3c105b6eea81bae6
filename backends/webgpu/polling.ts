/**
 * How often Dawn looks for what has happened on the device, in Node.
 *
 * Its Node binding has no thread that waits: while anything is outstanding it asks in every turn of the event loop, by
 * `setImmediate`, and so keeps a core busy for the whole of a run — a core that kernels need where the device is
 * executed by the CPU. Calls that begin something go through `begin`: what they schedule by `setImmediate` is watched,
 * and after a while its turns are spaced by a timer. Browsers wait by themselves, and have no `setImmediate`.
 */

/** Milliseconds of asking in every turn before timers take over: what answers sooner is answered without delay. */
const eagerMs = { software: 2, hardware: 5 };
const pauseMs = 1;

type Schedule = (turn: (...args: unknown[]) => void, ...args: unknown[]) => unknown;

const immediates = globalThis as { setImmediate?: Schedule };

export class Polling {
  readonly #eager: number;
  #began = 0;

  constructor(software: boolean) {
    this.#eager = software ? eagerMs.software : eagerMs.hardware;
  }

  /** Makes a call that begins asynchronous work; its own synchronous part must not wait for other work. */
  begin<T>(call: () => T): T {
    this.#began = performance.now();
    return this.#watched(call);
  }

  #watched<T>(call: () => T): T {
    const { setImmediate } = immediates;
    if (setImmediate === undefined) return call();
    immediates.setImmediate = (turn, ...args) => {
      // Turns schedule the next one themselves.
      const watched = (): void => this.#watched(() => turn(...args));
      return performance.now() - this.#began < this.#eager ? setImmediate(watched) : setTimeout(watched, pauseMs);
    };
    try {
      return call();
    } finally {
      immediates.setImmediate = setImmediate;
    }
  }
}
