// The reference evaluation of each op against vectors worked out by hand (or by numpy's and ONNX's documentation).
import { describe, expect, it } from 'vitest';
import type { DType } from '../../compiler/dtype.js';
import { GraphBuilder } from '../../compiler/graph/builder.js';
import { dimName } from '../../compiler/graph/dims.js';
import { evaluateGraph, evaluateNode } from '../../compiler/graph/evaluate.js';
import { bigsOf, isBig, numbersOf, stringsOf, tensorOfNumbers } from '../../compiler/graph/ops/reference/data.js';
import type { OpAttrs, OpKind, ResizeAttrs } from '../../compiler/graph/types.js';
import { type HostTensor, sizeOf } from '../../compiler/tensor.js';
import { errorOf } from '../support/errors.js';

type Literal = number | bigint | string;

function t(dtype: DType, shape: readonly number[], values: readonly Literal[]): HostTensor {
  expect(values.length).toBe(sizeOf(shape));
  if (dtype === 'string') return { dtype, shape, data: values.map(String) };
  if (dtype === 'i64') return { dtype, shape, data: BigInt64Array.from(values, BigInt) };
  if (dtype === 'u64') return { dtype, shape, data: BigUint64Array.from(values, BigInt) };
  return tensorOfNumbers(dtype, shape, values.map(Number));
}
const f32 = (shape: readonly number[], ...values: number[]) => t('f32', shape, values);
const i64 = (shape: readonly number[], ...values: number[]) => t('i64', shape, values);

const listOf = (tensor: HostTensor): Literal[] =>
  tensor.dtype === 'string'
    ? [...stringsOf(tensor)]
    : isBig(tensor.dtype)
      ? [...bigsOf(tensor)]
      : [...numbersOf(tensor)];

function run<K extends OpKind>(kind: K, attrs: OpAttrs[K], ...inputs: readonly HostTensor[]): HostTensor[] {
  const b = new GraphBuilder();
  b.op(
    kind,
    inputs.map((input, i) => b.input(`x${i}`, input.dtype, input.shape)),
    attrs,
  );
  return evaluateNode(b.finish().nodes[0], inputs);
}

/** Checks shape and values of the only result. */
function check<K extends OpKind>(
  kind: K,
  attrs: OpAttrs[K],
  inputs: readonly HostTensor[],
  shape: readonly number[],
  values: readonly Literal[],
): void {
  const [result] = run(kind, attrs, ...inputs);
  expect(result.shape).toEqual(shape);
  expect(listOf(result)).toEqual(values);
}

