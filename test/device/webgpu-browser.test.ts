// The WebGPU backend as a browser runs it: a bundle without Node, on navigator.gpu.
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { bundleForBrowser } from '../../scripts/web_bundle.js';
import { chromiumMissing, launchChromium } from '../support/chromium.js';

/** The page's code: a kernel, its result and what the driver says of the device. */
const entry = `
  import { webgpuBackend } from './backends/webgpu/index.js';
  import { KernelBuilder } from './compiler/kernel/builder.js';
  globalThis.runTutti = async () => {
    const driver = await webgpuBackend.driver({});
    const probe = await driver.probe();
    if (!probe.ok) return { reason: probe.reason };
    const [info] = await driver.enumerate();
    const device = await driver.open(info.id);
    const k = new KernelBuilder();
    const data = k.buffer('data', 'f32', 256, 'readwrite');
    const at = k.mulc(k.builtin('local_id', 0, 64), 4);
    k.store(data, at, k.fma(k.load(data, at, 4, true), k.constant(2, 'f32', 4), k.constant(1, 'f32', 4)), true);
    const kernel = k.finish({ name: 'page', grid: [1, 1, 1], workgroup: [64, 1, 1] });
    const [loaded] = await device.loadKernels([webgpuBackend.render(kernel, device.target)]);
    const buffer = device.allocate(1027);
    const range = { buffer, offset: 0, bytes: 1024 };
    const list = await device.record([
      { kind: 'dispatch', kernel: loaded, grid: kernel.grid, bindings: [range] },
      { kind: 'copy', from: { buffer, offset: 4, bytes: 3 }, to: { buffer, offset: 1024, bytes: 3 } },
    ]);
    const input = Float32Array.from({ length: 256 }, (_, i) => i / 8);
    const into = new Uint8Array(1027);
    await device.queue.submit({
      list, writes: [{ to: range, data: new Uint8Array(input.buffer) }], reads: [{ from: { buffer, offset: 0, bytes: 1027 }, into }],
    });
    await device.close();
    return { id: info.id, software: info.software, values: [...new Float32Array(into.buffer, 0, 256)], tail: [...into.subarray(1024)], head: [...into.subarray(4, 7)] };
  };
`;

interface Answer {
  readonly reason?: string;
  readonly id: string;
  readonly software: boolean;
  readonly values: readonly number[];
  readonly head: readonly number[];
  readonly tail: readonly number[];
}

const bundle = () => bundleForBrowser({ text: entry }, { format: 'iife' });

function check(answer: Answer): void {
  expect(answer.reason).toBeUndefined();
  expect(answer.id).toMatch(/^webgpu:/);
  expect(answer.values).toEqual(Array.from({ length: 256 }, (_, i) => i / 4 + 1));
  expect(answer.tail).toEqual(answer.head);
}

it('needs nothing of Node', async () => {
  const { code, imports } = await bundle();
  expect(imports).toEqual([]);
  expect(code).not.toMatch(/['"]node:/);
});

describe.skipIf(chromiumMissing)('in Chromium', () => {
  let browser: import('playwright-core').Browser;
  beforeAll(async () => {
    browser = await launchChromium();
  });
  afterAll(async () => {
    await browser?.close();
  });

  it('runs a kernel on navigator.gpu', async () => {
    const page = await browser.newPage();
    // WebGPU exists in secure contexts only; nothing leaves this machine.
    await page.route('**/*', (route) => route.fulfill({ contentType: 'text/html', body: '<!doctype html>' }));
    await page.goto('https://tutti.test/');
    await page.addScriptTag({ content: (await bundle()).code });
    check(await page.evaluate(() => (globalThis as unknown as { runTutti(): Promise<Answer> }).runTutti()));
  });
});
if (chromiumMissing) console.warn(`webgpu browser test skipped: ${chromiumMissing}`);
