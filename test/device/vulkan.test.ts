/** What is Vulkan's own in its driver: ICDs that do not work, and the pipeline cache. The contract is in suite.ts. */
import { mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it } from 'vitest';
import type { Device } from '../../backends/backend.js';
import { vulkanBackend } from '../../backends/vulkan/index.js';
import { KernelBuilder } from '../../compiler/kernel/builder.js';
import type { KernelFunction } from '../../compiler/kernel/types.js';
import { driverFor, openFirst, softwareDrivers } from '../support/vulkan.js';

/** y[i] = x[i] · factor + y[i], `factor` a scalar parameter. */
function multiplyAdd(length: number, grid: number): KernelFunction {
  const b = new KernelBuilder();
  const x = b.buffer('x', 'i32', length, 'read');
  const y = b.buffer('y', 'i32', length, 'readwrite');
  const factor = b.scalar('factor', 'i32');
  const index = b.add(b.mulc(b.builtin('workgroup_id', 0, grid), 64), b.builtin('local_id', 0, 64));
  b.if(b.compare('lt', index, b.constant(length)), () => {
    b.store(y, index, b.add(b.mul(b.load(x, index), factor), b.load(y, index)));
  });
  return b.finish({ name: 'multiply_add', grid: [grid, 1, 1], workgroup: [64, 1, 1] });
}

async function load(device: Device, kernel: KernelFunction): Promise<void> {
  await device.loadKernels([vulkanBackend.render(kernel, device.target)]);
}

describe('vulkan driver', () => {
  it('says in words why an ICD does not work, and lists nothing', async () => {
    const driver = await driverFor('/nowhere/icd.json');
    const probed = await driver.probe();
    expect(probed).toMatchObject({ ok: false, reason: expect.stringContaining('/nowhere/icd.json') });
    expect(await driver.enumerate()).toEqual([]);
    await expect(driver.open('vulkan:00')).rejects.toMatchObject({ code: 'E_DEVICE' });
  });
  it('finds the software drivers that this suite needs', () => {
    if (softwareDrivers.length === 0) console.warn('no software Vulkan driver: device tests are skipped');
  });
});

for (const [name, icd] of softwareDrivers) {
  describe(`pipeline cache of ${name}`, () => {
    it('is written whole, and a damaged one is neither believed nor fatal', async () => {
      const folder = mkdtempSync(join(tmpdir(), 'tutti-vulkan-'));
      try {
        const once = async (): Promise<void> => {
          const device = await openFirst(icd, { cacheDirectory: folder });
          await load(device, multiplyAdd(77, 2));
          await device.close();
        };
        await once();
        const files = (): string[] => readdirSync(join(folder, 'vulkan'));
        const [file] = files();
        if (file === undefined) return; // a driver that keeps no cache
        expect(file).toMatch(/^[0-9a-f]{32}-[0-9a-f]+\.bin$/);
        const path = join(folder, 'vulkan', file);
        const good = readFileSync(path);
        for (const bad of [
          good.subarray(0, good.length / 2),
          Buffer.alloc(0),
          Buffer.from(good).fill(0xff, 40, 80),
          Buffer.from('x'),
        ]) {
          writeFileSync(path, bad);
          await once();
        }
        expect(readFileSync(path).subarray(0, 8).toString()).toBe('TUTTIVP1');
        expect(files()).toEqual([file]);
      } finally {
        rmSync(folder, { recursive: true, force: true });
      }
    });
  });
}
