/**
 * Side-by-side timing in one process: blocks of runs of each subject in the order A B B A, so that drift of the clock
 * rate and of the neighbours' load falls on both alike.
 */
import { quantile } from './statistics.js';

export interface Subject {
  readonly name: string;
  run(): Promise<unknown>;
  /** Milliseconds of each of so many runs, for those that time themselves: other processes, other clocks. */
  block?(count: number): Promise<readonly number[]>;
}

export interface Schedule {
  /** Runs of each subject before anything is measured. */
  readonly warmup: number;
  /** Least number of measured runs of each subject. */
  readonly iterations: number;
  /** Milliseconds that measuring lasts at least, all subjects together. */
  readonly duration: number;
  /**
   * Milliseconds after which measuring ends with fewer runs, though at least `leastSamples` of each subject, and after a
   * quarter of which a subject's warm-up does; never if absent.
   */
  readonly limit?: number;
}

/** Fewer have no quartiles. */
const leastSamples = 3;

export interface Timing {
  readonly medianMs: number;
  readonly q1Ms: number;
  readonly q3Ms: number;
  readonly p10Ms: number;
  readonly p90Ms: number;
  readonly samples: number;
}

/**
 * One block lasts about this long: what a switch of subject costs, with cold caches and threads that the host of a virtual
 * machine has yet to spread, is then a small part of it. In blocks of 60 ms a kernel of 11 ms was seen 8 % slower.
 */
const blockMs = 250;
/**
 * Each block begins with runs that do not count: they meet cold caches and sleeping threads, and a system (or the host of
 * a virtual machine) that has not spread the threads over the cores yet, which was measured to take some 15 ms.
 */
const settleMs = 60;
/** In runs from this length on all that is a small part. */
const settledMs = blockMs;
/** Threads of a runtime that spin while they wait for more work have stopped by then: those of ONNX Runtime take 45 ms. */
const pauseMs = 60;
const maximumSamples = 100_000;

const pause = (ms: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, ms));

async function timeBlock(subject: Subject, count: number): Promise<readonly number[]> {
  if (subject.block !== undefined) return subject.block(count);
  const times: number[] = [];
  for (let n = 0; n < count; n++) {
    const begin = performance.now();
    await subject.run();
    times.push(performance.now() - begin);
  }
  return times;
}

async function settle(subject: Subject): Promise<void> {
  const end = performance.now() + settleMs;
  do await subject.run();
  while (performance.now() < end);
}

/** Runs that do not count. @returns milliseconds of the last one */
async function warmUp(subject: Subject, { warmup, limit = Number.POSITIVE_INFINITY }: Schedule): Promise<number> {
  const [first] = await timeBlock(subject, 1);
  const more = Math.min(warmup - 1, Math.floor((limit / 4 - first) / first));
  return more < 1 ? first : ((await timeBlock(subject, more)).at(-1) ?? first);
}

/** Timings in the order of the subjects. */
export async function measure(subjects: readonly Subject[], schedule: Schedule): Promise<readonly Timing[]> {
  const samples: number[][] = subjects.map(() => []);
  const lengths: number[] = [];
  for (const subject of subjects) {
    lengths.push(Math.max(await warmUp(subject, schedule), 1e-3));
    await pause(pauseMs);
  }
  const perBlock = lengths.map((length) => Math.min(1000, Math.ceil(blockMs / length)));
  const { iterations, duration, limit = Number.POSITIVE_INFINITY } = schedule;
  const start = performance.now();
  const enough = (round: number): boolean => {
    const elapsed = performance.now() - start;
    const fewest = Math.min(...samples.map(({ length }) => length));
    if (fewest >= iterations && elapsed >= duration) return true;
    // Who goes first in one round goes last in the next.
    if (round % 2 === 0 && fewest >= leastSamples && elapsed >= limit) return true;
    return samples.some(({ length }) => length >= maximumSamples);
  };
  for (let round = 0; !enough(round); round++) {
    const order = subjects.map((_, i) => (round % 2 === 0 ? i : subjects.length - 1 - i));
    for (const i of order) {
      if (subjects.length > 1 && lengths[i] < settledMs) await settle(subjects[i]);
      for (const sample of await timeBlock(subjects[i], perBlock[i])) samples[i].push(sample);
      if (subjects.length > 1) await pause(pauseMs);
    }
  }
  return samples.map((times) => ({
    medianMs: quantile(times, 0.5),
    q1Ms: quantile(times, 0.25),
    q3Ms: quantile(times, 0.75),
    p10Ms: quantile(times, 0.1),
    p90Ms: quantile(times, 0.9),
    samples: times.length,
  }));
}
