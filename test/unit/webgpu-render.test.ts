// What WGSL text promises without a device: declarations, names, literals, refusals. Meaning is tested on devices.
import { describe, expect, it } from 'vitest';
import { webgpuBackend } from '../../backends/webgpu/index.js';
import { memoryViews } from '../../backends/webgpu/views.js';
import { f32Bits, literal } from '../../backends/webgpu/wgsl.js';
import { KernelBuilder } from '../../compiler/kernel/builder.js';
import type { Target } from '../../compiler/kernel/target.js';
import { type ByteType, type KBuffer, type KValue, ktype, type Lanes } from '../../compiler/kernel/types.js';

const target = webgpuBackend.target('wgsl') as Target;
const one = { name: 'k', grid: [1, 1, 1], workgroup: [1, 1, 1] } as const;
const textOf = (k: KernelBuilder, name = 'k'): string =>
  webgpuBackend.render(k.finish({ ...one, name }), target).text ?? '';

describe('targets', () => {
  it('obeys the default limits of the specification', () => {
    expect(target.limits).toMatchObject({
      storageBuffers: 8,
      storageBindingBytes: 2 ** 27,
      bufferBytes: 2 ** 28,
      workgroupInvocations: 256,
      workgroupSize: [256, 256, 64],
      workgroupCount: [65535, 65535, 65535],
      sharedBytes: 16384,
      storageAlignment: 256,
    });
    expect([...target.arithmetic].sort()).toEqual(['bool', 'f32', 'i32', 'u32']);
    expect(target.features.size).toBe(0);
    expect(webgpuBackend.target('wgsl+f16')?.arithmetic.has('f16')).toBe(true);
    for (const unknown of ['spirv', 'wgsl+f64', 'wgsl2', '']) expect(webgpuBackend.target(unknown)).toBeUndefined();
  });

  it('takes limits, features and style from the device', () => {
    const info = {
      id: 'webgpu:x',
      backend: 'webgpu',
      name: 'x',
      driver: 'x',
      virtual: false,
      software: true,
      memoryBytes: 1,
      features: ['shader-f16', 'subgroups', 'timestamp-query'],
      limits: {
        maxStorageBuffersPerShaderStage: 12,
        subgroupMinSize: 4,
        subgroupMaxSize: 4,
        maxComputeWorkgroupStorageSize: 32768,
      },
    } as const;
    const described = webgpuBackend.describe(info);
    expect(described).toMatchObject({
      style: 'software-gpu',
      arch: 'wgsl+f16+subgroups4',
      subgroup: { min: 4, max: 4 },
    });
    expect(described.limits).toMatchObject({ storageBuffers: 12, sharedBytes: 32768, storageBindingBytes: 2 ** 27 });
    // WGSL cannot choose a width, so several widths are as good as none.
    const wide = webgpuBackend.describe({
      ...info,
      software: false,
      limits: { subgroupMinSize: 8, subgroupMaxSize: 32 },
    });
    expect(wide.features.has('subgroups')).toBe(false);
    expect(wide.style).toBe('simt');
  });
});

