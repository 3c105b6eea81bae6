/** Types of the model's inputs: declared dims, named dims, and what the user says about them. */
import { TuttiError } from '../../error.js';
import { type Dim, dimName, printShape } from '../../graph/dims.js';
import type { HostBuilder } from '../../graph/host_values.js';
import type { Container, DimBounds, Value } from '../../graph/types.js';
import type { TypeProto, ValueInfoProto } from './proto.js';
import { dtypeOf } from './tensors.js';

export interface ShapeOptions {
  /** Shapes by input name; a string names a dim. */
  readonly shapes?: Readonly<Record<string, readonly (number | string)[]>>;
  /** Sizes or bounds of named dims. */
  readonly dims?: Readonly<Record<string, number | DimBounds>>;
}

type DeclaredDim = number | string;
interface Declared {
  readonly name: string;
  readonly dtype: Value['type']['dtype'];
  /** Of what holds the tensors, where the input is not one tensor. */
  readonly container?: Container;
  /** Undefined if not even the rank is known. */
  readonly shape?: readonly DeclaredDim[];
}

/** Names that our IR's text form can hold. */
const tidy = (name: string): string =>
  name
    .trim()
    .replaceAll(/[^\p{L}\p{N}_.]/gu, '_')
    .replace(/^(?=\p{N})/u, '_');

/** The tensor type of an input, and what holds such tensors. */
function elementOf(
  { type }: ValueInfoProto,
  subject: string,
): { readonly container?: Container; readonly type: NonNullable<TypeProto['tensorType']> } {
  if (type?.tensorType) return { type: type.tensorType };
  const sequence = type?.sequenceType?.elemType?.tensorType;
  if (sequence) return { container: 'sequence', type: sequence };
  const inner = type?.optionalType?.elemType;
  if (inner?.tensorType) return { container: 'optional', type: inner.tensorType };
  const optional = inner?.sequenceType?.elemType?.tensorType;
  if (optional) return { container: 'optional_sequence', type: optional };
  const what = (['sequenceType', 'mapType', 'optionalType', 'sparseTensorType'] as const).find((key) => type?.[key]);
  if (what === undefined) throw new TuttiError('E_MODEL_INVALID', 'no type is given', { subject });
  throw new TuttiError('E_UNSUPPORTED', `inputs of this ${what.replace('Type', '')} type are not supported`, {
    subject,
    expected: 'a tensor, a sequence of tensors, or an optional one of these',
  });
}

function declared(info: ValueInfoProto): Declared {
  const name = info.name ?? '';
  const subject = `input ${name}`;
  const { container, type } = elementOf(info, subject);
  if (container !== undefined) return { name, dtype: dtypeOf(type.elemType ?? 0, subject), container };
  const dtype = dtypeOf(type.elemType ?? 0, subject);
  const shape = type.shape?.dim.map(({ dimValue, dimParam }, axis): DeclaredDim => {
    if (dimValue !== undefined && dimValue >= 0n) {
      if (dimValue > BigInt(2 ** 31 - 1)) {
        throw new TuttiError('E_MODEL_INVALID', `dim ${axis} is too large`, { subject, found: String(dimValue) });
      }
      return Number(dimValue);
    }
    return dimParam !== undefined && tidy(dimParam) !== '' ? tidy(dimParam) : `${tidy(name)}_d${axis}`;
  });
  return { name, dtype, shape };
}

/**
 * Declares the inputs on the builder, under the user's shapes and dims.
 * @throws TuttiError E_INPUT where they name what is not there or contradict the model or each other
 */
