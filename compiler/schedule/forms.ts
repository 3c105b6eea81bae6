/**
 * Which form of a group is taken: the first of those that are legal, by estimated cost unless somebody knows better.
 * Forms were measured for groups of a signature: everything that decides how fast a kernel is, and nothing else.
 */
import { createSha256, sha256 } from '../artifact/sha256.js';
import type { Schedule } from './contract/index.js';
import type { Group } from './group.js';
import { structureOf } from './structure.js';

/** Puts the forms of a group in order, best first. What is left out is not taken. */
export type Prefer = (group: Group, forms: readonly Schedule[]) => readonly Schedule[];

/** Names of measured forms come first, by signature; what is not among the legal forms changes nothing. */
export const preferring =
  (chosen: ReadonlyMap<string, string>): Prefer =>
  (group, forms) => {
    const name = chosen.size === 0 ? undefined : chosen.get(signatureOf(group));
    const measured = forms.find((form) => form.name === name);
    return measured === undefined ? forms : [measured, ...forms.filter((form) => form !== measured)];
  };

/** Equal for groups that compute the same on tensors of the same types, whatever their names and data. */
export function signatureOf(group: Group): string {
  return sha256(new TextEncoder().encode(structureOf(group).text), createSha256).slice(0, 32);
}
