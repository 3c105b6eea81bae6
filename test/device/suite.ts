/**
 * The contract of backends/backend.ts as test cases that every backend runs.
 *
 * A backend joins with one `Subject` (suite.test.ts). What it cannot do is listed there with the reason: `unsupported`
 * cases are skipped, `expectedFailure` cases are run and must fail, so that the list shrinks when a defect goes.
 */
import fc from 'fast-check';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type {
  Backend,
  BufferRange,
  Command,
  Device,
  DeviceBuffer,
  Driver,
  Kernel,
  KernelCode,
} from '../../backends/backend.js';
import { KernelBuilder } from '../../compiler/kernel/builder.js';
import type { KernelFunction } from '../../compiler/kernel/types.js';

export interface Subject {
  readonly name: string;
  readonly backend: Backend;
  driver(): Promise<Driver>;
  /** The first device; `options` of the subject's own (staging, say) are its business. */
  open(): Promise<Device>;
  /** The code with a mistake that the device's compiler must refuse. */
  broken(code: KernelCode): KernelCode;
  /** Why a case does not apply, by its name. */
  readonly unsupported?: Readonly<Record<string, string>>;
  /** Which defect makes a case fail for now, by its name. */
  readonly expectedFailure?: Readonly<Record<string, string>>;
}

interface Context {
  readonly subject: Subject;
  readonly device: Device;
}
type Case = (context: Context) => void | Promise<void>;

// --- kernels ---------------------------------------------------------------------------------------------------------

const invocations = (device: Device): number => Math.min(64, device.target.limits.workgroupInvocations);

/** y[i] = x[i] · factor + y[i] over i32, `factor` a scalar parameter. */
function multiplyAdd(device: Device, length: number, name = 'multiply_add'): KernelFunction {
  const k = new KernelBuilder();
  const [x, y] = [k.buffer('x', 'i32', length, 'read'), k.buffer('y', 'i32', length, 'readwrite')];
  const factor = k.scalar('factor', 'i32');
  const size = invocations(device);
  const groups = Math.ceil(length / size);
  const index = k.add(k.mulc(k.builtin('workgroup_id', 0, groups), size), k.builtin('local_id', 0, size));
  k.if(k.compare('lt', index, k.constant(length)), () => {
    k.store(y, index, k.add(k.mul(k.load(x, index), factor), k.load(y, index)));
  });
  return k.finish({ name, grid: [groups, 1, 1], workgroup: [size, 1, 1] });
}

/** Each workgroup of the grid counts itself at its linear id. */
function countGroups([x, y, z]: readonly [number, number, number]): KernelFunction {
  const k = new KernelBuilder();
  const out = k.buffer('out', 'i32', x * y * z, 'readwrite');
  const [i, j, l] = ([x, y, z] as const).map((count, dim) => k.builtin('workgroup_id', dim as 0 | 1 | 2, count));
  const index = k.add(k.mulc(k.add(k.mulc(l, y), j), x), i);
  k.store(out, index, k.addc(k.load(out, index), 1));
  return k.finish({ name: 'count_groups', grid: [x, y, z], workgroup: [1, 1, 1] });
}

/** The last of `count` buffers gets what the others weigh: word i is Σ (n + 1) · buffer n [i]. */
function weighBuffers(count: number, length: number): KernelFunction {
  const k = new KernelBuilder();
  const inputs = Array.from({ length: count - 1 }, (_, n) => k.buffer(`x${n}`, 'i32', length, 'read'));
  const out = k.buffer('out', 'i32', length, 'write');
  const index = k.builtin('workgroup_id', 0, length);
  const sum = inputs
    .map((input, n) => k.mul(k.load(input, index), k.constant(n + 1)))
    .reduce((total, term) => k.add(total, term));
  k.store(out, index, sum);
  return k.finish({ name: 'weigh_buffers', grid: [length, 1, 1], workgroup: [1, 1, 1] });
}

