// Small ONNX models, written out: for tests of the frontend.

import type { DType } from '../../compiler/dtype.js';
import { encode, protoOf } from '../../compiler/frontends/onnx/index.js';
import type { MessageInit } from '../../compiler/frontends/onnx/proto.js';
import { onnxTypeOf } from '../../compiler/frontends/onnx/tensors.js';
import type { HostTensor } from '../../compiler/tensor.js';

type AttributeValue =
  | number
  | bigint
  | string
  | readonly bigint[]
  | readonly number[]
  | readonly string[]
  | HostTensor
  | MessageInit<'GraphProto'>;

/** bigint is an integer, number a float, so are they in lists; an object with nodes a subgraph. */
export function attribute(name: string, value: AttributeValue): MessageInit<'AttributeProto'> {
  if (typeof value === 'bigint') return { name, type: 2, i: value };
  if (typeof value === 'number') return { name, type: 1, f: value };
  if (typeof value === 'string') return { name, type: 3, s: new TextEncoder().encode(value) };
  if (Array.isArray(value) && typeof value[0] === 'string') {
    return { name, type: 8, strings: value.map((text) => new TextEncoder().encode(text as string)) };
  }
  if (Array.isArray(value) && typeof value[0] === 'number')
    return { name, type: 6, floats: value as readonly number[] };
  if (Array.isArray(value)) return { name, type: 7, ints: value as readonly bigint[] };
  if ('dtype' in value) return { name, type: 4, t: protoOf(value) };
  return { name, type: 5, g: value as MessageInit<'GraphProto'> };
}

/** `out, out = Op(in, in)`, e.g. node('y = Add(x, c)'). */
export function node(
  text: string,
  attrs: Readonly<Record<string, AttributeValue>> = {},
  more: MessageInit<'NodeProto'> = {},
): MessageInit<'NodeProto'> {
  const [, outputs, op, inputs] = /^(.*?)\s*=\s*(\w+)\((.*)\)$/.exec(text) ?? [];
  const names = (list: string): string[] => (list.trim() === '' ? [] : list.split(',').map((name) => name.trim()));
  return {
    opType: op,
    input: names(inputs),
    output: names(outputs),
    attribute: Object.entries(attrs).map(([name, value]) => attribute(name, value)),
    ...more,
  };
}

/** A dim is a size, a name, or null where nothing is said. */
export const value = (
  name: string,
  dtype: DType,
  shape?: readonly (number | string | null)[],
): MessageInit<'ValueInfoProto'> => ({
  name,
  type: {
    tensorType: {
      elemType: onnxTypeOf(dtype),
      shape: shape && {
        dim: shape.map((dim) =>
          dim === null ? {} : typeof dim === 'number' ? { dimValue: BigInt(dim) } : { dimParam: dim },
        ),
      },
    },
  },
});

export const f32 = (shape: readonly number[], ...data: readonly number[]): HostTensor => ({
  dtype: 'f32',
  shape,
  data: Float32Array.from(data),
});
export const i64 = (...data: readonly number[]): HostTensor => ({
  dtype: 'i64',
  shape: [data.length],
  data: BigInt64Array.from(data, BigInt),
});

export interface ModelInit {
  readonly inputs?: readonly MessageInit<'ValueInfoProto'>[];
  readonly outputs: readonly (string | MessageInit<'ValueInfoProto'>)[];
  readonly nodes: readonly MessageInit<'NodeProto'>[];
  readonly initializers?: Readonly<Record<string, HostTensor>>;
  readonly opset?: number;
  readonly functions?: readonly MessageInit<'FunctionProto'>[];
  /** Further domains that are imported, in version 1 or the one given. */
  readonly domains?: readonly (string | readonly [name: string, version: number])[];
  /** Further fields of the graph. */
  readonly graph?: MessageInit<'GraphProto'>;
}

export function model(init: ModelInit): Uint8Array {
  const named = [...(init.functions ?? []).map((body) => body.domain ?? ''), ...(init.domains ?? [])];
  const domains = new Map(named.map((domain) => (typeof domain === 'string' ? [domain, 1] : domain)));
  return encode('ModelProto', {
    irVersion: 10n,
    opsetImport: [
      { domain: '', version: BigInt(init.opset ?? 21) },
      ...[...domains].flatMap(([domain, version]) => (domain ? [{ domain, version: BigInt(version) }] : [])),
    ],
    functions: init.functions,
    graph: {
      name: 'test',
      node: init.nodes,
      input: init.inputs,
      output: init.outputs.map((output) => (typeof output === 'string' ? { name: output } : output)),
      initializer: Object.entries(init.initializers ?? {}).map(([name, tensor]) => protoOf(tensor, name)),
      ...init.graph,
    },
  });
}
