// The WebGPU backend as a browser runs it: a bundle without Node, on navigator.gpu.
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { repository } from '../support/data.js';

const chromium = process.env.TUTTI_CHROMIUM || '/usr/bin/chromium';

/** The page's code: a kernel, its result and what the driver says of the device. */
const entry = `
  import { webgpuBackend } from '${join(repository, 'backends/webgpu/index.ts')}';
  import { KernelBuilder } from '${join(repository, 'compiler/kernel/builder.ts')}';
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

/** The bundle's text; node.ts and with it every Node module must not be needed. */
async function bundle(): Promise<string> {
  const { rolldown } = await import('rolldown');
  const built = await rolldown({
    input: 'page',
    platform: 'browser',
    logLevel: 'silent',
    resolve: { extensionAlias: { '.js': ['.ts', '.js'] } },
    plugins: [
      {
        name: 'page',
        resolveId: (id) =>
          id === 'page' ? '\0page' : id.endsWith('webgpu/node.js') || id === './node.js' ? '\0nothing' : undefined,
        load: (id) =>
          id === '\0page' ? entry : id === '\0nothing' ? 'throw new Error("Node code in a browser");' : undefined,
      },
    ],
  });
  const { output } = await built.generate({ format: 'iife', codeSplitting: false });
  return output[0].code;
}

function check(answer: Answer): void {
  expect(answer.reason).toBeUndefined();
  expect(answer.id).toMatch(/^webgpu:/);
  expect(answer.values).toEqual(Array.from({ length: 256 }, (_, i) => i / 4 + 1));
  expect(answer.tail).toEqual(answer.head);
}

it('needs nothing of Node', async () => {
  const code = await bundle();
  expect(code).not.toMatch(/node:|require\(/);
});

describe.skipIf(!existsSync(chromium))('in Chromium', () => {
  let browser: import('playwright-core').Browser;
  beforeAll(async () => {
    const { chromium: launcher } = await import('playwright-core');
    browser = await launcher.launch({
      executablePath: chromium,
      args: [
        '--no-sandbox',
        '--enable-unsafe-webgpu',
        '--use-webgpu-adapter=swiftshader',
        '--enable-features=Vulkan',
        '--use-vulkan=swiftshader',
      ],
    });
  });
  afterAll(async () => {
    await browser?.close();
  });

  it('runs a kernel on navigator.gpu', async () => {
    const page = await browser.newPage();
    // WebGPU exists in secure contexts only; nothing leaves this machine.
    await page.route('**/*', (route) => route.fulfill({ contentType: 'text/html', body: '<!doctype html>' }));
    await page.goto('https://tutti.test/');
    await page.addScriptTag({ content: await bundle() });
    check(await page.evaluate(() => (globalThis as unknown as { runTutti(): Promise<Answer> }).runTutti()));
  });
});
if (!existsSync(chromium)) console.warn(`webgpu browser test skipped: ${chromium} is missing (Debian: chromium)`);
