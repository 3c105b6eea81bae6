/** The interpreter runs grids, control flow, barriers and subgroups, and finds broken promises. */
import { describe, expect, test } from 'vitest';
import { KernelBuilder } from '../../compiler/kernel/builder.js';
import { interpret } from '../../compiler/kernel/interpreter.js';
import type { KernelFunction } from '../../compiler/kernel/types.js';
import { verify } from '../../compiler/kernel/verify.js';

const grid1 = (x: number) => [x, 1, 1] as const;

/** c[m][n] = Σ a[m][k]·b[k][n], one invocation per output. */
function matmul(m: number, n: number, k: number): KernelFunction {
  const b = new KernelBuilder();
  const A = b.buffer('a', 'f32', m * k, 'read');
  const B = b.buffer('b', 'f32', k * n, 'read');
  const C = b.buffer('c', 'f32', m * n, 'write');
  const row = b.builtin('workgroup_id', 0, m);
  const column = b.builtin('local_id', 0, n);
  const [sum] = b.for(0, k, 1, [b.constant(0, 'f32')], (index, [acc]) => [
    b.fma(b.load(A, b.add(b.mulc(row, k), index)), b.load(B, b.add(b.mulc(index, n), column)), acc),
  ]);
  b.store(C, b.add(b.mulc(row, n), column), sum);
  return b.finish({ name: 'matmul', grid: grid1(m), workgroup: grid1(n) });
}

/** Sum of each workgroup's elements through a shared tree; `barrier: false` leaves the barrier out of the tree. */
function treeSum(groups: number, width: number, barrier = true): KernelFunction {
  const b = new KernelBuilder();
  const input = b.buffer('input', 'i32', groups * width, 'read');
  const output = b.buffer('output', 'i32', groups, 'write');
  const tile = b.array('tile', 'shared', 'i32', width);
  const group = b.builtin('workgroup_id', 0, groups);
  const local = b.builtin('local_id', 0, width);
  b.store(tile, local, b.load(input, b.add(b.mulc(group, width), local)));
  if (barrier) b.barrier();
  b.loop([b.constant(width / 2)], ([half]) => {
    b.if(b.compare('lt', local, half), () => {
      b.store(tile, local, b.add(b.load(tile, local), b.load(tile, b.add(local, half))));
    });
    if (barrier) b.barrier();
    const next = b.divc(half, 2);
    return { condition: b.compare('gt', next, b.constant(0)), next: [next] };
  });
  b.if(b.compare('eq', local, b.constant(0)), () => b.store(output, group, b.load(tile, b.constant(0))));
  return b.finish({ name: 'tree_sum', grid: grid1(groups), workgroup: grid1(width) });
}

