/** Random recurrent operators as ONNX models, and a check of their results against the specification. */
import fc from 'fast-check';
import { expect } from 'vitest';
import { numbersOf } from '../../compiler/compare.js';
import type { DType } from '../../compiler/dtype.js';
import { cast } from '../../compiler/graph/ops/reference/elementwise.js';
import type { HostTensor } from '../../compiler/tensor.js';
import { model, node, value } from './onnx_model.js';
import {
  activationNames,
  type RecurrentCase,
  type RecurrentKind,
  recurrentReference,
  takesAlpha,
  takesBeta,
} from './recurrent_reference.js';

const opsets = { RNN: [1, 7, 14, 22], GRU: [3, 7, 14, 22], LSTM: [1, 7, 14, 22] } as const;
const gates = { RNN: 1, GRU: 3, LSTM: 4 } as const;
/** Activations by default, for one direction. */
export const standardActivations = {
  RNN: ['Tanh'],
  GRU: ['Sigmoid', 'Tanh'],
  LSTM: ['Sigmoid', 'Tanh', 'Tanh'],
} as const;

export interface Trial {
  readonly operator: RecurrentCase;
  readonly opset: number;
  readonly dtype: DType;
  /** Weights as initialisers, else as inputs. */
  readonly constant: boolean;
  /** Which outputs have a name. */
  readonly outputs: readonly boolean[];
}

/** Arbitrary operators; no extent is larger than `most`. */
export const trials = (kind: RecurrentKind, most: number): fc.Arbitrary<Trial> =>
  fc.gen().map((g): Trial => {
    const int = (min: number, max: number) => g(fc.integer, { min, max });
    const flag = () => g(fc.boolean);
    const direction = g(fc.constantFrom, 'forward', 'reverse', 'bidirectional') as RecurrentCase['direction'];
    const [steps, batch, input, hidden] = [int(1, most), int(1, 3), int(1, 5), int(1, most)];
    const [D, G] = [direction === 'bidirectional' ? 2 : 1, gates[kind]];
    const numbers = (count: number) => Array.from({ length: count }, () => int(-8, 8) / 8);
    const optional = <T>(make: () => T): T | undefined => (flag() ? make() : undefined);
    const explicit = flag();
    const activations = Array.from({ length: D }, () =>
      standardActivations[kind].map((standard) =>
        explicit ? (g(fc.constantFrom, ...activationNames) as string) : standard,
      ),
    ).flat();
    const parameters = (takes: (name: string) => boolean) =>
      explicit && flag() ? activations.filter(takes).map(() => int(1, 8) / 8) : [];
    const opset = g(fc.constantFrom, ...opsets[kind]) as number;
    return {
      operator: {
        kind,
        steps,
        batch,
        input,
        hidden,
        direction,
        layout: opset >= 14 && flag() ? 1 : 0,
        clip: optional(() => int(1, 8) / 4),
        linearBeforeReset: flag(),
        inputForget: flag(),
        activations,
        alphas: parameters(takesAlpha),
        betas: parameters(takesBeta),
        x: numbers(steps * batch * input),
        w: numbers(D * G * hidden * input),
        r: numbers(D * G * hidden * hidden),
        bias: optional(() => numbers(D * 2 * G * hidden)),
        lengths: optional(() => Array.from({ length: batch }, () => int(0, steps))),
        initialH: optional(() => numbers(D * batch * hidden)),
        initialC: kind === 'LSTM' ? optional(() => numbers(D * batch * hidden)) : undefined,
        peepholes: kind === 'LSTM' ? optional(() => numbers(D * 3 * hidden)) : undefined,
      },
      opset,
      dtype: g(fc.constantFrom, 'f32', 'f64', 'f16') as DType,
      constant: flag(),
      outputs: [flag(), true, flag()],
    };
  });

