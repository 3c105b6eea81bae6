/** Errors that every driver throws alike, and the add-on's errors as ours. */
import { type ErrorCode, TuttiError } from '../../compiler/error.js';

export const closedError = (device: string): TuttiError =>
  new TuttiError('E_DEVICE_CLOSED', 'the device is closed', { subject: device, remedy: 'Open it again.' });

/** A buffer, kernel or list (`what`) of another device or backend. */
export const foreignError = (what: string): TuttiError =>
  new TuttiError('E_USAGE', `the ${what} belongs to another device`);

export const releasedError = (what: string): TuttiError =>
  new TuttiError('E_USAGE', `the ${what} was released before this use`);

/** Codes that native/ may give an error (`tutti::Error`). Others, `internal` above all, are bugs of ours. */
const nativeCodes: ReadonlySet<string> = new Set<ErrorCode>([
  'E_DEVICE',
  'E_DEVICE_UNKNOWN',
  'E_DEVICE_LOST',
  'E_DEVICE_CLOSED',
  'E_OUT_OF_MEMORY',
  'E_KERNEL',
]);

/** An error of the add-on as a TuttiError; anything else is a bug and stays what it is. */
export function fromNative(error: unknown, subject: string): unknown {
  if (!(error instanceof Error) || error instanceof TuttiError) return error;
  const { code } = error as Error & { code?: unknown };
  if (typeof code !== 'string' || !nativeCodes.has(code)) return error;
  return new TuttiError(code as ErrorCode, error.message, { subject, cause: error });
}

/** Runs `work`; what the add-on throws in it is thrown as a TuttiError about `subject`. */
export async function translated<T>(subject: string, work: () => T | Promise<T>): Promise<T> {
  try {
    return await work();
  } catch (error) {
    throw fromNative(error, subject);
  }
}
