/** Matrix tiles and asynchronous copies in Kernel IR: meaning, text, rules, and what passes make of them. */
import { describe, expect, test } from 'vitest';
import { KernelBuilder } from '../../compiler/kernel/builder.js';
import type { MatrixUnit, TileScalar } from '../../compiler/kernel/engines.js';
import { interpret } from '../../compiler/kernel/interpreter.js';
import { legalize } from '../../compiler/kernel/legalize.js';
import { expandMath } from '../../compiler/kernel/math.js';
import { parse } from '../../compiler/kernel/parse.js';
import { print } from '../../compiler/kernel/print.js';
import { simplify } from '../../compiler/kernel/simplify.js';
import type { Target } from '../../compiler/kernel/target.js';
import type { KernelFunction, KValue, ScalarType } from '../../compiler/kernel/types.js';
import { verify } from '../../compiler/kernel/verify.js';
import { f16ToF32, f32ToF16, roundBf16, roundF16 } from '../../compiler/numeric.js';
import { testTargets } from '../support/targets.js';
import { encoded, matrixTarget, product, recombined, stagedCopies } from '../support/tiles.js';

const f16Unit: MatrixUnit = { m: 16, n: 16, k: 16, a: 'f16', b: 'f16', accumulator: 'f32' };
const units = matrixTarget.matrixUnits as readonly MatrixUnit[];
const valueAt = (scalar: TileScalar, i: number): number => ((i * 37) % 11) - (scalar === 'u8' ? 0 : 5);

describe('products of tiles', () => {
  for (const unit of units) {
    for (const [layoutA, layoutB] of [
      ['row', 'row'],
      ['row', 'column'],
      ['column', 'row'],
    ] as const) {
      test(`${unit.m}×${unit.n}×${unit.k} of ${unit.a} (${layoutA}) and ${unit.b} (${layoutB})`, () => {
        const { m, n, k } = unit;
        const made = product(unit, { layoutA, layoutB, subgroups: 2 });
        verify(made.kernel, { stage: 'scheduled', target: matrixTarget });
        const a = Array.from({ length: made.lengthA }, (_, i) => valueAt(unit.a, i));
        const b = Array.from({ length: made.lengthB }, (_, i) => valueAt(unit.b, i + 3));
        const c = Array.from({ length: 2 * m * made.strideC }, (_, i) => valueAt('f32', i + 7));
        const out = encoded(
          unit.accumulator,
          c.map(() => -99),
        ) as Float32Array | Int32Array;
        interpret(made.kernel, [encoded(unit.a, a), encoded(unit.b, b), encoded(unit.accumulator, c), out], [], {
          checkRaces: true,
        });
        for (let row = 0; row < 2 * m; row++) {
          for (let column = 0; column < made.strideC; column++) {
            const at = row * made.strideC + column;
            let want = column < n ? c[at] : -99;
            for (let i = 0; column < n && i < k; i++) {
              const x = a[layoutA === 'row' ? row * made.strideA + i : i * made.strideA + row];
              want += x * b[layoutB === 'row' ? i * made.strideB + column : column * made.strideB + i];
            }
            expect(out[at], `row ${row}, column ${column}`).toBe(want);
          }
        }
      });
    }
  }

  for (const scalar of ['f16', 'bf16'] as const) {
    test(`taken apart and put together, rounded to ${scalar}`, () => {
      const kernel = recombined(scalar);
      verify(kernel, { stage: 'scheduled', target: matrixTarget });
      expect(print(parse(print(kernel)))).toBe(print(kernel));
      const c = Array.from({ length: 512 }, (_, i) => valueAt('f32', i) + 1 / 512);
      const right = Array.from({ length: 256 }, (_, i) => valueAt(scalar, i + 3));
      const out = new Float32Array(512);
      interpret(kernel, [Float32Array.from(c), encoded(scalar, right), out], [], { checkRaces: true });
      const round = scalar === 'f16' ? roundF16 : roundBf16;
      for (const [at, got] of out.entries()) {
        const [row, column] = [at >> 4, at & 15];
        const products = Array.from({ length: 16 }, (_, i) => round(c[16 * row + i]) * right[16 * i + column]);
        const want = products.reduce((x, y) => x + y, 2 * c[at]);
        expect(Math.abs(got - want), `row ${row}, column ${column}`).toBeLessThan(1e-4);
      }
    });
  }

  test('tf32 rounds to ten bits of fraction, ties away from zero', () => {
    const unit = units.find((u) => u.a === 'tf32') as MatrixUnit;
    const made = product(unit);
    const a = new Float32Array(made.lengthA);
    const b = new Float32Array(made.lengthB);
    a[0] = 1 + 2 ** -11;
    a[made.strideA] = -(1 + 3 * 2 ** -12);
    a[2 * made.strideA] = 1 + 2 ** -12;
    b[0] = 1;
    const out = new Float32Array(16 * made.strideC);
    interpret(made.kernel, [a, b, new Float32Array(out.length), out]);
    expect([0, 1, 2].map((row) => out[row * made.strideC])).toEqual([1 + 2 ** -10, -(1 + 2 ** -10), 1]);
  });

  test('integer sums wrap', () => {
    const unit = units.find((u) => u.a === 'u8' && u.b === 'u8') as MatrixUnit;
    const made = product(unit);
    const ones = new Uint8Array(Math.max(made.lengthA, made.lengthB)).fill(255);
    const c = new Int32Array(16 * made.strideC).fill(2 ** 31 - 1);
    const out = new Int32Array(c.length);
    interpret(made.kernel, [ones, ones, c, out]);
    expect(out[0]).toBe((2 ** 31 - 1 + 32 * 255 * 255) | 0);
  });
});

