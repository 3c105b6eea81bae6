/**
 * Element types of at most a byte in kernels: conversions over all their codes and places to and from every other type,
 * movement of packed elements at every offset within a byte, on a target of each style and legalised for one that has
 * 32-bit types alone. Kernels must give the bytes of the host.
 */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { bitsOf, type DType, dtypes, isFloat, isInt, isMiniFloat, isPacked, perByte } from '../../compiler/dtype.js';
import { GraphBuilder } from '../../compiler/graph/builder.js';
import * as compose from '../../compiler/graph/compose/index.js';
import { newElements, numbersOf, tensorOfElements, tensorOfNumbers } from '../../compiler/graph/ops/reference/data.js';
import { cast } from '../../compiler/graph/ops/reference/elementwise.js';
import { scan } from '../../compiler/graph/scan.js';
import type { Graph, Value } from '../../compiler/graph/types.js';
import { legalize } from '../../compiler/kernel/legalize.js';
import type { Target } from '../../compiler/kernel/target.js';
import { decodeMiniFloat, scaleRoundings } from '../../compiler/minifloat.js';
import { widen } from '../../compiler/passes/widen.js';
import { bytesOfTensor, type HostTensor, sizeOf } from '../../compiler/tensor.js';
import { runInterpreted } from '../support/interpreted.js';
import { runGroups, runReference } from '../support/run_groups.js';
import { minimumTarget, testTargets } from '../support/targets.js';

const targets: readonly (readonly [string, Target])[] = [...Object.entries(testTargets), ['minimum', minimumTarget]];
const small = dtypes.filter((dtype) => isMiniFloat(dtype) || isPacked(dtype));
const miniFloats = dtypes.filter(isMiniFloat);
const packed = dtypes.filter(isPacked);
const held = dtypes.filter((dtype) => dtype !== 'string');

function onTarget(graph: Graph, target: Target, inputs: Readonly<Record<string, HostTensor>>) {
  return runGroups(widen(graph), target, inputs, (kernel) => legalize(kernel, target)).outputs;
}

/** Bytes, so that codes and not values count; all NaNs of wider floats are one. */
function bits(tensor: HostTensor): readonly (number | string)[] {
  if (isFloat(tensor.dtype) && !isMiniFloat(tensor.dtype)) {
    return Array.from(numbersOf(tensor), (value) => (Object.is(value, -0) ? '-0' : String(value)));
  }
  return Array.from(bytesOfTensor(tensor));
}

/** Runs the graph everywhere; all must give what the reference does. */
function expectSame(build: (b: GraphBuilder, ...x: Value[]) => readonly Value[], ...inputs: readonly HostTensor[]) {
  const b = new GraphBuilder('small');
  const values = inputs.map(({ dtype, shape }, i) => b.input(`x${i}`, dtype, shape));
  build(b, ...values).forEach((value, i) => {
    b.output(`y${i}`, value);
  });
  const graph = b.finish();
  const named = Object.fromEntries(inputs.map((input, i) => [`x${i}`, input]));
  const expected = runReference(graph, named);
  for (const [style, target] of targets) {
    for (const [name, tensor] of onTarget(graph, target, named)) {
      const [actual, wanted] = [bits(tensor), bits(expected.get(name) as HostTensor)];
      const length = wanted.length;
      const at = wanted.findIndex((value, i) => value !== actual[i]);
      if (at >= 0 || actual.length < length)
        expect.fail(`${style}, ${name} ${tensor.dtype} at ${at} of ${length}: ${actual[at]}, expected ${wanted[at]}`);
    }
  }
}

/** Every code or value of a small type, in a shape whose last byte is not full. */
function everyCode(dtype: DType): HostTensor {
  const count = 2 ** bitsOf(dtype);
  const repeated = isPacked(dtype) ? 3 * count - 1 : count;
  const elements = newElements(dtype, repeated) as Uint8Array;
  for (let i = 0; i < repeated; i++) elements[i] = i % count;
  // Packing keeps the low bits: signed elements may come as those.
  return tensorOfElements(dtype, [repeated], elements);
}

