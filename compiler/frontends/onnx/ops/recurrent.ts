/**
 * RNN, GRU and LSTM: the input's part of all gates of all steps is one contraction; what is left of a step runs in a
 * loop. Both directions go through the loop together, the second one over the input from its end.
 */
import { type DType, isFloat } from '../../../dtype.js';
import { GraphBuilder } from '../../../graph/builder.js';
import {
  add,
  binary,
  broadcastTo,
  cast,
  concat,
  full,
  iota,
  reshape,
  reverse,
  scalar,
  select3,
  slice1,
  stack,
  transpose,
  unsqueeze,
} from '../../../graph/compose/index.js';
import { scan } from '../../../graph/scan.js';
import type { Value } from '../../../graph/types.js';
import type { Conversion, ConvertContext } from '../context.js';
import {
  type Activation,
  activationNames,
  activationsOf,
  type Cell,
  gruStep,
  lstmStep,
  rnnStep,
} from './recurrent_cells.js';

type Kind = 'RNN' | 'GRU' | 'LSTM';

interface Facts {
  readonly gates: number;
  /** Activations by default. */
  readonly activations: readonly string[];
  readonly states: 1 | 2;
}

const facts: Readonly<Record<Kind, Facts>> = {
  RNN: { gates: 1, activations: ['Tanh'], states: 1 },
  GRU: { gates: 3, activations: ['Sigmoid', 'Tanh'], states: 1 },
  LSTM: { gates: 4, activations: ['Sigmoid', 'Tanh', 'Tanh'], states: 2 },
};

/** Index of each input. */
const inputs = { x: 0, w: 1, r: 2, bias: 3, lengths: 4, initialH: 5, initialC: 6, peepholes: 7 } as const;

/** An operator with its sizes and attributes checked. */
interface Operator {
  readonly c: ConvertContext;
  readonly kind: Kind;
  readonly steps: number;
  readonly batch: number;
  readonly hidden: number;
  readonly directions: number;
  /** A single direction that runs from the end. */
  readonly backwards: boolean;
  readonly clip: number | undefined;
  /** By direction. */
  readonly activations: readonly (readonly Activation[])[];
  /** What is computed in: f32 or wider. */
  readonly dtype: DType;
  /** [steps, batch, input] in `dtype`. */
  readonly x: Value;
}

/** After some directions ran: y is [steps, directions, batch, hidden], states are [directions, batch, hidden]. */
interface Ran {
  readonly y: Value | undefined;
  readonly states: readonly Value[];
}

function convert(c: ConvertContext, kind: Kind): readonly (Value | undefined)[] {
  const operator = read(c, kind);
  const { activations } = operator;
  // Directions with the same functions are computed by the same kernels.
  const together = activations.every((own) => String(own.map(textOf)) === String(activations[0].map(textOf)));
  const every = activations.map((_, i) => i);
  const parts = (together ? [every] : every.map((i) => [i])).map((directions) => run(operator, directions));
  const joined = (values: readonly Value[], axis: number): Value =>
    values.length === 1 ? values[0] : concat(c.b, values, axis);
  const back = (value: Value): Value => cast(c.b, value, c.dtype(inputs.x));
  const batchFirst = c.int('layout', 0) !== 0;
  const ys = parts.flatMap(({ y }) => y ?? []);
  const y = ys.length === 0 ? undefined : back(joined(ys, 1));
  const states = parts[0].states.map((_, i) => {
    const state = back(
      joined(
        parts.map((part) => part.states[i]),
        0,
      ),
    );
    return batchFirst ? transpose(c.b, state, [1, 0, 2]) : state;
  });
  return [y && batchFirst ? transpose(c.b, y, [2, 0, 1, 3]) : y, ...states];
}

const textOf = ({ kind, alpha, beta }: Activation): string => `${kind} ${alpha} ${beta}`;