describe('text and passes', () => {
  const kernels: readonly KernelFunction[] = [
    ...units.map((unit) => product(unit, { subgroups: 2 }).kernel),
    stagedCopies(),
  ];
  test('print and parse', () => {
    for (const kernel of kernels) {
      const text = print(kernel);
      expect(print(parse(text))).toBe(text);
      verify(parse(text), { stage: 'scheduled', target: matrixTarget });
    }
  });
  test('simplify and expandMath keep them', () => {
    for (const kernel of kernels) {
      const simple = simplify(kernel);
      expect(print(expandMath(simple))).toBe(print(simple));
      const ops = (of: KernelFunction) => [...print(of).matchAll(/^ *(tile_|async_|tile )\S*/gm)].map(([op]) => op);
      expect(ops(simple)).toEqual(ops(kernel));
    }
  });
  test('bf16 and f16 stay as they are stored where they are computed in f32', () => {
    const words = new Set<ScalarType>(['bool', 'u8', 'u16', 'i32', 'u32', 'f32']);
    const target: Target = { ...matrixTarget, arithmetic: new Set(['bool', 'i32', 'u32', 'f32']), storage: words };
    for (const unit of units.filter(({ a }) => a === 'bf16' || a === 'f16' || a === 'i8')) {
      const { kernel } = product(unit, { subgroups: 2 });
      const legal = legalize(kernel, target);
      expect(legal.params[0]).toMatchObject({ scalar: unit.a === 'i8' ? 'u8' : 'u16' });
      verify(legal, { stage: 'legal', target });
      const run = (which: KernelFunction) => {
        const made = product(unit, { subgroups: 2 });
        const a = encoded(
          unit.a,
          Array.from({ length: made.lengthA }, (_, i) => valueAt(unit.a, i)),
        );
        const b = encoded(
          unit.b,
          Array.from({ length: made.lengthB }, (_, i) => valueAt(unit.b, i)),
        );
        const out = new Float32Array(32 * made.strideC);
        interpret(which, [a, b, new Float32Array(out.length), out]);
        return out;
      };
      expect(run(legal)).toEqual(run(kernel));
    }
  });
});

describe('asynchronous copies', () => {
  const run = (kernel: KernelFunction, checkRaces = true): number[] => {
    const source = Uint16Array.from({ length: 512 }, (_, i) => f32ToF16(i));
    const out = new Uint16Array(512);
    interpret(kernel, [source, out], [], { checkRaces });
    return [...out].map(f16ToF32);
  };
  const neighbour = (i: number): number => i ^ 8;
  test('land when they are waited for, with zeros where the condition is false', () => {
    const want = Array.from({ length: 512 }, (_, i) => (i < 256 || neighbour(i) - 256 < 80 ? neighbour(i) : 0));
    expect(run(stagedCopies())).toEqual(want);
  });
  test('are undefined before', () => {
    expect(() => run(stagedCopies(2))).toThrow(/race on stage/);
    const early = run(stagedCopies(2), false);
    expect(early.slice(0, 256).every(Number.isNaN)).toBe(true);
    expect(early.slice(256).some(Number.isNaN)).toBe(false);
  });
  test('need a target that has them, and alignment', () => {
    expect(() => verify(stagedCopies(), { stage: 'scheduled', target: testTargets.simt })).toThrow(
      /no subgroups|asynchronous/,
    );
    const b = new KernelBuilder();
    const source = b.buffer('source', 'f16', 64, 'read');
    const stage = b.array('stage', 'shared', 'f16', 64);
    const at = b.builtin('local_id', 0, 32);
    b.engine({ op: 'async_copy', memory: stage, index: at, source, from: at, elements: 2 });
    const kernel = b.finish({ name: 'odd', grid: [1, 1, 1], workgroup: [32, 1, 1] });
    expect(() => verify(kernel, { stage: 'scheduled', target: matrixTarget })).toThrow(/multiple of 2/);
  });
});

