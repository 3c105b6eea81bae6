/** ONNX model bytes → Graph IR. Converts node by node; what waits for shapes stays as a source op. */
import { TuttiError } from '../../error.js';
import { describe } from '../../graph/builder.js';
import { select3 } from '../../graph/compose/index.js';
import { isConcrete, shapeEquals } from '../../graph/dims.js';
import { HostBuilder, NotConstant } from '../../graph/host_values.js';
import type { Graph, SourceAttr, SourceRef, Value } from '../../graph/types.js';
import { attributesOf, resolveReference } from './attributes.js';
import type { SourceOperator } from './context.js';
import { convert, findConversion, isStandardDomain, structuralOperator } from './convert.js';
import { withNamedInputs } from './gradient.js';
import { declareInputs, type ShapeOptions } from './inputs.js';
import { freeNames, liveNodes, orderNodes, type PlacedNode } from './order.js';
import { type AttributeProto, decode, type FunctionProto, type GraphProto, type ModelProto } from './proto.js';
import { type Frame, opsetsOf, Scope } from './scope.js';
import { constantOf, denseOf, type ExternalReader, type LeftOut } from './tensors.js';

export interface ImportOptions extends ShapeOptions {
  /** Opens files beside the model. Without it a model with external data is refused. */
  readonly readExternal?: ExternalReader;
  /** Set where the bytes are not all there: see outline.ts. */
  readonly leftOut?: LeftOut;
  /** Name of the graph, for dumps and reports; by default the model's own. */
  readonly name?: string;
}

/** Nested functions and subgraphs beyond this are taken for endless. */
const maximumNesting = 64;

/**
 * Imports a model.
 * @throws TuttiError E_MODEL_FORMAT (no such file), E_MODEL_INVALID (no valid graph), E_UNSUPPORTED (operator, opset,
 *   type), E_EXTERNAL_DATA, E_INPUT (shapes and dims), E_SHAPE; all name the node.
 */
export function importOnnx(bytes: Uint8Array, options: ImportOptions = {}): Graph {
  if (bytes.byteLength === 0) throw new TuttiError('E_MODEL_FORMAT', 'the model file is empty');
  const model = decode('ModelProto', bytes);
  if (model.graph === undefined) {
    throw new TuttiError('E_MODEL_FORMAT', 'the file holds no ONNX graph', {
      remedy: 'The file may be truncated or of another format',
    });
  }
  return new Importer(model, model.graph, options).run();
}

const namesOf = (infos: GraphProto['output']): readonly string[] => infos.map(({ name = '' }) => name);

const functionKey = (domain: string, name: string, overload: string): string =>
  `${isStandardDomain(domain) ? '' : domain}:${name}:${overload}`;

class Importer {
  readonly #model: ModelProto;
  readonly #graph: GraphProto;
  readonly #options: ImportOptions;
  readonly #functions = new Map<string, FunctionProto>();

  constructor(model: ModelProto, graph: GraphProto, options: ImportOptions) {
    this.#model = model;
    this.#graph = graph;
    this.#options = options;
    for (const body of model.functions) {
      this.#functions.set(functionKey(body.domain ?? '', body.name ?? '', body.overload ?? ''), body);
    }
  }

