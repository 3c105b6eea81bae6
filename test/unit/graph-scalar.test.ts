// The kernel form of every elementwise op against its reference, over all element types and their special values.
import { describe, expect, it } from 'vitest';
import { type DType, dtypes, integerRange, isFloat, isInt, isMiniFloat, isPacked } from '../../compiler/dtype.js';
import { GraphBuilder } from '../../compiler/graph/builder.js';
import { evaluateNode } from '../../compiler/graph/evaluate.js';
import { definitionOf } from '../../compiler/graph/ops/index.js';
import { numbersOf, tensorOfNumbers } from '../../compiler/graph/ops/reference/data.js';
import { kernelScalar } from '../../compiler/graph/ops/scalar.js';
import { binaryOps, type NodeOf, type OpAttrs, type OpKind, unaryOps } from '../../compiler/graph/types.js';
import { KernelBuilder } from '../../compiler/kernel/builder.js';
import { interpret } from '../../compiler/kernel/interpreter.js';
import type { Lanes } from '../../compiler/kernel/types.js';
import { bytesOfTensor, emptyTensor, type HostTensor } from '../../compiler/tensor.js';
import { errorOf } from '../support/errors.js';

const kernelTypes = dtypes.filter((dtype) => dtype !== 'string' && !isMiniFloat(dtype) && !isPacked(dtype));

/** Extremes, neighbours of powers of two, halves, signed zeros, infinities, NaN, subnormals. */
function samples(dtype: DType): HostTensor {
  if (dtype === 'bool') return tensorOfNumbers(dtype, [2], [0, 1]);
  if (isInt(dtype)) {
    const [least, most] = integerRange(dtype);
    const near = [0n, 1n, 2n, 3n, 5n, 7n, 8n, 15n, 16n, 31n, 32n, 63n, 64n, 65n, 100n, -1n, -2n, -3n, -7n, -31n, -64n];
    const list = [...near, least, least + 1n, most, most - 1n, most / 2n, most / 3n].filter(
      (x) => x >= least && x <= most,
    );
    if (dtype === 'i64') return { dtype, shape: [list.length], data: BigInt64Array.from(list) };
    if (dtype === 'u64') return { dtype, shape: [list.length], data: BigUint64Array.from(list) };
    return tensorOfNumbers(dtype, [list.length], list.map(Number));
  }
  const tiny = { f64: 5e-324, f32: 1e-45, f16: 6e-8, bf16: 1e-40 }[dtype as 'f64'];
  const huge = { f64: 1.7e308, f32: 3.4e38, f16: 65504, bf16: 3.3e38 }[dtype as 'f64'];
  const list = [0, 0.5, 1, 1.5, 2, 2.5, 3, 10, 0.1, 0.999, 4.75, 100, 127.5, 128, 300.7, 40000, tiny, huge, Infinity];
  return tensorOfNumbers(dtype, [2 * list.length + 1], [...list, ...list.map((x) => -x), Number.NaN]);
}

/** Every pair of two sample lists. */
function pairs(x: HostTensor, y: HostTensor): [HostTensor, HostTensor] {
  const pick = (t: HostTensor, place: (i: number) => number): HostTensor => {
    const count = x.shape[0] * y.shape[0];
    const out = emptyTensor(t.dtype, [count]);
    for (let i = 0; i < count; i++) (out.data as Float64Array)[i] = t.data[place(i)] as number;
    return out;
  };
  return [pick(x, (i) => Math.floor(i / y.shape[0])), pick(y, (i) => i % y.shape[0])];
}

function reference<K extends OpKind>(kind: K, attrs: OpAttrs[K], inputs: readonly HostTensor[]): HostTensor {
  const b = new GraphBuilder();
  const values = inputs.map((input, i) => b.input(`x${i}`, input.dtype, input.shape));
  b.op(kind, values, attrs);
  return evaluateNode(b.finish().nodes[0] as NodeOf<OpKind> as never, inputs)[0];
}

