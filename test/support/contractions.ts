/** Graphs around one contraction, lowered in a form that the test chooses and run wherever it likes. */
import type { DType } from '../../compiler/dtype.js';
import { GraphBuilder } from '../../compiler/graph/builder.js';
import * as c from '../../compiler/graph/compose/index.js';
import { tensorOfElements, tensorOfNumbers } from '../../compiler/graph/ops/reference/data.js';
import type { Graph, Value } from '../../compiler/graph/types.js';
import { interpret } from '../../compiler/kernel/interpreter.js';
import type { Target } from '../../compiler/kernel/target.js';
import type { KernelFunction } from '../../compiler/kernel/types.js';
import { verify } from '../../compiler/kernel/verify.js';
import { forms } from '../../compiler/schedule/attend/index.js';
import { type Schedule, schedules } from '../../compiler/schedule/contract/index.js';
import { lowerGroup } from '../../compiler/schedule/family.js';
import { fuse } from '../../compiler/schedule/fuse.js';
import type { Group } from '../../compiler/schedule/group.js';
import type { Binding } from '../../compiler/schedule/lowered.js';
import { bytesOfTensor, emptyTensor, type HostTensor, sizeOf } from '../../compiler/tensor.js';
import { seeded } from './kernel_data.js';

export type Make = (dtype: DType, shape: readonly number[]) => Value;
export interface ContractionCase {
  readonly name: string;
  readonly build: (b: GraphBuilder, input: Make, weights: Make) => Value;
}

/** Small integers: sums of some hundred products are exact in every type. */
function integers(dtype: DType, shape: readonly number[], seed: number): HostTensor {
  let state = seed;
  const [low, count] = dtype === 'u8' ? [0, 256] : dtype === 'i8' ? [-128, 256] : [-3, 7];
  const values = Array.from({ length: sizeOf(shape) }, () => {
    state = (Math.imul(state, 1103515245) + 12345) & 0x7fffffff;
    return low + ((state >> 16) % count);
  });
  return dtype === 'i64'
    ? tensorOfElements(dtype, shape, BigInt64Array.from(values, BigInt))
    : tensorOfNumbers(dtype, shape, values);
}

export interface BuiltCase {
  readonly graph: Graph;
  readonly inputs: Readonly<Record<string, HostTensor>>;
}

export function built({ name, build }: ContractionCase): BuiltCase {
  const b = new GraphBuilder(name);
  const inputs: Record<string, HostTensor> = {};
  let count = 0;
  const input: Make = (dtype, shape) => {
    const tensor = integers(dtype, shape, ++count);
    inputs[`x${count}`] = tensor;
    return b.input(`x${count}`, dtype, shape);
  };
  const y = build(b, input, (dtype, shape) => b.constant(integers(dtype, shape, ++count)));
  b.output('y', y);
  return { graph: b.finish(), inputs };
}

/** Runs one kernel on the bytes of its buffers. */
export type Execute = (kernel: KernelFunction, memories: readonly Uint8Array[]) => void | Promise<void>;

export const interpreted: Execute = (kernel, memories) => {
  interpret(kernel, memories, [], { checkRaces: true, checkBounds: true });
};

export type Form = Pick<Schedule, 'name' | 'lower'>;

function formsOf(group: Group, target: Target): readonly Form[] | undefined {
  if (group.family === 'contract') return schedules(group, target);
  return group.family === 'attend' ? forms(group, target) : undefined;
}