  run(): Graph {
    const scope = new Scope();
    const b = new HostBuilder(this.#options.name ?? (this.#graph.name || 'model'));
    const opsets = opsetsOf(this.#model.opsetImport, 'the model');
    const frame: Frame = { b, scope, opsets, prefix: '', depth: 0 };
    this.#initializers(this.#graph, frame);
    const open = this.#graph.input.filter((info) => !scope.hasOwn(info.name ?? ''));
    const names = new Set<string>();
    for (const { name = '' } of open) {
      if (name === '' || names.has(name)) {
        throw new TuttiError(
          'E_MODEL_INVALID',
          name === '' ? 'an input without a name' : `input ${name} is given twice`,
        );
      }
      names.add(name);
    }
    for (const input of declareInputs(b, open, this.#options)) scope.set(input.name, input);
    this.#nodes(this.#graph, namesOf(this.#graph.output), frame);
    if (this.#graph.output.length === 0) throw new TuttiError('E_MODEL_INVALID', 'the graph has no outputs');
    const outputs = new Set<string>();
    for (const { name = '' } of this.#graph.output) {
      const value = scope.get(name);
      if (value === undefined) throw new TuttiError('E_MODEL_INVALID', `output ${name} is not defined`);
      if (outputs.has(name)) throw new TuttiError('E_MODEL_INVALID', `output ${name} is given twice`);
      outputs.add(name);
      b.output(name, value);
    }
    return b.finish();
  }

  #initializers(graph: GraphProto, { b, scope }: Frame): void {
    const define = (name: string | undefined, data: () => ReturnType<typeof constantOf>): void => {
      if (!name) throw new TuttiError('E_MODEL_INVALID', 'an initialiser without a name');
      if (scope.hasOwn(name)) throw new TuttiError('E_MODEL_INVALID', `initialiser ${name} is given twice`);
      const value = b.constant(data(), name);
      b.label(value, name);
      scope.set(name, value);
    };
    const { readExternal, leftOut } = this.#options;
    for (const proto of graph.initializer) {
      define(proto.name, () => constantOf(proto, `initialiser ${proto.name}`, readExternal, leftOut));
    }
    for (const proto of graph.sparseInitializer) {
      const name = proto.values?.name;
      define(name, () => {
        const tensor = denseOf(proto, `initialiser ${name}`);
        return { dtype: tensor.dtype, shape: tensor.shape, load: () => tensor };
      });
    }
  }

  /** Converts the nodes that the named outputs need. */
  #nodes(graph: Pick<GraphProto, 'node'>, outputs: readonly string[], frame: Frame): void {
    const { scope } = frame;
    const visible = (name: string): boolean => scope.get(name) !== undefined;
    // A subgraph may define names anew that an outer graph has, but not its own.
    const ordered = orderNodes(graph.node.map(withNamedInputs), visible, (name) => scope.hasOwn(name));
    for (const placed of liveNodes(ordered, outputs)) this.#node(placed, frame);
  }

  #node({ node, name: ownName }: PlacedNode, frame: Frame): void {
    const op = node.opType ?? '';
    const domain = isStandardDomain(node.domain ?? '') ? '' : (node.domain ?? '');
    const name = frame.prefix + ownName;
    const source: SourceRef = { node: name, op };
    const subject = describe(source);
    if (op === '') throw new TuttiError('E_MODEL_INVALID', 'a node without an operator', { subject });
    const inputs = node.input.map((input) => {
      if (input === '') return undefined;
      const value = frame.scope.get(input);
      if (value === undefined) throw new TuttiError('E_MODEL_INVALID', `input ${input} is not defined`, { subject });
      return value;
    });
    const body = this.#functions.get(functionKey(domain, op, node.overload ?? ''));
    const results = this.#results(body, { op, domain, subject, source, name, inputs, node }, frame);
    node.output.forEach((output, i) => {
      if (output === '') return;
      const value = results[i];
      if (value === undefined) {
        throw new TuttiError('E_UNSUPPORTED', `output ${i} (${output}) of ${op} is not supported`, { subject });
      }
      frame.b.label(value, frame.depth === 0 ? output : `${frame.prefix}${output}`);
      frame.scope.set(output, value);
    });
  }

  #results(
    body: FunctionProto | undefined,
    call: {
      readonly op: string;
      readonly domain: string;
      readonly subject: string;
      readonly source: SourceRef;
      readonly name: string;
      readonly inputs: readonly (Value | undefined)[];
      readonly node: PlacedNode['node'];
    },
    frame: Frame,
  ): readonly (Value | undefined)[] {
    const { op, domain, subject, source, name, inputs, node } = call;
    if (frame.depth >= maximumNesting) {
      throw new TuttiError('E_MODEL_INVALID', `functions or subgraphs nest deeper than ${maximumNesting}`, { subject });
    }
    if (body !== undefined) return this.#inline(body, call, frame);
    const opset = frame.opsets.get(domain);
    if (opset === undefined && domain === '') {
      throw new TuttiError('E_MODEL_INVALID', `no opset of domain "${domain}" is imported`, { subject });
    }
    const { values, graphs } = attributesOf(node.attribute, subject, frame.attributes);
    if (domain === '' && op === 'If') {
      const branch = this.#branch(graphs, inputs, node.output.length, source, frame);
      if (branch !== undefined) return branch;
    }
    const wanted = node.output.map((output) => output !== '');
    const operator: SourceOperator = { op, domain, opset: opset ?? 1, attrs: values, wanted, source };
    if (structuralOperator(domain, op) === undefined) {
      findConversion(operator);
      if (graphs.size > 0) {
        throw new TuttiError('E_UNSUPPORTED', `subgraphs of ${op} are not supported`, { subject });
      }
      try {
        return convert(frame.b, operator, inputs);
      } catch (error) {
        if (!(error instanceof NotConstant)) throw error;
      }
    }
    const { attrs, captured } = this.#bodies(values, graphs, source, frame);
    return frame.b.node(
      'source_op',
      [...inputs.filter((input) => input !== undefined), ...captured],
      { domain, name: op, opset: operator.opset, attrs, present: inputs.map((input) => input !== undefined) },
      node.output.map(() => ({ dtype: 'f32', shape: [], unknown: true })),
      node.output.map((output, i) => output || `${name}.${i}`),
      source,
    );
  }

  /**
   * Subgraphs as graphs of their own. Each takes its formal inputs, then all values from outside that any of them uses.
   * Nothing is known of their types before the operator is specialised.
   */
  #bodies(
    values: Readonly<Record<string, SourceAttr>>,
    graphs: ReadonlyMap<string, GraphProto>,
    source: SourceRef,
    frame: Frame,
  ): { readonly attrs: Readonly<Record<string, SourceAttr>>; readonly captured: readonly Value[] } {
    const outside = new Map<string, Value>();
    for (const graph of graphs.values()) {
      for (const name of freeNames(graph)) {
        const value = frame.scope.get(name);
        if (value !== undefined) outside.set(name, value);
      }
    }
    const attrs: Record<string, SourceAttr> = { ...values };
    for (const [key, graph] of graphs) attrs[key] = this.#body(graph, key, [...outside.keys()], source, frame);
    return { attrs, captured: [...outside.values()] };
  }

