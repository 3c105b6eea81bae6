/**
 * What says something about speed and does not depend on a machine's mood: kernels after fusion, bytes that a plan
 * moves, and how close its arena is to the least there can be, for the reference models on a fixed target of every
 * backend; instructions of key CPU kernels. bench/guards.json holds what is expected: worse is an error,
 * `npm run bench -- guards --update` takes what is so now.
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { findTarget } from '../cli/compile.js';
import { writeOutput } from '../cli/files.js';
import { plan } from '../compiler/compile.js';
import { importOnnx } from '../compiler/frontends/onnx/index.js';
import { goldenFaults, writeGolden } from './golden.js';
import { countInstructions, instructionCases, missingTools } from './instructions.js';
import { modelsFolder } from './models.js';
import { root } from './record.js';

export interface PlanFacts {
  readonly kernels: number;
  readonly dispatches: number;
  readonly bytesMoved: number;
  readonly arenaBytes: number;
  readonly largestLiveBytes: number;
}

interface Expected {
  /** By model and target. */
  readonly plans: Readonly<Record<string, Readonly<Record<string, PlanFacts>>>>;
  /** By kernel: instructions for each unit of its work. */
  readonly instructions: Readonly<Record<string, number>>;
}

/** Described by name alone: what is planned for them is the same on every machine. */
export const guardTargets = ['cpu:x86-64-v4', 'vulkan:spirv1.3', 'webgpu:wgsl', 'cuda:sm_90a', 'metal:apple7'] as const;

/** Of every kind of network one: convolutions, depthwise, quantised, transformer, recurrent, signal. */
export const guardModels = [
  'mnist-cnn8',
  'mobilenetv2-fp32-derived',
  'mobilenetv2-int8-qdq',
  'bert-toy',
  'gpt2-attention-block-768',
  'transformer-encoder-tiny',
  'dtln-1',
  'superres-espcn-x3',
  'yunet-dynamic',
] as const;

/** An arena may be so much larger than the largest sum of bytes alive at once. */
const arenaSlack = 1.1;
/** Compilers differ in how many instructions they make of the same loop. */
const instructionSlack = 1.15;

const path = join(root, 'bench', 'guards.json');

export const readExpected = (): Expected => JSON.parse(readFileSync(path, 'utf8')) as Expected;

export const hasModel = (name: string): boolean => existsSync(join(modelsFolder, name, 'model.onnx'));

export async function planFacts(model: string, targetName: string): Promise<PlanFacts> {
  const { target } = await findTarget(targetName);
  const graph = importOnnx(readFileSync(join(modelsFolder, model, 'model.onnx')));
  const dims = Object.fromEntries([...graph.dims].map(([dim, { min }]) => [dim, Math.max(1, min)]));
  const { kernels, dispatches, bytesMoved, arenaBytes, largestLiveBytes } = plan(graph, target, { dims }).report;
  return { kernels, dispatches, bytesMoved, arenaBytes, largestLiveBytes };
}

/** What is worse than expected, in words; what is better is no fault. */
export function planFaults(what: string, found: PlanFacts, expected: PlanFacts | undefined): string[] {
  if (expected === undefined) return [`${what}: nothing is expected of it yet: npm run bench -- guards --update`];
  const grown = (['kernels', 'dispatches', 'bytesMoved', 'arenaBytes'] as const)
    .filter((fact) => found[fact] > expected[fact])
    .map((fact) => `${what}: ${fact} ${found[fact]}, expected at most ${expected[fact]}`);
  const least = found.largestLiveBytes;
  const loose = found.arenaBytes > arenaSlack * least && found.arenaBytes > arenaSlack * expected.arenaBytes;
  return loose ? [...grown, `${what}: an arena of ${found.arenaBytes} bytes where ${least} are alive`] : grown;
}

export const instructionFaults = (name: string, found: number, expected: number | undefined): string[] => {
  if (expected === undefined) return [`${name}: nothing is expected of it yet: npm run bench -- guards --update`];
  return found <= instructionSlack * expected
    ? []
    : [`${name}: ${found.toFixed(4)} instructions for each unit, expected ${expected.toFixed(4)}`];
};

export async function checkGuards(): Promise<string[]> {
  const expected = readExpected();
  const faults = await goldenFaults();
  for (const model of guardModels.filter(hasModel)) {
    for (const target of guardTargets) {
      faults.push(
        ...planFaults(`${model} for ${target}`, await planFacts(model, target), expected.plans[model]?.[target]),
      );
    }
  }
  if (missingTools() === undefined) {
    for (const one of instructionCases) {
      faults.push(...instructionFaults(one.name, await countInstructions(one), expected.instructions[one.name]));
    }
  }
  return faults;
}

/** @returns what has been written, in words */
export async function writeGuards(): Promise<string[]> {
  const lines = await writeGolden();
  const plans: Record<string, Record<string, PlanFacts>> = {};
  for (const model of guardModels) {
    if (!hasModel(model)) throw new Error(`${model} is not in ${modelsFolder}`);
    plans[model] = {};
    for (const target of guardTargets) {
      const facts = await planFacts(model, target);
      plans[model][target] = facts;
      lines.push(`${model} for ${target}: ${facts.kernels} kernels, ${facts.bytesMoved} bytes moved`);
    }
  }
  const missing = missingTools();
  const instructions: Record<string, number> = missing === undefined ? {} : { ...readExpected().instructions };
  if (missing !== undefined) lines.push(`instructions stay as they were: ${missing}`);
  else {
    for (const one of instructionCases) {
      instructions[one.name] = Number((await countInstructions(one)).toPrecision(4));
      lines.push(`${one.name}: ${instructions[one.name]} instructions for each unit`);
    }
  }
  writeOutput(path, `${JSON.stringify({ plans, instructions } satisfies Expected, null, 2)}\n`);
  return lines;
}
