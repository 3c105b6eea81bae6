/**
 * The messages of onnx.proto (ONNX 1.22, IR version 13) as one table of fields, with a decoder and an encoder that walk
 * it. Byte fields are views into the given bytes, so that weights are never copied.
 */
import { BinaryReader, BinaryWriter, WireType } from '@bufbuild/protobuf/wire';
import { TuttiError } from '../../error.js';

interface ScalarTypes {
  int32: number;
  int64: bigint;
  uint64: bigint;
  float: number;
  double: number;
  string: string;
  bytes: Uint8Array;
}
type ScalarName = keyof ScalarTypes;

/** [field number, type] or [field number, type, 'repeated']. */
const schema = {
  ModelProto: {
    irVersion: [1, 'int64'],
    producerName: [2, 'string'],
    producerVersion: [3, 'string'],
    domain: [4, 'string'],
    modelVersion: [5, 'int64'],
    docString: [6, 'string'],
    graph: [7, 'GraphProto'],
    opsetImport: [8, 'OperatorSetIdProto', 'repeated'],
    metadataProps: [14, 'StringStringEntryProto', 'repeated'],
    functions: [25, 'FunctionProto', 'repeated'],
  },
  OperatorSetIdProto: { domain: [1, 'string'], version: [2, 'int64'] },
  StringStringEntryProto: { key: [1, 'string'], value: [2, 'string'] },
  GraphProto: {
    node: [1, 'NodeProto', 'repeated'],
    name: [2, 'string'],
    initializer: [5, 'TensorProto', 'repeated'],
    docString: [10, 'string'],
    input: [11, 'ValueInfoProto', 'repeated'],
    output: [12, 'ValueInfoProto', 'repeated'],
    valueInfo: [13, 'ValueInfoProto', 'repeated'],
    sparseInitializer: [15, 'SparseTensorProto', 'repeated'],
  },
  NodeProto: {
    input: [1, 'string', 'repeated'],
    output: [2, 'string', 'repeated'],
    name: [3, 'string'],
    opType: [4, 'string'],
    attribute: [5, 'AttributeProto', 'repeated'],
    docString: [6, 'string'],
    domain: [7, 'string'],
    overload: [8, 'string'],
  },
  AttributeProto: {
    name: [1, 'string'],
    f: [2, 'float'],
    i: [3, 'int64'],
    s: [4, 'bytes'],
    t: [5, 'TensorProto'],
    g: [6, 'GraphProto'],
    floats: [7, 'float', 'repeated'],
    ints: [8, 'int64', 'repeated'],
    strings: [9, 'bytes', 'repeated'],
    tensors: [10, 'TensorProto', 'repeated'],
    graphs: [11, 'GraphProto', 'repeated'],
    docString: [13, 'string'],
    tp: [14, 'TypeProto'],
    typeProtos: [15, 'TypeProto', 'repeated'],
    type: [20, 'int32'],
    refAttrName: [21, 'string'],
    sparseTensor: [22, 'SparseTensorProto'],
    sparseTensors: [23, 'SparseTensorProto', 'repeated'],
  },
  TensorProto: {
    dims: [1, 'int64', 'repeated'],
    dataType: [2, 'int32'],
    floatData: [4, 'float', 'repeated'],
    int32Data: [5, 'int32', 'repeated'],
    stringData: [6, 'bytes', 'repeated'],
    int64Data: [7, 'int64', 'repeated'],
    name: [8, 'string'],
    rawData: [9, 'bytes'],
    doubleData: [10, 'double', 'repeated'],
    uint64Data: [11, 'uint64', 'repeated'],
    docString: [12, 'string'],
    externalData: [13, 'StringStringEntryProto', 'repeated'],
    dataLocation: [14, 'int32'],
  },
  SparseTensorProto: {
    values: [1, 'TensorProto'],
    indices: [2, 'TensorProto'],
    dims: [3, 'int64', 'repeated'],
  },
  ValueInfoProto: { name: [1, 'string'], type: [2, 'TypeProto'], docString: [3, 'string'] },
  TypeProto: {
    tensorType: [1, 'TensorTypeProto'],
    sequenceType: [4, 'SequenceTypeProto'],
    mapType: [5, 'MapTypeProto'],
    denotation: [6, 'string'],
    sparseTensorType: [8, 'TensorTypeProto'],
    optionalType: [9, 'OptionalTypeProto'],
  },
  TensorTypeProto: { elemType: [1, 'int32'], shape: [2, 'TensorShapeProto'] },
  SequenceTypeProto: { elemType: [1, 'TypeProto'] },
  OptionalTypeProto: { elemType: [1, 'TypeProto'] },
  MapTypeProto: { keyType: [1, 'int32'], valueType: [2, 'TypeProto'] },
  TensorShapeProto: { dim: [1, 'DimensionProto', 'repeated'] },
  DimensionProto: { dimValue: [1, 'int64'], dimParam: [2, 'string'], denotation: [3, 'string'] },
  FunctionProto: {
    name: [1, 'string'],
    input: [4, 'string', 'repeated'],
    output: [5, 'string', 'repeated'],
    attribute: [6, 'string', 'repeated'],
    node: [7, 'NodeProto', 'repeated'],
    docString: [8, 'string'],
    opsetImport: [9, 'OperatorSetIdProto', 'repeated'],
    domain: [10, 'string'],
    attributeProto: [11, 'AttributeProto', 'repeated'],
    valueInfo: [12, 'ValueInfoProto', 'repeated'],
    overload: [13, 'string'],
  },
  SequenceProto: {
    name: [1, 'string'],
    elemType: [2, 'int32'],
    tensorValues: [3, 'TensorProto', 'repeated'],
    sparseTensorValues: [4, 'SparseTensorProto', 'repeated'],
    sequenceValues: [5, 'SequenceProto', 'repeated'],
    mapValues: [6, 'MapProto', 'repeated'],
    optionalValues: [7, 'OptionalProto', 'repeated'],
  },
  OptionalProto: {
    name: [1, 'string'],
    elemType: [2, 'int32'],
    tensorValue: [3, 'TensorProto'],
    sparseTensorValue: [4, 'SparseTensorProto'],
    sequenceValue: [5, 'SequenceProto'],
    mapValue: [6, 'MapProto'],
    optionalValue: [7, 'OptionalProto'],
  },
  MapProto: {
    name: [1, 'string'],
    keyType: [2, 'int32'],
    keys: [3, 'int64', 'repeated'],
    stringKeys: [4, 'bytes', 'repeated'],
    values: [5, 'SequenceProto'],
  },
} as const;

