/** SequenceMap: a body for each element of a sequence. */
import type { Value } from '../../graph/types.js';
import { isList, leavesOf } from '../../passes/mapped.js';
import type { Resolved, Saved, SourceContext } from '../../passes/source.js';
import { bodyOf, checkBody, invalid } from './bodies.js';

/** Further inputs are sequences of the same length, walked alike, or tensors, the same for all elements. */
export function sequenceMap(c: SourceContext): Resolved {
  const body = bodyOf(c.node, 'body');
  const [sequence] = c.inputs;
  if (sequence === undefined || sequence === null || !isList(sequence)) {
    return invalid(c.node, 'input 0 must be a sequence');
  }
  checkBody(c.node, body, c.inputs.length + c.captured.length);
  const inputs = c.inputs.map((input, i) => input ?? invalid(c.node, `input ${i} is missing`));
  for (const [i, input] of inputs.entries()) {
    if (isList(input) && input.length !== sequence.length) {
      invalid(c.node, `input ${i} is of another length`, String(sequence.length), String(input.length));
    }
  }
  return element(
    c,
    0,
    [...inputs, ...c.captured],
    inputs.length,
    new Array<readonly Value[]>(body.outputs.length).fill([]),
  );
}

function element(
  c: SourceContext,
  at: number,
  inputs: readonly Saved[],
  walked: number,
  results: readonly Saved[],
): Resolved {
  const [sequence] = inputs;
  if (!isList(sequence) || at === sequence.length) return results.map((list) => c.use(list));
  return {
    body: bodyOf(c.node, 'body'),
    inputs: inputs.map((input, i) => (i < walked && isList(input) ? input[at] : input)),
    saved: [...inputs, ...results],
    repeated: true,
    then(context, outputs, saved) {
      const lists = outputs.map((output, i): Saved => {
        if (output === null || isList(output)) return invalid(context.node, 'the body must give tensors');
        return [...leavesOf(saved[inputs.length + i]), output as Value];
      });
      return element(context, at + 1, saved.slice(0, inputs.length), walked, lists);
    },
  };
}
