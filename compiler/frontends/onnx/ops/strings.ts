/** Operators on strings. Strings exist on the host alone: these are evaluated there, by the functions below. */
import { type DType, isInt } from '../../../dtype.js';
import { TuttiError } from '../../../error.js';
import { describe } from '../../../graph/builder.js';
import { bigsOf, isBig, numbersOf, tensorOfElements, tensorOfNumbers } from '../../../graph/ops/reference/data.js';
import type { Value } from '../../../graph/types.js';
import { type HostTensor, sizeOf } from '../../../tensor.js';
import type { Conversion, ConvertContext } from '../context.js';

/** Data of a string tensor. @throws TuttiError E_MODEL_INVALID for other types */
export function stringsOf(c: ConvertContext, i: number): readonly string[] {
  const { dtype, data } = c.constant(i);
  return dtype === 'string' ? (data as readonly string[]) : c.fail(`input ${i} must hold strings`, 'string', dtype);
}

const strings = (shape: readonly number[], data: readonly string[]): HostTensor => ({ dtype: 'string', shape, data });

/** A conversion whose results are computed on the host from the content of the inputs. */
export const hostOperator = (
  op: string,
  since: number,
  evaluate: (c: ConvertContext) => readonly HostTensor[],
): Conversion => ({ op, since, convert: (c) => evaluate(c).map((tensor) => c.computed(tensor)) });

/** Shape of numpy's broadcasting of two shapes. */
function broadcastShape(c: ConvertContext, a: readonly number[], b: readonly number[]): readonly number[] {
  const rank = Math.max(a.length, b.length);
  const padded = (shape: readonly number[]) => [...new Array<number>(rank - shape.length).fill(1), ...shape];
  const [x, y] = [padded(a), padded(b)];
  return x.map((dim, axis) => {
    if (dim === y[axis] || y[axis] === 1) return dim;
    return dim === 1 ? y[axis] : c.fail('shapes do not broadcast', `[${a.join(', ')}]`, `[${b.join(', ')}]`);
  });
}

/** For each element of `shape`, the place of its operand in a tensor of shape `from` that broadcasts to it. */
function* broadcastPlaces(shape: readonly number[], from: readonly number[]): Generator<number> {
  const strides = new Array<number>(shape.length).fill(0);
  let stride = 1;
  for (let axis = from.length - 1; axis >= 0; axis--) {
    strides[axis + shape.length - from.length] = from[axis] === 1 ? 0 : stride;
    stride *= from[axis];
  }
  const count = sizeOf(shape);
  const at = new Array<number>(shape.length).fill(0);
  for (let n = 0, place = 0; n < count; n++) {
    yield place;
    for (let axis = shape.length - 1; axis >= 0; axis--) {
      place += strides[axis];
      if (++at[axis] < shape[axis]) break;
      place -= strides[axis] * shape[axis];
      at[axis] = 0;
    }
  }
}

/** Both string inputs in the shape that they broadcast to. */
function broadcastPair(c: ConvertContext): { shape: readonly number[]; pairs: [string, string][] } {
  const [x, y] = [stringsOf(c, 0), stringsOf(c, 1)];
  const [xShape, yShape] = [c.constant(0).shape, c.constant(1).shape];
  const shape = broadcastShape(c, xShape, yShape);
  const others = broadcastPlaces(shape, yShape);
  const pairs: [string, string][] = [];
  for (const place of broadcastPlaces(shape, xShape)) pairs.push([x[place], y[others.next().value as number]]);
  return { shape, pairs };
}

/** Equal of strings. */
export function equalStrings(c: ConvertContext): Value {
  const { shape, pairs } = broadcastPair(c);
  return c.computed({ dtype: 'bool', shape, data: Uint8Array.from(pairs, ([a, b]) => Number(a === b)) });
}

/** Shortest decimal that reads back as the same number of its type. */
function printNumber(value: number | bigint, dtype: DType): string {
  if (typeof value === 'bigint') return value.toString();
  if (Number.isNaN(value)) return 'NaN';
  if (!Number.isFinite(value)) return value > 0 ? 'INF' : '-INF';
  if (dtype === 'f64' || Number.isInteger(value)) return Object.is(value, -0) ? '-0' : String(value);
  for (let digits = 1; digits < 17; digits++) {
    const short: number = Number(value.toPrecision(digits));
    if (numbersOf(tensorOfNumbers(dtype, [], [short]))[0] === value) return String(short);
  }
  return String(value);
}

