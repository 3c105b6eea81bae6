/**
 * Reads graphs from text (`print.ts` has the format). Text may come from anywhere: every op, attribute, type and name
 * is checked, and no memory is taken by what the text claims, only by what it holds.
 */
import { type DType, integerRange, isDType, isFloat, isInt } from '../dtype.js';
import { TuttiError } from '../error.js';
import { type HostTensor, sizeOf } from '../tensor.js';
import { type FieldForm, isOptional, schemaOf } from './attributes.js';
import {
  addDims,
  type Dim,
  dimName,
  floorDivDims,
  isConcrete,
  maxDims,
  minDims,
  modDims,
  mulDims,
  printShape,
  SymDim,
  shapeEquals,
} from './dims.js';
import { Lexer } from './lexer.js';
import { isOpKind } from './ops/index.js';
import { isBig, tensorOfElements } from './ops/reference/data.js';
import { readBack, textHeader } from './print.js';
import {
  type ConstantData,
  containers,
  type DimBounds,
  type Graph,
  type GraphOutput,
  type Node,
  type SourceAttr,
  type SourceRef,
  type TensorType,
  type Value,
} from './types.js';
import { verifyGraph, verifyNode } from './verify.js';

/** Finds the data of a constant by its key. */
export type ConstantLookup = (key: string) => ConstantData | undefined;

/** Nesting of dim expressions. */
const maxDepth = 16;
/** Terms of a dim expression, written and after expansion. */
const maxTerms = 256;
/** Graphs within graphs. */
const maxBodies = 64;
/** Factors of a term. */
const maxFactors = 32;

/**
 * @throws TuttiError E_IR naming the line for anything that is not a well-formed graph.
 */
export function parseGraph(text: string, constants: ConstantLookup = () => undefined): Graph {
  const lines = text.split('\n');
  if (lines[0]?.trimEnd() !== textHeader) {
    throw new TuttiError('E_IR', 'not a graph, or of another version', {
      subject: 'line 1',
      expected: `'${textHeader}'`,
      found: `'${(lines[0] ?? '').slice(0, 60)}'`,
    });
  }
  // The graphs that are being read, innermost last.
  const open: { readonly reader: GraphReader; readonly key: string }[] = [
    { reader: new GraphReader(constants), key: '' },
  ];
  for (let i = 1; i < lines.length; i++) {
    const line = new Lexer(lines[i], i + 1);
    const { reader, key } = open[open.length - 1];
    if (line.accept('begin')) {
      if (open.length > maxBodies) line.fail('graphs are nested too deeply');
      open.push({ reader: new GraphReader(constants), key: line.expectKind('string', 'the key of the graph') });
      line.expectEnd();
    } else if (line.accept('end')) {
      line.expectEnd();
      open.pop();
      const outer = open.at(-1) ?? line.fail("'end' without 'begin'");
      outer.reader.addBody(line, key, finished(line, reader));
    } else reader.statement(line);
  }
  if (open.length > 1) new Lexer('', lines.length).fail("'end' is missing");
  return open[0].reader.finish();
}

/** A body is checked where it ends. */
function finished(line: Lexer, reader: GraphReader): Graph {
  try {
    return reader.finish();
  } catch (error) {
    if (!(error instanceof TuttiError)) throw error;
    return line.fail(error.message);
  }
}

class GraphReader {
  readonly #lookup: ConstantLookup;
  #name: string | undefined;
  readonly #inputs: Value[] = [];
  readonly #outputs: GraphOutput[] = [];
  readonly #nodes: Node[] = [];
  readonly #constants = new Map<number, ConstantData>();
  readonly #dims = new Map<string, DimBounds>();
  readonly #values = new Map<string, Value>();
  /** Graphs that a later statement may name as an attribute, by key. */
  readonly #bodies = new Map<string, Graph>();

  constructor(lookup: ConstantLookup) {
    this.#lookup = lookup;
  }

  finish(): Graph {
    const graph: Graph = {
      name: this.#name ?? 'graph',
      inputs: this.#inputs,
      outputs: this.#outputs,
      nodes: this.#nodes,
      constants: this.#constants,
      dims: this.#dims,
    };
    verifyGraph(graph);
    return graph;
  }

