/** What conversions of graph ops to ONNX operators share: their type, and how they write casts and scalars. */
import type { DType } from '../../../dtype.js';
import type { Dim } from '../../../graph/dims.js';
import { filledTensor } from '../../../graph/ops/reference/data.js';
import type { NodeOf, OpKind } from '../../../graph/types.js';
import { onnxTypeOf } from '../tensors.js';
import type { ExportContext } from './context.js';

export type Names = readonly string[];
/** Writes a node; returns the names of its outputs. */
export type Convert<K extends OpKind> = (c: ExportContext, node: NodeOf<K>, inputs: Names) => string | Names;
export type Conversions<K extends OpKind> = { readonly [P in K]: Convert<P> };

export const big = (values: readonly number[]): bigint[] => values.map(BigInt);
export const dtypeIn = (node: NodeOf<OpKind>, i = 0): DType => node.inputs[i].type.dtype;
export const shapeIn = (node: NodeOf<OpKind>, i = 0): readonly Dim[] => node.inputs[i].type.shape;
export const scalar = (c: ExportContext, value: number, dtype: DType): string =>
  c.constant(filledTensor(dtype, [], value));
export const cast = (c: ExportContext, x: string, from: DType, to: DType): string =>
  from === to ? x : c.one('Cast', [x], { to: BigInt(onnxTypeOf(to)) });
