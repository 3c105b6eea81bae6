/** Rendered SPIR-V: valid by spirv-val for every op and type, with no more capabilities than the target declares. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { DeviceInfo, KernelCode } from '../../backends/backend.js';
import { vulkanBackend } from '../../backends/vulkan/index.js';
import { Assembler, Capability, Op } from '../../backends/vulkan/spirv.js';
import { KernelBuilder } from '../../compiler/kernel/builder.js';
import type { Target } from '../../compiler/kernel/target.js';
import {
  type BinaryFn,
  isFloatScalar,
  isIntScalar,
  type KernelFunction,
  type KValue,
  ktype,
  type Lanes,
  type ScalarType,
  scalarBits,
  type UnaryFn,
} from '../../compiler/kernel/types.js';

const device = (features: readonly string[]): DeviceInfo => ({
  id: 'vulkan:test',
  backend: 'vulkan',
  name: 'test',
  driver: 'test',
  virtual: false,
  software: false,
  memoryBytes: 2 ** 30,
  features,
  limits: { subgroupSize: 32 },
});
const everything = [
  'shaderInt64',
  'shaderFloat64',
  'shaderInt16',
  'shaderFloat16',
  'shaderInt8',
  'storageBuffer16BitAccess',
  'storageBuffer8BitAccess',
  'signedZeroInfNanPreserve16',
  'signedZeroInfNanPreserve32',
  'signedZeroInfNanPreserve64',
  'roundingModeRTE16',
  'roundingModeRTE32',
  'timestamps',
  'subgroups',
  'subgroupSizeControl',
];
const full = vulkanBackend.describe(device(everything));
const storageOnly = vulkanBackend.describe(device(['storageBuffer16BitAccess', 'storageBuffer8BitAccess']));
const least = vulkanBackend.target('spirv') as Target;

const hasValidator = spawnSync('spirv-val', ['--version']).status === 0;
if (!hasValidator) console.warn('spirv-val is not installed (Debian: spirv-tools): modules are not validated');

let folder: string;
beforeAll(() => {
  folder = mkdtempSync(join(tmpdir(), 'tutti-spirv-'));
});
afterAll(() => {
  rmSync(folder, { recursive: true, force: true });
});

function validate(code: KernelCode): void {
  if (!hasValidator) return;
  const file = join(folder, 'module.spv');
  writeFileSync(file, code.words as Uint32Array);
  const { status, stdout, stderr } = spawnSync('spirv-val', ['--target-env', 'vulkan1.1', file], { encoding: 'utf8' });
  expect({ status, output: stdout + stderr }).toEqual({ status: 0, output: '' });
}

interface Instruction {
  readonly op: number;
  readonly operands: readonly number[];
}
function decode(code: KernelCode): Instruction[] {
  const words = code.words as Uint32Array;
  const list: Instruction[] = [];
  for (let at = 5; at < words.length; ) {
    const count = words[at] >>> 16;
    expect(count).toBeGreaterThan(0);
    list.push({ op: words[at] & 0xffff, operands: [...words.subarray(at + 1, at + count)] });
    at += count;
  }
  return list;
}
const capabilities = (code: KernelCode): Set<number> =>
  new Set(
    decode(code)
      .filter((inst) => inst.op === Op.Capability)
      .map((inst) => inst.operands[0]),
  );

/** Every op that a type has, on values of `lanes`. */
function everyOp(scalar: ScalarType, lanes: Lanes, others: readonly ScalarType[]): KernelFunction {
  const b = new KernelBuilder();
  const x = b.buffer('x', scalar, 64, 'read');
  const y = b.buffer('y', scalar, 64, 'read');
  const out = b.buffer('out', scalar, 4096, 'readwrite');
  const words = b.buffer('words', 'u32', 4096, 'readwrite');
  const index = b.mulc(b.builtin('local_id', 0, 8), lanes);
  const [p, q] = [b.load(x, index, lanes, true), b.load(y, index, lanes, false)];
  let slot = 0;
  const keep = (value: KValue): void => b.store(out, b.addc(index, 64 * slot++), value, slot % 2 === 0);
  const float = isFloatScalar(scalar);
  const unary: UnaryFn[] = float
    ? ['neg', 'abs', 'floor', 'ceil', 'round', 'trunc', 'sqrt']
    : ['neg', 'abs', 'not', 'popcount', 'clz'];
  const binary: BinaryFn[] = float
    ? ['add', 'sub', 'mul', 'div', 'rem', 'min', 'max']
    : ['add', 'sub', 'mul', 'div', 'rem', 'min', 'max', 'and', 'or', 'xor', 'shl', 'shr'];
  if (scalar === 'i32' || scalar === 'u32') binary.push('mulhi');
  for (const fn of unary) keep(b.unary(fn, p));
  for (const fn of binary) keep(b.binary(fn, p, q));
  const two = isIntScalar(scalar) && scalarBits[scalar] === 64 ? 2n : 2;
  for (const fn of ['div', 'max'] as const) keep(b.binary(fn, p, b.constant(two, scalar, lanes)));
  if (float) keep(b.fma(p, q, p));
  let flag = b.compare('eq', p, q);
  for (const fn of ['ne', 'lt', 'le', 'gt', 'ge'] as const) flag = b.binary('xor', flag, b.compare(fn, p, q));
  keep(b.select(flag, p, q));
  keep(b.select(b.extract(flag, 0), p, q));
  for (const other of others) keep(b.convert(b.convert(p, other), scalar));
  keep(b.convert(b.convert(p, 'bool'), scalar));
  b.store(words, index, b.convert(flag, 'u32'), true);
  if (lanes > 1) keep(b.build(Array.from({ length: lanes }, (_, lane) => b.extract(p, lanes - 1 - lane))));
  keep(b.splat(b.extract(q, 0), lanes));
  return b.finish({ name: `every_${scalar}_${lanes}`, grid: [1, 1, 1], workgroup: [8, 1, 1] });
}

