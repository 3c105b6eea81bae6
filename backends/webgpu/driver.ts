/** Finds WebGPU adapters — the browser's, Dawn's in Node, or the device of a caller — and opens devices on them. */
import { TuttiError } from '../../compiler/error.js';
import type { Device, DeviceInfo, Driver, DriverOptions } from '../backend.js';
import { WebGpuDevice } from './device.js';
import type { GpuSource, Unavailable } from './source.js';
import { byteDotFeature, defaultLimits, describeWebGpu } from './target.js';

const usefulFeatures: readonly GPUFeatureName[] = ['shader-f16', 'subgroups', 'timestamp-query'];

export async function webGpuDriver(options: DriverOptions): Promise<Driver> {
  if (options.gpuDevice !== undefined) return new BorrowedDriver(options.gpuDevice as GPUDevice);
  const gpu = (globalThis.navigator as Navigator | undefined)?.gpu;
  if (gpu) return new AdapterDriver({ gpu, threads: navigator.hardwareConcurrency });
  if (typeof process !== 'undefined' && process.versions?.node !== undefined) {
    const { nodeGpu } = await import('./node.js');
    return new AdapterDriver(await nodeGpu());
  }
  return new AdapterDriver({ reason: 'this browser offers no WebGPU (navigator.gpu is missing)' });
}

class AdapterDriver implements Driver {
  readonly name = 'webgpu';
  readonly #source: GpuSource | Unavailable;

  constructor(source: GpuSource | Unavailable) {
    this.#source = source;
  }

  async probe(): Promise<{ readonly ok: true } | { readonly ok: false; readonly reason: string }> {
    if ('reason' in this.#source) return { ok: false, reason: this.#source.reason };
    const adapters = await this.#adapters();
    return adapters.size > 0 ? { ok: true } : { ok: false, reason: 'WebGPU is there, but offers no adapter' };
  }

  async enumerate(): Promise<readonly DeviceInfo[]> {
    return [...(await this.#adapters()).values()].map(({ info }) => info);
  }

  async open(id: string): Promise<Device> {
    // An adapter gives one device only, so each opening asks anew.
    const adapters = await this.#adapters();
    const found = adapters.get(id);
    if (!found) {
      throw new TuttiError('E_DEVICE_UNKNOWN', 'no such WebGPU device', {
        subject: id,
        expected: adapters.size > 0 ? [...adapters.keys()].join(', ') : 'a WebGPU adapter',
        ...('reason' in this.#source ? { found: this.#source.reason } : {}),
      });
    }
    const { adapter, info } = found;
    try {
      const device = await adapter.requestDevice({
        requiredFeatures: usefulFeatures.filter((feature) => adapter.features.has(feature)),
        requiredLimits: Object.fromEntries(Object.entries(limitsOf(adapter)).filter(([name]) => name in defaultLimits)),
      });
      return new WebGpuDevice({ info, target: describeWebGpu(info), gpu: device, owned: true });
    } catch (cause) {
      throw new TuttiError('E_DEVICE', `cannot be opened: ${(cause as Error).message}`, { subject: id, cause });
    }
  }

  /** By id. Browsers and Dawn show at most one adapter for each wish of power. */
  async #adapters(): Promise<ReadonlyMap<string, { readonly adapter: GPUAdapter; readonly info: DeviceInfo }>> {
    const found = new Map<string, { adapter: GPUAdapter; info: DeviceInfo }>();
    const source = this.#source;
    if ('reason' in source) return found;
    for (const powerPreference of ['high-performance', 'low-power'] as const) {
      const adapter = await source.gpu.requestAdapter({ powerPreference });
      if (!adapter) continue;
      const info = infoOf(adapter, adapter.info, source);
      if (!found.has(info.id)) found.set(info.id, { adapter, info });
    }
    return found;
  }
}

/** A device that the caller owns: never destroyed by us. */
class BorrowedDriver implements Driver {
  readonly name = 'webgpu';
  readonly #gpu: GPUDevice;
  readonly #info: DeviceInfo;

  constructor(gpu: GPUDevice) {
    this.#gpu = gpu;
    this.#info = infoOf(gpu, gpu.adapterInfo, { gpu: (globalThis.navigator as Navigator | undefined)?.gpu });
  }

  async probe(): Promise<{ readonly ok: true }> {
    return { ok: true };
  }

  async enumerate(): Promise<readonly DeviceInfo[]> {
    return [this.#info];
  }

  async open(id: string): Promise<Device> {
    if (id !== this.#info.id) {
      throw new TuttiError('E_DEVICE_UNKNOWN', 'no such WebGPU device', { subject: id, expected: this.#info.id });
    }
    return new WebGpuDevice({ info: this.#info, target: describeWebGpu(this.#info), gpu: this.#gpu, owned: false });
  }
}

function limitsOf({ limits }: { readonly limits: GPUSupportedLimits }): Record<string, number> {
  const all: Record<string, number> = {};
  // The names are getters of the prototype.
  for (const name in limits) {
    const value = limits[name as keyof GPUSupportedLimits];
    if (typeof value === 'number') all[name] = value;
  }
  return all;
}

function infoOf(
  holder: { readonly limits: GPUSupportedLimits; readonly features: GPUSupportedFeatures },
  info: GPUAdapterInfo | undefined,
  { gpu, memoryBytes, threads }: Partial<GpuSource>,
): DeviceInfo {
  const { vendor = '', architecture = '', device = '', description = '' } = info ?? {};
  const words = `${vendor} ${architecture} ${device} ${description}`.toLowerCase();
  const software = info?.isFallbackAdapter === true || /swiftshader|llvmpipe|lavapipe|basic render/.test(words);
  // Metal has no such instruction: there the language's function is a dozen others.
  const multipliesBytes = gpu?.wgslLanguageFeatures?.has(byteDotFeature) === true && vendor !== 'apple';
  const limits = limitsOf(holder);
  if (info?.subgroupMinSize !== undefined) limits.subgroupMinSize = info.subgroupMinSize;
  if (info?.subgroupMaxSize !== undefined) limits.subgroupMaxSize = info.subgroupMaxSize;
  if (software && threads !== undefined) limits.parallelism = threads;
  return {
    id: `webgpu:${slug([vendor, architecture || device || description]) || 'adapter'}`,
    backend: 'webgpu',
    name:
      device.replace(/-+$/, '') || [vendor, architecture].filter(Boolean).join(' ') || description || 'WebGPU adapter',
    driver: description || [vendor, architecture].filter(Boolean).join(' ') || 'WebGPU',
    virtual: false,
    software,
    memoryBytes:
      software && memoryBytes !== undefined ? memoryBytes : (limits.maxBufferSize ?? defaultLimits.maxBufferSize),
    features: [...holder.features, ...(multipliesBytes ? [byteDotFeature] : [])].sort(),
    limits,
  };
}

/** Vendor and architecture only: driver versions change, ids must not. */
const slug = (words: readonly string[]): string =>
  words
    .map((word) =>
      word
        .toLowerCase()
        .replace(/[^a-z0-9]+/g, '-')
        .replace(/^-+|-+$/g, ''),
    )
    .filter(Boolean)
    .join('-');