describe('elementwise', () => {
  it('integers wrap, division never traps', () => {
    const pair = (dtype: DType, x: Literal[], y: Literal[]) => [t(dtype, [x.length], x), t(dtype, [y.length], y)];
    check('add', {}, pair('i8', [127, -128, 5], [1, -1, 6]), [3], [-128, 127, 11]);
    check('add', {}, pair('u8', [255, 3], [1, 4]), [2], [0, 7]);
    check('mul', {}, pair('i32', [65536, 123456789], [65536, 987654321]), [2], [0, -67153019]);
    check('mul', {}, pair('i64', [2n ** 62n, -3n], [2n, 7n]), [2], [-(2n ** 63n), -21n]);
    check('div', {}, pair('i32', [7, -7, 5, -2147483648], [-2, 2, 0, -1]), [4], [-3, -3, 0, -2147483648]);
    check('div', {}, pair('i64', [-(2n ** 63n), 9n], [-1n, 0n]), [2], [-(2n ** 63n), 0n]);
    check('rem', {}, pair('i32', [7, -7, 5, -2147483648], [-2, 2, 0, -1]), [4], [1, -1, 0, 0]);
    check(
      'pow',
      {},
      pair('i32', [2, -2, 3, 1, -1, 2, 0], [10, 3, 40, -5, -3, -1, 0]),
      [7],
      [1024, -8, 689956897, 1, -1, 0, 1],
    );
    check('pow', {}, pair('i64', [3n, 10n], [40n, 18n]), [2], [12157665459056928801n - 2n ** 64n, 10n ** 18n]);
    check('shl', {}, pair('i8', [1, 1, -1, 1], [7, 8, 3, -1]), [4], [-128, 0, -8, 0]);
    check('shr', {}, pair('i8', [-128, -128, 127, 5], [3, 9, 100, -1]), [4], [-16, -1, 0, 0]);
    check('shr', {}, pair('u16', [65535, 65535], [4, 16]), [2], [4095, 0]);
    check('abs', {}, [t('i8', [2], [-128, -5])], [2], [-128, 5]);
    check('neg', {}, [t('u8', [2], [1, 0])], [2], [255, 0]);
    check('not', {}, [t('i8', [2], [0, 5])], [2], [-1, -6]);
    check('not', {}, [t('bool', [2], [0, 1])], [2], [1, 0]);
    check('add', {}, pair('i4', [7, -8, 3], [1, -1, 2]), [3], [-8, 7, 5]);
  });

  it('floats keep NaN, infinities and signs of zero', () => {
    const x = f32([5], Number.NaN, -Infinity, -0, 2.5, -3.5);
    check('max', {}, [x, f32([5], 1, 1, 1, 1, 1)], [5], [Number.NaN, 1, 1, 2.5, 1]);
    check('min', {}, [f32([2], 1, 0), f32([2], Number.NaN, -0)], [2], [Number.NaN, -0]);
    check('round', {}, [x], [5], [Number.NaN, -Infinity, -0, 2, -4]);
    check('sign', {}, [x], [5], [Number.NaN, -1, 0, 1, -1]);
    check('is_nan', {}, [x], [5], [1, 0, 0, 0, 0]);
    check('is_inf', {}, [x], [5], [0, 1, 0, 0, 0]);
    check('clamp', { min: -1, max: 2 }, [x], [5], [Number.NaN, -1, -0, 2, -1]);
    check('clamp', { min: 3, max: 2 }, [x], [5], [Number.NaN, 2, 2, 2, 2]);
    check('rem', {}, [f32([2], -7.5, 5), f32([2], 2, Infinity)], [2], [-1.5, 5]);
    check('eq', {}, [x, x], [5], [0, 1, 1, 1, 1]);
    check('ne', {}, [x, x], [5], [1, 0, 0, 0, 0]);
  });

  it('rounds once to the type', () => {
    // 1 + 2^-11 is halfway between two f16 numbers; a little more must go up.
    check('add', {}, [t('f16', [1], [1]), t('f16', [1], [2 ** -11 + 2 ** -20])], [1], [1 + 2 ** -10]);
    check('add', {}, [t('f16', [1], [1]), t('f16', [1], [2 ** -11])], [1], [1]);
    check('mul', {}, [f32([1], 16777217), f32([1], 3)], [1], [50331648]);
    check('exp', {}, [t('f64', [1], [1])], [1], [Math.E]);
  });

  it('compares strings and 64-bit integers', () => {
    check('eq', {}, [t('string', [3], ['a', 'b', '']), t('string', [3], ['a', 'c', ''])], [3], [1, 0, 1]);
    check('lt', {}, [t('i64', [2], [2n ** 53n, 5n]), t('i64', [2], [2n ** 53n + 1n, 5n])], [2], [1, 0]);
    check('gt', {}, [t('u64', [1], [2n ** 64n - 1n]), t('u64', [1], [1n])], [1], [1]);
    check(
      'select',
      {},
      [t('bool', [2], [1, 0]), t('string', [2], ['x', 'y']), t('string', [2], ['p', 'q'])],
      [2],
      ['x', 'q'],
    );
  });

  it('casts', () => {
    const cast = (from: HostTensor, dtype: DType, values: Literal[], saturate = true) =>
      check('cast', { dtype, saturate }, [from], from.shape, values);
    cast(f32([6], 1.9, -1.9, 300, -300, Number.NaN, Infinity), 'i8', [1, -1, 127, -128, 0, 127]);
    cast(f32([3], 3e9, -1, 2.5), 'u32', [3000000000, 0, 2]);
    cast(f32([3], 1e30, -1e30, Number.NaN), 'i64', [2n ** 63n - 1n, -(2n ** 63n), 0n]);
    cast(f32([4], 0, -0, 0.1, Number.NaN), 'bool', [0, 0, 1, 1]);
    cast(t('i32', [2], [300, -1]), 'u8', [44, 255]);
    cast(t('i64', [2], [2n ** 40n + 5n, -1n]), 'i32', [5, -1]);
    cast(t('i64', [1], [2n ** 63n - 1n]), 'f32', [2 ** 63]);
    cast(f32([2], 500, -1e9), 'f8e4m3', [448, -448]);
    cast(f32([2], 500, Infinity), 'f8e4m3', [Number.NaN, Number.NaN], false);
    cast(f32([2], 1e9, -1e9), 'f8e5m2', [Infinity, -Infinity], false);
    cast(f32([4], 7.9, -9, 100, -0.5), 'i4', [7, -8, 7, 0]);
    cast(f32([3], 65520, 65519, 1e-8), 'f16', [Infinity, 65504, 0]);
    cast(f32([4], 0.1, 1, Number.NaN, -Infinity), 'string', ['0.1', '1', 'nan', '-inf']);
    cast(t('string', [4], ['1.5', '-inf', ' 7 ', 'NaN']), 'f32', [1.5, -Infinity, 7, Number.NaN]);
    cast(t('string', [2], ['9007199254740993', '-4']), 'i64', [9007199254740993n, -4n]);
    check('bitcast', { dtype: 'i32' }, [f32([2], 1, -0)], [2], [0x3f800000, -2147483648]);
  });
});

