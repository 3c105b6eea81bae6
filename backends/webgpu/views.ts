/**
 * How each memory of a kernel is declared: the widest vectors that all of its accesses agree with.
 *
 * WGSL has no pointer casts, so a buffer is either an array of scalars or an array of vectors. Vectors need that every
 * access is aligned to its lanes and that every store covers a whole element: a store into one lane may rewrite the
 * others, and would race with the neighbour invocation.
 */
import type { KernelFunction, KMemory } from '../../compiler/kernel/types.js';
import { type Accesses, Survey } from '../common/survey.js';

export interface MemoryView {
  /** Lanes of one element of the declared array. */
  readonly width: 1 | 2 | 4;
  /** Elements are `atomic<…>` and every access is atomic. */
  readonly atomic: boolean;
  /** Both written and read, so barriers must order it. */
  readonly exchanged: boolean;
}

export function memoryViews(kernel: KernelFunction): ReadonlyMap<KMemory, MemoryView> {
  const views = new Map<KMemory, MemoryView>();
  for (const [memory, access] of Survey.of(kernel).accesses) {
    views.set(memory, {
      width: widthOf(memory, access),
      atomic: access.atomic,
      exchanged: access.atomic || (access.loads.size > 0 && access.stores.size > 0),
    });
  }
  return views;
}

function widthOf(memory: KMemory, { loads, stores, unaligned, atomic }: Accesses): 1 | 2 | 4 {
  if (unaligned || atomic) return 1;
  const width = Math.max(...loads, ...stores);
  if (width !== 2 && width !== 4) return 1;
  if (memory.length < width) return 1;
  // Elements behind the last whole vector could not be read one by one.
  if (memory.length % width !== 0 && (loads.size > 1 || !loads.has(width)) && loads.size > 0) return 1;
  for (const lanes of stores) if (lanes !== width) return 1;
  return width;
}
