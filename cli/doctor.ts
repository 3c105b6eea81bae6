/** `tutti doctor`: before anything is compiled, what of a model is supported where, what is not, and what to do. */
import { readFileSync } from 'node:fs';
import type { Command } from 'commander';
import { TuttiError } from '../compiler/error.js';
import { decode, supportedOperators } from '../compiler/frontends/onnx/index.js';
import type { GraphProto, ModelProto } from '../compiler/frontends/onnx/proto.js';
import { devices, openDevice } from '../runtime/device.js';
import type { Model } from '../runtime/model.js';
import { assumedDims, lower } from './compile.js';
import { collect, inOrderOfTrust, loadModel, type ModelFlags, modelFlags } from './options.js';
import { formatBytes, print, printJson } from './output.js';
import type { Verb } from './verb.js';

interface Flags extends ModelFlags {
  readonly device?: readonly string[];
  readonly json?: boolean;
}

interface Problem {
  readonly code: string;
  readonly message: string;
}

interface DeviceVerdict {
  readonly device: string;
  readonly supported: boolean;
  readonly kernels?: number;
  readonly arenaBytes?: number;
  readonly weightsBytes?: number;
  readonly memoryBytes: number;
  /** What was done about types that the device does not have. */
  readonly notes: readonly string[];
  /** The node at which the host reads data to know how to go on; the figures are of what comes before. */
  readonly waits?: { readonly source: string; readonly what: string };
  readonly problems: readonly Problem[];
}

interface Diagnosis {
  readonly model: string;
  /** Operators of the model that the frontend does not know, with the number of nodes. */
  readonly unsupportedOperators: readonly { readonly operator: string; readonly nodes: number }[];
  /** What keeps the model from being loaded at all. */
  readonly problems: readonly Problem[];
  readonly assumed: Readonly<Record<string, number>>;
  readonly devices: readonly DeviceVerdict[];
  readonly missing: readonly { readonly backend: string; readonly reason: string }[];
}

export const doctorVerb: Verb = (program, wrap) => {
  const command: Command = program
    .command('doctor')
    .description('say what of a model runs on which device, and what to do about the rest')
    .argument('<model>', '.onnx or .tutti file')
    .option('-d, --device <id>', 'only this device (repeatable)', collect);
  modelFlags(command)
    .option('--json', 'print one JSON document')
    .addHelpText('after', '\nExit code 0 if the model runs on every device asked for, or without --device on any.')
    .action(wrap((path: string, flags: Flags) => diagnose(path, flags)));
};

const problemOf = (error: unknown): Problem => {
  if (error instanceof TuttiError) return { code: error.code, message: error.message };
  throw error;
};

async function diagnose(path: string, flags: Flags): Promise<number> {
  const present = await devices();
  const selectors = flags.device ?? inOrderOfTrust(present.devices).map(({ id }) => id);
  let model: Model | undefined;
  const problems: Problem[] = [];
  try {
    model = await loadModel(path, flags);
  } catch (error) {
    const problem = problemOf(error);
    // Not the model's fault: there is nothing to diagnose.
    if (problem.code === 'E_IO' || problem.code === 'E_USAGE' || problem.code === 'E_INPUT') throw error;
    problems.push(problem);
  }
  const verdicts: DeviceVerdict[] = [];
  for (const selector of selectors) {
    if (model !== undefined) verdicts.push(await examine(model, selector));
  }
  const diagnosis: Diagnosis = {
    model: path,
    unsupportedOperators: model === undefined ? unknownOperators(path) : [],
    problems,
    assumed: model === undefined ? {} : assumedDims(model),
    devices: verdicts,
    missing: present.missing,
  };
  if (flags.json) printJson(diagnosis);
  else printDiagnosis(diagnosis);
  const good = verdicts.filter(({ supported }) => supported).length;
  return good > 0 && (flags.device === undefined || good === verdicts.length) ? 0 : 1;
}

