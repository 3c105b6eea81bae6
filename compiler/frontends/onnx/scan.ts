/** Scan: a body over the slices of arrays, with values carried along. */
import { pad, reshape, slice1, stack, transpose } from '../../graph/compose/index.js';
import { integersOf } from '../../graph/host_tensors.js';
import { NotConstant } from '../../graph/host_values.js';
import type { ScanResults } from '../../graph/scan.js';
import type { Graph, Value } from '../../graph/types.js';
import { leavesOf } from '../../passes/mapped.js';
import type { Resolved, Saved, SourceContext } from '../../passes/source.js';
import { emptyTensor } from '../../tensor.js';
import { bodyOf, checkBody, invalid, tensorAt } from './bodies.js';
import { repeat } from './repeat.js';

/** Plain data about a scan. */
interface Setup {
  readonly body: Graph;
  readonly trips: number;
  readonly states: number;
  /** Of each scanned array: the axis it is walked along, and whether from its end. */
  readonly scanned: readonly Walk[];
  /** Of each stacked result. */
  readonly stacked: readonly Walk[];
}
interface Walk {
  readonly axis: number;
  readonly reverse: boolean;
}

/** The tensors of a scan under way. */
interface Tensors {
  readonly states: readonly Value[];
  readonly arrays: readonly Saved[];
  readonly captured: readonly Saved[];
  readonly stacks: readonly Saved[];
}

/** `rest` is what the caller wants back unchanged. */
type Done = (c: SourceContext, states: readonly Value[], stacks: readonly Value[], rest: readonly Saved[]) => Resolved;

const shapeOf = (value: Value): readonly number[] => value.type.shape as readonly number[];

/** Inputs: states…, arrays…; body: (states…, slices…) → (states…, slices to stack…). */
export function scan(c: SourceContext): Resolved {
  if (c.node.attrs.opset < 9) return scanBatches(c);
  const body = bodyOf(c.node, 'body');
  const { states, arrays } = operands(c, 0);
  checkBody(c.node, body, states.length + arrays.length + c.captured.length, c.node.outputs.length);
  const stacks = body.outputs.length - states.length;
  const scanned = walks(c, 'scan_input', arrays.length, (i) => shapeOf(arrays[i]).length);
  // The rank of a stack is that of its slices and one: -1 stays until it is known.
  const stacked = walks(c, 'scan_output', stacks, () => undefined);
  const lengths = arrays.map((array, i) => shapeOf(array)[scanned[i].axis]);
  const trips = commonLength(c, lengths);
  const setup: Setup = { body, trips, states: states.length, scanned, stacked };
  return rounds(c, setup, { states, arrays, captured: c.captured, stacks: [] }, [], (_, last, stacked) => [
    ...last,
    ...stacked,
  ]);
}

/** Opset 8: all inputs have a batch axis first and the arrays a sequence axis second; lengths may differ by item. */
function scanBatches(c: SourceContext): Resolved {
  const body = bodyOf(c.node, 'body');
  const { states, arrays } = operands(c, 1);
  checkBody(c.node, body, states.length + arrays.length + c.captured.length, c.node.outputs.length);
  const directions = integers(c, 'directions') ?? arrays.map(() => 0);
  const [batch] = shapeOf(arrays[0]);
  const longest = commonLength(
    c,
    arrays.map((array) => shapeOf(array)[1]),
  );
  const lengths = c.inputs[0] === undefined ? new Array<number>(batch).fill(longest) : lengthsAt(c, 0);
  const scanned = arrays.map((_, i) => ({ axis: 0, reverse: directions[i] === 1 }));
  const stacked = new Array<Walk>(body.outputs.length - states.length).fill({ axis: 0, reverse: false });
  const inputs = [...states, ...arrays];
  const item = (
    context: SourceContext,
    at: number,
    whole: readonly Saved[],
    captured: readonly Saved[],
    done: readonly Saved[],
  ): Resolved => {
    if (at === batch) {
      const results = states.length + stacked.length;
      const column = (i: number) =>
        done.filter((_, k) => k % results === i).map((saved) => context.use(saved) as Value);
      return Array.from({ length: results }, (_, i) => stack(context.b, column(i), 0));
    }
    const own = whole.map((saved) => {
      const value = context.use(saved) as Value;
      const slice = slice1(context.b, value, 0, at, 1);
      return reshape(context.b, slice, shapeOf(value).slice(1));
    });
    const setup: Setup = { body, trips: lengths[at], states: states.length, scanned, stacked };
    const tensors = { states: own.slice(0, states.length), arrays: own.slice(states.length), captured, stacks: [] };
    return rounds(context, setup, tensors, [...whole, ...captured, ...done], (next, last, stacks, rest) => {
      const padded = stacks.map((stack) => lengthened(next, stack, longest));
      const before = rest.slice(whole.length + captured.length);
      return item(next, at + 1, rest.slice(0, whole.length), rest.slice(whole.length, whole.length + captured.length), [
        ...before,
        ...last,
        ...padded,
      ]);
    });
  };
  return item(c, 0, inputs, c.captured, []);
}

