/** Finds the conversion of an operator and runs it; also resolves operators that waited for their shapes. */
import { TuttiError } from '../../error.js';
import { describe } from '../../graph/builder.js';
import { isSymbolic } from '../../graph/dims.js';
import { type HostBuilder, NotConstant } from '../../graph/host_values.js';
import type { Value } from '../../graph/types.js';
import { isList } from '../../passes/mapped.js';
import type { SourceResolver } from '../../passes/source.js';
import type { HostTensor } from '../../tensor.js';
import { tensorAt } from './bodies.js';
import { type Conversion, ConvertContext, type SourceOperator } from './context.js';
import { controlFlow } from './control.js';
import { flexAttention } from './flex_attention.js';
import { conversions } from './ops/index.js';
import { containerOperators } from './sequences.js';

/** Opset versions of ai.onnx that are understood; older ones than the first are tried. */
export const supportedOpsets = { min: 7, max: 27 } as const;

export const isStandardDomain = (domain: string): boolean => domain === '' || domain === 'ai.onnx';

/** An operator's name with its domain, unless that is ai.onnx. */
const qualified = (domain: string, op: string): string => (isStandardDomain(domain) ? op : `${domain}.${op}`);

const previewDomain = 'ai.onnx.preview';

/** By qualified name; the newest entry first. */
const table = new Map<string, Conversion[]>();
for (const conversion of conversions) {
  const name = qualified(conversion.domain ?? '', conversion.op);
  const entries = table.get(name) ?? [];
  entries.push(conversion);
  entries.sort((a, b) => b.since - a.since);
  table.set(name, entries);
}

/** Operators that are about bodies, sequences and optionals rather than about tensors, by qualified name. */
const structural: ReadonlyMap<string, SourceResolver> = new Map([
  ...controlFlow,
  ...containerOperators,
  [qualified(previewDomain, 'FlexAttention'), flexAttention],
]);

/** Domains that have conversions; ai.onnx is ''. */
export const domains: ReadonlySet<string> = new Set([...conversions.map(({ domain = '' }) => domain), previewDomain]);

/** Operators of the table, with the opset versions at which their conversion changes. */
export const supportedOperators: ReadonlyMap<string, readonly number[]> = new Map([
  ...[...table].map(([op, entries]): [string, readonly number[]] => [op, entries.map(({ since }) => since).reverse()]),
  ...[...structural.keys()].map((op): [string, readonly number[]] => [op, [1]]),
]);

/** @throws TuttiError E_UNSUPPORTED naming the operator if there is none. */
export function findConversion({ op, domain, opset, source }: SourceOperator): Conversion {
  const name = qualified(domain, op);
  const entries = table.get(name);
  const subject = describe(source);
  if (entries === undefined) {
    throw new TuttiError('E_UNSUPPORTED', `operator ${name} is not supported`, {
      subject,
      remedy: 'Supported operators are listed in docs/ops.md',
    });
  }
  const entry = entries.find(({ since }) => since <= opset);
  if (entry === undefined) {
    throw new TuttiError('E_UNSUPPORTED', `operator ${name} is not supported in opset ${opset}`, {
      subject,
      expected: `opset ${entries[entries.length - 1].since} or later`,
      found: String(opset),
    });
  }
  return entry;
}

/**
 * Converts an operator.
 * @throws NotConstant if its result depends on content or shapes that are not known yet.
 */
export function convert(
  b: HostBuilder,
  operator: SourceOperator,
  inputs: readonly (Value | undefined)[],
  feed?: (data: HostTensor) => Value,
): readonly (Value | undefined)[] {
  const conversion = findConversion(operator);
  const waiting = inputs.findIndex((input) => input?.type.unknown);
  if (waiting >= 0) throw new NotConstant(inputs[waiting] as Value, waiting);
  const context = new ConvertContext(b, operator, inputs, feed);
  b.source = operator.source;
  try {
    const result = conversion.convert(context);
    return Array.isArray(result) ? result : [result as Value];
  } catch (error) {
    // With symbolic dims a rule may fail, or be undecided, that holds once they are numbers.
    const symbolic = inputs.findIndex((input) => input?.type.shape.some(isSymbolic));
    const shapeError = error instanceof TuttiError && (error.code === 'E_SHAPE' || error.code === 'E_MODEL_INVALID');
    if (symbolic >= 0 && shapeError) throw new NotConstant(inputs[symbolic] as Value, symbolic);
    throw error;
  }
}

/** How an operator is resolved that is about more than tensors: such operators are never converted early. */
export const structuralOperator = (domain: string, op: string): SourceResolver | undefined =>
  structural.get(qualified(domain, op));

/** Converts a `source_op` of an ONNX operator once its shapes are known. */
export const resolveOnnx: SourceResolver = (context) => {
  const { b, node } = context;
  const { name, domain, opset, attrs } = node.attrs;
  const resolver = structuralOperator(domain, name);
  if (resolver !== undefined) return resolver(context);
  const [held] = context.inputs;
  if (name === 'Identity' && (held === null || isList(held))) return [held];
  const inputs = context.inputs.map((_, i) => (context.inputs[i] === undefined ? undefined : tensorAt(context, i)));
  const operator = { op: name, domain, opset, attrs, wanted: node.outputs.map(() => true), source: node.source };
  const results = convert(b, operator, inputs, context.feed);
  return node.outputs.map((output, i) => {
    const value = results[i];
    if (value !== undefined) return value;
    throw new TuttiError('E_UNSUPPORTED', `output ${i} (${output.name}) is not supported`, {
      subject: describe(node.source),
    });
  });
};
