/**
 * Tree ensembles (ai.onnx.ml). All nodes of all trees are rows of constant tables; every sample walks all trees at once,
 * as many steps as the deepest tree has levels, and stays where it meets a leaf.
 */
import { numbersOf } from '../../../compare.js';
import {
  add,
  binary,
  binaryC,
  broadcastTo,
  cast,
  concat,
  div,
  gather,
  gatherElements,
  reduce,
  reshape,
  scalar,
  select3,
  slice1,
  tensor,
  unary,
} from '../../../graph/compose/index.js';
import type { BinaryOp, Value } from '../../../graph/types.js';
import type { Conversion, ConvertContext } from '../context.js';
import {
  bestLabels,
  labelsOf,
  mlDomain,
  type PostTransform,
  postTransformOf,
  postTransforms,
  rowsOf,
  transformed,
} from './ml.js';

/** Comparisons of a feature with the node's number that lead to the true branch. */
const comparisons = ['le', 'lt', 'ge', 'gt', 'eq', 'ne'] as const satisfies readonly BinaryOp[];
type Comparison = (typeof comparisons)[number];

/** A node that branches. Where it leads: another branch, or a leaf as -1 - its number. */
interface Branch {
  readonly compare: Comparison;
  readonly feature: number;
  readonly split: number;
  /** NaN leads to the true branch. */
  readonly missing: boolean;
  readonly yes: number;
  readonly no: number;
}

interface Forest {
  readonly branches: readonly Branch[];
  /** First node of each tree. */
  readonly roots: readonly number[];
  /** What leaves add: target, weight. */
  readonly leaves: readonly (readonly (readonly [target: number, weight: number])[])[];
}

/** Levels of the deepest tree. */
function depthOf(c: ConvertContext, { branches, roots }: Forest): number {
  const depths = new Map<number, number>();
  const stack = [...roots];
  const pending = new Set<number>();
  while (stack.length > 0) {
    const at = stack[stack.length - 1];
    const branch = at < 0 ? undefined : branches[at];
    const open = branch === undefined ? [] : [branch.yes, branch.no].filter((next) => !depths.has(next));
    if (open.length === 0) {
      depths.set(at, branch === undefined ? 0 : 1 + Math.max(depths.get(branch.yes) ?? 0, depths.get(branch.no) ?? 0));
      pending.delete(at);
      stack.pop();
    } else {
      if (open.some((next) => pending.has(next) || next === at)) c.fail('a tree leads back to one of its nodes');
      pending.add(at);
      stack.push(open[0]);
    }
  }
  return Math.max(0, ...roots.map((root) => depths.get(root) ?? 0));
}

/** The leaf that each sample of x [N, C] reaches in each tree: [N, trees]. */
function walk(c: ConvertContext, x: Value, forest: Forest): Value {
  const { branches, roots, leaves } = forest;
  const count = branches.length;
  const rows = Number(x.type.shape[0]);
  // Leaves come after the branches in the tables and lead to themselves.
  const place = (node: number): number => (node < 0 ? count - 1 - node : node);
  const own = leaves.map((_, i) => count + i);
  const column = (values: readonly number[], rest: readonly number[]): Value =>
    tensor(c.b, 'i32', [...values, ...rest]);
  const nothing = leaves.map(() => 0);
  const yes = column(
    branches.map((branch) => place(branch.yes)),
    own,
  );
  const no = column(
    branches.map((branch) => place(branch.no)),
    own,
  );
  const feature = column(
    branches.map((branch) => branch.feature),
    nothing,
  );
  const splits = tensor(c.b, x.type.dtype, [...branches.map((branch) => branch.split), ...nothing]);
  const used = comparisons.filter((compare) => branches.some((branch) => branch.compare === compare));
  const kinds = column(
    branches.map((branch) => used.indexOf(branch.compare)),
    nothing,
  );
  const missing = branches.some((branch) => branch.missing)
    ? tensor(c.b, 'bool', [...branches.map((branch) => Number(branch.missing)), ...nothing])
    : undefined;
  let at = broadcastTo(c.b, tensor(c.b, 'i32', roots.map(place), [1, roots.length]), [rows, roots.length]);
  for (let level = depthOf(c, forest); level > 0; level--) {
    const value = gatherElements(c.b, x, gather(c.b, feature, at, 0), 1);
    const split = gather(c.b, splits, at, 0);
    const kind = used.length > 1 ? gather(c.b, kinds, at, 0) : undefined;
    const hits = used.map((compare, k) => {
      const hit = binary(c.b, compare, value, split);
      return kind === undefined ? hit : binary(c.b, 'and', hit, binaryC(c.b, 'eq', kind, k));
    });
    let holds = hits.reduce((p, q) => binary(c.b, 'or', p, q));
    if (missing !== undefined) {
      holds = binary(c.b, 'or', holds, binary(c.b, 'and', unary(c.b, 'is_nan', value), gather(c.b, missing, at, 0)));
    }
    at = select3(c.b, holds, gather(c.b, yes, at, 0), gather(c.b, no, at, 0));
  }
  return binaryC(c.b, 'sub', at, count);
}

