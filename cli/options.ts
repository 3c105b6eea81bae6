/** Flags that several verbs share, from text to values. Every mistake is an E_USAGE that shows the right form. */
import type { Command } from 'commander';
import { TuttiError } from '../compiler/error.js';
import type { CompileOptions, DeviceInfo, Numerics } from '../runtime/api.js';
import { devices } from '../runtime/device.js';
import type { Model } from '../runtime/model.js';
import type { SessionModel } from '../runtime/session_model.js';
import { openModel } from '../runtime/stored_model.js';

export const collect = (value: string, before: readonly string[] = []): string[] => [...before, value];

const usage = (flag: string, found: string, expected: string): TuttiError =>
  new TuttiError('E_USAGE', 'bad value', { subject: flag, expected, found });

/** For flags that count or measure. */
export function positive(flag: string, integer = true): (text: string) => number {
  return (text) => {
    const value = Number(text);
    if (text.trim() !== '' && value > 0 && Number.isFinite(value) && (!integer || Number.isSafeInteger(value)))
      return value;
    throw usage(flag, text, integer ? 'an integer from 1' : 'a number above 0');
  };
}

/** For tolerances: 0 is exact. */
export const tolerance =
  (flag: string) =>
  (text: string): number => {
    const value = Number(text);
    if (text.trim() !== '' && value >= 0 && Number.isFinite(value)) return value;
    throw usage(flag, text, 'a number from 0');
  };

export function numericsFlag(text: string): Numerics {
  if (text === 'fast' || text === 'precise' || text === 'strict') return text;
  throw usage('--numerics', text, 'fast, precise or strict');
}

/** What every verb that loads a model understands. */
export interface ModelFlags {
  readonly shape?: readonly string[];
  readonly dim?: readonly string[];
  readonly numerics?: Numerics;
}

export const modelFlags = (command: Command): Command =>
  command
    .option('--shape <name=1x3x224x224>', 'shape of an input (repeatable)', collect)
    .option('--dim <name=N>', 'size of a named dim (repeatable)', collect)
    .option('--numerics <profile>', 'fast, precise or strict (default: precise)', numericsFlag);

/** `name=1x3x224x224` or `name=1,3,224,224`; `name=` is a scalar. */
export function parseShapes(texts: readonly string[] = []): Record<string, readonly number[]> {
  return Object.fromEntries(
    texts.map((text) => {
      const [, name, dims] = /^(.+)=([\dx,]*)$/.exec(text) ?? [];
      const shape =
        dims === undefined || dims === ''
          ? []
          : dims.split(/[x,]/).map((dim) => (dim === '' ? Number.NaN : Number(dim)));
      if (name === undefined || shape.some((dim) => !Number.isSafeInteger(dim))) {
        throw usage('--shape', text, 'name=1x3x224x224');
      }
      return [name, shape];
    }),
  );
}

export type DimSize = number | { readonly min: number; readonly max: number };

/** `batch=4` or, where ranges are allowed, `batch=1..64`. */
export function parseDims(texts: readonly string[] = []): Record<string, DimSize> {
  return Object.fromEntries(
    texts.map((text) => {
      const [, name, min, max] = /^(.+)=(\d+)(?:\.\.(\d+))?$/.exec(text) ?? [];
      if (name === undefined || (max !== undefined && Number(max) < Number(min))) {
        throw usage('--dim', text, 'name=4 or name=1..64');
      }
      return [name, max === undefined ? Number(min) : { min: Number(min), max: Number(max) }];
    }),
  );
}

/** For verbs that make kernels. */
export const tuningFlag = (command: Command): Command =>
  command.option('--tuning <file>', "measured forms of kernels (`tutti tune`; default: those in the cache's folder)");

/** A model to run under the flags; what is known of it is not read again. @throws TuttiError as `openModel` does */
export async function openFor(path: string, flags: ModelFlags): Promise<SessionModel> {
  const sizes = Object.entries(parseDims(flags.dim));
  if (sizes.some(([, size]) => typeof size !== 'number')) return loadModel(path, flags);
  const dims = Object.fromEntries(sizes) as Readonly<Record<string, number>>;
  return openModel(path, { numerics: flags.numerics, shapes: parseShapes(flags.shape), dims });
}

/** Loads a model under the flags. @throws TuttiError as `compile` does */
export async function loadModel(
  path: string,
  flags: ModelFlags,
  more: Pick<CompileOptions, 'dump'> = {},
): Promise<Model> {
  const sizes: Record<string, number> = {};
  const ranges: [string, { readonly min: number; readonly max: number }][] = [];
  for (const [name, size] of Object.entries(parseDims(flags.dim))) {
    if (typeof size === 'number') sizes[name] = size;
    else ranges.push([name, size]);
  }
  const options: CompileOptions = { ...more, numerics: flags.numerics, shapes: parseShapes(flags.shape), dims: sizes };
  const { compile, Model } = await import('../runtime/model.js');
  const model = await compile(path, options);
  if (ranges.length === 0) return model;
  for (const [name] of ranges) {
    if (model.dims.has(name)) continue;
    const free = [...model.dims.keys()];
    throw new TuttiError('E_INPUT', 'the model has no such named dim', {
      subject: `--dim ${name}`,
      expected: free.length > 0 ? `one of ${free.join(', ')}` : 'none: all shapes are fixed',
    });
  }
  const graph = { ...model.graph, dims: new Map([...model.graph.dims, ...ranges]) };
  const { numerics, shapes, sizes: dims } = model;
  return new Model(graph, { ...more, numerics, shapes, dims }, model.sourceDigest);
}

/**
 * The devices that `--device` names: ids, names of backends, `auto`, `all`. Without any, the default one.
 * @throws TuttiError E_DEVICE_UNKNOWN if `all` finds none
 */
export async function selectDevices(
  selectors: readonly string[] | undefined,
): Promise<readonly (string | undefined)[]> {
  if (selectors === undefined || selectors.length === 0) return [undefined];
  if (!selectors.includes('all')) return selectors;
  const { devices: present, missing } = await devices();
  if (present.length > 0) return inOrderOfTrust(present).map(({ id }) => id);
  throw new TuttiError('E_DEVICE_UNKNOWN', 'no device can be used', {
    remedy: `Missing: ${missing.map(({ backend, reason }) => `${backend}: ${reason}`).join('; ')}`,
  });
}

/** The CPU first: the others are compared with it. */
export const inOrderOfTrust = (infos: readonly DeviceInfo[]): readonly DeviceInfo[] => [
  ...infos.filter(({ backend }) => backend === 'cpu'),
  ...infos.filter(({ backend }) => backend !== 'cpu'),
];
