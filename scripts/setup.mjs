// Brings a checkout from whatever state it is in to "ready": npm packages, system packages, native add-on, TypeScript.
// Uses nothing but Node's own modules, because it runs before there is anything else, and does nothing (in a fraction
// of a second) when everything is there. Speaks on stderr only, so that stdout stays the command's own.
//
//   node scripts/setup.mjs            everything
//   node scripts/setup.mjs --build    no system packages
//   node scripts/setup.mjs --native   npm packages and the add-on only
//   node scripts/setup.mjs --force    build again even if nothing changed; try failed system packages again
//   node scripts/setup.mjs --clean    remove what was built (dist/ and build/)
//
// Environment: TUTTI_NO_APT=1 never installs system packages, TUTTI_NO_NATIVE=1 does not build the add-on.

import { spawn, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  chmodSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import os from 'node:os';
import { delimiter, dirname, join, relative } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = dirname(dirname(fileURLToPath(import.meta.url)));
const at = (...parts) => join(root, ...parts);
const started = performance.now();
const known = ['--build', '--native', '--force', '--clean'];
const flags = new Set(process.argv.slice(2));
const statePath = at('build', 'setup.json');
const lockPath = at('build', 'setup.lock');
const binLink = at('node_modules', '.bin', 'tutti');

/** What the machine should have beside Node, and what is lost without it. `test` decides where dpkg cannot. */
const systemPackages = [
  { name: 'g++', why: 'compiles the native add-on', lost: 'the cpu and vulkan backends', has: () => hasCommand('c++') },
  { name: 'gcc', why: 'compiles cpu kernels at run time', lost: 'the cpu backend', has: () => hasCommand('cc') },
  { name: 'make', why: 'builds the native add-on', lost: 'the cpu and vulkan backends', has: hasGenerator },
  {
    name: 'cmake',
    why: 'builds the native add-on',
    lost: 'the cpu and vulkan backends',
    has: () => hasCommand('cmake'),
  },
  { name: 'libvulkan1', why: 'the Vulkan loader', lost: 'the vulkan backend' },
  { name: 'libvulkan-dev', why: 'the Vulkan headers, to build its driver', lost: 'the vulkan backend' },
  { name: 'mesa-vulkan-drivers', why: 'lavapipe, Vulkan on the CPU', lost: 'vulkan on machines without a GPU' },
  {
    name: 'chromium-common',
    why: 'SwiftShader, the Vulkan device under WebGPU where there is no GPU',
    lost: 'webgpu on machines without a GPU',
  },
  {
    name: 'clang-16',
    why: 'compiles Metal Shading Language for the virtual Metal device of the tests',
    lost: 'the tests of the metal backend on machines without one',
    has: () => !!process.env.TUTTI_CLANG || [15, 16, 17, 18, 19, 20].some((version) => hasCommand(`clang-${version}`)),
  },
  { name: 'spirv-tools', why: 'spirv-val, checks our kernels in tests', lost: 'the validation of SPIR-V in tests' },
];

/** Folders whose .ts files make dist/: the same as in tsconfig.json. */
const sourceFolders = JSON.parse(readFileSync(at('tsconfig.json'), 'utf8')).include.map((glob) => glob.split('/**')[0]);

const steps = [
  { name: 'npm packages', due: npmDue, run: npmInstall },
  { name: 'system packages', due: systemDue, run: systemInstall, skip: () => flags.has('--build') },
  { name: 'native add-on', due: nativeDue, run: nativeBuild, skip: () => process.env.TUTTI_NO_NATIVE === '1' },
  { name: 'TypeScript', due: typescriptDue, run: typescriptBuild, skip: () => flags.has('--native') },
  { name: 'tutti command', due: commandDue, run: commandLink, skip: () => flags.has('--native') },
];

await main();

/** As the commands do it that are built here: what is wrong, and exit code 2. */
function refuseUnknown() {
  const unknown = [...flags].filter((flag) => !known.includes(flag));
  if (unknown.length === 0) return;
  say(`error E_USAGE: unknown option; expected ${known.join(', ')}, found ${unknown.join(' ')}`);
  process.exit(2);
}

async function main() {
  refuseUnknown();
  if (flags.has('--clean')) {
    for (const folder of ['dist', 'build']) rmSync(at(folder), { recursive: true, force: true });
    return;
  }
  if (flags.has('--native')) flags.add('--build');
  let locked = false;
  for (const step of steps) {
    if (step.skip?.()) continue;
    if (!(await step.due())) continue;
    if (!locked) {
      await lock();
      locked = true;
      if (!(await step.due())) continue; // another set-up did it while this one waited
    }
    const begin = performance.now();
    try {
      const result = await step.run();
      if (result !== 'unavailable') say(`✓ ${step.name} (${seconds(begin)})`);
    } catch (error) {
      say(`✗ ${step.name}: ${error.message}`);
      process.exitCode = 1;
      if (step.run === npmInstall) break; // nothing else can work; other steps fail alone
    }
  }
  if (locked) unlock();
  if (!process.exitCode) say(`✓ set-up complete (${seconds(started)})`);
}

// ---- npm packages ---------------------------------------------------------------------------------------------

/** npm leaves node_modules/.package-lock.json at the end of an install: what is there, to compare with what should be. */
function npmDue() {
  const installed = readJson(at('node_modules', '.package-lock.json'))?.packages;
  if (!installed) return true;
  const wanted = readJson(at('package-lock.json'))?.packages ?? {};
  return Object.entries(wanted).some(([path, entry]) => {
    if (path === '') return false;
    if (!installed[path]) return !entry.optional;
    return installed[path].version !== entry.version || installed[path].integrity !== entry.integrity;
  });
}

async function npmInstall() {
  const count = Object.keys(readJson(at('package-lock.json'))?.packages ?? {}).length - 1;
  say(`› npm packages: installing ${count} packages into node_modules (npm ci)`);
  const args = ['ci', '--include=dev', '--no-audit', '--no-fund', '--loglevel=error'];
  const npm = process.env.npm_execpath;
  const viaNpm = npm && /npm-cli\.c?js$/.test(npm);
  const code = viaNpm
    ? await show(process.execPath, [npm, ...args])
    : await show(process.platform === 'win32' ? 'npm.cmd' : 'npm', args, { shell: process.platform === 'win32' });
  if (code !== 0) throw new Error('`npm ci` failed; is the package registry reachable?');
}

// ---- system packages --------------------------------------------------------------------------------------------

function missingPackages() {
  if (process.platform !== 'linux' || !hasCommand('dpkg-query')) return [];
  const listed = spawnSync(
    'dpkg-query',
    // biome-ignore lint/suspicious/noTemplateCurlyInString: dpkg's own placeholders
    ['-W', '-f', '${Package} ${db:Status-Status}\n', ...systemPackages.map((p) => p.name)],
    { encoding: 'utf8' },
  );
  const installed = new Set(
    (listed.stdout ?? '')
      .split('\n')
      .filter((line) => line.endsWith(' installed'))
      .map((line) => line.split(' ')[0]),
  );
  return systemPackages.filter((p) => !installed.has(p.name) && !p.has?.());
}

function systemDue() {
  const missing = missingPackages();
  if (missing.length === 0) return false;
  const canInstall = process.env.TUTTI_NO_APT !== '1' && process.getuid?.() === 0 && hasCommand('apt-get');
  if (!canInstall) {
    say(`! system packages missing, going on without them:\n${missing.map(lossLine).join('\n')}`);
    say(`  to install them: sudo apt-get install ${missing.map((p) => p.name).join(' ')}`);
    return false;
  }
  const tried = readJson(statePath)?.aptFailed;
  const recent = tried && Date.now() - tried.time < 24 * 3600_000 && !flags.has('--force');
  if (recent && missing.every((p) => tried.names.includes(p.name))) {
    say(`! going on without these system packages, which apt could not install (again with: npm run setup -- --force)`);
    say(missing.map(lossLine).join('\n'));
    return false;
  }
  return true;
}

async function systemInstall() {
  const missing = missingPackages();
  say(
    `› system packages: installing with apt-get, as root:\n${missing.map((p) => `    ${p.name}: ${p.why}`).join('\n')}`,
  );
  const names = missing.map((p) => p.name);
  const install = (which) => apt(['install', '-y', '--no-install-recommends', ...which]);
  const fresh = readdirSync('/var/lib/apt/lists').filter((name) => name.endsWith('Packages') || name.endsWith('.lz4'));
  const stale = fresh.length > 0; // lists are there, but may be too old to install from
  if (!stale) await apt(['update']);
  let ok = await install(names);
  if (!ok && stale) ok = (await apt(['update'])) && (await install(names));
  if (!ok) for (const name of names) await install([name]); // what can be had, one by one
  const left = missingPackages();
  if (left.length === 0) {
    writeState({ aptFailed: undefined });
    return 'installed';
  }
  writeState({ aptFailed: { time: Date.now(), names: left.map((p) => p.name) } });
  say(`! system packages that could not be installed, going on without them:\n${left.map(lossLine).join('\n')}`);
  return 'unavailable';
}

async function apt(args) {
  say(`  apt-get ${args.join(' ')}`);
  const options = [
    '-qq',
    '-o',
    'DPkg::Lock::Timeout=300',
    '-o',
    'Dpkg::Use-Pty=0',
    '-o',
    'Acquire::Retries=1',
    '-o',
    'Acquire::http::Timeout=30',
  ];
  const result = await capture('apt-get', [...options, ...args], {
    env: { ...process.env, DEBIAN_FRONTEND: 'noninteractive' },
  });
  if (result.code !== 0) say(indent(result.output.trim().split('\n').slice(-6).join('\n')));
  return result.code === 0;
}

function lossLine(p) {
  return `    ${p.name} (${p.why}): without it, not available: ${p.lost}`;
}

// ---- native add-on ------------------------------------------------------------------------------------------------

function nativeHash() {
  const hash = createHash('sha256');
  hash.update([process.platform, process.arch, process.versions.modules, hasVulkanHeaders()].join(' '));
  hash.update(readJson(at('node_modules', 'node-addon-api', 'package.json'))?.version ?? '');
  return hashFiles(hash, ['CMakeLists.txt', ...walk('native')]);
}

function nativeDue() {
  const built = existsSync(at('build', 'Release', 'tutti_native.node'));
  return flags.has('--force') || !built || readJson(statePath)?.native !== nativeHash();
}

async function nativeBuild() {
  const tools = [!hasCommand('cmake') && 'cmake', !hasCommand('c++') && 'a C++20 compiler (c++)'].filter(Boolean);
  if (tools.length > 0 && process.platform !== 'win32') {
    say(`! native add-on: ${tools.join(' and ')} not found; going on without the cpu and vulkan backends`);
    return 'unavailable';
  }
  say('› native add-on: building with cmake');
  const hash = nativeHash();
  const cmakeJs = (...args) => capture(process.execPath, [at('node_modules', 'cmake-js', 'bin', 'cmake-js'), ...args]);
  // A cache made for another folder or another generator cannot be configured again; the next try starts from nothing.
  if ((await cmakeJs('configure')).code !== 0) {
    for (const name of ['CMakeCache.txt', 'CMakeFiles']) rmSync(at('build', name), { recursive: true, force: true });
    const again = await cmakeJs('configure');
    if (again.code !== 0) throw new Error(`cmake could not configure\n${indent(again.output)}`);
  }
  const built = await cmakeJs('build', '--parallel', String(os.availableParallelism()));
  if (built.code !== 0)
    throw new Error(`it does not compile (to go on without it: TUTTI_NO_NATIVE=1)\n${indent(built.output)}`);
  const warnings = built.output.split('\n').filter((line) => line.includes('warning:'));
  if (warnings.length > 0) say(indent(warnings.join('\n')));
  writeState({ native: hash });
}

function hasVulkanHeaders() {
  const folders = [
    '/usr/include',
    '/usr/local/include',
    process.env.VULKAN_SDK && join(process.env.VULKAN_SDK, 'include'),
  ];
  return folders.some((folder) => folder && existsSync(join(folder, 'vulkan', 'vulkan.h')));
}

/** cmake-js prefers ninja and takes make otherwise. */
function hasGenerator() {
  return hasCommand('ninja') || hasCommand('make');
}

// ---- TypeScript ---------------------------------------------------------------------------------------------------

function typescriptHash() {
  const hash = createHash('sha256');
  hash.update(readJson(at('node_modules', 'typescript', 'package.json'))?.version ?? '');
  const files = sourceFolders.flatMap((path) => (path.endsWith('.ts') ? [path] : walk(path)));
  return hashFiles(hash, ['tsconfig.json', 'package.json', ...files.filter((file) => file.endsWith('.ts'))]);
}

function typescriptDue() {
  const built = existsSync(at('dist', 'tsconfig.tsbuildinfo'));
  return flags.has('--force') || !built || readJson(statePath)?.typescript !== typescriptHash();
}

async function typescriptBuild() {
  say('› TypeScript: compiling to dist');
  const hash = typescriptHash();
  // Incremental builds trust their notes: without the stamp of a finished build, start from nothing.
  if (flags.has('--force') || !readJson(statePath)?.typescript)
    rmSync(at('dist', 'tsconfig.tsbuildinfo'), { force: true });
  const compiled = await capture(process.execPath, [
    at('node_modules', 'typescript', 'bin', 'tsc'),
    '-p',
    'tsconfig.json',
  ]);
  if (compiled.code !== 0) throw new Error(`it does not compile\n${indent(compiled.output)}`);
  for (const file of walk('dist')) {
    const source = file.slice('dist/'.length).replace(/\.d\.ts$/, '.ts');
    if (!file.endsWith('.d.ts') || existsSync(at(source))) continue;
    for (const end of ['.d.ts', '.js', '.js.map']) rmSync(at(file.replace(/\.d\.ts$/, end)), { force: true });
  }
  writeState({ typescript: hash });
}

// ---- the command, for `npx tutti` in this checkout ------------------------------------------------------------------

function commandDue() {
  const target = at('dist', 'cli', 'main.js');
  if (process.platform === 'win32' || !existsSync(target)) return false;
  return !existsSync(binLink) || (statSync(target).mode & 0o111) === 0;
}

function commandLink() {
  const target = at('dist', 'cli', 'main.js');
  chmodSync(target, 0o755);
  rmSync(binLink, { force: true });
  symlinkSync(relative(dirname(binLink), target), binLink);
}

// ---- helpers --------------------------------------------------------------------------------------------------------

function say(text) {
  process.stderr.write(`${text}\n`);
}

function seconds(since) {
  return `${((performance.now() - since) / 1000).toFixed(1)} s`;
}

function indent(text) {
  return text.replace(/^(?=.)/gm, '    ');
}

/** Runs a command whose output the reader should see as it comes (on stderr). Resolves to its exit code. */
function show(command, args, options = {}) {
  return new Promise((resolve) => {
    const child = spawn(command, args, { cwd: root, stdio: ['ignore', 2, 2], ...options });
    child.on('error', () => resolve(127));
    child.on('close', (code) => resolve(code ?? 1));
  });
}

/** Runs a command whose output matters only if it fails. */
function capture(command, args, options = {}) {
  return new Promise((resolve) => {
    const child = spawn(command, args, { cwd: root, stdio: ['ignore', 'pipe', 'pipe'], ...options });
    let output = '';
    const collect = (chunk) => {
      output += chunk;
    };
    child.stdout.on('data', collect);
    child.stderr.on('data', collect);
    child.on('error', (error) => resolve({ code: 127, output: String(error) }));
    child.on('close', (code) => resolve({ code: code ?? 1, output }));
  });
}

function hasCommand(name) {
  const ends = process.platform === 'win32' ? ['.exe', '.cmd'] : [''];
  return (process.env.PATH ?? '')
    .split(delimiter)
    .some((folder) => ends.some((end) => existsSync(join(folder, name + end))));
}

function readJson(path) {
  try {
    return JSON.parse(readFileSync(path, 'utf8'));
  } catch {
    return undefined;
  }
}

function writeState(change) {
  mkdirSync(dirname(statePath), { recursive: true });
  writeFileSync(statePath, `${JSON.stringify({ ...readJson(statePath), ...change }, null, 2)}\n`);
}

/** Files under `folder`, relative to the root, sorted; empty where there is no such folder. */
function walk(folder) {
  if (!existsSync(at(folder))) return [];
  return readdirSync(at(folder), { withFileTypes: true })
    .sort((a, b) => (a.name < b.name ? -1 : 1))
    .flatMap((entry) => {
      const path = `${folder}/${entry.name}`;
      return entry.isDirectory() ? walk(path) : [path];
    });
}

function hashFiles(hash, files) {
  for (const file of files) {
    if (!existsSync(at(file))) continue;
    const bytes = readFileSync(at(file));
    hash.update(`\n${file} ${bytes.length}\n`).update(bytes);
  }
  return hash.digest('hex');
}

/** One set-up at a time in a checkout. A lock whose owner is gone is taken over. */
async function lock() {
  mkdirSync(dirname(lockPath), { recursive: true });
  for (let waited = false; ; waited = true) {
    try {
      writeFileSync(lockPath, String(process.pid), { flag: 'wx' });
      process.on('exit', unlock);
      for (const signal of ['SIGINT', 'SIGTERM']) process.on(signal, () => process.exit(130));
      return;
    } catch (error) {
      if (error.code !== 'EEXIST') throw error;
    }
    const owner = Number(readTextOr(lockPath, ''));
    if (owner > 0 && !isAlive(owner)) {
      rmSync(lockPath, { force: true });
      continue;
    }
    if (!waited) say(`› waiting for another set-up in this folder (process ${owner || '?'}) to end`);
    await new Promise((resolve) => setTimeout(resolve, 200));
  }
}

function unlock() {
  if (readTextOr(lockPath, '') === String(process.pid)) rmSync(lockPath, { force: true });
}

function readTextOr(path, fallback) {
  try {
    return readFileSync(path, 'utf8');
  } catch {
    return fallback;
  }
}

function isAlive(pid) {
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return error.code === 'EPERM';
  }
}
