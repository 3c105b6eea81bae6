/**
 * Gradient of ai.onnx.preview.training: derivatives of a tensor of the graph by others. The operator names these tensors
 * in attributes; the importer adds them to its inputs, so that it comes after them and they are kept.
 */
import { isFloat } from '../../dtype.js';
import { full } from '../../graph/compose/index.js';
import { between, differentiate } from '../../graph/differentiate.js';
import { isConcrete } from '../../graph/dims.js';
import type { NodeOf, OpKind, Value } from '../../graph/types.js';
import type { Conversion, ConvertContext } from './context.js';
import type { NodeProto } from './proto.js';

const domain = 'ai.onnx.preview.training';

/** A Gradient node with the tensors it names (xs, zs, y) after its own inputs; other nodes as they are. */
export function withNamedInputs(node: NodeProto): NodeProto {
  if (node.domain !== domain || node.opType !== 'Gradient') return node;
  const text = (bytes: Uint8Array | undefined): string => new TextDecoder().decode(bytes);
  const attribute = (name: string) => node.attribute.find((a) => a.name === name);
  const list = (name: string): string[] => (attribute(name)?.strings ?? []).map(text);
  return { ...node, input: [...node.input, ...list('xs'), ...list('zs'), text(attribute('y')?.s)] };
}

/** ∂y/∂x for each of xs, where the tensors named xs and zs have the values of the operator's inputs. */
function gradient(c: ConvertContext): readonly Value[] {
  const wanted = (c.strings('xs') ?? c.fail('attribute xs is missing')).length;
  const count = wanted + (c.strings('zs') ?? []).length;
  if (c.inputs.length !== 2 * count + 1)
    c.fail('wrong number of inputs', `${count}: one for each name`, String(c.inputs.length - count - 1));
  const all = c.inputs.map((_, i) => c.input(i));
  const [given, named, y] = [all.slice(0, count), all.slice(count, 2 * count), all[2 * count]];
  if (!isFloat(y.type.dtype)) c.fail('y has no derivatives', 'a float type', y.type.dtype);
  const nodes = between(c.b, [y], named);
  const isFixed = ({ type }: Value): boolean => isConcrete(type.shape);
  if (![...all, ...nodes.flatMap(({ inputs, outputs }) => [...inputs, ...outputs])].every(isFixed)) c.notConstant(0);
  if (nodes.length === 0 && !named.includes(y) && c.b.producerOf(y) === undefined && c.b.constantOf(y) === undefined)
    c.unsupported('the way from xs to y leads through a value that had to be waited for');
  // Computed again from the inputs, where these are others than the named tensors.
  const replaced = new Map(named.map((value, i) => [value.id, given[i]]));
  const current = (value: Value): Value => replaced.get(value.id) ?? value;
  if (given.some((value, i) => value !== named[i])) {
    for (const node of nodes as readonly NodeOf<OpKind>[]) {
      const results = c.b.op(node.op, node.inputs.map(current), node.attrs);
      node.outputs.forEach((output, i) => {
        replaced.set(output.id, results[i]);
      });
    }
  }
  const result = current(y);
  const one = full(c.b, 1, y.type.dtype, result.type.shape);
  const inputs = given.slice(0, wanted);
  return differentiate(c.b, [{ value: result, cotangent: one }], inputs).map(
    (slope, i) => slope ?? full(c.b, 0, inputs[i].type.dtype, inputs[i].type.shape),
  );
}

export const gradients: readonly Conversion[] = [{ domain, op: 'Gradient', since: 1, convert: gradient }];
