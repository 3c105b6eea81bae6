/** What all functions of a PTX module share while they are rendered. */
import type { HelperFunction, KernelFunction } from '../../compiler/kernel/types.js';
import type { SharedLayout } from './shared.js';
import type { Survey } from './survey.js';
import type { Arch } from './target.js';

/** Lanes of a subgroup. */
export const warp = 32;

export interface Module {
  readonly kernel: KernelFunction;
  readonly arch: Arch;
  readonly survey: Survey;
  readonly shared: SharedLayout;
  /** Name of the entry. */
  readonly entry: string;
  /** Names of the helpers that are functions. */
  readonly functions: ReadonlyMap<HelperFunction, string>;
}
