/** Programs that time themselves: a line in, a line out. They stay up, so that their runs alternate with ours. */
import { type ChildProcessWithoutNullStreams, execFile, spawn } from 'node:child_process';
import { existsSync, mkdirSync, statSync } from 'node:fs';
import { basename, join } from 'node:path';
import { createInterface } from 'node:readline';
import { promisify } from 'node:util';
import { root, scratchFolder } from '../record.js';

const execute = promisify(execFile);

export class LineProcess {
  readonly #child: ChildProcessWithoutNullStreams;
  readonly #lines: AsyncIterator<string>;
  #errors = '';

  constructor(file: string, args: readonly string[]) {
    this.#child = spawn(file, args);
    this.#lines = createInterface({ input: this.#child.stdout })[Symbol.asyncIterator]();
    this.#child.stderr.on('data', (text: Buffer) => {
      this.#errors = (this.#errors + text.toString()).slice(-4000);
    });
    // A child that could not start, or ended: the next read reports it.
    this.#child.on('error', (error) => {
      this.#errors += error.message;
    });
    this.#child.stdin.on('error', () => {});
  }

  /** The next line that it writes. */
  async read(): Promise<string> {
    const { value, done } = await this.#lines.next();
    if (done) throw new Error(`it ended: ${this.#errors.trim().split('\n').at(-1) || 'without a word'}`);
    return value;
  }

  ask(line: string): Promise<string> {
    this.#child.stdin.write(`${line}\n`);
    return this.read();
  }

  close(): void {
    this.#child.stdin.end();
    this.#child.kill();
  }
}

/** A program of bench/native/, compiled when its source is newer. @returns its path @throws with the compiler's words */
export async function compiled(source: string, flags: readonly string[]): Promise<string> {
  mkdirSync(scratchFolder, { recursive: true });
  const from = join(root, 'bench', 'native', source);
  const to = join(scratchFolder, [basename(source, '.c'), ...flags].join('').replaceAll(/[^\w.=-]+/g, '_'));
  if (!existsSync(to) || statSync(to).mtimeMs < statSync(from).mtimeMs) {
    await execute(process.env.CC || 'cc', ['-O3', from, '-o', to, ...flags, '-lpthread', '-lm']);
  }
  return to;
}