describe('how memory is declared', () => {
  const view = (length: number, use: (k: KernelBuilder, buffer: KBuffer, at: KValue) => void) => {
    const k = new KernelBuilder();
    const buffer = k.buffer('b', 'f32', length, 'readwrite');
    use(k, buffer, k.mulc(k.builtin('local_id', 0, 4), 4));
    const kernel = k.finish({ ...one, workgroup: [4, 1, 1] });
    return memoryViews(kernel).get(buffer);
  };
  const load =
    (lanes: Lanes, aligned = true) =>
    (k: KernelBuilder, b: KBuffer, at: KValue) =>
      void k.load(b, at, lanes, aligned);
  const store =
    (lanes: Lanes, aligned = true) =>
    (k: KernelBuilder, b: KBuffer, at: KValue) =>
      k.store(b, at, k.constant(1, 'f32', lanes), aligned);
  const all =
    (...uses: ReturnType<typeof store>[]) =>
    (k: KernelBuilder, b: KBuffer, at: KValue) => {
      for (const use of uses) use(k, b, at);
    };

  it.each([
    ['vec4 accesses', 16, all(load(4), store(4)), 4],
    ['vec4 and scalar loads', 16, all(load(4), load(1), load(2)), 4],
    ['a scalar store would race inside a vector', 16, all(load(4), store(1)), 1],
    ['a vec2 store too', 16, all(load(4), store(2)), 1],
    ['vec2 accesses', 16, all(load(2), store(2)), 2],
    ['unaligned', 16, all(load(4), load(4, false)), 1],
    ['scalars only', 16, all(load(1), store(1)), 1],
    ['a tail that scalar loads may reach', 18, all(load(4), load(1)), 1],
    ['a tail that nobody reaches', 18, load(4), 4],
  ] as const)('%s', (_, length, use, width) => {
    expect(view(length, use)?.width).toBe(width);
  });

  it('atomics make the whole buffer atomic', () => {
    const k = new KernelBuilder();
    const b = k.buffer('b', 'u32', 4, 'readwrite');
    k.atomic('add', b, k.constant(0), k.constant(1, 'u32'));
    k.store(b, k.constant(1), k.load(b, k.constant(2)));
    const text = textOf(k);
    expect(text).toContain('array<atomic<u32>, 4>');
    expect(text).toMatch(/atomicStore\(&b0\[1\]/);
    expect(text).toMatch(/atomicLoad\(&b0\[2\]\)/);
  });
});

describe('the text', () => {
  it('is the same for the same kernel, with bindings in order and scalars behind them', () => {
    const make = () => {
      const k = new KernelBuilder();
      const out = k.buffer('out', 'f32', 4, 'write');
      const factor = k.scalar('factor', 'f32');
      const input = k.buffer('in', 'f32', 4, 'read');
      const tile = k.array('tile', 'shared', 'f32', 10);
      k.store(tile, k.constant(0), factor);
      k.store(out, k.constant(0), k.mul(k.load(input, k.constant(1)), k.load(tile, k.constant(0))));
      return webgpuBackend.render(k.finish(one), target);
    };
    expect(make()).toEqual(make());
    expect(make()).toMatchObject({ bindings: ['write', 'read'], scalarBytes: 4, sharedBytes: 40, entry: 'main' });
    expect(make().text).toContain('@binding(2) var<uniform> scalars: Scalars;');
  });

  it('does not let names from a model into the code', () => {
    const k = new KernelBuilder();
    const out = k.buffer('out"; }\n/*', 'i32', 1, 'write');
    k.store(out, k.constant(0), k.constant(1));
    const kernel = k.finish({ ...one, name: 'evil\nfn main() {}', sources: ['a\r\n@compute', '\u2028fn x() {}'] });
    const text = webgpuBackend.render(kernel, target).text ?? '';
    expect(text.match(/fn main/g)?.length).toBe(2); // once in the comment of the first line
    expect(text.split('\n')[0]).toMatch(/^\/\/ .*fn main/);
    expect(
      text
        .split('\n')
        .filter((line) => !line.includes('//'))
        .join('\n'),
    ).not.toMatch(/evil|@compute.*fn x|\/\*/);
  });

  it('never leaves an overflowing constant expression', () => {
    const k = new KernelBuilder();
    const out = k.buffer('out', 'i32', 2, 'write');
    const sum = k.emit({ op: 'binary', fn: 'add', a: k.constant(0x7fffffff), b: k.constant(1) }, ktype('i32'));
    k.store(out, k.constant(0), sum);
    k.store(out, k.constant(7), sum); // in dead code an index may be out of bounds
    const text = textOf(k);
    expect(text).toMatch(/let k\d+ = 2147483647i;\n.*= k\d+ \+ 1i;/);
    expect(text).toMatch(/let k\d+ = 7i;\n.*b0\[k\d+\]/);
  });

  it('hides nothing in sums of products and polynomials', () => {
    const k = new KernelBuilder();
    const [a, b] = [k.buffer('a', 'f32', 64, 'read'), k.buffer('b', 'f32', 64, 'readwrite')];
    let sum = k.load(b, k.constant(0));
    for (let i = 0; i < 40; i++) sum = k.add(sum, k.mul(k.load(a, k.constant(i)), k.load(a, k.constant(i + 1))));
    let polynomial = k.constant(0.5, 'f32');
    for (const c of [0.1, 0.2, 0.3, 0.4]) polynomial = k.add(k.mul(polynomial, sum), k.constant(c, 'f32'));
    k.store(b, k.constant(0), polynomial);
    expect(textOf(k)).not.toContain('hide');
    const risky = k.sub(k.add(sum, k.constant(12582912, 'f32')), k.constant(12582912, 'f32'));
    k.store(b, k.constant(1), risky);
    expect(textOf(k).match(/hide_f32\(v/g)?.length).toBe(1);
  });

  it('orders global memory at barriers only where it is exchanged', () => {
    const make = (exchange: boolean) => {
      const k = new KernelBuilder();
      const b = k.buffer('b', 'i32', 4, 'readwrite');
      k.store(b, k.builtin('local_id', 0, 4), k.constant(1));
      k.barrier();
      if (exchange) k.load(b, k.constant(0));
      return webgpuBackend.render(k.finish({ ...one, workgroup: [4, 1, 1] }), target).text;
    };
    expect(make(false)).not.toContain('storageBarrier');
    expect(make(true)).toContain('storageBarrier');
  });

  it('refuses what must have been legalised', () => {
    const wide = new KernelBuilder();
    wide.store(wide.buffer('b', 'i64', 1, 'write'), wide.constant(0), wide.constant(1n, 'i64'));
    expect(() => textOf(wide)).toThrow(/i64.*legaliser/);
    const math = new KernelBuilder();
    const b = math.buffer('b', 'f32', 1, 'readwrite');
    math.store(b, math.constant(0), math.unary('exp', math.load(b, math.constant(0))));
    expect(() => textOf(math, 'softmax_3')).toThrow(/softmax_3.*exp/);
    const lanes = new KernelBuilder();
    const c = lanes.buffer('c', 'f32', 8, 'readwrite');
    lanes.store(c, lanes.constant(0), lanes.load(c, lanes.constant(0), 8, true), true);
    expect(() => textOf(lanes)).toThrow(/8 lanes/);
  });
});

describe('products of four bytes', () => {
  const render = (left: ByteType, right: ByteType, lanes: Lanes): string => {
    const k = new KernelBuilder();
    const [x, y] = [k.buffer('x', 'u32', 4, 'read'), k.buffer('y', 'u32', 4, 'read')];
    const out = k.buffer('out', 'i32', 4, 'readwrite');
    const i = k.constant(0);
    const sums = k.load(out, i, lanes, true);
    k.store(out, i, k.dot4(k.load(x, i, lanes, true), k.load(y, i, lanes, true), sums, left, right), true);
    return textOf(k);
  };

  it('are functions of the language, which the module asks for', () => {
    expect(textOf(new KernelBuilder())).not.toContain('requires');
    const text = render('i8', 'i8', 1);
    expect(text.indexOf('requires packed_4x8_integer_dot_product;')).toBeLessThan(text.indexOf('var<storage'));
    expect(text.match(/dot4I8Packed\(/g)).toHaveLength(1);
    expect(render('u8', 'u8', 4).match(/i32\(dot4U8Packed\(\w+\.[xyzw], \w+\.[xyzw]\)\)/g)).toHaveLength(4);
    expect(() => render('i8', 'u8', 1)).toThrow(/dot4 of i8 and u8/);
  });

  it('are for devices that have the instruction', () => {
    const same = new Set(['i8·i8', 'u8·u8']);
    expect(target.byteDots).toBeUndefined();
    expect(webgpuBackend.target('wgsl+dot')?.byteDots).toEqual(same);
    const info = { id: 'webgpu:x', backend: 'webgpu', name: 'x', driver: 'x', virtual: false, memoryBytes: 1 };
    const features = ['packed_4x8_integer_dot_product'];
    const of = (software: boolean) => webgpuBackend.describe({ ...info, software, features, limits: {} });
    expect(of(false).byteDots).toEqual(same);
    expect(of(true).byteDots).toBeUndefined();
  });
});

describe('literals', () => {
  it('say the value and no other', () => {
    expect(literal('i32', -2147483648)).toBe('i32(-2147483648)');
    expect(literal('u32', -1)).toBe('4294967295u');
    expect(literal('i32', 4294967295n)).toBe('i32(-1)');
    expect(literal('bool', 2)).toBe('true');
    expect(literal('f32', 0.1)).toBe('0.10000000149011612f');
    expect(literal('f32', 3)).toBe('3.0f');
    expect(literal('f32', -1e21)).toBe('(-1.0000000200408773e+21f)');
    expect(literal('f16', 0.1)).toBe('0.0999755859375h');
    for (const value of [Number.NaN, Number.POSITIVE_INFINITY, -0, 1e-40])
      expect(literal('f32', value)).toBeUndefined();
    expect(f32Bits(-0)).toBe(0x80000000);
  });
});
