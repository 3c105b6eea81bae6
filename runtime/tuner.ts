/** Measures the forms of a model's groups on a device. What is fastest and gives the same results wins. */
import { compareTensors, numbersOf } from '../compiler/compare.js';
import { TuttiError } from '../compiler/error.js';
import type { Schedule } from '../compiler/schedule/contract/index.js';
import type { HostTensor } from '../compiler/tensor.js';
import { type Choice, choicesOf, planTrial } from '../compiler/trials.js';
import type { RunProfile } from './api.js';
import { ConstantStore } from './constants.js';
import type { DeviceHandle } from './device.js';
import { Executable } from './executable.js';
import type { SessionModel } from './session_model.js';
import { whenDone } from './steps.js';
import { deviceName, type TuningEntry, targetName } from './tuning.js';

export interface TuneOptions {
  /** Milliseconds for all of it. A trial that is under way is brought to its end or time-out. */
  readonly budget: number;
  /** Milliseconds for compiling and running one form. */
  readonly timeout: number;
  /** Forms of a group that are measured, from the cheapest by estimate. */
  readonly candidates: number;
  /** Signatures that need no measuring. */
  readonly known?: ReadonlySet<string>;
  /** Called when a group is done. */
  readonly progress?: (done: Tuned, of: number) => void;
  readonly signal?: AbortSignal;
}

/** One group's result. */
export interface Tuned {
  readonly entry: TuningEntry;
  /** The form that is taken without tuning. */
  readonly before: string;
  /** How many groups of the model it stands for. */
  readonly count: number;
}

export interface TuneResult {
  readonly tuned: readonly Tuned[];
  /** Groups with a choice for which there was no time. */
  readonly left: number;
}

/** A form is not worth a trial if its estimate is so many times the best one. */
const hopeless = 12;
/** What another form must save to be taken: less is within the noise. */
const worthwhile = 0.03;
/** Milliseconds of runs that are measured, and how many at least and at most. */
const [measuring, fewest, most] = [60, 3, 200];

/** @throws TuttiError as planning the model does */
export async function tuneModel(model: SessionModel, handle: DeviceHandle, options: TuneOptions): Promise<TuneResult> {
  const end = performance.now() + options.budget;
  const { target } = handle.device;
  const dims = { ...model.sizes };
  for (const [name, { min }] of model.dims) dims[name] = Math.max(1, min);
  const graph = await model.load();
  const all = choicesOf(graph, target, { numerics: model.numerics, shapes: model.shapes, dims });
  const open = all.filter(({ signature }) => !options.known?.has(signature));
  const tuned: Tuned[] = [];
  for (const [i, choice] of open.entries()) {
    if (performance.now() >= end || options.signal?.aborted) return { tuned, left: open.length - i };
    const done = await tuneGroup(choice, handle, options, end);
    if (done === undefined) continue;
    tuned.push(done);
    options.progress?.(done, open.length);
  }
  return { tuned, left: 0 };
}

interface Trial {
  readonly microseconds: number;
  readonly outputs: readonly HostTensor[];
}

async function tuneGroup(
  { signature, name, group, forms, count }: Choice,
  handle: DeviceHandle,
  { timeout, candidates }: TuneOptions,
  end: number,
): Promise<Tuned | undefined> {
  const { info, target } = handle.device;
  const microseconds: Record<string, number | null> = {};
  let best: Schedule | undefined;
  let first: { readonly form: Schedule; readonly outputs: readonly HostTensor[] } | undefined;
  let tried = 0;
  const measure = async (form: Schedule): Promise<number | undefined> => {
    const plan = planTrial(group, form, target);
    if (plan === undefined) return undefined;
    tried++;
    const trial = await timed(run(handle, form, plan, timeout), timeout, form.name);
    if (first === undefined && trial !== undefined) first = { form, outputs: trial.outputs };
    const valid = trial !== undefined && first !== undefined && agree(trial.outputs, first.outputs);
    const known = microseconds[form.name];
    microseconds[form.name] = valid ? Math.min(trial.microseconds, known ?? Number.POSITIVE_INFINITY) : null;
    return valid ? trial.microseconds : undefined;
  };
  for (const form of forms) {
    if (tried >= candidates || form.cost > forms[0].cost * hopeless) break;
    // What is taken now is measured in any case: the others are compared with it.
    if (first !== undefined && performance.now() >= end) break;
    const time = await measure(form);
    // What cannot be measured cannot be compared with either.
    if (first === undefined && tried > 0) return undefined;
    if (time !== undefined && time < (best === undefined ? time + 1 : timeIn(microseconds, best))) best = form;
  }
  if (first === undefined || best === undefined) return undefined;
  if (best !== first.form) {
    // Once more in turn: machines have moods.
    await measure(first.form);
    await measure(best);
    const saved = 1 - timeIn(microseconds, best) / timeIn(microseconds, first.form);
    if (!(saved >= worthwhile)) best = first.form;
  }
  const device = deviceName(info);
  const where = { device, driver: info.driver, target: targetName(target) };
  const measured = new Date().toISOString();
  const entry = { ...where, kernel: signature, name, form: best.name, microseconds, measured };
  return { entry, before: first.form.name, count };
}

