// Sessions over the interpreter device with plans made by hand: inputs, specialisations, memory, abort, loss.
import { afterEach, describe, expect, it, vi } from 'vitest';
import type { PlanOptions } from '../../compiler/compile.js';
import { GraphBuilder } from '../../compiler/graph/builder.js';
import { dimName } from '../../compiler/graph/dims.js';
import type { ConstantData, Graph } from '../../compiler/graph/types.js';
import type { Target } from '../../compiler/kernel/target.js';
import { compile } from '../../runtime/model.js';
import { Session } from '../../runtime/session.js';
import { Tensor } from '../../runtime/tensor.js';
import { type InterpreterDevice, type InterpreterOptions, interpreterDevice } from '../support/interpreter_device.js';
import { constantOf, scalePlan, scaleReference } from '../support/plans.js';

const weights = Float32Array.of(0.5, -1, 2, 3);
const weightsData = constantOf({ dtype: 'f32', shape: [4], data: weights });
const label = constantOf({ dtype: 'string', shape: [2], data: ['left', 'right'] });
const planned: { shapes: PlanOptions['shapes']; weights: ConstantData }[] = [];

vi.mock('../../compiler/compile.js', () => ({
  async planPaced(graph: Graph, target: Target, options: PlanOptions, breathe: () => Promise<void>) {
    await breathe();
    const shapes = options.shapes as Record<string, readonly number[]>;
    // As the compiler does when it packs weights: equal content, another object for each plan.
    const [original] = graph.constants.values();
    const data: ConstantData = { ...original, load: () => ({ ...original.load(), data: weights.slice() }) };
    planned.push({ shapes, weights: data });
    return scalePlan(shapes.x[0], data, label, target);
  },
}));

function scaleGraph(rows: number | string): Graph {
  const b = new GraphBuilder('scale');
  const x = b.input('x', 'f32', [typeof rows === 'string' ? dimName(rows) : rows, 4]);
  b.constant(weightsData, 'w');
  b.output('z', b.value(x.type, 'z'));
  b.output('label', b.value({ dtype: 'string', shape: [2] }, 'label'));
  b.output('nothing', b.value({ dtype: 'i64', shape: [0, 3] }, 'nothing'));
  return b.finish();
}

const open: { close(): Promise<void> }[] = [];
async function create(rows: number | string, options: { cacheSize?: number; device?: InterpreterOptions } = {}) {
  const handle = interpreterDevice(options.device);
  const session = await Session.create(scaleGraph(rows), { device: handle, cacheSize: options.cacheSize });
  open.push(session);
  return { session, device: handle.device as InterpreterDevice };
}
const ramp = (rows: number, factor = 1) => Float32Array.from({ length: rows * 4 }, (_, i) => (i - 3) * factor);

afterEach(async () => {
  for (const session of open.splice(0)) await session.close();
  planned.length = 0;
});

