/** The suite on every backend that this machine has; those that it lacks are named with the reason. */
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import type { Backend, DriverOptions, KernelCode } from '../../backends/backend.js';
import { cpuBackend } from '../../backends/cpu/index.js';
import { cudaBackend } from '../../backends/cuda/index.js';
import { metalBackend } from '../../backends/metal/index.js';
import { vulkanBackend } from '../../backends/vulkan/index.js';
import { webgpuBackend } from '../../backends/webgpu/index.js';
import { cudaDevices, cudaDriver, openCuda } from '../support/cuda.js';
import { metalDevices, metalDriver, openMetal } from '../support/metal.js';
import { driverFor, openFirst, softwareDrivers } from '../support/vulkan.js';
import { mustFail, runSuite, type Subject } from './suite.js';

const cacheDirectory = mkdtempSync(join(tmpdir(), 'tutti-suite-'));
afterAll(() => rmSync(cacheDirectory, { recursive: true, force: true }));

const nonsense = (code: KernelCode): KernelCode => ({
  ...code,
  text: `${code.text}
nonsense(`,
});

/** The first device of a backend. */
const subjectOf = (name: string, backend: Backend, options: DriverOptions): Subject => ({
  name,
  backend,
  driver: () => backend.driver(options),
  open: async () => {
    const driver = await backend.driver(options);
    const [info] = await driver.enumerate();
    return driver.open(info.id);
  },
  broken: nonsense,
});

const vulkan = (name: string, icd: string, staging: boolean): Subject => ({
  name: `vulkan on ${name}${staging ? ', staged transfers' : ''}`,
  backend: vulkanBackend,
  driver: () => driverFor(icd),
  open: () => openFirst(icd, { staging }),
  // Drivers trust SPIR-V; what they refuse is what the device cannot do.
  broken: (code) => ({ ...code, subgroupSize: 3 }),
});

const cuda = (name: string, library: string): Subject => ({
  name: `cuda on ${name}`,
  backend: cudaBackend,
  driver: () => cudaDriver(library),
  open: () => openCuda(library),
  broken: nonsense,
});

const metal = (name: string, library: string, staging: boolean): Subject => ({
  name: `metal on ${name}${staging ? ', staged transfers' : ''}`,
  backend: metalBackend,
  driver: () => metalDriver(library),
  open: () => openMetal(library, { staging }),
  broken: nonsense,
});

const subjects: readonly Subject[] = [
  subjectOf('cpu', cpuBackend, { cacheDirectory }),
  ...softwareDrivers.flatMap(([name, icd]) => [vulkan(name, icd, false), vulkan(name, icd, true)]),
  subjectOf('webgpu', webgpuBackend, {}),
  ...(await cudaDevices()).map(([name, library]) => cuda(name, library)),
  ...(await metalDevices()).flatMap(([name, library]) => [metal(name, library, false), metal(name, library, true)]),
];

for (const subject of subjects) {
  const probed = await (await subject.driver()).probe();
  if (probed.ok) runSuite(subject);
  else describe.skip(`${subject.name}: ${probed.reason}`, () => it('is not here', () => undefined));
}

describe('the lists of the suite', () => {
  it('has an expected failure fail the run once it passes', async () => {
    await mustFail(() => expect(1).toBe(2), 'arithmetic');
    await expect(mustFail(() => undefined, 'a reason')).rejects.toThrow(/passes.*a reason.*off the list/);
  });
});
