// Tutti in a browser: the bundle from localhost, real models on navigator.gpu, beside the same models here.
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import type { Browser, Page } from 'playwright-core';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { decode, encode, exportOnnx, tensorOf } from '../../compiler/frontends/onnx/index.js';
import { evaluateGraph } from '../../compiler/graph/evaluate.js';
import type { HostTensor } from '../../compiler/tensor.js';
import { sketchNetwork } from '../../examples/web/network.js';
import { devices, Session, Tensor } from '../../index.js';
import { bundleForBrowser } from '../../scripts/web_bundle.js';
import { serveFolders, type WebServer } from '../../scripts/web_server.js';
import { chromiumMissing, launchChromium } from '../support/chromium.js';
import { dataPath, modelsData, repository } from '../support/data.js';

/** What crosses between here and the page. */
interface Wire {
  readonly dims: readonly number[];
  readonly data: readonly number[];
}
interface PageRun {
  /** Model: an address, or bytes to wrap in a File. */
  readonly address?: string;
  readonly bytes?: readonly number[];
  readonly feeds: Readonly<Record<string, Wire>>;
  /** Where the session runs: on the page, in a worker of it, or on the page with the page's own GPUDevice. */
  readonly where?: 'page' | 'worker' | 'own device';
}
interface PageResult {
  readonly device: string;
  readonly outputs: Readonly<Record<string, Wire>>;
}

/** What the blank page has. */
interface Globals {
  readonly tutti: typeof import('../../web/index.js');
  run(request: PageRun): Promise<PageResult>;
}

if (chromiumMissing) console.warn(`browser tests skipped: ${chromiumMissing}`);

const [height, width] = [37, 50];
const image: HostTensor = {
  dtype: 'f32',
  shape: [1, 3, height, width],
  data: Float32Array.from({ length: 3 * height * width }, (_, i) => 0.5 + 0.5 * Math.sin(i * 0.37 + (i % 17))),
};

const wire = ({ shape, data }: HostTensor): Wire => ({ dims: shape, data: Array.from(data as Float32Array, Number) });

/** rtol 1e-3, atol 1e-4. */
function close(actual: Wire, expected: Wire): void {
  expect(actual.dims).toEqual(expected.dims);
  const worst = expected.data.reduce(
    (most, value, i) => Math.max(most, Math.abs(actual.data[i] - value) / (1e-4 + 1e-3 * Math.abs(value))),
    0,
  );
  expect(worst).toBeLessThanOrEqual(1);
}

/** The sketch of a picture by plain loops. */
function plainSketch({ width, height, data }: { width: number; height: number; data: readonly number[] }): number[] {
  const gray = Array.from({ length: width * height }, (_, i) => {
    const [red, green, blue] = data.slice(4 * i, 4 * i + 3);
    return (0.299 * red + 0.587 * green + 0.114 * blue) / 255;
  });
  const weights = Array.from({ length: 17 }, (_, i) => Math.exp(-((i - 8) ** 2) / (2 * 3.5 ** 2)));
  const total = weights.reduce((sum, weight) => sum + weight, 0);
  const mirror = (at: number, size: number) => (at < 0 ? -at : at >= size ? 2 * size - 2 - at : at);
  const blur = (values: readonly number[], at: (x: number, y: number, offset: number) => number) =>
    values.map(
      (_, i) =>
        weights.reduce((sum, weight, k) => sum + weight * values[at(i % width, Math.floor(i / width), k - 8)], 0) /
        total,
    );
  const rows = blur(gray, (x, y, offset) => y * width + mirror(x + offset, width));
  const blurred = blur(rows, (x, y, offset) => mirror(y + offset, height) * width + x);
  return gray.map((value, i) => Math.min(1, (value + 0.02) / (blurred[i] + 0.02)) ** 3);
}

/** The tensors of a model's weights in a file beside it. */
function withExternalData(
  model: Uint8Array,
  location: string,
): { readonly model: Uint8Array; readonly data: Uint8Array } {
  const proto = decode('ModelProto', model);
  const parts: Uint8Array[] = [];
  let offset = 0;
  const initializer = (proto.graph?.initializer ?? []).map((tensor) => {
    const { rawData } = tensor;
    if (rawData === undefined || rawData.byteLength === 0) return tensor;
    const entries = { location, offset: String(offset), length: String(rawData.byteLength) };
    parts.push(rawData);
    offset += rawData.byteLength;
    const externalData = Object.entries(entries).map(([key, value]) => ({ key, value }));
    return { ...tensor, rawData: new Uint8Array(), dataLocation: 1, externalData };
  });
  expect(parts.length).toBeGreaterThan(0);
  return {
    model: encode('ModelProto', { ...proto, graph: { ...proto.graph, initializer } } as never),
    data: Buffer.concat(parts),
  };
}

