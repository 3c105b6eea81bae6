/** Optimisers of ai.onnx.preview.training: one step for any number of tensors. */
import {
  add,
  binary,
  binaryC,
  cast,
  div,
  mul,
  reshape,
  scalar,
  select3,
  square,
  sub,
  unary,
} from '../../../graph/compose/index.js';
import type { Value } from '../../../graph/types.js';
import type { Conversion, ConvertContext } from '../context.js';

/** Inputs after the learning rate and the step count: tensors, their gradients and their states, in groups. */
function groupsOf(c: ConvertContext, states: number): readonly (readonly Value[])[] {
  const kinds = 2 + states;
  const count = (c.inputs.length - 2) / kinds;
  if (!Number.isInteger(count) || count < 1)
    c.fail('wrong number of inputs', `2 and a multiple of ${kinds}`, String(c.inputs.length));
  return Array.from({ length: count }, (_, i) =>
    Array.from({ length: kinds }, (_, kind) => c.input(2 + kind * count + i)),
  );
}

/** All first results, then all second ones, … */
const inOrder = (results: readonly (readonly Value[])[]): readonly Value[] =>
  results[0].flatMap((_, kind) => results.map((result) => result[kind]));

/** Learning rate and step count as scalars of a float type. */
const rate = (c: ConvertContext, like: Value): Value => reshape(c.b, cast(c.b, c.input(0), like.type.dtype), []);
const steps = (c: ConvertContext, like: Value): Value => reshape(c.b, cast(c.b, c.input(1), like.type.dtype), []);

/** The gradient with that of norm_coefficient/2 · |x|². */
const regularised = (c: ConvertContext, x: Value, gradient: Value): Value =>
  add(c.b, binaryC(c.b, 'mul', x, c.float('norm_coefficient', 0)), gradient);

function adagrad(c: ConvertContext): readonly Value[] {
  return inOrder(
    groupsOf(c, 1).map(([x, gradient, history]) => {
      const slope = regularised(c, x, gradient);
      const decayed = binaryC(c.b, 'add', binaryC(c.b, 'mul', steps(c, x), c.float('decay_factor', 0)), 1);
      const sum = add(c.b, history, square(c.b, slope));
      const root = binaryC(c.b, 'add', unary(c.b, 'sqrt', sum), c.float('epsilon', 1e-6));
      const step = div(c.b, mul(c.b, div(c.b, rate(c, x), decayed), slope), root);
      return [sub(c.b, x, step), sum];
    }),
  );
}

/** share · old + (1 - share) · new. */
const blended = (c: ConvertContext, share: number, old: Value, fresh: Value): Value =>
  add(c.b, binaryC(c.b, 'mul', old, share), binaryC(c.b, 'mul', fresh, 1 - share));

function adam(c: ConvertContext): readonly Value[] {
  const [alpha, beta] = [c.float('alpha', 0.9), c.float('beta', 0.999)];
  return inOrder(
    groupsOf(c, 2).map(([x, gradient, momentum, history]) => {
      const slope = regularised(c, x, gradient);
      const mean = blended(c, alpha, momentum, slope);
      const variance = blended(c, beta, history, square(c.b, slope));
      const root = binaryC(c.b, 'add', unary(c.b, 'sqrt', variance), c.float('epsilon', 1e-6));
      const count = steps(c, x);
      const rest = (base: number): Value =>
        binaryC(c.b, 'add', unary(c.b, 'neg', binary(c.b, 'pow', scalar(c.b, base, x.type.dtype), count)), 1);
      const corrected = mul(c.b, rate(c, x), div(c.b, unary(c.b, 'sqrt', rest(beta)), rest(alpha)));
      const adjusted = select3(c.b, binaryC(c.b, 'gt', count, 0), corrected, rate(c, x));
      const moved = sub(c.b, x, div(c.b, mul(c.b, adjusted, mean), root));
      return [binaryC(c.b, 'mul', moved, 1 - c.float('norm_coefficient_post', 0)), mean, variance];
    }),
  );
}

function momentum(c: ConvertContext): readonly Value[] {
  const [alpha, beta] = [c.float('alpha'), c.float('beta')];
  const mode = c.choice('mode', ['standard', 'nesterov'] as const, 'standard');
  return inOrder(
    groupsOf(c, 1).map(([x, gradient, velocity]) => {
      const slope = regularised(c, x, gradient);
      const first = binaryC(c.b, 'gt', steps(c, x), 0);
      const share = select3(c.b, first, scalar(c.b, beta, x.type.dtype), scalar(c.b, 1, x.type.dtype));
      const next = add(c.b, binaryC(c.b, 'mul', velocity, alpha), mul(c.b, slope, share));
      const direction = mode === 'standard' ? next : add(c.b, slope, binaryC(c.b, 'mul', next, alpha));
      return [sub(c.b, x, mul(c.b, direction, rate(c, x))), next];
    }),
  );
}

const domain = 'ai.onnx.preview.training';
export const optimisers: readonly Conversion[] = [
  { domain, op: 'Adagrad', since: 1, convert: adagrad },
  { domain, op: 'Adam', since: 1, convert: adam },
  { domain, op: 'Momentum', since: 1, convert: momentum },
];