/** Keeps the device busy: workgroups that each run a linear congruential generator 50,000 times. */
function spin(steps: number): KernelFunction {
  const k = new KernelBuilder();
  const out = k.buffer('out', 'u32', 1, 'readwrite');
  const grid = Math.ceil(steps / 50_000);
  const start = k.convert(k.builtin('workgroup_id', 0, grid), 'u32');
  const [last] = k.for(0, 50_000, 1, [start], (_, [x]) => [
    k.add(k.mul(x, k.constant(1664525, 'u32')), k.constant(1013904223, 'u32')),
  ]);
  k.atomic('add', out, k.constant(0), last);
  return k.finish({ name: 'spin', grid: [grid, 1, 1], workgroup: [1, 1, 1] });
}

// --- helpers ---------------------------------------------------------------------------------------------------------

const whole = (buffer: DeviceBuffer): BufferRange => ({ buffer, offset: 0, bytes: buffer.bytes });
const part = (buffer: DeviceBuffer, offset: number, bytes: number): BufferRange => ({ buffer, offset, bytes });
const bytesOf = (view: ArrayBufferView): Uint8Array => new Uint8Array(view.buffer, view.byteOffset, view.byteLength);
const word = (value: number): Uint8Array => bytesOf(Int32Array.of(value));
const wait = (milliseconds: number): Promise<void> => new Promise((resolve) => setTimeout(resolve, milliseconds));

async function load({ subject, device }: Context, kernel: KernelFunction): Promise<Kernel> {
  const [loaded] = await device.loadKernels([subject.backend.render(kernel, device.target)]);
  return loaded;
}

async function run(device: Device, commands: readonly Command[]): Promise<void> {
  const list = await device.record(commands);
  await device.queue.submit({ list });
  list.release();
}

async function read(device: Device, buffer: DeviceBuffer): Promise<Uint8Array> {
  const into = new Uint8Array(buffer.bytes);
  await device.queue.submit({ reads: [{ from: whole(buffer), into }] });
  return into;
}

const coded = (code: string, message = /./) =>
  expect.objectContaining({ code, message: expect.stringMatching(message) });

/** A dispatch of `multiplyAdd` on whole buffers. */
const step = (kernel: Kernel, { grid }: KernelFunction, x: DeviceBuffer, y: DeviceBuffer, factor: number): Command => ({
  kind: 'dispatch',
  kernel,
  grid,
  bindings: [whole(x), whole(y)],
  scalars: word(factor),
});

// --- cases -----------------------------------------------------------------------------------------------------------