describe('rules', () => {
  /** A kernel around one op on declared tiles. */
  function around(body: (k: ReturnType<typeof parts>) => void, workgroup = 64): KernelFunction {
    const made = parts(workgroup);
    body(made);
    return made.b.finish({ name: 'rule', grid: [1, 1, 1], workgroup: [workgroup, 1, 1], subgroupSize: 32 });
  }
  function parts(workgroup: number) {
    const b = new KernelBuilder();
    const memory = b.buffer('memory', 'f16', 1024, 'read');
    const tile = b.tile({ name: 'a', role: 'a', m: 16, n: 16, k: 16, scalar: 'f16' });
    const sum = b.tile({ name: 'sum', role: 'accumulator', m: 16, n: 16, k: 16, scalar: 'f32' });
    const local = b.builtin('local_id', 0, workgroup);
    const load = (index: KValue, stride = 32, aligned = false): void =>
      b.engine({ op: 'tile_load', tile, memory, index, stride, layout: 'row', aligned });
    return { b, memory, tile, sum, local, load };
  }
  const broken = (kernel: KernelFunction, reason: RegExp): void =>
    expect(() => verify(kernel, { stage: 'scheduled', target: matrixTarget })).toThrow(reason);

  test('the whole tile is in bounds', () => {
    verify(
      around(({ b, load }) => load(b.constant(1024 - 15 * 32 - 16))),
      { stage: 'scheduled', target: matrixTarget },
    );
    broken(
      around(({ b, load }) => load(b.constant(1024 - 15 * 32 - 15))),
      /not proven in bounds/,
    );
    broken(
      around(({ b, load }) => load(b.constant(0), 15)),
      /stride 15/,
    );
  });
  test('alignment is proven', () => {
    verify(
      around(({ b, load }) => load(b.constant(8), 32, true)),
      { stage: 'scheduled', target: matrixTarget },
    );
    broken(
      around(({ b, load }) => load(b.constant(4), 32, true)),
      /multiple of 8/,
    );
    broken(
      around(({ b, load }) => load(b.constant(8), 20, true)),
      /stride 20/,
    );
  });
  test('control flow and operands are uniform in a subgroup', () => {
    const half = ({ b, local }: ReturnType<typeof parts>) => b.divc(local, 32);
    verify(
      around((k) => k.b.if(k.b.compare('eq', half(k), k.b.constant(1)), () => k.load(k.b.mulc(half(k), 16)))),
      { stage: 'scheduled', target: matrixTarget },
    );
    broken(
      around((k) => k.load(k.b.divc(k.local, 16))),
      /not uniform/,
    );
    broken(
      around((k) => k.b.if(k.b.compare('lt', k.local, k.b.constant(32)), () => k.load(k.b.constant(0)))),
      /control flow that is not uniform/,
    );
    broken(
      around((k) => k.load(k.b.constant(0)), 48),
      /whole subgroups/,
    );
  });
  test('roles, types and units', () => {
    broken(
      around(({ b, tile }) => b.engine({ op: 'tile_fill', tile, value: b.constant(0, 'f16') })),
      /only accumulators/,
    );
    broken(
      around(({ b, sum }) => b.engine({ op: 'tile_fill', tile: sum, value: b.constant(0) })),
      /filled with i32/,
    );
    broken(
      around(({ b, sum, memory }) =>
        b.engine({
          op: 'tile_load',
          tile: sum,
          memory,
          index: b.constant(0),
          stride: 16,
          layout: 'row',
          aligned: false,
        }),
      ),
      /holds f16/,
    );
    broken(
      around(({ b, sum, tile }) => b.engine({ op: 'tile_multiply', accumulator: sum, a: tile, b: tile })),
      /role/,
    );
    const { kernel } = product({ ...f16Unit, k: 8 });
    broken(kernel, /does not multiply f16 and f16 to f32 in 16×16×8/);
    expect(() =>
      verify(kernel, { stage: 'scheduled', target: { ...testTargets.simt, features: new Set(['subgroups']) } }),
    ).toThrow(/does not multiply/);
  });
  test('the interpreter refuses a tile op that not all of a subgroup reach', () => {
    const kernel = around((k) => k.b.if(k.b.compare('lt', k.local, k.b.constant(40)), () => k.load(k.b.constant(0))));
    expect(() => interpret(kernel, [new Uint16Array(1024)])).toThrow(/not reached by a whole group of 32/);
  });
});
