/**
 * The demo: a picture and a network are made, and then it goes on as any user would, with the command: compile the
 * network, run it on every device there is with a PNG in and PNGs out, and see whether all devices agree.
 *
 *     npm run demo                  all devices
 *     npm run demo -- --size 256    a smaller picture
 *
 * Exit code 1 if a device failed, or if its pictures are more than one level of 255 away from the first device's.
 */
import { spawn } from 'node:child_process';
import { existsSync, mkdirSync, readFileSync, writeFileSync } from 'node:fs';
import { join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';
import { decode } from 'fast-png';
import { packageRoot } from '../../backends/native.js';
import { exportOnnx } from '../../compiler/frontends/onnx/index.js';
import { buildNetwork } from './network.js';
import { encodePicture, makePicture } from './picture.js';

const root = packageRoot() ?? process.cwd();
const folder = join(root, 'out', 'demo');
const command = fileURLToPath(new URL('../../cli/main.js', import.meta.url));
const say = (text = ''): void => void process.stdout.write(`${text}\n`);
const shown = (path: string): string => relative(process.cwd(), path) || '.';

interface Attempt {
  readonly id: string;
  readonly label: string;
  readonly environment?: Readonly<Record<string, string>>;
}

interface DeviceEntry {
  readonly id: string;
  readonly backend: string;
  readonly name: string;
}
interface DeviceDocument {
  readonly devices: readonly DeviceEntry[];
  readonly missing: readonly { readonly backend: string; readonly reason: string }[];
}
interface RunDocument {
  readonly firstRunMs: number;
  readonly medianMs: number;
  readonly kernels: number;
  readonly arenaBytes: number;
  readonly peakRssBytes: number;
}

interface Outcome {
  readonly attempt: Attempt;
  readonly run: RunDocument;
  readonly files: readonly string[];
}

/** A second software driver for Vulkan, from Chromium's package, beside the one that the loader finds. */
const swiftShader = [
  '/usr/lib/chromium/vk_swiftshader_icd.json',
  '/usr/lib64/chromium-browser/vk_swiftshader_icd.json',
].find((path) => existsSync(path));

/** Runs the command as a user would; its stderr goes through. */
function tutti(
  args: readonly string[],
  environment: Readonly<Record<string, string>> = {},
): Promise<{ code: number; stdout: string; stderr: string }> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, [command, ...args], {
      env: { ...process.env, ...environment },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    let [stdout, stderr] = ['', ''];
    child.stdout.on('data', (chunk: Buffer) => void (stdout += chunk.toString()));
    child.stderr.on('data', (chunk: Buffer) => void (stderr += chunk.toString()));
    child.on('error', reject);
    child.on('close', (code) => resolve({ code: code ?? 3, stdout, stderr }));
  });
}

async function json<T>(args: readonly string[], environment?: Readonly<Record<string, string>>): Promise<T> {
  const { code, stdout, stderr } = await tutti([...args, '--json'], environment);
  if (code !== 0) throw new Error(stderr.trim() || `exit code ${code}`);
  return JSON.parse(stdout) as T;
}

async function findAttempts(): Promise<{ attempts: Attempt[]; missing: DeviceDocument['missing'] }> {
  const { devices, missing } = await json<DeviceDocument>(['devices']);
  const label = ({ backend, name }: DeviceEntry): string => `${backend} · ${name}`;
  const attempts: Attempt[] = [
    ...devices.filter(({ backend }) => backend === 'cpu'),
    ...devices.filter(({ backend }) => backend !== 'cpu'),
  ].map((device) => ({ id: device.id, label: label(device) }));
  if (swiftShader !== undefined) {
    const environment = { TUTTI_VULKAN_ICD: swiftShader };
    const others = await json<DeviceDocument>(['devices'], environment);
    const known = new Set(devices.map(({ id }) => id));
    for (const device of others.devices) {
      if (device.backend !== 'vulkan' || known.has(device.id)) continue;
      attempts.push({ id: device.id, label: label(device), environment });
    }
  }
  return { attempts, missing };
}

/** Largest difference of two PNG files of one size, in levels of 255. */
function difference(a: string, b: string): number {
  const [p, q] = [decode(readFileSync(a)), decode(readFileSync(b))];
  if (p.width !== q.width || p.height !== q.height || p.data.length !== q.data.length) return Number.POSITIVE_INFINITY;
  let worst = 0;
  for (let i = 0; i < p.data.length; i++) worst = Math.max(worst, Math.abs(p.data[i] - q.data[i]));
  return worst;
}

const megabytes = (bytes: number): string => `${(bytes / 2 ** 20).toFixed(1)} MiB`;
const seconds = (ms: number): string => (ms >= 1000 ? `${(ms / 1000).toFixed(2)} s` : `${ms.toFixed(1)} ms`);