/** The operator as a model, and its inputs. */
export function modelOf({ operator: o, opset, dtype, constant, outputs }: Trial) {
  const D = o.direction === 'bidirectional' ? 2 : 1;
  const G = gates[o.kind];
  const floats = (shape: readonly number[], data: readonly number[] | undefined): HostTensor | undefined =>
    data && cast({ dtype: 'f64', shape, data: Float64Array.from(data) }, dtype, { saturate: true });
  const state = o.layout === 0 ? [D, o.batch, o.hidden] : [o.batch, D, o.hidden];
  const tensors: Record<string, HostTensor | undefined> = {
    X: floats(o.layout === 0 ? [o.steps, o.batch, o.input] : [o.batch, o.steps, o.input], o.x),
    W: floats([D, G * o.hidden, o.input], o.w),
    R: floats([D, G * o.hidden, o.hidden], o.r),
    B: floats([D, 2 * G * o.hidden], o.bias),
    L: o.lengths && { dtype: 'i32', shape: [o.batch], data: Int32Array.from(o.lengths) },
    H: floats(state, o.initialH),
    C: floats(state, o.initialC),
    P: floats([D, 3 * o.hidden], o.peepholes),
  };
  const given = Object.entries(tensors).filter((entry): entry is [string, HostTensor] => entry[1] !== undefined);
  const weights = new Set(constant ? ['W', 'R', 'B', 'P'] : []);
  const names = Object.keys(tensors).map((name) => (tensors[name] ? name : ''));
  const standard = String(Array.from({ length: D }, () => standardActivations[o.kind]).flat());
  const results = ['Y', 'Y_h', ...(o.kind === 'LSTM' ? ['Y_c'] : [])].map((name, i) => (outputs[i] ? name : ''));
  const bytes = model({
    opset,
    inputs: given.filter(([name]) => !weights.has(name)).map(([name, t]) => value(name, t.dtype, t.shape)),
    initializers: Object.fromEntries(given.filter(([name]) => weights.has(name))),
    nodes: [
      node(`${results.join(', ')} = ${o.kind}(${names.slice(0, o.kind === 'LSTM' ? 8 : 6).join(', ')})`, {
        hidden_size: BigInt(o.hidden),
        direction: o.direction,
        ...(String(o.activations) === standard ? {} : { activations: o.activations }),
        ...(o.alphas.length > 0 ? { activation_alpha: o.alphas } : {}),
        ...(o.betas.length > 0 ? { activation_beta: o.betas } : {}),
        ...(o.clip === undefined ? {} : { clip: o.clip }),
        ...(o.layout === 1 ? { layout: 1n } : {}),
        ...(o.kind === 'GRU' && o.linearBeforeReset ? { linear_before_reset: 1n } : {}),
        ...(o.kind === 'LSTM' && o.inputForget ? { input_forget: 1n } : {}),
      }),
    ],
    outputs: results.filter((name) => name !== '').map((name) => value(name, dtype)),
  });
  const inputs = Object.fromEntries(given.filter(([name]) => !weights.has(name)));
  return { bytes, inputs };
}

export function expectClose(
  actual: ReadonlyMap<string, HostTensor>,
  { operator, dtype }: Trial,
  tolerance: number,
): void {
  const expected = recurrentReference(operator);
  const largest = [...expected.y, ...expected.h, ...expected.c].reduce((most, x) => Math.max(most, Math.abs(x)), 0);
  // States that grow take their errors with them.
  if (!(largest < 100)) return;
  for (const [name, numbers] of [
    ['Y', expected.y],
    ['Y_h', expected.h],
    ['Y_c', expected.c],
  ] as const) {
    const tensor = actual.get(name);
    if (!tensor) continue;
    expect(tensor.dtype).toBe(dtype);
    const found = numbersOf(tensor);
    expect(found.length).toBe(numbers.length);
    const scale = numbers.reduce((most, number) => Math.max(most, Math.abs(number)), 1);
    numbers.forEach((number, i) => {
      expect(Math.abs(found[i] - number), `${name}[${i}]`).toBeLessThanOrEqual(tolerance * scale);
    });
  }
}
export const toleranceOf = (dtype: DType): number => (dtype === 'f16' ? 4e-3 : dtype === 'f64' ? 1e-12 : 2e-5);
