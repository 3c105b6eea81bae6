/** `npm run build:web`: dist/web/tutti.web.js, all of Tutti that a browser needs in one ES module, and the example's network. */
import { randomBytes } from 'node:crypto';
import { mkdirSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { exportOnnx } from '../compiler/frontends/onnx/index.js';
import { sketchNetwork } from '../examples/web/network.js';
import { bundleForBrowser, root } from './web_bundle.js';

const minify = !process.argv.includes('--no-minify');
const kib = (bytes: number): string => `${(bytes / 1024).toFixed(1)} KiB`;

function write(path: string, data: string | Uint8Array): void {
  const target = join(root, path);
  const temporary = `${target}.${randomBytes(6).toString('hex')}.tmp`;
  mkdirSync(dirname(target), { recursive: true });
  try {
    writeFileSync(temporary, data);
    renameSync(temporary, target);
  } finally {
    rmSync(temporary, { force: true });
  }
}

const bundle = await bundleForBrowser({ file: 'web/index.ts' }, { minify });
if (bundle.imports.length > 0) throw new Error(`the bundle still imports ${bundle.imports.join(', ')}`);
write('dist/web/tutti.web.js', bundle.code);
console.log(
  `dist/web/tutti.web.js: ${kib(bundle.bytes)}, ${kib(bundle.gzipBytes)} with gzip, ${bundle.modules.length} modules`,
);
const network = exportOnnx(sketchNetwork());
write('dist/examples/web/sketch.onnx', network);
console.log(`dist/examples/web/sketch.onnx: ${kib(network.byteLength)}`);
