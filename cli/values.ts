/** What `--input`, `--output` and `--expect` say: tensors from files, seeds and lists, and tensors into files. */
import { readFile } from 'node:fs/promises';
import { numbersOf } from '../compiler/compare.js';
import { bitsOf, integerRange, isFloat, isInt } from '../compiler/dtype.js';
import { TuttiError } from '../compiler/error.js';
import { emptyTensor, type HostTensor, sizeOf } from '../compiler/tensor.js';
import type { ValueInfo } from '../runtime/api.js';
import { Tensor, type TensorData } from '../runtime/tensor.js';
import { checkWritable, writeOutput } from './files.js';
import { type ImageOptions, parseImageOptions } from './image_options.js';

type FileKind = 'npy' | 'pb' | 'png';

interface FileSpec {
  readonly kind: 'file';
  readonly path: string;
  readonly type: FileKind;
  readonly image: ImageOptions;
}
export type InputSpec =
  | FileSpec
  | { readonly kind: 'random'; readonly seed: number }
  | { readonly kind: 'zeros' }
  | { readonly kind: 'list'; readonly values: readonly string[] };
export type OutputSpec = FileSpec | { readonly kind: 'print' };

const inputForms = '@x.npy, @x.pb, @x.png, @x.png:nchw,0..1, random:SEED, zeros or 1,2,3';
const outputForms = '@y.npy, @y.pb, @y.png or -';
const number = String.raw`[-+]?(?:\d+\.?\d*(?:[eE][-+]?\d+)?|\.\d+(?:[eE][-+]?\d+)?|inf|nan)`;
const list = new RegExp(`^(?:${number}|true|false)(?:,(?:${number}|true|false))*$`, 'i');

function parseFile(text: string, flag: string, forms: string): FileSpec {
  const [, path, type, options] = /^@(.+?\.(npy|pb|png))(?::([^/\\]*))?$/i.exec(text) ?? [];
  if (path === undefined || (options !== undefined && type.toLowerCase() !== 'png')) {
    throw new TuttiError('E_USAGE', 'bad value', { subject: flag, expected: forms, found: text });
  }
  const image = parseImageOptions(options ?? '', flag);
  return { kind: 'file', path, type: type.toLowerCase() as FileKind, image };
}

function parseInput(text: string, flag: string): InputSpec {
  if (text.startsWith('@')) return parseFile(text, flag, inputForms);
  const seed = /^random(?::(\d+))?$/.exec(text);
  if (seed) return { kind: 'random', seed: Number(seed[1] ?? 0) };
  if (text === 'zeros') return { kind: 'zeros' };
  if (list.test(text)) return { kind: 'list', values: text.split(',') };
  throw new TuttiError('E_USAGE', 'bad value', { subject: flag, expected: inputForms, found: text });
}

const parseOutput = (text: string, flag: string): OutputSpec =>
  text === '-' ? { kind: 'print' } : parseFile(text, flag, outputForms);

const looksBare = (text: string): boolean => /^(@|-$|random(:|$)|zeros$)/.test(text) || list.test(text);

/**
 * Splits `name=value`. Names may themselves contain `=`; the name may be left out where there is only one.
 * @throws TuttiError E_INPUT for names that the model does not have
 */
function byName<T>(
  texts: readonly string[],
  infos: readonly ValueInfo[],
  flag: string,
  parse: (text: string, flag: string) => T,
): Map<string, T> {
  const specs = new Map<string, T>();
  for (const text of texts) {
    const named = infos
      .filter(({ name }) => text.startsWith(`${name}=`))
      .sort((a, b) => b.name.length - a.name.length)[0];
    const target = named ?? (looksBare(text) && infos.length === 1 ? infos[0] : undefined);
    if (target === undefined) {
      const what = flag === '--input' ? 'input' : 'output';
      const names = infos.map(({ name }) => name).join(', ') || `none: it has no ${what}s`;
      const message = looksBare(text) ? `which ${what} is meant is not said` : `the model has no such ${what}`;
      const found = looksBare(text) ? text : text.includes('=') ? text.slice(0, text.indexOf('=')) : text;
      throw new TuttiError('E_INPUT', message, {
        subject: flag,
        expected: `one of ${names}`,
        found,
        remedy: `Write ${flag} ${infos[0]?.name ?? 'name'}=${flag === '--output' ? '@y.npy' : '@x.npy'}.`,
      });
    }
    if (specs.has(target.name)) {
      throw new TuttiError('E_USAGE', 'given twice', { subject: `${flag} ${target.name}` });
    }
    specs.set(
      target.name,
      parse(named === undefined ? text : text.slice(named.name.length + 1), `${flag} ${target.name}`),
    );
  }
  return specs;
}

