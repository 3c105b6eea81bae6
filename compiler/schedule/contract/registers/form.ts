/** What the parts of a register-tile kernel share, and where one tile lies. */
import type { Affine } from '../../affine.js';
import type { Lowering } from '../../lowering.js';
import type { Contraction } from '../contraction.js';
import type { Space, Tile } from '../register_plan.js';

export interface Form {
  readonly lowering: Lowering;
  readonly contraction: Contraction;
  readonly space: Space;
  readonly tile: Tile;
}

/** The tile that an invocation works at. */
export interface Place {
  readonly batch: Affine;
  /** Which tile along m. */
  readonly tileM: Affine;
  /** Which line of output positions, and the first column of the tile on it. */
  readonly line: Affine;
  readonly first: Affine;
  /** Which residue of the output. */
  readonly classAt: number;
  /** Which slice of k. */
  readonly slice: Affine;
}
