/** The cuda driver: finds NVIDIA devices through the add-on and opens them. Not yet run on a real card. */
import { TuttiError } from '../../compiler/error.js';
import type { Device, DeviceInfo, Driver, DriverOptions } from '../backend.js';
import { translated } from '../common/errors.js';
import { isNativeAddon, loadNative } from '../native.js';
import { CudaDevice, type NativeCuda, type NativeFacts } from './device.js';

export async function openDriver(_options: DriverOptions): Promise<Driver> {
  return new CudaDriver();
}

class CudaDriver implements Driver {
  readonly name = 'cuda';
  /** Read once, so that one driver speaks of the same devices for its whole life. */
  readonly #library = process.env.TUTTI_CUDA_LIBRARY ?? '';

  async probe(): ReturnType<Driver['probe']> {
    const addon = loadNative();
    if (!isNativeAddon(addon)) return { ok: false, reason: addon.reason };
    if (addon.cuda === undefined) {
      return { ok: false, reason: 'the native add-on was built without CUDA; run `npm run build`' };
    }
    const reason = await (addon.cuda as NativeCuda).probe(this.#library);
    return reason === '' ? { ok: true } : { ok: false, reason };
  }

  async enumerate(): Promise<readonly DeviceInfo[]> {
    const probed = await this.probe();
    if (!probed.ok) return [];
    return (await this.#native().enumerate(this.#library)).map(toInfo);
  }

  async open(id: string): Promise<Device> {
    const probed = await this.probe();
    if (!probed.ok) throw new TuttiError('E_DEVICE', probed.reason, { subject: id });
    const native = this.#native();
    return translated(id, async () => {
      const facts = await native.enumerate(this.#library);
      const found = facts.find((candidate) => `cuda:${candidate.id}` === id);
      if (!found) {
        throw new TuttiError('E_DEVICE_UNKNOWN', 'no such CUDA device', {
          subject: id,
          expected: facts.length === 0 ? 'a device, but there is none' : facts.map((f) => `cuda:${f.id}`).join(' or '),
          remedy: 'Run `tutti devices` for the list',
        });
      }
      return new CudaDevice(native, await native.open(this.#library, found.id), toInfo(found));
    });
  }

  #native(): NativeCuda {
    const addon = loadNative();
    if (!isNativeAddon(addon)) throw new TuttiError('E_DEVICE', addon.reason, { subject: 'cuda' });
    return addon.cuda as NativeCuda;
  }
}

function toInfo(facts: NativeFacts): DeviceInfo {
  // The name of the stand-in that the test suite executes PTX with.
  const virtual = facts.name.startsWith('Tutti Virtual');
  return {
    id: `cuda:${facts.id}`,
    backend: 'cuda',
    name: facts.name,
    driver: facts.driver,
    virtual,
    software: virtual,
    memoryBytes: facts.memoryBytes,
    features: [...facts.features, `pci:${facts.pci}`],
    limits: facts.limits,
  };
}
