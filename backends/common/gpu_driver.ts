/** A driver of the native add-on: finds devices through a library of the system's and opens them. */
import { join } from 'node:path';
import { TuttiError } from '../../compiler/error.js';
import type { Device, DeviceInfo, Driver, DriverOptions, Log } from '../backend.js';
import { isNativeAddon, loadNative, type NativeAddon } from '../native.js';
import { translated } from './errors.js';
import type { NativeFacts, NativeGpu } from './gpu_device.js';
import type { NativeDevice } from './resources.js';

/** What differs among them. */
export interface GpuApi {
  readonly name: 'cuda' | 'metal' | 'vulkan';
  /** As messages name it. */
  readonly label: string;
  /** The environment variable that names another library than the system's. */
  readonly library: string;
  /** The environment variable that, at `1`, makes transfers go as on a device whose memory the host does not see. */
  readonly staging?: string;
  /** Limits that native code does not know. */
  readonly limits?: Readonly<Record<string, number>>;
  /** Which of the features that native code found count; all if absent. */
  features?(found: readonly string[]): readonly string[];
  open(native: NativeGpu, device: NativeDevice, info: DeviceInfo, log: Log): Device | Promise<Device>;
}

const silent: Log = () => {};

export class GpuDriver implements Driver {
  readonly name: GpuApi['name'];
  readonly #api: GpuApi;
  /** Of this backend: caches of several do not mix. */
  readonly #cache: string;
  /** Read once, so that one driver speaks of the same devices for its whole life. */
  readonly #library: string;
  readonly #log: Log;

  constructor(api: GpuApi, { cacheDirectory, log = silent }: DriverOptions) {
    this.name = api.name;
    this.#api = api;
    this.#cache = cacheDirectory === undefined ? '' : join(cacheDirectory, api.name);
    this.#library = process.env[api.library] ?? '';
    this.#log = log;
  }

  async probe(): ReturnType<Driver['probe']> {
    const native = this.#native();
    const reason = 'reason' in native ? native.reason : await native.probe(this.#library);
    return reason === '' ? { ok: true } : { ok: false, reason };
  }

  async enumerate(): Promise<readonly DeviceInfo[]> {
    const native = this.#native();
    if ('reason' in native || !(await this.probe()).ok) return [];
    return (await native.enumerate(this.#library)).map((facts) => this.#info(facts));
  }

  async open(id: string): Promise<Device> {
    const native = this.#native();
    const probed = await this.probe();
    if ('reason' in native) throw new TuttiError('E_DEVICE', native.reason, { subject: id });
    if (!probed.ok) throw new TuttiError('E_DEVICE', probed.reason, { subject: id });
    const { label, staging } = this.#api;
    return translated(id, async () => {
      const facts = await native.enumerate(this.#library);
      const infos = facts.map((found) => this.#info(found));
      const at = infos.findIndex((info) => info.id === id);
      if (at < 0) {
        throw new TuttiError('E_DEVICE_UNKNOWN', `no such ${label} device`, {
          subject: id,
          expected: infos.length === 0 ? 'a device, but there is none' : infos.map((info) => info.id).join(' or '),
          remedy: 'Run `tutti devices` for the list',
        });
      }
      const staged = staging !== undefined && process.env[staging] === '1';
      const device = await native.open(this.#library, facts[at].id, this.#cache, staged);
      return this.#api.open(native, device, infos[at], this.#log);
    });
  }

  #native(): NativeGpu | { readonly reason: string } {
    const addon = loadNative();
    if (!isNativeAddon(addon)) return addon;
    // An add-on of an earlier build may not know the driver.
    const native = (addon as Partial<NativeAddon>)[this.name];
    return native === undefined
      ? { reason: `the native add-on was built without ${this.#api.label}; run \`npm run build\`` }
      : (native as NativeGpu);
  }

  #info({ id, name, driver, software, memoryBytes, features, limits }: NativeFacts): DeviceInfo {
    // The names of the stand-ins that the test suite executes kernels with.
    const virtual = name.startsWith('Tutti Virtual');
    return {
      id: `${this.name}:${id}`,
      backend: this.name,
      name,
      driver,
      virtual,
      software: software || virtual,
      memoryBytes,
      features: this.#api.features?.(features) ?? features,
      limits: { ...limits, ...this.#api.limits },
    };
  }
}
