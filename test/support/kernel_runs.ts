/** Kernels with their buffers, run on a device and in the interpreter: every op of every element type. */
import type { Backend, Device } from '../../backends/backend.js';
import { KernelBuilder } from '../../compiler/kernel/builder.js';
import { interpret } from '../../compiler/kernel/interpreter.js';
import { legalize } from '../../compiler/kernel/legalize.js';
import { expandMath } from '../../compiler/kernel/math.js';
import {
  type BinaryFn,
  isFloatScalar,
  type KBuffer,
  type KernelFunction,
  type KValue,
  ktype,
  type Lanes,
  type MathFn,
  type ScalarType,
  scalarBits,
  type UnaryFn,
} from '../../compiler/kernel/types.js';
import { data, differences, elements, encode, mapped, type NumberType, type Tolerance } from './kernel_data.js';

export const buffersOf = (kernel: KernelFunction): KBuffer[] =>
  kernel.params.filter((param) => param.kind === 'buffer');
export const bytesOf = (buffer: KBuffer): number => (buffer.length * scalarBits[buffer.scalar]) / 8;

export interface Run {
  readonly what: string;
  readonly kernel: KernelFunction;
  /** Contents of the first buffers; the others are zero. */
  readonly inputs: readonly Uint8Array[];
  readonly scalars?: readonly number[];
  /** Element types of the buffers where they are not those of the kernel: bf16 in memory of u16. */
  readonly types?: readonly ScalarType[];
}

/**
 * Runs each kernel on the device and in the interpreter, and says where any buffer differs. Where subnormals may be
 * flushed, there are none among the inputs.
 */
export async function compareRuns(
  backend: Pick<Backend, 'render'>,
  device: Device,
  runs: readonly Run[],
  tolerance: Tolerance = {},
  target = device.target,
): Promise<string[]> {
  const complaints: string[] = [];
  const kernels = await device.loadKernels(runs.map(({ kernel }) => backend.render(legalize(kernel, target), target)));
  for (const [n, { what, kernel, inputs, scalars = [], types }] of runs.entries()) {
    const contents = buffersOf(kernel).map((buffer, i) => {
      const bytes = new Uint8Array(Math.ceil(bytesOf(buffer) / 8) * 8);
      if (inputs[i]) bytes.set(inputs[i].subarray(0, bytes.length));
      if (tolerance.flush && buffer.scalar === 'f32') flushSubnormals(bytes);
      return bytes;
    });
    const expected = contents.map((bytes) => bytes.slice());
    interpret(kernel, expected, scalars);
    const buffers = contents.map((bytes) => device.allocate(bytes.length));
    const whole = buffers.map((buffer) => ({ buffer, offset: 0, bytes: buffer.bytes }));
    const words = new Uint8Array(Int32Array.from(scalars).buffer);
    const list = await device.record([
      {
        kind: 'dispatch',
        kernel: kernels[n],
        grid: kernel.grid,
        bindings: whole,
        ...(words.length ? { scalars: words } : {}),
      },
    ]);
    await device.queue.submit({
      list,
      writes: whole.map((to, i) => ({ to, data: contents[i] })),
      reads: whole.map((from, i) => ({ from, into: contents[i] })),
    });
    for (const [i, buffer] of buffersOf(kernel).entries()) {
      const scalar = types?.[i] ?? buffer.scalar;
      const wrong = differences(scalar, expected[i], contents[i], tolerance);
      if (wrong.length > 0)
        complaints.push(`${what}: ${buffer.name}: ${wrong.length} differ, first ${wrong.slice(0, 3).join('; ')}`);
    }
    list.release();
    kernels[n].release();
    for (const buffer of buffers) buffer.free();
  }
  return complaints;
}

function flushSubnormals(bytes: Uint8Array): void {
  const floats = new Float32Array(bytes.buffer);
  floats.forEach((value, i) => {
    if (Math.abs(value) < 2 ** -126) floats[i] = 0;
  });
}

type Body = (b: KernelBuilder, args: readonly KValue[]) => KValue;

/** One result of a kernel: the name and type of its buffer, and what is in it. */
interface Output {
  readonly name: string;
  readonly scalar: NumberType;
  readonly body: Body;
}