describe('run', () => {
  it('computes, and gives constants and empty outputs', async () => {
    const { session } = await create(2);
    const outputs = await session.run({ x: Tensor.from(ramp(2), [2, 4]) });
    expect(outputs.z.data).toEqual(scaleReference(ramp(2), weights));
    expect(outputs.z.dims).toEqual([2, 4]);
    expect(outputs.label.data).toEqual(['left', 'right']);
    expect(outputs.nothing.dims).toEqual([0, 3]);
  });

  it('gives copies of constants', async () => {
    const { session } = await create(1);
    const first = await session.run({ x: ramp(1) });
    (first.label.data as string[])[0] = 'changed';
    expect((await session.run({ x: ramp(1) })).label.data).toEqual(['left', 'right']);
  });

  it('reads only the outputs asked for, and asks no device for what is known', async () => {
    const { session, device } = await create(2);
    const before = device.counts.submissions;
    expect(Object.keys(await session.run({ x: ramp(2) }, { outputs: ['label', 'nothing'] }))).toEqual([
      'label',
      'nothing',
    ]);
    expect(device.counts.submissions).toBe(before);
    await session.run({ x: ramp(2) });
    expect(device.counts.submissions).toBe(before + 1);
  });

  it('runs at shapes without elements', async () => {
    const { session } = await create('n');
    expect((await session.run({ x: Tensor.from(new Float32Array(), [0, 4]) })).z.dims).toEqual([0, 4]);
  });

  it('takes plain arrays for static shapes or one open dim', async () => {
    const { session } = await create('n');
    expect((await session.run({ x: ramp(3) })).z.dims).toEqual([3, 4]);
    expect((await session.run({ x: [1, 2, 3, 4] })).z.data).toEqual(
      scaleReference(Float32Array.of(1, 2, 3, 4), weights),
    );
  });

  it('keeps overlapping runs apart', async () => {
    const { session } = await create('n');
    const runs = Array.from({ length: 20 }, (_, i) => session.run({ x: ramp(1 + (i % 3), i) }));
    for (const [i, { z }] of (await Promise.all(runs)).entries()) {
      expect(z.data).toEqual(scaleReference(ramp(1 + (i % 3), i), weights));
    }
  });

  it('tells the time of dispatches', async () => {
    const { session } = await create(2);
    let kernels: string[] = [];
    await session.run(
      { x: ramp(2) },
      {
        profile: ({ dispatches }) => {
          kernels = dispatches.map(({ kernel, sources, microseconds }) => {
            expect(microseconds).toBeGreaterThanOrEqual(0);
            return `${kernel}:${sources[0]}`;
          });
        },
      },
    );
    expect(kernels).toEqual(['scale_8_4:First', 'scale_8_4:Second']);
  });
});

describe('inputs', () => {
  const cases: readonly [string, Record<string, unknown>, RegExp][] = [
    ['unknown names', { x: ramp(2), y: ramp(2) }, /^y: the model has no such input; expected one of x/],
    ['missing ones', {}, /^x: input is missing; expected float32 of shape \[2, 4\]/],
    [
      'wrong types',
      { x: Tensor.from(new Int32Array(8), [2, 4]) },
      /^x: .*type; expected float32, found int32\. Convert/,
    ],
    ['wrong arrays', { x: new Float64Array(8) }, /^x: .*expected Float32Array, found Float64Array/],
    ['wrong ranks', { x: Tensor.from(ramp(2), [8]) }, /^x: .*rank; expected 2 dims.*found 1 dims.*Reshape/],
    ['wrong sizes', { x: Tensor.from(ramp(3), [3, 4]) }, /^x: .*axis 0; expected 2 in shape \[2, 4\], found 3/],
    ['wrong lengths', { x: ramp(3) }, /^x: .*expected 8 elements, found 12/],
    ['no data at all', { x: 5 }, /^x: input is neither/],
  ];
  for (const [what, feeds, pattern] of cases) {
    it(`refuses ${what}`, async () => {
      const { session } = await create(2);
      const run = session.run(feeds as never);
      await expect(run).rejects.toMatchObject({ code: 'E_INPUT' });
      await expect(run).rejects.toThrow(pattern);
      expect((await session.run({ x: ramp(2) })).z.data).toEqual(scaleReference(ramp(2), weights));
    });
  }

  it('refuses unknown outputs, options and sizes', async () => {
    const { session } = await create('n');
    await expect(session.run({ x: ramp(1) }, { outputs: ['q'] })).rejects.toThrow(/^q: .*one of z, label, nothing/);
    const graph = scaleGraph('n');
    const device = interpreterDevice();
    await expect(Session.create(graph, { device, cacheSize: 0 })).rejects.toMatchObject({ code: 'E_USAGE' });
    await expect(Session.create(graph, { device, dims: { m: 2 } })).rejects.toThrow(/^m: .*one of n/);
    await expect(Session.create(graph, { device, shapes: { q: [2] } })).rejects.toThrow(/^q: .*one of x/);
    await expect(Session.create(graph, { device, dims: { n: 2 }, shapes: { x: [3, 4] } })).rejects.toThrow(/two sizes/);
    await expect(Session.create(graph, { device, dims: { n: 2.5 } })).rejects.toMatchObject({ code: 'E_INPUT' });
  });

  it('keeps shapes that compile or create fixed', async () => {
    const device = interpreterDevice();
    const model = await compile(scaleGraph('n'), { dims: { n: 3 } });
    expect(model.inputs[0].shape).toEqual([3, 4]);
    expect(model.dims.size).toBe(0);
    await using session = await Session.create(model, { device });
    expect(planned).toHaveLength(1);
    await expect(session.run({ x: ramp(2) })).rejects.toMatchObject({ code: 'E_INPUT' });
    await expect(session.run({ x: Tensor.from(ramp(2), [2, 4]) })).rejects.toThrow(/two sizes/);
    expect((await session.run({ x: ramp(3) })).z.dims).toEqual([3, 4]);
    await using other = await Session.create(await compile(scaleGraph('n')), { device, shapes: { x: [5, 4] } });
    expect((await other.run({ x: ramp(5) })).z.dims).toEqual([5, 4]);
  });
});

