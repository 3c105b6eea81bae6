/** What the command says: documents on stdout, everything else on stderr, and exit codes. */
import { type ErrorCode, TuttiError } from '../compiler/error.js';

/** 0 done, 1 the answer is no, 2 wrong usage, 3 internal. */
export type ExitCode = 0 | 1 | 2 | 3;

/** Whose turn it is to mend something: the model says no (1), the caller asked wrongly (2), we or the device failed (3). */
const exitCodes: Readonly<Record<ErrorCode, ExitCode>> = {
  E_USAGE: 2,
  E_INPUT: 2,
  E_IO: 2,
  E_NOT_READY: 2,
  E_DEVICE_UNKNOWN: 2,
  E_MODEL_FORMAT: 1,
  E_MODEL_INVALID: 1,
  E_EXTERNAL_DATA: 1,
  E_UNSUPPORTED: 1,
  E_SHAPE: 1,
  E_ARTIFACT: 1,
  E_OUT_OF_MEMORY: 1,
  E_ABORTED: 1,
  E_IR: 3,
  E_DEVICE: 3,
  E_DEVICE_LOST: 3,
  E_DEVICE_CLOSED: 3,
  E_KERNEL: 3,
};

export const exitCodeOf = (error: unknown): ExitCode => (error instanceof TuttiError ? exitCodes[error.code] : 3);

/** An error as a reader wants it: no stack unless it is asked for. */
export function describeError(error: unknown, debug: boolean): string {
  if (error instanceof TuttiError) {
    const text = `error ${error.code}: ${error.message}`;
    return debug && error.stack !== undefined ? `${text}\n${error.stack}` : text;
  }
  const stack = error instanceof Error ? (error.stack ?? error.message) : String(error);
  if (debug) return `internal error: ${stack}`;
  const message = error instanceof Error ? error.message : String(error);
  return `internal error: ${message}\nThis is a fault of ours: run again with --debug and report what it prints.`;
}

/** The one document of `--json`. */
export function printJson(document: unknown): void {
  process.stdout.write(`${JSON.stringify(document, null, 2)}\n`);
}

export const print = (text = ''): void => void process.stdout.write(`${text}\n`);
/** For people, never part of the result. */
export const note = (text: string): void => void process.stderr.write(`${text}\n`);

type Align = 'left' | 'right';

/** Columns padded to their widest cell; headings first. */
export function table(
  heads: readonly string[],
  rows: readonly (readonly string[])[],
  align: readonly Align[] = [],
): string {
  const widths = heads.map((head, i) => Math.max(head.length, ...rows.map((row) => (row[i] ?? '').length)));
  const line = (cells: readonly string[]): string =>
    widths
      .map((width, i) => (align[i] === 'right' ? (cells[i] ?? '').padStart(width) : (cells[i] ?? '').padEnd(width)))
      .join('  ')
      .trimEnd();
  return [line(heads), line(widths.map((width) => '-'.repeat(width))), ...rows.map(line)].join('\n');
}

const units = ['B', 'KiB', 'MiB', 'GiB', 'TiB'];

/** `1.5 MiB`. */
export function formatBytes(bytes: number): string {
  let [value, unit] = [bytes, 0];
  while (value >= 1024 && unit < units.length - 1) [value, unit] = [value / 1024, unit + 1];
  return `${unit === 0 ? value : value.toFixed(value < 10 ? 2 : 1)} ${units[unit]}`;
}

/** `0.042 ms`, `3.1 ms`, `2.40 s`. */
export function formatMs(ms: number): string {
  if (ms >= 10_000) return `${(ms / 1000).toFixed(1)} s`;
  if (ms >= 1000) return `${(ms / 1000).toFixed(2)} s`;
  return `${ms.toFixed(ms < 1 ? 3 : ms < 100 ? 2 : 0)} ms`;
}

/** Four significant digits, short. */
export function formatNumber(value: number): string {
  if (!Number.isFinite(value)) return String(value);
  if (Number.isInteger(value) && Math.abs(value) < 1e9) return String(value);
  return String(Number(value.toPrecision(4)));
}

/** A dim for people: expressions in named dims can be longer than a screen. */
export const shortDim = (dim: number | string): string =>
  typeof dim === 'string' && dim.length > 24 ? `${dim.slice(0, 20)}…` : String(dim);

/** How far long work has come: a bar on a terminal, a line every few seconds elsewhere. */
export class Progress {
  readonly #label: string;
  readonly #total: number;
  readonly #bar = process.stderr.isTTY === true;
  #done = 0;
  #lastLine = performance.now();

  constructor(label: string, total: number) {
    this.#label = label;
    this.#total = total;
  }

  step(about = ''): void {
    this.#done++;
    const now = performance.now();
    if (this.#bar) {
      if (now - this.#lastLine < 50 && this.#done < this.#total) return;
      const width = 24;
      const filled = Math.round((width * this.#done) / Math.max(1, this.#total));
      const bar = '█'.repeat(filled) + '░'.repeat(width - filled);
      process.stderr.write(`\r\x1b[K${this.#label} ${bar} ${this.#done}/${this.#total} ${about.slice(0, 60)}`);
    } else if (now - this.#lastLine > 5000) note(`${this.#label} ${this.#done}/${this.#total} ${about}`);
    else return;
    this.#lastLine = now;
  }

  end(): void {
    if (this.#bar) process.stderr.write('\r\x1b[K');
  }
}
