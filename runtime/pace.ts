/** Lets the event loop breathe during long synchronous work, such as planning and rendering many kernels. */

/** Milliseconds of work before the loop gets a turn. */
const slice = 10;

/** Resolves after the event loop has served what waits. Unlike setTimeout it is neither clamped nor delayed. */
export function nextTurn(): Promise<void> {
  if (typeof setImmediate === 'function') return new Promise((resolve) => setImmediate(resolve));
  return new Promise((resolve) => {
    const { port1, port2 } = new MessageChannel();
    port1.onmessage = () => {
      port1.close();
      resolve();
    };
    port2.postMessage(null);
  });
}

/** Call between units of work: gives way when the slice is used up. */
export class Pace {
  #since = performance.now();

  async breathe(): Promise<void> {
    if (performance.now() - this.#since < slice) return;
    await nextTurn();
    this.#since = performance.now();
  }
}
