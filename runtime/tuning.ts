/**
 * Tuning files: which form was fastest for which kernel on which device. JSON, so that they can be merged, looked at and
 * carried to machines of the same kind. What does not fit where it is read changes nothing.
 */
import { TuttiError } from '../compiler/error.js';
import type { Target } from '../compiler/kernel/target.js';
import type { DeviceInfo } from './api.js';

const format = 'tutti tuning 1';

export interface TuningEntry {
  /** Backend, name and, of a CPU, threads. */
  readonly device: string;
  readonly driver: string;
  /** Backend and architecture: for programs that are made without a device. */
  readonly target: string;
  /** Signature of the group. */
  readonly kernel: string;
  /** For people. */
  readonly name: string;
  /** The form that was fastest. */
  readonly form: string;
  /** By form, of a run; null where it was given up or gave other results. */
  readonly microseconds: Readonly<Record<string, number | null>>;
  /** When, in ISO 8601. */
  readonly measured: string;
}

export type Tuning = readonly TuningEntry[];

/** As entries name it. */
export function deviceName({ backend, name, limits }: DeviceInfo): string {
  return `${backend}: ${name}${limits.threads === undefined ? '' : `, ${limits.threads} threads`}`;
}
export const targetName = ({ backend, arch }: Target): string => `${backend}:${arch}`;

/** @throws TuttiError E_INPUT naming `subject` if it is no tuning file */
export function parseTuning(text: string, subject: string): Tuning {
  const refuse = (found: string): TuttiError =>
    new TuttiError('E_INPUT', 'not a tuning file', { subject, expected: `JSON with format '${format}'`, found });
  let document: { readonly format?: unknown; readonly entries?: unknown };
  try {
    document = JSON.parse(text) as typeof document;
  } catch (cause) {
    throw refuse((cause as Error).message);
  }
  if (document?.format !== format || !Array.isArray(document.entries)) throw refuse(`format ${document?.format}`);
  for (const [i, entry] of document.entries.entries()) if (!isEntry(entry)) throw refuse(`a bad entry ${i}`);
  return document.entries as Tuning;
}

function isEntry(entry: unknown): entry is TuningEntry {
  if (typeof entry !== 'object' || entry === null) return false;
  const fields = entry as Readonly<Record<string, unknown>>;
  const texts = ['device', 'driver', 'target', 'kernel', 'name', 'form', 'measured'];
  const { microseconds } = fields;
  if (!texts.every((field) => typeof fields[field] === 'string')) return false;
  if (typeof microseconds !== 'object' || microseconds === null) return false;
  return Object.values(microseconds).every((time) => time === null || Number.isFinite(time));
}

export const printTuning = (tuning: Tuning): string => `${JSON.stringify({ format, entries: tuning }, undefined, 1)}\n`;

/** All that is in any of them; of entries for one kernel on one device the latest. */
export function mergeTuning(...tunings: readonly Tuning[]): Tuning {
  const entries = new Map<string, TuningEntry>();
  for (const entry of tunings.flat()) {
    const key = JSON.stringify([entry.device, entry.driver, entry.kernel]);
    const known = entries.get(key);
    if (known === undefined || known.measured <= entry.measured) entries.set(key, entry);
  }
  return [...entries].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, entry]) => entry);
}

/** Forms by signature, of this device under this driver. */
export function chosenOn(tuning: Tuning, info: DeviceInfo): ReadonlyMap<string, string> {
  const device = deviceName(info);
  return formsOf(tuning.filter((entry) => entry.device === device && entry.driver === info.driver));
}

/** Forms by signature, of any device of this kind; where several were measured, the latest. */
export function chosenFor(tuning: Tuning, target: Target): ReadonlyMap<string, string> {
  const name = targetName(target);
  return formsOf(tuning.filter((entry) => entry.target === name).sort((a, b) => (a.measured < b.measured ? -1 : 1)));
}

const formsOf = (entries: Tuning): ReadonlyMap<string, string> =>
  new Map(entries.map(({ kernel, form }) => [kernel, form]));