describe('movement', () => {
  const x = t('i32', [2, 3], [0, 1, 2, 3, 4, 5]);

  it('moves elements of every width', () => {
    for (const dtype of ['f64', 'f32', 'f16', 'i64', 'u8', 'i4', 'u4', 'bool', 'string'] as const) {
      const bits: Literal[] =
        dtype === 'string'
          ? ['a', 'b', 'c', 'd', 'e', 'f']
          : dtype === 'i64'
            ? [1n, 0n, 1n, 1n, 0n, 0n]
            : [1, 0, 1, 1, 0, 0];
      const y = t(dtype, [2, 3], bits);
      check(
        'transpose',
        { permutation: [1, 0] },
        [y],
        [3, 2],
        [0, 3, 1, 4, 2, 5].map((i) => bits[i]),
      );
      check(
        'slice',
        { starts: [1, 2], sizes: [2, 2], steps: [-1, -2] },
        [y],
        [2, 2],
        [5, 3, 2, 0].map((i) => bits[i]),
      );
      check(
        'concat',
        { axis: 1 },
        [y, y],
        [2, 6],
        [0, 1, 2, 0, 1, 2, 3, 4, 5, 3, 4, 5].map((i) => bits[i]),
      );
      check('reshape', { shape: [3, 2] }, [y], [3, 2], bits);
    }
  });

  it('transposes three axes', () => {
    const y = t(
      'i32',
      [2, 3, 4],
      Array.from({ length: 24 }, (_, i) => i),
    );
    const [result] = run('transpose', { permutation: [2, 0, 1] }, y);
    expect(result.shape).toEqual([4, 2, 3]);
    const list = listOf(result);
    for (let i = 0; i < 4; i++)
      for (let j = 0; j < 2; j++)
        for (let k = 0; k < 3; k++) expect(list[(i * 2 + j) * 3 + k]).toBe(j * 12 + k * 4 + i);
  });

  it('broadcasts and pads', () => {
    check(
      'broadcast',
      { shape: [2, 2, 3] },
      [t('i32', [2, 1], [7, 8])],
      [2, 2, 3],
      [7, 7, 7, 8, 8, 8, 7, 7, 7, 8, 8, 8],
    );
    const row = t('i32', [4], [1, 2, 3, 4]);
    check('pad', { low: [2], high: [1], mode: 'constant' }, [row, t('i32', [], [9])], [7], [9, 9, 1, 2, 3, 4, 9]);
    check('pad', { low: [2], high: [1], mode: 'edge' }, [row], [7], [1, 1, 1, 2, 3, 4, 4]);
    check('pad', { low: [2], high: [5], mode: 'reflect' }, [row], [11], [3, 2, 1, 2, 3, 4, 3, 2, 1, 2, 3]);
    check('pad', { low: [2], high: [5], mode: 'wrap' }, [row], [11], [3, 4, 1, 2, 3, 4, 1, 2, 3, 4, 1]);
    check(
      'pad',
      { low: [1, 0], high: [0, 1], mode: 'constant' },
      [x, t('i32', [], [0])],
      [3, 4],
      [0, 0, 0, 0, 0, 1, 2, 0, 3, 4, 5, 0],
    );
  });
});

