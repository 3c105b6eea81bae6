// Fourier transforms and what goes with them, beside the plain sums in f64.
import { describe, expect, it } from 'vitest';
import { GraphBuilder } from '../../compiler/graph/builder.js';
import { evaluateGraph } from '../../compiler/graph/evaluate.js';
import { fourier, unitRoot } from '../../compiler/graph/fourier.js';
import type { HostTensor } from '../../compiler/tensor.js';
import { seeded } from '../support/kernel_data.js';
import { f32, i64 } from '../support/onnx_model.js';
import { byKernels, byReference, expectSame, type OperatorCase } from '../support/operator_cases.js';
import { minimumTarget, testTargets } from '../support/targets.js';

const c = seeded(11);
const real = (count: number): Float32Array => Float32Array.from({ length: count }, () => c.int(-1000, 1000) / 1000);

type Pair = readonly [re: number, im: number];

/** Σ x[j]·e^(∓2πi·jk/length), the list cut or filled with zeros. */
function sum(x: readonly Pair[], length: number, inverse: boolean): Pair[] {
  return Array.from({ length }, (_, k) => {
    let [re, im] = [0, 0];
    for (let j = 0; j < Math.min(length, x.length); j++) {
      const angle = ((inverse ? 2 : -2) * Math.PI * ((j * k) % length)) / length;
      re += x[j][0] * Math.cos(angle) - x[j][1] * Math.sin(angle);
      im += x[j][0] * Math.sin(angle) + x[j][1] * Math.cos(angle);
    }
    return [re, im];
  });
}

describe('roots of unity', () => {
  it('are exact on the axes and at their bisectors', () => {
    expect(unitRoot(0, 7)).toEqual([1, 0]);
    expect(unitRoot(2, 8).map(Math.abs)).toEqual([0, 1]);
    expect(unitRoot(5, 10)[0]).toBe(-1);
    expect(unitRoot(9, 12).map(Math.abs)).toEqual([0, 1]);
    const [x, y] = unitRoot(1, 8);
    expect(x).toBeCloseTo(y, 15);
    for (let k = -20; k < 40; k++) {
      expect(unitRoot(k, 19)[0]).toBeCloseTo(Math.cos((2 * Math.PI * k) / 19), 14);
      expect(unitRoot(k, 19)[1]).toBeCloseTo(Math.sin((2 * Math.PI * k) / 19), 14);
    }
  });
});

describe('transforms of any length', () => {
  // One product; split once and twice; a prime as a product; a large prime and a multiple of one by convolution.
  for (const length of [1, 2, 7, 60, 256, 360, 512, 1000, 1021, 1031, 2062, 4096]) {
    for (const components of [1, 2]) {
      it(`${length} ${components === 1 ? 'real' : 'complex'} numbers`, () => {
        const data = real(length * components);
        const b = new GraphBuilder('g');
        const x = b.input('x', 'f32', [1, length, components]);
        b.output('forward', fourier(b, x, false));
        b.output('back', fourier(b, x, true));
        const results = evaluateGraph(b.finish(), { x: { dtype: 'f32', shape: [1, length, components], data } });
        const pairs = Array.from(
          { length },
          (_, j): Pair => [data[j * components], components === 2 ? data[2 * j + 1] : 0],
        );
        for (const [name, inverse] of [
          ['forward', false],
          ['back', true],
        ] as const) {
          const expected = sum(pairs, length, inverse).flat();
          const actual = results.get(name)?.data as Float32Array;
          const worst = Math.max(...expected.map((value, i) => Math.abs(value - actual[i])));
          // Of the norm, as rounding errors are.
          expect(worst).toBeLessThan(2e-6 * Math.sqrt(length));
        }
      });
    }
  }
});

const dft = (x: HostTensor, attrs: OperatorCase['attrs'], length?: number, axis?: number): OperatorCase => ({
  op: 'DFT',
  inputs: [
    x,
    length === undefined ? undefined : { ...i64(length), shape: [] },
    axis === undefined ? undefined : { ...i64(axis), shape: [] },
  ],
  outputs: ['f32'],
  attrs,
  constants: [1, 2],
});