const memoryCases: Readonly<Record<string, Case>> = {
  'allocates zeroed buffers of any size and accounts for them': async ({ device }) => {
    const before = device.memory().allocatedBytes;
    for (const size of [1, 3, 4, 65_537, 40_000_001]) {
      // Fill and free, so that a second allocation would see old bytes if any.
      const first = device.allocate(size);
      await run(device, [{ kind: 'fill', to: whole(first), byte: 0xab }]);
      expect((await read(device, first)).every((byte) => byte === 0xab)).toBe(true);
      first.free();
      first.free();
      const buffer = device.allocate(size);
      expect(device.memory().allocatedBytes).toBeGreaterThanOrEqual(before + size);
      expect((await read(device, buffer)).every((byte) => byte === 0)).toBe(true);
      buffer.free();
    }
    await device.queue.submit({});
    expect(device.memory().allocatedBytes).toBe(before);
  },

  'allocates nothing as well': async ({ device }) => {
    const empty = device.allocate(0);
    expect(await read(device, empty)).toEqual(new Uint8Array(0));
    empty.free();
  },

  'refuses what does not fit, with both numbers, and what is no size': ({ device }) => {
    const before = device.memory().allocatedBytes;
    const most = Math.min(device.memory().totalBytes, device.target.limits.bufferBytes);
    const refused = coded('E_OUT_OF_MEMORY', new RegExp(`${most + 4} bytes.*at most \\d+ bytes`));
    expect(() => device.allocate(most + 4)).toThrow(refused);
    for (const bytes of [-1, 1.5, Number.NaN]) expect(() => device.allocate(bytes)).toThrow(coded('E_USAGE'));
    expect(device.memory().allocatedBytes).toBe(before);
  },

  'writes, copies, fills and reads any byte range and nothing else': async ({ device }) => {
    const SIZE = 1030;
    const range = fc
      .tuple(fc.nat(SIZE), fc.nat(300))
      .map(([offset, bytes]) => ({ offset, bytes: Math.min(bytes, SIZE - offset) }));
    const operation = fc.record({
      kind: fc.constantFrom('write', 'copy', 'fill'),
      a: fc.nat(1),
      b: fc.nat(1),
      range,
      from: fc.nat(SIZE),
      byte: fc.nat(255),
      aligned: fc.boolean(),
    });
    const property = fc.asyncProperty(fc.array(operation, { minLength: 1, maxLength: 12 }), async (operations) => {
      const buffers = [device.allocate(SIZE), device.allocate(SIZE)];
      const model = buffers.map((_, n) => Uint8Array.from({ length: SIZE }, (_, i) => (i * 7 + n * 13 + 1) & 255));
      const writes = buffers.map((buffer, n) => ({ to: whole(buffer), data: model[n].slice() }));
      await device.queue.submit({ writes });
      // Writes come before the list of their submission, so each write starts a new one.
      let commands: Command[] = [];
      const flush = async (): Promise<void> => {
        await run(device, commands);
        commands = [];
      };
      for (const { kind, a, b, range: odd, from, byte, aligned } of operations) {
        const even = { offset: odd.offset & ~3, bytes: Math.min(odd.bytes & ~3, SIZE - (odd.offset & ~3)) };
        const { offset, bytes } = aligned ? even : odd;
        const to = part(buffers[a], offset, bytes);
        if (kind === 'fill') {
          commands.push({ kind, to, byte }, { kind: 'barrier' });
          model[a].fill(byte, offset, offset + bytes);
        } else if (kind === 'copy') {
          const source = Math.min(aligned ? from & ~3 : from, SIZE - bytes);
          if (a === b && source < offset + bytes && offset < source + bytes) continue;
          commands.push({ kind, from: part(buffers[b], source, bytes), to }, { kind: 'barrier' });
          model[a].set(model[b].slice(source, source + bytes), offset);
        } else {
          await flush();
          const data = Uint8Array.from({ length: bytes }, (_, i) => (byte + i * 3) & 255);
          const start = Math.max(offset - 1, 0);
          const into = new Uint8Array(Math.min(bytes + 2, SIZE - start));
          await device.queue.submit({
            writes: [{ to, data }],
            reads: [{ from: part(buffers[a], start, into.length), into }],
          });
          model[a].set(data, offset);
          expect(into).toEqual(model[a].slice(start, start + into.length));
        }
      }
      await flush();
      for (const [n, buffer] of buffers.entries()) expect(await read(device, buffer)).toEqual(model[n]);
      for (const buffer of buffers) buffer.free();
    });
    await fc.assert(property, { numRuns: 40 });
  },

  'moves more than staging or scratch memory holds': async ({ device }) => {
    const half = 35_000_003;
    const buffer = device.allocate(2 * half + 6);
    const data = new Uint8Array(half);
    for (let i = 0; i < half; i++) data[i] = (i * 31 + (i >> 12)) & 255;
    const list = await device.record([{ kind: 'copy', from: part(buffer, 1, half), to: part(buffer, half + 2, half) }]);
    const into = new Uint8Array(buffer.bytes);
    await device.queue.submit({
      list,
      writes: [{ to: part(buffer, 1, half), data }],
      reads: [{ from: whole(buffer), into }],
    });
    expect(into[0]).toBe(0);
    expect(Buffer.compare(into.subarray(1, half + 1), data)).toBe(0);
    expect(into[half + 1]).toBe(0);
    expect(Buffer.compare(into.subarray(half + 2, 2 * half + 2), data)).toBe(0);
    expect([...into.subarray(2 * half + 2)]).toEqual([0, 0, 0, 0]);
    list.release();
    buffer.free();
  },
};