describe('indexing', () => {
  it('gathers', () => {
    const x = t('i32', [3, 2], [1, 2, 3, 4, 5, 6]);
    check('gather', { axis: 0 }, [x, i64([2, 2], 0, -1, 9, -9)], [2, 2, 2], [1, 2, 5, 6, 5, 6, 1, 2]);
    check('gather', { axis: 1 }, [x, i64([], 1)], [3], [2, 4, 6]);
    check('gather_elements', { axis: 0 }, [x, i64([2, 2], 2, 0, -3, 1)], [2, 2], [5, 2, 1, 4]);
    const y = t('i32', [2, 2, 2], [0, 1, 2, 3, 4, 5, 6, 7]);
    check('gather_nd', { batchDims: 0 }, [y, i64([2, 2], 0, 1, 1, 0)], [2, 2], [2, 3, 4, 5]);
    check('gather_nd', { batchDims: 1 }, [y, i64([2, 1], 1, 0)], [2, 2], [2, 3, 4, 5]);
    check('iota', { dtype: 'i64', shape: [2, 3], axis: 1 }, [], [2, 3], [0n, 1n, 2n, 0n, 1n, 2n]);
    check('iota', { dtype: 'f16', shape: [2, 3], axis: 0 }, [], [2, 3], [0, 0, 0, 1, 1, 1]);
  });

  it('scatters', () => {
    const zeros = f32([3], 0, 1, 2);
    const at = i64([4], 1, -1, 1, 7);
    const updates = f32([4], 10, 20, 30, 40);
    check('scatter_elements', { axis: 0, fn: 'set' }, [zeros, at, updates], [3], [0, 30, 20]);
    check('scatter_elements', { axis: 0, fn: 'add' }, [zeros, at, updates], [3], [0, 41, 22]);
    check('scatter_elements', { axis: 0, fn: 'mul' }, [zeros, at, updates], [3], [0, 300, 40]);
    check('scatter_elements', { axis: 0, fn: 'max' }, [zeros, at, updates], [3], [0, 30, 20]);
    check('scatter_elements', { axis: 0, fn: 'min' }, [zeros, at, updates], [3], [0, 1, 2]);
    check(
      'scatter_elements',
      { axis: 1, fn: 'set' },
      [f32([2, 2], 1, 2, 3, 4), i64([2, 1], 1, 0), f32([2, 1], 9, 8)],
      [2, 2],
      [1, 9, 8, 4],
    );
    check(
      'scatter_nd',
      { fn: 'add' },
      [f32([2, 2], 1, 2, 3, 4), i64([3, 1], 1, 1, 5), f32([3, 2], 1, 2, 3, 4, 5, 6)],
      [2, 2],
      [1, 2, 7, 10],
    );
    check(
      'scatter_nd',
      { fn: 'set' },
      [t('string', [2], ['a', 'b']), i64([1, 1], -1), t('string', [1], ['z'])],
      [2],
      ['a', 'z'],
    );
    check(
      'scatter_elements',
      { axis: 0, fn: 'mul' },
      [t('u64', [1], [2n ** 63n]), i64([1], 0), t('u64', [1], [3n])],
      [1],
      [2n ** 63n],
    );
  });
});

