/** Us, as a subject: a session fed from the host as users do on a CPU, or bound to memory of a device. */

import type { Subject } from '../cli/measure.js';
import type { Session } from '../runtime/session.js';
import type { Tensor } from '../runtime/tensor.js';

export type Feeds = Readonly<Record<string, Tensor>>;

/** Runs in flight on an accelerator at once, so that its work is timed and not the wait for its answer. */
export const inFlight = 16;

/** Sets of inputs are taken in turn, run by run. */
export function hostSubject(session: Session, feeds: readonly Feeds[]): Subject {
  let next = 0;
  return { name: 'tutti', run: () => session.run(feeds[next++ % feeds.length]) };
}

export async function boundSubject(session: Session, feeds: readonly Feeds[], depth: number): Promise<Subject> {
  const bindings = await Promise.all(feeds.map((inputs) => session.bind({ inputs, outputs: placed(session) })));
  let next = 0;
  const run = (): Promise<unknown> => bindings[next++ % bindings.length].run();
  return {
    name: 'tutti',
    run,
    async block(count) {
      const times: number[] = [];
      // At most as many as were asked for: one run may take long.
      const together = Math.min(depth, count);
      for (let done = 0; done < count; done += together) {
        const start = performance.now();
        const results = await Promise.all(Array.from({ length: together }, run));
        times.push((performance.now() - start) / together);
        for (const tensors of results) dispose(tensors as Readonly<Record<string, Tensor>>);
      }
      return times;
    },
  };
}

const placed = (session: Session): Record<string, 'device'> =>
  Object.fromEntries(session.outputNames.map((name) => [name, 'device']));

function dispose(tensors: Readonly<Record<string, Tensor>>): void {
  for (const tensor of Object.values(tensors)) tensor.dispose();
}