const dispatchCases: Readonly<Record<string, Case>> = {
  'runs every workgroup of a grid once': async (context) => {
    const { device } = context;
    for (const grid of [
      [1, 1, 1],
      [7, 1, 1],
      [1, 5, 1],
      [1, 1, 3],
      [5, 4, 3],
      [65_535, 1, 1],
      [70_001, 1, 1],
      [2, 129, 65],
    ] as const) {
      if (grid.some((count, i) => count > device.target.limits.workgroupCount[i])) continue;
      const kernel = await load(context, countGroups(grid));
      const out = device.allocate(4 * grid[0] * grid[1] * grid[2]);
      await run(device, [{ kind: 'dispatch', kernel, grid, bindings: [whole(out)] }]);
      const counts = new Int32Array((await read(device, out)).buffer);
      expect(
        counts.every((count) => count === 1),
        grid.join('×'),
      ).toBe(true);
      out.free();
      kernel.release();
    }
  },

  'a grid without workgroups is no work': async (context) => {
    const { device } = context;
    const kernel = await load(context, countGroups([4, 1, 1]));
    const out = device.allocate(16);
    await run(device, [{ kind: 'dispatch', kernel, grid: [0, 1, 1], bindings: [whole(out)] }]);
    expect(await read(device, out)).toEqual(new Uint8Array(16));
    out.free();
  },

  'binds as many buffers as the target says': async (context) => {
    const { device } = context;
    const count = Math.min(64, device.target.limits.storageBuffers);
    const length = 5;
    const function_ = weighBuffers(count, length);
    const kernel = await load(context, function_);
    const align = device.target.limits.storageAlignment;
    const stride = Math.ceil((4 * length) / align) * align;
    const arena = device.allocate(count * stride);
    const ranges = Array.from({ length: count }, (_, n) => part(arena, n * stride, 4 * length));
    const value = (n: number, i: number): number => n * 100 + i;
    const list = await device.record([{ kind: 'dispatch', kernel, grid: function_.grid, bindings: ranges }]);
    const into = new Int32Array(length);
    await device.queue.submit({
      list,
      writes: ranges.map((to, n) => ({ to, data: bytesOf(Int32Array.from({ length }, (_, i) => value(n, i))) })),
      reads: [{ from: ranges[count - 1], into: bytesOf(into) }],
    });
    const sum = (i: number): number => ranges.slice(1).reduce((total, _, n) => total + (n + 1) * value(n, i), 0);
    expect([...into]).toEqual(Array.from({ length }, (_, i) => sum(i)));
    list.release();
    kernel.release();
    arena.free();
  },

  'binds ranges of an arena and leaves the bytes around alone': async (context) => {
    const { device } = context;
    const length = 1000;
    const align = device.target.limits.storageAlignment;
    const stride = Math.ceil((4 * length + align) / align) * align;
    const kernel = await load(context, multiplyAdd(device, length));
    const arena = device.allocate(align + 2 * stride);
    const [x, y] = [part(arena, align, 4 * length), part(arena, align + stride, 4 * length)];
    const data = Int32Array.from({ length }, (_, i) => i * 3 - 500);
    const dispatch = (factor: number): Command => ({
      kind: 'dispatch',
      kernel,
      grid: multiplyAdd(device, length).grid,
      scalars: word(factor),
      bindings: [x, y],
    });
    const list = await device.record([dispatch(3), { kind: 'barrier' }, dispatch(5)]);
    for (let replay = 0; replay < 3; replay++) {
      const into = new Uint8Array(arena.bytes);
      const expected = new Uint8Array(arena.bytes).fill(0x5a);
      expected.set(bytesOf(data), x.offset);
      const filled = expected.slice();
      filled.set(new Uint8Array(4 * length), y.offset);
      await device.queue.submit({
        list,
        writes: [{ to: whole(arena), data: filled }],
        reads: [{ from: whole(arena), into }],
      });
      expected.set(bytesOf(data.map((value) => value * 8)), y.offset);
      expect(Buffer.compare(into, expected)).toBe(0);
    }
    list.release();
    kernel.release();
    arena.free();
  },

  'barriers make what was written visible to what follows': async (context) => {
    const { device } = context;
    const length = 5000;
    const function_ = multiplyAdd(device, length);
    const kernel = await load(context, function_);
    const [a, b] = [device.allocate(4 * length), device.allocate(4 * length)];
    const commands: Command[] = [{ kind: 'fill', to: whole(b), byte: 0 }];
    // a += b, b += a, over and over: Fibonacci numbers, wrong as soon as one dispatch sees old values.
    for (let i = 0; i < 10; i++) {
      commands.push({ kind: 'barrier' }, step(kernel, function_, a, b, 1));
      commands.push({ kind: 'barrier' }, step(kernel, function_, b, a, 1));
    }
    const list = await device.record(commands);
    const into = new Int32Array(length);
    await device.queue.submit({
      list,
      writes: [{ to: whole(a), data: bytesOf(new Int32Array(length).fill(1)) }],
      reads: [{ from: whole(a), into: bytesOf(into) }],
    });
    expect(into.every((value) => value === 10946)).toBe(true); // Fibonacci number 21
    list.release();
    kernel.release();
    a.free();
    b.free();
  },

  'gives the same directly, recorded and replayed without waiting': async (context) => {
    const { device } = context;
    const function_ = multiplyAdd(device, 300);
    const kernel = await load(context, function_);
    const [x, y] = [device.allocate(1200), device.allocate(1200)];
    const data = bytesOf(Int32Array.from({ length: 300 }, (_, i) => i - 150));
    const commands = [step(kernel, function_, x, y, 2)];
    const start = {
      writes: [
        { to: whole(x), data },
        { to: whole(y), data: new Uint8Array(1200) },
      ],
    };
    const results: Uint8Array[] = [];
    await device.queue.submit(start);
    for (let i = 0; i < 4; i++) await run(device, commands);
    results.push(await read(device, y));
    const lists = await Promise.all(Array.from({ length: 4 }, () => device.record(commands)));
    void device.queue.submit(start);
    for (const list of lists) void device.queue.submit({ list });
    results.push(await read(device, y));
    void device.queue.submit(start);
    for (let i = 0; i < 4; i++) void device.queue.submit({ list: lists[0] });
    results.push(await read(device, y));
    const expected = bytesOf(Int32Array.from({ length: 300 }, (_, i) => 8 * (i - 150)));
    for (const result of results) expect(result).toEqual(expected);
    for (const list of lists) list.release();
    kernel.release();
    x.free();
    y.free();
  },

  'compiles many kernels at once and keeps their order': async (context) => {
    const { subject, device } = context;
    const codes = Array.from({ length: 12 }, (_, i) =>
      subject.backend.render(multiplyAdd(device, i + 1, `kernel_${i}`), device.target),
    );
    const kernels = await device.loadKernels([...codes, codes[3]]);
    expect(kernels.map((kernel) => kernel.name)).toEqual([...codes, codes[3]].map((code) => code.name));
    for (const kernel of kernels) kernel.release();
  },

  'names the kernel that is refused': async ({ subject, device }) => {
    const good = subject.backend.render(multiplyAdd(device, 8), device.target);
    const bad = { ...subject.broken(good), name: 'broken_7' };
    await expect(device.loadKernels([good, bad])).rejects.toThrow(coded('E_KERNEL', /broken_7/));
    expect(await device.loadKernels([good])).toHaveLength(1);
  },
};

