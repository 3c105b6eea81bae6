/** `tutti inspect`: what is in a model and what becomes of it on a target, as text, JSON, a page or TypeScript types. */
import type { Command } from 'commander';
import type { PlanReport } from '../compiler/plan.js';
import { openDevice } from '../runtime/device.js';
import type { Model } from '../runtime/model.js';
import { assumedDims, findTarget, lower } from './compile.js';
import { checkWritable, writeOutput } from './files.js';
import { htmlReport } from './html.js';
import type { Inspection, ValueSummary } from './inspection.js';
import { loadModel, type ModelFlags, modelFlags } from './options.js';
import { formatBytes, formatNumber, note, print, printJson, shortDim, table } from './output.js';
import { typesOf } from './types.js';
import type { Verb } from './verb.js';

interface Flags extends ModelFlags {
  readonly device?: string;
  readonly target?: string;
  readonly json?: boolean;
  readonly html?: string;
  readonly types?: boolean;
}

const help = `
Examples:
  $ tutti inspect model.onnx
  $ tutti inspect model.tutti --dim batch=8 --html report.html
  $ tutti inspect model.onnx --types > model.d.ts`;

export const inspectVerb: Verb = (program, wrap) => {
  const command: Command = program
    .command('inspect')
    .description('inputs, outputs, ops, groups, kernels and memory of a model')
    .argument('<model>', '.onnx or .tutti file')
    .option('-d, --device <id>', 'plan for this device (default: the target cpu)')
    .option('--target <backend[:arch]>', 'plan for this target, which need not be here');
  modelFlags(command)
    .option('--json', 'print one JSON document')
    .option('--html <file>', 'write a page about the model')
    .option('--types', 'print the TypeScript types of inputs and outputs')
    .addHelpText('after', help)
    .action(wrap((path: string, flags: Flags) => inspect(path, flags)));
};

async function inspect(path: string, flags: Flags): Promise<undefined> {
  const html = flags.html === undefined ? undefined : checkWritable(flags.html);
  const model = await loadModel(path, flags);
  if (flags.types) {
    print(typesOf(model));
    return;
  }
  const inspection = await inspectModel(path, model, flags);
  if (html !== undefined) {
    writeOutput(html, htmlReport(inspection));
    note(`written to ${flags.html}`);
  }
  if (flags.json) printJson(inspection);
  else if (html === undefined) printInspection(inspection);
}

async function inspectModel(path: string, model: Model, flags: Flags): Promise<Inspection> {
  const values = (infos: Model['inputs']): ValueSummary[] =>
    infos.map(({ name, dtype, shape }) => ({ name, dtype, shape }));
  const counts = new Map<string, number>();
  for (const { op } of model.graph.nodes) counts.set(op, (counts.get(op) ?? 0) + 1);
  const { name, report } = await planned(model, flags);
  const { groups, kernels, dispatches, constantsFolded, weightsBytes, arenaBytes, largestLiveBytes } = report;
  return {
    model: path,
    name: model.name,
    numerics: model.numerics,
    target: name,
    assumed: assumedDims(model),
    inputs: values(model.inputs),
    outputs: values(model.outputs),
    ops: Object.fromEntries([...counts].sort((a, b) => b[1] - a[1] || (a[0] < b[0] ? -1 : 1))),
    nodes: model.nodes,
    groups,
    kernels,
    dispatches,
    arenaBytes,
    largestLiveBytes,
    weightsBytes,
    constantsFolded,
    bytesMoved: report.bytesMoved,
    flops: report.flops,
    placement: report.placement,
    ...(report.waits === undefined ? {} : { waits: report.waits }),
  };
}

async function planned(model: Model, { device, target }: Flags): Promise<{ name: string; report: PlanReport }> {
  if (device === undefined) {
    const named = await findTarget(target ?? 'cpu');
    return { name: `${named.target.backend}:${named.target.arch}`, report: lower(model, named).report };
  }
  const handle = await openDevice(device);
  try {
    const { backend, device: open } = handle;
    return { name: open.info.id, report: lower(model, { backend, target: open.target }).report };
  } finally {
    await handle.release();
  }
}

function printInspection(inspection: Inspection): void {
  const { name, target, inputs, outputs, ops, assumed, placement } = inspection;
  print(`${name} (${inspection.numerics})`);
  const shaped = (kind: string, values: readonly ValueSummary[]): string[][] =>
    values.map((value) => [kind, value.name, value.dtype, `[${value.shape.map(shortDim).join(', ')}]`]);
  print(table(['', 'NAME', 'TYPE', 'SHAPE'], [...shaped('input', inputs), ...shaped('output', outputs)]));
  print(
    `\nops: ${Object.entries(ops)
      .map(([op, count]) => `${op} ${count}`)
      .join(', ')}`,
  );
  const until = inspection.waits && `, up to ${inspection.waits.source}, which needs ${inspection.waits.what}`;
  print(`\nplan for ${target}${Object.keys(assumed).length === 0 ? '' : ` with ${sizes(assumed)}`}${until ?? ''}`);
  print(
    table(
      ['NODES', 'GROUPS', 'KERNELS', 'DISPATCHES', 'FOLDED', 'WEIGHTS', 'ARENA', 'LARGEST LIVE', 'GFLOP', 'MOVED'],
      [
        [
          String(inspection.nodes),
          String(inspection.groups),
          String(inspection.kernels),
          String(inspection.dispatches),
          String(inspection.constantsFolded),
          formatBytes(inspection.weightsBytes),
          formatBytes(inspection.arenaBytes),
          formatBytes(inspection.largestLiveBytes),
          formatNumber(inspection.flops / 1e9),
          formatBytes(inspection.bytesMoved),
        ],
      ],
    ),
  );
  print();
  print(
    table(
      ['GROUP', 'FAMILY', 'NODES', 'NOTES'],
      placement.map(({ kernel, family, sources, notes }) => [
        kernel,
        family,
        clip(sources.join(' '), 60),
        notes.join('; '),
      ]),
    ),
  );
}

const clip = (text: string, length: number): string => (text.length > length ? `${text.slice(0, length - 1)}…` : text);
const sizes = (dims: Readonly<Record<string, number>>): string =>
  Object.entries(dims)
    .map(([name, size]) => `${name}=${size}`)
    .join(', ');
