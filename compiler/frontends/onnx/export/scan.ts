/** Loops as Scan. */
import { onnxTypeOf } from '../tensors.js';
import { big, type Convert } from './convert.js';

/** Scan; the number of the iteration is scanned too, since ONNX has it in Loop only. */
export const scan: Convert<'scan'> = (c, { attrs, outputs }, inputs) => {
  const { body, trips, carried, iteration, scanned, stacked } = attrs;
  if (trips === 0) return c.unsupported('a loop without iterations');
  const arrays = inputs.slice(carried, carried + scanned.length);
  const first = iteration ? 1 : 0;
  const count = (length: number, start: number): number[] => Array.from({ length }, (_, i) => start + i);
  const captured = inputs.slice(carried + scanned.length);
  const bound = new Map(captured.map((name, i) => [first + carried + scanned.length + i, name]));
  const formal = [...count(carried, first), ...count(scanned.length, first + carried), ...(iteration ? [0] : [])];
  const counter = iteration || scanned.length === 0;
  const graph = c.subgraph(body, formal, bound);
  // Something must be scanned; what nobody reads still is an input of the body.
  const unread = counter && !iteration ? [counterInfo(c.fresh('iteration'))] : [];
  const forward = counter ? [0n] : [];
  return c.emit(
    'Scan',
    [...inputs.slice(0, carried), ...arrays, ...(counter ? [c.ints(count(trips, 0))] : [])],
    {
      body: { ...graph, input: [...(graph.input ?? []), ...unread] },
      num_scan_inputs: BigInt(scanned.length + (counter ? 1 : 0)),
      scan_input_directions: [...big(scanned.map(Number)), ...forward],
      scan_output_directions: stacked.length > 0 ? big(stacked.map(Number)) : undefined,
    },
    outputs.length,
  );
};

/** An i64 scalar. */
const counterInfo = (name: string) => ({
  name,
  type: { tensorType: { elemType: onnxTypeOf('i64'), shape: { dim: [] } } },
});
