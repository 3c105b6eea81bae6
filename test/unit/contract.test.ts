/** Every form of contraction against the reference evaluator, chosen by hand so that small shapes reach all of them. */
import { describe, expect, test } from 'vitest';
import type { DType } from '../../compiler/dtype.js';
import { GraphBuilder } from '../../compiler/graph/builder.js';
import * as c from '../../compiler/graph/compose/index.js';
import { elementsOf, tensorOfElements, tensorOfNumbers } from '../../compiler/graph/ops/reference/data.js';
import type { Value } from '../../compiler/graph/types.js';
import { interpret } from '../../compiler/kernel/interpreter.js';
import type { Target } from '../../compiler/kernel/target.js';
import type { KernelFunction } from '../../compiler/kernel/types.js';
import { verify } from '../../compiler/kernel/verify.js';
import { schedules } from '../../compiler/schedule/contract/index.js';
import { lowerGroup } from '../../compiler/schedule/family.js';
import { fuse } from '../../compiler/schedule/fuse.js';
import type { Binding } from '../../compiler/schedule/lowered.js';
import { range } from '../../compiler/schedule/tensors.js';
import { bytesOfTensor, emptyTensor, type HostTensor, sizeOf } from '../../compiler/tensor.js';
import { runReference } from '../support/run_groups.js';
import { testTargets } from '../support/targets.js';

/** Small integers: sums of products are exact in every type that is tested. */
function integers(dtype: DType, shape: readonly number[], seed: number): HostTensor {
  let state = seed;
  const low = dtype === 'u8' ? 0 : -4;
  const values = Array.from({ length: sizeOf(shape) }, () => {
    state = (Math.imul(state, 1103515245) + 12345) & 0x7fffffff;
    return low + ((state >> 16) % 9);
  });
  return dtype === 'i64'
    ? tensorOfElements(dtype, shape, BigInt64Array.from(values, BigInt))
    : tensorOfNumbers(dtype, shape, values);
}

type Make = (dtype: DType, shape: readonly number[]) => Value;
interface Case {
  readonly name: string;
  readonly build: (b: GraphBuilder, input: Make, weights: Make) => Value;
}

