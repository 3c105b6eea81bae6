/**
 * Graphs as text (`graph.tir`). One statement a line; `parse.ts` reads it back to an equal graph:
 *
 *     tutti graph 1
 *     graph "name"
 *     dim batch in [1, 64]
 *     input %x: f32[batch, 3]
 *     constant %w: f32[3, 8] = data "weights/w"
 *     constant %one: f32[] = [1]
 *     %y: f32[batch, 8] = dot(%x, %w) {lhsBatch: [], …} @ "MatMul_0" op "MatMul"
 *     output "y" = %y
 *
 * A graph that is an attribute (the body of a loop) stands before the statement that names it, between `begin "key"`
 * and `end`; it sees nothing of the graph around it:
 *
 *     begin "1"
 *     graph "step"
 *     …
 *     end
 *     %last: f32[8] = scan(%first) {body: graph "1", …} @ "Loop_0"
 */
import { type DType, isFloat } from '../dtype.js';
import { bytesOfTensor, type HostTensor, sizeOf } from '../tensor.js';
import { type FieldForm, isGraph, schemaOf } from './attributes.js';
import { type Dim, SymDim } from './dims.js';
import { bigsOf, isBig, numbersOf, stringsOf, tensorOfNumbers } from './ops/reference/data.js';
import type { ConstantData, Graph, Node, SourceRef, TensorType, Value } from './types.js';

export const textHeader = 'tutti graph 1';
/** Constants of up to this many elements stand in the text itself. */
export const inlineLimit = 16;

export interface PrintOptions {
  /** Key under which the reader finds the data of a constant that is not printed. Default: its name. */
  readonly keyOf?: (data: ConstantData, name: string) => string;
}

/** @throws TuttiError E_EXTERNAL_DATA or E_ARTIFACT if a small constant cannot be read. */
export function printGraph(graph: Graph, options: PrintOptions = {}): string {
  const printer = new Printer(options.keyOf ?? ((_, name) => name));
  printer.graph(graph, '');
  return `${[textHeader, ...printer.lines].join('\n')}\n`;
}

class Printer {
  readonly lines: string[] = [];
  readonly #keyOf: KeyOf;
  #bodies = 0;

  constructor(keyOf: KeyOf) {
    this.#keyOf = keyOf;
  }

  /** `prefix` tells names of constants apart that are in several graphs. */
  graph(graph: Graph, prefix: string): void {
    const keyOf: KeyOf = (data, name) => this.#keyOf(data, `${prefix}${name}`);
    const { lines } = this;
    const names = constantNames(graph);
    lines.push(`graph ${quote(graph.name)}`);
    for (const [name, { min, max }] of graph.dims) lines.push(`dim ${printName(name)} in [${min}, ${max}]`);
    for (const input of graph.inputs) lines.push(`input ${printTyped(input)}`);
    for (const [id, data] of graph.constants) {
      const name = names.get(id);
      // A constant without a use has no name, and nobody misses it.
      if (name === undefined) continue;
      lines.push(`constant ${printValueName(name)}: ${printType(data)} = ${printData(data, name, keyOf)}`);
    }
    for (const node of graph.nodes) lines.push(this.#node(node, keyOf));
    for (const { name, value } of graph.outputs) lines.push(`output ${quote(name)} = ${printValueName(value.name)}`);
  }

  /** The key of a graph that is an attribute of the next statement. */
  #body(graph: Graph): string {
    const key = String(++this.#bodies);
    this.lines.push(`begin ${quote(key)}`);
    this.graph(graph, `${key}/`);
    this.lines.push('end');
    return key;
  }

  #node(node: Node, keyOf: KeyOf): string {
    const results = node.outputs.map(printTyped).join(', ');
    const operands = node.inputs.map((value) => printValueName(value.name)).join(', ');
    const attrs = node.attrs as Readonly<Record<string, unknown>>;
    const context: FieldContext = {
      keyOf,
      nameOf: (key) => `${node.outputs[0]?.name}.${key}`,
      body: (graph) => this.#body(graph),
    };
    const fields = Object.entries(schemaOf(node.op))
      .filter(([name]) => attrs[name] !== undefined)
      .map(([name, form]) => `${name}: ${printField(form, attrs[name], context)}`);
    const list = fields.length === 0 ? '' : ` {${fields.join(', ')}}`;
    return `${results} = ${node.op}(${operands})${list} ${printSource(node.source)}`;
  }
}

export const printType = ({ dtype, shape, unknown, container }: TensorType): string =>
  `${dtype}[${shape.map(printDim).join(', ')}]${unknown ? '?' : ''}${container ?? ''}`;

