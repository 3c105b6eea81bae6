/** The verifier accepts what is right and names what is wrong: scopes, types, bounds, barriers, limits. */
import { describe, expect, test } from 'vitest';
import { TuttiError } from '../../compiler/error.js';
import { KernelBuilder } from '../../compiler/kernel/builder.js';
import { parse } from '../../compiler/kernel/parse.js';
import { print } from '../../compiler/kernel/print.js';
import type { Target } from '../../compiler/kernel/target.js';
import type { KernelFunction } from '../../compiler/kernel/types.js';
import { verify } from '../../compiler/kernel/verify.js';
import { everyOp } from '../support/kernels.js';

const target: Target = {
  backend: 'webgpu',
  arch: 'test',
  style: 'simt',
  limits: {
    workgroupInvocations: 256,
    workgroupSize: [256, 256, 64],
    workgroupCount: [65535, 65535, 65535],
    sharedBytes: 16384,
    storageBuffers: 8,
    storageBindingBytes: 1 << 27,
    bufferBytes: 1 << 28,
    storageAlignment: 256,
    scalarBytes: 64,
  },
  features: new Set(['subgroups']),
  arithmetic: new Set(['bool', 'i32', 'u32', 'f32']),
  storage: new Set(['i32', 'u32', 'f32', 'f16']),
  vectorLanes: 4,
  vectorRegisters: 64,
  subgroup: { min: 32, max: 32 },
  caches: [],
  parallelism: 8,
  rates: { copyGBs: 100, gflops: 1000, dispatchMicroseconds: 5 },
};

const kernel = (lines: string, head = 'grid 4, 1, 1 workgroup 32, 1, 1'): KernelFunction =>
  parse(`tutti-kernel 1\nkernel @k ${head} {\n${lines}\n}\n`);
const check = (lines: string, head?: string) => () => verify(kernel(lines, head), { stage: 'scheduled' });
const legal = (lines: string, head?: string) => () => verify(kernel(lines, head), { stage: 'legal', target });

test('a kernel with every op is valid, and legal once its functions are gone', () => {
  expect(() => verify(everyOp(), { stage: 'scheduled' })).not.toThrow();
  expect(() => verify(everyOp(), { stage: 'scheduled', target })).not.toThrow();
  expect(() => verify(everyOp(), { stage: 'legal' })).toThrow(/exp must have been expanded/);
});

test('a failure is a TuttiError that names kernel and instruction', () => {
  try {
    check('%0: i32 = const 1\n%1: f32 = neg %0')();
    expect.unreachable();
  } catch (error) {
    expect(error).toBeInstanceOf(TuttiError);
    expect((error as TuttiError).code).toBe('E_IR');
    expect((error as Error).message).toMatch(/^kernel k: the result is f32, expected i32 in '%1: f32 = neg %0'/);
  }
});

