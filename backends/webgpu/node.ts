/**
 * WebGPU in Node: Dawn from the npm package `webgpu`, and the choice of the Vulkan driver that it runs on.
 *
 * Dawn asks the Vulkan loader for drivers inside `requestAdapter`, synchronously, and the loader reads the environment
 * through libc's getenv. The variables set here exist only during that call, so that the vulkan backend of the same
 * process keeps its own choice. (Assigning to process.env calls setenv on the main thread only; in a worker thread
 * Dawn sees what the process was started with.)
 */
import { existsSync, readdirSync } from 'node:fs';
import { availableParallelism, tmpdir, totalmem } from 'node:os';
import type { GpuSource, Unavailable } from './source.js';

const SWIFTSHADER = [
  '/usr/lib/chromium/vk_swiftshader_icd.json',
  '/usr/lib/chromium-browser/vk_swiftshader_icd.json',
  '/usr/lib/x86_64-linux-gnu/vk_swiftshader_icd.json',
  '/usr/lib/aarch64-linux-gnu/vk_swiftshader_icd.json',
];

const DAWN_OPTIONS = [
  // Timestamps in whole nanoseconds instead of steps of 100 µs; profiling one's own kernels leaks nothing.
  'disable-dawn-features=timestamp_quantization',
  // No clamp at every access: every kernel that goes to the device is ours and proven in bounds (compiler/kernel/verify),
  // and each dispatch's bindings are checked to be as long as the kernel says. See docs/decisions.md.
  'enable-dawn-features=disable_robustness',
];

/**
 * Dawn's objects for as long as the process lives. Dawn crashes or hangs at exit if the object from `create` is
 * collected while a device is alive.
 */
const keepAlive: unknown[] = [];

let opened: Promise<GpuSource | Unavailable> | undefined;

/** The GPU object of this process with an adapter behind it, or why there is none. Never rejects. */
export function nodeGpu(): Promise<GpuSource | Unavailable> {
  opened ??= openDawn().catch((error: unknown) => ({
    reason: `the npm package 'webgpu' could not be started: ${error instanceof Error ? error.message : String(error)}`,
  }));
  return opened;
}

async function openDawn(): Promise<GpuSource | Unavailable> {
  let dawn: typeof import('webgpu');
  try {
    dawn = await import('webgpu');
  } catch (error) {
    const words = error instanceof Error ? error.message.split('\n')[0] : String(error);
    return { reason: `the npm package 'webgpu' cannot be loaded (${words}): run npm install` };
  }
  const tried: string[] = [];
  for (const { name, icd } of vulkanChoices()) {
    const gpu = dawn.create(DAWN_OPTIONS);
    keepAlive.push(gpu);
    const adapter = await withEnvironment(environment(icd), () => gpu.requestAdapter());
    if (adapter) {
      return { gpu, memoryBytes: totalmem(), threads: availableParallelism() };
    }
    tried.push(name);
  }
  return {
    reason: `Dawn found no adapter (tried ${tried.join(', ')}): install a Vulkan 1.1 driver for the GPU, or SwiftShader (Debian: chromium-common)`,
  };
}

interface VulkanChoice {
  readonly name: string;
  /** ICD file to use alone, or undefined to let the loader search. */
  readonly icd: string | undefined;
}

function vulkanChoices(): readonly VulkanChoice[] {
  const system: VulkanChoice = { name: 'the drivers of this system', icd: undefined };
  if (process.platform !== 'linux') return [system];
  const software = SWIFTSHADER.filter((path) => existsSync(path)).map((icd) => ({ name: icd, icd }));
  const wish = process.env.TUTTI_VULKAN_ICD;
  if (wish) return [{ name: wish, icd: wish }, ...software.filter(({ icd }) => icd !== wish)];
  if (process.env.VK_ICD_FILENAMES || process.env.VK_DRIVER_FILES) return [system, ...software];
  // Without a GPU's device node only software can answer, and SwiftShader is the one that Dawn accepts in every version.
  return hasGpu() ? [system, ...software] : [...software, system];
}

function hasGpu(): boolean {
  if (existsSync('/dev/nvidiactl') || existsSync('/dev/dxg')) return true;
  try {
    return readdirSync('/dev/dri').some((name) => name.startsWith('renderD'));
  } catch {
    return false;
  }
}

function environment(icd: string | undefined): Readonly<Record<string, string>> {
  return {
    // Vulkan drivers with Wayland support complain on stderr without it.
    ...(process.env.XDG_RUNTIME_DIR ? {} : { XDG_RUNTIME_DIR: tmpdir() }),
    ...(icd === undefined ? {} : { VK_ICD_FILENAMES: icd, VK_DRIVER_FILES: icd }),
  };
}

function withEnvironment<T>(variables: Readonly<Record<string, string>>, call: () => T): T {
  const saved = Object.keys(variables).map((name) => [name, process.env[name]] as const);
  Object.assign(process.env, variables);
  try {
    return call();
  } finally {
    for (const [name, value] of saved) {
      if (value === undefined) delete process.env[name];
      else process.env[name] = value;
    }
  }
}
