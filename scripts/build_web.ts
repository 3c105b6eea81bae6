/** `npm run build:web`: dist/web/tutti.web.js, all of Tutti that a browser needs in one ES module, and the example's network. */
import { mkdirSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { Command } from 'commander';
import { writeOutput } from '../cli/files.js';
import { formatBytes, print } from '../cli/output.js';
import { leave, runProgram } from '../cli/program.js';
import { exportOnnx } from '../compiler/frontends/onnx/index.js';
import { sketchNetwork } from '../examples/web/network.js';
import { bundleForBrowser, root } from './web_bundle.js';

function write(path: string, data: string | Uint8Array): void {
  const target = join(root, path);
  mkdirSync(dirname(target), { recursive: true });
  writeOutput(target, data);
}

async function build({ minify }: { readonly minify: boolean }): Promise<void> {
  const bundle = await bundleForBrowser({ file: 'web/index.ts' }, { minify });
  if (bundle.imports.length > 0) throw new Error(`the bundle still imports ${bundle.imports.join(', ')}`);
  write('dist/web/tutti.web.js', bundle.code);
  const { bytes, gzipBytes, modules } = bundle;
  print(`dist/web/tutti.web.js: ${formatBytes(bytes)}, ${formatBytes(gzipBytes)} with gzip, ${modules.length} modules`);
  const network = exportOnnx(sketchNetwork());
  write('dist/examples/web/sketch.onnx', network);
  print(`dist/examples/web/sketch.onnx: ${formatBytes(network.byteLength)}`);
}

const program = new Command('build:web').option('--no-minify', 'keep names and line breaks').action(build);
leave(await runProgram(program));