describe('grids and control flow', () => {
  test('matmul over a grid', () => {
    const [m, n, k] = [5, 7, 9];
    const a = Float32Array.from({ length: m * k }, (_, i) => (i % 11) - 5);
    const b = Float32Array.from({ length: k * n }, (_, i) => (i % 7) - 3);
    const c = new Float32Array(m * n);
    interpret(matmul(m, n, k), [a, b, c], [], { checkRaces: true });
    const expected = Array.from({ length: m * n }, (_, at) => {
      let sum = 0;
      for (let i = 0; i < k; i++) sum += a[Math.floor(at / n) * k + i] * b[i * n + (at % n)];
      return sum;
    });
    expect([...c]).toEqual(expected);
  });

  test('three dimensions of grid and workgroup reach every invocation once', () => {
    const b = new KernelBuilder();
    const out = b.buffer('out', 'i32', 2 * 3 * 4 * 5 * 2 * 3, 'readwrite');
    const dims = [0, 1, 2] as const;
    const [gx, gy, gz] = dims.map((d) => b.builtin('workgroup_id', d, [2, 3, 4][d]));
    const [lx, ly, lz] = dims.map((d) => b.builtin('local_id', d, [5, 2, 3][d]));
    const group = b.add(gx, b.mulc(b.add(gy, b.mulc(gz, 3)), 2));
    const local = b.add(lx, b.mulc(b.add(ly, b.mulc(lz, 2)), 5));
    const at = b.add(local, b.mulc(group, 30));
    b.store(out, at, b.add(b.load(out, at), b.addc(at, 1)));
    const kernel = b.finish({ name: 'ids', grid: [2, 3, 4], workgroup: [5, 2, 3] });
    const data = new Int32Array(720);
    interpret(kernel, [data], [], { checkRaces: true, checkRanges: true });
    expect([...data]).toEqual(Array.from({ length: 720 }, (_, i) => i + 1));
  });

  test('carried values that change places, and a loop that runs once', () => {
    const b = new KernelBuilder();
    const out = b.buffer('out', 'i64', 3, 'write');
    const [x, y] = b.for(0, 3, 1, [b.constant(1n, 'i64'), b.constant(2n, 'i64')], (_, [p, q]) => [q, p]);
    const [z] = b.loop([b.constant(5n, 'i64')], ([p]) => ({
      condition: b.compare('lt', p, b.constant(3n, 'i64')),
      next: [b.add(p, b.constant(1n, 'i64'))],
    }));
    for (const [i, value] of [x, y, z].entries()) b.store(out, b.constant(i), value);
    const data = new BigInt64Array(3);
    interpret(b.finish({ name: 'swap', grid: grid1(1), workgroup: grid1(1) }), [data]);
    expect([...data]).toEqual([2n, 1n, 6n]);
  });

  test.each(['i64', 'u64'] as const)('a loop counts in %s exactly, from a number too', (scalar) => {
    const b = new KernelBuilder();
    const input = b.buffer('input', scalar, 2, 'read');
    const out = b.buffer('out', scalar, 3, 'write');
    const [lower, upper] = [b.load(input, b.constant(0)), b.load(input, b.constant(1))];
    const zero = b.constant(0n, scalar);
    const [count, last] = b.for(lower, upper, 2, [zero, zero], (index, [n]) => [b.addc(n, 1), index]);
    const [fromNumber] = b.for(0, b.sub(upper, lower), 1, [zero], (index, [n]) => [b.add(n, index)]);
    for (const [i, value] of [count, last, fromNumber].entries()) b.store(out, b.constant(i), value);
    const kernel = b.finish({ name: 'count', grid: grid1(1), workgroup: grid1(1) });
    verify(kernel, { stage: 'scheduled' });
    const run = (from: bigint, to: bigint) => {
      const bounds = scalar === 'i64' ? BigInt64Array.of(from, to) : BigUint64Array.of(from, to);
      const data = scalar === 'i64' ? new BigInt64Array(3) : new BigUint64Array(3);
      interpret(kernel, [bounds, data]);
      return [...data];
    };
    expect(run(3n, 8n)).toEqual([3n, 7n, 10n]);
    // Beyond the integers that doubles hold, and for u64 beyond those of i64; the last step leaves the type.
    const end = scalar === 'i64' ? 2n ** 63n - 1n : 2n ** 64n - 1n;
    expect(run(2n ** 53n + 1n, 2n ** 53n + 6n)).toEqual([3n, 2n ** 53n + 5n, 10n]);
    expect(run(end - 5n, end)).toEqual([3n, end - 1n, 10n]);
  });

  test('bounds of two types are refused', () => {
    const b = new KernelBuilder();
    const upper = b.scalar('upper', 'u32');
    expect(() => b.for(b.constant(0), upper, 1, [], () => [])).toThrow('for from i32 to u32');
  });

  test('a loop whose bounds leave no iteration yields its initial values', () => {
    const b = new KernelBuilder();
    const out = b.buffer('out', 'i32', 1, 'write');
    const upper = b.scalar('upper', 'i32');
    const [count] = b.for(3, upper, 2, [b.constant(7)], (_, [c]) => [b.addc(c, 1)]);
    b.store(out, b.constant(0), count);
    const kernel = b.finish({ name: 'empty', grid: grid1(1), workgroup: grid1(1) });
    const run = (upper: number) => {
      const data = new Int32Array(1);
      interpret(kernel, [data], [upper]);
      return data[0];
    };
    expect([run(-4), run(3), run(4), run(8)]).toEqual([7, 7, 8, 10]);
  });

  test('helpers, vectors and unaligned buffers', () => {
    const b = new KernelBuilder();
    const input = b.buffer('input', 'f32', 8, 'read');
    const out = b.buffer('out', 'f32', 8, 'write');
    const at = b.mulc(b.builtin('local_id', 0, 2), 4);
    const type = { scalar: 'f32', lanes: 4 } as const;
    const twice = b.call('twice', [b.load(input, at, 4, true)], type, ([p]) => b.add(p, p));
    b.store(out, at, b.add(twice, b.splat(b.extract(twice, 3), 4)), true);
    const kernel = b.finish({ name: 'vectors', grid: grid1(1), workgroup: grid1(2) });
    const bytes = new Uint8Array(33);
    bytes.set(new Uint8Array(Float32Array.from([1, 2, 3, 4, 5, 6, 7, 8]).buffer), 1);
    const result = new Uint8Array(35);
    interpret(kernel, [bytes.subarray(1), result.subarray(3)]);
    expect([...new Float32Array(result.slice(3).buffer)]).toEqual([10, 12, 14, 16, 26, 28, 30, 32]);
  });
});

