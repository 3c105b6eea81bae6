/** Rendered PTX: accepted by ptxas for every op and type, for what the scheduler makes and for real models. */
import { readFileSync } from 'node:fs';
import { describe, expect, it } from 'vitest';
import type { KernelCode } from '../../backends/backend.js';
import { cudaBackend } from '../../backends/cuda/index.js';
import { FunctionText } from '../../backends/cuda/ptx.js';
import { archFor, archs, ptxVersionOf } from '../../backends/cuda/target.js';
import { plan } from '../../compiler/compile.js';
import { importOnnx } from '../../compiler/frontends/onnx/index.js';
import { KernelBuilder } from '../../compiler/kernel/builder.js';
import type { Target } from '../../compiler/kernel/target.js';
import type { KernelFunction, KValue } from '../../compiler/kernel/types.js';
import { dataPath, modelsData } from '../support/data.js';
import { numberTypes } from '../support/kernel_data.js';
import { everyOp } from '../support/kernels.js';
import { assemble, ptxasKnows, ptxasMissing } from '../support/ptxas.js';
import {
  controlAndMemory,
  everyOpOn,
  mathematics,
  renderMilliseconds,
  subgroupsOn,
} from '../support/rendered_kernels.js';
import { kernelsOf, legalized, randomNodes } from '../support/scheduled_runs.js';

if (ptxasMissing !== undefined) console.warn(ptxasMissing);

const targetOf = (arch: string): Target => cudaBackend.target(arch) as Target;
const architectures = ['sm_75', 'sm_80', 'sm_90a', 'sm_100'].filter(
  (arch) => ptxasMissing !== undefined || ptxasKnows(arch),
);
const natives = numberTypes;

const render = (kernel: KernelFunction, target: Target): KernelCode =>
  cudaBackend.render(legalized(kernel, target), target);
const sourceLines = (code: KernelCode): string[] => (code.text ?? '').split('\n');
const count = (code: KernelCode, pattern: RegExp): number =>
  sourceLines(code).filter((line) => pattern.test(line)).length;

describe.each(architectures)('PTX for %s', (arch) => {
  const target = targetOf(arch);

  it('is assembled', (context) => {
    if (ptxasMissing !== undefined) context.skip(ptxasMissing);
  });

  it('takes every op on every type', async () => {
    const kernels = natives.flatMap((scalar) => ([1, 2, 4] as const).map((lanes) => everyOpOn(scalar, lanes, natives)));
    const codes = kernels.map((kernel) => cudaBackend.render(kernel, target));
    expect(codes[0]).toMatchObject({ bindings: ['read', 'read', 'readwrite', 'readwrite'], scalarBytes: 0 });
    expect(await assemble(codes, arch)).toEqual([]);
  });

  it('takes subgroup operations on every type', async () => {
    const kernels = natives.flatMap((scalar) => ([1, 4] as const).map((lanes) => subgroupsOn(scalar, lanes)));
    const codes = [...kernels, everyOp()].map((kernel) => render(kernel, target));
    expect(await assemble(codes, arch)).toEqual([]);
  });

  it('takes control flow, memory, scalars and functions', async () => {
    const codes = [controlAndMemory(false), ...(['f16', 'f32', 'f64'] as const).map(mathematics)].map((kernel) =>
      render(kernel, target),
    );
    expect(codes[0]).toMatchObject({ scalarBytes: 12, sharedBytes: 4 * (128 + 64), workgroup: [32, 2, 1] });
    expect(codes[2].text).toMatch(/call\.uni/);
    expect(await assemble(codes, arch)).toEqual([]);
  });

  it('takes what the scheduler makes of random nodes of every op', async () => {
    const codes: KernelCode[] = [];
    for (const { graph } of randomNodes(6)) {
      for (const kernel of kernelsOf(graph, target)) codes.push(cudaBackend.render(kernel, target));
    }
    expect(codes.length).toBeGreaterThan(100);
    expect(await assemble(codes, arch)).toEqual([]);
  });

  const models: Readonly<Record<string, Readonly<Record<string, number>>>> = {
    'mnist-cnn8': {},
    'bert-toy': { batch: 1, max_seq_len_in_batch: 12 },
    'mobilenetv2-int8-qdq': { batch: 1 },
    'transformer-encoder-tiny': { batch: 2, tokens: 9 },
  };
  for (const [name, dims] of Object.entries(models)) {
    it.skipIf(modelsData.missing)(`takes the kernels of ${name}`, async (context) => {
      const graph = importOnnx(readFileSync(dataPath(context, modelsData, name, 'model.onnx')));
      const { kernels } = plan(graph, target, { dims });
      expect(kernels.length).toBeGreaterThan(0);
      const codes = kernels.map((kernel) => cudaBackend.render(kernel, target));
      expect(await assemble(codes, arch)).toEqual([]);
    });
  }
});

