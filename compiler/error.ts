/** The one error type for mistakes that a user can mend. Anything else that is thrown is a bug of ours. */

export type ErrorCode =
  | 'E_USAGE' // wrong flag or argument
  | 'E_INPUT' // input name, dtype, rank, size or value
  | 'E_MODEL_FORMAT' // not a model, truncated, out of bounds
  | 'E_MODEL_INVALID' // decodes, but is not a valid graph
  | 'E_EXTERNAL_DATA'
  | 'E_UNSUPPORTED' // op, opset, dtype or feature not supported (yet)
  | 'E_SHAPE'
  | 'E_ARTIFACT'
  | 'E_IR' // text of one of our IRs that does not parse or verify
  | 'E_DEVICE_UNKNOWN'
  | 'E_DEVICE' // cannot be opened or used
  | 'E_DEVICE_LOST'
  | 'E_DEVICE_CLOSED'
  | 'E_OUT_OF_MEMORY'
  | 'E_KERNEL' // the device's compiler refused a kernel
  | 'E_NOT_READY' // asked to do at once what first has to be waited for
  | 'E_IO'
  | 'E_ABORTED';

export interface ErrorDetails {
  /** Source node (`Conv_23`), flag or file. */
  readonly subject?: string;
  readonly expected?: string;
  readonly found?: string;
  /** What to do about it. */
  readonly remedy?: string;
  readonly cause?: unknown;
}

export class TuttiError extends Error {
  override readonly name = 'TuttiError';
  readonly code: ErrorCode;
  readonly details: ErrorDetails;

  constructor(code: ErrorCode, message: string, details: ErrorDetails = {}) {
    super(formatMessage(message, details), details.cause === undefined ? undefined : { cause: details.cause });
    this.code = code;
    this.details = details;
  }
}

function formatMessage(message: string, { subject, expected, found, remedy }: ErrorDetails): string {
  let text = subject === undefined ? message : `${subject}: ${message}`;
  if (expected !== undefined) text += `; expected ${expected}`;
  if (found !== undefined) text += `${expected === undefined ? ';' : ','} found ${found}`;
  if (remedy !== undefined) text += `. ${remedy}`;
  return text;
}
