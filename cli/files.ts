/** Output files of the command: checked before work starts, written whole or not at all. */
import { randomBytes } from 'node:crypto';
import { closeSync, mkdirSync, openSync, readdirSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { TuttiError } from '../compiler/error.js';

/** Paths announced by `checkWritable`: what to tidy up should the process be interrupted. */
const announced = new Set<string>();

const temporaryOf = (path: string): string =>
  join(dirname(path), `.${basename(path)}.${process.pid}.${randomBytes(6).toString('hex')}.tmp`);

function refusal(path: string, cause: unknown): TuttiError {
  const code = (cause as NodeJS.ErrnoException).code;
  const found =
    code === 'ENOENT' ? 'the folder does not exist' : cause instanceof Error ? cause.message : String(cause);
  return new TuttiError('E_IO', 'cannot be written', { subject: path, found, cause });
}

/** Finds out whether a file can be written, and leaves nothing behind. @throws TuttiError E_IO */
export function checkWritable(path: string): string {
  const target = resolve(path);
  if (statSync(target, { throwIfNoEntry: false })?.isDirectory()) {
    throw new TuttiError('E_IO', 'cannot be written', { subject: path, found: 'a folder of that name' });
  }
  const probe = temporaryOf(target);
  try {
    closeSync(openSync(probe, 'wx'));
  } catch (cause) {
    throw refusal(path, cause);
  } finally {
    rmSync(probe, { force: true });
  }
  announced.add(target);
  return target;
}

/** Makes a folder for output, its last level if it is missing. @throws TuttiError E_IO */
export function checkFolder(path: string): string {
  const target = resolve(path);
  try {
    mkdirSync(target, { recursive: statSync(dirname(target), { throwIfNoEntry: false })?.isDirectory() === true });
  } catch (cause) {
    throw refusal(path, cause);
  }
  checkWritable(join(target, 'file'));
  return target;
}

/** Writes beside the target and renames: nobody ever sees half a file. @throws TuttiError E_IO */
export function writeOutput(path: string, content: Uint8Array | string): void {
  const temporary = temporaryOf(path);
  try {
    writeFileSync(temporary, content, { flag: 'wx' });
    renameSync(temporary, path);
  } catch (cause) {
    rmSync(temporary, { force: true });
    throw refusal(path, cause);
  }
}

/** Removes unfinished files of this process: for the moment of an interrupt. */
export function removeUnfinished(): void {
  for (const path of announced) {
    const prefix = `.${basename(path)}.${process.pid}.`;
    try {
      for (const entry of readdirSync(dirname(path))) {
        if (entry.startsWith(prefix) && entry.endsWith('.tmp')) rmSync(join(dirname(path), entry), { force: true });
      }
    } catch {
      // The folder is gone: nothing to tidy up.
    }
  }
}