/** Values that are hard to round to the format: all its values, middles and what is next to those, and far outside. */
function hardValues(dtype: (typeof miniFloats)[number]): number[] {
  const values = Array.from({ length: 2 ** bitsOf(dtype) }, (_, code) => decodeMiniFloat(dtype, code))
    .filter((value) => Number.isFinite(value))
    .sort((p, q) => p - q);
  const hard = [0, -0, Number.NaN, Infinity, -Infinity, 1e30, -1e30, 3e38, 1e-30, -1e-30, 448.1, 464, 61440, 1e-40];
  values.forEach((value, i) => {
    hard.push(value, value * 1.5, -value);
    if (i + 1 === values.length) return;
    const middle = (value + values[i + 1]) / 2;
    // The last two differ from the middle in f64 alone: rounding through f32 would lose them.
    for (const step of [0, 2 ** -20, -(2 ** -20), 2 ** -45, -(2 ** -45)]) hard.push(middle * (1 + step));
  });
  return hard;
}

describe.each(small)('from %s', (dtype) => {
  it('every code becomes what it is on the host, in every type', () => {
    const x = everyCode(dtype);
    expectSame((b, value) => held.filter((to) => to !== dtype).map((to) => compose.cast(b, value, to)), x);
  }, 60_000);
});

describe.each(miniFloats)('to %s', (dtype) => {
  const variants =
    dtype === 'f8e8m0'
      ? scaleRoundings.flatMap((rounding) => [true, false].map((saturate) => ({ saturate, rounding })))
      : [{ saturate: true }, { saturate: false }];
  const all = (b: GraphBuilder, x: Value) => variants.map((variant) => b.op('cast', [x], { dtype, ...variant })[0]);

  it.each(['f64', 'f32', 'f16', 'bf16'] as const)(
    'rounds %s once',
    (from) => {
      const values = hardValues(dtype);
      // On a device that flushes them subnormal numbers are zeros; the interpreter keeps them.
      expectSame(
        all,
        cast({ dtype: 'f64', shape: [values.length], data: Float64Array.from(values) }, from, { saturate: false }),
      );
    },
    60_000,
  );

  it('rounds integers once, however long', () => {
    const around = (x: bigint): bigint[] => [x - 1n, x, x + 1n];
    const list = [
      ...around(0n),
      ...Array.from({ length: 62 }, (_, k) => [...around(1n << BigInt(k)), ...around((3n << BigInt(k)) >> 1n)]).flat(),
      ...around((1n << 60n) + (1n << 59n)),
    ];
    const signed = BigInt64Array.from([...list, ...list.map((x) => -x), -(2n ** 63n), 2n ** 63n - 1n]);
    const unsigned = BigUint64Array.from([...list, 2n ** 63n, 3n * 2n ** 62n, 3n * 2n ** 62n - 1n, 2n ** 64n - 1n]);
    expectSame(all, { dtype: 'i64', shape: [signed.length], data: signed });
    expectSame(all, { dtype: 'u64', shape: [unsigned.length], data: unsigned });
    expectSame(all, {
      dtype: 'i32',
      shape: [signed.length],
      data: Int32Array.from(signed, (x) => Number(x & 0xffffffffn)),
    });
    expectSame(all, {
      dtype: 'u32',
      shape: [signed.length],
      data: Uint32Array.from(signed, (x) => Number(x & 0xffffffffn)),
    });
  }, 60_000);

  it('property: any f32', () => {
    fc.assert(
      fc.property(fc.float32Array({ minLength: 1, maxLength: 40 }), (data) => {
        expectSame(all, { dtype: 'f32', shape: [data.length], data });
      }),
      { numRuns: 30 },
    );
  }, 60_000);
});