function controlAndMemory(subgroups: boolean): KernelFunction {
  const b = new KernelBuilder();
  const x = b.buffer('x', 'f32', 256, 'read');
  const out = b.buffer('out', 'i32', 256, 'readwrite');
  const [limit, bias, scale] = [b.scalar('limit', 'u32'), b.scalar('bias', 'i32'), b.scalar('scale', 'f32')];
  const tile = b.array('tile', 'shared', 'f32', 128);
  const wide = b.array('wide', 'shared', 'f32', 64);
  const flags = b.array('flags', 'private', 'bool', 4);
  const lane = b.builtin('local_id', 0, 32);
  const rows = b.builtin('local_id', 1, 2);
  const group = b.builtin('workgroup_id', 2, 3);
  b.store(wide, b.mulc(b.remc(lane, 16), 4), b.load(x, b.mulc(lane, 4), 4, true), true);
  b.store(tile, b.add(lane, rows), b.mul(b.load(x, lane), scale));
  b.barrier();
  b.store(flags, b.constant(1), b.compare('gt', b.load(tile, rows), b.constant(0, 'f32')));
  const [sum] = b.for(0, b.convert(limit, 'i32'), 3, [b.constant(0)], (i, [s]) => {
    const [t] = b.if(
      b.load(flags, b.constant(1)),
      () => [b.add(s, i)],
      () => b.for(i, 7, 1, [s], (j, [u]) => [b.add(u, j)]),
    );
    b.if(b.compare('eq', t, bias), () => {
      b.atomic('max', out, b.constant(3), t);
    });
    return [t];
  });
  const [done] = b.loop([sum], ([v]) => {
    const next = b.binary('shr', v, b.constant(1));
    return { condition: b.compare('gt', next, group), next: [next] };
  });
  const helper = b.call(
    'twice',
    [done],
    ktype('i32'),
    ([p]) =>
      b.if(
        b.compare('lt', p, b.constant(9)),
        () => [b.mulc(p, 2)],
        () => [p],
      )[0],
  );
  const [unrolled] = b.for(0, 4, 1, [helper], (i, [v]) => [b.add(v, b.mul(i, v))], { unroll: true });
  b.compareExchange(out, lane, unrolled, helper);
  if (subgroups) {
    for (const fn of ['add', 'min', 'max', 'broadcast_first', 'shuffle_xor', 'shuffle_down'] as const) {
      b.store(out, lane, b.add(b.subgroup(fn, done, 1), b.convert(b.subgroup(fn, b.load(tile, lane), 1), 'i32')));
    }
    b.store(out, b.builtin('subgroup_lane', 0, 32), b.builtin('subgroup_size', 0, 33));
  }
  return b.finish({
    name: 'control',
    grid: [1, 1, 3],
    workgroup: [32, 2, 1],
    ...(subgroups ? { subgroupSize: 32 } : {}),
  });
}