describe.skipIf(chromiumMissing)('in Chromium', () => {
  let scratch: string;
  let sketchModel: Uint8Array;
  let expectedSketch: Wire;
  let server: WebServer;
  let browser: Browser;
  let page: Page;
  const problems: string[] = [];

  const put = (path: string, data: string | Uint8Array): void => {
    mkdirSync(dirname(join(scratch, path)), { recursive: true });
    writeFileSync(join(scratch, path), data);
  };

  beforeAll(async () => {
    scratch = mkdtempSync(join(tmpdir(), 'web-'));
    sketchModel = exportOnnx(sketchNetwork());
    expectedSketch = wire(evaluateGraph(sketchNetwork(height, width), { image }).get('sketch') as HostTensor);
    put('web/tutti.web.js', (await bundleForBrowser({ file: 'web/index.ts' }, { minify: true })).code);
    const example = await bundleForBrowser({ file: 'examples/web/page.ts' }, { external: ['tutti/web'] });
    put('examples/web/page.js', example.code);
    put('examples/web/sketch.onnx', sketchModel);
    const external = withExternalData(sketchModel, 'weights of sketch.bin');
    put('external/model.onnx', external.model);
    put('external/weights of sketch.bin', external.data);
    put('alone/model.onnx', external.model);
    put('cut.onnx', sketchModel.subarray(0, 700));
    put(
      'blank.html',
      `<!doctype html><html lang="en"><title>blank</title><script type="module">
        import * as tutti from './web/tutti.web.js';
        import { run } from './run.js';
        Object.assign(globalThis, { tutti, run });
      </script>`,
    );
    put('run.js', pageCode);
    put(
      'worker.js',
      "import { run } from '/dist/run.js';\nonmessage = async ({ data }) => postMessage(await run(data));",
    );
    server = await serveFolders({
      '/examples/web/': join(repository, 'examples/web'),
      '/dist/': scratch,
      ...(modelsData.missing === undefined ? { '/models/': modelsData.path } : {}),
    });
    browser = await launchChromium();
    page = await browser.newPage();
    page.on('pageerror', (error) => problems.push(error.message));
    page.on('console', (message) => {
      if (message.type() === 'error') problems.push(message.text());
    });
    await page.goto(`${server.address}/dist/blank.html`);
    await page.waitForFunction(() => 'tutti' in globalThis);
  });
  afterAll(async () => {
    await browser?.close();
    await server?.close();
    if (scratch !== undefined) rmSync(scratch, { recursive: true, force: true });
  });

  const run = (request: PageRun): Promise<PageResult> =>
    page.evaluate(async (request) => {
      if (request.where === 'worker') {
        const worker = new Worker('/dist/worker.js', { type: 'module' });
        try {
          return await new Promise<PageResult>((resolve, reject) => {
            worker.onmessage = ({ data }) => resolve(data);
            worker.onerror = (event) => reject(new Error(event.message));
            worker.postMessage(request);
          });
        } finally {
          worker.terminate();
        }
      }
      return (globalThis as unknown as Globals).run(request);
    }, request);

  /** What a failing compile says. */
  const failure = (address: string): Promise<string> =>
    page.evaluate(async (address) => {
      const { compile } = (globalThis as unknown as Globals).tutti;
      return compile(address).then(
        () => 'compiled',
        (error) => `${error.code} ${error.message}`,
      );
    }, address);

  it('offers WebGPU devices only', async () => {
    const answer = await page.evaluate(async () => {
      const { devices, Session } = (globalThis as unknown as Globals).tutti;
      const { devices: found, missing } = await devices();
      const refusal = await Session.create('/dist/examples/web/sketch.onnx', { device: 'cpu' }).catch((error) => error);
      return { backends: found.map(({ backend }) => backend), missing, refusal: `${refusal.code} ${refusal.message}` };
    });
    expect(answer.backends.length).toBeGreaterThan(0);
    expect(new Set(answer.backends)).toEqual(new Set(['webgpu']));
    expect(answer.missing).toEqual([]);
    expect(answer.refusal).toMatch(/^E_DEVICE_UNKNOWN .*webgpu:/);
  });

  const feeds = { image: wire(image) };
  for (const where of ['page', 'worker', 'own device'] as const) {
    it(`runs a model by address (${where})`, async () => {
      const { outputs, device } = await run({ address: '/dist/examples/web/sketch.onnx', feeds, where });
      expect(device).toMatch(/^webgpu:/);
      close(outputs.sketch, expectedSketch);
    });
  }

  it('runs a model from a File', async () => {
    const { outputs } = await run({ bytes: [...sketchModel], feeds });
    close(outputs.sketch, expectedSketch);
  });

  it('fetches external data beside the model', async () => {
    const { outputs } = await run({ address: '/dist/external/model.onnx', feeds });
    close(outputs.sketch, expectedSketch);
  });

  it('gives errors their codes', async () => {
    expect(await failure('/dist/nowhere.onnx')).toMatch(/^E_IO .*nowhere\.onnx.*404/);
    expect(await failure('/dist/cut.onnx')).toMatch(/^E_MODEL_/);
    expect(await failure('/dist/blank.html')).toMatch(/^E_MODEL_/);
    expect(await failure('/dist/alone/model.onnx')).toMatch(/^E_EXTERNAL_DATA .*weights of sketch\.bin.*404/);
  });

  it('saves an artifact as bytes and runs it', async () => {
    const { artifact, refusal } = await page.evaluate(async () => {
      const { compile } = (globalThis as unknown as Globals).tutti;
      const model = await compile(new URL('/dist/examples/web/sketch.onnx', location.href), { dims: { width: 50 } });
      const blob = new Blob([...model.artifact()] as BlobPart[]);
      const refusal = await model.save('x.tutti').catch((error) => error.code);
      return { artifact: [...new Uint8Array(await blob.arrayBuffer())], refusal };
    });
    expect(refusal).toBe('E_UNSUPPORTED');
    const { outputs } = await run({ bytes: artifact, feeds });
    close(outputs.sketch, expectedSketch);
    // The same file here.
    await using session = await Session.create(Uint8Array.from(artifact), { device: await someDevice() });
    const here = await session.run({ image: Tensor.fromHost(image) });
    close(outputs.sketch, wire(here.sketch.toHost()));
  });

  it('takes an AbortSignal', async () => {
    const code = await page.evaluate(async () => {
      const { compile, Session, Tensor } = (globalThis as unknown as Globals).tutti;
      const session = await Session.create(await compile('/dist/examples/web/sketch.onnx'));
      const controller = new AbortController();
      const image = Tensor.from(new Float32Array(3 * 64 * 64), [1, 3, 64, 64]);
      const pending = session.run({ image }, { signal: controller.signal });
      controller.abort();
      const code = await pending.catch((error) => error.code);
      await session.run({ image });
      await session.close();
      return code;
    });
    expect(code).toBe('E_ABORTED');
  });

  for (const name of ['mnist-cnn8', 'transformer-encoder-tiny', 'magika-v1', 'bert-toy']) {
    it(`${name}: same as the reference and as here`, async (context) => {
      const folder = dataPath(context, modelsData, name, 'test_data_set_0');
      const file = dataPath(context, modelsData, name, 'model.onnx');
      await using session = await Session.create(file, { device: await someDevice() });
      const inputs = tensors(folder, 'input');
      const here = await session.run(Object.fromEntries(session.inputNames.map((name, i) => [name, inputs[i]])));
      const pageFeeds = Object.fromEntries(session.inputNames.map((name, i) => [name, wire(inputs[i].toHost())]));
      const { outputs } = await run({ address: `/models/${name}/model.onnx`, feeds: pageFeeds });
      const references = tensors(folder, 'output');
      for (const [i, output] of session.outputNames.entries()) {
        close(outputs[output], wire(here[output].toHost()));
        close(outputs[output], wire(references[i].toHost()));
      }
    });
  }

  describe('example page', () => {
    let example: Page;
    beforeAll(async () => {
      example = await browser.newPage({ viewport: { width: 1000, height: 900 } });
      example.on('pageerror', (error) => problems.push(error.message));
      await example.goto(`${server.address}/examples/web/`);
      await example.getByRole('button', { name: 'Run' }).and(example.locator(':enabled')).waitFor();
    });

    const status = (text: string) => example.getByRole('status').filter({ hasText: text }).waitFor();
    /** Pixels of a canvas, RGBA; as one text on the way, which is a hundred times faster than as an array. */
    const pixels = async (name: string) => {
      const { width, height, text } = await example.getByRole('img', { name }).evaluate((canvas) => {
        const { width, height } = canvas as HTMLCanvasElement;
        const context = (canvas as HTMLCanvasElement).getContext('2d') as CanvasRenderingContext2D;
        return { width, height, text: context.getImageData(0, 0, width, height).data.join() };
      });
      return { width, height, data: text.split(',').map(Number) };
    };

    it('draws a pencil sketch of its sample', async () => {
      await example.getByLabel('Timed runs').fill('3');
      await example.getByRole('button', { name: 'Run' }).click();
      await status('Done.');
      const input = await pixels('The picture given to the model');
      const output = await pixels('Output sketch');
      expect([output.width, output.height]).toEqual([input.width, input.height]);
      const reference = plainSketch(input);
      const worst = reference.reduce((most, value, i) => Math.max(most, Math.abs(output.data[4 * i] - 255 * value)), 0);
      expect(worst).toBeLessThan(1);
      expect(new Set(output.data).size).toBeGreaterThan(50);
      await expect(example.locator('#facts').innerText()).resolves.toMatch(/Median of 3\s+[\d.]+ ms/);
      mkdirSync(join(repository, 'build'), { recursive: true });
      await example.screenshot({ path: join(repository, 'build/web-example.png'), fullPage: true });
    });

    it('says what is missing, and takes a model and a picture of the user', async (context) => {
      await example.getByLabel('Your own').check();
      await example.getByRole('button', { name: 'Run' }).click();
      await example.getByRole('alert').filter({ hasText: 'Choose an ONNX' }).waitFor();
      const model = dataPath(context, modelsData, 'mnist-cnn8', 'model.onnx');
      await example.getByLabel('ONNX or .tutti file').setInputFiles(model);
      await example.getByLabel('Picture file').setInputFiles(join(repository, 'build/web-example.png'));
      await example.getByLabel('Values of a pixel').selectOption('0 to 255');
      await example.getByRole('button', { name: 'Run' }).click();
      await status('Done.');
      expect(await example.getByRole('alert').isHidden()).toBe(true);
      expect(await example.getByRole('row').count()).toBe(11);
    });

    it('names every control', async () => {
      const nameless = await example.$$eval('input, select, button', (controls) =>
        controls
          .filter((c) => !(c as HTMLInputElement).labels?.length && c.textContent?.trim() === '')
          .map((c) => c.id),
      );
      expect(nameless).toEqual([]);
    });
  });

  it('left no errors on any page', () => {
    // Chromium reports each 404 that the tests of errors asked for.
    expect(problems.filter((text) => !/404/.test(text))).toEqual([]);
  });
});