export const parseInputs = (texts: readonly string[], infos: readonly ValueInfo[]): Map<string, InputSpec> =>
  byName(texts, infos, '--input', parseInput);
export const parseOutputs = (texts: readonly string[], infos: readonly ValueInfo[]): Map<string, OutputSpec> =>
  byName(texts, infos, '--output', parseOutput);
export const parseExpected = (texts: readonly string[], infos: readonly ValueInfo[]): Map<string, FileSpec> =>
  byName(texts, infos, '--expect', (text, flag) => parseFile(text, flag, '@y.npy, @y.pb or @y.png'));

async function readBytes(path: string): Promise<Uint8Array> {
  try {
    return await readFile(path);
  } catch (cause) {
    const missing = (cause as NodeJS.ErrnoException).code === 'ENOENT';
    const found = missing ? 'no such file' : cause instanceof Error ? cause.message : String(cause);
    throw new TuttiError('E_IO', 'cannot be read', { subject: path, found, cause });
  }
}

/** ONNX's files of tensors, without all that reads models. */
const protocol = async () => ({
  ...(await import('../compiler/frontends/onnx/proto.js')),
  ...(await import('../compiler/frontends/onnx/tensors.js')),
});

async function readTensorFile({ path, type, image }: FileSpec, info: ValueInfo): Promise<HostTensor> {
  const bytes = await readBytes(path);
  switch (type) {
    case 'npy':
      return (await import('./npy.js')).readNpy(bytes, path);
    case 'pb': {
      const { decode, tensorOf } = await protocol();
      return tensorOf(decode('TensorProto', bytes), path);
    }
    case 'png':
      return (await import('./images.js')).readPng(bytes, info.dtype, info.shape, image, path);
    default:
      return type satisfies never;
  }
}

export const readExpected = async (spec: FileSpec, info: ValueInfo): Promise<HostTensor> => readTensorFile(spec, info);

/** The tensor that a spec means for an input. @throws TuttiError E_IO, E_INPUT, E_MODEL_FORMAT, E_UNSUPPORTED */
export async function readInput(spec: InputSpec, info: ValueInfo): Promise<Tensor> {
  switch (spec.kind) {
    case 'file':
      return Tensor.fromHost(await readTensorFile(spec, info));
    case 'random':
      return randomTensor(info, spec.seed);
    case 'zeros':
      return Tensor.fromHost(emptyTensor(info.dtype, knownShape(info, 'zeros')));
    case 'list':
      return listTensor(spec.values, info);
    default:
      return spec satisfies never;
  }
}

/** What shape an input has, in words. */
export const shapeText = ({ shape, unknown }: ValueInfo): string =>
  unknown ? 'a shape of any rank' : `shape [${shape.join(', ')}]`;

function knownShape({ name, shape, unknown }: ValueInfo, form: string): readonly number[] {
  const open = shape.find((dim) => typeof dim === 'string');
  if (open === undefined && !unknown) return shape as readonly number[];
  const example = shape.map((dim) => (typeof dim === 'number' ? dim : 1)).join('x');
  throw new TuttiError('E_INPUT', `${form} needs a known shape`, {
    subject: `input ${name}`,
    found: unknown ? 'a shape of any rank' : `[${shape.join(', ')}]`,
    remedy: unknown
      ? `Give --shape ${name}=2x3, or whatever it is to be.`
      : `Give --dim ${open}=1 or --shape ${name}=${example}.`,
  });
}