describe('reductions', () => {
  const x = f32([2, 3], 3, -1, 2, 5, 5, Number.NaN);

  it('reduce', () => {
    const y = f32([2, 2, 2], 1, 2, 3, 4, 5, 6, 7, 8);
    check('reduce', { fn: 'sum', axes: [0, 2], keep: false }, [y], [2], [14, 22]);
    check('reduce', { fn: 'prod', axes: [1], keep: true }, [y], [2, 1, 2], [3, 8, 35, 48]);
    check('reduce', { fn: 'max', axes: [1], keep: false }, [x], [2], [3, Number.NaN]);
    check('reduce', { fn: 'and', axes: [1], keep: false }, [t('bool', [2, 2], [1, 0, 1, 1])], [2], [0, 1]);
    check('reduce', { fn: 'or', axes: [0], keep: false }, [t('bool', [2, 2], [1, 0, 1, 0])], [2], [1, 0]);
    check('reduce', { fn: 'sum', axes: [0], keep: false }, [t('i8', [3], [100, 100, 100])], [1].slice(1), [44]);
    check(
      'reduce',
      { fn: 'prod', axes: [0], keep: false },
      [t('i32', [4], [65536, 65537, 3, 5])],
      [],
      [(65536 * 65537 * 15) % 2 ** 32],
    );
    check('reduce', { fn: 'sum', axes: [0], keep: false }, [t('f64', [4], [1e100, 1, -1e100, 1])], [], [2]);
  });

  it('reduce nothing to the identity', () => {
    const empty = (dtype: DType) => t(dtype, [0], []);
    const of = (fn: OpAttrs['reduce']['fn']) => ({ fn, axes: [0], keep: false });
    check('reduce', of('sum'), [empty('f32')], [], [0]);
    check('reduce', of('prod'), [empty('i64')], [], [1n]);
    check('reduce', of('max'), [empty('f32')], [], [-Infinity]);
    check('reduce', of('min'), [empty('i8')], [], [127]);
    check('reduce', of('max'), [empty('u64')], [], [0n]);
    check('reduce', of('and'), [empty('bool')], [], [1]);
    check('reduce', of('or'), [empty('bool')], [], [0]);
  });

  it('find extremes', () => {
    const of = (fn: 'max' | 'min', last: boolean) => ({ fn, axis: 1, keep: false, last });
    const y = f32([2, 4], 1, 7, 7, 0, Number.NaN, 9, Number.NaN, 1);
    check('arg_reduce', of('max', false), [y], [2], [1n, 0n]);
    check('arg_reduce', of('max', true), [y], [2], [2n, 2n]);
    check('arg_reduce', of('min', false), [y], [2], [3n, 0n]);
    check(
      'arg_reduce',
      { fn: 'max', axis: 0, keep: true, last: false },
      [t('i64', [2, 1], [2n ** 60n, 2n ** 60n + 1n])],
      [1, 1],
      [1n],
    );
  });

  it('accumulate', () => {
    const y = f32([2, 3], 1, 2, 3, 4, 5, 6);
    const of = (fn: OpAttrs['cumulative']['fn'], axis: number, exclusive: boolean, reverse: boolean) => ({
      fn,
      axis,
      exclusive,
      reverse,
    });
    check('cumulative', of('sum', 1, false, false), [y], [2, 3], [1, 3, 6, 4, 9, 15]);
    check('cumulative', of('sum', 1, true, false), [y], [2, 3], [0, 1, 3, 0, 4, 9]);
    check('cumulative', of('sum', 1, false, true), [y], [2, 3], [6, 5, 3, 15, 11, 6]);
    check('cumulative', of('prod', 0, true, true), [y], [2, 3], [4, 5, 6, 1, 1, 1]);
    check('cumulative', of('max', 1, true, false), [y], [2, 3], [-Infinity, 1, 2, -Infinity, 4, 5]);
    check(
      'cumulative',
      of('sum', 0, false, false),
      [t('i64', [2], [2n ** 63n - 1n, 1n])],
      [2],
      [2n ** 63n - 1n, -(2n ** 63n)],
    );
  });

  it('select the top', () => {
    const y = f32([2, 4], 2, 5, 5, 1, Number.NaN, 0, -1, Number.NaN);
    const [values, indices] = run('top_k', { k: 3, axis: 1, largest: true }, y);
    expect(listOf(values)).toEqual([5, 5, 2, Number.NaN, Number.NaN, 0]);
    expect(listOf(indices)).toEqual([1n, 2n, 0n, 0n, 3n, 1n]);
    const [low, places] = run('top_k', { k: 2, axis: 1, largest: false }, y);
    expect(listOf(low)).toEqual([1, 2, -1, 0]);
    expect(listOf(places)).toEqual([3n, 0n, 2n, 1n]);
    const [columns] = run('top_k', { k: 1, axis: 0, largest: true }, t('i32', [2, 2], [1, 9, 4, 3]));
    expect(listOf(columns)).toEqual([4, 9]);
  });
});

