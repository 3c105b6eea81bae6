// Finding, ranking and sharing devices, with drivers made up for the purpose.
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { Backend, BackendName, DeviceInfo } from '../../backends/backend.js';
import type { TuttiError } from '../../compiler/error.js';
import { devices, openDevice } from '../../runtime/device.js';
import { InterpreterDevice, interpreterBackend } from '../support/interpreter_device.js';

const { registry, machine } = vi.hoisted(() => ({
  registry: {} as Record<string, () => Promise<unknown>>,
  machine: { gpu: true },
}));
vi.mock('../../runtime/node.js', async (original) => ({
  ...(await original<typeof import('../../runtime/node.js')>()),
  mayHaveGpu: () => machine.gpu,
}));
/** As the registry orders them. */
const order = ['cuda', 'metal', 'vulkan', 'webgpu', 'cpu'];
vi.mock('../../backends/registry.js', () => ({
  backends: async () =>
    Object.fromEntries(Object.entries(registry).sort(([a], [b]) => order.indexOf(a) - order.indexOf(b))),
}));

interface Made {
  readonly opened: { id: string; device: InterpreterDevice; closed: number }[];
  loads: number;
}

const info = (id: string, more: Partial<DeviceInfo> = {}): DeviceInfo => ({
  id,
  backend: id.split(':')[0] as BackendName,
  name: id,
  driver: 'made up',
  virtual: false,
  software: false,
  memoryBytes: 1,
  features: [],
  limits: {},
  ...more,
});

function backend(name: BackendName, found: readonly DeviceInfo[] | { reason: string }): Made {
  const made: Made = { opened: [], loads: 0 };
  registry[name] = async () => {
    made.loads++;
    const ok = !('reason' in found);
    return {
      ...interpreterBackend(),
      name,
      driver: async () => ({
        name,
        probe: async () => (ok ? { ok: true } : { ok: false, reason: found.reason }),
        enumerate: async () => (ok ? found : []),
        open: async (id: string) => {
          await new Promise((resolve) => setTimeout(resolve, 2));
          const device = new InterpreterDevice();
          const entry = { id, device, closed: 0 };
          const close = device.close.bind(device);
          device.close = async () => {
            entry.closed++;
            await new Promise((resolve) => setTimeout(resolve, 2));
            await close();
          };
          made.opened.push(entry);
          return device;
        },
      }),
    } satisfies Backend;
  };
  return made;
}

let module: typeof import('../../runtime/device.js');
beforeEach(async () => {
  vi.resetModules();
  module = await import('../../runtime/device.js');
});
afterEach(() => {
  for (const name of Object.keys(registry)) delete registry[name];
  vi.unstubAllEnvs();
  machine.gpu = true;
});

const failure = async (promise: Promise<unknown>): Promise<TuttiError> => {
  const error = await promise.then(
    () => undefined,
    (reason: unknown) => reason as TuttiError,
  );
  expect(error?.name).toBe('TuttiError');
  return error as TuttiError;
};

describe('devices', () => {
  it('lists the best first, and says why backends are missing', async () => {
    backend('cpu', [info('cpu')]);
    backend('vulkan', [
      info('vulkan:soft', { software: true }),
      info('vulkan:a'),
      info('vulkan:b', { memoryBytes: 2 }),
    ]);
    backend('webgpu', { reason: 'no adapter' });
    backend('metal', [info('metal:test', { virtual: true })]);
    registry.cuda = () => Promise.reject(new Error('broken installation'));
    const list = await module.devices();
    expect(list.devices.map(({ id }) => id)).toEqual(['vulkan:b', 'vulkan:a', 'cpu', 'vulkan:soft', 'metal:test']);
    expect(list.missing).toEqual([
      { backend: 'cuda', reason: 'broken installation' },
      { backend: 'webgpu', reason: 'no adapter' },
    ]);
  });

  it('asks only the backends wanted, and names those that are not built', async () => {
    const cpu = backend('cpu', [info('cpu')]);
    const vulkan = backend('vulkan', [info('vulkan:a')]);
    const list = await module.devices({ backends: ['cpu', 'cuda'] });
    expect(list.devices.map(({ id }) => id)).toEqual(['cpu']);
    expect(list.missing).toEqual([{ backend: 'cuda', reason: 'not part of this build' }]);
    expect([cpu.loads, vulkan.loads]).toEqual([1, 0]);
  });
});

