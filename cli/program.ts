/** How every command of this repository ends: what went wrong on stderr, and an exit code (`output.ts`). */
import { type Command, CommanderError } from 'commander';
import { describeError, exitCodeOf, note } from './output.js';

/** Parses the arguments of the process and does what they ask. @returns the exit code, as of `runWork` */
export function runProgram(program: Command): Promise<number> {
  for (const command of [program, ...program.commands]) {
    command.option('--debug', 'print stack traces of errors').exitOverride();
  }
  return runWork(() => program.parseAsync());
}

/** @returns the exit code: that of the error, else what the work has set as `process.exitCode` */
export async function runWork(work: () => unknown): Promise<number> {
  try {
    await work();
  } catch (error) {
    // Commander has said what is wrong, or has printed the help or version asked for.
    if (error instanceof CommanderError) return error.exitCode === 0 ? 0 : 2;
    note(describeError(error, process.argv.includes('--debug')));
    return exitCodeOf(error);
  }
  return Number(process.exitCode ?? 0);
}

/** Ends the process once stdout is written: drivers keep threads of their own, which nobody waits for. */
export const leave = (code: number): void => void process.stdout.write('', () => process.exit(code));
