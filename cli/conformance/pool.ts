/** Worker processes for cases: each does one at a time; one that crashes, hangs or has grown too large is replaced. */
import { type ChildProcess, fork } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { type ErrorCode, TuttiError } from '../../compiler/error.js';
import type { CaseJob, CaseOptions, CaseResult } from './case.js';
import type { WorkerCase, WorkerStart } from './worker.js';

export interface PoolOptions {
  readonly device?: string;
  readonly options: CaseOptions;
  readonly jobs: number;
  /** Milliseconds that one case may take. */
  readonly timeout: number;
  readonly onResult: (result: CaseResult) => void;
}

type Reply =
  | { readonly kind: 'ready'; readonly device: string }
  | { readonly kind: 'unusable'; readonly message: string; readonly code?: ErrorCode }
  | { readonly kind: 'result'; readonly result: CaseResult; readonly spent: boolean };

/** Opening a device may compile or wait for other processes. */
const startTimeout = 120_000;
/** A device that no worker can open twice in a row is not there. */
const maximumStarts = 3;

/** Runs all cases; resolves with the results in the order of the cases, and the id of the device. */
export async function runCases(
  cases: readonly CaseJob[],
  pool: PoolOptions,
): Promise<{ device: string; results: CaseResult[] }> {
  const results = new Array<CaseResult>(cases.length);
  let next = 0;
  let device = '';
  const lane = async (): Promise<void> => {
    let worker: Worker | undefined;
    try {
      while (next < cases.length) {
        worker ??= await startWorker(pool);
        device = worker.device;
        const index = next++;
        const { result, usable } = await worker.run(cases[index], pool.timeout);
        results[index] = result;
        pool.onResult(result);
        if (!usable) {
          worker.kill();
          worker = undefined;
        }
      }
    } finally {
      worker?.kill();
    }
  };
  const lanes = Math.min(pool.jobs, Math.max(1, cases.length));
  await Promise.all(Array.from({ length: lanes }, lane));
  return { device, results };
}

async function startWorker(pool: PoolOptions): Promise<Worker> {
  for (let attempt = 1; ; attempt++) {
    const worker = new Worker();
    try {
      await worker.start(pool.device, pool.options);
      return worker;
    } catch (error) {
      worker.kill();
      if (error instanceof TuttiError || attempt === maximumStarts) throw error;
    }
  }
}

const running = new Set<ChildProcess>();
process.on('exit', () => {
  for (const child of running) child.kill('SIGKILL');
});

class Worker {
  device = '';
  readonly #child: ChildProcess;
  #words = '';
  #settle: ((reply: Reply | Error) => void) | undefined;

  constructor() {
    this.#child = fork(fileURLToPath(new URL('./worker.js', import.meta.url)), [], {
      stdio: ['ignore', 'pipe', 'pipe', 'ipc'],
      serialization: 'advanced',
    });
    running.add(this.#child);
    // Drivers talk on both; the last words tell why a worker died.
    const listen = (chunk: Buffer): void => void (this.#words = (this.#words + chunk.toString()).slice(-2000));
    this.#child.stdout?.on('data', listen);
    this.#child.stderr?.on('data', listen);
    this.#child.on('message', (reply) => this.#settle?.(reply as Reply));
    this.#child.on('error', (error) => this.#settle?.(error));
    // Not 'exit': the pipes may still hold its last words then.
    this.#child.on('close', (code, signal) => {
      running.delete(this.#child);
      const words = this.#words.trim().split('\n').slice(-3).join(' | ');
      const how = signal === null ? `exit code ${code}` : signal;
      this.#settle?.(new Error(`the process died (${how})${words === '' ? '' : `: ${words}`}`));
    });
  }

  async start(device: string | undefined, options: CaseOptions): Promise<void> {
    const reply = await this.#ask({ kind: 'start', device, options }, startTimeout);
    if (reply instanceof Error) throw reply;
    if (reply.kind === 'unusable') {
      if (reply.code === undefined) throw new Error(reply.message);
      throw new TuttiError(reply.code, reply.message);
    }
    if (reply.kind === 'ready') this.device = reply.device;
  }

  async run(job: CaseJob, timeout: number): Promise<{ result: CaseResult; usable: boolean }> {
    const start = performance.now();
    this.#words = '';
    const reply = await this.#ask({ kind: 'case', job }, timeout);
    if (!(reply instanceof Error) && reply.kind === 'result') return { result: reply.result, usable: !reply.spent };
    const reason = reply instanceof Error ? reply.message : 'the worker answered something else';
    return {
      result: { name: job.name, status: 'failed', reason, ms: Math.round(performance.now() - start) },
      usable: false,
    };
  }

  kill(): void {
    this.#child.kill('SIGKILL');
  }

  #ask(message: WorkerStart | WorkerCase, timeout: number): Promise<Reply | Error> {
    return new Promise((resolve) => {
      const timer = setTimeout(() => {
        this.#settle = undefined;
        this.kill();
        resolve(new Error(`no answer within ${timeout / 1000} s`));
      }, timeout);
      this.#settle = (reply) => {
        clearTimeout(timer);
        this.#settle = undefined;
        resolve(reply);
      };
      this.#child.send(message, (error) => {
        // 'close' says more where the process has died.
        if (error) setTimeout(() => this.#settle?.(error), 1000);
      });
    });
  }
}
