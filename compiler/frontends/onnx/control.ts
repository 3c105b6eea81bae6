/**
 * Control flow. Bodies are inlined, one iteration after the other; where a condition depends on data, the conversion
 * asks for it and goes on in a later stage, in which the iterations are one program.
 */
import { isInt } from '../../dtype.js';
import { TuttiError } from '../../error.js';
import { describe } from '../../graph/builder.js';
import { scalar } from '../../graph/compose/index.js';
import { NotConstant } from '../../graph/host_values.js';
import type { Graph, Value } from '../../graph/types.js';
import { isList, type Mapped } from '../../passes/mapped.js';
import type { Resolved, Saved, SourceContext, SourceResolver } from '../../passes/source.js';
import { emptyTensor, sizeOf } from '../../tensor.js';
import { bodyOf, checkBody, invalid } from './bodies.js';
import { repeat } from './repeat.js';
import { scan } from './scan.js';
import { sequenceMap } from './sequence_map.js';
import { append, finish, type Parts } from './stacks.js';

/** The operators whose bodies are graphs. */
export const controlFlow: ReadonlyMap<string, SourceResolver> = new Map([
  ['If', branch],
  ['Loop', loop],
  ['Scan', scan],
  ['SequenceMap', sequenceMap],
]);

/** The only element of a tensor, on the host. Throws NotConstant where the device has to be waited for. */
function only(c: SourceContext, mapped: Mapped, i: number, what: string): number {
  if (mapped === null || isList(mapped)) return invalid(c.node, `${what} must be a tensor`);
  const value = mapped as Value;
  const tensor = c.b.tensorOf(value);
  if (tensor === undefined) throw new NotConstant(value, i);
  if (sizeOf(tensor.shape) !== 1) invalid(c.node, `${what} must have one element`, '1', `[${tensor.shape.join(', ')}]`);
  return Number(tensor.data[0]);
}

function branch(c: SourceContext): Resolved {
  const [condition] = c.inputs;
  if (condition === undefined) return invalid(c.node, 'If needs a condition');
  const holds = only(c, condition, 0, 'the condition') !== 0;
  const body = bodyOf(c.node, holds ? 'then_branch' : 'else_branch');
  checkBody(c.node, body, c.captured.length, c.node.outputs.length);
  return { body, inputs: c.captured, saved: [], then: (_, results) => results };
}

// --- Loop ----------------------------------------------------------------------------------------------------------

/** Where a loop is; plain data, so that it may be gone on with in any stage. */
interface Progress {
  readonly body: Graph;
  readonly trips: number;
  readonly carried: number;
  readonly iteration: number;
  /** In which this iteration began. */
  readonly stage: number;
  /** Iterations are in stages of their own: they are to look the same. */
  readonly apart: boolean;
  /** Of the stacks so far. */
  readonly parts: Parts;
}

/** Inputs: M, condition, carried…; body: (iteration, condition, carried…) → (condition, carried…, slices…). */
function loop(c: SourceContext): Resolved {
  const [most, condition, ...carried] = c.inputs;
  const body = bodyOf(c.node, 'body');
  checkBody(c.node, body, 2 + carried.length + c.captured.length);
  const stacks = body.outputs.length - 1 - carried.length;
  if (stacks < 0) invalid(c.node, 'the body gives too few results', `${1 + carried.length}`, `${body.outputs.length}`);
  if (c.node.outputs.length > carried.length + stacks) {
    invalid(c.node, 'more outputs than the body gives', `${carried.length + stacks}`, `${c.node.outputs.length}`);
  }
  const initial = carried.map((value, i) => value ?? invalid(c.node, `carried value ${i} is missing`));
  const trips = most === undefined ? Number.POSITIVE_INFINITY : only(c, most, 0, 'the number of iterations');
  const starts = trips > 0 && (condition === undefined || only(c, condition, 1, 'the condition') !== 0);
  if (starts) {
    const stacked = new Array<{ readonly reverse: boolean }>(stacks).fill({ reverse: false });
    const whole = { body, trips, counted: true, carried: initial, scanned: [], captured: c.captured, stacked };
    const results = repeat(c, whole);
    if (results !== undefined) return [...results.carried, ...results.stacked];
  }
  if (!starts) return [...initial, ...emptyStacks(c, body, initial)];
  const start = { iteration: 0, stage: c.stage, apart: false, parts: [] };
  const progress: Progress = { body, trips, carried: carried.length, ...start };
  return iterate(c, progress, initial, c.captured, new Array<readonly Value[]>(stacks).fill([]));
}

function iterate(
  c: SourceContext,
  progress: Progress,
  carried: readonly Mapped[],
  captured: readonly Saved[],
  stacks: readonly Saved[],
): Resolved {
  const { body, iteration, apart } = progress;
  const number = BigInt64Array.of(BigInt(iteration));
  const counter = { dtype: 'i64', shape: [], data: number } as const;
  return {
    body,
    inputs: [apart ? c.feed(counter) : c.b.constant(counter), scalar(c.b, 1, 'bool'), ...carried, ...captured],
    saved: [...captured, ...stacks],
    repeated: true,
    then: (context, results, saved) => afterIteration(context, progress, results, saved),
  };
}

function afterIteration(
  c: SourceContext,
  before: Progress,
  results: readonly Mapped[],
  saved: readonly Saved[],
): Resolved {
  const { trips, carried: count, iteration } = before;
  const apart = before.apart || c.stage !== before.stage;
  const [condition, ...rest] = results;
  const goesOn = iteration + 1 < trips && only(c, condition, -1, 'the condition of the body') !== 0;
  const slices = rest.slice(count).map((slice): Value => {
    return slice === null || isList(slice) ? invalid(c.node, 'only tensors are stacked') : (slice as Value);
  });
  const captured = saved.slice(0, saved.length - slices.length);
  const stacked = { parts: before.parts, stacks: saved.slice(captured.length) };
  const grown = append(c, stacked, slices, apart && goesOn);
  const carried = rest.slice(0, count);
  if (!goesOn) return [...carried, ...finish(c, grown)];
  const progress = { ...before, iteration: iteration + 1, stage: c.stage, apart, parts: grown.parts };
  return iterate(c, progress, apart ? carried.map((value) => fed(c, value)) : carried, captured, grown.stacks);
}

/** Small integers that the host knows differ from iteration to iteration: as constants each would be a program. */
function fed(c: SourceContext, mapped: Mapped): Mapped {
  if (mapped === null || isList(mapped)) return mapped;
  const data = c.b.constantOf(mapped as Value);
  const small = data !== undefined && isInt(data.dtype) && sizeOf(data.shape) <= 64;
  return small ? c.feed(data.load()) : mapped;
}

/** Stacks of a loop that does not run: no slices, of the shape that slices would have. */
function emptyStacks(c: SourceContext, body: Graph, carried: readonly Mapped[]): readonly Value[] {
  if (body.outputs.length === 1 + carried.length) return [];
  const formal = [scalar(c.b, 0, 'i64'), scalar(c.b, 1, 'bool'), ...carried, ...c.captured];
  const outputs = c.concrete(body, formal)?.outputs;
  if (outputs === undefined) {
    throw new TuttiError('E_UNSUPPORTED', 'the loop does not run, and what it would have stacked depends on data', {
      subject: describe(c.node.source),
    });
  }
  return outputs.slice(1 + carried.length).map(({ value: { type } }) => {
    const { dtype, shape } = type;
    return c.b.constant(emptyTensor(dtype, [0, ...(shape as readonly number[])]));
  });
}
