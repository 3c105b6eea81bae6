// Operators of ai.onnx.ml with random models and data: beside ONNX Runtime where it is installed, and as kernels.
import { describe, expect, it } from 'vitest';
import type { HostTensor } from '../../compiler/tensor.js';
import { seeded } from '../support/kernel_data.js';
import { f32, i64 } from '../support/onnx_model.js';
import { byKernels, byPeer, byReference, expectSame, type OperatorCase, peer } from '../support/operator_cases.js';
import { minimumTarget, testTargets } from '../support/targets.js';

const c = seeded(29);
const pick = <T>(list: readonly T[]): T => list[c.int(0, list.length - 1)];
const times = <T>(count: number, make: (i: number) => T): T[] => Array.from({ length: count }, (_, i) => make(i));
/** Multiples of 1/16, which f32 adds and multiplies exactly. */
const number = (low = -2, high = 2): number => c.int(16 * low, 16 * high) / 16;
const rows = (n: number, width: number): HostTensor => f32([n, width], ...times(n * width, () => number()));
const ml = (version: number): readonly [string, number] => ['ai.onnx.ml', version];

interface Against {
  /** Instead of ONNX Runtime. */
  readonly expected?: readonly HostTensor[];
  readonly atol?: number;
}

async function check(operator: OperatorCase, what: string, { expected, atol = 1e-5 }: Against = {}): Promise<void> {
  const tolerance = { rtol: 1e-4, atol };
  const reference = byReference(operator);
  if (expected !== undefined) expectSame(reference, expected, `${what}, reference`, tolerance);
  else if (peer !== undefined) expectSame(reference, await byPeer(operator), `${what}, beside ONNX Runtime`, tolerance);
  const target = pick([testTargets.cpu, testTargets.simt, minimumTarget]);
  expectSame(await byKernels(operator, target), reference, `${what}, kernels`, tolerance);
}

const transforms = ['NONE', 'SOFTMAX', 'LOGISTIC', 'SOFTMAX_ZERO'] as const;

/** Attributes of random trees in the form of versions 1 to 3, and their leaves. */
function randomTrees(count: number, depth: number, width: number) {
  const nodes = {
    nodes_treeids: [] as bigint[],
    nodes_nodeids: [] as bigint[],
    nodes_featureids: [] as bigint[],
    nodes_values: [] as number[],
    nodes_modes: [] as string[],
    nodes_truenodeids: [] as bigint[],
    nodes_falsenodeids: [] as bigint[],
    nodes_missing_value_tracks_true: [] as bigint[],
  };
  const leaves: { tree: bigint; node: bigint }[] = [];
  // ONNX Runtime wants one mode for all nodes of an ensemble of many trees, or any in few.
  const modes = ['BRANCH_LEQ', 'BRANCH_LT', 'BRANCH_GTE', 'BRANCH_GT', 'BRANCH_EQ', 'BRANCH_NEQ'];
  for (let tree = 0; tree < count; tree++) {
    let next = 0;
    const grow = (level: number): bigint => {
      const id = next++;
      const at = nodes.nodes_modes.length;
      const leaf = level === depth || (level > 0 && c.int(0, 4) === 0);
      nodes.nodes_treeids.push(BigInt(tree));
      nodes.nodes_nodeids.push(BigInt(id));
      nodes.nodes_featureids.push(leaf ? 0n : BigInt(c.int(0, width - 1)));
      nodes.nodes_values.push(leaf ? 0 : number());
      nodes.nodes_modes.push(leaf ? 'LEAF' : pick(modes));
      nodes.nodes_missing_value_tracks_true.push(leaf ? 0n : BigInt(c.int(0, 1)));
      nodes.nodes_truenodeids.push(0n);
      nodes.nodes_falsenodeids.push(0n);
      if (leaf) leaves.push({ tree: BigInt(tree), node: BigInt(id) });
      else {
        nodes.nodes_truenodeids[at] = grow(level + 1);
        nodes.nodes_falsenodeids[at] = grow(level + 1);
      }
      return BigInt(id);
    };
    grow(0);
  }
  return { nodes, leaves };
}

describe('TreeEnsembleRegressor', () => {
  for (const how of ['SUM', 'AVERAGE', 'MIN', 'MAX'] as const) {
    it(how, async () => {
      const targets = c.int(1, 3);
      const { nodes, leaves } = randomTrees(c.int(1, 5), 4, 3);
      // Every leaf speaks about every target, so that each has an extreme.
      const entries = leaves.flatMap((leaf) => times(targets, (id) => ({ ...leaf, id: BigInt(id), weight: number() })));
      const x = rows(9, 3);
      if (how === 'SUM') (x.data as Float32Array)[4] = Number.NaN;
      await check(
        {
          op: 'TreeEnsembleRegressor',
          inputs: [x],
          outputs: ['f32'],
          attrs: {
            ...nodes,
            n_targets: BigInt(targets),
            aggregate_function: how,
            target_treeids: entries.map(({ tree }) => tree),
            target_nodeids: entries.map(({ node }) => node),
            target_ids: entries.map(({ id }) => id),
            target_weights: entries.map(({ weight }) => weight),
            base_values: times(targets, () => number()),
          },
          domain: ml(1),
        },
        how,
      );
    });
  }
});

