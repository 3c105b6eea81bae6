/** From what a caller hands to `run` to checked tensors, one for each input. Every mistake is an E_INPUT that says what to do. */
import { TuttiError } from '../compiler/error.js';
import { flattenInputs, type Lengths, namesIn } from '../compiler/passes/containers.js';
import { isList, leavesOf, type Tree } from '../compiler/passes/mapped.js';
import type { Feeds, ValueInfo } from './api.js';
import type { Placed } from './chain.js';
import { bindDims, type SessionModel } from './session_model.js';
import { Tensor, type TensorData } from './tensor.js';

export interface CheckedFeeds {
  /** By name; those in sequences and optionals have names of their own. Those on the device stay the caller's. */
  readonly tensors: Readonly<Record<string, Placed>>;
  /** How many tensors are in each sequence or optional. */
  readonly lengths: Lengths;
  readonly shapes: Readonly<Record<string, readonly number[]>>;
  /** Equal keys mean equal shapes of all inputs. */
  readonly key: string;
}

/**
 * @param device Where tensors may lie that are not on the host.
 * @param known Whether inputs of the shapes of this key were checked before: then only names and types are.
 * @throws TuttiError E_INPUT
 */
export function checkFeeds(
  model: SessionModel,
  feeds: Feeds,
  device?: object,
  known: (key: string) => boolean = () => false,
): CheckedFeeds {
  if (typeof feeds !== 'object' || feeds === null || feeds instanceof Tensor || ArrayBuffer.isView(feeds)) {
    throw new TuttiError('E_INPUT', 'inputs are given by name', { expected: '{ name: tensor, … }' });
  }
  for (const name of Object.keys(feeds)) {
    if (model.inputs.some((input) => input.name === name)) continue;
    throw new TuttiError('E_INPUT', 'the model has no such input', {
      subject: name,
      expected: model.inputs.length > 0 ? `one of ${model.inputs.map((input) => input.name).join(', ')}` : 'no inputs',
    });
  }
  const shapes: Record<string, readonly number[]> = {};
  const tensors: Record<string, Placed> = {};
  const trees = Object.fromEntries(model.inputs.map((info) => [info.name, checkFeed(info, feeds)]));
  const flat = flattenInputs(model.signature, trees);
  for (const [name, tensor] of Object.entries(flat.tensors)) {
    shapes[name] = tensor.dims;
    tensors[name] = placed(tensor, name, device);
  }
  const key = keyOf(model, shapes, flat.lengths);
  if (!known(key)) {
    const own = Object.fromEntries(
      model.inputs.flatMap(({ name, container }) => (container ? [] : [[name, shapes[name]] as const])),
    );
    bindDims(model.signature, { ...model.shapes, ...own }, model.sizes);
    checkFixed(model, own);
  }
  return { tensors, lengths: flat.lengths, shapes, key };
}

/** What is given for one input, as tensors of its type. */
function checkFeed(info: ValueInfo, feeds: Feeds): Tree<Tensor> {
  const given = Object.hasOwn(feeds, info.name) ? feeds[info.name] : undefined;
  const { container } = info;
  const isList = container !== undefined && Array.isArray(given) && given.every((element) => element instanceof Tensor);
  if (isList && container !== 'optional') return (given as readonly Tensor[]).map((tensor) => checkType(info, tensor));
  if (given === null && container?.startsWith('optional')) return null;
  if (given === undefined || given === null || (container !== undefined && container !== 'optional')) {
    throw new TuttiError('E_INPUT', given === undefined ? 'input is missing' : 'input is of another kind', {
      subject: info.name,
      expected: expectedKind(info),
      remedy: `Pass { '${info.name}': ${container === undefined ? 'tensor' : 'value'} } to run.`,
    });
  }
  return checkType(info, given instanceof Tensor ? given : wrap(given as TensorData, info));
}

function expectedKind({ container, type, shape }: ValueInfo): string {
  switch (container) {
    case undefined:
      return `${type} of shape [${shape.join(', ')}]`;
    case 'optional':
      return type;
    case 'sequence':
      return 'a list of tensors';
    case 'optional_sequence':
      return 'a list of tensors, or null';
    default:
      return container satisfies never;
  }
}

