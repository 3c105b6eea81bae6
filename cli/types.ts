/** A model's inputs and outputs as TypeScript types. */
import type { DType } from '../compiler/dtype.js';
import type { ValueInfo } from '../runtime/api.js';
import type { Model } from '../runtime/model.js';
import { shortDim } from './output.js';

const arrays: Readonly<Record<DType, string>> = {
  f64: 'Float64Array',
  f32: 'Float32Array',
  f16: 'Uint16Array',
  bf16: 'Uint16Array',
  f8e4m3: 'Uint8Array',
  f8e5m2: 'Uint8Array',
  f8e4m3fnuz: 'Uint8Array',
  f8e5m2fnuz: 'Uint8Array',
  f8e8m0: 'Uint8Array',
  f4e2m1: 'Uint8Array',
  i64: 'BigInt64Array',
  i32: 'Int32Array',
  i16: 'Int16Array',
  i8: 'Int8Array',
  i4: 'Uint8Array',
  i2: 'Uint8Array',
  u64: 'BigUint64Array',
  u32: 'Uint32Array',
  u16: 'Uint16Array',
  u8: 'Uint8Array',
  u4: 'Uint8Array',
  u2: 'Uint8Array',
  bool: 'Uint8Array',
  string: 'readonly string[]',
};

const isName = (text: string): boolean => /^[A-Za-z_$][\w$]*$/.test(text);
/** Text inside a comment must not end it. */
const inComment = (text: string): string => text.replaceAll('*/', '* /').replaceAll(/[\r\n]/g, ' ');

/** `export interface Inputs { … }`, and the same of outputs. */
export function typesOf(model: Model): string {
  const block = (kind: string, values: readonly ValueInfo[]): string =>
    [`export interface ${kind} {`, ...values.flatMap((value) => field(value)), '}'].join('\n');
  return [
    `/** ${inComment(model.name)} */`,
    "import type { Tensor } from 'tutti';",
    '',
    block('Inputs', model.inputs),
    '',
    block('Outputs', model.outputs),
  ].join('\n');
}

function field({ name, type, dtype, shape, unknown }: ValueInfo): string[] {
  const key = isName(name) ? name : JSON.stringify(name);
  if (unknown) return ['  /** Type and shape follow from the inputs. */', `  readonly ${key}: Tensor;`];
  return [
    `  /** ${inComment(`${type} [${shape.map(shortDim).join(', ')}]`)} */`,
    `  readonly ${key}: Tensor & { readonly type: '${type}'; readonly data: ${arrays[dtype]} };`,
  ];
}