  addBody(line: Lexer, key: string, graph: Graph): void {
    if (this.#bodies.has(key)) line.fail('two graphs have one key', undefined, `'${key}'`);
    this.#bodies.set(key, graph);
  }

  statement(line: Lexer): void {
    if (line.next.kind === 'end') return;
    if (line.next.kind === 'value') this.#node(line);
    else {
      const keyword = line.expectKind('word', "'graph', 'dim', 'input', 'constant', 'output' or a value");
      if (keyword === 'graph') this.#header(line);
      else if (keyword === 'dim') this.#dim(line);
      else if (keyword === 'input') this.#input(line);
      else if (keyword === 'constant') this.#constant(line);
      else if (keyword === 'output') this.#output(line);
      else line.fail('unknown statement', "'graph', 'dim', 'input', 'constant', 'output' or a value", `'${keyword}'`);
    }
    line.expectEnd();
  }

  #header(line: Lexer): void {
    if (this.#name !== undefined) line.fail('the graph is named twice');
    this.#name = line.expectKind('string', 'the name of the graph');
  }

  #dim(line: Lexer): void {
    const name = readName(line);
    if (this.#dims.has(name)) line.fail('dim is declared twice', undefined, name);
    line.expect('in');
    const [min, max, ...rest] = readList(line, () => readInteger(line));
    if (max === undefined || rest.length > 0) line.fail('invalid bounds of a dim', '[min, max]');
    this.#dims.set(name, { min, max });
  }

  #input(line: Lexer): void {
    const [name, type] = readTyped(line);
    this.#inputs.push(this.#define(line, name, type));
  }

  #constant(line: Lexer): void {
    const [name, type] = readTyped(line);
    const data = this.#data(line, type);
    this.#constants.set(this.#define(line, name, type).id, data);
  }

  #output(line: Lexer): void {
    const name = line.expectKind('string', 'the name of the output');
    line.expect('=');
    this.#outputs.push({ name, value: this.#use(line) });
  }

  #node(line: Lexer): void {
    const results: (readonly [string, TensorType])[] = [];
    do results.push(readTyped(line));
    while (line.accept(','));
    line.expect('=');
    const op = line.expectKind('word', 'an op');
    if (!isOpKind(op)) line.fail('unknown op', undefined, `'${op}'`);
    line.expect('(');
    const inputs: Value[] = [];
    if (!line.accept(')')) {
      do inputs.push(this.#use(line));
      while (line.accept(','));
      line.expect(')');
    }
    const attrs = this.#attrs(line, schemaOf(op));
    const source = readSource(line);
    const outputs = results.map(([name, type]) => this.#define(line, name, type));
    const node = { op, attrs, inputs, outputs, source } as unknown as Node;
    try {
      verifyNode(node);
    } catch (error) {
      if (!(error instanceof TuttiError)) throw error;
      line.fail(error.message);
    }
    this.#nodes.push(node);
  }

  #attrs(line: Lexer, schema: Readonly<Record<string, FieldForm>>): Readonly<Record<string, unknown>> {
    const attrs: Record<string, unknown> = {};
    if (line.accept('{')) {
      do {
        const name = line.expectKind('word', 'the name of an attribute');
        if (!Object.hasOwn(schema, name)) line.fail('unknown attribute', Object.keys(schema).join(', '), `'${name}'`);
        if (Object.hasOwn(attrs, name)) line.fail('attribute is given twice', undefined, name);
        line.expect(':');
        attrs[name] = this.#field(line, schema[name]);
      } while (line.accept(','));
      line.expect('}');
    }
    for (const [name, form] of Object.entries(schema))
      if (!Object.hasOwn(attrs, name) && !isOptional(form)) line.fail(`attribute '${name}' is missing`);
    return attrs;
  }

  #field(line: Lexer, form: FieldForm): unknown {
    if (typeof form !== 'string') {
      const word = line.expectKind('word', form.join(', '));
      return form.includes(word) ? word : line.fail('unknown word', form.join(', '), word);
    }
    switch (form) {
      case 'int':
        return readInteger(line);
      case 'ints':
        return readList(line, () => readInteger(line));
      case 'dim':
        return readDim(line);
      case 'dims':
        return readList(line, () => readDim(line));
      case 'bool':
        return readBool(line);
      case 'bools':
        return readList(line, () => readBool(line));
      case 'string':
        return line.expectKind('string', 'a string');
      case 'dtype':
        return readDType(line);
      case 'number':
        return readNumber(line);
      case 'number?':
        return line.accept('null') ? null : readNumber(line);
      case 'numbers?':
        return line.accept('null') ? null : readList(line, () => readNumber(line));
      case 'scales':
        return readList(line, () => (line.accept('null') ? null : readNumber(line)));
      case 'record':
        return this.#record(line);
      case 'graph':
        line.expect('graph');
        return this.#body(line);
      default:
        return form satisfies never;
    }
  }

  #record(line: Lexer): Readonly<Record<string, SourceAttr>> {
    const entries = new Map<string, SourceAttr>();
    line.expect('{');
    if (line.accept('}')) return {};
    do {
      const key = line.expectKind('string', 'the name of an attribute');
      if (entries.has(key)) line.fail('attribute is given twice', undefined, key);
      line.expect(':');
      entries.set(key, this.#sourceAttr(line));
    } while (line.accept(','));
    line.expect('}');
    return Object.fromEntries(entries);
  }

  #body(line: Lexer): Graph {
    const key = line.expectKind('string', 'the key of a graph');
    const body = this.#bodies.get(key) ?? line.fail('no graph under this key', undefined, `'${key}'`);
    // Shared bodies within shared bodies would be more work than there is text.
    this.#bodies.delete(key);
    return body;
  }

  #sourceAttr(line: Lexer): SourceAttr {
    if (line.accept('graph')) return this.#body(line);
    if (line.accept('tensor')) {
      const type = readType(line);
      return this.#data(line, type).load();
    }
    if (line.next.text !== '[') return readScalar(line);
    const list = readList(line, () => readScalar(line));
    const [first] = list;
    if (list.some((entry) => typeof entry !== typeof first)) line.fail('a list of different kinds of values');
    return list as readonly number[] | readonly bigint[] | readonly string[];
  }

  /** `= […]` or `= data "key"`. */
  #data(line: Lexer, { dtype, shape }: TensorType): ConstantData {
    line.expect('=');
    if (!isConcrete(shape)) return line.fail('shape of data has names in it', 'numbers', printShape(shape));
    if (line.accept('data')) {
      const key = line.expectKind('string', 'the key of the data');
      const data = this.#lookup(key);
      if (!data) return line.fail('no data under this key', undefined, `'${key}'`);
      if (data.dtype !== dtype || !shapeEquals(data.shape, shape)) {
        line.fail('data is of another type', `${dtype}${printShape(shape)}`, `${data.dtype}${printShape(data.shape)}`);
      }
      return data;
    }
    const tensor = readTensor(line, dtype, shape);
    return { dtype, shape, load: () => tensor };
  }

  #define(line: Lexer, name: string, type: TensorType): Value {
    if (this.#values.has(name)) line.fail('value is defined twice', undefined, `%${name}`);
    const value: Value = { id: this.#values.size, name, type };
    this.#values.set(name, value);
    return value;
  }

  #use(line: Lexer): Value {
    const name = line.expectKind('value', 'a value');
    return this.#values.get(name) ?? line.fail('value is not defined yet', undefined, `%${name}`);
  }
}