describe('SPIR-V renderer', () => {
  it('needs spirv-val to be checked in full', (context) => {
    if (!hasValidator) context.skip();
  });

  for (const [name, target] of [
    ['a device that has everything', full],
    ['the minimum specification', least],
  ] as const) {
    const native = [...target.arithmetic].filter((scalar) => scalar !== 'bool');
    for (const scalar of native) {
      it(`renders every op on ${scalar} for ${name}`, () => {
        for (const lanes of [1, 2, 4] as const) {
          const code = vulkanBackend.render(everyOp(scalar, lanes, native), target);
          expect(code).toMatchObject({
            entry: 'main',
            bindings: ['read', 'read', 'readwrite', 'readwrite'],
            scalarBytes: 0,
          });
          validate(code);
        }
      });
    }
    it(`renders control flow, memory and scalars for ${name}`, () => {
      const code = vulkanBackend.render(controlAndMemory(target === full), target);
      expect(code).toMatchObject({ scalarBytes: 12, sharedBytes: 4 * (128 + 64), workgroup: [32, 2, 1] });
      validate(code);
    });
  }

  it('uses no capability that the target lacks', () => {
    const plain = vulkanBackend.render(everyOp('f32', 4, ['i32', 'u32']), least);
    expect(capabilities(plain)).toEqual(new Set([Capability.Shader]));
    expect(capabilities(vulkanBackend.render(controlAndMemory(false), least))).toEqual(new Set([Capability.Shader]));
  });

  it('loads and stores small types that the device only stores', () => {
    const b = new KernelBuilder();
    const half = b.buffer('half', 'f16', 64, 'read');
    const byte = b.buffer('byte', 'i8', 64, 'readwrite');
    const index = b.mulc(b.builtin('local_id', 0, 16), 4);
    const sum = b.add(
      b.convert(b.load(half, index, 4, true), 'f32'),
      b.convert(b.convert(b.load(byte, index, 4, true), 'i32'), 'f32'),
    );
    b.store(byte, index, b.convert(b.convert(sum, 'i32'), 'i8'), true);
    const code = vulkanBackend.render(b.finish({ name: 'small', grid: [1, 1, 1], workgroup: [16, 1, 1] }), storageOnly);
    validate(code);
    expect(capabilities(code)).toEqual(
      new Set([Capability.Shader, Capability.StorageBuffer16BitAccess, Capability.StorageBuffer8BitAccess]),
    );
  });

  it('makes one load of an aligned vector, without dividing the index at run time', () => {
    const b = new KernelBuilder();
    const x = b.buffer('x', 'f32', 1024, 'read');
    const out = b.buffer('out', 'f32', 1024, 'write');
    const index = b.add(b.mulc(b.builtin('workgroup_id', 0, 4), 256), b.mulc(b.builtin('local_id', 0, 64), 4));
    b.store(out, index, b.load(x, index, 4, true), true);
    const code = vulkanBackend.render(b.finish({ name: 'copy', grid: [4, 1, 1], workgroup: [64, 1, 1] }), least);
    validate(code);
    const ops = decode(code).map((inst) => inst.op);
    expect(ops.filter((op) => op === Op.Load)).toHaveLength(1 + 2); // the data, and two built-in variables
    expect(ops.filter((op) => op === Op.Store)).toHaveLength(1);
    expect(ops).not.toContain(Op.ShiftRightLogical);
  });

  it('forbids contraction unless the op is fast', () => {
    const render = (fast: boolean): number => {
      const b = new KernelBuilder();
      const x = b.buffer('x', 'f32', 8, 'readwrite');
      const i = b.builtin('local_id', 0, 8);
      const v = b.load(x, i);
      b.store(x, i, b.binary('add', b.binary('mul', v, v, fast), v, fast));
      const code = vulkanBackend.render(b.finish({ name: 'mad', grid: [1, 1, 1], workgroup: [8, 1, 1] }), least);
      return decode(code).filter((inst) => inst.op === Op.Decorate && inst.operands[1] === 42).length;
    };
    expect(render(false)).toBe(2);
    expect(render(true)).toBe(0);
  });

  it('does several trips an iteration where a driver counts iterations, and says when that is not enough', () => {
    const lavapipe = vulkanBackend.describe({ ...device(everything), name: 'llvmpipe', software: true });
    const long = (trips: number): KernelFunction => {
      const b = new KernelBuilder();
      const x = b.buffer('x', 'u32', 8, 'readwrite');
      const i = b.builtin('local_id', 0, 8);
      const [sum] = b.for(0, trips, 1, [b.load(x, i)], (k, [v]) => [b.add(b.mulc(v, 3), b.convert(k, 'u32'))]);
      b.store(x, i, sum);
      return b.finish({ name: 'long', grid: [1, 1, 1], workgroup: [8, 1, 1] });
    };
    const bodies = (trips: number): number =>
      decode(vulkanBackend.render(long(trips), lavapipe)).filter((inst) => inst.op === Op.IMul).length;
    validate(vulkanBackend.render(long(1_000_000), lavapipe));
    expect([60_000, 100_000, 1_000_000].map(bodies)).toEqual([1, 2, 16]);
    expect(() => vulkanBackend.render(long(2 ** 30), lavapipe)).toThrow(/kernel long.*65000/);
    expect(vulkanBackend.render(long(2 ** 30), full).words?.length).toBeLessThan(1000);
  });

  it('refuses math functions that were not expanded', () => {
    const b = new KernelBuilder();
    const x = b.buffer('x', 'f32', 8, 'readwrite');
    const i = b.builtin('local_id', 0, 8);
    b.store(x, i, b.unary('tanh', b.load(x, i)));
    expect(() => vulkanBackend.render(b.finish({ name: 'm', grid: [1, 1, 1], workgroup: [8, 1, 1] }), least)).toThrow(
      /tanh.*expandMath/,
    );
  });

  it('renders a large register tile in a few milliseconds', () => {
    const kernel = (): KernelFunction => {
      const b = new KernelBuilder();
      const x = b.buffer('x', 'f32', 1 << 20, 'read');
      const out = b.buffer('out', 'f32', 1 << 20, 'write');
      const lane = b.mulc(b.builtin('local_id', 0, 8), 8);
      const sums = b.for(0, 1024, 4, new Array(64).fill(b.constant(0, 'f32')), (k, carried) => {
        const acc = [...carried];
        for (let u = 0; u < 4; u++) {
          const a = Array.from({ length: 8 }, (_, r) => b.load(x, b.add(b.mulc(k, 8), b.constant(8 * u + r))));
          const c = Array.from({ length: 8 }, (_, r) => b.load(x, b.add(b.mulc(b.addc(k, u), 64), b.addc(lane, r))));
          for (let r = 0; r < 64; r++) acc[r] = b.add(acc[r], b.mul(a[r >> 3], c[r & 7]));
        }
        return acc;
      });
      for (const [r, sum] of sums.entries()) b.store(out, b.addc(lane, 64 * r), sum);
      return b.finish({ name: 'tile', grid: [1, 1, 1], workgroup: [8, 1, 1] });
    };
    const times: number[] = [];
    for (let round = 0; round < 10; round++) {
      const built = kernel();
      const at = performance.now();
      validateOnce(vulkanBackend.render(built, full), round);
      times.push(performance.now() - at);
    }
    // The best of ten: warm, and on a machine that does other things too.
    expect(Math.min(...times)).toBeLessThan(10);
  });
});

function validateOnce(code: KernelCode, round: number): void {
  if (round === 0) validate(code);
}

describe('targets', () => {
  it('describes types and features from what the driver reports', () => {
    expect([...least.arithmetic].sort()).toEqual(['bool', 'f32', 'i32', 'u32']);
    expect(least.style).toBe('simt');
    expect(full.arithmetic.has('bf16')).toBe(false);
    expect(full.storage.has('f16')).toBe(true);
    expect(storageOnly.arithmetic.has('f16')).toBe(false);
    expect(full.features.has('subgroups')).toBe(true);
    expect(vulkanBackend.describe({ ...device([]), software: true }).style).toBe('software-gpu');
    expect(vulkanBackend.target('sm_90a')).toBeUndefined();
  });
});

describe('assembler', () => {
  it('gives equal types and constants one id', () => {
    const asm = new Assembler();
    expect(asm.typeVector(asm.typeFloat(32), 4)).toBe(asm.typeVector(asm.typeFloat(32), 4));
    expect(asm.uint(7)).toBe(asm.uint(7));
    expect(asm.uint(7)).not.toBe(asm.constant(asm.typeFloat(32), [7]));
    expect(asm.bool(true)).not.toBe(asm.bool(false));
  });
});