describe('TreeEnsembleClassifier', () => {
  for (const [classes, transform] of [
    [3, 'NONE'],
    [3, 'SOFTMAX'],
    [4, 'LOGISTIC'],
    [2, 'LOGISTIC'],
    [2, 'NONE'],
  ] as const) {
    it(`${classes} classes, ${transform}`, async () => {
      const { nodes, leaves } = randomTrees(4, 3, 3);
      const entries = leaves.flatMap((leaf) =>
        times(classes === 2 ? 1 : classes, (id) => ({ ...leaf, id: BigInt(id), weight: number() })),
      );
      await check(
        {
          op: 'TreeEnsembleClassifier',
          inputs: [rows(7, 3)],
          outputs: ['i64', 'f32'],
          attrs: {
            ...nodes,
            post_transform: transform,
            class_treeids: entries.map(({ tree }) => tree),
            class_nodeids: entries.map(({ node }) => node),
            class_ids: entries.map(({ id }) => id),
            class_weights: entries.map(({ weight }) => weight),
            classlabels_int64s: times(classes, (i) => BigInt(10 + 3 * i)),
          },
          domain: ml(1),
        },
        `${classes} ${transform}`,
      );
    });
  }
});

describe('TreeEnsemble', () => {
  it('asks for members of sets, in trees and on their own', async () => {
    const members = [1.5, -0.25, 0, 1, 0.5];
    // x0 in the set? then 1, else (x1 < 0 or missing? then 10, else 100).
    const operator: OperatorCase = {
      op: 'TreeEnsemble',
      inputs: [f32([6, 2], 1.5, 0, 0.5, 1, 2, -1, 2, 1, Number.NaN, 1, 2, Number.NaN)],
      outputs: ['f32'],
      attrs: {
        n_targets: 1n,
        aggregate_function: 1n,
        nodes_modes: { dtype: 'u8', shape: [2], data: Uint8Array.of(6, 1) },
        nodes_featureids: [0n, 1n],
        nodes_splits: f32([2], 0, 0),
        nodes_truenodeids: [0n, 1n],
        nodes_trueleafs: [1n, 1n],
        nodes_falsenodeids: [1n, 2n],
        nodes_falseleafs: [0n, 1n],
        nodes_missing_value_tracks_true: [0n, 1n],
        leaf_targetids: [0n, 0n, 0n],
        leaf_weights: f32([3], 1, 10, 100),
        membership_values: f32([members.length + 1], ...members, Number.NaN),
        tree_roots: [0n],
      },
      domain: ml(5),
    };
    await check(operator, 'members', { expected: [f32([6, 1], 1, 1, 10, 100, 100, 10)] });
  });
});

describe('linear models', () => {
  for (const transform of transforms) {
    it(`LinearClassifier, ${transform}`, async () => {
      await check(
        {
          op: 'LinearClassifier',
          inputs: [rows(6, 4)],
          outputs: ['i64', 'f32'],
          attrs: {
            coefficients: times(12, () => number()),
            intercepts: times(3, () => number()),
            classlabels_ints: [7n, 5n, 9n],
            post_transform: transform,
          },
          domain: ml(1),
        },
        transform,
      );
    });
  }

  it('LinearRegressor', async () => {
    await check(
      {
        op: 'LinearRegressor',
        inputs: [rows(5, 3)],
        outputs: ['f32'],
        attrs: { coefficients: times(6, () => number()), intercepts: [0.5, -1.25], targets: 2n },
        domain: ml(1),
      },
      'two targets',
    );
  });
});

describe('support vector machines', () => {
  for (const kernel of ['LINEAR', 'POLY', 'RBF', 'SIGMOID'] as const) {
    it(`SVMRegressor, ${kernel}`, async () => {
      await check(
        {
          op: 'SVMRegressor',
          inputs: [rows(6, 3)],
          outputs: ['f32'],
          attrs: {
            kernel_type: kernel,
            kernel_params: [0.25, 0.5, 3],
            n_supports: 4n,
            support_vectors: times(12, () => number(-1, 1)),
            coefficients: times(4, () => number()),
            rho: [0.375],
          },
          domain: ml(1),
        },
        kernel,
        { atol: 1e-4 },
      );
    });

    it(`SVMClassifier, ${kernel}`, async () => {
      await check(
        {
          op: 'SVMClassifier',
          inputs: [rows(8, 3)],
          outputs: ['i64', 'f32'],
          attrs: {
            kernel_type: kernel,
            kernel_params: [0.25, 0.5, 2],
            classlabels_ints: [4n, 2n, 8n],
            vectors_per_class: [2n, 1n, 2n],
            support_vectors: times(15, () => number(-1, 1)),
            coefficients: times(10, () => number()),
            rho: [0.125, -0.25, 0.0625],
          },
          domain: ml(1),
        },
        kernel,
        { atol: 1e-4 },
      );
    });
  }
});

