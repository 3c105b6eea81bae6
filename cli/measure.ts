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
}

export interface Timing {
  readonly medianMs: number;
  readonly q1Ms: number;
  readonly q3Ms: number;
  readonly p10Ms: number;
  readonly p90Ms: number;
  readonly samples: number;
}

/** One block lasts about this long: a switch of subject, with cold caches, is then a small part of it. */
const blockMs = 60;
/**
 * Each block begins with runs that do not count: they meet cold caches and sleeping threads, and a system (or the host of
 * a virtual machine) that has not spread the threads over the cores yet, which was measured to take some 15 ms.
 */
const settleMs = 25;
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

/** Timings in the order of the subjects. */
export async function measure(subjects: readonly Subject[], schedule: Schedule): Promise<readonly Timing[]> {
  const samples: number[][] = subjects.map(() => []);
  const perBlock: number[] = [];
  for (const subject of subjects) {
    const times = await timeBlock(subject, Math.max(1, schedule.warmup));
    const last = times[times.length - 1];
    perBlock.push(Math.min(1000, Math.max(1, Math.ceil(blockMs / Math.max(last, 1e-3)))));
    await pause(pauseMs);
  }
  const start = performance.now();
  const enough = (): boolean =>
    (samples.every(({ length }) => length >= schedule.iterations) && performance.now() - start >= schedule.duration) ||
    samples.some(({ length }) => length >= maximumSamples);
  for (let round = 0; !enough(); round++) {
    const order = subjects.map((_, i) => (round % 2 === 0 ? i : subjects.length - 1 - i));
    for (const i of order) {
      if (subjects.length > 1) await settle(subjects[i]);
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