describe('barriers, subgroups and atomics', () => {
  test('tree reduction in shared memory', () => {
    const input = Int32Array.from({ length: 3 * 16 }, (_, i) => i * i);
    const output = new Int32Array(3);
    interpret(treeSum(3, 16), [input, output], [], { checkRaces: true });
    expect([...output]).toEqual([0, 1, 2].map((g) => input.slice(g * 16, g * 16 + 16).reduce((x, y) => x + y)));
  });

  test('subgroup ops work within each subgroup', () => {
    const b = new KernelBuilder();
    const out = b.buffer('out', 'i32', 16 * 6, 'write');
    const local = b.builtin('local_id', 0, 16);
    const results = [
      b.subgroup('add', local),
      b.subgroup('min', local),
      b.subgroup('max', local),
      b.subgroup('broadcast_first', local),
      b.subgroup('shuffle_xor', local, 1),
      b.subgroup('shuffle_down', local, 2),
    ];
    for (const [i, value] of results.entries()) b.store(out, b.addc(local, i * 16), value);
    const data = new Int32Array(96);
    interpret(b.finish({ name: 'lanes', grid: grid1(1), workgroup: grid1(16), subgroupSize: 8 }), [data]);
    const row = (i: number) => [...data.subarray(i * 16, i * 16 + 16)];
    const each = (f: (i: number) => number) => Array.from({ length: 16 }, (_, i) => f(i));
    expect(row(0)).toEqual(each((i) => (i < 8 ? 28 : 92)));
    expect(row(1)).toEqual(each((i) => (i < 8 ? 0 : 8)));
    expect(row(2)).toEqual(each((i) => (i < 8 ? 7 : 15)));
    expect(row(3)).toEqual(each((i) => (i < 8 ? 0 : 8)));
    expect(row(4)).toEqual(each((i) => i ^ 1));
    expect(row(5)).toEqual(each((i) => (i % 8 < 6 ? i + 2 : -1)));
  });

  test('in divergent code a subgroup op sees the lanes that take part', () => {
    const b = new KernelBuilder();
    const out = b.buffer('out', 'f32', 8, 'write');
    const local = b.builtin('local_id', 0, 8);
    const value = b.convert(local, 'f32');
    const [sum] = b.if(
      b.compare('lt', local, b.constant(3)),
      () => [b.subgroup('add', value)],
      () => [b.subgroup('max', value)],
    );
    const [steps] = b.for(b.constant(0), local, 1, [b.constant(0, 'f32')], (_, [n]) => [
      b.add(n, b.subgroup('add', b.constant(1, 'f32'))),
    ]);
    b.store(out, local, b.add(b.mul(sum, b.constant(100, 'f32')), steps));
    const data = new Float32Array(8);
    interpret(b.finish({ name: 'divergent', grid: grid1(1), workgroup: grid1(8), subgroupSize: 4 }), [data]);
    // Lanes 0 to 3 make 0 to 3 turns together with the lanes that still run: lane 3 sums 3 + 2 + 1, lane 7 sums 4·4 + 3 + 2 + 1.
    expect([...data]).toEqual([300, 303, 305, 306, 716, 719, 721, 722]);
  });

  test('atomics return the old value and do not race with each other', () => {
    const b = new KernelBuilder();
    const counter = b.buffer('counter', 'u32', 1, 'readwrite');
    const seen = b.buffer('seen', 'u32', 12, 'write');
    const old = b.atomic('add', counter, b.constant(0), b.constant(2, 'u32'));
    b.store(seen, b.assume(b.convert(b.div(old, b.constant(2, 'u32')), 'i32'), 0, 11), old);
    const kernel = b.finish({ name: 'count', grid: grid1(3), workgroup: grid1(4) });
    const count = new Uint32Array(1);
    const list = new Uint32Array(12);
    interpret(kernel, [count, list], [], { checkRaces: true });
    expect(count[0]).toBe(24);
    expect([...list]).toEqual(Array.from({ length: 12 }, (_, i) => 2 * i));
  });

  test('compare and exchange writes only where the expected value stands', () => {
    const b = new KernelBuilder();
    const cell = b.buffer('cell', 'i32', 2, 'readwrite');
    const olds = b.buffer('olds', 'i32', 2, 'write');
    const at = b.builtin('local_id', 0, 2);
    b.store(olds, at, b.compareExchange(cell, at, b.constant(5), b.constant(9)));
    const data = Int32Array.of(5, 6);
    const old = new Int32Array(2);
    interpret(b.finish({ name: 'cas', grid: grid1(1), workgroup: grid1(2) }), [data, old]);
    expect([[...data], [...old]]).toEqual([
      [9, 6],
      [5, 6],
    ]);
  });
});