describe('encoders and scalers', () => {
  for (const norm of ['MAX', 'L1', 'L2'] as const) {
    it(`Normalizer, ${norm}`, async () => {
      // Where signs differ ONNX Runtime divides by the greatest value, ONNX's reference by the greatest size.
      const x = norm === 'MAX' ? f32([4, 3], ...times(12, () => number(0, 2) + 0.25)) : rows(4, 3);
      await check({ op: 'Normalizer', inputs: [x], outputs: ['f32'], attrs: { norm }, domain: ml(1) }, norm);
    });
  }

  it('Scaler and Binarizer', async () => {
    const attrs = { offset: [0.5, -1, 2], scale: [2, 0.25, -3] };
    await check({ op: 'Scaler', inputs: [rows(4, 3)], outputs: ['f32'], attrs, domain: ml(1) }, 'columns');
    await check(
      { op: 'Binarizer', inputs: [rows(4, 3)], outputs: ['f32'], attrs: { threshold: 0.25 }, domain: ml(1) },
      'binarizer',
    );
  });

  it('Imputer', async () => {
    const x = f32([3, 2], 1, Number.NaN, Number.NaN, 4, 5, 6);
    const attrs = { imputed_value_floats: [10, 20], replaced_value_float: Number.NaN };
    await check({ op: 'Imputer', inputs: [x], outputs: ['f32'], attrs, domain: ml(1) }, 'NaN');
    await check(
      {
        op: 'Imputer',
        inputs: [{ ...i64(1, 2, 2, 4), shape: [2, 2] }],
        outputs: ['i64'],
        attrs: { imputed_value_int64s: [-7n], replaced_value_int64: 2n },
        domain: ml(1),
      },
      'integers',
    );
  });

  it('OneHotEncoder, ArrayFeatureExtractor, FeatureVectorizer', async () => {
    await check(
      {
        op: 'OneHotEncoder',
        inputs: [i64(3, 1, 9, 2)],
        outputs: ['f32'],
        attrs: { cats_int64s: [1n, 2n, 3n], zeros: 1n },
        domain: ml(1),
      },
      'one hot',
    );
    await check(
      {
        op: 'ArrayFeatureExtractor',
        inputs: [rows(3, 4), { ...i64(3, 0, 0), shape: [1, 3] }],
        outputs: ['f32'],
        domain: ml(1),
      },
      'features',
    );
    const [p, q] = [rows(3, 2), rows(3, 4)];
    const joined = times(3, (r) => [
      ...(p.data as Float32Array).slice(2 * r, 2 * r + 2),
      0,
      ...(q.data as Float32Array).slice(4 * r, 4 * r + 2),
    ]);
    await check(
      {
        op: 'FeatureVectorizer',
        inputs: [p, q],
        outputs: ['f32'],
        attrs: { inputdimensions: [3n, 2n] },
        domain: ml(1),
      },
      'side by side',
      { expected: [f32([3, 5], ...joined.flat())] },
    );
  });

  it('LabelEncoder', async () => {
    await check(
      {
        op: 'LabelEncoder',
        inputs: [i64(5, -3, 7, 8, 5)],
        outputs: ['f32'],
        attrs: { keys_int64s: [7n, 5n, -3n], values_floats: [0.5, 1.5, 2.5], default_float: 9 },
        domain: ml(2),
      },
      'integers',
    );
    await check(
      {
        op: 'LabelEncoder',
        inputs: [f32([2, 3], 0.5, Number.NaN, 2, -1, 0.25, Number.NaN)],
        outputs: ['i64'],
        attrs: { keys_floats: [Number.NaN, 2, 0.5, -1], values_int64s: [1n, 2n, 3n, 4n], default_int64: -9n },
        domain: ml(2),
      },
      'floats',
      { expected: [{ ...i64(3, 1, 2, 4, -9, 1), shape: [2, 3] }] },
    );
  });

  it('says what it cannot do', () => {
    const operator: OperatorCase = {
      op: 'LinearClassifier',
      inputs: [rows(2, 2)],
      outputs: ['string', 'f32'],
      attrs: { coefficients: [1, 2, 3, 4], classlabels_strings: ['a', 'b'] },
      domain: ml(1),
    };
    expect(() => byReference(operator)).toThrow(/string labels/);
  });
});