const mistakeCases: Readonly<Record<string, Case>> = {
  'says what is wrong with a command, and goes on working': async (context) => {
    const { device } = context;
    const { limits } = device.target;
    const align = Math.max(limits.storageAlignment, 64);
    const function_ = multiplyAdd(device, 8);
    const kernel = await load(context, function_);
    const buffer = device.allocate(8 * align);
    const good = {
      kind: 'dispatch' as const,
      kernel,
      grid: function_.grid,
      scalars: word(1),
      bindings: [part(buffer, 0, 32), part(buffer, align, 32)],
    };
    const grid = [limits.workgroupCount[0] + 1, 1, 1] as const;
    const wrong: readonly (readonly [Command, RegExp])[] = [
      [{ ...good, grid }, new RegExp(`multiply_add.*at most ${limits.workgroupCount[0]}.*found ${grid[0]}`)],
      [{ ...good, bindings: [whole(buffer)] }, /multiply_add.*buffers.*expected 2, found 1/],
      [{ ...good, scalars: undefined }, /multiply_add.*scalar.*4 bytes.*0 bytes/],
      [
        { ...good, bindings: [part(buffer, 4, 32), part(buffer, 2 * align, 32)] },
        new RegExp(`multiple of ${limits.storageAlignment}`),
      ],
      [{ ...good, bindings: [part(buffer, 0, 32), part(buffer, 7 * align, 32 * align)] }, /outside its buffer/],
      [{ ...good, bindings: [part(buffer, 0, 32), part(buffer, 0, 32)] }, /overlap/],
      [{ kind: 'copy', from: part(buffer, 0, 32), to: part(buffer, 64, 31) }, /different sizes.*32 bytes.*31 bytes/],
      [{ kind: 'copy', from: part(buffer, 0, 32), to: part(buffer, 16, 32) }, /overlap/],
      [{ kind: 'copy', from: part(buffer, 8 * align - 4, 8), to: part(buffer, 0, 8) }, /copy source.*outside/],
      [{ kind: 'fill', to: part(buffer, -4, 8), byte: 0 }, /fill.*outside/],
      [{ kind: 'fill', to: whole(buffer), byte: 256 }, /expected a byte, found 256/],
    ];
    for (const [command, message] of wrong) {
      await expect(device.record([command]), String(message)).rejects.toThrow(coded('E_USAGE', message));
    }
    const short = new Uint8Array(8);
    const size = coded('E_USAGE', /32 bytes.*8 bytes/);
    const outside = coded('E_USAGE', /outside/);
    const { queue } = device;
    await expect(queue.submit({ writes: [{ to: part(buffer, 0, 32), data: short }] })).rejects.toThrow(size);
    await expect(queue.submit({ reads: [{ from: part(buffer, 0, 32), into: short }] })).rejects.toThrow(size);
    const end = part(buffer, buffer.bytes - 4, 8);
    await expect(queue.submit({ writes: [{ to: end, data: short }] })).rejects.toThrow(outside);
    await run(device, [good]);
    expect(await read(device, buffer)).toEqual(new Uint8Array(8 * align));
    buffer.free();
  },

  'refuses what was released or belongs to another device': async (context) => {
    const { subject, device } = context;
    const other = await subject.open();
    const function_ = multiplyAdd(device, 4);
    const kernel = await load(context, function_);
    const [a, b] = [device.allocate(16), device.allocate(16)];
    const list = await device.record([step(kernel, function_, a, b, 1)]);
    const usage = coded('E_USAGE');
    const foreign = other.allocate(16);
    await expect(device.record([step(kernel, function_, foreign, b, 1)])).rejects.toThrow(usage);
    await expect(device.queue.submit({ writes: [{ to: whole(foreign), data: new Uint8Array(16) }] })).rejects.toThrow(
      usage,
    );
    await expect(other.queue.submit({ list })).rejects.toThrow(usage);
    const [here, there] = [other.allocate(16), other.allocate(16)];
    await expect(other.record([step(kernel, function_, here, there, 1)])).rejects.toThrow(usage);
    await other.close();
    list.release();
    list.release();
    await expect(device.queue.submit({ list })).rejects.toThrow(usage);
    a.free();
    await expect(device.record([step(kernel, function_, a, b, 1)])).rejects.toThrow(usage);
    await expect(device.queue.submit({ reads: [{ from: whole(a), into: new Uint8Array(16) }] })).rejects.toThrow(usage);
    kernel.release();
    const c = device.allocate(16);
    await expect(device.record([step(kernel, function_, c, b, 1)])).rejects.toThrow(usage);
    b.free();
    c.free();
  },

  'keeps what a list holds': async (context) => {
    const { device } = context;
    const function_ = multiplyAdd(device, 4);
    const kernel = await load(context, function_);
    const [a, b, c] = [device.allocate(16), device.allocate(16), device.allocate(16)];
    const list = await device.record([
      { kind: 'fill', to: whole(a), byte: 1 },
      { kind: 'barrier' },
      step(kernel, function_, a, b, 2),
      { kind: 'barrier' },
      { kind: 'copy', from: whole(b), to: whole(c) },
    ]);
    a.free();
    b.free();
    kernel.release();
    for (let replay = 1; replay <= 2; replay++) {
      await device.queue.submit({ list });
      expect(await read(device, c)).toEqual(bytesOf(new Int32Array(4).fill(0x01010101 * 2 * replay)));
    }
    list.release();
    c.free();
  },
};

