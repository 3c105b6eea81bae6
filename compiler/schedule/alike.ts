/**
 * Groups that differ in names and data alone are lowered once: the second takes the kernels of the first and binds its
 * own memory to them. Deep networks repeat their blocks, and lowering is most of what planning costs.
 */
import { elementsOf } from '../graph/ops/reference/data.js';
import type { Target } from '../kernel/target.js';
import { integersOf, multipliesBytes } from './contract/narrow.js';
import type { Group } from './group.js';
import type { Binding, Temporary } from './lowered.js';
import { type Structure, structureOf } from './structure.js';
import { type Dispatch, isValue } from './tasks.js';

export class Alike {
  readonly #target: Target;
  readonly #known = new Map<string, { readonly structure: Structure; readonly dispatches: readonly Dispatch[] }>();

  constructor(target: Target) {
    this.#target = target;
  }

  /** What `lower` gives for the group, or what it gave for one that is alike. */
  lowered(group: Group, lower: () => Dispatch[]): Dispatch[] {
    const structure = structureOf(group);
    const key = this.#keyOf(group, structure);
    if (key === undefined) return lower();
    const known = this.#known.get(key);
    const again = known && rebound(known.dispatches, known.structure, group, structure);
    if (again) return again;
    const dispatches = lower();
    if (known === undefined) this.#known.set(key, { structure, dispatches });
    return dispatches;
  }

  /** Undefined where more than types and built-in scalars decides: slices of arrays in loops, families that look at data. */
  #keyOf({ family, loop, scalars, constants, reads }: Group, { text, values }: Structure): string | undefined {
    if (loop !== undefined || (family !== 'contract' && family !== 'map' && family !== 'rows' && family !== 'window'))
      return undefined;
    const facts = values.map(({ id }) => {
      const scalar = scalars.get(id);
      if (scalar !== undefined) return `${scalar.dtype} ${[...elementsOf(scalar.load())].map(exactly).join()}`;
      // Weights that are bytes in disguise take another form.
      const weights = family === 'contract' && multipliesBytes(this.#target) ? constants.get(id) : undefined;
      if (weights === undefined || !reads.some((read) => read.id === id)) return '';
      const integers = integersOf(weights);
      return integers ? `${integers.scalar} ${integers.zero}` : '';
    });
    return [text, ...facts].join('\n');
  }
}

/** Zeros have signs. */
const exactly = (x: unknown): string => (Object.is(x, -0) ? '-0' : String(x));

/** The same kernels with the memory of another group; undefined if a constant has a form that cannot be made of other data. */
function rebound(
  dispatches: readonly Dispatch[],
  from: Structure,
  group: Group,
  to: Structure,
): Dispatch[] | undefined {
  const places = new Map(from.values.map(({ id }, place) => [id, place]));
  const made = new Map<Binding, Binding>();
  const make = (binding: Binding): Binding | undefined => {
    if (isValue(binding)) {
      const place = places.get(binding.id);
      return place === undefined ? undefined : to.values[place];
    }
    if (binding.kind === 'temporary') return { ...binding } satisfies Temporary;
    const { derivation } = binding;
    const place = derivation && places.get(derivation.value.id);
    const value = place === undefined ? undefined : to.values[place];
    const data = value && group.constants.get(value.id);
    return value && data && derivation?.of(value, data);
  };
  const bind = (binding: Binding): Binding | undefined => {
    let own = made.get(binding);
    if (own === undefined && (own = make(binding)) !== undefined) made.set(binding, own);
    return own;
  };
  const result: Dispatch[] = [];
  for (const dispatch of dispatches) {
    const bindings: Binding[] = [];
    for (const binding of dispatch.bindings) {
      const own = bind(binding);
      if (own === undefined) return undefined;
      bindings.push(own);
    }
    result.push({ ...dispatch, bindings, group });
  }
  return result;
}