type Schema = typeof schema;
export type MessageName = keyof Schema;
type TypeOf<K> = K extends ScalarName ? ScalarTypes[K] : K extends MessageName ? Message<K> : never;
type Repeated<F> = F extends readonly [number, infer K, 'repeated'] ? K : never;

/** A decoded message: repeated fields are lists (empty if absent), singular ones are undefined if absent. */
export type Message<N extends MessageName> = {
  readonly [F in keyof Schema[N] as Repeated<Schema[N][F]> extends never ? never : F]: readonly TypeOf<
    Repeated<Schema[N][F]>
  >[];
} & {
  readonly [F in keyof Schema[N] as Repeated<Schema[N][F]> extends never ? F : never]?: Schema[N][F] extends readonly [
    number,
    infer K,
  ]
    ? TypeOf<K>
    : never;
};

type InitOf<K> = K extends ScalarName ? ScalarTypes[K] : K extends MessageName ? MessageInit<K> : never;
/** What the encoder takes: a message whose fields are all optional. */
export type MessageInit<N extends MessageName> = {
  readonly [F in keyof Schema[N]]?: Repeated<Schema[N][F]> extends never
    ? Schema[N][F] extends readonly [number, infer K]
      ? InitOf<K>
      : never
    : readonly InitOf<Repeated<Schema[N][F]>>[];
};

