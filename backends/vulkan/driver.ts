/** The vulkan driver: finds devices through the add-on and opens them. */
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { TuttiError } from '../../compiler/error.js';
import type { Device, DeviceInfo, Driver, DriverOptions } from '../backend.js';
import { translated } from '../common/errors.js';
import { isNativeAddon, loadNative } from '../native.js';
import { type NativeFacts, type NativeVulkan, VulkanDevice } from './device.js';

export async function openDriver(options: DriverOptions): Promise<Driver> {
  return new VulkanDriver(options);
}

class VulkanDriver implements Driver {
  readonly name = 'vulkan';
  readonly #cacheDirectory: string | undefined;
  /** Read once, so that one driver speaks of the same devices for its whole life. */
  readonly #icd = process.env.TUTTI_VULKAN_ICD ?? '';

  constructor(options: DriverOptions) {
    this.#cacheDirectory = options.cacheDirectory;
  }

  async probe(): ReturnType<Driver['probe']> {
    const addon = loadNative();
    if (!isNativeAddon(addon)) return { ok: false, reason: addon.reason };
    const reason = await (addon.vulkan as NativeVulkan).probe(this.#icd);
    return reason === '' ? { ok: true } : { ok: false, reason };
  }

  async enumerate(): Promise<readonly DeviceInfo[]> {
    const probed = await this.probe();
    if (!probed.ok) return [];
    return (await this.#native().enumerate(this.#icd)).map(toInfo);
  }

  async open(id: string): Promise<Device> {
    const probed = await this.probe();
    if (!probed.ok) throw new TuttiError('E_DEVICE', probed.reason, { subject: id });
    const native = this.#native();
    return translated(id, async () => {
      const facts = await native.enumerate(this.#icd);
      const found = facts.find((candidate) => `vulkan:${candidate.id}` === id);
      if (!found) {
        throw new TuttiError('E_DEVICE_UNKNOWN', 'no such Vulkan device', {
          subject: id,
          expected:
            facts.length === 0 ? 'a device, but there is none' : facts.map((f) => `vulkan:${f.id}`).join(' or '),
          remedy: 'Run `tutti devices` for the list',
        });
      }
      const file =
        this.#cacheDirectory === undefined
          ? ''
          : join(this.#cacheDirectory, 'vulkan', `${found.id}-${found.driverVersion.toString(16)}.bin`);
      const staging = process.env.TUTTI_VULKAN_STAGING === '1';
      return new VulkanDevice(native, await native.open(this.#icd, found.id, file, staging), toInfo(found));
    });
  }

  #native(): NativeVulkan {
    const addon = loadNative();
    if (!isNativeAddon(addon)) throw new TuttiError('E_DEVICE', addon.reason, { subject: 'vulkan' });
    return addon.vulkan as NativeVulkan;
  }
}

function toInfo(facts: NativeFacts): DeviceInfo {
  return {
    id: `vulkan:${facts.id}`,
    backend: 'vulkan',
    name: facts.name,
    driver: facts.driver,
    virtual: false,
    software: facts.software,
    memoryBytes: facts.memoryBytes,
    features: facts.features,
    limits: { ...facts.limits, hostThreads: availableParallelism() },
  };
}
