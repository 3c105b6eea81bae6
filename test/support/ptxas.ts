/** NVIDIA's assembler, where it is installed, over many kernels at once. */
import { spawn, spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { KernelCode } from '../../backends/backend.js';
import { archNamed } from '../../backends/cuda/target.js';

const help = spawnSync('ptxas', ['--help'], { encoding: 'utf8' });
/** Why tests that assemble are skipped; undefined where they need not be. */
export const ptxasMissing =
  help.status === 0 ? undefined : 'ptxas (of the CUDA toolkit) is not in PATH: PTX is not assembled';

export const ptxasKnows = (arch: string): boolean => help.status === 0 && help.stdout.includes(`'${arch}'`);

/** Kernels of one call; few enough that a complaint is read at once. */
const batch = 64;

/** Assembles kernels of one architecture. What ptxas says against each batch, with its text; empty if it takes all. */
export async function assemble(
  codes: readonly KernelCode[],
  arch: string,
  options: readonly string[] = [],
): Promise<string[]> {
  if (ptxasMissing !== undefined) return [];
  const folder = mkdtempSync(join(tmpdir(), 'tutti-ptx-'));
  try {
    const complaints: string[] = [];
    for (let at = 0; at < codes.length; at += batch) {
      const text = moduleOf(codes.slice(at, at + batch), arch);
      const file = join(folder, `${at}.ptx`);
      writeFileSync(file, text);
      const said = await run([...options, '-arch', arch, '-o', join(folder, 'out.cubin'), file]);
      if (said !== '') complaints.push(`${said}\n${excerpt(text, said)}`);
    }
    return complaints;
  } finally {
    rmSync(folder, { recursive: true, force: true });
  }
}

/** One module of many: one header, and entries and functions renamed apart. */
function moduleOf(codes: readonly KernelCode[], arch: string): string {
  const header = `.version ${archNamed(arch)?.ptx.join('.')}\n.target ${arch}\n.address_size 64\n`;
  const bodies = codes.map(({ text = '', entry }, i) => {
    const lines = text.split('\n');
    const start = lines.indexOf('.address_size 64');
    if (!lines[1].startsWith('.version') || !lines.includes(`.target ${arch}`)) throw new Error(`not PTX for ${arch}`);
    return [lines[0], ...lines.slice(start + 1)].join('\n').replaceAll(entry, `k${i}_${entry}`);
  });
  return header + bodies.join('\n');
}

function run(args: readonly string[]): Promise<string> {
  return new Promise((resolve, reject) => {
    const child = spawn('ptxas', args);
    let said = '';
    child.stdout.on('data', (data) => (said += data));
    child.stderr.on('data', (data) => (said += data));
    child.on('error', reject);
    child.on('close', (status) => resolve(status === 0 ? '' : `ptxas ${args.join(' ')} → ${status}\n${said}`));
  });
}

/** The lines that are complained about. */
function excerpt(text: string, said: string): string {
  const lines = text.split('\n');
  const numbers = [...said.matchAll(/line (\d+)/g)].slice(0, 8).map((match) => Number(match[1]));
  return numbers.map((number) => `${number}: ${lines[number - 1]}`).join('\n');
}
