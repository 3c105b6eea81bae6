/** The environment variables that the runtime obeys. In a browser there are none. */

const read = (name: string): string | undefined => {
  const environment = (globalThis as { process?: { env?: Record<string, string | undefined> } }).process?.env;
  return environment?.[name] || undefined;
};

/** Default device: an id, a backend name or `auto`. */
export const defaultDevice = (): string => read('TUTTI_DEVICE') ?? 'auto';

/** CPU threads, or undefined for all cores. Values that are no positive integer are ignored. */
export function threads(): number | undefined {
  const count = Number(read('TUTTI_THREADS'));
  return Number.isInteger(count) && count > 0 ? count : undefined;
}

/** What to say on stderr: nothing unless TUTTI_LOG is `info` or `debug`. */
export function log(level: 'info' | 'debug', message: () => string): void {
  const wanted = read('TUTTI_LOG');
  if (wanted === 'debug' || (wanted === 'info' && level === 'info')) console.error(`tutti: ${message()}`);
}

export const isNode = (): boolean =>
  typeof (globalThis as { process?: { versions?: { node?: string } } }).process?.versions?.node === 'string';