function read(c: ConvertContext, kind: Kind): Operator {
  const { gates, activations: standard } = facts[kind];
  const layout = c.int('layout', 0);
  if (layout !== 0 && layout !== 1) c.fail('invalid layout', '0 or 1', String(layout));
  c.ranked(inputs.x, 3);
  const dtype = c.dtype(inputs.x);
  if (!isFloat(dtype)) c.fail(`wrong element type of ${kind}`, 'a float type', dtype);
  const own: DType = dtype === 'f64' ? 'f64' : 'f32';
  const given = cast(c.b, c.input(inputs.x), own);
  const x = layout === 0 ? given : transpose(c.b, given, [1, 0, 2]);
  const [steps, batch, size] = c.concreteDims(x.type.shape);
  const [directions, rows, hidden] = c.concreteDims(c.ranked(inputs.r, 3), inputs.r);
  const direction = c.choice('direction', ['forward', 'reverse', 'bidirectional'] as const, 'forward');
  const expect = (what: string, found: readonly unknown[], expected: readonly number[]): void => {
    if (String(found) !== String(expected)) c.fail(`wrong shape of ${what}`, `[${expected}]`, `[${found}]`);
  };
  const count = direction === 'bidirectional' ? 2 : 1;
  const units = c.int('hidden_size', hidden);
  expect('the recurrence weights', [directions, rows, hidden], [count, gates * units, units]);
  expect('the weights', c.shape(inputs.w), [count, gates * units, size]);
  const optional = (input: number, what: string, expected: readonly number[]): void => {
    if (c.has(input)) expect(what, c.shape(input), expected);
  };
  optional(inputs.bias, 'the biases', [count, 2 * gates * units]);
  optional(inputs.lengths, 'the lengths of sequences', [batch]);
  const state = layout === 0 ? [count, batch, units] : [batch, count, units];
  optional(inputs.initialH, 'the initial hidden state', state);
  if (kind === 'LSTM') {
    optional(inputs.initialC, 'the initial cell state', state);
    optional(inputs.peepholes, 'the peepholes', [count, 3 * units]);
  }
  const clip = c.hasAttr('clip') ? c.float('clip') : 0;
  return {
    c,
    kind,
    steps,
    batch,
    hidden: units,
    directions: count,
    backwards: direction === 'reverse',
    clip: clip > 0 ? clip : undefined,
    activations: readActivations(c, standard, count),
    dtype: own,
    x,
  };
}

/** By direction; a list for one direction holds for both. */
function readActivations(
  c: ConvertContext,
  standard: readonly string[],
  directions: number,
): readonly (readonly Activation[])[] {
  const each = standard.length;
  const given = c.strings('activations') ?? [];
  const names = given.length === 0 ? standard : given;
  if (names.length !== each && names.length !== each * directions) {
    c.fail('wrong number of activations', String(each * directions), String(names.length));
  }
  const all = activationsOf(names, c.floats('activation_alpha'), c.floats('activation_beta'));
  if (!all) return c.fail('unknown activation', `one of ${activationNames.join(', ')}`, names.join(', '));
  return Array.from({ length: directions }, (_, d) =>
    all.length === each ? all : all.slice(d * each, (d + 1) * each),
  );
}

/** Runs some directions, by their numbers, in one loop. */
function run(operator: Operator, directions: readonly number[]): Ran {
  const { c, kind, hidden, batch, steps, dtype } = operator;
  const { b } = c;
  const count = directions.length;
  const backwards = count === 1 && (operator.backwards || directions[0] === 1);
  const states = initialStates(operator, directions);
  const projected = project(operator, directions);
  const mask = c.has(inputs.lengths) ? maskOf(operator, count) : undefined;
  const captured = capture(operator, directions);

  const step = new GraphBuilder(kind.toLowerCase());
  step.source = b.source;
  const formal = states.map((state, i) => step.input(`state${i}`, dtype, state.type.shape));
  const x = step.input('x', dtype, projected.type.shape.slice(1));
  const valid = mask && step.input('valid', 'bool', mask.type.shape.slice(1));
  const own = mapValues(captured, (value, name) => step.input(name, dtype, value.type.shape));
  const cell: Cell = {
    b: step,
    dtype,
    hidden,
    clip: operator.clip,
    activations: operator.activations[directions[0]],
    x,
    h: formal[0],
    weights: own.weights,
  };
  const next = advance(operator, cell, formal, own);
  const inside = valid && broadcastTo(step, valid, [count, batch, hidden]);
  next.forEach((state, i) => {
    step.output(`state${i}`, inside ? select3(step, inside, state, formal[i]) : state);
  });
  const wanted = c.wants(0);
  if (wanted) step.output('y', inside ? select3(step, inside, next[0], scalar(step, 0, dtype)) : next[0]);

  const scanned = [projected, ...(mask ? [mask] : [])].map((array) => ({ array, reverse: backwards }));
  const { carried, stacked } = scan(b, {
    body: step.finish(),
    trips: steps,
    iteration: false,
    carried: states,
    scanned,
    captured: Object.values(captured),
    stacked: wanted ? [{ reverse: backwards }] : [],
  });
  const y = wanted ? (count === 2 ? turned(b, stacked[0]) : stacked[0]) : undefined;
  return { y, states: carried };
}

/** What all steps see, by name. */
interface Captured extends Readonly<Record<string, Value>> {
  readonly weights: Value;
}

function capture({ c, kind, hidden, dtype, directions: all }: Operator, directions: readonly number[]): Captured {
  const { b } = c;
  const part = (value: Value): Value => cast(b, chosen(b, value, directions, all), dtype);
  const captured: { [name: string]: Value; weights: Value } = { weights: part(c.input(inputs.r)) };
  if (kind === 'LSTM' && c.has(inputs.peepholes)) {
    const peepholes = unsqueeze(b, part(c.input(inputs.peepholes)), [1]);
    for (const [i, name] of ['peepholeI', 'peepholeO', 'peepholeF'].entries())
      captured[name] = slice1(b, peepholes, 2, i * hidden, hidden);
  }
  if (isLinear(c, kind) && c.has(inputs.bias))
    captured.bias = unsqueeze(b, slice1(b, part(c.input(inputs.bias)), 1, 5 * hidden, hidden), [1]);
  return captured;
}