export type ModelProto = Message<'ModelProto'>;
export type GraphProto = Message<'GraphProto'>;
export type NodeProto = Message<'NodeProto'>;
export type AttributeProto = Message<'AttributeProto'>;
export type TensorProto = Message<'TensorProto'>;
export type SparseTensorProto = Message<'SparseTensorProto'>;
export type ValueInfoProto = Message<'ValueInfoProto'>;
export type TypeProto = Message<'TypeProto'>;
export type FunctionProto = Message<'FunctionProto'>;
export type SequenceProto = Message<'SequenceProto'>;
export type OptionalProto = Message<'OptionalProto'>;

/** AttributeProto.type. */
export const attributeTypes = {
  FLOAT: 1,
  INT: 2,
  STRING: 3,
  TENSOR: 4,
  GRAPH: 5,
  FLOATS: 6,
  INTS: 7,
  STRINGS: 8,
  TENSORS: 9,
  GRAPHS: 10,
  SPARSE_TENSOR: 11,
  SPARSE_TENSORS: 12,
  TYPE_PROTO: 13,
  TYPE_PROTOS: 14,
} as const;

/** Messages nest (subgraphs, optional of sequence of …): deeper than this is refused before the stack runs out. */
const maximumDepth = 200;

interface Field {
  readonly key: string;
  readonly number: number;
  readonly type: ScalarName | MessageName;
  readonly repeated: boolean;
}
interface MessageTable {
  readonly fields: readonly Field[];
  readonly byNumber: ReadonlyMap<number, Field>;
}

const tables = Object.fromEntries(
  Object.entries(schema).map(([name, entries]) => {
    const fields = Object.entries(
      entries as Record<string, readonly [number, ScalarName | MessageName, 'repeated'?]>,
    ).map(([key, [number, type, repeated]]): Field => ({ key, number, type, repeated: repeated !== undefined }));
    return [name, { fields, byNumber: new Map(fields.map((field) => [field.number, field])) }];
  }),
) as unknown as Readonly<Record<MessageName, MessageTable>>;

const wireTypes: Readonly<Record<ScalarName, WireType>> = {
  int32: WireType.Varint,
  int64: WireType.Varint,
  uint64: WireType.Varint,
  float: WireType.Bit32,
  double: WireType.Bit64,
  string: WireType.LengthDelimited,
  bytes: WireType.LengthDelimited,
};
const isScalar = (type: ScalarName | MessageName): type is ScalarName => Object.hasOwn(wireTypes, type);

/**
 * Decodes a message. Unknown fields are skipped.
 * @throws TuttiError E_MODEL_FORMAT if the bytes are truncated or not such a message.
 */
export function decode<N extends MessageName>(name: N, bytes: Uint8Array): Message<N> {
  const reader = new BinaryReader(bytes);
  try {
    return readMessage(reader, name, bytes.byteLength, 0) as Message<N>;
  } catch (cause) {
    if (cause instanceof TuttiError) throw cause;
    throw malformed(name, `${cause instanceof Error ? cause.message : String(cause)} at byte ${reader.pos}`, cause);
  }
}

const malformed = (name: string, found: string, cause?: unknown): TuttiError =>
  new TuttiError('E_MODEL_FORMAT', 'the bytes are not an ONNX protobuf message', {
    expected: name,
    found,
    remedy: 'The file may be truncated or of another format',
    cause,
  });

type Draft = Record<string, unknown>;

function readMessage(reader: BinaryReader, name: MessageName, end: number, depth: number): Draft {
  if (depth > maximumDepth) throw malformed(name, `messages nested deeper than ${maximumDepth}`);
  const table = tables[name];
  const message: Draft = {};
  for (const field of table.fields) if (field.repeated) message[field.key] = [];
  while (reader.pos < end) {
    const at = reader.pos;
    const [number, wireType] = reader.tag();
    const field = table.byNumber.get(number);
    if (field === undefined) reader.skip(wireType, number);
    else if (isScalar(field.type)) readScalarField(reader, message, field, field.type, wireType, name);
    else {
      if (wireType !== WireType.LengthDelimited) throw wrongWireType(name, field, wireType);
      const length = reader.uint32();
      const inner = reader.pos + length;
      if (inner > end) throw malformed(name, `field ${field.key} at byte ${at} ends after its message`);
      const value = readMessage(reader, field.type, inner, depth + 1);
      if (field.repeated) (message[field.key] as unknown[]).push(value);
      else message[field.key] = value;
    }
    if (reader.pos > end) throw malformed(name, `field ${number} at byte ${at} ends after its message`);
  }
  return message;
}

