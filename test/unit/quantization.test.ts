/**
 * QuantizeLinear and DequantizeLinear to and from every type that ONNX lets them have, by tensor, axis and block, against
 * the formulas of the specification written down element by element.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { numbersOf } from '../../compiler/compare.js';
import { type DType, integerRange, isInt, isMiniFloat } from '../../compiler/dtype.js';
import { importOnnx } from '../../compiler/frontends/onnx/index.js';
import { onnxTypeOf } from '../../compiler/frontends/onnx/tensors.js';
import { evaluateGraph } from '../../compiler/graph/evaluate.js';
import { tensorOfNumbers } from '../../compiler/graph/ops/reference/data.js';
import { cast } from '../../compiler/graph/ops/reference/elementwise.js';
import { decodeMiniFloat, encodeMiniFloat } from '../../compiler/minifloat.js';
import { type HostTensor, sizeOf } from '../../compiler/tensor.js';
import { runInterpreted } from '../support/interpreted.js';
import { bind } from '../support/onnx_cases.js';
import { model, node, value } from '../support/onnx_model.js';
import { testTargets } from '../support/targets.js';

const integers = ['u8', 'i8', 'u16', 'i16', 'u4', 'i4', 'u2', 'i2'] as const;
const floats = ['f8e4m3', 'f8e5m2', 'f8e4m3fnuz', 'f8e5m2fnuz', 'f4e2m1'] as const;
const types: readonly DType[] = [...integers, ...floats];
/** The opset in which the operators take a type. */
const since = (dtype: DType): number =>
  dtype === 'u8' || dtype === 'i8'
    ? 10
    : dtype.startsWith('f8')
      ? 19
      : dtype === 'f4e2m1'
        ? 23
        : /2$/.test(dtype)
          ? 25
          : 21;

type Layout = 'tensor' | 'axis' | 'block';
interface Trial {
  readonly dtype: DType;
  readonly shape: readonly number[];
  readonly layout: Layout;
  readonly axis: number;
  readonly block: number;
  readonly withZero: boolean;
  readonly saturate: boolean;
  readonly numbers: readonly number[];
  readonly scales: readonly number[];
  readonly zeros: readonly number[];
}

const trials = (dtype: DType): fc.Arbitrary<Trial> =>
  fc.gen().map((g): Trial => {
    const int = (min: number, max: number) => g(fc.integer, { min, max });
    const shape = Array.from({ length: int(1, 3) }, () => int(1, 5));
    const layouts: Layout[] = since(dtype) >= 21 ? ['tensor', 'axis', 'block'] : ['tensor', 'axis'];
    const layout = g(fc.constantFrom, ...layouts) as Layout;
    const [axis, block] = [int(0, shape.length - 1), int(1, 4)];
    const parameters = sizeOf(parameterShape({ layout, shape, axis, block }));
    const [least, most] = isInt(dtype) ? integerRange(dtype).map(Number) : [0, 0];
    return {
      dtype,
      shape,
      layout,
      axis,
      block,
      withZero: g(fc.boolean) as boolean,
      saturate: g(fc.boolean) as boolean,
      numbers: Array.from({ length: sizeOf(shape) }, () => int(-2000, 2000) / 8),
      // Powers of two keep the quotients exact, so that ties are ties.
      scales: Array.from({ length: parameters }, () => 2 ** int(-3, 3)),
      zeros: Array.from({ length: parameters }, () => int(least, most)),
    };
  });

const parameterShape = ({
  layout,
  shape,
  axis,
  block,
}: Pick<Trial, 'layout' | 'shape' | 'axis' | 'block'>): number[] =>
  layout === 'tensor'
    ? []
    : layout === 'axis'
      ? [shape[axis]]
      : shape.map((dim, d) => (d === axis ? Math.ceil(dim / block) : dim));

/** Which scale an element has. */
function parameterOf({ layout, shape, axis, block }: Trial, flat: number): number {
  if (layout === 'tensor') return 0;
  const at = shape.map((_, d) => Math.floor(flat / sizeOf(shape.slice(d + 1))) % shape[d]);
  if (layout === 'axis') return at[axis];
  const dims = shape.map((dim, d) => (d === axis ? Math.ceil(dim / block) : dim));
  return dims.reduce((sum, dim, d) => sum * dim + (d === axis ? Math.floor(at[d] / block) : at[d]), 0);
}

const half = (x: number): number => {
  const floor = Math.floor(x);
  const rest = x - floor;
  return rest > 0.5 || (rest === 0.5 && floor % 2 !== 0) ? floor + 1 : floor;
};

function quantised(trial: Trial, i: number): number {
  const { dtype, numbers, scales, zeros, withZero, saturate } = trial;
  const p = parameterOf(trial, i);
  const scaled = numbers[i] / scales[p];
  if (isMiniFloat(dtype)) return decodeMiniFloat(dtype, encodeMiniFloat(dtype, scaled, { saturate }));
  const [least, most] = isInt(dtype) ? integerRange(dtype).map(Number) : [0, 0];
  return Math.min(most, Math.max(least, half(scaled) + (withZero ? zeros[p] : 0)));
}