const aggregates = ['AVERAGE', 'SUM', 'MIN', 'MAX'] as const;
type Aggregate = (typeof aggregates)[number];

/** What the leaves that are reached give for each target: [N, targets]. */
function aggregated(c: ConvertContext, x: Value, forest: Forest, targets: number, how: Aggregate): Value {
  const { dtype } = x.type;
  const most = dtype === 'f64' ? Number.MAX_VALUE : 3.4028234663852886e38;
  const absent = how === 'MIN' ? most : how === 'MAX' ? -most : 0;
  const table = new Array<number>(forest.leaves.length * targets).fill(absent);
  forest.leaves.forEach((entries, leaf) => {
    for (const [target, weight] of entries) {
      if (!(target >= 0 && target < targets)) c.fail('target out of range', `0 to ${targets - 1}`, String(target));
      const slot = leaf * targets + target;
      if (how === 'MIN') table[slot] = Math.min(table[slot], weight);
      else if (how === 'MAX') table[slot] = Math.max(table[slot], weight);
      else table[slot] += weight;
    }
  });
  const weights = gather(c.b, tensor(c.b, dtype, table, [forest.leaves.length, targets]), walk(c, x, forest), 0);
  const result = reduce(c.b, how === 'MIN' ? 'min' : how === 'MAX' ? 'max' : 'sum', weights, [1]);
  return how === 'AVERAGE' ? div(c.b, result, scalar(c.b, forest.roots.length, dtype)) : result;
}

// --- TreeEnsemble --------------------------------------------------------------------------------------------------

const numbers = (c: ConvertContext, name: string): readonly number[] | undefined => {
  const data = c.tensor(name);
  return data && [...numbersOf(data)];
};
const required = <T>(c: ConvertContext, name: string, value: T | undefined): T =>
  value ?? c.fail(`attribute ${name} is missing`);

function forestOf(c: ConvertContext): Forest {
  const list = (name: string): readonly number[] => required(c, name, c.ints(name));
  const [features, modes] = [list('nodes_featureids'), required(c, 'nodes_modes', numbers(c, 'nodes_modes'))];
  const splits = required(c, 'nodes_splits', numbers(c, 'nodes_splits'));
  const [yes, no] = [list('nodes_truenodeids'), list('nodes_falsenodeids')];
  const [yesLeaf, noLeaf] = [list('nodes_trueleafs'), list('nodes_falseleafs')];
  const missing = c.ints('nodes_missing_value_tracks_true') ?? [];
  const [targets, weights] = [list('leaf_targetids'), required(c, 'leaf_weights', numbers(c, 'leaf_weights'))];
  const sets = membersOf(numbers(c, 'membership_values') ?? []);
  const branches: Branch[] = modes.map((mode, i) => ({
    compare: comparisons[mode] ?? 'eq',
    feature: features[i],
    split: splits[i],
    missing: missing[i] === 1,
    yes: yesLeaf[i] === 1 ? -1 - yes[i] : yes[i],
    no: noLeaf[i] === 1 ? -1 - no[i] : no[i],
  }));
  modes.forEach((mode, i) => {
    if (mode > comparisons.length) c.fail('invalid mode of a node', '0 to 6', String(mode));
    if (mode === comparisons.length)
      expandMembership(branches, i, sets.shift() ?? c.fail('membership_values are missing'));
  });
  const leaves = weights.map((weight, i): readonly [number, number][] => [[targets[i], weight]]);
  // A tree that is only a leaf is a node whose both branches are that leaf.
  return { branches, roots: list('tree_roots'), leaves };
}