/** The graph's result `y` with its contractions and attentions in the chosen form; undefined where one has no such form. */
export async function runForm(
  { graph, inputs }: BuiltCase,
  target: Target,
  choose: (forms: readonly Form[], group: Group) => Form | undefined,
  execute: Execute,
): Promise<HostTensor | undefined> {
  const tensors = new Map<number, HostTensor>(graph.inputs.map((value) => [value.id, inputs[value.name]]));
  for (const [id, data] of graph.constants) tensors.set(id, data.load());
  const memories = new Map<Binding, Uint8Array>();
  const make = (binding: Binding): Uint8Array => {
    if ('kind' in binding)
      return binding.kind === 'temporary' ? new Uint8Array(binding.bytes) : bytesOfTensor(binding.data.load());
    const tensor = tensors.get(binding.id) ?? emptyTensor(binding.type.dtype, binding.type.shape as readonly number[]);
    tensors.set(binding.id, tensor);
    return bytesOfTensor(tensor);
  };
  const memoryOf = (binding: Binding): Uint8Array => {
    const memory = memories.get(binding) ?? make(binding);
    memories.set(binding, memory);
    return memory;
  };
  let found = false;
  for (const group of fuse(graph, target)) {
    const all = formsOf(group, target);
    const lowered = all ? (choose(all, group)?.lower() ?? []) : lowerGroup(group, target);
    if (lowered.length === 0) return undefined;
    found ||= all !== undefined;
    for (const { kernel, bindings } of lowered) {
      verify(kernel, { stage: 'scheduled', target });
      await execute(kernel, bindings.map(memoryOf));
    }
  }
  const y = graph.outputs.find(({ name }) => name === 'y');
  return found && y ? tensors.get(y.value.id) : undefined;
}

// Cases ---------------------------------------------------------------------------------------------------------------

const convAttrs = {
  strides: [1, 1],
  padLow: [1, 1],
  padHigh: [1, 1],
  dilations: [1, 1],
  inputDilation: [1, 1],
  groups: 1,
};
const relu = (b: GraphBuilder, y: Value, bias: Value) => c.relu(b, c.add(b, y, bias));

/** Products and convolutions of floats of one type, ragged in every way. */
export function floatCases(dtype: 'f16' | 'bf16' | 'f32'): readonly ContractionCase[] {
  const sizes = [
    [1, 1, 1],
    [17, 33, 65],
    [129, 257, 63],
    [40, 72, 96],
    [64, 128, 40],
  ] as const;
  return [
    ...sizes.map(([m, n, k]) => ({
      name: `${m}×${n}×${k}`,
      build: (b: GraphBuilder, x: Make) => c.matmul(b, x(dtype, [m, k]), x(dtype, [k, n])),
    })),
    {
      name: 'transposed',
      build: (b, x) =>
        c.matmul(b, c.transpose(b, x(dtype, [48, 70]), [1, 0]), c.transpose(b, x(dtype, [40, 48]), [1, 0])),
    },
    {
      name: 'transposed, odd',
      build: (b, x) =>
        c.matmul(b, c.transpose(b, x(dtype, [19, 37]), [1, 0]), c.transpose(b, x(dtype, [41, 19]), [1, 0])),
    },
    {
      name: 'batched, bias and relu',
      build: (b, x, w) => relu(b, c.matmul(b, x(dtype, [3, 35, 40]), w(dtype, [3, 40, 36])), w(dtype, [36])),
    },
    {
      name: 'conv, bias and relu',
      build: (b, x, w) =>
        relu(
          b,
          b.op('conv', [x(dtype, [2, 5, 9, 10]), w(dtype, [18, 5, 3, 3])], { ...convAttrs, dtype })[0],
          w(dtype, [18, 1, 1]),
        ),
    },
    {
      name: 'strided conv in groups',
      build: (b, x, w) =>
        b.op('conv', [x(dtype, [2, 8, 11, 13]), w(dtype, [12, 4, 3, 3])], {
          ...convAttrs,
          dtype,
          groups: 2,
          strides: [2, 2],
        })[0],
    },
    {
      name: 'pointwise conv',
      build: (b, x, w) =>
        b.op('conv', [x(dtype, [2, 24, 6, 8]), w(dtype, [20, 24, 1, 1])], {
          ...convAttrs,
          dtype,
          padLow: [0, 0],
          padHigh: [0, 0],
        })[0],
    },
    {
      name: 'sliced and reversed in the middle',
      build: (b, x) => {
        const whole = x(dtype, [30, 50]);
        const part = b.op('slice', [whole], { starts: [3, 5], sizes: [20, 40], steps: [1, 1] })[0];
        return c.matmul(b, part, x(dtype, [40, 24]));
      },
    },
  ];
}

