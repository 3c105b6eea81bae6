/** Catches the error that a test is about. */
import { TuttiError } from '../../compiler/error.js';

/** The TuttiError that `call` throws; anything else, or nothing, fails the test. */
export function errorOf(call: () => unknown): TuttiError {
  try {
    call();
  } catch (error) {
    if (error instanceof TuttiError) return error;
    throw error;
  }
  throw new Error('a TuttiError was expected, nothing was thrown');
}