describe('DFT', () => {
  for (const [size, length] of [
    [9, undefined],
    [9, 12],
    [9, 6],
    [8, 5],
  ] as const) {
    it(`of ${size} as ${length ?? size}, back, and one side`, async () => {
      const data = real(2 * size * 3 * 2);
      const x = f32([2, size, 3, 2], ...data);
      const n = length ?? size;
      const at = (batch: number, j: number, row: number): Pair => {
        const flat = ((batch * size + j) * 3 + row) * 2;
        return [data[flat], data[flat + 1]];
      };
      const expected = (inverse: boolean, outputs: number): HostTensor => {
        const out: number[] = [];
        for (let batch = 0; batch < 2; batch++) {
          const columns = [0, 1, 2].map((row) =>
            sum(
              Array.from({ length: size }, (_, j) => at(batch, j, row)),
              n,
              inverse,
            ),
          );
          for (let k = 0; k < outputs; k++)
            for (const column of columns) out.push(...column[k].map((v) => (inverse ? v / n : v)));
        }
        return f32([2, outputs, 3, 2], ...out);
      };
      const half = Math.floor(n / 2) + 1;
      for (const [attrs, result] of [
        [{}, expected(false, n)],
        [{ inverse: 1n }, expected(true, n)],
        [{ onesided: 1n }, expected(false, half)],
      ] as const) {
        const operator = dft(x, attrs, length, 1);
        expectSame(byReference(operator), [result], 'reference');
        expectSame(await byKernels(operator, testTargets.simt), [result], 'kernels');
        const before = dft(x, { ...attrs, axis: 1n }, length);
        expectSame(byReference({ ...before, opset: 17 }), [result], 'opset 17');
      }
    });
  }

  it('of one side of a spectrum is the real signal', async () => {
    for (const size of [8, 9, 300]) {
      const signal = real(size);
      const spectrum = sum(
        Array.from(signal, (v): Pair => [v, 0]),
        size,
        false,
      ).slice(0, Math.floor(size / 2) + 1);
      const x = f32([1, spectrum.length, 2], ...spectrum.flat());
      const operator = dft(x, { inverse: 1n, onesided: 1n }, size);
      const expected = [f32([1, size, 1], ...signal)];
      expectSame(byReference(operator), expected, `reference ${size}`);
      expectSame(await byKernels(operator, testTargets.cpu), expected, `kernels ${size}`);
    }
  });

  it('names what is wrong', () => {
    const x = f32([1, 4, 1], 1, 2, 3, 4);
    expect(() => byReference(dft(x, {}, 0))).toThrow(/invalid length of the transform; expected 1 or more, found 0/);
    expect(() => byReference(dft(x, {}, undefined, 2))).toThrow(/axis of the components/);
    expect(() => byReference(dft(f32([1, 2, 3], 1, 2, 3, 4, 5, 6), {}))).toThrow(/real or complex/);
  });
});

describe('STFT', () => {
  it('transforms windowed frames', async () => {
    const signal = real(2 * 50);
    const window = real(12);
    for (const [windowed, length, step, onesided] of [
      [true, undefined, 5, 1n],
      [false, 16, 7, 0n],
      [true, 20, 4, 1n],
    ] as const) {
      const size = length ?? 12;
      const frames = 1 + Math.floor((50 - size) / step);
      const bins = onesided ? Math.floor(size / 2) + 1 : size;
      const expected: number[] = [];
      for (let batch = 0; batch < 2; batch++) {
        for (let frame = 0; frame < frames; frame++) {
          const taken = windowed ? 12 : size;
          const pairs = Array.from(
            { length: taken },
            (_, j): Pair => [signal[batch * 50 + frame * step + j] * (windowed ? window[j] : 1), 0],
          );
          expected.push(...sum(pairs, size, false).slice(0, bins).flat());
        }
      }
      const operator: OperatorCase = {
        op: 'STFT',
        inputs: [
          f32([2, 50, 1], ...signal),
          { ...i64(step), shape: [] },
          windowed ? f32([12], ...window) : undefined,
          length === undefined ? undefined : { ...i64(length), shape: [] },
        ],
        outputs: ['f32'],
        attrs: { onesided },
        constants: [1, 3],
      };
      const result = [f32([2, frames, bins, 2], ...expected)];
      expectSame(byReference(operator), result, 'reference');
      expectSame(await byKernels(operator, minimumTarget), result, 'kernels');
    }
  });
});

describe('MelWeightMatrix', () => {
  /** As the operator's specification spells it out. */
  function reference(bins: number, length: number, rate: number, low: number, high: number): HostTensor {
    const spectrum = Math.floor(length / 2) + 1;
    const mel = (hertz: number): number => 2595 * Math.log10(1 + hertz / 700);
    const step = (mel(high) - mel(low)) / (bins + 2);
    const edges = Array.from({ length: bins + 2 }, (_, i) =>
      Math.floor(((length + 1) * 700 * (10 ** ((i * step + mel(low)) / 2595) - 1)) / rate),
    );
    const out = new Float32Array(spectrum * bins);
    for (let i = 0; i < bins; i++) {
      const [left, centre, right] = edges.slice(i, i + 3);
      if (left === centre) out[centre * bins + i] = 1;
      else for (let j = left; j <= centre; j++) out[j * bins + i] = (j - left) / (centre - left);
      for (let j = centre; j < right; j++) out[j * bins + i] = (right - j) / (right - centre);
    }
    return { dtype: 'f32', shape: [spectrum, bins], data: out };
  }

  it('has triangles evenly spaced in mel', () => {
    for (const [bins, length, rate, low, high] of [
      [8, 16, 8192, 0, 4096],
      [20, 512, 16000, 20, 7600],
      [40, 1024, 44100, 100, 15000],
    ]) {
      const operator: OperatorCase = {
        op: 'MelWeightMatrix',
        inputs: [bins, length, rate]
          .map((v): HostTensor => ({ dtype: 'i32', shape: [], data: Int32Array.of(v) }))
          .concat([low, high].map((v) => f32([], v))),
        outputs: ['f32'],
        constants: [0, 1],
      };
      expectSame(byReference(operator), [reference(bins, length, rate, low, high)], `${bins} bins`);
    }
  });
});