describe('contractions', () => {
  it('dot puts batch, left and right axes in order', () => {
    const x = f32([3, 2, 2], ...Array.from({ length: 12 }, (_, i) => i));
    const y = f32([2, 4, 3], ...Array.from({ length: 24 }, (_, i) => i));
    const attrs = { lhsBatch: [0], rhsBatch: [2], lhsContract: [1], rhsContract: [0], dtype: 'f32' } as const;
    const [result] = run('dot', attrs, x, y);
    expect(result.shape).toEqual([3, 2, 4]);
    const list = listOf(result);
    for (let b = 0; b < 3; b++) {
      for (let i = 0; i < 2; i++) {
        for (let j = 0; j < 4; j++) {
          const sum = [0, 1].reduce((s, k) => s + (b * 4 + k * 2 + i) * (k * 12 + j * 3 + b), 0);
          expect(list[(b * 2 + i) * 4 + j]).toBe(sum);
        }
      }
    }
  });

  it('dot of integers is exact', () => {
    const attrs = (dtype: DType) => ({ lhsBatch: [], rhsBatch: [], lhsContract: [0], rhsContract: [0], dtype });
    check('dot', attrs('i32'), [t('u8', [2], [255, 255]), t('i8', [2], [-128, 127])], [], [-255]);
    check(
      'dot',
      attrs('i64'),
      [t('i32', [2], [2147483647, 1]), t('i32', [2], [2147483647, 1])],
      [],
      [2147483647n ** 2n + 1n],
    );
    check('dot', attrs('i32'), [t('i32', [2], [2147483647, 7]), t('i32', [2], [2147483647, 1])], [], [8]);
    check('dot', attrs('f32'), [t('i8', [2], [100, 100]), t('i8', [2], [100, 100])], [], [20000]);
  });

  it('conv strides, pads, dilates and groups', () => {
    const base = {
      strides: [1],
      padLow: [0],
      padHigh: [0],
      dilations: [1],
      groups: 1,
      inputDilation: [1],
      dtype: 'f32',
    } as const;
    const x = f32([1, 1, 5], 1, 2, 3, 4, 5);
    const w = f32([1, 1, 2], 10, 1);
    check('conv', base, [x, w], [1, 1, 4], [12, 23, 34, 45]);
    check('conv', { ...base, strides: [2], padLow: [1], padHigh: [1] }, [x, w], [1, 1, 3], [1, 23, 45]);
    check('conv', { ...base, dilations: [3] }, [x, w], [1, 1, 2], [14, 25]);
    check('conv', { ...base, inputDilation: [2] }, [f32([1, 1, 3], 1, 2, 3), w], [1, 1, 4], [10, 2, 20, 3]);
    check('conv', { ...base, padLow: [-1], padHigh: [-1] }, [x, w], [1, 1, 2], [23, 34]);
    check(
      'conv',
      { ...base, groups: 2 },
      [f32([1, 2, 2], 1, 2, 3, 4), f32([2, 1, 1], 10, 100)],
      [1, 2, 2],
      [10, 20, 300, 400],
    );
    check(
      'conv',
      { ...base, dtype: 'i32' },
      [t('i8', [1, 2, 1], [100, -100]), t('u8', [1, 2, 1], [200, 100])],
      [1, 1, 1],
      [10000],
    );
    const plane = f32([1, 1, 3, 3], 1, 2, 3, 4, 5, 6, 7, 8, 9);
    const two = { ...base, strides: [1, 1], padLow: [0, 0], padHigh: [0, 0], dilations: [1, 1], inputDilation: [1, 1] };
    check('conv', two, [plane, f32([1, 1, 2, 2], 1, 2, 3, 4)], [1, 1, 2, 2], [37, 47, 67, 77]);
  });
});

