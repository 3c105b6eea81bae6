/** Vectors from elements as C: lanes of one or two other vectors are a shuffle, which compilers do not see in a list. */
import type { KValue } from '../../compiler/kernel/types.js';
import { heldAs } from './prelude/types.js';
import * as vectors from './prelude/vectors.js';
import type { Inst, Scope } from './scope.js';

export function build(scope: Scope, inst: Inst<'build'>): void {
  const { scalar, lanes } = inst.result.type;
  const type = scope.type(inst.result.type);
  if (scalar === 'bool') {
    const masks = inst.elements.map((element) => `-(int32_t)${scope.c(element)}`);
    scope.let(inst.result, `(${type}){${masks.join(', ')}}`);
    return;
  }
  const shuffle = shuffleOf(scope, inst.elements);
  if (shuffle !== undefined) {
    const { first, second, lanes: picked } = shuffle;
    const held = heldAs(scalar);
    const callee = vectors.shuffle(scope.prelude, held, first.type.lanes, lanes, picked);
    scope.let(inst.result, `${callee}(${scope.c(first)}, ${scope.c(second)})`);
    return;
  }
  scope.let(inst.result, `(${type}){${inst.elements.map((element) => scope.c(element)).join(', ')}}`);
}

/** Lanes of the second vector count on from those of the first. */
function shuffleOf(
  scope: Scope,
  elements: readonly KValue[],
): { readonly first: KValue; readonly second: KValue; readonly lanes: readonly number[] } | undefined {
  const sources: KValue[] = [];
  const lanes: number[] = [];
  for (const element of elements) {
    const from = scope.extracts.get(element);
    if (from === undefined) return undefined;
    let which = sources.indexOf(from.a);
    if (which < 0) which = sources.push(from.a) - 1;
    if (which > 1 || from.a.type.lanes !== sources[0].type.lanes) return undefined;
    lanes.push(which * from.a.type.lanes + from.lane);
  }
  return { first: sources[0], second: sources[1] ?? sources[0], lanes };
}