function checkType(info: ValueInfo, tensor: Tensor): Tensor {
  if (tensor.type === info.type || (info.unknown && info.container === undefined)) return tensor;
  throw new TuttiError('E_INPUT', 'input has the wrong type', {
    subject: info.name,
    expected: info.type,
    found: tensor.type,
    remedy: `Convert the data, for example new Tensor('${info.type}', data, dims).`,
  });
}

function placed(tensor: Tensor, name: string, device: object | undefined): Placed {
  const { storage } = tensor;
  if (storage === undefined) return tensor.toHost();
  if (storage.device !== device) {
    throw new TuttiError('E_INPUT', 'the tensor lies on another device', {
      subject: name,
      remedy: 'Fetch it first: await tensor.getData(true).',
    });
  }
  return { dtype: tensor.dtype, shape: tensor.dims, resident: storage.resident };
}

/** Equal for equal shapes of all tensors in all inputs. */
export const keyOf = (
  { signature: graph }: SessionModel,
  shapes: Readonly<Record<string, readonly number[]>>,
  lengths: Lengths = {},
): string =>
  graph.inputs
    .map((input) => {
      const text = (name: string): string => shapes[name].join('x');
      const tree = namesIn(input, lengths);
      return tree !== null && isList(tree) ? `(${tree.map(text).join(';')})` : leavesOf(tree).map(text).join('');
    })
    .join(',');

/** Shapes that were fixed when the model was compiled stay fixed, even where the graph would allow others. */
function checkFixed(model: SessionModel, shapes: Readonly<Record<string, readonly number[]>>): void {
  for (const { name, shape, container } of model.inputs) {
    if (container !== undefined) continue;
    const found = shapes[name];
    if (shape.length === found.length && shape.every((dim, i) => typeof dim === 'string' || dim === found[i])) continue;
    if (model.inputs.find((input) => input.name === name)?.unknown && !(name in model.shapes)) continue;
    throw new TuttiError('E_INPUT', 'input has the wrong shape', {
      subject: name,
      expected: `[${shape.join(', ')}]`,
      found: `[${found.join(', ')}]`,
      remedy: 'The shape was fixed when the model was compiled or the session created; leave it out there to vary it.',
    });
  }
}

/** A tensor over plain data: its dims are the input's, where at most one of them is not known. */
export function wrap(data: TensorData, { name, type, shape, unknown }: SessionModel['inputs'][number]): Tensor {
  const length = (data as { readonly length?: unknown }).length;
  if (typeof length !== 'number') {
    throw new TuttiError('E_INPUT', 'input is neither a tensor nor an array', {
      subject: name,
      expected: `Tensor or data of ${type}`,
      found: typeof data,
    });
  }
  const open = shape.filter((dim) => typeof dim === 'string').length;
  if (open > 1 || unknown) {
    throw new TuttiError('E_INPUT', 'the dims of the data cannot be told', {
      subject: name,
      expected: `a Tensor with dims [${shape.join(', ')}]`,
      found: `${length} elements`,
      remedy: 'Pass Tensor.from(data, dims).',
    });
  }
  const known = shape.reduce<number>((product, dim) => (typeof dim === 'number' ? product * dim : product), 1);
  const dims = shape.map((dim) => (typeof dim === 'number' ? dim : known === 0 ? 0 : length / known));
  if (dims.some((dim) => !Number.isInteger(dim))) {
    throw new TuttiError('E_INPUT', 'the data does not fill whole rows', {
      subject: name,
      expected: `a multiple of ${known} elements for shape [${shape.join(', ')}]`,
      found: `${length}`,
    });
  }
  try {
    return new Tensor(type, data, dims);
  } catch (error) {
    if (!(error instanceof TuttiError)) throw error;
    throw new TuttiError(error.code, 'input does not fit', {
      ...error.details,
      subject: name,
      remedy: error.details.remedy ?? `The input is ${type} of shape [${shape.join(', ')}].`,
      cause: error,
    });
  }
}