describe('PTX renderer', () => {
  const target = targetOf('sm_80');
  const simple = (build: (b: KernelBuilder, index: KValue) => void): KernelCode => {
    const b = new KernelBuilder();
    build(b, b.builtin('local_id', 0, 8));
    return cudaBackend.render(b.finish({ name: 'simple', grid: [1, 1, 1], workgroup: [8, 1, 1] }), target);
  };

  it('makes one access of an aligned vector, and offsets of constants', () => {
    const code = simple((b, i) => {
      const x = b.buffer('x', 'f32', 1024, 'read');
      const out = b.buffer('out', 'f32', 1024, 'write');
      const at = b.mulc(i, 4);
      const [p, q] = [b.load(x, b.addc(at, 32), 4, true), b.load(x, b.addc(at, 64), 4, true)];
      b.store(out, at, b.add(p, q), true);
    });
    expect(count(code, /^ld\.global\.nc\.v4\.b32 .*\+128\];$/)).toBe(1);
    expect(count(code, /^ld\.global\.nc\.v4\.b32 .*\+256\];$/)).toBe(1);
    expect(count(code, /^st\.global\.v4\.b32 /)).toBe(1);
    expect(count(code, /^mul\.wide/)).toBe(1 + 1); // one address in each buffer
  });

  it('reads past the cache for others only what nobody writes', () => {
    const code = simple((b, i) => {
      const x = b.buffer('x', 'f32', 8, 'readwrite');
      b.store(x, i, b.load(x, b.remc(b.addc(i, 1), 8)));
    });
    expect(count(code, /ld\.global\.b32/)).toBe(1);
  });

  it('spells out every rounding, and contracts only what is fast', () => {
    const render = (fast: boolean): string =>
      simple((b, i) => {
        const x = b.buffer('x', 'f32', 8, 'readwrite');
        const v = b.load(x, i);
        b.store(x, i, b.binary('add', b.binary('mul', v, v, fast), v, fast));
      }).text ?? '';
    expect(render(false)).toMatch(/mul\.rn\.f32 [\s\S]*add\.rn\.f32 /);
    expect(render(true)).toMatch(/mul\.f32 [\s\S]*add\.f32 /);
    for (const scalar of ['f16', 'f32', 'f64'] as const) {
      const { text = '' } = cudaBackend.render(everyOpOn(scalar, 1, natives), target);
      const unrounded = text.match(/^(add|sub|mul|div|sqrt|fma)\.(f16|f32|f64).*$/gm) ?? [];
      expect(unrounded).toHaveLength(2); // the two that are marked fast
      expect(text).not.toMatch(/ftz|approx/);
    }
  });

  it('unrolls loops and keeps arrays with known indices in registers', () => {
    const code = simple((b, i) => {
      const x = b.buffer('x', 'f32', 64, 'readwrite');
      const own = b.array('own', 'private', 'f32', 8);
      const all = { unroll: true };
      b.for(0, 8, 1, [], (k) => void b.store(own, k, b.load(x, b.add(b.mulc(i, 8), k))), all);
      const [sum] = b.for(
        0,
        8,
        1,
        [b.constant(0, 'f32')],
        (k, [s]) => [b.add(s, b.load(own, b.sub(b.constant(7), k)))],
        all,
      );
      b.store(x, i, sum);
    });
    expect(code.text).not.toContain('.local');
    expect(count(code, /bra/)).toBe(0);
    expect(count(code, /ld\.global/)).toBe(8);
  });

  it('copies all carried values at once', () => {
    const f = new FunctionText();
    f.moveAll([
      [32, '%r10', '%r11'],
      [32, '%r11', '%r10'],
      [32, '%r12', '%r11'],
      [32, '%r13', '%r13'],
      [64, '%d1', '5'],
    ]);
    const registers = new Map([
      ['%r10', 'a'],
      ['%r11', 'b'],
      ['%r12', 'c'],
      ['%r13', 'd'],
    ]);
    for (const line of f.body()) {
      const [, to, from] = line.match(/^mov\.\w+ (\S+), (\S+);$/) ?? [];
      if (to !== undefined) registers.set(to, registers.get(from) ?? from);
    }
    expect(['%r10', '%r11', '%r12', '%r13', '%d1'].map((reg) => registers.get(reg))).toEqual(['b', 'a', 'b', 'd', '5']);
  });

  it('keeps the end of a loop whose next index would not be in the type', () => {
    const code = simple((b, i) => {
      const x = b.buffer('x', 'u32', 8, 'readwrite');
      const limit = b.scalar('limit', 'u32');
      const [sum] = b.for(b.constant(0, 'u32'), limit, 7, [b.load(x, i)], (k, [s]) => [b.add(s, k)]);
      b.store(x, i, sum);
    });
    expect(code.text).toMatch(/sub\.u32 (%r\d+), .*\nsetp\.gt\.u32 %p\d+, \1, 7;\nadd\.u32/);
  });

  it('refuses what it cannot mean', () => {
    expect(() =>
      simple((b, i) => {
        const x = b.buffer('x', 'f32', 8, 'readwrite');
        b.store(x, i, b.unary('tanh', b.load(x, i)));
      }),
    ).toThrow(/tanh.*expandMath/);
    const b = new KernelBuilder();
    b.store(b.buffer('x', 'u32', 8, 'write'), b.constant(0), b.constant(0, 'u32'));
    const kernel = b.finish({ name: 'narrow', grid: [1, 1, 1], workgroup: [8, 1, 1], subgroupSize: 8 });
    expect(() => cudaBackend.render(kernel, target)).toThrow(expect.objectContaining({ code: 'E_KERNEL' }));
  });

  it('renders a large register tile in a few milliseconds', () => {
    expect(renderMilliseconds((kernel) => cudaBackend.render(kernel, target))).toBeLessThan(10);
  });
});

