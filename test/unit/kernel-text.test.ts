/** Kernel text: exact round trip, canonical numbering, errors with a position, speed. */
import { describe, expect, test } from 'vitest';
import { TuttiError } from '../../compiler/error.js';
import { KernelBuilder } from '../../compiler/kernel/builder.js';
import { parse } from '../../compiler/kernel/parse.js';
import { print } from '../../compiler/kernel/print.js';
import { type KernelFunction, type KInst, scalarTypes } from '../../compiler/kernel/types.js';
import { visitInstructions, visitKernel } from '../../compiler/kernel/walk.js';
import { everyOp } from '../support/kernels.js';

const constants = (kernel: KernelFunction): (number | bigint)[] => {
  const found: (number | bigint)[] = [];
  visitKernel(kernel, (inst) => {
    if (inst.op === 'const') found.push(inst.value);
  });
  return found;
};

describe('round trip', () => {
  test('a kernel with every op', () => {
    const kernel = everyOp();
    const ops = new Set<KInst['op']>();
    visitKernel(kernel, (inst) => ops.add(inst.op));
    expect(ops.size).toBe(24);
    const text = print(kernel);
    const parsed = parse(text);
    expect(print(parsed)).toBe(text);
    expect(parsed.sources).toEqual(kernel.sources);
    expect(parsed.params).toEqual(kernel.params);
    const shape = (k: KernelFunction) => {
      const list: unknown[] = [];
      visitInstructions(k.body, (inst, depth) => list.push([depth, inst.op, 'result' in inst && inst.result.range]));
      return list;
    };
    expect(shape(parsed)).toEqual(shape(kernel));
  });

  test('constants are exact', () => {
    const b = new KernelBuilder();
    const values = [
      [0, 'f32'],
      [-0, 'f32'],
      [Number.NaN, 'f32'],
      [Number.POSITIVE_INFINITY, 'f32'],
      [Number.NEGATIVE_INFINITY, 'f64'],
      [Number.MIN_VALUE, 'f64'],
      [Number.MAX_VALUE, 'f64'],
      [0.1, 'f64'],
      [Math.fround(0.1), 'f32'],
      [2 ** -149, 'f32'],
      [2 ** -24, 'f16'],
      [1e21, 'f64'],
      [-(2 ** 31), 'i32'],
      [2 ** 32 - 1, 'u32'],
      [-(2n ** 63n), 'i64'],
      [2n ** 64n - 1n, 'u64'],
      [9007199254740993n, 'i64'],
      [1, 'bool'],
      [0, 'bool'],
    ] as const;
    for (const [value, scalar] of values) b.constant(value, scalar);
    const kernel = b.finish({ name: 'constants', grid: [1, 1, 1], workgroup: [1, 1, 1] });
    const text = print(kernel);
    const back = constants(parse(text));
    expect(back.length).toBe(values.length);
    for (const [i, value] of back.entries()) expect(Object.is(value, values[i][0])).toBe(true);
    expect(print(parse(text))).toBe(text);
  });

  test('names that are no identifiers, and every type', () => {
    const b = new KernelBuilder();
    for (const [i, scalar] of scalarTypes.entries()) b.buffer(`/a "b"\n\\${i}`, scalar, i + 1, 'readwrite');
    const kernel = b.finish({ name: 'layer/0 ü', sources: ['x\ty', '/1'], grid: [1, 2, 3], workgroup: [4, 5, 6] });
    const parsed = parse(print(kernel));
    expect(parsed).toEqual(kernel);
  });

  test('the text does not depend on ids', () => {
    const kernel = everyOp();
    const text = print(kernel);
    const renumbered = parse(text.replace(/%([0-9]+)/g, (_, id) => `%${Number(id) * 7 + 3}`));
    expect(print(renumbered)).toBe(text);
  });
});

describe('errors', () => {
  const valid = print(everyOp());
  const failure = (text: string): string => {
    try {
      parse(text);
    } catch (error) {
      expect(error).toBeInstanceOf(TuttiError);
      expect((error as TuttiError).code).toBe('E_IR');
      return (error as TuttiError).message;
    }
    throw new Error(`parsed: ${text}`);
  };

  test.each([
    ['', /line 1, column 1: .*expected 'tutti-kernel 1', found the end of the text/],
    ['tutti-kernel 2\n', /line 1, column 14: .*version 1/],
    ['tutti kernel 1', /line 1, column 1/],
    ['tutti-kernel 1\nkernel @a grid 1, 1 workgroup', /line 2, column 21: .*expected ',', found 'workgroup'/],
    ['tutti-kernel 1\nkernel @a grid 1, 1, -1', /line 2, column 22: .*a count/],
  ])('%j', (text, message) => {
    expect(failure(text)).toMatch(message);
  });

  const body = (lines: string) => `tutti-kernel 1\nkernel @k grid 1, 1, 1 workgroup 1, 1, 1 {\n${lines}\n}\n`;
  test.each([
    ['%0: i32 = neg %0x', /line 3, column/],
    ['%0: i32 = const 1\n%0: i32 = const 1', /line 4, column 1: .*not defined before, found '%0'/],
    ['%1: i32 = neg %0', /line 3, column 15: .*a value defined before, found '%0'/],
    ['%0: i33 = const 1', /a type, found 'i33'/],
    ['%0: i32 = const 1.5', /an integer, found '1.5'/],
    ['%0: i32 = const 123456789012345678901234', /an integer/],
    ['%0: i32 = frobnicate', /an operation, found 'frobnicate'/],
    ['%0: i32 = builtin local_id 3', /a dimension/],
    ['%0: i32 = const 1\n%1: f32 = load @m[%0]', /a buffer or array/],
    ['buffer @m f32 1 read\nbuffer @m f32 1 read', /a name not declared before/],
    ['%0: f32 = call @h()', /a helper defined before/],
    ['source "a\\q"', /JSON escapes/],
    ['^', /a token, found '\^'/],
    ['} }', /the end of the text/],
  ])('%j', (lines, message) => {
    expect(failure(body(lines))).toMatch(message);
  });

  test('deep nesting is refused, not followed', () => {
    const depth = 100_000;
    const text = body(`%0: bool = const true\n${'if %0 {\n'.repeat(depth)}${'}\n'.repeat(depth)}`);
    expect(failure(text)).toMatch(/at most 200 nested blocks/);
  });

  test('every cut of a valid text is refused', () => {
    for (let end = 0; end < valid.trimEnd().length; end += 7) failure(valid.slice(0, end));
  });
});

test('printing 500 instructions takes at most 2 ms', () => {
  const b = new KernelBuilder();
  const out = b.buffer('out', 'f32', 600, 'readwrite');
  for (let i = 0; i < 167; i++)
    b.store(out, b.constant(i), b.add(b.load(out, b.constant(i)), b.constant(i / 3, 'f32')));
  const kernel = b.finish({ name: 'long', grid: [1, 1, 1], workgroup: [1, 1, 1] });
  let best = Number.POSITIVE_INFINITY;
  for (let i = 0; i < 20; i++) {
    const start = performance.now();
    print(kernel);
    best = Math.min(best, performance.now() - start);
  }
  expect(best).toBeLessThan(2);
});