/** Every output is `body(in0[i], in1[i], …)`, `lanes` at a time. */
function elementwiseAll(inputs: readonly NumberType[], lanes: Lanes, outputs: readonly Output[]): KernelFunction {
  const b = new KernelBuilder();
  const buffers = inputs.map((scalar, i) => b.buffer(`in${i}`, scalar, elements, 'read'));
  const group = 64 * lanes;
  const index = b.add(
    b.mulc(b.builtin('workgroup_id', 0, elements / group), group),
    b.mulc(b.builtin('local_id', 0, 64), lanes),
  );
  const args = buffers.map((buffer, i) => b.load(buffer, index, lanes, i === 0));
  for (const { name, scalar, body } of outputs)
    b.store(b.buffer(name, scalar, elements, 'write'), index, body(b, args), true);
  return b.finish({ name: 'elementwise', grid: [elements / group, 1, 1], workgroup: [64, 1, 1] });
}

export const elementwise = (inputs: readonly NumberType[], out: NumberType, lanes: Lanes, body: Body): KernelFunction =>
  elementwiseAll(inputs, lanes, [{ name: 'out', scalar: out, body }]);

export const floatUnary: readonly UnaryFn[] = ['neg', 'abs', 'floor', 'ceil', 'round', 'trunc', 'sqrt'];
export const intUnary: readonly UnaryFn[] = ['neg', 'abs', 'not', 'popcount', 'clz'];
export const floatBinary: readonly BinaryFn[] = ['add', 'sub', 'mul', 'div', 'rem', 'min', 'max'];
export const intBinary: readonly BinaryFn[] = [...floatBinary, 'and', 'or', 'xor', 'shl', 'shr'];

/** Unary and binary operations, comparisons and conversions to each of `types`, on scalars and vectors of four. */
export function arithmeticRuns(scalar: NumberType, types: readonly NumberType[]): Run[] {
  const float = isFloatScalar(scalar);
  const bits = BigInt(scalarBits[scalar]);
  const [x, y, z] = [data(scalar, 1), data(scalar, 2), data(scalar, 3)];
  const shifts = float ? y : mapped(scalar, y, (v) => BigInt.asUintN(64, v) % bits);
  const divisors = float ? y : mapped(scalar, y, (v) => (v === 0n || v === -1n ? 3n : v));
  const named = [x, y, z, shifts, divisors];
  const groups = new Map<string, { readonly inputs: readonly Uint8Array[]; readonly outputs: Output[] }>();
  const add = (name: string, inputs: readonly Uint8Array[], body: Body, out: NumberType = scalar): void => {
    const key = inputs.map((bytes) => named.indexOf(bytes)).join();
    const group = groups.get(key) ?? { inputs, outputs: [] };
    groups.set(key, group);
    group.outputs.push({ name, scalar: out, body });
  };
  for (const fn of float ? floatUnary : intUnary) add(fn, [x], (b, [a]) => b.unary(fn, a));
  const binary: BinaryFn[] = [...(float ? floatBinary : intBinary)];
  if (scalar === 'i32' || scalar === 'u32') binary.push('mulhi');
  for (const fn of binary) {
    const right = fn === 'shl' || fn === 'shr' ? shifts : fn === 'div' || fn === 'rem' ? divisors : y;
    add(fn, [x, right], (b, [a, c]) => b.binary(fn, a, c));
  }
  if (float) add('fma', [x, y, z], (b, [p, q, r]) => b.fma(p, q, r));
  if (scalar === 'u32') for (const { name, body } of dot4Outputs) add(name, [x, y, z], body);
  for (const fn of ['eq', 'ne', 'lt', 'le', 'gt', 'ge'] as const) {
    add(fn, [x, y], (b, [a, c]) => b.convert(b.compare(fn, a, c), 'u8'), 'u8');
  }
  add('select', [x, y], (b, [a, c]) => b.select(b.compare('lt', a, c), c, a));
  for (const c of [1, 3, 4, 127]) {
    const constant = (b: KernelBuilder, { type }: KValue): KValue =>
      b.constant(!float && bits === 64n ? BigInt(c) : c, scalar, type.lanes);
    add(`max with ${c}`, [x], (b, [a]) => b.max(a, constant(b, a)));
    if (float) continue;
    add(`div by ${c}`, [x], (b, [a]) => b.div(a, constant(b, a)));
    add(`rem by ${c}`, [x], (b, [a]) => b.rem(a, constant(b, a)));
  }
  for (const to of types) add(`to ${to} from`, [x], (b, [a]) => b.convert(a, to), to);
  add('to bool from', [x], (b, [a]) => b.convert(b.convert(a, 'bool'), scalar));
  return [...groups.values()].flatMap(({ inputs, outputs }) =>
    chunks(outputs, mostOutputs).flatMap((some) =>
      ([1, 4] as const).map((lanes) => {
        const scalars = inputs.map(() => scalar);
        return { what: `${scalar}x${lanes}`, kernel: elementwiseAll(scalars, lanes, some), inputs };
      }),
    ),
  );
}

