/** Checks that a graph is well-formed. Run after building, between passes and on everything that is read from outside. */
import { dtypes } from '../dtype.js';
import { TuttiError } from '../error.js';
import { describeForm, hasForm, schemaOf } from './attributes.js';
import { bodiesOf } from './bodies.js';
import { describe } from './builder.js';
import { dimEquals, printShape } from './dims.js';
import { definitionOf, isOpKind } from './ops/index.js';
import type { Graph, Node, NodeOf, OpKind, TensorType, Value } from './types.js';

/**
 * Checks order and uniqueness of definitions, names, types against the ops' shape rules, constants and outputs.
 * @throws TuttiError E_IR naming the source node.
 */
export function verifyGraph(graph: Graph): void {
  const defined = new Map<number, Value>();
  const names = new Set<string>();
  const subject = `graph ${graph.name}`;
  const define = (value: Value, where: string): void => {
    if (defined.has(value.id)) fail(where, `value ${value.id} (${value.name}) is defined twice`);
    if (names.has(value.name)) fail(where, 'two values have one name', undefined, value.name);
    checkType(value.type, where);
    defined.set(value.id, value);
    names.add(value.name);
  };

  for (const [name, { min, max }] of graph.dims) {
    if (!Number.isSafeInteger(min) || !Number.isSafeInteger(max) || min < 0 || max < min) {
      fail(subject, `invalid bounds of dim ${name}`, 'integers 0 ≤ min ≤ max', `[${min}, ${max}]`);
    }
  }
  for (const input of graph.inputs) define(input, subject);
  const constants = constantValues(graph);
  for (const [id, data] of graph.constants) {
    const value = constants.get(id);
    // A constant that nobody uses has no value to check.
    if (!value) continue;
    define(value, subject);
    const same = value.type.dtype === data.dtype && sameShape(value.type.shape, data.shape);
    if (!same) {
      fail(subject, `data of constant ${value.name} does not fit its type`, show(value.type), show({ ...data }));
    }
  }

  const producers = new Map<number, Node>();
  for (const node of graph.nodes) for (const output of node.outputs) producers.set(output.id, node);
  const use = (value: Value, where: string): void => {
    const known = defined.get(value.id);
    if (!known) {
      const later = producers.get(value.id);
      fail(
        where,
        later
          ? `uses ${value.name} of ${describe(later.source)} before it is defined: a cycle, or nodes out of order`
          : `uses ${value.name}, which nothing defines`,
      );
    }
    if (known !== value && (known.name !== value.name || !sameType(known.type, value.type))) {
      fail(where, `uses another version of ${known.name} than the one defined`, show(known.type), show(value.type));
    }
  };
  for (const node of graph.nodes) {
    const where = describe(node.source);
    for (const input of node.inputs) use(input, where);
    verifyNode(node);
    for (const output of node.outputs) define(output, where);
  }

  const outputs = new Set<string>();
  for (const { name, value } of graph.outputs) {
    if (outputs.has(name)) fail(subject, 'two outputs have one name', undefined, name);
    outputs.add(name);
    use(value, `output ${name}`);
  }
}

/** Checks a node by itself: attributes and types. @throws TuttiError E_IR */
export function verifyNode(node: Node): void {
  const where = describe(node.source);
  if (!isOpKind(node.op)) fail(where, 'unknown op', undefined, String((node as Node).op));
  const attrs = node.attrs as Readonly<Record<string, unknown>>;
  const schema = schemaOf(node.op);
  for (const [name, form] of Object.entries(schema)) {
    if (!hasForm(form, attrs[name])) {
      fail(where, `invalid attribute ${name} of ${node.op}`, describeForm(form), String(attrs[name]));
    }
  }
  for (const name of Object.keys(attrs)) {
    if (!Object.hasOwn(schema, name)) fail(where, `${node.op} has no attribute ${name}`);
  }
  for (const body of bodiesOf(node)) verifyBody(body);
  if (node.op === 'source_op') verifySourceOp(node);
  // Results of source ops are whatever the frontend expects of them.
  if (node.op === 'source_op') return;
  const inferred = inferNode(node as NodeOf<OpKind>);
  if (inferred.length !== node.outputs.length) {
    fail(where, `wrong number of results of ${node.op}`, `${inferred.length}`, `${node.outputs.length}`);
  }
  inferred.forEach((type, i) => {
    const { type: recorded, name } = node.outputs[i];
    if (!compatible(type, recorded)) {
      fail(where, `type of ${name} is not what ${node.op} gives`, show(type), show(recorded));
    }
  });
}

/** Graphs do not change: once is enough, however often a graph is reached. */
const verifiedBodies = new WeakSet<Graph>();

function verifyBody(body: Graph): void {
  if (verifiedBodies.has(body)) return;
  verifyGraph(body);
  verifiedBodies.add(body);
}

/** Inputs are those that are present, then what the bodies capture. */
function verifySourceOp(node: NodeOf<'source_op'>): void {
  const { attrs, inputs, source } = node;
  const captured = inputs.length - attrs.present.filter(Boolean).length;
  const bodies = bodiesOf(node);
  if (captured < 0) fail(describe(source), 'fewer inputs than are present', undefined, String(inputs.length));
  if (captured > 0 && bodies.length === 0) fail(describe(source), 'more inputs than are present, and no body');
  for (const body of bodies) {
    if (body.inputs.length < captured) {
      fail(describe(source), 'a body takes fewer inputs than it captures', `${captured}`, `${body.inputs.length}`);
    }
  }
}

function inferNode<K extends OpKind>({ op, attrs, inputs, source }: NodeOf<K>): TensorType[] {
  return definitionOf(op).infer({
    attrs,
    inputs: inputs.map((value) => value.type),
    source,
    fail: (message, expected, found, remedy) => fail(describe(source), message, expected, found, remedy),
  });
}

/** Two expressions may be equal without looking so; numbers and ranks must be the same. */
const compatible = (a: TensorType, b: TensorType): boolean =>
  a.dtype === b.dtype &&
  a.shape.length === b.shape.length &&
  a.shape.every((dim, i) => {
    const other = b.shape[i];
    return typeof dim !== 'number' || typeof other !== 'number' || dim === other;
  });

const sameShape = (a: TensorType['shape'], b: TensorType['shape']): boolean =>
  a.length === b.length && a.every((dim, i) => dimEquals(dim, b[i]));
const sameType = (a: TensorType, b: TensorType): boolean =>
  a.dtype === b.dtype && a.unknown === b.unknown && a.container === b.container && sameShape(a.shape, b.shape);

/** The values of constants, found where they are used. */
function constantValues(graph: Graph): Map<number, Value> {
  const values = new Map<number, Value>();
  const note = (value: Value) => {
    if (graph.constants.has(value.id) && !values.has(value.id)) values.set(value.id, value);
  };
  for (const node of graph.nodes) node.inputs.forEach(note);
  for (const { value } of graph.outputs) note(value);
  return values;
}

function checkType(type: TensorType, where: string): void {
  if (!dtypes.includes(type.dtype)) fail(where, 'unknown element type', undefined, String(type.dtype));
  for (const dim of type.shape) {
    if (typeof dim === 'number' && (!Number.isSafeInteger(dim) || dim < 0)) {
      fail(where, 'invalid dim', 'an integer of at least 0', String(dim));
    }
  }
}

const show = (type: Pick<TensorType, 'dtype' | 'shape'>): string => `${type.dtype}${printShape(type.shape)}`;

function fail(subject: string, message: string, expected?: string, found?: string, remedy?: string): never {
  throw new TuttiError('E_IR', message, { subject, expected, found, remedy });
}