function printTable(rows: readonly (readonly string[])[]): void {
  const widths = rows[0].map((_, i) => Math.max(...rows.map((row) => row[i].length)));
  for (const [n, row] of rows.entries()) {
    say(
      row
        .map((cell, i) => (i === 0 ? cell.padEnd(widths[i]) : cell.padStart(widths[i])))
        .join('  ')
        .trimEnd(),
    );
    if (n === 0) say(widths.map((width) => '─'.repeat(width)).join('  '));
  }
}

function sizeFlag(): number {
  const at = process.argv.indexOf('--size');
  const size = at < 0 ? 512 : Number(process.argv[at + 1]);
  if (Number.isInteger(size) && size >= 16 && size <= 4096) return size;
  process.stderr.write('--size wants a number of pixels from 16 to 4096\n');
  process.exit(2);
}

async function main(): Promise<number> {
  const size = sizeFlag();
  mkdirSync(folder, { recursive: true });
  const input = join(folder, 'input.png');
  const onnx = join(folder, 'enhance.onnx');
  const artifact = join(folder, 'enhance.tutti');

  say(`1. A picture of ${size} × ${size} with the noise of a sensor → ${shown(input)}`);
  writeFileSync(input, encodePicture(makePicture(size)));
  say(`2. A network that denoises, finds edges and doubles the size → ${shown(onnx)}`);
  writeFileSync(onnx, exportOnnx(buildNetwork(size)));
  say(`3. tutti compile ${shown(onnx)} -o ${shown(artifact)}`);
  const compiled = await tutti(['compile', onnx, '-o', artifact]);
  if (compiled.code !== 0) throw new Error(compiled.stderr.trim());
  const { attempts, missing } = await findAttempts();
  for (const { backend, reason } of missing) say(`   ${backend} is not available: ${reason}`);
  if (attempts.length === 0) {
    say('No device can be used: `npm run build` builds what the cpu device needs.');
    return 1;
  }

  const outcomes: Outcome[] = [];
  const failures: string[] = [];
  for (const [i, attempt] of attempts.entries()) {
    const files = ['picture', 'edges'].map((name) => join(folder, `${name}-${i}-${attempt.id.split(':')[0]}.png`));
    const icd = attempt.environment?.TUTTI_VULKAN_ICD;
    const prefix = icd === undefined ? '' : `TUTTI_VULKAN_ICD=${icd} `;
    say(
      `4. ${prefix}tutti run ${shown(artifact)} --device ${attempt.id} --input image=@${shown(input)} --output picture=@${shown(files[0])} …`,
    );
    const args = ['run', artifact, '--device', attempt.id, '--input', `image=@${input}`];
    const outputs = ['--output', `picture=@${files[0]}`, '--output', `edges=@${files[1]}`];
    try {
      outcomes.push({
        attempt,
        files,
        run: await json<RunDocument>([...args, ...outputs, '--repeat', '3'], attempt.environment),
      });
    } catch (error) {
      failures.push(`${attempt.label}: ${(error as Error).message}`);
    }
  }

  say();
  const differences = outcomes.map(({ files }) =>
    Math.max(...files.map((file, k) => difference(file, outcomes[0].files[k]))),
  );
  printTable([
    ['device', 'first run', 'median', 'kernels', 'arena', 'peak memory', 'max difference'],
    ...outcomes.map(({ attempt, run }, i) => [
      attempt.label,
      seconds(run.firstRunMs),
      seconds(run.medianMs),
      String(run.kernels),
      megabytes(run.arenaBytes),
      megabytes(run.peakRssBytes),
      i === 0 ? 'reference' : `${differences[i]}/255`,
    ]),
  ]);
  say('\nFirst run: compiling the kernels for the device and one inference. Peak memory: of the whole process.');
  say(`Pictures: ${shown(folder)}/ (input.png, then picture-* and edges-* of each device)`);
  say(`Your own model: npx tutti run model.onnx --device all --input NAME=@picture.png --output NAME=@out.npy`);
  const different = outcomes.filter((_, i) => differences[i] > 1);
  for (const { attempt } of different)
    say(`✗ ${attempt.label} differs by more than 1/255 from ${outcomes[0].attempt.label}`);
  for (const failure of failures) say(`✗ ${failure}`);
  if (different.length > 0 || failures.length > 0) return 1;
  say(`✓ ${outcomes.length} devices, one result`);
  return 0;
}

main().then(
  (code) => process.exit(code),
  (error: unknown) => {
    process.stderr.write(`${error instanceof Error ? error.message : String(error)}\n`);
    process.exit(1);
  },
);