const wrongWireType = (name: string, field: Field, wireType: WireType): TuttiError =>
  malformed(name, `wire type ${wireType} for field ${field.key}`);

function readScalarField(
  reader: BinaryReader,
  message: Draft,
  field: Field,
  type: ScalarName,
  wireType: WireType,
  name: string,
): void {
  if (wireType === wireTypes[type]) {
    const value = readScalar(reader, type);
    if (field.repeated) (message[field.key] as unknown[]).push(value);
    else message[field.key] = value;
    return;
  }
  if (!field.repeated || wireType !== WireType.LengthDelimited) throw wrongWireType(name, field, wireType);
  const length = reader.uint32();
  const end = reader.pos + length;
  if (end > reader.len) throw malformed(name, `packed field ${field.key} ends after the data`);
  const list = message[field.key] as unknown[];
  while (reader.pos < end) list.push(readScalar(reader, type));
  if (reader.pos > end) throw malformed(name, `packed field ${field.key} with half an element`);
}

function readScalar(reader: BinaryReader, type: ScalarName): number | bigint | string | Uint8Array {
  switch (type) {
    case 'int32':
      return reader.int32();
    case 'int64':
      return BigInt(reader.int64());
    case 'uint64':
      return BigInt(reader.uint64());
    case 'float':
      return reader.float();
    case 'double':
      return reader.double();
    case 'string':
      return reader.string();
    case 'bytes':
      return reader.bytes();
    default:
      return type satisfies never;
  }
}

/** Encodes a message; repeated numbers are packed. */
export function encode<N extends MessageName>(name: N, message: MessageInit<N>): Uint8Array {
  const writer = new BinaryWriter();
  writeMessage(writer, name, message as Readonly<Draft>);
  return writer.finish();
}

function writeMessage(writer: BinaryWriter, name: MessageName, message: Readonly<Draft>): void {
  for (const field of tables[name].fields) {
    const value = message[field.key];
    if (value === undefined) continue;
    if (!field.repeated) writeField(writer, field, value);
    else if (isScalar(field.type) && wireTypes[field.type] !== WireType.LengthDelimited) {
      const list = value as readonly (number | bigint)[];
      if (list.length === 0) continue;
      writer.tag(field.number, WireType.LengthDelimited).fork();
      for (const element of list) writeScalar(writer, field.type, element);
      writer.join();
    } else for (const element of value as readonly unknown[]) writeField(writer, field, element);
  }
}

function writeField(writer: BinaryWriter, field: Field, value: unknown): void {
  if (isScalar(field.type)) {
    writer.tag(field.number, wireTypes[field.type]);
    writeScalar(writer, field.type, value as number | bigint | string | Uint8Array);
    return;
  }
  writer.tag(field.number, WireType.LengthDelimited).fork();
  writeMessage(writer, field.type, value as Readonly<Draft>);
  writer.join();
}

function writeScalar(writer: BinaryWriter, type: ScalarName, value: number | bigint | string | Uint8Array): void {
  switch (type) {
    case 'int32':
      writer.int32(value as number);
      break;
    case 'int64':
      writer.int64(value as bigint);
      break;
    case 'uint64':
      writer.uint64(value as bigint);
      break;
    case 'float':
      writer.float(value as number);
      break;
    case 'double':
      writer.double(value as number);
      break;
    case 'string':
      writer.string(value as string);
      break;
    case 'bytes':
      writer.bytes(value as Uint8Array);
      break;
    default:
      throw new Error(type satisfies never);
  }
}