const timeIn = (times: Readonly<Record<string, number | null>>, { name }: Schedule): number =>
  times[name] ?? Number.POSITIVE_INFINITY;

/** Of the time-out again: how long a form that was given up may go on before the device counts as stuck. */
const patience = 5;

/**
 * Undefined if it takes too long or the device cannot do it. What was given up is waited for, since what comes next would
 * be measured beside it. @throws TuttiError E_DEVICE if it does not end
 */
async function timed(work: Promise<Trial>, timeout: number, name: string): Promise<Trial | undefined> {
  const outcome = work.catch((error: unknown) => {
    if (error instanceof TuttiError && (error.code === 'E_KERNEL' || error.code === 'E_OUT_OF_MEMORY'))
      return undefined;
    throw error;
  });
  const trial = await within(outcome, timeout);
  if (trial !== 'late') return trial;
  if ((await within(outcome, patience * timeout)) === 'late') {
    throw new TuttiError('E_DEVICE', 'a form that was tried does not end', { subject: name });
  }
  return undefined;
}

async function within<T>(work: Promise<T>, milliseconds: number): Promise<T | 'late'> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<'late'>((resolve) => {
    timer = setTimeout(() => resolve('late'), milliseconds);
  });
  try {
    return await Promise.race([work, late]);
  } finally {
    clearTimeout(timer);
  }
}

async function run(
  { backend, device }: DeviceHandle,
  form: Schedule,
  plan: NonNullable<ReturnType<typeof planTrial>>,
  timeout: number,
): Promise<Trial> {
  const codes = plan.kernels.map((kernel) => backend.render(kernel, plan.target));
  const executable = await Executable.create(form.name, device, plan, codes, new ConstantStore(device));
  try {
    const submit = device.queue.submit.bind(device.queue);
    const outputs = await whenDone(executable.run({ inputs: [], submit }));
    let best = Number.POSITIVE_INFINITY;
    const start = performance.now();
    for (let i = 0; i < most; i++) {
      const spentSoFar = performance.now() - start;
      if ((i >= fewest && spentSoFar > measuring) || (i > 0 && spentSoFar > timeout)) break;
      const began = performance.now();
      let spent: number | undefined;
      const profile = ({ dispatches }: RunProfile): void => {
        const times = dispatches.map(({ microseconds }) => microseconds);
        if (times.every((time) => time !== undefined)) spent = times.reduce((sum, time) => sum + time, 0);
      };
      await whenDone(executable.run({ inputs: [], outputs: [], profile, submit }));
      best = Math.min(best, spent ?? (performance.now() - began) * 1000);
    }
    return { microseconds: best, outputs };
  } finally {
    await executable.dispose();
  }
}

/** Sums may be taken in another order, no more than that. */
function agree(outputs: readonly HostTensor[], expected: readonly HostTensor[]): boolean {
  return outputs.every((actual, i) => {
    const { dtype } = expected[i];
    const relative = dtype === 'f64' ? 1e-9 : dtype === 'f32' ? 1e-3 : 2e-2;
    let largest = 0;
    if (dtype !== 'string')
      for (const x of numbersOf(expected[i])) if (Number.isFinite(x)) largest = Math.max(largest, Math.abs(x));
    return compareTensors(actual, expected[i], { rtol: relative, atol: relative * largest }).ok;
  });
}