describe('windows', () => {
  const attrs = { strides: [1, 2], padLow: [0, 1], padHigh: [0, 1], dilations: [1, 1], window: [1, 3] };
  const x = f32([2, 4], 1, 2, 3, 4, -1, -2, -3, -4);

  it('reduce', () => {
    check('reduce_window', { ...attrs, fn: 'max' }, [x], [2, 2], [2, 4, -1, -2]);
    check('reduce_window', { ...attrs, fn: 'sum' }, [x], [2, 2], [3, 9, -3, -9]);
    check('reduce_window', { ...attrs, fn: 'min' }, [x], [2, 2], [1, 2, -2, -4]);
    check('reduce_window', { ...attrs, fn: 'prod' }, [x], [2, 2], [2, 24, 2, -24]);
    const dilated = { strides: [1], padLow: [0], padHigh: [0], dilations: [2], window: [2], fn: 'sum' } as const;
    check('reduce_window', dilated, [f32([4], 1, 2, 3, 4)], [2], [4, 6]);
  });

  it('give the place of the maximum', () => {
    check('window_argmax', attrs, [x], [2, 2], [1n, 3n, 4n, 5n]);
    const all = { strides: [1], padLow: [2], padHigh: [0], dilations: [1], window: [2] };
    check('window_argmax', all, [f32([2], 5, 5)], [3], [-1n, 0n, 0n]);
  });
});

describe('composites', () => {
  it('softmax does not overflow', () => {
    const [result] = run('softmax', { axes: [1], log: false }, f32([2, 2], 1000, 1000, -1000, 0));
    expect(listOf(result)).toEqual([0.5, 0.5, 0, 1]);
    const [logs] = run('softmax', { axes: [0, 1], log: true }, t('f64', [2, 2], [0, 0, 0, 0]));
    for (const value of listOf(logs)) expect(value).toBeCloseTo(-Math.log(4), 12);
  });

  it('normalize gives zero mean and unit variance', () => {
    const attrs = { axes: [1], epsilon: 0, center: true, statistics: true };
    const [y, mean, reciprocal] = run('normalize', attrs, t('f16', [1, 4], [1, 3, 5, 7]));
    expect([y.dtype, mean.dtype, reciprocal.dtype]).toEqual(['f16', 'f32', 'f32']);
    expect(listOf(mean)).toEqual([4]);
    expect(listOf(reciprocal)).toEqual([Math.fround(1 / Math.sqrt(5))]);
    const [rms] = run('normalize', { ...attrs, center: false, statistics: false }, f32([1, 2], 3, 4));
    expect(listOf(rms)).toEqual([3, 4].map((v) => Math.fround(v / Math.sqrt(12.5))));
  });

  it('resizes', () => {
    const base: ResizeAttrs = {
      mode: 'nearest',
      shape: [4],
      scales: [2],
      coordinates: 'asymmetric',
      nearest: 'floor',
      cubicA: -0.75,
      excludeOutside: false,
      antialias: false,
      roi: null,
      extrapolation: 0,
    };
    const x = f32([2], 1, 2);
    check('resize', base, [x], [4], [1, 1, 2, 2]);
    check('resize', { ...base, mode: 'linear' }, [x], [4], [1, 1.5, 2, 2]);
    check('resize', { ...base, mode: 'linear', coordinates: 'half_pixel' }, [x], [4], [1, 1.25, 1.75, 2]);
    check(
      'resize',
      { ...base, mode: 'linear', coordinates: 'align_corners', shape: [3], scales: [null] },
      [x],
      [3],
      [1, 1.5, 2],
    );
    const crop = {
      ...base,
      mode: 'linear',
      coordinates: 'tf_crop_and_resize',
      roi: [0, 2],
      extrapolation: 9,
      shape: [3],
      scales: [null],
    } as const;
    check('resize', crop, [x], [3], [1, 2, 9]);
    check(
      'resize',
      { ...base, shape: [2], scales: [0.5], mode: 'linear', coordinates: 'half_pixel', antialias: true },
      [f32([4], 1, 2, 3, 4)],
      [2],
      [1.625, 3.375],
    );
    check('resize', base, [t('string', [2], ['a', 'b'])], [4], ['a', 'a', 'b', 'b']);
  });
});