describe('specialisations', () => {
  it('compiles static models at once and others at the first run of each shape', async () => {
    await create(2);
    expect(planned).toHaveLength(1);
    planned.length = 0;
    const { session } = await create('n');
    expect(planned).toHaveLength(0);
    await Promise.all([session.run({ x: ramp(2) }), session.run({ x: ramp(2) }), session.run({ x: ramp(3) })]);
    expect(planned.map(({ shapes }) => shapes?.x)).toEqual([
      [2, 4],
      [3, 4],
    ]);
    await session.run({ x: ramp(3) });
    expect(planned).toHaveLength(2);
    expect(session.report().specialisations.map(({ shapes }) => shapes.x)).toEqual([
      [2, 4],
      [3, 4],
    ]);
  });

  it('shares constants, and gives up the least recently used', async () => {
    const { session, device } = await create('n', { cacheSize: 2 });
    await session.run({ x: ramp(1) });
    const { constantBytes } = session.memory;
    expect(constantBytes).toBe(16);
    await session.run({ x: ramp(2) });
    expect(session.memory.constantBytes).toBe(constantBytes);
    await session.run({ x: ramp(1) });
    await session.run({ x: ramp(3) });
    expect(session.report().specialisations.map(({ shapes }) => shapes.x[0])).toEqual([1, 3]);
    expect(device.memory().allocatedBytes).toBe(16 + 4 * 256);
    expect(device.counts).toMatchObject({ kernels: 2, lists: 2, buffers: 3 });
    expect((await session.run({ x: ramp(2) })).z.data).toEqual(scaleReference(ramp(2), weights));
  });

  it('does not give up what is running', async () => {
    const { session } = await create('n', { cacheSize: 1 });
    const runs = [1, 2, 3, 4].map((rows) => session.run({ x: ramp(rows) }));
    for (const [i, { z }] of (await Promise.all(runs)).entries()) {
      expect(z.data).toEqual(scaleReference(ramp(i + 1), weights));
    }
    await new Promise((resolve) => setTimeout(resolve, 20));
    expect(session.report().specialisations).toHaveLength(1);
  });

  it('gives back everything when closed, and stays closed', async () => {
    const { session, device } = await create('n');
    const run = session.run({ x: ramp(2) });
    await run;
    const last = session.run({ x: ramp(2) });
    await session.close();
    expect((await last).z.dims).toEqual([2, 4]);
    expect(device.memory().allocatedBytes).toBe(0);
    expect(device.counts).toMatchObject({ kernels: 0, lists: 0, buffers: 0 });
    await expect(session.run({ x: ramp(2) })).rejects.toMatchObject({ code: 'E_DEVICE_CLOSED' });
  });

  it('leaves nothing behind after 10,000 runs', async () => {
    const { session, device } = await create('n', { cacheSize: 2 });
    const x = [1, 2, 3].map((rows) => ramp(rows));
    const signal = new AbortController().signal;
    const runs = async (count: number) => {
      for (let i = 0; i < count; i++) await session.run({ x: x[i % 500 === 0 ? 2 : i % 2] }, { signal });
    };
    const heap = () => {
      globalThis.gc?.();
      return process.memoryUsage().heapUsed;
    };
    await runs(1000);
    const before = { heap: heap(), ...device.memory() };
    await runs(10_000);
    expect(device.memory().allocatedBytes).toBe(before.allocatedBytes);
    expect(device.counts).toMatchObject({ kernels: 2, lists: 2, buffers: 3 });
    expect(heap() - before.heap).toBeLessThan(globalThis.gc ? 2 << 20 : 48 << 20);
  });
});