function operands(
  c: SourceContext,
  skipped: number,
): { readonly states: readonly Value[]; readonly arrays: readonly Value[] } {
  const count = Number(c.node.attrs.attrs.num_scan_inputs ?? 0);
  const all = c.inputs.slice(skipped).map((_, i) => tensorAt(c, skipped + i));
  if (count < 1 || count > all.length) invalid(c.node, 'invalid num_scan_inputs', `1 to ${all.length}`, String(count));
  return { states: all.slice(0, all.length - count), arrays: all.slice(all.length - count) };
}

function commonLength(c: SourceContext, lengths: readonly number[]): number {
  if (lengths.some((length) => length === undefined || length !== lengths[0])) {
    invalid(c.node, 'the scanned inputs are of different lengths', undefined, lengths.join(', '));
  }
  return lengths[0];
}

const integers = (c: SourceContext, name: string): readonly number[] | undefined => {
  const list = c.node.attrs.attrs[name];
  return Array.isArray(list) ? list.map(Number) : undefined;
};

/** Axes and directions of arrays or stacks. An axis may count from the end where the rank is known. */
function walks(
  c: SourceContext,
  prefix: string,
  count: number,
  rankOf: (i: number) => number | undefined,
): readonly Walk[] {
  const axes = integers(c, `${prefix}_axes`) ?? new Array<number>(count).fill(0);
  const directions = integers(c, `${prefix}_directions`) ?? new Array<number>(count).fill(0);
  if (axes.length !== count || directions.length !== count) {
    invalid(
      c.node,
      `wrong number of ${prefix} axes or directions`,
      String(count),
      `${axes.length}, ${directions.length}`,
    );
  }
  return axes.map((axis, i) => {
    const rank = rankOf(i);
    if (rank !== undefined && (axis < -rank || axis >= rank)) {
      invalid(c.node, `${prefix} axis out of range`, `-${rank} to ${rank - 1}`, String(axis));
    }
    return { axis: axis < 0 && rank !== undefined ? axis + rank : axis, reverse: directions[i] === 1 };
  });
}

function lengthsAt(c: SourceContext, i: number): readonly number[] {
  const value = tensorAt(c, i);
  const tensor = c.b.tensorOf(value);
  if (tensor === undefined) throw new NotConstant(value, i);
  return integersOf(tensor) ?? invalid(c.node, `input ${i} must hold integers`);
}

function rounds(c: SourceContext, setup: Setup, tensors: Tensors, rest: readonly Saved[], done: Done): Resolved {
  const { body, trips, states, stacked } = setup;
  const first = tensors.stacks.length === 0 ? stacked.map((): Saved => []) : tensors.stacks;
  if (trips === 0) return done(c, tensors.states, emptyStacks(c, setup, tensors), rest);
  const results = asOneOp(c, setup, tensors);
  if (results !== undefined) return done(c, results.carried, results.stacked, rest);
  const round = (context: SourceContext, at: number, now: Tensors, kept: readonly Saved[]): Resolved => {
    if (at === trips) return done(context, now.states, stacksOf(context, setup, now.stacks), kept);
    const { arrays, captured, stacks } = now;
    return {
      body,
      inputs: [...now.states, ...slicesAt(context, setup, arrays, at), ...captured],
      saved: [...arrays, ...captured, ...stacks, ...kept],
      repeated: true,
      then(next, results, saved) {
        const values = results as readonly Value[];
        const a = arrays.length;
        const b = a + captured.length;
        const d = b + stacks.length;
        const grown = saved.slice(b, d).map((list, i): Saved => [...leavesOf(list), values[states + i]]);
        const now = { states: values.slice(0, states), arrays: saved.slice(0, a), captured: saved.slice(a, b) };
        return round(next, at + 1, { ...now, stacks: grown }, saved.slice(d));
      },
    };
  };
  return round(c, 0, { ...tensors, stacks: first }, rest);
}