// --- types and dims ------------------------------------------------------------------------------------------------

function readTyped(line: Lexer): readonly [string, TensorType] {
  const name = line.expectKind('value', 'a value');
  line.expect(':');
  return [name, readType(line)];
}

function readType(line: Lexer): TensorType {
  const dtype = readDType(line);
  const shape = readList(line, () => readDim(line));
  for (const dim of shape) if (typeof dim === 'number' && dim < 0) line.fail('invalid dim', 'at least 0', String(dim));
  if (isConcrete(shape) && !Number.isSafeInteger(sizeOf(shape)))
    line.fail('too many elements', undefined, printShape(shape));
  if (!line.accept('?')) return { dtype, shape };
  const container = containers.find((name) => line.accept(name));
  return { dtype, shape, unknown: true, ...(container && { container }) };
}

function readDType(line: Lexer): DType {
  const word = line.expectKind('word', 'an element type');
  return isDType(word) ? word : line.fail('unknown element type', undefined, `'${word}'`);
}

const readName = (line: Lexer): string =>
  line.next.kind === 'string' ? line.expectKind('string', 'a name') : line.expectKind('word', 'a name');

/** sum := ['-'] product {('+' | '-') product}. */
function readDim(line: Lexer, depth = 0): Dim {
  if (depth > maxDepth) line.fail('dim is nested too deeply');
  let sum: Dim = 0;
  let sign = line.accept('-') ? -1 : 1;
  for (let count = 1; ; count++) {
    if (count > maxTerms) line.fail('dim has too many terms');
    sum = checked(line, addDims(sum, mulDims(readProduct(line, depth), sign)));
    if (line.accept('+')) sign = 1;
    else if (line.accept('-')) sign = -1;
    else return sum;
  }
}

function readProduct(line: Lexer, depth: number): Dim {
  let product = readFactor(line, depth);
  for (let count = 2; line.accept('*'); count++) {
    if (count > maxFactors) line.fail('dim has too many factors');
    const factor = readFactor(line, depth);
    if (termCount(product) * termCount(factor) > maxTerms) line.fail('dim has too many terms');
    product = checked(line, mulDims(product, factor));
  }
  return product;
}

const dimFns = { floordiv: floorDivDims, mod: modDims, min: minDims, max: maxDims } as const;

