/** The conversion table: all families. */
import type { Conversion } from '../context.js';
import { gradients } from '../gradient.js';
import { activations } from './activations.js';
import { attentions } from './attention.js';
import { contractions } from './contraction.js';
import { contribs } from './contrib.js';
import { detectors } from './detection.js';
import { einsums } from './einsum.js';
import { elementwise } from './elementwise.js';
import { indexing } from './indexing.js';
import { linearAttentions } from './linear_attention.js';
import { losses } from './loss.js';
import { mlOperators } from './ml.js';
import { movement } from './movement.js';
import { normalizations } from './normalization.js';
import { pooling } from './pooling.js';
import { quantization } from './quantization.js';
import { randoms } from './random.js';
import { recurrents } from './recurrent.js';
import { reductions } from './reduction.js';
import { resizing } from './resize.js';
import { sampling } from './sampling.js';
import { selections } from './selection.js';
import { signals } from './signal.js';
import { stringOperators } from './strings.js';
import { texts } from './text.js';
import { optimisers } from './training.js';
import { treeEnsembles } from './trees.js';
import { uniques } from './unique.js';

export const conversions: readonly Conversion[] = [
  ...elementwise,
  ...activations,
  ...movement,
  ...indexing,
  ...reductions,
  ...recurrents,
  ...pooling,
  ...contractions,
  ...detectors,
  ...einsums,
  ...normalizations,
  ...resizing,
  ...quantization,
  ...attentions,
  ...linearAttentions,
  ...sampling,
  ...signals,
  ...texts,
  ...selections,
  ...uniques,
  ...randoms,
  ...optimisers,
  ...mlOperators,
  ...treeEnsembles,
  ...gradients,
  ...losses,
  ...stringOperators,
  ...contribs,
];