describe('memory', () => {
  it('says what it needs and has before it allocates', async () => {
    const { session, device } = await create('n', { device: { memoryBytes: 10_000 } });
    const run = session.run({ x: ramp(1000) });
    await expect(run).rejects.toMatchObject({ code: 'E_OUT_OF_MEMORY' });
    await expect(run).rejects.toThrow(/^scale: .*expected 32272 bytes free, found 10000 bytes free/);
    expect(device.memory().allocatedBytes).toBe(0);
    expect((await session.run({ x: ramp(2) })).z.dims).toEqual([2, 4]);
  });

  it('gives up idle shapes when memory is short', async () => {
    const { session } = await create('n', { device: { memoryBytes: 10_000 } });
    for (const rows of [200, 250, 280, 200]) expect((await session.run({ x: ramp(rows) })).z.dims).toEqual([rows, 4]);
    expect(session.report().specialisations).toHaveLength(1);
  });
});

describe('abort and loss', () => {
  const gate = () => {
    let open: () => void = () => undefined;
    const closed = new Promise<void>((resolve) => {
      open = resolve;
    });
    return { closed, open };
  };

  it('rejects at once when aborted, and goes on', async () => {
    const { session, device } = await create(2);
    const { closed, open } = gate();
    device.gate = closed;
    const controller = new AbortController();
    const run = session.run({ x: ramp(2) }, { signal: controller.signal });
    await new Promise((resolve) => setTimeout(resolve, 5));
    controller.abort();
    await expect(run).rejects.toMatchObject({ code: 'E_ABORTED' });
    open();
    expect((await session.run({ x: ramp(2) })).z.data).toEqual(scaleReference(ramp(2), weights));
  });

  it('gives the reason of the caller, and starts nothing for a signal that has fired', async () => {
    const { session, device } = await create(2);
    const before = device.counts.submissions;
    const reason = new Error('changed my mind');
    await expect(session.run({ x: ramp(2) }, { signal: AbortSignal.abort(reason) })).rejects.toBe(reason);
    await expect(session.run({ x: ramp(2) }, { signal: AbortSignal.abort() })).rejects.toMatchObject({
      code: 'E_ABORTED',
    });
    expect(device.counts.submissions).toBe(before);
  });

  it('can be aborted while it compiles', async () => {
    const { session } = await create('n');
    const controller = new AbortController();
    const run = session.run({ x: ramp(2) }, { signal: controller.signal });
    controller.abort();
    await expect(run).rejects.toMatchObject({ code: 'E_ABORTED' });
    expect((await session.run({ x: ramp(2) })).z.dims).toEqual([2, 4]);
  });

  it('frees an aborted shape only when the device is done with it', async () => {
    const { session, device } = await create('n');
    await session.run({ x: ramp(2) });
    const { closed, open } = gate();
    device.gate = closed;
    const run = session.run({ x: ramp(2) }, { signal: AbortSignal.timeout(10) });
    await expect(run).rejects.toThrow(/took too long/);
    const closing = session.close();
    await new Promise((resolve) => setTimeout(resolve, 10));
    expect(device.memory().allocatedBytes).toBeGreaterThan(0);
    open();
    await closing;
    expect(device.memory().allocatedBytes).toBe(0);
  });

  it('rejects runs under way and later ones when the device is lost', async () => {
    const { session, device } = await create(2);
    device.gate = new Promise(() => undefined);
    const run = session.run({ x: ramp(2) });
    await new Promise((resolve) => setTimeout(resolve, 5));
    device.lose('pulled out');
    await expect(run).rejects.toMatchObject({ code: 'E_DEVICE_LOST' });
    await expect(session.run({ x: ramp(2) })).rejects.toThrow(/found pulled out/);
  });
});
