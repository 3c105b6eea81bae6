/**
 * Random ONNX models of one heavy operator and what may surround it. Numbers have few bits, so that most of the
 * arithmetic is exact and a tolerance can tell right from wrong; scales of bytes are powers of two for the same reason.
 */
import type { Chooser } from '../graph_cases.js';
import { attentionOperator, spelledAttention } from './attentions.js';
import {
  blockProduct,
  byteConvolution,
  byteProduct,
  convolution,
  einsum,
  gemm,
  matrixProduct,
  transposedConvolution,
} from './contractions.js';
import { contributed } from './contributed.js';
import { inBranch, inLoop } from './control.js';
import { Draft, type Made, type RandomModel, rarely } from './draft.js';
import { finished } from './epilogues.js';
import { pooling, resizing } from './images.js';
import { movement } from './movement.js';
import { recurrent } from './recurrent.js';
import { best, normalisation, reduction, running, softmax } from './rows.js';

export type { RandomModel } from './draft.js';

export const families = {
  convolution: (d) => convolution(d),
  transposedConvolution,
  byteConvolution,
  matrixProduct,
  gemm,
  byteProduct,
  blockProduct,
  einsum,
  spelledAttention,
  attentionOperator,
  reduction,
  best,
  running,
  softmax,
  normalisation,
  pooling,
  resizing,
  movement,
  inLoop,
  inBranch,
  recurrent,
  contributed,
} as const satisfies Record<string, (d: Draft) => Made>;
export type Family = keyof typeof families;
export const familyNames = Object.keys(families) as readonly Family[];

/** The operators that attention, RMS norms and grouped pooling need are of this set. */
const opset = 23;

/** A model of a family; run once, or several times with other sizes. */
export function randomModel(c: Chooser, family: Family, seed: number): RandomModel {
  const d = new Draft(c, seed, rarely(c, 3) ? 3 : 1);
  finished(d, families[family](d));
  return d.finish(opset);
}