const queueCases: Readonly<Record<string, Case>> = {
  'runs a thousand submissions in flight in their order': async (context) => {
    const { device } = context;
    const function_ = multiplyAdd(device, 1);
    const kernel = await load(context, function_);
    const [x, y] = [device.allocate(4), device.allocate(4)];
    const list = await device.record([step(kernel, function_, x, y, 1)]);
    const results = Array.from({ length: 1000 }, () => new Int32Array(1));
    const order: number[] = [];
    const all = results.map(async (into, i) => {
      const writes = i % 2 === 0 ? [{ to: whole(x), data: word(i) }] : [];
      await device.queue.submit({ list, writes, reads: [{ from: whole(y), into: bytesOf(into) }] });
      order.push(i);
    });
    await Promise.all(all);
    let sum = 0;
    expect(results.map(([value]) => value)).toEqual(results.map((_, i) => (sum += i - (i % 2))));
    expect(order).toEqual(results.map((_, i) => i));
    list.release();
    kernel.release();
    x.free();
    y.free();
  },

  'leaves the event loop alone while the device works': async (context) => {
    const { device } = context;
    const work = spin(100_000_000);
    const kernel = await load(context, work);
    const out = device.allocate(4);
    const list = await device.record([{ kind: 'dispatch', kernel, grid: work.grid, bindings: [whole(out)] }]);
    await device.queue.submit({ writes: [{ to: whole(out), data: word(1) }] });
    let busy = true;
    const started = performance.now();
    const running = device.queue.submit({ list }).finally(() => {
      busy = false;
    });
    const delays: number[] = [];
    while (busy) {
      const at = performance.now();
      await wait(1);
      delays.push(performance.now() - at - 1);
    }
    await running;
    if (performance.now() - started > 100) expect(delays.length).toBeGreaterThan(5);
    // The median: other processes of a busy machine make single late ticks.
    delays.sort((p, q) => p - q);
    expect(delays[delays.length >> 1] ?? 0).toBeLessThan(20);
    list.release();
    kernel.release();
    out.free();
  },

  'answers an empty submission soon': async ({ device }) => {
    const times: number[] = [];
    for (let i = 0; i < 50; i++) {
      const started = performance.now();
      await device.queue.submit({});
      times.push(performance.now() - started);
    }
    times.sort((p, q) => p - q);
    expect(times[times.length >> 1]).toBeLessThan(20);
  },

  'rejects at once when aborted and goes on working': async (context) => {
    const { device } = context;
    const work = spin(30_000_000);
    const kernel = await load(context, work);
    const out = device.allocate(4);
    const list = await device.record([{ kind: 'dispatch', kernel, grid: work.grid, bindings: [whole(out)] }]);
    const controller = new AbortController();
    const { signal } = controller;
    const reason = new Error('enough');
    const into = new Uint8Array(4);
    const running = device.queue.submit({ list, reads: [{ from: whole(out), into }], signal });
    const waiting = device.queue.submit({ list, signal });
    let laterDone = false;
    const later = device.queue.submit({ list }).then(() => {
      laterDone = true;
    });
    controller.abort(reason);
    await expect(running).rejects.toBe(reason);
    await expect(waiting).rejects.toBe(reason);
    expect(laterDone).toBe(false);
    await expect(device.queue.submit({ list, signal })).rejects.toBe(reason);
    await later;
    expect(into).toEqual(new Uint8Array(4));
    expect((await read(device, out)).some((byte) => byte !== 0)).toBe(true);
    list.release();
    kernel.release();
    out.free();
  },

  'gives the time of each dispatch, if asked': async (context) => {
    const { device } = context;
    const function_ = multiplyAdd(device, 65_536);
    const kernel = await load(context, function_);
    const [x, y] = [device.allocate(4 * 65_536), device.allocate(4 * 65_536)];
    const dispatch = step(kernel, function_, x, y, 1);
    const list = await device.record([
      dispatch,
      { kind: 'barrier' },
      { kind: 'fill', to: part(x, 1, 7), byte: 1 },
      { kind: 'barrier' },
      dispatch,
    ]);
    const { dispatchMicroseconds: times } = await device.queue.submit({ list, profile: true });
    if (device.target.features.has('timestamps')) {
      expect(times).toHaveLength(2);
      expect(Math.max(...(times ?? []))).toBeGreaterThan(0);
    } else expect(times).toBeUndefined();
    expect((await device.queue.submit({ list })).dispatchMicroseconds).toBeUndefined();
    list.release();
    kernel.release();
    x.free();
    y.free();
  },
};

