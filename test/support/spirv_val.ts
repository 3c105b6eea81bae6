/** What the validator of spirv-tools says of a module, where it is installed. */
import { spawnSync } from 'node:child_process';

export const hasSpirvVal = spawnSync('spirv-val', ['--version']).status === 0;

/** @param environment As `--target-env` takes it: vulkan1.1 and the like. */
export function spirvVal(
  words: Uint32Array,
  environment: string,
): { readonly status: number | null; readonly output: string } {
  const input = new Uint8Array(words.buffer, words.byteOffset, words.byteLength);
  const { status, stdout, stderr } = spawnSync('spirv-val', ['--target-env', environment, '-'], { input });
  return { status, output: `${stdout}${stderr}` };
}