/** GRU with the reset gate applied after the recurrence's product. */
const isLinear = (c: ConvertContext, kind: Kind): boolean => kind === 'GRU' && c.flag('linear_before_reset');

function advance({ c, kind }: Operator, cell: Cell, states: readonly Value[], own: Captured): readonly Value[] {
  switch (kind) {
    case 'RNN':
      return [rnnStep(cell)];
    case 'GRU':
      return [gruStep(cell, isLinear(c, kind) ? { bias: own.bias } : undefined)];
    case 'LSTM': {
      const peepholes = own.peepholeI && [own.peepholeI, own.peepholeO, own.peepholeF];
      const { h, c: next } = lstmStep(cell, states[1], peepholes, c.flag('input_forget'));
      return [h, next];
    }
    default:
      return kind satisfies never;
  }
}

/** The given directions of a tensor whose first axis they are. */
const chosen = (b: GraphBuilder, value: Value, directions: readonly number[], all: number): Value =>
  directions.length === all ? value : slice1(b, value, 0, directions[0], 1);

/** [directions, batch, hidden] each. */
function initialStates({ c, kind, batch, hidden, dtype, directions: all }: Operator, directions: readonly number[]) {
  const { b } = c;
  return [inputs.initialH, inputs.initialC].slice(0, facts[kind].states).map((input) => {
    if (!c.has(input)) return full(b, 0, dtype, [directions.length, batch, hidden]);
    const given = c.int('layout', 0) === 0 ? c.input(input) : transpose(b, c.input(input), [1, 0, 2]);
    return cast(b, chosen(b, given, directions, all), dtype);
  });
}

/** x·Wᵀ and the biases for all steps: [steps, directions, batch, gates·hidden], the second direction from its end. */
function project(
  { c, kind, x, dtype, steps, batch, hidden, directions: all }: Operator,
  directions: readonly number[],
) {
  const { b } = c;
  const count = directions.length;
  const { gates } = facts[kind];
  const weights = cast(b, chosen(b, c.input(inputs.w), directions, all), dtype);
  const both = count === 2 ? stack(b, [x, reverse(b, x, 0)], 0) : unsqueeze(b, x, [0]);
  const attrs = { lhsBatch: [0], rhsBatch: [0], lhsContract: [3], rhsContract: [2], dtype };
  const product = b.op('dot', [both, weights], attrs)[0];
  const shape = [steps, count, batch, gates * hidden];
  const ordered = count === 1 ? reshape(b, product, shape) : transpose(b, product, [1, 0, 2, 3]);
  if (!c.has(inputs.bias)) return ordered;
  const biases = cast(b, chosen(b, c.input(inputs.bias), directions, all), dtype);
  const [own, recurrent] = [0, gates].map((at) => slice1(b, biases, 1, at * hidden, gates * hidden));
  // That of the last gate of GRU is scaled with its recurrence, and has to wait for it.
  const late = isLinear(c, kind);
  const early = late ? slice1(b, recurrent, 1, 0, 2 * hidden) : recurrent;
  const sum = late
    ? concat(b, [add(b, slice1(b, own, 1, 0, 2 * hidden), early), slice1(b, own, 1, 2 * hidden, hidden)], 1)
    : add(b, own, early);
  return add(b, ordered, unsqueeze(b, sum, [1]));
}

/** Which steps are within their sequence, in the order in which `project` has them: [steps, directions, batch, 1]. */
function maskOf({ c, steps, batch }: Operator, directions: number): Value {
  const { b } = c;
  const at = iota(b, 'i32', [steps, batch]);
  const within = binary(b, 'lt', at, cast(b, c.input(inputs.lengths), 'i32'));
  const all = directions === 2 ? stack(b, [within, reverse(b, within, 0)], 1) : unsqueeze(b, within, [1]);
  return unsqueeze(b, all, [3]);
}

/** The second direction's steps in the order of the first's. */
function turned(b: GraphBuilder, y: Value): Value {
  return concat(b, [slice1(b, y, 1, 0, 1), reverse(b, slice1(b, y, 1, 1, 1), 0)], 1);
}

const mapValues = (values: Captured, map: (value: Value, name: string) => Value): Captured =>
  Object.fromEntries(Object.entries(values).map(([name, value]) => [name, map(value, name)])) as Captured;

export const recurrents: readonly Conversion[] = (['RNN', 'GRU', 'LSTM'] as const).map((kind) => ({
  op: kind,
  since: 1,
  convert: (c) => convert(c, kind),
}));