const lifeCases: Readonly<Record<string, Case>> = {
  'has a stable id and refuses unknown ones': async ({ subject, device }) => {
    const driver = await subject.driver();
    const [first] = await driver.enumerate();
    expect(first.id).toBe(device.info.id);
    expect(first.backend).toBe(subject.backend.name);
    expect(first).toEqual((await driver.enumerate())[0]);
    expect(subject.backend.describe(first)).toEqual(device.target);
    await expect(driver.open(`${subject.backend.name}:none`)).rejects.toThrow(coded('E_DEVICE_UNKNOWN'));
  },

  'closes with work in flight: it ends, later calls are refused': async ({ subject }) => {
    const device = await subject.open();
    const context = { subject, device };
    const work = spin(5_000_000);
    const kernel = await load(context, work);
    const out = device.allocate(4);
    const list = await device.record([{ kind: 'dispatch', kernel, grid: work.grid, bindings: [whole(out)] }]);
    const results = Array.from({ length: 5 }, () => new Uint8Array(4));
    const pending = results.map((into) => device.queue.submit({ list, reads: [{ from: whole(out), into }] }));
    const settled = Promise.allSettled(pending);
    await device.close();
    await device.close();
    expect((await settled).map(({ status }) => status)).toEqual(results.map(() => 'fulfilled'));
    expect(results.every((into) => into.some((byte) => byte !== 0))).toBe(true);
    const closed = coded('E_DEVICE_CLOSED');
    expect(device.memory().allocatedBytes).toBe(0);
    expect(() => device.allocate(4)).toThrow(closed);
    await expect(device.queue.submit({ list })).rejects.toThrow(closed);
    await expect(device.record([])).rejects.toThrow(closed);
    await expect(device.loadKernels([])).rejects.toThrow(closed);
    out.free();
    list.release();
    kernel.release();
  },
};

