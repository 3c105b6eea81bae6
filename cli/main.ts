#!/usr/bin/env node
/** The `tutti` command: one verb a file, errors to stderr, exit codes 0 done, 1 no, 2 wrong usage, 3 internal. */
import { readFileSync } from 'node:fs';
import { Command } from 'commander';
import { packageRoot } from '../backends/native.js';
import { removeUnfinished } from './files.js';
import { note } from './output.js';
import { leave, runProgram } from './program.js';
import type { Verb } from './verb.js';

/** In the order of the help. Each is loaded when it is asked for, all of them where it is not clear which. */
const verbs: Readonly<Record<string, () => Promise<Verb>>> = {
  devices: async () => (await import('./devices.js')).devicesVerb,
  compile: async () => (await import('./compile.js')).compileVerb,
  run: async () => (await import('./run.js')).runVerb,
  bench: async () => (await import('./bench.js')).benchVerb,
  tune: async () => (await import('./tune.js')).tuneVerb,
  inspect: async () => (await import('./inspect.js')).inspectVerb,
  doctor: async () => (await import('./doctor.js')).doctorVerb,
  conformance: async () => (await import('./conformance/verb.js')).conformanceVerb,
};

const examples = `
Examples:
  $ tutti devices                                        what this machine has
  $ tutti compile model.onnx -o model.tutti              an artifact that runs on any device
  $ tutti run model.onnx --input image=@cat.png --output scores=-
  $ tutti run model.tutti --device all --input x=random:1   compare all devices
  $ tutti doctor model.onnx                              what would not run, and where
  $ tutti bench model.onnx --device cpu --peer onnxruntime
  $ tutti tune model.onnx --budget 30                    measure forms of kernels, keep the fastest

Exit codes: 0 done, 1 the answer is no (mismatch, unsupported, bad model), 2 wrong usage, 3 internal.
Environment: TUTTI_DEVICE (default device), TUTTI_CACHE, TUTTI_THREADS, TUTTI_LOG, TUTTI_VULKAN_ICD,
TUTTI_VULKAN_COOPERATIVE_MATRIX (0: no matrix units on Vulkan).`;

function version(): string {
  const root = packageRoot();
  return root === undefined ? 'unknown' : JSON.parse(readFileSync(`${root}/package.json`, 'utf8')).version;
}

async function main(): Promise<number> {
  const program = new Command('tutti')
    .description('A model goes in once and runs on any hardware.')
    .version(version())
    .addHelpText('after', examples)
    .showSuggestionAfterError();
  const asked = process.argv[2];
  for (const name of Object.hasOwn(verbs, asked) ? [asked] : Object.keys(verbs)) {
    const verb = await verbs[name]();
    verb(program, (action) => async (...args) => {
      process.exitCode = (await action(...args)) ?? 0;
    });
  }
  return runProgram(program);
}

for (const [signal, code] of [
  ['SIGINT', 130],
  ['SIGTERM', 143],
] as const) {
  process.once(signal, () => {
    removeUnfinished();
    if (process.stderr.isTTY) process.stderr.write('\r\x1b[K');
    note('interrupted');
    process.exit(code);
  });
}
// `tutti … | head` ends early: that is no error.
process.stdout.on('error', (error: NodeJS.ErrnoException) => {
  if (error.code === 'EPIPE') process.exit(0);
});

leave(await main());