function asOneOp(c: SourceContext, setup: Setup, { states, arrays, captured }: Tensors): ScanResults | undefined {
  const { body, trips, scanned, stacked } = setup;
  const walked = arrays.map((array, i) => ({
    array: moveAxis(c, c.use(array) as Value, scanned[i].axis, 0),
    reverse: scanned[i].reverse,
  }));
  const seen = captured.map((saved) => c.use(saved));
  const whole = { body, trips, counted: false, carried: states, scanned: walked, captured: seen, stacked };
  const results = repeat(c, whole);
  if (results === undefined) return undefined;
  const stacks = results.stacked.map((stack, i) => {
    return moveAxis(c, stack, 0, stackAxis(c, stacked[i].axis, shapeOf(stack).length));
  });
  return { carried: results.carried, stacked: stacks };
}

function moveAxis(c: SourceContext, x: Value, from: number, to: number): Value {
  if (from === to) return x;
  const order = shapeOf(x).flatMap((_, axis) => (axis === from ? [] : [axis]));
  order.splice(to, 0, from);
  return transpose(c.b, x, order);
}

function slicesAt(c: SourceContext, { scanned, trips }: Setup, arrays: readonly Saved[], at: number): readonly Value[] {
  return arrays.map((saved, i) => {
    const array = c.use(saved) as Value;
    const { axis, reverse } = scanned[i];
    const slice = slice1(c.b, array, axis, reverse ? trips - 1 - at : at, 1);
    return reshape(
      c.b,
      slice,
      shapeOf(array).filter((_, k) => k !== axis),
    );
  });
}

function stacksOf(c: SourceContext, { stacked }: Setup, stacks: readonly Saved[]): readonly Value[] {
  return stacks.map((saved, i) => {
    const slices = c.use(saved) as readonly Value[];
    const rank = shapeOf(slices[0]).length + 1;
    const axis = stackAxis(c, stacked[i].axis, rank);
    const ordered = stacked[i].reverse ? [...slices].reverse() : slices;
    return stack(c.b, ordered, axis);
  });
}

function stackAxis(c: SourceContext, axis: number, rank: number): number {
  if (axis < -rank || axis >= rank)
    invalid(c.node, 'scan_output axis out of range', `-${rank} to ${rank - 1}`, String(axis));
  return axis < 0 ? axis + rank : axis;
}

/** The stacks of a scan over nothing. */
function emptyStacks(c: SourceContext, { body, states, scanned, stacked }: Setup, tensors: Tensors): readonly Value[] {
  const slices = tensors.arrays.map((saved, i) => {
    const array = c.use(saved) as Value;
    const shape = shapeOf(array).filter((_, k) => k !== scanned[i].axis);
    return c.b.constant(emptyTensor(array.type.dtype, shape));
  });
  const captured = tensors.captured.map((saved) => c.use(saved));
  const outputs = c.concrete(body, [...tensors.states, ...slices, ...captured])?.outputs;
  if (outputs === undefined) return invalid(c.node, 'a scan over nothing whose results depend on data');
  return outputs.slice(states).map(({ value: { type } }, i) => {
    const { dtype, shape } = type;
    const sizes = [...(shape as readonly number[])];
    sizes.splice(stackAxis(c, stacked[i].axis, sizes.length + 1), 0, 0);
    return c.b.constant(emptyTensor(dtype, sizes));
  });
}

/** Items that end early are filled up with zeros. */
function lengthened(c: SourceContext, stack: Value, length: number): Value {
  const shape = shapeOf(stack);
  if (shape[0] === length) return stack;
  const high = shape.map((size, axis) => (axis === 0 ? length - size : 0));
  return pad(
    c.b,
    stack,
    shape.map(() => 0),
    high,
  );
}
