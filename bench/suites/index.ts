/** All suites by name. */
import { attentionCases } from '../cases/attention.js';
import { convCases } from '../cases/conv.js';
import { gemmCases } from '../cases/gemm.js';
import { mapCases } from '../cases/map.js';
import { rowsCases } from '../cases/rows.js';
import type { Case, Scale } from '../cases/types.js';
import type { Context } from '../context.js';
import type { Row } from '../record.js';
import { runCompile } from './compile.js';
import { runDispatch } from './dispatch.js';
import { benchCases } from './kernels.js';
import { runModels } from './models.js';
import { runMemory, runStartup } from './process.js';

export interface Suite {
  /** For help and for the head of its tables. */
  readonly what: string;
  run(context: Context): Promise<Row[]>;
}

const kernels = (what: string, cases: (scale: Scale) => readonly Case[]): Suite => ({
  what,
  run: (context) => benchCases(context, cases(context.scale)),
});

export const suites = {
  gemm: kernels('Matrix products', gemmCases),
  conv: kernels('Convolutions with bias and ReLU', convCases),
  rows: kernels('Softmax, normalisation, reductions and scans along an axis', rowsCases),
  map: kernels('Elementwise work and movement', mapCases),
  attention: kernels('Attention', attentionCases),
  models: { what: 'Whole models, latency of one run', run: runModels },
  compile: { what: 'Model bytes to rendered kernels, by target', run: runCompile },
  startup: { what: 'Start of a process to its first result', run: runStartup },
  dispatch: { what: 'What a run costs beyond its arithmetic', run: runDispatch },
  memory: { what: 'Largest resident memory of a process', run: runMemory },
} as const satisfies Readonly<Record<string, Suite>>;

export type SuiteName = keyof typeof suites;
export const suiteNames = Object.keys(suites) as readonly SuiteName[];
