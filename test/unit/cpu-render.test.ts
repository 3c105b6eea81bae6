/** The cpu renderer and target as pure functions; what rendered kernels compute is checked in test/device/cpu.test.ts. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { cpuBackend } from '../../backends/cpu/index.js';
import { cLiteral } from '../../backends/cpu/literal.js';
import { KernelBuilder } from '../../compiler/kernel/builder.js';
import type { Target } from '../../compiler/kernel/target.js';
import { type KernelFunction, scalarTypes } from '../../compiler/kernel/types.js';

const target = cpuBackend.target('x86-64-v4') as Target;

function kernelOf(
  body: (k: KernelBuilder) => void,
  workgroup: KernelFunction['workgroup'] = [1, 1, 1],
): KernelFunction {
  const k = new KernelBuilder();
  body(k);
  return k.finish({ name: 'sample', sources: ['Conv_1'], grid: [4, 1, 1], workgroup });
}

describe('target', () => {
  it('knows the vector units of architecture levels', () => {
    const facts = (arch: string) => {
      const t = cpuBackend.target(arch) as Target;
      return [t.vectorLanes, t.vectorRegisters, t.features.has('fma')];
    };
    expect(facts('x86-64-v4')).toEqual([16, 32, true]);
    expect(facts('x86-64-v3')).toEqual([8, 16, true]);
    expect(facts('x86-64-v2')).toEqual([4, 16, false]);
    expect(facts('aarch64')).toEqual([4, 32, true]);
    expect(cpuBackend.target('sm_90a')).toBeUndefined();
    expect(cpuBackend.target('constructor')).toBeUndefined();
  });

  it('runs one invocation a workgroup and stores every type', () => {
    expect(target.limits.workgroupInvocations).toBe(1);
    expect([...target.storage]).toEqual([...scalarTypes]);
    expect([...target.arithmetic]).toEqual([...scalarTypes]);
  });

  it('follows the facts of a machine', () => {
    const info = {
      id: 'cpu',
      backend: 'cpu',
      name: 'x',
      driver: 'y',
      virtual: false,
      software: false,
      memoryBytes: 2 ** 34,
      features: ['avx2', 'fma'],
      limits: { cores: 6, l1dBytes: 49152, l2Bytes: 2 ** 21, l3Bytes: 0 },
    } as const;
    const described = cpuBackend.describe(info);
    expect(described).toMatchObject({ arch: 'x86-64-v3', parallelism: 6, limits: { bufferBytes: 2 ** 34 } });
    expect(described.caches).toEqual([
      { bytes: 49152, shared: false },
      { bytes: 2 ** 21, shared: false },
    ]);
  });
});

describe('literals', () => {
  /** Reads C's hexadecimal floats. */
  const parse = (text: string): number => {
    const match = /^(\()?(-)?0x([01])(?:\.([0-9a-f]+))?p([+-]\d+)f?\)?$/.exec(text);
    if (!match) throw new Error(text);
    const fraction = match[4] ?? '';
    const mantissa = Number(BigInt(`0x${match[3]}${fraction}`)) * 2 ** (-4 * fraction.length);
    // Two steps: 2^-1074 times a fraction would round before it is whole.
    const exponent = Number(match[5]);
    const value = exponent < -1000 ? mantissa * 2 ** (exponent + 100) * 2 ** -100 : mantissa * 2 ** exponent;
    return match[2] ? -value : value;
  };

  it('keep every finite f64 and f32', () => {
    fc.assert(
      fc.property(fc.double({ noNaN: true, noDefaultInfinity: true }), (value) => {
        expect(Object.is(parse(cLiteral(value, 'f64')), value)).toBe(true);
      }),
    );
    fc.assert(
      fc.property(fc.float({ noNaN: true, noDefaultInfinity: true }), (value) => {
        expect(Object.is(parse(cLiteral(value, 'f32')), value)).toBe(true);
      }),
    );
    for (const value of [0, -0, 5e-324, Number.MAX_VALUE, 2 ** -1022, -1.5])
      expect(Object.is(parse(cLiteral(value, 'f64')), value)).toBe(true);
  });

  it('spell out what has no literal', () => {
    expect(cLiteral(Number.NaN, 'f32')).toBe('__builtin_nanf("")');
    expect(cLiteral(Number.NEGATIVE_INFINITY, 'f64')).toBe('(-__builtin_inf())');
    expect(cLiteral(-2147483648, 'i32')).toBe('(-2147483647 - 1)');
    expect(cLiteral(-(2n ** 63n), 'i64')).toBe('(int64_t)(-9223372036854775807ll - 1)');
    expect(cLiteral(2n ** 64n - 1n, 'u64')).toBe('(uint64_t)18446744073709551615ull');
    expect(cLiteral(0.1, 'f16')).toBe(`${'0x1.998p-4'}f`);
  });
});

describe('rendering', () => {
  const copy = (factor: number) =>
    kernelOf((k) => {
      const [a, b] = [k.buffer('a', 'f32', 4, 'read'), k.buffer('b', 'f32', 4, 'write')];
      const i = k.builtin('workgroup_id', 0, 4);
      k.store(b, i, k.binary('mul', k.load(a, i), k.constant(factor, 'f32')));
    });

  it('is a function of the kernel, and its entry of the text', () => {
    const [first, again, other] = [
      cpuBackend.render(copy(2), target),
      cpuBackend.render(copy(2), target),
      cpuBackend.render(copy(3), target),
    ];
    expect(again).toEqual(first);
    expect(other.entry).not.toBe(first.entry);
    expect(first.text).toContain(first.entry);
    expect(first).toMatchObject({
      name: 'sample',
      workgroup: [1, 1, 1],
      bindings: ['read', 'write'],
      scalarBytes: 0,
      sharedBytes: 0,
    });
  });

  it('leaves address arithmetic signed where ranges prove that it does not wrap, and only there', () => {
    const body = (range: boolean) =>
      cpuBackend.render(
        kernelOf((k) => {
          const b = k.buffer('b', 'i32', 4, 'readwrite');
          const i = k.builtin('workgroup_id', 0, 4);
          const value = range ? i : k.load(b, i);
          k.store(b, i, k.addc(k.mulc(value, 3), 5));
        }),
        target,
      ).text as string;
    expect(body(true)).toMatch(/= v\d+ \* 3;/);
    expect(body(false)).toMatch(/\(int32_t\)\(\(uint32_t\)v\d+ \* \(uint32_t\)3\)/);
  });

  it('contracts only what is marked fast', () => {
    const text = (fast: boolean) =>
      cpuBackend.render(
        kernelOf((k) => {
          const b = k.buffer('b', 'f32', 64, 'readwrite');
          const x = k.load(b, k.constant(0), 16);
          const y = k.load(b, k.constant(16), 16);
          k.store(b, k.constant(0), k.binary('add', k.binary('mul', x, y, fast), y, fast));
        }),
        target,
      ).text as string;
    expect(text(true)).toContain('tutti_fma_f32x16(');
    expect(text(false)).not.toContain('fma');
  });

  it('refuses workgroups of several invocations as a user’s mistake, unexpanded math as ours', () => {
    expect(() =>
      cpuBackend.render(
        kernelOf(() => undefined, [8, 1, 1]),
        target,
      ),
    ).toThrow(expect.objectContaining({ code: 'E_KERNEL' }));
    const math = kernelOf((k) => {
      const b = k.buffer('b', 'f32', 4, 'readwrite');
      k.store(b, k.constant(0), k.unary('exp', k.load(b, k.constant(0))));
    });
    expect(() => cpuBackend.render(math, target)).toThrow(/expandMath/);
  });
});
