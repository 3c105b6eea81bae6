/** What is said about the inputs of a graph before it is specialised: sizes, shapes, data. */
import { TuttiError } from '../error.js';
import { type Dim, plainName, printShape } from '../graph/dims.js';
import type { Graph, Value } from '../graph/types.js';
import type { HostTensor } from '../tensor.js';
import { type Lengths, namesIn } from './containers.js';
import { leavesOf } from './mapped.js';

export interface Bindings {
  /** Sizes of named dims. */
  readonly dims?: Readonly<Record<string, number>>;
  /** How many tensors are in the inputs that are sequences or optionals. */
  readonly lengths?: Lengths;
  /**
   * Concrete shapes by input name; they bind the named dims that occur in them. Tensors in a container are named
   * `<input>.<place>`.
   */
  readonly shapes?: Readonly<Record<string, readonly number[]>>;
  /**
   * Data of inputs, for operators whose parameters (axes, target shapes) come in as inputs. Only what no operator can
   * do without is looked at; the specialised graph then holds for these data alone. The input stays declared.
   */
  readonly values?: Readonly<Record<string, HostTensor>>;
  /** Told the name of each input whose data was looked at: it belongs into the key of a cache. */
  readonly onUse?: (input: string) => void;
}

/** Named dims and their sizes, from both kinds of bindings, checked against each other and their bounds. */
export function bindDims(graph: Graph, { dims = {}, shapes = {}, lengths = {} }: Bindings): ReadonlyMap<string, Dim> {
  const sizes = new Map<string, number>();
  const origins = new Map<string, string>();
  // A dim that was bound when the model was imported is still declared, though no shape names it any more.
  const inShapes = graph.inputs.flatMap(({ type }) => type.shape.flatMap((dim) => plainName(dim) ?? []));
  const names = new Set([...inShapes, ...graph.dims.keys()]);
  const bind = (name: string, size: number, origin: string): void => {
    const before = sizes.get(name);
    if (before !== undefined && before !== size) {
      throw new TuttiError('E_INPUT', `dim ${name} has two sizes`, {
        subject: origin,
        expected: `${before} (${origins.get(name)})`,
        found: String(size),
      });
    }
    const { min, max } = graph.dims.get(name) ?? { min: 0, max: 2 ** 31 - 1 };
    if (!Number.isSafeInteger(size) || size < min || size > max) {
      throw new TuttiError('E_INPUT', `size of dim ${name} is out of range`, {
        subject: origin,
        expected: `${min} to ${max}`,
        found: String(size),
      });
    }
    sizes.set(name, size);
    origins.set(name, origin);
  };
  for (const [name, size] of Object.entries(dims)) {
    if (!names.has(name)) {
      throw new TuttiError('E_INPUT', `the model has no dim ${name}`, {
        subject: `dim ${name}`,
        expected: names.size === 0 ? 'no dims: all shapes are fixed' : `one of ${[...names].join(', ')}`,
      });
    }
    bind(name, size, `dim ${name}`);
  }
  const contained = new Set<string>();
  for (const input of graph.inputs) {
    if (input.type.container) for (const name of leavesOf(namesIn(input, lengths))) contained.add(name);
  }
  for (const [name, shape] of Object.entries(shapes)) {
    if (contained.delete(name)) continue;
    const input = graph.inputs.find((candidate) => candidate.name === name);
    if (input === undefined) {
      const known = graph.inputs.map((candidate) => candidate.name);
      throw new TuttiError('E_INPUT', `the model has no input ${name}`, { expected: `one of ${known.join(', ')}` });
    }
    bindShape(input, shape, bind);
  }
  for (const name of contained) {
    throw new TuttiError('E_INPUT', `the shape of ${name} is not known`, { subject: name });
  }
  for (const { name: input, type } of graph.inputs) {
    if (type.container) continue;
    const unbound = type.unknown
      ? shapes[input] === undefined
        ? 'its rank'
        : undefined
      : type.shape.map(plainName).find((name) => name !== undefined && !sizes.has(name));
    if (unbound !== undefined) {
      throw new TuttiError('E_INPUT', `the shape of input ${input} is not known: ${unbound}`, {
        subject: input,
        found: type.unknown ? undefined : printShape(type.shape),
        remedy: type.unknown ? `Give --shape ${input}=…` : `Give --dim ${unbound}=… or --shape ${input}=…`,
      });
    }
  }
  return sizes;
}

function bindShape(
  input: Value,
  shape: readonly number[],
  bind: (name: string, size: number, origin: string) => void,
): void {
  const { type } = input;
  if (type.unknown) {
    if (shape.every((dim) => Number.isSafeInteger(dim) && dim >= 0)) return;
    throw new TuttiError('E_INPUT', 'invalid shape', { subject: input.name, found: `[${shape.join(', ')}]` });
  }
  if (shape.length !== type.shape.length) {
    throw new TuttiError('E_INPUT', 'wrong rank of an input', {
      subject: input.name,
      expected: printShape(type.shape),
      found: `[${shape.join(', ')}]`,
    });
  }
  shape.forEach((size, axis) => {
    const dim = type.shape[axis];
    const name = plainName(dim);
    if (name !== undefined) bind(name, size, `input ${input.name}, dim ${axis}`);
    else if (size !== dim) {
      throw new TuttiError('E_INPUT', `wrong size of dim ${axis} of input ${input.name}`, {
        subject: input.name,
        expected: String(dim),
        found: String(size),
      });
    }
  });
}