describe('targets', () => {
  it('takes the best architecture that device and driver know', () => {
    const name = (sm: number, cuda: number): string | undefined => archFor(sm, cuda)?.name;
    expect(name(75, 12040)).toBe('sm_75');
    expect(name(86, 12040)).toBe('sm_86');
    expect(name(90, 12040)).toBe('sm_90a');
    expect(name(90, 11080)).toBe('sm_90');
    expect(name(89, 11070)).toBe('sm_87');
    expect(name(100, 12040)).toBe('sm_90');
    expect(name(120, 12080)).toBe('sm_120');
    expect(name(70, 12040)).toBeUndefined();
    expect(name(75, 9000)).toBeUndefined();
    expect(ptxVersionOf(12065)).toEqual([8, 5]);
  });

  it('describes each architecture by its name', () => {
    for (const { name } of archs) {
      const target = targetOf(name);
      expect(target).toMatchObject({ backend: 'cuda', arch: name, style: 'simt', subgroup: { min: 32, max: 32 } });
      expect(target.arithmetic.has('bf16')).toBe(false);
    }
    expect(cudaBackend.target('sm_13')).toBeUndefined();
    expect(cudaBackend.target('spirv')).toBeUndefined();
  });

  it('describes a device by what it reports', () => {
    const described = cudaBackend.describe({
      id: 'cuda:GPU-0',
      backend: 'cuda',
      name: 'x',
      driver: 'y',
      virtual: false,
      software: false,
      memoryBytes: 2 ** 33,
      features: [],
      limits: {
        computeCapability: 80,
        cudaVersion: 12040,
        multiprocessors: 108,
        clockKHz: 1_410_000,
        memoryClockKHz: 1_215_000,
        memoryBusBits: 5120,
      },
    });
    expect(described).toMatchObject({ arch: 'sm_80', parallelism: 108 });
    expect(described.rates.copyGBs).toBeCloseTo(1555.2, 1);
    expect(described.rates.gflops).toBeCloseTo(19_492, -2);
  });
});
