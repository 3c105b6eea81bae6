/** `tutti compile`: a model becomes an artifact that runs on any device; kernels of targets can be looked at. */
import { join } from 'node:path';
import type { Command } from 'commander';
import type { Backend, KernelCode, Target } from '../backends/backend.js';
import { backends } from '../backends/registry.js';
import { plan } from '../compiler/compile.js';
import { TuttiError } from '../compiler/error.js';
import type { PlanReport } from '../compiler/plan.js';
import { preferring } from '../compiler/schedule/forms.js';
import type { Model } from '../runtime/model.js';
import { readTuning } from '../runtime/node.js';
import { chosenFor, type Tuning } from '../runtime/tuning.js';
import { checkFolder, checkWritable, writeOutput } from './files.js';
import { collect, loadModel, type ModelFlags, modelFlags, tuningFlag } from './options.js';
import { formatBytes, formatMs, note, print, printJson, table } from './output.js';
import type { Verb } from './verb.js';

interface Flags extends ModelFlags {
  readonly output: string;
  readonly target?: readonly string[];
  readonly tuning?: string;
  readonly emit?: string;
  readonly dumpIr?: string;
  readonly json?: boolean;
}

const help = `
Targets: cpu, cuda, metal, vulkan, webgpu, each with an architecture if wanted (cuda:sm_90a). No device is needed for it.

Examples:
  $ tutti compile model.onnx -o model.tutti
  $ tutti compile model.onnx -o model.tutti --dim batch=1..64
  $ tutti compile model.onnx -o model.tutti --target cpu --target vulkan --emit kernels/ --dump-ir ir/`;

export const compileVerb: Verb = (program, wrap) => {
  const command: Command = program
    .command('compile')
    .description('compile a model to an artifact')
    .argument('<model>', '.onnx or .tutti file')
    .requiredOption('-o, --output <file.tutti>', 'the artifact to write')
    .option(
      '--target <backend[:arch]>',
      'also lower for this target and put its kernels into the artifact (repeatable)',
      collect,
    );
  tuningFlag(modelFlags(command))
    .option('--emit <dir>', 'write the kernel sources of the targets (default target: cpu)')
    .option('--dump-ir <dir>', 'write the IR after each pass and stage')
    .option('--json', 'print one JSON document')
    .addHelpText('after', help)
    .action(wrap((path: string, flags: Flags) => compileModel(path, flags)));
};

export interface NamedTarget {
  readonly name: string;
  readonly backend: Backend;
  readonly target: Target;
}

/** @throws TuttiError E_USAGE for targets that no backend knows */
export async function findTarget(name: string): Promise<NamedTarget> {
  const [backendName, ...rest] = name.split(':');
  const arch = rest.join(':');
  const unknown = (expected: string): TuttiError =>
    new TuttiError('E_USAGE', 'no such target', { subject: '--target', expected, found: name });
  const registered = await backends(true);
  const load = Object.hasOwn(registered, backendName) ? registered[backendName] : undefined;
  if (load === undefined) throw unknown(`one of ${Object.keys(registered).sort().join(', ')}, or backend:arch`);
  const backend = await load();
  const target = backend.target(arch === '' ? undefined : arch);
  if (target === undefined)
    throw unknown(`an architecture that ${backendName} knows, for instance ${backendName}:${backend.target()?.arch}`);
  return { name, backend, target };
}

/** A model lowered for a target, without a device. */
export interface Lowered {
  readonly report: PlanReport;
  readonly codes: readonly KernelCode[];
  readonly milliseconds: number;
}

/** Named dims without a size become their lower bound, at least 1. */
export function assumedDims(model: Model): Record<string, number> {
  return Object.fromEntries([...model.dims].map(([name, { min }]) => [name, Math.max(1, min)]));
}

