/** The attributes of every op as data: what the text format prints and what it accepts. */
import { isDType } from '../dtype.js';
import { scaleRoundings } from '../minifloat.js';
import { type Dim, SymDim } from './dims.js';
import { binaryOps, type Graph, type OpAttrs, type OpKind, unaryOps } from './types.js';

/**
 * Form of one attribute. `dim` may be symbolic; `number?` may be null; `record` holds what a source operator had;
 * `graph` is a body; an array of words is an enumeration; with
 * the empty word among them the attribute may be left out.
 */
export type FieldForm =
  | 'int'
  | 'ints'
  | 'dim'
  | 'dims'
  | 'bool'
  | 'bools'
  | 'string'
  | 'dtype'
  | 'number'
  | 'number?'
  | 'numbers?'
  | 'scales'
  | 'record'
  | 'graph'
  | readonly string[];

export type OpSchema = Readonly<Record<string, FieldForm>>;

const optional = (words: readonly string[]): readonly string[] => ['', ...words];
const window = { strides: 'ints', padLow: 'dims', padHigh: 'dims', dilations: 'ints' } as const;
const none = (kinds: readonly OpKind[]) => Object.fromEntries(kinds.map((kind) => [kind, {}]));
type Elementwise = (typeof unaryOps)[number] | (typeof binaryOps)[number];

/** In the order in which they are printed. */
export const schemas = {
  ...(none(unaryOps) as Record<(typeof unaryOps)[number], OpSchema>),
  ...(none(binaryOps) as Record<(typeof binaryOps)[number], OpSchema>),
  select: {},
  clamp: { min: 'number?', max: 'number?' },
  cast: { dtype: 'dtype', saturate: 'bool', rounding: optional(scaleRoundings) },
  bitcast: { dtype: 'dtype' },
  reshape: { shape: 'dims' },
  transpose: { permutation: 'ints' },
  broadcast: { shape: 'dims' },
  slice: { starts: 'dims', sizes: 'dims', steps: 'ints' },
  pad: { low: 'dims', high: 'dims', mode: ['constant', 'edge', 'reflect', 'wrap'] },
  concat: { axis: 'int' },
  iota: { dtype: 'dtype', shape: 'dims', axis: 'int' },
  gather: { axis: 'int' },
  gather_elements: { axis: 'int' },
  gather_nd: { batchDims: 'int' },
  scatter_elements: { axis: 'int', fn: ['set', 'add', 'mul', 'min', 'max'] },
  scatter_nd: { fn: ['set', 'add', 'mul', 'min', 'max'] },
  reduce: { fn: ['sum', 'prod', 'max', 'min', 'and', 'or'], axes: 'ints', keep: 'bool' },
  arg_reduce: { fn: ['max', 'min'], axis: 'int', keep: 'bool', last: 'bool' },
  cumulative: { fn: ['sum', 'prod', 'max', 'min'], axis: 'int', exclusive: 'bool', reverse: 'bool' },
  top_k: { k: 'dim', axis: 'int', largest: 'bool' },
  dot: { lhsBatch: 'ints', rhsBatch: 'ints', lhsContract: 'ints', rhsContract: 'ints', dtype: 'dtype' },
  conv: { ...window, groups: 'int', inputDilation: 'ints', dtype: 'dtype' },
  reduce_window: { fn: ['sum', 'max', 'min', 'prod'], window: 'ints', ...window },
  window_argmax: { window: 'ints', ...window },
  suppress: { limit: 'int' },
  random_bits: { shape: 'dims', key: 'ints' },
  softmax: { axes: 'ints', log: 'bool' },
  normalize: { axes: 'ints', epsilon: 'number', center: 'bool', statistics: 'bool' },
  resize: {
    mode: ['nearest', 'linear', 'cubic'],
    shape: 'dims',
    scales: 'scales',
    coordinates: [
      'half_pixel',
      'half_pixel_symmetric',
      'pytorch_half_pixel',
      'align_corners',
      'asymmetric',
      'tf_crop_and_resize',
      'tf_half_pixel_for_nn',
    ],
    nearest: ['round_prefer_floor', 'round_prefer_ceil', 'floor', 'ceil'],
    cubicA: 'number',
    excludeOutside: 'bool',
    antialias: 'bool',
    roi: 'numbers?',
    extrapolation: 'number',
  },
  scan: { body: 'graph', trips: 'int', carried: 'int', iteration: 'bool', scanned: 'bools', stacked: 'bools' },
  shape_of: { start: 'int', end: 'int' },
  source_op: { domain: 'string', name: 'string', opset: 'int', attrs: 'record', present: 'bools' },
} as const satisfies { readonly [K in Exclude<OpKind, Elementwise>]: Readonly<Record<keyof OpAttrs[K], FieldForm>> } & {
  readonly [K in Elementwise]: OpSchema;
};

/** Whether nodes may come without an attribute of that form. */
export const isOptional = (form: FieldForm): boolean => typeof form !== 'string' && form.includes('');
export const schemaOf = (kind: OpKind): OpSchema => schemas[kind];

const isInteger = (value: unknown): boolean => Number.isSafeInteger(value);
const isDim = (value: unknown): value is Dim => value instanceof SymDim || isInteger(value);
const isNumber = (value: unknown): boolean => typeof value === 'number';
const isBoolean = (value: unknown): boolean => typeof value === 'boolean';
const isListOf = (value: unknown, has: (entry: unknown) => boolean): boolean =>
  Array.isArray(value) && value.every(has);

/** Whether a value has the form. Ranges are up to the op. */
export function hasForm(form: FieldForm, value: unknown): boolean {
  if (typeof form !== 'string') return form.includes((value ?? '') as string);
  switch (form) {
    case 'int':
      return isInteger(value);
    case 'ints':
      return isListOf(value, isInteger);
    case 'dim':
      return isDim(value);
    case 'dims':
      return isListOf(value, isDim);
    case 'bool':
      return isBoolean(value);
    case 'bools':
      return isListOf(value, isBoolean);
    case 'string':
      return typeof value === 'string';
    case 'dtype':
      return typeof value === 'string' && isDType(value);
    case 'number':
      return isNumber(value);
    case 'number?':
      return value === null || isNumber(value);
    case 'numbers?':
      return value === null || isListOf(value, isNumber);
    case 'scales':
      return isListOf(value, (entry) => entry === null || isNumber(entry));
    case 'record':
      return typeof value === 'object' && value !== null;
    case 'graph':
      return isGraph(value);
    default:
      return form satisfies never;
  }
}

/** Whether a value is a graph as far as its outline goes; `verifyGraph` looks inside. */
export const isGraph = (value: unknown): value is Graph =>
  typeof value === 'object' && value !== null && 'nodes' in value && 'constants' in value;

export const describeForm = (form: FieldForm): string =>
  typeof form === 'string' ? formTexts[form] : `one of ${form.filter((word) => word !== '').join(', ')}`;

const formTexts: Readonly<Record<Extract<FieldForm, string>, string>> = {
  int: 'an integer',
  ints: 'a list of integers',
  dim: 'a dim',
  dims: 'a list of dims',
  bool: 'true or false',
  bools: 'a list of true and false',
  string: 'a string',
  dtype: 'an element type',
  number: 'a number',
  'number?': 'a number or null',
  'numbers?': 'a list of numbers or null',
  scales: 'a list of numbers and null',
  record: 'a record',
  graph: 'a graph',
};