const attrs = {
  strides: [1, 1],
  padLow: [1, 1],
  padHigh: [1, 1],
  dilations: [1, 1],
  inputDilation: [1, 1],
  groups: 1,
  dtype: 'f32' as const,
};
const bias = (b: GraphBuilder, y: Value, v: Value) => c.relu(b, c.add(b, y, v));
const cases: readonly Case[] = [
  {
    name: 'long kernel',
    build: (b, x, w) =>
      b.op('conv', [x('f32', [1, 2, 1, 60]), w('f32', [9, 2, 1, 23])], {
        ...attrs,
        padLow: [0, 3],
        padHigh: [0, 4],
      })[0],
  },
  {
    name: 'long kernel, strided',
    build: (b, x, w) =>
      b.op('conv', [x('f32', [1, 1, 1, 130]), w('f32', [5, 1, 1, 41])], {
        ...attrs,
        strides: [1, 2],
        padLow: [0, 0],
        padHigh: [0, 0],
      })[0],
  },
  {
    name: 'long kernel, dilated',
    build: (b, x, w) =>
      b.op('conv', [x('f32', [1, 3, 2, 80]), w('f32', [4, 3, 1, 18])], {
        ...attrs,
        dilations: [1, 2],
        padLow: [0, 0],
        padHigh: [0, 0],
      })[0],
  },
  { name: 'product', build: (b, x) => c.matmul(b, x('f32', [37, 24]), x('f32', [24, 44])) },
  { name: 'product, odd', build: (b, x) => c.matmul(b, x('f32', [33, 19]), x('f32', [19, 35])) },
  { name: 'few rows', build: (b, x) => c.matmul(b, x('f32', [3, 131]), x('f32', [131, 40])) },
  { name: 'one row by weights', build: (b, x, w) => c.matmul(b, x('f32', [1, 256]), w('f32', [256, 37])) },
  { name: 'few columns', build: (b, x, w) => c.matmul(b, w('f32', [44, 192]), x('f32', [192, 2])) },
  {
    name: 'product of transposed',
    build: (b, x) =>
      c.matmul(b, c.transpose(b, x('f32', [20, 36]), [1, 0]), c.transpose(b, x('f32', [40, 20]), [1, 0])),
  },
  {
    name: 'batched product with weights',
    build: (b, x, w) => bias(b, c.matmul(b, w('f32', [2, 36, 20]), x('f32', [2, 20, 28])), x('f32', [28])),
  },
  {
    name: 'conv with weights',
    build: (b, x, w) =>
      bias(b, b.op('conv', [x('f32', [2, 5, 6, 8]), w('f32', [36, 5, 3, 3])], attrs)[0], w('f32', [36, 1, 1])),
  },
  {
    name: 'strided conv',
    build: (b, x) =>
      b.op('conv', [x('f32', [1, 6, 9, 11]), x('f32', [8, 3, 3, 3])], { ...attrs, groups: 2, strides: [2, 2] })[0],
  },
  {
    name: 'depthwise',
    build: (b, x, w) => b.op('conv', [x('f32', [1, 6, 9, 11]), w('f32', [6, 1, 3, 3])], { ...attrs, groups: 6 })[0],
  },
  {
    name: 'depthwise, aligned rows',
    build: (b, x, w) =>
      bias(
        b,
        b.op('conv', [x('f32', [2, 3, 7, 12]), w('f32', [3, 1, 3, 3])], { ...attrs, groups: 3 })[0],
        w('f32', [3, 1, 1]),
      ),
  },
  {
    name: 'depthwise, aligned rows, strided',
    build: (b, x, w) =>
      b.op('conv', [x('f32', [1, 5, 9, 16]), w('f32', [5, 1, 5, 5])], {
        ...attrs,
        groups: 5,
        strides: [2, 2],
        padLow: [2, 2],
        padHigh: [1, 2],
      })[0],
  },
  {
    name: 'small groups, dilated',
    build: (b, x) =>
      b.op('conv', [x('f32', [1, 4, 10, 8]), x('f32', [4, 2, 3, 2])], { ...attrs, groups: 2, dilations: [2, 3] })[0],
  },
  {
    name: 'depthwise, one dim, no padding',
    build: (b, x, w) =>
      b.op('conv', [x('f32', [1, 9, 21]), w('f32', [9, 1, 4])], {
        ...attrs,
        groups: 9,
        strides: [3],
        padLow: [0],
        padHigh: [0],
        dilations: [1],
        inputDilation: [1],
      })[0],
  },
  {
    name: 'transposed conv',
    build: (b, x, w) =>
      b.op('conv', [x('f32', [1, 4, 5, 6]), w('f32', [6, 4, 4, 4])], {
        ...attrs,
        inputDilation: [2, 2],
        padLow: [2, 2],
        padHigh: [2, 2],
      })[0],
  },
  {
    name: 'integers of 32 bits',
    build: (b, x, w) => c.matmul(b, c.cast(b, x('u8', [9, 21]), 'i32'), c.cast(b, w('i8', [21, 20]), 'i32')),
  },
  {
    name: 'conv of integers',
    build: (b, x, w) =>
      b.op('conv', [c.cast(b, x('u8', [1, 4, 6, 7]), 'i32'), c.cast(b, w('i8', [5, 4, 3, 3]), 'i32')], {
        ...attrs,
        dtype: 'i32',
      })[0],
  },
  { name: 'integers of 64 bits', build: (b, x, w) => c.matmul(b, x('i64', [7, 12]), w('i64', [12, 20])) },
  { name: 'doubles', build: (b, x, w) => c.matmul(b, x('f64', [7, 12]), w('f64', [12, 20])) },
  {
    name: 'conv of doubles',
    build: (b, x, w) => b.op('conv', [x('f64', [1, 4, 6, 7]), w('f64', [5, 4, 3, 3])], { ...attrs, dtype: 'f64' })[0],
  },
  { name: 'halves', build: (b, x, w) => c.matmul(b, x('f16', [7, 12]), w('f16', [12, 20])) },
  {
    name: 'conv of halves',
    build: (b, x, w) => b.op('conv', [x('f16', [1, 4, 6, 7]), w('f16', [5, 4, 3, 3])], { ...attrs, dtype: 'f16' })[0],
  },
];

/** Runs a graph that is one contraction, in the form at `at`; undefined if there is none. */
function run(
  { build, name }: Case,
  target: Target,
  at: number,
): { form: string; kernels: readonly KernelFunction[]; got: HostTensor; want: HostTensor } | undefined {
  const b = new GraphBuilder(name);
  const inputs: Record<string, HostTensor> = {};
  let count = 0;
  const input: Make = (dtype, shape) => {
    const tensor = integers(dtype, shape, ++count);
    inputs[`x${count}`] = tensor;
    return b.input(`x${count}`, dtype, shape);
  };
  b.output(
    'y',
    build(b, input, (dtype, shape) => b.constant(integers(dtype, shape, ++count))),
  );
  const graph = b.finish();
  const tensors = new Map<number, HostTensor>(graph.inputs.map((value) => [value.id, inputs[value.name]]));
  for (const [id, data] of graph.constants) tensors.set(id, data.load());
  const memories = new Map<Binding, Uint8Array>();
  const memoryOf = (binding: Binding): Uint8Array => {
    const known = memories.get(binding);
    if (known) return known;
    const make = (): Uint8Array => {
      if ('kind' in binding)
        return binding.kind === 'temporary' ? new Uint8Array(binding.bytes) : bytesOfTensor(binding.data.load());
      const tensor =
        tensors.get(binding.id) ?? emptyTensor(binding.type.dtype, binding.type.shape as readonly number[]);
      tensors.set(binding.id, tensor);
      return bytesOfTensor(tensor);
    };
    const made = make();
    memories.set(binding, made);
    return made;
  };
  let form: string | undefined;
  const kernels: KernelFunction[] = [];
  for (const group of fuse(graph, target)) {
    const schedule = group.family === 'contract' ? schedules(group, target)[at] : undefined;
    const lowered = group.family === 'contract' ? (schedule?.lower() ?? []) : lowerGroup(group, target);
    if (lowered.length === 0) return undefined;
    form = schedule?.name ?? form;
    for (const { kernel, bindings } of lowered) {
      kernels.push(kernel);
      verify(kernel, { stage: 'scheduled', target });
      interpret(kernel, bindings.map(memoryOf), [], { checkRaces: true, checkBounds: true });
    }
  }
  if (form === undefined) return undefined;
  return {
    form,
    kernels,
    got: tensors.get(graph.outputs[0].value.id) as HostTensor,
    want: runReference(graph, inputs).get('y') as HostTensor,
  };
}

