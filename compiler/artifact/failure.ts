/** What is thrown for every artifact that is not whole. */
import { TuttiError } from '../error.js';

export const damaged = (message: string, subject?: string, expected?: string, found?: string): TuttiError =>
  new TuttiError('E_ARTIFACT', message, {
    ...(subject === undefined ? {} : { subject }),
    ...(expected === undefined ? {} : { expected }),
    ...(found === undefined ? {} : { found }),
    remedy: 'The file is damaged or was not written by tutti: make it again or fetch it anew.',
  });