  #body(graph: GraphProto, key: string, outside: readonly string[], source: SourceRef, frame: Frame): Graph {
    const b = new HostBuilder(graph.name || key);
    const scope = new Scope();
    const prefix = `${source.node}/${key}/`;
    const subject = `${describe(source)}, ${key}`;
    for (const { name = '' } of graph.input) {
      if (name === '' || scope.hasOwn(name))
        throw new TuttiError('E_MODEL_INVALID', `invalid input '${name}'`, { subject });
      scope.set(name, b.input(name, 'f32', [], true));
    }
    for (const name of outside) {
      const value = b.input(name, 'f32', [], true);
      if (!scope.hasOwn(name)) scope.set(name, value);
    }
    const inner: Frame = { ...frame, b, scope, prefix, depth: frame.depth + 1 };
    this.#initializers(graph, inner);
    this.#nodes(graph, namesOf(graph.output), inner);
    const names = new Set<string>();
    for (const { name = '' } of graph.output) {
      const value = scope.get(name);
      if (value === undefined) throw new TuttiError('E_MODEL_INVALID', `output ${name} is not defined`, { subject });
      let unique = name;
      for (let n = 1; names.has(unique); n++) unique = `${name}.${n}`;
      names.add(unique);
      b.output(unique, value);
    }
    return b.finish();
  }

  /** A call of a model-local function becomes its nodes. */
  #inline(
    body: FunctionProto,
    {
      inputs,
      node,
      subject,
      name,
    }: {
      readonly inputs: readonly (Value | undefined)[];
      readonly node: PlacedNode['node'];
      readonly subject: string;
      readonly name: string;
    },
    frame: Frame,
  ): readonly (Value | undefined)[] {
    const attributes = new Map<string, AttributeProto>();
    for (const standard of body.attributeProto) attributes.set(standard.name ?? '', standard);
    for (const given of node.attribute) {
      const actual = resolveReference(given, frame.attributes);
      if (actual !== undefined) attributes.set(given.name ?? '', actual);
    }
    if (inputs.length > body.input.length) {
      throw new TuttiError('E_MODEL_INVALID', `function ${body.name} is called with too many inputs`, {
        subject,
        expected: String(body.input.length),
        found: String(inputs.length),
      });
    }
    const scope = new Scope();
    const absent = new Set<string>();
    body.input.forEach((input, i) => {
      const value = inputs[i];
      if (value === undefined) absent.add(input);
      else scope.set(input, value);
    });
    // An absent optional input is absent in the body too.
    const nodes = body.node.map((inner) => ({ ...inner, input: inner.input.map((x) => (absent.has(x) ? '' : x)) }));
    const opsets = new Map([...frame.opsets, ...opsetsOf(body.opsetImport, `function ${body.name}`, true)]);
    const { b, depth } = frame;
    this.#nodes({ node: nodes }, body.output, { b, scope, opsets, prefix: `${name}/`, attributes, depth: depth + 1 });
    return body.output.map((output) => scope.get(output));
  }

  /**
   * If with a known condition is one of its branches. Small branches of one shape are both computed and selected from:
   * that is cheaper than to wait for the condition. Undefined where neither can be told yet.
   */
  #branch(
    graphs: ReadonlyMap<string, GraphProto>,
    inputs: readonly (Value | undefined)[],
    outputs: number,
    source: SourceRef,
    frame: Frame,
  ): readonly (Value | undefined)[] | undefined {
    const { b } = frame;
    const [condition] = inputs;
    const [yes, no] = [graphs.get('then_branch'), graphs.get('else_branch')];
    if (condition === undefined || yes === undefined || no === undefined) {
      throw new TuttiError('E_MODEL_INVALID', 'If needs a condition and two branches', { subject: describe(source) });
    }
    if (condition.type.unknown) return undefined;
    const convertBranch = (graph: GraphProto, label: string): readonly (Value | undefined)[] => {
      const prefix = `${source.node}/${label}/`;
      const inner: Frame = { ...frame, scope: new Scope(frame.scope), prefix, depth: frame.depth + 1 };
      this.#initializers(graph, inner);
      this.#nodes(graph, namesOf(graph.output), inner);
      return graph.output.map(({ name = '' }) => inner.scope.get(name));
    };
    const known = b.contentOf(condition);
    if (known !== undefined && isConcrete(known)) {
      return known[0] !== 0 ? convertBranch(yes, 'then') : convertBranch(no, 'else');
    }
    if (!isSmall(yes) || !isSmall(no)) return undefined;
    try {
      const [x, y] = [convertBranch(yes, 'then'), convertBranch(no, 'else')];
      const pairs = Array.from({ length: outputs }, (_, i) => [x[i], y[i]] as const);
      if (!pairs.every((pair): pair is readonly [Value, Value] => isSelectable(...pair))) return undefined;
      b.source = source;
      const [scalar] = b.op('reshape', [condition], { shape: [] });
      return pairs.map(([a, c]) => select3(b, scalar, a, c));
    } catch (error) {
      // A branch that is not taken need not fit.
      if (error instanceof TuttiError && error.code === 'E_SHAPE') return undefined;
      throw error;
    }
  }
}

/** Branches of so few nodes cost less than to read the condition. */
const smallBranch = 8;
const isSmall = (graph: GraphProto): boolean =>
  graph.node.length <= smallBranch && graph.node.every(({ attribute }) => attribute.every(({ g }) => g === undefined));

const isSelectable = (x: Value | undefined, y: Value | undefined): boolean =>
  x !== undefined &&
  y !== undefined &&
  !x.type.unknown &&
  !y.type.unknown &&
  x.type.dtype === y.type.dtype &&
  x.type.dtype !== 'string' &&
  shapeEquals(x.type.shape, y.type.shape);