/** Uniform numbers: floats in [0, 1), integers 0 to 9, bools 0 and 1. One seed gives one tensor on any machine. */
export function randomTensor(info: ValueInfo, seed: number): Tensor {
  const shape = knownShape(info, 'random');
  const count = sizeOf(shape);
  let state = (seed ^ 0x9e3779b9) >>> 0;
  // mulberry32
  const next = (): number => {
    state = (state + 0x6d2b79f5) | 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  };
  const { dtype } = info;
  const sample = isFloat(dtype)
    ? next
    : dtype === 'bool'
      ? () => Math.floor(2 * next())
      : () => Math.floor(10 * next());
  if (dtype === 'string') {
    throw new TuttiError('E_INPUT', 'random strings are not made', { subject: `input ${info.name}` });
  }
  if (dtype === 'f32') {
    const data = new Float32Array(count);
    for (let i = 0; i < count; i++) data[i] = next();
    return new Tensor('float32', data, shape);
  }
  const values = Array.from({ length: count }, sample);
  // Some integers are too short for a 9.
  const most = isInt(dtype) && bitsOf(dtype) <= 4 ? Number(integerRange(dtype)[1]) : Number.POSITIVE_INFINITY;
  return new Tensor(
    info.type,
    values.map((value) => Math.min(most, value)),
    shape,
  );
}

function listTensor(texts: readonly string[], info: ValueInfo): Tensor {
  const subject = `input ${info.name}`;
  const value = (text: string): number => {
    const word = text.toLowerCase();
    if (word === 'true') return 1;
    if (word === 'false') return 0;
    if (/inf/.test(word)) return word.startsWith('-') ? Number.NEGATIVE_INFINITY : Number.POSITIVE_INFINITY;
    return word.includes('nan') ? Number.NaN : Number(text);
  };
  const wide = info.dtype === 'i64' || info.dtype === 'u64';
  const bigs = (): bigint[] =>
    texts.map((text) => {
      if (/^[-+]?\d+$/.test(text)) return BigInt(text.replace(/^\+/, ''));
      throw new TuttiError('E_INPUT', 'not an integer', { subject, expected: info.type, found: text });
    });
  const data: TensorData = wide ? bigs() : texts.map(value);
  if (!wide && !isFloat(info.dtype) && !(data as number[]).every(Number.isInteger)) {
    throw new TuttiError('E_INPUT', 'not all values are integers', {
      subject,
      expected: info.type,
      found: texts.join(','),
    });
  }
  return new Tensor(info.type, data, listShape(texts.length, info, subject));
}

function listShape(count: number, { shape, unknown }: ValueInfo, subject: string): readonly number[] {
  const open = shape.filter((dim) => typeof dim === 'string').length;
  const known = shape.reduce<number>((product, dim) => (typeof dim === 'number' ? product * dim : product), 1);
  if (unknown) return [count];
  if (open === 0 && known === count) return shape as readonly number[];
  if (open > 0 && known > 0 && count % known === 0) {
    // The first open dim takes what there is.
    let rest = count / known;
    return shape.map((dim) => {
      if (typeof dim === 'number') return dim;
      const size = rest;
      rest = 1;
      return size;
    });
  }
  throw new TuttiError('E_INPUT', 'wrong number of values', {
    subject,
    expected: `${open === 0 ? known : `a multiple of ${known}`} for shape [${shape.join(', ')}]`,
    found: String(count),
  });
}

/** Fails early where an output could not be written. @throws TuttiError E_IO */
export function checkOutputs(specs: Iterable<OutputSpec>): void {
  for (const spec of specs) if (spec.kind === 'file') checkWritable(spec.path);
}

/** @throws TuttiError E_IO, E_INPUT, E_UNSUPPORTED */
export async function writeTensor(spec: FileSpec, name: string, tensor: HostTensor): Promise<void> {
  writeOutput(spec.path, await encodeTensor(spec, name, tensor));
}

async function encodeTensor({ type, path, image }: FileSpec, name: string, tensor: HostTensor): Promise<Uint8Array> {
  switch (type) {
    case 'npy':
      return (await import('./npy.js')).writeNpy(tensor, path);
    case 'pb': {
      const { encode, protoOf } = await protocol();
      return encode('TensorProto', protoOf(tensor, name));
    }
    case 'png':
      return (await import('./images.js')).writePng(tensor, image, path);
    default:
      return type satisfies never;
  }
}

/** Elements for people and for JSON: integers beyond 2^53 as text, NaN and infinities as text. */
export function elementsOf(tensor: HostTensor): readonly (number | string)[] {
  if (tensor.dtype === 'string') return tensor.data as readonly string[];
  if (tensor.dtype === 'i64' || tensor.dtype === 'u64') {
    const data = tensor.data as BigInt64Array;
    return Array.from(data, (value) => (Number.isSafeInteger(Number(value)) ? Number(value) : String(value)));
  }
  return Array.from(numbersOf(tensor), (value) => (Number.isFinite(value) ? value : String(value)));
}