function attributesOf({ layout, axis, block, saturate, dtype, withZero }: Trial, quantises: boolean) {
  return {
    ...(layout === 'tensor' ? {} : { axis: BigInt(axis) }),
    ...(layout === 'block' ? { block_size: BigInt(block) } : {}),
    ...(quantises && isMiniFloat(dtype) && dtype !== 'f4e2m1' ? { saturate: saturate ? 1n : 0n } : {}),
    // Without a zero point the type must be said.
    ...(quantises && !withZero && dtype !== 'u8' ? { output_dtype: BigInt(onnxTypeOf(dtype)) } : {}),
  };
}

/** The operator on (x, scale, zero point) as a graph. */
function graphOf(op: string, trial: Trial, input: HostTensor, quantises: boolean) {
  const places = parameterShape(trial);
  const { dtype, withZero } = trial;
  const needed = Math.max(since(dtype), quantises && !withZero ? 21 : 13);
  return importOnnx(
    model({
      opset: needed,
      inputs: [value('x', input.dtype, input.shape)],
      initializers: {
        scale: tensorOfNumbers('f32', places, trial.scales),
        ...(withZero ? { zero: tensorOfNumbers(dtype, places, trial.zeros) } : {}),
      },
      nodes: [node(`y = ${op}(x, scale${withZero ? ', zero' : ''})`, attributesOf(trial, quantises))],
      outputs: ['y'],
    }),
    {},
  );
}

const run = (graph: ReturnType<typeof importOnnx>, x: HostTensor): HostTensor =>
  evaluateGraph(bind(graph, [x]), { x }).get('y') as HostTensor;

describe.each(types)('%s', (dtype) => {
  it('property: is quantised as the specification says', () => {
    fc.assert(
      fc.property(trials(dtype), (trial) => {
        const x = tensorOfNumbers('f32', trial.shape, trial.numbers);
        const y = run(graphOf('QuantizeLinear', trial, x, true), x);
        expect([y.dtype, y.shape]).toEqual([dtype, trial.shape]);
        expect([...numbersOf(y)].map((v) => v + 0)).toEqual(trial.numbers.map((_, i) => quantised(trial, i) + 0));
      }),
      { numRuns: 40 },
    );
  });

  it('property: is dequantised as the specification says', () => {
    fc.assert(
      fc.property(trials(dtype), (trial) => {
        const x = cast(tensorOfNumbers('f32', trial.shape, trial.numbers), dtype, { saturate: true });
        const y = run(graphOf('DequantizeLinear', trial, x, false), x);
        const zeroOf = (p: number) => (trial.withZero && isInt(dtype) ? trial.zeros[p] : 0);
        const expected = Array.from(numbersOf(x), (q, i) => {
          const p = parameterOf(trial, i);
          return (q - zeroOf(p)) * trial.scales[p];
        });
        expect([y.dtype, y.shape]).toEqual(['f32', trial.shape]);
        expect([...numbersOf(y)].map((v) => v + 0)).toEqual(expected.map((v) => v + 0));
      }),
      { numRuns: 40 },
    );
  });

  it('comes and goes on kernels alike', async () => {
    const shape = [3, 7];
    const trial: Trial = {
      dtype,
      shape,
      layout: since(dtype) >= 21 ? 'block' : 'axis',
      axis: 1,
      block: 3,
      withZero: true,
      saturate: false,
      numbers: Array.from({ length: 21 }, (_, i) => ((i * 37) % 29) * (i % 2 ? -0.625 : 1.5)),
      scales: Array.from({ length: 9 }, (_, i) => 2 ** ((i % 5) - 2)).slice(0, since(dtype) >= 21 ? 9 : 7),
      zeros: Array.from({ length: 9 }, (_, i) => (isInt(dtype) ? i % 2 : 0)).slice(0, since(dtype) >= 21 ? 9 : 7),
    };
    const x = tensorOfNumbers('f32', trial.shape, trial.numbers);
    const down = bind(graphOf('QuantizeLinear', trial, x, true), [x]);
    const y = evaluateGraph(down, { x }).get('y') as HostTensor;
    const up = bind(graphOf('DequantizeLinear', trial, y, false), [y]);
    for (const target of Object.values(testTargets)) {
      const found = (await runInterpreted(target, down, { x })).y;
      expect(found).toEqual(y);
      const back = (await runInterpreted(target, up, { x: y })).y;
      expect(back).toEqual(evaluateGraph(up, { x: y }).get('y'));
    }
  });
});

it('scales may be powers of two in a byte, and results of another type', () => {
  const graph = importOnnx(
    model({
      opset: 25,
      inputs: [value('x', 'f32', [2, 4])],
      initializers: { scale: tensorOfNumbers('f8e8m0', [2, 2], [0.25, 2, 1, 8]) },
      nodes: [
        node('q = QuantizeLinear(x, scale)', { axis: 1n, block_size: 2n, output_dtype: BigInt(onnxTypeOf('f4e2m1')) }),
        node('y = DequantizeLinear(q, scale)', { axis: 1n, block_size: 2n, output_dtype: BigInt(onnxTypeOf('f32')) }),
      ],
      outputs: ['y'],
    }),
    {},
  );
  const x = tensorOfNumbers('f32', [2, 4], [0.5, -9, 7, 1, 3.4, 0.25, 100, -20]);
  expect([...numbersOf(run(graph, x))]).toEqual([0.5, -1.5, 8, 1, 3, 0, 48, -16]);
});