describe.each(packed.filter(isInt))('to %s', (dtype) => {
  it('floats saturate, integers wrap', () => {
    const values = [
      -1e30,
      -9,
      -8.9,
      -8,
      -2.5,
      -2,
      -1,
      -0.5,
      -0,
      0,
      0.9,
      1,
      3.5,
      7,
      7.9,
      15,
      16,
      17,
      1e30,
      Infinity,
      -Infinity,
      Number.NaN,
    ];
    const to = (b: GraphBuilder, x: Value) => [compose.cast(b, x, dtype)];
    for (const from of ['f64', 'f32', 'f16'] as const)
      expectSame(to, tensorOfNumbers(from, [22], Float64Array.from(values)));
    const integers = Array.from({ length: 67 }, (_, i) => i - 33);
    for (const from of ['i32', 'i8', 'u8', 'i16', 'u32'] as const)
      expectSame(to, tensorOfNumbers(from, [67], integers));
    expectSame(to, {
      dtype: 'i64',
      shape: [67],
      data: BigInt64Array.from(integers, (v) => (BigInt(v) << 33n) | BigInt(v & 15)),
    });
    expectSame(to, tensorOfNumbers('bool', [5], [1, 0, 1, 1, 0]));
  });
});

describe.each(small)('movement of %s', (dtype) => {
  /** Elements that differ from their neighbours, at any count. */
  const filled = (shape: readonly number[], seed = 0): HostTensor => {
    const elements = newElements(dtype, sizeOf(shape)) as Uint8Array;
    for (let i = 0; i < elements.length; i++) elements[i] = (i * 7 + seed + (i >> 3)) & (2 ** bitsOf(dtype) - 1);
    return tensorOfElements(dtype, shape, elements);
  };

  it('keeps the bits of every element, wherever in a byte it comes from and goes to', () => {
    const each = perByte(dtype);
    for (let count = 1; count <= 4 * each + 3; count++) {
      const x = filled([count]);
      expectSame(
        (b, v) => [
          b.op('slice', [v], { starts: [count - 1], sizes: [count], steps: [-1] })[0],
          b.op('slice', [v], { starts: [count >> 1], sizes: [count - (count >> 1)], steps: [1] })[0],
          compose.concat(b, [v, b.op('slice', [v], { starts: [0], sizes: [1], steps: [1] })[0], v], 0),
          b.op('pad', [v], { low: [1], high: [2], mode: 'edge' })[0],
          b.op('pad', [v, b.constant(filled([], 3))], { low: [3], high: [0], mode: 'constant' })[0],
        ],
        x,
      );
    }
  }, 60_000);

  it('in two dims, with odd rows', () => {
    for (const shape of [
      [3, 5],
      [5, 8],
      [7, 3],
      [16, 17],
      [1, 64],
    ]) {
      const x = filled(shape);
      const mask = tensorOfNumbers(
        'bool',
        shape,
        Array.from({ length: sizeOf(shape) }, (_, i) => ((i * 5) % 3) & 1),
      );
      const rows: HostTensor = { dtype: 'i64', shape: [4], data: BigInt64Array.of(0n, -1n, 2n, 1n) };
      expectSame(
        (b, v, m, at) => [
          compose.transpose(b, v, [1, 0]),
          compose.reshape(b, compose.transpose(b, v, [1, 0]), [sizeOf(shape)]),
          compose.select3(
            b,
            m,
            v,
            b.op('slice', [v], { starts: shape.map((d) => d - 1), sizes: shape, steps: [-1, -1] })[0],
          ),
          b.op('gather', [v, at], { axis: 0 })[0],
          b.op('gather', [v, at], { axis: 1 })[0],
          compose.concat(b, [v, v], 1),
          b.op('broadcast', [compose.reshape(b, v, [1, ...shape])], { shape: [3, ...shape] })[0],
        ],
        x,
        mask,
        rows,
      );
      const places: HostTensor = {
        dtype: 'i64',
        shape: [2, shape[1]],
        data: new BigInt64Array(2 * shape[1]).map((_, i) => BigInt(i % shape[0])),
      };
      const updates = filled([2, shape[1]], 9);
      expectSame(
        (b, v, at, u) => [b.op('scatter_elements', [v, at, u], { axis: 0, fn: 'set' })[0]],
        x,
        places,
        updates,
      );
    }
  }, 60_000);

  it('between results of one graph and as constants', () => {
    const x = filled([3, 7]);
    expectSame((b, v) => {
      const constant = b.constant(filled([3, 7], 5));
      const mixed = compose.concat(b, [v, constant], 0);
      return [mixed, compose.transpose(b, mixed, [1, 0]), compose.cast(b, mixed, 'f32'), v, constant];
    }, x);
  });

  it('as state of a loop and as slices of scanned and stacked arrays', async () => {
    const body = new GraphBuilder('body');
    const [state, slice, captured] = [0, 1, 2].map((i) => body.input(`b${i}`, dtype, [3]));
    const first = (v: Value) => body.op('slice', [v], { starts: [0], sizes: [1], steps: [1] })[0];
    const rest = (v: Value) => body.op('slice', [v], { starts: [1], sizes: [2], steps: [1] })[0];
    body.output('next', compose.concat(body, [rest(state), first(slice)], 0));
    body.output('row', compose.concat(body, [first(captured), rest(slice)], 0));
    const graphOf = (b: GraphBuilder, x: Value, xs: Value, c: Value) => {
      const parts = { body: body.finish(), trips: 5, iteration: false, carried: [x], captured: [c] };
      const { carried, stacked } = scan(b, {
        ...parts,
        scanned: [{ array: xs, reverse: true }],
        stacked: [{ reverse: false }],
      });
      return [...carried, ...stacked];
    };
    const b = new GraphBuilder('loop');
    const inputs = { x: filled([3]), xs: filled([5, 3], 4), c: filled([3], 9) };
    const values = Object.entries(inputs).map(([name, { shape }]) => b.input(name, dtype, shape));
    graphOf(b, values[0], values[1], values[2]).forEach((value, i) => {
      b.output(`y${i}`, value);
    });
    const graph = b.finish();
    const wide = widen(graph);
    // What the loop holds in place are whole bytes; what it captures stays packed.
    const loop = wide.nodes.find(({ op }) => op === 'scan');
    expect(loop?.inputs.slice(0, 2).some(({ type }) => isPacked(type.dtype))).toBe(false);
    expect(loop?.inputs[2].type.dtype).toBe(dtype);
    const expected = runReference(graph, inputs);
    for (const [style, target] of targets) {
      for (const [name, tensor] of Object.entries(await runInterpreted(target, graph, inputs))) {
        expect(bits(tensor), style).toEqual(bits(expected.get(name) as HostTensor));
      }
    }
  });
});

