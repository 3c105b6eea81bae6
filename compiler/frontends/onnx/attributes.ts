/** Attributes of a node, out of the protobuf: numbers are floats, bigints are integers. */
import { TuttiError } from '../../error.js';
import type { SourceAttr } from '../../graph/types.js';
import { type AttributeProto, type GraphProto, attributeTypes as types } from './proto.js';
import { denseOf, tensorOf } from './tensors.js';

export interface Attributes {
  readonly values: Readonly<Record<string, SourceAttr>>;
  readonly graphs: ReadonlyMap<string, GraphProto>;
}

const text = (bytes: Uint8Array): string => new TextDecoder().decode(bytes);

/**
 * Reads attributes; those that refer to attributes of the enclosing function are looked up in `outer`.
 * @throws TuttiError E_MODEL_INVALID
 */
export function attributesOf(
  protos: readonly AttributeProto[],
  subject: string,
  outer?: ReadonlyMap<string, AttributeProto>,
): Attributes {
  const values: Record<string, SourceAttr> = {};
  const graphs = new Map<string, GraphProto>();
  for (const proto of protos) {
    const name = proto.name ?? '';
    const actual = resolveReference(proto, outer);
    if (actual === undefined) continue;
    if (Object.hasOwn(values, name) || graphs.has(name)) {
      throw new TuttiError('E_MODEL_INVALID', `attribute ${name} is given twice`, { subject });
    }
    if (typeOf(actual) === types.GRAPH) graphs.set(name, actual.g ?? missing(name, subject));
    else Object.defineProperty(values, name, { value: sourceAttr(actual, name, subject), enumerable: true });
  }
  return { values, graphs };
}

/** The attribute itself, or the one of the function's caller; undefined if the caller gives none. */
export function resolveReference(
  proto: AttributeProto,
  outer?: ReadonlyMap<string, AttributeProto>,
): AttributeProto | undefined {
  return proto.refAttrName ? outer?.get(proto.refAttrName) : proto;
}

/** Files older than IR version 2 leave the type out: whatever field is there tells it. */
function typeOf(proto: AttributeProto): number {
  if (proto.type !== undefined && proto.type !== 0) return proto.type;
  if (proto.i !== undefined) return types.INT;
  if (proto.f !== undefined) return types.FLOAT;
  if (proto.s !== undefined) return types.STRING;
  if (proto.t !== undefined) return types.TENSOR;
  if (proto.g !== undefined) return types.GRAPH;
  if (proto.ints.length > 0) return types.INTS;
  if (proto.floats.length > 0) return types.FLOATS;
  if (proto.strings.length > 0) return types.STRINGS;
  return types.INTS;
}

const missing = (name: string, subject: string): never => {
  throw new TuttiError('E_MODEL_INVALID', `attribute ${name} has no value`, { subject });
};

function sourceAttr(proto: AttributeProto, name: string, subject: string): SourceAttr {
  switch (typeOf(proto)) {
    case types.FLOAT:
      return proto.f ?? 0;
    case types.INT:
      return proto.i ?? 0n;
    case types.STRING:
      return text(proto.s ?? new Uint8Array());
    case types.TENSOR:
      return tensorOf(proto.t ?? missing(name, subject), `${subject}, attribute ${name}`);
    case types.SPARSE_TENSOR:
      return denseOf(proto.sparseTensor ?? missing(name, subject), `${subject}, attribute ${name}`);
    case types.FLOATS:
      return proto.floats;
    case types.INTS:
      return proto.ints;
    case types.STRINGS:
      return proto.strings.map(text);
    case types.TYPE_PROTO:
      return 'type';
    default:
      throw new TuttiError('E_UNSUPPORTED', `attribute ${name} is of type ${proto.type}, which is not supported`, {
        subject,
      });
  }
}