describe('broken promises', () => {
  const single = (build: (b: KernelBuilder) => void, workgroup = 1): KernelFunction => {
    const b = new KernelBuilder();
    build(b);
    return b.finish({ name: 'broken', grid: grid1(1), workgroup: grid1(workgroup) });
  };

  test('an access out of bounds names kernel, memory, index and length', () => {
    const kernel = single((b) => b.store(b.buffer('out', 'f32', 4, 'write'), b.constant(2), b.constant(1, 'f32', 4)));
    expect(() => interpret(kernel, [new Float32Array(4)])).toThrow(
      /kernel broken: store of out out of bounds: indices 2 to 5, length 4/,
    );
    const negative = single((b) => {
      const input = b.buffer('in', 'i32', 4, 'readwrite');
      b.store(input, b.load(input, b.constant(0)), b.constant(1));
    });
    expect(() => interpret(negative, [Int32Array.of(-1, 0, 0, 0)])).toThrow(/index -1, length 4/);
    expect(() => interpret(negative, [Int32Array.of(3, 0, 0, 0)])).not.toThrow();
  });

  test('a broken alignment promise', () => {
    const kernel = single((b) =>
      b.store(b.buffer('out', 'f32', 8, 'write'), b.constant(2), b.constant(1, 'f32', 4), true),
    );
    expect(() => interpret(kernel, [new Float32Array(8)])).toThrow(/not aligned to 4/);
  });

  test('a wrong assumption, division by zero, shift out of range', () => {
    const kernel = single((b) => {
      const input = b.buffer('in', 'i32', 3, 'read');
      const out = b.buffer('out', 'i32', 3, 'write');
      const [x, y, z] = [0, 1, 2].map((i) => b.load(input, b.constant(i)));
      b.store(out, b.constant(0), b.assume(x, 0, 9));
      b.store(out, b.constant(1), b.div(x, y));
      b.store(out, b.constant(2), b.binary('shl', x, z));
    });
    const run = (...values: number[]) => interpret(kernel, [Int32Array.from(values), new Int32Array(3)]);
    expect(() => run(9, 1, 31)).not.toThrow();
    expect(() => run(10, 1, 1)).toThrow(/assume.* is 10, not in \[0, 9\]/);
    expect(() => run(9, 0, 1)).toThrow(/div by zero/);
    expect(() => run(9, 1, 32)).toThrow(/shl of i32 by 32/);
  });

  test('a barrier that not all invocations reach', () => {
    const kernel = single((b) => {
      b.buffer('out', 'i32', 1, 'write');
      b.if(b.compare('lt', b.builtin('local_id', 0, 4), b.constant(2)), () => b.barrier());
    }, 4);
    expect(() => interpret(kernel, [new Int32Array(1)])).toThrow(/barrier reached by 2 of 4/);
  });

  test('fresh arrays read as NaN', () => {
    const kernel = single((b) => {
      const tile = b.array('tile', 'private', 'f16', 2);
      b.store(b.buffer('out', 'f16', 1, 'write'), b.constant(0), b.load(tile, b.constant(1)));
    });
    const out = new Uint16Array(1);
    interpret(kernel, [out]);
    expect(out[0]).toBe(0x7e00);
  });

  test('buffers and scalars must fit the parameters', () => {
    const kernel = single((b) => {
      b.buffer('out', 'f32', 2, 'write');
      b.scalar('n', 'u32');
    });
    expect(() => interpret(kernel, [new Float32Array(2)])).toThrow(/1 scalar parameters, got 0/);
    expect(() => interpret(kernel, [], [1])).toThrow(/1 buffers, got 0/);
    expect(() => interpret(kernel, [new Float32Array(1)], [1])).toThrow(/out needs 8 bytes, got 4/);
  });
});