/** Products whose operands are aligned for tensor copies, ragged otherwise. */
export function boxCases(dtype: 'f16' | 'bf16'): readonly ContractionCase[] {
  const product = (m: number, n: number, k: number): ContractionCase => ({
    name: `${m}×${n}×${k}`,
    build: (b, x) => c.matmul(b, x(dtype, [m, k]), x(dtype, [k, n])),
  });
  const transposed = (b: GraphBuilder, x: Value) => c.transpose(b, x, [1, 0]);
  return [
    product(1, 8, 8),
    product(17, 40, 72),
    product(129, 264, 64),
    product(200, 136, 328),
    {
      name: 'both transposed',
      build: (b, x) => c.matmul(b, transposed(b, x(dtype, [72, 136])), transposed(b, x(dtype, [75, 72]))),
    },
    { name: 'a transposed', build: (b, x) => c.matmul(b, transposed(b, x(dtype, [70, 136])), x(dtype, [70, 72])) },
    { name: 'b transposed', build: (b, x) => c.matmul(b, x(dtype, [33, 72]), transposed(b, x(dtype, [75, 72]))) },
    {
      name: 'batched, bias and relu',
      build: (b, x, w) => relu(b, c.matmul(b, x(dtype, [3, 70, 40]), w(dtype, [3, 40, 144])), w(dtype, [144])),
    },
    {
      name: 'heads of attention',
      build: (b, x) => {
        const heads = (from: Value, order: number[]) => c.transpose(b, c.reshape(b, from, [2, 19, 3, 16]), order);
        return c.matmul(b, heads(x(dtype, [2, 19, 48]), [0, 2, 1, 3]), heads(x(dtype, [2, 19, 48]), [0, 2, 3, 1]));
      },
    },
    {
      name: 'a slice',
      build: (b, x) => {
        const part = b.op('slice', [x(dtype, [90, 64])], { starts: [3, 8], sizes: [80, 40], steps: [1, 1] })[0];
        return c.matmul(b, part, x(dtype, [40, 24]));
      },
    },
    {
      name: 'pointwise conv',
      build: (b, x, w) =>
        b.op('conv', [x(dtype, [2, 24, 8, 8]), w(dtype, [72, 24, 1, 1])], {
          ...{ ...convAttrs, dtype },
          ...{ padLow: [0, 0], padHigh: [0, 0] },
        })[0],
    },
  ];
}

/** Bytes less a zero point, held in f32 or i32. */
export function centred(b: GraphBuilder, bytes: Value, zero: number, held: 'f32' | 'i32' = 'f32'): Value {
  const point = b.constant(tensorOfNumbers('i32', [], [zero]));
  const less = c.sub(b, c.cast(b, bytes, 'i32'), point);
  return held === 'i32' ? less : c.cast(b, less, held);
}