/** All of them, not only the first that stops the import. Artifacts have none: they hold our own ops. */
function unknownOperators(path: string): Diagnosis['unsupportedOperators'] {
  let proto: ModelProto;
  try {
    proto = decode('ModelProto', readFileSync(path));
  } catch {
    return []; // `loadModel` says what is wrong.
  }
  const own = new Set(proto.functions.map(({ domain = '', name = '' }) => operatorName(domain, name)));
  const counts = new Map<string, number>();
  const visit = (nodes: GraphProto['node']): void => {
    for (const { domain = '', opType = '', attribute } of nodes) {
      const name = operatorName(domain, opType);
      if (!own.has(name) && !supportedOperators.has(name)) counts.set(name, (counts.get(name) ?? 0) + 1);
      for (const { g, graphs } of attribute) {
        if (g !== undefined) visit(g.node);
        for (const graph of graphs) visit(graph.node);
      }
    }
  };
  visit(proto.graph?.node ?? []);
  for (const body of proto.functions) visit(body.node);
  return [...counts].sort((a, b) => b[1] - a[1]).map(([operator, nodes]) => ({ operator, nodes }));
}

const operatorName = (domain: string, name: string): string =>
  domain === '' || domain === 'ai.onnx' ? name : `${domain}.${name}`;

async function examine(model: Model, selector: string): Promise<DeviceVerdict> {
  const handle = await openDevice(selector);
  const { info, target } = handle.device;
  const verdict = { device: info.id, memoryBytes: info.memoryBytes };
  try {
    const { report } = lower(model, { backend: handle.backend, target });
    const { kernels, arenaBytes, weightsBytes, waits } = report;
    const notes = [...new Set(report.placement.flatMap((group) => group.notes))];
    const needed = arenaBytes + weightsBytes;
    const fits = needed <= info.memoryBytes;
    const problems: Problem[] = fits
      ? []
      : [
          {
            code: 'E_OUT_OF_MEMORY',
            message: `needs ${formatBytes(needed)}, the device has ${formatBytes(info.memoryBytes)}`,
          },
        ];
    const figures = { kernels, arenaBytes, weightsBytes, notes, ...(waits && { waits }) };
    return { ...verdict, supported: fits, ...figures, problems };
  } catch (error) {
    return { ...verdict, supported: false, notes: [], problems: [problemOf(error)] };
  } finally {
    await handle.release();
  }
}

function printDiagnosis({
  model,
  unsupportedOperators,
  problems,
  assumed,
  devices: verdicts,
  missing,
}: Diagnosis): void {
  print(model);
  for (const { operator, nodes } of unsupportedOperators) {
    print(`  ✗ operator ${operator} is not supported (${nodes} ${nodes === 1 ? 'node' : 'nodes'})`);
  }
  if (unsupportedOperators.length > 0)
    print('    Rewrite these in the model, or export it without them; docs/ops.md lists what there is.');
  for (const { code, message } of problems) print(`  ✗ ${code}: ${message}`);
  const sizes = Object.entries(assumed).map(([name, size]) => `${name}=${size}`);
  if (sizes.length > 0) print(`  dims without a size are taken as ${sizes.join(', ')} (--dim name=N for others)`);
  for (const {
    device,
    supported,
    kernels,
    arenaBytes = 0,
    weightsBytes = 0,
    notes,
    waits,
    problems: why,
  } of verdicts) {
    if (supported)
      print(
        `  ✓ ${device}: ${kernels} kernels, ${formatBytes(weightsBytes)} of weights, ${formatBytes(arenaBytes)} arena`,
      );
    else print(`  ✗ ${device}`);
    if (waits !== undefined) {
      print(`      up to ${waits.source}, which needs ${waits.what}: a session plans on when the data is there`);
    }
    for (const { code, message } of why) print(`      ${code}: ${message}`);
    for (const text of notes) print(`      ${text}`);
  }
  for (const { backend, reason } of missing) print(`  – ${backend} is not here: ${reason}`);
}