describe('openDevice', () => {
  it('takes the best for auto: a GPU, else the CPU, else software; never a virtual one before those', async () => {
    const vulkan = backend('vulkan', [info('vulkan:soft', { software: true }), info('vulkan:gpu')]);
    const cpu = backend('cpu', [info('cpu')]);
    await module.openDevice('auto');
    expect(vulkan.opened[0].id).toBe('vulkan:gpu');
    expect(cpu.loads).toBe(0);

    vi.resetModules();
    module = await import('../../runtime/device.js');
    backend('vulkan', [info('vulkan:soft', { software: true })]);
    const second = backend('cpu', [info('cpu')]);
    await module.openDevice();
    expect(second.opened[0].id).toBe('cpu');

    vi.resetModules();
    module = await import('../../runtime/device.js');
    const software = backend('vulkan', [info('vulkan:soft', { software: true })]);
    backend('metal', [info('metal:test', { virtual: true })]);
    backend('cpu', { reason: 'no compiler' });
    await module.openDevice();
    expect(software.opened[0].id).toBe('vulkan:soft');
  });

  it('loads no GPU driver for auto where there is no GPU, unless nothing else can run', async () => {
    machine.gpu = false;
    const vulkan = backend('vulkan', [info('vulkan:soft', { software: true })]);
    const cpu = backend('cpu', [info('cpu')]);
    await module.openDevice('auto');
    expect([cpu.opened.length, vulkan.loads]).toEqual([1, 0]);

    vi.resetModules();
    module = await import('../../runtime/device.js');
    backend('cpu', { reason: 'no compiler' });
    await module.openDevice('auto');
    expect(vulkan.opened).toHaveLength(1);
  });

  it('obeys TUTTI_DEVICE, ids and names of backends', async () => {
    const vulkan = backend('vulkan', [info('vulkan:soft', { software: true }), info('vulkan:gpu')]);
    const cpu = backend('cpu', [info('cpu')]);
    vi.stubEnv('TUTTI_DEVICE', 'cpu');
    await module.openDevice();
    expect(cpu.opened).toHaveLength(1);
    await module.openDevice('vulkan:soft');
    await module.openDevice('vulkan');
    expect(vulkan.opened.map(({ id }) => id)).toEqual(['vulkan:soft', 'vulkan:gpu']);
  });

  it('says what there is when there is no such device', async () => {
    backend('cpu', [info('cpu')]);
    backend('vulkan', { reason: 'libvulkan.so.1 not found' });
    for (const selector of ['vulkan', 'vulkan:7', 'gpu', 'cpu:1']) {
      const error = await failure(module.openDevice(selector));
      expect(error.code).toBe('E_DEVICE_UNKNOWN');
      expect(error.message).toMatch(/one of cpu\..*vulkan: libvulkan\.so\.1 not found/);
    }
  });

  it('opens a device once and closes it with the last share', async () => {
    const cpu = backend('cpu', [info('cpu')]);
    const handles = await Promise.all([module.openDevice('cpu'), module.openDevice('cpu'), module.openDevice('cpu')]);
    expect(cpu.opened).toHaveLength(1);
    await handles[0].release();
    await handles[0].release();
    await handles[1].release();
    expect(cpu.opened[0].closed).toBe(0);
    // A new share that comes while the last one is let go gets a device that is open.
    const closing = handles[2].release();
    const next = await module.openDevice('cpu');
    await closing;
    expect(cpu.opened.map(({ closed }) => closed)).toEqual([1, 0]);
    expect(() => next.device.allocate(16)).not.toThrow();
    await next.release();
    expect(cpu.opened.map(({ closed }) => closed)).toEqual([1, 1]);
  });

  it('opens anew after a loss', async () => {
    const cpu = backend('cpu', [info('cpu')]);
    const first = await module.openDevice('cpu');
    cpu.opened[0].device.lose('gone');
    await first.device.lost;
    const second = await module.openDevice('cpu');
    expect(second.device).not.toBe(first.device);
    await first.release();
    expect(() => second.device.allocate(16)).not.toThrow();
  });

  it('leaves devices of the caller to the caller', async () => {
    const device = new InterpreterDevice();
    const handle = await openDevice({ backend: interpreterBackend(), device, release: () => device.close() });
    await handle.release();
    expect(() => device.allocate(16)).not.toThrow();
    expect(devices).toBeTypeOf('function');
  });
});
