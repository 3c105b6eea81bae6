/**
 * Finds, ranks, opens and shares devices. A driver is loaded when it is first asked for; a device is opened once per
 * process, however many sessions use it, and closed when the last of them lets go.
 */
import type { Backend, BackendName, Device, DeviceInfo, Driver, DriverOptions } from '../backends/backend.js';
import { backends } from '../backends/registry.js';
import { TuttiError } from '../compiler/error.js';
import type { DeviceList, DevicesOptions } from './api.js';
import { defaultDevice, isNode, log, threads } from './environment.js';
import type { ProgramCache } from './program_cache.js';

/** Names of the backends, best first. In a browser there are no native drivers. */
const candidates = async (): Promise<readonly BackendName[]> => Object.keys(await backends(isNode()));

/** A share in an open device. */
export interface DeviceHandle {
  readonly backend: Backend;
  readonly device: Device;
  /** Where programs for it are kept from one process to the next; a device of the caller's may have none. */
  readonly programs?: ProgramCache | undefined;
  /** Lets go; the last one to do so closes the device. Calling it again does nothing. */
  release(): Promise<void>;
}

interface Loaded {
  readonly backend: Backend;
  readonly driver: Driver;
}

interface Slot {
  readonly device: Promise<{ readonly backend: Backend; readonly device: Device }>;
  references: number;
}

const drivers = new Map<BackendName, Promise<Loaded>>();
const slots = new Map<string, Slot>();
/** Devices that are being closed: opening one again waits for it. */
const closing = new Map<string, Promise<void>>();

/** Every device of this machine, best first, and why backends are missing. Opens no device. */
export async function devices(options: DevicesOptions = {}): Promise<DeviceList> {
  const found: DeviceInfo[] = [];
  const missing: { backend: BackendName; reason: string }[] = [];
  const names = await candidates();
  for (const name of options.backends === undefined ? names : new Set([...names, ...options.backends])) {
    if (options.backends !== undefined && !options.backends.includes(name)) continue;
    const result = await devicesOf(name);
    if ('reason' in result) missing.push({ backend: name, ...result });
    else found.push(...result.devices);
  }
  return { devices: found.sort(byRank(names)), missing };
}

/**
 * Opens a device by id, by the name of its backend or as `auto` (default: TUTTI_DEVICE, else `auto`), or takes what the
 * caller holds: a handle, or a WebGPU `GPUDevice`.
 * @throws TuttiError E_DEVICE_UNKNOWN with what there is and why the rest is missing; E_DEVICE
 */
export async function openDevice(selector: string | object = defaultDevice()): Promise<DeviceHandle> {
  if (typeof selector !== 'string') return isHandle(selector) ? borrow(selector) : adopt(selector);
  const info = selector === 'auto' ? await bestDevice() : await findDevice(selector);
  if (info === undefined) throw await unknownDevice(selector);
  while (closing.has(info.id)) await closing.get(info.id);
  // Counted before anything is awaited, so that nobody closes it under us.
  const slot = slots.get(info.id) ?? open(info);
  slot.references++;
  const letGo = async (): Promise<void> => {
    if (--slot.references > 0) return;
    if (slots.get(info.id) === slot) slots.delete(info.id);
    const closed = slot.device.then(({ device }) => device.close()).finally(() => closing.delete(info.id));
    closing.set(info.id, closed);
    await closed;
  };
  const { backend, device } = await slot.device;
  const programs = isNode() ? (await import('./node.js')).programs() : undefined;
  return handleOf(backend, device, letGo, programs);
}

function handleOf(backend: Backend, device: Device, letGo: () => Promise<void>, programs?: ProgramCache): DeviceHandle {
  let released: Promise<void> | undefined;
  return {
    backend,
    device,
    programs,
    release() {
      released ??= letGo();
      return released;
    },
  };
}

function open(info: DeviceInfo): Slot {
  const forget = (): void => {
    if (slots.get(info.id) === slot) slots.delete(info.id);
  };
  const device = (async () => {
    const { backend, driver } = await load(info.backend);
    log('info', () => `opening ${info.id} (${info.name})`);
    const device = await driver.open(info.id);
    // Whoever opens it next gets a fresh one; the sessions of the lost one hold on to their handle.
    device.lost.then(forget, forget);
    return { backend, device };
  })();
  const slot: Slot = { device, references: 0 };
  slots.set(info.id, slot);
  device.catch(forget);
  return slot;
}

const isHandle = (selector: object): selector is DeviceHandle => 'backend' in selector && 'device' in selector;

