/** What a run that was aborted rejects with. */
import { TuttiError } from '../compiler/error.js';

/** A reason of the caller's own is theirs to get back; the standard ones become E_ABORTED. */
export function abortError(signal: AbortSignal): Error {
  const reason: unknown = signal.reason;
  const standard = reason instanceof DOMException && (reason.name === 'AbortError' || reason.name === 'TimeoutError');
  if (reason instanceof Error && !standard) return reason;
  const message = standard && reason.name === 'TimeoutError' ? 'the run took too long' : 'the run was aborted';
  return new TuttiError('E_ABORTED', message, { cause: reason });
}
