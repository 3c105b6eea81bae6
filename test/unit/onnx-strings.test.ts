// Operators on strings: what the conformance cases leave open.
import { describe, expect, it } from 'vitest';
import type { DType } from '../../compiler/dtype.js';
import { importOnnx } from '../../compiler/frontends/onnx/index.js';
import { fullMatchPattern } from '../../compiler/frontends/onnx/ops/strings.js';
import type { HostTensor } from '../../compiler/tensor.js';
import { errorOf } from '../support/errors.js';
import { f32, model, node } from '../support/onnx_model.js';

const strings = (shape: readonly number[], ...data: readonly string[]): HostTensor => ({
  dtype: 'string',
  shape,
  data,
});

/** Results of one operator on constants. */
function results(
  text: string,
  inputs: Readonly<Record<string, HostTensor>>,
  attrs: Parameters<typeof node>[1] = {},
): HostTensor[] {
  const made = node(text, attrs);
  const graph = importOnnx(model({ initializers: inputs, nodes: [made], outputs: made.output as string[] }));
  return graph.outputs.map(({ value }) => graph.constants.get(value.id)?.load() as HostTensor);
}

describe('StringSplit', () => {
  const split = (text: string, attrs: Parameters<typeof node>[1]): readonly string[] =>
    results('y, n = StringSplit(x)', { x: strings([1], text) }, attrs)[0].data as readonly string[];
  // As Python's str.split answers.
  it.each([
    [' a  b c ', {}, ['a', 'b', 'c']],
    [' a  b c ', { maxsplit: 1n }, ['a', 'b c']],
    [' a ', { maxsplit: 0n }, ['a']],
    ['a,,b,', { delimiter: ',' }, ['a', '', 'b', '']],
    ['a,,b,', { delimiter: ',', maxsplit: 1n }, ['a', ',b,']],
    ['', { delimiter: ',' }, ['']],
    ['a<>b<>c', { delimiter: '<>' }, ['a', 'b', 'c']],
  ])('splits %j (case %#)', (text, attrs, expected) => expect(split(text, attrs)).toEqual(expected));

  it('pads shorter lists and counts', () => {
    const [parts, counts] = results('y, n = StringSplit(x)', { x: strings([2, 1], 'a b c', '') });
    expect(parts).toEqual(strings([2, 1, 3], 'a', 'b', 'c', '', '', ''));
    expect(counts).toEqual({ dtype: 'i64', shape: [2, 1], data: BigInt64Array.of(3n, 0n) });
  });
});

describe('StringConcat and Equal', () => {
  it('broadcast as numpy does', () => {
    const inputs = { a: strings([2, 1], 'x', 'y'), b: strings([3], '1', '2', 'x') };
    expect(results('c = StringConcat(a, b)', inputs)[0]).toEqual(strings([2, 3], 'x1', 'x2', 'xx', 'y1', 'y2', 'yx'));
    expect(results('c = Equal(a, b)', inputs)[0]).toEqual({
      dtype: 'bool',
      shape: [2, 3],
      data: Uint8Array.of(0, 0, 1, 0, 0, 0),
    });
  });
  it('refuse shapes that do not fit', () => {
    expect(
      errorOf(() => results('c = StringConcat(a, b)', { a: strings([2], '', ''), b: strings([3], '', '', '') })).code,
    ).toBe('E_MODEL_INVALID');
  });
});

describe('StringNormalizer', () => {
  const x = strings([1, 3], 'Straße', 'STRASSE', 'tag');
  it('compares stop words in any case unless told otherwise', () => {
    const stopwords = ['TAG'];
    expect(results('y = StringNormalizer(x)', { x }, { stopwords })[0]).toEqual(strings([1, 2], 'Straße', 'STRASSE'));
    expect(results('y = StringNormalizer(x)', { x }, { stopwords, is_case_sensitive: 1n })[0].shape).toEqual([1, 3]);
  });
  it('leaves one empty string of nothing', () => {
    const attrs = { stopwords: ['a'], case_change_action: 'UPPER' };
    expect(results('y = StringNormalizer(x)', { x: strings([1], 'a') }, attrs)[0]).toEqual(strings([1], ''));
  });
});

describe('RegexFullMatch', () => {
  it.each([
    ['a|ab', 'ab', true],
    ['(?i)abc', 'aBC', true],
    ['(?P<year>\\d{4})-\\d\\d', '2024-05', true],
    ['[[:alpha:]]+', 'abc', true],
    ['[[:alpha:]]+', 'ab1', false],
    ['\\Qa.b\\E.', 'a.bc', true],
    ['\\Qa.b\\E.', 'axbc', false],
    ['\\Aabc\\z', 'abc', true],
    ['abc', 'abc\n', false],
    ['(?m)^a$', 'b\na', false],
    ['\\pL+', 'äß', true],
    ['.', '😀', true],
    ['a\\-b', 'a-b', true],
  ])('%s on %j', (pattern, text, expected) => expect(fullMatchPattern(pattern).test(text)).toBe(expected));
  it('refuses what is no pattern', () => {
    const error = errorOf(() => results('y = RegexFullMatch(x)', { x: strings([1], 'a') }, { pattern: '(' }));
    expect(error.code).toBe('E_MODEL_INVALID');
    expect(error.message).toContain('RegexFullMatch');
  });
});

describe('Cast', () => {
  const cast = (x: HostTensor, to: bigint): HostTensor => results('y = Cast(x)', { x }, { to })[0];
  it('reads numbers', () => {
    const x = strings([6], '1e-5', ' 3.5', 'NaN', '+INF', '-inf', '.5');
    expect(cast(x, 1n)).toEqual(f32([6], 1e-5, 3.5, Number.NaN, Infinity, -Infinity, 0.5));
    expect(cast(strings([2], '9223372036854775807', '-7'), 7n).data).toEqual(BigInt64Array.of(2n ** 63n - 1n, -7n));
    expect(errorOf(() => cast(strings([1], 'seven'), 1n)).code).toBe('E_INPUT');
  });
  it('writes the shortest number that reads back', () => {
    const written = (x: HostTensor) => cast(x, 8n).data;
    expect(written(f32([5], 0.1, 16777216, Number.NaN, Infinity, -2.5))).toEqual([
      '0.1',
      '16777216',
      'NaN',
      'INF',
      '-2.5',
    ]);
    const half = { dtype: 'f16' as DType, shape: [1], data: Uint16Array.of(0x2e66) };
    expect(written(half)).toEqual(['0.1']);
    expect(written({ dtype: 'i64', shape: [1], data: BigInt64Array.of(-(2n ** 63n)) })).toEqual([
      '-9223372036854775808',
    ]);
  });
});