export function declareInputs(
  b: HostBuilder,
  infos: readonly ValueInfoProto[],
  { shapes = {}, dims = {} }: ShapeOptions,
): Value[] {
  const all = infos.map(declared);
  for (const name of Object.keys(shapes)) {
    if (all.some((input) => input.name === name)) continue;
    throw new TuttiError('E_INPUT', `the model has no input ${name}`, {
      expected: `one of ${all.map((input) => input.name).join(', ')}`,
    });
  }
  const sizes = new Map<string, number>();
  const aliases = new Map<string, string>();
  const bind = (name: string, size: number, subject: string): void => {
    const before = sizes.get(name);
    if (before !== undefined && before !== size) {
      throw new TuttiError('E_INPUT', `dim ${name} has two sizes`, {
        subject,
        expected: String(before),
        found: String(size),
      });
    }
    if (!Number.isSafeInteger(size) || size < 0 || size > 2 ** 31 - 1) {
      throw new TuttiError('E_INPUT', `invalid size of dim ${name}`, {
        subject,
        expected: '0 to 2^31 - 1',
        found: String(size),
      });
    }
    sizes.set(name, size);
  };
  const merged = all.map((input): Declared => {
    const given = shapes[input.name];
    if (given === undefined) return input;
    return { ...input, shape: mergeShape(input, given, bind, aliases) };
  });
  const names = new Set(
    merged.flatMap(({ shape = [] }) =>
      shape.flatMap((dim) => (typeof dim === 'string' ? [aliases.get(dim) ?? dim] : [])),
    ),
  );
  for (const [name, size] of Object.entries(dims)) {
    if (!names.has(name)) {
      throw new TuttiError('E_INPUT', `the model has no dim ${name}`, {
        subject: `dim ${name}`,
        expected: names.size === 0 ? 'no dims: all shapes are fixed' : `one of ${[...names].join(', ')}`,
      });
    }
    if (typeof size === 'number') bind(name, size, `dim ${name}`);
    else if (!(size.min >= 0 && size.max >= size.min)) {
      throw new TuttiError('E_INPUT', `invalid bounds of dim ${name}`, { found: `${size.min} to ${size.max}` });
    } else b.dim(name, size);
  }
  for (const name of names) {
    const size = sizes.get(name);
    // Bound dims stay declared, so that they may be named again later.
    if (size !== undefined) b.dim(name, { min: size, max: size });
    else if (typeof dims[name] !== 'object') b.dim(name, { min: 0, max: 2 ** 31 - 1 });
  }
  const resolve = (dim: DeclaredDim): Dim => {
    if (typeof dim === 'number') return dim;
    const name = aliases.get(dim) ?? dim;
    return sizes.get(name) ?? dimName(name);
  };
  return merged.map(({ name, dtype, shape, container }) => {
    if (container !== undefined) return b.input(name, dtype, [], true, container);
    if (shape !== undefined) return b.input(name, dtype, shape.map(resolve));
    return b.input(name, dtype, [], true);
  });
}

/** The declared shape under a given one: numbers bind named dims, names rename them. */
function mergeShape(
  { name, shape }: Declared,
  given: readonly DeclaredDim[],
  bind: (dim: string, size: number, subject: string) => void,
  aliases: Map<string, string>,
): readonly DeclaredDim[] {
  const subject = `input ${name}`;
  if (shape === undefined) return given;
  if (given.length !== shape.length) {
    throw new TuttiError('E_INPUT', 'the given shape has another rank than the model says', {
      subject,
      expected: printShape(shape.map((dim) => (typeof dim === 'string' ? dimName(dim) : dim))),
      found: `[${given.join(', ')}]`,
    });
  }
  return shape.map((dim, axis) => {
    const wanted = given[axis];
    if (typeof dim === 'string') {
      if (typeof wanted === 'number') bind(dim, wanted, `${subject}, dim ${axis}`);
      else if (wanted !== dim) aliases.set(dim, wanted);
      return typeof wanted === 'number' ? dim : wanted;
    }
    if (wanted !== dim) {
      throw new TuttiError('E_INPUT', `dim ${axis} is fixed by the model`, {
        subject,
        expected: String(dim),
        found: String(wanted),
      });
    }
    return dim;
  });
}