describe('scopes and structure', () => {
  test('a value does not outlive its block', () => {
    expect(check('%0: bool = const true\nif %0 {\n%1: i32 = const 1\n}\n%2: i32 = neg %1')).toThrow(
      /%1 is not defined here/,
    );
    expect(
      check(
        '%0: i32 = const 0\n%1: i32 = const 4\nfor %2: i32 = %0 to %1 step 1 carry (%3: i32 = %0 -> %4: i32) {\nyield %4\n}',
      ),
    ).toThrow(/%4 is not defined here/);
    expect(check('%0: i32 = const 0\n%1: i32 = const 4\nfor %2: i32 = %0 to %1 step 1 {\n}\n%3: i32 = neg %2')).toThrow(
      /%2 is not defined here/,
    );
  });

  test('yields match results in number and type', () => {
    expect(check('%0: bool = const true\nif %0 -> (%1: i32) {\n%2: i32 = const 1\nyield %2\n}')).toThrow(
      /yields 0 values where 1/,
    );
    expect(
      check(
        '%0: bool = const true\nif %0 -> (%1: f32) {\n%2: i32 = const 1\nyield %2\n} else {\n%3: f32 = const 1\nyield %3\n}',
      ),
    ).toThrow(/a yielded value is i32, expected f32/);
    expect(check('%0: i32 = const 0\nyield %0')).toThrow(/yields 1 values where 0/);
  });

  test('two values of one id', () => {
    const b = new KernelBuilder();
    const one = b.constant(1);
    const twin = { id: one.id, type: one.type };
    const base = b.finish({ name: 'twins', grid: [1, 1, 1], workgroup: [1, 1, 1] });
    const instructions = [...base.body.instructions, { op: 'unary', fn: 'neg', a: one, result: twin } as const];
    expect(() => verify({ ...base, body: { instructions, yields: [] } }, { stage: 'scheduled' })).toThrow(
      /defined twice/,
    );
  });

  test('helpers are pure and called with what they take', () => {
    const helper = (body: string) => `buffer @m f32 1 read\nhelper @h(%0: f32) -> f32 {\n${body}\n}`;
    expect(check(`${helper('yield %0')}\n%1: f32 = const 1\n%2: f32 = call @h(%1)`)).not.toThrow();
    expect(check(`${helper('yield %0')}\n%1: f32 = const 1\n%2: f32 = call @h(%1, %1)`)).toThrow(/takes 1 arguments/);
    expect(check(`${helper('yield %0')}\n%1: i32 = const 1\n%2: f32 = call @h(%1)`)).toThrow(/argument 0 is i32/);
    expect(check(helper('%1: i32 = const 0\n%2: f32 = load @m[%1]\nyield %2'))).toThrow(/not pure/);
    expect(check(helper('%1: i32 = builtin local_id 0\nyield %0'))).toThrow(/depends on the invocation/);
    expect(check(`${helper('yield %0')}\n%1: f32 = neg %0`)).toThrow(/%0 is not defined here/);
  });
});

describe('types', () => {
  test.each([
    ['%0: i32 = const 1\n%1: i32 = sqrt %0', /no meaning on i32/],
    ['%0: f32 = const 1\n%1: f32 = and %0, %0', /no meaning on f32/],
    ['%0: i8 = const 1\n%1: i8 = mulhi %0, %0', /no meaning on i8/],
    ['%0: i32 = const 1\n%1: f32 = const 1\n%2: i32 = add %0, %1', /second operand is f32, expected i32/],
    ['%0: i32 = const 1\n%1: i32 = eq %0, %0', /the result is i32, expected bool/],
    ['%0: i32 = const 1\n%1: i32 = select %0, %0, %0', /condition is no bool/],
    ['%0: f32 = const 1\n%1: u64 = bitcast %0', /keeps the bits/],
    ['%0: f32x4 = const 1\n%1: f32 = extract %0, 4', /lane 4 of 4/],
    ['%0: f32 = const 1\n%1: f32x4 = build %0, %0', /as many elements/],
    ['%0: i8 = const 128', /128 is out of the range of i8/],
    ['%0: u64 = const -1', /-1 is out of the range of u64/],
    ['%0: i32[5, 4] = const 5', /not an interval/],
    ['%0: f32[0, 1] = const 1', /no integer but has a range/],
    ['buffer @m f32 4 read\n%0: i32 = const 0\n%1: f32 = const 0\nstore @m[%0], %1', /only read/],
    ['buffer @m f32 4 write\n%0: i32 = const 0\n%1: f32 = load @m[%0]', /only written/],
    ['buffer @m f32 4 read\n%0: i32 = const 0\n%1: i32 = load @m[%0]', /holds f32/],
    [
      'buffer @m f32 4 readwrite\n%0: i32 = const 0\n%1: f32 = const 1\n%2: f32 = atomic add @m[%0], %1',
      /no meaning on f32/,
    ],
    ['%0: f32 = const 1\n%1: f32 = subgroup add %0, 0', /subgroupSize/],
    ['%0: i32 = const 0\nfor %1: i32 = %0 to %0 step 0 {\n}', /step 0/],
  ])('%j', (lines, message) => {
    expect(check(lines)).toThrow(message);
  });
});

