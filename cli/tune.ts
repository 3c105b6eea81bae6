/** `tutti tune`: measures forms of a model's contractions on a device and writes the fastest into a tuning file. */
import { existsSync, mkdirSync } from 'node:fs';
import { dirname } from 'node:path';
import type { Command } from 'commander';
import { openDevice } from '../runtime/device.js';
import { defaultTuning, readTuning } from '../runtime/node.js';
import { type Tuned, type TuneResult, tuneModel } from '../runtime/tuner.js';
import { chosenOn, deviceName, mergeTuning, printTuning } from '../runtime/tuning.js';
import { checkWritable, writeOutput } from './files.js';
import { collect, loadModel, type ModelFlags, modelFlags, positive } from './options.js';
import { formatMs, formatNumber, Progress, print, printJson, table } from './output.js';
import type { Verb } from './verb.js';

interface Flags extends ModelFlags {
  readonly device?: string;
  readonly budget: number;
  readonly timeout: number;
  readonly candidates: number;
  readonly merge?: readonly string[];
  readonly output?: string;
  readonly again?: boolean;
  readonly json?: boolean;
}

const help = `
The file holds the fastest form of each kernel by device and driver. Without --output it is the one in the cache's folder,
which run, bench and sessions read; elsewhere it is given to them with --tuning. Kernels that it knows already are not
measured again. Named dims without a size are 1: tune for the sizes that matter.

Examples:
  $ tutti tune model.onnx --device cpu --budget 30
  $ tutti tune model.onnx --dim batch=8 --output tuning.json --merge from-another-machine.json
  $ tutti run model.onnx --tuning tuning.json --input x=random:1`;

export const tuneVerb: Verb = (program, wrap) => {
  const command: Command = program
    .command('tune')
    .description('measure forms of kernels and keep the fastest')
    .argument('<model>', '.onnx or .tutti file')
    .option('-d, --device <id>', 'device id, backend or auto')
    .option('--budget <seconds>', 'time for all measurements', positive('--budget', false), 60)
    .option('--timeout <seconds>', 'time for one form, its compilation included', positive('--timeout', false), 10)
    .option('--candidates <n>', 'forms of a kernel that are measured', positive('--candidates'), 4)
    .option('--merge <file>', 'take over what another tuning file holds (repeatable)', collect)
    .option('-o, --output <file>', "tuning file to write and to add to (default: the cache's)")
    .option('--again', 'measure what is known too');
  modelFlags(command)
    .option('--json', 'print one JSON document')
    .addHelpText('after', help)
    .action(wrap((path: string, flags: Flags) => tune(path, flags)));
};

async function tune(path: string, flags: Flags): Promise<undefined> {
  const file = flags.output ?? defaultTuning();
  if (flags.output === undefined) mkdirSync(dirname(file), { recursive: true });
  checkWritable(file);
  // A damaged file of the cache is no loss; one that was named is.
  const held = flags.output === undefined ? readTuning() : existsSync(file) ? readTuning(file) : [];
  const before = mergeTuning(held, ...(flags.merge ?? []).map((given) => readTuning(given)));
  const model = await loadModel(path, flags);
  const handle = await openDevice(flags.device);
  let result: TuneResult;
  const { info } = handle.device;
  try {
    let progress: Progress | undefined;
    result = await tuneModel(model, handle, {
      budget: flags.budget * 1000,
      timeout: flags.timeout * 1000,
      candidates: flags.candidates,
      known: flags.again ? new Set() : new Set(chosenOn(before, info).keys()),
      progress: ({ entry }, of) => {
        progress ??= new Progress('kernels', of);
        progress.step(entry.name);
      },
    });
    progress?.end();
  } finally {
    await handle.release();
  }
  const after = mergeTuning(
    before,
    result.tuned.map(({ entry }) => entry),
  );
  writeOutput(file, printTuning(after));
  const device = deviceName(info);
  if (flags.json)
    printJson({ model: path, device, driver: info.driver, file, entries: after.length, ...documentOf(result) });
  else printResult(device, file, after.length, result);
}

/** Microseconds of a form. */
const timeOf = ({ entry }: Tuned, form: string): number => entry.microseconds[form] ?? Number.NaN;
/** What the choice saves of one run of the model. */
const savedBy = (tuned: Tuned): number => tuned.count * (timeOf(tuned, tuned.before) - timeOf(tuned, tuned.entry.form));

const documentOf = ({ tuned, left }: TuneResult) => ({
  measured: tuned.length,
  left,
  kernels: tuned.map((one) => ({
    kernel: one.entry.kernel,
    name: one.entry.name,
    count: one.count,
    before: one.before,
    form: one.entry.form,
    microseconds: one.entry.microseconds,
  })),
  savedMicroseconds: tuned.reduce((sum, one) => sum + savedBy(one), 0),
});

function printResult(device: string, file: string, entries: number, { tuned, left }: TuneResult): void {
  print(`${device}: ${tuned.length} kernels measured${left > 0 ? `, no time for ${left} more` : ''}`);
  const changed = tuned.filter(({ entry, before }) => entry.form !== before).sort((a, b) => savedBy(b) - savedBy(a));
  if (changed.length > 0) {
    const time = (microseconds: number): string => formatMs(microseconds / 1000);
    const rows = changed.map((one) => [
      one.entry.name,
      `${one.count}`,
      `${one.before} ${time(timeOf(one, one.before))}`,
      `${one.entry.form} ${time(timeOf(one, one.entry.form))}`,
      `${formatNumber(timeOf(one, one.before) / timeOf(one, one.entry.form))}×`,
    ]);
    print(
      table(['KERNEL', 'TIMES', 'BY ESTIMATE', 'FASTEST', 'GAIN'], rows, ['left', 'right', 'left', 'left', 'right']),
    );
    const saved = changed.reduce((sum, one) => sum + savedBy(one), 0);
    print(`${time(saved)} of a run saved`);
  } else if (tuned.length > 0) print('the estimates were right');
  print(`${file}: ${entries} entries`);
}
