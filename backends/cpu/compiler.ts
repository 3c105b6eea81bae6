/**
 * The host's C compiler: finding it, what to ask of it, and running it without a shell.
 */
import { spawn } from 'node:child_process';

export interface HostCompiler {
  /** Program and leading arguments (`$CC` may hold both). */
  readonly command: readonly string[];
  /** First line of `--version`. */
  readonly version: string;
}

export interface CompilerResult {
  readonly code: number | null;
  readonly output: string;
}

/**
 * IEEE arithmetic as Kernel IR has it: nothing contracted or reassociated, but no errno and no floating-point traps to
 * preserve, which vectorisation needs. Signed overflow is undefined: the renderer computes what may wrap unsigned.
 */
export function compilerFlags(features: readonly string[], architecture: string): readonly string[] {
  const arm = architecture === 'arm64' || architecture === 'aarch64';
  return [
    '-std=gnu17', '-O3', arm ? '-mcpu=native' : '-march=native',
    '-ffp-contract=off', '-fno-math-errno', '-fno-trapping-math', '-fno-strict-aliasing',
    '-fPIC', '-shared', '-fvisibility=hidden', '-w',
    // Compilers default to 256 bits for fear of lower clocks, which later processors do not have.
    ...(features.includes('avx512f') ? ['-mprefer-vector-width=512'] : []),
  ];
}

/** Tried in this order. */
function candidates(): readonly (readonly string[])[] {
  const chosen = process.env.CC?.trim();
  const list = [['cc'], ['gcc'], ['clang']];
  return chosen ? [chosen.split(/\s+/), ...list] : list;
}

/** The first compiler that answers, or the reason why there is none. */
export async function findCompiler(): Promise<HostCompiler | { readonly reason: string }> {
  const tried: string[] = [];
  for (const command of candidates()) {
    try {
      const { code, output } = await runCompiler(command, ['--version']);
      if (code === 0) return { command, version: output.split('\n', 1)[0].trim() };
      tried.push(`${command.join(' ')} (exit code ${code})`);
    } catch (error) {
      tried.push(`${command.join(' ')} (${(error as NodeJS.ErrnoException).code ?? String(error)})`);
    }
  }
  return {
    reason: `no C compiler found, tried ${tried.join(', ')}: install gcc or clang (Debian: apt install gcc; macOS: xcode-select --install) or set CC`,
  };
}

/** Runs the compiler with `input` on stdin. Rejects only if it cannot be started. */
export function runCompiler(command: readonly string[], args: readonly string[], input = ''): Promise<CompilerResult> {
  return new Promise((resolve, reject) => {
    const child = spawn(command[0], [...command.slice(1), ...args], { stdio: ['pipe', 'pipe', 'pipe'] });
    let output = '';
    const collect = (chunk: string) => {
      output += chunk;
    };
    child.stdout.setEncoding('utf8').on('data', collect);
    child.stderr.setEncoding('utf8').on('data', collect);
    child.once('error', reject);
    child.once('close', (code) => resolve({ code, output }));
    child.stdin.on('error', () => undefined); // it ended before it read everything: its exit code tells
    child.stdin.end(input);
  });
}