/** Invocations read factors for each other there. */
const subgroups: Target = {
  ...testTargets.software,
  features: new Set(['subgroups']),
  subgroup: { min: 4, max: 4 },
};

test('invocations of a GPU share k where there are few tiles', () => {
  const b = new GraphBuilder('product');
  b.output('y', c.matmul(b, b.input('x', 'f32', [1, 4096]), b.input('w', 'f32', [4096, 4096])));
  const [group] = fuse(b.finish(), testTargets.simt);
  const [first] = schedules(group, testTargets.simt);
  const [{ kernel }] = first.lower();
  expect(kernel.arrays.map(({ space }) => space)).toEqual(['shared']);
  expect(kernel.grid[0]).toBeGreaterThanOrEqual(testTargets.simt.parallelism);
});

test('few outputs a group are computed from the tensor itself', () => {
  const b = new GraphBuilder('depthwise');
  const x = b.input('x', 'f32', [1, 8, 28, 28]);
  b.output('y', b.op('conv', [x, b.input('w', 'f32', [8, 1, 3, 3])], { ...attrs, groups: 8 })[0]);
  const [group] = fuse(b.finish(), testTargets.software);
  const [first] = schedules(group, testTargets.software);
  expect(first.name).toMatch(/^windows/);
  expect(first.lower()).toHaveLength(1);
});

test('software devices with subgroups hand factors round', () => {
  const b = new GraphBuilder('product');
  b.output('y', c.matmul(b, b.input('x', 'f32', [37, 24]), b.input('w', 'f32', [24, 44])));
  const [group] = fuse(b.finish(), subgroups);
  const registers = schedules(group, subgroups).find(({ name }) => name.startsWith('registers'));
  expect(registers?.lower().map(({ kernel }) => kernel.subgroupSize)).toEqual([4]);
});

/** Tasks come back to their rows for panel after panel of columns. */
const smallCaches: Target = {
  ...testTargets.cpu,
  caches: [
    { bytes: 2 << 10, shared: false },
    { bytes: 8 << 10, shared: false },
  ],
};

test.each([
  { kind: 'copied', dtype: 'f16', lhs: [40, 512] },
  { kind: 'packed', dtype: 'f32', lhs: [512, 40] },
] as const)('rows are kept for all panels of a task: $kind', ({ kind, dtype, lhs }) => {
  const k = 512;
  const example: Case = {
    name: kind,
    build: (b, x) => {
      const rows = x(dtype, lhs);
      return c.matmul(b, kind === 'packed' ? c.transpose(b, rows, [1, 0]) : rows, x(dtype, [k, 100]));
    },
  };
  const result = range(8)
    .map((at) => run(example, smallCaches, at))
    .find((one) => one?.form.startsWith('packed'));
  const rows = result?.kernels.flatMap(({ arrays }) => arrays).find(({ name }) => name === 'rows');
  // More than a tile: at least half of all rows, the other thread's being the rest.
  expect(rows?.length).toBeGreaterThanOrEqual(20 * k);
  expect(result?.got.data).toEqual(result?.want.data);
});

const styles = { ...testTargets, 'software with subgroups': subgroups, 'cpu with small caches': smallCaches };
for (const [style, target] of Object.entries(styles)) {
  describe(style, () => {
    for (const example of cases) {
      test(example.name, () => {
        const forms: string[] = [];
        for (let at = 0; at < 8; at++) {
          const result = run(example, target, at);
          if (!result) continue;
          forms.push(result.form);
          expect([...elementsOf(result.got)].map(Number), result.form).toEqual(
            [...elementsOf(result.want)].map(Number),
          );
        }
        expect(forms).toContain('direct');
        expect(forms.length).toBeGreaterThan(1);
      });
    }
  });
}
