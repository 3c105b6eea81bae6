/** Rendered SPIR-V: valid by spirv-val for every op and type, with no more capabilities than the target declares. */
import { describe, expect, it } from 'vitest';
import type { DeviceInfo, KernelCode } from '../../backends/backend.js';
import { vulkanBackend } from '../../backends/vulkan/index.js';
import { Assembler, Capability, Op } from '../../backends/vulkan/spirv.js';
import { KernelBuilder } from '../../compiler/kernel/builder.js';
import type { Target } from '../../compiler/kernel/target.js';
import type { ByteType, KernelFunction, Lanes } from '../../compiler/kernel/types.js';
import { numberTypes } from '../support/kernel_data.js';
import { controlAndMemory, everyOpOn, registerTile, renderMilliseconds } from '../support/rendered_kernels.js';
import { decodeModule, type Instruction } from '../support/spirv_modules.js';
import { hasSpirvVal, spirvVal } from '../support/spirv_val.js';

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
const signedDots = ['Signed', 'MixedSignedness'].map((kind) => `integerDotProduct4x8BitPacked${kind}Accelerated`);
const dots = vulkanBackend.describe(device(['shaderIntegerDotProduct', ...signedDots]));
const least = vulkanBackend.target('spirv') as Target;

if (!hasSpirvVal) console.warn('spirv-val is not installed (Debian: spirv-tools): modules are not validated');

function validate(code: KernelCode): void {
  if (!hasSpirvVal) return;
  expect(spirvVal(code.words as Uint32Array, 'vulkan1.1')).toEqual({ status: 0, output: '' });
}

const decode = (code: KernelCode): Instruction[] => decodeModule(code.words as Uint32Array);
const capabilities = (code: KernelCode): Set<number> =>
  new Set(
    decode(code)
      .filter((inst) => inst.op === Op.Capability)
      .map((inst) => inst.operands[0]),
  );

describe('SPIR-V renderer', () => {
  it('needs spirv-val to be checked in full', (context) => {
    if (!hasSpirvVal) context.skip();
  });

  for (const [name, target] of [
    ['a device that has everything', full],
    ['the minimum specification', least],
  ] as const) {
    const native = numberTypes.filter((scalar) => target.arithmetic.has(scalar));
    for (const scalar of native) {
      it(`renders every op on ${scalar} for ${name}`, () => {
        for (const lanes of [1, 2, 4] as const) {
          const code = vulkanBackend.render(everyOpOn(scalar, lanes, native), target);
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
    const plain = vulkanBackend.render(everyOpOn('f32', 4, ['i32', 'u32']), least);
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

  it('multiplies four bytes by one instruction for each word, the signed ones first', () => {
    const render = (left: ByteType, right: ByteType, lanes: Lanes): Instruction[] => {
      const b = new KernelBuilder();
      const [x, y] = [b.buffer('x', 'u32', 64, 'read'), b.buffer('y', 'u32', 64, 'read')];
      const out = b.buffer('out', 'i32', 64, 'readwrite');
      const i = b.mulc(b.builtin('local_id', 0, 16), 4);
      const [p, q] = [b.load(x, i, lanes, true), b.load(y, i, lanes, true)];
      b.store(out, i, b.dot4(p, q, b.load(out, i, lanes, true), left, right), true);
      const code = vulkanBackend.render(b.finish({ name: 'dot', grid: [1, 1, 1], workgroup: [16, 1, 1] }), dots);
      validate(code);
      expect(capabilities(code)).toEqual(
        new Set([Capability.Shader, Capability.DotProduct, Capability.DotProductInput4x8BitPacked]),
      );
      return decode(code);
    };
    for (const lanes of [1, 2, 4] as const) {
      for (const [op, left, right] of [
        [Op.SDot, 'i8', 'i8'],
        [Op.UDot, 'u8', 'u8'],
        [Op.SUDot, 'i8', 'u8'],
        [Op.SUDot, 'u8', 'i8'],
      ] as const)
        expect(render(left, right, lanes).filter((inst) => inst.op === op)).toHaveLength(lanes);
    }
    const operands = (left: ByteType, right: ByteType) =>
      render(left, right, 1)
        .find(({ op }) => op === Op.SUDot)
        ?.operands.slice(2, 4);
    expect(operands('u8', 'i8')?.reverse()).toEqual(operands('i8', 'u8'));
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
    validate(vulkanBackend.render(registerTile(), full));
    expect(renderMilliseconds((kernel) => vulkanBackend.render(kernel, full))).toBeLessThan(10);
  });
});

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

  it('multiplies bytes where that is an instruction', () => {
    expect(dots.byteDots).toEqual(new Set(['i8·i8', 'i8·u8']));
    expect(full.byteDots).toBeUndefined();
    expect(vulkanBackend.describe(device(signedDots)).byteDots).toBeUndefined();
    expect(vulkanBackend.describe(device(['shaderIntegerDotProduct'])).byteDots).toBeUndefined();
    expect(dots.arch).not.toBe(vulkanBackend.describe(device([])).arch);
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
