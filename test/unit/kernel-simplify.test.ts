/** Dead code goes, everything that acts stays, and the kernel computes the same. */
import { expect, test } from 'vitest';
import { KernelBuilder } from '../../compiler/kernel/builder.js';
import { interpret } from '../../compiler/kernel/interpreter.js';
import { print } from '../../compiler/kernel/print.js';
import { simplify } from '../../compiler/kernel/simplify.js';
import { ktype } from '../../compiler/kernel/types.js';
import { verify } from '../../compiler/kernel/verify.js';
import { visitKernel } from '../../compiler/kernel/walk.js';
import { everyOp } from '../support/kernels.js';

const grid = { grid: [1, 1, 1], workgroup: [1, 1, 1] } as const;

test('unused values, carried values, control flow, arrays and helpers go; parameters stay', () => {
  const b = new KernelBuilder();
  const input = b.buffer('input', 'f32', 8, 'read');
  const output = b.buffer('output', 'f32', 8, 'write');
  b.buffer('unused', 'f32', 8, 'read');
  const dead = b.array('dead', 'private', 'f32', 4);
  const chained = b.array('chained', 'private', 'f32', 4);
  const zero = b.constant(0);
  const helper = (name: string, x = b.load(input, zero)) => b.call(name, [x], ktype('f32'), ([p]) => b.mul(p, p));
  const [sum, count] = b.for(0, 8, 1, [b.constant(0, 'f32'), b.constant(0, 'f32')], (i, [s, c]) => [
    b.add(s, b.load(input, i)),
    b.add(c, b.constant(1, 'f32')),
  ]);
  // Read only to be stored where nobody reads.
  b.store(chained, zero, helper('dead_helper'));
  b.store(dead, zero, b.load(chained, zero));
  b.if(b.compare('lt', count, b.constant(3, 'f32')), () => b.store(dead, zero, count));
  const [kept] = b.if(
    b.compare('lt', sum, b.constant(3, 'f32')),
    () => [helper('live_helper'), sum],
    () => [sum, b.mul(sum, sum)],
  );
  b.store(output, zero, kept);
  const kernel = b.finish({ name: 'dead', ...grid });
  const small = simplify(kernel);
  verify(small, { stage: 'scheduled' });
  expect(small.params).toEqual(kernel.params);
  expect(small.arrays).toEqual([]);
  expect(small.helpers.map(({ name }) => name)).toEqual(['live_helper']);
  const text = print(small);
  expect(text.match(/ carry \(/g)?.length).toBe(1);
  expect(text).toMatch(/carry \([^,)]*\)/);
  expect(text.match(/ if /g)?.length).toBe(1);
  expect(text.match(/store/g)?.length).toBe(1);
  const data = Float32Array.from({ length: 8 }, (_, i) => i);
  const [before, after] = [kernel, small].map((k) => {
    const out = new Float32Array(8);
    interpret(k, [data, out, data]);
    return [...out];
  });
  expect(after).toEqual(before);
  expect(print(simplify(small))).toBe(text);
});

test('a carried value that only feeds another one stays', () => {
  const b = new KernelBuilder();
  const output = b.buffer('output', 'f32', 1, 'write');
  const one = b.constant(1, 'f32');
  const [last] = b.for(0, 5, 1, [one, one, one], (_, [x, y, z]) => [y, b.add(z, x), b.add(z, one)]);
  b.store(output, b.constant(0), last);
  const kernel = b.finish({ name: 'feeds', ...grid });
  const [before, after] = [kernel, simplify(kernel)].map((k) => {
    const out = new Float32Array(1);
    interpret(k, [out]);
    return out[0];
  });
  expect(after).toBe(before);
  expect(print(simplify(kernel))).toBe(print(kernel));
});

test('what acts stays: a kernel with every op keeps its stores, atomics and barriers', () => {
  const kernel = everyOp();
  const small = simplify(kernel);
  verify(small, { stage: 'scheduled' });
  const acting = (k: typeof kernel) => {
    const ops: string[] = [];
    visitKernel(k, ({ op }) => {
      if (op === 'store' || op === 'barrier' || op.startsWith('atomic')) ops.push(op);
    });
    return ops;
  };
  expect(acting(small)).toEqual(acting(kernel));
});