function readFactor(line: Lexer, depth: number): Dim {
  if (line.next.kind === 'number') return readInteger(line);
  const quoted = line.next.kind === 'string';
  const name = readName(line);
  if (quoted || !line.accept('(')) return dimName(name);
  if (!Object.hasOwn(dimFns, name)) line.fail('unknown function of dims', Object.keys(dimFns).join(', '), name);
  const fn = name as keyof typeof dimFns;
  const a = readDim(line, depth + 1);
  line.expect(',');
  const b = readDim(line, depth + 1);
  line.expect(')');
  if ((fn === 'floordiv' || fn === 'mod') && typeof b === 'number' && b <= 0) {
    line.fail('invalid divisor of a dim', 'at least 1', String(b));
  }
  return checked(line, dimFns[fn](a, b));
}

const termCount = (dim: Dim): number => (dim instanceof SymDim ? dim.terms.length + 1 : 1);

/** Refuses numbers that are no longer exact. */
function checked(line: Lexer, dim: Dim): Dim {
  const exact = dim instanceof SymDim ? [dim.constant, ...dim.terms.map((t) => t.coefficient)] : [dim];
  if (!exact.every(Number.isSafeInteger)) line.fail('number in a dim is too large');
  if (termCount(dim) > maxTerms || String(dim).length > 10_000) line.fail('dim has too many terms');
  return dim;
}

// --- literals ------------------------------------------------------------------------------------------------------

function readList<T>(line: Lexer, read: () => T): T[] {
  const list: T[] = [];
  line.expect('[');
  if (line.accept(']')) return list;
  do list.push(read());
  while (line.accept(','));
  line.expect(']');
  return list;
}

function readNumber(line: Lexer): number {
  const sign = line.accept('-') ? -1 : 1;
  if (line.accept('Infinity')) return sign * Number.POSITIVE_INFINITY;
  if (sign > 0 && line.accept('NaN')) return Number.NaN;
  if (line.next.kind !== 'number') line.fail('unexpected text', 'a number', line.shown());
  const { text } = line.take();
  const value = Number(text);
  if (!Number.isFinite(value)) line.fail('number is too large', undefined, text.slice(0, 60));
  return sign * value;
}

function readInteger(line: Lexer): number {
  const value = readNumber(line);
  if (!Number.isSafeInteger(value)) line.fail('unexpected number', 'an integer below 2^53', String(value));
  return value + 0;
}

function readBool(line: Lexer): boolean {
  if (line.accept('true')) return true;
  return line.accept('false') ? false : line.fail('unexpected text', "'true' or 'false'", line.shown());
}

/** A number, a bigint (`5n`) or a string. */
function readScalar(line: Lexer): number | bigint | string {
  if (line.next.kind === 'string') return line.expectKind('string', 'a string');
  const negative = line.accept('-');
  if (line.next.kind === 'bigint') {
    const magnitude = bigintOf(line, line.take().text.slice(0, -1));
    return negative ? -magnitude : magnitude;
  }
  const value = readNumber(line);
  return negative ? -value : value;
}

/** Literals are short: nobody needs more than 64 bits, and long ones take time. */
const bigintOf = (line: Lexer, digits: string): bigint =>
  digits.length > 20 || !/^\d+$/.test(digits)
    ? line.fail('invalid integer', '64 bits', digits.slice(0, 60))
    : BigInt(digits);

function readTensor(line: Lexer, dtype: DType, shape: readonly number[]): HostTensor {
  const count = sizeOf(shape);
  const sized = <T>(list: readonly T[]): readonly T[] =>
    list.length === count ? list : line.fail('wrong number of elements', String(count), String(list.length));
  if (dtype === 'string') {
    return { dtype, shape, data: sized(readList(line, () => line.expectKind('string', 'a string'))) };
  }
  if (dtype === 'bool') return readBack(dtype, shape, sized(readList(line, () => readBool(line))).map(Number));
  if (isBig(dtype)) {
    const list = sized(readList(line, () => readElement(line, dtype)));
    return tensorOfElements(dtype, shape, dtype === 'i64' ? BigInt64Array.from(list) : BigUint64Array.from(list));
  }
  if (isInt(dtype)) return readBack(dtype, shape, sized(readList(line, () => readElement(line, dtype))).map(Number));
  if (!isFloat(dtype)) throw new TypeError(`literals of ${dtype}`);
  return readBack(dtype, shape, sized(readList(line, () => readNumber(line))));
}

/** An integer within the range of its type. */
function readElement(line: Lexer, dtype: Parameters<typeof integerRange>[0]): bigint {
  const sign = line.accept('-') ? -1n : 1n;
  if (line.next.kind !== 'number') line.fail('unexpected text', 'an integer', line.shown());
  const value = sign * bigintOf(line, line.take().text);
  const [least, most] = integerRange(dtype);
  if (value < least || value > most)
    line.fail(`integer is out of range of ${dtype}`, `${least} to ${most}`, String(value));
  return value;
}

function readSource(line: Lexer): SourceRef {
  line.expect('@');
  const node = line.expectKind('string', 'the name of the source node');
  return line.accept('op') ? { node, op: line.expectKind('string', 'the source operator') } : { node };
}
