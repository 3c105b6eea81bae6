// The example page's pieces that need no browser: pictures to tensors and back, and the server's borders.
import { mkdirSync, mkdtempSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { request } from 'node:http';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { frameOf, pictureOfTensor, scales, tensorOfPicture } from '../../examples/web/picture.js';
import { serveFolders, type WebServer } from '../../scripts/web_server.js';

describe('pictures', () => {
  it('finds inputs that take a picture', () => {
    const frame = (...shape: (number | string)[]) => frameOf({ shape, type: 'float32' });
    expect(frame(1, 3, 224, 320)).toEqual({ layout: 'nchw', channels: 3, height: 224, width: 320 });
    expect(frame('batch', 1, 'h', 'w')).toEqual({ layout: 'nchw', channels: 1, height: undefined, width: undefined });
    expect(frame(1, 64, 48, 3)).toEqual({ layout: 'nhwc', channels: 3, height: 64, width: 48 });
    expect(frame(2, 3, 224, 224)).toBeUndefined();
    expect(frame(1, 4, 8, 8)).toBeUndefined();
    expect(frame(1, 3, 224)).toBeUndefined();
    expect(frameOf({ shape: [1, 3, 8, 8], type: 'int64' })).toBeUndefined();
  });

  // Red, green, blue, gray; opaque.
  const pixels = {
    width: 2,
    height: 2,
    data: Uint8ClampedArray.of(255, 0, 0, 255, 0, 255, 0, 255, 0, 0, 255, 255, 51, 51, 51, 255),
  };

  it('lays pixels out as planes or interleaved, scaled', () => {
    const planes = tensorOfPicture(pixels, { layout: 'nchw', channels: 3 }, scales.unit);
    expect(planes.dims).toEqual([1, 3, 2, 2]);
    expect([...planes.data].map((value) => Math.fround(value))).toEqual(
      [1, 0, 0, 0.2, 0, 1, 0, 0.2, 0, 0, 1, 0.2].map(Math.fround),
    );
    const bytes = tensorOfPicture(pixels, { layout: 'nhwc', channels: 3 }, scales.bytes);
    expect(bytes.dims).toEqual([1, 2, 2, 3]);
    for (const [i, value] of [255, 0, 0, 0, 255, 0, 0, 0, 255, 51, 51, 51].entries()) {
      expect(bytes.data[i]).toBeCloseTo(value, 3);
    }
    const luma = tensorOfPicture(pixels, { layout: 'nchw', channels: 1 }, scales.signed);
    for (const [i, value] of [-0.402, 0.174, -0.772, -0.6].entries()) expect(luma.data[i]).toBeCloseTo(value, 5);
  });

  it('gives back the picture it was given', () => {
    const side = 9;
    const data = Uint8ClampedArray.from({ length: 4 * side * side }, (_, i) => (i % 4 === 3 ? 255 : (i * 37) % 256));
    for (const layout of ['nchw', 'nhwc'] as const) {
      for (const scale of [scales.unit, scales.signed, scales.bytes]) {
        const tensor = tensorOfPicture({ width: side, height: side, data }, { layout, channels: 3 }, scale);
        expect(pictureOfTensor(tensor.dims, tensor.data)?.data).toEqual(data);
      }
    }
  });

  it('stretches other ranges and leaves other shapes alone', () => {
    const depth = Float32Array.from({ length: 64 }, (_, i) => 1000 + i);
    expect(pictureOfTensor([1, 1, 8, 8], depth)).toMatchObject({ range: [1000, 1063] });
    expect(pictureOfTensor([1, 10], new Float32Array(10))).toBeUndefined();
    expect(pictureOfTensor([1, 1, 2, 2], new Float32Array(4))).toBeUndefined();
  });
});

describe('server', () => {
  const scratch = mkdtempSync(join(tmpdir(), 'serve-'));
  let server: WebServer;
  beforeAll(async () => {
    mkdirSync(join(scratch, 'public'));
    writeFileSync(join(scratch, 'public/index.html'), 'home');
    writeFileSync(join(scratch, 'public/a b.js'), '1;');
    writeFileSync(join(scratch, 'secret'), 'secret');
    symlinkSync(join(scratch, 'secret'), join(scratch, 'public/link'));
    server = await serveFolders({ '/app/': join(scratch, 'public') }, { home: '/app/' });
  });
  afterAll(async () => {
    await server.close();
    rmSync(scratch, { recursive: true });
  });

  /** As written: fetch would tidy the path. */
  const get = (path: string, method = 'GET') =>
    new Promise<{ status?: number; type?: string; body: string }>((resolve, reject) => {
      const { port } = new URL(server.address);
      request({ host: '127.0.0.1', port, path, method }, (response) => {
        let body = '';
        response.on('data', (part) => {
          body += part;
        });
        response.on('end', () =>
          resolve({ status: response.statusCode, type: response.headers['content-type'], body }),
        );
      })
        .on('error', reject)
        .end();
    });

  it('serves its folders', async () => {
    expect(await get('/app/')).toEqual({ status: 200, type: 'text/html; charset=utf-8', body: 'home' });
    expect(await get('/app/a%20b.js')).toEqual({ status: 200, type: 'text/javascript; charset=utf-8', body: '1;' });
    expect((await get('/')).status).toBe(302);
    expect(await get('/app/', 'HEAD')).toMatchObject({ status: 200, body: '' });
  });

  it('and nothing else', async () => {
    const paths = ['/app/../secret', '/app/%2e%2e/secret', '/app/..%2fsecret', '/app/link', '/secret', '/app/none'];
    for (const path of paths) expect(await get(path)).toMatchObject({ status: 404 });
    expect((await get('/app/%ff')).status).toBe(400);
    expect((await get('/app/', 'POST')).status).toBe(405);
  });
});