describe('races', () => {
  test('a missing barrier in shared memory', () => {
    const input = new Int32Array(16);
    const run = (barrier: boolean) =>
      interpret(treeSum(1, 16, barrier), [input, new Int32Array(1)], [], { checkRaces: true });
    expect(() => run(true)).not.toThrow();
    expect(() => run(false)).toThrow(/race on tile\[/);
  });

  const global = (grid: number, workgroup: number, build: (b: KernelBuilder) => void) => () => {
    const b = new KernelBuilder();
    build(b);
    const kernel = b.finish({ name: 'racy', grid: grid1(grid), workgroup: grid1(workgroup) });
    interpret(kernel, [new Int32Array(8)], [], { checkRaces: true });
  };

  test('two workgroups that write, or write and read, one element', () => {
    expect(global(2, 1, (b) => b.store(b.buffer('o', 'i32', 8, 'write'), b.constant(0), b.constant(1)))).toThrow(
      /race on o\[0\]: write and write/,
    );
    const shift = (offset: number) => (b: KernelBuilder) => {
      const o = b.buffer('o', 'i32', 8, 'readwrite');
      const group = b.builtin('workgroup_id', 0, 4);
      b.store(o, group, b.load(o, b.addc(group, offset)));
    };
    expect(global(4, 1, shift(0))).not.toThrow();
    expect(global(4, 1, shift(1))).toThrow(/race on o\[1\]: read and write/);
    expect(global(4, 1, shift(4))).not.toThrow();
  });

  test('a barrier orders one workgroup, not several', () => {
    const exchange = (b: KernelBuilder) => {
      const o = b.buffer('o', 'i32', 8, 'readwrite');
      const local = b.builtin('local_id', 0, 4);
      b.store(o, local, local);
      b.barrier();
      b.store(o, b.addc(local, 4), b.load(o, b.sub(b.constant(3), local)));
    };
    expect(global(1, 4, exchange)).not.toThrow();
    expect(global(2, 4, exchange)).toThrow(/race on o/);
  });

  test('an atomic and a plain access', () => {
    expect(
      global(1, 2, (b) => {
        const o = b.buffer('o', 'i32', 8, 'readwrite');
        b.atomic('add', o, b.constant(0), b.constant(1));
        b.if(b.compare('eq', b.builtin('local_id', 0, 2), b.constant(1)), () =>
          b.store(o, b.constant(0), b.constant(1)),
        );
      }),
    ).toThrow(/race on o\[0\]: atomic and write/);
  });
});

test('runs at least ten million simple ops a second', () => {
  const [m, n, k] = [64, 64, 128];
  const buffers = [m * k, k * n, m * n].map((length) => new Float32Array(length));
  interpret(matmul(8, 8, 8), buffers);
  // Processor time, the best of several: other work on the machine does not count.
  let seconds = Number.POSITIVE_INFINITY;
  for (let round = 0; round < 5; round++) {
    const start = process.cpuUsage();
    interpret(matmul(m, n, k), buffers);
    const { user, system } = process.cpuUsage(start);
    seconds = Math.min(seconds, (user + system) / 1e6);
  }
  // Seven instructions an iteration: two products, two sums of the indices, two loads and the fma.
  const rate = (7 * m * n * k) / seconds;
  console.info(`interpreter: ${(rate / 1e6).toFixed(0)} M ops/s`);
  expect(rate).toBeGreaterThan(10e6);
});