/** Products and convolutions of bytes, with i32 results and as quantised models hold them. */
export const byteCases: readonly ContractionCase[] = [
  ...[
    [1, 1, 1],
    [17, 33, 65],
    [40, 72, 96],
  ].map(([m, n, k]) => ({
    name: `${m}×${n}×${k} of i8`,
    build: (b: GraphBuilder, x: Make) =>
      c.matmul(b, c.cast(b, x('i8', [m, k]), 'i32'), c.cast(b, x('i8', [k, n]), 'i32')),
  })),
  {
    name: 'u8 by constant i8',
    build: (b, x, w) => c.matmul(b, c.cast(b, x('u8', [35, 48]), 'i32'), c.cast(b, w('i8', [48, 20]), 'i32')),
  },
  {
    name: 'u8 with a zero point by constant i8 held in i32',
    build: (b, x, w) =>
      c.matmul(
        b,
        c.sub(b, c.cast(b, x('u8', [35, 50]), 'i32'), b.constant(tensorOfNumbers('i32', [], [77]))),
        w('i32', [50, 20]),
      ),
  },
  {
    name: 'conv of u8 with a zero point, held in f32',
    build: (b, x, w) => {
      const zero = b.constant(tensorOfNumbers('i32', [], [128]));
      const values = c.cast(b, c.sub(b, c.cast(b, x('u8', [2, 4, 7, 8]), 'i32'), zero), 'f32');
      const scale = b.constant(tensorOfNumbers('f32', [], [0.125]));
      return c.mul(b, b.op('conv', [values, w('f32', [9, 4, 3, 3])], { ...convAttrs, dtype: 'f32' })[0], scale);
    },
  },
  {
    name: 'i8 by constants up to 255, held in i32',
    build: (b, x) => {
      const weights = Array.from({ length: 44 * 24 }, (_, i) => (i * 97) % 256);
      return c.matmul(b, c.cast(b, x('i8', [19, 44]), 'i32'), b.constant(tensorOfNumbers('i32', [44, 24], weights)));
    },
  },
  {
    name: 'batched, transposed u8 by u8',
    build: (b, x) =>
      c.matmul(
        b,
        c.transpose(b, c.cast(b, x('u8', [2, 40, 21]), 'i32'), [0, 2, 1]),
        c.cast(b, x('u8', [2, 40, 36]), 'i32'),
      ),
  },
];

/** Products and convolutions of bytes of any signedness, zero points, shapes and paddings; the seed says which. */
export function randomByteCase(seed: number): ContractionCase {
  const { int } = seeded(seed);
  const one = <T>(...list: readonly T[]): T => list[int(0, list.length - 1)];
  const types = [one<'u8' | 'i8'>('u8', 'i8'), one<'u8' | 'i8'>('u8', 'i8')] as const;
  const zeros = types.map((type) => (int(0, 2) === 0 ? 0 : type === 'u8' ? int(0, 255) : int(-128, 127)));
  const held = one<'f32' | 'i32'>('f32', 'i32');
  const isWeights = int(0, 2) > 0;
  if (int(0, 1) === 0) {
    const [batch, m, n, k] = [int(1, 2), int(4, 40), int(4, 40), int(2, 70)];
    const order = (turned: boolean, rows: number, columns: number) =>
      turned ? [batch, columns, rows] : [batch, rows, columns];
    const turned = [int(0, 1) === 1, int(0, 1) === 1] as const;
    return {
      name: `${seed}: ${batch}×${m}×${n}×${k} of ${types} less ${zeros}, turned ${turned}, ${isWeights ? 'weights' : 'inputs'}`,
      build: (b, x, w) => {
        const side = (at: 0 | 1, make: Make, rows: number, columns: number) => {
          const bytes = centred(b, make(types[at], order(turned[at], rows, columns)), zeros[at], held);
          return turned[at] ? c.transpose(b, bytes, [0, 2, 1]) : bytes;
        };
        return c.matmul(b, side(0, x, m, k), side(1, isWeights ? w : x, k, n));
      },
    };
  }
  const groups = one(1, 1, 2);
  const [channels, outputs] = [groups * int(2, 7), groups * int(1, 12)];
  const kernel = [int(1, 3), int(1, 3)];
  const strides = [int(1, 2), int(1, 2)];
  const dilations = [int(1, 2), int(1, 2)];
  const [padLow, padHigh] = [kernel, kernel].map((extents) => extents.map((extent) => int(0, extent - 1)));
  const input = [int(1, 2), channels, int(5, 12), int(5, 24)];
  return {
    name: `${seed}: ${types} less ${zeros}, conv of ${input} by ${outputs}×${kernel}/${strides}, ${groups} groups`,
    build: (b, x, w) => {
      const weights = (isWeights ? w : x)(types[1], [outputs, channels / groups, ...kernel]);
      const attrs = { strides, padLow, padHigh, dilations, inputDilation: [1, 1], groups, dtype: held };
      return b.op(
        'conv',
        [centred(b, x(types[0], input), zeros[0], held), centred(b, weights, zeros[1], held)],
        attrs,
      )[0];
    },
  };
}