describe('computing', () => {
  it('goes on in a wider type and comes back', () => {
    const b = new GraphBuilder('sum');
    const x = b.input('x', 'f8e4m3', [6]);
    b.output('y', compose.add(b, x, x));
    const wide = widen(b.finish());
    expect(wide.nodes.map(({ op, outputs }) => `${op} ${outputs[0].type.dtype}`)).toEqual([
      'cast f32',
      'add f32',
      'cast f8e4m3',
    ]);
  });

  it('cuts the bounds of clamp to the type', () => {
    const x = tensorOfNumbers('i4', [5], [-8, -3, 0, 5, 7]);
    expectSame(
      (b, v) => [compose.clamp(b, v, 12, 100), compose.clamp(b, v, -100, -2), compose.clamp(b, v, null, 3)],
      x,
    );
  });

  it('constants of packed types are read as they are', () => {
    const b = new GraphBuilder('weights');
    const x = b.input('x', 'f32', [64]);
    const weights = b.constant(
      tensorOfNumbers(
        'i4',
        [64],
        Array.from({ length: 64 }, (_, i) => (i % 16) - 8),
      ),
    );
    b.output('y', compose.mul(b, x, compose.cast(b, weights, 'f32')));
    const run = runGroups(b.finish(), testTargets.simt, {
      x: tensorOfNumbers('f32', [64], new Float32Array(64).fill(1)),
    });
    const [kernel] = run.kernels;
    const buffers = kernel.params.flatMap((param) => (param.kind === 'buffer' ? [[param.scalar, param.length]] : []));
    expect(buffers).toContainEqual(['u8', 32]);
    expect([...numbersOf(run.outputs.get('y') as HostTensor)].slice(0, 3)).toEqual([-8, -7, -6]);
  });
});