describe('bounds', () => {
  const m = 'buffer @m f32 128 readwrite\nscalar @n i32\n%100: f32 = const 1\n';
  const id = `${m}%0: i32 = builtin workgroup_id 0\n%1: i32 = builtin local_id 0\n%2: i32 = const 32\n%3: i32 = mul %0, %2\n%4: i32 = add %3, %1\n`;

  test('grid arithmetic is proven, one element more is not', () => {
    expect(check(`${id}store @m[%4], %100`)).not.toThrow();
    expect(check(`${id}%5: i32 = const 1\n%6: i32 = add %4, %5\nstore @m[%6], %100`)).toThrow(
      /not proven in bounds: index %6 of m may be \[1, 128\], length 128/,
    );
    expect(check(`${id}store @m[%4], %100`, 'grid 5, 1, 1 workgroup 32, 1, 1')).toThrow(/may be \[0, 159\]/);
  });

  test('all lanes of a vector access count, and its alignment', () => {
    const vector = `${m}%0: i32 = builtin local_id 0\n%1: i32 = const 4\n%2: i32 = mul %0, %1\n`;
    expect(check(`${vector}%3: f32x4 = load.aligned @m[%2]`)).not.toThrow();
    expect(check(`${vector}%3: f32x8 = load @m[%2]`)).toThrow(/may be \[0, 124\], length 128/);
    expect(
      check(
        `${vector}%3: i32 = const 2\n%4: i32 = sub %2, %3\n%5: i32 = const 0\n%6: i32 = max %4, %5\n%7: f32x4 = load @m[%6]`,
      ),
    ).not.toThrow();
    expect(
      check(
        `${vector}%3: i32 = const 2\n%4: i32 = sub %2, %3\n%5: i32 = const 0\n%6: i32 = max %4, %5\n%7: f32x4 = load.aligned @m[%6]`,
      ),
    ).toThrow(/not proven a multiple of 4/);
  });

  const guarded = (condition: string, access: string, otherwise = '') =>
    `${m}%0: i32 = scalar @n\n%1: i32 = const 0\n%2: i32 = const 128\n${condition}\nif %9 {\n${access}\n} else {\n${otherwise}\n}`;
  const between = '%3: bool = ge %0, %1\n%4: bool = lt %0, %2\n%9: bool = and %3, %4';

  test('an enclosing condition justifies an access or an assumption', () => {
    expect(check(guarded(between, 'store @m[%0], %100'))).not.toThrow();
    expect(check(guarded(between, '%10: i32[0, 127] = assume %0\nstore @m[%10], %100'))).not.toThrow();
    expect(check(guarded(between, '%10: i32[0, 126] = assume %0'))).toThrow(
      /no enclosing condition implies.*known to be in \[0, 127\]/,
    );
    expect(check(guarded(between, '', 'store @m[%0], %100'))).toThrow(/not proven in bounds/);
    expect(check(guarded('%9: bool = lt %0, %2', 'store @m[%0], %100'))).toThrow(/may be \[-2147483648, 127\]/);
    expect(
      check(guarded('%3: bool = lt %0, %1\n%4: bool = ge %0, %2\n%9: bool = or %3, %4', '', 'store @m[%0], %100')),
    ).not.toThrow();
    expect(
      check(guarded('%3: bool = lt %0, %1\n%4: bool = ge %0, %2\n%9: bool = or %3, %4', 'store @m[%0], %100')),
    ).toThrow(/not proven/);
    expect(
      check(guarded('%3: u32 = convert %0\n%4: u32 = const 128\n%9: bool = lt %3, %4', 'store @m[%0], %100')),
    ).not.toThrow();
  });

  test('a condition on a value narrows what it is computed from, and what is computed from it', () => {
    const offset =
      '%3: i32 = const 5\n%4: i32 = const 1000\n%5: i32 = min %0, %4\n%6: i32 = max %5, %1\n%7: i32 = add %6, %3\n%9: bool = lt %7, %2';
    expect(check(guarded(offset, 'store @m[%6], %100'))).not.toThrow();
    expect(check(guarded(offset, 'store @m[%7], %100'))).not.toThrow();
    expect(check(guarded(offset, '%10: i32 = add %7, %3\nstore @m[%10], %100'))).toThrow(/may be \[10, 132\]/);
    // An addition that may wrap says nothing about its operand.
    const wrapping = '%3: i32 = const 5\n%6: i32 = max %0, %1\n%7: i32 = add %6, %3\n%9: bool = lt %7, %2';
    expect(check(guarded(wrapping, 'store @m[%6], %100'))).toThrow(/may be \[0, 2147483647\]/);
  });

  test('select, min and max clamp', () => {
    const s = `${m}%0: i32 = scalar @n\n%1: i32 = const 0\n%2: i32 = const 127\n`;
    expect(check(`${s}%3: i32 = max %0, %1\n%4: i32 = min %3, %2\nstore @m[%4], %100`)).not.toThrow();
    expect(
      check(
        `${s}%3: bool = lt %0, %1\n%4: i32 = select %3, %1, %0\n%5: bool = gt %4, %2\n%6: i32 = select %5, %2, %4\nstore @m[%6], %100`,
      ),
    ).not.toThrow();
    expect(
      check(`${s}%3: bool = lt %0, %1\n%4: i32 = select %3, %0, %1\n%5: i32 = min %4, %2\nstore @m[%5], %100`),
    ).toThrow(/not proven/);
  });

  test('loops: the index, carried values that stay in bounds, those that do not', () => {
    const loop = (body: string, step = 1, upper = 128) =>
      `${m}%0: i32 = const 0\n%1: i32 = const ${upper}\n%2: i32 = const 2\nfor %3: i32 = %0 to %1 step ${step} carry (%4: i32 = %1 -> %5: i32) {\n${body}\n}`;
    expect(check(loop('store @m[%3], %100\nyield %4'))).not.toThrow();
    expect(check(loop('store @m[%3], %100\nyield %4', 1, 129))).toThrow(/may be \[0, 128\]/);
    expect(check(loop('%6: f32x4 = load.aligned @m[%3]\nyield %4', 4))).not.toThrow();
    expect(check(loop('%6: i32 = div %4, %2\nstore @m[%6], %100\nyield %6'))).not.toThrow();
    expect(check(loop('%6: i32 = sub %1, %4\nstore @m[%6], %100\nyield %6'))).toThrow(/not proven/);
    expect(check(loop('%6: i32 = add %4, %2\n%7: i32 = rem %6, %1\nstore @m[%7], %100\nyield %7'))).not.toThrow();
  });

  test('claimed ranges and assumptions need a reason', () => {
    expect(check('scalar @n i32\n%0: i32[0, 9] = scalar @n')).toThrow(/range \[0, 9\] of %0 is not implied/);
    expect(check('%0: i32[0, 30] = builtin local_id 0')).toThrow(/not implied: it may be \[0, 31\]/);
    expect(check('%0: i32[0, 31] = builtin local_id 0\n%1: i32[0, 961] = mul %0, %0')).not.toThrow();
    expect(check('%0: i32[0, 31] = builtin local_id 0\n%1: i32[0, 960] = mul %0, %0')).toThrow(/not implied/);
    expect(check('scalar @n i32\n%0: i32 = scalar @n\n%1: i32[0, 9] = assume %0')).toThrow(/no enclosing condition/);
    // 2^31 - 1 + 1 wraps, so the sum is not in [1, 2^31].
    expect(
      check(
        'scalar @n i32\n%0: i32 = scalar @n\n%1: i32 = const 0\n%2: i32[0, 2147483647] = max %0, %1\n%3: i32 = const 1\n%4: i32[1, 2147483647] = add %2, %3',
      ),
    ).toThrow(/not implied/);
    expect(
      check(
        '%0: i32 = builtin local_id 0\n%1: i32[0, 31] = subgroup add %0, 0',
        'grid 1, 1, 1 workgroup 32, 1, 1 subgroup 32',
      ),
    ).toThrow(/not implied/);
  });

  test('constant divisors and shifts', () => {
    expect(check('%0: i32 = const 0\n%1: i32 = div %0, %0')).toThrow(/division by zero/);
    expect(check('%0: i32 = const 32\n%1: i32 = shl %0, %0')).toThrow(/shift amount is not in \[0, 32\)/);
    expect(check('%0: i8 = const 8\n%1: i8 = shr %0, %0')).toThrow(/shift amount/);
  });
});