const sharedCases: Readonly<Record<string, Case>> = {
  'two open devices work at the same time and do not see each other': async ({ subject }) => {
    const devices = await Promise.all([subject.open(), subject.open()]);
    const results = await Promise.all(
      devices.map(async (device, n) => {
        const function_ = multiplyAdd(device, 1000);
        const kernel = await load({ subject, device }, function_);
        const [x, y] = [device.allocate(4000), device.allocate(4000)];
        const list = await device.record([step(kernel, function_, x, y, n + 1)]);
        await device.queue.submit({ writes: [{ to: whole(x), data: bytesOf(new Int32Array(1000).fill(n + 3)) }] });
        await Promise.all(Array.from({ length: 20 }, () => device.queue.submit({ list })));
        return new Int32Array((await read(device, y)).buffer);
      }),
    );
    for (const [n, result] of results.entries()) expect(new Set(result)).toEqual(new Set([20 * (n + 1) * (n + 3)]));
    await Promise.all(devices.map((device) => device.close()));
  },
};

export const suiteCases: Readonly<Record<string, Case>> = {
  ...lifeCases,
  ...memoryCases,
  ...dispatchCases,
  ...mistakeCases,
  ...queueCases,
  ...sharedCases,
};

/** Fails if `test` passes. */
export async function mustFail(test: () => void | Promise<void>, reason: string): Promise<void> {
  try {
    await test();
  } catch {
    return;
  }
  throw new Error(`passes, though it is expected to fail (${reason}): take it off the list`);
}

/** Declares the cases of `subject` as tests. */
export function runSuite(subject: Subject): void {
  const { unsupported = {}, expectedFailure = {} } = subject;
  describe(subject.name, () => {
    let device: Device;
    beforeAll(async () => {
      device = await subject.open();
    });
    afterAll(async () => {
      await device?.close();
    });

    it('lists only cases that there are, each once', () => {
      const listed = [...Object.keys(unsupported), ...Object.keys(expectedFailure)];
      expect(listed.filter((name) => !Object.hasOwn(suiteCases, name))).toEqual([]);
      expect(new Set(listed).size).toBe(listed.length);
    });

    for (const [name, test] of Object.entries(suiteCases)) {
      const body = () => test({ subject, device });
      if (Object.hasOwn(unsupported, name)) it.skip(`${name} (unsupported: ${unsupported[name]})`, body);
      else if (Object.hasOwn(expectedFailure, name)) {
        it(`${name} (expected failure: ${expectedFailure[name]})`, () => mustFail(body, expectedFailure[name]));
      } else it(name, async () => body());
    }
  });
}
