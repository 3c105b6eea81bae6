/** Which outputs of a run are wanted, and where. */
import { TuttiError } from '../compiler/error.js';
import type { RunOptions } from './api.js';
import type { Wanted } from './chain.js';

/** The outputs asked for, and where they are to be. */
export function wantedOutputs(outputs: RunOptions['outputs'], present: readonly string[]): ReadonlyMap<string, Wanted> {
  if (outputs === undefined || outputs === 'cpu' || outputs === 'device') {
    return new Map(present.map((name) => [name, { place: outputs ?? 'cpu' }]));
  }
  const entries: readonly (readonly [string, 'cpu' | 'device'])[] = Array.isArray(outputs)
    ? outputs.map((name: string) => [name, 'cpu'] as const)
    : Object.entries(outputs as Readonly<Record<string, 'cpu' | 'device'>>);
  const wanted = new Map<string, Wanted>();
  for (const [name, place] of entries) {
    if (!present.includes(name)) {
      throw new TuttiError('E_INPUT', 'the model has no such output', {
        subject: name,
        expected: `one of ${present.join(', ')}`,
      });
    }
    wanted.set(name, { place });
  }
  return wanted;
}