/** An open device of the caller, who closes it. */
const borrow = ({ backend, device, programs }: DeviceHandle): DeviceHandle =>
  handleOf(backend, device, async () => undefined, programs);

/** A WebGPU device of the caller: neither shared nor found by others. */
async function adopt(gpuDevice: object): Promise<DeviceHandle> {
  const factory = (await backends(isNode())).webgpu;
  if (factory === undefined) throw new TuttiError('E_DEVICE_UNKNOWN', 'this build has no webgpu backend');
  const backend = await factory();
  const driver = await backend.driver({ ...(await driverOptions()), gpuDevice });
  const [info] = await driver.enumerate();
  if (info === undefined) throw new TuttiError('E_DEVICE', 'the given object is not a GPUDevice that can be used');
  const device = await driver.open(info.id);
  return handleOf(backend, device, () => device.close());
}

function load(name: BackendName): Promise<Loaded> {
  let loaded = drivers.get(name);
  if (loaded === undefined) {
    loaded = (async () => {
      const factory = (await backends(isNode()))[name];
      if (factory === undefined) throw new Error('not part of this build');
      const backend = await factory();
      return { backend, driver: await backend.driver(await driverOptions()) };
    })();
    drivers.set(name, loaded);
    loaded.catch(() => drivers.delete(name));
  }
  return loaded;
}

async function driverOptions(): Promise<DriverOptions> {
  if (!isNode()) return { log };
  const { cacheDirectory } = await import('./node.js');
  return { cacheDirectory: cacheDirectory(), threads: threads(), log };
}

async function devicesOf(name: BackendName): Promise<{ devices: readonly DeviceInfo[] } | { reason: string }> {
  try {
    const { driver } = await load(name);
    const probe = await driver.probe();
    if (!probe.ok) return { reason: probe.reason };
    const found = await driver.enumerate();
    return found.length > 0 ? { devices: found } : { reason: 'the driver offers no device' };
  } catch (error) {
    return { reason: error instanceof Error ? error.message : String(error) };
  }
}

/** 0 for GPUs, 1 for the CPU, 2 for GPU APIs executed on a CPU, 3 for the virtual devices of the tests. */
function classOf({ backend, software, virtual }: DeviceInfo): number {
  if (virtual) return 3;
  if (backend === 'cpu') return 1;
  return software ? 2 : 0;
}

/** @param names Of the backends, best first. */
const byRank =
  (names: readonly BackendName[]) =>
  (a: DeviceInfo, b: DeviceInfo): number =>
    classOf(a) - classOf(b) ||
    names.indexOf(a.backend) - names.indexOf(b.backend) ||
    b.memoryBytes - a.memoryBytes ||
    (a.id < b.id ? -1 : 1);

/** Asks one backend after the other and stops as soon as no better device can follow: drivers are slow to load. */
async function bestDevice(): Promise<DeviceInfo | undefined> {
  const gpuPossible = !isNode() || (await import('./node.js')).mayHaveGpu();
  const names = await candidates();
  const order = gpuPossible ? names : [...names].sort((a, b) => Number(b === 'cpu') - Number(a === 'cpu'));
  const enough = gpuPossible ? 0 : 1;
  const found: DeviceInfo[] = [];
  for (const name of order) {
    const result = await devicesOf(name);
    if (!('devices' in result)) continue;
    found.push(...result.devices);
    if (result.devices.some((info) => classOf(info) <= enough)) break;
  }
  return found.sort(byRank(names))[0];
}

async function findDevice(selector: string): Promise<DeviceInfo | undefined> {
  const [prefix] = selector.split(':', 1);
  const names = await candidates();
  const name = names.find((candidate) => candidate === prefix);
  if (name === undefined) return undefined;
  const result = await devicesOf(name);
  if (!('devices' in result)) return undefined;
  const sorted = [...result.devices].sort(byRank(names));
  return sorted.find(({ id }) => id === selector) ?? (selector === name ? sorted[0] : undefined);
}

async function unknownDevice(selector: string): Promise<TuttiError> {
  const { devices: present, missing } = await devices();
  const absent = missing.map(({ backend, reason }) => `${backend}: ${reason}`);
  return new TuttiError('E_DEVICE_UNKNOWN', selector === 'auto' ? 'no device can be used' : 'no such device', {
    subject: selector,
    expected: present.length > 0 ? `one of ${present.map(({ id }) => id).join(', ')}` : 'a device',
    ...(present.length === 0 ? { found: 'none' } : {}),
    ...(absent.length > 0 ? { remedy: `Missing: ${absent.join('; ')}` } : {}),
  });
}