/** Like `String(dim)`, but names that are not plain words are quoted, so that it can be read back. */
export function printDim(dim: Dim): string {
  if (!(dim instanceof SymDim)) return printNumber(dim);
  let text = '';
  for (const { coefficient, atoms } of dim.terms) {
    const product = atoms
      .map((atom) =>
        atom.fn === 'name' ? printName(atom.name) : `${atom.fn}(${printDim(atom.a)}, ${printDim(atom.b)})`,
      )
      .join('*');
    const size = Math.abs(coefficient) === 1 ? product : `${Math.abs(coefficient)}*${product}`;
    text += text === '' ? (coefficient < 0 ? `-${size}` : size) : coefficient < 0 ? ` - ${size}` : ` + ${size}`;
  }
  if (dim.constant !== 0) text += dim.constant < 0 ? ` - ${-dim.constant}` : ` + ${dim.constant}`;
  return text;
}

const printSource = ({ node, op }: SourceRef): string =>
  `@ ${quote(node)}${op === undefined ? '' : ` op ${quote(op)}`}`;
const printTyped = (value: Value): string => `${printValueName(value.name)}: ${printType(value.type)}`;
const printValueName = (name: string): string => `%${/^[\w./$-]+$/.test(name) ? name : quote(name)}`;
const printName = (name: string): string => (/^[A-Za-z_]\w*$/.test(name) ? name : quote(name));
const quote = (text: string): string => JSON.stringify(text);
const printNumber = (x: number): string => (Object.is(x, -0) ? '-0' : String(x));

type KeyOf = NonNullable<PrintOptions['keyOf']>;
const printList = <T>(list: readonly T[], print: (entry: T) => string): string => `[${list.map(print).join(', ')}]`;

interface FieldContext {
  readonly keyOf: KeyOf;
  /** Name of the tensor in a record, by its key there. */
  nameOf(key: string): string;
  /** Prints a graph before the statement and returns its key. */
  body(graph: Graph): string;
}

function printField(form: FieldForm, value: unknown, context: FieldContext): string {
  if (typeof form !== 'string') return String(value);
  switch (form) {
    case 'dim':
      return printDim(value as Dim);
    case 'dims':
      return printList(value as readonly Dim[], printDim);
    case 'string':
      return quote(value as string);
    case 'bool':
    case 'dtype':
      return String(value);
    case 'int':
    case 'number':
    case 'number?':
      return printNullable(value as number | null);
    case 'bools':
      return printList(value as readonly boolean[], String);
    case 'ints':
    case 'numbers?':
    case 'scales':
      return value === null ? 'null' : printList(value as readonly (number | null)[], printNullable);
    case 'record':
      return `{${Object.entries(value as Readonly<Record<string, unknown>>)
        .map(([key, entry]) => `${quote(key)}: ${printSourceAttr(entry, context.nameOf(key), context)}`)
        .join(', ')}}`;
    case 'graph':
      return `graph ${quote(context.body(value as Graph))}`;
    default:
      return form satisfies never;
  }
}

const printNullable = (x: number | null): string => (x === null ? 'null' : printNumber(x));

function printSourceAttr(value: unknown, name: string, context: FieldContext): string {
  if (Array.isArray(value)) return printList(value, (entry) => printSourceAttr(entry, name, context));
  if (isGraph(value)) return `graph ${quote(context.body(value))}`;
  if (typeof value === 'bigint') return `${value}n`;
  if (typeof value === 'number') return printNumber(value);
  if (typeof value === 'string') return quote(value);
  const tensor = value as HostTensor;
  const data: ConstantData = { dtype: tensor.dtype, shape: tensor.shape, load: () => tensor };
  return `tensor ${printType(data)} = ${printData(data, name, context.keyOf)}`;
}

function printData(data: ConstantData, name: string, keyOf: KeyOf): string {
  const inline = sizeOf(data.shape) <= inlineLimit ? printElements(data.load()) : null;
  return inline ?? `data ${quote(keyOf(data, name))}`;
}

/** The elements as literals, or null if that would lose bits (NaNs carry some). */
function printElements(tensor: HostTensor): string | null {
  const { dtype } = tensor;
  if (dtype === 'string') return printList(stringsOf(tensor), quote);
  if (isBig(dtype)) return printList(Array.from(bigsOf(tensor)), String);
  // The literal NaN stands for one NaN; the others keep their payload by being data.
  const numbers = Array.from(numbersOf(tensor), (x) => (Number.isNaN(x) ? Number.NaN : x));
  if (dtype === 'bool')
    return numbers.every((x) => x === 0 || x === 1) ? printList(numbers, (x) => String(x === 1)) : null;
  if (isFloat(dtype) && !sameBits(tensor, readBack(dtype, tensor.shape, numbers))) return null;
  return printList(numbers, printNumber);
}

/** What the reader makes of literals. */
export const readBack = (dtype: DType, shape: readonly number[], numbers: readonly number[]): HostTensor =>
  tensorOfNumbers(dtype, shape, numbers);

function sameBits(a: HostTensor, b: HostTensor): boolean {
  const [x, y] = [bytesOfTensor(a), bytesOfTensor(b)];
  return x.length === y.length && x.every((byte, i) => byte === y[i]);
}

function constantNames(graph: Graph): Map<number, string> {
  const names = new Map<number, string>();
  for (const node of graph.nodes) for (const { id, name } of node.inputs) names.set(id, name);
  for (const { value } of graph.outputs) names.set(value.id, value.name);
  return names;
}
