/** How the harness times: tinybench runs the blocks of a subject, cli/measure puts the blocks in turns. */
import { Bench } from 'tinybench';
import { measure, type Schedule, type Subject, type Timing } from '../cli/measure.js';

/** Blocks of a subject by tinybench; a subject that times itself keeps doing so. */
function byTinybench(subject: Subject): Subject {
  if (subject.block !== undefined) return subject;
  return {
    ...subject,
    run: () => subject.run(),
    async block(count) {
      const bench = new Bench({ iterations: count, time: 0, warmup: false, retainSamples: true, throws: true });
      bench.add(subject.name, () => subject.run(), { async: true });
      const [task] = await bench.run();
      const { result } = task;
      if (!('latency' in result) || result.latency.samples === undefined) {
        throw new Error(`tinybench ended as ${result.state}`);
      }
      return result.latency.samples;
    },
  };
}

export const full: Schedule = { warmup: 5, iterations: 20, duration: 3000, limit: 30_000 };
/** Where a run, ours or a peer's, may take seconds: a suite is to end while somebody waits for it. */
export const software: Schedule = { ...full, limit: 8000 };
export const quick: Schedule = { warmup: 1, iterations: 3, duration: 100 };

/** In the order of the subjects. */
export const timeSubjects = (subjects: readonly Subject[], schedule: Schedule): Promise<readonly Timing[]> =>
  measure(subjects.map(byTinybench), schedule);