/** Runs the op as a kernel over vectors of `lanes`. */
function viaKernel<K extends OpKind>(
  kind: K,
  attrs: OpAttrs[K],
  inputs: readonly HostTensor[],
  output: DType,
  lanes: Lanes,
): HostTensor {
  const count = inputs[0].shape[0];
  const padded = Math.ceil(count / lanes) * lanes;
  const b = new KernelBuilder();
  const buffers = inputs.map((input, i) => b.buffer(`x${i}`, kernelScalar(input.dtype), padded, 'read'));
  const out = b.buffer('out', kernelScalar(output), padded, 'write');
  const at = b.mulc(b.builtin('workgroup_id', 0, padded / lanes), lanes);
  const args = buffers.map((buffer) => b.load(buffer, at, lanes, true));
  const scalar = definitionOf(kind).scalar;
  if (!scalar) throw new Error(`${kind} has no scalar form`);
  b.store(out, at, scalar(b, args, { attrs, inputs: inputs.map((input) => input.dtype), output }), true);
  const kernel = b.finish({ name: kind, grid: [padded / lanes, 1, 1], workgroup: [1, 1, 1] });
  const grown = [...inputs.map((input) => grow(input, padded)), emptyTensor(output, [padded])];
  interpret(
    kernel,
    grown.map((tensor) => tensor.data as Uint8Array),
    [],
    { checkRanges: true },
  );
  const result = grown[grown.length - 1];
  return { dtype: output, shape: [count], data: (result.data as Uint8Array).slice(0, count) };
}

function grow(tensor: HostTensor, count: number): HostTensor {
  const out = emptyTensor(tensor.dtype, [count]);
  (out.data as Uint8Array).set(tensor.data as Uint8Array);
  return out;
}

/** Distance of a type's neighbours at x. */
function ulp(dtype: DType, x: number): number {
  const [bits, least] = { f64: [52, -1022], f32: [23, -126], f16: [10, -14], bf16: [7, -126] }[dtype as 'f64'];
  return 2 ** (Math.max(Math.floor(Math.log2(Math.abs(x) || Number.MIN_VALUE)), least) - bits);
}

/** Same bits, or `ulps` apart; any NaN equals any other. */
function expectClose(actual: HostTensor, expected: HostTensor, ulps: number, inputs: readonly HostTensor[]): void {
  expect(actual.dtype).toBe(expected.dtype);
  if (!isFloat(expected.dtype)) {
    const wrong = Array.from(expected.data as Uint8Array).findIndex((x, i) => x !== actual.data[i]);
    const at =
      wrong < 0
        ? ''
        : `${inputs.map((input) => String(input.data[wrong]))}: ${actual.data[wrong]} for ${expected.data[wrong]}`;
    expect(at).toBe('');
    return;
  }
  const [p, q] = [numbersOf(actual), numbersOf(expected)];
  for (let i = 0; i < q.length; i++) {
    const same = Object.is(p[i], q[i]) || (Number.isNaN(p[i]) && Number.isNaN(q[i]));
    const close = ulps > 0 && Math.abs(p[i] - q[i]) <= ulps * ulp(expected.dtype, q[i]);
    if (!same && !close) {
      expect.fail(`${inputs.map((input) => String(numbersOf(input)[i]))}: ${p[i]} for ${q[i]}`);
    }
  }
}

const exact = new Set<string>([
  'neg',
  'abs',
  'sign',
  'sqrt',
  'recip',
  'floor',
  'ceil',
  'round',
  'trunc',
  'not',
  'is_nan',
  'is_inf',
  'add',
  'sub',
  'mul',
  'div',
  'rem',
  'max',
  'min',
]);

const accepts = (kind: OpKind, count: number, dtype: DType): boolean => {
  const b = new GraphBuilder();
  try {
    b.op(
      kind,
      Array.from({ length: count }, (_, i) => b.input(`x${i}`, dtype, [1])),
      {} as never,
    );
    return true;
  } catch {
    return false;
  }
};