describe('ranges of scalar parameters', () => {
  const body = '%0: i32[0, 3] = scalar @n\n%1: f32 = const 0\nstore @y[%0], %1';

  test('are what dispatches promise', () => {
    expect(check(`scalar @n i32[0, 3]\nbuffer @y f32 4 write\n${body}`)).not.toThrow();
    expect(check(`scalar @n i32\nbuffer @y f32 4 write\n${body}`)).toThrow(/range|bounds|outside/);
    expect(check(`scalar @n i32[0, 4]\nbuffer @y f32 4 write\n${body}`)).toThrow(/range|bounds|outside/);
  });

  test('are intervals of an integer type', () => {
    expect(check('scalar @n i32[3, 0]')).toThrow(/range \[3, 0\] of n/);
    expect(check('scalar @n f32[0, 1]')).toThrow(/range \[0, 1\] of n/);
  });

  test('are printed and read', () => {
    const text = print(kernel(`scalar @n i32[0, 3]\nbuffer @y f32 4 write\n${body}`));
    expect(text).toContain('scalar @n i32[0, 3]');
    expect(print(parse(text))).toBe(text);
  });
});

describe('barriers', () => {
  const tile =
    'array @t shared i32 32\n%0: i32 = builtin local_id 0\n%1: i32 = const 3\n%2: i32 = builtin workgroup_id 0\n%8: i32 = const 0\n';
  test.each([
    ['%3: bool = lt %2, %1\nif %3 {\nbarrier\n}', true],
    ['%3: bool = lt %0, %1\nif %3 {\nbarrier\n}', false],
    ['%4: i32 = load @t[%0]\n%3: bool = lt %4, %1\nif %3 {\n} else {\nbarrier\n}', false],
    ['for %3: i32 = %8 to %1 step 1 {\nbarrier\n}', true],
    ['for %3: i32 = %8 to %0 step 1 {\nbarrier\n}', false],
    [
      'loop carry (%3: i32 = %8 -> %4: i32) {\nbarrier\n%5: i32 = add %3, %1\n%6: bool = lt %5, %2\nyield %5\n} while %6',
      true,
    ],
    [
      'loop carry (%3: i32 = %8 -> %4: i32) {\nbarrier\n%5: i32 = add %3, %0\n%6: bool = lt %5, %2\nyield %5\n} while %6',
      false,
    ],
    // A uniform loop around a divergent if, and a value that leaves a divergent if.
    [
      '%3: bool = lt %0, %1\nif %3 -> (%4: i32) {\nyield %1\n} else {\nyield %8\n}\n%5: bool = eq %4, %1\nif %5 {\nbarrier\n}',
      false,
    ],
    [
      'for %3: i32 = %8 to %1 step 1 carry (%4: i32 = %8 -> %5: i32) {\n%6: bool = eq %4, %1\nif %6 {\nbarrier\n}\nyield %0\n}',
      false,
    ],
    [
      'for %3: i32 = %8 to %1 step 1 carry (%4: i32 = %8 -> %5: i32) {\n%6: bool = eq %4, %1\nif %6 {\nbarrier\n}\nyield %3\n}',
      true,
    ],
  ])('%j is uniform: %s', (lines, uniform) => {
    if (uniform) expect(check(tile + lines)).not.toThrow();
    else expect(check(tile + lines)).toThrow(/barrier in control flow that is not uniform/);
    // One invocation is always uniform.
    expect(check(tile + lines, 'grid 4, 1, 1 workgroup 1, 1, 1')).not.toThrow();
  });
});