/** The values of each node of mode MEMBER, which NaN closes. */
function membersOf(values: readonly number[]): number[][] {
  const sets: number[][] = [];
  let open: number[] = [];
  for (const value of values) {
    if (Number.isNaN(value)) {
      sets.push(open);
      open = [];
    } else open.push(value);
  }
  return sets;
}

/** Node i, which asks for one of a set, becomes a search tree over the sorted values. */
function expandMembership(branches: Branch[], i: number, members: readonly number[]): void {
  const node = branches[i];
  const sorted = [...new Set(members)].sort((p, q) => p - q);
  const build = (low: number, high: number, at: number | undefined): number => {
    const place = at ?? branches.push(node) - 1;
    if (high - low <= 1) branches[place] = { ...node, compare: 'eq', split: sorted[low] ?? Number.NaN };
    else {
      const middle = (low + high) >> 1;
      const yes = build(low, middle, undefined);
      const no = build(middle, high, undefined);
      branches[place] = { ...node, compare: 'lt', split: sorted[middle], yes, no };
    }
    return place;
  };
  build(0, sorted.length, i);
}

function treeEnsemble(c: ConvertContext): Value {
  const x = rowsOf(c);
  const how = aggregates[c.int('aggregate_function', 1)] ?? c.fail('invalid aggregate_function', '0 to 3');
  const transforms: readonly PostTransform[] = ['NONE', 'SOFTMAX', 'LOGISTIC', 'SOFTMAX_ZERO', 'PROBIT'];
  const transform = transforms[c.int('post_transform', 0)] ?? c.fail('invalid post_transform', '0 to 4');
  const result = aggregated(c, x, forestOf(c), c.int('n_targets'), how);
  return cast(c.b, transformed(c, result, transform), c.dtype(0));
}

// --- TreeEnsembleRegressor and TreeEnsembleClassifier --------------------------------------------------------------

/** Numbers in a float list or, in double precision, a tensor. */
const floats = (c: ConvertContext, name: string): readonly number[] | undefined =>
  c.floats(name) ?? numbers(c, `${name}_as_tensor`);

/** The trees of nodes with explicit ids; `kind` is what leaves are about. */
function namedForest(c: ConvertContext, kind: 'target' | 'class'): Forest {
  const list = (name: string): readonly number[] => required(c, name, c.ints(name));
  const [trees, ids] = [list('nodes_treeids'), list('nodes_nodeids')];
  const modes = required(c, 'nodes_modes', c.strings('nodes_modes'));
  const splits = floats(c, 'nodes_values') ?? [];
  const features = c.ints('nodes_featureids') ?? [];
  const [yes, no] = [c.ints('nodes_truenodeids') ?? [], c.ints('nodes_falsenodeids') ?? []];
  const missing = c.ints('nodes_missing_value_tracks_true') ?? [];
  const weights = required(c, `${kind}_weights`, floats(c, `${kind}_weights`));
  const [ofTrees, ofNodes, targets] = [list(`${kind}_treeids`), list(`${kind}_nodeids`), list(`${kind}_ids`)];
  const key = (tree: number, node: number): string => `${tree}:${node}`;
  const entries = new Map<string, (readonly [number, number])[]>();
  weights.forEach((weight, i) => {
    const name = key(ofTrees[i], ofNodes[i]);
    entries.set(name, [...(entries.get(name) ?? []), [targets[i], weight]]);
  });
  // First the places of all nodes, then where they lead.
  const places = new Map<string, number>();
  const leaves: (readonly (readonly [number, number])[])[] = [];
  let branchCount = 0;
  modes.forEach((mode, i) => {
    const name = key(trees[i], ids[i]);
    if (mode === 'LEAF') {
      leaves.push(entries.get(name) ?? []);
      places.set(name, -leaves.length);
    } else places.set(name, branchCount++);
  });
  const names = ['BRANCH_LEQ', 'BRANCH_LT', 'BRANCH_GTE', 'BRANCH_GT', 'BRANCH_EQ', 'BRANCH_NEQ'];
  const at = (tree: number, node: number): number =>
    places.get(key(tree, node)) ?? c.fail('a node leads nowhere', 'a node of its tree', `${tree}:${node}`);
  const branches = modes.flatMap((mode, i): Branch[] => {
    if (mode === 'LEAF') return [];
    const compare = comparisons[names.indexOf(mode)] ?? c.fail('invalid mode of a node', names.join(', '), mode);
    return [
      {
        compare,
        feature: features[i],
        split: splits[i],
        missing: missing[i] === 1,
        yes: at(trees[i], yes[i]),
        no: at(trees[i], no[i]),
      },
    ];
  });
  // The first node of a tree is its root.
  const first = new Map<number, number>();
  trees.forEach((tree, i) => {
    if (!first.has(tree)) first.set(tree, at(tree, ids[i]));
  });
  return { branches, roots: [...first.values()], leaves };
}