/** @throws TuttiError E_UNSUPPORTED, E_SHAPE, E_INPUT */
export function lower(
  model: Model,
  { backend, target }: Pick<NamedTarget, 'backend' | 'target'>,
  dump?: (stage: string, text: () => string) => void,
  tuning: Tuning = [],
): Lowered {
  const start = performance.now();
  const planned = plan(model.graph, target, {
    numerics: model.numerics,
    shapes: model.shapes,
    dims: { ...model.sizes, ...assumedDims(model) },
    ...(dump === undefined ? {} : { dump }),
    prefer: preferring(chosenFor(tuning, target)),
  });
  const codes = planned.kernels.map((kernel) => backend.render(kernel, planned.target));
  return { report: planned.report, codes, milliseconds: performance.now() - start };
}

async function compileModel(path: string, flags: Flags): Promise<undefined> {
  const output = checkWritable(flags.output);
  const emit = flags.emit === undefined ? undefined : checkFolder(flags.emit);
  const dumpFolder = flags.dumpIr === undefined ? undefined : checkFolder(flags.dumpIr);
  const names = flags.target ?? (emit !== undefined || dumpFolder !== undefined ? ['cpu'] : []);
  const targets = await Promise.all(names.map(findTarget));
  const tuning = readTuning(flags.tuning);
  const start = performance.now();
  const model = await loadModel(path, flags);
  const importMs = performance.now() - start;
  const assumed = targets.length > 0 ? assumedDims(model) : {};
  if (Object.keys(assumed).length > 0) {
    note(
      `kernels for ${Object.entries(assumed)
        .map(([name, size]) => `${name}=${size}`)
        .join(', ')}; choose with --dim`,
    );
  }
  const lowered = targets.map((named) => {
    const prefix = targets.length > 1 ? `${fileName(named.name)}.` : '';
    const dump =
      dumpFolder === undefined
        ? undefined
        : (stage: string, text: () => string) =>
            writeOutput(join(dumpFolder, `${prefix}${fileName(stage)}.txt`), text());
    const result = lower(model, named, dump, tuning);
    if (emit !== undefined) emitKernels(emit, named, result.codes, targets.length > 1);
    return { target: named.name, ...result };
  });
  // Only what was asked for by name: kernels to look at make the file larger.
  const kernels = flags.target === undefined ? [] : lowered.map(({ target, codes }) => ({ target, kernels: codes }));
  await model.save(output, { kernels });
  const summary = {
    model: path,
    artifact: flags.output,
    numerics: model.numerics,
    importMs,
    weightsBytes: model.weightsBytes,
    nodes: model.nodes,
    targets: lowered.map(({ target, report, milliseconds }) => ({
      target,
      compileMs: milliseconds,
      kernels: report.kernels,
      dispatches: report.dispatches,
      arenaBytes: report.arenaBytes,
    })),
  };
  if (flags.json) {
    printJson(summary);
    return;
  }
  print(
    `${flags.output}: ${model.nodes} nodes, ${formatBytes(model.weightsBytes)} of weights, imported in ${formatMs(importMs)}`,
  );
  if (summary.targets.length > 0) {
    print(
      table(
        ['TARGET', 'KERNELS', 'DISPATCHES', 'ARENA', 'LOWERED IN'],
        summary.targets.map(({ target, kernels, dispatches, arenaBytes, compileMs }) => [
          target,
          String(kernels),
          String(dispatches),
          formatBytes(arenaBytes),
          formatMs(compileMs),
        ]),
        ['left', 'right', 'right', 'right', 'right'],
      ),
    );
  }
}

const extensions: Readonly<Record<string, string>> = {
  cpu: 'c',
  vulkan: 'spv',
  webgpu: 'wgsl',
  cuda: 'ptx',
  metal: 'metal',
};
const fileName = (text: string): string => text.replaceAll(/[^\w.-]+/g, '_');

/** `000-name.c` and so on; SPIR-V as words. */
function emitKernels(
  folder: string,
  { name, target }: NamedTarget,
  codes: readonly KernelCode[],
  several: boolean,
): void {
  const into = several ? checkFolder(join(folder, fileName(name))) : folder;
  codes.forEach((code, i) => {
    const path = join(into, `${String(i).padStart(3, '0')}-${fileName(code.name)}.${extensions[target.backend]}`);
    const { words } = code;
    writeOutput(
      path,
      words === undefined ? (code.text ?? '') : new Uint8Array(words.buffer, words.byteOffset, words.byteLength),
    );
  });
}