const dot4Outputs: readonly Output[] = (['i8', 'u8'] as const).flatMap((left) =>
  (['i8', 'u8'] as const).map((right) => ({
    name: `dot4 of ${left} and ${right}`,
    scalar: 'u32',
    body: (b, [p, q, r]) => b.bitcast(b.dot4(p, q, b.bitcast(r, ktype('i32', r.type.lanes)), left, right), r.type),
  })),
);

/** Products of four bytes alone, of all types. */
export const dot4Runs = (): Run[] =>
  ([1, 2, 4] as const).map((lanes) => ({
    what: `dot4 x${lanes}`,
    kernel: elementwiseAll(['u32', 'u32', 'u32'], lanes, dot4Outputs),
    inputs: [1, 2, 3].map((seed) => data('u32', seed)),
  }));

/** Results of one kernel, so that it has no more buffers than every GPU takes. */
const mostOutputs = 12;
const chunks = <T>(list: readonly T[], size: number): T[][] =>
  Array.from({ length: Math.ceil(list.length / size) }, (_, i) => list.slice(i * size, (i + 1) * size));

/** Multiply-adds that go wrong if they round twice: ties that a tiny addend breaks, and sums that cancel. */
export function fusedRuns(scalar: 'f16' | 'f32' | 'f64'): Run[] {
  const fraction = { f16: 10, f32: 23, f64: 52 }[scalar];
  const tiny = { f16: 2 ** -24, f32: 2 ** -60, f64: 2 ** -120 }[scalar];
  const count = 512;
  const at = Array.from({ length: elements }, (_, i) => i);
  const x = at.map((i) => (i % 4 < 2 ? 1 : -1) * (1 + (2 * (i % count) + 1) * 2 ** -fraction));
  const y = at.map((i) => (i % 8 < 4 ? 1.5 : 1 + 2 ** -fraction));
  const z = at.map((i) => (i < elements / 2 ? (i % 2 ? tiny : -tiny) : -x[i] * y[i]));
  const inputs = [x, y, z].map((list) => encode(scalar, list));
  return ([1, 4] as const).map((lanes) => ({
    what: `fma ${scalar}x${lanes}`,
    kernel: elementwise([scalar, scalar, scalar], scalar, lanes, (b, [p, q, r]) => b.fma(p, q, r)),
    inputs,
  }));
}

const mathFns: readonly MathFn[] = [
  'exp',
  'exp2',
  'log',
  'log2',
  'sin',
  'cos',
  'tan',
  'asin',
  'acos',
  'atan',
  'sinh',
  'cosh',
  'tanh',
  'erf',
];

export function mathRuns(scalar: 'f16' | 'f32' | 'f64'): Run[] {
  const unary = mathFns.map((fn): Output => ({ name: fn, scalar, body: (b, [a]) => b.unary(fn, a) }));
  const binary = (['pow', 'atan2'] as const).map(
    (fn): Output => ({ name: fn, scalar, body: (b, [a, c]) => b.binary(fn, a, c) }),
  );
  const run = (inputs: readonly Uint8Array[], outputs: readonly Output[]): Run => {
    const kernel = elementwiseAll(
      inputs.map(() => scalar),
      2,
      outputs,
    );
    return { what: scalar, kernel: expandMath(kernel), inputs };
  };
  const [x, y] = [data(scalar, 9), data(scalar, 10)];
  return [...chunks(unary, 7).map((some) => run([x], some)), run([x, y], binary)];
}

/** A kernel that calls its mathematical functions so often that they stay functions. */
export const callingRun = (scalar: 'f32' | 'f64'): Run => ({
  what: `calls ${scalar}`,
  kernel: expandMath(
    elementwise([scalar], scalar, 4, (b, [a]) => {
      let value = a;
      for (let i = 0; i < 24; i++)
        value = b.binary('rem', b.add(b.unary('exp', value), b.constant(i, scalar, 4)), b.constant(3, scalar, 4));
      return value;
    }),
  ),
  inputs: [data(scalar, 11)],
});