/** Scores with the base values added. */
function based(c: ConvertContext, scores: Value): Value {
  const base = floats(c, 'base_values') ?? [];
  return base.length === 0 ? scores : add(c.b, scores, tensor(c.b, scores.type.dtype, base));
}

function regressor(c: ConvertContext): Value {
  const how = c.choice('aggregate_function', aggregates, 'SUM');
  const scores = aggregated(c, rowsOf(c), namedForest(c, 'target'), c.int('n_targets', 1), how);
  return cast(c.b, transformed(c, based(c, scores), postTransformOf(c)), 'f32');
}

function classifier(c: ConvertContext): readonly Value[] {
  const labels = labelsOf(c, 'classlabels_int64s', 'classlabels_strings');
  const ids = c.ints('class_ids') ?? [];
  const transform = c.choice('post_transform', postTransforms, 'NONE');
  const classes = Math.max(labels?.length ?? 0, ...ids.map((id) => id + 1));
  let scores = aggregated(c, rowsOf(c), namedForest(c, 'class'), classes, 'SUM');
  const binaryCase = new Set(ids).size === 1 && classes <= 2;
  if (binaryCase) {
    // The trees score one class; the other one gets what is left, or the opposite.
    const base = floats(c, 'base_values') ?? [];
    const own = slice1(c.b, scores, 1, ids[0], 1);
    const score = base.length === 0 ? own : binaryC(c.b, 'add', own, base[base.length - 1]);
    const positive = (floats(c, 'class_weights') ?? []).every((weight) => weight >= 0);
    const opposite = unary(c.b, 'neg', score);
    const share = (transform === 'NONE' || transform === 'PROBIT') && positive;
    scores = concat(c.b, [share ? binaryC(c.b, 'add', opposite, 1) : opposite, score], 1);
  } else scores = based(c, scores);
  const result = transformed(c, scores, transform);
  if (labels?.length !== 1) return [bestLabels(c, result, labels), cast(c.b, result, 'f32')];
  const best = bestLabels(c, result, undefined);
  const only = scalar(c.b, labels[0], 'i64');
  const label = select3(c.b, binaryC(c.b, 'eq', best, 1), only, scalar(c.b, 0, 'i64'));
  return [reshape(c.b, label, [Number(result.type.shape[0])]), cast(c.b, result, 'f32')];
}

export const treeEnsembles: readonly Conversion[] = [
  { domain: mlDomain, op: 'TreeEnsemble', since: 5, convert: treeEnsemble },
  { domain: mlDomain, op: 'TreeEnsembleRegressor', since: 1, convert: regressor },
  { domain: mlDomain, op: 'TreeEnsembleClassifier', since: 1, convert: classifier },
];