/** A number as ONNX's Cast reads it: plain or scientific, NaN and INF in any case. */
function readNumber(c: ConvertContext, text: string): number {
  const trimmed = text.trim();
  const special = /^([+-]?)(inf|infinity|nan)$/i.exec(trimmed);
  if (special) return special[2].toLowerCase() === 'nan' ? Number.NaN : special[1] === '-' ? -Infinity : Infinity;
  if (/^[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?$/i.test(trimmed)) return Number(trimmed);
  throw new TuttiError('E_INPUT', 'a string that is to become a number is none', {
    subject: describe(c.operator.source),
    expected: 'a decimal number, NaN or INF',
    found: JSON.stringify(text.slice(0, 80)),
  });
}

/** Cast from or to strings. */
export function castStrings(c: ConvertContext, dtype: DType): Value {
  const tensor = c.constant(0);
  const { shape } = tensor;
  if (dtype === 'string') {
    const isBool = tensor.dtype === 'bool';
    const data = Array.from<number | bigint, string>(
      isBig(tensor.dtype) ? bigsOf(tensor) : numbersOf(tensor),
      (value) => (isBool ? (value ? 'True' : 'False') : printNumber(value, tensor.dtype)),
    );
    return c.computed(strings(shape, data));
  }
  const texts = stringsOf(c, 0);
  if (dtype === 'bool') {
    const data = Uint8Array.from(texts, (text) => Number(text !== '' && text !== '0' && !/^false$/i.test(text)));
    return c.computed({ dtype, shape, data });
  }
  if (isBig(dtype)) {
    const whole = texts.map((text) => {
      const trimmed = text.trim();
      return /^[+-]?\d+$/.test(trimmed) ? BigInt(trimmed.replace(/^\+/, '')) : BigInt(Math.trunc(readNumber(c, text)));
    });
    return c.computed(tensorOfElements(dtype, shape, bigArray(dtype, whole)));
  }
  const numbers = texts.map((text) => readNumber(c, text));
  return c.computed(tensorOfNumbers(dtype, shape, isInt(dtype) ? numbers.map(Math.trunc) : numbers));
}

const bigArray = (dtype: 'i64' | 'u64', values: readonly bigint[]): BigInt64Array | BigUint64Array =>
  dtype === 'i64' ? BigInt64Array.from(values) : BigUint64Array.from(values);

function concatenated(c: ConvertContext): readonly HostTensor[] {
  const { shape, pairs } = broadcastPair(c);
  return [
    strings(
      shape,
      pairs.map(([a, b]) => a + b),
    ),
  ];
}

/** Parts of `text` as Python's `str.split` gives them; without a delimiter, runs of white space separate. */
function split(text: string, delimiter: string, most: number): string[] {
  const parts: string[] = [];
  if (delimiter === '') {
    let rest = text.trimStart();
    while (rest !== '') {
      const space = parts.length < most ? rest.search(/\s/) : -1;
      if (space < 0) {
        parts.push(parts.length < most ? rest : rest.trimEnd());
        break;
      }
      parts.push(rest.slice(0, space));
      rest = rest.slice(space).trimStart();
    }
    return parts;
  }
  let rest = text;
  while (parts.length < most) {
    const at = rest.indexOf(delimiter);
    if (at < 0) break;
    parts.push(rest.slice(0, at));
    rest = rest.slice(at + delimiter.length);
  }
  return [...parts, rest];
}

/** Results: the parts, padded with empty strings to the longest list, and how many there are of each. */
function splitStrings(c: ConvertContext): readonly HostTensor[] {
  const texts = stringsOf(c, 0);
  const { shape } = c.constant(0);
  const most = c.int('maxsplit', -1);
  const lists = texts.map((text) => split(text, c.string('delimiter', ''), most < 0 ? Infinity : most));
  const width = lists.reduce((longest, { length }) => Math.max(longest, length), 0);
  const padded = lists.flatMap((list) => [...list, ...new Array<string>(width - list.length).fill('')]);
  const counts = BigInt64Array.from(lists, ({ length }) => BigInt(length));
  return [strings([...shape, width], padded), { dtype: 'i64', shape, data: counts }];
}

/** Stop words removed, then cases changed. What nothing is left of is one empty string. */
function normalised(c: ConvertContext): readonly HostTensor[] {
  const words = stringsOf(c, 0);
  const { shape } = c.constant(0);
  if (shape.length > 2 || shape.length === 0 || (shape.length === 2 && shape[0] !== 1)) {
    c.fail('the input must be a vector, or a matrix of one row', '[C] or [1, C]', `[${shape.join(', ')}]`);
  }
  const sensitive = c.flag('is_case_sensitive');
  const compared = (word: string): string => (sensitive ? word : word.toLowerCase());
  const stop = new Set((c.strings('stopwords') ?? []).map(compared));
  const action = c.choice('case_change_action', ['NONE', 'LOWER', 'UPPER'], 'NONE');
  const change = {
    NONE: (word: string) => word,
    LOWER: (word: string) => word.toLowerCase(),
    UPPER: (word: string) => word.toUpperCase(),
  }[action];
  const kept = words.filter((word) => !stop.has(compared(word))).map(change);
  const result = kept.length === 0 ? [''] : kept;
  return [strings([...shape.slice(0, -1), result.length], result)];
}

const posixClasses: Readonly<Record<string, string>> = {
  alnum: '0-9A-Za-z',
  alpha: 'A-Za-z',
  ascii: '\\x00-\\x7F',
  blank: '\\t ',
  cntrl: '\\x00-\\x1F\\x7F',
  digit: '0-9',
  graph: '!-~',
  lower: 'a-z',
  print: ' -~',
  punct: '!-\\/:-@\\[-`{-~',
  space: '\\t\\n\\v\\f\\r ',
  upper: 'A-Z',
  word: '0-9A-Za-z_',
  xdigit: '0-9A-Fa-f',
};

/** A pattern in RE2's syntax as JavaScript's, where they differ: flags, named groups, anchors, POSIX classes, \Q…\E. */
export function fullMatchPattern(pattern: string): RegExp {
  let flags = '';
  let source = pattern
    .replace(/\\Q([\s\S]*?)(?:\\E|$)/g, (_, literal: string) => literal.replace(/[$()*+.?[\\\]^{|}/]/g, '\\$&'))
    .replace(/^\(\?([ims]+)\)/, (_, given: string) => {
      flags = given;
      return '';
    });
  source = source
    .replace(/\(\?P</g, '(?<')
    .replace(/\[:(\w+):\]/g, (whole, name: string) => posixClasses[name] ?? whole)
    .replace(/\\A/g, '(?<![\\s\\S])')
    .replace(/\\z/g, '(?![\\s\\S])')
    .replace(/\\pN/g, '\\p{N}')
    .replace(/\\p([A-Z])(?![{A-Za-z])/g, '\\p{$1}');
  const anchored = `(?<![\\s\\S])(?:${source})(?![\\s\\S])`;
  try {
    return new RegExp(anchored, `u${flags}`);
  } catch {
    // Unicode mode refuses escapes of characters that need none; RE2 takes them.
    return new RegExp(anchored, flags);
  }
}

function fullMatches(c: ConvertContext): readonly HostTensor[] {
  const texts = stringsOf(c, 0);
  const pattern = c.string('pattern');
  let compiled: RegExp;
  try {
    compiled = fullMatchPattern(pattern);
  } catch (cause) {
    throw new TuttiError('E_MODEL_INVALID', 'the pattern is no regular expression', {
      subject: describe(c.operator.source),
      expected: "RE2's syntax",
      found: JSON.stringify(pattern),
      cause,
    });
  }
  const data = Uint8Array.from(texts, (text) => Number(compiled.test(text)));
  return [{ dtype: 'bool', shape: c.constant(0).shape, data }];
}

export const stringOperators: readonly Conversion[] = [
  hostOperator('StringConcat', 20, concatenated),
  hostOperator('StringSplit', 20, splitStrings),
  hostOperator('StringNormalizer', 10, normalised),
  hostOperator('RegexFullMatch', 20, fullMatches),
];