/** The cpu where there is one: another backend than in the browser. */
async function someDevice(): Promise<string> {
  const found = (await devices({ backends: ['cpu', 'webgpu'] })).devices;
  return found.find(({ backend }) => backend === 'cpu')?.id ?? found[0].id;
}

function tensors(folder: string, prefix: string): Tensor[] {
  const number = (file: string) => Number.parseInt(file.slice(prefix.length + 1), 10);
  return readdirSync(folder)
    .filter((file) => file.startsWith(`${prefix}_`))
    .sort((a, b) => number(a) - number(b))
    .map((file) => Tensor.fromHost(tensorOf(decode('TensorProto', readFileSync(join(folder, file))), file)));
}

/** Runs in the page or a worker of it. */
const pageCode = `
  import { compile, Session, Tensor } from '/dist/web/tutti.web.js';
  export async function run({ address, bytes, feeds, where }) {
    const model = await compile(address ?? new File([Uint8Array.from(bytes)], 'model'));
    const own = where === 'own device' ? await (await navigator.gpu.requestAdapter()).requestDevice() : undefined;
    const session = await Session.create(model, { device: own ?? 'auto' });
    const inputs = Object.fromEntries(model.inputs.map(({ name, type }) => [name, Tensor.from(feeds[name].data, feeds[name].dims, type)]));
    const outputs = await session.run(inputs);
    const again = await session.run(inputs);
    const wire = ({ dims, data }) => ({ dims: [...dims], data: Array.from(data, Number) });
    for (const name of session.outputNames) {
      if (String(outputs[name].data) !== String(again[name].data)) throw new Error(name + ' differs between two runs');
    }
    const device = session.device.id;
    await session.close();
    if (own !== undefined) {
      own.pushErrorScope('validation');
      own.createBuffer({ size: 4, usage: 4 });
      if (await own.popErrorScope()) throw new Error('the own device does not work any more');
      own.destroy();
    }
    return { device, outputs: Object.fromEntries(session.outputNames.map((name) => [name, wire(outputs[name])])) };
  }
`;