describe('graphs', () => {
  it('run in order and keep outputs', () => {
    const b = new GraphBuilder('g');
    const n = dimName('n');
    const x = b.input('x', 'f32', [n]);
    const one = b.constant(f32([3], 1, 1, 1));
    const [y] = b.op('add', [x, one], {});
    const [z] = b.op('mul', [y, y], {});
    b.output('z', z);
    b.output('y', y);
    b.output('x', x);
    b.output('one', one);
    const results = evaluateGraph(b.finish(), { x: f32([3], 1, 2, 3) });
    expect([...results].map(([name, value]) => [name, listOf(value)])).toEqual([
      ['z', [4, 9, 16]],
      ['y', [2, 3, 4]],
      ['x', [1, 2, 3]],
      ['one', [1, 1, 1]],
    ]);
  });

  it('refuse inputs that do not fit', () => {
    const b = new GraphBuilder('g');
    const n = dimName('n');
    b.input('x', 'f32', [n, 2]);
    b.input('y', 'f32', [n]);
    const graph = b.finish();
    const y = f32([3], 1, 2, 3);
    const x = f32([3, 2], 1, 2, 3, 4, 5, 6);
    expect(evaluateGraph(graph, { x, y }).size).toBe(0);
    expect(errorOf(() => evaluateGraph(graph, { x })).code).toBe('E_INPUT');
    expect(errorOf(() => evaluateGraph(graph, { x, y: t('i32', [3], [1, 2, 3]) })).message).toMatch(/i32\[3\]/);
    expect(errorOf(() => evaluateGraph(graph, { x, y: f32([2], 1, 2) })).code).toBe('E_INPUT');
    expect(errorOf(() => evaluateGraph(graph, { x, y: { ...y, data: new Float32Array(2) } })).message).toMatch(
      /3 elements/,
    );
  });

  it('need bound dims', () => {
    const b = new GraphBuilder('g');
    b.output('y', b.op('reshape', [b.input('x', 'f32', [dimName('n'), 2])], { shape: [2, dimName('n')] })[0]);
    expect(errorOf(() => evaluateGraph(b.finish(), { x: f32([1, 2], 1, 2) })).code).toBe('E_SHAPE');
  });

  it('are fast enough to fold megabytes', () => {
    const count = 1 << 20;
    const x: HostTensor = { dtype: 'f32', shape: [1024, 1024], data: new Float32Array(count).fill(1.5) };
    const start = performance.now();
    run('transpose', { permutation: [1, 0] }, x);
    run('add', {}, x, x);
    run('cast', { dtype: 'f16', saturate: true }, x);
    run('slice', { starts: [0, 1], sizes: [1024, 512], steps: [1, 2] }, x);
    run('reduce', { fn: 'sum', axes: [0], keep: false }, x);
    expect(performance.now() - start).toBeLessThan(2000);
  });
});