for (const lanes of [1, 4] as const) {
  describe(`scalar form, ${lanes} lane(s)`, () => {
    for (const dtype of kernelTypes) {
      it(`unary ops on ${dtype}`, () => {
        const x = samples(dtype);
        const kinds = unaryOps.filter((kind) => accepts(kind, 1, dtype));
        expect(kinds.length).toBeGreaterThan(0);
        for (const kind of kinds) {
          const expected = reference(kind, {}, [x]);
          expectClose(viaKernel(kind, {}, [x], expected.dtype, lanes), expected, exact.has(kind) ? 0 : 2, [x]);
        }
      });

      it(`binary ops on ${dtype}`, () => {
        const [x, y] = pairs(samples(dtype), samples(dtype));
        for (const kind of binaryOps.filter((op) => accepts(op, 2, dtype))) {
          const expected = reference(kind, {}, [x, y]);
          const actual = viaKernel(kind, {}, [x, y], expected.dtype, lanes);
          try {
            expectClose(actual, expected, exact.has(kind) ? 0 : 2, [x, y]);
          } catch (error) {
            throw new Error(`${kind}: ${(error as Error).message}`);
          }
        }
      });

      it(`casts from ${dtype}`, () => {
        const x = samples(dtype);
        for (const to of kernelTypes) {
          const attrs = { dtype: to, saturate: true };
          const expected = reference('cast', attrs, [x]);
          expectClose(viaKernel('cast', attrs, [x], to, lanes), expected, 0, [x]);
        }
      });

      if (dtype !== 'bool') {
        it(`clamp of ${dtype}`, () => {
          const x = samples(dtype);
          for (const [min, max] of [
            [0, 6],
            [null, 2.5],
            [-1.5, null],
            [-1e30, 1e30],
            [5, 3],
            [-Infinity, Infinity],
            [300, 7e20],
          ]) {
            const attrs = { min, max } as OpAttrs['clamp'];
            expectClose(viaKernel('clamp', attrs, [x], dtype, lanes), reference('clamp', attrs, [x]), 0, [x]);
          }
        });
      }

      it(`select of ${dtype}`, () => {
        const [x, y] = pairs(samples(dtype), samples(dtype));
        const condition = tensorOfNumbers(
          'bool',
          x.shape,
          Array.from({ length: x.shape[0] }, (_, i) => (i % 3) & 1),
        );
        const inputs = [condition, x, y];
        expectClose(viaKernel('select', {}, inputs, dtype, lanes), reference('select', {}, inputs), 0, inputs);
      });
    }
  });
}

describe('scalar form', () => {
  it('keeps bits in bitcasts', () => {
    for (const [from, to] of [
      ['f32', 'i32'],
      ['u32', 'f32'],
      ['f16', 'u16'],
      ['bf16', 'i16'],
      ['i64', 'f64'],
      ['i8', 'u8'],
    ] as const) {
      const x = samples(from);
      const attrs = { dtype: to };
      const expected = reference('bitcast', attrs, [x]);
      expect(bytesOfTensor(expected)).toEqual(bytesOfTensor(x));
      expect(bytesOfTensor(viaKernel('bitcast', attrs, [x], to, 1))).toEqual(bytesOfTensor(expected));
    }
  });

  it('unrolls integer powers with a constant exponent', () => {
    const b = new KernelBuilder();
    const x = b.scalar('x', 'i32');
    const power = definitionOf('pow').scalar?.(b, [x, b.constant(5)], {
      attrs: {},
      inputs: ['i32', 'i32'],
      output: 'i32',
    });
    expect(power).toBeDefined();
    const { body } = b.finish({ name: 'pow', grid: [1, 1, 1], workgroup: [1, 1, 1] });
    expect(body.instructions.map((inst) => inst.op)).not.toContain('for');
  });

  it('refuses types that kernels do not have', () => {
    const b = new KernelBuilder();
    const x = b.constant(1, 'u8');
    for (const dtype of ['f8e4m3', 'f4e2m1', 'i4', 'u2', 'string'] as const) {
      const call = () => definitionOf('add').scalar?.(b, [x, x], { attrs: {}, inputs: [dtype, dtype], output: dtype });
      expect(errorOf(call).code).toBe('E_UNSUPPORTED');
    }
  });
});