describe('targets', () => {
  test.each([
    ['', 'grid 70000, 1, 1 workgroup 1, 1, 1', /grid in dimension 0 is 70000, webgpu allows 65535/],
    ['', 'grid 1, 1, 1 workgroup 1, 1, 65', /workgroup in dimension 2/],
    ['', 'grid 1, 1, 1 workgroup 32, 16, 1', /workgroup is 512/],
    ['', 'grid 1, 1, 1 workgroup 32, 1, 1 subgroup 16', /subgroup size 16/],
    ['array @a shared f32 5000', undefined, /bytes of shared memory is 20000/],
    ['buffer @a f32 50000000 read', undefined, /bytes of a is 200000000/],
    ['buffer @a u8 4 read', undefined, /no storage of u8/],
    ['%0: f64 = const 1', undefined, /no values of f64/],
    ['%0: f32x8 = const 1', undefined, /no vectors of 8/],
    ['%0: f16 = const 1\n%1: f16 = neg %0', undefined, /no arithmetic on f16/],
    ['%0: f32 = const 1\n%1: f32 = pow %0, %0', undefined, /pow must have been expanded/],
    [Array.from({ length: 9 }, (_, i) => `buffer @b${i} f32 1 read`).join('\n'), undefined, /number of buffers is 9/],
    [Array.from({ length: 17 }, (_, i) => `scalar @s${i} f32`).join('\n'), undefined, /scalar parameters is 68/],
  ])('%j %j', (lines, head, message) => {
    expect(legal(lines, head)).toThrow(message);
    const text = lines.includes('const') || lines.includes('u8') ? lines : undefined;
    if (text !== undefined) expect(check(text, head)).not.toThrow();
  });

  test('storing and converting a type without arithmetic is legal', () => {
    expect(
      legal(
        'buffer @m f16 1 readwrite\n%0: i32 = const 0\n%1: f16 = load @m[%0]\n%2: f32 = convert %1\n%3: f16 = convert %2\nstore @m[%0], %3',
      ),
    ).not.toThrow();
  });
});

test('deep chains of selects, ifs and loops are checked in little time', () => {
  const b = new KernelBuilder();
  const m = b.buffer('m', 'i32', 64, 'readwrite');
  const n = b.scalar('n', 'i32');
  let value = b.clamp(n, 0, 63);
  for (let i = 0; i < 200; i++) {
    const [next] = b.if(
      b.compare('lt', value, b.constant(i % 50)),
      () => [b.addc(value, 1)],
      () => [b.select(b.compare('gt', value, n), value, b.constant(3))],
    );
    value = b.clamp(next, 0, 63);
    [value] = b.for(0, 4, 1, [value], (_, [v]) => [
      b.for(0, 3, 1, [v], (index, [w]) => [b.clamp(b.add(w, index), 0, 63)])[0],
    ]);
    value = b.clamp(value, 0, 63);
    b.store(m, value, value);
  }
  const start = performance.now();
  verify(b.finish({ name: 'deep', grid: [1, 1, 1], workgroup: [1, 1, 1] }), { stage: 'scheduled' });
  expect(performance.now() - start).toBeLessThan(2000);
});
